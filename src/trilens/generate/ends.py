"""Sets of tokens as bits, and tokens that may not end an answer yet."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

ANY = np.iinfo(np.uint32).max  # a word of 32 tokens that are all allowed


def without(allowed: np.ndarray, tokens: Iterable[int]) -> np.ndarray:
    """The same words (see `Constraint.allowed`) with these tokens no longer allowed."""
    left = allowed.copy()
    for token in tokens:
        left[token // 32] &= ~np.uint32(1 << token % 32)
    return left


def also(allowed: np.ndarray, tokens: Iterable[int]) -> np.ndarray:
    """The same words with these tokens allowed too."""
    more = allowed.copy()
    for token in tokens:
        more[token // 32] |= np.uint32(1 << token % 32)
    return more


def only(allowed: np.ndarray) -> int | None:
    """The one token that is allowed; None where there are others too."""
    words = np.flatnonzero(allowed)
    word = int(allowed[words[0]]) if len(words) == 1 else 0
    return None if word & (word - 1) or not word else 32 * int(words[0]) + word.bit_length() - 1


@dataclass(frozen=True)
class EndsBarred:
    """`always` may never come, and `ends` not among an answer's first `min_tokens` tokens. `words` of 32 tokens make up
    the vocabulary."""

    ends: frozenset[int]
    always: frozenset[int]
    min_tokens: int
    words: int

    def rest(self, allowed: np.ndarray | None, tokens: int) -> np.ndarray:
        """What is left of the allowed ones (None: all) behind so many tokens; all of them, where nothing would be."""
        of = np.full(self.words, ANY, np.uint32) if allowed is None else allowed
        left = without(of, self.ends if tokens < self.min_tokens else self.always)
        return left if left.any() else of
