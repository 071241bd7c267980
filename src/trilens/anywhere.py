"""One function for every language model: here, or behind somebody's address."""

from __future__ import annotations

from typing import Any

from trilens.generate import arguments
from trilens.hosted.load import is_hosted, load_hosted
from trilens.hosted.model import HostedModel
from trilens.model import Answer, Model, Prompt
from trilens.model import load as load_here
from trilens.text.strategy import OFF_OR_LEAST, Thinking


def load(name: str, **options: Any) -> Any:
    """A model ready to be asked: a `Model` for a catalog name, a path or a hub id; a `HostedModel` for "openai:MODEL",
    "anthropic:MODEL", "gemini:MODEL", or the address of a server that speaks OpenAI's chat.

    Options are `model.load`'s, or `hosted.load.load_hosted`'s. Raises what these raise.
    """
    name = arguments.model_name(name)
    return load_hosted(name, **options) if is_hosted(name) else load_here(name, **options)


def call_model(
    model: Model | HostedModel | str, prompt: Prompt, thinking: Thinking = OFF_OR_LEAST, **options: Any
) -> Answer[Any]:
    """The whole idea in one line: the model decides the shape of the cost, the flag the strategy, no weight changes."""
    loaded: Model | HostedModel = model if isinstance(model, Model | HostedModel) else load(model)
    answer: Answer[Any] = loaded.generate(prompt, thinking=thinking, **options)
    return answer
