"""What llama.cpp's converter does to models whose layers differ, to latent ones with an index, and to others of one
kind each; see `gguf_models.py`."""

from __future__ import annotations

from typing import Any

import gguf
import torch
import transformers as t

from tests import families_plain as plain
from tests.family import Family

Tensors = dict[str, torch.Tensor]

INDEXED = ("deepseek32", "glm-dsa")
WINDOWED = ("exaone-moe", "mimo2", "step35", "laguna", "mellum", "granite_swa")
ARCHITECTURES = (*WINDOWED, *INDEXED, "apertus", "bailingmoe", "bitnet", "chatglm", "dbrx", "hy_v3", "minicpm3")
# whose names are those of another architecture, where the table of names does not have it yet
NAMED_AS = {
    "deepseek32": "glm-dsa",
    "laguna": "exaone-moe",
    "mellum": "qwen3moe",
    "hy_v3": "exaone-moe",
    "granite_swa": "mimo2",
}
PERMUTED = ("bailingmoe", "granite_swa")

FOUR: dict[str, Any] = {"num_hidden_layers": 4, "sliding_window": 12, "edge": 12}
ROPES: dict[str, Any] = {
    "full_attention": {**plain.rope(), "rope_theta": 50000.0, "partial_rotary_factor": 0.5},
    "sliding_attention": plain.rope(partial_rotary_factor=1.0),
}
LLAMA3: dict[str, Any] = {
    "rope_type": "llama3",
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 64,
}


def step() -> t.PretrainedConfig:
    ropes = {**ROPES, "full_attention": {**ROPES["full_attention"], **LLAMA3}}
    eyes = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "image_size": 28, "patch_size": 14}
    text = {**plain.STEP, "rope_parameters": ropes, "max_position_embeddings": 512}
    return t.Step3p7Config(text_config=text, vision_config=eyes, image_token_id=130)


# MiniCPM 3's factors and BitNet's curve are those that llama.cpp has built in. DeepSeek V3.2's groups of experts need
# two in each at least.
FAMILIES = [
    plain.row(
        "gguf: exaone moe",
        t.ExaoneMoeConfig,
        **plain.EXPERTS,
        **FOUR,
        first_k_dense_replace=1,
        layer_types=["sliding_attention", "full_attention"] * 2,
    ),
    plain.row(
        "gguf: mimo v2",
        t.MiMoV2FlashConfig,
        **plain.ROUTED,
        **FOUR,
        head_dim=12,
        v_head_dim=8,
        num_key_value_heads=1,
        attention_value_scale=0.5,
        layer_types=["full_attention", "sliding_attention"] * 2,
        rope_parameters={
            "full_attention": plain.rope(partial_rotary_factor=0.334),
            "sliding_attention": {**plain.rope(partial_rotary_factor=0.334), "rope_theta": 100.0},
        },
    ),
    Family("gguf: step-3.7", step, edge=64, repair=plain.around_one),
    Family("gguf: step-3.5", plain.step, edge=12, repair=plain.around_one),
    plain.row(
        "gguf: laguna",
        t.LagunaConfig,
        **plain.EXPERTS,
        **FOUR,
        head_dim=8,
        shared_expert_intermediate_size=24,
        moe_routed_scaling_factor=1.5,
        layer_types=["full_attention", *["sliding_attention"] * 3],
        num_attention_heads_per_layer=[4, 6, 6, 6],
        rope_parameters=ROPES,
    ),
    plain.row(
        "gguf: mellum 2",
        t.MellumConfig,
        **FOUR,
        num_local_experts=6,
        num_experts_per_tok=2,
        moe_intermediate_size=16,
        head_dim=12,
        layer_types=[*["sliding_attention"] * 3, "full_attention"],
        rope_parameters=dict.fromkeys(("full_attention", "sliding_attention"), plain.rope()),
    ),
    plain.row("gguf: granite with windows", t.GraniteSWAConfig, edge=12, **plain.WINDOWED, **plain.FACTORS),
    plain.row("gguf: hunyuan 3", t.HYV3Config, **plain.EXPERTS, head_dim=12),
    Family(
        "gguf: dbrx", lambda: t.DbrxConfig(**plain.DBRX, attn_config={**plain.DBRX_ATTENTION, "rope_theta": 10000.0})
    ),
    plain.row("gguf: bitnet", t.BitNetConfig, hidden_act="silu", tie_word_embeddings=True),
    plain.row("gguf: glm-4 9B", t.GlmConfig, pad_token_id=0, head_dim=8, attention_bias=True),
    plain.row("gguf: minicpm 3", t.MiniCPM3Config, **{**plain.LATENT, "v_head_dim": 8}),
    plain.row(
        "gguf: deepseek v3.2",
        t.DeepseekV32Config,
        **plain.LATENT,
        **{**plain.GROUPS, "n_group": 1, "topk_group": 1},
        index_topk=64,
        index_n_heads=16,
        index_head_dim=64,
    ),
    plain.row(
        "gguf: glm-5",
        t.GlmMoeDsaConfig,
        **plain.LATENT,
        **{**plain.GROUPS, "n_group": 1, "topk_group": 1},
        num_hidden_layers=3,
        index_topk=64,
        indexer_types=["full", "shared", "full"],
        index_n_heads=16,
        index_head_dim=64,
    ),
]


