"""A loaded model's own threads: they step all requests together and hand what comes to whoever waits for it."""

from __future__ import annotations

import asyncio
import math
import threading
import time
from collections import deque
from collections.abc import AsyncIterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field

from trilens.errors import CacheFull, TrilensError
from trilens.generate.scheduler import UNREAD, Generation
from trilens.model import Call, EndEvent, Event, Model

ROOM = UNREAD  # pieces that wait for a reader; more, and its request is left out until it reads
MANY = 4  # calls, from which on readers are woken together ...
TOGETHER = 0.02  # ... no more often than this many seconds; a screen shows no more
AHEAD = 0.003  # seconds for which so many draw token after token before what came is looked at
CROWD = 32  # calls, from which on readers are woken half as often, and steps shorter than AHEAD are done in lanes


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
        self.pump.leave(self)


class Pump:
    """`parallel` calls run at once, `waiting` more may wait.

    One thread steps them all. Where these are many and steps short, what is done between two (each token's text,
    waiting for Python's lock) takes a good part of the time: then each lane's thread steps its part of them.
    """

    def __init__(self, model: Model, parallel: int, waiting: int, seconds: float) -> None:
        self.model = model
        self._parallel, self._most_waiting, self._seconds = parallel, waiting, seconds
        self._waiting: deque[tuple[Running, Call]] = deque()
        self._active: dict[Generation, tuple[Running, Call]] = {}
        self._left: deque[Running] = deque()  # nobody reads them any more
        self._untold: dict[int, Running] = {}  # what has come and nobody was told of yet
        self._told = 0.0
        self._step_seconds = math.inf  # of late
        self._split = threading.Event()  # all lanes step
        self._turn = threading.Condition()
        self._door = threading.Lock()  # of who comes, who goes and who is told
        self._news = 0
        self._closing = self._stopped = False
        self._threads = [
            threading.Thread(target=self._run, args=(lane,), name=f"pump {lane}", daemon=True)
            for lane in range(model.lanes)
        ]
        for thread in self._threads:
            thread.start()

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

    def leave(self, running: Running) -> None:
        """Nobody reads it any more: what of it still runs or waits ends."""
        self._left.append(running)
        self.notice()

    def notice(self) -> None:
        """Something has changed that the threads should look at."""
        with self._turn:
            self._news += 1
            self._turn.notify_all()

    def close(self, seconds: float) -> None:
        """Begin nothing new, finish what runs, and end the threads; what still runs after `seconds` is cancelled."""
        with self._turn:
            self._closing = True
        end = time.monotonic() + seconds
        while not self.idle and time.monotonic() < end:
            time.sleep(0.02)
        with self._turn:
            self._stopped = True
            self._split.set()
        self.notice()
        for thread in self._threads:
            thread.join()
        for running, call in (*self._active.values(), *self._waiting):
            self._fail(running, ShuttingDown("the server has shut down"))
            call.cancel()

    def _run(self, lane: int) -> None:
        while not self._stopped:
            if lane > 0:
                self._split.wait()
            else:
                self._weigh()
            seen, begin = self._news, time.monotonic()
            with self._door:
                self._leave_out(begin)
                self._admit()
            try:
                ahead = AHEAD if len(self._active) >= MANY else 0.0
                stepped = self.model.step(lane if self._split.is_set() else None, ahead)
            except Exception as fault:  # of no call's: everybody's
                stepped = []
                for running, _ in list(self._active.values()):
                    self._fail(running, fault)
            with self._door:
                self._hand_over(stepped)
            if not stepped:
                with self._turn:
                    if self._news == seen:
                        self._turn.wait(0.5)
            elif lane == 0 and stepped[0].steps:
                last, took = self._step_seconds, stepped[0].steps[-1].seconds
                self._step_seconds = took if last == math.inf else 0.9 * last + 0.1 * took

    def _weigh(self) -> None:
        """Whether the calls are many and their steps short."""
        split = self._split.is_set()
        many, short = (CROWD // 2, 2 * AHEAD) if split else (CROWD, AHEAD)
        wanted = len(self._active) >= many and self._step_seconds < short and self.model.lanes > 1
        if wanted != split:
            with self._turn:
                if wanted or self._stopped:
                    self._split.set()
                else:
                    self._split.clear()

    def _admit(self) -> None:
        while self._waiting and len(self._active) < self._parallel:
            running, call = self._waiting[0]  # who has the door alone takes from there
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
                    assert call.generation is not None, "it was submitted"
                    self._active[call.generation] = running, call
            with self._turn:
                self._waiting.popleft()

    def _leave_out(self, now: float) -> None:
        """End what was cancelled, has failed or has had its time."""
        for running, _ in self._active.values():  # in the order of their deadlines
            if now <= running.deadline:
                break
            if running._failure is None:
                self._fail(running, TimeIsUp(f"the request ran longer than {self._seconds:g} s, the most here"))
        while self._left:
            left = self._left.popleft()
            for call in left.calls:
                if call.generation is not None and self._active.pop(call.generation, None) is not None:
                    call.cancel(wait=False)
            if self._waiting:
                with self._turn:
                    self._waiting = deque((r, c) for r, c in self._waiting if r is not left)

    def _hand_over(self, stepped: Sequence[Generation]) -> None:
        at_once, ended = not stepped, []
        for generation in stepped:
            if generation not in self._active:
                continue  # it was cancelled meanwhile
            running, _ = self._active[generation]
            if generation.failure is not None:
                self._fail(running, generation.failure)
                continue
            if generation.unread or generation.finish is not None:
                self._untold[id(running)] = running
                at_once |= len(generation.unread) >= ROOM // 2
            if generation.finish is not None:
                del self._active[generation]
                self._untold.pop(id(running), None)
                ended.append(running)  # at once, for its client may have another question
        now, calls = time.monotonic(), len(self._active)
        pause = TOGETHER if calls < CROWD else 2 * TOGETHER
        if at_once or calls < MANY or now - self._told >= pause:
            self._told = now
            ended += self._untold.values()
            self._untold.clear()
        _tell(ended)

    def _fail(self, running: Running, fault: BaseException) -> None:
        running._failure = fault
        self._left.append(running)
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
