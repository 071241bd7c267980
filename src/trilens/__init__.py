"""trilens runs open-weight language models, dense or mixture-of-experts, thinking or not, with a receipt."""

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
    from trilens.generate.receipt import Receipt
    from trilens.generate.whole import Answer, AnswerStream
    from trilens.hosted.model import HostedModel, HostedStream
    from trilens.hosted.receipt import HostedReceipt
    from trilens.lenses.cards.card import Card, StatedCard, card
    from trilens.lenses.cards.partial import PartialCard
    from trilens.model import Model, Stream
    from trilens.tables import table
    from trilens.text.events import EndEvent, TextEvent, ThinkingEvent, ToolCall, ToolCallEvent
    from trilens.trials.routing import Trace, trace

__version__ = "0.1.0"

__all__ = [
    "Answer",
    "AnswerStream",
    "BadCheckpoint",
    "BadTemplate",
    "Card",
    "ContextFull",
    "EndEvent",
    "HostedError",
    "HostedModel",
    "HostedReceipt",
    "HostedStream",
    "Model",
    "ModelNotFound",
    "PartialCard",
    "RateLimited",
    "Receipt",
    "Refused",
    "RequestRefused",
    "ServiceFailed",
    "StatedCard",
    "Stream",
    "TextEvent",
    "ThinkingEvent",
    "ToolCall",
    "ToolCallEvent",
    "Trace",
    "TrilensError",
    "Unreachable",
    "UnsupportedModel",
    "UsageError",
    "call_model",
    "card",
    "dense_ffn_flops_per_token",
    "load",
    "table",
    "trace",
]

_ROOMS = {
    **dict.fromkeys(("Answer", "AnswerStream"), "trilens.generate.whole"),
    **dict.fromkeys(("Model", "Stream"), "trilens.model"),
    **dict.fromkeys(("EndEvent", "TextEvent", "ThinkingEvent", "ToolCall", "ToolCallEvent"), "trilens.text.events"),
    **dict.fromkeys(("call_model", "load"), "trilens.anywhere"),
    **dict.fromkeys(("HostedModel", "HostedStream"), "trilens.hosted.model"),
    **dict.fromkeys(("Card", "StatedCard", "card"), "trilens.lenses.cards.card"),
    "PartialCard": "trilens.lenses.cards.partial",
    **dict.fromkeys(("Trace", "trace"), "trilens.trials.routing"),
    "HostedReceipt": "trilens.hosted.receipt",
    "Receipt": "trilens.generate.receipt",
    "dense_ffn_flops_per_token": "trilens.executors.accountant",
    "table": "trilens.tables",
}

if not TYPE_CHECKING:  # or every name of this module would be known to a type checker

    def __getattr__(name: str) -> Any:
        """Import a public name from its room when it is first used, so that `trilens card` never waits for numpy or
        torch."""
        if name not in _ROOMS:
            raise AttributeError(f"module 'trilens' has no attribute {name!r}")
        from importlib import import_module

        return getattr(import_module(_ROOMS[name]), name)

    def __dir__() -> list[str]:
        return sorted({*globals(), *__all__})
