"""Families whose norms take the mean away: Command, Phi-2, StarCoder2, StableLM, GPT-NeoX, Falcon, GPT-2 and others."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from trilens.errors import UnsupportedModel
from trilens.spec.families.llama_like import partly_turned
from trilens.spec.families.parts import (
    attentions,
    decoder_only,
    each_layer,
    layer_norm,
    layer_types,
    masks_by_type,
    optional_number,
    parallel,
    repeated,
    window_mask,
    with_attention,
    without_gate,
)
from trilens.spec.keys import Keys
from trilens.spec.model import Full, Mask, ModelSpec, Norm, QueryKeyNorm


def cohere(k: Keys) -> ModelSpec:
    """Command-R and R+: both branches read one norm."""
    k.assume(rope_theta=500000.0, max_position_embeddings=8192)
    spec = _command(k, "cohere", lambda i: Full())
    return _norms_of_heads(spec) if k.flag("use_qk_norm", False) else spec


def cohere2(k: Keys) -> ModelSpec:
    """Command-R7B and Command-A: windows on three of four layers, and positions on those alone."""
    k.assume(sliding_window=4096, sliding_window_pattern=4, max_position_embeddings=8192)
    k.ignore("cache_implementation", "layer_switch", "_sliding_window_pattern")
    said = {"order_of_interleaved_layers": "local_attn_first", "position_embedding_type": "rope_gptj"}
    used = ("use_embedding_sharing", "use_gated_activation", "use_parallel_block")
    repeated(k, {**said, "rotary_pct": 1.0, "use_qk_norm": False, **dict.fromkeys(used, True)})
    k.ignore("use_parallel_embedding")
    every = k.integer("sliding_window_pattern")
    types = layer_types(k, lambda i: "sliding_attention" if (i + 1) % every else "full_attention")
    spec = _command(k, "cohere2", masks_by_type(k, types))
    return each_layer(spec, lambda i, x: x if types[i] == "sliding_attention" else with_attention(x, rope=None))


def _command(k: Keys, family: str, mask: Callable[[int], Mask]) -> ModelSpec:
    k.assume(tie_word_embeddings=True)
    bias, norm = k.flag("attention_bias", False), layer_norm(k, bias=False)
    spec = partly_turned(k, family, qkv_bias=bias, out_bias=bias, norm=norm, mask=mask)
    spec = replace(spec, head=replace(spec.head, scale=k.positive("logit_scale", 0.0625)))
    return parallel(spec, shared=True)


def _norms_of_heads(spec: ModelSpec) -> ModelSpec:
    """Every head of queries and keys normalised, with a weight of its own."""
    norm = replace(spec.final_norm, weight=False, bias=False)
    return attentions(spec, qk_norm=QueryKeyNorm(norm, row_weight=True))


def stablelm(k: Keys) -> ModelSpec:
    """StableLM: a quarter of each head turned; larger ones read one norm twice and normalise their heads."""
    k.assume(partial_rotary_factor=0.25, max_position_embeddings=4096)
    k.ignore("hidden_dropout")
    spec = decoder_only(k, "stablelm", qkv_bias=k.flag("use_qkv_bias", False), norm=layer_norm(k))
    if k.flag("qk_layernorm", False):
        spec = _norms_of_heads(spec)
    return parallel(spec, shared=True) if k.flag("use_parallel_residual", False) else spec


def starcoder2(k: Keys) -> ModelSpec:
    """StarCoder2: biases everywhere, a feed-forward without a gate, windows."""
    k.assume(num_key_value_heads=2, tie_word_embeddings=True, max_position_embeddings=4096)
    k.assume(hidden_act="gelu_pytorch_tanh")
    k.ignore("residual_dropout", "embedding_dropout", "activation_function", "layer_norm_eps")
    repeated(k, {"mlp_type": "default", "norm_type": "layer_norm"})
    bias, mask = k.flag("use_bias", True), window_mask(k, k.length("max_position_embeddings"))
    ffn, norm = without_gate(k, bias=bias), layer_norm(k, "norm_epsilon")
    return decoder_only(k, "starcoder2", qkv_bias=bias, out_bias=bias, norm=norm, mask=lambda i: mask, feed_forward=ffn)


def gpt_neox(k: Keys) -> ModelSpec:
    """GPT-NeoX and Pythia: part of each head turned, two norms in parallel."""
    k.renamed({"rotary_pct": "partial_rotary_factor", "rotary_emb_base": "rope_theta"})
    k.assume(partial_rotary_factor=0.25, hidden_act="gelu")
    k.ignore("hidden_dropout", "rotary_pct", "rotary_emb_base")
    bias, ffn = k.flag("attention_bias", True), without_gate(k, bias=True)
    spec = decoder_only(k, "gpt_neox", qkv_bias=bias, out_bias=bias, norm=layer_norm(k), feed_forward=ffn)
    return parallel(spec, shared=False) if k.flag("use_parallel_residual", True) else spec


def phi(k: Keys) -> ModelSpec:
    """Phi-1, 1.5 and 2: both branches read one norm, biases everywhere, the head's too."""
    k.assume(partial_rotary_factor=0.5, hidden_act="gelu_new")
    ffn, norm = without_gate(k, bias=True), layer_norm(k)
    spec = decoder_only(k, "phi", qkv_bias=True, out_bias=True, norm=norm, feed_forward=ffn)
    if k.flag("qk_layernorm", False):
        spec = attentions(spec, qk_norm=QueryKeyNorm(norm))
    return parallel(replace(spec, head=replace(spec.head, bias=True)), shared=True)


