"""Spec -> the name and shape of every tensor the decoder uses. The tree mirrors the spec; the leaves are
`Parameter`s."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, fields, is_dataclass
from math import prod

from trilens.spec.model import (
    Attention,
    Beside,
    Dense,
    FeedForward,
    GatedRecurrence,
    Glu,
    Index,
    LatentAttention,
    Layer,
    LearnedCurve,
    LowRankBranch,
    Mixer,
    ModelSpec,
    Norm,
    PerLayerInput,
    PerLayerTable,
    Positions,
    Routed,
    ShortConvolution,
    Shortcut,
    SideBySide,
    Streams,
)


@dataclass(frozen=True)
class Parameter:
    """One tensor, by name. Matrices are [out, in], experts [E, out, in], per-head matrices [H, out, in], tables
    [rows, width]."""

    name: str
    shape: tuple[int, ...]

    @property
    def size(self) -> int:
        """How many numbers it holds."""
        return prod(self.shape)


@dataclass(frozen=True)
class LinearWeights:
    weight: Parameter
    bias: Parameter | None


@dataclass(frozen=True)
class NormWeights:
    weight: Parameter | None
    bias: Parameter | None


@dataclass(frozen=True)
class AttentionWeights:
    q: LinearWeights
    k: LinearWeights | None
    v: LinearWeights | None
    out: LinearWeights
    q_norm: NormWeights | None
    k_norm: NormWeights | None
    q_norm_row: Parameter | None
    k_norm_row: Parameter | None
    v_norm: NormWeights | None
    sinks: Parameter | None
    gate: LinearWeights | None
    out_norm: NormWeights | None


@dataclass(frozen=True)
class IndexWeights:
    """`q` reads the normalised latent queries, `k` and `weights` (one number a head) the layer's input."""

    q: LinearWeights
    k: LinearWeights
    k_norm: NormWeights
    weights: LinearWeights


@dataclass(frozen=True)
class LatentAttentionWeights:
    """`k_up` [H, kv_rank, nope_dim] carries queries into the latent space, `v_up` [H, value_dim, kv_rank] results
    out of it."""

    q: LinearWeights | None
    q_down: LinearWeights | None
    q_norm: NormWeights | None
    q_up: LinearWeights | None
    kv_down: LinearWeights
    kv_norm: NormWeights
    k_up: Parameter
    v_up: Parameter
    out: LinearWeights
    index: IndexWeights | None


@dataclass(frozen=True)
class ShortConvolutionWeights:
    gate_in: LinearWeights
    value: LinearWeights
    gate_out: LinearWeights
    taps: LinearWeights
    out: LinearWeights


@dataclass(frozen=True)
class GatedRecurrenceWeights:
    """`step` (its bias is that of the decay) and `gate` read the layer's input, or where there is a rank what
    `step_down` and `gate_down` make of it. `rate` [heads] is what the decay multiplies, `skip` [heads] what v does."""

    q: LinearWeights
    k: LinearWeights
    v: LinearWeights
    q_taps: LinearWeights
    k_taps: LinearWeights
    v_taps: LinearWeights
    step_down: LinearWeights | None
    step: LinearWeights
    rate: Parameter
    beta: LinearWeights | None
    skip: Parameter | None
    gate_down: LinearWeights | None
    gate: LinearWeights
    qk_norm: NormWeights | None
    norm: NormWeights | None
    norm_row: Parameter | None
    out: LinearWeights


@dataclass(frozen=True)
class SideBySideWeights:
    attention: AttentionWeights
    recurrence: GatedRecurrenceWeights


MixerWeights = (
    AttentionWeights | LatentAttentionWeights | ShortConvolutionWeights | GatedRecurrenceWeights | SideBySideWeights
)


@dataclass(frozen=True)
class DenseWeights:
    gate: LinearWeights | None
    up: LinearWeights
    down: LinearWeights
    inner_norm: NormWeights | None = None
    rise: Parameter | None = None
    fall: Parameter | None = None


@dataclass(frozen=True)
class RoutedWeights:
    router: LinearWeights
    correction_bias: Parameter | None
    expert_scale: Parameter | None
    latent_in: LinearWeights | None
    experts: DenseWeights
    latent_out: LinearWeights | None
    shared: DenseWeights | None
    shared_gate: LinearWeights | None


@dataclass(frozen=True)
class BesideWeights:
    dense: DenseWeights
    routed: RoutedWeights
    dense_out: NormWeights
    routed_in: NormWeights
    routed_out: NormWeights
    router_norm: NormWeights


@dataclass(frozen=True)
class ShortcutWeights:
    dense: DenseWeights
    routed: RoutedWeights


