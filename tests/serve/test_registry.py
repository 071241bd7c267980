"""Models are loaded when first asked for, and put away when another needs their memory."""

from __future__ import annotations

import asyncio
import random
import shutil
import signal
import threading
import time
import weakref
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import httpx2 as httpx
import pytest

from tests.serve.conftest import Served, served
from trilens.checkpoints.find import find
from trilens.errors import ModelNotFound, UsageError
from trilens.serve import registry
from trilens.serve.connections import Limits
from trilens.serve.guard import Rules
from trilens.serve.loop import ShuttingDown
from trilens.serve.registry import ModelRegistry, NotLoadable, Room
from trilens.serve.server import Server, _bound, log
from trilens.serve.streams import EventStream

CHAT = "/v1/chat/completions"


def ask(server: Served, model: str, **more: Any) -> str:
    body = {"model": model, "messages": [{"role": "user", "content": "What is 12 plus 30?"}], "temperature": 0, **more}
    answer = httpx.post(server.url + CHAT, json=body, timeout=30)
    assert answer.status_code == 200, answer.text
    return str(answer.json()["choices"][0]["message"]["content"])


def loaded(server: Served) -> list[str]:
    return [place.name for place in server.registry.places.values() if place.loop is not None]


def test_the_address_is_told_once_signals_are_handled(monkeypatch: pytest.MonkeyPatch) -> None:
    bound, before = _bound("127.0.0.1", 0), signal.getsignal(signal.SIGTERM)
    server = Server(ModelRegistry(["tiny-dense"], Room()), Rules(), Limits(), address="http://here")
    told = []

    def info(text: str, *_: object) -> None:
        told.append((text, server.started, signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)))
        server.should_exit = True

    monkeypatch.setattr(log, "info", info)
    server.run(sockets=[bound])
    bound.close()
    assert told == [("%s serves %s", True, server.handle_exit, server.handle_exit)]
    assert signal.getsignal(signal.SIGTERM) == before


