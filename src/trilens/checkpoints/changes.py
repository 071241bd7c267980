"""Changes from a stored tensor to one of our parameters, as data that can be applied to values or to rows.

A matrix's rows are its second-last axis, a bias's its only one; expert stacks lie in front and are never touched.
A `RowChange` only chooses and orders rows, so it can be carried out on packed rows without reading their values;
a `ValueChange` needs the values.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from trilens.spec.model import (
    Attention,
    Beside,
    Dense,
    GatedRecurrence,
    LatentAttention,
    Layer,
    LearnedCurve,
    ModelSpec,
    Routed,
    ShortConvolution,
    Shortcut,
)

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


@dataclass(frozen=True)
class PartRows:
    """Rows `start` to `stop` of each of `parts` equal parts, one behind the other, of a tensor of `of` rows."""

    parts: int
    start: int
    stop: int
    of: int

    def order(self, rows: int) -> list[int]:
        """The stored row for each of ours. Raises ValueError when the tensor has other rows than the config says."""
        if rows != self.of:
            raise ValueError(f"has {rows} rows; expected {self.of}")
        return HeadRows(self.parts, self.start, self.stop).order(rows)


RowChange = HalfSplit | RowRange | EveryOther | HeadRows | PartRows


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
    """A constant factor that the reference applies to the tensor after all other changes."""

    factor: float
    first: Change | None = None


@dataclass(frozen=True)
class Flat:
    """[width, 1, W] as [width, W]: a convolution of each column by itself; then a choice of rows. A bias has nothing to
    flatten."""

    then: RowChange | None = None


@dataclass(frozen=True)
class OneRow:
    """[n] or [1, n] as [1, n]."""


@dataclass(frozen=True)
class OneAxis:
    """[n, 1] or [1, n] or [G, n / G] as [n]."""


@dataclass(frozen=True)
class RowsOfTaps:
    """[1, width, 1, W] as [width, W]."""


@dataclass(frozen=True)
class Exponential:
    """exp(x), or -exp(x): a rate that is stored as its logarithm, in whatever shape."""

    negative: bool


@dataclass(frozen=True)
class Softplus:
    """log(1 + exp(x)) + offset: a number that is kept above `offset`."""

    offset: float


ValueChange = Transposed | HeadColumns | PlusOne | Times | Flat | OneRow | OneAxis | RowsOfTaps | Exponential | Softplus
Change = RowChange | ValueChange


def gates_and_value(spec: ModelSpec, layer: Layer, ours: str) -> RowRange:
    """The first gate's rows, the second's, then the value's."""
    mixer = layer.mixer
    assert isinstance(mixer, ShortConvolution)
    part = ("gate_in", "gate_out", "value").index(ours.rpartition(".")[2])
    return RowRange(part * mixer.width, (part + 1) * mixer.width, 3 * mixer.width)


def q_k_v(spec: ModelSpec, layer: Layer, ours: str) -> RowRange:
    """A recurrence's queries, then its keys, then its values."""
    return _in_order(layer, ours, ("q", "k", "v"))


def q_k_v_taps(spec: ModelSpec, layer: Layer, ours: str) -> Change:
    return Flat(q_k_v(spec, layer, ours))


def gate_v_k_q_step(spec: ModelSpec, layer: Layer, ours: str) -> RowRange:
    """Mamba-2's order: z, x, B, C and dt."""
    return _in_order(layer, ours, ("gate", "v", "k", "q", "step"))


def v_k_q_taps(spec: ModelSpec, layer: Layer, ours: str) -> Change:
    return Flat(_in_order(layer, ours, ("v", "k", "q")))


def q_k_v_gate_by_key_head(spec: ModelSpec, layer: Layer, ours: str) -> PartRows:
    """For each key head its query, its key, then the values and the gates of the heads that it serves."""
    return _by_key_head(layer, ours, ("q", "k", "v", "gate"))


def beta_step_by_key_head(spec: ModelSpec, layer: Layer, ours: str) -> PartRows:
    return _by_key_head(layer, ours, ("beta", "step"))


