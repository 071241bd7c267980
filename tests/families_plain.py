"""Rows of families with ordinary attention. Two layers each, or as many as show their pattern."""

from __future__ import annotations

from typing import Any

import torch
import transformers as t

from tests.family import TINY, Family

Tensors = dict[str, torch.Tensor]

SMALL: dict[str, Any] = {**TINY, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2}
CENTRED: dict[str, Any] = {key: value for key, value in SMALL.items() if key != "rms_norm_eps"}
ONE_KIND: dict[str, Any] = {key: value for key, value in CENTRED.items() if key != "num_key_value_heads"}
FALCON: dict[str, Any] = {key: value for key, value in ONE_KIND.items() if key != "intermediate_size"}
EXPERTS: dict[str, Any] = {"num_experts": 6, "num_experts_per_tok": 2, "moe_intermediate_size": 16}
ROUTED: dict[str, Any] = {"n_routed_experts": 6, "num_experts_per_tok": 2, "moe_intermediate_size": 16}
WINDOWED: dict[str, Any] = {"sliding_window": 12, "layer_types": ["sliding_attention", "full_attention"]}
EYES: dict[str, Any] = {
    "depth": 1,
    "hidden_size": 16,
    "intermediate_size": 24,
    "num_heads": 2,
    "out_hidden_size": 32,
    "num_position_embeddings": 16,
    "patch_size": 4,
}
FACTORS: dict[str, Any] = {"embedding_multiplier": 6.0, "residual_multiplier": 0.4, "logits_scaling": 3.0}


def rope(kind: str = "default", **more: Any) -> dict[str, Any]:
    return {"rope_type": kind, "rope_theta": 10000.0, **more}


def row(
    name: str, config: type[t.PretrainedConfig], *, edge: int = 0, of: dict[str, Any] = SMALL, **more: Any
) -> Family:
    return Family(name, lambda: config(**{**of, **more}), edge=edge)


def as_other(
    name: str,
    model_type: str,
    config: type[t.PretrainedConfig],
    overrides: Any = None,
    rewrite: Any = None,
    **more: Any,
) -> Family:
    """A family that transformers does not have, by the arithmetic of one that it has."""
    changes = {"model_type": model_type, **(overrides or {})}
    return Family(name, lambda: config(**{**SMALL, **more}), overrides=changes, rewrite=rewrite)


def respelled(tensors: Tensors, names: dict[str, str]) -> Tensors:
    """The same tensors, with parts of their names replaced."""

    def spelled(name: str) -> str:
        for old, new in names.items():
            name = name.replace(old, new)
        return name

    return {spelled(name): tensor for name, tensor in tensors.items()}


def fused(tensors: Tensors, target: str, kv_heads: int) -> Tensors:
    """Queries, keys and values in one matrix, `kv_heads` parts of each in turn."""
    tensors = dict(tensors)
    for name in [name for name in tensors if "q_proj" in name]:
        parts = [tensors.pop(name.replace("q_proj", which)) for which in ("q_proj", "k_proj", "v_proj")]
        shares = [part.reshape(kv_heads, -1, part.shape[-1]) for part in parts]
        tensors[name.replace("self_attn.q_proj", target)] = torch.cat(shares, 1).flatten(0, 1).contiguous()
    return tensors


def internlm2(tensors: Tensors) -> Tensors:
    names = {"embed_tokens": "tok_embeddings", "lm_head": "output", "input_layernorm": "attention_norm"}
    names |= {"post_attention_layernorm": "ffn_norm", "self_attn.o_proj": "attention.wo", "mlp.": "feed_forward."}
    names |= {"gate_proj": "w1", "up_proj": "w3", "down_proj": "w2"}
    return respelled(fused(tensors, "attention.wqkv", 2), names)


