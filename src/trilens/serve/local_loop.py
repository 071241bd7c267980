"""The loop of a model that runs here: its threads step all requests together."""

from __future__ import annotations

import logging
import math
import threading
import time
from collections import deque
from collections.abc import Sequence
from contextlib import suppress

from trilens.errors import TrilensError
from trilens.generate.request import UNREAD, Request
from trilens.model import Call, Model
from trilens.serve.loop import EngineLoop, LoopFailed, Running, tell

MANY = 4  # calls, from which on readers are woken together ...
TOGETHER = 0.02  # ... no more often than this many seconds; a screen shows no more
AHEAD = 0.003  # seconds for which so many draw token after token before what came is looked at
FEW_AHEAD = 0.001  # the same for fewer; longer steps than this are looked at one by one
CROWD_AHEAD = 0.02  # the same for a crowd, whose readers are told more seldom than that; a new prompt waits for so long
CROWD = 32  # calls, from which on readers are woken half as often, and steps shorter than AHEAD are done in steppers
FAULTS = 5  # faults of the loop itself in a row, with no step between them that worked, after which it gives up
PATIENCE = 5.0  # seconds for which closing waits for a thread that is inside a step

log = logging.getLogger("trilens.serve")


class LocalLoop(EngineLoop[Call]):
    """One thread steps all calls. If there are many calls and steps are short, the work between two steps (each token's
    text, waiting for Python's lock) takes much of the time. Then each stepper's thread steps its part of the calls.

    The scheduler stores an error of one request with that request and ends only it. An exception in the loop's own code
    cannot be attributed, so it ends the running calls, and the loop continues. After `FAULTS` of these in a row, or if
    a thread would end, the loop gives up.
    """

    model: Model

    def __init__(self, model: Model, parallel: int, waiting: int, seconds: float) -> None:
        super().__init__(model, parallel, waiting, seconds)
        self._calls: dict[Request, tuple[Running, Call]] = {}  # those that the model has
        self._left: deque[Call] = deque()  # to be stopped
        self._untold: dict[int, Running] = {}  # readers that have not been told yet of what has come
        self._told = 0.0
        self._step_seconds = math.inf  # of late
        self._split = threading.Event()  # all steppers step
        self._door = threading.Lock()  # guards all of these; held by one of the threads while it admits and hands over
        self._news = self._faults = 0
        self._stopped = False
        self._stepping: list[float] = [math.inf] * model.steppers  # of each stepper, since when it has been in a step
        self._threads = [
            threading.Thread(target=self._run, args=(stepper,), name=f"loop {stepper}", daemon=True)
            for stepper in range(model.steppers)
        ]
        for thread in self._threads:
            thread.start()

    @property
    def problem(self) -> TrilensError | None:
        """Also reports a step that takes longer than a whole request may."""
        if self.failure is None and time.monotonic() - min(self._stepping) > self.seconds:
            return LoopFailed(f"{self.model.name}: a step has not ended for more than {self.seconds:g} s")
        return self.failure

    def wake(self) -> None:
        with self._changed:
            self._news += 1
            self._changed.notify_all()

    def give_up(self, problem: TrilensError) -> None:
        super().give_up(problem)
        self._tell_threads_to_end()

    def _stop(self, calls: Sequence[Call]) -> None:
        self._left.extend(calls)
        self.wake()

    def _end_threads(self) -> None:
        self._tell_threads_to_end()
        for thread in self._threads:
            thread.join(PATIENCE)
            if thread.is_alive():
                log.error("%s: a step has not ended; its thread is left behind", self.model.name)

    def _tell_threads_to_end(self) -> None:
        with self._changed:
            self._stopped = True
            self._split.set()
        self.wake()

    def _run(self, stepper: int) -> None:
        try:
            while not self._stopped:
                try:
                    self._turn(stepper)
                except Exception as fault:
                    self._outlive(fault)
        except BaseException as fault:
            log.critical("%s: the loop has ended", self.model.name, exc_info=fault)
            self.give_up(self._failed(fault))
        with self._door, suppress(Exception):  # what is broken may be this
            self._let_go()
        if self.failure is not None:
            with self._changed:
                self._active.clear()  # nobody steps them any more

    def _turn(self, stepper: int) -> None:
        """Admit calls, run one step, hand over the results."""
        if stepper > 0:
            self._split.wait()
        else:
            self._weigh()
        seen = self._news
        with self._door:
            self._let_go()
            self._admit()
        calls = len(self._calls)
        ahead = FEW_AHEAD if calls < MANY else AHEAD if calls < CROWD else CROWD_AHEAD
        self._stepping[stepper] = time.monotonic()
        try:
            stepped = self.model.step(stepper if self._split.is_set() else None, ahead)
        finally:
            self._stepping[stepper] = math.inf
        with self._door:
            self._hand_over(stepped)
        if stepped:
            self._faults = 0
            if stepper == 0 and stepped[0].steps:
                last, took = self._step_seconds, stepped[0].steps[-1].seconds
                self._step_seconds = took if last == math.inf else 0.9 * last + 0.1 * took
            return
        with self._changed:
            if self._news == seen:
                self._changed.wait(0.5)

    def _outlive(self, fault: Exception) -> None:
        """Handle an error in the loop's own code, or of the model as a whole: end the calls that it may have
        affected.
        """
        log.error("%s: the loop has a fault", self.model.name, exc_info=fault)
        self._faults += 1
        if self._faults >= FAULTS:
            self.give_up(self._failed(fault))
            return
        with self._changed:
            touched = set(self._active.values())
        for running in touched:
            self.fail(running, fault)

    def _failed(self, fault: BaseException) -> LoopFailed:
        kind = type(fault).__name__
        return LoopFailed(f"{self.model.name}: its loop stopped after a fault ({kind}); see the log, then restart")

    def _weigh(self) -> None:
        """Whether the calls are many and their steps short."""
        split = self._split.is_set()
        many, short = (CROWD // 2, 2 * AHEAD) if split else (CROWD, AHEAD)
        wanted = len(self._calls) >= many and self._step_seconds < short and self.model.steppers > 1
        if wanted != split:
            with self._changed:
                if wanted or self._stopped:  # whoever waits for this must see that all is over
                    self._split.set()
                else:
                    self._split.clear()

    def _admit(self) -> None:
        while (place := self._next()) is not None:
            running, call = place
            try:
                call.submit()
            except Exception as fault:
                self._over(call)
                self.fail(running, fault)
            else:
                assert call.request is not None, "it was submitted"
                self._calls[call.request] = running, call

    def _let_go(self) -> None:
        """End the calls that nobody reads any more."""
        while self._left:
            call = self._left.popleft()
            self._over(call)
            if call.request is not None:
                self._calls.pop(call.request, None)
                try:
                    call.cancel(wait=False)
                except Exception as fault:  # its client has left, and the others are not to blame
                    log.error("%s: a request could not be ended", self.model.name, exc_info=fault)

    def _hand_over(self, stepped: Sequence[Request]) -> None:
        at_once, ended = not stepped, []
        for request in stepped or [g for g in self._calls if g.finish is not None]:  # some may end outside a step
            if request not in self._calls:
                continue  # it was cancelled meanwhile
            running, call = self._calls[request]
            if request.failure is not None:
                self.fail(running, request.failure)
                continue
            if request.unread or request.finish is not None:
                self._untold[id(running)] = running
                at_once |= len(request.unread) >= UNREAD // 2
            if request.finish is not None:
                del self._calls[request]
                self._over(call)
                self._untold.pop(id(running), None)
                ended.append(running)  # at once, for its client may have another question
        now, calls = time.monotonic(), len(self._calls)
        pause = TOGETHER if calls < CROWD else 2 * TOGETHER
        if at_once or calls < MANY or now - self._told >= pause:
            self._told = now
            ended += self._untold.values()
            self._untold.clear()
        tell(ended)
