"""The operations of the forward pass, which every executor implements. No family is named here.

A value `T` is a matrix of one row per token of the step: [N, width]. Heads lie side by side in a row. The decoder
never sees N, a position or a length: the executor knows the step's tokens, their sequences and their positions.
"""

from __future__ import annotations

from contextlib import AbstractContextManager
from enum import StrEnum
from typing import Protocol, TypeVar

from trilens.decoder.weights import DenseWeights, LinearWeights, NormWeights, Parameter
from trilens.spec.model import (
    Curve,
    Fixed,
    Glu,
    Mask,
    Norm,
    Positions,
    PositionScale,
    Recurrence,
    Rope,
    Routed,
    Router,
)

T = TypeVar("T")
R = TypeVar("R")


class Part(StrEnum):
    """The part of the model that an operation belongs to. Costs and profiles are grouped by part."""

    EMBEDDING = "embedding"
    PROJECTIONS = "attention_projections"
    ATTENTION = "attention"
    CONVOLUTION = "convolution"
    RECURRENCE = "recurrence"
    FEED_FORWARD = "feed_forward"
    ROUTER = "router"
    STREAMS = "residual_streams"
    HEAD = "head"


class Ops(Protocol[T, R]):
    """One executor's implementation of each operation. `T` is its handle of a matrix, `R` of a routing decision."""

    def at(self, part: Part, layer: int | None = None) -> AbstractContextManager[None]:
        """Everything inside belongs to this part of this layer."""
        ...

    # ---- in and out
    def embed(self, table: Parameter) -> T:
        """[N, width]: the row of `table` of each token of the step; its first where it has none for the token."""
        ...

    def embed_position(self, table: Parameter) -> T:
        """[N, width]: the row of `table` of each token's position."""
        ...

    def given(self, width: int) -> T:
        """[N, width]: the rows that came with the step's tokens."""
        ...

    def last_rows(self, x: T) -> T:
        """The rows whose logits are wanted: each sequence's last, unless the step asks for all."""
        ...

    # ---- matrices
    def linear(self, x: T, w: LinearWeights) -> T:
        """[N, in] -> [N, out]: x @ weight.T + bias."""
        ...

    def head_linear(self, x: T, weight: Parameter) -> T:
        """[N, H * in] -> [N, H * out]: head h by its own matrix weight[h], [out, in]."""
        ...

    # ---- rows
    def norm(self, x: T, norm: Norm, w: NormWeights, groups: int = 1) -> T:
        """Each row in `groups` equal parts, each normalised by itself; weight and bias are one part wide."""
        ...

    def rope(self, x: T, heads: int, rope: Rope) -> T:
        """The first `rope.dim` dimensions of each of `heads` heads turned by the token's position; the others pass."""
        ...

    def scale_by_position(self, x: T, rule: PositionScale) -> T: ...

    def clip(self, x: T, least: float, most: float) -> T:
        """min(max(x, least), most); either may be infinite."""
        ...

    def slice(self, x: T, groups: int, start: int, stop: int) -> T:
        """Columns start..stop of each of `groups` equal parts: [N, groups * (stop - start)]."""
        ...

    def join(self, a: T, b: T, groups: int) -> T:
        """Part by part, a's columns then b's: the inverse of two slices."""
        ...

    def add(self, a: T, b: T) -> T: ...

    def mul(self, x: T, factor: Parameter) -> T:
        """x times a learned row of n numbers, n a divisor of x's width: number j times the j-th of n equal parts of x.

        So there is a number a column, a number a head, or a single number.
        """
        ...

    def scale(self, x: T, factor: float) -> T: ...

    def softcap(self, x: T, cap: float) -> T:
        """cap * tanh(x / cap)."""
        ...

    def glu(self, gate: T, up: T, glu: Glu) -> T:
        """curve(gate) * up, as `Glu` says. A gate of n columns, n a divisor of up's width, has a number for each of n
        equal parts of up."""
        ...

    def activate(self, x: T, curve: Curve) -> T:
        """curve(x), number by number."""
        ...

    def above(self, x: T, deviations: float) -> T:
        """max(x - mean - deviations * standard deviation, 0), both of the row itself."""
        ...

    def resized(self, x: T, like: T, least: float) -> T:
        """Each of equal parts of x, as wide as `like`, times a number that makes it as large as `like`: the root of
        like's mean square by the root of its own, which counts as `least` at the least."""
        ...

    def mix(self, x: T, weights: T, parts: int) -> T:
        """Part i of the result is the sum over p of weights[i * parts + p] * part p of x, of `parts` equal parts."""
        ...

    # ---- attention
    def write_kv(self, cache: Positions, k: T, v: T | None) -> None:
        """Keep this step's keys [N, K * key_dim] and values [N, K * value_dim]; `v` is None for a latent cache."""
        ...

    def attend(
        self,
        q: T,
        cache: Positions,
        heads: int,
        mask: Mask,
        scale: float,
        softcap: float | None,
        sinks: Parameter | None,
        chosen: int | None,
    ) -> T:
        """[N, H * key_dim] -> [N, H * value_dim]: softmax(softcap(q . k * scale)) over the visible positions, times v.

        `sinks` [H] is one more logit per head that takes its share and has no value. Where `chosen` is a number, only
        those of the visible positions are seen that the last `choose` chose, so many at most.
        """
        ...

    def choose(self, q: T, weights: T, cache: Positions, heads: int, count: int) -> None:
        """For each token the `count` positions up to its own with the best scores, of equal ones the lower.

        A score is the sum over heads of weights[h] * relu(q_h . k), with the keys that the latent `cache` keeps.
        """
        ...

    # ---- what is carried from token to token
    def convolve(self, x: T, state: Fixed, rows: str, w: LinearWeights) -> T:
        """[N, width] -> [N, width]: each column by W taps of its own over the sequence's last W rows, the token's own
        included: y[t] = bias + sum over j of taps[:, j] * x[t - W + 1 + j], where rows before the first are zero.

        `w.weight` is [width, W]. The last W - 1 rows are kept as the tensor `rows` of `state`.
        """
        ...

    def recur(self, q: T, k: T, v: T, decay: T, beta: T, state: Fixed, rule: Recurrence) -> T:
        """[N, heads * value_dim]: each sequence's tokens one after the other, as `Recurrence` says.

        q and k are [N, key_heads * key_dim], v [N, heads * value_dim], beta [N, heads], decay [N, heads] or
        [N, heads * key_dim]. The matrices are kept as the tensor `matrix` of `state`.
        """
        ...

    # ---- experts
    def route(self, logits: T, router: Router, correction_bias: Parameter | None, expert_scale: Parameter | None) -> R:
        """[N, `router.choices`] -> for each token `router.chosen` experts in order of rank, with their weights."""
        ...

    def experts(self, x: T, routes: R, w: DenseWeights, ffn: Routed) -> T:
        """Each token through its chosen experts, their results added in order of rank. `w.gate` is None where `ffn.glu`
        is a curve. The result of an expert without weights, whose number is beyond the others', is x."""
        ...
