"""A publisher's sizes beside ours: the same after rounding, or why not."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from decimal import Decimal

from trilens.executors.accountant import ParameterCount
from trilens.lenses.layout import spaced
from trilens.spec.catalog import Published
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


def compare_published(
    stated: Iterable[Published], count: ParameterCount, not_counted: Mapping[str, int]
) -> tuple[Compared, ...]:
    return tuple(_compare(one, count, sum(not_counted.values())) for one in stated)


def _compare(one: Published, count: ParameterCount, beside: int) -> Compared:
    says = spaced(one.exact) if one.exact is not None else str(one.says)
    if one.counts:
        says += f" ({one.counts})"
    if one.what == "active":
        candidates = {
            "without the tables that are looked up": count.active,
            "with whole tables": count.active_with_embeddings,
        }
    else:
        candidates = {"total": count.total}
        if beside:
            candidates["with what is not counted"] = count.total + beside
    for ours_is, ours in candidates.items():
        if _agrees(one, ours):
            return Compared(one.what, says, ours, ours_is, True, one.differs)
    ours_is, ours = next(iter(candidates.items()))
    reason = one.differs or (f"it counts {one.counts}" if one.counts else None)
    return Compared(one.what, says, ours, ours_is, False, reason)


def _agrees(one: Published, ours: int) -> bool:
    if one.exact is not None:
        return ours == one.exact
    number = re.fullmatch(r"(\d+(?:\.\d+)?)([TBM])", str(one.says))
    if number is None:
        return False
    unit = UNITS[number[2]]
    digits = Decimal(1).scaleb(-len(number[1].partition(".")[2]))
    return (Decimal(ours) / unit).quantize(digits) == Decimal(number[1])
