"""Runs the requests of one model: the queue and its places, deadlines, cancellation and closing.

There are two kinds, which run calls differently: `LocalLoop` steps a model of this process, `RemoteLoop` has a thread
for each call to an engine. Everything else is here.
"""

from __future__ import annotations

import asyncio
import threading
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import AsyncIterator, Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, Generic

from typing_extensions import TypeVar

from trilens.errors import TrilensError
from trilens.serve.engine_model import AnyCall, AnyModel
from trilens.text.events import EndEvent, Event

C = TypeVar("C", bound=AnyCall, default=Any)


class Busy(TrilensError):
    """The queue is full."""


class TimeIsUp(TrilensError):
    """A request took longer than the time limit."""


class ShuttingDown(TrilensError):
    """No new request is accepted."""


class LoopFailed(TrilensError):
    """The loop of a model has stopped for good, or is stuck in a step."""


@dataclass(eq=False)
class Running:
    """One request and its calls. The loop wakes its reader, which then takes the events from the calls.

    Its methods belong to the reader's event loop.
    """

    calls: Sequence[AnyCall]
    loop: EngineLoop
    reader: asyncio.AbstractEventLoop
    failure: BaseException | None = None  # set before its calls are ended
    left: bool = False  # nobody reads it any more
    arrived: asyncio.Event = field(default_factory=asyncio.Event)
    expiry: asyncio.TimerHandle | None = None

    async def batches(self) -> AsyncIterator[list[Event[Any]]]:
        """The events since the last batch. Ends after the end of the last call. Raises the error that ended one of
        them. A reader that stops early cancels what still runs.
        """
        try:
            while not all(call.finished for call in self.calls):
                await self.arrived.wait()
                self.arrived.clear()
                events: list[Event[Any]] = [event for call in self.calls for event in call.events()]
                self.loop.wake()
                failure = self.failure  # looked at after the events: a call that it has ended shows no end
                if failure is not None:
                    events = [event for event in events if not isinstance(event, EndEvent)]
                if events:
                    yield events
                if failure is not None:
                    raise failure
        finally:
            self.cancel()

    def answer_now(self) -> None:
        """End the thinking of its calls."""
        for call in self.calls:
            call.answer_now()

    def cancel(self) -> None:
        """End what still runs or waits. Does nothing for a finished request."""
        if self.expiry is not None:
            self.expiry.cancel()
        self.loop.leave(self)


