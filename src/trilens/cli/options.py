"""Options that several commands have."""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar, TypeVar

import click

from trilens.errors import UsageError
from trilens.text.strategy import OFF_OR_LEAST, WORDS, as_thinking


class Bytes(click.ParamType):  # type: ignore[type-arg]
    """A number of bytes, as in 4GB or 500MB."""

    name = "bytes"
    UNITS: ClassVar = {"": 1, "k": 10**3, "m": 10**6, "g": 10**9, "t": 10**12}

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        if isinstance(value, int):
            return value
        found = re.fullmatch(r"(\d{1,15}(?:\.\d{1,9})?) ?([kmgt]?)b?", str(value).strip().lower())
        if found is None or float(found[1]) <= 0:
            self.fail(f"{value!r} is no number of bytes; expected one such as 4GB or 500MB", param, ctx)
        return max(1, int(float(found[1]) * self.UNITS[found[2]]))


class Number(click.FloatRange):
    """A float in a range; "nan" and "inf" are in none."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        number = float(super().convert(value, param, ctx))
        if not math.isfinite(number):
            self.fail(f"{value!r} is no finite number", param, ctx)
        return number


class Text(click.ParamType):  # type: ignore[type-arg]
    """A text that is not empty."""

    name = "text"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        if not str(value):
            self.fail("it is empty; expected a text", param, ctx)
        return str(value)


class ThinkingWord(click.ParamType):  # type: ignore[type-arg]
    """A word of --thinking; whether a model can do it shows when it is asked."""

    name = "word"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        return thinking_word(str(value))


def thinking_word(word: str) -> str:
    """The word, which is on, off, a level, off-or-least, or a number of tokens. Raises UsageError."""
    known = ("on", "off", *WORDS, OFF_OR_LEAST, "auto")
    if word not in known and isinstance(as_thinking(word), str):
        raise UsageError(f"thinking is {word[:60]!r}; expected {', '.join(known[:-1])}, or a number of tokens")
    return word


F = TypeVar("F", bound=Callable[..., Any])


def options(*options: Callable[[F], F]) -> Callable[[F], F]:
    """Several options as one decorator."""

    def decorate(function: F) -> F:
        for option in reversed(options):
            function = option(function)
        return function

    return decorate


PREFIXES = (
    click.option(
        "--prefix-dir",
        type=click.Path(path_type=Path, file_okay=False),
        metavar="DIR",
        help="Keep beginnings of prompts there for the next start. Prompts can be read from its files.",
    ),
    click.option(
        "--prefix-bytes", type=Bytes(), default="4GB", show_default=True, help="Most bytes of that directory."
    ),
)
TRUST = click.option(
    "--trust-control-tokens", is_flag=True, help="Let control tokens in prompts and messages take effect."
)
MODEL = options(
    click.option("--model", type=Text(), default="smollm2", show_default=True, help="Catalog name, path or hub id."),
    click.option("--offline", is_flag=True, help="Use only what is on this disk."),
    click.option(
        "--executor", type=click.Choice(["native", "torch"]), default="native", show_default=True, help="What computes."
    ),
    click.option("--threads", type=click.IntRange(1, 1024), help="Default: the physical cores this process may use."),
    click.option("--quantise", type=click.Choice(["8bit", "4bit"]), help="Make unquantised weights smaller."),
    click.option("--kv", type=click.Choice(["f16", "8bit", "f32"]), help="Numbers of the cache; default f16."),
    *PREFIXES,
    TRUST,
    click.option("--ignore-key", "ignore_keys", multiple=True, metavar="NAME", help="A config key to leave unread."),
)
GENERATION = options(
    click.option(
        "--thinking",
        type=ThinkingWord(),
        metavar="WORD",
        help="on, off, a level (minimal to max), off-or-least, or the most tokens of it. Default: the model's own.",
    ),
    click.option("--hide-thinking", is_flag=True, help="Do not show the thinking on standard error."),
    click.option("--temperature", type=Number(0, 100), help="0 takes the likeliest token every time."),
    click.option("--top-k", type=click.IntRange(0, 2**31 - 1), help="Keep the k likeliest tokens; 0 keeps all."),
    click.option(
        "--top-p", type=Number(0, 1, min_open=True), help="Keep the likeliest tokens that reach this share together."
    ),
    click.option(
        "--min-p", type=Number(0, 1), help="Keep tokens with at least this part of the likeliest one's share."
    ),
    click.option("--repetition-penalty", type=Number(0, 100, min_open=True)),
    click.option("--presence-penalty", type=Number(-100, 100)),
    click.option("--frequency-penalty", type=Number(-100, 100)),
    click.option("--seed", type=click.IntRange(0, 2**64 - 1), help="The same seed gives the same answer."),
    click.option("--max-tokens", type=click.IntRange(1), help="Most tokens of an answer."),
    click.option("--schema", metavar="JSON", help="The answer is JSON of this schema; a file, or the schema itself."),
    click.option(
        "--regex", type=Text(), metavar="REGEX", help="The answer is a text that this regular expression matches."
    ),
    click.option(
        "--choice", type=Text(), multiple=True, metavar="TEXT", help="The answer is one of these. May be repeated."
    ),
    click.option("--grammar", metavar="FILE", help="The answer follows this grammar, in GBNF or Lark's form."),
    click.option(
        "--stop", type=Text(), multiple=True, metavar="TEXT", help="End the answer before this text. May be repeated."
    ),
)
