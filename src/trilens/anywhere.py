"""One function for every language model, on this machine or at a service."""

from __future__ import annotations

from collections.abc import Mapping
from os import PathLike
from typing import TYPE_CHECKING, Any, overload

from trilens.errors import RequestRefused, UsageError
from trilens.generate import arguments
from trilens.generate.options import CallOptions, HostedOptions, LoadOptions
from trilens.hosted.names import is_hosted
from trilens.text.strategy import OFF_OR_LEAST, Thinking

if TYPE_CHECKING:
    from typing_extensions import Unpack

    from trilens.generate.receipt import Receipt
    from trilens.generate.whole import Answer
    from trilens.hosted.model import HostedModel
    from trilens.hosted.receipt import HostedReceipt
    from trilens.model import Model, Prompt


# The options say where a model is meant to run; a name alone does not say it to a type checker.
@overload
def load(name: str | PathLike[str]) -> Model | HostedModel: ...
@overload
def load(name: str | PathLike[str], **options: Unpack[LoadOptions]) -> Model: ...
@overload
def load(name: str | PathLike[str], **options: Unpack[HostedOptions]) -> HostedModel: ...
def load(name: str | PathLike[str], **options: Any) -> Model | HostedModel:
    """Load a model and return it ready to use.

    Returns a `Model` for a catalog name, a path or a hub id, and a `HostedModel` for "openai:MODEL", "anthropic:MODEL",
    "gemini:MODEL" or the URL of a server with OpenAI's chat protocol.

    The options are those of `trilens.loading.load` or `trilens.hosted.load.load_hosted`, and so are the errors.
    """
    name = arguments.model_name(name)
    hosted = is_hosted(name)
    _of_this_kind(name, options, hosted=hosted)
    if hosted:
        from trilens.hosted.load import load_hosted

        return load_hosted(name, **options)
    from trilens.loading import load as load_here

    return load_here(name, **options)


def _of_this_kind(name: str, options: Mapping[str, Any], *, hosted: bool) -> None:
    """Raises UsageError for an option that only the other kind of model takes."""
    here, there = LoadOptions.__annotations__.keys(), HostedOptions.__annotations__.keys()
    for option in options:
        if hosted and option in here - there:
            raise UsageError(f"{option} is for models that run here, and {name} does not; leave it out")
        if not hosted and option in there - here:
            raise UsageError(f"{option} is for models at a service, and {name} runs here; leave it out")


@overload
def call_model(
    model: Model, prompt: Prompt, thinking: Thinking = OFF_OR_LEAST, **options: Unpack[CallOptions]
) -> Answer[Receipt]: ...
@overload
def call_model(
    model: HostedModel, prompt: Prompt, thinking: Thinking = OFF_OR_LEAST, **options: Unpack[CallOptions]
) -> Answer[HostedReceipt]: ...
@overload
def call_model(
    model: Model | HostedModel | str, prompt: Prompt, thinking: Thinking = OFF_OR_LEAST, **options: Unpack[CallOptions]
) -> Answer[Receipt] | Answer[HostedReceipt]: ...
def call_model(
    model: Model | HostedModel | str, prompt: Prompt, thinking: Thinking = OFF_OR_LEAST, **options: Unpack[CallOptions]
) -> Answer[Receipt] | Answer[HostedReceipt]:
    """Ask a model and return the whole answer. `model` is a loaded model or a name.

    The model determines the shape of the cost, and `thinking` determines the strategy; no weight changes.
    `extended_thinking` is another name for `thinking`. The other options are those of `Model.stream_all`.
    """
    from trilens.hosted.model import HostedModel
    from trilens.model import Model

    extended = options.pop("extended_thinking", None)
    if extended is not None:
        if thinking != OFF_OR_LEAST:
            raise RequestRefused("thinking and extended_thinking are two names of one option; give one of them")
        thinking = extended
    loaded: Model | HostedModel = model if isinstance(model, Model | HostedModel) else load(model)
    return loaded.stream(prompt, thinking=thinking, **options).answer()
