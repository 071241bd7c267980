"""What all protocols share: strict fields, conversations as templates want them, sampling, usage."""

from __future__ import annotations

import json
import secrets
import time
from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from typing import Any, ClassVar

from pydantic import BaseModel, ConfigDict, Field, model_validator

from trilens.errors import BadTemplate, RequestRefused
from trilens.errors import FieldRefused as FieldRefused
from trilens.generate.receipt import Receipt
from trilens.hosted.receipt import HostedReceipt
from trilens.text.conversation import Message, with_names

MOST_MESSAGES = 4096
MOST_CHOICES = 8
MOST_STOPS = 16
MOST_TOKENS = 1 << 31  # that a limit can state; no context is longer
_encoder = json.JSONEncoder(ensure_ascii=False, separators=(",", ":"))

AnyReceipt = Receipt | HostedReceipt  # of a model that runs here, and of one that an engine runs


class Fields(BaseModel):
    """A request's body. Unknown fields are rejected with an error that names the field, except for those that others
    send and that mean nothing here."""

    model_config = ConfigDict(extra="forbid", strict=True)
    ignored: ClassVar[frozenset[str]] = frozenset()

    @model_validator(mode="before")
    @classmethod
    def _without_ignored(cls, data: Any) -> Any:
        if not isinstance(data, Mapping):
            return data
        data = {key: value for key, value in data.items() if value is not None}  # null is what is not there
        known = {field.alias or name for name, field in cls.model_fields.items()}
        kept = {key: value for key, value in data.items() if key in known}
        unknown = next((key for key in data if key not in known and key not in cls.ignored), None)
        return kept if unknown is None else {unknown: data[unknown], **kept}  # one is enough to say so


class Asks(Fields):
    """The fields that ask for thinking: see `switch`."""

    thinking: bool | int | str | dict[str, Any] | None = None
    reasoning_effort: str | None = None
    reasoning: dict[str, Any] | None = None
    enable_thinking: bool | None = None
    thinking_budget: int | None = Field(default=None, ge=0, le=MOST_TOKENS)
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
                raise FieldRefused("logit_bias", "names tokens by their ids; expected strings of digits as names")
            stated["logit_bias"] = {int(key): value for key, value in self.logit_bias.items()}
        return stated


def as_json(value: Any) -> bytes:
    text = _encoder.encode(value)
    try:
        return text.encode()
    except UnicodeEncodeError:  # a model can write half of a surrogate pair into a call's arguments
        return json.dumps(value).encode()


def new_id(prefix: str) -> str:
    return f"{prefix}{secrets.token_hex(12)}"


def now() -> int:
    return int(time.time())


def stops_of(stop: str | list[str] | None) -> tuple[str, ...]:
    stops = () if stop is None else (stop,) if isinstance(stop, str) else tuple(stop)
    if len(stops) > MOST_STOPS:
        raise FieldRefused("stop", f"has {len(stops)} strings; expected at most {MOST_STOPS}")
    if "" in stops:
        raise FieldRefused("stop", "has an empty string; expected at least one character")
    return stops


def conversation(messages: Sequence[Message]) -> list[Message]:
    """Messages in the roles that templates know, without the fields that only clients know (`left_aside`). Raises
    FieldRefused."""
    if len(messages) > MOST_MESSAGES:
        raise FieldRefused("messages", f"has {len(messages)} entries; expected at most {MOST_MESSAGES}")
    return with_names([_known(message, f"messages.{i}") for i, message in enumerate(messages)])


def _known(message: Message, at: str) -> Message:
    role = "system" if message.role == "developer" else "tool" if message.role == "function" else message.role
    if role not in ("system", "user", "assistant", "tool"):
        raise FieldRefused(f"{at}.role", f"is {shown(role)}; expected system, developer, user, assistant or tool")
    return replace(message, role=role, other={})


def left_aside(messages: Sequence[Message]) -> list[str]:
    """Fields of messages that mean nothing here: what a client keeps with its history."""
    return sorted({f"messages.{name}" for message in messages for name in message.other})


def only(given: Mapping[str, Any], known: Collection[str], at: str) -> None:
    """Raises FieldRefused for a field that is not among these."""
    unknown = next((key for key in given if key not in known), None)
    if unknown is not None:
        raise FieldRefused(f"{at}.{unknown:.80}", "is not known here; leave it out")


def shown(value: Any) -> str:
    """A value in an error, as JSON writes it and not too long."""
    return json.dumps(value, default=str)[:60]


def followed(model: Any, schema: Mapping[str, Any] | None, field: str) -> Any:
    """What holds an answer to a JSON schema that this field states. Raises FieldRefused."""
    try:
        return model.grammars.schema(schema)
    except RequestRefused as problem:
        raise FieldRefused(field, f"cannot be used: {problem}") from None


def prepared(model: Any, messages: list[Message], **options: Any) -> Any:
    """`model.prepare`. Where the template fails on what the caller gave it beside plain messages, that is refused
    instead of blamed on the model's files."""
    try:
        return model.prepare(messages, **options)
    except BadTemplate:
        given = {
            "chat_template_kwargs": options.get("template_variables"),
            "tools": options.get("tools"),
            "messages": any(message.calls for message in messages),
        }
        for field, is_given in given.items():
            if is_given:
                said = "cannot be shown by this model's chat template; expected values of the types it reads"
                raise FieldRefused(field, said) from None
        raise


def receipt_fields(receipts: Sequence[AnyReceipt]) -> dict[str, Any]:
    """The field `trilens`: the receipt, and where there are several choices all of them."""
    first = receipts[0]
    fields: dict[str, Any] = {"receipt": first.as_dict(), "text": first.as_text()}
    return fields if len(receipts) == 1 else {**fields, "receipts": [r.as_dict() for r in receipts]}
