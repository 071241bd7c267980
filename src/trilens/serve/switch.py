"""The many fields that ask for thinking -> the one switch."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from trilens.errors import FieldRefused
from trilens.serve.fields import only, shown
from trilens.serve.wire import MOST_TOKENS
from trilens.text.strategy import Thinking
from trilens.text.thinking import Inference

# What a template is given beside `chat_template_kwargs`; "self" is Python's own name for the template.
OWN_VARIABLES = (*("messages", "tools", "add_generation_prompt", "bos_token", "eos_token", "strftime_now"), "self")
EFFORTS = ("none", "minimal", "low", "medium", "high", "xhigh", "max")


def thinking_of(stated: Mapping[str, Any], inference: Inference) -> Thinking:
    """`stated` has fields of a request, None where it did not say: `thinking` (ours, or an object with a type),
    `reasoning_effort`, `reasoning`, `enable_thinking`, `thinking_budget`, `chat_template_kwargs`.

    An effort means on if a model has no levels; our own field is strict. Raises RequestRefused for fields that
    contradict each other.
    """
    asked: dict[str, Thinking] = {}
    ours = stated.get("thinking")
    if isinstance(ours, Mapping):
        asked["thinking"] = _typed(ours)
    elif ours is not None:
        asked["thinking"] = ours
    if (effort := stated.get("reasoning_effort")) is not None:
        asked["reasoning_effort"] = _effort("reasoning_effort", effort, inference)
    if (reasoning := stated.get("reasoning")) is not None:
        asked |= _reasoning(reasoning, inference)
    variables = stated.get("chat_template_kwargs") or {}
    for place, holder in (("", stated), ("chat_template_kwargs.", variables)):
        if (on := holder.get("enable_thinking")) is not None:
            asked[f"{place}enable_thinking"] = _flag(f"{place}enable_thinking", on)
        if (budget := holder.get("thinking_budget")) is not None:
            asked[f"{place}thinking_budget"] = _tokens(f"{place}thinking_budget", budget)
    return _one(asked)


def can_think(inference: Inference) -> bool:
    """Whether thinking can be requested at all."""
    return inference.kind != "never" and inference.markers is not None


def other_variables(stated: Mapping[str, Any]) -> dict[str, Any]:
    """What `chat_template_kwargs` has for the template beside the switch."""
    variables = stated.get("chat_template_kwargs") or {}
    taken = next((name for name in variables if name in OWN_VARIABLES), None)
    if taken is not None:
        raise FieldRefused(f"chat_template_kwargs.{taken}", "is set by the server; leave it out")
    return {k: v for k, v in variables.items() if k not in ("enable_thinking", "thinking_budget")}


def _one(asked: Mapping[str, Thinking]) -> Thinking:
    """The value that all of them agree on. A level or a budget is more specific than "on"."""
    chosen: Thinking = None
    by = ""
    for name, thinking in asked.items():
        if thinking is None or (chosen is not None and _agrees(chosen, thinking)):
            continue
        if chosen is not None and not _agrees(thinking, chosen):
            raise FieldRefused(
                name, f"asks for thinking={shown(thinking)} and {by} for thinking={shown(chosen)}; give one of them"
            )
        chosen, by = thinking, name
    return chosen


def _agrees(more: Thinking, less: Thinking) -> bool:
    """Whether `more` says what `less` says, or says it more precisely."""
    if type(more) is type(less) and more == less:
        return True
    return less is True and more is not False and more != 0


def _typed(thinking: Mapping[str, Any]) -> Thinking:
    kind, budget = thinking.get("type"), thinking.get("budget_tokens")
    only(thinking, {"type", "budget_tokens", "display"}, "thinking")
    match kind:
        case "disabled":
            if budget is not None:
                raise FieldRefused("thinking.budget_tokens", "is given with thinking disabled; give one of them")
            return False
        case "enabled" | "adaptive":
            return True if budget is None else _tokens("thinking.budget_tokens", budget)
        case _:
            raise FieldRefused("thinking.type", f"is {shown(kind)}; expected enabled, disabled or adaptive")


def _reasoning(reasoning: Mapping[str, Any], inference: Inference) -> dict[str, Thinking]:
    only(reasoning, {"effort", "max_tokens", "enabled", "exclude", "summary", "generate_summary"}, "reasoning")
    asked: dict[str, Thinking] = {}
    if (effort := reasoning.get("effort")) is not None:
        asked["reasoning.effort"] = _effort("reasoning.effort", effort, inference)
    if (most := reasoning.get("max_tokens")) is not None:
        asked["reasoning.max_tokens"] = _tokens("reasoning.max_tokens", most)
    if (enabled := reasoning.get("enabled")) is not None:
        asked["reasoning.enabled"] = _flag("reasoning.enabled", enabled)
    return asked


def _effort(name: str, word: Any, inference: Inference) -> Thinking:
    if word not in EFFORTS:
        raise FieldRefused(name, f"is {shown(word)}; expected one of {', '.join(EFFORTS)}")
    if word == "none":
        return False
    levels = inference.levels
    if word in levels or inference.kind == "never":
        return str(word)
    if not levels:
        return True
    known = [level for level in levels if level in EFFORTS]
    return min(known, key=lambda level: abs(EFFORTS.index(level) - EFFORTS.index(word)), default=str(word))


def _flag(name: str, value: Any) -> bool:
    if not isinstance(value, bool):
        raise FieldRefused(name, f"is {shown(value)}; expected true or false")
    return value


def _tokens(name: str, value: Any) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value <= MOST_TOKENS:
        raise FieldRefused(name, f"is {shown(value)}; expected a number of tokens from 0")
    return value