def ling(tensors: Tensors) -> Tensors:
    """Granite's experts with their weights taken apart. A softmax over all experts, renormalised, is Granite's."""
    apart = fused(tensors, "attention.query_key_value", 1)
    for name in [name for name in apart if "input_linear" in name or "output_linear" in name]:
        stack, at = apart.pop(name), name.rpartition(".block_sparse_moe.")[0]
        halves = {"gate_proj": stack.chunk(2, -2)[0], "up_proj": stack.chunk(2, -2)[1]}
        for part, matrix in (halves if "input" in name else {"down_proj": stack}).items():
            if "shared_mlp" in name:
                at = name.rpartition(".shared_mlp.")[0]
                apart[f"{at}.mlp.shared_experts.{part}.weight"] = matrix.contiguous()
                continue
            for e, own in enumerate(matrix):
                apart[f"{at}.mlp.experts.{e}.{part}.weight"] = own.contiguous()
    names = {"block_sparse_moe.router.layer": "mlp.gate", "embed_tokens": "word_embeddings"}
    return respelled(apart, {**names, "self_attn.o_proj": "attention.dense"})


def around(
    name: str, config: type[t.PretrainedConfig], eyes: dict[str, Any], sections: list[int], **more: Any
) -> Family:
    """The text decoder of a model that sees."""
    text = {**SMALL, "rope_parameters": rope(mrope_section=sections), **more}
    tokens = {"image_token_id": 130, "video_token_id": 129, "vision_start_token_id": 128, "vision_end_token_id": 127}
    return Family(name, lambda: config(text_config=text, vision_config=eyes, **tokens))


GRANITES = ("embedding_multiplier", "residual_multiplier", "logits_scaling", "attention_multiplier")
LING: dict[str, Any] = {"n_shared_experts": 1, "head_dim": 12, "first_k_dense_replace": 1, "partial_rotary_factor": 0.5}

LLAMA_LIKE = [
    row("seed-oss", t.SeedOssConfig, head_dim=12, attention_out_bias=True, mlp_bias=True),
    row("arcee", t.ArceeConfig, attention_bias=True, mlp_bias=True),
    row("apertus", t.ApertusConfig, attention_bias=True),
    row("code world model", t.CwmConfig, head_dim=8, edge=12, rope_parameters=rope(), **WINDOWED),
    row("ministral 8B", t.MinistralConfig, edge=12, head_dim=12, **WINDOWED),
    row("iquest-coder", t.IQuestCoderConfig, head_dim=12),
    row("internlm 3", t.InternLM3Config, head_dim=12, attention_bias=True, mlp_bias=True),
    row("exaone 3", t.ExaoneConfig),
    row("exaone 4", t.Exaone4Config, edge=12, **WINDOWED),
    row("exaone 4 without windows", t.Exaone4Config, sliding_window=None, layer_types=["full_attention"] * 2),
    row("glm-4 9B", t.GlmConfig, pad_token_id=0, head_dim=16, attention_bias=True),
    row("glm-4-0414", t.Glm4Config, pad_token_id=0, head_dim=16, attention_bias=True),
    row("helium", t.HeliumConfig, head_dim=8),
    row("ernie 4.5", t.Ernie4_5Config, head_dim=12, use_bias=True),
    row(
        "hunyuan dense",
        t.HunYuanDenseV1Config,
        head_dim=12,
        attention_bias=True,
        rope_parameters=rope("dynamic", alpha=50.0, factor=1.0),
    ),
    row("hyperclova x", t.HyperCLOVAXConfig, **FACTORS, attention_multiplier=0.2, mlp_bias=True),
    row("gemma 1", t.GemmaConfig, head_dim=12, attention_bias=True),
    row("bitnet", t.BitNetConfig),
    row("granite with windows", t.GraniteSWAConfig, edge=12, **WINDOWED, layer_rope_theta=[100.0, 10000.0], **FACTORS),
    as_other("mimo 7B", "mimo", t.Qwen2Config),
    as_other(
        "minicpm",
        "minicpm",
        t.GraniteConfig,
        overrides={"scale_emb": 3.0, "scale_depth": 0.4 * 2**0.5, "dim_model_base": 16, **dict.fromkeys(GRANITES)},
        embedding_multiplier=3.0,
        residual_multiplier=0.4,
        logits_scaling=2.0,
        attention_multiplier=8**-0.5,
    ),
    as_other("internlm 2", "internlm2", t.LlamaConfig, {"bias": False}, internlm2),
    as_other(
        "ling 1.5",
        "bailing_moe",
        t.GraniteMoeSharedConfig,
        {
            "num_local_experts": 6,
            "moe_intermediate_size": 48,
            "num_shared_experts": 1,
            "shared_intermediate_size": None,
            **dict.fromkeys(GRANITES),
        },
        ling,
        num_local_experts=6,
        num_experts_per_tok=2,
        shared_intermediate_size=48,
        attention_multiplier=8**-0.5,
    ),
    as_other("ling 2", "bailing_moe_v2", t.SarvamMoEConfig, **ROUTED, **LING),
    around("qwen2-vl", t.Qwen2VLConfig, {"embed_dim": 16, "hidden_size": 32, "depth": 1, "num_heads": 2}, [2, 1, 1]),
    around("qwen2.5-vl", t.Qwen2_5_VLConfig, {**EYES, "fullatt_block_indexes": [0]}, [2, 1, 1]),
    around("qwen3-vl", t.Qwen3VLConfig, {**EYES, "deepstack_visual_indexes": [0]}, [2, 1, 1], head_dim=8),
    around(
        "qwen3-vl moe",
        t.Qwen3VLMoeConfig,
        {**EYES, "deepstack_visual_indexes": [0]},
        [2, 1, 1],
        **EXPERTS,
    ),
    around("glm-4.1v", t.Glm4vConfig, {**EYES, "image_size": 16}, [2, 1, 1]),
    around("glm-4.5v", t.Glm4vMoeConfig, {**EYES, "image_size": 16}, [1, 1, 0], **ROUTED, n_shared_experts=1),
]

