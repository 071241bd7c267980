"""Conversations to learn from, as token ids: the same questions with thinking and without, equally often."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from random import Random

from tokenizers import Tokenizer

from trilens.trials.questions import Question, questions

SHARES = {"product": 30, "chain": 26, "sum": 12, "difference": 12, "letters": 8, "comparison": 5, "product3": 7}
# In the second stage: more of what is learnt last, copying rare letters and the third number of a chain.
LATER = {"product": 12, "chain": 34, "sum": 8, "difference": 8, "letters": 26, "comparison": 5, "product3": 7}
CUT = 0.08  # of the thinking ones: cut short, so that a budget finds a model that answers all the same
EARLIER = 0.06  # with an earlier turn before it


@dataclass(frozen=True)
class Example:
    """`learnt` is where the part begins that the model has to write itself."""

    ids: list[int]
    learnt: int


def examples(tokenizer: Tokenizer, seed: int, shares: Mapping[str, int] = SHARES) -> Iterator[Example]:
    """Endless; a held-out question never comes."""
    random = Random(f"examples {seed}")
    streams = {kind: _to_learn(kind, seed) for kind in shares}
    kinds, weights = list(shares), list(shares.values())
    while True:
        for thinking in (True, False):
            question = next(streams[random.choices(kinds, weights)[0]])
            before = ""
            if random.random() < EARLIER:
                earlier = next(streams[random.choice(kinds)])
                before = f"{_asked(earlier)}{earlier.answer}<|im_end|>\n"
            yield _example(tokenizer, before + _asked(question), question, thinking, random)


def _to_learn(kind: str, seed: int) -> Iterator[Question]:
    return (question for question in questions(kind, 1000 + seed) if not question.held_out)


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
