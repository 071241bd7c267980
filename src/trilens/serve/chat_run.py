"""One request through a model, as every protocol sees it: events of thinking, text and tool calls, then ends."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import accumulate
from typing import Any, TypeVar

from trilens.serve.engine_model import AnyCall, AnyModel, EngineCall
from trilens.serve.loop import Running, Serving, TimeIsUp
from trilens.serve.scores import token_text
from trilens.serve.tools import ToolUse
from trilens.serve.wire import AnyReceipt
from trilens.text.events import EndEvent, Event, ToolCallEvent, Whole
from trilens.text.tokenizer import LONG

T = TypeVar("T")


@dataclass(frozen=True)
class ChatRun:
    """A running request."""

    id: str
    name: str  # under which the model is served
    model: AnyModel
    running: Running
    use: ToolUse
    ignored: list[str]  # what of the request was left aside

    async def events(self) -> AsyncIterator[list[Event[AnyReceipt]]]:
        """The events, batch by batch. Raises the error that ended the request. Leaving early cancels it."""
        finders = [self.use.finder(i, self.model) for i in range(len(self.running.calls))]
        second: set[int] = set()  # answers that have begun a second call, and may not
        async for events in self.running.batches():
            batch = [found for event in events for found in finders[event.index].push(event)]
            if not self.use.parallel:
                batch = [event for event in batch if self._alone(event, second)]
            if batch:
                yield batch

    def _alone(self, event: Event[AnyReceipt], second: set[int]) -> bool:
        """Whether an event belongs to an answer of at most one call."""
        if isinstance(event, ToolCallEvent) and event.number > 0:
            second.add(event.index)
        return event.index not in second or isinstance(event, EndEvent)

    async def whole(self) -> list[Whole[AnyReceipt]]:
        """All of it: a fold over the same events."""
        answers: list[Whole[AnyReceipt]] = [Whole() for _ in self.running.calls]
        async for batch in self.events():
            for event in batch:
                answers[event.index].take(event)
        return answers


async def begin(
    loop: Serving,
    id: str,
    use: ToolUse,
    asked: Any,
    prepare: Callable[[int], AnyCall],
    choices: int,
    ignored: list[str],
) -> ChatRun:
    """Prepare the calls and queue them. `asked` is the request's prompt or messages. `prepare` may add to what is
    ignored. Raises TimeIsUp, and what `prepare` and `EngineLoop.enter` raise.
    """
    try:
        async with asyncio.timeout(loop.seconds) as limit:
            calls = await in_thread(asked, lambda: [prepare(i) for i in range(choices)])
    except TimeoutError:
        if not limit.expired():
            raise
        raise TimeIsUp(f"the prompt was not prepared within {loop.seconds:g} s, which is the maximum") from None
    return ChatRun(id, loop.name, loop.model, loop.enter(calls), use, list(dict.fromkeys(ignored)))


async def in_thread(asked: Any, work: Callable[[], T]) -> T:
    """Prepare a prompt in a thread, because templates and tokenizers take time. Long prompts share one thread, so
    that they use the memory of one only and do not delay short ones. A request that is cancelled while it waits is
    not prepared.
    """
    threads = _LONG if characters(asked) >= LONG else _SHORT
    return await asyncio.get_running_loop().run_in_executor(threads, work)


def characters(value: Any) -> int:
    """Of all texts in JSON data."""
    if isinstance(value, str):
        return len(value)
    parts = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return sum(map(characters, parts))


_SHORT = ThreadPoolExecutor(8, "prepare")
_LONG = ThreadPoolExecutor(1, "prepare-long")


def logprobs_of(call: AnyCall, start: int) -> tuple[list[dict[str, Any]], int]:
    """(what OpenAI calls `logprobs.content`, of the answer's tokens from place `start` on; the place behind them)."""
    if isinstance(call, EngineCall):
        return [], start
    request, begun = call.request, call.writer.before_answer
    if request is None or begun is None:
        return [], start
    tokenizer = call.tokenizer
    found = []
    end = len(request.tokens)
    for place in range(max(start, begun), end):
        last = request.logprobs.get(place)
        if not last or request.tokens[place] in tokenizer.special_ids:
            continue
        (own, logprob), *others = last
        entry = _token(tokenizer.piece(own), logprob)
        entry["top_logprobs"] = [_token(tokenizer.piece(other), p) for other, p in others]
        found.append(entry)
    return found, end


def _token(piece: bytes, logprob: float) -> dict[str, Any]:
    # JSON has no infinity; OpenAI writes this number for what cannot be
    return {"token": piece.decode("utf-8", "replace"), "logprob": max(logprob, -9999.0), "bytes": list(piece)}


def routes_of(call: AnyCall, start: int, chosen: Sequence[int]) -> tuple[list[dict[str, Any]], int]:
    """(each token from place `start` of prompt and answer on, with the experts that fired for it, layer by layer; the
    place behind them). `chosen`: how many each layer with a router chooses."""
    if not chosen or isinstance(call, EngineCall) or call.request is None:
        return [], start
    ids, answered = call.ids, call.request.tokens
    ends = list(accumulate(chosen))
    rows = call.fired[start : len(ids) + len(answered)]  # a running step notes experts before its tokens
    made = [
        {
            "token": at,
            "text": token_text(call.tokenizer, ids[at] if at < len(ids) else answered[at - len(ids)]),
            "experts": [row[end - n : end] for end, n in zip(ends, chosen, strict=True)],
        }
        for at, row in enumerate(rows, start)
    ]
    return made, start + len(made)


def sum_of(receipts: Sequence[AnyReceipt], part: str) -> int:
    return sum(getattr(receipt.tokens, part) or 0 for receipt in receipts)
