"""Logits -> the next token. The random number of a request's n-th token depends on its seed and n alone, so an
answer is
the same whatever else runs beside it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from trilens.errors import RequestRefused

SORTED_FIRST = 256  # of the vocabulary; nearly every draw ends among them
_WORD = (1 << 64) - 1


@dataclass(frozen=True)
class Sampling:
    """How the next token is chosen. Applied in this order: penalties, temperature, top-k, top-p, min-p.

    `temperature` 0 takes the likeliest token (the lowest id among equals). `top_k` keeps the k likeliest (0: all),
    `top_p` the fewest whose shares reach p, `min_p` those with at least that part of the likeliest one's share.
    `repetition_penalty` divides positive and multiplies negative logits of every token in prompt or answer (arXiv
    1909.05858); `presence_penalty` and `frequency_penalty` are subtracted once, or once per occurrence, for the
    answer's.
    """

    temperature: float = 0.7
    top_k: int = 0
    top_p: float = 0.95
    min_p: float = 0.0
    repetition_penalty: float = 1.0
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    seed: int = 0

    def __post_init__(self) -> None:
        _in_range("temperature", self.temperature, 0.0, 100.0)
        _in_range("top_k", self.top_k, 0, 2**31)
        _in_range("top_p", self.top_p, 0.0, 1.0, above=True)
        _in_range("min_p", self.min_p, 0.0, 1.0)
        _in_range("repetition_penalty", self.repetition_penalty, 0.0, 100.0, above=True)
        _in_range("presence_penalty", self.presence_penalty, -100.0, 100.0)
        _in_range("frequency_penalty", self.frequency_penalty, -100.0, 100.0)
        if isinstance(self.seed, bool) or not isinstance(self.seed, int) or not 0 <= self.seed <= _WORD:
            raise RequestRefused(f"seed is {self.seed!r}; expected an integer from 0 to 2^64 - 1")


class Sampler:
    """Chooses one request's tokens, one after the other."""

    def __init__(self, options: Sampling, prompt: Sequence[int]) -> None:
        self.options = options
        self.drawn = 0
        self._prompt = frozenset(prompt) if options.repetition_penalty != 1.0 else frozenset[int]()
        self._answer: Counter[int] = Counter()

    def choose(self, logits: np.ndarray) -> int:
        """[vocab] float32 -> a token's id."""
        o = self.options
        logits = self._penalised(logits)
        token = int(logits.argmax()) if o.temperature == 0 else self._draw(logits)
        self.drawn += 1
        self._answer[token] += 1
        return token

    def note(self, tokens: Sequence[int]) -> None:
        """Tokens that were put into the answer without being drawn."""
        self._answer.update(tokens)

    def _penalised(self, logits: np.ndarray) -> np.ndarray:
        o = self.options
        if o.repetition_penalty == 1.0 and not o.presence_penalty and not o.frequency_penalty:
            return logits
        logits = logits.copy()
        if o.repetition_penalty != 1.0:
            seen = np.fromiter(self._prompt | self._answer.keys(), dtype=np.int64)
            values = logits[seen]
            logits[seen] = np.where(values > 0, values / o.repetition_penalty, values * o.repetition_penalty)
        for token, count in self._answer.items():
            logits[token] -= o.presence_penalty + o.frequency_penalty * count
        return logits

    def _draw(self, logits: np.ndarray) -> int:
        """Likeliest first, equal ones in the order of their ids, and no more of them sorted than the draw needs."""
        o = self.options
        weights = np.exp((logits - logits.max()) / np.float64(o.temperature))
        among, total = logits.size, float(weights.sum())
        if o.top_k and o.top_k < logits.size:
            among = o.top_k
            total = float(weights[likeliest(logits, among)].sum())
        number, few = uniform(o.seed, self.drawn), SORTED_FIRST
        while True:
            few = min(few, among)
            order = likeliest(logits, few)
            reached = weights[order].cumsum()
            kept = few
            if o.top_p < 1.0:
                kept = min(kept, int(np.searchsorted(reached, o.top_p * total)) + 1)
            if o.min_p > 0.0:
                kept = min(kept, int((weights[order] >= o.min_p).sum()))
            whole = kept < few or few == among  # nothing further down can still belong to it
            mass = float(reached[kept - 1]) if whole else total
            place = int(np.searchsorted(reached[:kept], number * mass, side="right"))
            if whole or (place < kept and o.top_p == 1.0 and o.min_p == 0.0):
                return int(order[min(place, kept - 1)])
            few *= 8


def likeliest(logits: np.ndarray, n: int) -> np.ndarray:
    """The ids of the n highest logits, highest first, equal ones in the order of their ids."""
    if n < logits.size:
        least = np.partition(logits, logits.size - n)[logits.size - n]
        above = np.flatnonzero(logits > least)
        ids = np.concatenate((above, np.flatnonzero(logits == least)[: n - above.size]))
        ids.sort()
    else:
        ids = np.arange(logits.size)
    return ids[np.argsort(-logits[ids], kind="stable")]


def uniform(seed: int, n: int) -> float:
    """The n-th number in [0, 1) of a seed: splitmix64's output function on seed + (n + 1) * golden ratio."""
    z = (seed + (n + 1) * 0x9E3779B97F4A7C15) & _WORD
    z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & _WORD
    z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & _WORD
    return float((z ^ (z >> 31)) >> 11) / float(1 << 53)


def _in_range(name: str, value: float, low: float, high: float, above: bool = False) -> None:
    fits = isinstance(value, int | float) and not isinstance(value, bool) and low <= value <= high
    if not fits or (above and value == low):
        raise RequestRefused(f"{name} is {value!r}; expected a number {'above' if above else 'from'} {low} to {high}")
