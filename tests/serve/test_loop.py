"""What both kinds of loop share: places in the queue, deadlines, closing; and a loop that is stuck or has failed."""

from __future__ import annotations

import asyncio
import random
import threading
import time
from collections.abc import Callable
from typing import Any

import httpx2 as httpx
import pytest

from tests.serve.conftest import Served, served
from tests.serve.loops import KINDS, NEIGHBOUR, NEXT, Kind, Local, Remote, until
from trilens.errors import EngineDied
from trilens.serve import local_loop
from trilens.serve.app import application
from trilens.serve.loop import Busy, Running, ShuttingDown, TimeIsUp

CHAT = "/v1/chat/completions"
both = pytest.mark.parametrize("made", KINDS)


def enter(kind: Kind, calls: int = 1) -> Running:
    return kind.loop.enter([kind.prepare(NEIGHBOUR, i) for i in range(calls)])


async def read(running: Running) -> None:
    async for _ in running.batches():
        pass


def run(kind: Kind, test: Callable[[], Any]) -> None:
    try:
        asyncio.run(test())
        assert kind.held() == []
    finally:
        kind.close()


@both
def test_who_leaves_the_line_takes_no_place_in_it(made: type[Kind]) -> None:
    kind = made(parallel=1, waiting=1)

    async def come_and_go() -> None:
        kind.hold()
        first = asyncio.create_task(kind.ask(NEIGHBOUR))
        await until(lambda: kind.loop.running + kind.loop.waiting == 1)
        for _ in range(5):
            waits = enter(kind)
            with pytest.raises(Busy):
                enter(kind)
            waits.cancel()
            assert kind.loop.running + kind.loop.waiting == 1
        kind.go_on()
        assert await first == [kind.alone[NEIGHBOUR]]

    run(kind, come_and_go)


@both
@pytest.mark.parametrize("seed", range(6))
def test_random_comings_and_goings_are_counted(made: type[Kind], seed: int) -> None:
    """Refused exactly where the line is full; whoever has left is neither in it nor answered."""
    chance = random.Random(seed)
    kind = made(parallel=chance.randint(1, 3), waiting=chance.randint(0, 4))

    async def several() -> None:
        here: list[Running] = []
        for _ in range(60):
            if chance.random() < 0.2:
                kind.go_on()
                await asyncio.sleep(0.01)
            kind.hold()
            if here and chance.random() < 0.4:
                here.pop(chance.randrange(len(here))).cancel()
                continue
            calls, loop = chance.randint(1, 3), kind.loop
            before = loop.running, loop.waiting
            full = before[1] + calls > max(0, loop._parallel - before[0]) + loop._most_waiting
            try:
                here.append(enter(kind, calls))
                refused = False
            except Busy:
                refused = True
                assert full or before != (loop.running, loop.waiting)  # of what ran then, some may have ended
            assert refused or not full or loop.running + loop.waiting < sum(before) + calls
            assert loop.running <= loop._parallel
        kind.go_on()
        for running in here:
            await read(running)
            assert all(call.receipt is not None for call in running.calls)

    run(kind, several)


@both
def test_deadlines_hold_while_everything_hangs(made: type[Kind]) -> None:
    kind = made(parallel=1, waiting=4, seconds=0.3)

    async def several() -> None:
        kind.hold()
        begin = time.monotonic()
        asking = [asyncio.create_task(kind.ask(NEIGHBOUR)) for _ in range(3)]
        for answer in await asyncio.gather(*asking, return_exceptions=True):
            assert isinstance(answer, TimeIsUp)
        assert time.monotonic() - begin < 10 and kind.loop.waiting == 0
        kind.go_on()
        await until(lambda: kind.loop.idle)
        kind.loop.seconds = 20.0
        assert await kind.ask(NEXT) == [kind.alone[NEXT]]

    run(kind, several)


