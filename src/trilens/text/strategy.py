"""A caller's request for thinking -> what to render, or one clear error before any work is done."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from trilens.errors import RequestRefused, shown
from trilens.text.conversation import Message, Text
from trilens.text.thinking import Inference, Setting, start_of

Thinking = bool | str | int | None

WORDS = ("minimal", "low", "medium", "high", "xhigh", "max")
OFF_OR_LEAST = "off-or-least"


@dataclass(frozen=True)
class Strategy:
    """How one request is to be answered.

    `setting` is what gets rendered, None for the untouched template. `effective` is its name: "off", "on", "auto", a
    level, or "unknown" where nobody can say. `budget` is the most tokens of thinking, None for no limit.
    """

    requested: Thinking
    effective: str
    setting: Setting | None = None
    budget: int | None = None


def continuing(strategy: Strategy) -> Strategy:
    """The strategy for continuing an answer: there is no place left to think. Raises RequestRefused if the caller
    asks for thinking.
    """
    if strategy.requested not in (None, False, OFF_OR_LEAST, 0):
        raise RequestRefused(
            f"the last message's text is continued, so there is no place for thinking={strategy.requested!r}; leave "
            "one of them out"
        )
    setting = strategy.setting if strategy.effective == "off" else None
    return Strategy(strategy.requested, "off", setting)


def choose(inference: Inference, thinking: Thinking) -> Strategy:
    """Choose the strategy. Raises RequestRefused, with the nearest possible value, for what this model cannot do."""
    if thinking is None:
        return Strategy(thinking, inference.default or {"never": "off"}.get(inference.kind, "unknown"))
    if thinking is False:
        return _off(inference, thinking)
    if thinking is True:
        return _on(inference, thinking)
    if isinstance(thinking, int):
        return _budget(inference, thinking)
    if thinking == OFF_OR_LEAST:
        return _off(inference, thinking) if _can_be_off(inference) else _least(inference)
    if isinstance(thinking, str) and thinking in (*WORDS, *inference.levels):
        return _level(inference, thinking)
    raise RequestRefused(
        f"thinking is {shown(thinking)}; expected True, False, {', '.join(WORDS)}, {OFF_OR_LEAST}, "
        "or a number of tokens"
    )


def render_with(
    strategy: Strategy, inference: Inference, messages: Sequence[Message], variables: Mapping[str, Any]
) -> tuple[list[Message], dict[str, Any]]:
    """The messages and template variables for the strategy. The caller's own `variables` must not contradict it."""
    prepared = list(messages)
    setting = strategy.setting
    if setting is None:
        return prepared, dict(variables)
    for name, value in setting.variables.items():
        if variables.get(name, value) != value:
            raise RequestRefused(
                f"thinking={strategy.requested!r} sets {name}={value!r} and template_variables says "
                f"{variables[name]!r}; give one of them"
            )
    if setting.text is not None:
        prepared = _with_text(setting, prepared)
    elif setting.text_role is None and any(s.text == "" for s in inference.settings) and _has_system(prepared):
        raise RequestRefused(
            "this model thinks by its own system message, which the conversation's replaces; leave the system message "
            "out, or ask for no thinking"
        )
    given = {**setting.variables, **variables}
    if strategy.budget and inference.budget_variable is not None:
        given[inference.budget_variable] = strategy.budget
    return prepared, given


def check_start(strategy: Strategy, inference: Inference, prompt: str) -> None:
    """Refuse a prompt that does not leave the model where the setting says: a text in a message has switched it. (Not
    for a turn that goes on without a generation prompt.)"""
    setting = strategy.setting
    if setting is None or setting.start == "free" or inference.source.startswith("the catalog"):
        return
    found = start_of(prompt, inference.markers)
    if found != setting.start:
        raise RequestRefused(
            f"the conversation itself switches the thinking: with {setting.name!r} the prompt should leave it "
            f"{setting.start} and leaves it {found}; look for a word such as /think or /no_think in a message"
        )


