"""One row a family: a tiny random model of it, made by transformers with every mechanism of the family switched on.

The parity test, the counts and docs/families.md are driven by this table; a new family is a new row.
"""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from transformers import (
    AutoModelForCausalLM,
    AutoModelForImageTextToText,
    DeepseekV2Config,
    DeepseekV3Config,
    Gemma2Config,
    Gemma3Config,
    Gemma3nTextConfig,
    Gemma3TextConfig,
    Gemma4Config,
    Gemma4TextConfig,
    Gemma4UnifiedTextConfig,
    Glm4MoeConfig,
    Glm4MoeLiteConfig,
    GptOssConfig,
    GraniteConfig,
    GraniteMoeConfig,
    Lfm2Config,
    Lfm2MoeConfig,
    Llama4Config,
    Llama4TextConfig,
    LlamaConfig,
    LongcatFlashConfig,
    MiniMaxM2Config,
    Ministral3Config,
    Mistral3Config,
    Mistral4Config,
    Mistral4ForCausalLM,
    MistralConfig,
    MixtralConfig,
    Olmo2Config,
    Olmo3Config,
    OlmoeConfig,
    Phi3Config,
    PhimoeConfig,
    PreTrainedModel,
    Qwen2Config,
    Qwen3Config,
    Qwen3MoeConfig,
    SmolLM3Config,
)
from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

from tests.families_plain import PLAIN
from tests.families_recurrent import RECURRENT
from tests.family import TINY, Family

TINY_LFM2 = {**{key: value for key, value in TINY.items() if key != "rms_norm_eps"}, "norm_eps": 1e-5}


def _llama4_without_images(model: PreTrainedModel) -> None:
    """transformers 5.24 asks the text part for outputs of images, which it does not have."""

    def no_images(module: object, given: object, outputs: Any) -> None:
        outputs.image_outputs = None

    language_model: Any = model.get_submodule("language_model")
    language_model.register_forward_hook(no_images)


def _queries_of_usual_size(model: PreTrainedModel) -> None:
    """Gemma 4 does not scale its scores: trained queries are as small as the others' are after scaling. Random ones of
    size one make attention so sharp that rounding grows a thousandfold from layer to layer."""
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.endswith("q_norm.weight") and "vision" not in name:
                parameter.mul_(parameter.shape[0] ** -0.5)


def _corrections_of_usual_size(model: PreTrainedModel) -> None:
    """A router's corrections are no larger than the scores: otherwise they choose the same experts for every token."""
    for name, buffer in model.named_buffers():
        if name.endswith("e_score_correction_bias"):
            buffer.sub_(1).mul_(0.2)


def _phimoe_rope_sees_the_length(model: PreTrainedModel) -> None:
    """transformers 5 rotates with the short factors whatever the length; the model's authors take the long ones beyond
    the original context, as Phi-3 does."""
    rotary = model.model.rotary_emb
    plain = rotary.forward

    def forward(x: torch.Tensor, position_ids: torch.Tensor) -> Any:
        length = int(position_ids.max()) + 1
        rotary.rope_init_fn = lambda config: ROPE_INIT_FUNCTIONS["longrope"](config, seq_len=length)
        return plain(x, position_ids)

    rotary.forward = forward


def _llama3_rope() -> dict[str, Any]:
    return {
        "rope_type": "llama3",
        "rope_theta": 10000.0,
        "factor": 8.0,
        "low_freq_factor": 1.0,
        "high_freq_factor": 4.0,
        "original_max_position_embeddings": 32,
    }


WINDOWS = ["sliding_attention", "full_attention", "sliding_attention", "full_attention"]
PLAIN_ROPE = {"rope_type": "default", "rope_theta": 10000.0}


def _yarn(**more: Any) -> dict[str, Any]:
    """Chosen so that the ramp between the two betas begins and ends among the few pairs of a tiny head."""
    rules = {"rope_type": "yarn", "rope_theta": 100.0, "factor": 4.0, "original_max_position_embeddings": 64}
    return {**rules, "beta_fast": 2.0, "beta_slow": 0.25, **more}


