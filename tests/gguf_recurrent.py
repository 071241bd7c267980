"""What llama.cpp's converter does to models with recurrences, architecture by architecture; see `gguf_models.py`."""

from __future__ import annotations

from typing import Any

import gguf
import torch
from transformers import Qwen3_5MoeTextConfig, Qwen3_5TextConfig, Qwen3NextConfig

from tests.families_recurrent import CARRIED, DELTA, GATED_EXPERTS, SECTIONS, TURNED, _distances_from_one
from tests.family import Family

Tensors = dict[str, torch.Tensor]

GATED_DELTA = ("qwen3next", "qwen35", "qwen35moe")
ARCHITECTURES = GATED_DELTA

# As llama.cpp knows them: every fourth layer is attention, heads of queries and values are equally wide.
_EVERY_FOURTH: dict[str, Any] = {
    **DELTA,
    "linear_num_value_heads": 6,
    "linear_key_head_dim": 16,
    "linear_value_head_dim": 16,
}
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
]


def write_keys(w: gguf.GGUFWriter, c: dict[str, Any], arch: str) -> None:
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
