"""Conversations to learn from, as token ids: the same questions with thinking and without, equally often."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from random import Random

from tokenizers import Tokenizer

from trilens.trials.questions import Question, questions

Shares = Mapping[str, Mapping[str, int]]

# How many of each kind and range. The first stage learns to work on paper. The second has what people ask: short
# questions come far more often than there are different ones.
SHARES: Shares = {
    "sum": {"1x1": 1, "1x2": 1, "2x2": 3, "1x3": 1, "2x3": 2, "3x3": 3},
    "difference": {"1x1": 1, "1x2": 1, "2x2": 3, "1x3": 1, "2x3": 2, "3x3": 3},
    "negative": {"1x1": 1, "1x2": 1, "2x2": 1, "1x3": 1, "2x3": 1, "3x3": 1},
    "product": {"1x1": 2, "1x2": 6, "2x2": 22},
    "product3": {"1x3": 2, "2x3": 2, "3x3": 3},
    "chain": {"": 26},
    "comparison": {"": 5},
    "letters": {"": 8},
    "talk": {"": 8},
}
LATER: Shares = {
    "sum": {"1x1": 3, "1x2": 6, "2x2": 8, "1x3": 7, "2x3": 11, "3x3": 6},
    "difference": {"1x1": 2, "1x2": 3, "2x2": 5, "1x3": 3, "2x3": 5, "3x3": 8},
    "negative": {"1x1": 2, "1x2": 2, "2x2": 4, "1x3": 2, "2x3": 6, "3x3": 5},
    "product": {"1x1": 3, "1x2": 6, "2x2": 10},
    "product3": {"1x3": 3, "2x3": 3, "3x3": 3},
    "chain": {"": 26},
    "comparison": {"": 5},
    "letters": {"": 8},
    "talk": {"": 30},
}
CUT = 0.08  # of the thinking ones: cut short, so that a budget finds a model that answers all the same
EARLIER = 0.12  # with an earlier turn before it; of these, as many again with one more


@dataclass(frozen=True)
class Example:
    """`learnt` is where the part begins that the model has to write itself."""

    ids: list[int]
    learnt: int


def examples(tokenizer: Tokenizer, seed: int, shares: Shares = SHARES) -> Iterator[Example]:
    """Endless; a held-out question never comes."""
    random = Random(f"examples {seed}")
    ranges = {(kind, digits): share for kind, parts in shares.items() for digits, share in parts.items()}
    streams = {(kind, digits): _to_learn(kind, seed, digits or None) for kind, digits in ranges}
    kinds, weights = list(ranges), list(ranges.values())
    while True:
        for thinking in (True, False):
            question = next(streams[random.choices(kinds, weights)[0]])
            before = ""
            while random.random() < EARLIER:
                earlier = next(streams[random.choice(kinds)])
                before += f"{_asked(earlier)}{earlier.answer}<|im_end|>\n"
            yield _example(tokenizer, before + _asked(question), question, thinking, random)


def _to_learn(kind: str, seed: int, digits: str | None) -> Iterator[Question]:
    return (question for question in questions(kind, 1000 + seed, digits) if not question.held_out)


def _asked(question: Question) -> str:
    return f"<|im_start|>user\n{question.text}<|im_end|>\n<|im_start|>assistant\n"


def _example(tokenizer: Tokenizer, asked: str, question: Question, thinking: bool, random: Random) -> Example:
    told, written = asked, f"{question.answer}<|im_end|>"
    if not thinking:
        told += "<think>\n\n</think>\n\n"
    elif random.random() < CUT:
        told += f"<think>\n{question.working[: random.randrange(len(question.working))]}\n</think>\n\n"
    else:
        written = f"<think>\n{question.working}\n</think>\n\n{written}"
    ids = tokenizer.encode(told).ids
    return Example(ids + tokenizer.encode(written).ids, len(ids))
