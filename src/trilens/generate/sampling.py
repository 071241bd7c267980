"""How the next token is chosen. The choosing itself is compiled (csrc/sampling.cpp) and part of a step.

The random number of a request's n-th draw depends on its seed and n alone, so an answer is the same whatever else runs
beside it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

import numpy as np

from trilens.errors import RequestRefused, shown

MOST_ALTERNATIVES = 20
MOST_DRAFT = 8  # tokens that a step may draw beside one
Speculates = bool | Literal["always"]  # True: where it saves time
_WORD = (1 << 64) - 1


@dataclass(frozen=True)
class Sampling:
    """How the next token is chosen. The steps run in this order: penalties, bias, temperature, top-k, top-p, min-p.

    - `temperature`: 0 takes the most likely token (the lowest id if several are equal).
    - `top_k`: keep the k most likely tokens. 0 keeps all.
    - `top_p`: keep the smallest set of most likely tokens whose probabilities reach p.
    - `min_p`: keep tokens with at least this fraction of the highest probability.
    - `repetition_penalty`: divides positive and multiplies negative logits of every token in prompt or answer
      (arXiv 1909.05858).
    - `presence_penalty`, `frequency_penalty`: subtracted once, or once per occurrence, for tokens of the answer.
    - `seed`: the same seed gives the same answer.
    - `logit_bias`: added to the logits of single tokens.
    - `logprobs`: report each token's log probability in the model's own distribution, with this many of the most
      likely alternatives. None reports nothing.
    """

    temperature: float = 0.7
    top_k: int = 0
    top_p: float = 0.95
    min_p: float = 0.0
    repetition_penalty: float = 1.0
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    seed: int = 0
    logit_bias: Mapping[int, float] = field(default_factory=dict)
    logprobs: int | None = None

    def __post_init__(self) -> None:
        _in_range("temperature", self.temperature, 0.0, 100.0)
        _in_range("top_k", self.top_k, 0, 2**31 - 1, whole=True)
        _in_range("top_p", self.top_p, 0.0, 1.0, above=True)
        _in_range("min_p", self.min_p, 0.0, 1.0)
        _in_range("repetition_penalty", self.repetition_penalty, 0.0, 100.0, above=True)
        _in_range("presence_penalty", self.presence_penalty, -100.0, 100.0)
        _in_range("frequency_penalty", self.frequency_penalty, -100.0, 100.0)
        if not isinstance(self.logit_bias, Mapping):
            raise RequestRefused(f"logit_bias is {shown(self.logit_bias)}; expected numbers by token id")
        for token, added in self.logit_bias.items():
            if isinstance(token, bool) or not isinstance(token, int) or not 0 <= token < 2**31:
                raise RequestRefused(f"logit_bias names {shown(token)}; expected a token's id")
            _in_range("a logit_bias", added, -100.0, 100.0)
        if self.logprobs is not None and (
            isinstance(self.logprobs, bool)
            or not isinstance(self.logprobs, int)
            or not 0 <= self.logprobs <= MOST_ALTERNATIVES
        ):
            raise RequestRefused(f"logprobs is {shown(self.logprobs)}; expected a number from 0 to {MOST_ALTERNATIVES}")
        if isinstance(self.seed, bool) or not isinstance(self.seed, int) or not 0 <= self.seed <= _WORD:
            raise RequestRefused(f"seed is {shown(self.seed)}; expected an integer from 0 to 2^64 - 1")


class Sampler:
    """Chooses one request's tokens, one after the other. `inner` is what the native executor takes into its step."""

    def __init__(self, options: Sampling, prompt: Sequence[int], speculates: Speculates = False) -> None:
        """`speculates`: it also proposes tokens, so that a step can draw several (see csrc/draft.h)."""
        from trilens.executors.native.extension import _native

        o = self.options = options
        self._refused = _native.Refused
        self.inner = _native.Sampler(
            float(o.temperature),
            int(o.top_k),
            float(o.top_p),
            float(o.min_p),
            float(o.repetition_penalty),
            float(o.presence_penalty),
            float(o.frequency_penalty),
            o.seed,
            np.asarray(prompt if o.repetition_penalty != 1.0 else (), np.int32),
        )
        if speculates:
            self.inner.speculate(np.asarray(prompt, np.int32), MOST_DRAFT, speculates == "always")
        for token, added in o.logit_bias.items():
            self.inner.bias(token, float(added))
        if o.logprobs is not None:
            self.inner.alternatives = o.logprobs

    def choose(self, logits: np.ndarray) -> int:
        """[vocab] float32 -> a token's id. Raises RequestRefused where none can be chosen."""
        try:
            return int(self.inner.choose(np.ascontiguousarray(logits, np.float32)))
        except self._refused as refused:
            raise RequestRefused(str(refused)) from None

    def note(self, tokens: Sequence[int]) -> None:
        """Tokens that were put into the answer without being drawn."""
        for token in tokens:
            self.inner.note(token)

    def end_with(self, tokens: Iterable[int]) -> None:
        """Tokens behind which an executor draws nothing more by itself."""
        self.inner.ends = list(tokens)

    def allow(self, words: np.ndarray) -> None:
        """uint32; bit i of all of them: whether token i may be chosen next. It holds until it is set again."""
        self.inner.allow(words)

    def propose(self, most: int) -> tuple[list[int], int]:
        """Tokens, at most `most`, that followed the same ones earlier, as many as save time; and how many tokens would
        save time that a grammar leaves no choice about."""
        found: tuple[list[int], int] = self.inner.propose(most)
        return found

    def predicts(self) -> bool:
        """Whether a token that the model's block for multi-token prediction expects would save time."""
        return bool(self.inner.predicts())

    def predicted(self, seconds: float) -> None:
        """One was predicted, in so many seconds."""
        self.inner.predicted(seconds)

    def undo(self, tokens: Sequence[int]) -> None:
        """Forget the last tokens that were chosen."""
        self.inner.undo(list(tokens))

    def take_report(self) -> list[tuple[int, float]]:
        """(token, log probability) of the first chosen token that was not asked about yet: it, then the likeliest.
        Empty where `logprobs` is None."""
        found: list[tuple[int, float]] = self.inner.take_report()
        return found


def _in_range(name: str, value: float, low: float, high: float, above: bool = False, whole: bool = False) -> None:
    fits = isinstance(value, int if whole else int | float) and not isinstance(value, bool) and low <= value <= high
    if not fits or (above and value == low):
        kind, start = "whole number" if whole else "number", "above" if above else "from"
        raise RequestRefused(f"{name} is {shown(value)}; expected a {kind} {start} {low} to {high}")
