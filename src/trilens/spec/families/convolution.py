"""Families that mix most layers' tokens by short convolutions, and the others' by attention."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from trilens.spec.families.parts import decoder_only, head_norms, layer_types, repeated
from trilens.spec.families.routed import expert_count
from trilens.spec.keys import Keys
from trilens.spec.model import (
    Attention,
    Curve,
    Dense,
    FeedForward,
    Fixed,
    Glu,
    Layer,
    ModelSpec,
    Norm,
    Routed,
    Router,
    Scoring,
    ShortConvolution,
    State,
    StateTensor,
)


def lfm2(k: Keys) -> ModelSpec:
    """LFM2 and LFM2.5: short convolutions, with attention on every second or third layer."""
    width = k.integer("block_ff_dim") if "block_ff_dim" in k else k.integer("intermediate_size")
    k.ignore("intermediate_size")
    k.assume(block_auto_adjust_ff_dim=True, block_ffn_dim_multiplier=1.0, block_multiple_of=256)
    k.ignore("block_ffn_dim_multiplier", "block_multiple_of")
    if k.flag("block_auto_adjust_ff_dim", True):
        width = int(2 * width / 3)
        if "block_ffn_dim_multiplier" in k:
            width = int(k.positive("block_ffn_dim_multiplier") * width)
            step = k.integer("block_multiple_of")
            width = -(-width // step) * step
    listed = k.integers("full_attn_idxs")
    dense = Dense(width, Glu(Curve.SILU))

    def default_type(i: int) -> str:
        return "full_attention" if listed is None or i in listed else "conv"

    return _short_convolutions(k, "lfm2", default_type, lambda i: dense)


def lfm2_moe(k: Keys) -> ModelSpec:
    """LFM2-8B-A1B and LFM2.5's: experts on all layers but the first, chosen by sigmoid scores with a correction."""
    k.assume(num_experts=32, num_experts_per_tok=4, moe_intermediate_size=1792, num_dense_layers=2)
    renormalise = k.flag("norm_topk_prob", True)
    router = Router(
        expert_count(k),
        k.integer("num_experts_per_tok"),
        Scoring.SIGMOID,
        renormalise=renormalise,
        renormalise_eps=1e-6 if renormalise else 0.0,
        scale=k.number("routed_scaling_factor", 1.0),
        correction_bias=k.flag("use_expert_bias", True),
    )
    routed = Routed(router, k.integer("moe_intermediate_size"), Glu(Curve.SILU))
    first = k.integer("num_dense_layers", least=0)
    dense = Dense(k.integer("intermediate_size"), Glu(Curve.SILU))
    return _short_convolutions(k, "lfm2_moe", lambda i: "full_attention", lambda i: dense if i < first else routed)


def _short_convolutions(
    k: Keys, family: str, default_type: Callable[[int], str], feed_forward: Callable[[int], FeedForward]
) -> ModelSpec:
    k.assume(norm_eps=1e-5, rope_theta=1000000.0, max_position_embeddings=128000, tie_word_embeddings=True)
    k.assume(conv_L_cache=3)
    k.ignore("block_mlp_init_scale", "block_out_init_scale", "block_use_xavier_init", "conv_use_xavier_init")
    spec = decoder_only(k, family, norm=Norm(k.number("norm_eps", least=0, most=1)), feed_forward=feed_forward)
    if "tie_embedding" in k:
        spec = replace(spec, head=replace(spec.head, tied=k.flag("tie_embedding", True)))
    repeated(k, {"block_dim": spec.width, "conv_dim": spec.width, "conv_dim_out": spec.width})
    repeated(k, {"num_heads": k.integer("num_attention_heads"), "block_norm_eps": spec.final_norm.eps})
    repeated(k, {"block_use_swiglu": True, "use_pos_enc": True})
    types = layer_types(k, default_type, known=("conv", "full_attention"))
    rows, bias = StateTensor("rows", (k.integer("conv_L_cache", least=2) - 1, spec.width)), k.flag("conv_bias", False)

    def mixed(i: int, layer: Layer) -> Layer:
        convolution = ShortConvolution(Fixed(i, (rows,)), bias)
        return replace(layer, mixer=convolution) if types[i] == "conv" else layer

    spec = head_norms(spec)
    layers = tuple(mixed(i, layer) for i, layer in enumerate(spec.layers))
    return replace(spec, layers=layers, states=tuple(map(_state, layers)))


def _state(layer: Layer) -> State:
    match layer.mixer:
        case Attention(cache=cache):
            return cache
        case ShortConvolution(state=state):
            return state
        case other:
            raise AssertionError(f"no layer of these families has {type(other).__name__}")
