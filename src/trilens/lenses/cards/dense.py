"""The dense lens: sizes, operations by part and by context, the feed-forward sum, and what all dense models share."""

from __future__ import annotations

from dataclasses import dataclass
from math import prod
from typing import Any

from trilens.decoder.ops import Part
from trilens.executors.accountant import ParameterCount, StepCost, token_cost
from trilens.lenses.layout import ranges
from trilens.spec.model import Beside, Dense, FeedForward, Glu, ModelSpec, Routed, Shortcut
from trilens.units import flop

USUAL_CONTEXT = 4096


@dataclass(frozen=True)
class FeedForwardTerm:
    """One product of the feed-forward's sum, for one token: operations = the product of `factors`.

    Two operations a multiply-add, three matrices a gated feed-forward (two without a gate), d_model, d_ffn, experts
    that fire, layers.
    """

    what: str
    layers: tuple[int, ...]
    factors: tuple[tuple[str, int], ...]

    @property
    def flops(self) -> int:
        return prod(n for _, n in self.factors)

    @property
    def formula(self) -> str:
        """2 x 3 x 2048 d_model x 768 d_ffn x 8 experts x 48 layers."""
        return " x ".join(f"{n} {name}".rstrip() for name, n in self.factors)


@dataclass(frozen=True)
class Property:
    """One of the three properties of dense models, and whether this one has it."""

    name: str
    holds: bool
    answer: str  # "holds", "does not hold", "holds at a fixed context only"
    why: str


@dataclass(frozen=True)
class DenseLens:
    """`costs`: one token's step by the number of tokens it sees, its own included."""

    parameters: ParameterCount
    costs: dict[int, StepCost]
    terms: tuple[FeedForwardTerm, ...]
    properties: tuple[Property, ...]

    @property
    def ratio(self) -> float:
        """Active over total."""
        return self.parameters.active / self.parameters.total

    @property
    def beside_the_sum(self) -> int:
        """Operations of the feed-forward part that are in no term; zero if the sum is the whole."""
        return next(iter(self.costs.values())).flops(Part.FEED_FORWARD) - sum(term.flops for term in self.terms)

    def as_dict(self) -> dict[str, Any]:
        p = self.parameters
        return {
            "active_share": self.ratio,
            "every_weight_fires": p.every_weight_fires,
            "flops_by_context": {str(n): cost.flops_by_part() for n, cost in self.costs.items()},
            "feed_forward_sum": {
                "terms": [
                    {
                        "what": t.what,
                        "layers": list(t.layers),
                        "factors": [n for _, n in t.factors],
                        "formula": t.formula,
                        "flops": t.flops,
                    }
                    for t in self.terms
                ],
                "beside_the_sum": self.beside_the_sum,
                "total": next(iter(self.costs.values())).flops(Part.FEED_FORWARD),
            },
            "properties": [vars(p) for p in self.properties],
        }


def contexts_of(spec: ModelSpec, wanted: int = 1) -> list[int]:
    """1, 4K, the model's maximum, and the one asked for."""
    return sorted({1, wanted, spec.context, *([USUAL_CONTEXT] if spec.context > USUAL_CONTEXT else [])})


def dense_lens(spec: ModelSpec, parameters: ParameterCount, wanted: int = 1) -> DenseLens:
    costs = {n: token_cost(spec, n) for n in contexts_of(spec, wanted)}
    return DenseLens(parameters, costs, feed_forward_terms(spec), _properties(spec, parameters, costs))


