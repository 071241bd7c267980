"""One thread per loaded model: it steps all requests together and hands what comes to whoever waits for it."""

from __future__ import annotations

import asyncio
import threading
import time
from collections import deque
from collections.abc import AsyncIterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field

from trilens.errors import CacheFull, TrilensError
from trilens.generate.scheduler import UNREAD
from trilens.model import Call, EndEvent, Event, Model

ROOM = UNREAD  # pieces that wait for a reader; more, and its request is left out until it reads
MANY = 4  # calls, from which on readers are woken together ...
TOGETHER = 0.02  # ... no more often than this many seconds; a screen shows no more
CROWD = 32  # calls, from which on it is half as often; a reader hardly sees more


class Busy(TrilensError):
    """As many requests wait as may."""


class TimeIsUp(TrilensError):
    """A request ran longer than a request may."""


class ShuttingDown(TrilensError):
    """Nothing new is begun."""


@dataclass(eq=False)
class Running:
    """One request and its calls. The pump wakes its reader, who takes from the calls what there is."""

    calls: Sequence[Call]
    pump: Pump
    deadline: float
    _loop: asyncio.AbstractEventLoop
    _arrived: asyncio.Event = field(default_factory=asyncio.Event)
    _failure: BaseException | None = None
    cancelled: bool = False

    async def batches(self) -> AsyncIterator[list[Event]]:
        """What has come since the last one; ends behind the last call's end. Raises what stopped one of them. Whoever
        leaves early cancels what still runs."""
        try:
            while not all(call.finished for call in self.calls):
                await self._arrived.wait()
                self._arrived.clear()
                events = [event for call in self.calls for event in call.events()]
                self.pump.notice()
                failure = self._failure  # set before its call is ended
                if failure is not None:
                    events = [event for event in events if not isinstance(event, EndEvent)]
                if events:
                    yield events
                if failure is not None:
                    raise failure
        finally:
            self.cancel()

    def answer_now(self) -> None:
        for call in self.calls:
            call.answer_now()

    def cancel(self) -> None:
        self.cancelled = True
        self.pump.notice()


class Pump:
    """`parallel` calls run at once, `waiting` more may wait."""

    def __init__(self, model: Model, parallel: int, waiting: int, seconds: float) -> None:
        self.model = model
        self._parallel, self._most_waiting, self._seconds = parallel, waiting, seconds
        self._waiting: deque[tuple[Running, Call]] = deque()
        self._active: list[tuple[Running, Call]] = []
        self._untold: dict[int, Running] = {}  # what has come and nobody was told of yet
        self._told = 0.0
        self._turn = threading.Condition()
        self._changed = self._closing = self._stopped = False
        self._thread = threading.Thread(target=self._run, name="pump", daemon=True)
        self._thread.start()

    @property
    def running(self) -> int:
        return len(self._active)

    @property
    def waiting(self) -> int:
        return len(self._waiting)

    @property
    def idle(self) -> bool:
        return not self._active and not self._waiting

    def enter(self, calls: Sequence[Call]) -> Running:
        """Put a request in line. Raises Busy, ShuttingDown."""
        running = Running(calls, self, time.monotonic() + self._seconds, asyncio.get_running_loop())
        with self._turn:
            if self._closing:
                raise ShuttingDown("the server is shutting down; try another one, or later")
            free = max(0, self._parallel - len(self._active)) + self._most_waiting
            if len(self._waiting) + len(calls) > free:
                raise Busy(
                    f"{len(self._active)} calls run and {len(self._waiting)} wait, the most here; try again in a moment"
                )
            self._waiting.extend((running, call) for call in calls)
        self.notice()
        return running

    def notice(self) -> None:
        """Something has changed that the thread should look at."""
        with self._turn:
            self._changed = True
            self._turn.notify_all()

    def close(self, seconds: float) -> None:
        """Begin nothing new, finish what runs, and end the thread; what still runs after `seconds` is cancelled."""
        with self._turn:
            self._closing = True
        end = time.monotonic() + seconds
        while not self.idle and time.monotonic() < end:
            time.sleep(0.02)
        self._stopped = True
        self.notice()
        self._thread.join()
        for running, call in (*self._active, *self._waiting):
            self._fail(running, ShuttingDown("the server has shut down"))
            call.cancel()

    def _run(self) -> None:
        while not self._stopped:
            self._changed = False
            self._admit()
            self._leave_out()
            try:
                stepped = self.model.step()
            except Exception as fault:  # of no call's: everybody's
                stepped = True
                for running, _ in self._active:
                    self._fail(running, fault)
            self._hand_over(at_once=not stepped)
            if not stepped:
                with self._turn:
                    if not self._changed:
                        self._turn.wait(0.5)

    def _admit(self) -> None:
        while len(self._active) < self._parallel:
            with self._turn:
                if not self._waiting:
                    return
                running, call = self._waiting[0]
            if not running.cancelled and running._failure is None:
                try:
                    call.submit()
                except CacheFull as full:
                    if self._active:
                        return  # it waits until one of these gives its memory back
                    self._fail(running, full)
                except Exception as fault:
                    self._fail(running, fault)
                else:
                    self._active.append((running, call))
            with self._turn:
                self._waiting.popleft()

    def _leave_out(self) -> None:
        """End what was cancelled or has had its time."""
        now = time.monotonic()
        for running, call in self._active:
            if now > running.deadline and running._failure is None:
                self._fail(running, TimeIsUp(f"the request ran longer than {self._seconds:g} s, the most here"))
            if running.cancelled or running._failure is not None:
                call.cancel()
        self._active = [(r, c) for r, c in self._active if not r.cancelled and r._failure is None]
        with self._turn:
            if any(r.cancelled for r, _ in self._waiting):
                self._waiting = deque((r, c) for r, c in self._waiting if not r.cancelled)

    def _hand_over(self, at_once: bool) -> None:
        active, ended = [], []
        for running, call in self._active:
            generation = call.generation
            assert generation is not None, "what is active was submitted"
            if generation.failure is not None:
                self._fail(running, generation.failure)
                continue
            if call.watched:
                call.note_routes()
            if generation.unread or generation.finish is not None:
                self._untold[id(running)] = running
                at_once |= len(generation.unread) >= ROOM // 2
            if generation.finish is None:
                active.append((running, call))
            else:
                self._untold.pop(id(running), None)
                ended.append(running)  # at once, for its client may have another question
        self._active = active
        now = time.monotonic()
        pause = TOGETHER if len(active) < CROWD else 2 * TOGETHER
        if at_once or len(active) < MANY or now - self._told >= pause:
            self._told = now
            ended += self._untold.values()
            self._untold.clear()
        _tell(ended)

    def _fail(self, running: Running, fault: BaseException) -> None:
        running._failure = fault
        _tell([running])


def _tell(those: Sequence[Running]) -> None:
    """Wake their readers, all of one event loop together."""
    loops: dict[asyncio.AbstractEventLoop, list[Running]] = {}
    for running in those:
        loops.setdefault(running._loop, []).append(running)
    for loop, readers in loops.items():
        with suppress(RuntimeError):  # the loop is closed: nobody waits any more
            loop.call_soon_threadsafe(_wake, readers)


def _wake(those: Sequence[Running]) -> None:
    for running in those:
        running._arrived.set()
