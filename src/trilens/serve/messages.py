"""Anthropic's messages, whole and streamed."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from typing import Any, ClassVar, Literal

from pydantic import Field

from trilens.serve.chat_run import ChatRun, begin
from trilens.serve.engine_model import AnyCall
from trilens.serve.loop import EngineLoop
from trilens.serve.switch import EFFORTS, thinking_of
from trilens.serve.tools import Tool, ToolUse, tool_use
from trilens.serve.wire import (
    MOST_TOKENS,
    AnyReceipt,
    FieldRefused,
    Fields,
    Samples,
    as_json,
    conversation,
    new_id,
    only,
    prepared,
    receipt_fields,
    shown,
    stops_of,
)
from trilens.text.conversation import Message, Part, Text, Thought, a_text, read_texts, written
from trilens.text.events import EndEvent, TextEvent, ThinkingEvent, ToolCall, ToolCallEvent

REASON = {
    "stop": "end_turn",
    "stop_string": "stop_sequence",
    "length": "max_tokens",
    "context": "max_tokens",
    "tool_calls": "tool_use",
    "cancelled": "end_turn",
}


class InputTool(Fields):
    name: str = Field(min_length=1, max_length=256)
    description: str = ""
    input_schema: dict[str, Any] = Field(default_factory=dict)
    type: Literal["custom"] | None = None
    ignored: ClassVar = frozenset(("cache_control", "strict"))


class ToolChoice(Fields):
    type: Literal["auto", "any", "tool", "none"]
    name: str | None = None
    ignored: ClassVar = frozenset(("disable_parallel_tool_use",))


class Prompted(Fields):
    """What a prompt is made of."""

    model: str
    messages: list[dict[str, Any]]
    system: str | list[dict[str, Any]] | None = None
    thinking: dict[str, Any] | bool | int | str | None = None
    output_config: dict[str, Any] | None = None
    tools: list[InputTool] | None = None
    tool_choice: ToolChoice | None = None
    ignored: ClassVar = frozenset(("cache_control",))

    def use(self) -> ToolUse:
        tools = [Tool(t.name, t.description, t.input_schema) for t in self.tools or ()]
        choice = self.tool_choice
        if choice is None:
            return tool_use(tools, None)
        word = {"any": "required", "tool": "named"}.get(choice.type, choice.type)
        return tool_use(tools, word, choice.name)

    def asked(self) -> dict[str, Any]:
        """What it says of thinking."""
        effort = (self.output_config or {}).get("effort")
        only(self.output_config or {}, {"effort"}, "output_config")
        if effort is not None and effort not in EFFORTS:
            raise FieldRefused("output_config.effort", f"is {shown(effort)}; expected one of {', '.join(EFFORTS)}")
        return {"thinking": self.thinking, "reasoning_effort": effort}

    def conversation(self) -> list[Message]:
        if not self.messages:
            raise FieldRefused("messages", "is empty; expected at least one message")
        system = [] if self.system is None else [Message("system", _parts(self.system, "system"))]
        turns = [t for i, message in enumerate(self.messages) for t in _turns(message, f"messages.{i}")]
        return conversation([*system, *turns])


class MessagesRequest(Prompted, Samples):
    max_tokens: int = Field(ge=1, le=MOST_TOKENS)
    stream: bool = False
    stop_sequences: list[str] | None = None
    ignored: ClassVar = frozenset(("metadata", "service_tier", "cache_control", "container", "inference_geo"))


async def begin_messages(loop: EngineLoop, request: MessagesRequest) -> ChatRun:
    use = request.use()

    def prepare(number: int) -> AnyCall:
        return _prepared(loop, request, use, request.max_tokens, stops_of(request.stop_sequences), request.sampling())

    return await begin(loop, new_id("msg_"), use, request.messages, prepare)


def count_tokens(loop: EngineLoop, request: Prompted) -> dict[str, int]:
    return {"input_tokens": len(_prepared(loop, request, request.use(), None, (), {}).ids)}


def _prepared(
    loop: EngineLoop,
    request: Prompted,
    use: ToolUse,
    most: int | None,
    stops: tuple[str, ...],
    sampling: dict[str, Any],
) -> AnyCall:
    model, messages = loop.model, request.conversation()
    last = messages[-1]
    call: AnyCall = prepared(
        model,
        messages,
        continue_final_message=last.role == "assistant" and last.text != "" and not last.calls,
        thinking=thinking_of(request.asked(), model.text.inference),
        max_completion=most,
        stop=stops,
        tools=use.for_template(model),
        constraint=use.constraint(model),
        **sampling,
    )
    return call


async def whole_message(chat_run: ChatRun) -> dict[str, Any]:
    [answer] = await chat_run.whole()
    end = answer.end
    content: list[dict[str, Any]] = []
    if answer.thinking:
        content.append({"type": "thinking", "thinking": answer.thinking, "signature": ""})
    if answer.text or not answer.calls:
        content.append({"type": "text", "text": answer.text})
    for call in answer.calls:
        content.append({"type": "tool_use", "id": call.id, "name": call.name, "input": _object(call.arguments)})
    return {
        **_message(chat_run),
        "content": content,
        "stop_reason": REASON[end.reason],
        "stop_sequence": end.stop,
        "usage": _usage(end.receipt),
        "trilens": receipt_fields([end.receipt]),
    }


async def message_events(chat_run: ChatRun) -> AsyncIterator[tuple[str, dict[str, Any]]]:
    """(the event's name, its data). The receipt comes with `message_delta`, the last one that has anything to say."""
    usage = {"input_tokens": len(chat_run.running.calls[0].ids), "output_tokens": 0}
    start = {**_message(chat_run), "content": [], "stop_reason": None, "stop_sequence": None, "usage": usage}
    yield "message_start", {"type": "message_start", "message": start}
    index, kind = -1, ""

    async for batch in chat_run.events():
        for piece in batch:
            if isinstance(piece, EndEvent):
                if index < 0:
                    index, kind = 0, "text"
                    yield _begun(0, {"type": "text", "text": ""})
                for event in _closed(index, kind):
                    yield event
                yield "message_delta", _last(piece)
                continue
            wanted = {ThinkingEvent: "thinking", TextEvent: "text", ToolCallEvent: "tool_use"}[type(piece)]
            if wanted != kind or (isinstance(piece, ToolCallEvent) and piece.id is not None):
                for event in _closed(index, kind):
                    yield event
                index, kind = index + 1, wanted
                yield _begun(index, _block(piece))
            yield _delta(index, piece)
    yield "message_stop", {"type": "message_stop"}


def as_event(event: tuple[str, dict[str, Any]]) -> bytes:
    name, data = event
    return b"event: %s\ndata: %s\n\n" % (name.encode(), as_json(data))


def _turns(message: dict[str, Any], at: str) -> list[Message]:
    """One message with blocks -> messages as templates know them: results of tools stand alone there."""
    role, content = message.get("role"), message.get("content")
    if role not in ("user", "assistant", "system"):
        raise FieldRefused(f"{at}.role", f"is {shown(role)}; expected user or assistant")
    other = {key: value for key, value in message.items() if key not in ("role", "content") and value is not None}
    if not isinstance(content, list):
        if content is None:
            raise FieldRefused(f"{at}.content", "is missing; expected a text or a list of blocks")
        return [Message(role, _parts(content, f"{at}.content"), other=other)]
    parts: list[Part] = []
    results: list[Message] = []
    for number, block in enumerate(content):
        place = f"{at}.content.{number}"
        match block.get("type") if isinstance(block, dict) else None:
            case "text":
                parts += _parts([{"type": "text", "text": block.get("text")}], place)
            case "thinking":
                if role == "assistant":
                    thought, signature = (a_text(block, key, place) or "" for key in ("thinking", "signature"))
                    parts.append(Thought(thought, signature))
            case "redacted_thinking":
                pass  # nobody can read it, so nothing can be shown to the model
            case "tool_use":
                given = block.get("input", {})
                if not isinstance(given, dict):
                    raise FieldRefused(f"{place}.input", f"is {shown(given)}; expected an object")
                if not (name := a_text(block, "name", place)):
                    raise FieldRefused(f"{place}.name", "is missing; expected the tool's name")
                parts.append(ToolCall(a_text(block, "id", place) or "", name, written(given)))
            case "tool_result":
                said = _parts(block.get("content"), f"{place}.content")
                results.append(Message("tool", said, call_id=a_text(block, "tool_use_id", place)))
            case kind:
                raise FieldRefused(place, f"is a block of type {shown(kind)}; it is not understood here")
    return [*results, *([Message(role, tuple(parts), other=other)] if parts or not results else [])]


def _parts(content: Any, at: str) -> tuple[Text, ...]:
    return tuple(map(Text, read_texts(content, at)))


def _message(chat_run: ChatRun) -> dict[str, Any]:
    return {"id": chat_run.id, "type": "message", "role": "assistant", "model": chat_run.model.name}


def _usage(receipt: AnyReceipt) -> dict[str, Any]:
    t = receipt.tokens
    return {
        "input_tokens": (t.prompt or 0) - (t.cached or 0),
        "cache_read_input_tokens": t.cached or 0,
        "cache_creation_input_tokens": 0,
        "output_tokens": t.completion,
        "output_tokens_details": {"thinking_tokens": t.thinking},
    }


def _block(piece: ThinkingEvent | TextEvent | ToolCallEvent) -> dict[str, Any]:
    match piece:
        case ThinkingEvent():
            return {"type": "thinking", "thinking": "", "signature": ""}
        case TextEvent():
            return {"type": "text", "text": ""}
        case ToolCallEvent():
            return {"type": "tool_use", "id": piece.id, "name": piece.name, "input": {}}


def _delta(index: int, piece: ThinkingEvent | TextEvent | ToolCallEvent) -> tuple[str, dict[str, Any]]:
    match piece:
        case ThinkingEvent(text):
            delta = {"type": "thinking_delta", "thinking": text}
        case TextEvent(text):
            delta = {"type": "text_delta", "text": text}
        case ToolCallEvent(arguments):
            delta = {"type": "input_json_delta", "partial_json": arguments}
    return "content_block_delta", {"type": "content_block_delta", "index": index, "delta": delta}


def _begun(index: int, block: dict[str, Any]) -> tuple[str, dict[str, Any]]:
    return "content_block_start", {"type": "content_block_start", "index": index, "content_block": block}


def _closed(index: int, kind: str) -> list[tuple[str, dict[str, Any]]]:
    if index < 0:
        return []
    signed = {"type": "content_block_delta", "index": index, "delta": {"type": "signature_delta", "signature": ""}}
    events = [("content_block_delta", signed)] if kind == "thinking" else []
    return [*events, ("content_block_stop", {"type": "content_block_stop", "index": index})]


def _last(end: EndEvent[AnyReceipt]) -> dict[str, Any]:
    return {
        "type": "message_delta",
        "delta": {"stop_reason": REASON[end.reason], "stop_sequence": end.stop},
        "usage": _usage(end.receipt),
        "trilens": receipt_fields([end.receipt]),
    }


def _object(arguments: str) -> Any:
    """A call's arguments; one that was cut off is no JSON yet, and is handed on as the text that it is."""
    try:
        return json.loads(arguments)
    except ValueError:
        return {"incomplete": arguments}
