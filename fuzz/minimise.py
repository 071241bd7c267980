"""A failing input -> a smaller one that fails in the same way."""

from __future__ import annotations

import json
import struct
import time
from collections.abc import Callable, Iterator
from typing import Any

from fuzz.formats import parse_gguf
from fuzz.mutate import as_json

SECONDS = 4.0


def smaller(data: bytes, fails: Callable[[bytes], bool]) -> bytes:
    """Parts are taken out, the larger ones first, as long as it still `fails` and for a few seconds."""
    end = time.monotonic() + SECONDS
    bare = _without_weights(data)
    if bare != data and fails(bare):
        data = bare
    changed = True
    while changed and time.monotonic() < end:
        changed = False
        for candidate in _candidates(data):
            if time.monotonic() > end:
                break
            if len(candidate) < len(data) and fails(candidate):
                data, changed = candidate, True
                break
    return data


def _candidates(data: bytes) -> Iterator[bytes]:
    if data.startswith(b"GGUF"):
        yield from _gguf(data)
        return  # its weights are needed for it to get as far
    try:
        document = json.loads(data)
    except (ValueError, RecursionError):
        document = None
    if isinstance(document, dict | list):
        yield from (as_json(one) for one in _without_a_part(document))
    elif len(data) < 20_000:
        width = len(data) // 2
        while width:
            for at in range(0, len(data), width):
                yield data[:at] + data[at + width :]
            width //= 2


def _without_weights(data: bytes) -> bytes:
    """Zeros compress well, and most failures come before weights are read."""
    try:
        file = parse_gguf(data)
    except (ValueError, struct.error, KeyError, IndexError):
        return data
    file.data = bytes(len(file.data))
    return file.bytes()


def _without_a_part(value: Any) -> Iterator[Any]:
    names = list(value) if isinstance(value, dict) else range(len(value))
    for name in names:
        if isinstance(value, dict):
            yield {k: v for k, v in value.items() if k != name}
        else:
            yield value[:name] + value[name + 1 :]
        if isinstance(value[name], dict | list):
            for part in _without_a_part(value[name]):
                copy: Any = dict(value) if isinstance(value, dict) else list(value)
                copy[name] = part
                yield copy


def _gguf(data: bytes) -> Iterator[bytes]:
    try:
        count = len(parse_gguf(data).keys)
        for at in range(count):
            file = parse_gguf(data)
            del file.keys[at]
            yield file.bytes()
    except (ValueError, struct.error, KeyError, IndexError):
        return
