"""What llama.cpp's converter does to models with recurrences, architecture by architecture; see `gguf_models.py`."""

from __future__ import annotations

from typing import Any

import gguf
import torch
from transformers import (
    BambaConfig,
    FalconH1Config,
    GraniteMoeHybridConfig,
    KimiLinearConfig,
    NemotronHConfig,
    Qwen3_5MoeTextConfig,
    Qwen3_5TextConfig,
    Qwen3NextConfig,
)

from tests.families_recurrent import (
    BAMBA,
    CARRIED,
    DELTA,
    FALCON,
    GATED_EXPERTS,
    GRANITE,
    KIMI,
    MIXED,
    MULTIPLIED,
    NEMOTRON,
    NEMOTRON_EXPERTS,
    SECTIONS,
    TURNED,
    _distances_from_one,
    _with_positions,
    slowly_forgotten,
)
from tests.family import Family

Tensors = dict[str, torch.Tensor]

GATED_DELTA = ("qwen3next", "qwen35", "qwen35moe")
NEMOTRONS = ("nemotron_h", "nemotron_h_moe")
MAMBA = ("granitehybrid", "falcon-h1", *NEMOTRONS)
WITHOUT_ONE_COUNT = ("granitehybrid", *NEMOTRONS, "kimi-linear")  # of heads: it is said layer by layer
FOLDED = ("falcon-h1",)  # whose factors are in the weights
ARCHITECTURES = (*GATED_DELTA, *MAMBA, "kimi-linear")

# As llama.cpp knows them: every fourth layer is attention, heads of queries and values are equally wide.
_EVERY_FOURTH: dict[str, Any] = {
    **DELTA,
    "linear_num_value_heads": 6,
    "linear_key_head_dim": 16,
    "linear_value_head_dim": 16,
}
# powers of two for what we keep outside the weights, so that halves are rounded alike
EXACT = {**MULTIPLIED, "embedding_multiplier": 4.0, "lm_head_multiplier": 0.25}
FAMILIES = [
    Family(
        "gguf: qwen3-next",
        lambda: Qwen3NextConfig(**_EVERY_FOURTH, **GATED_EXPERTS, rope_parameters=TURNED),
        edge=CARRIED,
        repair=_distances_from_one,
    ),
    Family(
        "gguf: qwen3.5 (text)",
        lambda: Qwen3_5TextConfig(**_EVERY_FOURTH, rope_parameters=SECTIONS),
        edge=CARRIED,
        repair=_distances_from_one,
    ),
    Family(
        "gguf: qwen3.5 moe (text)",
        lambda: Qwen3_5MoeTextConfig(**_EVERY_FOURTH, **GATED_EXPERTS, rope_parameters=SECTIONS),
        edge=CARRIED,
        repair=_distances_from_one,
    ),
    Family(
        "gguf: granite 4 h",
        lambda: GraniteMoeHybridConfig(
            **{**GRANITE, "shared_intermediate_size": GRANITE["intermediate_size"]},
            num_local_experts=0,
            num_experts_per_tok=0,
            layer_types=MIXED,
        ),
        edge=CARRIED,
        repair=slowly_forgotten,
    ),
    Family(
        "gguf: granite 4 h with experts",
        lambda: GraniteMoeHybridConfig(
            **GRANITE, num_local_experts=6, num_experts_per_tok=2, layer_types=MIXED, position_embedding_type="rope"
        ),
        edge=CARRIED,
        repair=slowly_forgotten,
    ),
    Family(  # half of each head turns
        "gguf: bamba",
        lambda: BambaConfig(**BAMBA, attn_layer_indices=[1, 3], attention_bias=True),
        edge=CARRIED,
        repair=_with_positions,
    ),
    Family(
        "gguf: nemotron-h",
        lambda: NemotronHConfig(**NEMOTRON, hybrid_override_pattern="M-M*-M"),
        edge=CARRIED,
        repair=slowly_forgotten,
    ),
    Family(
        "gguf: nemotron-3 nano",
        lambda: NemotronHConfig(
            **NEMOTRON, **NEMOTRON_EXPERTS, hybrid_override_pattern="MEM*EM", n_shared_experts=1, moe_latent_size=None
        ),
        edge=CARRIED,
        repair=slowly_forgotten,
    ),
    Family(
        "gguf: nemotron-3 super",
        lambda: NemotronHConfig(
            **NEMOTRON, **NEMOTRON_EXPERTS, hybrid_override_pattern="MEM*EM", moe_latent_size=20, n_shared_experts=1
        ),
        edge=CARRIED,
        repair=slowly_forgotten,
    ),
    Family(
        "gguf: falcon-h1",
        lambda: FalconH1Config(**FALCON, **EXACT, mamba_d_ssm=96, mamba_rms_norm=True, mamba_norm_before_gate=False),
        edge=CARRIED,
        repair=slowly_forgotten,
    ),
    Family(
        "gguf: falcon-h1 without a norm",
        lambda: FalconH1Config(**FALCON, **EXACT, mamba_d_ssm=96, mamba_rms_norm=False),
        edge=CARRIED,
        repair=slowly_forgotten,
    ),
    Family(
        "gguf: kimi linear",
        lambda: KimiLinearConfig(
            **KIMI,
            layer_types=["linear_attention", "full_attention", "linear_attention", "linear_attention"],
            linear_num_heads=4,
            linear_head_dim=16,
        ),
        edge=CARRIED,
        repair=slowly_forgotten,
    ),
]


