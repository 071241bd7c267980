"""Forecasts for other machines: what a model is reduced to, the terms of a step, and the fitted constants."""

from __future__ import annotations

from dataclasses import replace

import pytest

from trilens.errors import UsageError
from trilens.executors.accountant import count_parameters, token_cost
from trilens.lenses.cards.source import card_source
from trilens.lenses.costs.costs import Step, costs, group, terms
from trilens.lenses.costs.shape import Shape, shape_from, shape_of
from trilens.lenses.costs.weight_format import Bits, bits_of
from trilens.lenses.machines.target import accelerators, target
from trilens.spec.model import ModelSpec

MODELS = ("llama-3-8b", "gpt-oss-20b", "gemma-3-4b-it", "deepseek-v2-lite", "qwen3.6-35b-a3b")
ENGINES = ("llama.cpp", "vllm", "mlx-lm")


def _spec(model: str) -> ModelSpec:
    reading = card_source(model, offline=True).reading
    assert reading is not None
    return reading.spec


@pytest.mark.parametrize("model", MODELS)
def test_a_shape_counts_what_the_accountant_counts(model: str) -> None:
    spec = _spec(model)
    shape = shape_of(spec)
    assert shape.total == count_parameters(spec).total
    assert shape_from(shape.as_dict()) == shape
    for context in (1, 100, 5000):
        cost = token_cost(spec, context)
        assert shape.cache_elements(context) == cost.kv_elements_read()
        flops = shape.row_flops + shape.cache_flops * shape.cache_elements(context)
        assert flops == pytest.approx(cost.flops(), rel=0.03)  # layers of one model may differ in heads for each cache
    batch = token_cost(spec, 10, 8)
    matrices = shape.inner + shape.head + shape.expert_elements(8)
    looked_up = sum(t.elements for t in batch.read().values() if t.looked_up)
    assert matrices + looked_up == pytest.approx(batch.weight_bytes(lambda p: 1), rel=1e-6)


# GiB as llama-bench and the publishers state them: benchmarks/published.csv has the sources.
STATED = {
    ("llama-2-7b", "Q4_0"): 3.56,
    ("llama-3-8b", "Q4_K_M"): 4.58,
    ("llama-3-70b", "Q4_K_M"): 39.59,
    ("qwen3-coder-30b-a3b-instruct", "Q8_0"): 30.25,
    ("gpt-oss-20b", "MXFP4"): 11.27,
    ("gemma-4-26b-a4b-it", "BF16"): 47.02,
}


@pytest.mark.parametrize(("model", "name"), STATED)
def test_weights_take_what_their_publishers_state(model: str, name: str) -> None:
    assert round(bits_of(_spec(model), name).bytes / 2**30, 2) == STATED[model, name]


def test_an_unknown_format_is_refused() -> None:
    with pytest.raises(UsageError, match=r"weight format 'Q9'.*Q4_K_M"):
        bits_of(_spec("llama-3-8b"), "Q9")


SHAPE = shape_of(_spec("gpt-oss-20b"))
BITS = Bits(8.5, 4.25, 8.5, 8.5, 12_100_000_000)


def _seconds(machine: str, **changes: object) -> float:
    step = replace(Step("decode", "vllm", "cuda", 1, 1000), **changes)  # type: ignore[arg-type]
    return costs().seconds(SHAPE, BITS, accelerators()[machine], step)


def test_more_work_takes_longer_and_more_devices_less() -> None:
    assert _seconds("h100", batch=8) > _seconds("h100")
    assert _seconds("h100", batch=8) < 8 * _seconds("h100")
    assert _seconds("h100", context=100_000) > _seconds("h100")
    assert _seconds("h100", batch=64, tensor=4) < _seconds("h100", batch=64)
    assert _seconds("h100", pipeline=4) > _seconds("h100")
    assert _seconds("h100", kind="prefill", context=8000) > _seconds("h100", kind="prefill", context=1000)
    assert _seconds("h200") < _seconds("h100")


def test_speculation_divides_a_step_among_the_tokens_it_yields() -> None:
    assert _seconds("h100", accepted=2.5) == pytest.approx(_seconds("h100") / 2.5)
    assert _seconds("h100", accepted=2.5, drafting=0.25) == pytest.approx(_seconds("h100") / 2)


@pytest.mark.parametrize("machine", ["h100", "rtx3090", "m4-pro", "strix-halo", "cpu-ddr5-2ch", "b580"])
@pytest.mark.parametrize("engine", ENGINES)
def test_every_machine_and_engine_has_a_forecast(machine: str, engine: str) -> None:
    device = accelerators()[machine]
    for kind in ("decode", "prefill"):
        step = Step(kind, engine, device.kind, 4, 2000)  # type: ignore[arg-type]
        seconds, (low, high) = costs().seconds(SHAPE, BITS, device, step), costs().ends(step)
        assert 0 < low < 1 < high
        least = 12e9 / 32 / device.bandwidth / 10
        assert least < seconds < 3600
        assert all(term.value >= 0 for term in terms(SHAPE, BITS, device, step, 1.0))


def test_an_engine_seen_on_one_machine_is_a_new_one() -> None:
    step = Step("decode", "vllm", "cuda")
    assert [group(step, n) for n in (0, 1, 2)] == ["new engine", "new engine", "one sequence"]
    wide, usual = costs().spread["new engine"], costs().spread["one sequence"]
    assert wide[1] / wide[0] >= usual[1] / usual[0]


def test_machines_have_sources_and_numbers_that_can_be_used() -> None:
    known = accelerators()
    assert len(known) >= 60
    for device in known.values():
        assert device.source and device.memory > 0 and device.bandwidth > 0
        assert device.kind in ("cuda", "rocm", "metal", "vulkan", "cpu")
        assert all(1e11 < rate < 1e17 for rate in device.arithmetic.values())
        assert 1e8 < device.bandwidth / 100 < device.memory


def test_a_machine_can_be_described() -> None:
    at = target("cuda", bandwidth=448, tflops=24, memory=16)
    assert at.device is not None
    assert (at.memory, at.device.bandwidth, at.device.arithmetic) == (16 * 10**9, 448e9, {"f32": 24e12})
    corrected = target("rtx3090x2", memory=20)
    assert corrected.device is not None
    assert (corrected.count, corrected.memory, corrected.device.bandwidth) == (2, 20 * 10**9, 936.2e9)


@pytest.mark.parametrize(
    ("name", "given", "message"),
    [
        ("cuda", {"bandwidth": 400.0}, "needs --bandwidth .* and --memory"),
        ("this", {"memory": 8.0}, "describe another machine"),
        ("h100", {"memory": -1.0}, "--memory is -1.0; expected a positive number"),
        ("h1000", {}, "'h1000' is unknown; did you mean"),
    ],
)
def test_a_machine_that_is_not_described_is_refused(name: str, given: dict[str, float], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        target(name, **given)


def test_a_shape_has_no_room_for_what_it_does_not_count() -> None:
    with pytest.raises(TypeError):
        shape_from({**SHAPE.as_dict(), "more": 1})
    assert isinstance(shape_from(SHAPE.as_dict()), Shape)
