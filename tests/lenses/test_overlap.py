"""How alike the experts of several tokens are: counted on a model, kept, and used by forecasts."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest

from trilens.checkpoints.find import find
from trilens.checkpoints.into_native import native_executor
from trilens.checkpoints.load import open_model
from trilens.cli import main
from trilens.executors.accountant import distinct_experts
from trilens.executors.executor import StepInput
from trilens.executors.native.executor import NativeExecutor
from trilens.lenses.costs.calibration import calibration, key_of
from trilens.lenses.machines.overlap import PROMPT, SEQUENCES, Overlap, traced


@pytest.fixture(scope="module")
def tiny_routed() -> NativeExecutor:
    files = open_model(find("tiny-routed"))
    executor = native_executor(files, threads=1)
    files.checkpoint.close()
    return executor


def fired(executor: NativeExecutor, feeds: list[StepInput]) -> float:
    """Different experts of an average layer in one step, from how often each was chosen."""
    before = executor.experts_fired()
    executor.step(feeds)
    layers = list(zip(before, executor.experts_fired(), strict=True))
    return sum(a != b for old, new in layers for a, b in zip(old, new, strict=True)) / len(layers)


def test_a_trace_says_how_many_experts_fire(tiny_routed: NativeExecutor) -> None:
    """The exponents, put back into the accountant's formula, give what the routers chose."""
    overlap = traced(tiny_routed)
    assert overlap is not None and 0 < overlap.text < 1 and 0 < overlap.texts < 1
    router = next(routed.router for _, routed in tiny_routed.spec.routed_layers())
    vocab = tiny_routed.spec.vocab
    sequences = [tiny_routed.sequence(PROMPT + 8) for _ in range(SEQUENCES)]
    tiny_routed.step([StepInput(sequences[0], [7])])
    prompts = [
        fired(tiny_routed, [StepInput(s, [(31 * n + 7 * i) % vocab for i in range(1, PROMPT)])])
        for n, s in enumerate(sequences)
    ]
    steps = [
        fired(tiny_routed, [StepInput(s, [(37 * n + 101 * i) % vocab]) for n, s in enumerate(sequences)])
        for i in range(8)
    ]
    for counted, lengths in ((prompts, [PROMPT - 1]), (steps, [1] * SEQUENCES)):
        said = distinct_experts(router.experts, router.chosen, overlap.independent(lengths))
        assert float(said) == pytest.approx(sum(counted) / len(counted), rel=1e-6)
    for sequence in sequences:
        sequence.free()


def test_a_model_without_experts_has_none() -> None:
    files = open_model(find("tiny-dense"))
    assert traced(native_executor(files, threads=1)) is None
    files.checkpoint.close()


@pytest.mark.parametrize("lengths", [[1], [5], [1, 1, 1], [7, 1]])
def test_independent_tokens(lengths: list[int]) -> None:
    assert Overlap(1, 1).independent(lengths) == pytest.approx(sum(lengths))
    assert Overlap(0, 0).independent(lengths) == pytest.approx(1)
    assert Overlap(0.5, 1).independent(lengths) == pytest.approx(sum(math.sqrt(n) for n in lengths))


def test_bench_keeps_it_for_forecasts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("TRILENS_CACHE", str(tmp_path))
    assert main(["bench", "tiny-routed", "--threads", "1", "--repeat", "1", "--decode", "1", "--json"]) == 0
    result = json.loads(capsys.readouterr().out)
    kept = calibration(key_of("tiny-routed", 1, result["activations"], "f16", result["weight_bytes"])).overlap
    assert kept is not None and 0 < kept.text < 1
    assert (kept.text, kept.texts) == pytest.approx(tuple(result["expert_overlap"].values()), abs=1e-4)
