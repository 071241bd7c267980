"""OpenAI's text completions: a prompt as it is, without a chat template."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any, ClassVar

from pydantic import Field

from trilens.serve.chat import DONE, FINISH, Extras, StreamOptions, as_data, usage
from trilens.serve.chat_run import ChatRun, begin
from trilens.serve.engine_model import AnyCall
from trilens.serve.loop import EngineLoop
from trilens.serve.tools import ToolUse
from trilens.serve.wire import (
    MOST_CHOICES,
    MOST_TOKENS,
    AnyReceipt,
    FieldRefused,
    Samples,
    new_id,
    now,
    receipt_fields,
    stops_of,
)
from trilens.text.events import EndEvent, TextEvent

USUAL = 16  # tokens, as the protocol has it


class CompletionRequest(Samples):
    model: str
    prompt: str
    stream: bool = False
    stream_options: StreamOptions | None = None
    max_tokens: int | None = Field(default=USUAL, ge=1, le=MOST_TOKENS)
    n: int = Field(default=1, ge=1, le=MOST_CHOICES)
    stop: str | list[str] | None = None
    echo: bool = False
    trilens: Extras = Field(default_factory=Extras)
    ignored: ClassVar = frozenset(("user", "best_of", "suffix"))


async def begin_completion(loop: EngineLoop, request: CompletionRequest) -> ChatRun:
    if request.trilens.routes:
        raise FieldRefused("trilens.routes", "comes with chat completions alone; leave it out")
    model, use = loop.model, ToolUse()

    def prepare(number: int) -> AnyCall:
        return model.prepare(
            request.prompt,
            index=number,
            raw=True,
            max_tokens=request.max_tokens,
            stop=stops_of(request.stop),
            **request.sampling(number),
        )

    return await begin(loop, new_id("cmpl-"), use, request.prompt, prepare, request.n)


async def whole_completion(chat_run: ChatRun, request: CompletionRequest) -> dict[str, Any]:
    answers = await chat_run.whole()
    receipts = [answer.end.receipt for answer in answers]
    before = request.prompt if request.echo else ""
    choices = [_choice(i, before + a.text, FINISH[a.end.reason]) for i, a in enumerate(answers)]
    return {**_head(chat_run), "choices": choices, "usage": usage(receipts), "trilens": receipt_fields(receipts)}


async def completion_chunks(chat_run: ChatRun, request: CompletionRequest) -> AsyncIterator[bytes]:
    """The stream's chunks, those that come together as one."""
    head, receipts = _head(chat_run), dict[int, AnyReceipt]()
    count = len(chat_run.running.calls)
    apart = request.stream_options is not None and request.stream_options.include_usage
    if request.echo:
        echoed = [{**head, "choices": [_choice(i, request.prompt, None)]} for i in range(count)]
        yield b"".join(map(as_data, echoed))
    async for batch in chat_run.events():
        out: list[bytes] = []
        for piece in batch:
            match piece:
                case TextEvent(text, index):
                    out.append(as_data({**head, "choices": [_choice(index, text, None)]}))
                case EndEvent(receipt, index, reason=why):
                    receipts[index] = receipt
                    end = _end(receipts) if len(receipts) == count and not apart else {}
                    out.append(as_data({**head, "choices": [_choice(index, "", FINISH[why])], **end}))
        if len(receipts) == count:
            if apart:
                out.append(as_data({**head, "choices": [], **_end(receipts)}))
            out.append(DONE)
        yield b"".join(out)


def _head(chat_run: ChatRun) -> dict[str, Any]:
    return {"id": chat_run.id, "object": "text_completion", "created": now(), "model": chat_run.model.name}


def _end(receipts: dict[int, AnyReceipt]) -> dict[str, Any]:
    inorder = [receipts[i] for i in sorted(receipts)]
    return {"usage": usage(inorder), "trilens": receipt_fields(inorder)}


def _choice(index: int, text: str, finish: str | None) -> dict[str, Any]:
    return {"index": index, "text": text, "logprobs": None, "finish_reason": finish}
