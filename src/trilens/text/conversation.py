"""A conversation: who said what, the thoughts before it, the tools that were called, and their results.

One type for all: every protocol converts its messages to it, the library accepts it, and a chat template gets it in the
form that the template reads (`accepts`).
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from trilens.errors import FieldRefused, RequestRefused, shown
from trilens.text.events import ToolCall

MOST_DEPTH = 64  # of lists and objects in a request; a schema in a tool has ten
THOUGHT_KEYS = ("thinking", "reasoning_content", "reasoning")  # what messages call their thoughts
TEXT_TYPES = ("text", "input_text", "output_text")  # of a part, in one protocol or another
OWN_KEYS = frozenset(("role", "content", "name", "tool_calls", "tool_call_id", "function_call", *THOUGHT_KEYS))


@dataclass(frozen=True, slots=True)
class Text:
    """A part of what was said."""

    text: str


@dataclass(frozen=True, slots=True)
class Thought:
    """A part of the thinking. `signature` is data that its author wants back with it."""

    text: str
    signature: str = ""


MessagePart = Text | Thought | ToolCall
ChatMessage = Mapping[str, Any]  # one message as OpenAI's chat protocol and chat templates write it


@dataclass(frozen=True)
class Message:
    """One message. `name` is the speaker's, or the tool's where it is a result; `call_id` is the call's that a result
    belongs to; `other` are fields that only a template knows, as plain data."""

    role: str
    parts: tuple[MessagePart, ...] = ()
    name: str | None = None
    call_id: str | None = None
    other: Mapping[str, Any] = field(default_factory=dict)

    @property
    def texts(self) -> list[str]:
        return [part.text for part in self.parts if isinstance(part, Text)]

    @property
    def text(self) -> str:
        """The whole text, with each part on its own line."""
        return "\n".join(self.texts)

    @property
    def thinking(self) -> str:
        return "\n".join(part.text for part in self.parts if isinstance(part, Thought))

    @property
    def calls(self) -> list[ToolCall]:
        return [part for part in self.parts if isinstance(part, ToolCall)]

    def with_texts(self, texts: Sequence[str]) -> Message:
        """The same with other texts, in the place of its first one."""
        kept = [part for part in self.parts if not isinstance(part, Text)]
        first = next((i for i, part in enumerate(self.parts) if isinstance(part, Text)), len(kept))
        first = sum(not isinstance(part, Text) for part in self.parts[:first])
        return replace(self, parts=(*kept[:first], *map(Text, texts), *kept[first:]))


def read_conversation(messages: Sequence[ChatMessage | Message], at: str = "messages") -> list[Message]:
    """Messages as OpenAI's chat protocol and chat templates write them -> the one type.

    A content is a text or a list of text parts. Thoughts stand under one of THOUGHT_KEYS. A call's arguments are JSON
    as a text, or an object. Fields that are not known here go into `other`; those that are null are absent. `at` is
    what the list is called in errors. Raises FieldRefused for what is no conversation, naming the place.
    """
    if not isinstance(messages, list | tuple):
        raise FieldRefused(at, 'is not a list; expected [{"role": ..., "content": ...}, ...]')
    if not messages:
        raise FieldRefused(at, "is empty; expected at least one message")
    read = [_read(message, f"{at}.{i}") for i, message in enumerate(messages)]
    return with_names(read)


def with_names(messages: Sequence[Message]) -> list[Message]:
    """Results without a name get that of the call that they answer, for templates that read it."""
    names: dict[str, str] = {}
    out = []
    for message in messages:
        names |= {call.id: call.name for call in message.calls if call.id}
        if message.role == "tool" and message.name is None and message.call_id in names:
            message = replace(message, name=names[message.call_id])
        out.append(message)
    return out


def as_chat(message: Message) -> dict[str, Any]:
    """The same as OpenAI's chat protocol writes it; thoughts stand under "thinking"."""
    made: dict[str, Any] = {"role": message.role, **message.other, "content": message.text}
    if message.name is not None:
        made["name"] = message.name
    if message.call_id is not None:
        made["tool_call_id"] = message.call_id
    if message.thinking:
        made["thinking"] = message.thinking
    if message.calls:
        made["tool_calls"] = [
            {"id": call.id, "type": "function", "function": {"name": call.name, "arguments": call.arguments}}
            for call in message.calls
        ]
    return made


def arguments_of(call: ToolCall) -> dict[str, Any]:
    """A call's arguments as an object. If they are not one, because they were truncated or malformed, the text is
    kept under the name INVALID_JSON, as in Anthropic's protocol.
    """
    try:
        made = json.loads(call.arguments or "{}")
    except (ValueError, RecursionError):
        made = None
    return made if isinstance(made, dict) else {"INVALID_JSON": call.arguments}


def written(arguments: Mapping[str, Any]) -> str:
    """A call's arguments as JSON."""
    return json.dumps(plain(arguments, "the arguments"), ensure_ascii=False)


# ---- reading ----


