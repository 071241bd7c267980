"""Rows of the families that have recurrences: tiny random models with every mechanism of theirs switched on."""

from __future__ import annotations

from typing import Any

import torch
from transformers import (
    BambaConfig,
    FalconH1Config,
    GraniteMoeHybridConfig,
    KimiLinearConfig,
    NemotronHConfig,
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
    little is left then is divided by its own size, which shows every rounding."""
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.endswith("A_log"):
                parameter.copy_(torch.linspace(-4, 0, parameter.numel()).reshape(parameter.shape))
            elif name.endswith("dt_bias"):
                parameter.copy_(torch.linspace(-1, 1, parameter.numel()))
            elif parameter.dim() > 1:
                parameter.div_(1.5)  # to matrices that keep a row's size


def _with_positions(model: PreTrainedModel) -> None:
    """transformers 5.24 counts Bamba's positions from 0 again in every call, unless they are passed."""
    slowly_forgotten(model)

    def positions(module: object, args: Any, kwargs: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
        if kwargs.get("position_ids") is None and kwargs.get("cache") is not None:
            past, new = kwargs["cache"].get_seq_length(1), kwargs["input_ids"].shape[1]
            kwargs = {**kwargs, "position_ids": torch.arange(past, past + new)[None]}
        return args, kwargs

    model.get_submodule("model").register_forward_pre_hook(positions, with_kwargs=True)


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

GRANITE: dict[str, Any] = {
    **TINY,
    "max_position_embeddings": 512,
    "shared_intermediate_size": 56,
    "mamba_n_heads": 6,
    "mamba_d_state": 12,
    "mamba_n_groups": 2,
    "mamba_chunk_size": 32,
    "embedding_multiplier": 6.0,
    "logits_scaling": 2.0,
    "residual_multiplier": 0.8,
    "attention_multiplier": 0.2,
}
BAMBA = {key: value for key, value in GRANITE.items() if key.startswith("mamba") or key in TINY}
NEMOTRON: dict[str, Any] = {
    **{key: value for key, value in TINY.items() if key not in ("rms_norm_eps", "num_hidden_layers")},
    "max_position_embeddings": 512,
    "layer_norm_epsilon": 1e-5,
    "head_dim": 16,
    "mamba_num_heads": 6,
    "mamba_head_dim": 16,
    "n_groups": 2,
    "ssm_state_size": 12,
    "chunk_size": 32,
}
NEMOTRON_EXPERTS: dict[str, Any] = {
    "n_routed_experts": 8,
    "num_experts_per_tok": 3,
    "moe_intermediate_size": 24,
    "moe_shared_expert_intermediate_size": 40,
    "routed_scaling_factor": 2.5,
}
FALCON: dict[str, Any] = {key: value for key, value in GRANITE.items() if key.startswith("mamba") or key in TINY}
MULTIPLIED: dict[str, Any] = {
    "embedding_multiplier": 5.0,
    "lm_head_multiplier": 0.3,
    "mlp_multipliers": [0.9, 0.6],
    "ssm_multipliers": [0.7, 0.9, 1.3, 0.8, 1.2],
    "ssm_in_multiplier": 1.2,
    "ssm_out_multiplier": 0.7,
    "key_multiplier": 0.4,
    "attention_in_multiplier": 0.8,
    "attention_out_multiplier": 0.9,
}
MIXED = ["linear_attention", "linear_attention", "full_attention", "linear_attention"]

MAMBA2 = [
    Family(
        "granite 4 h",
        lambda: GraniteMoeHybridConfig(**GRANITE, num_local_experts=0, layer_types=MIXED, tie_word_embeddings=True),
        edge=CARRIED,
        repair=slowly_forgotten,
    ),
    Family(
        "granite 4 h with experts, positions and biases",
        lambda: GraniteMoeHybridConfig(
            **{**GRANITE, "mamba_n_groups": 3, "mamba_d_conv": 3},
            num_local_experts=6,
            num_experts_per_tok=2,
            layer_types=MIXED,
            position_embedding_type="rope",
            attention_bias=True,
            mamba_conv_bias=False,
        ),
        edge=CARRIED,
        repair=slowly_forgotten,
    ),
    Family(
        "granite 4",
        lambda: GraniteMoeHybridConfig(
            **GRANITE, num_local_experts=0, layer_types=["full_attention"] * 4, position_embedding_type="rope"
        ),
    ),
    Family(
        "bamba",
        lambda: BambaConfig(
            **BAMBA,
            attn_layer_indices=[1, 3],
            attention_bias=True,
            mlp_bias=True,
        ),
        edge=CARRIED,
        repair=_with_positions,
    ),
    Family(
        "falcon-h1",
        lambda: FalconH1Config(
            **FALCON, **MULTIPLIED, mamba_d_ssm=72, mamba_rms_norm=True, mamba_norm_before_gate=False
        ),
        edge=CARRIED,
        repair=slowly_forgotten,
    ),
    Family(
        "falcon-h1 without a norm, biases",
        lambda: FalconH1Config(
            **FALCON, **MULTIPLIED, mamba_d_ssm=None, attention_bias=True, mlp_bias=True, tie_word_embeddings=True
        ),
        edge=CARRIED,
        repair=slowly_forgotten,
    ),
    Family(
        "falcon-h1, norm before the gate",
        lambda: FalconH1Config(**FALCON, mamba_d_ssm=96, mamba_rms_norm=True, mamba_norm_before_gate=True),
        edge=CARRIED,
        repair=slowly_forgotten,
    ),
    Family(
        "nemotron-h",
        lambda: NemotronHConfig(**NEMOTRON, hybrid_override_pattern="M-M*-M", mlp_bias=True),
        edge=CARRIED,
        repair=slowly_forgotten,
    ),
    Family(
        "nemotron-3 nano",
        lambda: NemotronHConfig(
            **NEMOTRON, **NEMOTRON_EXPERTS, hybrid_override_pattern="MEM*EM", n_group=4, topk_group=2
        ),
        edge=CARRIED,
        repair=slowly_forgotten,
    ),
    Family(
        "nemotron-3 super",
        lambda: NemotronHConfig(
            **{**NEMOTRON, "n_groups": 3, "conv_kernel": 3},
            **NEMOTRON_EXPERTS,
            layers_block_type=["linear_attention", "moe", "full_attention", "linear_attention", "moe"],
            moe_latent_size=20,
            use_conv_bias=False,
            norm_topk_prob=False,
        ),
        edge=CARRIED,
        repair=slowly_forgotten,
    ),
]

KIMI: dict[str, Any] = {
    **{key: value for key, value in TINY.items() if key != "max_position_embeddings"},
    "num_key_value_heads": 4,
    "model_max_length": 512,
    "pad_token_id": 0,
    "kv_lora_rank": 24,
    "qk_nope_head_dim": 16,
    "qk_rope_head_dim": 8,
    "v_head_dim": 12,
    "num_experts": 8,
    "num_experts_per_token": 3,
    "moe_intermediate_size": 24,
}

KIMI_DELTA = [
    Family(
        "kimi linear",
        lambda: KimiLinearConfig(
            **KIMI,
            layer_types=["linear_attention", "full_attention", "linear_attention", "linear_attention"],
            linear_num_heads=3,
            linear_head_dim=24,
        ),
        edge=CARRIED,
        repair=slowly_forgotten,
    ),
    Family(
        "kimi linear, groups, two shared experts",
        lambda: KimiLinearConfig(
            **KIMI,
            linear_attn_config={
                "full_attn_layers": [3],
                "kda_layers": [1, 2, 4],
                "num_heads": 4,
                "head_dim": 12,
                "short_conv_kernel_size": 3,
            },
            num_expert_group=4,
            topk_group=2,
            num_shared_experts=2,
            q_lora_rank=20,
            first_k_dense_replace=2,
        ),
        edge=CARRIED,
        repair=slowly_forgotten,
    ),
]

RECURRENT = [*GATED_DELTA, *MAMBA2, *KIMI_DELTA]
