"""OpenAI's responses, whole and streamed. What came before is sent again by the caller, or referred to item by item."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from typing import Annotated, Any, ClassVar, Literal

from pydantic import AfterValidator, Discriminator, Field, Tag

from trilens.errors import FieldRefused
from trilens.serve.chat_run import ChatRun, begin, logprobs_of
from trilens.serve.engine_model import AnyCall
from trilens.serve.fields import (
    CACHE,
    HINT,
    HOSTED,
    IDENTIFIER,
    STORED,
    Fields,
    Refused,
    checked,
    gathered,
    shown,
)
from trilens.serve.loop import Serving
from trilens.serve.response_items import Item, KeptItems, is_reference, items_of
from trilens.serve.structure import Structured, Wanted, one_of, wanted_of
from trilens.serve.switch import other_variables, thinking_of
from trilens.serve.tools import HostedTool, Tool, ToolUse, kind_of_tool, tool_use
from trilens.serve.wire import (
    MOST_TOKENS,
    TEXT_PART,
    AnyReceipt,
    Asks,
    Known,
    Samples,
    conversation,
    left_aside,
    new_id,
    now,
    prepared,
    receipt_fields,
)
from trilens.text.conversation import Message, MessagePart, Thought, a_text, read_texts, written
from trilens.text.conversation import Text as Words
from trilens.text.events import EndEvent, TextEvent, ToolCall, Whole

INCOMPLETE = ("length", "context")
ITEM: Known = {
    **dict.fromkeys(("type", "role", "encrypted_content", "call_id", "name", "arguments", "input")),
    **dict.fromkeys(("content", "summary", "output"), TEXT_PART),
}


class ResponseTool(Fields):
    type: Literal["function"]
    name: str = Field(min_length=1, max_length=256)
    description: str = ""
    parameters: dict[str, Any] | None = None
    strict: bool | None = None
    aside: ClassVar[Mapping[str, str]] = {"defer_loading": HINT, "cache_control": CACHE}

    def left_aside(self, at: str = "") -> list[str]:
        return [*super().left_aside(at), *([f"{at}strict"] if self.strict else [])]


AnyTool = Annotated[
    Annotated[ResponseTool, Tag("described")] | Annotated[HostedTool, Tag("hosted")], Discriminator(kind_of_tool)
]


class NamedTool(Fields):
    type: Literal["function"]
    name: str


class AllowedTools(Fields):
    type: Literal["allowed_tools"]
    mode: Literal["auto", "required"]
    tools: list[NamedTool]


class Format(Fields):
    type: Literal["text", "json_object", "json_schema"]
    schema_: dict[str, Any] | None = Field(default=None, alias="schema")
    aside: ClassVar[Mapping[str, str]] = dict.fromkeys(("name", "strict", "description"), HINT)

    def wanted(self) -> Wanted | None:
        if self.type == "json_schema" and self.schema_ is None:
            raise FieldRefused("text.format.schema", "is missing")
        place = "text.format" if self.schema_ is None else "text.format.schema"
        return None if self.type == "text" else Wanted(place, "schema", self.schema_)


class Text(Fields):
    format: Format | None = None
    aside: ClassVar[Mapping[str, str]] = {"verbosity": HINT}


def _readable(given: str | list[dict[str, Any]]) -> None:
    """Raises FieldRefused for an input that cannot be read; items that it refers to are looked up later."""
    if isinstance(given, str) or not all(map(is_reference, given)):
        conversation(_asked(given if isinstance(given, str) else [i for i in given if not is_reference(i)]))


class ResponseRequest(Asks, Samples):
    model: str
    input: Annotated[str | list[dict[str, Any]], AfterValidator(checked(_readable))]
    instructions: str | None = None
    stream: bool = False
    max_output_tokens: int | None = Field(default=None, ge=1, le=MOST_TOKENS)
    text: Text | None = None
    tools: list[AnyTool] | None = None
    tool_choice: Literal["auto", "none", "required"] | NamedTool | AllowedTools | None = None
    parallel_tool_calls: bool = True
    top_logprobs: int | None = Field(default=None, ge=0, le=20)
    include: list[str] | None = None
    store: bool = True  # whether its output may be referred to later
    structured_outputs: Structured | None = None
    aside: ClassVar[Mapping[str, str]] = {
        **dict.fromkeys(("user", "metadata", "client_metadata", "safety_identifier"), IDENTIFIER),
        **dict.fromkeys(("service_tier", "stream_options"), HINT),
        "context_management": STORED,
        **dict.fromkeys(("prompt_cache_key", "prompt_cache_retention", "prompt_cache_options"), CACHE),
        **dict.fromkeys(("max_tool_calls", "moderation"), HOSTED),
    }
    refused: ClassVar[Mapping[str, Refused]] = {
        "previous_response_id": Refused("conversations are not stored; send it again as input", ()),
        "conversation": Refused("conversations are not stored; send it again as input", ()),
        "prompt": Refused("prompts are not stored; send its text as input", ()),
        "background": Refused("answers are not stored; use stream"),
        "truncation": Refused("nothing is cut silently", ("disabled",)),
    }

    def use(self) -> ToolUse:
        tools = [Tool(t.name, t.description, t.parameters or {}) for t in self.functions()]
        match self.tool_choice:
            case NamedTool(name=name):
                return tool_use(tools, "named", name, parallel=self.parallel_tool_calls)
            case AllowedTools(mode=mode, tools=allowed):
                return tool_use(tools, mode, allowed=[t.name for t in allowed], parallel=self.parallel_tool_calls)
            case choice:
                return tool_use(tools, choice, parallel=self.parallel_tool_calls)

    def functions(self) -> list[ResponseTool]:
        return [tool for tool in self.tools or () if isinstance(tool, ResponseTool)]

    def wanted(self) -> Wanted | None:
        form = None if self.text is None or self.text.format is None else self.text.format.wanted()
        return one_of(form, *wanted_of(self.structured_outputs))

    def alternatives(self) -> int | None:
        asked = "message.output_text.logprobs" in (self.include or ())
        return self.top_logprobs or 0 if asked or self.top_logprobs else None

    def left_aside(self, at: str = "") -> list[str]:
        included = [one for one in self.include or () if one != "message.output_text.logprobs"]
        items = self.input if isinstance(self.input, list) else []
        sent = left_aside([item for item in items if not is_reference(item)], ITEM, f"{at}input")
        return [*super().left_aside(at), *(f"{at}include ({one:.80})" for one in included), *sent]

    def conversation(self, kept: KeptItems) -> list[Message]:
        before = [] if self.instructions is None else [Message("system", (Words(self.instructions),))]
        return conversation([*before, *_asked(kept.resolved(self.input))])


async def begin_response(loop: Serving, request: ResponseRequest, kept: KeptItems) -> ChatRun:
    model, stated = loop.model, request.model_dump(include=set(Asks.model_fields))
    messages, use, wanted, variables, thinking, _ = gathered(
        lambda: request.conversation(kept),
        request.use,
        request.wanted,
        lambda: other_variables(stated),
        lambda: thinking_of(stated, model.text.inference),
        request.sampling,
    )
    ignored = request.left_aside()

    def prepare(number: int) -> AnyCall:
        call: AnyCall = prepared(
            model,
            messages,
            thinking=thinking,
            max_completion=request.max_output_tokens,
            tools=use.for_template(model),
            template_variables=variables,
            constraint=use.constraint(model, wanted, ignored),
            logprobs=request.alternatives(),
            **loop.options,
            **request.sampling(),
        )
        return call

    return await begin(loop, new_id("resp_"), use, request.input, prepare, 1, ignored)


async def whole_response(chat_run: ChatRun, request: ResponseRequest, kept: KeptItems) -> dict[str, Any]:
    [answer] = await chat_run.whole()
    items = items_of(answer, _logprobs(chat_run, request, 0)[0])
    if request.store:
        kept.keep(items)
    return _response(chat_run, request, items, answer.end.reason, answer.end.receipt)


async def response_events(
    chat_run: ChatRun, request: ResponseRequest, kept: KeptItems
) -> AsyncIterator[dict[str, Any]]:
    """Events in the protocol's order; the receipt comes with the last one's response."""
    number = 0

    def event(kind: str, **fields: Any) -> dict[str, Any]:
        nonlocal number
        number += 1
        return {"type": f"response.{kind}", "sequence_number": number - 1, **fields}

    answer: Whole[AnyReceipt] = Whole()
    open_: Item | None = None
    at, logged, written = -1, 0, list[dict[str, Any]]()
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
                    written.append(open_.item("completed"))
                open_, at = Item(piece), at + 1
                for kind, fields in open_.begun(at):
                    yield event(kind, **fields)
            said = list[dict[str, Any]]()
            if isinstance(piece, TextEvent):
                said, logged = _logprobs(chat_run, request, logged)
            kind, fields = open_.add(piece, at, said)
            yield event(kind, **fields)
    if open_ is not None:
        for kind, fields in open_.done(at):
            yield event(kind, **fields)
        written.append(open_.item("completed"))
    end = answer.end
    kind = "incomplete" if end.reason in INCOMPLETE else "completed"
    items = written or items_of(answer, [])
    if request.store:
        kept.keep(items)
    yield event(kind, response=_response(chat_run, request, items, end.reason, end.receipt))


def _logprobs(chat_run: ChatRun, request: ResponseRequest, start: int) -> tuple[list[dict[str, Any]], int]:
    """Of the answer's tokens from place `start` on, and the place behind them; none where nobody asked."""
    return ([], start) if request.alternatives() is None else logprobs_of(chat_run.running.calls[0], start)


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
        "model": chat_run.name,
        "output": items,
        "parallel_tool_calls": request.parallel_tool_calls,
        "previous_response_id": None,
        "reasoning": {"effort": request.reasoning_effort or (request.reasoning or {}).get("effort"), "summary": None},
        "store": request.store,
        "temperature": request.temperature,
        "text": {"format": _format(request)},
        "tool_choice": choice.model_dump() if isinstance(choice, Fields) else choice or "auto",
        "tools": [tool.model_dump() for tool in request.functions()],
        "top_logprobs": request.top_logprobs or 0,
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
        made["trilens"] = receipt_fields([receipt], chat_run.ignored)
    return made


def _format(request: ResponseRequest) -> dict[str, Any]:
    form = None if request.text is None else request.text.format
    if form is None or form.type != "json_schema":
        return {"type": "text" if form is None else form.type}
    return {"type": "json_schema", "name": "answer", "schema": form.schema_, "strict": True}


def _asked(given: str | list[dict[str, Any]]) -> list[Message]:
    """An input as messages. Raises FieldRefused."""
    if isinstance(given, str):
        return [Message("user", (Words(given),))]
    if not given:
        raise FieldRefused("input", "is empty; expected at least one item")
    return _messages(given)


def _messages(items: list[dict[str, Any]]) -> list[Message]:
    """Items of the input -> messages; thoughts and calls belong to the assistant's message that they stand beside."""
    out: list[Message] = []
    thoughts: list[Thought] = []

    def said(*parts: MessagePart) -> None:
        """Text of the assistant, in the message that is not complete yet."""
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
                raise FieldRefused(at, f"is an item of type {shown(kind)}; it is not supported")
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