@both
def test_a_reader_that_does_not_read_has_a_deadline_too(made: type[Kind]) -> None:
    kind = made(parallel=1, waiting=4, seconds=0.2)

    async def unread() -> None:
        running = enter(kind)
        kind.hold()
        waits = enter(kind)
        await until(lambda: running.left and waits.left)
        kind.go_on()
        await until(lambda: kind.loop.idle)
        for late in (running, waits):
            with pytest.raises(TimeIsUp):
                await read(late)

    kind.hold()
    run(kind, unread)


@both
def test_a_prompt_that_takes_for_ever_to_prepare_has_a_deadline_too(made: type[Kind]) -> None:
    """And an error of the preparing that looks like one is left as it is."""
    kind, go_on = made(seconds=0.2), threading.Event()

    def hangs(_: int) -> Any:
        go_on.wait(20)

    async def several() -> None:
        with pytest.raises(TimeIsUp):
            await kind.ask(NEIGHBOUR, 1, hangs)
        go_on.set()
        assert kind.registry.places[kind.name].leases == 0
        with pytest.raises(TimeoutError, match="of its own"):
            await kind.ask(NEIGHBOUR, 1, breaks(TimeoutError("of its own")))

    run(kind, several)


@both
def test_closing_finishes_what_there_is(made: type[Kind]) -> None:
    kind = made(parallel=1, waiting=8)

    async def several() -> None:
        kind.hold()
        asking = [asyncio.create_task(kind.ask(NEIGHBOUR)) for _ in range(3)]
        await until(lambda: kind.loop.running + kind.loop.waiting == 3)
        closing = asyncio.create_task(asyncio.to_thread(kind.loop.close, 10))
        await until(lambda: kind.loop._closing)
        with pytest.raises(ShuttingDown):
            enter(kind)
        kind.go_on()
        assert await asyncio.gather(*asking) == [[kind.alone[NEIGHBOUR]]] * 3
        await closing

    run(kind, several)


@both
def test_closing_tells_those_who_wait(made: type[Kind], monkeypatch: pytest.MonkeyPatch) -> None:
    """At once, also where what runs hangs."""
    monkeypatch.setattr(local_loop, "PATIENCE", 0.1)
    kind = made(parallel=1, waiting=8)

    async def several() -> None:
        kind.hold()
        asking = [asyncio.create_task(kind.ask(NEIGHBOUR)) for _ in range(3)]
        await until(lambda: kind.loop.running + kind.loop.waiting == 3)
        await asyncio.to_thread(kind.loop.close, 0)
        for answer in await asyncio.gather(*asking, return_exceptions=True):
            assert isinstance(answer, ShuttingDown)
        kind.go_on()
        await until(lambda: kind.loop.idle)

    run(kind, several)


@both
def test_a_loop_that_gives_up_tells_everybody(made: type[Kind]) -> None:
    kind = made(parallel=1, waiting=8)

    async def several() -> None:
        kind.hold()
        asking = [asyncio.create_task(kind.ask(NEIGHBOUR)) for _ in range(3)]
        await until(lambda: kind.loop.running + kind.loop.waiting == 3)
        dead = EngineDied("it has ended")
        kind.loop.give_up(dead)
        for answer in await asyncio.gather(*asking, return_exceptions=True):
            assert answer is dead
        for _ in range(3):
            with pytest.raises(EngineDied):
                await kind.ask(NEXT)
        assert kind.loop.problem is dead
        kind.go_on()

    run(kind, several)


def test_a_step_that_hangs_is_reported_and_survived() -> None:
    kind = Local(parallel=2, waiting=4, seconds=0.2)

    async def several() -> None:
        kind.hold()
        with pytest.raises(TimeIsUp):
            await kind.ask(NEIGHBOUR)
        await until(lambda: "a step has not ended" in str(kind.loop.problem))
        kind.go_on()
        await until(lambda: kind.loop.problem is None and kind.loop.idle)
        kind.loop.seconds = 20.0
        assert await kind.ask(NEXT) == [kind.alone[NEXT]]

    run(kind, several)