def write_keys(w: gguf.GGUFWriter, c: dict[str, Any], arch: str) -> None:
    """All keys of an architecture."""
    if arch == "dbrx":
        _dbrx_keys(w, c)
        return
    heads, layers = c["num_attention_heads"], c["num_hidden_layers"]
    head_dim = c.get("head_dim") or c["hidden_size"] // heads
    kv_heads = 1 if arch in INDEXED else c.get("num_key_value_heads") or heads
    rope = c.get("rope_parameters") or {}
    whole, windowed = rope.get("full_attention", rope), rope.get("sliding_attention", {})
    w.add_block_count(layers)
    w.add_context_length(c["max_position_embeddings"])
    w.add_embedding_length(c["hidden_size"])
    w.add_feed_forward_length(c["intermediate_size"])
    w.add_vocab_size(c["vocab_size"])
    w.add_layer_norm_rms_eps(c["rms_norm_eps"])
    w.add_rope_freq_base(whole["rope_theta"])
    if windowed:
        w.add_rope_freq_base_swa(windowed["rope_theta"])
    _head_keys(w, c, arch, heads, kv_heads)
    if arch in INDEXED or arch == "minicpm3":
        _latent_keys(w, c, arch)
    else:
        w.add_key_length(head_dim)
        w.add_value_length(c.get("v_head_dim") or head_dim)
        if arch != "step35":
            w.add_rope_dimension_count(int(head_dim * whole.get("partial_rotary_factor", 1.0)))
        if arch == "laguna":
            w.add_rope_dimension_count_swa(int(head_dim * windowed["partial_rotary_factor"]))
    if arch in WINDOWED:
        w.add_sliding_window(c["sliding_window"])
    if arch in WINDOWED and arch != "laguna":
        w.add_sliding_window_pattern([kind == "sliding_attention" for kind in c["layer_types"]])
    _expert_keys(w, c, arch)
    if arch == "bitnet":
        w.add_rope_scaling_type(gguf.RopeScalingType.LINEAR)
        w.add_rope_scaling_factor(1.0)
    if arch == "exaone-moe":
        w.add_rope_scaling_type(gguf.RopeScalingType.NONE)
    if arch == "mimo2":
        w.add_float32("mimo2.attention.value_scale", c["attention_value_scale"])
    if arch == "granite_swa":
        w.add_attention_scale(c["attention_multiplier"])
        w.add_embedding_scale(c["embedding_multiplier"])
        w.add_residual_scale(c["residual_multiplier"])
        w.add_logit_scale(c["logits_scaling"])


def _head_keys(w: gguf.GGUFWriter, c: dict[str, Any], arch: str, heads: int, kv_heads: int) -> None:
    windowed = [kind == "sliding_attention" for kind in c.get("layer_types") or ()]
    if arch == "step35":
        w.add_head_count([c["num_sliding_attention_heads"] if there else heads for there in windowed])
        w.add_head_count_kv([kv_heads] * len(windowed))
    elif arch == "laguna":
        w.add_head_count(c["num_attention_heads_per_layer"])
        w.add_head_count_kv(kv_heads)
    elif arch == "mimo2":
        w.add_head_count(heads)
        w.add_head_count_kv([2 * kv_heads if there else kv_heads for there in windowed])
    else:
        w.add_head_count(heads)
        w.add_head_count_kv(kv_heads)