def _longrope(pairs: int, **more: Any) -> dict[str, Any]:
    return {
        "rope_type": "longrope",
        "rope_theta": 10000.0,
        "short_factor": [1.0 + i / 16 for i in range(pairs)],
        "long_factor": [1.5 + i for i in range(pairs)],
        "original_max_position_embeddings": 32,
        **more,
    }


GEMMA = {**TINY, "head_dim": 20, "sliding_window": 24, "hidden_activation": "gelu_pytorch_tanh"}
GEMMA4_TEXT = {
    **GEMMA,
    "num_hidden_layers": 6,
    "layer_types": ["sliding_attention", "sliding_attention", "full_attention"] * 2,
    "global_head_dim": 24,
    "hidden_size_per_layer_input": 0,
    "final_logit_softcapping": 5.0,
    "rope_parameters": {
        "sliding_attention": PLAIN_ROPE,
        "full_attention": {"rope_type": "proportional", "partial_rotary_factor": 0.25, "rope_theta": 100000.0},
    },
}
SIGLIP = {
    "model_type": "siglip_vision_model",
    "hidden_size": 16,
    "intermediate_size": 16,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "image_size": 28,
    "patch_size": 14,
    "vision_use_head": False,
}
PIXTRAL = {
    "model_type": "pixtral",
    "hidden_size": 16,
    "intermediate_size": 16,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "head_dim": 8,
    "image_size": 28,
    "patch_size": 14,
}
MINISTRAL3_TEXT = {
    **TINY,
    "head_dim": 16,
    "sliding_window": 40,
    "rope_parameters": _yarn(llama_4_scaling_beta=0.3, mscale=1.0, mscale_all_dim=1.0),
}

