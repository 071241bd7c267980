"""The receipt: its sums, the experts that fired, the hash for replay, shares, energy, and what was predicted."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from torch.utils.flop_counter import FlopCounterMode

import trilens
from trilens.executors.accountant import Span
from trilens.executors.torch import TorchExecutor
from trilens.generate.limits import Limits
from trilens.generate.receipt import Ceiling, Phase, Receipt, phases, replay_hash
from trilens.generate.request import TokenWriter
from trilens.generate.sampling import Sampling
from trilens.generate.scheduler import Scheduler
from trilens.lenses.costs.predictor import Predictor
from trilens.lenses.machines.energy import EnergyMeter
from trilens.lenses.machines.machine import Layout, measured
from trilens.model import Model
from trilens.trials.routing import PHASES, trace

QUESTION = "What is 47 times 86?"
OPTIONS = {"thinking": True, "temperature": 0.7, "seed": 5}


@pytest.fixture(scope="module")
def routed() -> Model:
    return trilens.load("tiny-routed")


@pytest.fixture(scope="module")
def receipt(routed: Model) -> Receipt:
    return routed.generate(QUESTION, **OPTIONS).receipt


def test_the_sums_hold(receipt: Receipt) -> None:
    t, w = receipt.tokens, receipt.work
    assert t.thinking > 0 and t.answer > 0 and t.control > 0
    assert w.prefill.tokens == t.prompt - t.cached
    assert w.decode.tokens == w.thinking.tokens + w.answer.tokens == t.completion - 1  # the last is not fed
    for name in ("flops", "weight_bytes", "kv_bytes", "steps", "tokens"):
        assert getattr(w.decode, name) == getattr(w.thinking, name) + getattr(w.answer, name), name
    assert w.decode.seconds == pytest.approx(w.thinking.seconds + w.answer.seconds)
    assert receipt.kv_cache_bytes <= receipt.kv_held_bytes


class TestRoutes:
    def test_distinct_experts_are_the_traces(self, routed: Model, receipt: Receipt) -> None:
        traced = trace(routed, QUESTION, **OPTIONS)
        for phase, work in zip(PHASES, (receipt.work.prefill, receipt.work.thinking, receipt.work.answer), strict=True):
            rows = [p == phase for p in traced.phases]
            assert work.distinct_experts == sum(len(np.unique(layer.ids[rows])) for layer in traced.layers), phase
        assert receipt.work.decode.distinct_experts <= 4 * 8
        assert receipt.replay == traced.replay

    def test_operations_are_those_of_experts_with_weights(self, tiny_executor: Callable[[str], TorchExecutor]) -> None:
        """Of a model in which some have none: what PyTorch multiplies."""
        executor = tiny_executor("longcat-flash")
        scheduler = Scheduler(executor)
        request = scheduler.submit([5], Sampling(temperature=1.0, seed=3), Limits(30, 30), frozenset(), TokenWriter())
        with FlopCounterMode(display=False) as counter:
            while request.finish is None:
                scheduler.step()
        [phase] = phases(executor, request, [request.steps])
        assert phase.tokens == 30 and phase.flops == counter.get_total_flops()
        assert phase.flops != executor.costs.flops(30, 30, [Span(0, 30, 30)])  # what was expected

    def test_a_dense_model_has_none(self) -> None:
        work = trilens.load("tiny-dense").generate(QUESTION, temperature=0).receipt.work
        assert work.prefill.distinct_experts == work.decode.distinct_experts == 0

    def test_the_same_call_has_the_same_hash(self, routed: Model, receipt: Receipt) -> None:
        """Behind a cached prefix, in a batch, with other threads; and another call another one."""
        again = routed.generate(QUESTION, **OPTIONS).receipt
        assert again.tokens.cached > 0 and again.replay == receipt.replay
        together = routed.generate([QUESTION, "What is 3 plus 4?", QUESTION], **OPTIONS)
        assert [a.receipt.replay == receipt.replay for a in together] == [True, False, True]
        assert trilens.load("tiny-routed", threads=1).generate(QUESTION, **OPTIONS).receipt.replay == receipt.replay
        assert routed.generate(QUESTION, **{**OPTIONS, "max_tokens": 2}).receipt.replay != receipt.replay

    def test_it_is_of_routes_too(self) -> None:
        tokens, routes = [1, 2, 3], np.array([[0, 1], [2, 3]], np.uint16)
        other = routes.copy()
        other[1, 1] = 4
        assert len({replay_hash(tokens, None), replay_hash(tokens, routes), replay_hash(tokens, other)}) == 3

    def test_torch_keeps_the_same_routes(self) -> None:
        kept = []
        for executor in ("native", "torch"):
            model = trilens.load("tiny-routed", executor=executor, **({"kv": "f32"} if executor == "native" else {}))
            stream = model.stream(QUESTION, thinking=True, temperature=0)
            list(stream)
            kept.append(stream.calls[0].request.routes)
        assert kept[0].shape == kept[1].shape and (kept[0] == kept[1]).all()

    def test_a_sequence_that_goes_back_keeps_what_is_left(self, routed: Model) -> None:
        executor = routed.executor
        from trilens.executors.executor import StepInput

        one = executor.sequence(64)
        executor.step([StepInput(one, list(range(20)))])
        whole = one.routes().copy()
        two = one.fork(7, 64)
        assert two is not None and (two.routes() == whole[:7]).all()
        one.rewind(12)
        executor.step([StepInput(one, list(range(12, 20)))])
        assert (one.routes() == whole).all() and (one.routes(5) == whole[5:]).all()
        for sequence in (one, two):
            sequence.free()


class TestShares:
    def test_they_are_bytes_and_operations_over_the_ceiling(
        self, routed: Model, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(Predictor, "ceiling", lambda self: Ceiling(1e9, 1e12))
        phase: Phase = routed.generate(QUESTION, **OPTIONS).receipt.work.decode
        read = phase.weight_bytes + phase.kv_bytes
        assert phase.bandwidth_share == pytest.approx(read / phase.seconds / 1e9)
        assert phase.arithmetic_share == pytest.approx(phase.flops / phase.seconds / 1e12)

    def test_unknown_where_nothing_was_measured(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, routed: Model
    ) -> None:
        monkeypatch.setenv("TRILENS_CACHE", str(tmp_path))
        fresh = Model(routed.name, routed.files, routed.executor, routed.text)
        receipt = fresh.generate(QUESTION, **OPTIONS).receipt
        assert receipt.work.decode.bandwidth_share is None and receipt.prediction.token is None
        assert receipt.prediction.measured_on is None
        assert "not measured" in receipt.prediction.source and "bandwidth" not in receipt.as_text()


class TestPrediction:
    @pytest.mark.usefixtures("measured_roughly")
    def test_once_measured_each_call_says_what_was_predicted(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("TRILENS_CACHE", str(tmp_path))
        machine = measured(1, [Layout("BF16", "8bit", False), Layout("BF16", "8bit", True)])
        receipt = trilens.load("tiny-routed", threads=1).generate(QUESTION, **OPTIONS).receipt
        first, token, thinking = (
            receipt.prediction.first_token,
            receipt.prediction.token,
            receipt.prediction.thinking_tokens,
        )
        assert first is not None and token is not None and thinking is not None
        assert 0 < first.p10 < first.p50 < first.p90 and 0 < token.p10 < token.p50 < token.p90
        assert first.measured == receipt.work.prefill.seconds and thinking.measured == receipt.tokens.thinking
        assert token.measured == receipt.work.decode.seconds / receipt.work.decode.tokens
        assert (receipt.prediction.measured_on, receipt.prediction.runs) == (machine.date, 0)
        text = receipt.as_text()
        assert "\nforecast " in text and "% of the bandwidth" in text
        assert json.loads(json.dumps(receipt.as_dict()))["prediction"]["token"]["p50"] == token.p50

    def test_torch_is_not_predicted(self) -> None:
        receipt = trilens.load("tiny-dense", executor="torch").generate("What is 3 plus 4?", temperature=0).receipt
        assert receipt.prediction.token is None and "native" in receipt.prediction.source


class TestEnergy:
    def meter(self, folder: Path, joules: int, most: int = 2**32) -> EnergyMeter:
        for name in ("intel-rapl:0", "intel-rapl:1", "intel-rapl:0:0"):
            (folder / name).mkdir(exist_ok=True)
            self.set(folder, name, joules)
            (folder / name / "max_energy_range_uj").write_text(f"{most}\n")
        return EnergyMeter(folder)

    def set(self, folder: Path, name: str, joules: int) -> None:
        (folder / name / "energy_uj").write_text(f"{joules * 1_000_000}\n")

    def test_packages_and_not_what_is_in_them(self, tmp_path: Path) -> None:
        meter = self.meter(tmp_path, 100)
        for name, joules in (("intel-rapl:0", 103), ("intel-rapl:1", 104), ("intel-rapl:0:0", 102)):
            self.set(tmp_path, name, joules)
        assert meter.read().joules == pytest.approx(7.0)

    def test_a_counter_that_began_again(self, tmp_path: Path) -> None:
        meter = self.meter(tmp_path, 90, most=100_000_000 - 1)
        self.set(tmp_path, "intel-rapl:0", 5)
        self.set(tmp_path, "intel-rapl:1", 90)
        assert meter.read().joules == pytest.approx(15.0)

    def test_unknown_is_said(self, tmp_path: Path) -> None:
        assert EnergyMeter(tmp_path).read().joules is None
        meter = self.meter(tmp_path, 1)
        (tmp_path / "intel-rapl:1" / "energy_uj").unlink()
        assert meter.read().joules is None and "may not" in meter.read().source


def test_a_receipt_is_json_and_says_every_part(receipt: Receipt) -> None:
    data = json.loads(json.dumps(receipt.as_dict()))
    assert data["tokens"]["completion"] == receipt.tokens.completion
    assert data["replay"] == receipt.replay and data["determinism"].startswith("bit-identical in any batch")
    assert data["energy"]["joules"] is None or data["energy"]["joules"] > 0
    with_energy = replace(receipt, energy=replace(receipt.energy, joules=1.5, source="a test"))
    assert "energy   1.5 J, a test" in with_energy.as_text()