def query_of_head(spec: ModelSpec, layer: Layer, ours: str) -> PartRows:
    """Each head's query, then its gate."""
    dim, heads = _attention(layer).cache.key_dim, _attention(layer).heads
    start = dim if ours.endswith("gate") else 0
    return PartRows(heads, start, start + dim, 2 * dim * heads)


def minus_exp(spec: ModelSpec, layer: Layer, ours: str) -> Change:
    return Exponential(negative=True)


def softplus(spec: ModelSpec, layer: Layer, ours: str) -> Change:
    return Softplus(0.0)


def softplus_above_slope(spec: ModelSpec, layer: Layer, ours: str) -> Change:
    ffn = layer.feed_forward
    assert isinstance(ffn, Dense) and isinstance(ffn.glu, LearnedCurve)
    return Softplus(ffn.glu.slope)


def one_row(spec: ModelSpec, layer: Layer, ours: str) -> Change:
    return OneRow()


def one_axis(spec: ModelSpec, layer: Layer, ours: str) -> Change:
    return OneAxis()


def rows_of_taps(spec: ModelSpec, layer: Layer, ours: str) -> Change:
    return RowsOfTaps()


def flat(spec: ModelSpec, layer: Layer, ours: str) -> Change:
    return Flat()


def half_split(spec: ModelSpec, layer: Layer, ours: str) -> Change:
    attention = _attention(layer)
    return HalfSplit(attention.heads if ".attention.q" in ours else attention.cache.kv_heads)


def fused_qkv(spec: ModelSpec, layer: Layer, ours: str) -> Change:
    attention = _attention(layer)
    cache = attention.cache
    q, k, v = attention.heads * cache.key_dim, cache.kv_heads * cache.key_dim, cache.kv_heads * cache.value_dim
    start, stop = {"q": (0, q), "k": (q, q + k), "v": (q + k, q + k + v)}[ours.rpartition(".")[2]]
    return RowRange(start, stop, q + k + v)


def transposed_qkv(spec: ModelSpec, layer: Layer, ours: str) -> Change:
    return Transposed(_row_choice(fused_qkv(spec, layer, ours)))


def q_k_v_by_head(spec: ModelSpec, layer: Layer, ours: str) -> PartRows:
    """For each key-value head the queries that it serves, its key, its value."""
    attention = _attention(layer)
    cache = attention.cache
    queries = attention.heads // cache.kv_heads * cache.key_dim
    ends = {"q": (0, queries), "k": (queries, queries + cache.key_dim)}
    whole = queries + cache.key_dim + cache.value_dim
    start, stop = ends.get(_part(ours), (queries + cache.key_dim, whole))
    return PartRows(cache.kv_heads, start, stop, cache.kv_heads * whole)


def behind_two(spec: ModelSpec, layer: Layer, ours: str) -> RowRange:
    """A table whose first two rows no token has."""
    assert spec.learned_positions is not None
    return RowRange(2, spec.learned_positions + 2, spec.learned_positions + 2)


def of_experts(spec: ModelSpec, layer: Layer, ours: str) -> Change:
    """[E * width, D], expert by expert; down is stored like the others."""
    routed = layer.feed_forward
    assert isinstance(routed, Routed)
    rows = HeadRows(routed.router.experts, 0, routed.width)
    return HeadColumns(rows) if ours.endswith("down") else rows


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


def over_width(spec: ModelSpec, layer: Layer, ours: str) -> Change:
    return Times(1 / spec.width)


CHANGES: dict[str, Callable[[ModelSpec, Layer, str], Change]] = {
    f.__name__: f
    for f in (
        gates_and_value,
        q_k_v,
        q_k_v_taps,
        gate_v_k_q_step,
        v_k_q_taps,
        q_k_v_gate_by_key_head,
        beta_step_by_key_head,
        query_of_head,
        minus_exp,
        softplus,
        softplus_above_slope,
        one_row,
        one_axis,
        rows_of_taps,
        flat,
        half_split,
        fused_qkv,
        transposed_qkv,
        q_k_v_by_head,
        behind_two,
        of_experts,
        gate_up_halves,
        gate_up_in_turn,
        transposed_halves,
        transposed_in_turn,
        transposed,
        latent_up,
        plus_one,
        root_of_width,
        over_width,
    )
}


