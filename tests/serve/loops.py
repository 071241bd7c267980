"""The two kinds of loop behind one interface, with a model here and an engine that is a few lines of Python."""

from __future__ import annotations

import asyncio
import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Generator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

import trilens
from trilens.hosted.model import Elsewhere, HostedModel
from trilens.hosted.service import FromService, ServiceEnd, Usage, Wish
from trilens.hosted.table import row_for
from trilens.model import Model
from trilens.serve.chat_run import ChatRun, begin
from trilens.serve.engine import Engine
from trilens.serve.engine_model import AnyCall, EngineModel
from trilens.serve.local_loop import LocalLoop
from trilens.serve.loop import EngineLoop
from trilens.serve.metrics import Metrics
from trilens.serve.nodes import Node
from trilens.serve.registry import ModelRegistry, Room
from trilens.serve.remote_loop import RemoteLoop
from trilens.serve.tools import ToolUse
from trilens.text.events import EndEvent, TextEvent

SECONDS = 20.0  # of a request; far more than any of these needs
VICTIM, NEIGHBOUR, NEXT = "What is 47 times 86?", "What is 12 plus 30?", "What is 31 plus 17?"


@dataclass
class Trap:
    """Raises `error` when what it is put around is called for the `nth` time."""

    nth: int
    error: BaseException = field(default_factory=lambda: ValueError("injected"))
    calls: int = 0

    def on(self, usual: Callable[..., Any]) -> Callable[..., Any]:
        def trapped(*given: Any, **named: Any) -> Any:
            self.spring()
            return usual(*given, **named)

        return trapped

    def spring(self) -> None:
        self.calls += 1
        if self.calls == self.nth:
            raise self.error


class Kind(ABC):
    """A model under its loop, and what a test can do with either kind."""

    name = "tiny-routed"

    def __init__(self, parallel: int = 8, waiting: int = 8, seconds: float = SECONDS) -> None:
        self.registry = ModelRegistry([self.name], Room(parallel, waiting, seconds))
        self.loop = self.made(parallel, waiting, seconds)
        self.registry.places[self.name].loop = self.loop

    @abstractmethod
    def made(self, parallel: int, waiting: int, seconds: float) -> EngineLoop: ...

    @abstractmethod
    def hold(self) -> None:
        """What runs stands still until `go_on`."""

    @abstractmethod
    def go_on(self) -> None: ...

    @property
    @abstractmethod
    def alone(self) -> Mapping[str, str]:
        """Each question's answer when nothing else runs."""

    def prepare(self, question: str, index: int = 0, **options: Any) -> AnyCall:
        return self.loop.model.prepare(
            [{"role": "user", "content": question}], index=index, **{"temperature": 0, "thinking": False, **options}
        )

    async def ask(
        self,
        question: str,
        choices: int = 1,
        prepare: Callable[[int], AnyCall] | None = None,
        read: Callable[[], None] = lambda: None,
    ) -> list[str]:
        """The answers, as a protocol reads them; `read` is called with each event."""
        async with self.registry.lease(self.name) as loop:
            made = prepare or (lambda i: self.prepare(question, i))
            chat_run: ChatRun = await begin(loop, "id", ToolUse(), question, made, choices, [])
            texts, ended = [""] * choices, 0
            try:
                async for batch in chat_run.events():
                    for event in batch:
                        read()
                        if isinstance(event, TextEvent):
                            texts[event.index] += event.text
                        ended += isinstance(event, EndEvent)
            finally:
                chat_run.running.cancel()
            assert ended == choices
            return texts

    def held(self) -> list[str]:
        """Lines of /metrics that say that something is still held, beyond what is kept for later."""
        end = time.monotonic() + 5
        while not self.loop.idle and time.monotonic() < end:
            time.sleep(0.002)
        if isinstance(self.loop.model, Model):
            assert not self.loop.model._scheduler.running
            self.loop.model.forget()
        page = Metrics(self.registry).page().decode()
        names = ("trilens_calls_running", "trilens_calls_waiting", "trilens_cache_pages")
        return [line for line in page.splitlines() if line.startswith(names) and not line.endswith(" 0.0")]

    def close(self) -> None:
        self.go_on()
        self.loop.close(5)
        assert self.registry.places[self.name].leases == 0


@lru_cache
def small_model() -> Model:
    """Loaded once for all."""
    return trilens.load(Kind.name, threads=2)


class Local(Kind):
    model: Model

    def made(self, parallel: int, waiting: int, seconds: float) -> EngineLoop:
        self.model = small_model()
        self._gate = threading.Event()
        self._gate.set()
        usual = type(self.model).step

        def step(*given: Any) -> Any:
            self._gate.wait(60)
            return usual(self.model, *given)

        self.model.step = step  # type: ignore[method-assign]
        return LocalLoop(self.model, parallel, waiting, seconds)

    def hold(self) -> None:
        self._gate.clear()

    def go_on(self) -> None:
        self._gate.set()

    def close(self) -> None:
        super().close()
        del self.model.step  # type: ignore[method-assign]
        if self.model._scheduler.running:  # something went wrong; the next test is to have a model that is well
            small_model.cache_clear()

    @property
    def alone(self) -> Mapping[str, str]:
        options: dict[str, Any] = {"temperature": 0, "thinking": False}
        return {
            question: self.model.generate([{"role": "user", "content": question}], **options).text
            for question in (NEIGHBOUR, NEXT)
        }


class Service:
    """An engine: it says the question's words backwards, one after the other. `traps` are for VICTIM alone."""

    name = "vllm"
    sampling = frozenset(("temperature", "seed"))
    wants_limit = False

    def __init__(self) -> None:
        self.gate = threading.Event()
        self.gate.set()
        self.traps: dict[str, Trap] = {}

    def request(self, wish: Wish) -> dict[str, Any]:
        self._spring("request", wish)
        return {}

    def events(self, request: dict[str, Any], wish: Wish) -> Generator[FromService]:
        words = backwards(str(wish.messages[-1]["content"]))
        try:
            self._spring("connect", wish)
            for word in words:
                self.gate.wait(60)
                self._spring("part", wish)
                yield TextEvent(word, wish.index)
            yield ServiceEnd("stop", Usage(prompt=len(words), output=len(words)))
        finally:
            self._spring("end", wish)

    def close(self) -> None:
        pass

    def _spring(self, point: str, wish: Wish) -> None:
        if point in self.traps and wish.messages[-1]["content"] == VICTIM:
            self.traps[point].spring()


def backwards(question: str) -> Sequence[str]:
    return [f"{word} " for word in reversed(question.split())]


class Remote(Kind):
    def made(self, parallel: int, waiting: int, seconds: float) -> EngineLoop:
        self.service = Service()
        here = small_model()
        elsewhere = Elsewhere(self.name, self.name, row_for("vllm", self.name), "127.0.0.1:1")
        hosted = HostedModel(elsewhere, self.service)
        model = EngineModel(self.name, hosted, here.text, here.spec, parsed=True)
        return RemoteLoop(model, Engine("vllm", [], {}, Node(), 1), parallel, waiting, seconds)

    def hold(self) -> None:
        self.service.gate.clear()

    def go_on(self) -> None:
        self.service.gate.set()

    @property
    def alone(self) -> Mapping[str, str]:
        return {question: "".join(backwards(question)) for question in (NEIGHBOUR, NEXT)}


KINDS: tuple[type[Kind], ...] = (Local, Remote)


async def until(what: Callable[[], bool], seconds: float = 10.0) -> None:
    end = time.monotonic() + seconds
    while not what():
        assert time.monotonic() < end, "it did not come to that"
        await asyncio.sleep(0.002)
