"""What all protocols share: strict fields, conversations as templates want them, sampling, usage."""

from __future__ import annotations

import json
import secrets
import time
from collections.abc import Collection, Mapping, Sequence
from typing import Any, ClassVar

from pydantic import BaseModel, ConfigDict, Field, model_validator

from trilens.errors import BadTemplate, RequestRefused
from trilens.generate.receipt import Receipt
from trilens.hosted.receipt import HostedReceipt

MOST_MESSAGES = 4096
MOST_CHOICES = 8
MOST_STOPS = 16
MOST_TOKENS = 1 << 31  # that a limit can state; no context is longer
THOUGHTS = ("thinking", "reasoning_content", "reasoning")  # what a message calls them
_encoder = json.JSONEncoder(ensure_ascii=False, separators=(",", ":"))

AnyReceipt = Receipt | HostedReceipt  # of a model that runs here, and of one that an engine runs


class FieldRefused(RequestRefused):
    """One field is wrong; `param` is its name."""

    def __init__(self, param: str, said: str) -> None:
        super().__init__(f"{param} {said}")
        self.param = param


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


def conversation(messages: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Messages in the protocols' shapes -> in the templates'. Raises RequestRefused."""
    if not messages:
        raise FieldRefused("messages", "is empty; expected at least one message")
    if len(messages) > MOST_MESSAGES:
        raise FieldRefused("messages", f"has {len(messages)} entries; expected at most {MOST_MESSAGES}")
    return [_message(message, f"messages.{i}") for i, message in enumerate(messages)]


def _message(message: Mapping[str, Any], at: str) -> dict[str, Any]:
    role = message.get("role")
    if role == "developer":
        role = "system"
    if role not in ("system", "user", "assistant", "tool"):
        raise FieldRefused(f"{at}.role", f"is {shown(role)}; expected system, developer, user, assistant or tool")
    known = {"role", "content", "name", "tool_calls", "tool_call_id", "refusal", "audio", "annotations"}
    only(message, known | {*THOUGHTS, "function_call"}, at)
    made: dict[str, Any] = {"role": role, "content": text_of(message.get("content"), f"{at}.content")}
    for key in ("name", "tool_call_id", *THOUGHTS):
        if (said := a_text(message, key, at)) is not None:
            made[key] = said
    if message.get("tool_calls") is not None:
        made["tool_calls"] = tool_calls_of(message["tool_calls"], f"{at}.tool_calls")
    return made


def tool_calls_of(calls: Any, at: str) -> list[dict[str, Any]]:
    """Calls of tools in an earlier answer, checked. Raises FieldRefused."""
    if not isinstance(calls, list):
        raise FieldRefused(at, f"is {shown(calls)}; expected a list of calls")
    return [_tool_call(call, f"{at}.{i}") for i, call in enumerate(calls)]


def _tool_call(call: Any, at: str) -> dict[str, Any]:
    if not isinstance(call, Mapping):
        raise FieldRefused(at, f"is {shown(call)}; expected an object with a function")
    only(call, {"id", "type", "function", "index"}, at)
    if call.get("type", "function") != "function":
        raise FieldRefused(f"{at}.type", f"is {shown(call['type'])}; expected function")
    function = call.get("function")
    if not isinstance(function, Mapping):
        raise FieldRefused(f"{at}.function", f"is {shown(function)}; expected an object with name and arguments")
    only(function, {"name", "arguments"}, f"{at}.function")
    name, arguments = function.get("name"), function.get("arguments", "{}")
    if not isinstance(name, str) or not name:
        raise FieldRefused(f"{at}.function.name", f"is {shown(name)}; expected the function's name")
    if not isinstance(arguments, str | Mapping):
        raise FieldRefused(f"{at}.function.arguments", f"is {shown(arguments)}; expected JSON as text, or an object")
    made = {"type": "function", "function": {"name": name, "arguments": arguments}}
    id = a_text(call, "id", at)
    return made if id is None else {"id": id, **made}


def only(given: Mapping[str, Any], known: Collection[str], at: str) -> None:
    """Raises FieldRefused for a field that is not among these."""
    unknown = next((key for key in given if key not in known), None)
    if unknown is not None:
        raise FieldRefused(f"{at}.{unknown:.80}", "is not known here; leave it out")


def a_text(given: Mapping[str, Any], key: str, at: str) -> str | None:
    """A field that is a text where it is there. Raises FieldRefused."""
    value = given.get(key)
    if value is not None and not isinstance(value, str):
        raise FieldRefused(f"{at}.{key}", f"is {shown(value)}; expected a text")
    return value


def shown(value: Any) -> str:
    """A value in an error, as JSON writes it and not too long."""
    return json.dumps(value, default=str)[:60]


def followed(model: Any, schema: Mapping[str, Any] | None, field: str) -> Any:
    """What holds an answer to a JSON schema that this field states. Raises FieldRefused."""
    try:
        return model.grammars.schema(schema)
    except RequestRefused as problem:
        raise FieldRefused(field, f"cannot be used: {problem}") from None


def prepared(model: Any, messages: list[dict[str, Any]], **options: Any) -> Any:
    """`model.prepare`. Where the template fails on what the caller gave it beside plain messages, that is refused
    instead of blamed on the model's files."""
    try:
        return model.prepare(messages, **options)
    except BadTemplate:
        given = {
            "chat_template_kwargs": options.get("template_variables"),
            "tools": options.get("tools"),
            "messages": any("tool_calls" in message for message in messages),
        }
        for field, is_given in given.items():
            if is_given:
                said = "cannot be shown by this model's chat template; expected values of the types it reads"
                raise FieldRefused(field, said) from None
        raise


def text_of(content: Any, at: str) -> str:
    """A content that is a text, or a list of text parts."""
    if content is None:
        return ""
    if isinstance(content, str):
        return content
    if not isinstance(content, list):
        raise FieldRefused(at, f"is {shown(content)}; expected a text, or a list of text parts")
    texts = []
    for number, part in enumerate(content):
        kind = part.get("type") if isinstance(part, Mapping) else None
        if kind not in ("text", "input_text", "output_text") or not isinstance(part.get("text"), str):
            raise FieldRefused(f"{at}.{number}", f"is a part of type {shown(kind)}; only text is understood here")
        texts.append(part["text"])
    return "\n".join(texts)


def receipt_fields(receipts: Sequence[AnyReceipt]) -> dict[str, Any]:
    """The field `trilens`: the receipt, and where there are several choices all of them."""
    first = receipts[0]
    fields: dict[str, Any] = {"receipt": first.as_dict(), "text": first.as_text()}
    return fields if len(receipts) == 1 else {**fields, "receipts": [r.as_dict() for r in receipts]}
