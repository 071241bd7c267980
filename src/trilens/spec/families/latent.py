"""Families with latent attention: DeepSeek V2 and V3, Kimi K2 and Kimi Linear, GLM-4.7-Flash, Mistral Large 3."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

from trilens.errors import UnsupportedModel
from trilens.spec.families.parts import (
    WIDEST_HEAD,
    activation,
    expert_groups,
    layer_count,
    layer_types,
    query_growth,
    repeated,
    rope_rules,
    rope_theta,
    scaled_rope,
)
from trilens.spec.families.recurrent import delta_rule, with_recurrences
from trilens.spec.families.routed import corrected_experts, expert_count
from trilens.spec.keys import Keys
from trilens.spec.model import (
    Curve,
    Dense,
    FeedForward,
    Full,
    Glu,
    Head,
    LatentAttention,
    Layer,
    ModelSpec,
    Norm,
    OutputGate,
    Positions,
    PositionScale,
    Recurrence,
    Routed,
    Router,
    Scoring,
    YarnScaling,
)
from trilens.spec.rope import yarn_attention_factor


def deepseek_v2(k: Keys) -> ModelSpec:
    """DeepSeek-V2 and V2-Lite: softmax scores, taken from the best groups or from all."""
    k.assume(q_lora_rank=1536, kv_lora_rank=512, qk_nope_head_dim=128, qk_rope_head_dim=64, v_head_dim=128)
    k.assume(num_experts=64, n_shared_experts=2, routed_scaling_factor=1.0, topk_method="greedy")
    method, experts = k.text("topk_method"), expert_count(k)
    if method not in ("greedy", "group_limited_greedy"):
        raise UnsupportedModel(
            f"{k.where}: topk_method {method!r} is not supported; supported: greedy, group_limited_greedy"
        )
    if k.flag("norm_topk_prob", False) or k.text("scoring_func", "softmax") != "softmax":
        raise UnsupportedModel(f"{k.where}: norm_topk_prob or scoring_func other than softmax is not supported")
    groups = expert_groups(k, best=1)
    router = Router(
        experts,
        k.integer("num_experts_per_tok"),
        Scoring.SOFTMAX,
        scale=k.positive("routed_scaling_factor"),
        groups=groups if method == "group_limited_greedy" else None,
    )
    glu, width = Glu(activation(k)), k.integer("moe_intermediate_size")
    bias, shared = k.flag("mlp_bias", False), k.integer("n_shared_experts")
    routed = Routed(router, width, glu, shared=Dense(shared * width, glu, bias))
    first, dense = k.integer("first_k_dense_replace", 0, least=0), Dense(k.integer("intermediate_size"), glu, bias)
    k.ignore("moe_layer_freq", "ep_size")
    return _latent(k, "deepseek_v2", lambda i: routed if i >= first else dense)


def deepseek_v3(k: Keys) -> ModelSpec:
    """DeepSeek-V3 and R1, and Kimi K2, which is the same class in other sizes."""
    k.assume(q_lora_rank=1536, kv_lora_rank=512, qk_nope_head_dim=128, qk_rope_head_dim=64, v_head_dim=128)
    k.assume(num_experts=256, num_experts_per_tok=8, n_shared_experts=1, routed_scaling_factor=2.5)
    k.assume(n_group=8, topk_group=4, first_k_dense_replace=3, moe_intermediate_size=2048)
    for name, known in (("scoring_func", "sigmoid"), ("topk_method", "noaux_tc")):
        if (stated := k.text(name, known)) != known:
            raise UnsupportedModel(f"{k.where}: {name} {stated!r} is not supported in this family; supported: {known}")
    return _latent(k, "deepseek_v3", corrected_experts(k, layer_count(k)))


def kimi_linear(k: Keys) -> ModelSpec:
    """Kimi Linear: delta rule with a decay for each key column on most layers, latent attention without positions."""
    k.renamed(KIMI_LINEAR)
    k.assume(kv_lora_rank=512, qk_nope_head_dim=128, qk_rope_head_dim=64, v_head_dim=128, rms_norm_eps=1e-5)
    k.assume(num_experts=256, num_experts_per_tok=8, n_shared_experts=1, routed_scaling_factor=2.446)
    k.assume(first_k_dense_replace=1, moe_intermediate_size=1024, intermediate_size=9216)
    k.assume(max_position_embeddings=1048576)
    # a rope that no layer has, and what says again how experts are chosen
    k.ignore("rope_theta", "rope_scaling", "rope_parameters", "rope_interleave", "use_grouped_topk", "layer_types")
    repeated(k, {"moe_router_activation_func": "sigmoid", "mla_use_nope": True})
    count, experts = layer_count(k), corrected_experts(k, layer_count(k))
    inner = k.mapping("linear_attn_config")
    linear = inner if inner is not None else k
    linear.renamed({"head_dim": "linear_head_dim", "num_heads": "linear_num_heads"})
    linear.renamed({"short_conv_kernel_size": "linear_conv_kernel_dim"})
    k.ignore("linear_head_dim", "linear_num_heads", "linear_conv_kernel_dim")
    heads, dim = linear.integer("linear_num_heads", 32), linear.integer("linear_head_dim", 128, most=WIDEST_HEAD)
    rule = Recurrence(heads, heads, dim, dim, delta=True, vector_decay=True)
    spec = _latent(k, "kimi_linear", experts, turned=False)
    taps = linear.integer("linear_conv_kernel_dim", 4, least=2)
    recurrence = delta_rule(rule, taps, OutputGate(Curve.SIGMOID, spec.final_norm, parts=heads), rank=dim)
    full = _full_layers(k, inner, count)
    return with_recurrences(spec, recurrence, lambda i: i not in full)


# Its own words, where transformers has others.
KIMI_LINEAR = {
    "model_max_length": "max_position_embeddings",
    "moe_renormalize": "norm_topk_prob",
    "num_expert_group": "n_group",
    "num_experts_per_token": "num_experts_per_tok",
    "num_shared_experts": "n_shared_experts",
}


def _full_layers(k: Keys, linear: Keys | None, count: int) -> set[int]:
    """The layers with attention: listed from 1 on, or by `layer_types`, or every fourth behind the first."""
    if linear is not None:
        listed, others = linear.integers("full_attn_layers"), linear.integers("kda_layers")
        if listed is not None and "layer_types" not in k:
            if others is not None and sorted((*listed, *others)) != list(range(1, count + 1)):
                raise linear.wrong("kda_layers", others, f"with full_attn_layers each of the layers 1 to {count} once")
            return {layer - 1 for layer in listed}
    types = layer_types(
        k,
        lambda i: "full_attention" if i and i % 4 == 0 else "linear_attention",
        known=("linear_attention", "full_attention"),
    )
    return {i for i, kind in enumerate(types) if kind == "full_attention"}


def glm4_moe_lite(k: Keys) -> ModelSpec:
    """GLM-4.7-Flash: DeepSeek-V3's layers with the first one dense."""
    k.assume(hidden_size=2048, intermediate_size=10240, moe_intermediate_size=1536, num_hidden_layers=47)
    k.assume(num_attention_heads=20, n_shared_experts=1, num_experts=64, routed_scaling_factor=1.8)
    k.assume(kv_lora_rank=512, q_lora_rank=768, qk_rope_head_dim=64, v_head_dim=256, qk_nope_head_dim=192)
    k.assume(num_experts_per_tok=4, max_position_embeddings=202752, rms_norm_eps=1e-5, first_k_dense_replace=1)
    return _latent(k, "glm4_moe_lite", corrected_experts(k, layer_count(k)))