DENSE = [
    Family(
        "gemma 2",
        lambda: Gemma2Config(
            **GEMMA, query_pre_attn_scalar=30, attn_logit_softcapping=3.0, final_logit_softcapping=5.0
        ),
        edge=24,
    ),
    Family(
        "gemma 3 (text)",
        lambda: Gemma3TextConfig(
            **GEMMA,
            layer_types=WINDOWS,
            query_pre_attn_scalar=30,
            attention_bias=True,
            final_logit_softcapping=5.0,
            rope_parameters={
                "sliding_attention": PLAIN_ROPE,
                "full_attention": {"rope_type": "linear", "rope_theta": 1000000.0, "factor": 8.0},
            },
        ),
        edge=24,
    ),
    Family(
        "gemma 3",
        lambda: Gemma3Config(
            text_config={**GEMMA, "model_type": "gemma3_text", "layer_types": WINDOWS, "query_pre_attn_scalar": 30},
            vision_config=SIGLIP,
            mm_tokens_per_image=4,
            image_token_index=130,
            boi_token_index=129,
            eoi_token_index=128,
        ),
        edge=24,
    ),
    Family(
        "gemma 3n (text)",
        lambda: Gemma3nTextConfig(
            **{**GEMMA, "num_hidden_layers": 6, "intermediate_size": [80, 80, 64, 64, 96, 96]},
            layer_types=["sliding_attention", "sliding_attention", "full_attention"] * 2,
            num_kv_shared_layers=3,
            hidden_size_per_layer_input=16,
            vocab_size_per_layer_input=110,
            altup_num_inputs=3,
            laurel_rank=8,
            activation_sparsity_pattern=[0.95, 0.8, 0.3, 0.0, 0.0, 0.0],
            final_logit_softcapping=5.0,
            attention_bias=True,
            rope_parameters={
                "sliding_attention": PLAIN_ROPE,
                "full_attention": {"rope_type": "linear", "rope_theta": 1000000.0, "factor": 8.0},
            },
        ),
        repair=_queries_of_usual_size,
        edge=24,
    ),
    Family(
        "gemma 4 31B",
        lambda: Gemma4TextConfig(**GEMMA4_TEXT, attention_k_eq_v=True, num_global_key_value_heads=1),
        repair=_queries_of_usual_size,
        edge=24,
    ),
    Family(
        "gemma 4 12B (unified)",
        lambda: Gemma4UnifiedTextConfig(**GEMMA4_TEXT, attention_k_eq_v=True, num_global_key_value_heads=1),
        repair=_queries_of_usual_size,
        edge=24,
    ),
    Family(
        "gemma 4 E2B",
        lambda: Gemma4TextConfig(
            **{**GEMMA4_TEXT, "hidden_size_per_layer_input": 12},
            vocab_size_per_layer_input=131,
            num_kv_shared_layers=3,
            use_double_wide_mlp=True,
        ),
        repair=_queries_of_usual_size,
        edge=24,
    ),
    Family(
        "mistral small 3",
        lambda: Mistral3Config(
            text_config={**TINY, "model_type": "mistral", "head_dim": 20, "sliding_window": None},
            vision_config=PIXTRAL,
            tie_word_embeddings=False,
            image_token_index=130,
        ),
    ),
    Family("ministral 3 (text)", lambda: Ministral3Config(**MINISTRAL3_TEXT), edge=64),
    Family(
        "ministral 3",
        lambda: Mistral3Config(
            text_config={**MINISTRAL3_TEXT, "model_type": "ministral3", "tie_word_embeddings": True},
            vision_config=PIXTRAL,
            image_token_index=130,
            tie_word_embeddings=True,
        ),
        edge=64,
    ),
    Family(
        "phi-3", lambda: Phi3Config(**{**TINY, "num_key_value_heads": 4}, sliding_window=24, pad_token_id=0), edge=24
    ),
    Family("phi-4", lambda: Phi3Config(**TINY, pad_token_id=0)),
    Family(
        "phi-4-mini",
        lambda: Phi3Config(
            **{**TINY, "hidden_size": 64},
            pad_token_id=0,
            tie_word_embeddings=True,
            original_max_position_embeddings=32,
            partial_rotary_factor=0.75,
            rope_parameters=_longrope(6, partial_rotary_factor=0.75),
        ),
        edge=32,
    ),
    Family(
        "smollm3",
        lambda: SmolLM3Config(
            **TINY,
            pad_token_id=0,
            attention_bias=True,
            mlp_bias=True,
            tie_word_embeddings=True,
            rope_parameters={"rope_type": "default", "rope_theta": 5000000.0},
        ),
    ),
    Family("olmo 2", lambda: Olmo2Config(**TINY, attention_bias=True)),
    Family(
        "olmo 3",
        lambda: Olmo3Config(
            **TINY,
            layer_types=WINDOWS,
            sliding_window=24,
            rope_parameters={
                "sliding_attention": PLAIN_ROPE,
                "full_attention": _yarn(attention_factor=1.2),
            },
        ),
        edge=64,
    ),
    Family(
        "granite",
        lambda: GraniteConfig(
            **TINY,
            attention_bias=True,
            mlp_bias=True,
            attention_multiplier=0.2,
            embedding_multiplier=6.0,
            residual_multiplier=0.4,
            logits_scaling=3.0,
        ),
    ),
]

EXPERTS = {"num_experts": 8, "num_experts_per_tok": 3}
LOCAL_EXPERTS = {"num_local_experts": 8, "num_experts_per_tok": 2}
SHARED_EXPERTS = {
    "n_routed_experts": 8,
    "num_experts_per_tok": 3,
    "n_shared_experts": 2,
    "moe_intermediate_size": 24,
    "n_group": 4,
    "topk_group": 2,
    "routed_scaling_factor": 1.5,
}
LLAMA4_TEXT = {
    **TINY,
    "head_dim": 12,
    "intermediate_size": 40,
    "intermediate_size_mlp": 72,
    "num_local_experts": 6,
    "num_experts_per_tok": 2,
    "interleave_moe_layer_step": 2,
    "attention_chunk_size": 24,
    "floor_scale": 16,
    "attn_scale": 0.3,
    "use_qk_norm": True,
    "attention_bias": True,
    "pad_token_id": 0,
    "rope_parameters": _llama3_rope(),
}

