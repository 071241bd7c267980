"""The model that a command's options name."""

from __future__ import annotations

import gc
from typing import TYPE_CHECKING, Any

from trilens.cli.terminal import Progress
from trilens.errors import UsageError
from trilens.hosted.names import is_hosted

if TYPE_CHECKING:
    from trilens.hosted.model import HostedModel
    from trilens.model import Model


def load_model(options: dict[str, Any]) -> Model | HostedModel:
    """Load the model that the options name. Removes the options for loading, so that those for generating are left."""
    name, offline, ignore_keys = (options.pop(key) for key in ("model", "offline", "ignore_keys"))
    executor = options.pop("executor")
    loading = ("threads", "quantise", "kv", "prefix_dir")
    stated = {key: value for key in loading if (value := options.pop(key)) is not None}
    if options.pop("trust_control_tokens"):
        stated["trust_control_tokens"] = True
    if not options.pop("speculation"):
        stated["speculation"] = False
    for flag in ("prediction_block", "keep_packed"):
        if options.pop(flag):
            stated[flag] = True
    prefix_bytes = options.pop("prefix_bytes")
    adapter = options.pop("adapter")
    if adapter is not None:
        called, path = adapter
        stated["adapters"] = {called: path}
        options["adapter"] = called
    if is_hosted(name):
        given = [*stated, *(["executor"] if executor != "native" else []), *(["offline"] if offline else [])]
        if given or ignore_keys:
            option = (
                (given or ["ignore-key"])[0]
                .replace("_", "-")
                .replace("speculation", "no-speculation")
                .replace("adapters", "adapter")
            )
            raise UsageError(f"--{option} is for models that run here, and {name} does not")
        from trilens.hosted.load import load_hosted

        return load_hosted(name)
    gc.disable()  # what is imported and loaded stays, and looking for garbage in it takes a tenth of the time
    try:
        return _load_here(name, executor, offline, ignore_keys, prefix_bytes, stated)
    finally:
        gc.freeze()
        gc.enable()


def _load_here(
    name: str, executor: Any, offline: bool, ignore_keys: Any, prefix_bytes: int, stated: dict[str, Any]
) -> Model:
    from trilens.loading import load

    progress = Progress(name)
    if "prefix_dir" in stated:
        stated["prefix_bytes"] = prefix_bytes
    return load(name, offline=offline, ignore_keys=ignore_keys, progress=progress, executor=executor, **stated)
