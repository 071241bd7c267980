"""Looking inside a model: the same forward pass through the same operations, with another result than logits."""

from __future__ import annotations

from contextlib import AbstractContextManager
from dataclasses import dataclass
from itertools import islice
from typing import TYPE_CHECKING, Any, Generic, cast

from trilens.decoder.decoder import logits, residuals
from trilens.decoder.ops import Ops, Part, R, T
from trilens.decoder.weights import DecoderWeights, Parameter
from trilens.spec.model import Attention, LatentAttention, ModelSpec, Positions


@dataclass(frozen=True)
class AttentionMap:
    """How one head of one layer spreads its attention: [rows, places], a row for each token and a column for each
    position. `places` is at least the number of tokens."""

    layer: int
    head: int
    places: int

    @property
    def table(self) -> Parameter:
        """The identity matrix. It belongs to no model; whoever runs this view supplies it."""
        return Parameter("look.places", (self.places, self.places))


@dataclass(frozen=True)
class LogitLens:
    """What the final norm and the head would make of the rows behind each layer: [rows, layers * vocab]."""


View = AttentionMap | LogitLens


def look(ops: Ops[T, R], spec: ModelSpec, w: DecoderWeights, view: View) -> T:
    """The step's tokens -> what the view shows."""
    match view:
        case LogitLens():
            parts = [logits(ops, spec, w, x) for x in islice(residuals(ops, spec, w), 1, None)]
            while len(parts) > 1:  # pairs, so that little is copied often
                joined = [ops.join(a, b, 1) for a, b in zip(parts[::2], parts[1::2], strict=False)]
                parts = [*joined, *parts[2 * len(joined) :]]
            return parts[0]
        case AttentionMap():
            watching = _Watching(ops, spec, view)
            for _ in islice(residuals(cast("Ops[T, R]", watching), spec, w), view.layer + 2):
                pass
            first = view.head * view.places
            return ops.last_rows(ops.slice(watching.weights, 1, first, first + view.places))


def extra_caches(spec: ModelSpec, view: View) -> tuple[Positions, ...]:
    """The caches that a view needs beside the model's own."""
    return () if isinstance(view, LogitLens) else (_one_hot_cache(spec, view),)


def extra_tables(view: View) -> tuple[Parameter, ...]:
    """The parameters that a view needs beside the model's own. Each is an identity matrix."""
    return () if isinstance(view, LogitLens) else (view.table,)


def attention_of(spec: ModelSpec, layer: int) -> Attention | LatentAttention | None:
    """The attention of a layer; None if it has none."""
    mixers = (mixer for mixer in spec.layers[layer].mixers if isinstance(mixer, Attention | LatentAttention))
    return next(mixers, None)


def _attention_cache(spec: ModelSpec, view: AttentionMap) -> Positions:
    attention = attention_of(spec, view.layer)
    assert attention is not None, f"layer {view.layer} has no attention"
    return attention.cache


def _one_hot_cache(spec: ModelSpec, view: AttentionMap) -> Positions:
    of = _attention_cache(spec, view)
    return Positions(len(spec.states), of.kv_heads, of.key_dim, view.places, of.keep)


class _Watching(Generic[T, R]):
    """An executor's operations, which also find the weights of one layer's attention.

    Attention is a weighted sum of values. If the value of position p is one at place p and zero elsewhere, the sum is
    the weights themselves. So they come from the operation that the model uses, with its windows, sinks and rounding.
    """

    weights: T  # [N, heads * places]

    def __init__(self, ops: Ops[T, R], spec: ModelSpec, view: AttentionMap) -> None:
        self._ops, self._view = ops, view
        self._cache, self._one_hot = _attention_cache(spec, view), _one_hot_cache(spec, view)
        self._layer: int | None = None

    def at(self, part: Part, layer: int | None = None) -> AbstractContextManager[None]:
        self._layer = layer
        return self._ops.at(part, layer)

    def write_kv(self, cache: Positions, k: T, v: T | None) -> None:
        self._ops.write_kv(cache, k, v)
        if cache == self._cache:  # an earlier layer may write what this one reads
            place = values = self._ops.embed_position(self._view.table)
            for _ in range(cache.kv_heads - 1):
                values = self._ops.join(values, place, 1)
            self._ops.write_kv(self._one_hot, k, values)

    def attend(self, q: T, cache: Positions, *how: Any) -> T:
        if self._layer == self._view.layer:
            self.weights = self._ops.attend(q, self._one_hot, *how)
        return self._ops.attend(q, cache, *how)

    if not TYPE_CHECKING:

        def __getattr__(self, name: str) -> Any:
            return getattr(self._ops, name)
