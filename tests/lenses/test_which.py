"""`trilens which`: what fits, in what order, and what thinking costs."""

from __future__ import annotations

import json
from dataclasses import asdict

import pytest

from trilens.cli import main
from trilens.errors import UsageError
from trilens.lenses.cards.source import card_source
from trilens.lenses.costs.shape import shape_of
from trilens.lenses.plans.which import MEASURES, models, which
from trilens.spec.catalog import entries


def test_the_shapes_are_those_of_the_catalog() -> None:
    assert set(models()) <= set(entries())
    assert len(models()) > 80
    for name in ("llama-3.1-8b-instruct", "gpt-oss-20b", "qwen3.5-27b"):
        reading = card_source(name, offline=True).reading
        assert reading is not None
        assert models()[name]["shape"] == json.loads(json.dumps(asdict(shape_of(reading.spec))))
        assert models()[name]["context"] == reading.spec.context


@pytest.mark.parametrize("machine", ["rtx3060", "rtx4090", "m4-pro", "strix-halo", "h100x8", "cpu-ddr5-2ch"])
def test_what_is_listed_fits_and_is_in_order(machine: str) -> None:
    for sort in MEASURES:
        answer = which(machine, context=8192, sort=sort)
        assert answer.candidates
        assert all(c.memory <= answer.capacity for c in answer.candidates)
        numbers = [
            {"total": -c.total, "active": -c.active, "speed": -c.forecast.tokens.p50, "answer": c.answer}[sort]
            for c in answer.candidates
        ]
        assert numbers == sorted(numbers)


def test_more_bits_are_taken_where_they_fit() -> None:
    small = {c.model: c.weights for c in which("rtx3060").candidates}
    large = {c.model: c.weights for c in which("rtx5090").candidates}
    assert small["qwen3-14b"] == "Q4_K_M"
    assert large["qwen3-14b"] == "Q8_0"
    assert set(small) < set(large)
    assert "gpt-oss-120b" not in large


def test_a_rate_is_a_floor_and_may_cost_bits() -> None:
    free = {c.model: c for c in which("rtx4090", context=16384).candidates}
    fast = {c.model: c for c in which("rtx4090", context=16384, at_least=60).candidates}
    assert 0 < len(fast) < len(free)
    assert all(c.forecast.tokens.p50 >= 60 for c in fast.values())
    assert any(fast[name].memory < free[name].memory for name in fast)


def test_thinking_multiplies_tokens() -> None:
    off = {c.model: c for c in which("h100", thinking="off").candidates}
    on = {c.model: c for c in which("h100", thinking="on").candidates}
    both = set(off) & set(on)
    assert both
    assert all(on[name].answer > 3 * off[name].answer for name in both)
    assert all(c.thinking is not None for c in on.values())
    assert "llama-3.1-8b-instruct" in off and "llama-3.1-8b-instruct" not in on


def test_a_machine_may_be_described() -> None:
    answer = which("cuda", bandwidth=448, tflops=24, memory=16)
    assert answer.capacity == int(0.9 * 16e9)
    assert answer.candidates[0].forecast.first_token is not None


def test_this_machine_and_unknown_engines_are_refused() -> None:
    with pytest.raises(UsageError, match="another machine than this one"):
        which("this")
    with pytest.raises(UsageError, match=r"expected one of llama\.cpp"):
        which("h100", engine="abacus")


def test_the_command_prints_a_table_and_json(capsys: pytest.CaptureFixture[str]) -> None:
    line = ["which", "--machine", "rtx4090", "--context", "16384", "--at-least", "20tok/s"]
    assert main(line) == 0
    text = capsys.readouterr().out
    assert "not a quality" in text and "fitted to" in text
    assert main([*line, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["sorted_by"] == MEASURES["total"]
    assert all(m["tokens_per_second"]["p50"] >= 20 for m in found["models"])
