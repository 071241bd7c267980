"""Tiny random models that between them use every operation of the vocabulary."""

from __future__ import annotations

from dataclasses import replace

import torch

from trilens.decoder.weights import decoder_weights, parameters
from trilens.spec.model import (
    Attention,
    AttentionGate,
    Beside,
    Chunk,
    Curve,
    Dense,
    ExpertGroups,
    FeedForward,
    Fixed,
    Full,
    GatedRecurrence,
    Glu,
    Head,
    LatentAttention,
    Layer,
    LearnedCurve,
    LowRankBranch,
    Mask,
    Mixer,
    ModelSpec,
    Norm,
    OutputGate,
    PerLayerInput,
    PerLayerTable,
    Positions,
    PositionScale,
    QueryKeyNorm,
    Recurrence,
    Rope,
    Routed,
    Router,
    Scoring,
    ShortConvolution,
    Shortcut,
    SideBySide,
    SigmoidDecay,
    SoftplusDecay,
    State,
    StateTensor,
    Streams,
    Window,
    YarnScaling,
    recurrent_state,
)

WIDTH, VOCAB = 64, 96
NORM = Norm(1e-5)
SILU = Glu(Curve.SILU)


def attention(cache: Positions, mask: Mask | None = None, heads: int = 4, **options: object) -> Attention:
    return Attention(
        heads, cache, cache.key_dim**-0.5, mask or Full(), options.pop("rope", Rope(cache.key_dim, 10000.0)), **options
    )


def layer(mixer: Mixer | None, feed_forward: FeedForward | None, **options: object) -> Layer:
    norms = {
        "mixer_in": NORM if mixer else None,
        "mixer_out": None,
        "feed_forward_in": NORM if feed_forward else None,
        "feed_forward_out": None,
    }
    return Layer(mixer, feed_forward, **{**norms, **options})


def model(layers: list[Layer], **options: object) -> ModelSpec:
    states = {s.index: s for x in layers for s in _states(x.mixer)}
    head = options.pop("head", Head(tied=True))
    return ModelSpec(
        "tiny", VOCAB, WIDTH, 512, tuple(layers), tuple(states[i] for i in sorted(states)), NORM, head, **options
    )


def _states(mixer: Mixer | None) -> list[State]:
    match mixer:
        case Attention() | LatentAttention():
            return [mixer.cache]
        case ShortConvolution() | GatedRecurrence():
            return [mixer.state]
        case SideBySide():
            return [mixer.attention.cache, mixer.recurrence.state]
        case None:
            return []


def plain() -> ModelSpec:
    """Grouped queries, tied head."""
    return model([layer(attention(Positions(i, 2, 16, 16, Full())), Dense(96, SILU)) for i in range(2)])


def windowed() -> ModelSpec:
    """A window and a chunk, sinks, soft caps, biases, norms on queries and keys, a cache that another layer reads."""
    window, chunk, full = (
        Positions(0, 2, 16, 16, Window(5)),
        Positions(1, 1, 32, 16, Chunk(8)),
        Positions(2, 2, 16, 16, Full()),
    )
    centred = Norm(1e-6, centred=True, bias=True)
    gelu, erf = Glu(Curve.GELU_TANH), Glu(Curve.GELU)
    return model(
        [
            layer(attention(window, Window(5), sinks=True, qkv_bias=True, out_bias=True), Dense(96, gelu, bias=True)),
            layer(
                attention(
                    chunk, Chunk(8), softcap=20.0, clip=1.5, rope=None, position_scale=PositionScale(0.1, 4.0, 1)
                ),
                Dense(96, erf),
                mixer_in=centred,
                mixer_out=NORM,
                feed_forward_out=centred,
                residual_scale=0.7,
            ),
            layer(
                attention(full, qk_norm=QueryKeyNorm(NORM), value_norm=Norm(1e-5, weight=False), value_is_key=True),
                Dense(96, SILU),
                scalar=True,
            ),
            layer(
                attention(
                    full, writes=False, rope=Rope(8, 1e4, YarnScaling(4.0, 16), interleaved=True, attention_factor=1.1)
                ),
                Dense(64, SILU),
            ),
            layer(
                attention(Positions(3, 4, 16, 16, Full()), qk_norm=QueryKeyNorm(NORM, whole=True, after_rope=True)),
                Dense(96, SILU),
            ),
        ],
        head=Head(tied=False, bias=True, scale=0.5, softcap=15.0),
        embedding_scale=8.0,
    )