@pytest.fixture
def no_collecting(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing here is large, and looking through all of pytest's objects takes most of a second."""
    nothing = SimpleNamespace(collect=lambda: None, freeze=lambda: None, unfreeze=lambda: None)
    monkeypatch.setattr(registry, "gc", nothing)


def test_a_model_is_loaded_when_it_is_first_asked_for() -> None:
    with served() as own:
        assert loaded(own) == []
        assert ask(own, "tiny-routed") == "42" and loaded(own) == ["tiny-routed"]
        assert ask(own, "tiny-dense") == "42" and loaded(own) == ["tiny-dense", "tiny-routed"]


def test_it_is_put_away_when_another_needs_its_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    with served() as own:
        ask(own, "tiny-dense")
        loop = own.registry.places["tiny-dense"].loop
        assert loop is not None
        model = weakref.ref(loop.model)
        del loop
        own.settle()
        monkeypatch.setattr(registry.system, "available_memory", lambda: 1000)
        assert ask(own, "tiny-routed") == "42" and loaded(own) == ["tiny-routed"]
        assert model() is None  # its memory with it
        own.settle()
        assert ask(own, "tiny-dense") == "42" and loaded(own) == ["tiny-dense"]


def test_one_that_answers_is_not_put_away(monkeypatch: pytest.MonkeyPatch) -> None:
    with served() as own:
        ask(own, "tiny-dense")
        loop = own.registry.places["tiny-dense"].loop
        assert loop is not None
        usual, go_on, said = loop.model.step, threading.Event(), []
        monkeypatch.setattr(loop.model, "step", lambda *asked: usual(*asked) if go_on.wait(20) else [])
        asking = threading.Thread(target=lambda: said.append(ask(own, "tiny-dense")))
        asking.start()
        while loop.idle:
            time.sleep(0.005)
        monkeypatch.setattr(registry.system, "available_memory", lambda: 1000)
        assert ask(own, "tiny-routed") == "42" and loaded(own) == ["tiny-dense", "tiny-routed"]
        go_on.set()
        asking.join()
        assert said == ["42"]


def test_a_model_that_is_not_here_yet_has_no_size() -> None:
    assert registry._bytes_of(registry.Place("a", "org/nobody-has-this")) is None
    assert (
        registry._bytes_of(registry.Place("b", "tiny-routed"))
        == find("tiny-routed").path.joinpath("model.safetensors").stat().st_size
    )


def test_a_model_whose_file_is_a_link_to_nowhere_has_no_size(tmp_path: Path) -> None:
    shutil.copytree(find("tiny-routed").path, tmp_path, dirs_exist_ok=True)
    (tmp_path / "model.safetensors").unlink()
    (tmp_path / "model.safetensors").symlink_to(tmp_path / "nowhere")
    assert registry._bytes_of(registry.Place("a", str(tmp_path))) is None


def test_two_under_one_name() -> None:
    with pytest.raises(UsageError, match="rename"):
        ModelRegistry(["tiny-dense", "tiny-dense"], Room())


def test_one_whose_prompt_is_being_prepared_is_not_put_away(monkeypatch: pytest.MonkeyPatch) -> None:
    """It needs nothing of the loop yet, and all of the model."""
    with served() as own:
        ask(own, "tiny-dense")
        loop = own.registry.places["tiny-dense"].loop
        assert loop is not None
        usual, begun, go_on, said = loop.model.prepare, threading.Event(), threading.Event(), list[str]()

        def slowly(*given: Any, **named: Any) -> Any:
            begun.set()
            go_on.wait(20)
            return usual(*given, **named)

        monkeypatch.setattr(loop.model, "prepare", slowly)
        asking = threading.Thread(target=lambda: said.append(ask(own, "tiny-dense")))
        asking.start()
        assert begun.wait(20) and loop.idle
        monkeypatch.setattr(registry.system, "available_memory", lambda: 1000)
        assert ask(own, "tiny-routed") == "42" and loaded(own) == ["tiny-dense", "tiny-routed"]
        go_on.set()
        asking.join()
        assert said == ["42"]


@pytest.mark.usefixtures("no_collecting")
def test_one_that_is_being_put_away_is_loaded_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever asks for it meanwhile waits, and is answered."""
    with served() as own:
        ask(own, "tiny-dense")
        own.settle()
        loop = own.registry.places["tiny-dense"].loop
        assert loop is not None
        usual, begun, go_on, said = loop.close, threading.Event(), threading.Event(), list[str]()

        def slowly(seconds: float) -> None:
            begun.set()
            go_on.wait(20)
            usual(seconds)

        monkeypatch.setattr(loop, "close", slowly)
        monkeypatch.setattr(registry.system, "available_memory", lambda: 1000)
        asking = [threading.Thread(target=lambda: said.append(ask(own, "tiny-routed")))]
        asking[0].start()
        assert begun.wait(20)
        asking += [threading.Thread(target=lambda: said.append(ask(own, "tiny-dense"))) for _ in range(3)]
        for thread in asking[1:]:
            thread.start()
        while own.registry.places["tiny-dense"].leases < 3:
            time.sleep(0.002)
        go_on.set()
        for thread in asking:
            thread.join()
        assert said == ["42"] * 4
        assert own.registry.places["tiny-dense"].loop is not loop


class Weightless:
    """As much of a model as a loop needs to stand still."""

    name = ""
    steppers = 1
    cache_pages = 0

    def step(self, *_: Any) -> list[Any]:
        return []


@pytest.mark.usefixtures("no_collecting")
class TestLeases:
    """Many that need models of one memory, which holds `capacity` of them."""

    def run(self, seed: int, capacity: int, monkeypatch: pytest.MonkeyPatch) -> tuple[int, int]:
        """(loads, how many were in memory at most)."""
        chance, names = random.Random(seed), ["a", "b", "c"]
        own, loads, most = ModelRegistry(names, Room(seconds=20)), 0, 0

        def inside() -> int:
            return sum(place.loop is not None for place in own.places.values())

        def load(source: str, **_: Any) -> Any:
            nonlocal loads
            loads += 1
            time.sleep(chance.choice((0, 0.001, 0.003)))
            if chance.random() < 0.1:
                raise MemoryError
            return Weightless()

        monkeypatch.setattr(registry, "load", load)
        monkeypatch.setattr(registry, "_bytes_of", lambda source: 1)
        monkeypatch.setattr(registry.system, "available_memory", lambda: capacity - inside())

        async def use() -> None:
            nonlocal most
            for _ in range(8):
                name = chance.choice(names)
                try:
                    async with own.lease(name) as loop:
                        for _ in range(chance.randint(1, 4)):
                            assert own.places[name].loop is loop.loop and not loop.loop._closing
                            loop.enter([]).cancel()  # it lets in
                            most = max(most, inside())
                            await asyncio.sleep(chance.choice((0, 0, 0.001)))
                except NotLoadable:
                    pass
                await asyncio.sleep(chance.choice((0, 0, 0.002)))

        async def everybody() -> None:
            users = [asyncio.create_task(use()) for _ in range(chance.choice((1, 2, 8)))]
            if len(users) > 2:
                await asyncio.sleep(0.01)
                users.pop().cancel()  # in the middle of whatever it does
            await asyncio.wait_for(asyncio.gather(*users), 60)
            assert all(place.leases == place.coming == 0 for place in own.places.values())
            await asyncio.to_thread(own.close, 1)
            with pytest.raises(ShuttingDown):
                async with own.lease("a"):
                    pass

        asyncio.run(everybody())
        return loads, most

    @pytest.mark.parametrize("seed", range(12))
    @pytest.mark.parametrize("capacity", [1, 2])
    def test_nobody_loses_what_it_uses_and_nobody_waits_for_ever(
        self, seed: int, capacity: int, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        loads, most = self.run(seed, capacity, monkeypatch)
        assert loads >= 2 and most >= 1

    def test_one_after_the_other_they_fit(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Who needs two models in turn has one in memory at a time."""
        own = ModelRegistry(["a", "b"], Room())
        monkeypatch.setattr(registry, "load", lambda source, **_: Weightless())
        monkeypatch.setattr(registry, "_bytes_of", lambda source: 1)
        monkeypatch.setattr(
            registry.system,
            "available_memory",
            lambda: 1 - sum(place.loop is not None for place in own.places.values()),
        )

        async def in_turn() -> None:
            for name in "abababab":
                async with own.lease(name) as loop:
                    assert loop.model.name == name
                    assert [place.name for place in own.places.values() if place.loop is not None] == [name]
            await asyncio.to_thread(own.close, 1)

        asyncio.run(in_turn())

    def test_what_is_being_loaded_counts(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Two that are loaded at once do not both count on the memory that is free for one: the third goes."""
        own, meet = ModelRegistry(["a", "b", "c"], Room()), threading.Barrier(2)

        def load(source: str, **_: Any) -> Any:
            if source != "a":
                meet.wait(20)
            return Weightless()

        monkeypatch.setattr(registry, "load", load)
        monkeypatch.setattr(registry, "_bytes_of", lambda source: 1)
        monkeypatch.setattr(
            registry.system,
            "available_memory",
            lambda: 2 - sum(place.loop is not None for place in own.places.values()),
        )

        async def take(name: str) -> None:
            async with own.lease(name):
                pass

        async def both() -> None:
            await take("a")
            await asyncio.gather(take("b"), take("c"))
            assert own.places["a"].loop is None
            await asyncio.to_thread(own.close, 1)

        asyncio.run(both())

    def test_a_name_that_is_not_served(self) -> None:
        own = ModelRegistry(["a"], Room())

        async def take() -> None:
            async with own.lease("b"):
                pass

        with pytest.raises(ModelNotFound):
            asyncio.run(take())


def test_a_stream_that_is_never_begun_is_over_all_the_same() -> None:
    """Its client has left before the first byte, so none of its own code has run."""
    begun, over = list[int](), list[int]()

    async def pieces() -> Any:
        begun.append(1)
        yield b""

    async def ended() -> None:
        over.append(1)

    async def gone() -> dict[str, Any]:
        return {"type": "http.disconnect"}

    async def never(_: Any) -> None:
        await asyncio.sleep(3600)

    asyncio.run(EventStream(pieces(), ended)({}, gone, never))
    assert (begun, over) == ([], [1])
