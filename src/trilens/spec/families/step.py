"""Step-3.5 and 3.7: much of each layer is listed layer by layer."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from math import exp
from typing import Any

from trilens.spec.families.parts import (
    activation,
    attentions,
    decoder_only,
    head_norms,
    layer_count,
    layer_types,
    masks_by_type,
    repeated,
    ropes_by_type,
)
from trilens.spec.families.routed import expert_count
from trilens.spec.keys import LARGEST, Keys
from trilens.spec.model import AttentionGate, Curve, Dense, FeedForward, Glu, ModelSpec, Rope, Routed, Router, Scoring


def step3p5(k: Keys) -> ModelSpec:
    """Step-3.5 and 3.7 Flash: heads gated one by one, more query heads on layers with a window, and bounds on what the
    last layers' gates let through."""
    k.renamed({"num_attention_groups": "num_key_value_heads", "moe_num_experts": "num_experts"})
    k.renamed({"moe_top_k": "num_experts_per_tok", "share_expert_dims": "share_expert_dim"})
    k.renamed({"max_seq_len": "max_position_embeddings", "n_routed_experts": "num_experts"})
    k.assume(head_dim=128, num_key_value_heads=8, rms_norm_eps=1e-5, max_position_embeddings=128000)
    k.assume(num_experts=288, num_experts_per_tok=8, moe_intermediate_size=1280, share_expert_dim=1280)
    repeated(k, {"use_moe": True, "use_head_wise_attn_gate": True, "norm_expert_weight": True, "zero_centered": True})
    repeated(k, {"moe_router_activation": "sigmoid", "use_moe_router_bias": True, "need_fp32_gate": True})
    repeated(
        k, {"att_impl_type": "GQA", "use_qk_norm": True, "moe_every_n_layer": 1, "use_bidirectional_attention": False}
    )
    repeated(k, {"gating": True, "query_pre_attn_scalar": k.integer("head_dim"), "yarn_only_types": ["full_attention"]})
    k.ignore(*STEP_OTHERS)
    count = layer_count(k)
    types = layer_types(k, lambda i: "full_attention")
    windowed = [kind == "sliding_attention" for kind in types]
    heads = k.integer("num_attention_heads")
    other = k.mapping("attention_other_setting")
    if other is not None:
        repeated(other, {"attention_type": "sliding_attention", "head_dim": k.integer("head_dim")})
        repeated(
            other, {"num_attention_groups": k.integer("num_key_value_heads"), "true_head_dim": k.integer("head_dim")}
        )
    more = k.integer("num_sliding_attention_heads", heads if other is None else other.integer("num_attention_heads"))
    changed = {str(i): {"num_attention_heads": more} for i, there in enumerate(windowed) if there}
    again = k.raw("per_layer_config")  # as transformers saves it
    if again and again != changed:
        raise k.wrong("per_layer_config", again, f"{more} num_attention_heads in each layer with a window")
    bias, context = k.flag("attention_bias", False), k.length("max_position_embeddings")
    spec = decoder_only(
        k,
        "step3p5",
        qkv_bias=bias,
        out_bias=bias,
        mask=masks_by_type(k, types),
        rope=_ropes_by_layer(k, types, context),
        feed_forward=_bounded_experts(k, count),
        heads_of=[more if there else heads for there in windowed],
    )
    return attentions(head_norms(spec), gate=AttentionGate(per_head=True))


# Layers that predict further tokens, and what is said of each layer again.
STEP_OTHERS = (
    "num_nextn_predict_layers num_mtp_layers mtp_layer_types mtp_mlp_layer_types moe_layer_offset use_rope_layers "
    "per_layer_config num_local_experts swiglu_limits swiglu_limits_shared moe_layers_enum mlp_layer_types use_mfa "
    "output_router_logits"
).split()
SCALING = (
    "factor low_freq_factor high_freq_factor original_max_position_embeddings beta_fast beta_slow rope_type type alpha "
    "short_factor long_factor attention_factor mscale mscale_all_dim truncate"
).split()


