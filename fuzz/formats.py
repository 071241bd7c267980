"""Damage inside binary formats: one field of GGUF, safetensors or SentencePiece's protobuf at a time."""

from __future__ import annotations

import json
import random
import struct
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from fuzz.mutate import HOSTILE, INTEGERS, MOST, as_json, damaged, mutate_bytes

U32, I32, F32, BOOL, STRING, ARRAY, U64, F64 = 4, 5, 6, 7, 8, 9, 10, 12
LETTERS = {0: "B", 1: "b", 2: "H", 3: "h", U32: "I", I32: "i", F32: "f", BOOL: "B", U64: "Q", 11: "q", F64: "d"}
# Scales of quantised blocks are halves, norms are floats: both kinds of not-a-number, and the largest values.
VALUES = [struct.pack("<e", v) for v in (float("nan"), float("inf"), 65504.0, -0.0)]
VALUES += [struct.pack("<f", v) for v in (float("nan"), float("inf"), 3e38, 1e-45)]


@dataclass
class Key:
    name: str
    kind: int
    value: Any  # of an array: (kind of its items, items)


@dataclass
class Tensor:
    name: str
    dims: list[int]  # as in the file: the contiguous one first
    kind: int
    offset: int


@dataclass
class Gguf:
    keys: list[Key]
    tensors: list[Tensor]
    data: bytes
    version: int = 3
    extra_keys: int = 0  # by how much the header's counts are wrong
    extra_tensors: int = 0

    def bytes(self) -> bytes:
        counts = _u64(len(self.tensors) + self.extra_tensors) + _u64(len(self.keys) + self.extra_keys)
        out = b"GGUF" + _packed(U32, self.version) + counts
        for key in self.keys:
            out += _text(key.name) + _packed(U32, key.kind) + _value(key.kind, key.value)
        for t in self.tensors:
            dims = b"".join(map(_u64, t.dims))
            out += _text(t.name) + _packed(U32, len(t.dims)) + dims + _packed(U32, t.kind) + _u64(t.offset)
        return out + bytes(-len(out) % 32) + self.data


def _u64(value: int) -> bytes:
    return struct.pack("<Q", value % 2**64)


def _text(value: str) -> bytes:
    data = value.encode("utf-8", "surrogatepass")
    return _u64(len(data)) + data


def _packed(kind: int, value: Any) -> bytes:
    """A number as that kind has it; what does not fit is wrapped, what is no number is 0."""
    letter = LETTERS[kind]
    if not isinstance(value, int | float):
        value = 0
    if letter in "fd":
        try:
            return struct.pack("<" + letter, value)
        except OverflowError:
            return struct.pack("<" + letter, float("inf"))
    if isinstance(value, float):
        value = int(value) if abs(value) < 1e30 else 0
    width = struct.calcsize(letter)
    return (value % (1 << 8 * width)).to_bytes(width, "little")


def _value(kind: int, value: Any) -> bytes:
    if kind == STRING:
        return _text(value if isinstance(value, str) else repr(value))
    if kind == ARRAY:
        inner, items = value if isinstance(value, tuple) else (U32, [])
        return _packed(U32, inner) + _u64(len(items)) + b"".join(_value(inner, item) for item in items)
    return _packed(kind, value)


def parse_gguf(data: bytes) -> Gguf:
    """A valid file's parts. Raises ValueError, struct.error, KeyError or IndexError for one that is not."""
    at = 0

    def number(kind: int) -> Any:
        nonlocal at
        letter = "<" + LETTERS[kind]
        at += struct.calcsize(letter)
        return struct.unpack_from(letter, data, at - struct.calcsize(letter))[0]

    def text() -> str:
        nonlocal at
        length = number(U64)
        if length > len(data) - at:
            raise ValueError("a text that is longer than the file")
        at += length
        return data[at - length : at].decode("utf-8", "replace")

    def value(kind: int) -> Any:
        if kind == STRING:
            return text()
        if kind == ARRAY:
            inner, count = number(U32), number(U64)
            return inner, [value(inner) for _ in range(count)]
        return number(kind)

    if number(U32) != int.from_bytes(b"GGUF", "little"):
        raise ValueError("no GGUF file")
    version, tensor_count, key_count = number(U32), number(U64), number(U64)
    keys, tensors = [], []
    for _ in range(key_count):
        name, kind = text(), number(U32)
        keys.append(Key(name, kind, value(kind)))
    for _ in range(tensor_count):
        name = text()
        dims = [number(U64) for _ in range(number(U32))]
        tensors.append(Tensor(name, dims, number(U32), number(U64)))
    return Gguf(keys, tensors, data[at + -at % 32 :], version)


