"""Anthropic's messages, whole and streamed."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Mapping
from functools import partial
from typing import Annotated, Any, ClassVar, Literal

from pydantic import AfterValidator, Discriminator, Field, Tag

from trilens.errors import FieldRefused
from trilens.serve.chat_run import ChatRun, begin
from trilens.serve.engine_model import AnyCall
from trilens.serve.fields import (
    CACHE,
    HINT,
    HOSTED,
    IDENTIFIER,
    STORED,
    Fields,
    checked,
    gathered,
    shown,
)
from trilens.serve.loop import Serving
from trilens.serve.structure import Structured, Wanted, one_of, wanted_of
from trilens.serve.switch import can_think, thinking_of
from trilens.serve.tools import HostedTool, Tool, ToolUse, kind_of_tool, tool_use
from trilens.serve.wire import (
    MOST_TOKENS,
    TEXT_PART,
    AnyReceipt,
    Known,
    Samples,
    as_json,
    conversation,
    left_aside,
    new_id,
    prepared,
    receipt_fields,
    stops_of,
)
from trilens.text.conversation import Message, MessagePart, Text, Thought, a_text, read_texts, written
from trilens.text.events import EndEvent, TextEvent, ThinkingEvent, ToolCall, ToolCallEvent
from trilens.text.strategy import Thinking
from trilens.text.thinking import Inference

REASON = {
    "stop": "end_turn",
    "stop_string": "stop_sequence",
    "length": "max_tokens",
    "context": "max_tokens",
    "tool_calls": "tool_use",
    "cancelled": "end_turn",
}
BLOCK: Known = dict.fromkeys(("type", "text", "thinking", "signature", "id", "name", "input", "tool_use_id"))
MESSAGE: Known = {"role": None, "content": {**BLOCK, "content": TEXT_PART}}


class InputTool(Fields):
    name: str = Field(min_length=1, max_length=256)
    description: str = ""
    input_schema: dict[str, Any] = Field(default_factory=dict)
    type: Literal["custom"] | None = None
    aside: ClassVar[Mapping[str, str]] = {
        "cache_control": CACHE,
        **dict.fromkeys(
            ("strict", "defer_loading", "allowed_callers", "input_examples", "eager_input_streaming"),
            HINT,
        ),
    }


AnyTool = Annotated[
    Annotated[InputTool, Tag("described")] | Annotated[HostedTool, Tag("hosted")], Discriminator(kind_of_tool)
]


class ToolChoice(Fields):
    type: Literal["auto", "any", "tool", "none"]
    name: str | None = None
    disable_parallel_tool_use: bool = False


class OutputFormat(Fields):
    type: Literal["json_schema"]
    schema_: dict[str, Any] = Field(alias="schema")


class OutputConfig(Fields):
    effort: Literal["none", "minimal", "low", "medium", "high", "xhigh", "max"] | None = None
    format: OutputFormat | None = None
    aside: ClassVar[Mapping[str, str]] = {"task_budget": HINT}


class ThinkingConfig(Fields):
    type: Literal["enabled", "adaptive", "disabled"]
    budget_tokens: int | None = Field(default=None, ge=0, le=MOST_TOKENS)
    display: Literal["summarized", "full", "omitted"] | None = None


def _readable(messages: list[dict[str, Any]]) -> list[Message]:
    return conversation(_asked(messages))


readable = checked(_readable)
readable_system = checked(lambda given: read_texts(given, "system"))


class Prompted(Fields):
    """What a prompt is made of."""

    model: str
    messages: Annotated[list[dict[str, Any]], AfterValidator(readable)]
    system: Annotated[
        str | list[dict[str, Any]], AfterValidator(checked(lambda given: read_texts(given, "system")))
    ] = ""
    thinking: ThinkingConfig | bool | int | str | None = None
    output_config: OutputConfig | None = None
    output_format: OutputFormat | None = None
    structured_outputs: Structured | None = None
    tools: list[AnyTool] | None = None
    tool_choice: ToolChoice | None = None
    aside: ClassVar[Mapping[str, str]] = {
        "cache_control": CACHE,
        "context_management": STORED,
        **dict.fromkeys(("mcp_servers", "container"), HOSTED),
        **dict.fromkeys(("speed", "service_tier", "betas", "inference_geo", "fallbacks"), HINT),
        **dict.fromkeys(("metadata", "user_profile_id", "diagnostics"), IDENTIFIER),
    }

    def left_aside(self, at: str = "") -> list[str]:
        messages = left_aside(self.messages, MESSAGE, f"{at}messages")
        return [*super().left_aside(at), *left_aside(self.system, TEXT_PART, f"{at}system"), *messages]

    def use(self) -> ToolUse:
        described = [tool for tool in self.tools or () if isinstance(tool, InputTool)]
        tools = [Tool(t.name, t.description, t.input_schema) for t in described]
        choice = self.tool_choice
        if choice is None:
            return tool_use(tools, None)
        word = {"any": "required", "tool": "named"}.get(choice.type, choice.type)
        return tool_use(tools, word, choice.name, parallel=not choice.disable_parallel_tool_use)

    def wanted(self) -> Wanted | None:
        form = None if self.output_config is None else self.output_config.format
        forms = {"output_config.format": form, "output_format": self.output_format}
        stated = [Wanted(f"{at}.schema", "schema", form.schema_) for at, form in forms.items() if form is not None]
        return one_of(*stated, *wanted_of(self.structured_outputs))

    def asked(self, inference: Inference) -> Thinking:
        """The requested thinking; none if the request does not ask for it, as the protocol says. A budget takes
        precedence over an effort, which only chooses among a model's levels.
        """
        effort = None if self.output_config is None else self.output_config.effort
        match self.thinking:
            case None:
                return "off-or-least"
            case ThinkingConfig(type="disabled", budget_tokens=budget) if budget is not None:
                raise FieldRefused("thinking.budget_tokens", "is given with thinking disabled; give one of them")
            case ThinkingConfig(type="disabled"):
                return "off-or-least"
            case ThinkingConfig() if not can_think(inference):
                return None
            case ThinkingConfig(budget_tokens=budget) if budget is not None:
                return budget
            case ThinkingConfig():
                effort = None if effort == "none" else effort
                return thinking_of({"thinking": True, "reasoning_effort": effort}, inference)
            case ours:
                return thinking_of({"thinking": ours, "reasoning_effort": effort}, inference)

    @property
    def shows_thinking(self) -> bool:
        """Whether thoughts are part of the answer. A block that nobody asked for would come before the first text."""
        if isinstance(self.thinking, ThinkingConfig):
            return self.thinking.type != "disabled"
        return self.thinking not in (None, False, 0)

    @property
    def tells_thinking(self) -> bool:
        """Whether the blocks of thoughts have their text."""
        return not (isinstance(self.thinking, ThinkingConfig) and self.thinking.display == "omitted")

    def conversation(self) -> list[Message]:
        system = [Message("system", _parts(self.system, "system"))] if self.system else []
        return conversation([*system, *_asked(self.messages)])


class MessagesRequest(Prompted, Samples):
    max_tokens: int = Field(ge=1, le=MOST_TOKENS)
    stream: bool = False
    stop_sequences: list[str] | None = None


async def begin_messages(loop: Serving, request: MessagesRequest) -> ChatRun:
    inference = loop.model.text.inference
    use, wanted, thinking, stops, _ = gathered(
        request.use,
        request.wanted,
        lambda: request.asked(inference),
        lambda: stops_of(request.stop_sequences),
        request.sampling,
    )
    ignored = request.left_aside()
    if isinstance(request.thinking, ThinkingConfig) and request.shows_thinking and not can_think(inference):
        ignored.append("thinking")
    if request.output_config is not None and request.output_config.effort and not inference.levels:
        ignored.append("output_config.effort")

    def prepare(number: int) -> AnyCall:
        constraint = use.constraint(loop.model, wanted, ignored)
        return _prepared(loop, request, use, request.max_tokens, stops, thinking, constraint, request.sampling())

    return await begin(loop, new_id("msg_"), use, request.messages, prepare, 1, ignored)


def count_tokens(loop: Serving, request: Prompted) -> dict[str, int]:
    use, thinking = gathered(request.use, lambda: request.asked(loop.model.text.inference))
    return {"input_tokens": len(_prepared(loop, request, use, None, (), thinking, None, {}).ids)}


def _prepared(
    loop: Serving,
    request: Prompted,
    use: ToolUse,
    most: int | None,
    stops: tuple[str, ...],
    thinking: Thinking,
    constraint: Any,
    sampling: dict[str, Any],
) -> AnyCall:
    model, messages = loop.model, request.conversation()
    last = messages[-1]
    call: AnyCall = prepared(
        model,
        messages,
        continue_final_message=last.role == "assistant" and last.text != "" and not last.calls,
        thinking=thinking,
        max_completion=most,
        stop=stops,
        tools=use.for_template(model),
        constraint=constraint,
        **loop.options,
        **sampling,
    )
    return call


async def whole_message(chat_run: ChatRun, request: Prompted) -> dict[str, Any]:
    [answer] = await chat_run.whole()
    end = answer.end
    content: list[dict[str, Any]] = []
    if answer.thinking and request.shows_thinking:
        thoughts = answer.thinking if request.tells_thinking else ""
        content.append({"type": "thinking", "thinking": thoughts, "signature": ""})
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
        "trilens": receipt_fields([end.receipt], chat_run.ignored),
    }


async def message_events(chat_run: ChatRun, request: Prompted) -> AsyncIterator[tuple[str, dict[str, Any]]]:
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
                yield "message_delta", _last(chat_run, piece)
                continue
            if isinstance(piece, ThinkingEvent) and not request.shows_thinking:
                continue
            wanted = {ThinkingEvent: "thinking", TextEvent: "text", ToolCallEvent: "tool_use"}[type(piece)]
            if wanted != kind or (isinstance(piece, ToolCallEvent) and piece.id is not None):
                for event in _closed(index, kind):
                    yield event
                index, kind = index + 1, wanted
                yield _begun(index, _block(piece))
            if request.tells_thinking or not isinstance(piece, ThinkingEvent):
                yield _delta(index, piece)
    yield "message_stop", {"type": "message_stop"}


def as_event(event: tuple[str, dict[str, Any]]) -> bytes:
    name, data = event
    return b"event: %s\ndata: %s\n\n" % (name.encode(), as_json(data))


def _asked(messages: list[dict[str, Any]]) -> list[Message]:
    if not messages:
        raise FieldRefused("messages", "is empty; expected at least one message")
    turns = gathered(*(partial(_turns, message, f"messages.{i}") for i, message in enumerate(messages)))
    return [message for several in turns for message in several]


def _turns(message: dict[str, Any], at: str) -> list[Message]:
    """One message with blocks -> messages as templates know them, where tool results are separate messages."""
    role, content = message.get("role"), message.get("content")
    if role not in ("user", "assistant", "system"):
        raise FieldRefused(f"{at}.role", f"is {shown(role)}; expected user or assistant")
    if not isinstance(content, list):
        if content is None:
            raise FieldRefused(f"{at}.content", "is missing; expected a text or a list of blocks")
        return [Message(role, _parts(content, f"{at}.content"))]
    parts: list[MessagePart] = []
    results: list[Message] = []
    for number, block in enumerate(content):
        place = f"{at}.content.{number}"
        match block.get("type") if isinstance(block, dict) else None:
            case "text":
                parts += _parts([{"type": "text", "text": block.get("text")}], place)
            case "thinking" if role == "assistant":
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
                raise FieldRefused(place, f"is a block of type {shown(kind)}; it is not supported")
    return [*results, *([Message(role, tuple(parts))] if parts or not results else [])]


def _parts(content: Any, at: str) -> tuple[Text, ...]:
    return tuple(map(Text, read_texts(content, at)))


def _message(chat_run: ChatRun) -> dict[str, Any]:
    return {"id": chat_run.id, "type": "message", "role": "assistant", "model": chat_run.name}


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


def _last(chat_run: ChatRun, end: EndEvent[AnyReceipt]) -> dict[str, Any]:
    return {
        "type": "message_delta",
        "delta": {"stop_reason": REASON[end.reason], "stop_sequence": end.stop},
        "usage": _usage(end.receipt),
        "trilens": receipt_fields([end.receipt], chat_run.ignored),
    }


def _object(arguments: str) -> Any:
    """A call's arguments. If the call was truncated, they are not valid JSON and are passed on as text."""
    try:
        return json.loads(arguments)
    except ValueError:
        return {"incomplete": arguments}