def _ropes_by_layer(k: Keys, types: tuple[str, ...], context: int) -> Callable[[int], Rope]:
    """By type (transformers 5), or a theta and a share of each head that turns, listed for each layer."""
    if isinstance(k.raw("rope_theta"), list) or isinstance(k.raw("partial_rotary_factors"), list):
        thetas, shares = _by_type(k, "rope_theta", types, 10000.0), _by_type(k, "partial_rotary_factors", types, 1.0)
        scaling = k.raw("rope_scaling")
        if scaling is not None and not isinstance(scaling, Mapping):
            raise k.wrong("rope_scaling", scaling, "a mapping")
        by_type = {}
        for kind, theta in thetas.items():
            plain = {"rope_type": "default", "rope_theta": theta, "partial_rotary_factor": shares[kind]}
            by_type[kind] = {**plain, **scaling} if scaling and kind == "full_attention" else plain
        names = ("rope_theta", "partial_rotary_factors", "rope_scaling")
        at = {kind: f"rope_parameters.{kind}." for kind in by_type}
        own = {"rope_theta": "rope_theta", "partial_rotary_factor": "partial_rotary_factors"}
        k.spelled = {
            **k.spelled,
            **{
                f"{k.prefix}{place}{name}": f"{k.prefix}rope_scaling.{name}"
                for place in at.values()
                for name in SCALING
            },
            **{f"{k.prefix}{place}{name}": k.prefix + said for place in at.values() for name, said in own.items()},
        }
        k.values = {**{n: v for n, v in k.values.items() if n not in names}, "rope_parameters": by_type}
    ropes = ropes_by_type(k, dict.fromkeys(types, k.integer("head_dim")), context, local_theta=lambda theta: theta)
    return lambda i: ropes[types[i]]


def _by_type(k: Keys, name: str, types: tuple[str, ...], usual: float) -> dict[str, Any]:
    """A number for each type of layer, which is stated layer by layer or once for all."""
    value = k.raw(name)
    listed = value if isinstance(value, list) else [usual if value is None else value] * len(types)
    found: dict[str, Any] = {}
    for kind, number in zip(types, listed, strict=False):
        if found.setdefault(kind, number) != number:
            raise k.wrong(name, value, "the same number for all layers of a type")
    if len(listed) < len(types):
        raise k.wrong(name, value, f"a list of {len(types)} numbers")
    return found


def _bounded_experts(k: Keys, count: int) -> Callable[[int], FeedForward]:
    sparse = _routed_layers(k, count)
    chosen, scale = k.integer("num_experts_per_tok"), k.positive("moe_router_scaling_factor", 1.0)
    router = Router(expert_count(k), chosen, Scoring.SIGMOID, renormalise=True, scale=scale, correction_bias=True)
    bounds, shared_bounds = (_bounds(k, name, count) for name in ("swiglu_limits", "swiglu_limits_shared"))
    curve, bias = activation(k), k.flag("mlp_bias", False)
    if curve is not Curve.SILU and any((*bounds, *shared_bounds)):
        raise k.unknown("hidden_act", k.raw("hidden_act"))
    width, shared, dense = (k.integer(n) for n in ("moe_intermediate_size", "share_expert_dim", "intermediate_size"))

    def feed_forward(i: int) -> FeedForward:
        outer = _bounded(curve, shared_bounds[i])
        if i not in sparse:
            return Dense(dense, outer, bias)
        return Routed(router, width, _bounded(curve, bounds[i]), shared=Dense(shared, outer, bias))

    return feed_forward


def _routed_layers(k: Keys, count: int) -> set[int]:
    """The layers with experts: all from the fourth on, unless the configuration names them."""
    if (kinds := k.texts("mlp_layer_types", count)) is not None:
        return {i for i, kind in enumerate(kinds) if kind == "sparse"}
    named = k.raw("moe_layers_enum")
    if isinstance(named, str):
        numbers = [part.strip() for part in named.split(",") if part.strip()]
        if not all(number.isdecimal() for number in numbers):
            raise k.wrong("moe_layers_enum", named, "numbers of layers with commas between them")
        return {i for i in range(count) if str(i) in numbers}
    listed = k.integers("moe_layers_enum")
    return set(range(3, count)) if listed is None else set(listed)


def _bounds(k: Keys, name: str, count: int) -> list[float]:
    """One bound for each layer; 0 where there is none."""
    listed = k.raw(name)
    if listed is None:
        return [0.0] * count
    numbers = [0.0 if bound is None else bound for bound in listed] if isinstance(listed, list) else []
    if len(numbers) < count or any(
        isinstance(n, bool) or not isinstance(n, int | float) or not 0 <= n <= LARGEST for n in numbers
    ):
        raise k.wrong(name, listed, f"a list of {count} numbers from 0 to {LARGEST:g}")
    return [float(n) for n in numbers]


def _bounded(curve: Curve, bound: float) -> Glu:
    """The result of silu has an upper bound. silu increases where it is positive, so a bound on its input does the
    same: the number that silu maps to the bound."""
    if not bound:
        return Glu(curve)
    low, high = bound, bound + 1.0
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if middle / (1 + exp(-middle)) < bound else (low, middle)
    return Glu(curve, clamp=bound, gate_clamp=high)