def per_layer() -> ModelSpec:
    """A second embedding with a row for each layer."""
    extra = PerLayerInput(32, Glu(Curve.GELU_TANH), NORM)
    return model(
        [layer(attention(Positions(i, 2, 16, 16, Full())), Dense(96, SILU), per_layer_input=extra) for i in range(2)],
        per_layer_table=PerLayerTable(VOCAB, 32, 5.0, 0.125, 0.7, NORM),
    )


def streamed() -> ModelSpec:
    """Several residual rows a token, a branch of low rank beside attention, gates above a threshold, a second table
    without rows for the last tokens, whose rows go to all streams but the first."""
    cache, extra = Positions(0, 2, 16, 16, Full()), PerLayerInput(32, Glu(Curve.GELU_TANH), NORM, row_weight=True)
    low_rank = LowRankBranch(8, NORM, 2**-0.5)
    return model(
        [
            layer(
                attention(cache, writes=i == 0),
                Dense(96, Glu(Curve.GELU_TANH), threshold=threshold),
                mixer_out=NORM,
                per_layer_input=extra,
                low_rank=low_rank,
            )
            for i, threshold in enumerate((1.6, 0.3, None))
        ],
        per_layer_table=PerLayerTable(VOCAB - 40, 32, 5.0, 0.125, 0.7, NORM),
        streams=Streams(3, NORM, 1e-5),
    )


def routed() -> ModelSpec:
    """Every way of scoring, groups, a shared expert, biases, and a routed beside a dense feed-forward."""
    shared, odd = Dense(64, SILU), Glu(Curve.SILU, clamp=1.0, slope=1.7, up_offset=1.0)
    sigmoid = Router(8, 3, Scoring.SIGMOID, True, 1e-20, 2.5, ExpertGroups(4, 2, 2), correction_bias=True)
    feed_forwards: list[FeedForward] = [
        Routed(sigmoid, 32, SILU, shared=shared),
        Routed(Router(8, 2, Scoring.SOFTMAX, renormalise=True), 32, SILU),
        Routed(Router(6, 4, Scoring.TOP_SOFTMAX, bias=True, expert_scale=True), 32, odd, bias=True),
        Routed(Router(4, 2, Scoring.SPARSEMIXER, jitter=0.2), 32, SILU),
        Routed(Router(4, 1, Scoring.SIGMOID), 32, SILU, weight_on_input=True, shared=shared),
        Beside(Dense(64, SILU), Routed(Router(8, 2, Scoring.SOFTMAX), 32, SILU), NORM, NORM, NORM, NORM),
    ]
    return model([layer(attention(Positions(i, 2, 16, 16, Full())), f) for i, f in enumerate(feed_forwards)])


def shortcut() -> ModelSpec:
    """Experts that are added behind the next layer, one such layer behind the other too; experts without weights, in
    the second layer so many that often no other is chosen."""
    router = Router(6, 3, Scoring.SOFTMAX, scale=2.0, correction_bias=True, identity_experts=3)
    few = Router(1, 1, Scoring.SIGMOID, identity_experts=3)
    feed_forwards: list[FeedForward] = [
        Shortcut(Dense(96, SILU), Routed(router, 32, SILU)),
        Shortcut(Dense(64, SILU), Routed(few, 32, SILU, weight_on_input=True, shared=Dense(32, SILU))),
        Routed(router, 32, SILU, bias=True),
    ]
    scales = (0.7, 1.0, 1.0)
    return model(
        [
            layer(attention(Positions(i, 2, 16, 16, Full())), f, residual_scale=scale)
            for i, (f, scale) in enumerate(zip(feed_forwards, scales, strict=True))
        ]
    )


