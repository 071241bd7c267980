"""Loading a model that runs here, from its name to a `Model`.

Modules are imported in the order in which they are needed, because imports are a third of the time that a second start
takes. The first ones read the header of the model's files and find their packed form, without NumPy. While its bytes
are checked on another processor, the others are imported, and the tokenizer and the decoder's program are made.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from trilens.checkpoints.find import find
from trilens.checkpoints.load import ModelFiles, open_model
from trilens.checkpoints.packed import packed_form
from trilens.errors import BadCheckpoint, RequestRefused, UsageError
from trilens.generate import arguments
from trilens.system import usable_cores

if TYPE_CHECKING:
    from typing_extensions import Unpack

    from trilens.executors.adapter import Adapter
    from trilens.executors.executor import Executor
    from trilens.generate.options import NativeOptions
    from trilens.model import Model
    from trilens.text.model_text import ModelText

PREFIX_BYTES = 4_000_000_000  # of a directory, where nobody stated another number


def load(
    name: str,
    *,
    offline: bool = False,
    ignore_keys: Iterable[str] = (),
    progress: Callable[[int, int], None] | None = None,
    executor: Literal["native", "torch"] = "native",
    prefix_dir: str | PathLike[str] | None = None,
    prefix_bytes: int = PREFIX_BYTES,
    trust_control_tokens: bool = False,
    speculation: bool = True,
    prediction_block: bool = False,
    adapters: Mapping[str, str | PathLike[str]] | None = None,
    keep_packed: bool = False,
    **options: Unpack[NativeOptions],
) -> Model:
    """Load a model that runs here, by catalog name, path or hub id.

    - `offline`: use only files on this disk.
    - `ignore_keys`: configuration keys that may be ignored.
    - `progress`: called with (bytes read, total bytes).
    - `executor`: "native" or "torch".
    - `prefix_dir`: keep prompt prefixes in this directory, up to `prefix_bytes` bytes, so that they need not be
      computed again after a restart. Prompts can be read from these files.
    - `trust_control_tokens`: interpret control tokens in messages as if the chat template had written them.
      Otherwise they are text.
    - `speculation`: compute tokens ahead that followed the same text earlier, where that saves time. It changes no
      token of any answer.
    - `prediction_block`: load the model's block for multi-token prediction too, and let it propose tokens where
      nothing else does. It changes no token either. Native executor only.
    - `adapters`: LoRA adapters by name, each a directory in PEFT's layout or a GGUF file. A call chooses one with
      `adapter`.
    - `keep_packed`: keep the weights in the cache as they lie in memory, and map them at the next start instead of
      reading and packing the model's files. Takes as much disk as the weights. Native executor only.

    The remaining options are for the native executor:

    - `threads`: default is the number of physical cores that this process may use.
    - `quantise`: "8bit" or "4bit" for unquantised weights.
    - `kv`: number format of the KV cache, "f16", "8bit" or "f32".
    - `activations`: "8bit" or "16bit". The default is 16 for models with less than half a billion parameters, which
      need it, and 8 for others.

    A `with` block closes the model at its end. Raises ModelNotFound, BadCheckpoint, UnsupportedModel or UsageError.
    """
    name = arguments.model_name(name)
    arguments.flag("offline", offline)
    ignore_keys = arguments.texts("ignore_keys", ignore_keys)
    arguments.function("progress", progress)
    arguments.one_of("executor", executor, ("native", "torch"), none=False)
    unknown = set(options) - ({"threads", "quantise", "kv", "activations"} if executor == "native" else set())
    if unknown:
        raise UsageError(f"option {sorted(unknown)[0]!r} is unknown to the {executor} executor")
    arguments.flag("trust_control_tokens", trust_control_tokens)
    arguments.flag("speculation", speculation)
    arguments.flag("prediction_block", prediction_block)
    if prediction_block and (executor != "native" or not speculation):
        raise UsageError("prediction_block needs the native executor and speculation; leave out the other options")
    arguments.flag("keep_packed", keep_packed)
    if keep_packed and executor != "native":
        raise UsageError("keep_packed needs the native executor; leave out executor='torch'")
    arguments.path("prefix_dir", prefix_dir)
    arguments.whole("prefix_bytes", prefix_bytes, 1, error=UsageError)
    if prefix_dir is not None and executor != "native":
        raise UsageError("prefix_dir needs the native executor; leave out executor='torch'")
    arguments.whole("threads", options.get("threads"), 1, error=UsageError)
    arguments.one_of("quantise", options.get("quantise"), ("8bit", "4bit"))
    for option, known in (("kv", ("f16", "8bit", "f32")), ("activations", ("8bit", "16bit"))):
        arguments.one_of(option, options.get(option, known[0]), known, none=option == "activations")
    wanted = arguments.adapters(adapters)
    files = open_model(find(name, offline=offline), ignore_keys, prediction_block)
    try:
        packed = packed_form(files, options.get("quantise")) if keep_packed else None
        threads = options.get("threads") or usable_cores()
        opened = None if packed is None else packed.open(threads)  # what it holds is checked from here on
        text = _text(name, files, trust_control_tokens)
        loras = _adapters(files, wanted)
        runner: Executor
        if executor == "native":
            from trilens.checkpoints.into_native import native_executor

            runner = native_executor(files, progress, adapters=loras, packed=packed, opened=opened, **options)
        else:
            from trilens.checkpoints.into_torch import torch_executor

            runner = torch_executor(files, progress, loras)
    finally:
        files.checkpoint.close()
    from trilens.model import Model

    model = Model(name, files, runner, text, speculation)
    if prefix_dir is not None:
        model.keep_prefixes(Path(prefix_dir), prefix_bytes)
    return model


def _adapters(files: ModelFiles, wanted: Mapping[str, str | PathLike[str]]) -> list[Adapter]:
    if not wanted:
        return []
    from trilens.checkpoints.adapters import read_adapter

    return [read_adapter(files, key, Path(path)) for key, path in wanted.items()]


def _text(name: str, files: ModelFiles, trust_control_tokens: bool) -> ModelText:
    from trilens.generate.sampling import Sampling
    from trilens.text.model_text import read_model_text

    entry = None
    if files.found.origin != "path":
        from trilens.spec.catalog import catalogued

        entry = catalogued(name)
    text = read_model_text(files.found, entry, files.metadata)
    text.tokenizer.check(files.found.path, files.spec.vocab)
    try:
        Sampling(**text.sampling_defaults)  # type: ignore[arg-type]
    except RequestRefused as problem:
        raise BadCheckpoint(f"{files.found.path / 'generation_config.json'}: {problem}") from None
    return replace(text, trust_control_tokens=trust_control_tokens)
