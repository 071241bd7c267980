"""The MoE lens: the experts, which of them fire, and what the difference between stored and used weights is worth."""

from __future__ import annotations

from dataclasses import dataclass, replace
from fractions import Fraction
from typing import Any

from trilens.decoder.weights import (
    BesideWeights,
    DecoderWeights,
    RoutedWeights,
    ShortcutWeights,
    decoder_weights,
    parameters,
)
from trilens.executors.accountant import ParameterCount, Span, StepCost, distinct_experts, step_cost, token_cost
from trilens.spec.model import Beside, Dense, FeedForward, Layer, ModelSpec, Routed, Router, Scoring, Shortcut

BATCHES = (1, 8, 64)
BF16 = Fraction(2)


@dataclass(frozen=True)
class ExpertGroup:
    """Layers whose routed feed-forward is the same. Parameters of one expert: gate, up and down, with their biases.
    `firing`: experts with weights that a token is expected to fire; fewer than `chosen` where some have none."""

    layers: tuple[int, ...]
    experts: int
    identity_experts: int
    chosen: int
    firing: int
    expert_width: int
    shared_width: int
    expert_parameters: int
    rule: str


@dataclass(frozen=True)
class Neighbour:
    """A dense model beside this one: the same wiring, but each routed feed-forward a dense one of `what`'s width."""

    what: str
    parameters: int
    weight_bytes: int  # bf16
    flops: int  # one token at context 1


@dataclass(frozen=True)
class BatchCost:
    """One token for each of `batch` sequences. `distinct` experts of a layer and bytes are expected values."""

    batch: int
    distinct: tuple[float, ...]  # by group
    weight_bytes: int  # bf16, every weight that is read once
    weight_bytes_per_token: int


@dataclass(frozen=True)
class MoeLens:
    groups: tuple[ExpertGroup, ...]
    layers: int
    share_read: float
    weight_bytes: int  # bf16
    flops: int
    neighbours: tuple[Neighbour, ...]
    batches: tuple[BatchCost, ...]

    def as_dict(self) -> dict[str, Any]:
        return {
            "groups": [vars(g) for g in self.groups],
            "routed_layers": sum(len(g.layers) for g in self.groups),
            "layers": self.layers,
            "share_read_per_token": self.share_read,
            "weight_bytes_bf16": self.weight_bytes,
            "flops_at_context_1": self.flops,
            "neighbours": [vars(n) for n in self.neighbours],
            "batches": [vars(b) for b in self.batches],
        }


def moe_lens(spec: ModelSpec, count: ParameterCount, alone: StepCost) -> MoeLens | None:
    """None for a model without a routed layer. `alone`: the step of one token that sees itself only."""
    routed = list(spec.routed_layers())
    if not routed:
        return None
    weights = decoder_weights(spec)
    kinds: dict[Routed, list[int]] = {}
    for i, ffn in routed:
        kinds.setdefault(ffn, []).append(i)
    groups = tuple(_group(ffn, layers, weights) for ffn, layers in kinds.items())
    return MoeLens(
        groups=groups,
        layers=len(spec.layers),
        share_read=count.active / count.total,
        weight_bytes=2 * count.total,
        flops=alone.flops(),
        neighbours=tuple(_neighbour(what, dense_twin(spec, every)) for what, every in _NEIGHBOURS),
        batches=tuple(_batch(spec, groups, size, alone) for size in BATCHES),
    )


_NEIGHBOURS = (("equal active size", False), ("equal total size", True))


def dense_twin(spec: ModelSpec, every: bool) -> ModelSpec:
    """The same model with each routed feed-forward made dense: as wide as what fires, or as all experts together."""

    def made(layer: Layer) -> Layer:
        ffn = layer.feed_forward
        return layer if ffn is None else replace(layer, feed_forward=_made_dense(ffn, every, spec.width))

    return replace(spec, layers=tuple(map(made, spec.layers)))