def latent() -> ModelSpec:
    """Latent attention, with queries direct and through a bottleneck."""

    def latent_attention(i: int, q_rank: int | None) -> LatentAttention:
        cache = Positions(i, 1, 32 + 8, 32, Full(), latent=True)
        rope = Rope(8, 10000.0, interleaved=True)
        return LatentAttention(
            4, cache, 24**-0.5, Full(), rope, 16, 8, 16, 32, Norm(1e-6), q_rank, bias=q_rank is not None
        )

    router = Router(8, 2, Scoring.SIGMOID, True, 1e-20, 1.5, ExpertGroups(4, 2, 2), correction_bias=True)
    return model(
        [
            layer(latent_attention(0, None), Dense(96, SILU)),
            layer(latent_attention(1, 32), Routed(router, 32, SILU, shared=Dense(32, SILU))),
        ]
    )


def convolved() -> ModelSpec:
    """Short convolutions of several lengths, with biases and without, beside attention that shares their order."""

    def convolution(i: int, taps: int, bias: bool) -> ShortConvolution:
        return ShortConvolution(Fixed(i, (StateTensor("rows", (taps - 1, WIDTH)),)), bias)

    mixers = [
        convolution(0, 4, bias=True),
        attention(Positions(1, 2, 16, 16, Full()), qk_norm=QueryKeyNorm(NORM)),
        convolution(2, 2, bias=False),
    ]
    return model([layer(mixer, Dense(96, SILU)) for mixer in mixers])


def recurrent() -> ModelSpec:
    """Matrix states: with the delta rule and without, one decay a head or one a row, heads in groups and tiled, norm
    and gate in either order, beside attention; layers of one block; gates of one number a head or a token."""

    def recurrence(i: int, rule: Recurrence, output: OutputGate, taps: int = 4, **options: object) -> GatedRecurrence:
        decay = options.pop("decay", SoftplusDecay())
        if rule.delta:  # keys of length one, without which the rule's states grow
            options |= {"qk_norm": Norm(1e-6, weight=False), "q_scale": 1 / rule.key_dim, "k_scale": rule.key_dim**-0.5}
        return GatedRecurrence(recurrent_state(i, rule, taps), rule, decay, output, **options)

    normed = OutputGate(Curve.SILU, NORM, parts=4)
    grouped = Recurrence(4, 2, 16, 40, delta=True)  # a value of one slice of columns and a narrower one
    tiled = Recurrence(6, 3, 8, 12, delta=True, tiled=True)
    vector = Recurrence(4, 4, 16, 16, delta=True, vector_decay=True)
    sums = Recurrence(4, 2, 16, 64, delta=False)
    row = OutputGate(Curve.SILU, Norm(1e-5, weight=False), parts=2, first=True, row_weight=True)
    cache = Positions(2, 2, 16, 16, Full())
    router = Router(8, 3, Scoring.SIGMOID, True, 1e-20, 2.5, correction_bias=True)
    beside = SideBySide(
        attention(Positions(5, 2, 16, 16, Full())),
        recurrence(6, sums, OutputGate(Curve.SILU, None), skip=True, taps_bias=True, decay=SoftplusDecay(0.001, 0.2)),
    )
    return model(
        [
            layer(
                recurrence(0, grouped, normed),
                Routed(
                    Router(8, 2, Scoring.SOFTMAX, renormalise=True), 32, SILU, shared=Dense(64, SILU), shared_gate=True
                ),
            ),
            layer(recurrence(1, tiled, OutputGate(Curve.SIGMOID, NORM, parts=6), taps=2), Dense(96, SILU)),
            layer(attention(cache, gate=AttentionGate(), qk_norm=QueryKeyNorm(NORM)), None),
            layer(
                recurrence(
                    3,
                    vector,
                    OutputGate(Curve.SIGMOID, NORM, parts=4),
                    taps=3,
                    rank=32,
                    decay=SigmoidDecay(5.0),
                ),
                None,
            ),
            layer(None, Routed(router, 32, Curve.RELU2, latent=32, shared=Dense(96, Curve.RELU2))),
            layer(recurrence(4, sums, row, skip=True, taps_bias=True), Dense(64, Curve.RELU2)),
            layer(beside, None),
        ]
    )