ROUTED = [
    Family("mixtral", lambda: MixtralConfig(**TINY, **LOCAL_EXPERTS, sliding_window=24), edge=24),
    Family(
        "minimax m2",
        lambda: MiniMaxM2Config(
            **TINY,
            **LOCAL_EXPERTS,
            head_dim=16,
            rope_parameters={"rope_type": "default", "rope_theta": 20000.0, "partial_rotary_factor": 0.5},
        ),
    ),
    Family(
        "qwen3 moe",
        lambda: Qwen3MoeConfig(
            **TINY,
            **EXPERTS,
            head_dim=20,
            moe_intermediate_size=24,
            norm_topk_prob=True,
            decoder_sparse_step=2,
            mlp_only_layers=[1],
            attention_bias=True,
            use_sliding_window=True,
            sliding_window=24,
        ),
        edge=24,
    ),
    Family("olmoe", lambda: OlmoeConfig(**TINY, **EXPERTS, clip_qkv=1.1, attention_bias=True)),
    Family(
        "granite moe",
        lambda: GraniteMoeConfig(
            **TINY,
            **LOCAL_EXPERTS,
            tie_word_embeddings=True,
            attention_bias=True,
            attention_multiplier=0.2,
            embedding_multiplier=6.0,
            residual_multiplier=0.4,
            logits_scaling=3.0,
        ),
    ),
    Family(
        "phi-3.5-moe",
        lambda: PhimoeConfig(
            **TINY,
            num_local_experts=8,
            attention_bias=True,
            lm_head_bias=True,
            router_jitter_noise=0.2,
            original_max_position_embeddings=32,
            rope_parameters=_longrope(6, short_mscale=1.1, long_mscale=1.3),
        ),
        edge=32,
        repair=_phimoe_rope_sees_the_length,
    ),
    Family("phi-mini-moe", lambda: PhimoeConfig(**TINY, num_local_experts=8, sliding_window=24), edge=24),
    Family(
        "gemma 4 26B-A4B",
        lambda: Gemma4Config(
            text_config={
                **GEMMA4_TEXT,
                "model_type": "gemma4_text",
                "attention_k_eq_v": True,
                "num_global_key_value_heads": 1,
                "num_hidden_layers": 4,
                "layer_types": WINDOWS,
                "enable_moe_block": True,
                "num_experts": 8,
                "top_k_experts": 3,
                "moe_intermediate_size": 24,
            },
            vision_config={
                "model_type": "gemma4_vision",
                "hidden_size": 16,
                "intermediate_size": 16,
                "num_hidden_layers": 1,
                "num_attention_heads": 2,
                "num_key_value_heads": 2,
                "head_dim": 8,
                "position_embedding_size": 16,
            },
            audio_config=None,
            image_token_id=130,
            boi_token_id=129,
            eoi_token_id=128,
        ),
        repair=_queries_of_usual_size,
        edge=24,
    ),
    Family(
        "llama 4 scout",
        lambda: Llama4Config(
            text_config={**LLAMA4_TEXT, "model_type": "llama4_text", "interleave_moe_layer_step": 1},
            vision_config={
                "hidden_size": 16,
                "intermediate_size": 64,
                "num_hidden_layers": 1,
                "num_attention_heads": 2,
                "image_size": 28,
                "patch_size": 14,
                "vision_output_dim": 16,
                "projector_input_dim": 16,
                "projector_output_dim": 16,
            },
            image_token_index=130,
            boi_token_index=129,
            eoi_token_index=128,
        ),
        edge=32,
        repair=_llama4_without_images,
    ),
    Family("llama 4 maverick (text)", lambda: Llama4TextConfig(**{**LLAMA4_TEXT, "use_qk_norm": False}), edge=32),
    Family(
        "gpt-oss",
        lambda: GptOssConfig(
            **{**TINY, "intermediate_size": 48, "hidden_size": 64},
            **LOCAL_EXPERTS,
            head_dim=20,
            sliding_window=24,
            swiglu_limit=1.5,
            rope_parameters=_yarn(truncate=False),
        ),
        edge=64,
    ),
    Family(
        "glm-4.5",
        lambda: Glm4MoeConfig(
            **TINY, **SHARED_EXPERTS, attention_bias=True, use_qk_norm=True, head_dim=20, first_k_dense_replace=2
        ),
    ),
]

