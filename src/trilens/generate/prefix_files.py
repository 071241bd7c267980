"""Prefixes that survive a restart: blocks of a prefix cache as files in a directory.

A file is one full block: a line that says what it is, the line of JSON that describes it, the pages as they lie in
memory (every set of kernels reads the same), and a SHA-256 of all of that. It is written under another name first, so
that a file is either complete or missing. Prompts can be read from these files, so only their owner can read them.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import threading
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from trilens.errors import BadCheckpoint, RequestRefused, UsageError
from trilens.executors.executor import PAGE, Block, Executor
from trilens.files import read_small

MAGIC = b"trilens prefix 2\n"  # 2: 16-bit activations are rounded to 1/256; files of another arithmetic are not used
SUFFIX = ".block"
DIGEST = hashlib.sha256().digest_size
MOST_WAITING = 256  # blocks that wait to be written; more are left out, for they hold memory
WAITING_BYTES = 1_000_000_000  # that they hold
MOST_DESCRIBED = 4096  # bytes of the line of JSON
ABANDONED = 3600.0  # seconds after which a half-written file is nobody's

log = logging.getLogger("trilens.prefixes")


@dataclass(frozen=True)
class Stored:
    """A block as it was read."""

    tokens: tuple[int, ...]
    block: Block


class PrefixFiles:
    """The directory of one model's blocks, up to `budget` bytes; the least recently used file is removed first."""

    def __init__(self, directory: Path, budget: int, identity: bytes, executor: Executor) -> None:
        """`identity`: of the weights and of how the cache is stored. Raises UsageError for a directory that cannot be
        used."""
        self._identity = identity.hex()
        self._directory = directory / self._identity[:32]
        self._budget = budget
        self._executor = executor
        try:
            self._directory.mkdir(mode=0o700, parents=True, exist_ok=True)
            probe = self._directory / f".{os.getpid()}"
            probe.touch()
            probe.unlink()
        except OSError as problem:
            raise UsageError(f"{directory}: cannot keep prefixes there: {problem.strerror or problem}") from None
        self._lock = threading.Lock()
        self._waiting = 0
        self._waiting_bytes = 0
        self._writing = ThreadPoolExecutor(1, "prefixes")  # joined when the interpreter ends, so nothing is lost
        self._bytes = sum(size for _, size, _ in self._files())
        self._sweep()

    def __contains__(self, key: bytes) -> bool:
        return self._path(key).is_file()

    def read(self, key: bytes, parent: bytes) -> Stored | None:
        """The block with this key; None if there is none, or no memory for it. A damaged file, or one of another
        model, is removed with a line in the log.
        """
        path = self._path(key)
        states = self._executor.costs.fixed_bytes
        most = len(MAGIC) + MOST_DESCRIBED + 2 * self._executor.block_bytes + states + (1 << 20)
        try:
            data = read_small(path, most)
            os.utime(path)
        except BadCheckpoint as problem:
            self._remove(path, str(problem).removeprefix(f"{path}: "))
            return None
        except OSError:
            return None
        try:
            described, body = _parsed(data)
            tokens = self._checked(described, key, parent)
        except ValueError as problem:
            self._remove(path, str(problem))
            return None
        try:
            return Stored(tokens, self._executor.restored(len(tokens), int(described["route_width"]), body))
        except RequestRefused as problem:
            if self._executor.cache_free >= self._executor.block_bytes:
                self._remove(path, str(problem))
            return None

    def write(
        self, key: bytes, parent: bytes, tokens: tuple[int, ...], block: Block, *, again: bool = False
    ) -> Future[None] | None:
        """Queue the block for writing by a background thread, also in place of an existing file (`again`). None if
        too much is queued already.
        """
        with self._lock:
            if self._waiting >= MOST_WAITING or self._waiting_bytes > WAITING_BYTES:
                return None
            self._waiting += 1
            self._waiting_bytes += block.kept_bytes
        with suppress(RuntimeError):  # the interpreter is ending
            return self._writing.submit(self._write, key, parent, tokens, block, again)
        return None

    def close(self) -> None:
        """Return when everything is written."""
        self._writing.shutdown()

    def _write(self, key: bytes, parent: bytes, tokens: tuple[int, ...], block: Block, again: bool) -> None:
        path = self._path(key)
        partial = path.with_suffix(f".{os.getpid()}.partial")
        described = {
            "identity": self._identity,
            "key": key.hex(),
            "parent": parent.hex(),
            "tokens": list(tokens),
            "route_width": block.route_width,
        }
        try:
            if path.exists() and not again:
                return
            data = MAGIC + json.dumps(described).encode() + b"\n" + block.written()
            with os.fdopen(os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "wb") as file:
                file.write(data)
                file.write(hashlib.sha256(data).digest())
            partial.replace(path)
            self._bytes += len(data) + DIGEST
            if self._bytes > self._budget:
                self._make_room()
        except OSError as problem:
            with suppress(OSError):
                partial.unlink()
            log.warning("%s cannot be written: %s", path, problem.strerror or problem)
        finally:
            with self._lock:
                self._waiting -= 1
                self._waiting_bytes -= block.kept_bytes

    def _checked(self, described: Any, key: bytes, parent: bytes) -> tuple[int, ...]:
        """The tokens. Raises ValueError for what is not the block that it should be."""
        if not isinstance(described, dict) or described.get("identity") != self._identity:
            raise ValueError("it belongs to another model")
        if (described.get("key"), described.get("parent")) != (key.hex(), parent.hex()):
            raise ValueError("it is another block")
        tokens, width = described.get("tokens"), described.get("route_width")
        if not isinstance(tokens, list) or len(tokens) != PAGE or not isinstance(width, int) or width < 0:
            raise ValueError("its description is damaged")
        vocabulary = self._executor.spec.vocab
        if not all(type(t) is int and 0 <= t < vocabulary for t in tokens):
            raise ValueError("its tokens are not the model's")
        if link(parent, tokens) != key:
            raise ValueError("its tokens are not those of its name")
        return tuple(tokens)

    def _path(self, key: bytes) -> Path:
        return self._directory / (key.hex() + SUFFIX)

    def _files(self) -> Iterator[tuple[float, int, Path]]:
        """(when it was last used, its bytes, it)."""
        for path in self._directory.glob("*" + SUFFIX):
            with suppress(OSError):
                found = path.stat()
                yield found.st_mtime, found.st_size, path

    def _sweep(self) -> None:
        for path in self._directory.glob("*.partial"):
            with suppress(OSError):
                if path.stat().st_mtime < time.time() - ABANDONED:
                    path.unlink()

    def _make_room(self) -> None:
        """Remove the files that were not used for longest, a tenth more than has to go."""
        files = sorted(self._files())
        self._bytes = sum(size for _, size, _ in files)
        for _, size, path in files:
            if self._bytes <= 0.9 * self._budget:
                break
            with suppress(OSError):
                path.unlink()
                self._bytes -= size

    def _remove(self, path: Path, why: str) -> None:
        log.warning("%s is ignored and removed: %s", path, why)
        with suppress(OSError):
            path.unlink()


def link(parent: bytes, tokens: Sequence[int]) -> bytes:
    """The key of a block with these tokens behind `parent`."""
    return hashlib.blake2b(parent + np.asarray(tokens, "<i4").tobytes(), digest_size=16).digest()


def _parsed(data: bytes) -> tuple[Any, memoryview]:
    """(the description, the pages). Raises ValueError for a damaged file."""
    if not data.startswith(MAGIC):
        raise ValueError("it does not begin as such files do")
    if len(data) < len(MAGIC) + DIGEST or hashlib.sha256(memoryview(data)[:-DIGEST]).digest() != data[-DIGEST:]:
        raise ValueError("its checksum is wrong")
    end = data.find(b"\n", len(MAGIC), len(MAGIC) + MOST_DESCRIBED)
    if end < 0:
        raise ValueError("its description is damaged")
    try:
        return json.loads(data[len(MAGIC) : end]), memoryview(data)[end + 1 : -DIGEST]
    except (ValueError, RecursionError):
        raise ValueError("its description is damaged") from None