def parallel() -> ModelSpec:
    """Positions from a table; branches in parallel, with one norm or two; a weight for each head; norms inside
    the branches; gates of one number a head; values narrower than keys; feed-forwards without a gate."""
    centred = Norm(1e-5, centred=True, bias=True)
    heads = QueryKeyNorm(Norm(1e-5, centred=True, weight=False), row_weight=True)
    caches = [Positions(0, 2, 16, 16, Full()), Positions(1, 2, 16, 8, Full()), Positions(2, 1, 16, 16, Full())]
    gate = AttentionGate(Curve.SOFTPLUS, per_head=True, bias=True)
    return model(
        [
            layer(
                attention(caches[0], qk_norm=heads, rope=None),
                Dense(96, Curve.RELU, bias=True),
                mixer_in=centred,
                feed_forward_in=None,
                parallel=True,
            ),
            layer(attention(caches[1], gate=gate, out_norm=NORM), Dense(96, Curve.GELU), parallel=True),
            layer(attention(caches[2]), Dense(96, Glu(Curve.RELU2), inner_norm=centred)),
            layer(None, Dense(96, LearnedCurve(0.5), bias=True)),
            layer(None, Dense(96, Glu(Curve.SILU, clamp=1.5, gate_clamp=1.2))),
        ],
        learned_positions=600,
    )


MODELS = {
    f.__name__: f
    for f in (plain, windowed, parallel, per_layer, streamed, routed, shortcut, latent, convolved, recurrent)
}


def wide() -> ModelSpec:
    """Rows of 256, which every type's blocks fit; routed, so that stacks are packed too."""
    cache = Positions(0, 2, 64, 64, Full())
    layers = [layer(attention(cache), Routed(Router(4, 2, Scoring.SOFTMAX), 256, SILU))]
    return replace(model(layers), width=256)


def random_tensors(spec: ModelSpec, seed: int = 0) -> dict[str, torch.Tensor]:
    """Every parameter by name: matrices that keep a row's size, norms around one, biases around zero.

    Queries are so large that scores are of size one, whatever a family multiplies them with: attention that random
    weights make sharp, as no trained model's is, amplifies every rounding tenfold.
    """
    generator = torch.Generator().manual_seed(seed)
    tensors = {}
    for p in parameters(decoder_weights(spec)):
        noise = torch.randn(p.shape, generator=generator)
        if p.name.endswith(".rate"):  # negative: a state forgets
            tensors[p.name] = -0.3 * noise.exp()
        elif p.name.endswith(("bias", "sinks")):
            tensors[p.name] = 0.3 * noise
        elif len(p.shape) == 1:
            tensors[p.name] = 1 + 0.1 * noise
        else:
            tensors[p.name] = noise * p.shape[-1] ** -0.5
    for i, layer in enumerate(spec.layers):
        for mixer in layer.mixers:
            match mixer:
                case LatentAttention(scale=scale, nope_dim=nope_dim, rope_dim=rope_dim, q_rank=q_rank):
                    last, size = "q" if q_rank is None else "q_up", nope_dim + rope_dim
                case ShortConvolution() | GatedRecurrence():
                    continue
                case Attention(scale=scale, cache=cache, qk_norm=qk_norm):
                    last, size = "q" if qk_norm is None else "q_norm", cache.key_dim
            name = f"layers.{i}.attention.{last}"
            if name in tensors:  # a norm may have no weight
                tensors[name] = tensors[name] / (scale * size**0.5)
    return tensors
