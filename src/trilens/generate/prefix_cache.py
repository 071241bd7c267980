"""Prompt prefixes that were computed once and need not be computed again.

A block is the state of `PAGE` positions. It is found by a hash of its tokens and of all tokens before it, so one lookup
per page finds a prompt's prefix, whether it was computed by a running request, a finished one, or an earlier process
whose blocks were read from a directory.
"""

from __future__ import annotations

import hashlib
import threading
from collections import OrderedDict
from collections.abc import Hashable, Sequence
from dataclasses import dataclass, field
from itertools import islice, pairwise
from typing import Literal

import numpy as np

from trilens.executors.executor import PAGE, Block
from trilens.generate.prefix_files import PrefixFiles
from trilens.generate.prefix_files import link as link

SIBLINGS = 16  # blocks behind the same beginning that are compared token by token, the newest first

AT_ONCE = 256  # blocks that are looked at for each new one, where more are kept than the budget has

Source = Literal["running", "finished", "disk"]


@dataclass
class Origin:
    """Where blocks come from: one object for all blocks of a request, which changes when that request ends."""

    source: Source


@dataclass(eq=False)
class Entry:
    """One block in the cache; `following` are the keys of the blocks that go on from it, the oldest first."""

    key: bytes
    parent: bytes
    tokens: tuple[int, ...]
    block: Block
    origin: Origin
    following: dict[bytes, None] = field(default_factory=dict)


@dataclass(frozen=True)
class Found:
    """The beginning of a prompt: its blocks, how many tokens of the last one count, and where each comes from."""

    blocks: list[Block]
    last_tokens: int
    sources: list[Source]


NOTHING = Found([], 0, [])