def mutate_gguf(data: bytes, draw: random.Random, others: Sequence[bytes]) -> bytes:
    try:
        file = parse_gguf(data)
    except (ValueError, struct.error, KeyError, IndexError, RecursionError, MemoryError):
        return mutate_bytes(data, draw, others)
    if draw.random() < 0.1:
        return mutate_bytes(data, draw, others)
    for _ in range(draw.choice((1, 1, 1, 2, 2, 3))):
        if draw.random() < 0.6 and file.keys:
            _damage_key(file, draw)
        elif draw.random() < 0.6 and file.tensors:
            _damage_tensor(file, draw)
        elif draw.random() < 0.9:
            file.data = with_value(file.data, draw)
        else:
            file.version, file.extra_keys = draw.choice(((2, 0), (3, 1), (3, -1), (4, 0), (3, 2**60)))
    return file.bytes()[:MOST]


def _damage_key(file: Gguf, draw: random.Random) -> None:
    # a vocabulary's keys are few: the numbers that say the model's shape are half of the choices
    numbers = [k for k in file.keys if k.kind in LETTERS]
    key = draw.choice(numbers if numbers and draw.random() < 0.5 else file.keys)
    match draw.randrange(8):
        case 0:
            file.keys.remove(key)
        case 1:
            file.keys.append(Key(key.name, key.kind, key.value))
        case 2:
            key.kind = draw.choice((*LETTERS, STRING, ARRAY))
        case 3 if key.kind == ARRAY:
            inner, items = key.value
            items = list(items)
            if items and draw.random() < 0.7:
                items[draw.randrange(len(items))] = draw.choice((*HOSTILE, items[0]))
            else:
                items = items[: draw.randrange(len(items) + 1)] * draw.choice((1, 2, 0))
            key.value = (inner, items)
        case 4:
            key.kind, key.value = ARRAY, (key.kind, [key.value] * draw.choice((0, 1, 2, 3, 100)))
            if key.value[0] == ARRAY:
                key.value = (U32, [1])
        case 5:
            other = draw.choice(file.keys)
            key.kind, key.value = other.kind, other.value
        case _ if key.kind in LETTERS:
            # its kind may have been changed before, and its value be no number
            number = key.value if isinstance(key.value, int | float) and key.value == key.value else 0
            key.value = draw.choice((*(v for v in HOSTILE if isinstance(v, int | float)), number + 1, number * 2))
        case _:
            key.kind = STRING
            key.value = draw.choice([v for v in HOSTILE if isinstance(v, str)])


