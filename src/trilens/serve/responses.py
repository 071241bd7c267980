"""OpenAI's responses, whole and streamed. Nothing is stored: what came before is sent again by the caller."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any, ClassVar, Literal

from pydantic import Field

from trilens.serve.chat_run import ChatRun, begin
from trilens.serve.engine_model import AnyCall
from trilens.serve.loop import EngineLoop
from trilens.serve.switch import other_variables, thinking_of
from trilens.serve.tools import Tool, ToolUse, tool_use
from trilens.serve.wire import (
    MOST_TOKENS,
    AnyReceipt,
    Asks,
    FieldRefused,
    Fields,
    Samples,
    conversation,
    followed,
    new_id,
    now,
    prepared,
    receipt_fields,
    shown,
)
from trilens.text.conversation import Message, Part, Thought, a_text, read_texts, written
from trilens.text.conversation import Text as Words
from trilens.text.events import EndEvent, Event, TextEvent, ThinkingEvent, ToolCall, ToolCallEvent, Whole

INCOMPLETE = ("length", "context")


class ResponseTool(Fields):
    type: Literal["function"]
    name: str = Field(min_length=1, max_length=256)
    description: str | None = ""
    parameters: dict[str, Any] | None = None
    ignored: ClassVar = frozenset(("strict",))


class NamedTool(Fields):
    type: Literal["function"]
    name: str


class Format(Fields):
    type: Literal["text", "json_object", "json_schema"]
    schema_: dict[str, Any] | None = Field(default=None, alias="schema")
    ignored: ClassVar = frozenset(("name", "strict", "description"))


class Text(Fields):
    format: Format | None = None
    ignored: ClassVar = frozenset(("verbosity",))


class ResponseRequest(Asks, Samples):
    model: str
    input: str | list[dict[str, Any]]
    instructions: str | None = None
    stream: bool = False
    max_output_tokens: int | None = Field(default=None, ge=1, le=MOST_TOKENS)
    text: Text | None = None
    tools: list[ResponseTool] | None = None
    tool_choice: Literal["auto", "none", "required"] | NamedTool | None = None
    ignored: ClassVar = frozenset(
        (
            *("user", "store", "metadata", "service_tier", "safety_identifier", "prompt_cache_key", "include"),
            *("prompt_cache_retention", "parallel_tool_calls", "truncation", "stream_options", "background"),
        )
    )

    def use(self) -> ToolUse:
        tools = [Tool(t.name, t.description or "", t.parameters or {}) for t in self.tools or ()]
        if isinstance(self.tool_choice, NamedTool):
            return tool_use(tools, "named", self.tool_choice.name)
        return tool_use(tools, self.tool_choice)

    def conversation(self) -> list[Message]:
        before = [] if self.instructions is None else [Message("system", (Words(self.instructions),))]
        if isinstance(self.input, str):
            return conversation([*before, Message("user", (Words(self.input),))])
        if not self.input:
            raise FieldRefused("input", "is empty; expected at least one item")
        return conversation([*before, *_messages(self.input)])


async def begin_response(loop: EngineLoop, request: ResponseRequest) -> ChatRun:
    model, use = loop.model, request.use()
    form = None if request.text is None else request.text.format

    def prepare(number: int) -> AnyCall:
        stated = request.model_dump(include=set(Asks.model_fields))
        constraint = use.constraint(model)
        if form is not None and form.type != "text":
            if constraint is not None:
                raise FieldRefused("text.format", "and a forced tool_choice contradict each other; give one of them")
            if form.type == "json_schema" and form.schema_ is None:
                raise FieldRefused("text.format.schema", "is missing")
            constraint = followed(model, form.schema_ if form.type == "json_schema" else None, "text.format")
        call: AnyCall = prepared(
            model,
            request.conversation(),
            thinking=thinking_of(stated, model.text.inference),
            max_completion=request.max_output_tokens,
            tools=use.for_template(model),
            template_variables=other_variables(stated),
            constraint=constraint,
            **request.sampling(),
        )
        return call

    return await begin(loop, new_id("resp_"), use, request.input, prepare)


async def whole_response(chat_run: ChatRun, request: ResponseRequest) -> dict[str, Any]:
    [answer] = await chat_run.whole()
    return _response(chat_run, request, _items(answer), answer.end.reason, answer.end.receipt)


async def response_events(chat_run: ChatRun, request: ResponseRequest) -> AsyncIterator[dict[str, Any]]:
    """Events in the protocol's order; the receipt comes with the last one's response."""
    number = 0

    def event(kind: str, **fields: Any) -> dict[str, Any]:
        nonlocal number
        number += 1
        return {"type": f"response.{kind}", "sequence_number": number - 1, **fields}

    answer: Whole[AnyReceipt] = Whole()
    open_: _Item | None = None
    at = -1
    begun = _response(chat_run, request, [], None, None)
    yield event("created", response=begun)
    yield event("in_progress", response=begun)
    async for batch in chat_run.events():
        for piece in batch:
            answer.take(piece)
            if isinstance(piece, EndEvent):
                continue
            if open_ is None or not open_.takes(piece):
                if open_ is not None:
                    for kind, fields in open_.done(at):
                        yield event(kind, **fields)
                open_, at = _Item(piece), at + 1
                for kind, fields in open_.begun(at):
                    yield event(kind, **fields)
            kind, fields = open_.add(piece, at)
            yield event(kind, **fields)
    if open_ is not None:
        for kind, fields in open_.done(at):
            yield event(kind, **fields)
    end = answer.end
    kind = "incomplete" if end.reason in INCOMPLETE else "completed"
    yield event(kind, response=_response(chat_run, request, _items(answer), end.reason, end.receipt))


class _Item:
    """One item of the output while it is written."""

    def __init__(self, piece: Event[AnyReceipt]) -> None:
        self.text = ""
        self.piece = piece
        prefix = {ThinkingEvent: "rs_", TextEvent: "msg_", ToolCallEvent: "fc_"}[type(piece)]
        self.id = new_id(prefix)

    def takes(self, piece: Event[AnyReceipt]) -> bool:
        return type(piece) is type(self.piece) and not (isinstance(piece, ToolCallEvent) and piece.id is not None)

    def begun(self, at: int) -> list[tuple[str, dict[str, Any]]]:
        events = [("output_item.added", {"output_index": at, "item": self._item("in_progress", empty=True)})]
        if isinstance(self.piece, TextEvent):
            events.append(("content_part.added", {**self._place(at), "part": _text("")}))
        return events

    def add(self, piece: Event[AnyReceipt], at: int) -> tuple[str, dict[str, Any]]:
        match piece:
            case ThinkingEvent(text):
                self.text += text
                return "reasoning_text.delta", {**self._place(at), "delta": text}
            case ToolCallEvent(arguments):
                self.text += arguments
                place = {"item_id": self.id, "output_index": at}
                return "function_call_arguments.delta", {**place, "delta": arguments}
            case TextEvent(text):
                self.text += text
                return "output_text.delta", {**self._place(at), "delta": text, "logprobs": []}
        raise AssertionError(piece)

    def done(self, at: int) -> list[tuple[str, dict[str, Any]]]:
        place = self._place(at)
        item = ("output_item.done", {"output_index": at, "item": self._item("completed")})
        match self.piece:
            case ThinkingEvent():
                return [("reasoning_text.done", {**place, "text": self.text}), item]
            case ToolCallEvent(_, _, _, _, name):
                fields = {"item_id": self.id, "output_index": at, "name": name, "arguments": self.text}
                return [("function_call_arguments.done", fields), item]
        text = ("output_text.done", {**place, "text": self.text, "logprobs": []})
        return [text, ("content_part.done", {**place, "part": _text(self.text)}), item]

    def _place(self, at: int) -> dict[str, Any]:
        return {"item_id": self.id, "output_index": at, "content_index": 0}

    def _item(self, status: str, empty: bool = False) -> dict[str, Any]:
        match self.piece:
            case ThinkingEvent():
                return _reasoning(self.id, None if empty else self.text, status)
            case ToolCallEvent(_, _, _, id, name):
                return _function_call(self.id, id, name, "" if empty else self.text, status)
        return _output_message(self.id, None if empty else self.text, status)


def _items(answer: Whole[AnyReceipt]) -> list[dict[str, Any]]:
    items = [_reasoning(new_id("rs_"), answer.thinking, "completed")] if answer.thinking else []
    if answer.text or not answer.calls:
        items.append(_output_message(new_id("msg_"), answer.text, "completed"))
    return items + [_function_call(new_id("fc_"), c.id, c.name, c.arguments, "completed") for c in answer.calls]


def _reasoning(id: str, text: str | None, status: str) -> dict[str, Any]:
    content = [] if text is None else [{"type": "reasoning_text", "text": text}]
    return {"id": id, "type": "reasoning", "summary": [], "content": content, "status": status}


def _output_message(id: str, text: str | None, status: str) -> dict[str, Any]:
    content = [] if text is None else [_text(text)]
    return {"id": id, "type": "message", "role": "assistant", "status": status, "content": content}


def _function_call(id: str, call: str | None, name: str | None, arguments: str, status: str) -> dict[str, Any]:
    return {
        "id": id,
        "type": "function_call",
        "call_id": call,
        "name": name,
        "arguments": arguments,
        "status": status,
    }


def _text(text: str) -> dict[str, Any]:
    return {"type": "output_text", "text": text, "annotations": [], "logprobs": []}


def _response(
    chat_run: ChatRun,
    request: ResponseRequest,
    items: list[dict[str, Any]],
    why: str | None,
    receipt: AnyReceipt | None,
) -> dict[str, Any]:
    status = "in_progress" if why is None else "incomplete" if why in INCOMPLETE else "completed"
    choice = request.tool_choice
    made: dict[str, Any] = {
        "id": chat_run.id,
        "object": "response",
        "created_at": now(),
        "status": status,
        "error": None,
        "incomplete_details": {"reason": "max_output_tokens"} if status == "incomplete" else None,
        "instructions": request.instructions,
        "max_output_tokens": request.max_output_tokens,
        "model": chat_run.model.name,
        "output": items,
        "parallel_tool_calls": True,
        "previous_response_id": None,
        "reasoning": {"effort": request.reasoning_effort or (request.reasoning or {}).get("effort"), "summary": None},
        "store": False,
        "temperature": request.temperature,
        "text": {"format": {"type": "text"}},
        "tool_choice": choice.model_dump() if isinstance(choice, NamedTool) else choice or "auto",
        "tools": [{**t.model_dump(), "strict": None} for t in request.tools or ()],
        "top_p": request.top_p,
        "truncation": "disabled",
        "usage": None,
        "metadata": {},
    }
    if receipt is not None:
        t = receipt.tokens
        made["usage"] = {
            "input_tokens": t.prompt or 0,
            "input_tokens_details": {"cached_tokens": t.cached or 0},
            "output_tokens": t.completion or 0,
            "output_tokens_details": {"reasoning_tokens": t.thinking or 0},
            "total_tokens": (t.prompt or 0) + (t.completion or 0),
        }
        made["trilens"] = receipt_fields([receipt])
    return made


def _messages(items: list[dict[str, Any]]) -> list[Message]:
    """Items of the input -> messages; thoughts and calls belong to the assistant's message that they stand beside."""
    out: list[Message] = []
    thoughts: list[Thought] = []

    def said(*parts: Part) -> None:
        """By the assistant, in the message that is not over yet."""
        before = out.pop().parts if out and out[-1].role == "assistant" else ()
        out.append(Message("assistant", (*before, *thoughts, *parts)))
        thoughts.clear()

    for number, item in enumerate(items):
        at = f"input.{number}"
        match item.get("type") or "message":
            case "message":
                role = item.get("role")
                if not isinstance(role, str):
                    raise FieldRefused(f"{at}.role", f"is {shown(role)}; expected user, assistant or system")
                parts = tuple(map(Words, read_texts(item.get("content"), f"{at}.content")))
                if role == "assistant" and (thoughts or (out and out[-1].role == role and not out[-1].texts)):
                    said(*parts)
                else:
                    out.append(Message(role, parts))
            case "reasoning":
                thoughts.append(Thought(_thought(item, at), a_text(item, "encrypted_content", at) or ""))
            case "function_call":
                said(_call(item, a_text(item, "arguments", at) or "{}", at))
            case "custom_tool_call":  # its input is free text
                said(_call(item, written({"input": a_text(item, "input", at) or ""}), at))
            case "function_call_output" | "custom_tool_call_output":
                parts = tuple(map(Words, read_texts(item.get("output"), f"{at}.output")))
                out.append(Message("tool", parts, call_id=a_text(item, "call_id", at)))
            case kind:
                raise FieldRefused(at, f"is an item of type {shown(kind)}; it is not understood here")
    return out


def _call(item: dict[str, Any], arguments: str, at: str) -> ToolCall:
    if not (name := a_text(item, "name", at)):
        raise FieldRefused(f"{at}.name", "is missing; expected the function's name")
    return ToolCall(a_text(item, "call_id", at) or "", name, arguments)


def _thought(item: dict[str, Any], at: str) -> str:
    """What a reasoning item says: its content, or its summary where it has no more."""
    for key in ("content", "summary"):
        parts = item.get(key) or []
        if not isinstance(parts, list) or not all(isinstance(part, dict) for part in parts):
            raise FieldRefused(f"{at}.{key}", f"is {shown(parts)}; expected a list of parts")
        if texts := [a_text(part, "text", f"{at}.{key}.{i}") or "" for i, part in enumerate(parts)]:
            return "\n".join(texts)
    return ""
