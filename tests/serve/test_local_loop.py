"""Many clients at once: nothing is left behind, a slow reader holds nobody up, and stopping finishes what runs."""

from __future__ import annotations

import asyncio
import random
import socket
import threading
import time
from collections import deque
from typing import Any

import httpx2 as httpx
import pytest

import trilens
from tests.serve.conftest import Served, served
from trilens.errors import CacheFull
from trilens.serve.local_loop import LocalLoop
from trilens.serve.loop import ShuttingDown, TimeIsUp
from trilens.serve.server import _bound
from trilens.text.events import EndEvent, Event, ThinkingEvent

CHAT = "/v1/chat/completions"


def body(question: str, **more: Any) -> dict[str, Any]:
    return {"model": "tiny-routed", "messages": [{"role": "user", "content": question}], **more}


def test_many_clients_that_come_and_go_leave_nothing_behind() -> None:
    with served(["tiny-routed"], parallel=16, waiting=8) as own:
        statuses: list[int] = []

        async def one(client: httpx.AsyncClient, number: int) -> None:
            chance = random.Random(number)
            for _ in range(6):
                asked = body(f"What is {chance.randint(10, 99)} times {chance.randint(10, 99)}?", stream=True)
                async with client.stream("POST", own.url + CHAT, json=asked) as answer:
                    statuses.append(answer.status_code)
                    leaves = chance.randint(1, 20) if number % 3 == 0 else None
                    slow = number % 8 == 1
                    seen = 0
                    async for line in answer.aiter_lines():
                        seen += bool(line)
                        if leaves is not None and seen >= leaves:
                            break
                        if slow and seen % 16 == 0:
                            await asyncio.sleep(0.01)
                    else:
                        assert answer.status_code == 429 or line == "" or "DONE" in line

        async def everybody() -> None:
            limits = httpx.Limits(max_connections=64)
            async with httpx.AsyncClient(timeout=30, limits=limits) as client:
                await asyncio.gather(*(one(client, number) for number in range(32)))

        asyncio.run(everybody())
        assert set(statuses) <= {200, 429} and statuses.count(200) > 50
        own.settle()
        loop = own.registry.places["tiny-routed"].loop
        assert loop is not None
        loop.model.forget()
        assert loop.model.cache_pages == 0


def test_a_reader_that_does_not_read_holds_nobody_up(server: Served) -> None:
    async def both() -> float:
        async with httpx.AsyncClient(timeout=30) as client:
            schema = {"type": "array", "items": {"type": "integer", "minimum": 100}, "minItems": 1000}
            form = {"type": "json_schema", "json_schema": {"schema": schema}}
            asked = body("Hello", stream=True, thinking=False, response_format=form)
            async with client.stream("POST", server.url + CHAT, json=asked):
                begin = time.monotonic()
                answer = await client.post(server.url + CHAT, json=body("What is 12 plus 30?", temperature=0))
                assert answer.json()["choices"][0]["message"]["content"] == "42"
                return time.monotonic() - begin

    assert asyncio.run(both()) < 5
    server.settle()


def test_stopping_finishes_what_runs() -> None:
    found: dict[str, Any] = {}
    with served(["tiny-routed"]) as own:
        httpx.post(own.url + CHAT, json=body("Hello", max_tokens=1))

        def ask() -> None:
            found["answer"] = httpx.post(own.url + CHAT, json=body("What is 47 times 86?", temperature=0), timeout=30)

        asking = threading.Thread(target=ask)
        asking.start()
        end = time.monotonic() + 5
        while own.at_rest and time.monotonic() < end and asking.is_alive():
            pass
    asking.join()
    assert found["answer"].json()["choices"][0]["message"]["content"] == "4042"


def test_small_packets_do_not_wait_for_each_other() -> None:
    """Nagle's algorithm is off on both sides of a connection that is kept: an answer's last piece comes at once."""

    async def off() -> int:
        met: asyncio.Future[int] = asyncio.get_running_loop().create_future()

        async def meet(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            met.set_result(writer.get_extra_info("socket").getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY))
            writer.close()

        bound = _bound("127.0.0.1", 0)
        async with await asyncio.start_server(meet, sock=bound):
            _, writer = await asyncio.open_connection(*bound.getsockname())
            writer.close()
            return await met

    assert asyncio.run(off()) != 0