FeedForwardWeights = DenseWeights | RoutedWeights | BesideWeights | ShortcutWeights


@dataclass(frozen=True)
class PerLayerInputWeights:
    row: Parameter | None
    gate: LinearWeights
    out: LinearWeights
    norm: NormWeights


@dataclass(frozen=True)
class LowRankBranchWeights:
    down: LinearWeights
    up: LinearWeights
    norm: NormWeights


@dataclass(frozen=True)
class LayerStreamsWeights:
    """`router` [S, D] and its norm, `predict` [S * S, S], `correct` [S, S]: for S streams."""

    norm: NormWeights
    router: LinearWeights
    predict: LinearWeights
    correct: LinearWeights


@dataclass(frozen=True)
class StreamsWeights:
    """`into` and `out_of` [S - 1, D, D]: a matrix for each stream but the first."""

    into: Parameter
    out_of: Parameter


@dataclass(frozen=True)
class PerLayerTableWeights:
    table: Parameter
    projection: LinearWeights
    norm: NormWeights


@dataclass(frozen=True)
class LayerWeights:
    mixer: MixerWeights | None
    feed_forward: FeedForwardWeights | None
    mixer_in: NormWeights | None
    mixer_out: NormWeights | None
    feed_forward_in: NormWeights | None
    feed_forward_out: NormWeights | None
    per_layer_input: PerLayerInputWeights | None
    scalar: Parameter | None
    low_rank: LowRankBranchWeights | None
    streams: LayerStreamsWeights | None


@dataclass(frozen=True)
class DecoderWeights:
    embedding: Parameter
    positions: Parameter | None
    per_layer_table: PerLayerTableWeights | None
    streams: StreamsWeights | None
    layers: tuple[LayerWeights, ...]
    final_norm: NormWeights
    head: LinearWeights


@dataclass(frozen=True)
class PredictionWeights:
    """`join` [D, 2D] reads the next token's embedding, then the row; embedding, final norm and head are the model's."""

    embedding: Parameter
    final_norm: NormWeights
    embedding_norm: NormWeights
    hidden_norm: NormWeights
    join: LinearWeights
    layer: LayerWeights
    out_norm: NormWeights
    head: LinearWeights


def prediction_weights(spec: ModelSpec) -> PredictionWeights:
    """The tree of the first block that predicts."""
    block, decoder, at, width = spec.prediction, decoder_weights(spec), "prediction.", spec.width
    assert block is not None, "the model has no block that predicts"
    return PredictionWeights(
        embedding=decoder.embedding,
        final_norm=decoder.final_norm,
        embedding_norm=_norm(at + "embedding_norm", block.embedding_norm, width),
        hidden_norm=_norm(at + "hidden_norm", block.hidden_norm, width),
        join=_linear(at + "join", width, 2 * width, False),
        layer=_layer(at, block.layer, width, None),
        out_norm=_norm(at + "out_norm", block.out_norm, width),
        head=decoder.head,
    )


def own_parameters(weights: PredictionWeights) -> list[Parameter]:
    """Those that the decoder does not have."""
    return [p for p in parameters(weights) if p.name.startswith("prediction.")]


def decoder_weights(spec: ModelSpec) -> DecoderWeights:
    """The whole tree. A tied head's matrix *is* the embedding's parameter."""
    embedding = Parameter("embedding", (spec.vocab, spec.width))
    head_bias = Parameter("head.bias", (spec.vocab,)) if spec.head.bias else None
    head = embedding if spec.head.tied else Parameter("head", (spec.vocab, spec.width))
    return DecoderWeights(
        embedding=embedding,
        positions=Parameter("positions", (spec.learned_positions, spec.width)) if spec.learned_positions else None,
        per_layer_table=_per_layer_table(spec.per_layer_table, spec.width, len(spec.layers)),
        streams=_streams(spec.streams, spec.width),
        layers=tuple(_layer(f"layers.{i}.", layer, spec.width, spec.streams) for i, layer in enumerate(spec.layers)),
        final_norm=_norm("final_norm", spec.final_norm, spec.width),
        head=LinearWeights(head, head_bias),
    )


def parameters(weights: object) -> Iterator[Parameter]:
    """Every distinct parameter of a tree, in the decoder's order; a tied table comes once."""
    seen: set[str] = set()

    def walk(node: object) -> Iterator[Parameter]:
        if isinstance(node, Parameter):
            if node.name not in seen:
                seen.add(node.name)
                yield node
        elif isinstance(node, tuple):
            for child in node:
                yield from walk(child)
        elif is_dataclass(node):
            for f in fields(node):
                yield from walk(getattr(node, f.name))

    return walk(weights)


