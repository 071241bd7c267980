"""Every field that asks for thinking, alone and against the others."""

from __future__ import annotations

from typing import Any

import pytest

from trilens.errors import RequestRefused
from trilens.serve.switch import other_variables, thinking_of
from trilens.text.thinking import Inference, Markers, Setting

SETTINGS = (Setting("off", {"enable_thinking": False}, "closed"), Setting("on", {"enable_thinking": True}, "free"))
SWITCHABLE = Inference("switchable", settings=SETTINGS, markers=Markers("<think>", "</think>"))
LEVELS = Inference("levels", settings=tuple(Setting(w, {"effort": w}, "free") for w in ("low", "medium", "high")))
NEVER = Inference("never")


@pytest.mark.parametrize(
    ("stated", "inference", "expected"),
    [
        ({}, SWITCHABLE, None),
        ({"thinking": None, "reasoning": None}, SWITCHABLE, None),
        ({"thinking": False}, SWITCHABLE, False),
        ({"thinking": 64}, SWITCHABLE, 64),
        ({"thinking": "high"}, SWITCHABLE, "high"),  # our own word is taken at its word, and refused later
        ({"reasoning_effort": "high"}, SWITCHABLE, True),
        ({"reasoning_effort": "high"}, LEVELS, "high"),
        ({"reasoning_effort": "high"}, NEVER, "high"),
        ({"reasoning_effort": "none"}, LEVELS, False),
        ({"reasoning": {"effort": "low"}}, LEVELS, "low"),
        ({"reasoning": {"max_tokens": 9}}, SWITCHABLE, 9),
        ({"reasoning": {"enabled": False, "exclude": True}}, SWITCHABLE, False),
        ({"thinking": {"type": "adaptive"}}, SWITCHABLE, True),
        ({"thinking": {"type": "enabled", "budget_tokens": 7}, "reasoning_effort": "low"}, SWITCHABLE, 7),
        ({"enable_thinking": True, "reasoning_effort": "low"}, LEVELS, "low"),
        ({"reasoning_effort": "low", "enable_thinking": True}, LEVELS, "low"),
        ({"chat_template_kwargs": {"enable_thinking": True, "thinking_budget": 5}}, SWITCHABLE, 5),
        ({"enable_thinking": False, "thinking": False}, SWITCHABLE, False),
    ],
)
def test_one_meaning(stated: dict[str, Any], inference: Inference, expected: object) -> None:
    found = thinking_of(stated, inference)
    assert found == expected and type(found) is type(expected)


@pytest.mark.parametrize(
    "stated",
    [
        {"thinking": False, "enable_thinking": True},
        {"enable_thinking": False, "thinking_budget": 5},
        {"reasoning_effort": "low", "reasoning": {"effort": "high"}},
        {"thinking": 5, "thinking_budget": 6},
        {"thinking": {"type": "disabled"}, "reasoning_effort": "low"},
        {"thinking": 0, "enable_thinking": True},
        {"thinking": {"type": "disabled", "budget_tokens": 5}},
    ],
)
def test_contradictions_are_refused(stated: dict[str, Any]) -> None:
    with pytest.raises(RequestRefused, match="give one of them"):
        thinking_of(stated, LEVELS)


@pytest.mark.parametrize(
    "stated",
    [
        {"thinking": {"type": "on"}},
        {"thinking": {"type": "enabled", "effort": 1}},
        {"reasoning": {"wish": 1}},
        {"reasoning_effort": "huge"},
        {"thinking_budget": -1},
        {"chat_template_kwargs": {"enable_thinking": "yes"}},
    ],
)
def test_words_that_nobody_knows(stated: dict[str, Any]) -> None:
    with pytest.raises(RequestRefused, match=r"expected|leave it out"):
        thinking_of(stated, LEVELS)


def test_other_variables_go_to_the_template() -> None:
    assert other_variables({"chat_template_kwargs": {"enable_thinking": True, "date": "x"}}) == {"date": "x"}
