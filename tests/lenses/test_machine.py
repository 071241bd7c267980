"""A measurement that other programs disturbed is marked, used, and repeated once the machine is quiet."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from trilens.lenses.machines import machine as machines
from trilens.lenses.machines import made_up, rates
from trilens.lenses.machines.machine import Layout, kept, measured
from trilens.lenses.machines.rates import Speed, Speeds

FLAT = Speed((1.0,), (1e-9,))
WANTED = [Layout("Q4_0", "8bit", False), Layout("Q4_0", "8bit", True)]


class Clock:
    """What `settle` sees: the share of the processors that other programs leave; and the rates that memory gives."""

    share = 1.0
    readings: tuple[float, ...] = (2e10,)
    measurements = 0

    def settle(self, threads: int, seconds: float = 0.1) -> float:
        return self.share

    def memory(self, threads: int, size: int, rounds: int) -> float:
        self.measurements += 1
        return self.readings[self.measurements % len(self.readings)]


@pytest.fixture
def clock(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Clock:
    """The measuring itself is made up: it takes seconds, and is not what is tested."""
    from trilens.executors.native import _native

    clock = Clock()
    monkeypatch.setenv("TRILENS_CACHE", str(tmp_path))
    monkeypatch.setattr(made_up, "settle", clock.settle)
    monkeypatch.setattr(_native, "memory_read_bytes_per_second", clock.memory)
    monkeypatch.setattr(rates, "row_speeds", lambda threads: ({"norm": FLAT}, {"step": 0.0}))
    monkeypatch.setattr(rates, "attention_speeds", lambda kv, threads, cache: ({f"attend/{kv}/cached": FLAT}, 0.0))
    for kind in ("linear", "experts"):
        name = {"linear": "product_speeds", "experts": "expert_speeds"}[kind]
        monkeypatch.setattr(
            rates, name, lambda t, a, *_, kind=kind: {f"{kind}/{t}/{a}/{tier}": FLAT for tier in ("cached", "streamed")}
        )
    return clock


def test_a_quiet_measurement_is_kept(clock: Clock) -> None:
    first = measured(2, WANTED)
    assert not first.disturbed and "disturbed" not in first.as_text()
    count = clock.measurements
    assert measured(2, WANTED) == first == kept(2) and clock.measurements == count


@pytest.mark.parametrize(("share", "readings"), [(0.4, (2e10,)), (1.0, (2e10, 1e10)), (0.89, (2e10,))])
def test_a_disturbed_one_is_marked_and_replaced_by_the_next_quiet_one(
    clock: Clock, share: float, readings: tuple[float, ...]
) -> None:
    clock.share, clock.readings = share, readings
    said: list[str] = []
    first = measured(2, WANTED, say=said.append)
    assert first.disturbed and first.disturbed in said[-1] and first.disturbed in first.as_text()
    if share < machines.QUIET:  # it is still loud: what is known is used, and nothing is measured
        count = clock.measurements
        assert measured(2, WANTED) == first and clock.measurements == count
    clock.share, clock.readings = 1.0, (2e10,)
    again = measured(2, (), say=said.append)
    assert not again.disturbed and not kept(2).disturbed  # type: ignore[union-attr]
    assert set(again.measurables) >= set(first.measurables)


@pytest.mark.parametrize("calls", [[WANTED], [WANTED[::-1]], [WANTED[:1], WANTED[1:]], [WANTED[1:], WANTED[:1]]])
def test_nothing_is_measured_twice(clock: Clock, monkeypatch: pytest.MonkeyPatch, calls: list[list[Layout]]) -> None:
    """The products of a layout are the same with experts and without, in one call and in several."""
    taken: list[str] = []
    known = rates.product_speeds

    def noted(layout: str, *rest: Any) -> Speeds:
        taken.append(layout)
        return known(layout, *rest)

    monkeypatch.setattr(rates, "product_speeds", noted)
    for wanted in calls:
        machine = measured(2, wanted)
    assert machine.missing(WANTED, "f16") == []
    assert sorted(taken) == sorted(set(taken)) and "Q4_0" in taken


def test_what_is_measured_later_can_be_disturbed_too(clock: Clock) -> None:
    assert not measured(2, WANTED).disturbed
    clock.share = 0.5
    assert measured(2, [Layout("Q8_0", "16bit", False)]).disturbed


def test_a_real_load_shows(monkeypatch: pytest.MonkeyPatch) -> None:
    """Twice as many threads as there are processors get at most about half of what they want."""
    from trilens import system

    assert made_up.settle(2 * system.usable_cores() + 2, 0.2) < machines.QUIET


def test_no_speed_is_negative_where_the_longer_attention_looks_quicker(monkeypatch: pytest.MonkeyPatch) -> None:
    class Disturbed:
        def __init__(self, *_: object) -> None:
            self.executor = SimpleNamespace(sequence=lambda length: None)
            self.seconds = iter((2.0, 1.0))  # behind few tokens, behind many

        def attention(self, sequences: object) -> float:
            return next(self.seconds)

        def spent(self, sequences: object, tokens: int) -> dict[str, float]:
            return {"attend": 1.0}

        def from_memory(self, like: object, cache_bytes: int) -> float:
            return 0.5

    monkeypatch.setattr(rates, "Trial", Disturbed)
    speeds, fixed = rates.attention_speeds("f16", 1, 1 << 20)
    assert all(seconds > 0 for speed in speeds.values() for seconds in speed.seconds) and fixed >= 0