LAYER_NORMS = [
    row("command-r", t.CohereConfig, of=CENTRED, attention_bias=True),
    row("command-r+", t.CohereConfig, of=CENTRED, use_qk_norm=True, tie_word_embeddings=False),
    row("command-a", t.Cohere2Config, of=CENTRED, edge=12, attention_bias=True, **WINDOWED),
    row("stablelm", t.StableLmConfig, of=CENTRED, use_qkv_bias=True),
    row("stablelm 12B", t.StableLmConfig, of=CENTRED, qk_layernorm=True, use_parallel_residual=True),
    row("starcoder2", t.Starcoder2Config, of=CENTRED, sliding_window=12, edge=12),
    row("gpt-neox", t.GPTNeoXConfig, of=ONE_KIND),
    row("gpt-neox, one branch after the other", t.GPTNeoXConfig, of=ONE_KIND, use_parallel_residual=False),
    row("phi-2", t.PhiConfig, of=CENTRED, qk_layernorm=True),
    row("nemotron 4", t.NemotronConfig, of=CENTRED, attention_bias=True, mlp_bias=True),
    row("jais 2", t.Jais2Config, of=CENTRED),
    row("olmo 1", t.OlmoConfig, of=CENTRED, clip_qkv=1.1),
    row("falcon 7B", t.FalconConfig, of=FALCON, bias=True),
    row("falcon 40B", t.FalconConfig, of=FALCON, new_decoder_architecture=True, num_kv_heads=2, bias=True),
    row(
        "falcon 11B",
        t.FalconConfig,
        of=FALCON,
        new_decoder_architecture=True,
        num_kv_heads=2,
        num_ln_in_parallel_attn=1,
    ),
    row("falcon rw without alibi", t.FalconConfig, of=FALCON, multi_query=False, parallel_attn=False, bias=True),
    Family("gpt-2", lambda: t.GPT2Config(vocab_size=131, n_embd=32, n_layer=2, n_head=4, n_positions=256)),
    Family("starcoder", lambda: t.GPTBigCodeConfig(vocab_size=131, n_embd=32, n_layer=2, n_head=4, n_positions=256)),
    Family(
        "opt",
        lambda: t.OPTConfig(
            vocab_size=131,
            hidden_size=32,
            ffn_dim=48,
            num_hidden_layers=2,
            num_attention_heads=4,
            word_embed_proj_dim=32,
            max_position_embeddings=256,
        ),
    ),
]