def _latent_keys(w: gguf.GGUFWriter, c: dict[str, Any], arch: str) -> None:
    head = c["qk_nope_head_dim"] + c["qk_rope_head_dim"]
    w.add_q_lora_rank(c["q_lora_rank"])
    w.add_kv_lora_rank(c["kv_lora_rank"])
    w.add_rope_dimension_count(c["qk_rope_head_dim"])
    if arch == "minicpm3":
        w.add_key_length(head)
        return
    w.add_key_length(c["kv_lora_rank"] + c["qk_rope_head_dim"])
    w.add_value_length(c["kv_lora_rank"])
    w.add_key_length_mla(head)
    w.add_value_length_mla(c["v_head_dim"])
    w.add_uint32(f"{arch}.attention.indexer.head_count", c["index_n_heads"])
    w.add_uint32(f"{arch}.attention.indexer.key_length", c["index_head_dim"])
    w.add_uint32(f"{arch}.attention.indexer.top_k", c["index_topk"])
    if arch == "glm-dsa":
        w.add_array("glm-dsa.attention.indexer.types", [kind == "full" for kind in c["indexer_types"]])


def _expert_keys(w: gguf.GGUFWriter, c: dict[str, Any], arch: str) -> None:
    experts = c.get("num_local_experts") or c.get("num_experts") or c.get("n_routed_experts")
    if not experts:
        return
    width = c["moe_intermediate_size"]
    w.add_expert_count(experts)
    w.add_expert_used_count(c["num_experts_per_tok"])
    w.add_expert_feed_forward_length(width)
    if arch not in ("bailingmoe", "mellum"):
        w.add_expert_gating_func(gguf.ExpertGatingFuncType.SIGMOID)
    scale = next((c[k] for k in SCALES if c.get(k) is not None), None)
    if arch not in ("mellum", "mimo2"):
        w.add_expert_weights_scale(1.0 if scale is None else scale)
        w.add_expert_weights_norm(c.get("norm_topk_prob", True))
    if c.get("n_group", 1) > 1:
        w.add_expert_group_count(c["n_group"])
        w.add_expert_group_used_count(c["topk_group"])
    dense = sum(kind == "dense" for kind in c.get("mlp_layer_types") or ())
    if arch not in ("mellum", "mimo2", "hy_v3"):
        w.add_leading_dense_block_count(dense)
    shared = c.get("n_shared_experts") or c.get("num_shared_experts")
    if shared and arch != "hy_v3":
        w.add_expert_shared_count(shared)
    wide = c.get("share_expert_dim") or c.get("shared_expert_intermediate_size") or (shared or 0) * width
    if arch in ("step35", "laguna", "exaone-moe", "hy_v3"):
        w.add_expert_shared_feed_forward_length(wide)
    if arch == "step35":
        w.add_uint32("step35.moe_every_n_layers", 1)
        w.add_array("step35.swiglu_clamp_exp", [float(limit or 0) for limit in c["swiglu_limits"]])
        w.add_array("step35.swiglu_clamp_shexp", [float(limit or 0) for limit in c["swiglu_limits_shared"]])


SCALES = "routed_scaling_factor moe_router_scaling_factor moe_routed_scaling_factor router_scaling_factor".split()


def _dbrx_keys(w: gguf.GGUFWriter, c: dict[str, Any]) -> None:
    attention, ffn = c["attn_config"], c["ffn_config"]
    w.add_block_count(c["n_layers"])
    w.add_context_length(c["max_seq_len"])
    w.add_embedding_length(c["d_model"])
    w.add_feed_forward_length(ffn["ffn_hidden_size"])
    w.add_head_count(c["n_heads"])
    w.add_head_count_kv(attention["kv_n_heads"])
    w.add_rope_freq_base(attention["rope_theta"])
    w.add_clamp_kqv(attention["clip_qkv"])
    w.add_expert_count(ffn["moe_num_experts"])
    w.add_expert_used_count(ffn["moe_top_k"])
    w.add_layer_norm_eps(1e-5)
    w.add_vocab_size(c["vocab_size"])


