"""docs/families.md is what its script writes, but for the numbers measured; docs/quantisation.md has every family."""

from __future__ import annotations

from tests import quantisation_page
from tests.families import FAMILIES
from tests.families_page import LIMITS, MEASURED, PAGE, UNKNOWN, page


def test_the_page_is_up_to_date() -> None:
    written = PAGE.read_text(encoding="utf-8")
    assert MEASURED.sub("", written) == MEASURED.sub("", page({}))
    assert all(float(number) < 1e-4 for number in MEASURED.findall(written))


def test_every_limit_belongs_to_a_row() -> None:
    assert {*LIMITS, *UNKNOWN} <= {family.name for family in FAMILIES}


def test_every_family_has_its_errors_of_rounding() -> None:
    written = quantisation_page.PAGE.read_text(encoding="utf-8")
    assert written.startswith(quantisation_page.HEAD)
    assert [family.name for family in FAMILIES if f"\n| {family.name} | " not in written] == []