def write_keys(w: gguf.GGUFWriter, c: dict[str, Any], arch: str) -> None:
    if arch in MAMBA:
        _mamba_keys(w, c, arch)
        return
    if arch == "kimi-linear":
        _kimi_keys(w, c)
        return
    w.add_ssm_conv_kernel(c["linear_conv_kernel_dim"])
    w.add_ssm_state_size(c["linear_key_head_dim"])
    w.add_ssm_group_count(c["linear_num_key_heads"])
    w.add_ssm_time_step_rank(c["linear_num_value_heads"])
    w.add_ssm_inner_size(c["linear_value_head_dim"] * c["linear_num_value_heads"])
    w.add_full_attention_interval(4)
    if c.get("shared_expert_intermediate_size"):
        w.add_expert_shared_feed_forward_length(c["shared_expert_intermediate_size"])
    if arch != "qwen3next":
        w.add_rope_dimension_sections([*c["rope_parameters"]["mrope_section"], 0])


def one(name: str, tensor: torch.Tensor, c: dict[str, Any], arch: str, options: dict[str, Any]) -> Tensors:
    """What becomes of one tensor."""
    if arch in MAMBA:
        return _mamba_tensor(name, tensor, c, arch)
    if arch == "kimi-linear":
        return _kimi_tensor(name, tensor, c)
    layer = name.split(".")[2] if name.startswith("model.layers.") else ""
    keys, heads = c["linear_num_key_heads"], c["linear_num_value_heads"]
    key_dim, value_dim = c["linear_key_head_dim"], c["linear_value_head_dim"]
    if name.endswith("norm.weight") and "linear_attn" not in name:
        return {name: tensor + 1}
    if "linear_attn" not in name:
        return {name: tensor}
    if name.endswith("A_log"):
        name, tensor = f"blk.{layer}.ssm_a", -tensor.exp()
    elif name.endswith("dt_bias"):
        name = f"blk.{layer}.ssm_dt.bias"
    elif "conv1d" in name:
        tensor = tensor.squeeze(1)
    elif "in_proj_qkvz" in name:
        if "one ssm_in" in options:
            return {f"blk.{layer}.ssm_in.weight": tensor}
        each = heads // keys * value_dim
        by_key_head = tensor.view(keys, 2 * key_dim + 2 * each, -1).split((key_dim, key_dim, each, each), 1)
        q, k, v, z = (part.reshape(-1, tensor.shape[1]) for part in by_key_head)
        return {f"blk.{layer}.attn_qkv.weight": torch.cat((q, k, v)), f"blk.{layer}.attn_gate.weight": z}
    if arch != "qwen3next":
        tensor = _tiled(name, tensor, keys, heads, key_dim, value_dim)
    return {name: tensor}


