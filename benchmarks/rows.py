"""Tables of published figures: read, and checked line by line."""

from __future__ import annotations

import csv
from collections.abc import Callable, Hashable, Sequence
from pathlib import Path

from trilens.errors import TrilensError

Line = dict[str, str]


def lines_of(path: Path) -> list[Line]:
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def faults(lines: Sequence[Line], look: Callable[[Line], object], same: Callable[[Line], Hashable]) -> list[str]:
    """What is wrong, line by line: what `look` raises, and two lines for which `same` is equal."""
    wrong: list[str] = []
    seen: dict[Hashable, int] = {}
    for number, line in enumerate(lines, 2):
        try:
            look(line)
        except (KeyError, TypeError, ValueError, TrilensError) as problem:
            wrong.append(f"line {number}: {problem}")
            continue
        key = same(line)
        if key in seen:
            wrong.append(f"line {number}: the same measurement as line {seen[key]}")
        seen[key] = number
    return wrong
