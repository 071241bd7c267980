"""The loop of a model that an engine runs: a thread for each call under way."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from contextlib import closing

from trilens.errors import ServiceFailed, Unreachable
from trilens.serve.engine import Engine
from trilens.serve.engine_model import EngineCall, EngineModel
from trilens.serve.loop import EngineLoop, Running, tell

NEWS = 3.0  # seconds in which an engine that broke an answer off turns out to have died


class RemoteLoop(EngineLoop[EngineCall]):
    model: EngineModel

    def __init__(self, model: EngineModel, engine: Engine, parallel: int, waiting: int, seconds: float) -> None:
        super().__init__(model, parallel, waiting, seconds)
        self._engine = engine

    def wake(self) -> None:
        """Begin the calls for which there is a place."""
        while (place := self._next()) is not None:
            running, call = place
            try:
                threading.Thread(target=self._run, args=place, name="engine call", daemon=True).start()
            except Exception as problem:  # the system gives no more threads
                self._over(call)
                self.fail(running, problem)

    def _stop(self, calls: Sequence[EngineCall]) -> None:
        """Each ends with the next piece that comes, and its connection with it."""
        for call in calls:
            call.stop()

    def _end_threads(self) -> None:
        """They end with their calls; one that waits for a silent engine ends with the process."""

    def _run(self, running: Running, call: EngineCall) -> None:
        try:
            with closing(call.stream):
                for event in call.stream:
                    if not call.put(event):
                        return
                    tell([running])
            if call.receipt is None:
                raise ServiceFailed("the engine ended the answer without an end")
        except (ServiceFailed, Unreachable) as problem:
            self.fail(running, self._engine.died(NEWS) or problem)
        except BaseException as problem:  # of whatever kind: its client must hear of it
            self.fail(running, problem)
        finally:
            self._over(call)
            self.wake()
