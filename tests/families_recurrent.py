"""Rows of the families that have recurrences: tiny random models with every mechanism of theirs switched on."""

from __future__ import annotations

from typing import Any

import torch
from transformers import (
    PreTrainedModel,
    Qwen3_5Config,
    Qwen3_5MoeConfig,
    Qwen3_5MoeTextConfig,
    Qwen3_5TextConfig,
    Qwen3NextConfig,
)

from tests.family import TINY, Family

CARRIED = 150  # tokens that a state has to be carried over; parity is tested to twice as many


def slowly_forgotten(model: PreTrainedModel) -> None:
    """Decays as trained models have them, from a few tokens to hundreds. Random ones forget within two tokens, and what
    little is left then is divided by its own size, which shows every rounding. Over hundreds of tokens every layer adds to
    that."""
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.endswith("A_log"):
                parameter.copy_(torch.linspace(-4, 0, parameter.numel()).reshape(parameter.shape))
            elif name.endswith("dt_bias"):
                parameter.copy_(torch.linspace(-1, 1, parameter.numel()))
            elif parameter.dim() > 1:
                parameter.div_(1.5)  # to matrices that keep a row's size


def _distances_from_one(model: PreTrainedModel) -> None:
    """The same, and norms that are stored as their distance from one around zero, not around one."""
    slowly_forgotten(model)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.endswith("norm.weight") and "linear_attn" not in name and "visual" not in name:
                parameter.sub_(1)


DELTA: dict[str, Any] = {
    **TINY,
    "max_position_embeddings": 512,
    "head_dim": 16,
    "linear_num_key_heads": 2,
    "linear_num_value_heads": 4,
    "linear_key_head_dim": 16,
    "linear_value_head_dim": 24,
}
TURNED = {"rope_type": "default", "rope_theta": 10000.0, "partial_rotary_factor": 0.5}
SECTIONS = {**TURNED, "mrope_section": [2, 1, 1], "mrope_interleaved": True}
GATED_EXPERTS: dict[str, Any] = {
    "num_experts": 8,
    "num_experts_per_tok": 3,
    "moe_intermediate_size": 24,
    "shared_expert_intermediate_size": 40,
}
TYPES = ["linear_attention", "linear_attention", "full_attention", "linear_attention"]

GATED_DELTA = [
    Family(
        "qwen3-next",
        lambda: Qwen3NextConfig(**DELTA, **GATED_EXPERTS, layer_types=TYPES, rope_parameters=TURNED),
        edge=CARRIED,
        repair=_distances_from_one,
    ),
    Family(
        "qwen3-next with dense layers, biases, six taps",
        lambda: Qwen3NextConfig(
            **{**DELTA, "linear_num_value_heads": 6, "linear_conv_kernel_dim": 6},
            **GATED_EXPERTS,
            mlp_only_layers=[1],
            norm_topk_prob=False,
            attention_bias=True,
            tie_word_embeddings=True,
            rope_parameters=TURNED,
        ),
        edge=CARRIED,
        repair=_distances_from_one,
    ),
    Family(
        "qwen3.5 (text)",
        lambda: Qwen3_5TextConfig(**DELTA, layer_types=TYPES, rope_parameters=SECTIONS),
        edge=CARRIED,
        repair=_distances_from_one,
    ),
    Family(
        "qwen3.5 moe (text)",
        lambda: Qwen3_5MoeTextConfig(**DELTA, **GATED_EXPERTS, layer_types=TYPES, rope_parameters=SECTIONS),
        edge=CARRIED,
        repair=_distances_from_one,
    ),
    Family(
        "qwen3.5",
        lambda: Qwen3_5Config(
            text_config={
                **DELTA,
                "model_type": "qwen3_5_text",
                "layer_types": TYPES,
                "rope_parameters": SECTIONS,
                "linear_num_key_heads": 3,
                "linear_num_value_heads": 9,
                "linear_conv_kernel_dim": 2,
            },
            vision_config=SMALL_EYES,
        ),
        edge=CARRIED,
        repair=_distances_from_one,
    ),
    Family(
        "qwen3.5 moe",
        lambda: Qwen3_5MoeConfig(
            text_config={
                **DELTA,
                **GATED_EXPERTS,
                "model_type": "qwen3_5_moe_text",
                "layer_types": TYPES,
                "rope_parameters": SECTIONS,
            },
            vision_config=SMALL_EYES,
        ),
        edge=CARRIED,
        repair=_distances_from_one,
    ),
]

SMALL_EYES: dict[str, Any] = {
    "depth": 1,
    "hidden_size": 16,
    "intermediate_size": 24,
    "num_heads": 2,
    "out_hidden_size": 48,
    "num_position_embeddings": 16,
    "patch_size": 4,
}

RECURRENT = [*GATED_DELTA]
