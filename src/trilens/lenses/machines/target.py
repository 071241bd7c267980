"""The machine to plan for: this one, or accelerators from a data file that names its sources."""

from __future__ import annotations

import difflib
import json
import re
import sys
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cache
from importlib import resources
from pathlib import Path
from typing import Any

from trilens import system
from trilens.errors import TrilensError, UsageError
from trilens.files import read_json_object, shown

KINDS = ("cuda", "rocm", "metal", "vulkan", "cpu")
WRITTEN_BY = "`trilens doctor --export FILE` writes such a file"
EXPORTED = {"name": str, "title": str, "kind": str, "memory": int, "bandwidth": float, "f32": float, "source": str}
NAME = re.compile(r"(?P<name>.+?)x(?P<count>\d+)")


@dataclass(frozen=True)
class Accelerator:
    """One device; bytes, bytes a second, operations a second. None: its source does not say. `kind`: cuda, rocm, metal,
    vulkan or cpu, the programming interface that its engines use."""

    name: str
    title: str
    kind: str
    memory: int
    bandwidth: float
    arithmetic: Mapping[str, float]
    link: float | None
    node: int
    source: str


@dataclass(frozen=True)
class Target:
    """`device` is None for this machine, whose memory is what is free now."""

    name: str
    device: Accelerator | None
    count: int
    memory: int  # bytes of one device

    @property
    def apple(self) -> bool:
        if self.device is None:
            return sys.platform == "darwin"
        return self.device.kind == "metal"

    def as_dict(self) -> dict[str, Any]:
        device = self.device
        return {
            "name": self.name,
            "devices": self.count,
            "memory_bytes_each": self.memory,
            "title": "this machine" if device is None else device.title,
            "bandwidth": None if device is None else device.bandwidth,
            "source": "measured here" if device is None else device.source,
        }


@cache
def accelerators() -> dict[str, Accelerator]:
    data = json.loads(resources.files("trilens.lenses.machines").joinpath("accelerators.json").read_text("utf-8"))
    data.pop("about")
    return {name: Accelerator(name, **{**entry, "memory": int(entry["memory"])}) for name, entry in data.items()}


def target(
    name: str, *, bandwidth: float | None = None, tflops: float | None = None, memory: float | None = None
) -> Target:
    """this | h100 | h100x8 | machine.json, as `described_in` reads it. Raises UsageError for an unknown machine.

    A machine that is not listed is one of `KINDS` with `bandwidth` (GB/s) and `memory` (GB); `tflops` is its 32-bit
    arithmetic without matrix units. For a known machine these replace what is stated.
    """
    given = {"--bandwidth": bandwidth, "--tflops": tflops, "--memory": memory}
    wrong = [option for option, number in given.items() if number is not None and not 0 < number < 1e9]
    if wrong:
        raise UsageError(f"{wrong[0]} is {given[wrong[0]]}; expected a positive number")
    if any(number is not None for number in given.values()):
        return _described(name, bandwidth, tflops, memory)
    if name == "this":
        return Target("this", None, 1, available_memory())
    if name.lower().endswith(".json"):
        device = described_in(Path(name))
        return Target(device.name, device, 1, device.memory)
    known = accelerators()
    stem, count = name.lower(), 1
    if stem not in known and (match := NAME.fullmatch(stem)) is not None:
        stem, count = match["name"], int(match["count"])
    found = known.get(stem)
    if found is None:
        near = difflib.get_close_matches(name.lower(), known, n=1)
        hint = f"; did you mean {near[0]}?" if near else ""
        names = ", ".join(known)
        raise UsageError(
            f"machine {name!r} is unknown{hint}; expected this, one of {names}, several as in h100x8, a file of "
            f"`trilens doctor --export`, or {', '.join(KINDS)} with --bandwidth and --memory"
        )
    if not 1 <= count <= 4096:
        raise UsageError(f"machine {name!r} has {count} devices; expected 1 to 4096")
    return Target(name.lower(), found, count, found.memory)


def described_in(path: Path) -> Accelerator:
    """A machine from a file that `trilens doctor --export` wrote. Raises UsageError if it is not such a file."""
    try:
        data = read_json_object(path)
    except FileNotFoundError:
        raise UsageError(f"{path}: no such file; {WRITTEN_BY}") from None
    except TrilensError as problem:
        raise UsageError(f"{problem}; {WRITTEN_BY}") from problem
    unknown = data.keys() - EXPORTED.keys()
    if unknown:
        raise UsageError(f"{path}: {shown(min(unknown))} is unknown; {WRITTEN_BY}")
    for key, wanted in EXPORTED.items():
        value = data.get(key)
        number = isinstance(value, int | float) and not isinstance(value, bool) and 1 <= value < 1e18
        if not (isinstance(value, str) if wanted is str else number):
            expected = "text" if wanted is str else "a number from 1"
            raise UsageError(f"{path}: {key} is {shown(str(value))}, expected {expected}; {WRITTEN_BY}")
    if data["kind"] not in KINDS:
        raise UsageError(f"{path}: kind is {shown(str(data['kind']))}, expected one of {', '.join(KINDS)}")
    named = {key: data[key] for key in ("name", "title", "kind", "source")}
    rates = {"f32": float(data["f32"])}
    return Accelerator(
        **named, memory=int(data["memory"]), bandwidth=float(data["bandwidth"]), arithmetic=rates, link=None, node=1
    )


def _described(name: str, bandwidth: float | None, tflops: float | None, memory: float | None) -> Target:
    if name == "this":
        raise UsageError("--bandwidth, --tflops and --memory describe another machine; name it with --machine")
    if name.lower() in KINDS:
        if bandwidth is None or memory is None:
            raise UsageError(f"a machine named only {name!r} needs --bandwidth (GB/s) and --memory (GB)")
        blank = Accelerator(name.lower(), f"{name} device", name.lower(), 0, 0.0, {}, None, 1, "as described")
        at = Target(name.lower(), blank, 1, 0)
    else:
        at = target(name)
    device = at.device
    assert device is not None
    device = replace(
        device,
        memory=device.memory if memory is None else int(memory * 1e9),
        bandwidth=device.bandwidth if bandwidth is None else bandwidth * 1e9,
        arithmetic=device.arithmetic if tflops is None else {**device.arithmetic, "f32": tflops * 1e12},
        source=f"{device.source}, with numbers of the caller",
    )
    return replace(at, device=device, memory=device.memory)


def available_memory() -> int:
    """Bytes that a new process can have according to the system; all memory if it does not say."""
    from trilens.lenses.machines.machine import memory_bytes

    return system.available_memory() or memory_bytes()
