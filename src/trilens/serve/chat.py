"""OpenAI's chat completions, whole and streamed."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping, Sequence
from typing import Annotated, Any, ClassVar, Literal

from pydantic import AfterValidator, Discriminator, Field, Tag

from trilens.errors import FieldRefused
from trilens.serve.chat_run import ChatRun, begin, logprobs_of, routes_of, sum_of
from trilens.serve.engine_model import AnyCall
from trilens.serve.fields import (
    CACHE,
    HINT,
    HOSTED,
    IDENTIFIER,
    REPORT,
    STORED,
    Fields,
    Refused,
    checked,
    gathered,
)
from trilens.serve.loop import Serving
from trilens.serve.structure import ResponseFormat, Structures, Wanted, one_of
from trilens.serve.switch import other_variables, thinking_of
from trilens.serve.tools import HostedTool, Tool, ToolUse, kind_of_tool, tool_use
from trilens.serve.wire import (
    MOST_CHOICES,
    MOST_TOKENS,
    TEXT_PART,
    AnyReceipt,
    Asks,
    Known,
    Samples,
    as_json,
    conversation,
    left_aside,
    new_id,
    now,
    prepared,
    receipt_fields,
    stops_of,
)
from trilens.text.conversation import THOUGHT_KEYS, Message, read_conversation
from trilens.text.events import EndEvent, Event, TextEvent, ThinkingEvent, ToolCallEvent, Whole

FINISH = {
    "stop": "stop",
    "stop_string": "stop",
    "length": "length",
    "context": "length",
    "tool_calls": "tool_calls",
    "cancelled": "stop",
}
DONE = b"data: [DONE]\n\n"
PREFIX = ("prefix", "partial")  # Mistral's and DeepSeek's names for a message that is to be continued
FUNCTION: Known = dict.fromkeys(("name", "arguments"))
MESSAGE: Known = {
    **dict.fromkeys(("role", "name", "tool_call_id", *THOUGHT_KEYS, *PREFIX)),
    "content": TEXT_PART,
    "tool_calls": {**dict.fromkeys(("id", "type")), "function": FUNCTION, **FUNCTION},
    "function_call": FUNCTION,
}


class StreamOptions(Fields):
    include_usage: bool = False
    aside: ClassVar[Mapping[str, str]] = dict.fromkeys(("include_obfuscation", "continuous_usage_stats"), REPORT)


class Function(Fields):
    name: str = Field(min_length=1, max_length=256)
    description: str = ""
    parameters: dict[str, Any] = Field(default_factory=dict)
    aside: ClassVar[Mapping[str, str]] = {"strict": HINT}


class FunctionTool(Fields):
    type: Literal["function"]
    function: Function
    aside: ClassVar[Mapping[str, str]] = {"cache_control": CACHE}


AnyTool = Annotated[
    Annotated[FunctionTool, Tag("described")] | Annotated[HostedTool, Tag("hosted")], Discriminator(kind_of_tool)
]


class NamedFunction(Fields):
    name: str


class NamedTool(Fields):
    type: Literal["function"]
    function: NamedFunction


class Allowed(Fields):
    mode: Literal["auto", "required"]
    tools: list[NamedTool]


class AllowedTools(Fields):
    type: Literal["allowed_tools"]
    allowed_tools: Allowed


class Extras(Fields):
    """Fields of trilens only. `routes`: add the experts that fired to each chunk. `fresh`: compute all of the prompt,
    whatever the cache has of it, so that the receipts of two calls can be compared."""

    routes: bool = False
    fresh: bool = False


def _read(messages: list[dict[str, Any]]) -> list[Message]:
    return conversation(read_conversation(messages))


readable = checked(_read)


class ChatRequest(Asks, Samples, Structures):
    model: str
    messages: Annotated[list[dict[str, Any]], AfterValidator(readable)]
    stream: bool = False
    stream_options: StreamOptions | None = None
    max_tokens: int | None = Field(default=None, ge=1, le=MOST_TOKENS)
    max_completion_tokens: int | None = Field(default=None, ge=1, le=MOST_TOKENS)
    n: int = Field(default=1, ge=1, le=MOST_CHOICES)
    stop: str | list[str] | None = None
    logprobs: bool | None = None
    top_logprobs: int | None = Field(default=None, ge=0, le=20)
    response_format: ResponseFormat | None = None
    tools: list[AnyTool] | None = None
    tool_choice: Literal["auto", "none", "required"] | NamedTool | AllowedTools | None = None
    parallel_tool_calls: bool = True
    modalities: list[Literal["text"]] | None = None
    continue_final_message: bool = False
    add_generation_prompt: bool | None = None
    trilens: Extras = Field(default_factory=Extras)
    also: ClassVar[Mapping[str, str]] = {"n_predict": "max_tokens"}
    aside: ClassVar[Mapping[str, str]] = {
        **dict.fromkeys(("user", "metadata", "safety_identifier"), IDENTIFIER),
        **dict.fromkeys(("service_tier", "verbosity", "prediction"), HINT),
        "store": STORED,
        **dict.fromkeys(("prompt_cache_key", "prompt_cache_retention", "prompt_cache_options"), CACHE),
        **dict.fromkeys(("web_search_options", "moderation"), HOSTED),
    }
    refused: ClassVar[Mapping[str, Refused]] = {
        "audio": Refused("answers are text", ()),
        "functions": Refused("use tools", ([],)),
        "function_call": Refused("use tool_choice", ("auto", "none")),
        "best_of": Refused("use n and choose", (1,)),
        "echo": Refused("use /v1/completions"),
        "documents": Refused("put them into a message", ([],)),
        "chat_template": Refused("the model's own template is used", ()),
    }

    def use(self) -> ToolUse:
        tools = [Tool(t.function.name, t.function.description, t.function.parameters) for t in self.functions()]
        match self.tool_choice:
            case NamedTool(function=named):
                return tool_use(tools, "named", named.name, parallel=self.parallel_tool_calls)
            case AllowedTools(allowed_tools=allowed):
                names = [tool.function.name for tool in allowed.tools]
                return tool_use(tools, allowed.mode, allowed=names, parallel=self.parallel_tool_calls)
            case choice:
                return tool_use(tools, choice, parallel=self.parallel_tool_calls)

    def left_aside(self, at: str = "") -> list[str]:
        return [*super().left_aside(at), *left_aside(self.messages, MESSAGE, f"{at}messages")]

    def functions(self) -> list[FunctionTool]:
        return [tool for tool in self.tools or () if isinstance(tool, FunctionTool)]

    def wanted(self) -> Wanted | None:
        form = self.response_format
        return one_of(None if form is None else form.wanted("response_format"), *self.stated())

    def continues(self, messages: Sequence[Message]) -> bool:
        """Whether the answer continues the last message. Some clients say so in the message itself."""
        asked = self.continue_final_message or any(messages[-1].other.get(key) is True for key in PREFIX)
        if self.add_generation_prompt is not None and self.add_generation_prompt == asked:
            said = "is true beside continue_final_message" if asked else "is false without continue_final_message"
            raise FieldRefused("add_generation_prompt", f"{said}; leave it out")
        return asked

    def most(self) -> int | None:
        """Tokens of the completion, its thinking included, as the protocol counts them."""
        if None not in (self.max_tokens, self.max_completion_tokens) and self.max_tokens != self.max_completion_tokens:
            raise FieldRefused("max_tokens", "and max_completion_tokens differ; give one of them")
        return self.max_completion_tokens or self.max_tokens

    def alternatives(self) -> int | None:
        if self.top_logprobs is not None and not self.logprobs:
            raise FieldRefused("top_logprobs", "needs logprobs: true")
        return (self.top_logprobs or 0) if self.logprobs else None


async def begin_chat(loop: Serving, request: ChatRequest) -> ChatRun:
    model, stated = loop.model, request.model_dump(include=set(Asks.model_fields))
    read = read_conversation(request.messages)
    use, wanted, most, stops, alternatives, variables, thinking, continues, _ = gathered(
        request.use,
        request.wanted,
        request.most,
        lambda: stops_of(request.stop),
        request.alternatives,
        lambda: other_variables(stated),
        lambda: thinking_of(stated, model.text.inference),
        lambda: request.continues(read),
        request.sampling,
    )
    messages = conversation(read)
    ignored = request.left_aside()

    def prepare(number: int) -> AnyCall:
        call: AnyCall = prepared(
            model,
            messages,
            index=number,
            continue_final_message=continues,
            thinking=thinking,
            max_completion=most,
            stop=stops,
            tools=use.for_template(model),
            template_variables=variables,
            constraint=use.constraint(model, wanted, ignored),
            logprobs=alternatives,
            **loop.options,
            **request.sampling(number),
        )
        call.watched = request.trilens.routes
        call.fresh = request.trilens.fresh
        return call

    return await begin(loop, new_id("chatcmpl-"), use, request.messages, prepare, request.n, ignored)


async def whole_chat(chat_run: ChatRun, request: ChatRequest) -> dict[str, Any]:
    answers = await chat_run.whole()
    receipts = [answer.end.receipt for answer in answers]
    return {
        "id": chat_run.id,
        "object": "chat.completion",
        "created": now(),
        "model": chat_run.name,
        "choices": [_choice(chat_run, request, i, answer) for i, answer in enumerate(answers)],
        "usage": usage(receipts),
        "trilens": receipt_fields(receipts, chat_run.ignored),
    }


async def chat_chunks(chat_run: ChatRun, request: ChatRequest) -> AsyncIterator[bytes]:
    """The stream's chunks, those that come together as one; the last one has usage and receipt, behind the choices
    where `include_usage` asks so."""
    head = {"id": chat_run.id, "object": "chat.completion.chunk", "created": now(), "model": chat_run.name}
    calls = chat_run.running.calls
    logged, shown = [0] * len(calls), [0] * len(calls)
    chosen = [layer.router.chosen for _, layer in chat_run.model.spec.routed_layers()]
    receipts: dict[int, AnyReceipt] = {}
    apart = request.stream_options is not None and request.stream_options.include_usage
    bare = not request.logprobs and not request.trilens.routes
    frames: dict[tuple[type, int], list[bytes]] = {}
    begun = [{**head, "choices": [_delta(i, {"role": "assistant", "content": ""})]} for i in range(len(calls))]
    yield b"".join(map(as_data, begun))
    async for batch in chat_run.events():
        out: list[bytes] = []
        for piece in batch:
            if bare and isinstance(piece, ThinkingEvent | TextEvent):
                kind = type(piece), piece.index
                if kind not in frames:
                    frames[kind] = _frame(head, piece)
                out.append(as_json(piece.text).join(frames[kind]))
                continue
            choice = _delta(piece.index, _fields(piece))
            chunk: dict[str, Any] = {**head, "choices": [choice]}
            if request.logprobs and isinstance(piece, TextEvent | EndEvent):
                content, logged[piece.index] = logprobs_of(calls[piece.index], logged[piece.index])
                if content:
                    choice["logprobs"] = {"content": content, "refusal": None}
            if request.trilens.routes:
                routes, shown[piece.index] = routes_of(calls[piece.index], shown[piece.index], chosen)
                if routes:
                    chunk["trilens"] = {"routes": routes}
            if isinstance(piece, EndEvent):
                choice["finish_reason"] = FINISH[piece.reason]
                receipts[piece.index] = piece.receipt
                if len(receipts) == len(calls) and not apart:
                    chunk |= _end(chat_run, receipts, chunk)
            out.append(as_data(chunk))
        if len(receipts) == len(calls):
            if apart:
                chunk = {**head, "choices": []}
                out.append(as_data(chunk | _end(chat_run, receipts, chunk)))
            out.append(DONE)
        yield b"".join(out)


def usage(receipts: list[AnyReceipt]) -> dict[str, Any]:
    prompt, completion = receipts[0].tokens.prompt or 0, sum_of(receipts, "completion")
    return {
        "prompt_tokens": prompt,
        "completion_tokens": completion,
        "total_tokens": prompt + completion,
        "prompt_tokens_details": {"cached_tokens": receipts[0].tokens.cached or 0},
        "completion_tokens_details": {"reasoning_tokens": sum_of(receipts, "thinking")},
    }


def tool_calls(answer: Whole[AnyReceipt]) -> list[dict[str, Any]]:
    return [
        {"id": call.id, "type": "function", "function": {"name": call.name, "arguments": call.arguments}}
        for call in answer.calls
    ]


def _end(chat_run: ChatRun, receipts: dict[int, AnyReceipt], chunk: dict[str, Any]) -> dict[str, Any]:
    inorder = [receipts[i] for i in sorted(receipts)]
    fields = receipt_fields(inorder, chat_run.ignored)
    return {"usage": usage(inorder), "trilens": {**chunk.get("trilens", {}), **fields}}


def _choice(chat_run: ChatRun, request: ChatRequest, index: int, answer: Whole[AnyReceipt]) -> dict[str, Any]:
    message: dict[str, Any] = {"role": "assistant", "content": answer.text if not answer.calls else answer.text or None}
    if answer.thinking:
        message |= {"reasoning_content": answer.thinking, "reasoning": answer.thinking}
    if answer.calls:
        message["tool_calls"] = tool_calls(answer)
    content = logprobs_of(chat_run.running.calls[index], 0)[0] if request.logprobs else None
    return {
        "index": index,
        "message": message,
        "logprobs": None if content is None else {"content": content, "refusal": None},
        "finish_reason": FINISH[answer.end.reason],
    }


def _delta(index: int, fields: dict[str, Any]) -> dict[str, Any]:
    return {"index": index, "delta": fields, "logprobs": None, "finish_reason": None}


def _fields(piece: Event[AnyReceipt]) -> dict[str, Any]:
    match piece:
        case ThinkingEvent(text):
            return {"reasoning_content": text, "reasoning": text}
        case TextEvent(text):
            return {"content": text}
        case ToolCallEvent(arguments, _, number, id, name) if id is not None:
            function = {"name": name, "arguments": arguments}
            return {"tool_calls": [{"index": number, "id": id, "type": "function", "function": function}]}
        case ToolCallEvent(arguments, _, number):
            return {"tool_calls": [{"index": number, "function": {"arguments": arguments}}]}
        case _:
            return {}


def _frame(head: dict[str, Any], piece: ThinkingEvent | TextEvent) -> list[bytes]:
    """What stands around the texts in all chunks of this kind and choice: only the text differs between them."""
    chunk = {**head, "choices": [_delta(piece.index, dict.fromkeys(_fields(piece), "\0"))]}
    return as_data(chunk).split(as_json("\0"))


def as_data(chunk: dict[str, Any]) -> bytes:
    """One server-sent event."""
    return b"data: " + as_json(chunk) + b"\n\n"
