"""What all protocols share: strict fields, conversations as templates want them, sampling, usage."""

from __future__ import annotations

import json
import secrets
import time
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

from pydantic import BaseModel, ConfigDict, Field, model_validator

from trilens.errors import RequestRefused
from trilens.generate.receipt import Receipt
from trilens.hosted.receipt import HostedReceipt
from trilens.model import Event, TextEvent, ThinkingEvent

MOST_MESSAGES = 4096
MOST_CHOICES = 8
MOST_STOPS = 16
_encoder = json.JSONEncoder(ensure_ascii=False, separators=(",", ":"))

AnyReceipt = Receipt | HostedReceipt  # of a model that runs here, and of one that an engine runs


class Fields(BaseModel):
    """A request's body. A field that nobody here knows is an error that names it, but for those that others send and
    that mean nothing here."""

    model_config = ConfigDict(extra="forbid", strict=True)
    ignored: ClassVar[frozenset[str]] = frozenset()

    @model_validator(mode="before")
    @classmethod
    def _without_ignored(cls, data: Any) -> Any:
        if isinstance(data, Mapping):
            return {key: value for key, value in data.items() if key not in cls.ignored}
        return data


class Asks(Fields):
    """The fields that ask for thinking: see `switch`."""

    thinking: bool | int | str | dict[str, Any] | None = None
    reasoning_effort: str | None = None
    reasoning: dict[str, Any] | None = None
    enable_thinking: bool | None = None
    thinking_budget: int | None = None
    chat_template_kwargs: dict[str, Any] | None = None


class Samples(Fields):
    """The fields of `Sampling`; what is left out comes from the model's own defaults."""

    temperature: float | None = Field(default=None, ge=0, le=100)
    top_p: float | None = Field(default=None, gt=0, le=1)
    top_k: int | None = Field(default=None, ge=0, le=1 << 30)
    min_p: float | None = Field(default=None, ge=0, le=1)
    presence_penalty: float | None = Field(default=None, ge=-100, le=100)
    frequency_penalty: float | None = Field(default=None, ge=-100, le=100)
    repetition_penalty: float | None = Field(default=None, gt=0, le=100)
    seed: int | None = Field(default=None, ge=0, lt=1 << 64)
    logit_bias: dict[str, float] | None = None

    def sampling(self, number: int = 0) -> dict[str, Any]:
        """Of the request's choice with that number; each has a seed of its own."""
        names = (
            *("temperature", "top_p", "top_k", "min_p"),
            *("presence_penalty", "frequency_penalty", "repetition_penalty"),
        )
        stated = {name: value for name in names if (value := getattr(self, name)) is not None}
        if self.seed is not None:
            stated["seed"] = (self.seed + number) % (1 << 64)
        if self.logit_bias:
            if not all(key.isascii() and key.isdigit() and len(key) < 10 for key in self.logit_bias):
                raise RequestRefused("logit_bias names tokens by their ids, as strings of digits")
            stated["logit_bias"] = {int(key): value for key, value in self.logit_bias.items()}
        return stated


def as_json(value: Any) -> bytes:
    return _encoder.encode(value).encode()


def new_id(prefix: str) -> str:
    return f"{prefix}{secrets.token_hex(12)}"


def now() -> int:
    return int(time.time())


def stops_of(stop: str | list[str] | None) -> tuple[str, ...]:
    stops = () if stop is None else (stop,) if isinstance(stop, str) else tuple(stop)
    if len(stops) > MOST_STOPS:
        raise RequestRefused(f"stop has {len(stops)} strings; expected at most {MOST_STOPS}")
    return stops


def conversation(messages: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Messages in the protocols' shapes -> in the templates'. Raises RequestRefused."""
    if not messages:
        raise RequestRefused("messages is empty; expected at least one message")
    if len(messages) > MOST_MESSAGES:
        raise RequestRefused(f"messages has {len(messages)} entries; expected at most {MOST_MESSAGES}")
    return [_message(message, f"messages.{i}") for i, message in enumerate(messages)]


def _message(message: Mapping[str, Any], at: str) -> dict[str, Any]:
    role = message.get("role")
    if role == "developer":
        role = "system"
    if role not in ("system", "user", "assistant", "tool"):
        raise RequestRefused(f"{at}.role is {role!r:.60}; expected system, developer, user, assistant or tool")
    known = {"role", "content", "name", "tool_calls", "tool_call_id", "refusal", "audio", "annotations"}
    unknown = sorted(set(message) - known - {"thinking", "reasoning_content", "reasoning", "function_call"})
    if unknown:
        raise RequestRefused(f"{at}.{unknown[0]} is not known here; leave it out")
    made: dict[str, Any] = {"role": role, "content": text_of(message.get("content"), f"{at}.content")}
    for key in ("name", "tool_calls", "tool_call_id", "thinking", "reasoning_content", "reasoning"):
        if message.get(key) is not None:
            made[key] = message[key]
    return made


def text_of(content: Any, at: str) -> str:
    """A content that is a text, or a list of text parts."""
    if content is None:
        return ""
    if isinstance(content, str):
        return content
    if not isinstance(content, list):
        raise RequestRefused(f"{at} is {content!r:.60}; expected a text, or a list of text parts")
    texts = []
    for number, part in enumerate(content):
        kind = part.get("type") if isinstance(part, Mapping) else None
        if kind not in ("text", "input_text", "output_text") or not isinstance(part.get("text"), str):
            raise RequestRefused(f"{at}.{number} is a part of type {kind!r:.60}; only text is understood here")
        texts.append(part["text"])
    return "\n".join(texts)


def receipt_fields(receipts: Sequence[AnyReceipt]) -> dict[str, Any]:
    """The field `trilens`: the receipt, and where there are several choices all of them."""
    first = receipts[0]
    fields: dict[str, Any] = {"receipt": first.as_dict(), "text": first.as_text()}
    return fields if len(receipts) == 1 else {**fields, "receipts": [r.as_dict() for r in receipts]}


def merged(events: Sequence[Event]) -> list[Event]:
    """The same with neighbours of one kind and one choice as one, so that they go out together."""
    out: list[Event] = []
    for event in events:
        last = out[-1] if out else None
        match last, event:
            case TextEvent(a, i), TextEvent(b, j) if i == j:
                out[-1] = TextEvent(a + b, i)
            case ThinkingEvent(a, i), ThinkingEvent(b, j) if i == j:
                out[-1] = ThinkingEvent(a + b, i)
            case _:
                out.append(event)
    return out