def feed_forward_terms(spec: ModelSpec) -> tuple[FeedForwardTerm, ...]:
    """The sum that anyone can do by hand from config.json: a term for each kind of feed-forward, with its layers."""
    kinds: dict[FeedForward, list[int]] = {}
    extra: dict[int, list[int]] = {}
    for i, layer in enumerate(spec.layers):
        if layer.feed_forward is not None:
            kinds.setdefault(layer.feed_forward, []).append(i)
        if layer.per_layer_input is not None:
            extra.setdefault(layer.per_layer_input.width, []).append(i)
    terms = []
    for ffn, layers in kinds.items():
        match ffn:
            case Dense():
                terms.append(_term("dense", ffn, spec.width, layers))
            case Routed():
                terms += _routed_terms(spec, ffn, layers)
            case Beside() | Shortcut():
                terms.append(_term("dense, beside the experts", ffn.dense, spec.width, layers))
                terms += _routed_terms(spec, ffn.routed, layers)
    for width, layers in extra.items():
        factors = (("", 2), ("", 2), ("d_model", spec.width), ("per-layer width", width), ("layers", len(layers)))
        terms.append(FeedForwardTerm("per-layer input", tuple(layers), factors))
    return tuple(terms)


def _routed_terms(spec: ModelSpec, ffn: Routed, layers: list[int]) -> list[FeedForwardTerm]:
    d, count = ("d_model", spec.width), ("layers", len(layers))
    terms = [_term("experts that fire", ffn, ffn.latent or spec.width, layers, ffn.router.firing)]
    if ffn.latent is not None:
        factors = (("", 2), ("", 2), d, ("d_latent", ffn.latent), count)
        terms.append(FeedForwardTerm("into the experts' width and back", tuple(layers), factors))
    if ffn.shared is not None:
        terms.append(_term("shared expert", ffn.shared, spec.width, layers))
    if ffn.shared_gate:
        terms.append(FeedForwardTerm("gate of the shared expert", tuple(layers), (("", 2), d, count)))
    return terms


def _term(what: str, ffn: Dense | Routed, width: int, layers: list[int], times: int | None = None) -> FeedForwardTerm:
    """`width`: of the rows that come in and go out."""
    matrices = 3 if isinstance(ffn.glu, Glu) else 2
    into = "d_latent" if isinstance(ffn, Routed) and ffn.latent is not None else "d_model"
    factors = [("", 2), ("", matrices), (into, width), ("d_ffn", ffn.width)]
    if times is not None:
        factors.append(("experts", times))
    return FeedForwardTerm(what, tuple(layers), (*factors, ("layers", len(layers))))


def _properties(spec: ModelSpec, p: ParameterCount, costs: dict[int, StepCost]) -> tuple[Property, ...]:
    routed = list(spec.routed_layers())
    first, last = min(costs), max(costs)
    grown = costs[last].flops(Part.ATTENTION)
    share = 100 * grown / costs[last].flops()
    attention = f"attention grows with the context: {flop(costs[first].flops(Part.ATTENTION))} at context "
    attention += f"{first}, {flop(grown)} at {last} ({share:.0f} % of the total); "
    uneven = any(r.router.identity_experts for _, r in routed)
    attention += "the rest is what is expected: some experts have no weights" if uneven else "the rest is constant"
    if routed:
        chosen = sorted({(r.router.chosen, r.router.choices) for _, r in routed})
        picked = " or ".join(f"{k} of {n}" for k, n in chosen)
        where = f"on {len(routed)} of {len(spec.layers)} layers ({ranges([i for i, _ in routed])})"
        total = f"{100 * (1 - p.active_with_embeddings / p.total):.1f} % of the weights are experts that do not fire"
        path = f"a router picks {picked} experts for every token {where}, so tokens take different paths; the same "
        path += "input takes the same path only if the arithmetic is bit-identical"
    else:
        total = "every weight takes part in every token (embedding tables are counted in full)"
        path = "there is no router: every token goes through the same weights in the same order"
    return (
        Property("total = active", p.every_weight_fires, _answer(p.every_weight_fires), total),
        Property(
            "same compute for every token",
            False,
            _answer(False) if uneven else "holds at a fixed context only",
            attention,
        ),
        Property("same path for every input", not routed, _answer(not routed), path),
    )


def _answer(holds: bool) -> str:
    return "holds" if holds else "does not hold"