def mistral4(k: Keys) -> ModelSpec:
    """Mistral Large 3 in transformers' form: softmax scores renormalised, queries that grow by distance."""
    k.assume(q_lora_rank=1024, kv_lora_rank=256, qk_rope_head_dim=64, v_head_dim=128, qk_nope_head_dim=64)
    k.assume(hidden_size=4096, intermediate_size=12288, moe_intermediate_size=2048, num_hidden_layers=36)
    k.assume(num_attention_heads=32, n_shared_experts=1, num_experts=128, num_experts_per_tok=4)
    k.assume(max_position_embeddings=1048576, vocab_size=131072, rms_norm_eps=1e-6)
    k.assume(
        rope_parameters={
            "rope_type": "yarn",
            "rope_theta": 10000.0,
            "factor": 128.0,
            "original_max_position_embeddings": 8192,
            "mscale_all_dim": 1.0,
            "mscale": 1.0,
            "llama_4_scaling_beta": 0.1,
        }
    )
    experts = corrected_experts(k, layer_count(k), Scoring.SOFTMAX, correction_bias=False)
    return _latent(k, "mistral4", experts, query_growth(k))


def mistral_native(k: Keys) -> ModelSpec:
    """Mistral Large 3 in its publisher's own form, params.json: the keys are renamed, and `mistral4` reads them."""
    moe, yarn = _stated(k, "moe"), _stated(k, "yarn")
    growth = _stated(k, "llama_4_scaling")
    for keys in (moe, yarn, growth):
        keys.ignore(*keys.values)
    k.ignore(*NATIVE, "head_dim", "n_kv_heads", "moe", "yarn", "llama_4_scaling", "vision_encoder")
    config: dict[str, Any] = {ours: k.values[theirs] for theirs, ours in NATIVE.items() if theirs in k.values}
    config |= {ours: moe.values[theirs] for theirs, ours in NATIVE_EXPERTS.items() if theirs in moe.values}
    if moe.values.get("route_every_n", 1) != 1:
        raise moe.wrong("route_every_n", moe.values["route_every_n"], "1: experts on every layer")
    config["norm_topk_prob"] = True
    rules = {ours: yarn.values[theirs] for theirs, ours in NATIVE_YARN.items() if theirs in yarn.values}
    # without `apply_scale` neither the angles nor the attention's scale are stretched
    whole = 1.0 if yarn.values.get("apply_scale", True) else 0.0
    config["rope_parameters"] = {
        **rules,
        "rope_type": "yarn",
        "rope_theta": k.values.get("rope_theta", 10000.0),
        "attention_factor": 1.0,
        "mscale_all_dim": whole,
        "llama_4_scaling_beta": growth.number("beta", 0.0, least=0),
    }
    spec = mistral4(Keys(config, k.where, spelled=_spelled()))
    return replace(spec, family="mistral_native")


