"""Routed families with grouped-query attention: a router picks a few experts for every token."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

from trilens.spec.families.dense import multiplied
from trilens.spec.families.parts import (
    activation,
    attentions,
    decoder_only,
    each_layer,
    expert_groups,
    head_norms,
    layer_count,
    layer_types,
    masks_by_type,
    optional_number,
    partial_dim,
    read_rope,
    repeated,
    rope_rules,
    rope_theta,
    scaled_rope,
    stated_head_dim,
    whole_norms,
    window_mask,
    with_attention,
)
from trilens.spec.keys import MOST_EXPERTS, Keys
from trilens.spec.model import (
    Chunk,
    Curve,
    Dense,
    FeedForward,
    Full,
    Glu,
    ModelSpec,
    Norm,
    PositionScale,
    QueryKeyNorm,
    Rope,
    Routed,
    Router,
    Scoring,
)


def mixtral(k: Keys) -> ModelSpec:
    """Mixtral 8x7B and 8x22B: two of eight experts on every layer."""
    k.assume(num_experts=8, num_experts_per_tok=2, rms_norm_eps=1e-5)
    router = Router(expert_count(k), k.integer("num_experts_per_tok"), Scoring.SOFTMAX, renormalise=True)
    mask = window_mask(k, k.length("max_position_embeddings", 131072))
    return decoder_only(k, "mixtral", mask=lambda i: mask, feed_forward=_everywhere(k, router))


def qwen3_moe(k: Keys) -> ModelSpec:
    """Qwen3-30B-A3B, 235B-A22B and Coder: Qwen3 with experts, on all layers but those listed."""
    k.assume(num_experts=128, num_experts_per_tok=8, moe_intermediate_size=768, decoder_sparse_step=1)
    # said by the class: normalised heads, and no shared expert
    k.ignore("use_qk_norm", "shared_expert_intermediate_size", "max_window_layers", "layer_types", "qkv_bias")
    renormalise, bias = k.flag("norm_topk_prob", False), k.flag("attention_bias", False)
    router = Router(expert_count(k), k.integer("num_experts_per_tok"), Scoring.SOFTMAX, renormalise=renormalise)
    glu = Glu(activation(k))
    routed = Routed(router, k.integer("moe_intermediate_size"), glu)
    step, dense_only = k.integer("decoder_sparse_step"), k.integers("mlp_only_layers") or ()
    every_layer_routed = step == 1 and not dense_only
    k.ignore("intermediate_size")
    dense = routed if every_layer_routed else Dense(k.integer("intermediate_size"), glu)

    def feed_forward(i: int) -> FeedForward:
        return routed if i not in dense_only and (i + 1) % step == 0 else dense

    if k.flag("use_sliding_window", False):
        mask = window_mask(k, k.length("max_position_embeddings"))
    else:
        mask = Full()
        k.ignore("sliding_window")
    spec = decoder_only(k, "qwen3_moe", qkv_bias=bias, out_bias=bias, mask=lambda i: mask, feed_forward=feed_forward)
    return head_norms(spec)


def olmoe(k: Keys) -> ModelSpec:
    """OLMoE: norms over all heads together, then a bound on q, k and v where one is stated."""
    k.assume(num_experts=64, num_experts_per_tok=8, rms_norm_eps=1e-5)
    renormalise, bias = k.flag("norm_topk_prob", False), k.flag("attention_bias", False)
    router = Router(expert_count(k), k.integer("num_experts_per_tok"), Scoring.SOFTMAX, renormalise=renormalise)
    spec = decoder_only(k, "olmoe", qkv_bias=bias, out_bias=bias, feed_forward=_everywhere(k, router))
    return attentions(whole_norms(spec), clip=optional_number(k, "clip_qkv"))


def granite_moe(k: Keys) -> ModelSpec:
    """Granite 3 with experts: the softmax is over the chosen ones."""
    k.assume(num_experts=8, num_experts_per_tok=2)
    bias = k.flag("attention_bias", False)
    k.ignore("mlp_bias")
    router = Router(expert_count(k), k.integer("num_experts_per_tok"), Scoring.TOP_SOFTMAX)
    spec = decoder_only(k, "granite_moe", qkv_bias=bias, out_bias=bias, feed_forward=_everywhere(k, router))
    return multiplied(k, spec)


def phimoe(k: Keys) -> ModelSpec:
    """Phi-3.5-MoE: sparsemixer routing, layer norms with biases, long factors with a stretch of their own."""
    k.assume(num_experts=16, num_experts_per_tok=2, rms_norm_eps=1e-5, router_jitter_noise=0.01)
    k.ignore("input_jitter_noise", "expert_dropout")
    bias, context = k.flag("attention_bias", False), k.length("max_position_embeddings", 131072)
    jitter = k.number("router_jitter_noise", least=0)
    chosen = k.integer("num_experts_per_tok")
    if chosen != 2:
        raise k.wrong("num_experts_per_tok", chosen, "2, the number sparsemixer is defined for")
    router = Router(expert_count(k), chosen, Scoring.SPARSEMIXER, jitter=jitter)
    mask, rope = window_mask(k, context), _phimoe_rope(k, context)
    spec = decoder_only(
        k,
        "phimoe",
        qkv_bias=bias,
        out_bias=bias,
        norm=Norm(k.number("rms_norm_eps", least=0, most=1), centred=True, bias=True),
        mask=lambda i: mask,
        rope=lambda i: rope,
        feed_forward=_everywhere(k, router),
    )
    return replace(spec, head=replace(spec.head, bias=k.flag("lm_head_bias", False)))


def _phimoe_rope(k: Keys, context: int) -> Rope:
    rules = rope_rules(k)
    dim = stated_head_dim(k, k.integer("hidden_size"), k.integer("num_attention_heads"))
    rope = scaled_rope(k, rules, partial_dim(k, rules, dim), rope_theta(k, rules), context)
    if rules is None and "original_max_position_embeddings" in k:
        k.defaults["rope_scaling"] = "none"
        k.ignore("original_max_position_embeddings")
    if rules is None or rope.scaling is None:
        return rope
    return replace(
        rope, attention_factor=rules.positive("short_mscale"), long_attention_factor=rules.positive("long_mscale")
    )


def glm4_moe(k: Keys) -> ModelSpec:
    """GLM-4.5, 4.6, 4.7: half of each head turned, sigmoid scores with a correction, the first layers dense."""
    k.assume(partial_rotary_factor=0.5, rms_norm_eps=1e-5, max_position_embeddings=131072)
    k.assume(first_k_dense_replace=1, moe_intermediate_size=1408, n_shared_experts=1, routed_scaling_factor=1.0)
    k.assume(num_experts=128, num_experts_per_tok=8)
    spec = decoder_only(
        k, "glm4_moe", qkv_bias=k.flag("attention_bias", False), feed_forward=corrected_experts(k, layer_count(k))
    )
    return head_norms(spec) if k.flag("use_qk_norm", False) else spec


def minimax_m2(k: Keys) -> ModelSpec:
    """MiniMax-M2 to M2.7: norms over all heads together, part of each head turned, sigmoid scores with a correction."""
    k.assume(head_dim=128, num_key_value_heads=8, num_experts=256, num_experts_per_tok=8, rope_theta=5000000.0)
    k.assume(max_position_embeddings=196608, vocab_size=200064)
    said = {"use_qk_norm": True, "qk_norm_type": "per_layer", "use_routing_bias": True, "scoring_func": "sigmoid"}
    repeated(k, {**said, "shared_intermediate_size": 0})
    # layers that predict further tokens, which its files do not have, and factors of a design before it
    k.ignore("use_mtp", "mtp_transformer_layers", "num_mtp_modules", "mlp_intermediate_size", "num_experts")
    k.ignore("layernorm_full_attention_beta", "layernorm_linear_attention_beta", "layernorm_mlp_beta")
    if any(kind != 1 for kind in k.integers("attn_type_list") or ()):
        raise k.wrong("attn_type_list", k.raw("attn_type_list"), "1 for each layer: attention that sees everything")
    head_dim = k.integer("head_dim")
    if "rotary_dim" in k:
        turned = k.integer("rotary_dim", most=head_dim)
        k.assume(partial_rotary_factor=turned / head_dim)
    router = Router(
        expert_count(k), k.integer("num_experts_per_tok"), Scoring.SIGMOID, renormalise=True, correction_bias=True
    )
    return whole_norms(decoder_only(k, "minimax_m2", feed_forward=_everywhere(k, router)))


def corrected_experts(
    k: Keys, count: int, scoring: Scoring = Scoring.SIGMOID, correction_bias: bool = True
) -> Callable[[int], FeedForward]:
    """DeepSeek-V3's feed-forward: dense layers first, then sigmoid scores corrected by a learned bias for the choice,
    limited to the best groups, renormalised and scaled, beside shared experts as one."""
    experts, width = expert_count(k), k.integer("moe_intermediate_size")
    renormalise = k.flag("norm_topk_prob", True)
    router = Router(
        experts,
        k.integer("num_experts_per_tok"),
        scoring,
        renormalise=renormalise,
        renormalise_eps=1e-20 if renormalise else 0.0,
        scale=k.positive("routed_scaling_factor", 1.0),
        groups=expert_groups(k, best=2),
        correction_bias=correction_bias,
    )
    glu, shared = Glu(activation(k)), k.integer("n_shared_experts", 0, least=0)
    routed = Routed(router, width, glu, shared=Dense(shared * width, glu) if shared else None)
    first, dense = k.integer("first_k_dense_replace", 0, least=0), Dense(k.integer("intermediate_size"), glu)
    if (frequency := k.raw("moe_layer_freq")) not in (None, 1):
        raise k.wrong("moe_layer_freq", frequency, "1: experts on every layer behind the first dense ones")
    # beside the decoder: the layers that predict further tokens, and how engines spread the experts
    k.ignore("num_nextn_predict_layers", "num_mtp_layers", "ep_size", "scoring_func", "topk_method", "mlp_layer_types")
    types = k.texts("mlp_layer_types", count)
    sparse = [t == "sparse" for t in types] if types else [i >= first for i in range(count)]
    return lambda i: routed if sparse[i] else dense


def gpt_oss(k: Keys) -> ModelSpec:
    """gpt-oss 20b and 120b: sinks, a clamped gate, biases everywhere, windows on every other layer."""
    k.assume(head_dim=64, num_experts=128, num_experts_per_tok=4, rope_theta=150000.0, rms_norm_eps=1e-5)
    k.assume(swiglu_limit=7.0, swiglu_alpha=1.702, sliding_window=128, max_position_embeddings=131072)
    k.assume(
        rope_scaling={
            "rope_type": "yarn",
            "factor": 32.0,
            "beta_fast": 32.0,
            "beta_slow": 1.0,
            "truncate": False,
            "original_max_position_embeddings": 4096,
        }
    )
    # said again by other keys, or by the class: the gate is always silu with a slope of its own
    k.ignore("experts_per_token", "initial_context_length", "hidden_act")
    bias = k.flag("attention_bias", True)
    router = Router(expert_count(k), k.integer("num_experts_per_tok"), Scoring.TOP_SOFTMAX, bias=True)
    glu = Glu(Curve.SILU, clamp=k.positive("swiglu_limit"), slope=k.number("swiglu_alpha"), up_offset=1.0)
    routed = Routed(router, k.integer("intermediate_size"), glu, bias=True)
    types = layer_types(k, lambda i: "full_attention" if i % 2 else "sliding_attention")
    spec = decoder_only(
        k, "gpt_oss", qkv_bias=bias, out_bias=bias, mask=masks_by_type(k, types), feed_forward=lambda i: routed
    )
    return attentions(spec, sinks=True)


def llama4(k: Keys) -> ModelSpec:
    """Llama 4: chunks on turned layers; every fourth sees everything, unturned, with queries that grow by distance."""
    k.assume(head_dim=128, max_position_embeddings=131072, rms_norm_eps=1e-5, attention_chunk_size=8192)
    k.assume(intermediate_size=8192, intermediate_size_mlp=16384, interleave_moe_layer_step=1, num_experts=16)
    k.assume(num_experts_per_tok=1, no_rope_layer_interval=4, attn_scale=0.1, floor_scale=8192, use_qk_norm=True)
    k.assume(attn_temperature_tuning=True)
    k.ignore("for_llm_compressor", "_attn_implementation_autoset", "layer_types")
    count, bias, context = layer_count(k), k.flag("attention_bias", False), k.length("max_position_embeddings")
    every = k.integer("no_rope_layer_interval")
    turned = k.integers("no_rope_layers") or tuple(int((i + 1) % every != 0) for i in range(count))
    if len(turned) != count:
        raise k.wrong("no_rope_layers", turned, f"a list of {count} integers")
    chunk = Chunk(k.length("attention_chunk_size")) if "attention_chunk_size" in k else Full()
    rope = read_rope(k, k.integer("head_dim"), context, interleaved=True)
    spec = decoder_only(
        k,
        "llama4",
        qkv_bias=bias,
        out_bias=bias,
        mask=lambda i: chunk if turned[i] else Full(),
        rope=lambda i: rope if turned[i] else None,
        feed_forward=_llama4_feed_forward(k, count),
    )
    plain = replace(spec.final_norm, weight=False)
    norm = QueryKeyNorm(plain) if k.flag("use_qk_norm", True) else None
    tuned = k.flag("attn_temperature_tuning", True)
    growth = PositionScale(k.number("attn_scale", least=0), k.positive("floor_scale"), offset=1)
    by_turn: dict[bool, dict[str, Any]] = {
        True: {"qk_norm": norm},
        False: {"position_scale": growth if tuned else None},
    }
    return each_layer(spec, lambda i, layer: with_attention(layer, **by_turn[bool(turned[i])]))


def _llama4_feed_forward(k: Keys, count: int) -> Callable[[int], FeedForward]:
    """Every `interleave_moe_layer_step`-th layer routed: one sigmoid-weighed expert, beside a shared one."""
    glu, width, step = Glu(activation(k)), k.integer("intermediate_size"), k.integer("interleave_moe_layer_step")
    router = Router(expert_count(k), k.integer("num_experts_per_tok"), Scoring.SIGMOID)
    routed = Routed(router, width, glu, weight_on_input=True, shared=Dense(width, glu))
    dense = Dense(k.integer("intermediate_size_mlp"), glu)
    listed = k.integers("moe_layers")
    where = set(range(step - 1, count, step) if listed is None else listed)
    return lambda i: routed if i in where else dense


def _everywhere(k: Keys, router: Router) -> Callable[[int], FeedForward]:
    """Experts of width `intermediate_size` on every layer."""
    routed = Routed(router, k.integer("intermediate_size"), Glu(activation(k)))
    return lambda i: routed


def expert_count(k: Keys, least: int = 1) -> int:
    """How many experts there are, under any of the names that families and re-saved files give it."""
    stated = [name for name in ("num_local_experts", "num_experts", "n_routed_experts") if name in k.values]
    counts = {k.integer(name, least=least, most=MOST_EXPERTS) for name in stated}
    if len(counts) > 1:
        raise k.wrong(stated[0], k.values[stated[0]], f"the same number as {stated[1]}, {k.values[stated[1]]}")
    return counts.pop() if counts else k.integer("num_experts", most=MOST_EXPERTS)
