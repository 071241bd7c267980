"""Grids that are too large for the fast suite: all cases, of which most are marked slow."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable
from typing import Any

import pytest


def thinned(cases: Iterable[Any], every: int) -> list[Any]:
    """The first of each `every` cases is in the fast suite."""
    return [_case(case, fast=i % every == 0) for i, case in enumerate(cases)]


def first_of_each(cases: Iterable[Any], kind: Callable[[Any], Hashable]) -> list[Any]:
    """The first case of each kind is in the fast suite."""
    given = list(cases)
    firsts = {kind(case): case for case in reversed(given)}
    return [_case(case, fast=firsts[kind(case)] is case) for case in given]


def in_turn(cases: Iterable[Any], others: Iterable[Any], every: int | None = None) -> list[Any]:
    """Each case with each of the others. In the fast suite are those whose two numbers add up to a multiple of `every`;
    without it, each case with one of the others, in turn."""
    rest = list(others)
    every = every or len(rest)
    return [
        _case(case, other, fast=(i + j) % every == 0) for i, case in enumerate(cases) for j, other in enumerate(rest)
    ]


def _case(*values: Any, fast: bool) -> Any:
    return pytest.param(*values, marks=() if fast else pytest.mark.slow)
