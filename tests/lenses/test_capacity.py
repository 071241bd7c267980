"""The memory model against what vLLM and SGLang say they hold, and the checker of these rows."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

import pytest

pytest.importorskip("benchmarks.capacity", reason="the benchmarks are not part of the package")

from benchmarks.capacity import BEGIN, END, EXCEPTIONS, PAGE, TARGET, Compared, check, compared, read, row_of, tables

LINES = read()
FOUND = [c for line in LINES for c in compared(row_of(line))]


def _named(one: Compared) -> str:
    row = one.row
    return f"{row.engine}-{row.model}-{row.job.tensor}x{row.job.pipeline}-{one.what}-{one.stated:g}"


def test_the_rows_are_right() -> None:
    assert check(LINES) == []


def test_there_are_figures_of_both_engines() -> None:
    held = Counter(c.row.engine for c in FOUND if c.what != "weights")
    assert held["vllm"] >= 10 and held["sglang"] >= 5
    assert len({c.row.model for c in FOUND}) >= 12


@pytest.mark.parametrize("one", FOUND, ids=_named)
def test_a_figure_is_within_5_percent(one: Compared) -> None:
    assert one.why is None or not one.within, "an exception that is none"
    assert one.why is not None or abs(one.error) < TARGET


def test_every_exception_is_of_a_row() -> None:
    assert {(c.row.model, c.row.job.tensor, c.row.job.pipeline, c.what) for c in FOUND if not c.within} == set(
        EXCEPTIONS
    )


@pytest.mark.parametrize("engine", ["vllm", "sglang"])
def test_a_wrong_number_of_bytes_is_found(engine: str) -> None:
    """Twice the bytes of keys and values: every figure of a cache is off by half."""
    for one in FOUND:
        if one.row.engine == engine and one.what != "weights":
            job = replace(one.row.job, key_type="f32", value_type="f32")
            ours = next(c for c in compared(replace(one.row, job=job)) if c.what == one.what)
            factor = {"f32": 1, "fp8": 4}.get(one.row.job.key_type, 2)
            assert ours.ours == pytest.approx(one.ours / factor, rel=0.002)


@pytest.mark.parametrize(
    ("column", "value"),
    [
        ("engine", "llama.cpp"),
        ("model", "no-such-model-at-all"),
        ("format", "Q9"),
        ("format", ""),
        ("kv_type", "q9"),
        ("tensor", "0"),
        ("pipeline", ""),
        ("block", "sixteen"),
        ("cache_gib", ""),
        ("cache_gib", "-1"),
        ("cache_gib", "nan"),
        ("tokens", "0"),
        ("context", "4096"),
        ("concurrency", "2.5"),
        ("weights_gib", "inf"),
        ("source", "I remember it"),
    ],
)
def test_a_wrong_field_is_found(column: str, value: str) -> None:
    assert len(check([LINES[0] | {column: value}])) == 1


def test_a_line_that_says_nothing_is_found() -> None:
    assert len(check([LINES[0] | {"tokens": "", "weights_gib": ""}])) == 1


def test_a_missing_column_and_a_second_line_are_found() -> None:
    assert len(check([{c: v for c, v in LINES[0].items() if c != "source"}])) == 1
    assert len(check([LINES[0], LINES[0]])) == 1


def test_the_page_has_these_tables() -> None:
    written = PAGE.read_text("utf-8").partition(BEGIN)[2].partition(END)[0]
    assert written.strip() == tables(FOUND)
