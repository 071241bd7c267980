"""What every executor of a loaded model offers to the room that generates tokens."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    import numpy as np

    from trilens.spec.model import ModelSpec


class CachedSequence(Protocol):
    """One sequence's cache. `length` tokens are in it; `request_length` chose its rope tables."""

    @property
    def length(self) -> int: ...

    @property
    def request_length(self) -> int: ...

    @property
    def kv_bytes(self) -> int:
        """Bytes of the cache that are in use now."""
        ...

    def rewind(self, length: int) -> bool:
        """Forget all but the first `length` tokens; False, with nothing changed, when a window has dropped what they need."""
        ...


@dataclass(frozen=True)
class Feed:
    """Tokens to append to one sequence in a step."""

    sequence: CachedSequence
    tokens: Sequence[int]


class Executor(Protocol):
    """Carries the decoder out for a batch of sequences at a time."""

    name: str

    @property
    def spec(self) -> ModelSpec: ...

    @property
    def weight_bytes(self) -> int:
        """Bytes of weights held in memory."""
        ...

    @property
    def kv_element_bytes(self) -> int:
        """Bytes of one number in the cache."""
        ...

    def sequence(self, request_length: int) -> CachedSequence:
        """An empty sequence that will hold up to `request_length` tokens, prompt and answer together."""
        ...

    def step(self, batch: Sequence[Feed]) -> np.ndarray:
        """One forward pass: [len(batch), vocab] float32, the logits behind each feed's last token."""
        ...
