"""How likely a model finds a prompt's own tokens."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np


class PromptScores:
    """By place in the prompt: (token, log probability) of the token there, then of the likeliest ones. The first token
    has none, for nothing stands before it."""

    def __init__(self, prompt: Sequence[int], alternatives: int) -> None:
        self.of: dict[int, list[tuple[int, float]]] = {}
        self._prompt = prompt
        self._alternatives = alternatives

    def take(self, first: int, logits: np.ndarray) -> None:
        """[rows, vocab] float32, behind the tokens from place `first` on."""
        for row, of in enumerate(logits[: len(self._prompt) - 1 - first], first + 1):
            numbers = row_probabilities(of)
            own = self._prompt[row]
            self.of[row] = [(own, float(numbers[own])), *likeliest(numbers, self._alternatives)]


def row_probabilities(logits: np.ndarray) -> np.ndarray:
    """[vocab] logits -> log probabilities, float64."""
    numbers = logits.astype(np.float64)
    numbers -= numbers.max()
    numbers -= np.log(np.exp(numbers).sum())
    return numbers


def likeliest(numbers: np.ndarray, count: int) -> list[tuple[int, float]]:
    """The highest of them, equal ones by their ids."""
    if not count:
        return []
    least = np.partition(numbers, -count)[-count] if count < numbers.size else numbers.min()
    among = np.flatnonzero(numbers >= least)
    ranked = among[np.argsort(-numbers[among], kind="stable")][:count]
    return [(int(i), float(numbers[i])) for i in ranked]
