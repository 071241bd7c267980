"""The working of a question, digit by digit as on paper. This is what the two small models write when they think."""

from __future__ import annotations


def work(a: int, sign: str, b: int) -> tuple[str, int]:
    """(the working of `a sign b`, the result); `sign` is +, - or *. A difference may be below zero."""
    if sign == "+":
        return add(a, b), a + b
    if sign == "-":
        return subtract(a, b), a - b
    return multiply(a, b), a * b


def add(a: int, b: int) -> str:
    """Column by column from the right, with the carry."""
    top, low = _columns(a, b)
    steps, carry = [], 0
    for x, y in zip(reversed(top), reversed(low), strict=True):
        value = int(x) + int(y) + carry
        steps.append(f"{x}+{y}{'+1' if carry else ''}={value}")
        carry = value // 10
    return f"{top}+{low}:{','.join(steps)},{a + b}"


def subtract(a: int, b: int) -> str:
    """Column by column from the right; a top digit that borrows is written ten higher.

    Below zero, the numbers change places first and the result gets its sign last.
    """
    if a < b:
        top, low = _columns(a, b)
        steps = subtract(b, a).rsplit(",", 1)[0]
        return f"{top}-{low}<0\n{steps},{a - b}"
    top, low = _columns(a, b)
    steps_, borrowed = [], 0
    for x, y in zip(reversed(top), reversed(low), strict=True):
        short = int(x) - int(y) - borrowed < 0
        value = int(x) + 10 * short - int(y) - borrowed
        steps_.append(f"{'1' if short else ''}{x}-{y}{'-1' if borrowed else ''}={value}")
        borrowed = int(short)
    return f"{top}-{low}:{','.join(steps_)},{a - b}"


def multiply(a: int, b: int) -> str:
    """A line for each digit of `b` from the right, and the sum as it grows."""
    lines, total = [], 0
    for place, digit in enumerate(map(int, reversed(str(b)))):
        lines.append(_multiply_digit(a, digit))
        shifted = a * digit * 10**place
        if place:
            lines.append(add(total, shifted))
        total += shifted
    return "\n".join(lines)


def larger(a: int, b: int) -> str:
    """Digit by digit from the left, up to the first that differs."""
    top, low = _columns(a, b)
    steps = []
    for x, y in zip(top, low, strict=True):
        steps.append(f"{x}{'=' if x == y else '>' if x > y else '<'}{y}")
        if x != y:
            break
    return f"{top}?{low}:{','.join(steps)},{max(a, b)}"


def count(letter: str, word: str) -> str:
    """Letter by letter, with the count behind each that matches."""
    seen, steps = 0, []
    for character in word:
        seen += character == letter
        steps.append(f"{character}{seen}" if character == letter else character)
    return f"{letter}:{','.join(steps)},{seen}"


def _multiply_digit(a: int, digit: int) -> str:
    steps, carry = [], 0
    for x in reversed(str(a)):
        value = int(x) * digit + carry
        steps.append(f"{x}*{digit}{f'+{carry}' if carry else ''}={value}")
        carry = value // 10
    return f"{a}*{digit}:{','.join(steps)},{a * digit}"


def _columns(a: int, b: int) -> tuple[str, str]:
    """Both with leading zeros up to the same length."""
    width = len(str(max(a, b)))
    return str(a).zfill(width), str(b).zfill(width)