STEP: dict[str, Any] = {
    **SMALL,
    **ROUTED,
    "num_hidden_layers": 4,
    "layer_types": ["full_attention", "sliding_attention"] * 2,
    "head_dim": 16,
    "sliding_window": 12,
    "num_sliding_attention_heads": 6,
    "share_expert_dim": 24,
    "moe_router_scaling_factor": 1.5,
    "mlp_layer_types": ["dense", "sparse", "sparse", "sparse"],
    "swiglu_limits": [None, None, 0.4, 0.0],
    "swiglu_limits_shared": [0.0, 0.0, 0.3, 0.5],
    "rope_parameters": {
        "full_attention": {**rope(), "rope_theta": 50000.0, "partial_rotary_factor": 0.5},
        "sliding_attention": rope(partial_rotary_factor=1.0),
    },
}
# The same in its publisher's words, with the layers that predict further tokens in its lists.
STEP_3_5: dict[str, Any] = {
    **{key: value for key, value in STEP.items() if key not in ("rope_parameters", "mlp_layer_types")},
    "model_type": "step3p5",
    **dict.fromkeys(("text_config", "vision_config", "image_token_id", "num_sliding_attention_heads")),
    "attention_other_setting": {"num_attention_heads": 6, "num_attention_groups": 2, "head_dim": 16},
    "moe_layers_enum": "1,2,3,4",
    "rope_theta": [50000.0, 10000.0] * 2 + [10000.0],
    "partial_rotary_factors": [0.5, 1.0] * 2 + [1.0],
    "swiglu_limits": [None, None, 0.4, 0.0, 0.0],
    "swiglu_limits_shared": [0.0, 0.0, 0.3, 0.5, 0.0],
    "layer_types": ["full_attention", "sliding_attention"] * 2 + ["sliding_attention"],
    "num_nextn_predict_layers": 1,
}


def step() -> t.PretrainedConfig:
    eyes = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "image_size": 28, "patch_size": 14}
    return t.Step3p7Config(text_config=dict(STEP), vision_config=eyes, image_token_id=130)


def around_one(model: t.PreTrainedModel) -> None:
    """Norms that are stored as their distance from one, as large as the others': twice as large on queries and on keys
    they make attention so sharp that it magnifies rounding."""
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.endswith("norm.weight") and "vision" not in name:
                parameter.sub_(1)


DBRX: dict[str, Any] = {
    "d_model": 32,
    "n_heads": 4,
    "n_layers": 2,
    "vocab_size": 131,
    "max_seq_len": 256,
    "ffn_config": {"ffn_hidden_size": 16, "moe_num_experts": 6, "moe_top_k": 2},
}
DBRX_ATTENTION: dict[str, Any] = {"clip_qkv": 1.1, "kv_n_heads": 2, "rope_theta": 500.0}

