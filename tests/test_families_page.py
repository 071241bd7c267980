"""docs/families.md is what its script writes, but for the numbers measured."""

from __future__ import annotations

from tests.families import FAMILIES
from tests.families_page import LIMITS, MEASURED, PAGE, UNKNOWN, page


def test_the_page_is_up_to_date() -> None:
    written = PAGE.read_text(encoding="utf-8")
    assert MEASURED.sub("", written) == MEASURED.sub("", page({}))
    assert all(float(number) < 1e-4 for number in MEASURED.findall(written))


def test_every_limit_belongs_to_a_row() -> None:
    assert {*LIMITS, *UNKNOWN} <= {family.name for family in FAMILIES}