class EngineLoop(ABC, Generic[C]):
    """Runs `parallel` calls at once and queues up to `waiting` more. A request may take `seconds`.

    Each request fails alone, with its own error. Deadlines are timers of the reader's event loop, so they hold even
    while a call or a step hangs. `failure` is set when nothing can be run any more: every client then gets it, and new
    requests are refused with it.
    """

    def __init__(self, model: AnyModel, parallel: int, waiting: int, seconds: float) -> None:
        self.model = model
        self.seconds = seconds
        self.failure: TrilensError | None = None
        self._parallel, self._most_waiting = parallel, waiting
        self._line: deque[tuple[Running, C]] = deque()
        self._active: dict[C, Running] = {}  # the calls that have a place
        self._closing = False
        self._changed = threading.Condition()  # guards all of these; never held while anything else is called

    @property
    def running(self) -> int:
        return len(self._active)

    @property
    def waiting(self) -> int:
        return len(self._line)

    @property
    def idle(self) -> bool:
        return not self._active and not self._line

    @property
    def problem(self) -> TrilensError | None:
        """The reason why it cannot answer at the moment; None if it can."""
        return self.failure

    def enter(self, calls: Sequence[C]) -> Running:
        """Queue a request, from its reader's event loop. Raises Busy, ShuttingDown, and `failure`."""
        running = Running(calls, self, asyncio.get_running_loop())
        with self._changed:
            if self.failure is not None:
                raise self.failure.with_traceback(None)  # or it would keep the frames of everybody it was raised for
            if self._closing:
                raise ShuttingDown("the server is shutting down; try another one, or later")
            free = max(0, self._parallel - len(self._active)) + self._most_waiting
            if len(self._line) + len(calls) > free:
                raise Busy(
                    f"{len(self._active)} calls run and {len(self._line)} wait, the maximum; try again in a moment"
                )
            self._line.extend((running, call) for call in calls)
        late = TimeIsUp(f"the request ran longer than {self.seconds:g} s, which is the maximum")
        running.expiry = running.reader.call_later(self.seconds, self.fail, running, late)
        self.wake()
        return running

    def leave(self, running: Running) -> None:
        """Nobody reads this request any more: remove it from the queue at once, and stop what runs of it."""
        with self._changed:
            if running.left:
                return
            running.left = True
            if any(waits is running for waits, _ in self._line):
                self._line = deque(place for place in self._line if place[0] is not running)
            calls = [call for call in running.calls if call in self._active]
            self._changed.notify_all()
        if calls:
            self._stop(calls)

    def fail(self, running: Running, fault: BaseException) -> None:
        """End a request with an error, from any thread. Its reader gets the first error."""
        if running.failure is None:
            running.failure = fault
        self.leave(running)
        tell([running])

    def give_up(self, problem: TrilensError) -> None:
        """The loop cannot continue: every client gets this error, and so does every new request."""
        with self._changed:
            self.failure = self.failure or problem
        self._fail_all(problem)

    def close(self, seconds: float) -> None:
        """Accept nothing new, finish what there is, and end the threads. What is left after `seconds` fails."""
        with self._changed:
            self._closing = True
            self._changed.wait_for(lambda: self.idle, max(0.0, seconds))
        self._fail_all(ShuttingDown("the server has shut down"))
        self._end_threads()

    @abstractmethod
    def wake(self) -> None:
        """A request has arrived or was read, so there may be work. From any thread."""

    @abstractmethod
    def _stop(self, calls: Sequence[C]) -> None:
        """Stop these calls, which run, without waiting for it; `_over` follows for each."""

    @abstractmethod
    def _end_threads(self) -> None: ...

    def _next(self) -> tuple[Running, C] | None:
        """The first call of the queue, which gets a place; None if nobody waits or no place is free."""
        with self._changed:
            if not self._line or len(self._active) >= self._parallel:
                return None
            running, call = self._line.popleft()
            self._active[call] = running
            return running, call

    def _over(self, call: C) -> None:
        """Free the place of a call."""
        with self._changed:
            self._active.pop(call, None)
            self._changed.notify_all()

    def _fail_all(self, problem: BaseException) -> None:
        with self._changed:
            everybody = {*self._active.values(), *(running for running, _ in self._line)}
        for running in everybody:
            self.fail(running, problem)


@dataclass(frozen=True)
class Serving:
    """What one served name means for a request: the loop that runs its model, and the adapter that it uses."""

    name: str
    loop: EngineLoop[Any]
    adapter: str | None = None

    @property
    def model(self) -> AnyModel:
        return self.loop.model

    @property
    def seconds(self) -> float:
        return self.loop.seconds

    @property
    def options(self) -> dict[str, Any]:
        """What `prepare` takes for it."""
        return {} if self.adapter is None else {"adapter": self.adapter}

    def enter(self, calls: Sequence[Any]) -> Running:
        """See `EngineLoop.enter`."""
        return self.loop.enter(calls)


def tell(those: Iterable[Running]) -> None:
    """Wake their readers, all of one event loop together."""
    readers: dict[asyncio.AbstractEventLoop, list[Running]] = {}
    for running in those:
        readers.setdefault(running.reader, []).append(running)
    for reader, together in readers.items():
        with suppress(RuntimeError):  # the event loop is closed: nobody waits any more
            reader.call_soon_threadsafe(_wake, together)


def _wake(those: Sequence[Running]) -> None:
    for running in those:
        running.arrived.set()