MORE_EXPERTS = [
    row(
        "qwen2 moe",
        t.Qwen2MoeConfig,
        **EXPERTS,
        edge=12,
        shared_expert_intermediate_size=24,
        mlp_only_layers=[0],
        use_sliding_window=True,
        max_window_layers=1,
        sliding_window=12,
    ),
    row(
        "ernie 4.5 moe",
        t.Ernie4_5_MoeConfig,
        head_dim=12,
        use_bias=True,
        moe_num_experts=6,
        moe_k=2,
        moe_intermediate_size=16,
        moe_num_shared_experts=2,
    ),
    row(
        "hunyuan a13b",
        t.HunYuanMoEV1Config,
        head_dim=12,
        num_experts=6,
        moe_topk=2,
        rope_parameters=rope("dynamic", alpha=50.0, factor=1.0),
    ),
    row("exaone moe", t.ExaoneMoeConfig, **EXPERTS, edge=12, first_k_dense_replace=1, **WINDOWED),
    row("dots.llm1", t.Dots1Config, **ROUTED, n_shared_experts=2, first_k_dense_replace=1, attention_bias=True),
    row(
        "solar open",
        t.SolarOpenConfig,
        of={key: value for key, value in SMALL.items() if key != "intermediate_size"},
        **ROUTED,
        head_dim=12,
        attention_bias=True,
    ),
    row("sarvam 30B", t.SarvamMoEConfig, **ROUTED, n_shared_experts=1, head_dim=12, first_k_dense_replace=1),
    row("flexolmo", t.FlexOlmoConfig, num_experts=6, num_experts_per_tok=2, pad_token_id=0),
    row(
        "granite moe, a shared expert",
        t.GraniteMoeSharedConfig,
        num_local_experts=6,
        num_experts_per_tok=2,
        shared_intermediate_size=24,
        **FACTORS,
    ),
    row(
        "mimo v2",
        t.MiMoV2FlashConfig,
        **ROUTED,
        edge=12,
        head_dim=12,
        v_head_dim=8,
        num_key_value_heads=1,
        attention_bias=True,
        **WINDOWED,
        rope_parameters={
            "full_attention": rope(partial_rotary_factor=0.334),
            "sliding_attention": {**rope(partial_rotary_factor=0.334), "rope_theta": 100.0},
        },
    ),
    Family("dbrx", lambda: t.DbrxConfig(**DBRX, attn_config=DBRX_ATTENTION)),
    row(
        "laguna",
        t.LagunaConfig,
        **EXPERTS,
        **WINDOWED,
        edge=12,
        head_dim=8,
        shared_expert_intermediate_size=24,
        moe_routed_scaling_factor=1.5,
        num_attention_heads_per_layer=[4, 6],
    ),
    row("hunyuan 3", t.HYV3Config, **EXPERTS, head_dim=12, attention_bias=True),
    row(
        "mellum 2",
        t.MellumConfig,
        num_local_experts=6,
        num_experts_per_tok=2,
        moe_intermediate_size=16,
        edge=12,
        head_dim=12,
        mlp_layer_types=["dense", "sparse"],
        **WINDOWED,
    ),
    row("laguna, a gate a column", t.LagunaConfig, **EXPERTS, head_dim=8, gating="per-element"),
    Family("step-3.7", step, edge=12, repair=around_one),
    Family("step-3.5", step, edge=12, overrides=STEP_3_5, repair=around_one),
    row("trinity", t.AfmoeConfig, **EXPERTS, **WINDOWED, edge=12, head_dim=12, route_scale=1.5, mup_enabled=True),
]

LATENT: dict[str, Any] = {
    "num_key_value_heads": 4,
    "q_lora_rank": 20,
    "kv_lora_rank": 24,
    "qk_nope_head_dim": 12,
    "qk_rope_head_dim": 8,
    "v_head_dim": 16,
}
GROUPS: dict[str, Any] = {**ROUTED, "n_shared_experts": 1, "n_group": 3, "topk_group": 2, "first_k_dense_replace": 1}

INDEX: dict[str, Any] = {"index_n_heads": 16, "index_head_dim": 16}

MORE_LATENT = [
    row("deepseek v3.2", t.DeepseekV32Config, edge=12, **LATENT, **GROUPS, index_topk=12, **INDEX),
    row(
        "glm-5",
        t.GlmMoeDsaConfig,
        edge=12,
        **LATENT,
        **{**GROUPS, "n_group": 1, "topk_group": 1},
        num_hidden_layers=3,
        index_topk=12,
        indexer_types=["full", "shared", "full"],
        **INDEX,
    ),
    row("a.x k1", t.AXK1Config, **LATENT, **GROUPS),
    row("sarvam 105B", t.SarvamMLAConfig, **{**LATENT, "q_lora_rank": None}, **GROUPS),
    row("youtu", t.YoutuConfig, **LATENT),
    row("minicpm 3", t.MiniCPM3Config, **LATENT, scale_emb=3, dim_model_base=16),
]

PLAIN = [*LLAMA_LIKE, *LAYER_NORMS, *MORE_EXPERTS, *MORE_LATENT]
