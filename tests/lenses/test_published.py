"""The published measurements: their checker, and a test on machines left out that cannot see them."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("benchmarks.published", reason="the benchmarks are not part of the package")

from benchmarks.published import COLUMNS, check, read, row_of
from benchmarks.published_fit import Row, designs, leave_one_out

from trilens.lenses.costs.costs import Costs, costs
from trilens.lenses.machines.share import COLUMNS as SHARED
from trilens.lenses.machines.share import append

LINES = read()


def test_a_sample_of_the_rows_is_right() -> None:
    assert check(LINES[::120]) == []


def test_no_row_is_used_twice() -> None:
    keys = [tuple(line[c] for c in COLUMNS if c not in ("figure", "weight_bytes", "source")) for line in LINES]
    assert len(set(keys)) == len(keys)
    assert ["the same measurement" in problem for problem in check([LINES[0], LINES[0]])] == [True]


@pytest.mark.parametrize(
    ("column", "value"),
    [
        ("figure", "0"),
        ("figure", "fast"),
        ("metric", "both"),
        ("model", "no-such-model-at-all"),
        ("format", "Q9"),
        ("weight_bytes", "1"),
        ("machine", "abacus"),
        ("devices", "2"),
        ("parallelism", "sideways 1"),
        ("batch", "0"),
        ("context", "-1"),
        ("source", "I remember it"),
    ],
)
def test_a_wrong_field_is_found(column: str, value: str) -> None:
    assert len(check([LINES[0] | {column: value}])) == 1


def test_a_missing_column_is_found() -> None:
    assert len(check([{c: v for c, v in LINES[0].items() if c != "source"}])) == 1


def _rows() -> list[Row]:
    """Of seven machines, made from the constants in the package."""
    machines = ("rtx3090", "rtx4090", "a100", "h100", "h200", "l40s", "rtx5090")
    lines = [line for line in LINES if line["machine"] == "rtx3090" and line["parallelism"] == "none"][:9]
    rows = []
    for machine in machines:
        for line in lines:
            row = row_of(line | {"machine": machine})
            seconds = costs().seconds(row.shape, row.bits, row.device, row.step)
            rows.append(replace(row, seconds=seconds))
    return rows


def test_a_machine_left_out_is_forecast_without_its_rows() -> None:
    rows = _rows()
    first = leave_one_out(rows)
    assert np.median([t.error for t in first]) < 0.1  # the model that made them can be found again
    other = [replace(r, seconds=50 * r.seconds) if r.machine == "h100" else r for r in rows]
    second = leave_one_out(other)
    for a, b in zip(first, second, strict=True):
        if a.row.machine == "h100":
            assert (a.low, a.middle, a.high) == (b.low, b.middle, b.high)
    assert any(a.middle != b.middle for a, b in zip(first, second, strict=True))


def test_the_fit_and_the_forecast_are_one_model() -> None:
    rows = _rows()[:9]
    known: Costs = costs()
    design = designs(rows)[1.0]
    theta = np.array([np.log(known.constants.get(name, 1.0)) for name in design.names])
    log, slopes = design.predict(theta)
    flat = replace(known, overlap=1.0)
    expected = [flat.seconds(r.shape, r.bits, r.device, r.step) for r in rows]
    assert np.exp(log) == pytest.approx(expected)
    step = 1e-6
    for j in range(0, len(theta), 7):
        moved = theta.copy()
        moved[j] += step
        assert (design.predict(moved)[0] - log) / step == pytest.approx(slopes[:, j], abs=1e-4)


def test_a_shared_result_is_two_rows_in_that_form(tmp_path: Path) -> None:
    assert SHARED == COLUMNS
    result = {
        "engine": "trilens",
        "model": "tiny-dense",
        "threads": 2,
        "kernels": "avx2",
        "activations": "8bit",
        "quantise": None,
        "batch": 4,
        "prompt": 256,
        "context": 272,
        "weight_bytes": 1000,
        "memory_gb_s": 20.0,
        "prefill_tok_s": {"best": 11.0, "median": 10.0},
        "decode_tok_s": {"best": 6.0, "median": 5.0},
    }
    path = tmp_path / "shared.csv"
    append(path, result)
    append(path, result)
    lines = read(path)
    assert [line["metric"] for line in lines] == ["decode", "prefill"] * 2
    assert [line["figure"] for line in lines[:2]] == ["5.0", "10.0"]
    assert list(lines[0]) == COLUMNS
