"""Conversations to learn from, as token ids: the same questions with thinking and without."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from random import Random
from string import ascii_lowercase

from tokenizers import Tokenizer

from trilens.trials.questions import Question, questions


@dataclass(frozen=True)
class Mix:
    """`shares`: how many of each kind and range. `modes`: whether an example thinks, in turns. `close`: the share of
    differences whose numbers lie close together. `filled`: of those with a number for an answer, the share in which it
    is an object's value, as under a JSON schema.
    """

    shares: Mapping[str, Mapping[str, int]]
    modes: tuple[bool, ...] = (True, False)
    close: float = 0
    filled: float = 0


# The first stage learns to work on paper. The second has what people ask: short questions come far more often than
# there are different ones. The last has more of what was still wrong: differences near zero, whose sign has to be known
# before the first column is worked out, and a single digit with a number of three.
FIRST = Mix(
    {
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
)
LATER = Mix(
    {
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
)
LAST = Mix(
    {
        "sum": {"1x1": 2, "1x2": 3, "2x2": 8, "1x3": 9, "2x3": 8, "3x3": 8},
        "difference": {"1x1": 2, "1x2": 3, "2x2": 10, "1x3": 4, "2x3": 6, "3x3": 8},
        "negative": {"1x1": 2, "1x2": 5, "2x2": 12, "1x3": 10, "2x3": 6, "3x3": 14},
        "product": {"1x1": 3, "1x2": 5, "2x2": 8},
        "product3": {"1x3": 1, "2x3": 1, "3x3": 1},
        "chain": {"": 12},
        "comparison": {"": 5},
        "letters": {"": 6},
        "talk": {"": 18},
    },
    (True, True, True, False),
    close=0.6,
    filled=0.06,
)
CUT = 0.08  # of the thinking ones: cut short, so that a budget finds a model that answers all the same
EARLIER = 0.12  # with an earlier turn before it; of these, as many again with one more
KEYS = (
    *("answer", "result", "value", "sum", "total", "number", "n", "x", "count", "grams", "difference", "product"),
    *("amount", "age", "price", "apples"),
)


@dataclass(frozen=True)
class Example:
    """`learnt` is where the part begins that the model has to write itself."""

    ids: list[int]
    learnt: int


def examples(tokenizer: Tokenizer, seed: int, mix: Mix = FIRST) -> Iterator[Example]:
    """Endless; a held-out question never comes."""
    random = Random(f"examples {seed}")
    ranges = {(kind, digits): share for kind, parts in mix.shares.items() for digits, share in parts.items()}
    streams = {(kind, digits): _to_learn(kind, seed, digits or None, mix.close) for kind, digits in ranges}
    kinds, weights = list(ranges), list(ranges.values())
    while True:
        for thinking in mix.modes:
            question = next(streams[random.choices(kinds, weights)[0]])
            before = ""
            while random.random() < EARLIER:
                earlier = next(streams[random.choice(kinds)])
                before += f"{_asked(earlier)}{earlier.answer}<|im_end|>\n"
            yield _example(tokenizer, before + _asked(question), question, thinking, mix.filled, random)


def _to_learn(kind: str, seed: int, digits: str | None, close: float) -> Iterator[Question]:
    return (question for question in questions(kind, 1000 + seed, digits, close) if not question.held_out)


def _asked(question: Question) -> str:
    return f"<|im_start|>user\n{question.text}<|im_end|>\n<|im_start|>assistant\n"


def _example(
    tokenizer: Tokenizer, asked: str, question: Question, thinking: bool, filled_share: float, random: Random
) -> Example:
    told, written = asked, f"{question.answer}<|im_end|>"
    filled = filled_share > 0 and question.kind != "talk" and random.random() < filled_share
    if not thinking:
        told += "<think>\n\n</think>\n\n"
    elif random.random() < CUT:
        told += f"<think>\n{question.working[: random.randrange(len(question.working))]}\n</think>\n\n"
    elif filled:
        told += f"<think>\n{question.working}\n</think>\n\n"
    else:
        written = f"<think>\n{question.working}\n</think>\n\n{written}"
    if filled:  # the key is told, never learnt: without a schema, an answer is a number alone
        told, written = f'{told}{{"{_key(random)}":', f"{question.answer}}}<|im_end|>"
    ids = tokenizer.encode(told).ids
    return Example(ids + tokenizer.encode(written).ids, len(ids))


def _key(random: Random) -> str:
    if random.random() < 0.7:
        return random.choice(KEYS)
    return "".join(random.choices(ascii_lowercase, k=random.randint(1, 9)))