def as_thinking(word: str | None) -> Thinking:
    """The command line's word: on, off, a level, off-or-least, or a number of tokens."""
    if word is None or word == "auto":
        return None
    if word in ("on", "off"):
        return word == "on"
    return int(word) if word.isascii() and word.isdigit() else word


def _can_be_off(inference: Inference) -> bool:
    return inference.can_be_off is not False


def _off(inference: Inference, requested: Thinking) -> Strategy:
    if inference.kind == "always" and not inference.certain:
        return Strategy(requested, "unknown")
    if inference.kind in ("never", "unknown"):
        return Strategy(requested, "off" if inference.kind == "never" else "unknown")
    setting = inference.setting("off")
    if setting is None:
        nearest = repr(inference.levels[0]) if inference.levels else "a budget, as thinking=0"
        raise RequestRefused(
            f"this model always thinks: thinking={requested!r} is not possible; the nearest is {nearest}, or "
            f"{OFF_OR_LEAST!r} for the least it can"
        )
    return Strategy(requested, "off", setting)


def _on(inference: Inference, requested: Thinking, budget: int | None = None) -> Strategy:
    _must_think(inference, requested)
    usual = inference.default if inference.default in inference.levels else None
    for name in (usual, "on", "medium", *reversed(inference.levels), "auto"):
        if name is not None and (setting := inference.setting(name)) is not None:
            return Strategy(requested, name, setting, budget)
    return Strategy(requested, "unknown" if inference.kind == "unknown" else "on", None, budget)


def _least(inference: Inference) -> Strategy:
    if inference.levels:
        return Strategy(OFF_OR_LEAST, inference.levels[0], inference.setting(inference.levels[0]))
    return _on(inference, OFF_OR_LEAST)


def _level(inference: Inference, word: str) -> Strategy:
    """A level by its name. "minimal" and "max" are the least and the most a model has, whatever it calls them."""
    _must_think(inference, word)
    levels = inference.levels
    if not levels:
        raise RequestRefused(
            f"this model has no levels of thinking: thinking={word!r} is not possible; expected True"
            f"{', False' if _can_be_off(inference) else ''} or a number of tokens"
        )
    name = word if word in levels else {"minimal": levels[0], "max": levels[-1]}.get(word)
    if name is None:
        near = min(levels, key=lambda level: abs(_rank(level) - _rank(word)))
        raise RequestRefused(
            f"this model has no level {word!r}; it has {', '.join(levels)}; the nearest is thinking={near!r}"
        )
    return Strategy(word, name, inference.setting(name))


def _budget(inference: Inference, tokens: int) -> Strategy:
    if not 0 <= tokens < 1 << 63:
        raise RequestRefused(f"thinking is {shown(tokens)}; expected a number of tokens from 0")
    if tokens == 0 and _can_be_off(inference):
        return _off(inference, tokens)
    return _on(inference, tokens, tokens)


def _must_think(inference: Inference, requested: Thinking) -> None:
    if inference.kind == "never" or inference.markers is None:
        known = "does not think" if inference.kind == "never" and inference.certain else "is not known to think"
        raise RequestRefused(f"this model {known}: thinking={requested!r} is not possible; leave it out")


def _rank(level: str) -> int:
    return WORDS.index(level) if level in WORDS else 0


def _has_system(messages: Sequence[Message]) -> bool:
    return any(message.role == "system" for message in messages)


def _with_text(setting: Setting, messages: list[Message]) -> list[Message]:
    """The switch's text in the first system message, or in the last of the user's."""
    word = setting.text or ""
    if setting.text_role == "system":
        if not _has_system(messages):
            return [Message("system", (Text(word),)), *messages]
        at = next(i for i, message in enumerate(messages) if message.role == "system")
        first, *rest = messages[at].texts or [""]
        texts = [f"{word}\n\n{first}" if word else first, *rest]
    else:
        at = max((i for i, message in enumerate(messages) if message.role == "user"), default=-1)
        if at < 0:
            raise RequestRefused("the conversation has no user message, in which this model's setting belongs")
        *before, last = messages[at].texts or [""]
        texts = [*before, f"{last} {word}"]
    return [*messages[:at], messages[at].with_texts(texts), *messages[at + 1 :]]
