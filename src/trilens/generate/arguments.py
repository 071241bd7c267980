"""Checks of what callers pass, before any work: each error names the option, what it got and what is expected."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from typing import Any

from trilens.errors import RequestRefused, TrilensError, UsageError, shown
from trilens.text.conversation import Message
from trilens.text.strategy import Thinking

MOST = 1 << 63
ADAPTER = re.compile(r"[\w.-]{1,100}")  # an adapter's name; a server writes it behind a colon


def text(name: str, value: object, *, none: bool = True) -> None:
    _expect(UsageError, (value is None and none) or (isinstance(value, str) and value != ""), name, value, "a text")


def flag(name: str, value: object, error: type[TrilensError] = UsageError) -> None:
    _expect(error, isinstance(value, bool), name, value, "True or False")


def function(name: str, value: object) -> None:
    _expect(UsageError, value is None or callable(value), name, value, "a function or None")


def whole(
    name: str, value: object, least: int, *, none: bool = True, error: type[TrilensError] = RequestRefused
) -> None:
    integer = isinstance(value, int) and not isinstance(value, bool)
    fits = integer and least <= value < MOST  # type: ignore[operator]
    expected = f"at least {least}" if integer and not fits and value < least else f"a whole number, {least} or more"  # type: ignore[operator]
    _expect(error, (value is None and none) or fits, name, value, expected)


def number(name: str, value: object, above: float) -> None:
    fits = isinstance(value, int | float) and not isinstance(value, bool) and above < value < 1e9
    _expect(UsageError, fits, name, value, f"a number above {above:g}")


def one_of(name: str, value: object, known: Sequence[str], *, none: bool = True) -> None:
    fits = (value is None and none) or (isinstance(value, str) and value in known)
    _expect(UsageError, fits, name, value, " or ".join(map(repr, known)))


def texts(name: str, value: object) -> tuple[str, ...]:
    """A list of texts; one text alone is a mistake, for its characters would be taken."""
    fits = isinstance(value, list | tuple | set | frozenset) and all(isinstance(part, str) for part in value)
    _expect(UsageError, fits, name, value, "a list of texts")
    return tuple(value)  # type: ignore[arg-type]


def adapters(value: object) -> dict[str, str]:
    """Adapters by name, each with its path."""
    fits = value is None or (
        isinstance(value, Mapping)
        and all(isinstance(key, str) and ADAPTER.fullmatch(key) for key in value)
        and all(isinstance(path, str | os.PathLike) and os.fspath(path) for path in value.values())
    )
    _expect(UsageError, fits, "adapters", value, "an object of paths by name; names of letters, digits and _ . -")
    return {key: os.fspath(path) for key, path in value.items()} if value else {}  # type: ignore[attr-defined]


def model_name(value: object) -> str:
    """A name or a path, as a text."""
    found = os.fspath(value) if isinstance(value, os.PathLike) else value
    if not isinstance(found, str) or not found or "\0" in found:
        raise UsageError(f"the model is {shown(value)}; expected a catalog name, a path, a hub id or an address")
    return found


def path(name: str, value: object) -> None:
    found = os.fspath(value) if isinstance(value, os.PathLike) else value
    fits = isinstance(found, str) and found != "" and "\0" not in found
    _expect(UsageError, value is None or fits, name, value, "a path")


def stops(value: object) -> tuple[str, ...]:
    """`stop`, a text or several, as several."""
    several = (value,) if isinstance(value, str) else value
    fits = isinstance(several, list | tuple) and all(isinstance(part, str) for part in several)
    _expect(RequestRefused, fits, "stop", value, "a text or a list of texts")
    if not all(several):  # type: ignore[arg-type]
        raise RequestRefused("a stop string is empty; expected at least one character")
    return tuple(several)  # type: ignore[arg-type]


def request(max_tokens: object, raw: object, tools: object, template_variables: object) -> None:
    """The options that every request has."""
    whole("max_tokens", max_tokens, 0)
    flag("raw", raw, RequestRefused)
    fits = isinstance(tools, list | tuple) and all(isinstance(tool, Mapping) for tool in tools)
    _expect(RequestRefused, tools is None or fits, "tools", tools, "a list of objects")
    given = template_variables
    fits = isinstance(given, Mapping) and all(isinstance(key, str) for key in given)
    _expect(RequestRefused, given is None or fits, "template_variables", given, "an object with texts as names")


def thinking(thinking: Thinking, extended_thinking: Thinking) -> Thinking:
    """The one of two names that was used."""
    if thinking is not None and extended_thinking is not None:
        raise RequestRefused("thinking and extended_thinking are two names of one option; give one of them")
    return extended_thinking if thinking is None else thinking


def structure(schema: object, regex: object, choice: object, grammar: object) -> tuple[str, Any] | None:
    """What the answer is held to: the option's name and its value; None where it is free."""
    _expect(
        RequestRefused, schema is None or isinstance(schema, Mapping), "schema", schema, "a JSON schema, as an object"
    )
    for name, value in (("regex", regex), ("grammar", grammar)):
        _expect(RequestRefused, value is None or (isinstance(value, str) and value != ""), name, value, "a text")
    fits = isinstance(choice, list | tuple) and all(isinstance(one, str) and one for one in choice)
    _expect(RequestRefused, choice is None or fits, "choice", choice, "a list of texts")
    every = {"schema": schema, "regex": regex, "choice": choice, "grammar": grammar}
    stated = [(name, value) for name, value in every.items() if value is not None]
    if len(stated) > 1:
        raise RequestRefused(
            f"{stated[1][0]} and {stated[0][0]} both determine the form of the answer; give one of them"
        )
    return stated[0] if stated else None


