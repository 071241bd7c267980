"""Looking inside a model that runs here: the attention of one head, and the logit lens.

Each look is a run of its own over a text, with its own cost. It changes nothing for other calls.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction

import numpy as np

from trilens.decoder.look import AttentionMap, LogitLens, View, attention_of, extra_tables
from trilens.errors import FieldRefused
from trilens.executors.accountant import Span, look_cost
from trilens.executors.executor import Executor
from trilens.model import Model
from trilens.spec.model import GatedRecurrence, ModelSpec, ShortConvolution

MOST_TOKENS = 512
MOST_TOP = 20
STEP = 64  # attention's maps are made for so many positions more at a time


@dataclass(frozen=True)
class LookCost:
    """What a look cost, as in a receipt: `weight_bytes` and `kv_bytes` are read from memory, `fixed_bytes` are read of
    fixed states and written back. `seconds` are measured."""

    tokens: int
    seconds: float
    flops: int
    weight_bytes: int
    kv_bytes: int
    fixed_bytes: int


@dataclass(frozen=True)
class HeadAttention:
    """`weights` [tokens, tokens]: the share of each earlier position, its own included, in what the head adds to each
    token. A row sums to 1, or to less where the model has sinks."""

    layer: int
    head: int
    weights: np.ndarray
    cost: LookCost


@dataclass(frozen=True)
class Guess:
    """A token and its probability."""

    token: int
    probability: float


@dataclass(frozen=True)
class Lens:
    """For each layer the likeliest next tokens if the final norm and the head came right behind it."""

    layers: tuple[tuple[Guess, ...], ...]
    cost: LookCost


def head_attention(
    model: Model, ids: Sequence[int], layer: int, head: int, adapter: str | None = None
) -> HeadAttention:
    """The attention of one head over a text of at most `MOST_TOKENS` tokens. Raises FieldRefused and RequestRefused."""
    check_length(ids)
    check_head(model.spec, layer, head)
    view = AttentionMap(layer, head, -(-len(ids) // STEP) * STEP)
    values, cost = _looked(model.executor, view, ids, adapter)
    return HeadAttention(layer, head, values[:, : len(ids)], cost)


def logit_lens(model: Model, ids: Sequence[int], top: int = 5, adapter: str | None = None) -> Lens:
    """The logit lens behind the last token of a text of at most `MOST_TOKENS` tokens, with the `top` likeliest tokens
    of each layer. Raises FieldRefused and RequestRefused."""
    check_length(ids)
    if not 1 <= top <= MOST_TOP:
        raise FieldRefused("top", f"is {top}; expected 1 to {MOST_TOP}")
    values, cost = _looked(model.executor, LogitLens(), ids, adapter)
    layers = []
    for logits in values.reshape(len(model.spec.layers), -1).astype(np.float64):
        best = np.argsort(-logits, kind="stable")[:top]
        shares = np.exp(logits[best] - logits.max()) / np.exp(logits - logits.max()).sum()
        layers.append(tuple(Guess(int(token), float(share)) for token, share in zip(best, shares, strict=True)))
    return Lens(tuple(layers), cost)


def attention_heads(spec: ModelSpec) -> list[int]:
    """For each layer the number of its attention heads; 0 where it has no attention."""
    found = (attention_of(spec, layer) for layer in range(len(spec.layers)))
    return [0 if attention is None else attention.heads for attention in found]


def check_length(ids: Sequence[int]) -> None:
    if not 1 <= len(ids) <= MOST_TOKENS:
        raise FieldRefused("prompt", f"has {len(ids)} tokens; expected 1 to {MOST_TOKENS}: a look is for short texts")


def check_head(spec: ModelSpec, layer: int, head: int) -> None:
    """Raises FieldRefused for a layer or a head that the model does not have, or a layer without attention."""
    heads = attention_heads(spec)
    if not 0 <= layer < len(heads):
        raise FieldRefused("layer", f"is {layer}; expected 0 to {len(heads) - 1}")
    if not heads[layer]:
        others = (
            ", ".join(str(other) for other, count in enumerate(heads) if count) or "none: this model has no attention"
        )
        raise FieldRefused(
            "layer", f"is {layer}, {_kind(spec, layer)} without attention weights; expected one of {others}"
        )
    if not 0 <= head < heads[layer]:
        raise FieldRefused("head", f"is {head}; expected 0 to {heads[layer] - 1} in layer {layer}")


def _kind(spec: ModelSpec, layer: int) -> str:
    match spec.layers[layer].mixer:
        case GatedRecurrence():
            return "a gated recurrence"
        case ShortConvolution():
            return "a short convolution"
        case _:
            return "a feed-forward block"


def _looked(executor: Executor, view: View, ids: Sequence[int], adapter: str | None) -> tuple[np.ndarray, LookCost]:
    begin = time.perf_counter()
    seen = executor.look(view, ids, adapter)
    return seen.values, look_costs(executor, view, seen.passes, time.perf_counter() - begin, adapter)


def look_costs(
    executor: Executor, view: View, passes: Sequence[int], seconds: float, adapter: str | None = None
) -> LookCost:
    """What a look cost whose passes had so many tokens each."""
    counter, past = executor.costs_with(adapter), 0
    element_bytes = {table.name: Fraction(4) for table in extra_tables(view)}
    flops = weights = kv = fixed = 0
    for number, tokens in enumerate(passes, 1):
        rows = tokens if isinstance(view, AttentionMap) else int(number == len(passes))
        cost = look_cost(executor.spec, view, Span(past, tokens, rows), counter.ranks)
        flops += cost.flops()
        weights += cost.weight_bytes(lambda p: element_bytes.get(p.name) or counter.bytes_per_element(p))
        kv += cost.kv_elements_read() * executor.kv_element_bytes
        fixed += cost.fixed_bytes_moved()
        past += tokens
    return LookCost(past, seconds, flops, weights, kv, fixed)
