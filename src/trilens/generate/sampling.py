"""Logits -> the next token. The random number of a request's n-th token depends on its seed and n alone, so an
answer is
the same whatever else runs beside it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from trilens.errors import RequestRefused

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
        token = int(logits.argmax()) if o.temperature == 0 else self._draw(logits.astype(np.float64) / o.temperature)
        self.drawn += 1
        self._answer[token] += 1
        return token

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
        o = self.options
        # A stable sort puts equal logits in the order of their ids, on every machine.
        keep = min(o.top_k, logits.size) if o.top_k else logits.size
        order = np.argsort(-logits, kind="stable")[:keep]
        shares = np.exp(logits[order] - logits[order[0]])
        shares /= shares.sum()
        if o.top_p < 1.0:
            shares = shares[: int(np.searchsorted(shares.cumsum(), o.top_p)) + 1]
        if o.min_p > 0.0:
            shares = shares[shares >= o.min_p * shares[0]]
        reached = shares.cumsum()
        place = int(np.searchsorted(reached, uniform(o.seed, self.drawn) * reached[-1], side="right"))
        return int(order[min(place, shares.size - 1)])


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
