"""Limits are said before any work, and a thinking never takes the answer's room."""

import pytest

from trilens.errors import ContextFull, RequestRefused
from trilens.generate.limits import Limits, request_limits


def test_what_does_not_fit_is_said() -> None:
    with pytest.raises(ContextFull, match="200 tokens and max_tokens 57 do not fit the model's context of 256"):
        request_limits(256, 200, 57)
    with pytest.raises(ContextFull, match="200 tokens and max_tokens 20 and a thinking budget of 30 do not fit"):
        request_limits(256, 200, 20, thinks=True, budget=30, extra=7)
    with pytest.raises(RequestRefused, match="empty"):
        request_limits(256, 0, 5)
    with pytest.raises(RequestRefused, match="expected at least 0"):
        request_limits(256, 5, -1)


def test_what_is_not_stated_shrinks() -> None:
    assert request_limits(256, 200, None) == Limits(56, 56, context_bound=True)
    assert request_limits(10**6, 200, None) == Limits(4096, 4096)
    assert request_limits(10**6, 200, None, thinks=True, extra=5) == Limits(5 + 8192 + 4096, 4096, 8192)
    assert request_limits(256, 200, 20, thinks=True, extra=6) == Limits(56, 20, 30)
    assert request_limits(256, 200, None, thinks=True, extra=6) == Limits(56, 25, 25, context_bound=True)


@pytest.mark.parametrize("budget", [0, 1, 8, 64])
def test_a_budget_is_kept_and_the_answer_too(budget: int) -> None:
    limits = request_limits(4096, 100, 50, thinks=True, budget=budget, extra=4)
    assert limits == Limits(4 + budget + 50, 50, budget)
