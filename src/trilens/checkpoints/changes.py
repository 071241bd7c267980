"""What is done to a stored tensor on its way to one of our parameters, as data that can be applied to values or rows.

A matrix's rows are its second-last axis, a bias's its only one; expert stacks lie in front and are never touched.
A `RowChange` only chooses and orders rows, so it can be carried out on packed rows without reading their values;
a `ValueChange` needs the values.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from trilens.spec.model import Attention, Beside, Dense, LatentAttention, Layer, ModelSpec, Routed, ShortConvolution

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


@dataclass(frozen=True)
class RowRange:
    """Rows `start` to `stop` of a tensor of `of` rows, in which several matrices lie one behind the other."""

    start: int
    stop: int
    of: int

    def order(self, rows: int) -> list[int]:
        """The stored row for each of ours. Raises ValueError when the tensor has other rows than the config says."""
        if rows != self.of:
            raise ValueError(f"has {rows} rows; expected {self.of}")
        return list(range(self.start, self.stop))


@dataclass(frozen=True)
class EveryOther:
    """Rows `start`, `start` + 2, ...: gate and up rows that alternate."""

    start: int

    def order(self, rows: int) -> list[int]:
        """The stored row for each of ours."""
        return list(range(self.start, rows, 2))


@dataclass(frozen=True)
class HeadRows:
    """Rows `start` to `stop` of each of `heads` equal parts, as a stack of one matrix a head: [H, stop - start, in]."""

    heads: int
    start: int
    stop: int

    def order(self, rows: int) -> list[int]:
        """The stored row for each row of the stack, head by head."""
        part = rows // self.heads
        return [h * part + r for h in range(self.heads) for r in range(self.start, self.stop)]


RowChange = HalfSplit | RowRange | EveryOther | HeadRows


@dataclass(frozen=True)
class Transposed:
    """[..., in, out] as [..., out, in], and then a choice of rows. A bias has nothing to transpose."""

    then: RowChange | None = None


@dataclass(frozen=True)
class HeadColumns:
    """`rows`, each head's matrix then transposed: [H, in, stop - start]."""

    rows: HeadRows


@dataclass(frozen=True)
class PlusOne:
    """A norm's weight that is stored as its distance from one."""


@dataclass(frozen=True)
class Times:
    """A constant factor that the reference puts behind the tensor."""

    factor: float


@dataclass(frozen=True)
class Flat:
    """[width, 1, W] as [width, W]: a convolution of each column by itself. A bias has nothing to flatten."""


ValueChange = Transposed | HeadColumns | PlusOne | Times | Flat
Change = RowChange | ValueChange


def gates_and_value(spec: ModelSpec, layer: Layer, ours: str) -> RowRange:
    """The first gate's rows, the second's, then the value's."""
    mixer = layer.mixer
    assert isinstance(mixer, ShortConvolution)
    part = ("gate_in", "gate_out", "value").index(ours.rpartition(".")[2])
    return RowRange(part * mixer.width, (part + 1) * mixer.width, 3 * mixer.width)


def flat(spec: ModelSpec, layer: Layer, ours: str) -> Change:
    return Flat()


def half_split(spec: ModelSpec, layer: Layer, ours: str) -> Change:
    attention = layer.mixer
    assert isinstance(attention, Attention)
    return HalfSplit(attention.heads if ".attention.q" in ours else attention.cache.kv_heads)


def fused_qkv(spec: ModelSpec, layer: Layer, ours: str) -> Change:
    attention = layer.mixer
    assert isinstance(attention, Attention)
    cache = attention.cache
    q, k, v = attention.heads * cache.key_dim, cache.kv_heads * cache.key_dim, cache.kv_heads * cache.value_dim
    start, stop = {"q": (0, q), "k": (q, q + k), "v": (q + k, q + k + v)}[ours.rpartition(".")[2]]
    return RowRange(start, stop, q + k + v)


def gate_up_halves(spec: ModelSpec, layer: Layer, ours: str) -> RowRange:
    """Gate's rows, then up's."""
    width = _width(layer, ours)
    return RowRange(0, width, 2 * width) if ours.endswith("gate") else RowRange(width, 2 * width, 2 * width)


def gate_up_in_turn(spec: ModelSpec, layer: Layer, ours: str) -> EveryOther:
    """A row of gate, a row of up, and so on."""
    return EveryOther(0 if ours.endswith("gate") else 1)


def transposed_halves(spec: ModelSpec, layer: Layer, ours: str) -> Change:
    return Transposed(gate_up_halves(spec, layer, ours))


def transposed_in_turn(spec: ModelSpec, layer: Layer, ours: str) -> Change:
    return Transposed(gate_up_in_turn(spec, layer, ours))


def transposed(spec: ModelSpec, layer: Layer, ours: str) -> Change:
    return Transposed()


def latent_up(spec: ModelSpec, layer: Layer, ours: str) -> Change:
    """kv_b_proj, [H * (nope_dim + value_dim), kv_rank]: the key half turned head by head, the value half as it is."""
    a = layer.mixer
    assert isinstance(a, LatentAttention)
    if ours.endswith("k_up"):
        return HeadColumns(HeadRows(a.heads, 0, a.nope_dim))
    return HeadRows(a.heads, a.nope_dim, a.nope_dim + a.value_dim)


def plus_one(spec: ModelSpec, layer: Layer | None, ours: str) -> Change:
    return PlusOne()


def root_of_width(spec: ModelSpec, layer: Layer, ours: str) -> Change:
    return Times(spec.width**-0.5)


CHANGES: dict[str, Callable[[ModelSpec, Layer, str], Change]] = {
    f.__name__: f
    for f in (
        gates_and_value,
        flat,
        half_split,
        fused_qkv,
        gate_up_halves,
        gate_up_in_turn,
        transposed_halves,
        transposed_in_turn,
        transposed,
        latent_up,
        plus_one,
        root_of_width,
    )
}


def apply(change: Change, values: np.ndarray, is_bias: bool) -> np.ndarray:
    """The change on values already read. Raises ValueError for a tensor whose rows do not fit."""
    axis = -1 if is_bias else -2
    match change:
        case HeadRows(heads, start, stop) as c:
            return values.take(c.order(values.shape[0]), 0).reshape(heads, stop - start, -1)
        case HalfSplit() | RowRange() | EveryOther() as c:
            return values.take(c.order(values.shape[axis]), axis)
        case HeadColumns(rows):
            return apply(rows, values, is_bias).swapaxes(1, 2).copy()
        case Transposed(then):
            values = values if is_bias else values.swapaxes(-1, -2)
            return values.copy() if then is None else apply(then, values, is_bias)
        case PlusOne():
            return values + 1
        case Flat():
            return values if is_bias else values.reshape(len(values), -1)
        case Times(factor):
            scaled: np.ndarray = values * values.dtype.type(factor)
            return scaled


def _width(layer: Layer, ours: str) -> int:
    """The width of the feed-forward that a parameter belongs to."""
    match layer.feed_forward:
        case Beside(dense=dense, routed=routed):
            return routed.width if ".experts." in ours else dense.width
        case Routed(shared=Dense() as shared) if ".shared." in ours:
            return shared.width
        case Routed(width=width) | Dense(width=width):
            return width
