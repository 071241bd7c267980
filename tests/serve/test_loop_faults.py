"""Faults in every callback of a loop, here and elsewhere: only the request that has one fails, and nothing is held."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest

from tests.grids import thinned
from tests.serve.loops import NEIGHBOUR, NEXT, VICTIM, Kind, Local, Remote, Trap, until
from trilens.generate import scheduler
from trilens.generate.sampling import Sampler, Sampling
from trilens.model import Call
from trilens.serve import remote_loop
from trilens.serve.engine_model import AnyCall
from trilens.text.model_text import ModelText

CHOICES = 3  # of the request that fails, so that what happens once a call happens three times
SEED = 4711  # by which its samplers are known
Prepare = Callable[[int], AnyCall]
Point = Callable[[Any, Trap, pytest.MonkeyPatch], Prepare]  # puts the trap there; how the victim's calls are made


def writer(method: str) -> Point:
    def put(kind: Local, trap: Trap, _: pytest.MonkeyPatch) -> Prepare:
        def prepare(i: int) -> AnyCall:
            call = kind.prepare(VICTIM, i)
            assert isinstance(call, Call)
            setattr(call.writer, method, trap.on(getattr(call.writer, method)))
            return call

        return prepare

    return put


def constraint(method: str) -> Point:
    def put(kind: Local, trap: Trap, _: pytest.MonkeyPatch) -> Prepare:
        def prepare(i: int) -> AnyCall:
            made: Any = kind.model.grammars.schema(None)
            setattr(made, method, trap.on(getattr(made, method)))
            return kind.prepare(VICTIM, i, constraint=made)

        return prepare

    return put


def sampler(method: str, **options: Any) -> Point:
    def put(kind: Local, trap: Trap, monkeypatch: pytest.MonkeyPatch) -> Prepare:
        class Trapped(Sampler):
            def __init__(self, options: Sampling, prompt: Any, speculates: Any) -> None:
                self.seed = options.seed
                self.at("made")
                super().__init__(options, prompt, speculates)

            def at(self, name: str) -> None:
                if name == method and self.seed == SEED:
                    trap.spring()

            def end_with(self, tokens: Any) -> None:
                self.at("end_with")
                super().end_with(tokens)

            def allow(self, words: Any) -> None:
                self.at("allow")
                super().allow(words)

            def note(self, tokens: Any) -> None:
                self.at("note some" if tokens else "note none")
                super().note(tokens)

            def take_report(self) -> list[tuple[int, float]]:
                self.at("take_report")
                return super().take_report()

        monkeypatch.setattr(scheduler, "Sampler", Trapped)

        def prepare(i: int) -> AnyCall:
            given = {"constraint": kind.model.grammars.schema(None)} if method == "allow" else {}
            return kind.prepare(VICTIM, i, seed=SEED, **given, **options)

        return prepare

    return put


def receipt_here(kind: Local, trap: Trap, monkeypatch: pytest.MonkeyPatch) -> Prepare:
    usual, writers = kind.model._receipt, list[Any]()

    def written(generation: Any, writer: Any, meter: Any) -> Any:
        if writer in writers:
            trap.spring()
        return usual(generation, writer, meter)

    monkeypatch.setattr(kind.model, "_receipt", written)

    def prepare(i: int) -> AnyCall:
        call = kind.prepare(VICTIM, i)
        assert isinstance(call, Call)
        writers.append(call.writer)
        return call

    return prepare


def receipt_elsewhere(kind: Remote, trap: Trap, monkeypatch: pytest.MonkeyPatch) -> Prepare:
    def prepare(i: int) -> AnyCall:
        call: Any = kind.prepare(VICTIM, i)
        call.stream._answer = trap.on(call.stream._answer)
        return call  # type: ignore[no-any-return]

    return prepare


def template(kind: Kind, trap: Trap, monkeypatch: pytest.MonkeyPatch) -> Prepare:
    usual = ModelText.encode

    def encode(text: ModelText, prompt: Any, *given: Any, **named: Any) -> Any:
        if prompt[0]["content"] == VICTIM:
            trap.spring()
        return usual(text, prompt, *given, **named)

    monkeypatch.setattr(ModelText, "encode", encode)
    return lambda i: kind.prepare(VICTIM, i)


def reader(kind: Kind, trap: Trap, monkeypatch: pytest.MonkeyPatch) -> Prepare:
    def prepare(i: int) -> AnyCall:
        call = kind.prepare(VICTIM, i)
        monkeypatch.setattr(call, "events", trap.on(call.events))
        return call

    return prepare


def service(point: str) -> Point:
    def put(kind: Remote, trap: Trap, _: pytest.MonkeyPatch) -> Prepare:
        kind.service.traps[point] = trap
        return lambda i: kind.prepare(VICTIM, i)

    return put


def into_the_call(kind: Remote, trap: Trap, _: pytest.MonkeyPatch) -> Prepare:
    def prepare(i: int) -> AnyCall:
        call: Any = kind.prepare(VICTIM, i)
        call.put = trap.on(call.put)
        return call  # type: ignore[no-any-return]

    return prepare


def nothing_more(kind: Kind, trap: Trap, _: pytest.MonkeyPatch) -> Prepare:
    """The protocol that reads the parts fails: see `Kind.ask`."""
    return lambda i: kind.prepare(VICTIM, i)


POINTS: list[tuple[type[Kind], str, Point]] = [
    *((Local, f"writer.{method}", writer(method)) for method in ("begin", "allowed", "lookahead", "take", "end")),
    *((Local, f"constraint.{method}", constraint(method)) for method in ("allowed", "take")),
    *((Local, f"sampler.{method}", sampler(method)) for method in ("made", "end_with", "allow", "note none")),
    (Local, "sampler.note some", sampler("note some", thinking=5)),
    (Local, "sampler.take_report", sampler("take_report", logprobs=1)),
    (Local, "receipt", receipt_here),
    *((Remote, f"service.{point}", service(point)) for point in ("request", "connect", "part", "end")),
    (Remote, "call.put", into_the_call),
    (Remote, "receipt", receipt_elsewhere),
    *((kind, name, point) for kind in (Local, Remote) for name, point in (("template", template), ("events", reader))),
    *((kind, "protocol", nothing_more) for kind in (Local, Remote)),
]


@pytest.mark.parametrize("nth", thinned([1, 3], 2))
@pytest.mark.parametrize(("made", "name", "point"), POINTS, ids=[f"{k.__name__}-{name}" for k, name, _ in POINTS])
def test_a_fault_ends_its_own_request(
    made: type[Kind], name: str, point: Point, nth: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    kind, trap = made(), Trap(nth)
    alone = kind.alone
    prepare = point(kind, trap, monkeypatch)
    read = trap.spring if name == "protocol" else lambda: None

    async def together() -> None:
        kind.hold()
        neighbour = asyncio.create_task(kind.ask(NEIGHBOUR))
        victim = asyncio.create_task(kind.ask(VICTIM, CHOICES, prepare, read))
        await asyncio.sleep(0.05)  # both are in line, or have failed before that
        kind.go_on()
        [fault] = await asyncio.gather(victim, return_exceptions=True)
        assert fault is trap.error and trap.calls >= nth
        assert await neighbour == [alone[NEIGHBOUR]]
        assert await kind.ask(NEXT) == [alone[NEXT]]

    try:
        asyncio.run(together())
        assert kind.held() == []
        assert kind.loop.problem is None
    finally:
        kind.close()


@pytest.mark.parametrize("nth", [1, 3])
@pytest.mark.parametrize("name", ["_weigh", "_let_go", "_admit", "_hand_over", "step"])
def test_a_fault_of_the_loop_itself_ends_what_it_may_have_touched(
    name: str, nth: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Those that run then may get it, no other ever hears of it, and the loop goes on."""
    kind, trap = Local(), Trap(nth)
    alone = kind.alone
    long = kind.model.generate([{"role": "user", "content": VICTIM}], temperature=0, thinking=True).text

    def prepare(i: int) -> AnyCall:
        return kind.prepare(VICTIM, i, thinking=True)

    async def several() -> None:
        owner: Any = kind.model if name == "step" else kind.loop
        kind.hold()
        asking = [asyncio.create_task(kind.ask(VICTIM, 1, prepare)) for _ in range(3)]
        await until(lambda: kind.loop.running + kind.loop.waiting == 3)
        monkeypatch.setattr(owner, name, trap.on(getattr(owner, name)))
        kind.go_on()
        for answer in await asyncio.gather(*asking, return_exceptions=True):
            assert answer is trap.error or answer == [long]
        await until(lambda: trap.calls >= nth)
        assert await kind.ask(NEXT) == [alone[NEXT]]

    try:
        asyncio.run(several())
        assert kind.held() == []
        assert kind.loop.problem is None
    finally:
        monkeypatch.undo()
        kind.close()


def test_a_thread_that_cannot_be_started_ends_its_own_request(monkeypatch: pytest.MonkeyPatch) -> None:
    kind, trap = Remote(), Trap(2, RuntimeError("can't start new thread"))
    alone = kind.alone

    class Thread:
        """As `threading.Thread`, for the loop of an engine alone."""

        def __init__(self, *given: Any, **named: Any) -> None:
            self.start = trap.on(threading.Thread(*given, **named).start)

    monkeypatch.setattr(remote_loop, "threading", SimpleNamespace(Thread=Thread))

    async def three() -> list[Any]:
        return [*await asyncio.gather(*(kind.ask(NEIGHBOUR) for _ in range(3)), return_exceptions=True)]

    try:
        answers = asyncio.run(three())
        assert answers.count([alone[NEIGHBOUR]]) == 2 and trap.error in answers
        assert kind.held() == []
    finally:
        kind.close()
