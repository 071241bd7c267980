"""trilens: one call runs any open-weight language model, dense or mixture-of-experts, thinking or not, with a
receipt."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from trilens.errors import (
    BadCheckpoint,
    BadTemplate,
    ContextFull,
    HostedError,
    ModelNotFound,
    RateLimited,
    Refused,
    RequestRefused,
    ServiceFailed,
    TrilensError,
    Unreachable,
    UnsupportedModel,
    UsageError,
)

if TYPE_CHECKING:
    from trilens.anywhere import call_model, load
    from trilens.executors.accountant import dense_ffn_flops_per_token
    from trilens.hosted.model import HostedModel
    from trilens.lenses.card import card
    from trilens.model import Answer, Model, Stream
    from trilens.text.events import EndEvent, TextEvent, ThinkingEvent, ToolCall, ToolCallEvent

__version__ = "0.1.0"

__all__ = [
    "Answer",
    "BadCheckpoint",
    "BadTemplate",
    "ContextFull",
    "EndEvent",
    "HostedError",
    "HostedModel",
    "Model",
    "ModelNotFound",
    "RateLimited",
    "Refused",
    "RequestRefused",
    "ServiceFailed",
    "Stream",
    "TextEvent",
    "ThinkingEvent",
    "ToolCall",
    "ToolCallEvent",
    "TrilensError",
    "Unreachable",
    "UnsupportedModel",
    "UsageError",
    "call_model",
    "card",
    "dense_ffn_flops_per_token",
    "load",
]

_ROOMS = {
    **dict.fromkeys(("Answer", "Model", "Stream"), "trilens.model"),
    **dict.fromkeys(("EndEvent", "TextEvent", "ThinkingEvent", "ToolCall", "ToolCallEvent"), "trilens.text.events"),
    **dict.fromkeys(("call_model", "load"), "trilens.anywhere"),
    "HostedModel": "trilens.hosted.model",
    "card": "trilens.lenses.card",
    "dense_ffn_flops_per_token": "trilens.executors.accountant",
}


def __getattr__(name: str) -> Any:
    """Import a public name from its room when it is first used, so that `trilens card` never waits for numpy or
    torch."""
    if name not in _ROOMS:
        raise AttributeError(f"module 'trilens' has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(_ROOMS[name]), name)
