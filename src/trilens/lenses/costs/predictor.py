"""A call's prediction next to the measured value, and what each call teaches the next prediction."""

from __future__ import annotations

import threading
import time
from dataclasses import replace
from functools import cache, lru_cache
from typing import Any

from trilens.executors.executor import Executor
from trilens.executors.native.executor import NativeExecutor
from trilens.generate.receipt import Ceiling, Predicted, Prediction, Receipt
from trilens.lenses.costs.calibration import Calibration, add, calibration, key_of, ratios
from trilens.lenses.costs.forecast import Interval, corrected, thinking_length
from trilens.lenses.costs.predict import Runner, measurables_of, runner_of
from trilens.lenses.machines.machine import Machine, kept

LEARNING = 0.003  # of the calls' own seconds, that files are read and written for


class Predictor:
    """The predictor of one loaded model, for any number of threads. Short calls teach nothing, because writing the
    file would take longer.
    """

    def __init__(self, name: str, executor: Executor) -> None:
        self._executor = executor
        self._known = Calibration()
        self._runner: Runner | None = None
        self._ceiling: Ceiling | None = None
        self._allowance = 0.0  # seconds
        self._lock = threading.Lock()
        self._name = name
        if isinstance(executor, NativeExecutor):
            self._refresh(executor)

    def ceiling(self) -> Ceiling | None:
        return self._ceiling

    def complete(self, receipt: Receipt) -> Receipt:
        """The receipt with its prediction, computed from what was known before the call. Then learn from the call."""
        executor = self._executor
        if not isinstance(executor, NativeExecutor):
            return replace(receipt, prediction=Prediction(None, None, None, "only the native executor is predicted"))
        with self._lock:
            made = replace(receipt, prediction=self._prediction(receipt))
            begin = time.perf_counter()
            own = (receipt.work.prefill.seconds + receipt.work.decode.seconds) / receipt.batch
            self._allowance += LEARNING * own
            if self._allowance >= 0:
                self._learn(executor, receipt)
                self._refresh(executor)
                self._allowance -= time.perf_counter() - begin
        return made

    def _prediction(self, receipt: Receipt) -> Prediction:
        t, work, run = receipt.tokens, receipt.work, self._runner
        thinking = None
        if receipt.thinking.thought:
            length = self._length(str(receipt.thinking.effective))
            thinking = _beside(length.tokens, t.thinking)
        if run is None:
            missing = "this machine was not measured for this model; `trilens plan` does it"
            return Prediction(None, None, thinking, missing)
        first, token, runs = None, None, 0
        adapter = None if receipt.adapter is None else receipt.adapter.name
        if work.prefill.steps:
            seconds, runs = corrected(self._first(adapter, t.prompt, t.cached), self._known.prefill)
            first = _beside(seconds, work.prefill.seconds)
        if work.decode.steps:
            context = t.prompt + work.decode.tokens // 2 + 1
            seconds, runs = corrected(self._token(adapter, context, receipt.batch), self._known.decode)
            token = _beside(seconds, work.decode.seconds / work.decode.tokens)
        source = (
            f"this machine's kernels, measured on {run.machine.date}, and {runs} run{'s' * (runs != 1)} of this model"
        )
        return Prediction(first, token, thinking, source, run.machine.date, runs)

    def _learn(self, executor: NativeExecutor, receipt: Receipt) -> None:
        """Times from a call that ran by itself, where this machine was measured for its model; lengths from each."""
        learnt: dict[str, Any] = {}
        if receipt.thinking.thought and receipt.thinking.closed_by == "model":
            learnt["thinking"] = {str(receipt.thinking.effective): receipt.tokens.thinking}
        if self._runner is not None and receipt.batch == 1 and receipt.adapter is None:
            learnt |= ratios(self._runner, receipt)
        if learnt:
            add(self._key(executor), learnt)

    def _refresh(self, executor: NativeExecutor) -> None:
        self._known = known = calibration(self._key(executor))
        self._length = cache(lambda word: thinking_length(word, known))
        if self._runner is None:
            machine = kept(executor.threads)
            wanted = measurables_of(executor.program, executor.types, executor.activations)
            if machine is not None and not machine.missing(wanted, executor.kv):
                self._runner = run = runner_of(executor, machine, known.overlap)
                self._ceiling = ceiling(machine)
                # many calls are alike, and a forecast takes longer than the answer of a small model
                runs: dict[str | None, Runner] = {None: run}
                for name, held in executor.adapters.items():
                    runs[name] = replace(run, adapter_numbers=held.parameters)
                self._first = lru_cache(4096)(
                    lambda name, prompt, cached: runs[name].first_token_seconds(prompt, cached)
                )
                self._token = lru_cache(4096)(lambda name, context, batch: runs[name].token_seconds(context, batch))

    def _key(self, executor: NativeExecutor) -> str:
        return key_of(self._name, executor.threads, executor.activations, executor.kv, executor.weight_bytes)


def ceiling(machine: Machine) -> Ceiling:
    """Memory's bandwidth with the machine's threads, and its fastest measured kernel of any layout."""
    products = [s.seconds for name, s in machine.speeds.items() if name.startswith("linear/")]
    return Ceiling(machine.memory_read[machine.threads], max(2 / min(seconds) for seconds in products))


def _beside(interval: Interval, measured: float) -> Predicted:
    return Predicted(interval.p10, interval.p50, interval.p90, measured)