def _damage_tensor(file: Gguf, draw: random.Random) -> None:
    tensor = draw.choice(file.tensors)
    match draw.randrange(6):
        case 0:
            file.tensors.remove(tensor)
        case 1:
            tensor.kind = draw.choice((*range(42), 2**31))
        case 2 if tensor.dims:
            at = draw.randrange(len(tensor.dims))
            tensor.dims[at] = draw.choice((*INTEGERS, tensor.dims[at] + 1, tensor.dims[at] * 2, tensor.dims[at] // 2))
        case 3:
            tensor.dims = draw.choice(([], tensor.dims[::-1], [*tensor.dims, 1], [1] * 9))
        case 4:
            tensor.offset = draw.choice((*INTEGERS, tensor.offset + 32, draw.choice(file.tensors).offset))
        case _:
            tensor.name = draw.choice((draw.choice(file.tensors).name, tensor.name + "x", "output.weight", ""))


def with_value(data: bytes, draw: random.Random) -> bytes:
    """Weights in which a few values are not finite, or a stretch is all zeros."""
    if not data:
        return data
    out = bytearray(data)
    for _ in range(1 << draw.randrange(6)):
        at = draw.randrange(len(out)) & ~1
        if draw.random() < 0.2:
            length = min(len(out) - at, 1 << draw.randrange(14))
            out[at : at + length] = bytes(length)
        else:
            value = draw.choice(VALUES)
            out[at : at + len(value)] = value
    return bytes(out[: len(data)])


def mutate_safetensors(data: bytes, draw: random.Random, others: Sequence[bytes]) -> bytes:
    try:
        length = int.from_bytes(data[:8], "little")
        header = json.loads(data[8 : 8 + length])
    except (ValueError, RecursionError):
        return mutate_bytes(data, draw, others)
    values = data[8 + length :]
    match draw.randrange(8):
        case 0:
            return mutate_bytes(data, draw, others)
        case 1:
            return draw.choice(INTEGERS).to_bytes(8, "little") + data[8:]
        case 2 | 3:
            values = with_value(values, draw)
        case 4:
            values = values[: draw.randrange(len(values) + 1)] + bytes(draw.choice((0, 0, 1, 4096)))
        case 5 if isinstance(header, dict) and len(header) > 1:
            one, two = draw.sample(sorted(header), 2)
            header[one], header[two] = header[two], header[one]
        case _:
            header = damaged(header, draw)
    text = as_json(header)
    return (len(text).to_bytes(8, "little") + text + values)[:MOST]


def mutate_sentencepiece(data: bytes, draw: random.Random, others: Sequence[bytes]) -> bytes:
    """Fields of the outer message are dropped, repeated, swapped or filled; a piece can become very long."""
    fields = parse_fields(data)
    if draw.random() < 0.3 or len(fields) < 3:
        return mutate_bytes(data, draw, others)
    for _ in range(1 << draw.randrange(3)):
        at = (
            draw.randrange(len(fields)) if draw.random() < 0.6 else len(fields) - 1 - draw.randrange(2)
        )  # the trainer's
        match draw.randrange(6):
            case 0 if len(fields) > 3:
                del fields[at]
            case 1:
                fields.insert(at, fields[at])
            case 2:
                other = draw.randrange(len(fields))
                fields[at], fields[other] = fields[other], fields[at]
            case 3:
                text = draw.choice((b"", b"a", b"ab", b"<0x41>", "▁".encode(), b"\xff"))
                text *= draw.choice((1, 1, 1, 2, 2, 50, 1_000, 20_000))
                score = struct.pack("<f", draw.choice((0.0, -1.0, float("nan"), float("inf"), 1e38)))
                piece = field(1, text) + b"\x15" + score + b"\x18" + bytes([draw.randrange(8)])
                fields[at] = (1, piece)
            case _:
                number, inside = fields[at]
                fields[at] = (number, mutate_bytes(inside, draw, others))
    return b"".join(field(number, inside) for number, inside in fields)[:MOST]


def parse_fields(data: bytes) -> list[tuple[int, bytes]]:
    """Length-delimited fields (all that the outer message has), up to where it stops making sense."""
    found, at = [], 0
    while at < len(data) and data[at] & 7 == 2:
        number, length, shift = data[at] >> 3, 0, 0
        at += 1
        while at < len(data):
            length |= (data[at] & 127) << shift
            shift += 7
            at += 1
            if data[at - 1] < 128:
                break
        found.append((number, data[at : at + length]))
        at += length
    return found


def field(number: int, inside: bytes) -> bytes:
    length, out = len(inside), bytearray([number << 3 | 2])
    while length > 127:
        out.append(length & 127 | 128)
        length >>= 7
    return bytes(out) + bytes([length]) + inside
