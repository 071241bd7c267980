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
            self.fail(f"{value!r} is not a number of bytes; expected for example 4GB or 500MB", param, ctx)
        return max(1, int(float(found[1]) * self.UNITS[found[2]]))


class Number(click.FloatRange):
    """A float in a range. "nan" and "inf" are outside every range."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        number = float(super().convert(value, param, ctx))
        if not math.isfinite(number):
            self.fail(f"{value!r} is not a finite number", param, ctx)
        return number


class Rate(Number):
    """A number of tokens a second, with or without the unit."""

    name = "rate"

    def __init__(self) -> None:
        super().__init__(min=0)

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        return super().convert(str(value).removesuffix("tok/s").strip(), param, ctx)


class Text(click.ParamType):  # type: ignore[type-arg]
    """A text that is not empty."""

    name = "text"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        if not str(value):
            self.fail("it is empty; expected a text", param, ctx)
        return str(value)


class ThinkingWord(click.ParamType):  # type: ignore[type-arg]
    """A word of --thinking. Whether the model can do it is checked with the request."""

    name = "word"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        return thinking_word(str(value))


def thinking_word(word: str) -> str:
    """The word, which is on, off, a level, off-or-least, or a number of tokens. Raises UsageError."""
    known = ("on", "off", *WORDS, OFF_OR_LEAST, "auto")
    if word not in known and isinstance(as_thinking(word), str):
        raise UsageError(f"thinking is {word[:60]!r}; expected {', '.join(known[:-1])}, or a number of tokens")
    return word


class AdapterPath(click.ParamType):  # type: ignore[type-arg]
    """An adapter's name and its path, as in poet=adapters/poet."""

    name = "adapter"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[str, str]:
        if isinstance(value, tuple):
            return value
        called, _, path = str(value).partition("=")
        if not called or not path:
            self.fail(f"{value!r} is not NAME=PATH; expected for example poet=adapters/poet", param, ctx)
        return called, path


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
        help="Keep prompt prefixes in this directory for the next start. Prompts can be read from its files.",
    ),
    click.option(
        "--prefix-bytes", type=Bytes(), default="4GB", show_default=True, help="Maximum size of that directory."
    ),
)
TRUST = click.option(
    "--trust-control-tokens",
    is_flag=True,
    help="Interpret control tokens in prompts and messages instead of treating them as text.",
)
COUNTED_ADAPTERS = click.option(
    "--adapter",
    "adapters",
    multiple=True,
    type=AdapterPath(),
    metavar="NAME=PATH",
    help="Count this LoRA adapter too. May be repeated.",
)
THREADS = click.option(
    "--threads",
    type=click.IntRange(1, 1024),
    help="Number of threads. Default: the physical cores that this process may use.",
)
SPECULATION = click.option(
    "--speculation/--no-speculation",
    default=True,
    help="Compute tokens ahead that followed the same text earlier, or that a schema forces. It changes no answer. "
    "Default: where it pays.",
)
PREDICTION_BLOCK = click.option(
    "--prediction-block",
    is_flag=True,
    help="Load the model's block for multi-token prediction too, and let it propose tokens. It changes no answer.",
)
KEEP_PACKED = click.option(
    "--keep-packed",
    is_flag=True,
    help="Keep the weights in the cache as they lie in memory, so that the next start is faster. Takes as much disk.",
)
MODEL = options(
    click.option(
        "--model",
        type=Text(),
        default="smollm2",
        show_default=True,
        help="A catalog name, a path, a hub id, or a model elsewhere.",
    ),
    click.option("--offline", is_flag=True, help="Use only files on this disk."),
    click.option(
        "--executor",
        type=click.Choice(["native", "torch"]),
        default="native",
        show_default=True,
        help="The implementation that computes.",
    ),
    THREADS,
    click.option("--quantise", type=click.Choice(["8bit", "4bit"]), help="Quantise unquantised weights while loading."),
    click.option(
        "--kv", type=click.Choice(["f16", "8bit", "f32"]), help="Number format of the KV cache. Default: f16."
    ),
    click.option(
        "--adapter",
        type=AdapterPath(),
        metavar="NAME=PATH",
        help="Use this LoRA adapter: a directory in PEFT's layout, or a GGUF file.",
    ),
    *PREFIXES,
    TRUST,
    SPECULATION,
    PREDICTION_BLOCK,
    KEEP_PACKED,
    click.option(
        "--ignore-key",
        "ignore_keys",
        multiple=True,
        metavar="NAME",
        help="Ignore this key of the configuration. May be repeated.",
    ),
)
GENERATION = options(
    click.option(
        "--thinking",
        type=ThinkingWord(),
        metavar="WORD",
        help="on, off, a level (minimal to max), off-or-least, or a maximum of tokens. Default: the model's own.",
    ),
    click.option("--hide-thinking", is_flag=True, help="Do not print the thinking to standard error."),
    click.option("--temperature", type=Number(0, 100), help="Randomness. 0 always takes the most likely token."),
    click.option(
        "--top-k", type=click.IntRange(0, 2**31 - 1), help="Sample from the k most likely tokens. 0 means all."
    ),
    click.option(
        "--top-p",
        type=Number(0, 1, min_open=True),
        help="Sample from the most likely tokens whose probabilities add up to this.",
    ),
    click.option(
        "--min-p", type=Number(0, 1), help="Sample from tokens with at least this fraction of the highest probability."
    ),
    click.option(
        "--repetition-penalty",
        type=Number(0, 100, min_open=True),
        help="Penalty factor for tokens that have occurred, prompt included. 1 means none.",
    ),
    click.option("--presence-penalty", type=Number(-100, 100), help="Penalty for tokens that have occurred."),
    click.option("--frequency-penalty", type=Number(-100, 100), help="Penalty for each time a token has occurred."),
    click.option("--seed", type=click.IntRange(0, 2**64 - 1), help="The same seed gives the same answer."),
    click.option(
        "--max-tokens", type=click.IntRange(1), help="Maximum number of tokens of the answer, thinking not included."
    ),
    click.option("--schema", metavar="JSON", help="The answer is JSON of this schema, given as a file or as text."),
    click.option("--regex", type=Text(), metavar="REGEX", help="The answer matches this regular expression."),
    click.option(
        "--choice",
        type=Text(),
        multiple=True,
        metavar="TEXT",
        help="The answer is one of these texts. May be repeated.",
    ),
    click.option("--grammar", metavar="FILE", help="The answer follows this grammar, in GBNF or Lark's syntax."),
    click.option(
        "--stop", type=Text(), multiple=True, metavar="TEXT", help="Stop the answer before this text. May be repeated."
    ),
)