class PrefixCache:
    """Blocks by hash, up to `budget` bytes. The least recently used block is dropped first; blocks in use are never
    dropped. Safe for any number of threads.
    """

    def __init__(self, budget: int) -> None:
        self.budget = budget
        self.files: PrefixFiles | None = None  # where full blocks are kept too, and found again after a restart
        self.bytes = 0  # that its blocks keep; pages shared with running requests count too
        self._entries: OrderedDict[bytes, Entry] = OrderedDict()  # least recently used first
        self._firsts: dict[bytes, dict[bytes, None]] = {}  # of each root: the blocks that begin there
        self._lock = threading.RLock()

    def __len__(self) -> int:
        return len(self._entries)

    def root(self, variant: Hashable) -> bytes:
        """What a chain starts from. `variant`: see `Executor.variant`."""
        return hashlib.blake2b(repr(variant).encode(), digest_size=16).digest()

    def find(self, root: bytes, chain: Sequence[bytes], tokens: Sequence[int], most: int, exact: bool = False) -> Found:
        """The longest beginning of `tokens` that is here, up to `most` of them. `chain`: the keys of their full pages.
        `exact`: whole pages only."""
        with self._lock:
            entries: list[Entry] = []
            for key in chain[: most // PAGE]:
                entry = self._entries.get(key)
                if entry is None:
                    break
                entries.append(entry)
            last_tokens = PAGE
            if not exact:
                done = len(entries) * PAGE
                parent = entries[-1].key if entries else root
                part, same = self._begins(parent, tokens[done : min(done + PAGE, most)])
                if part is not None:
                    entries.append(part)
                    last_tokens = same
            if not entries:
                return NOTHING
            for entry in reversed(entries):  # the first block last: a chain is forgotten from its end
                self._entries.move_to_end(entry.key)
            return Found([e.block for e in entries], last_tokens, [e.origin.source for e in entries])

    def restore(self, root: bytes, keys: Sequence[bytes]) -> None:
        """Read the blocks with these keys from files, as far as they follow one another; beside any steps."""
        if self.files is None:
            return
        for parent, key in pairwise((root, *keys)):
            if key in self._entries:
                continue
            stored = self.files.read(key, parent)
            if stored is None:
                return
            self.put(key, parent, stored.tokens, stored.block, Origin("disk"))

    def _begins(self, parent: bytes, tokens: Sequence[int]) -> tuple[Entry | None, int]:
        """The block behind `parent` that begins with the most of these tokens, and how many these are."""
        best, most = None, 0
        for key in self._newest_behind(parent):
            entry = self._entries[key]
            same = common_prefix(entry.tokens, tokens)
            if same > most:
                best, most = entry, same
        return best, most

    def __contains__(self, key: bytes) -> bool:
        return key in self._entries

    def put(self, key: bytes, parent: bytes, tokens: tuple[int, ...], block: Block, origin: Origin) -> None:
        """Store a block, also in place of one without its fixed states. A shorter block after the same prefix is
        removed, because it is no longer needed.
        """
        with self._lock:
            entry = self._entries.get(key)
            if entry is not None:
                if entry.block.has_states or not block.has_states:
                    return
                self.bytes += block.kept_bytes - entry.block.kept_bytes
                entry.block = block
            else:
                self._add(key, parent, tokens, block, origin)
            while self.bytes > self.budget and self._evict_one(AT_ONCE) is not None:
                pass
        if self.files is not None and origin.source != "disk" and len(tokens) == PAGE:
            self.files.write(key, parent, tokens, block, again=entry is not None)

    def _add(self, key: bytes, parent: bytes, tokens: tuple[int, ...], block: Block, origin: Origin) -> None:
        for other in [k for k in self._newest_behind(parent) if self._shorter(k, tokens)]:
            self._drop(other)
        siblings = self._behind(parent, make=True)
        siblings[key] = None
        self._entries[key] = Entry(key, parent, tokens, block, origin, self._firsts.pop(key, {}))
        self.bytes += block.kept_bytes

    def _shorter(self, key: bytes, tokens: tuple[int, ...]) -> bool:
        entry = self._entries[key]
        return len(entry.tokens) < min(PAGE, len(tokens)) and tokens[: len(entry.tokens)] == entry.tokens

    def free(self, wanted: int) -> bool:
        """Drop blocks until `wanted` bytes of memory are free. Returns whether that was possible."""
        with self._lock:
            while wanted > 0:
                freed = self._evict_one(len(self._entries))
                if freed is None:
                    return False
                wanted -= freed
            return True

    def clear(self) -> None:
        with self._lock:
            self._entries.clear()
            self._firsts.clear()
            self.bytes = 0

    def _evict_one(self, most: int) -> int | None:
        """Drop the least recently used block, of a chain its last one. Returns the bytes that came free, None where
        `most` blocks were looked at and all of them are in use."""
        seen = set[bytes]()
        while len(seen) < min(most, len(self._entries)):
            leaf = next(iter(self._entries.values()))
            while leaf.following:
                leaf = self._entries[next(iter(leaf.following))]
            if own := leaf.block.own_bytes:
                self._drop(leaf.key)
                return own
            used: Entry | None = leaf  # and so is what comes before it
            while used is not None:
                self._entries.move_to_end(used.key)
                seen.add(used.key)
                used = self._entries.get(used.parent)
        return None

    def _drop(self, key: bytes) -> None:
        entry = self._entries.pop(key)
        self.bytes -= entry.block.kept_bytes
        siblings = self._behind(entry.parent)
        siblings.pop(key, None)
        if not siblings:
            self._firsts.pop(entry.parent, None)
        for child in list(entry.following):  # nothing finds them any more
            self._drop(child)

    def _behind(self, parent: bytes, make: bool = False) -> dict[bytes, None]:
        entry = self._entries.get(parent)
        if entry is not None:
            return entry.following
        return self._firsts.setdefault(parent, {}) if make else self._firsts.get(parent, {})

    def _newest_behind(self, parent: bytes) -> list[bytes]:
        """Those that are compared token by token. There may be many thousands behind a beginning."""
        return list(islice(reversed(self._behind(parent)), SIBLINGS))


def chain(root: bytes, tokens: Sequence[int] | np.ndarray) -> list[bytes]:
    """The keys of the full pages of `tokens`, each made from the one before it."""
    data = np.asarray(tokens, "<i4").tobytes()
    keys, parent, size = list[bytes](), root, 4 * PAGE
    for at in range(0, len(data) - size + 1, size):
        parent = hashlib.blake2b(parent + data[at : at + size], digest_size=16).digest()
        keys.append(parent)
    return keys


def common_prefix(a: Sequence[int], b: Sequence[int]) -> int:
    """How many leading tokens are the same."""
    return next((i for i, (x, y) in enumerate(zip(a, b, strict=False)) if x != y), min(len(a), len(b)))
