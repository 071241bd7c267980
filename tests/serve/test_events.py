"""One event type from the scheduler, or a service's stream, to the protocols: each event is made once."""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import nullcontext
from types import SimpleNamespace
from typing import Any

import pytest

from tests.serve.loops import small_model
from trilens.hosted.chat import Chat
from trilens.hosted.model import Elsewhere, HostedModel
from trilens.hosted.table import row_for
from trilens.serve.chat import ChatRequest, chat_chunks
from trilens.serve.chat_run import ChatRun
from trilens.serve.engine_model import AnyCall, AnyModel, EngineModel
from trilens.serve.tools import Tool, tool_use
from trilens.text.events import EndEvent, Event, TextEvent, ThinkingEvent, ToolCallEvent, merged

QUESTION: list[dict[str, Any]] = [{"role": "user", "content": "What is 12+34?"}]
KINDS = (ThinkingEvent, TextEvent, ToolCallEvent, EndEvent)


@pytest.fixture
def made(monkeypatch: pytest.MonkeyPatch) -> Counter[str]:
    """How many events of each kind have been made."""
    counts: Counter[str] = Counter()
    for kind in KINDS:
        monkeypatch.setattr(kind, "__init__", counted(counts, kind.__name__, kind.__init__))
    return counts


def counted(counts: Counter[str], kind: str, usual: Any) -> Any:
    def init(self: Any, *given: Any, **named: Any) -> None:
        counts[kind] += 1
        usual(self, *given, **named)

    return init


class Steps:
    """A request whose reader reads after every `each` events, so that what is merged does not depend on time."""

    def __init__(self, call: AnyCall, events: Iterator[list[Event[Any]]]) -> None:
        self.calls: Sequence[AnyCall] = [call]
        self._events = events

    async def batches(self) -> AsyncIterator[list[Event[Any]]]:
        for events in self._events:
            if events:
                yield events


def deltas(model: AnyModel, steps: Any, offered: Sequence[Tool] = ()) -> tuple[list[dict[str, Any]], str | None]:
    """The chat chunks' deltas behind the first, which states the role, and why it ended."""
    request = ChatRequest(model="m", messages=QUESTION, stream=True)

    async def read() -> bytes:
        chat_run = ChatRun("id", "a model", model, steps, tool_use(offered, None), [])
        return b"".join([chunk async for chunk in chat_chunks(chat_run, request)])

    lines = [line.removeprefix(b"data: ") for line in asyncio.run(read()).split(b"\n\n") if line]
    choices = [json.loads(line)["choices"][0] for line in lines if line != b"[DONE]"]
    return [choice["delta"] for choice in choices[1:-1]], choices[-1]["finish_reason"]


@pytest.mark.parametrize("each", [1, 3])
def test_local_events_are_made_once(made: Counter[str], each: int, monkeypatch: pytest.MonkeyPatch) -> None:
    model = small_model()
    monkeypatch.setattr(model._scheduler, "speculates", False)  # a step draws one token
    call = model.prepare(QUESTION, thinking=True, temperature=0)
    put = Counter[str]()

    def run() -> Iterator[list[Event[Any]]]:
        call.submit()
        assert call.request is not None
        while not call.finished:
            for _ in range(each):
                model.step()
            put.update(type(event).__name__ for event in call.request.unread)
            yield list(call.events())

    got, finish = deltas(model, Steps(call, run()))
    assert call.receipt is not None and finish == "stop"
    assert "".join(delta.get("content", "") for delta in got).strip() and any("reasoning" in d for d in got)
    assert 0 < sum(put.values()) <= call.receipt.tokens.completion
    if each == 1:
        assert len(got) == sum(put.values())
        assert made == {**put, "EndEvent": 1}
    else:
        assert len(got) < sum(put.values())
        joined = sum(made.values()) - sum(put.values()) - 1
        assert 0 < joined <= len(got)  # one for each chunk that has several tokens


def elsewhere(said: Sequence[dict[str, Any]]) -> EngineModel:
    """A model at an engine that streams these deltas."""
    chunks: list[dict[str, Any]] = [{"choices": [{"delta": delta}]} for delta in said]
    chunks.append({"choices": [{"delta": {}, "finish_reason": "stop"}]})
    stream = [SimpleNamespace(model_dump=lambda chunk=chunk, **_: chunk) for chunk in chunks]
    create = SimpleNamespace(create=lambda **_: nullcontext(stream))
    client = SimpleNamespace(chat=SimpleNamespace(completions=create))
    row, here = row_for("vllm", "m"), small_model()
    hosted = HostedModel(Elsewhere("m", "m", row, "127.0.0.1:1"), Chat(client, row))
    return EngineModel("m", hosted, here.text, here.spec, parsed=True)


def hosted(said: Sequence[dict[str, Any]], offered: Sequence[Tool] = ()) -> tuple[list[dict[str, Any]], str | None]:
    model = elsewhere(said)
    call = model.prepare(QUESTION, thinking=True)

    def run() -> Iterator[list[Event[Any]]]:
        for event in call.stream:
            assert call.put(event)
            yield call.events()

    return deltas(model, Steps(call, run()), offered)


def test_hosted_events_are_made_once(made: Counter[str]) -> None:
    got, finish = hosted([{"reasoning": "Hm"}, {"reasoning": " hm."}, {"content": "4"}, {"content": "6"}])
    assert [delta.get("content") or delta["reasoning"] for delta in got] == ["Hm", " hm.", "4", "6"]
    assert finish == "stop" and made == {"ThinkingEvent": 2, "TextEvent": 2, "EndEvent": 1}


def test_hosted_thoughts_inside_the_answer_are_made_once(made: Counter[str]) -> None:
    got, _ = hosted([{"content": text} for text in ("<think>", "Hm", "</think>", "4", "6")])
    assert [delta.get("content") or delta["reasoning"] for delta in got] == ["Hm", "4", "6"]
    assert made == {"ThinkingEvent": 1, "TextEvent": 2, "EndEvent": 1}


def test_a_call_in_the_answer(made: Counter[str]) -> None:
    """Text before a call stays the event that it was. The call's event is made twice, without and with its arguments,
    and the end says that the answer called."""
    call = '<tool_call>{"name": "time", "arguments": {"city": "Oslo"}}</tool_call>'
    got, finish = hosted([{"content": "I look."}, {"content": call}], [Tool("time", "", {})])
    assert got[0] == {"content": "I look."} and finish == "tool_calls"
    assert got[1]["tool_calls"][0]["function"] == {"name": "time", "arguments": '{"city": "Oslo"}'}
    assert made == {"TextEvent": 3, "ToolCallEvent": 2, "EndEvent": 2}


def test_only_neighbours_of_one_kind_and_one_prompt_are_merged() -> None:
    events: list[Event[None]] = [
        *(ThinkingEvent("a"), ThinkingEvent("b"), TextEvent("c"), ThinkingEvent("d")),
        *(TextEvent("e"), TextEvent("f", 1), TextEvent("g", 1), ToolCallEvent("{"), ToolCallEvent("}")),
        *(TextEvent("h"), EndEvent(None), TextEvent("i")),
    ]
    out = merged(events)
    assert out == [
        *(ThinkingEvent("ab"), TextEvent("c"), ThinkingEvent("d")),
        *(TextEvent("e"), TextEvent("fg", 1), ToolCallEvent("{"), ToolCallEvent("}")),
        *(TextEvent("h"), EndEvent(None), TextEvent("i")),
    ]
    assert [any(one is event for event in events) for one in out] == [False, *[True] * 3, False, *[True] * 5]