def _made_dense(ffn: FeedForward, every: bool, width: int) -> Dense:
    match ffn:
        case Dense():
            return ffn
        case Routed():
            times = ffn.router.experts if every else ffn.router.firing
            shared = 0 if ffn.shared is None else ffn.shared.width
            own = times * ffn.width * (ffn.latent or width) // width  # a narrow expert is as many columns of a wide one
            return Dense(own + shared, ffn.glu)
        case Beside() | Shortcut():
            return Dense(ffn.dense.width + _made_dense(ffn.routed, every, width).width, ffn.dense.glu)


def _neighbour(what: str, twin: ModelSpec) -> Neighbour:
    total = sum(p.size for p in {p.name: p for p in parameters(decoder_weights(twin))}.values())
    return Neighbour(what, total, 2 * total, token_cost(twin).flops())


def _group(ffn: Routed, layers: list[int], weights: DecoderWeights) -> ExpertGroup:
    match weights.layers[layers[0]].feed_forward:
        case RoutedWeights() as w:
            routed = w
        case BesideWeights(routed=w) | ShortcutWeights(routed=w):
            routed = w
        case other:
            raise AssertionError(f"layer {layers[0]} is routed and has {type(other).__name__}")
    linears = (routed.experts.gate, routed.experts.up, routed.experts.down)
    sizes = [p.size for linear in linears if linear for p in (linear.weight, linear.bias) if p is not None]
    return ExpertGroup(
        layers=tuple(layers),
        experts=ffn.router.experts,
        identity_experts=ffn.router.identity_experts,
        chosen=ffn.router.chosen,
        firing=ffn.router.firing,
        expert_width=ffn.width,
        shared_width=0 if ffn.shared is None else ffn.shared.width,
        expert_parameters=sum(sizes) // ffn.router.experts,
        rule=rule_in_words(ffn),
    )


def _batch(spec: ModelSpec, groups: tuple[ExpertGroup, ...], size: int, alone: StepCost) -> BatchCost:
    # which weights a step reads depends on its tokens, not on whose they are: one sequence is counted faster
    step = alone if size == 1 else step_cost(spec, [Span(past=0, new=size, logits=size)])
    read = step.weight_bytes(lambda p: BF16)
    distinct = tuple(float(distinct_experts(g.experts, g.chosen, size, g.identity_experts)) for g in groups)
    return BatchCost(size, distinct, read, read // size)


def rule_in_words(ffn: Routed) -> str:
    """The router's rule, in the order in which it is carried out."""
    r = ffn.router
    scores, weighting = _scoring(r)
    steps = [scores]
    if r.correction_bias:
        steps.append("a learned correction is added for the choice only")
    if r.groups is not None:
        best = "its best expert's score" if r.groups.best == 1 else f"the sum of its {r.groups.best} best"
        groups = f"{r.groups.chosen} of {r.groups.count} groups"
        steps.append(f"only experts in the best {groups} may fire (a group scores {best})")
    steps.append(f"the {r.chosen} highest of {r.choices} fire" if r.chosen > 1 else f"the highest of {r.choices} fires")
    if r.identity_experts:
        steps.append(f"{r.identity_experts} of these have no weights and hand the token on as it is")
    steps.append(weighting)
    if r.renormalise:
        steps.append("divided by their sum")
    if r.scale != 1.0:
        steps.append(f"times {r.scale:g}")
    if r.expert_scale:
        steps.append("times a learned factor of each expert")
    if ffn.weight_on_input:
        steps.append("multiplying the expert's input, not its output")
    return "; ".join(steps)


def _scoring(r: Router) -> tuple[str, str]:
    logits = "logits with a bias" if r.bias else "logits"
    match r.scoring:
        case Scoring.SOFTMAX:
            return f"{logits}, a softmax over all experts", "each weighted by its share"
        case Scoring.TOP_SOFTMAX:
            return logits, "weighted by a softmax over those alone"
        case Scoring.SIGMOID:
            return f"{logits}, each expert's sigmoid by itself", "each weighted by its sigmoid"
        case Scoring.SPARSEMIXER:
            near = f"one place after another, a softmax over the experts within {r.jitter:g} of the highest"
            return f"{logits}, {near}", "each weighted by its share there"
