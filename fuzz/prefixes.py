"""Block files of the prefix cache: valid ones, damage behind a checksum that is right again, and what is done with one.

The tiny models have random weights. Between them they have sliding windows, latent attention, experts, and all three
types of cache. Every seed is the first block of the same tokens, so all of them have the same name.
"""

from __future__ import annotations

import hashlib
import json
import logging
import random
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

from fuzz import seeds
from fuzz.formats import with_value
from fuzz.mutate import MOST, as_json, damaged, mutate_bytes
from fuzz.weights import random_executor
from trilens.executors.executor import PAGE, StepInput, distinct_experts
from trilens.executors.native.executor import NativeExecutor
from trilens.generate.prefix_files import DIGEST, MAGIC, PrefixFiles, link
from trilens.generate.sampling import Sampler, Sampling
from trilens.spec.huggingface import read_config

MODELS = (
    ("openai/gpt-oss-120b", "f16"),
    ("deepseek-ai/DeepSeek-V2-Lite", "8bit"),
    ("google/gemma-4-12B-it", "f32"),
)
PARENT = b"p" * 16
TOKENS = tuple(random.Random(1).randrange(96) for _ in range(PAGE))
KEY = link(PARENT, TOKENS)
LONG = 3 * PAGE  # by then a window has dropped its pages of the first block


class Failed(Exception):
    """A refused file that is still there, or about which nothing was said."""


@cache
def _executor(number: int) -> NativeExecutor:
    name, kv = MODELS[number]
    return random_executor(read_config(seeds.shrunk(seeds.published()[name])).spec, kv=kv, kv_limit=1 << 26)


def _identity(number: int) -> bytes:
    return hashlib.sha256(b"%d" % number).digest()


def files() -> list[bytes]:
    found = []
    for number in range(len(MODELS)):
        for length in (PAGE, LONG):
            executor = _executor(number)
            sequence = executor.sequence(length)
            executor.step([StepInput(sequence, (TOKENS * (length // PAGE))[:PAGE])])
            for token in (TOKENS * (length // PAGE))[PAGE:]:
                executor.step([StepInput(sequence, [token])])
            block = sequence.block(0)
            described = {
                "identity": _identity(number).hex(),
                "key": KEY.hex(),
                "parent": PARENT.hex(),
                "tokens": list(TOKENS),
                "route_width": block.route_width,
            }
            found.append(sealed(MAGIC + as_json(described) + b"\n" + block.written()))
            sequence.free()
    return found


def sealed(data: bytes) -> bytes:
    return data + hashlib.sha256(data).digest()


def mutate(data: bytes, draw: random.Random, others: Sequence[bytes]) -> bytes:
    """One part of the file is damaged, and the checksum is made right for it but for one time in twenty."""
    if draw.random() < 0.05:
        return mutate_bytes(data, draw, others)
    body = data[:-DIGEST]
    magic, _, rest = body.partition(b"\n")
    line, _, pages = rest.partition(b"\n")
    match draw.randrange(6):
        case 0:
            return sealed(mutate_bytes(body, draw, [other[:-DIGEST] for other in others])[:MOST])
        case 1:
            pages = mutate_bytes(pages, draw, others)
        case 2:
            pages = with_value(pages, draw)
        case 3:  # the routes are at the end
            at = max(0, len(pages) - 2 * (1 + draw.randrange(600)))
            pages = pages[:at] + draw.choice((b"\xff\xff", b"\x08\x00", b"\x00\x80", b"\x07\x00")) + pages[at + 2 :]
        case 4:  # which caches have a page
            at = draw.randrange(8)
            pages = pages[:at] + bytes([draw.choice((0, 1, 2, 255))]) + pages[at + 1 :]
        case _:
            try:
                line = as_json(damaged(json.loads(line), draw))
            except (ValueError, RecursionError):
                line = mutate_bytes(line, draw, others)
    return sealed(b"\n".join((magic, line, pages))[:MOST])


def attempt(data: bytes, folder: Path) -> str:
    """Read it as a request's beginning, go on from it, and count its experts as a receipt does."""
    number = next((n for n in range(len(MODELS)) if _identity(n).hex().encode() in data), 0)
    executor = _executor(number)
    free = executor.cache_free
    kept = PrefixFiles(folder, 1 << 30, _identity(number), executor)
    path = folder / _identity(number).hex()[:32] / f"{KEY.hex()}.block"
    path.write_bytes(data)
    said: list[logging.LogRecord] = []
    log, handler = logging.getLogger("trilens.prefixes"), logging.Handler()
    handler.emit = said.append  # type: ignore[method-assign]
    log.addHandler(handler)
    try:
        stored = kept.read(KEY, PARENT)
    finally:
        log.removeHandler(handler)
        kept.close()
    if stored is None:
        if path.exists() or len(said) != 1:
            raise Failed(f"refused; the file is there: {path.exists()}, said: {[r.getMessage() for r in said]}")
        return f"refused: {said[0].getMessage().rpartition(': ')[2]}"
    said_words = _go_on(executor, stored.block, stored.tokens)
    del stored
    if executor.cache_free != free:
        raise Failed(f"{free - executor.cache_free} bytes of the cache are lost")
    return said_words


def _go_on(executor: NativeExecutor, block: Any, tokens: tuple[int, ...]) -> str:
    sequence = executor.sequence(2 * PAGE)
    adopted = sequence.adopt([block], len(tokens))
    sampler = Sampler(Sampling(temperature=0), ())
    drawn = executor.draw([StepInput(sequence, [*tokens[adopted:], 1], sampler=sampler)])
    distinct_experts(executor.spec, sequence.routes(), [[slice(0, sequence.length)]])
    sequence.free()
    if drawn.faults:
        return f"adopted {adopted}, and then refused: {drawn.faults[0]}"
    return f"adopted {adopted}, and went on"
