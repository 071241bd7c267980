"""Conversations to learn from, as token ids: the same questions with thinking and without."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from random import Random
from string import ascii_lowercase

from tokenizers import Tokenizer

from trilens.trials.questions import Question, questions


@dataclass(frozen=True)
class Mix:
    """`shares`: how many of each kind and range. `modes`: whether an example thinks, in turns. `close`: the share of
    differences whose numbers lie close together. `opened`: the share of thinking sums and differences of which only the
    opening is learnt, which has the numbers and the sign. `filled`: of the others with a number for an answer, the
    share in which it is an object's value, as under a JSON schema.
    """

    shares: Mapping[str, Mapping[str, int]]
    modes: tuple[bool, ...] = (True, False)
    close: float = 0
    opened: float = 0
    filled: float = 0


# The first stage learns to work on paper. The second has what people ask: short questions come far more often than
# there are different ones. The third has more of what was still wrong, which was nearly always in the opening of the
# working: the sign of a difference of close numbers, which has to be known before the first column is worked out, and
# the digits of a short number beside a long one. The last has more single digits, answers at once and values under a
# key. In both of these, differences above and below zero are equally many in every range.
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
CLOSE = Mix(
    {
        "sum": {"1x1": 3, "1x2": 5, "2x2": 5, "1x3": 10, "2x3": 7, "3x3": 8},
        "difference": {"1x1": 3, "1x2": 4, "2x2": 12, "1x3": 8, "2x3": 6, "3x3": 15},
        "negative": {"1x1": 3, "1x2": 4, "2x2": 12, "1x3": 8, "2x3": 6, "3x3": 15},
        "product": {"1x1": 3, "1x2": 8, "2x2": 10},
        "product3": {"1x3": 1, "2x3": 1, "3x3": 1},
        "chain": {"": 10},
        "comparison": {"": 5},
        "letters": {"": 5},
        "talk": {"": 16},
    },
    (True, True, True, True, False),
    close=0.5,
    opened=0.7,
    filled=0.12,
)
LAST = Mix(
    {
        "sum": {"1x1": 10, "1x2": 6, "2x2": 6, "1x3": 10, "2x3": 8, "3x3": 8},
        "difference": {"1x1": 8, "1x2": 5, "2x2": 9, "1x3": 8, "2x3": 7, "3x3": 12},
        "negative": {"1x1": 8, "1x2": 5, "2x2": 9, "1x3": 8, "2x3": 7, "3x3": 12},
        "product": {"1x1": 10, "1x2": 10, "2x2": 12},
        "product3": {"1x3": 2, "2x3": 2, "3x3": 2},
        "chain": {"": 16},
        "comparison": {"": 6},
        "letters": {"": 7},
        "talk": {"": 20},
    },
    (True, True, True, False, False),
    close=0.5,
    opened=0.5,
    filled=0.2,
)
OPENED = ("sum", "difference", "negative")
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
            yield _example(tokenizer, before + _asked(question), question, thinking, mix, random)


def _to_learn(kind: str, seed: int, digits: str | None, close: float) -> Iterator[Question]:
    return (question for question in questions(kind, 1000 + seed, digits, close) if not question.held_out)


def _asked(question: Question) -> str:
    return f"<|im_start|>user\n{question.text}<|im_end|>\n<|im_start|>assistant\n"


def _example(tokenizer: Tokenizer, asked: str, question: Question, thinking: bool, mix: Mix, random: Random) -> Example:
    told, written = asked, f"{question.answer}<|im_end|>"
    if thinking and question.kind in OPENED and random.random() < mix.opened:
        return _ids(tokenizer, [told], f"<think>\n{question.working.partition(':')[0]}:")
    filled = mix.filled > 0 and question.kind != "talk" and random.random() < mix.filled
    if not thinking:
        told += "<think>\n\n</think>\n\n"
    elif random.random() < CUT:
        told += f"<think>\n{question.working[: random.randrange(len(question.working))]}\n</think>\n\n"
    elif filled:
        told += f"<think>\n{question.working}\n</think>\n\n"
    else:
        written = f"<think>\n{question.working}\n</think>\n\n{written}"
    if filled:  # the key is told, never learnt: without a schema, an answer is a number alone
        return _ids(tokenizer, [told, *_key(random)], f"{question.answer}}}<|im_end|>")
    return _ids(tokenizer, [told], written)


def _ids(tokenizer: Tokenizer, told: Sequence[str], written: str) -> Example:
    ids = [i for part in told for i in tokenizer.encode(part).ids]
    return Example(ids + tokenizer.encode(written).ids, len(ids))


def _key(random: Random) -> list[str]:
    """An object up to its first value, with a space before that or without. In pieces, because a model under a schema
    may choose other tokens for a key than the tokenizer does.
    """
    name = random.choice(KEYS)
    if random.random() < 0.4:
        name = "".join(random.choices(ascii_lowercase, k=random.randint(1, 9)))
    pieces, at = [], 0
    if random.random() < 0.5:
        while at < len(name):
            size = random.randint(1, 4)
            pieces.append(name[at : at + size])
            at += size
    return ['{"', *(pieces or [name]), random.choice(('":', '":', '":', '": '))]