NATIVE = {
    "dim": "hidden_size",
    "n_layers": "num_hidden_layers",
    "hidden_dim": "intermediate_size",
    "n_heads": "num_attention_heads",
    "norm_eps": "rms_norm_eps",
    "vocab_size": "vocab_size",
    "tied_embeddings": "tie_word_embeddings",
    "rope_theta": "rope_theta",
    "max_position_embeddings": "max_position_embeddings",
    "q_lora_rank": "q_lora_rank",
    "kv_lora_rank": "kv_lora_rank",
    "qk_nope_head_dim": "qk_nope_head_dim",
    "qk_rope_head_dim": "qk_rope_head_dim",
    "v_head_dim": "v_head_dim",
}
NATIVE_EXPERTS = {
    "expert_hidden_dim": "moe_intermediate_size",
    "num_experts": "n_routed_experts",
    "num_experts_per_tok": "num_experts_per_tok",
    "num_shared_experts": "n_shared_experts",
    "first_k_dense_replace": "first_k_dense_replace",
    "num_expert_groups": "n_group",
    "num_expert_groups_per_tok": "topk_group",
    "routed_scale": "routed_scaling_factor",
}
NATIVE_YARN = {
    "factor": "factor",
    "original_max_position_embeddings": "original_max_position_embeddings",
    "beta": "beta_fast",
    "alpha": "beta_slow",
}


def _spelled() -> dict[str, str]:
    """Our names -> those of params.json."""
    nested = (("moe.", NATIVE_EXPERTS, ""), ("yarn.", NATIVE_YARN, "rope_parameters."))
    inner = {at + ours: outer + theirs for outer, names, at in nested for theirs, ours in names.items()}
    return inner | {ours: theirs for theirs, ours in NATIVE.items()} | {"rope_parameters.rope_theta": "rope_theta"}


def _stated(k: Keys, name: str) -> Keys:
    found = k.mapping(name)
    if found is None:
        raise k.wrong(name, k.values.get(name), "a mapping")
    return found


def _latent(
    k: Keys,
    family: str,
    feed_forward: Callable[[int], FeedForward],
    growth: PositionScale | None = None,
    *,
    turned: bool = True,
) -> ModelSpec:
    """The decoder of latent families: norm, attention, add, norm, feed-forward, add; with positions where `turned`."""
    heads, count, width = k.integer("num_attention_heads"), layer_count(k), k.integer("hidden_size")
    nope, rope_dim = k.integer("qk_nope_head_dim"), k.integer("qk_rope_head_dim", most=WIDEST_HEAD)
    value_dim, kv_rank = k.integer("v_head_dim"), k.integer("kv_lora_rank")
    q_rank = k.integer("q_lora_rank") if "q_lora_rank" in k else None
    context, norm = k.length("max_position_embeddings", 2048), Norm(k.number("rms_norm_eps", 1e-6, least=0, most=1))
    rules = rope_rules(k)
    theta, interleaved = rope_theta(k, rules), k.flag("rope_interleave", True)
    rope = scaled_rope(k, rules, rope_dim, theta, context, interleaved)
    scale = (nope + rope_dim) ** -0.5
    if rules is not None and isinstance(rope.scaling, YarnScaling) and rules.raw("mscale_all_dim"):
        scale *= yarn_attention_factor(rope.scaling.factor, rules.number("mscale_all_dim", least=0)) ** 2
    # of no meaning where keys are latent, and what only the rules of other ropes need
    k.ignore("head_dim", "qk_head_dim", "num_key_value_heads", "partial_rotary_factor", "q_lora_rank")
    if rules is not None:
        rules.ignore("partial_rotary_factor", "mscale", "mscale_all_dim")
    caches = tuple(Positions(i, 1, kv_rank + rope_dim, kv_rank, Full(), latent=True) for i in range(count))
    bias = k.flag("attention_bias", False)
    return ModelSpec(
        family=family,
        vocab=k.integer("vocab_size"),
        width=width,
        context=context,
        states=caches,
        final_norm=norm,
        head=Head(tied=k.flag("tie_word_embeddings", False)),
        layers=tuple(
            Layer(
                mixer=LatentAttention(
                    heads=heads,
                    cache=cache,
                    scale=scale,
                    mask=Full(),
                    rope=rope if turned else None,
                    nope_dim=nope,
                    rope_dim=rope_dim,
                    value_dim=value_dim,
                    kv_rank=kv_rank,
                    latent_norm=Norm(1e-6),  # the reference's own, whatever the config says of the other norms
                    q_rank=q_rank,
                    bias=bias,
                    position_scale=growth,
                ),
                feed_forward=feed_forward(i),
                mixer_in=norm,
                mixer_out=None,
                feed_forward_in=norm,
                feed_forward_out=None,
            )
            for i, cache in enumerate(caches)
        ),
    )
