"""Dense families: every token through every weight."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from trilens.spec.families.parts import (
    attentions,
    decoder_only,
    each_layer,
    head_norms,
    layer_count,
    layer_types,
    layers,
    masks_by_type,
    norms_behind,
    query_growth,
    ropes_by_type,
    stated_head_dim,
    whole_norms,
    window_mask,
    with_attention,
)
from trilens.spec.keys import Keys
from trilens.spec.model import Full, Mask, ModelSpec, Window


def llama(k: Keys) -> ModelSpec:
    """Llama 2, 3, 3.1 to 3.3, SmolLM2, and everything published under the same class."""
    bias = k.flag("attention_bias", False)
    return decoder_only(k, "llama", qkv_bias=bias, out_bias=bias, mlp_bias=k.flag("mlp_bias", False))


def mistral(k: Keys) -> ModelSpec:
    """Mistral 7B, NeMo, Small, Large 2: Llama with a stated head size, and a window on every layer in the first
    release."""
    mask = window_mask(k, k.length("max_position_embeddings", 2048))
    k.ignore("layer_types")
    return decoder_only(k, "mistral", mask=lambda i: mask)


def ministral3(k: Keys) -> ModelSpec:
    """Ministral 3: Mistral whose queries grow with the distance from the start."""
    k.assume(head_dim=128, max_position_embeddings=262144, rms_norm_eps=1e-5)
    k.assume(
        rope_parameters={
            "rope_type": "yarn",
            "rope_theta": 1000000.0,
            "factor": 16.0,
            "original_max_position_embeddings": 16384,
            "mscale_all_dim": 1.0,
            "mscale": 1.0,
            "llama_4_scaling_beta": 0.1,
        }
    )
    return replace(attentions(mistral(k), position_scale=query_growth(k)), family="ministral3")


def qwen2(k: Keys) -> ModelSpec:
    """Qwen2 and 2.5: biases on q, k and v whatever the config says, none on the output."""
    k.ignore("use_mrope")
    return decoder_only(k, "qwen2", qkv_bias=True, mask=_qwen_mask(k))


def qwen3(k: Keys) -> ModelSpec:
    """Qwen3: every head of queries and keys normalised before the rotation."""
    bias = k.flag("attention_bias", False)
    return head_norms(decoder_only(k, "qwen3", qkv_bias=bias, out_bias=bias, mask=_qwen_mask(k)))


def phi3(k: Keys) -> ModelSpec:
    """Phi-3, Phi-4 and Phi-4-mini: long factors for long requests, a part of each head turned, fused matrices."""
    k.assume(max_position_embeddings=4096, original_max_position_embeddings=4096, rms_norm_eps=1e-5)
    k.ignore("attention_bias", "mlp_bias", "lm_head_bias", "full_attn_mod", "interpolate_factor")
    mask = window_mask(k, k.length("max_position_embeddings"))
    return decoder_only(k, "phi3", mask=lambda i: mask)


def smollm3(k: Keys) -> ModelSpec:
    """SmolLM3: every fourth layer without positions."""
    k.assume(rope_theta=2000000.0, tie_word_embeddings=True, no_rope_layer_interval=4)
    bias, count = k.flag("attention_bias", False), layer_count(k)
    every = k.integer("no_rope_layer_interval")
    turned = k.integers("no_rope_layers", count) or [(i + 1) % every for i in range(count)]
    spec = decoder_only(
        k,
        "smollm3",
        qkv_bias=bias,
        out_bias=bias,
        mlp_bias=k.flag("mlp_bias", False),
        mask=_qwen_mask(k, default=lambda i: "full_attention" if turned[i] else "sliding_attention"),
    )
    return each_layer(spec, lambda i, x: x if turned[i] else with_attention(x, rope=None))


def olmo2(k: Keys) -> ModelSpec:
    """OLMo 2: norms behind the branches only, and over all heads together."""
    k.assume(rms_norm_eps=1e-5)
    bias = k.flag("attention_bias", False)
    return whole_norms(norms_behind(decoder_only(k, "olmo2", qkv_bias=bias, out_bias=bias)))


def olmo3(k: Keys) -> ModelSpec:
    """OLMo 3: OLMo 2 with windows on three of four layers; only the others have their positions scaled."""
    k.assume(rms_norm_eps=1e-5, rope_theta=500000.0, sliding_window=4096)
    bias, context = k.flag("attention_bias", False), k.length("max_position_embeddings", 2048)
    types = layer_types(k, lambda i: "sliding_attention" if (i + 1) % 4 else "full_attention")
    dim = stated_head_dim(k, k.integer("hidden_size"), k.integer("num_attention_heads"))
    ropes = ropes_by_type(k, dict.fromkeys(types, dim), context, local_theta=lambda theta: theta)
    spec = decoder_only(
        k, "olmo3", qkv_bias=bias, out_bias=bias, mask=masks_by_type(k, types), rope=lambda i: ropes[types[i]]
    )
    return whole_norms(norms_behind(spec))


def granite(k: Keys) -> ModelSpec:
    """Granite 3 dense: Llama with four constant factors."""
    bias = k.flag("attention_bias", False)
    spec = decoder_only(k, "granite", qkv_bias=bias, out_bias=bias, mlp_bias=k.flag("mlp_bias", False))
    return multiplied(k, spec)


def multiplied(k: Keys, spec: ModelSpec) -> ModelSpec:
    """Granite's factors on embedding, attention, branches and logits."""
    spec = attentions(spec, scale=k.positive("attention_multiplier", 1.0))
    spec = layers(spec, residual_scale=k.number("residual_multiplier", 1.0))
    head = replace(spec.head, scale=1 / k.positive("logits_scaling", 1.0))
    return replace(spec, embedding_scale=k.number("embedding_multiplier", 1.0), head=head)


def _qwen_mask(k: Keys, default: Callable[[int], str] | None = None) -> Callable[[int], Mask]:
    """Windows only where `use_sliding_window` says so: on the layers listed, else by the family's own rule."""
    used, first = k.flag("use_sliding_window", False), k.integer("max_window_layers", 28, least=0)
    if not used or "sliding_window" not in k:
        k.ignore("sliding_window", "layer_types")
        return lambda i: Full()
    default = default or (lambda i: "sliding_attention" if i >= first else "full_attention")
    types, size = layer_types(k, default), k.length("sliding_window")
    return lambda i: Window(size) if types[i] == "sliding_attention" else Full()
