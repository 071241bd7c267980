"""Families that mix most layers' tokens by gated recurrences, and the others' by attention."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from trilens.spec.families.parts import (
    activation,
    attentions,
    decoder_only,
    head_norms,
    layer_types,
    renumbered,
    rope_rules,
)
from trilens.spec.families.routed import expert_count
from trilens.spec.keys import Keys
from trilens.spec.model import (
    AttentionGate,
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
    SoftplusDecay,
    recurrent_state,
)

# ----------------------------------------------------------------------------------------- gated delta nets


def qwen3_next(k: Keys) -> ModelSpec:
    """Qwen3-Next and Qwen3-Coder-Next: experts on every layer, beside a shared one with a gate of its own."""
    k.assume(num_experts=512, num_experts_per_tok=10, moe_intermediate_size=512, shared_expert_intermediate_size=512)
    k.assume(decoder_sparse_step=1, norm_topk_prob=True, intermediate_size=5632, max_position_embeddings=32768)
    return _gated_delta(k, "qwen3_next", _gated_shared_experts(k, renormalise=k.flag("norm_topk_prob", True)))


def qwen3_5(k: Keys) -> ModelSpec:
    """Qwen3.5, 3.6 and 3.8, the dense ones."""
    k.assume(intermediate_size=12288, max_position_embeddings=32768)
    k.ignore("mlp_only_layers")  # of a class with experts
    dense = Dense(k.integer("intermediate_size"), Glu(activation(k)))
    return _gated_delta(k, "qwen3_5", lambda i: dense)


def qwen3_5_moe(k: Keys) -> ModelSpec:
    """The same with experts on every layer, whose weights always sum to one."""
    k.assume(num_experts=256, num_experts_per_tok=8, moe_intermediate_size=512, shared_expert_intermediate_size=512)
    k.assume(max_position_embeddings=32768)
    k.ignore("norm_topk_prob", "mlp_only_layers", "decoder_sparse_step", "intermediate_size")
    return _gated_delta(k, "qwen3_5_moe", _gated_shared_experts(k, renormalise=True))


def _gated_delta(k: Keys, family: str, feed_forward: Callable[[int], FeedForward]) -> ModelSpec:
    """A matrix a head, changed by the delta rule; every fourth layer is attention with a gate on its result."""
    k.assume(head_dim=256, num_key_value_heads=2, partial_rotary_factor=0.25, full_attention_interval=4)
    k.assume(linear_conv_kernel_dim=4, linear_key_head_dim=128, linear_value_head_dim=128)
    k.assume(linear_num_key_heads=16, linear_num_value_heads=32)
    # how the state is kept, and the layers that predict further tokens, which lie beside the decoder
    k.ignore("mamba_ssm_dtype", "mtp_num_hidden_layers", "mtp_use_dedicated_embeddings", "full_attention_interval")
    k.ignore("use_sliding_window", "attn_output_gate", "output_gate_type")
    if not k.flag("attn_output_gate", True):
        raise k.wrong("attn_output_gate", False, "true: attention with a gate on its result")
    if (gate := k.raw("output_gate_type")) not in (None, "swish", "silu"):
        raise k.wrong("output_gate_type", gate, "swish")
    if (rules := rope_rules(k)) is not None:
        rules.ignore("mrope_section", "mrope_interleaved")  # of text all three positions are the same
    every = k.integer("full_attention_interval")
    bias = k.flag("attention_bias", False)
    types = layer_types(
        k,
        lambda i: "linear_attention" if (i + 1) % every else "full_attention",
        known=("linear_attention", "full_attention"),
    )
    spec = decoder_only(k, family, qkv_bias=bias, out_bias=bias, feed_forward=feed_forward)
    rule = Recurrence(
        heads=k.integer("linear_num_value_heads"),
        key_heads=k.integer("linear_num_key_heads"),
        key_dim=k.integer("linear_key_head_dim"),
        value_dim=k.integer("linear_value_head_dim"),
        delta=True,
        tiled=k.flag("tiled_value_heads", False),  # said by GGUF files alone
    )
    gate = OutputGate(activation(k), spec.final_norm, parts=rule.heads)
    recurrence = delta_rule(rule, k.integer("linear_conv_kernel_dim", least=2), gate)
    gated = attentions(head_norms(spec), gate=AttentionGate(bias=bias))
    return with_recurrences(gated, recurrence, lambda i: types[i] != "full_attention")


def _gated_shared_experts(k: Keys, *, renormalise: bool) -> Callable[[int], FeedForward]:
    router = Router(expert_count(k), k.integer("num_experts_per_tok"), Scoring.SOFTMAX, renormalise=renormalise)
    glu = Glu(activation(k))
    shared = Dense(k.integer("shared_expert_intermediate_size"), glu)
    routed = Routed(router, k.integer("moe_intermediate_size"), glu, shared=shared, shared_gate=True)
    step, dense_only = k.integer("decoder_sparse_step", 1), k.integers("mlp_only_layers") or ()
    if step == 1 and not dense_only:
        k.ignore("intermediate_size")
        return lambda i: routed
    dense = Dense(k.integer("intermediate_size"), glu)
    return lambda i: routed if i not in dense_only and (i + 1) % step == 0 else dense


# ------------------------------------------------------------------------------------------------- parts


def delta_rule(rule: Recurrence, taps: int, output: OutputGate, rank: int | None = None) -> GatedRecurrence:
    """Queries and keys of length one, queries divided by the root of their width as well.

    x / sqrt(sum of squares + 1e-6), as a norm by the mean of squares.
    """
    length = rule.key_dim**-0.5
    return GatedRecurrence(
        recurrent_state(0, rule, taps),
        rule,
        SoftplusDecay(),
        output,
        qk_norm=Norm(1e-6 / rule.key_dim, weight=False),
        q_scale=length * length,
        k_scale=length,
        rank=rank,
    )


def with_recurrences(spec: ModelSpec, recurrence: GatedRecurrence, where: Callable[[int], bool]) -> ModelSpec:
    """The same model with the recurrence in place of attention on these layers."""

    def mixed(i: int, layer: Layer) -> Layer:
        return replace(layer, mixer=recurrence) if where(i) else layer

    return renumbered(replace(spec, layers=tuple(mixed(i, layer) for i, layer in enumerate(spec.layers))))