LATENT_ATTENTION = {
    "num_key_value_heads": 4,
    "q_lora_rank": 20,
    "kv_lora_rank": 24,
    "qk_nope_head_dim": 12,
    "qk_rope_head_dim": 8,
    "v_head_dim": 16,
}
DEEPSEEK = {**TINY, **LATENT_ATTENTION, **SHARED_EXPERTS, "first_k_dense_replace": 1}

# What LongCat-Flash, whose layers are pairs, calls otherwise.
PAIRED = ("num_hidden_layers", "intermediate_size", "num_key_value_heads")

LATENT = [
    Family(
        "deepseek v2",
        lambda: DeepseekV2Config(
            **DEEPSEEK,
            topk_method="group_limited_greedy",
            attention_bias=True,
            mlp_bias=True,
            rope_parameters=_yarn(mscale=0.7, mscale_all_dim=0.9),
        ),
        edge=64,
    ),
    Family(
        "deepseek v2 lite",
        lambda: DeepseekV2Config(
            **{**DEEPSEEK, "q_lora_rank": None}, rope_parameters=_yarn(mscale=0.707, mscale_all_dim=0.707)
        ),
        edge=64,
    ),
    Family(
        "deepseek v3",
        lambda: DeepseekV3Config(
            **DEEPSEEK, attention_bias=True, rope_parameters=_yarn(mscale=1.0, mscale_all_dim=1.0)
        ),
        edge=64,
    ),
    Family(
        "kimi k2",
        lambda: DeepseekV3Config(
            **{**DEEPSEEK, "n_group": 1, "topk_group": 1},
            rope_parameters=_yarn(mscale=1.0, mscale_all_dim=1.0, beta_fast=1.0),
        ),
        edge=64,
        overrides={"model_type": "kimi_k2"},
    ),
    Family(
        "glm-4.7-flash",
        lambda: Glm4MoeLiteConfig(**{**DEEPSEEK, "first_k_dense_replace": 1}, attention_bias=True),
    ),
    Family(
        "mistral large 3",
        lambda: Mistral4Config(
            **DEEPSEEK,
            rope_parameters=_yarn(mscale=1.0, mscale_all_dim=1.0, llama_4_scaling_beta=0.3),
        ),
        model=Mistral4ForCausalLM,
        edge=64,
    ),
    Family(
        "longcat-flash",
        lambda: LongcatFlashConfig(
            **{name: size for name, size in TINY.items() if name not in PAIRED},
            **{**LATENT_ATTENTION, "head_dim": 8},
            num_layers=2,
            ffn_hidden_size=80,
            expert_ffn_hidden_size=24,
            n_routed_experts=8,
            zero_expert_num=5,
            moe_topk=4,
            routed_scaling_factor=2.5,
            attention_bias=True,
            rope_parameters=_yarn(mscale=1.0, mscale_all_dim=1.0),
        ),
        edge=64,
        repair=_corrections_of_usual_size,
    ),
]

CONVOLUTIONS = [
    Family(
        "lfm2",
        lambda: Lfm2Config(
            **{**TINY_LFM2, "intermediate_size": 120},
            layer_types=["conv", "conv", "full_attention", "conv"],
            block_multiple_of=16,
            block_ffn_dim_multiplier=1.3,
        ),
        edge=20,
    ),
    Family(
        "lfm2 untied, biases",
        lambda: Lfm2Config(
            **TINY_LFM2,
            layer_types=["full_attention", "conv", "full_attention", "conv"],
            conv_bias=True,
            conv_L_cache=5,
            block_auto_adjust_ff_dim=False,
            tie_word_embeddings=False,
            rope_parameters={"rope_type": "default", "rope_theta": 20000.0},
        ),
        edge=20,
    ),
    Family(
        "lfm2 moe",
        lambda: Lfm2MoeConfig(
            **TINY_LFM2,
            **EXPERTS,
            layer_types=["conv", "full_attention", "conv", "conv"],
            moe_intermediate_size=24,
            num_dense_layers=1,
            routed_scaling_factor=1.5,
        ),
        edge=20,
    ),
    Family(
        "lfm2 moe without a correction",
        lambda: Lfm2MoeConfig(
            **TINY_LFM2,
            **EXPERTS,
            layer_types=["full_attention", "conv", "conv", "full_attention"],
            moe_intermediate_size=24,
            num_dense_layers=0,
            conv_L_cache=4,
            use_expert_bias=False,
            norm_topk_prob=False,
        ),
        edge=20,
    ),
]

