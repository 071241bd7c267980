"""One request through a model, as every protocol sees it: parts of thinking, of text and of tool calls, then ends."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import accumulate
from typing import Any, Literal, TypeVar

from trilens.model import EndEvent, TextEvent, ThinkingEvent
from trilens.serve.engine_model import AnyCall, AnyModel, EngineCall
from trilens.serve.loop import EngineLoop, Running, TimeIsUp
from trilens.serve.tools import CallFinder, ToolCall, ToolUse, forced_call
from trilens.serve.wire import AnyReceipt, merged
from trilens.text.tokenizer import LONG

T = TypeVar("T")
Why = Literal["stop", "stop_string", "length", "tool_calls", "cancelled"]


@dataclass(frozen=True)
class Thought:
    text: str
    index: int


@dataclass(frozen=True)
class Said:
    text: str
    index: int


@dataclass(frozen=True)
class Calls:
    """A tool is called: its name and id with the first part, then pieces of its arguments. `number`: which of the
    answer's calls."""

    arguments: str
    index: int
    number: int
    id: str | None = None
    name: str | None = None


@dataclass(frozen=True)
class Ended:
    why: Why
    receipt: AnyReceipt
    index: int
    stop: str | None  # the stop string that ended it


Part = Thought | Said | Calls | Ended


@dataclass(frozen=True)
class Exchange:
    """A request that runs."""

    id: str
    model: AnyModel
    running: Running
    use: ToolUse

    async def parts(self) -> AsyncIterator[list[Part]]:
        """What has come, batch by batch. Raises what stopped it; whoever leaves early cancels it."""
        readers = [_Reader(self.use, call, i) for i, call in enumerate(self.running.calls)]
        async for events in self.running.batches():
            batch: list[Part] = []
            for event in merged(events):
                match event:
                    case ThinkingEvent(text, index):
                        batch.append(Thought(text, index))
                    case TextEvent(text, index):
                        batch += readers[index].text(text)
                    case EndEvent(receipt, index):
                        batch += readers[index].end(receipt)
            if batch:
                yield batch

    async def whole(self) -> list[Whole]:
        """All of it: a fold over the same parts."""
        answers = [Whole() for _ in self.running.calls]
        async for batch in self.parts():
            for part in batch:
                answers[part.index].take(part)
        return answers


class Whole:
    """One choice, put together."""

    def __init__(self) -> None:
        self.thinking = ""
        self.text = ""
        self.calls: list[ToolCall] = []
        self.ended: Ended | None = None

    def take(self, part: Part) -> None:
        match part:
            case Thought(text):
                self.thinking += text
            case Said(text):
                self.text += text
            case Calls(arguments, _, _, id, name) if id is not None and name is not None:
                self.calls.append(ToolCall(id, name, arguments))
            case Calls(arguments):
                last = self.calls[-1]
                self.calls[-1] = ToolCall(last.id, last.name, last.arguments + arguments)
            case Ended():
                self.ended = part

    @property
    def end(self) -> Ended:
        assert self.ended is not None, "an exchange that did not fail ends every choice"
        return self.ended


async def begin(
    loop: EngineLoop, id: str, use: ToolUse, asked: Any, prepare: Callable[[int], AnyCall], choices: int = 1
) -> Exchange:
    """Prepare the calls, and put them in line. `asked` is the request's prompt or messages. Raises TimeIsUp, and what
    `prepare` and `EngineLoop.enter` raise."""
    try:
        async with asyncio.timeout(loop.seconds) as limit:
            calls = await in_thread(asked, lambda: [prepare(i) for i in range(choices)])
    except TimeoutError:
        if not limit.expired():
            raise
        raise TimeIsUp(f"the prompt was not prepared within {loop.seconds:g} s, the most here") from None
    return Exchange(id, loop.model, loop.enter(calls), use)


async def in_thread(asked: Any, work: Callable[[], T]) -> T:
    """Work on a prompt, for templates and tokenizers take their time. Long prompts wait for one thread of their own, so
    that they take neither the memory of several nor a short one's turn. Whoever is cancelled while waiting is not
    worked for."""
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


class _Reader:
    """One choice's text: itself, or tool calls."""

    def __init__(self, use: ToolUse, call: AnyCall, index: int) -> None:
        self._use, self._call, self._index = use, call, index
        self._finder = CallFinder(use)
        self._number = -1
        self._held = ""

    def text(self, text: str) -> list[Part]:
        if self._use.one is not None:
            if self._number < 0:
                return self._calls(forced_call(self._use, text))
            return [Calls(text, self._index, self._number)]
        if self._use.forced:
            self._held += text
            return []
        return [part for found in self._finder.push(text) for part in self._found(found)]

    def end(self, receipt: AnyReceipt) -> list[Part]:
        parts = [part for found in self._finder.finish() for part in self._found(found)]
        if self._held:
            call = forced_call(self._use, self._held)
            parts += self._calls(call) if call is not None else [Said(self._held, self._index)]
        why: Why = "length"
        match receipt.finish:
            case "stop" | "stop_string":
                why = "tool_calls" if self._number >= 0 else receipt.finish
            case "cancelled":
                why = "cancelled"
        return [*parts, Ended(why, receipt, self._index, self._call.stop_hit)]

    def _found(self, found: str | ToolCall) -> list[Part]:
        return self._calls(found) if isinstance(found, ToolCall) else [Said(found, self._index)]

    def _calls(self, call: ToolCall | None) -> list[Part]:
        if call is None:
            return []
        self._number += 1
        return [Calls(call.arguments, self._index, self._number, call.id, call.name)]


def logprobs_of(call: AnyCall, start: int) -> tuple[list[dict[str, Any]], int]:
    """(what OpenAI calls `logprobs.content`, of the answer's tokens from place `start` on; the place behind them)."""
    if isinstance(call, EngineCall):
        return [], start
    generation, begun = call.generation, call.writer.before_answer
    if generation is None or begun is None:
        return [], start
    tokenizer = call.tokenizer
    found = []
    end = len(generation.tokens)
    for place in range(max(start, begun), end):
        last = generation.logprobs.get(place)
        if not last or generation.tokens[place] in tokenizer.special_ids:
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
    """(the experts that fired for each token from place `start` of prompt and answer on, layer by layer; the place
    behind them). `chosen`: how many each layer with a router chooses."""
    if not chosen:
        return [], start
    ends = list(accumulate(chosen))
    rows = call.fired[start:]
    made = [
        {"token": start + i, "experts": [row[end - n : end] for end, n in zip(ends, chosen, strict=True)]}
        for i, row in enumerate(rows)
    ]
    return made, start + len(made)


def sum_of(receipts: Sequence[AnyReceipt], part: str) -> int:
    return sum(getattr(receipt.tokens, part) or 0 for receipt in receipts)