def curve(w: gguf.GGUFWriter, tensors: Tensors, layers: int) -> None:
    """Apertus' learned numbers are metadata."""
    for key, name in (("alpha_p", "alpha_p"), ("alpha_n", "alpha_n"), ("beta", "beta"), ("eps", "eps")):
        own = [float(tensors[f"model.layers.{i}.mlp.act_fn.{name}"]) for i in range(layers)]
        w.add_array(f"xielu.{key}", own)


def one(name: str, tensor: torch.Tensor, c: dict[str, Any], arch: str, options: dict[str, Any]) -> Tensors:
    """What becomes of one tensor."""
    layer = next((part for part in name.split(".") if part.isdigit()), "")
    place, end = f"blk.{layer}.", name.rpartition(".")[2]
    if ".act_fn." in name or "vision_model" in name or "vit_large" in name:
        return {}
    if "correction_bias" in name or end in ("router_bias", "expert_bias"):
        return {place + ("exp_probs_b" if arch == "hy_v3" else "exp_probs_b.bias"): tensor.reshape(-1)}
    if arch in INDEXED and name.endswith("kv_b_proj.weight"):
        by_head = tensor.view(c["num_attention_heads"], c["qk_nope_head_dim"] + c["v_head_dim"], -1)
        k_b, v_b = by_head.split((c["qk_nope_head_dim"], c["v_head_dim"]), 1)
        return {place + "attn_k_b.weight": k_b.transpose(1, 2), place + "attn_v_b.weight": v_b}
    if arch == "bailingmoe" and "query_key_value" in name:
        heads, kv_heads = c["num_attention_heads"], c["num_key_value_heads"]
        dim = tensor.shape[0] // (heads + 2 * kv_heads)
        q, k, v = tensor.split((heads * dim, kv_heads * dim, kv_heads * dim))
        return {
            place + "attn_q.weight": _neighbouring(q, heads),
            place + "attn_k.weight": _neighbouring(k, kv_heads),
            place + "attn_v.weight": v,
        }
    if arch == "dbrx" and ".experts.mlp." in name:
        stack = tensor.view(c["ffn_config"]["moe_num_experts"], c["ffn_config"]["ffn_hidden_size"], c["d_model"])
        part = {"w1": "gate", "v1": "up", "w2": "down"}[end]
        return {f"{place}ffn_{part}_exps.weight": stack.transpose(1, 2) if part == "down" else stack}
    if arch == "step35" and name.endswith("norm.weight"):
        tensor = tensor + 1
    for theirs, ours in OWN_NAMES.items():
        if theirs in name:
            return {place + ours + ("" if end in ("attention_sink_bias", "sinks") else "." + end): tensor}
    return {name: tensor}


def _neighbouring(tensor: torch.Tensor, heads: int) -> torch.Tensor:
    halves = tensor.view(heads, 2, tensor.shape[0] // heads // 2, *tensor.shape[1:])
    return halves.transpose(1, 2).reshape(tensor.shape)


# Of modules that the table of names does not have, or not for their architecture.
OWN_NAMES = {
    "attention_sink_bias": "attn_sinks.weight",
    "self_attn.sinks": "attn_sinks.weight",
    "self_attn.g_proj": "attn_gate",
    "indexer.wq_b": "indexer.attn_q_b",
    "indexer.wk": "indexer.attn_k",
    "indexer.k_norm": "indexer.k_norm",
    "indexer.weights_proj": "indexer.proj",
    "shared_mlp.gate_proj": "ffn_gate_shexp",
    "shared_mlp.up_proj": "ffn_up_shexp",
    "shared_mlp.down_proj": "ffn_down_shexp",
    "shared_expert.gate_proj": "ffn_gate_shexp",
    "shared_expert.up_proj": "ffn_up_shexp",
    "shared_expert.down_proj": "ffn_down_shexp",
    "share_expert.gate_proj": "ffn_gate_shexp",
    "share_expert.up_proj": "ffn_up_shexp",
    "share_expert.down_proj": "ffn_down_shexp",
    "moe.gate_proj": "ffn_gate_exps",
    "moe.up_proj": "ffn_up_exps",
    "moe.down_proj": "ffn_down_exps",
    "moe.gate.": "ffn_gate_inp",
    "router.gate": "ffn_gate_inp",
    ".attention_layernorm": "attn_norm",
    ".feedforward_layernorm": "ffn_norm",
    "ffn_sub_norm": "ffn_sub_norm",
    "attn_sub_norm": "attn_sub_norm",
}