def adaptable(weights: DecoderWeights) -> dict[str, Parameter]:
    """The matrices that `linear` and `head_linear` multiply with, by name: all but those of experts and tables. A tied
    head is "head" here, and its parameter the embedding's.
    """
    found = {"head": weights.head.weight}

    def walk(node: object) -> None:
        if isinstance(node, LinearWeights):
            found[node.weight.name] = node.weight
        if isinstance(node, LatentAttentionWeights):
            found.update({p.name: p for p in (node.k_up, node.v_up)})
        if isinstance(node, StreamsWeights):
            found.update({p.name: p for p in (node.into, node.out_of)})
        if isinstance(node, tuple):
            for child in node:
                walk(child)
        elif is_dataclass(node):
            for f in fields(node):
                if f.name != "experts" and not f.name.endswith("taps"):
                    walk(getattr(node, f.name))

    walk(weights.per_layer_table)
    walk(weights.streams)
    walk(weights.layers)
    return found


def _layer(at: str, layer: Layer, width: int, streams: Streams | None) -> LayerWeights:
    return LayerWeights(
        mixer=None if layer.mixer is None else _mixer(at, layer.mixer, width),
        feed_forward=None
        if layer.feed_forward is None
        else _feed_forward(at + "feed_forward.", layer.feed_forward, width),
        mixer_in=_optional_norm(at + "mixer_in", layer.mixer_in, width),
        mixer_out=_optional_norm(at + "mixer_out", layer.mixer_out, width),
        feed_forward_in=_optional_norm(at + "feed_forward_in", layer.feed_forward_in, width),
        feed_forward_out=_optional_norm(at + "feed_forward_out", layer.feed_forward_out, width),
        per_layer_input=_per_layer_input(at + "per_layer_input.", layer.per_layer_input, width),
        scalar=Parameter(at + "scalar", (1,)) if layer.scalar else None,
        low_rank=_low_rank(at + "low_rank.", layer.low_rank, width),
        streams=_layer_streams(at + "streams.", streams, width),
    )


def _mixer(at: str, mixer: Mixer, width: int) -> MixerWeights:
    match mixer:
        case Attention():
            return _attention(at + "attention.", mixer, width)
        case LatentAttention():
            return _latent_attention(at + "attention.", mixer, width)
        case ShortConvolution():
            return _short_convolution(at + "convolution.", mixer, width)
        case GatedRecurrence():
            return _gated_recurrence(at + "recurrence.", mixer, width)
        case SideBySide():
            return SideBySideWeights(
                _attention(at + "attention.", mixer.attention, width),
                _gated_recurrence(at + "recurrence.", mixer.recurrence, width),
            )


def _attention(at: str, a: Attention, width: int) -> AttentionWeights:
    cache: Positions = a.cache
    queries, keys, values = a.heads * cache.key_dim, cache.kv_heads * cache.key_dim, cache.kv_heads * cache.value_dim
    gates = a.heads * (1 if a.gate is not None and a.gate.per_head else cache.value_dim)
    has_value_matrix = a.writes and not a.value_is_key
    q_norm = k_norm = q_norm_row = k_norm_row = None
    if a.qk_norm is not None and a.qk_norm.row_weight:
        q_norm_row = Parameter(at + "q_norm_row", (a.heads, cache.key_dim))
        k_norm_row = Parameter(at + "k_norm_row", (cache.kv_heads, cache.key_dim)) if a.writes else None
    if a.qk_norm is not None:
        q_norm = _norm(at + "q_norm", a.qk_norm.norm, queries if a.qk_norm.whole else cache.key_dim)
        if a.writes:
            k_norm = _norm(at + "k_norm", a.qk_norm.norm, keys if a.qk_norm.whole else cache.key_dim)
    return AttentionWeights(
        q=_linear(at + "q", queries, width, a.qkv_bias),
        k=_linear(at + "k", keys, width, a.qkv_bias) if a.writes else None,
        v=_linear(at + "v", values, width, a.qkv_bias) if has_value_matrix else None,
        out=_linear(at + "out", width, a.heads * cache.value_dim, a.out_bias),
        q_norm=q_norm,
        k_norm=k_norm,
        q_norm_row=q_norm_row,
        k_norm_row=k_norm_row,
        v_norm=_norm(at + "v_norm", a.value_norm, cache.value_dim) if a.writes and a.value_norm else None,
        sinks=Parameter(at + "sinks", (a.heads,)) if a.sinks else None,
        gate=None if a.gate is None else _linear(at + "gate", gates, width, a.gate.bias),
        out_norm=_optional_norm(at + "out_norm", a.out_norm, a.heads * cache.value_dim),
    )