def _tiled(name: str, tensor: torch.Tensor, keys: int, heads: int, key_dim: int, value_dim: int) -> torch.Tensor:
    """Value heads side by side for each key head -> one of each key head, again and again."""

    def reordered(some: torch.Tensor, width: int) -> torch.Tensor:
        parts = some.reshape(keys, heads // keys, width, *some.shape[1:])
        return parts.transpose(0, 1).reshape(some.shape)

    if "in_proj_qkv" in name or "conv1d" in name:
        kept = 2 * keys * key_dim
        return torch.cat((tensor[:kept], reordered(tensor[kept:], value_dim)))
    if "in_proj_z" in name:
        return reordered(tensor, value_dim)
    if "out_proj" in name:
        return reordered(tensor.T, value_dim).T
    if name.endswith("norm.weight"):
        return tensor
    return reordered(tensor, 1)


# ------------------------------------------------------------------------------------------------- Mamba-2


def _kinds(c: dict[str, Any]) -> list[str]:
    kinds = c.get("layers_block_type") or c.get("layer_types") or ["both"] * c["num_hidden_layers"]
    if listed := c.get("attn_layer_indices"):
        kinds = ["attention" if i in listed else "mamba" for i in range(c["num_hidden_layers"])]
    usual = {"linear_attention": "mamba", "full_attention": "attention", "hybrid": "both"}
    return [usual.get(kind, kind) for kind in kinds]


def _inner(c: dict[str, Any]) -> int:
    if "mamba_num_heads" in c:
        return int(c["mamba_num_heads"] * c["mamba_head_dim"])
    return int(c.get("mamba_d_ssm") or c["mamba_expand"] * c["hidden_size"])


def _groups(c: dict[str, Any]) -> int:
    return int(c.get("n_groups") or c["mamba_n_groups"])


def _mamba_keys(w: gguf.GGUFWriter, c: dict[str, Any], arch: str) -> None:
    w.add_ssm_conv_kernel(c.get("conv_kernel") or c["mamba_d_conv"])
    w.add_ssm_state_size(c.get("ssm_state_size") or c["mamba_d_state"])
    w.add_ssm_group_count(_groups(c))
    w.add_ssm_inner_size(_inner(c))
    w.add_ssm_time_step_rank(c.get("mamba_num_heads") or c["mamba_n_heads"])
    kinds = _kinds(c)
    if arch != "falcon-h1":
        w.add_head_count_kv([c["num_key_value_heads"] if kind == "attention" else 0 for kind in kinds])
    if arch == "granitehybrid":
        w.add_rope_scaling_finetuned(c["model_type"] == "bamba" or c.get("position_embedding_type") == "rope")
        if c.get("num_local_experts"):
            w.add_expert_shared_feed_forward_length(c["shared_intermediate_size"])
    if arch == "nemotron_h":
        w.add_feed_forward_length([c["intermediate_size"] if kind == "mlp" else 0 for kind in kinds])
    if arch == "nemotron_h_moe":
        w.add_feed_forward_length([c["moe_intermediate_size"] if kind == "moe" else 0 for kind in kinds])
        w.add_expert_shared_feed_forward_length(c["moe_shared_expert_intermediate_size"])
        w.add_expert_group_count(c["n_group"])
        if c.get("moe_latent_size"):
            w.add_moe_latent_size(c["moe_latent_size"])


def _mamba_tensor(name: str, tensor: torch.Tensor, c: dict[str, Any], arch: str) -> Tensors:
    number = name.split(".")[2] if ".layers." in name else ""
    at, part = f"blk.{number}.", name.rpartition(f"layers.{number}.")[2].removesuffix(".weight")
    tensor = _folded(name, tensor, c) if arch == "falcon-h1" else tensor
    if part.startswith(("mamba.", "mixer.")) and (own := part.partition(".")[2]) in SSM:
        if own == "A_log":
            tensor = -tensor.exp()[:, None]
        elif own == "D":
            tensor = tensor[:, None]
        elif own == "conv1d":
            tensor = tensor.squeeze(1)
        elif own == "norm":
            tensor = tensor.view(_groups(c), -1)
        return {at + SSM[own]: tensor}
    if "input_linear" in name:
        shared = "shexp" if "shared_mlp" in name and c.get("num_local_experts") else ""
        kind = "exps" if "block_sparse" in name else shared
        end = f"_{kind}.weight" if kind else ".weight"
        gate, up = tensor.chunk(2, -2)
        return {at + "ffn_gate" + end: gate, at + "ffn_up" + end: up}
    if name.endswith("shared_mlp.output_linear.weight"):
        return {at + ("ffn_down_shexp.weight" if c.get("num_local_experts") else "ffn_down.weight"): tensor}
    if name.endswith("block_sparse_moe.output_linear.weight"):
        return {at + "ffn_down_exps.weight": tensor}
    if "e_score_correction_bias" in name:
        return {at + "exp_probs_b.bias": tensor}
    if arch in NEMOTRONS and part.startswith("mixer.") and (own := part.partition(".")[2]) in NEMOTRON_NAMES:
        return {at + NEMOTRON_NAMES[own] + ".weight": tensor}
    return {name: tensor}


SSM = {
    "in_proj": "ssm_in.weight",
    "conv1d": "ssm_conv1d.weight",
    "conv1d.bias": "ssm_conv1d.bias",
    "dt_bias": "ssm_dt.bias",
    "A_log": "ssm_a",
    "D": "ssm_d",
    "norm": "ssm_norm.weight",
    "out_proj": "ssm_out.weight",
}
NEMOTRON_NAMES = {
    "q_proj": "attn_q",
    "k_proj": "attn_k",
    "v_proj": "attn_v",
    "o_proj": "attn_output",
    "gate": "ffn_gate_inp",
    "up_proj": "ffn_up",
    "down_proj": "ffn_down",
    "fc1_latent_proj": "ffn_latent_down",
    "fc2_latent_proj": "ffn_latent_up",
    "shared_experts.up_proj": "ffn_up_shexp",
    "shared_experts.down_proj": "ffn_down_shexp",
    "experts.up_proj": "ffn_up_exps",
    "experts.down_proj": "ffn_down_exps",
}


def _folded(name: str, tensor: torch.Tensor, c: dict[str, Any]) -> torch.Tensor:
    """Falcon-H1's constant factors are multiplied into its weights."""
    gate, down = c["mlp_multipliers"]
    factors = {
        "gate_proj": gate,
        "down_proj": down,
        "q_proj": c["attention_in_multiplier"],
        "k_proj": c["attention_in_multiplier"] * c["key_multiplier"],
        "v_proj": c["attention_in_multiplier"],
        "o_proj": c["attention_out_multiplier"],
        "mamba.out_proj": c["ssm_out_multiplier"],
        "embed_tokens": c["embedding_multiplier"],
        "lm_head": c["lm_head_multiplier"],
    }
    if "mamba.in_proj" in name:
        inner, states = _inner(c), _groups(c) * c["mamba_d_state"]
        parts = tensor.split((inner, inner, states, states, c["mamba_n_heads"]))
        return torch.cat([c["ssm_in_multiplier"] * m * p for m, p in zip(c["ssm_multipliers"], parts, strict=True)])
    return tensor * next((factor for part, factor in factors.items() if f"{part}.weight" in name), 1.0)


# --------------------------------------------------------------------------------------------- Kimi Linear


def _kimi_keys(w: gguf.GGUFWriter, c: dict[str, Any]) -> None:
    w.add_head_count_kv([1 if kind == "full_attention" else 0 for kind in c["layer_types"]])
    w.add_ssm_conv_kernel(c["linear_conv_kernel_dim"])
    w.add_kda_head_dim(c["linear_head_dim"])
    w.add_kv_lora_rank(c["kv_lora_rank"])
    w.add_rope_dimension_count(c["qk_rope_head_dim"])
    w.add_key_length(c["kv_lora_rank"] + c["qk_rope_head_dim"])
    w.add_value_length(c["kv_lora_rank"])
    w.add_key_length_mla(c["qk_nope_head_dim"] + c["qk_rope_head_dim"])
    w.add_value_length_mla(c["v_head_dim"])
    w.add_expert_gating_func(gguf.ExpertGatingFuncType.SIGMOID)
    w.add_expert_weights_norm(True)
    if "first_k_dense_replace" not in c:
        w.add_leading_dense_block_count(1)
    w.add_expert_used_count(c["num_experts_per_token"])
    w.add_expert_shared_count(c["num_shared_experts"])


def _kimi_tensor(name: str, tensor: torch.Tensor, c: dict[str, Any]) -> Tensors:
    number = name.split(".")[2] if ".layers." in name else ""
    at = f"blk.{number}."
    if name.endswith("kv_b_proj.weight"):
        by_head = tensor.view(c["num_attention_heads"], c["qk_nope_head_dim"] + c["v_head_dim"], -1)
        k_b, v_b = by_head.split((c["qk_nope_head_dim"], c["v_head_dim"]), 1)
        return {at + "attn_k_b.weight": k_b.transpose(1, 2), at + "attn_v_b.weight": v_b}
    for part, ours in KDA.items():
        if name.endswith("self_attn." + part):
            if "conv1d" in part:
                tensor = tensor.reshape(1, -1, 1, tensor.shape[-1])
            elif part == "A_log":
                tensor = -tensor.exp().reshape(1, 1, -1, 1)
            return {at + ours: tensor}
    if "e_score_correction_bias" in name:
        return {at + "exp_probs_b.bias": tensor}
    for part in ("gate", "up", "down"):
        if name.endswith(f"block_sparse_moe.{part}_proj.weight"):
            return {at + f"ffn_{part}.weight": tensor}
        if name.endswith(f"shared_experts.{part}_proj.weight"):
            return {at + f"ffn_{part}_shexp.weight": tensor}
    return {name: tensor}


KDA = {
    "q_conv1d.weight": "ssm_conv1d_q.weight",
    "k_conv1d.weight": "ssm_conv1d_k.weight",
    "v_conv1d.weight": "ssm_conv1d_v.weight",
    "f_a_proj.weight": "ssm_f_a.weight",
    "f_b_proj.weight": "ssm_f_b.weight",
    "g_a_proj.weight": "ssm_g_a.weight",
    "g_b_proj.weight": "ssm_g_b.weight",
    "b_proj.weight": "ssm_beta.weight",
    "A_log": "ssm_a",
    "dt_bias": "ssm_dt.bias",
    "o_norm.weight": "ssm_norm.weight",
}