def ends(min_tokens: object, stop_token_ids: object, ignore_eos: object, vocab: int) -> frozenset[int]:
    """The tokens that end an answer, once all three options are checked."""
    whole("min_tokens", min_tokens, 0, none=False)
    flag("ignore_eos", ignore_eos, RequestRefused)
    ids = stop_token_ids
    fits = isinstance(ids, list | tuple) and all(isinstance(t, int) and not isinstance(t, bool) for t in ids)
    _expect(RequestRefused, fits, "stop_token_ids", ids, "a list of tokens' ids")
    found: frozenset[int] = frozenset(ids)  # type: ignore[call-overload]
    bad = next((token for token in sorted(found) if not 0 <= token < vocab), None)
    if bad is not None:
        raise RequestRefused(f"stop_token_ids names {bad}; expected a token's id from 0 to {vocab - 1}")
    return found


def tools(value: object) -> Sequence[Any]:
    """The tools that a call offers: a list."""
    _expect(RequestRefused, isinstance(value, list | tuple), "tools", value, "a list of functions or objects")
    return value  # type: ignore[return-value]


def prompts(value: object) -> None:
    """A list of prompts; one prompt alone is a mistake, for its parts would be taken."""
    _expect(RequestRefused, isinstance(value, list | tuple) and len(value) > 0, "prompts", value, "a list of prompts")
    for one in value:  # type: ignore[attr-defined]
        prompt(one)


def prompt(value: object) -> None:
    """A text that is not empty, or a conversation; what is in its messages is looked at where they are rendered."""
    if isinstance(value, str):
        if not value.strip():
            raise RequestRefused("the prompt is empty; expected a text or a conversation")
        return
    if is_ids(value):
        return
    fits = (
        isinstance(value, list | tuple)
        and len(value) > 0
        and all(isinstance(part, Mapping | Message) for part in value)
    )
    _expect(RequestRefused, fits, "the prompt", value, 'a text, or a list of {"role": ..., "content": ...}')


def is_ids(value: object) -> bool:
    """Whether a prompt is token ids, and not a text or a conversation."""
    several = isinstance(value, list | tuple) and len(value) > 0
    return several and all(isinstance(part, int) and not isinstance(part, bool) for part in value)  # type: ignore[attr-defined]


def _expect(error: type[TrilensError], fits: bool, name: str, value: object, expected: str) -> None:
    if not fits:
        raise error(f"{name} is {shown(value)}; expected {expected}")