def _latent_attention(at: str, a: LatentAttention, width: int) -> LatentAttentionWeights:
    queries = a.heads * (a.nope_dim + a.rope_dim)
    direct = a.q_rank is None
    return LatentAttentionWeights(
        q=_linear(at + "q", queries, width, False) if direct else None,
        q_down=_linear(at + "q_down", a.q_rank, width, a.bias) if a.q_rank is not None else None,
        q_norm=_norm(at + "q_norm", a.latent_norm, a.q_rank) if a.q_rank is not None else None,
        q_up=_linear(at + "q_up", queries, a.q_rank, False) if a.q_rank is not None else None,
        kv_down=_linear(at + "kv_down", a.kv_rank + a.rope_dim, width, a.bias),
        kv_norm=_norm(at + "kv_norm", a.latent_norm, a.kv_rank),
        k_up=Parameter(at + "k_up", (a.heads, a.kv_rank, a.nope_dim)),
        v_up=Parameter(at + "v_up", (a.heads, a.value_dim, a.kv_rank)),
        out=_linear(at + "out", width, a.heads * a.value_dim, a.bias),
        index=None if a.index is None or a.q_rank is None else _index(at + "index.", a.index, a.q_rank, width),
    )


def _index(at: str, index: Index, q_rank: int, width: int) -> IndexWeights:
    dim = index.cache.key_dim
    return IndexWeights(
        q=_linear(at + "q", index.heads * dim, q_rank, False),
        k=_linear(at + "k", dim, width, False),
        k_norm=_norm(at + "k_norm", index.key_norm, dim),
        weights=_linear(at + "weights", index.heads, width, False),
    )


def _short_convolution(at: str, c: ShortConvolution, width: int) -> ShortConvolutionWeights:
    return ShortConvolutionWeights(
        gate_in=_linear(at + "gate_in", c.width, width, c.bias),
        value=_linear(at + "value", c.width, width, c.bias),
        gate_out=_linear(at + "gate_out", c.width, width, c.bias),
        taps=_linear(at + "taps", c.width, c.taps, c.bias),
        out=_linear(at + "out", width, c.width, c.bias),
    )


