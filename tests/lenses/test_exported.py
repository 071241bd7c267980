"""A machine that was measured there is forecast here: `trilens doctor --export` and `--machine FILE`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from trilens.errors import UsageError
from trilens.lenses.machines.machine import Machine
from trilens.lenses.machines.target import EXPORTED, target
from trilens.lenses.plans.which import which

MEASURED = Machine("A Processor (R) 9", "avx2", "x", 8, "2026-11-01", 64 << 30, 1 << 25, {1: 2e10, 8: 7e10}, {}, {})


@pytest.fixture
def exported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr("trilens.lenses.machines.machine.float32_speed", lambda: 4e11)
    path = tmp_path / "there.json"
    path.write_text(json.dumps(MEASURED.exported()))
    return path


def test_what_was_measured_there_is_planned_for_here(exported: Path) -> None:
    at = target(str(exported))
    assert at.device is not None and at.name == "a-processor-r-9" and at.count == 1
    assert (at.memory, at.device.bandwidth, at.device.arithmetic) == (64 << 30, 7e10, {"f32": 4e11})
    assert at.device.source == "measured on 2026-11-01"
    assert which(str(exported)).candidates
    slow = target(str(exported), bandwidth=10).device
    assert slow is not None and slow.bandwidth == 1e10 and "numbers of the caller" in slow.source


WRONG: list[Any] = [None, True, [], {}, -1, 0, 0.5, 1e30, float("nan")]


@pytest.mark.parametrize("key", EXPORTED)
def test_every_field_is_checked(key: str, exported: Path) -> None:
    whole = json.loads(exported.read_text())
    for value in (*WRONG, 7 if EXPORTED[key] is str else "seven"):
        exported.write_text(json.dumps({**whole, key: value}))
        with pytest.raises(UsageError, match=rf"there\.json: {key} is .*expected .*doctor --export"):
            target(str(exported))
    del whole[key]
    exported.write_text(json.dumps(whole))
    with pytest.raises(UsageError, match=f"{key} is .?None"):
        target(str(exported))


@pytest.mark.parametrize(
    "text", ["", "[]", "{", "7", '{"name": 1, "name": 2}', "\udcff".encode("utf-8", "surrogatepass")]
)
def test_what_is_no_such_file(text: str | bytes, tmp_path: Path) -> None:
    path = tmp_path / "m.json"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(UsageError, match="doctor --export"):
        target(str(path))
    with pytest.raises(UsageError, match="no such file"):
        target(str(tmp_path / "none.json"))


def test_an_unknown_field_and_an_unknown_kind(exported: Path) -> None:
    whole = json.loads(exported.read_text())
    exported.write_text(json.dumps({**whole, "colour": "red"}))
    with pytest.raises(UsageError, match=r"colour. is unknown"):
        target(str(exported))
    exported.write_text(json.dumps({**whole, "kind": "abacus"}))
    with pytest.raises(UsageError, match=r"abacus., expected one of cuda"):
        target(str(exported))
