"""A publisher's sizes next to ours: equal after rounding, or the reason why not."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from decimal import Decimal

from trilens.executors.accountant import ParameterCount
from trilens.lenses.layout import spaced
from trilens.spec.catalog import Published
from trilens.spec.counted import Counted
from trilens.spec.model import Reading
from trilens.units import big

UNITS = {"T": 10**12, "B": 10**9, "M": 10**6}


@dataclass(frozen=True)
class Compared:
    """`agrees`: to the last parameter for an exact number, after rounding to the stated digits for the others."""

    what: str
    says: str
    ours: int
    ours_is: str  # which of our counts is meant
    agrees: bool
    why: str | None

    def as_line(self) -> str:
        ours = spaced(self.ours) if "," in self.says else big(self.ours)
        if self.agrees:
            return f"{self.what} {self.says}: agrees ({self.ours_is}, {ours})"
        return f"{self.what} {self.says}, ours {ours} ({self.ours_is}): {self.why or 'no reason known'}"


def compare_published(stated: Iterable[Published], count: ParameterCount, reading: Reading) -> tuple[Compared, ...]:
    head = reading.spec.vocab * reading.spec.width
    return tuple(_compare(one, count, sum(reading.not_counted.values()), head) for one in stated)


def compare_counted(stated: Iterable[Published], counted: Counted) -> tuple[Compared, ...]:
    """The same for a model of which only the parameters are known."""
    return tuple(_compare(one, count_of(counted), 0, counted.head) for one in stated)


def count_of(counted: Counted) -> ParameterCount:
    return ParameterCount(counted.total, counted.active, counted.active_with_embeddings)


def _compare(one: Published, count: ParameterCount, beside: int, head: int) -> Compared:
    says = spaced(one.exact) if one.exact is not None else str(one.says)
    if one.counts:
        says += f" ({one.counts})"
    if one.what == "active":
        candidates = {
            "without the tables that are looked up": count.active,
            "with whole tables": count.active_with_embeddings,
            "without tables and head": count.active - head,
        }
    else:
        candidates = {"total": count.total}
        if beside:
            candidates["with what is not counted"] = count.total + beside
    for ours_is, ours in candidates.items():
        if _agrees(one, ours):
            return Compared(one.what, says, ours, ours_is, True, one.differs)
    ours_is, ours = min(candidates.items(), key=lambda named: abs(named[1] - _value(one)))
    reason = one.differs or (f"that number is {one.counts}" if one.counts else None)
    return Compared(one.what, says, ours, ours_is, False, reason)


def _agrees(one: Published, ours: int) -> bool:
    if one.exact is not None:
        return ours == one.exact
    number, unit = _parsed(one)
    digits = Decimal(1).scaleb(-len(str(number).partition(".")[2]))
    return (Decimal(ours) / unit).quantize(digits) == number


def _value(one: Published) -> int:
    if one.exact is not None:
        return one.exact
    number, unit = _parsed(one)
    return int(number * unit)


def _parsed(one: Published) -> tuple[Decimal, int]:
    """30.5B -> 30.5, 10^9."""
    stated = re.fullmatch(r"(\d+(?:\.\d+)?)([TBM])", str(one.says))
    assert stated is not None, f"the catalog states a size as {one.says!r}; expected a number with T, B or M"
    return Decimal(stated[1]), UNITS[stated[2]]
