"""What README.md shows beside `trilens combos`: every range, all single digits, answers under a JSON schema, and the
first ten questions that a person asks.

python recipes/tiny/check.py
"""

from __future__ import annotations

from itertools import islice
from typing import Any

import click

import trilens
from trilens.model import Model
from trilens.trials.combos import MODELS
from trilens.trials.questions import RANGES, Question, asking, held_out, is_right, questions

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
KEYS = ("grams", "answer", "n", "width", "zorp", "hoursleft")
ROOM = 40  # tokens of an object, far more than a small number needs
SINGLE = ("sum", "difference", "negative", "product")
COLUMN = "{:>8}"


@click.command()
@click.option("--each", default=1000, show_default=True, help="Held-out questions of a range.")
@click.option("--seed", default=2026, show_default=True, help="Of the questions of the ranges.")
def main(each: int, seed: int) -> None:
    digits = RANGES["sum"]
    print(f"{'thinking':<12} {'digits':<11}", *map(COLUMN.format, digits))
    for name in MODELS:
        model = trilens.load(name)
        for kind in SINGLE:
            ranges = [fresh(kind, part, each, seed) for part in digits if part in RANGES[kind]]
            cells = [f"{100 * count_right(model, asked, True) / len(asked):.1f} %" for asked in ranges]
            print(f"{name:<12} {kind:<11}", *map(COLUMN.format, cells))
    for name in MODELS:
        model = trilens.load(name)
        for kind in SINGLE:
            asked = single_digits(kind)
            counts = [f"{count_right(model, asked, thinking)} of {len(asked)}" for thinking in (False, True)]
            print(f"{name:<12} {kind:<11} single digits: {counts[0]} at once, {counts[1]} thinking")
    for name in MODELS:
        model, asked = trilens.load(name), held_out(240, ("sum", "difference", "negative", "product"), seed)
        for thinking in (False, True):
            right = count_objects(model, asked, thinking)
            print(f"{name:<12} objects: {right} of {len(asked)} {'thinking' if thinking else 'at once'}")
    for name in MODELS:
        answers = trilens.load(name).generate(list(FIRST), thinking=True, temperature=0)
        for text, answer in zip(FIRST, answers, strict=True):
            print(f"{name:<12} {text:<31} {answer.text}")


def fresh(kind: str, digits: str, number: int, seed: int) -> list[Question]:
    """So many held-out questions of a range. Two single digits come again and again, in their held-out wordings."""
    return list(islice((question for question in questions(kind, seed, digits) if question.held_out), number))


def single_digits(kind: str) -> list[Question]:
    """All of them; differences by whether they are below zero."""
    pairs = [(a, b) for a in range(10) for b in range(10)]
    if kind in ("difference", "negative"):
        pairs = [(a, b) for a, b in pairs if (a < b) == (kind == "negative")]
    return [asking(kind, a, b) for a, b in pairs]


def count_right(model: Model, asked: list[Question], thinking: bool) -> int:
    answers = model.generate([q.text for q in asked], thinking=thinking, temperature=0)
    return sum(is_right(q, a.text) for q, a in zip(asked, answers, strict=True))


def count_objects(model: Model, asked: list[Question], thinking: bool) -> int:
    """Right answers as values of a key that a JSON schema asks for."""
    right = 0
    for key, some in ((key, asked[i :: len(KEYS)]) for i, key in enumerate(KEYS)):
        schema: dict[str, Any] = {"type": "object", "properties": {key: {"type": "integer"}}, "required": [key]}
        schema["additionalProperties"] = False
        options: dict[str, Any] = {"thinking": thinking, "temperature": 0, "max_tokens": ROOM}
        answers = model.generate([q.text for q in some], schema=schema, **options)
        right += sum(a.text == f'{{"{key}":{q.answer}}}' for q, a in zip(some, answers, strict=True))
    return right


if __name__ == "__main__":
    main()