def _read(message: Any, at: str) -> Message:
    if isinstance(message, Message):
        return replace(message, other=plain(message.other, at))
    if not isinstance(message, Mapping) or not isinstance(message.get("role"), str):
        raise FieldRefused(at, "has no role; expected a role such as 'user' and a content")
    calls = read_calls(message.get("tool_calls"), f"{at}.tool_calls")
    if (old := message.get("function_call")) is not None:  # what OpenAI had before tools
        calls.append(_call({"function": old}, f"{at}.function_call"))
    thoughts = {said for key in THOUGHT_KEYS if (said := a_text(message, key, at))}
    if len(thoughts) > 1:
        raise FieldRefused(at, "holds different thoughts under several names; keep them in 'thinking'")
    content = message.get("content")
    if content is None and not calls and message["role"] not in ("assistant", "tool"):
        raise FieldRefused(f"{at}.content", f"is {shown(content)}; expected a text or a list of text parts")
    texts = read_texts(content, f"{at}.content")
    other = {key: value for key, value in message.items() if key not in OWN_KEYS and value is not None}
    return Message(
        str.__str__(message["role"]),
        (*map(Thought, thoughts), *map(Text, texts), *calls),
        name=a_text(message, "name", at),
        call_id=a_text(message, "tool_call_id", at),
        other=plain(other, at),
    )


def read_texts(content: Any, at: str) -> list[str]:
    """The texts of a content; one text that is empty is none. Raises FieldRefused."""
    if content is None or content == "":
        return []
    if isinstance(content, str):
        return [str.__str__(content)]
    if not isinstance(content, list | tuple):
        raise FieldRefused(at, f"is {shown(content)}; expected a text or a list of text parts")
    return [_text_part(part, f"{at}.{i}") for i, part in enumerate(content)]


def _text_part(part: Any, at: str) -> str:
    if isinstance(part, str):
        return str.__str__(part)
    if not isinstance(part, Mapping):
        raise FieldRefused(at, f'is {shown(part)}; expected {{"type": "text", "text": ...}}')
    kind, text = part.get("type"), part.get("text")
    if kind == "refusal":
        text = part.get("refusal")
    elif kind not in TEXT_TYPES:
        raise FieldRefused(at, f"is a part of type {shown(kind)}; only text is supported")
    if not isinstance(text, str):
        raise FieldRefused(f"{at}.text", f"is {shown(text)}; expected a text")
    return str.__str__(text)


def read_calls(calls: Any, at: str) -> list[ToolCall]:
    """Calls of tools in an earlier answer. Raises FieldRefused."""
    if calls is None:
        return []
    if not isinstance(calls, list | tuple):
        raise FieldRefused(at, f"is {shown(calls)}; expected a list of calls")
    return [call if isinstance(call, ToolCall) else _call(call, f"{at}.{i}") for i, call in enumerate(calls)]


def _call(call: Any, at: str) -> ToolCall:
    if not isinstance(call, Mapping):
        raise FieldRefused(at, f"is {shown(call)}; expected an object with a function")
    if call.get("type") not in (None, "function"):
        raise FieldRefused(f"{at}.type", f"is {shown(call['type'])}; expected function")
    function = call.get("function", call)
    if not isinstance(function, Mapping):
        raise FieldRefused(f"{at}.function", f"is {shown(function)}; expected an object with name and arguments")
    name, arguments = function.get("name"), function.get("arguments")
    if not isinstance(name, str) or not name:
        raise FieldRefused(f"{at}.function.name", f"is {shown(name)}; expected the function's name")
    if not isinstance(arguments, str | Mapping | None):
        raise FieldRefused(f"{at}.function.arguments", f"is {shown(arguments)}; expected JSON as text, or an object")
    text = arguments if isinstance(arguments, str) else written(arguments or {})
    return ToolCall(a_text(call, "id", at) or "", str.__str__(name), str.__str__(text))


def a_text(given: Mapping[str, Any], key: str, at: str) -> str | None:
    """A field that is a text where it is there. Raises FieldRefused."""
    value = given.get(key)
    if value is not None and not isinstance(value, str):
        raise FieldRefused(f"{at}.{key}", f"is {shown(value)}; expected a text")
    return None if value is None else str.__str__(value)


def plain(value: Any, where: str, depth: int = 0) -> Any:
    """A copy in plain JSON types, because a template must not get an object with methods of its own."""
    if depth > MOST_DEPTH:
        raise RequestRefused(f"{where}: data is nested more than {MOST_DEPTH} deep; expected less")
    match value:
        case None | bool():
            return value
        case str():
            return str.__str__(value)
        case int():
            if value.bit_length() > 1024:
                raise RequestRefused(f"{where}: a number has {value.bit_length()} bits; expected at most 1024")
            return int(value)
        case float():
            return float(value)
        case Mapping():
            if not all(isinstance(key, str) for key in value):
                raise RequestRefused(f"{where}: an object has a name that is not a text; expected JSON data only")
            return {str.__str__(key): plain(item, where, depth + 1) for key, item in value.items()}
        case list() | tuple():
            return [plain(item, where, depth + 1) for item in value]
        case _:
            raise RequestRefused(f"{where}: there is a {type(value).__name__}; expected JSON data only")
