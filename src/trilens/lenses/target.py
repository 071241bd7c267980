"""The machine to plan for: this one, or accelerators from a data file that names its sources."""

from __future__ import annotations

import difflib
import json
import re
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from importlib import resources
from typing import Any

from trilens import system
from trilens.errors import UsageError

NAME = re.compile(r"(?P<name>.+?)x(?P<count>\d+)")


@dataclass(frozen=True)
class Accelerator:
    """One device; bytes, bytes a second, operations a second. None: its source does not say."""

    name: str
    title: str
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
        return self.device.title.startswith("Apple")

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
    data = json.loads(resources.files("trilens.lenses").joinpath("accelerators.json").read_text("utf-8"))
    data.pop("about")
    return {name: Accelerator(name, **{**entry, "memory": int(entry["memory"])}) for name, entry in data.items()}


def target(name: str) -> Target:
    """this | h100 | h100x8. Raises UsageError for an unknown machine."""
    if name == "this":
        return Target("this", None, 1, available_memory())
    known = accelerators()
    stem, count = name.lower(), 1
    if stem not in known and (match := NAME.fullmatch(stem)) is not None:
        stem, count = match["name"], int(match["count"])
    found = known.get(stem)
    if found is None:
        near = difflib.get_close_matches(name.lower(), known, n=1)
        hint = f"; did you mean {near[0]}?" if near else ""
        names = ", ".join(known)
        raise UsageError(f"machine {name!r} is unknown; expected this, or one of {names}, as in h100x8{hint}")
    if not 1 <= count <= 4096:
        raise UsageError(f"machine {name!r} has {count} devices; expected 1 to 4096")
    return Target(name.lower(), found, count, found.memory)


def available_memory() -> int:
    """Bytes that a new process can have according to the system; all memory if it does not say."""
    from trilens.lenses.machine import memory_bytes

    return system.available_memory() or memory_bytes()