def nemotron(k: Keys) -> ModelSpec:
    """Nemotron 3 to 4 and Minitron: norms stored as their distance from one, half of each head turned."""
    k.assume(partial_rotary_factor=0.5, hidden_act="relu2", max_position_embeddings=4096)
    bias, ffn = k.flag("attention_bias", False), without_gate(k, bias=k.flag("mlp_bias", False))
    norm = layer_norm(k, "norm_eps")
    return decoder_only(k, "nemotron", qkv_bias=bias, out_bias=bias, norm=norm, feed_forward=ffn)


def jais2(k: Keys) -> ModelSpec:
    """Jais 2: Nemotron's arrangement with whole heads turned and biases."""
    k.assume(hidden_act="relu2", max_position_embeddings=8192)
    bias, ffn = k.flag("attention_bias", True), without_gate(k, bias=k.flag("mlp_bias", True))
    return decoder_only(k, "jais2", qkv_bias=bias, out_bias=bias, norm=layer_norm(k), feed_forward=ffn)


def olmo(k: Keys) -> ModelSpec:
    """OLMo 1: norms without weights, and a bound on q, k and v where one is stated."""
    bias, norm = k.flag("attention_bias", False), Norm(1e-5, centred=True, weight=False)
    spec = decoder_only(k, "olmo", qkv_bias=bias, out_bias=bias, norm=norm)
    return attentions(spec, clip=optional_number(k, "clip_qkv"))


def falcon(k: Keys) -> ModelSpec:
    """Falcon 7B to 180B: keys and values of one head or of a few, branches in parallel."""
    k.renamed({"n_embed": "hidden_size", "n_layer": "num_hidden_layers", "n_head": "num_attention_heads"})
    k.renamed({"n_head_kv": "num_kv_heads"})
    k.ignore("hidden_dropout", "apply_residual_connection_post_layernorm")
    k.assume(tie_word_embeddings=True, activation="gelu")
    if k.flag("alibi", False):
        raise UnsupportedModel(f"{k.where}: alibi is not supported: positions that lower the scores by distance")
    heads, grouped = k.integer("num_attention_heads"), k.flag("new_decoder_architecture", False)
    several = k.integer("num_kv_heads", heads) if grouped else 1 if k.flag("multi_query", True) else heads
    k.ignore("num_kv_heads", "multi_query", "num_ln_in_parallel_attn")
    k.assume(num_key_value_heads=several, intermediate_size=4 * k.integer("hidden_size"))
    k.said_by("num_key_value_heads", k, "num_kv_heads")
    k.renamed({"ffn_hidden_size": "intermediate_size"})
    bias, norm = k.flag("bias", False), layer_norm(k, "layer_norm_epsilon")
    ffn = without_gate(k, "activation", bias=bias)
    spec = decoder_only(k, "falcon", qkv_bias=bias, out_bias=bias, norm=norm, feed_forward=ffn)
    if not k.flag("parallel_attn", True) and not grouped:
        return spec
    norms = 2 if k.raw("num_ln_in_parallel_attn") is None else k.integer("num_ln_in_parallel_attn")
    return parallel(spec, shared=not grouped or norms == 1)


def gpt2(k: Keys) -> ModelSpec:
    """GPT-2: positions learned as a table, biases everywhere."""
    k.renamed({"n_embd": "hidden_size", "n_layer": "num_hidden_layers", "n_head": "num_attention_heads"})
    k.renamed({"n_positions": "max_position_embeddings"})
    if k.values.get("n_inner") is not None:
        k.renamed({"n_inner": "intermediate_size"})
    k.ignore(
        "n_ctx", "n_inner", "attn_pdrop", "reorder_and_upcast_attn", "summary_activation", "gradient_checkpointing"
    )
    k.ignore("summary_first_dropout", "summary_proj_to_labels", "summary_type", "summary_use_proj")
    k.assume(activation_function="gelu_new", max_position_embeddings=1024, vocab_size=50257)
    k.assume(tie_word_embeddings=True, intermediate_size=4 * k.integer("hidden_size"))
    repeated(k, {"add_cross_attention": False, "scale_attn_by_inverse_layer_idx": False, "scale_attn_weights": True})
    return _with_table(k, "gpt2", "activation_function", layer_norm(k, "layer_norm_epsilon"))


def gpt_bigcode(k: Keys) -> ModelSpec:
    """StarCoder and SantaCoder: GPT-2 with the keys and values of one head."""
    k.assume(num_key_value_heads=1, activation_function="gelu_pytorch_tanh")
    k.ignore(
        "attention_softmax_in_fp32", "scale_attention_softmax_in_fp32", "inference_runner", "validate_runner_input"
    )
    k.ignore("max_sequence_length", "max_batch_size", "pre_allocate_kv_cache")
    repeated(k, {"multi_query": True})
    return replace(gpt2(k), family="gpt_bigcode")


def opt(k: Keys) -> ModelSpec:
    """OPT: GPT-2's arrangement with ReLU, and a table that begins two rows late."""
    k.renamed({"ffn_dim": "intermediate_size"})
    k.assume(activation_function="relu", tie_word_embeddings=True)
    k.ignore("layerdrop", "dropout", "activation_dropout", "init_std")
    repeated(k, {"do_layer_norm_before": True, "enable_bias": True, "layer_norm_elementwise_affine": True})
    repeated(k, {"word_embed_proj_dim": k.integer("hidden_size"), "_remove_final_layer_norm": False})
    return _with_table(k, "opt", "activation_function", Norm(1e-5, centred=True, bias=True))


def _with_table(k: Keys, family: str, act: str, norm: Norm) -> ModelSpec:
    ffn = without_gate(k, act, bias=True)
    spec = decoder_only(k, family, qkv_bias=True, out_bias=True, norm=norm, rope=lambda i: None, feed_forward=ffn)
    return replace(spec, learned_positions=spec.context)
