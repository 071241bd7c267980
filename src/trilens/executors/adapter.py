"""Adapters (LoRA): matrices of low rank whose product is added to a model's own matrices while it runs.

The decoder does not see them. An executor looks them up by the name of the matrix in `linear` and `head_linear`, for
the rows of sequences that have one.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

from trilens.decoder.weights import Parameter
from trilens.errors import RequestRefused

if TYPE_CHECKING:
    import numpy as np

Ranks = Mapping[str, int]  # by the name of a matrix: the rank of what is added to it


@dataclass(frozen=True)
class LowRank:
    """What is added to the product of a matrix [out, in] with a row x: scale * up @ (down @ x).

    `down` is [rank, in] and `up` [out, rank], float32. For a stack of matrices, such as those of heads, both have its
    length as a first dimension. `type` is the one in which the native executor holds them: F32, F16 or BF16.
    """

    down: np.ndarray
    up: np.ndarray
    scale: float
    type: str = "F32"

    @property
    def rank(self) -> int:
        return int(self.down.shape[-2])


@dataclass(frozen=True)
class Adapter:
    """What one adapter adds to each matrix, by the matrix's name."""

    name: str
    matrices: Mapping[str, LowRank]

    @cached_property
    def identity(self) -> str:
        """A hash of all its numbers. Adapters of one identity give the same results, whatever their names."""
        digest = hashlib.sha256()
        for name, low in sorted(self.matrices.items()):
            digest.update(repr((name, low.down.shape, low.up.shape, float(low.scale))).encode())
            digest.update(low.down.tobytes())
            digest.update(low.up.tobytes())
        return digest.hexdigest()

    def described(self) -> LoadedAdapter:
        """What is left to say of it once an executor has taken its numbers."""
        return LoadedAdapter(
            self.name,
            self.identity,
            {name: low.rank for name, low in self.matrices.items()},
            {name: low.type for name, low in self.matrices.items()},
            sum(low.down.size + low.up.size for low in self.matrices.values()),
        )


@dataclass(frozen=True)
class LoadedAdapter:
    """An adapter that an executor holds. `types`: of its two matrices, by the name of the model's own."""

    name: str
    identity: str
    ranks: Ranks
    types: Mapping[str, str]
    parameters: int


def low_rank_parameters(matrix: Parameter, rank: int) -> tuple[Parameter, Parameter]:
    """The down and the up matrix that an adapter of this rank has for a matrix, or for a stack of them."""
    *stack, out, inner = matrix.shape
    return (
        Parameter(matrix.name + ".adapter_down", (*stack, rank, inner)),
        Parameter(matrix.name + ".adapter_up", (*stack, out, rank)),
    )


def adapter_named(adapters: Mapping[str, LoadedAdapter], name: str) -> LoadedAdapter:
    """Raises RequestRefused for a name that was not loaded."""
    found = adapters.get(name)
    if found is None:
        known = f"expected one of {', '.join(adapters)}" if adapters else "the model was loaded without any"
        raise RequestRefused(f"no adapter {name!r:.80} is loaded; {known}")
    return found
