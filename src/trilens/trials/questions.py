"""What the two small models that come with trilens were taught, and are asked: arithmetic, and a little talk.

Every question has its working. Which questions are held out is decided by a hash of what is asked, whatever the
wording: none of those was ever trained on. Two single digits are the exception. There are only 45 to 100 such pairs of
a kind, and they are a table to be learnt, so every pair is trained on. Of a pair that the hash chooses, one wording in
four is held out, however it is typed. A right answer to such a question shows that its wording is understood, not that
the model works out what it has never seen.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from random import Random

from trilens.trials.on_paper import count, larger, work
from trilens.trials.talk import say
from trilens.trials.wordings import WORDINGS, as_typed, plain

KINDS = ("sum", "difference", "negative", "product", "chain", "comparison", "letters", "talk")
STRETCH = ("product3",)  # one of the two factors has three digits
RANGES = {  # of digits, in either order
    "sum": ("1x1", "1x2", "2x2", "1x3", "2x3", "3x3"),
    "difference": ("1x1", "1x2", "2x2", "1x3", "2x3", "3x3"),
    "negative": ("1x1", "1x2", "2x2", "1x3", "2x3", "3x3"),
    "product": ("1x1", "1x2", "2x2"),
    "product3": ("1x3", "2x3", "3x3"),
}
SIGNS = {"sum": "+", "difference": "-", "negative": "-", "product": "*", "product3": "*"}
OPERATIONS = {"plus": "+", "minus": "-", "times": "*"}
HELD_OUT = 16  # one in so many
LEARNT_PAIRS = "1x1"  # the range of which every pair of numbers is trained on, in some wording
WORDINGS_HELD_OUT = 4  # one in so many, of a pair of that range which the hash chooses
LAST_NUMBER = re.compile(r"(?<!\d)-?\d+(?![\s\S]*\d)")
TRIES = 5_000  # after so many without a new held-out question, a kind has no more
TRIES_OF_PAIRS = 2_000  # after so many without another pair of single digits, all have come


@dataclass(frozen=True)
class Question:
    """`asked` is what is asked, without the wording; `working` the steps, one a line; `digits` one of its `RANGES`, if
    its kind has any, and `wording` then what all ways to type it have in common.

    An `everyday` one is a greeting or the like, which is never held out: there is only one "hi".
    """

    kind: str
    asked: str
    text: str
    working: str
    answer: str
    digits: str = ""
    wording: str = ""
    everyday: bool = False

    @property
    def held_out(self) -> bool:
        if self.everyday or not _is_chosen(f"{self.kind}:{self.asked}", HELD_OUT):
            return False
        return self.digits != LEARNT_PAIRS or _is_chosen(f"{self.kind}:{self.asked}:{self.wording}", WORDINGS_HELD_OUT)


def is_right(question: Question, answer: str) -> bool:
    """Whether the last number of an answer is the right one; for talk, whether every word is."""
    if question.kind == "talk":
        return answer.strip() == question.answer
    found = LAST_NUMBER.search(answer)
    return found is not None and int(found[0]) == int(question.answer)


def questions(kind: str, seed: int, digits: str | None = None, close: float = 0) -> Iterator[Question]:
    """Endlessly many of a kind, and of one of its `RANGES` if that is given; the same ones for a seed.

    `close`: the share of differences of two numbers of as many digits whose numbers lie close together.
    """
    random = Random(f"{kind} {digits} {seed}")
    while True:
        yield _question(kind, random, digits, close)


def held_out(number: int, kinds: Sequence[str] = KINDS, seed: int = 1) -> list[Question]:
    """So many different held-out questions, kind by kind in turn, and range by range within a kind."""
    found: list[Question] = []
    streams = {kind: [_different(kind, seed, digits) for digits in RANGES.get(kind, (None,))] for kind in kinds}
    while len(found) < number and any(streams.values()):
        for turns in streams.values():
            while turns:
                stream = turns.pop(0)
                question = next(stream, None)
                if question is not None:
                    found.append(question)
                    turns.append(stream)
                    break
    return found[:number]


def in_range(kind: str, digits: str, number: int, seed: int = 1) -> list[Question]:
    """Up to so many different held-out questions of one range."""
    return list(islice(_different(kind, seed, digits), number))


def asking(kind: str, a: int, b: int, wording: str | None = None) -> Question:
    """The question for two given numbers, in a given wording or the plainest."""
    wording = wording or WORDINGS[kind][0]
    return _as_question(kind, a, b, wording, wording.format(a=a, b=b))


def range_of(a: int, b: int) -> str:
    low, high = sorted((len(str(a)), len(str(b))))
    return f"{low}x{high}"


def _is_chosen(what: str, one_in: int) -> bool:
    """By a hash."""
    return hashlib.sha256(what.encode()).digest()[0] % one_in == 0


def _different(kind: str, seed: int, digits: str | None) -> Iterator[Question]:
    """Held-out ones that ask different things. Once all pairs of single digits have come, they come in another text."""
    asked: set[str] = set()
    texts: set[str] = set()
    tried = 0
    for question in questions(kind, seed, digits):
        tried += 1
        if question.held_out and question.asked not in asked and question.text not in texts:
            asked.add(question.asked)
            texts.add(question.text)
            tried = 0
            yield question
        elif tried == TRIES:
            return
        elif question.digits == LEARNT_PAIRS and tried % TRIES_OF_PAIRS == 0:
            asked.clear()


def _question(kind: str, random: Random, digits: str | None, close: float) -> Question:
    match kind:
        case "talk":
            said, topic, everyday = say(random)
            text = as_typed(said, random)
            return Question(kind, said.lower().rstrip(".?!"), text, topic.working, topic.answer, everyday=everyday)
        case "letters":
            return _letters(random)
        case "chain":
            return _chain(random)
        case "comparison":
            a, b = _unequal(random)
            text = as_typed(random.choice(WORDINGS[kind]).format(a=a, b=b), random)
            return Question(kind, f"{a} {b}", text, larger(a, b), str(max(a, b)))
        case _:
            a, b = _operands(kind, random, digits or random.choice(RANGES[kind]), close)
            wording = random.choice(WORDINGS[kind])
            return _as_question(kind, a, b, wording, as_typed(wording.format(a=a, b=b), random))


def _as_question(kind: str, a: int, b: int, wording: str, text: str) -> Question:
    working, answer = work(a, SIGNS[kind], b)
    return Question(kind, f"{a} {b}", text, working, str(answer), range_of(a, b), plain(wording))


def _letters(random: Random) -> Question:
    word = "".join(random.choice("bcdlmnprst") + random.choice("aeiou") for _ in range(random.randint(2, 5)))
    word = word[: random.randint(3, len(word))]
    letter = random.choice(word if random.random() < 0.9 else "abcdelmnoprstu")
    text = random.choice(WORDINGS["letters"]).format(letter=letter, word=word)
    return Question("letters", f"{letter} {word}", text, count(letter, word), str(word.count(letter)))


def _operands(kind: str, random: Random, digits: str, close: float) -> tuple[int, int]:
    a, b = (_of_digits(int(n), random) for n in digits.split("x"))
    if close and kind in ("difference", "negative") and len(str(a)) == len(str(b)) and random.random() < close:
        b = _close_to(a, random)
    if kind == "difference":
        return max(a, b), min(a, b)
    if kind == "negative":
        while a == b:  # of the same range, so that another one is quickly found
            b = _of_digits(len(str(b)), random)
        return min(a, b), max(a, b)
    return (a, b) if random.random() < 0.5 else (b, a)


def _close_to(a: int, random: Random) -> int:
    """Another number of as many digits, the closer the likelier."""
    digits = len(str(a))
    while True:
        b = a + random.choice((-1, 1)) * random.randint(1, 10 ** random.randint(1, digits))
        if b >= 0 and len(str(b)) == digits:
            return b


def _of_digits(count: int, random: Random) -> int:
    return random.randint(10 ** (count - 1) if count > 1 else 0, 10**count - 1)


def _number(random: Random) -> int:
    """Two to three digits, seldom fewer."""
    return random.randint(*random.choice(((0, 99), (10, 99), (100, 999), (100, 999))))


def _unequal(random: Random) -> tuple[int, int]:
    """Two numbers, more often than not close to each other."""
    a = _number(random)
    near = a + random.choice((-1, 1)) * random.choice((1, 2, 5, 10, 20, 50, 100))
    b = near if 0 < near < 1000 and random.random() < 0.6 else _number(random)
    return a, b if b != a else a - 1 if a else 1


def _chain(random: Random) -> Question:
    ways = (("times", "plus"), ("times", "minus"), ("plus", "times"), ("minus", "times"), ("plus", "plus"))
    first, second = random.choice(ways)
    small = random.random() < 0.2
    if first == "times":
        a, b = (
            (_of_digits(1, random), _of_digits(1, random)) if small else (random.randint(11, 99), random.randint(3, 19))
        )
        c = random.randint(0, min(a * b, 999)) if second == "minus" else random.randint(1, 20 if small else 999)
    elif second == "plus":
        a, b, c = (random.randint(0, 10 if small else 99) for _ in range(3))
    else:
        a, b, c = random.randint(30, 99), random.randint(10, 99), random.randint(3, 19)
        if small:
            a, b, c = (random.randint(1, 9) for _ in range(3))
        if first == "minus":
            a, b = max(a, b), min(a, b)
    steps, middle = work(a, OPERATIONS[first], b)
    more, answer = work(middle, OPERATIONS[second], c)
    wordings = WORDINGS["chain"] + (() if second == "times" else WORDINGS["in a row"])
    one, two = OPERATIONS[first], OPERATIONS[second]
    text = random.choice(wordings).format(a=a, b=b, c=c, first=first, second=second, one=one, two=two)
    return Question("chain", f"{a} {first} {b} {second} {c}", as_typed(text, random), f"{steps}\n{more}", str(answer))