def breaks(fault: BaseException) -> Callable[..., Any]:
    def broken(*_: Any) -> Any:
        raise fault

    return broken


@pytest.mark.parametrize(
    ("place", "fault"),
    [
        ("_weigh", ZeroDivisionError("x")),
        ("_let_go", KeyError("x")),
        ("_admit", MemoryError()),
        ("_hand_over", ZeroDivisionError("x")),
        ("_turn", SystemExit(3)),  # one that would end the thread, without a second try
        ("_outlive", None),  # what deals with faults has one itself
    ],
)
def test_a_loop_that_cannot_go_on_says_so(
    place: str, fault: BaseException | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    with served(["tiny-routed", "tiny-dense"], parallel=1, waiting=8) as own:
        assert ask(own, "tiny-routed").status_code == ask(own, "tiny-dense").status_code == 200
        assert httpx.get(own.url + "/healthz").json() == {"status": "ok"}
        loop: Any = own.registry.places["tiny-routed"].loop
        model, go_on = loop.model, threading.Event()
        usual = model.step
        monkeypatch.setattr(model, "step", lambda *given: usual(*given) if go_on.wait(20) else [])
        said: list[httpx.Response] = []
        asking = [threading.Thread(target=lambda: said.append(ask(own, "tiny-routed"))) for _ in range(8)]
        for thread in asking:
            thread.start()
        while loop.running + loop.waiting < 8:
            time.sleep(0.002)
        if fault is None:
            monkeypatch.setattr(loop, "_outlive", breaks(ValueError("again")))
            monkeypatch.setattr(loop, "_hand_over", breaks(ValueError("once")))
        else:
            monkeypatch.setattr(loop, place, breaks(fault))
        go_on.set()
        for thread in asking:
            thread.join(20)
        kind = "ValueError" if fault is None else type(fault).__name__
        why = f"tiny-routed: its loop stopped after a fault ({kind}); see the log, then restart"
        statuses = {(a.status_code, a.json()["error"]["code"]) for a in said}
        assert len(said) == 8 and (503, "loop_failed") in statuses
        assert statuses <= {
            (503, "loop_failed"),
            (500, "fault"),
            (500, None),
        }  # the latter: who had a place at a fault before
        health = httpx.get(own.url + "/healthz")
        assert health.status_code == 503
        assert health.json() == {"status": "failed", "models": {"tiny-routed": why}}
        refused = ask(own, "tiny-routed")
        assert (refused.status_code, refused.json()["error"]["message"]) == (503, why)
        assert ask(own, "tiny-dense").status_code == 200
        own.settle()
        metrics = httpx.get(own.url + "/metrics").text
        assert 'trilens_calls_running{model="tiny-routed"} 0.0' in metrics
        assert 'trilens_calls_waiting{model="tiny-routed"} 0.0' in metrics


def test_an_engine_that_has_died_is_reported() -> None:
    """Without a word of where its log is."""
    kind = Remote()

    async def look() -> tuple[httpx.Response, httpx.Response]:
        transport = httpx.ASGITransport(app=application(kind.registry))
        async with httpx.AsyncClient(transport=transport, base_url="http://localhost") as client:
            before = await client.get("/healthz")
            kind.loop.give_up(EngineDied("vllm ended by itself; its log is /tmp/x"))
            return before, await client.get("/healthz")

    before, behind = asyncio.run(look())
    assert (before.status_code, before.json()) == (200, {"status": "ok"})
    why = "the engine has ended; the server's log says why"
    assert (behind.status_code, behind.json()) == (503, {"status": "failed", "models": {kind.name: why}})
    kind.close()


def ask(own: Served, model: str) -> httpx.Response:
    body = {"model": model, "messages": [{"role": "user", "content": NEIGHBOUR}], "temperature": 0}
    return httpx.post(own.url + CHAT, json=body, timeout=30)
