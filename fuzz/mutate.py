"""Damage: from one input to another that is nearly as valid. Every choice comes from the `draw` that is passed in."""

from __future__ import annotations

import json
import math
import random
import struct
from collections.abc import Callable, Sequence
from typing import Any

Mutator = Callable[[bytes, random.Random, Sequence[bytes]], bytes]  # an input, choices, other inputs to splice with

MOST = 1 << 20  # bytes; longer inputs are cut
INTEGERS = (0, 1, 2, 3, 7, 255, 256, 257, 65_535, 65_536, 2**31 - 1, 2**31, 2**32 - 1, 2**32, 2**63 - 1, 2**64 - 1)
HOSTILE: tuple[Any, ...] = (
    *(0, -1, 1, 2, 3, 5, 255, 256, 257, 1024, 65_536, 2**31 - 1, 2**31, -(2**31), 2**32, 2**63, 2**64, 10**30),
    *(0.0, -0.0, -1.0, 0.5, 1.5, 3.0, 1e-30, 1e30, 1e308, math.nan, math.inf, -math.inf),
    *("", "x", "0", "\ud800", "\0", "é\u2028\ufeff", "x" * 5_000, "../../etc", "1" * 400),
    *(None, True, False, [], [0], [None], [[]], {}, {"": 0}, [0] * 1_000),
)


def mutate_bytes(data: bytes, draw: random.Random, others: Sequence[bytes]) -> bytes:
    """One to eight small damages anywhere."""
    out = bytearray(data)
    for _ in range(1 << draw.randrange(4)):
        at = draw.randrange(len(out) + 1)
        span = min(len(out) - at, 1 << draw.randrange(12))
        match draw.randrange(9):
            case 0 if at < len(out):
                out[at] ^= 1 << draw.randrange(8)
            case 1 if at < len(out):
                out[at] = draw.choice((0, 1, 127, 128, 255, draw.randrange(256)))
            case 2:
                width, form = draw.choice(((1, "B"), (2, "H"), (4, "I"), (8, "Q")))
                out[at : at + width] = struct.pack("<" + form, draw.choice(INTEGERS) % (1 << 8 * width))
            case 3:
                del out[at : at + span]
            case 4:
                out[at:at] = out[at : at + span] * draw.choice((1, 1, 2, 50))
            case 5 if draw.random() < 0.3:
                del out[at:]
            case 6:
                out[at : at + span] = bytes([draw.choice((0, 255))]) * span
            case 7 if others:
                other = draw.choice(others)
                start = draw.randrange(len(other) + 1)
                out[at : at + span] = other[start : start + span]
            case _:
                out[at:at] = draw.randbytes(1 << draw.randrange(5))
    return bytes(out[:MOST])


def mutate_lines(words: Sequence[str]) -> Mutator:
    """For text: lines and words are moved, repeated and swapped for `words`; sometimes bytes."""

    def mutate(data: bytes, draw: random.Random, others: Sequence[bytes]) -> bytes:
        if draw.random() < 0.3:
            return mutate_bytes(data, draw, others)
        lines = data.split(b"\n")
        for _ in range(1 << draw.randrange(3)):
            at = draw.randrange(len(lines))
            match draw.randrange(6):
                case 0:
                    lines.insert(at, lines[at])
                case 1 if len(lines) > 1:
                    del lines[at]
                case 2 if others:
                    lines.insert(at, draw.choice(draw.choice(others).split(b"\n")))
                case 3:
                    lines[at] *= draw.choice((2, 3, 100))
                case _:
                    word = draw.choice(words).encode("utf-8", "surrogatepass")
                    place = draw.randrange(len(lines[at]) + 1)
                    end = place + draw.choice((0, 0, 1, 3, 8))
                    lines[at] = lines[at][:place] + word * draw.choice((1, 1, 1, 40)) + lines[at][end:]
        return b"\n".join(lines)[:MOST]

    return mutate


def mutate_json(data: bytes, draw: random.Random, others: Sequence[bytes]) -> bytes:
    """One to four of its values become hostile, vanish, double or come from another document; sometimes bytes."""
    try:
        value = json.loads(data)
    except (ValueError, RecursionError):
        return mutate_bytes(data, draw, others)
    if draw.random() < 0.1:
        return mutate_bytes(data, draw, others)
    return as_json(damaged(value, draw, others))[:MOST]


def damaged(value: Any, draw: random.Random, others: Sequence[bytes] = ()) -> Any:
    """`value`, changed in one to four places."""
    holder = [value]
    if draw.random() < 0.25:
        _contradict(holder, draw)
    for _ in range(draw.choice((1, 1, 1, 2, 2, 3, 4))):
        places = _places(holder)[1:]  # the first is the holder's own
        inside, name = draw.choice(places)
        match draw.randrange(12):
            case 0 if inside is not holder:
                del inside[name]
            case 1 if isinstance(inside, dict):
                inside[draw.choice((str(name) + "_", "x", "\ud800"))] = inside.pop(name)
            case 2 if isinstance(inside, list):
                inside.insert(name, inside[name])
            case 3:
                other, place = draw.choice(places)
                inside[name] = json.loads(as_json(other[place]))  # a copy, so that nothing holds itself
            case 4 if others:
                inside[name] = _part(draw.choice(others), draw)
            case 5:
                for _ in range(draw.choice((1, 3, 200))):
                    inside[name] = [inside[name]] if draw.random() < 0.5 else {"x": inside[name]}
            case 6 | 7 if _is_number(inside[name]):
                number = inside[name]
                inside[name] = draw.choice((number + 1, number - 1, -number, number * 2, number / 2, number * 1000))
            case _:
                inside[name] = json.loads(as_json(draw.choice(HOSTILE)))
    return holder[0]


def _contradict(value: Any, draw: random.Random) -> None:
    """Two or three numbers of one object get new values: each may be fine, and together they are not."""
    inside, _ = draw.choice(_places(value))
    names = [name for name in (inside if isinstance(inside, dict) else ()) if _is_number(inside[name])]
    for name in draw.sample(names, min(len(names), draw.choice((2, 2, 3)))):
        inside[name] = draw.choice((1, 2, 3, 4, 8, 16, 17, 64, 256, 257, 512, 1024, 0.5, 3.0, inside[name] * 2))


def as_json(value: Any) -> bytes:
    """Non-ASCII characters are escaped, so that a lone surrogate can be there too."""
    return json.dumps(value).encode()


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value) and abs(value) < 1e60


def _places(value: Any) -> list[tuple[Any, Any]]:
    """Every (container, key) below, breadth first, and of a long list only some, so that a vocabulary hides nothing."""
    found, ahead = [(value, None)], [value]
    while ahead:
        inside = ahead.pop(0)
        names: list[Any] = list(inside) if isinstance(inside, dict) else list(range(len(inside)))
        if len(names) > 40:
            names = names[:20] + names[-20:]
        for name in names:
            found.append((inside, name))
            if isinstance(inside[name], dict | list):
                ahead.append(inside[name])
    return found


def _part(data: bytes, draw: random.Random) -> Any:
    try:
        value = [json.loads(data)]
    except (ValueError, RecursionError):
        return None
    inside, name = draw.choice(_places(value)[1:])
    return inside[name]
