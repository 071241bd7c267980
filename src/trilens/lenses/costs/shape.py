"""A model as the cost model sees it: a few sums, so that a forecast needs no run of the decoder."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from trilens.decoder.weights import decoder_weights, parameters
from trilens.executors.accountant import fixed_bytes, token_cost
from trilens.spec.model import ModelSpec, by_kind

LONG = 1 << 40  # tokens: beyond every window


@dataclass(frozen=True)
class Experts:
    """Of all layers with the same router: elements of all experts, how many it chooses from, how many it chooses."""

    elements: int
    count: int
    chosen: int


@dataclass(frozen=True)
class Cached:
    """Elements that one token keeps in all layers that see at most `limit` tokens (None: all of them)."""

    elements: int
    limit: int | None


@dataclass(frozen=True)
class Shape:
    """Numbers of elements. `inner`: what every token reads of the layers; `head`: the last matrix; `table`: rows that
    are only looked up. `row_flops`: of one token without attention; `cache_flops`: of attention, for an element read.
    """

    layers: int
    width: int
    inner: int
    head: int
    table: int
    experts: tuple[Experts, ...]
    cached: tuple[Cached, ...]
    row_flops: int
    cache_flops: float
    fixed_bytes: int

    @property
    def total(self) -> int:
        return self.inner + self.head + self.table + sum(e.elements for e in self.experts)

    def cache_elements(self, context: float) -> float:
        """Read by one sequence's new token that sees `context` tokens."""
        return sum(c.elements * (context if c.limit is None else min(context, c.limit)) for c in self.cached)

    def pair_elements(self, tokens: float) -> float:
        """The same, added up over every token of a prompt of that length."""
        return sum(c.elements * _pairs(tokens, c.limit) for c in self.cached)

    def expert_elements(self, tokens: float) -> float:
        """Of the experts that this many independent tokens are expected to wake."""
        return float(sum(e.elements * (1 - (1 - e.chosen / e.count) ** tokens) for e in self.experts))

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


def shape_of(spec: ModelSpec) -> Shape:
    """Counted by the accountant: one run of the decoder for a token that sees itself, one for a token that sees two."""
    one, two = token_cost(spec, 1), token_cost(spec, 2)
    every = {p.name: p for p in parameters(decoder_weights(spec))}
    experts: dict[tuple[int, int], int] = {}
    inner = head = 0
    multiplied: set[str] = set()
    for touch in one.read().values():
        p, router = touch.parameter, touch.router
        if touch.looked_up:
            continue
        multiplied.add(p.name)
        if router is not None:
            key = router.choices, router.chosen
            experts[key] = experts.get(key, 0) + p.size
        elif p.name.startswith("layers."):
            inner += p.size
        else:
            head += p.size
    table = sum(p.size for name, p in every.items() if name not in multiplied)
    positions, _ = by_kind(spec.states)
    limits: dict[int | None, int] = {}
    for state in positions:
        kept = state.kept(LONG)
        limit = None if kept == LONG else kept
        limits[limit] = limits.get(limit, 0) + state.width
    more = two.kv_elements_read() - one.kv_elements_read()
    per_element = (two.flops() - one.flops()) / more if more else 0.0
    return Shape(
        layers=len(spec.layers),
        width=spec.width,
        inner=inner,
        head=head,
        table=table,
        experts=tuple(Experts(n, count, chosen) for (count, chosen), n in experts.items()),
        cached=tuple(Cached(n, limit) for limit, n in limits.items()),
        row_flops=round(one.flops() - per_element * one.kv_elements_read()),
        cache_flops=per_element,
        fixed_bytes=fixed_bytes(spec),
    )


def shape_from(data: Mapping[str, Any]) -> Shape:
    """Of `as_dict`."""
    parts: dict[str, Sequence[Mapping[str, Any]]] = {name: data[name] for name in ("experts", "cached")}
    return Shape(
        **{
            **data,
            "experts": tuple(Experts(**e) for e in parts["experts"]),
            "cached": tuple(Cached(**c) for c in parts["cached"]),
        }
    )


def _pairs(tokens: float, limit: int | None) -> float:
    """Pairs of a token and one that it sees, itself included."""
    if limit is None or tokens <= limit:
        return tokens * (tokens + 1) / 2
    return limit * (limit + 1) / 2 + (tokens - limit) * limit
