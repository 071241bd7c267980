"""Arithmetic in plain words: what the two small models that come with trilens were taught, and are asked.

Every question has its working, digit by digit as on paper. Which questions are held out is decided by a hash of what is
asked, whatever the wording: none of those was ever trained on.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator
from dataclasses import dataclass
from random import Random

KINDS = ("sum", "difference", "product", "chain", "comparison", "letters")
STRETCH = ("product3",)
HELD_OUT = 16  # one in so many
LAST_NUMBER = re.compile(r"\d+(?![\s\S]*\d)")

WORDINGS: dict[str, tuple[str, ...]] = {
    "sum": (
        "What is {a} plus {b}?",
        "Add {a} and {b}.",
        "How much is {a} + {b}?",
        "Calculate the sum of {a} and {b}.",
        "Anna has {a} coins and finds {b} more. How many coins does she have?",
    ),
    "difference": (
        "What is {a} minus {b}?",
        "Subtract {b} from {a}.",
        "How much is {a} - {b}?",
        "Calculate the difference of {a} and {b}.",
        "A shelf holds {a} books. {b} are taken away. How many books are left?",
    ),
    "product": (
        "What is {a} times {b}?",
        "Multiply {a} by {b}.",
        "How much is {a} * {b}?",
        "Calculate the product of {a} and {b}.",
        "A box holds {a} pens. How many pens are in {b} boxes?",
    ),
    "chain": (
        "What is {a} {first} {b}, then {second} {c}?",
        "Take {a} {first} {b}. What is the result {second} {c}?",
        "Start with {a} {first} {b}, then {second} {c}. What do you get?",
    ),
    "comparison": (
        "Which is larger, {a} or {b}?",
        "Which number is bigger: {a} or {b}?",
        "Name the larger one of {a} and {b}.",
    ),
    "letters": (
        'How many times does the letter "{letter}" occur in "{word}"?',
        'Count the letter "{letter}" in the word "{word}".',
        'How many "{letter}" are in "{word}"?',
    ),
}
WORDINGS["product3"] = WORDINGS["product"][:4]
OPERATIONS = {"plus": "+", "minus": "-", "times": "*"}


@dataclass(frozen=True)
class Question:
    """`asked` is what is asked, without the wording; `working` the steps, one a line."""

    kind: str
    asked: str
    text: str
    working: str
    answer: str

    @property
    def held_out(self) -> bool:
        return hashlib.sha256(f"{self.kind}:{self.asked}".encode()).digest()[0] % HELD_OUT == 0


def is_right(question: Question, answer: str) -> bool:
    """Whether the last number of an answer is the one."""
    found = LAST_NUMBER.search(answer)
    return found is not None and found[0].lstrip("0") == question.answer.lstrip("0")


def questions(kind: str, seed: int) -> Iterator[Question]:
    """Endlessly many of a kind, the same ones for a seed."""
    random = Random(f"{kind} {seed}")
    while True:
        yield _question(kind, random)


def held_out(count: int, kinds: tuple[str, ...] = KINDS, seed: int = 1) -> list[Question]:
    """`count` different held-out questions, kind by kind in turn."""
    found: dict[str, Question] = {}
    streams = [(kind, questions(kind, seed)) for kind in kinds]
    missed = dict.fromkeys(kinds, 0)
    while len(found) < count and min(missed.values()) < 100_000:
        for kind, stream in streams:
            while missed[kind] < 100_000:
                question = next(stream)
                if question.held_out and f"{kind}:{question.asked}" not in found:
                    found[f"{kind}:{question.asked}"] = question
                    break
                missed[kind] += 1
    return list(found.values())[:count]


def _question(kind: str, random: Random) -> Question:
    wording = random.choice(WORDINGS[kind])
    if kind == "letters":
        word = "".join(random.choice("bcdlmnprst") + random.choice("aeiou") for _ in range(random.randint(2, 5)))
        word = word[: random.randint(3, len(word))]
        letter = random.choice(word if random.random() < 0.9 else "abcdelmnoprstu")
        text = wording.format(letter=letter, word=word)
        return Question(kind, f"{letter} {word}", text, _count(letter, word), str(word.count(letter)))
    if kind == "chain":
        return _chain(wording, random)
    a, b = _operands(kind, random)
    if kind == "comparison":
        working, answer = _larger(a, b), max(a, b)
    else:
        sign = {"sum": "+", "difference": "-"}.get(kind, "*")
        working, answer = _work(a, sign, b)
    return Question(kind, f"{a} {b}", wording.format(a=a, b=b), working, str(answer))


def _operands(kind: str, random: Random) -> tuple[int, int]:
    match kind:
        case "product":
            return random.randint(2, 99), random.randint(2, 99)
        case "product3":
            return random.randint(100, 999), random.randint(100, 999)
        case "comparison":
            a = _number(random)
            near = a + random.choice((-1, 1)) * random.choice((1, 2, 5, 10, 20, 50, 100))
            b = near if near > 0 and random.random() < 0.6 else _number(random)
            return a, b if b != a else a + 1
        case _:
            a, b = _number(random), _number(random)
            return (a, b) if kind == "sum" else (max(a, b), min(a, b))


def _number(random: Random) -> int:
    """Two to three digits, seldom fewer or more."""
    return random.randint(*random.choice(((2, 99), (10, 99), (100, 999), (100, 999), (100, 2000))))


def _chain(wording: str, random: Random) -> Question:
    first, second = random.choice((("times", "plus"), ("times", "minus"), ("plus", "times"), ("minus", "times")))
    if first == "times":
        a, b = random.randint(11, 99), random.randint(3, 19)
        c = random.randint(10, min(a * b, 999)) if second == "minus" else random.randint(10, 999)
    else:
        a, b, c = random.randint(30, 99), random.randint(10, 99), random.randint(3, 19)
        if first == "minus":
            a, b = max(a, b), min(a, b)
    work, middle = _work(a, OPERATIONS[first], b)
    more, answer = _work(middle, OPERATIONS[second], c)
    spoken = {"plus": "plus", "minus": "minus", "times": "times"}
    text = wording.format(a=a, b=b, c=c, first=spoken[first], second=spoken[second])
    return Question("chain", f"{a} {first} {b} {second} {c}", text, f"{work}\n{more}", str(answer))


# ------------------------------------------------------------------------------------------------ on paper


def _work(a: int, sign: str, b: int) -> tuple[str, int]:
    """(the working, the result)."""
    if sign == "+":
        return _add(a, b), a + b
    if sign == "-":
        return _subtract(a, b), a - b
    return _multiply(a, b), a * b


def _columns(a: int, b: int) -> tuple[str, str]:
    width = len(str(max(a, b)))
    return str(a).zfill(width), str(b).zfill(width)


def _add(a: int, b: int) -> str:
    """Column by column from the right, with what is carried."""
    top, low = _columns(a, b)
    steps, carry = [], 0
    for x, y in zip(reversed(top), reversed(low), strict=True):
        value = int(x) + int(y) + carry
        steps.append(f"{x}+{y}{'+1' if carry else ''}={value}")
        carry = value // 10
    return f"{top}+{low}:{','.join(steps)},{a + b}"


def _subtract(a: int, b: int) -> str:
    """Column by column from the right; a top digit that borrows is written ten higher."""
    top, low = _columns(a, b)
    steps, borrowed = [], 0
    for x, y in zip(reversed(top), reversed(low), strict=True):
        short = int(x) - int(y) - borrowed < 0
        value = int(x) + 10 * short - int(y) - borrowed
        steps.append(f"{'1' if short else ''}{x}-{y}{'-1' if borrowed else ''}={value}")
        borrowed = int(short)
    return f"{top}-{low}:{','.join(steps)},{a - b}"


def _multiply(a: int, b: int) -> str:
    """A line for each digit of `b` from the right, and the sum as it grows."""
    lines, total = [], 0
    for place, digit in enumerate(map(int, reversed(str(b)))):
        lines.append(_multiply_digit(a, digit))
        shifted = a * digit * 10**place
        if place:
            lines.append(_add(total, shifted))
        total += shifted
    return "\n".join(lines)


def _multiply_digit(a: int, digit: int) -> str:
    steps, carry = [], 0
    for x in reversed(str(a)):
        value = int(x) * digit + carry
        steps.append(f"{x}*{digit}{f'+{carry}' if carry else ''}={value}")
        carry = value // 10
    return f"{a}*{digit}:{','.join(steps)},{a * digit}"


def _larger(a: int, b: int) -> str:
    """Digit by digit from the left, up to the first that differs."""
    top, low = _columns(a, b)
    steps = []
    for x, y in zip(top, low, strict=True):
        steps.append(f"{x}{'=' if x == y else '>' if x > y else '<'}{y}")
        if x != y:
            break
    return f"{top}?{low}:{','.join(steps)},{max(a, b)}"


def _count(letter: str, word: str) -> str:
    """Letter by letter, with the count behind each that is the one."""
    seen, steps = 0, []
    for character in word:
        seen += character == letter
        steps.append(f"{character}{seen}" if character == letter else character)
    return f"{letter}:{','.join(steps)},{seen}"
