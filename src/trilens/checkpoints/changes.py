"""What is done to a stored tensor on its way to one of our parameters, as data that can be applied to values or to
rows.

A matrix's rows are its second-last axis, a bias's its only one; expert stacks lie in front and are never touched.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from trilens.spec.model import Attention, Layer, ModelSpec

if TYPE_CHECKING:
    import numpy as np


@dataclass(frozen=True)
class HalfSplit:
    """Rows of `heads` heads from neighbouring rotary pairs (0, 1), (2, 3), ... to halves (0, d/2), (1, d/2 + 1), ..."""

    heads: int

    def order(self, rows: int) -> list[int]:
        """The stored row for each of ours."""
        d = rows // self.heads
        return [h * d + 2 * j + half for h in range(self.heads) for half in range(2) for j in range(d // 2)]


Change = HalfSplit


def half_split(spec: ModelSpec, layer: Layer, ours: str) -> Change:
    attention = layer.attention
    assert isinstance(attention, Attention)
    return HalfSplit(attention.heads if ".attention.q" in ours else attention.cache.kv_heads)


CHANGES: dict[str, Callable[[ModelSpec, Layer, str], Change]] = {"half_split": half_split}


def apply(change: Change, values: np.ndarray, is_bias: bool) -> np.ndarray:
    """The change on values already read."""
    axis = -1 if is_bias else -2
    match change:
        case HalfSplit() as c:
            return values.take(c.order(values.shape[axis]), axis)


def stored_rows(change: Change, rows: int) -> list[int]:
    """For each of our `rows` rows, which stored one it is."""
    match change:
        case HalfSplit() as c:
            return c.order(rows)
