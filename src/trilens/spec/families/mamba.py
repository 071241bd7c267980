"""Families with Mamba-2 layers (arXiv 2405.21060): recurrences without the delta rule, whose step is learned."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from math import inf

from trilens.errors import UnsupportedModel
from trilens.spec.families.dense import multiplied
from trilens.spec.families.parts import (
    activation,
    decoder_only,
    expert_groups,
    layer_types,
    renumbered,
    repeated,
)
from trilens.spec.families.recurrent import with_recurrences
from trilens.spec.families.routed import expert_count
from trilens.spec.keys import LARGEST, Keys
from trilens.spec.model import (
    Attention,
    Curve,
    Dense,
    FeedForward,
    GatedRecurrence,
    Glu,
    Layer,
    ModelSpec,
    Norm,
    OutputGate,
    Recurrence,
    Routed,
    Router,
    Scoring,
    SideBySide,
    SoftplusDecay,
    recurrent_state,
)

# The words for a layer's kind in config.json, and in transformers 5's.
MAMBA, ATTENTION = ("mamba", "linear_attention"), ("attention", "full_attention")
NEMOTRON = {"M": "mamba", "*": "attention", "-": "mlp", "E": "moe"}


def granite_hybrid(k: Keys) -> ModelSpec:
    """Granite 4: Mamba-2 or attention, then a feed-forward that is dense, or routed beside a shared expert."""
    k.assume(shared_intermediate_size=1024, num_experts=8, num_experts_per_tok=2)
    said = {"init_method": "mup", "normalization_function": "rmsnorm"}
    repeated(k, {name: value for name, value in said.items() if name in k})
    bias, glu = k.flag("attention_bias", False), Glu(activation(k))
    shared = Dense(k.integer("shared_intermediate_size"), glu)
    feed_forward: FeedForward = shared
    if (experts := expert_count(k, least=0)) > 0:
        router = Router(experts, k.integer("num_experts_per_tok"), Scoring.TOP_SOFTMAX)
        feed_forward = Routed(router, k.integer("intermediate_size"), glu, shared=shared)
    k.ignore("intermediate_size", "num_experts_per_tok", "rope_parameters", "rope_scaling", "rope_theta")
    if (positions := k.raw("position_embedding_type")) not in (None, "rope", "nope"):
        raise k.wrong("position_embedding_type", positions, "rope or nope")
    types = layer_types(k, lambda i: "mamba", known=(*MAMBA, *ATTENTION))
    spec = decoder_only(
        k,
        "granite_hybrid",
        qkv_bias=bias,
        out_bias=bias,
        rope=None if positions == "rope" else lambda i: None,
        feed_forward=lambda i: feed_forward,
    )
    spec = multiplied(k, spec)
    if not set(types) & set(MAMBA):
        k.ignore(*MAMBA_KEYS)
        return spec
    return with_recurrences(spec, _mamba(k, spec), lambda i: types[i] in MAMBA)


def bamba(k: Keys) -> ModelSpec:
    """Bamba: attention on the layers listed, with half of each head turned, and a dense feed-forward everywhere."""
    k.assume(partial_rotary_factor=0.5, rms_norm_eps=1e-5, num_key_value_heads=8, max_position_embeddings=262144)
    k.ignore("num_logits_to_keep", "z_loss_coefficient", "layers_block_type", "layer_types", "attn_rotary_emb")
    bias, listed = k.flag("attention_bias", False), k.integers("attn_layer_indices") or ()
    spec = decoder_only(k, "bamba", qkv_bias=bias, out_bias=bias, mlp_bias=k.flag("mlp_bias", False))
    return with_recurrences(spec, _mamba(k, spec), lambda i: i not in listed)


def falcon_h1(k: Keys) -> ModelSpec:
    """Falcon-H1: attention and Mamba-2 side by side on every layer, and constant factors that go into the weights."""
    k.assume(rms_norm_eps=1e-5, num_key_value_heads=8, max_position_embeddings=8192, mamba_d_ssm=1024)
    # where and how its parts are computed; the head's rows; a layer's kind, which is the same for all
    k.ignore("num_logits_to_keep", "layers_block_type", "layer_types", "attn_layer_indices")
    repeated(k, {"mamba_use_mlp": True})
    without(k, "projectors_bias")
    bias, mlp_bias = k.flag("attention_bias", False), k.flag("mlp_bias", False)
    spec = decoder_only(k, "falcon_h1", qkv_bias=bias, out_bias=bias, mlp_bias=mlp_bias)
    recurrence = _mamba(k, spec, k.integer("mamba_d_ssm") if "mamba_d_ssm" in k else None)
    normed, behind = k.flag("mamba_rms_norm", False), k.flag("mamba_norm_before_gate", True)
    output = replace(recurrence.output, first=not behind) if normed else OutputGate(Curve.SILU, None)
    recurrence = replace(recurrence, output=output)

    def mixed(layer: Layer) -> Layer:
        mixer = layer.mixer  # attention everywhere, as `decoder_only` makes it
        return replace(layer, mixer=SideBySide(mixer, recurrence) if isinstance(mixer, Attention) else mixer)

    _falcon_factors(k)
    head = replace(spec.head, scale=k.positive("lm_head_multiplier", 1.0))
    spec = replace(spec, head=head, embedding_scale=k.positive("embedding_multiplier", 1.0))
    return renumbered(replace(spec, layers=tuple(map(mixed, spec.layers))))


def _falcon_factors(k: Keys) -> None:
    """What its constants make of the weights; of a bias only what stands behind its matrix."""
    gate, down = _factors(k, "mlp_multipliers", 2)
    within = k.positive("ssm_in_multiplier", 1.0)
    parts = zip(("gate", "v", "k", "q", "step"), _factors(k, "ssm_multipliers", 5), strict=True)
    into, key = k.positive("attention_in_multiplier", 1.0), k.positive("key_multiplier", 1.0)
    out, recurred = k.positive("attention_out_multiplier", 1.0), k.positive("ssm_out_multiplier", 1.0)
    weights = {
        "feed_forward.gate": gate,
        "feed_forward.gate.bias": gate,
        "feed_forward.down": down,
        "feed_forward.down.bias": down,
        "attention.q": into,
        "attention.k": into * key,
        "attention.k.bias": key,
        "attention.v": into,
        "attention.out": out,
        "attention.out.bias": out,
        **{f"recurrence.{part}": within * factor for part, factor in parts},
        "recurrence.out": recurred,
    }
    k.factors |= {"layers.{i}." + name: factor for name, factor in weights.items() if factor != 1.0}


def _factors(k: Keys, name: str, count: int) -> tuple[float, ...]:
    stated = k.raw(name)
    if stated is None:
        return (1.0,) * count
    listed = isinstance(stated, list | tuple) and len(stated) == count
    if not listed or not all(isinstance(v, int | float) and 1e-6 <= v <= LARGEST for v in stated):
        raise k.wrong(name, stated, f"a list of {count} numbers from 1e-06 to {LARGEST:g}")
    return tuple(map(float, stated))


def nemotron_h(k: Keys) -> ModelSpec:
    """Nemotron-H, Nano 2 and Nemotron-3: a layer is one block, a feed-forward has no gate, attention no positions."""
    k.assume(head_dim=128, num_key_value_heads=8, max_position_embeddings=4096, layer_norm_epsilon=1e-5)
    k.assume(mamba_num_heads=128, mamba_head_dim=64, n_groups=8, ssm_state_size=128, conv_kernel=4)
    k.assume(intermediate_size=21504, moe_intermediate_size=7688, moe_shared_expert_intermediate_size=7688)
    k.assume(num_experts=8, num_experts_per_tok=2, mlp_hidden_act="relu2", time_step_min=0.001)
    # training, how an engine computes, positions that its attention does not have, and the layers that predict
    k.ignore("time_step_max", "time_step_floor", "time_step_limit", "rescale_prenorm_residual", "residual_in_fp32")
    k.ignore("num_logits_to_keep", "use_mamba_kernels", "mamba_ssm_cache_dtype", "chunk_size", "expand", "hidden_act")
    k.ignore("rope_theta", "rope_parameters", "rope_scaling", "partial_rotary_factor", "moe_shared_expert_overlap")
    k.ignore("num_nextn_predict_layers", "mtp_hybrid_override_pattern", "mtp_layers_block_type", "n_shared_experts")
    for name in ("use_bias", "mamba_proj_bias", "attention_bias"):
        without(k, name)
    if "sliding_window" in k:
        raise k.wrong("sliding_window", k.raw("sliding_window"), "none: attention that sees everything")
    repeated(k, {"norm_eps": k.number("layer_norm_epsilon", least=0, most=1)})
    types = _nemotron_types(k)
    curve, bias = _relu2(k), k.flag("mlp_bias", False)
    feed_forwards: dict[str, FeedForward] = {}
    if "mlp" in types:
        feed_forwards["mlp"] = Dense(k.integer("intermediate_size"), curve, bias)
    if "moe" in types:
        feed_forwards["moe"] = _nemotron_experts(k, curve, bias)
    k.ignore(*NEMOTRON_FEED_FORWARD)
    norm = Norm(k.number("layer_norm_epsilon", least=0, most=1))
    any_ffn = next(iter(feed_forwards.values()), Dense(1, curve))
    k.assume(num_hidden_layers=len(types))
    spec = decoder_only(k, "nemotron_h", norm=norm, rope=lambda i: None, feed_forward=lambda i: any_ffn)
    recurrence = mamba2(
        k,
        heads=k.integer("mamba_num_heads"),
        head_dim=k.integer("mamba_head_dim"),
        groups=k.integer("n_groups"),
        width=k.integer("ssm_state_size"),
        taps=k.integer("conv_kernel", least=2),
        norm=norm,
        taps_bias=k.flag("use_conv_bias", True),
        decay=SoftplusDecay(least=k.number("time_step_min", least=0)),
    )
    if (act := k.text("mamba_hidden_act", "silu")) not in ("silu", "swish"):
        raise k.wrong("mamba_hidden_act", act, "silu")

    def block(i: int, layer: Layer) -> Layer:
        mixer = {"mamba": recurrence, "attention": layer.mixer}.get(types[i])
        ffn = feed_forwards.get(types[i])
        return Layer(mixer, ffn, norm if mixer else None, None, norm if ffn else None, None)

    return renumbered(replace(spec, layers=tuple(block(i, layer) for i, layer in enumerate(spec.layers))))


NEMOTRON_FEED_FORWARD = (
    "intermediate_size moe_intermediate_size moe_shared_expert_intermediate_size moe_latent_size num_experts_per_tok "
    "n_routed_experts num_local_experts norm_topk_prob routed_scaling_factor n_group topk_group"
).split()


def _nemotron_types(k: Keys) -> tuple[str, ...]:
    """`layers_block_type`, or before that a letter a layer; each as config.json has it."""
    names = {**dict.fromkeys(MAMBA, "mamba"), **dict.fromkeys(ATTENTION, "attention"), "mlp": "mlp", "moe": "moe"}
    k.ignore("hybrid_override_pattern", "layers_block_type", "layer_types")
    spellings = ("layers_block_type", "layer_types", "hybrid_override_pattern")
    name = next((n for n in spellings if n in k), next((n for n in spellings if n in k.values), spellings[0]))
    stated = k.raw(name)
    if name == "hybrid_override_pattern" and isinstance(stated, str):
        stated = [NEMOTRON.get(letter) for letter in stated]
    known = isinstance(stated, list) and len(stated) > 0 and all(isinstance(t, str) and t in names for t in stated)
    if not known:
        raise k.wrong(name, k.raw(name), "a kind for each layer: mamba, attention, mlp or moe (M, *, - or E)")
    types = tuple(names[t] for t in stated)
    if "num_hidden_layers" in k and (count := k.integer("num_hidden_layers")) != len(types):
        raise k.wrong("num_hidden_layers", count, f"{len(types)}, as many as {name} lists")
    return types


def _relu2(k: Keys) -> Curve:
    curves = {"relu2": Curve.RELU2, "silu": Curve.SILU, "gelu": Curve.GELU}
    act = k.text("mlp_hidden_act")
    if act not in curves:
        raise UnsupportedModel(f"{k.where}: mlp_hidden_act {act!r} is not supported; supported: {', '.join(curves)}")
    return curves[act]


def _nemotron_experts(k: Keys, curve: Curve, bias: bool) -> Routed:
    renormalise = k.flag("norm_topk_prob", True)
    router = Router(
        expert_count(k),
        k.integer("num_experts_per_tok"),
        Scoring.SIGMOID,
        renormalise=renormalise,
        renormalise_eps=1e-20 if renormalise else 0.0,
        scale=k.positive("routed_scaling_factor", 1.0),
        groups=expert_groups(k, best=2),
        correction_bias=True,
    )
    shared = Dense(k.integer("moe_shared_expert_intermediate_size"), curve, bias)
    latent = k.integer("moe_latent_size") if "moe_latent_size" in k else None
    k.ignore("moe_latent_size")
    if bias:
        raise k.wrong("mlp_bias", True, "false: experts without biases")
    return Routed(router, k.integer("moe_intermediate_size"), curve, shared=shared, latent=latent)


# ------------------------------------------------------------------------------------------------- parts

MAMBA_KEYS = (
    "mamba_n_heads mamba_d_head mamba_n_groups mamba_d_state mamba_d_conv mamba_expand mamba_chunk_size "
    "mamba_conv_bias mamba_proj_bias time_step_limit time_step_min time_step_max time_step_rank"
).split()


def _mamba(k: Keys, spec: ModelSpec, inner: int | None = None) -> GatedRecurrence:
    """The keys that Granite 4, Bamba and Falcon-H1 share."""
    k.assume(mamba_n_heads=128, mamba_n_groups=1, mamba_d_state=256, mamba_d_conv=4, mamba_expand=2)
    k.ignore("mamba_chunk_size", "time_step_min", "time_step_max", "time_step_rank", "mamba_expand")
    without(k, "mamba_proj_bias")
    if activation(k) is not Curve.SILU:
        raise k.wrong("hidden_act", k.raw("hidden_act"), "silu, which follows the convolution")
    inner, heads = inner or k.integer("mamba_expand") * spec.width, k.integer("mamba_n_heads")
    if inner % heads:
        raise k.wrong("mamba_n_heads", heads, f"a divisor of the {inner} numbers of a row")
    head_dim = inner // heads
    if k.raw("mamba_d_head") not in (None, "auto", head_dim):
        raise k.wrong("mamba_d_head", k.raw("mamba_d_head"), f"{head_dim}, a row of {inner} shared out among the heads")
    return mamba2(
        k,
        heads=heads,
        head_dim=head_dim,
        groups=k.integer("mamba_n_groups"),
        width=k.integer("mamba_d_state"),
        taps=k.integer("mamba_d_conv", least=2),
        norm=spec.final_norm,
        taps_bias=k.flag("mamba_conv_bias", True),
        decay=_limits(k),
    )


def mamba2(
    k: Keys,
    *,
    heads: int,
    head_dim: int,
    groups: int,
    width: int,
    taps: int,
    norm: Norm,
    taps_bias: bool,
    decay: SoftplusDecay,
) -> GatedRecurrence:
    """B is what we call keys, C queries and x values; a norm over each group behind the gate."""
    rule = Recurrence(heads, groups, key_dim=width, value_dim=head_dim, delta=False)
    output = OutputGate(Curve.SILU, replace(norm, weight=False), parts=groups, first=True, row_weight=True)
    state = recurrent_state(0, rule, taps)
    return GatedRecurrence(state, rule, decay, output, taps_bias=taps_bias, skip=True)


def _limits(k: Keys) -> SoftplusDecay:
    """`time_step_limit`: the least and the most that a step may be; unbounded where it is infinite."""
    limits = k.raw("time_step_limit")
    if limits is None:
        return SoftplusDecay()
    infinite = {"__float__": "Infinity"}  # as transformers 5 writes it
    pair = [inf if v == infinite else v for v in limits] if isinstance(limits, Sequence) else []
    numbers = len(pair) == 2 and all(isinstance(v, int | float) and not isinstance(v, bool) for v in pair)
    if not numbers or not 0 <= pair[0] <= pair[1] or pair[0] > LARGEST:
        raise k.wrong("time_step_limit", limits, "two numbers, the least and the most")
    return SoftplusDecay(float(pair[0]), float(pair[1]) if pair[1] <= LARGEST else None)


def without(k: Keys, name: str) -> None:
    """A bias that no published model of these families has."""
    if k.flag(name, False):
        raise UnsupportedModel(f"{k.where}: {k.spell(name)} true is not supported in this family; supported: false")