def _gated_recurrence(at: str, r: GatedRecurrence, width: int) -> GatedRecurrenceWeights:
    rule, inner, norm = r.rule, r.rank or width, r.output.norm
    ranked = r.rank is not None
    return GatedRecurrenceWeights(
        q=_linear(at + "q", rule.keys, width, False),
        k=_linear(at + "k", rule.keys, width, False),
        v=_linear(at + "v", rule.values, width, False),
        q_taps=_linear(at + "q_taps", rule.keys, r.taps, r.taps_bias),
        k_taps=_linear(at + "k_taps", rule.keys, r.taps, r.taps_bias),
        v_taps=_linear(at + "v_taps", rule.values, r.taps, r.taps_bias),
        step_down=_linear(at + "step_down", inner, width, False) if ranked else None,
        step=_linear(at + "step", rule.decays, inner, True),
        rate=Parameter(at + "rate", (rule.heads,)),
        beta=_linear(at + "beta", rule.heads, width, False) if rule.delta else None,
        skip=Parameter(at + "skip", (rule.heads,)) if r.skip else None,
        gate_down=_linear(at + "gate_down", inner, width, False) if ranked else None,
        gate=_linear(at + "gate", rule.values, inner, False),
        qk_norm=_optional_norm(at + "qk_norm", r.qk_norm, rule.key_dim),
        norm=_optional_norm(at + "norm", norm, rule.values // r.output.parts),
        norm_row=Parameter(at + "norm_row", (rule.values,)) if r.output.row_weight else None,
        out=_linear(at + "out", width, rule.values, False),
    )


def _feed_forward(at: str, ffn: FeedForward, width: int) -> FeedForwardWeights:
    match ffn:
        case Dense():
            return _dense(at, ffn, width)
        case Routed():
            return _routed(at, ffn, width)
        case Beside():
            return BesideWeights(
                dense=_dense(at + "dense.", ffn.dense, width),
                routed=_routed(at + "routed.", ffn.routed, width),
                dense_out=_norm(at + "dense_out", ffn.dense_out, width),
                routed_in=_norm(at + "routed_in", ffn.routed_in, width),
                routed_out=_norm(at + "routed_out", ffn.routed_out, width),
                router_norm=_norm(at + "router_norm", ffn.router_norm, width),
            )
        case Shortcut():
            return ShortcutWeights(
                dense=_dense(at + "dense.", ffn.dense, width), routed=_routed(at + "routed.", ffn.routed, width)
            )


def _dense(at: str, ffn: Dense, width: int) -> DenseWeights:
    return DenseWeights(
        gate=_linear(at + "gate", ffn.width, width, ffn.bias) if isinstance(ffn.glu, Glu) else None,
        up=_linear(at + "up", ffn.width, width, ffn.bias),
        down=_linear(at + "down", width, ffn.width, ffn.bias),
        inner_norm=_optional_norm(at + "inner_norm", ffn.inner_norm, ffn.width),
        rise=Parameter(at + "rise", (1,)) if isinstance(ffn.glu, LearnedCurve) else None,
        fall=Parameter(at + "fall", (1,)) if isinstance(ffn.glu, LearnedCurve) else None,
    )


def _routed(at: str, ffn: Routed, width: int) -> RoutedWeights:
    router, experts, inner = ffn.router, ffn.router.experts, ffn.latent or width
    narrow, gated = ffn.latent is not None, isinstance(ffn.glu, Glu)
    return RoutedWeights(
        router=_linear(at + "router", router.choices, width, router.bias),
        correction_bias=Parameter(at + "correction_bias", (router.choices,)) if router.correction_bias else None,
        expert_scale=Parameter(at + "expert_scale", (router.choices,)) if router.expert_scale else None,
        latent_in=_linear(at + "latent_in", inner, width, ffn.bias) if narrow else None,
        experts=DenseWeights(
            gate=_linear(at + "experts.gate", ffn.width, inner, ffn.bias, experts) if gated else None,
            up=_linear(at + "experts.up", ffn.width, inner, ffn.bias, experts),
            down=_linear(at + "experts.down", inner, ffn.width, ffn.bias, experts),
        ),
        latent_out=_linear(at + "latent_out", width, inner, ffn.bias) if narrow else None,
        shared=_dense(at + "shared.", ffn.shared, width) if ffn.shared else None,
        shared_gate=_linear(at + "shared_gate", 1, width, False) if ffn.shared_gate else None,
    )


def _per_layer_input(at: str, p: PerLayerInput | None, width: int) -> PerLayerInputWeights | None:
    if p is None:
        return None
    return PerLayerInputWeights(
        row=Parameter(at + "row", (width,)) if p.row_weight else None,
        gate=_linear(at + "gate", p.width, width, False),
        out=_linear(at + "out", width, p.width, False),
        norm=_norm(at + "norm", p.norm, width),
    )


def _low_rank(at: str, branch: LowRankBranch | None, width: int) -> LowRankBranchWeights | None:
    if branch is None:
        return None
    return LowRankBranchWeights(
        down=_linear(at + "down", branch.rank, width, False),
        up=_linear(at + "up", width, branch.rank, False),
        norm=_norm(at + "norm", branch.norm, width),
    )


def _layer_streams(at: str, s: Streams | None, width: int) -> LayerStreamsWeights | None:
    if s is None:
        return None
    return LayerStreamsWeights(
        norm=_norm(at + "norm", s.norm, width),
        router=_linear(at + "router", s.count, width, False),
        predict=_linear(at + "predict", s.count**2, s.count, False),
        correct=_linear(at + "correct", s.count, s.count, False),
    )


def _streams(s: Streams | None, width: int) -> StreamsWeights | None:
    if s is None:
        return None
    shape = (s.count - 1, width, width)
    return StreamsWeights(into=Parameter("streams.into", shape), out_of=Parameter("streams.out_of", shape))


def _per_layer_table(p: PerLayerTable | None, width: int, layers: int) -> PerLayerTableWeights | None:
    if p is None:
        return None
    return PerLayerTableWeights(
        table=Parameter("per_layer_table", (p.vocab, layers * p.width)),
        projection=_linear("per_layer_projection", layers * p.width, width, False),
        norm=_norm("per_layer_norm", p.norm, p.width),
    )


def _linear(name: str, out: int, inner: int, bias: bool, experts: int | None = None) -> LinearWeights:
    stack = () if experts is None else (experts,)
    return LinearWeights(
        Parameter(name, (*stack, out, inner)), Parameter(name + ".bias", (*stack, out)) if bias else None
    )


def _norm(name: str, norm: Norm, width: int) -> NormWeights:
    return NormWeights(
        Parameter(name, (width,)) if norm.weight else None, Parameter(name + ".bias", (width,)) if norm.bias else None
    )


def _optional_norm(name: str, norm: Norm | None, width: int) -> NormWeights | None:
    return None if norm is None else _norm(name, norm, width)