class TestLocalLoop:
    def test_no_room_at_all_is_an_error(self, monkeypatch: pytest.MonkeyPatch) -> None:
        model = trilens.load("tiny-dense")
        loop = LocalLoop(model, 8, 8, 60)

        def full(*parts: Any, **options: Any) -> Any:
            raise CacheFull("the page pool is full")

        monkeypatch.setattr(model._scheduler, "submit", full)

        async def ask() -> None:
            async for _ in loop.enter([model.prepare("Hello")]).batches():
                pass

        with pytest.raises(CacheFull):
            asyncio.run(ask())
        loop.close(1)
        with pytest.raises(ShuttingDown):
            asyncio.run(ask())

    def test_what_fails_has_no_end(self) -> None:
        """A call that breaks off, and one that has had its time: what came, then the fault."""
        model = trilens.load("tiny-dense")

        async def read(seconds: float, breaks: bool) -> tuple[list[Event], BaseException]:
            loop, came = LocalLoop(model, 8, 8, seconds), []
            call = model.prepare("What is 47 times 86?", thinking=True, temperature=0)
            usual = call.writer.take

            def take(token: int, unread: deque[Any], more: bool = False) -> Any:
                if breaks and call.writer.tokens == 20:
                    raise ValueError("no such character")
                return usual(token, unread, more)

            call.writer.take = take  # type: ignore[method-assign]
            try:
                async for batch in loop.enter([call]).batches():
                    came += batch
            except (ValueError, TimeIsUp) as fault:
                return came, fault
            finally:
                await asyncio.to_thread(loop.close, 1)
            raise AssertionError("nothing failed")

        came, fault = asyncio.run(read(60, True))
        assert isinstance(fault, ValueError) and "".join(e.text for e in came if isinstance(e, ThinkingEvent))
        late, why = asyncio.run(read(0, False))
        assert isinstance(why, TimeIsUp)
        assert not any(isinstance(event, EndEvent) for event in (*came, *late))

    def test_routes_are_noted_between_steps(self) -> None:
        model = trilens.load("tiny-routed")
        loop = LocalLoop(model, 8, 8, 60)

        async def read() -> list[list[int]]:
            calls = [model.prepare("What is 12 plus 30?", index=i, temperature=0) for i in range(3)]
            calls[1].watched = True
            async for _ in loop.enter(calls).batches():
                pass
            assert calls[0].fired == calls[2].fired == []
            assert calls[1].request is not None
            assert calls[1].fired == calls[1].request.routes.tolist()
            return calls[1].fired

        fired = asyncio.run(read())
        loop.close(1)
        assert len(fired) > 20 and len(fired[0]) == 8

    def test_a_crowd_is_stepped_in_lanes_and_gets_the_same_answers(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("trilens.serve.local_loop.AHEAD", 0.5)  # also on a slow machine its steps are short
        model = trilens.load("tiny-routed", threads=2)
        questions = [f"What is {11 + i} times {97 - i}?" for i in range(60)]
        options: dict[str, Any] = {"thinking": True, "temperature": 0.8}
        alone = [model.generate(q, seed=i, **options) for i, q in enumerate(questions)]
        loop = LocalLoop(model, 48, 64, 60)

        async def read(i: int) -> tuple[str, int]:
            calls = [model.prepare(questions[i], seed=i, **options)]
            calls[0].watched = i % 2 == 0
            events = [event async for batch in loop.enter(calls).batches() for event in batch]
            assert isinstance(events[-1], EndEvent)
            if calls[0].watched:
                assert calls[0].request is not None
                assert calls[0].fired == calls[0].request.routes.tolist()
            said = "".join(e.text for e in events if not isinstance(e, EndEvent))
            return said, events[-1].receipt.work.decode.tokens

        async def everybody() -> list[tuple[str, int]]:
            return await asyncio.gather(*(read(i) for i in range(60)))

        together = asyncio.run(everybody())
        loop.close(5)
        assert together == [(a.thinking + a.text, a.receipt.work.decode.tokens) for a in alone]
        assert sum(engine.counts()["steps"] for engine in model.executor._beside) > 0
        model.forget()
        assert model.cache_pages == 0
