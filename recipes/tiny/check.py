"""What README.md shows beside `trilens combos`: every range, all single digits, and the first ten that a person asks.

python recipes/tiny/check.py
"""

from __future__ import annotations

import click

import trilens
from trilens.model import Model
from trilens.trials.combos import MODELS
from trilens.trials.questions import RANGES, Question, asking, in_range, is_right

FIRST = (
    "hi",
    "What is 4 plus 5?",
    "4+5",
    "17 * 23 =",
    "please add 12 and 30",
    "What is 3 minus 8?",
    "who are you",
    "what can you do",
    "What is the capital of France?",
    "thanks",
)
SINGLE = ("sum", "difference", "negative", "product")
COLUMN = "{:>8}"


@click.command()
@click.option("--each", default=400, show_default=True, help="Held-out questions of a range, at most.")
def main(each: int) -> None:
    digits = RANGES["sum"]
    print(f"{'thinking':<12} {'digits':<11}", *map(COLUMN.format, digits))
    for name in MODELS:
        model = trilens.load(name)
        for kind in SINGLE:
            ranges = [in_range(kind, part, each) for part in digits if part in RANGES[kind]]
            cells = [f"{count_right(model, asked, True)}/{len(asked)}" for asked in ranges]
            print(f"{name:<12} {kind:<11}", *map(COLUMN.format, cells))
    for name in MODELS:
        model = trilens.load(name)
        for kind in SINGLE:
            asked = single_digits(kind)
            counts = [f"{count_right(model, asked, thinking)} of {len(asked)}" for thinking in (False, True)]
            print(f"{name:<12} {kind:<11} single digits: {counts[0]} at once, {counts[1]} thinking")
    for name in MODELS:
        answers = trilens.load(name).generate(list(FIRST), thinking=True, temperature=0)
        for text, answer in zip(FIRST, answers, strict=True):
            print(f"{name:<12} {text:<31} {answer.text}")


def single_digits(kind: str) -> list[Question]:
    """All of them; differences by whether they are below zero."""
    pairs = [(a, b) for a in range(10) for b in range(10)]
    if kind in ("difference", "negative"):
        pairs = [(a, b) for a, b in pairs if (a < b) == (kind == "negative")]
    return [asking(kind, a, b) for a, b in pairs]


def count_right(model: Model, asked: list[Question], thinking: bool) -> int:
    answers = model.generate([q.text for q in asked], thinking=thinking, temperature=0)
    return sum(is_right(q, a.text) for q, a in zip(asked, answers, strict=True))


if __name__ == "__main__":
    main()