FAMILIES = [
    Family("llama 2", lambda: LlamaConfig(**{**TINY, "num_key_value_heads": 4})),
    Family("llama 3", lambda: LlamaConfig(**TINY, rope_parameters={"rope_type": "default", "rope_theta": 500000.0})),
    Family("llama 3.1", lambda: LlamaConfig(**TINY, rope_parameters=_llama3_rope()), edge=32),
    Family("llama 3.2", lambda: LlamaConfig(**TINY, tie_word_embeddings=True, rope_parameters=_llama3_rope()), edge=32),
    Family(
        "llama linear",
        lambda: LlamaConfig(**TINY, rope_parameters={"rope_type": "linear", "rope_theta": 10000.0, "factor": 4.0}),
        edge=64,
    ),
    Family(
        "llama yarn",
        lambda: LlamaConfig(**TINY, rope_parameters=_yarn()),
        edge=64,
    ),
    Family("llama with biases", lambda: LlamaConfig(**TINY, attention_bias=True, mlp_bias=True)),
    Family("mistral", lambda: MistralConfig(**TINY, head_dim=16, sliding_window=24), edge=24),
    Family("mistral nemo", lambda: MistralConfig(**TINY, head_dim=20, sliding_window=None)),
    Family("qwen2", lambda: Qwen2Config(**TINY)),
    Family(
        "qwen2 windows",
        lambda: Qwen2Config(**TINY, use_sliding_window=True, sliding_window=24, max_window_layers=2),
        edge=24,
    ),
    Family("qwen3", lambda: Qwen3Config(**TINY, head_dim=24)),
    Family(
        "qwen3 tied, biases",
        lambda: Qwen3Config(**TINY, head_dim=24, tie_word_embeddings=True, attention_bias=True),
    ),
    *DENSE,
    *ROUTED,
    *LATENT,
    *CONVOLUTIONS,
    *RECURRENT,
    *PLAIN,
]

BY_NAME = {family.name: family for family in FAMILIES}


@cache
def reference(name: str) -> PreTrainedModel:
    """The family's model with random weights everywhere: norms, biases and buffers too, which start as ones and
    zeros."""
    torch.manual_seed(sum(map(ord, name)))
    config = BY_NAME[name].config()
    config._attn_implementation = "eager"
    around = AutoModelForImageTextToText if hasattr(config, "text_config") else AutoModelForCausalLM
    own = BY_NAME[name].model
    model = (own(config) if own else around.from_config(config)).float().eval()
    with torch.no_grad():
        for parameter in [*model.parameters(), *_persistent_buffers(model)]:
            if parameter.dim() == 1:
                parameter.copy_(1 + 0.3 * torch.randn_like(parameter))
            else:
                parameter.normal_(std=1.5 * parameter.shape[-1] ** -0.5)
    BY_NAME[name].repair(model)
    return model


def saved(name: str, directory: Path) -> Path:
    """The model as its own publishers would write it: config.json and safetensors."""
    reference(name).save_pretrained(directory)
    if BY_NAME[name].overrides:
        path = directory / "config.json"
        path.write_text(json.dumps({**json.loads(path.read_text()), **BY_NAME[name].overrides}))
    if (rewrite := BY_NAME[name].rewrite) is not None:
        path = directory / "model.safetensors"
        save_file(rewrite(load_file(path)), path)
    return directory


def prompt(length: int, vocab: int = 120, seed: int = 0) -> list[int]:
    """Random tokens, without the last ones of the vocabulary, which stand for images in the models that see."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, vocab, (length,), generator=generator).tolist()


def _persistent_buffers(model: PreTrainedModel) -> list[torch.Tensor]:
    """But for constants, which have no dimension."""
    names = set(model.state_dict())
    return [b for n, b in model.named_buffers() if n in names and b.is_floating_point() and b.dim()]