def apply(change: Change, values: np.ndarray, is_bias: bool) -> np.ndarray:
    """The change on values already read. Raises ValueError for a tensor whose rows do not fit."""
    axis = -1 if is_bias else -2
    match change:
        case HeadRows(heads, start, stop) as c:
            return values.take(c.order(values.shape[0]), 0).reshape(heads, stop - start, -1)
        case HalfSplit() | RowRange() | EveryOther() | PartRows() as c:
            return values.take(c.order(values.shape[axis]), axis)
        case HeadColumns(rows):
            return apply(rows, values, is_bias).swapaxes(1, 2).copy()
        case Transposed(then):
            values = values if is_bias else values.swapaxes(-1, -2)
            return values.copy() if then is None else apply(then, values, is_bias)
        case PlusOne():
            return values + 1
        case Flat(then):
            values = values if is_bias else values.reshape(len(values), -1)
            return values if then is None else apply(then, values, is_bias)
        case OneRow():
            return values.reshape(1, -1)
        case OneAxis():
            return values.reshape(-1)
        case RowsOfTaps():
            return values.reshape(-1, values.shape[-1])
        case Exponential(negative):
            import numpy as np

            rates: np.ndarray = np.exp(values.ravel())
            return -rates if negative else rates
        case Softplus(offset):
            import numpy as np

            above: np.ndarray = np.logaddexp(values.ravel(), 0) + values.dtype.type(offset)
            return above
        case Times(factor, first):
            values = values if first is None else apply(first, values, is_bias)
            scaled: np.ndarray = values * values.dtype.type(factor)
            return scaled


def _row_choice(change: Change) -> RowChange:
    assert isinstance(change, HalfSplit | RowRange | EveryOther | HeadRows | PartRows)
    return change


def _recurrence(layer: Layer) -> GatedRecurrence:
    return next(mixer for mixer in layer.mixers if isinstance(mixer, GatedRecurrence))


def _attention(layer: Layer) -> Attention:
    return next(mixer for mixer in layer.mixers if isinstance(mixer, Attention))


def _part(ours: str) -> str:
    """layers.3.recurrence.q_taps.bias -> q"""
    return ours.removesuffix(".bias").rpartition(".")[2].removesuffix("_taps")


def _rows_of(r: GatedRecurrence, part: str) -> int:
    """The rows of a part's matrix."""
    rule = r.rule
    of = {"q": rule.keys, "k": rule.keys, "v": rule.values, "gate": rule.values, "beta": rule.heads}
    return of.get(part, rule.decays)


def _in_order(layer: Layer, ours: str, parts: tuple[str, ...]) -> RowRange:
    """The matrices of `parts` lie one behind the other."""
    sizes, at = [_rows_of(_recurrence(layer), part) for part in parts], parts.index(_part(ours))
    return RowRange(sum(sizes[:at]), sum(sizes[: at + 1]), sum(sizes))


def _by_key_head(layer: Layer, ours: str, parts: tuple[str, ...]) -> PartRows:
    """The same within each key head's share."""
    all_heads, heads = _in_order(layer, ours, parts), _recurrence(layer).rule.key_heads
    return PartRows(heads, all_heads.start // heads, all_heads.stop // heads, all_heads.of)


def _width(layer: Layer, ours: str) -> int:
    """The width of the feed-forward that a parameter belongs to."""
    match layer.feed_forward:
        case Beside(dense=dense, routed=routed) | Shortcut(dense=dense, routed=routed):
            return routed.width if ".experts." in ours else dense.width
        case Routed(shared=Dense() as shared) if ".shared." in ours:
            return shared.width
        case Routed(width=width) | Dense(width=width):
            return width
        case None:
            raise AssertionError(f"{ours} belongs to a feed-forward, which its layer does not have")
