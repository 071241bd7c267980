"""Tiny random models as GGUF files with llama.cpp's names, keys and layouts, as its converter writes them.

Names come from the `gguf` package's own table; what the converter does to values and keys beyond renaming is below,
architecture by architecture. `tests/checkpoints/test_gguf_models.py` has llama.cpp itself read the same files.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import torch
import transformers as t
from safetensors.torch import load_file
from transformers import (
    DeepseekV2Config,
    DeepseekV3Config,
    Gemma2Config,
    Gemma3nTextConfig,
    Gemma3TextConfig,
    Glm4MoeConfig,
    Glm4MoeLiteConfig,
    GptOssConfig,
    Lfm2MoeConfig,
    Llama4TextConfig,
    LlamaConfig,
    Ministral3Config,
    MixtralConfig,
    Olmo2Config,
    Olmo3Config,
    OlmoeConfig,
    PhimoeConfig,
    Qwen3MoeConfig,
    SmolLM3Config,
)

from tests import families as f
from tests import families_plain as plain
from tests import gguf_listed as listed
from tests import gguf_recurrent as recurrent
from tests.families import BY_NAME, DEEPSEEK, EXPERTS, GEMMA, LOCAL_EXPERTS, PLAIN_ROPE, SHARED_EXPERTS, TINY, Family

Tensors = dict[str, torch.Tensor]

# What GGUF has no key for, or llama.cpp no branch, is left out here: windows under 'llama', biases where it expects
# none, layers in other patterns than the one it knows.
YARN = f._yarn
ONLY_HERE = [
    Family("gguf: llama with biases", lambda: LlamaConfig(**TINY, attention_bias=True)),
    Family(
        "gguf: phi-3.5-moe",
        lambda: PhimoeConfig(
            **TINY,
            num_local_experts=8,
            attention_bias=True,
            lm_head_bias=True,
            router_jitter_noise=0.01,
            original_max_position_embeddings=32,
            rope_parameters=f._longrope(6, short_mscale=1.2, long_mscale=1.2),
        ),
        edge=32,
        repair=f._phimoe_rope_sees_the_length,
    ),
    Family(
        "gguf: gemma 2",
        lambda: Gemma2Config(
            **GEMMA, query_pre_attn_scalar=20, attn_logit_softcapping=3.0, final_logit_softcapping=5.0
        ),
        edge=24,
    ),
    Family(  # llama.cpp rounds the ramp's ends to whole pairs; with so small a theta they lie outside anyway
        "gguf: gpt-oss",
        lambda: GptOssConfig(
            **{**TINY, "intermediate_size": 48, "hidden_size": 64},
            **LOCAL_EXPERTS,
            head_dim=20,
            sliding_window=24,
            rope_parameters=YARN(truncate=False, beta_fast=32.0, beta_slow=1.0, rope_theta=3.0),
        ),
        edge=64,
    ),
    Family(
        "gguf: llama 4 scout",
        lambda: Llama4TextConfig(
            **{
                **f.LLAMA4_TEXT,
                "attention_bias": False,
                "attention_chunk_size": 8192,
                "floor_scale": 8192,
                "attn_scale": 0.1,
                "num_experts_per_tok": 1,
            }
        ),
        edge=32,
    ),
    Family("gguf: mixtral", lambda: MixtralConfig(**TINY, **LOCAL_EXPERTS)),
    Family(
        "gguf: ministral 3",
        lambda: Ministral3Config(
            **TINY,
            head_dim=16,
            rope_parameters=YARN(
                llama_4_scaling_beta=0.3, mscale=1.0, mscale_all_dim=1.0, beta_fast=32.0, beta_slow=1.0
            ),
        ),
        edge=64,
    ),
    Family(
        "gguf: qwen3 moe",
        lambda: Qwen3MoeConfig(**TINY, **EXPERTS, head_dim=20, moe_intermediate_size=24, norm_topk_prob=True),
    ),
    Family("gguf: olmoe", lambda: OlmoeConfig(**{**TINY, "num_key_value_heads": 4}, **EXPERTS)),
    Family("gguf: olmo 2", lambda: Olmo2Config(**TINY)),
    Family(
        "gguf: olmo 3",
        lambda: Olmo3Config(
            **TINY,
            sliding_window=24,
            rope_parameters={"sliding_attention": PLAIN_ROPE, "full_attention": {**PLAIN_ROPE}},
        ),
        edge=24,
    ),
    Family("gguf: smollm3", lambda: SmolLM3Config(**TINY, pad_token_id=0, rope_parameters=PLAIN_ROPE)),
    Family(
        "gguf: gemma 3",
        lambda: Gemma3TextConfig(
            **{**GEMMA, "num_hidden_layers": 7},
            query_pre_attn_scalar=20,
            rope_parameters={
                "sliding_attention": PLAIN_ROPE,
                "full_attention": {"rope_type": "linear", "rope_theta": 1000000.0, "factor": 8.0},
            },
        ),
        edge=24,
    ),
    Family(
        "gguf: deepseek v2",
        lambda: DeepseekV2Config(**{**DEEPSEEK, "n_group": 1, "topk_group": 1}, topk_method="greedy"),
    ),
    Family(
        "gguf: deepseek v2 lite",
        lambda: DeepseekV2Config(
            **{**DEEPSEEK, "q_lora_rank": None, "n_group": 1, "topk_group": 1},
            rope_parameters=YARN(mscale=0.707, mscale_all_dim=0.707, beta_fast=32.0, beta_slow=1.0),
        ),
        edge=64,
    ),
    Family("gguf: deepseek v3", lambda: DeepseekV3Config(**DEEPSEEK)),
    Family(
        "gguf: kimi k2",
        lambda: DeepseekV3Config(
            **{**DEEPSEEK, "n_group": 1, "topk_group": 1},
            rope_parameters=YARN(mscale=1.0, mscale_all_dim=1.0, beta_fast=32.0, beta_slow=1.0),
        ),
        edge=64,
        overrides={"model_type": "kimi_k2"},
    ),
    Family(
        "gguf: lfm2 moe",
        lambda: Lfm2MoeConfig(
            **f.TINY_LFM2,
            **EXPERTS,
            layer_types=["conv", "full_attention", "conv", "full_attention"],
            moe_intermediate_size=24,
            num_dense_layers=2,
            conv_L_cache=4,
        ),
    ),
    Family(
        "gguf: mistral large 3",
        lambda: t.Mistral4Config(
            **{**DEEPSEEK, "n_group": 1, "topk_group": 1},
            rope_parameters=YARN(
                mscale=1.0, mscale_all_dim=1.0, beta_fast=32.0, beta_slow=1.0, llama_4_scaling_beta=0.3
            ),
        ),
        model=t.Mistral4ForCausalLM,
        edge=64,
    ),
    Family("gguf: glm-4.7-flash", lambda: Glm4MoeLiteConfig(**{**DEEPSEEK, "n_group": 1, "topk_group": 1})),
    Family(
        "gguf: glm-4.5",
        lambda: Glm4MoeConfig(
            **TINY,
            **{**SHARED_EXPERTS, "n_group": 1, "topk_group": 1, "n_shared_experts": 1},
            attention_bias=True,
            use_qk_norm=True,
            head_dim=20,
            first_k_dense_replace=2,
        ),
    ),
]
ONLY_HERE += [
    # llama.cpp knows these widths and the cap of 30, that ten layers are sparse and that twenty write caches, whatever
    # the file says. It divides a gate's deviations by one number less than there are: of so many that does not show.
    Family(
        "gguf: gemma 3n",
        lambda: Gemma3nTextConfig(
            **{**GEMMA, "num_hidden_layers": 25, "intermediate_size": 2048},
            num_kv_shared_layers=5,
            vocab_size_per_layer_input=131,
            final_logit_softcapping=30.0,
        ),
        edge=24,
        repair=f._queries_of_usual_size,
    )
]
ONLY_HERE += recurrent.FAMILIES + listed.FAMILIES
ONLY_HERE += [
    plain.row("gguf: seed-oss", t.SeedOssConfig, head_dim=12),
    plain.row("gguf: arcee", t.ArceeConfig),
    plain.row("gguf: gemma 1", t.GemmaConfig, head_dim=12, num_key_value_heads=2),
    plain.row("gguf: glm-4-0414", t.Glm4Config, pad_token_id=0, head_dim=16, attention_bias=True),
    plain.row("gguf: ernie 4.5", t.Ernie4_5Config, head_dim=8),
    plain.row("gguf: hunyuan dense", t.HunYuanDenseV1Config, head_dim=12, tie_word_embeddings=True),
    plain.row("gguf: qwen2 moe", t.Qwen2MoeConfig, **plain.EXPERTS, shared_expert_intermediate_size=24),
    plain.row(
        "gguf: dots.llm1",
        t.Dots1Config,
        **{**plain.ROUTED, "num_key_value_heads": 4},
        n_shared_experts=2,
        first_k_dense_replace=1,
    ),
    plain.row("gguf: command-r+", t.CohereConfig, of=plain.CENTRED, use_qk_norm=True),
    plain.row("gguf: command-a", t.Cohere2Config, of=plain.CENTRED, edge=12, num_hidden_layers=4, sliding_window=12),
    plain.row(
        "gguf: ernie 4.5 moe",
        t.Ernie4_5_MoeConfig,
        head_dim=12,
        moe_num_experts=6,
        moe_k=2,
        moe_intermediate_size=16,
        moe_num_shared_experts=2,
    ),
    plain.as_other(
        "gguf: ling 2", "bailing_moe_v2", t.SarvamMoEConfig, **plain.ROUTED, **{**plain.LING, "head_dim": 8}
    ),
    plain.row(
        "gguf: trinity",
        t.AfmoeConfig,
        **plain.EXPERTS,
        num_hidden_layers=4,
        num_dense_layers=1,
        sliding_window=12,
        edge=12,
        head_dim=12,
        route_scale=1.5,
        mup_enabled=True,
    ),
    plain.row("gguf: internlm 3", t.InternLM3Config, head_dim=12),
    plain.row("gguf: solar open", t.SolarOpenConfig, **plain.ROUTED, head_dim=12),
    plain.row(
        "gguf: sarvam 30B",
        t.SarvamMoEConfig,
        **plain.ROUTED,
        n_shared_experts=1,
        head_dim=8,
        first_k_dense_replace=1,
    ),
    # llama.cpp knows windows only in files of 64 layers
    plain.row(
        "gguf: exaone 4",
        t.Exaone4Config,
        edge=12,
        num_hidden_layers=64,
        sliding_window=12,
        layer_types=[*["sliding_attention"] * 3, "full_attention"] * 16,
    ),
    plain.row("gguf: nemotron 4", t.NemotronConfig, of=plain.CENTRED),
    plain.row("gguf: falcon 7B", t.FalconConfig, of=plain.FALCON),
    plain.row("gguf: falcon 40B", t.FalconConfig, of=plain.FALCON, new_decoder_architecture=True, num_kv_heads=2),
    plain.row("gguf: command-r", t.CohereConfig, of=plain.CENTRED),
    plain.row("gguf: starcoder2", t.Starcoder2Config, of=plain.CENTRED, sliding_window=None),
    plain.row("gguf: phi-2", t.PhiConfig, of={**plain.CENTRED, "num_key_value_heads": 4}),
    plain.row("gguf: stablelm", t.StableLmConfig, of=plain.CENTRED, use_qkv_bias=True),
]
BY_NAME.update({family.name: family for family in ONLY_HERE})


@dataclass(frozen=True)
class Gguf:
    """A family, and the architecture under which llama.cpp knows it."""

    family: str
    architecture: str
    options: dict[str, Any] = field(default_factory=dict)

    def __str__(self) -> str:
        options = "".join(f", {k}" for k in self.options)
        return f"{self.family.removeprefix('gguf: ')} ({self.architecture}{options})"


MODELS = [
    Gguf("llama 2", "llama"),
    Gguf("llama 3.1", "llama"),
    Gguf("llama 3.2", "llama"),
    Gguf("llama linear", "llama"),
    Gguf("gguf: llama with biases", "llama"),
    Gguf("mistral nemo", "llama"),
    Gguf("mistral small 3", "llama"),
    Gguf("gguf: mixtral", "llama"),
    Gguf("gguf: ministral 3", "mistral3"),
    Gguf("qwen2", "qwen2"),
    Gguf("qwen3", "qwen3"),
    Gguf("gguf: qwen3 moe", "qwen3moe"),
    Gguf("phi-4", "phi3"),
    Gguf("phi-4-mini", "phi3"),
    Gguf("gguf: phi-3.5-moe", "phimoe"),
    Gguf("gguf: gemma 2", "gemma2"),
    Gguf("gguf: gemma 3", "gemma3"),
    Gguf("gguf: gemma 3n", "gemma3n"),
    Gguf("gemma 4 31B", "gemma4"),
    Gguf("gemma 4 E2B", "gemma4"),
    Gguf("gemma 4 26B-A4B", "gemma4"),
    Gguf("gguf: smollm3", "smollm3"),
    Gguf("gguf: olmo 2", "olmo2"),
    Gguf("gguf: olmo 3", "olmo2"),
    Gguf("gguf: olmoe", "olmoe"),
    Gguf("granite", "granite"),
    Gguf("granite moe", "granitemoe"),
    Gguf("gguf: deepseek v2", "deepseek2"),
    Gguf("gguf: deepseek v2 lite", "deepseek2"),
    Gguf("gguf: deepseek v3", "deepseek2"),
    Gguf("gguf: deepseek v3", "deepseek2", {"one kv_b": True}),
    Gguf("gguf: kimi k2", "deepseek2"),
    Gguf("gguf: glm-4.7-flash", "deepseek2"),
    Gguf("gguf: mistral large 3", "deepseek2"),
    Gguf("gguf: glm-4.5", "glm4moe"),
    Gguf("gguf: gpt-oss", "gpt-oss"),
    Gguf("gguf: llama 4 scout", "llama4"),
    Gguf("lfm2", "lfm2"),
    Gguf("gguf: lfm2 moe", "lfm2moe"),
    Gguf("gguf: lfm2 moe", "lfm2moe", {"fewer keys": True}),
    Gguf("gguf: qwen3-next", "qwen3next"),
    Gguf("gguf: qwen3-next", "qwen3next", {"one ssm_in": True}),
    Gguf("gguf: qwen3.5 (text)", "qwen35"),
    Gguf("gguf: qwen3.5 moe (text)", "qwen35moe"),
    Gguf("gguf: granite 4 h", "granitehybrid"),
    Gguf("gguf: granite 4 h with experts", "granitehybrid"),
    Gguf("gguf: bamba", "granitehybrid"),
    Gguf("gguf: nemotron-h", "nemotron_h"),
    Gguf("gguf: nemotron-3 nano", "nemotron_h_moe"),
    Gguf("gguf: nemotron-3 super", "nemotron_h_moe"),
    Gguf("gguf: falcon-h1", "falcon-h1"),
    Gguf("gguf: falcon-h1 without a norm", "falcon-h1"),
    Gguf("gguf: kimi linear", "kimi-linear"),
    Gguf("gguf: seed-oss", "seed_oss"),
    Gguf("gguf: arcee", "arcee"),
    Gguf("gguf: gemma 1", "gemma"),
    Gguf("gguf: glm-4-0414", "glm4"),
    Gguf("gguf: ernie 4.5", "ernie4_5"),
    Gguf("exaone 3", "exaone"),
    Gguf("exaone 4 without windows", "exaone4"),
    Gguf("gguf: hunyuan dense", "hunyuan-dense"),
    Gguf("qwen2.5-vl", "qwen2vl"),
    Gguf("qwen3-vl", "qwen3vl"),
    Gguf("qwen3-vl moe", "qwen3vlmoe"),
    Gguf("gguf: qwen2 moe", "qwen2moe"),
    Gguf("gguf: dots.llm1", "dots1"),
    Gguf("minimax m2", "minimax-m2"),
    Gguf("gguf: command-r", "command-r"),
    Gguf("gguf: command-r+", "command-r"),
    Gguf("gguf: command-a", "cohere2"),
    Gguf("gguf: nemotron 4", "nemotron"),
    Gguf("gguf: ernie 4.5 moe", "ernie4_5-moe"),
    Gguf("gguf: ling 2", "bailingmoe2"),
    Gguf("gguf: trinity", "afmoe"),
    Gguf("jais 2", "jais2"),
    Gguf("olmo 1", "olmo"),
    Gguf("gguf: falcon 7B", "falcon"),
    Gguf("gguf: falcon 40B", "falcon"),
    Gguf("gpt-2", "gpt2"),
    Gguf("starcoder", "starcoder"),
    Gguf("minicpm", "minicpm"),
    Gguf("internlm 2", "internlm2"),
    Gguf("hunyuan a13b", "hunyuan-moe"),
    Gguf("gguf: stablelm", "stablelm"),
    Gguf("stablelm 12B", "stablelm"),
    Gguf("gguf: starcoder2", "starcoder2"),
    Gguf("gpt-neox", "gptneox"),
    Gguf("gpt-neox, one branch after the other", "gptneox"),
    Gguf("gguf: phi-2", "phi2"),
    Gguf("llama 3", "llama"),
    Gguf("iquest-coder", "llama"),
    Gguf("gguf: internlm 3", "llama"),
    Gguf("qwen2-vl", "qwen2vl"),
    Gguf("gemma 4 12B (unified)", "gemma4"),
    Gguf("gguf: solar open", "glm4moe"),
    Gguf("glm-4.1v", "glm4"),
    Gguf("glm-4.5v", "glm4moe"),
    Gguf("gguf: sarvam 30B", "bailingmoe2"),
    Gguf("granite moe, a shared expert", "granitemoe"),
    Gguf("falcon 11B", "falcon"),
    Gguf("youtu", "deepseek2"),
    Gguf("gguf: exaone 4", "exaone4"),
    Gguf("apertus", "apertus"),
    Gguf("gguf: exaone moe", "exaone-moe"),
    Gguf("gguf: mimo v2", "mimo2"),
    Gguf("gguf: step-3.7", "step35"),
    Gguf("gguf: step-3.5", "step35"),
    Gguf("gguf: laguna", "laguna"),
    Gguf("gguf: mellum 2", "mellum"),
    Gguf("gguf: granite with windows", "granite_swa"),
    Gguf("gguf: hunyuan 3", "hy_v3"),
    Gguf("gguf: dbrx", "dbrx"),
    Gguf("gguf: glm-4 9B", "chatglm"),
    Gguf("ling 1.5", "bailingmoe"),
    Gguf("gguf: bitnet", "bitnet"),
    Gguf("gguf: minicpm 3", "minicpm3"),
    Gguf("gguf: deepseek v3.2", "deepseek32"),
    Gguf("gguf: glm-5", "glm-dsa"),
]
# What llama.cpp does otherwise than the models' authors, or cannot load so small.
UNCONFIRMED = {
    "command-r+ (command-r)": "llama.cpp normalises heads only in files of 64 layers or more",
    "phi-3.5-moe (phimoe)": "llama.cpp routes by a softmax over all experts, the model's authors by sparsemixer",
    "bamba (granitehybrid)": "llama.cpp's converter reorders whole heads, so llama.cpp turns the wrong half of them",
    "deepseek v2 lite (deepseek2)": "llama.cpp takes queries without a bottleneck only in files of 26 or 27 layers",
}
CENTRED = (
    "jais2",
    "falcon",
    "gpt2",
    "nemotron",
    "olmo",
    "starcoder",
    "command-r",
    "cohere2",
    "stablelm",
    "starcoder2",
    "gptneox",
    "phi2",
)
PERMUTED = (
    *("arcee", "minicpm", "olmo", "llama", "mistral3", "smollm3", "granite", "granitemoe", "granitehybrid"),
    "granite_swa",
)
PLUS_ONE = ("nemotron", "gemma", "gemma2", "gemma3")


@cache
def text_config(directory: Path) -> dict[str, Any]:
    config = json.loads((directory / "config.json").read_text())
    config = {**config, **config.get("text_config", {})}
    if "layers_block_type" in config:
        config.setdefault("num_hidden_layers", len(config["layers_block_type"]))
    usual = {"n_embd": "hidden_size", "n_layer": "num_hidden_layers", "n_head": "num_attention_heads"}
    usual |= {"d_model": "hidden_size", "n_layers": "num_hidden_layers", "n_heads": "num_attention_heads"}
    config |= {usual[key]: value for key, value in config.items() if key in usual}
    if config["model_type"] in ("gpt2", "gpt_bigcode", "falcon"):
        config.setdefault("max_position_embeddings", config.get("n_positions", 2048))
        config.setdefault("intermediate_size", config.get("ffn_hidden_size") or 4 * config["hidden_size"])
        several = config.get("num_kv_heads") if config.get("new_decoder_architecture") else None
        config["num_key_value_heads"] = several or (1 if config.get("multi_query") else config["num_attention_heads"])
    return {"rope_parameters": {"rope_type": "default", "rope_theta": config.get("rope_theta")}, **config}


def write(
    model: Gguf, source: Path, path: Path, *, wide: bool = False, template: Callable[[str], str] | None = None
) -> Path:
    """The saved model in `source` as a GGUF file; matrices in F16, in F32 where `wide`. With `template`, which may
    change the chat template, also its tokenizer, one that has digits apart as SmolLM2's has."""
    config, arch = text_config(source), model.architecture
    if arch == "nemotron_h":  # whose configuration has numbers of experts all the same
        config = {key: value for key, value in config.items() if "expert" not in key and "routed" not in key}
    writer = gguf.GGUFWriter(path, arch)
    write_keys(writer, config, arch, model.options)
    if template is None:
        writer.add_tokenizer_model("no_vocab")
    else:
        write_tokenizer(writer, source, template)
    layers = config["num_hidden_layers"]
    known_as = listed.NAMED_AS.get(arch, arch)
    names = gguf.get_tensor_name_map(next(a for a, n in gguf.MODEL_ARCH_NAMES.items() if n == known_as), layers)
    tensors = load_file(source / "model.safetensors")
    if arch == "apertus":
        listed.curve(writer, tensors, layers)
    for name, tensor in changed(tensors, config, arch, model.options).items():
        known = name if name.startswith(("blk.", "rope_")) else names.get_name(name, (".weight", ".bias"))
        assert known is not None, f"llama.cpp has no name for {name}"
        floats = ("ffn_gate_inp.weight", "shortconv.conv.weight", "ssm_a", "ssm_d", "ssm_norm.weight", ".bias")
        floats += ("altup_correct_coef.weight", "altup_predict_coef.weight")
        keep = wide or tensor.dim() < 2 or ".ssm_conv1d" in known or known.endswith(floats)
        writer.add_tensor(known, tensor.contiguous().float().numpy().astype(np.float32 if keep else np.float16))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def write_tokenizer(w: gguf.GGUFWriter, source: Path, template: Callable[[str], str]) -> None:
    saved = json.loads((source / "tokenizer.json").read_text("utf-8"))
    config = json.loads((source / "tokenizer_config.json").read_text("utf-8"))
    added = {entry["id"]: entry for entry in saved["added_tokens"]}
    texts = {**{i: text for text, i in saved["model"]["vocab"].items()}, **{i: e["content"] for i, e in added.items()}}
    kind = {True: gguf.TokenType.CONTROL, False: gguf.TokenType.USER_DEFINED}
    w.add_tokenizer_model("gpt2")
    w.add_tokenizer_pre("smollm")
    w.add_token_list([texts[i] for i in range(len(texts))])
    w.add_token_types([kind[added[i]["special"]] if i in added else gguf.TokenType.NORMAL for i in range(len(texts))])
    w.add_token_merges([" ".join(pair) for pair in saved["model"]["merges"]])
    w.add_eos_token_id(next(i for i, e in added.items() if e["content"] == config["eos_token"]))
    w.add_add_bos_token(False)
    w.add_chat_template(template(config["chat_template"]))


def write_keys(w: gguf.GGUFWriter, c: dict[str, Any], arch: str, options: dict[str, Any]) -> None:
    if arch in listed.ARCHITECTURES:
        listed.write_keys(w, c, arch)
        return
    layers, heads = c["num_hidden_layers"], c["num_attention_heads"]
    head_dim = c.get("head_dim") or c["hidden_size"] // heads
    kv_heads = c.get("num_key_value_heads") or heads
    w.add_block_count(layers)
    w.add_context_length(c.get("max_position_embeddings") or c["model_max_length"])
    w.add_embedding_length(c["hidden_size"])
    w.add_vocab_size(c["vocab_size"])
    if arch == "lfm2":
        w.add_feed_forward_length(adjusted_width(c))
    elif not c.get("use_double_wide_mlp") and arch not in recurrent.NEMOTRONS:
        w.add_feed_forward_length(c.get("intermediate_size_mlp") or c["intermediate_size"])
    w.add_head_count(heads)
    if arch == "deepseek2" and not options:
        kv_heads = 1  # the latent row
    if arch in ("lfm2", "lfm2moe"):
        w.add_head_count_kv([0 if kind == "conv" else kv_heads for kind in c["layer_types"]])
        w.add_shortconv_l_cache(c["conv_L_cache"])
    elif arch != "gemma4" and arch not in recurrent.WITHOUT_ONE_COUNT:
        w.add_head_count_kv(kv_heads)
    if arch == "phimoe":
        w.add_layer_norm_eps(c["rms_norm_eps"])
    if arch in recurrent.NEMOTRONS:
        w.add_layer_norm_eps(c["layer_norm_epsilon"])
    if arch in CENTRED:
        keys = ("norm_epsilon", "layer_norm_epsilon", "norm_eps", "layer_norm_eps")
        w.add_layer_norm_eps(next((c[key] for key in keys if key in c), 1e-5))
        if c.get("clip_qkv"):
            w.add_clamp_kqv(c["clip_qkv"])
        if arch in ("gptneox", "stablelm"):
            w.add_parallel_residual(c["use_parallel_residual"])
        if "logit_scale" in c:
            w.add_logit_scale(c["logit_scale"])
    else:
        w.add_layer_norm_rms_eps(c.get("rms_norm_eps") or c.get("norm_eps") or c["layer_norm_epsilon"])
    rope = c.get("rope_parameters") or {}
    whole = rope.get("full_attention", rope)
    theta = whole.get("rope_theta") or 10000.0
    if whole.get("alpha"):
        theta *= whole["alpha"] ** (head_dim / (head_dim - 2))
    if arch not in ("gpt2", "starcoder"):
        w.add_rope_freq_base(theta)
    if arch not in ("deepseek2", "gemma4", "kimi-linear"):
        w.add_key_length(head_dim)
        w.add_value_length(head_dim)
        w.add_rope_dimension_count(int(head_dim * whole.get("partial_rotary_factor", 1.0)))
    kind = whole.get("rope_type", "default")
    if kind in ("linear", "yarn"):
        w.add_rope_scaling_type(gguf.RopeScalingType(kind))
        w.add_rope_scaling_factor(whole["factor"])
    if kind == "yarn":
        w.add_rope_scaling_orig_ctx_len(whole["original_max_position_embeddings"])
        w.add_rope_scaling_yarn_beta_fast(whole["beta_fast"])
        w.add_rope_scaling_yarn_beta_slow(whole["beta_slow"])
        if whole.get("mscale_all_dim"):
            scale = 0.1 if arch == "deepseek2" else 1.0
            w.add_rope_scaling_yarn_log_mul(scale * whole["mscale_all_dim"])
    if kind == "longrope":
        w.add_rope_scaling_orig_ctx_len(whole["original_max_position_embeddings"])
        w.add_rope_scaling_attn_factors(whole.get("short_mscale") or longrope_factor(c, whole))
    if "llama_4_scaling_beta" in whole:
        w.add_attn_temperature_scale(whole["llama_4_scaling_beta"])
        if arch == "deepseek2":
            w.add_attn_temperature_length(whole["original_max_position_embeddings"])
    if (
        arch in ("gemma2", "gemma3", "gemma3n", "gemma4", "gpt-oss")
        or (arch == "olmo2" and c.get("sliding_window"))
        or arch == "cohere2"
    ):
        w.add_sliding_window(c["sliding_window"])
    if arch == "olmo2" and c.get("sliding_window"):
        w.add_sliding_window_pattern([t == "sliding_attention" for t in c["layer_types"]])
    if arch == "minicpm":
        w.add_embedding_scale(c["scale_emb"])
        w.add_residual_scale(c["scale_depth"] / c["num_hidden_layers"] ** 0.5)
        w.add_logit_scale(c["hidden_size"] / c["dim_model_base"])
    for key, add in (
        ("attn_logit_softcapping", w.add_attn_logit_softcapping),
        ("final_logit_softcapping", w.add_final_logit_softcapping),
        ("attention_multiplier", w.add_attention_scale),
        ("residual_multiplier", w.add_residual_scale),
        ("embedding_multiplier", w.add_embedding_scale),
        ("logits_scaling", w.add_logit_scale),
        ("num_experts_per_tok", w.add_expert_used_count),
        ("n_shared_experts", w.add_expert_shared_count),
        ("first_k_dense_replace", w.add_leading_dense_block_count),
        ("num_dense_layers", w.add_leading_dense_block_count),
        ("routed_scaling_factor", w.add_expert_weights_scale),
        ("norm_topk_prob", w.add_expert_weights_norm),
    ):
        unsaid = ("norm_topk_prob",) if arch == "olmoe" or "fewer keys" in options else ()
        if arch in recurrent.FOLDED and "multiplier" in key:
            continue
        if c.get(key) is not None and key not in unsaid:
            add(c[key])
    experts = (
        c.get("moe_num_experts") or c.get("num_local_experts") or c.get("num_experts") or c.get("n_routed_experts")
    )
    if experts:
        w.add_expert_count(experts)
    if arch == "llama4":
        w.add_interleave_moe_layer_step(c["interleave_moe_layer_step"])
        w.add_expert_feed_forward_length(c["intermediate_size"])
    elif arch == "hunyuan-moe":
        w.add_expert_feed_forward_length(
            c["moe_intermediate_size"] if "moe_intermediate_size" in c else c["intermediate_size"]
        )
        w.add_expert_shared_feed_forward_length(c["intermediate_size"])
        w.add_expert_used_count(c["moe_topk"][0] if isinstance(c["moe_topk"], list) else c["moe_topk"])
    elif c.get("moe_intermediate_size") or arch in ("gpt-oss", "minimax-m2"):
        w.add_expert_feed_forward_length(c.get("moe_intermediate_size") or c["intermediate_size"])
    if arch == "gemma3n":
        gemma3n_keys(w, c)
    if arch == "gemma4":
        gemma4_keys(w, c)
    if arch in recurrent.ARCHITECTURES:
        recurrent.write_keys(w, c, arch)
    if c.get("shared_expert_intermediate_size"):
        w.add_expert_shared_feed_forward_length(c["shared_expert_intermediate_size"])
    if sections := (c.get("rope_parameters") or {}).get("mrope_section"):
        w.add_rope_dimension_sections([*sections, 0])
    if arch in ("ernie4_5-moe", "bailingmoe2", "afmoe"):
        shared = c.get("moe_num_shared_experts") or c.get("num_shared_experts") or c.get("n_shared_experts")
        w.add_expert_shared_count(shared)
        w.add_expert_shared_feed_forward_length(shared * c["moe_intermediate_size"])
    if arch == "ernie4_5-moe":
        w.add_leading_dense_block_count(c["moe_layer_start_index"])
        w.add_interleave_moe_layer_step(c["moe_layer_interval"])
        w.add_expert_used_count(c["moe_k"])
    if arch == "afmoe":
        w.add_sliding_window(c["sliding_window"])
        w.add_expert_weights_scale(c["route_scale"])
        w.add_expert_weights_norm(True)
    if arch in ("afmoe", "bailingmoe2", "deepseek2", "dots1", "glm4moe", "lfm2moe", "minimax-m2"):
        sigmoid = c["model_type"] not in ("deepseek_v2", "mistral4")
        w.add_expert_gating_func(gguf.ExpertGatingFuncType.SIGMOID if sigmoid else gguf.ExpertGatingFuncType.SOFTMAX)
    if c.get("shared_intermediate_size") and arch == "granitemoe":
        w.add_expert_shared_feed_forward_length(c["shared_intermediate_size"])
    if arch == "exaone4" and c.get("sliding_window"):
        w.add_sliding_window(c["sliding_window"])
        w.add_sliding_window_pattern([kind == "sliding_attention" for kind in c["layer_types"]])
    if arch == "deepseek2":
        deepseek_keys(w, c, options)


def adjusted_width(c: dict[str, Any]) -> int:
    """Of a feed-forward whose config states the width of one without gates."""
    if not c["block_auto_adjust_ff_dim"]:
        return int(c["intermediate_size"])
    width, step = int(c["block_ffn_dim_multiplier"] * int(2 * c["intermediate_size"] / 3)), c["block_multiple_of"]
    return int(step * ((width + step - 1) // step))


def gemma3n_keys(w: gguf.GGUFWriter, c: dict[str, Any]) -> None:
    normal = torch.distributions.Normal(0, 1)
    w.add_altup_active_idx(c["altup_active_idx"])
    w.add_altup_num_inputs(c["altup_num_inputs"])
    w.add_embedding_length_per_layer_input(c["hidden_size_per_layer_input"])
    w.add_shared_kv_layers(c["num_kv_shared_layers"])
    w.add_activation_sparsity_scale([float(normal.icdf(torch.tensor(s))) for s in c["activation_sparsity_pattern"]])
    w.add_sliding_window_pattern([t == "sliding_attention" for t in c["layer_types"]])
    w.add_rope_freq_base_swa(c["rope_parameters"]["sliding_attention"]["rope_theta"])


def gemma4_keys(w: gguf.GGUFWriter, c: dict[str, Any]) -> None:
    sliding = [t == "sliding_attention" for t in c["layer_types"]]
    full = next(iter(c["per_layer_config"].values()))
    w.add_rope_freq_base_swa(c["rope_parameters"]["sliding_attention"]["rope_theta"])
    w.add_sliding_window_pattern(sliding)
    w.add_shared_kv_layers(c["num_kv_shared_layers"])
    w.add_embedding_length_per_layer_input(c["hidden_size_per_layer_input"])
    w.add_key_length(full["head_dim"])
    w.add_value_length(full["head_dim"])
    w.add_key_length_swa(c["head_dim"])
    w.add_value_length_swa(c["head_dim"])
    w.add_rope_dimension_count(full["head_dim"])
    w.add_rope_dimension_count_swa(c["head_dim"])
    by_layer = [
        c["num_key_value_heads"] if s else full.get("num_key_value_heads", c["num_key_value_heads"]) for s in sliding
    ]
    w.add_head_count_kv(by_layer if len(set(by_layer)) > 1 else by_layer[0])
    if c.get("use_double_wide_mlp"):
        own = len(sliding) - c["num_kv_shared_layers"]
        w.add_feed_forward_length([c["intermediate_size"] * (1 if i < own else 2) for i in range(len(sliding))])
    if c.get("top_k_experts"):
        w.add_expert_used_count(c["top_k_experts"])


def deepseek_keys(w: gguf.GGUFWriter, c: dict[str, Any], options: dict[str, Any]) -> None:
    head, value = c["qk_nope_head_dim"] + c["qk_rope_head_dim"], c["v_head_dim"]
    w.add_kv_lora_rank(c["kv_lora_rank"])
    w.add_rope_dimension_count(c["qk_rope_head_dim"])
    if not c.get("n_routed_experts"):
        w.add_leading_dense_block_count(c["num_hidden_layers"])
        w.add_expert_feed_forward_length(c["intermediate_size"])
        w.add_expert_shared_count(0)
    if c.get("q_lora_rank"):
        w.add_q_lora_rank(c["q_lora_rank"])
    if c.get("n_group", 1) > 1:
        w.add_expert_group_count(c["n_group"])
        w.add_expert_group_used_count(c["topk_group"])
    if options:  # before the absorbed form
        w.add_key_length(head)
        w.add_value_length(value)
        return
    w.add_key_length(c["kv_lora_rank"] + c["qk_rope_head_dim"])
    w.add_value_length(c["kv_lora_rank"])
    w.add_key_length_mla(head)
    w.add_value_length_mla(value)


def longrope_factor(c: dict[str, Any], rules: dict[str, Any]) -> float:
    original = rules["original_max_position_embeddings"]
    return float(np.sqrt(1 + np.log(c["max_position_embeddings"] / original) / np.log(original)))


def changed(tensors: Tensors, c: dict[str, Any], arch: str, options: dict[str, Any]) -> Tensors:
    """The tensors that the converter hands to the table of names."""
    out: Tensors = {}
    heads, kv_heads = c["num_attention_heads"], c.get("num_key_value_heads") or c["num_attention_heads"]
    for name, tensor in tensors.items():
        name = (
            name.replace("language_model.lm_head.", "lm_head.")
            .replace("language_model.model.", "model.")
            .replace("model.language_model.", "model.")
        )
        inside = (
            "word_embeddings",
            "tok_embeddings",
            "layers",
            "embed_tokens",
            "norm",
            "per_layer",
            "altup",
            "embedding_norm",
            "final_layernorm",
        )
        others = ("lm_head", "output.", "backbone.", "gpt_neox.", "embed_out", "transformer.")
        if not name.startswith((*(f"model.{part}" for part in inside), *others)):
            continue
        if arch in PERMUTED and ".q_proj." in name:
            tensor = neighbouring(tensor, heads, options.get("turned", 1.0))
        if arch in PERMUTED and ".k_proj." in name:
            tensor = neighbouring(tensor, kv_heads, options.get("turned", 1.0))
        if arch in PLUS_ONE and name.endswith("norm.weight"):
            tensor = tensor + 1
        module = next((m for m in (recurrent, listed) if arch in m.ARCHITECTURES), None)
        out |= (one if module is None else module.one)(name, tensor, c, arch, options)
    out = stacked(out)
    rope = c.get("rope_parameters") or {}
    if rope.get("rope_type") == "llama3":
        out["rope_freqs.weight"] = llama3_divisors(c, rope)
    if rope.get("full_attention", {}).get("rope_type") == "llama3":
        out["rope_freqs.weight"] = llama3_divisors(c, rope["full_attention"])
    if rope.get("rope_type") == "longrope":
        out["rope_factors_long.weight"] = torch.tensor(rope["long_factor"])
        out["rope_factors_short.weight"] = torch.tensor(rope["short_factor"])
    if arch == "gemma3n":  # the files have keys and values for layers that read another's
        for i in range(c["num_hidden_layers"] - c["num_kv_shared_layers"], c["num_hidden_layers"]):
            for part in ("k", "v"):
                out[f"blk.{i}.attn_{part}.weight"] = torch.ones(kv_heads * c["head_dim"], c["hidden_size"])
            out[f"blk.{i}.attn_k_norm.weight"] = torch.ones(c["head_dim"])
    if arch == "gemma4":
        dim = next(iter(c["per_layer_config"].values()))["head_dim"]
        turned = int(dim * rope["full_attention"]["partial_rotary_factor"] / 2)
        out["rope_freqs.weight"] = torch.tensor([1.0] * turned + [1e30] * (dim // 2 - turned))
    return out


def one(name: str, tensor: torch.Tensor, c: dict[str, Any], arch: str, options: dict[str, Any]) -> Tensors:
    """What becomes of one tensor."""
    layer = name.split(".")[2] if name.startswith("model.layers.") else ""
    if (
        "query_key_value" in name and arch != "bailingmoe2"
    ) or "wqkv" in name:  # a key head's queries, its key, its value, and so on
        return {name.replace("wqkv", key): part for key, part in by_part(tensor, c, arch).items()}
    if arch == "gpt2" and name.endswith(("c_attn.weight", "c_proj.weight", "c_fc.weight")):
        return {name: tensor.T}
    if arch == "qwen3vlmoe" and ".experts." in name:
        right = (
            tensor
            if tensor.shape[-1] in (c["hidden_size"] * ("down" not in name), c["moe_intermediate_size"])
            else None
        )
        base = f"blk.{layer}.ffn_"
        right = tensor.transpose(1, 2) if right is None else tensor
        if "down_proj" in name:
            return {base + "down_exps.weight": right}
        return {base + "gate_exps.weight": right.chunk(2, 1)[0], base + "up_exps.weight": right.chunk(2, 1)[1]}
    if arch == "deepseek2" and name.endswith("experts.gate_up_proj"):
        gate, up = tensor.chunk(2, 1)
        return {f"blk.{layer}.ffn_gate_exps.weight": gate, f"blk.{layer}.ffn_up_exps.weight": up}
    if arch == "deepseek2" and name.endswith("experts.down_proj"):
        return {f"blk.{layer}.ffn_down_exps.weight": tensor}
    if arch == "deepseek2" and name.endswith("kv_b_proj.weight") and not options:
        by_head = tensor.view(c["num_attention_heads"], c["qk_nope_head_dim"] + c["v_head_dim"], -1)
        k_b, v_b = by_head.split((c["qk_nope_head_dim"], c["v_head_dim"]), 1)
        return {f"blk.{layer}.attn_k_b.weight": k_b.transpose(1, 2), f"blk.{layer}.attn_v_b.weight": v_b}
    if arch == "gemma3n" and name.endswith("_scale"):
        return {name + ".weight": tensor}
    if arch == "gemma4":
        if name.endswith("router.scale"):
            return {f"blk.{layer}.ffn_gate_inp.scale": tensor}
        if name.endswith("per_expert_scale"):
            return {f"blk.{layer}.ffn_down_exps.scale": tensor}
        if name.endswith("layer_scalar") or ".experts." in name:
            return {name + ".weight": tensor}
    if arch == "gpt-oss":
        if name.endswith("sinks"):
            return {name + ".weight": tensor}
        if ".experts." in name:
            base, bias = f"blk.{layer}.ffn_", ".bias" if name.endswith("_bias") else ".weight"
            right = tensor if bias == ".bias" else tensor.transpose(1, 2)
            if ".down_proj" in name:
                return {base + "down_exps" + bias: right}
            return {base + "gate_exps" + bias: right[:, 0::2], base + "up_exps" + bias: right[:, 1::2]}
    if arch == "llama4" and ".experts." in name:
        right = tensor.transpose(1, 2)
        if "down_proj" in name:
            return {f"blk.{layer}.ffn_down_exps.weight": right}
        gate, up = right.chunk(2, 1)
        return {f"blk.{layer}.ffn_gate_exps.weight": gate, f"blk.{layer}.ffn_up_exps.weight": up}
    if arch == "granitemoe" and "shared_mlp.input_linear" in name:
        gate, up = tensor.chunk(2)
        return {f"blk.{layer}.ffn_gate_shexp.weight": gate, f"blk.{layer}.ffn_up_shexp.weight": up}
    if arch == "granitemoe" and "shared_mlp" in name:
        return {f"blk.{layer}.ffn_down_shexp.weight": tensor}
    if arch == "glm4" and rope_sections(c) and any(part in name for part in (".q_proj.", ".k_proj.")):
        return {name: halves(tensor, c)}
    if arch == "granitemoe" and "input_linear" in name:
        gate, up = tensor.chunk(2, 1)
        return {f"blk.{layer}.ffn_gate_exps.weight": gate, f"blk.{layer}.ffn_up_exps.weight": up}
    if name.endswith("conv.conv.weight"):
        return {name: tensor.squeeze(1)}
    if "e_score_correction_bias" in name or name.endswith("expert_bias"):
        return {f"blk.{layer}.exp_probs_b.bias": tensor.reshape(-1)}
    return {name: tensor}


def rope_sections(c: dict[str, Any]) -> list[int]:
    return (c.get("rope_parameters") or {}).get("mrope_section") or []


def halves(tensor: torch.Tensor, c: dict[str, Any]) -> torch.Tensor:
    """The rows of each head that turn: first those with even numbers, then the others."""
    dim = c.get("head_dim") or c["hidden_size"] // c["num_attention_heads"]
    turned = int(dim * c["rope_parameters"].get("partial_rotary_factor", 1.0))
    order = [*range(0, turned, 2), *range(1, turned, 2), *range(turned, dim)]
    return tensor.view(-1, dim, *tensor.shape[1:])[:, order].reshape(tensor.shape)


def by_part(tensor: torch.Tensor, c: dict[str, Any], arch: str) -> Tensors:
    """All queries, then all keys, then all values: as one matrix, or for InternLM 2 as three, which are reordered."""
    heads = c["num_attention_heads"]
    kv_heads = c.get("num_kv_heads") or (1 if c.get("multi_query") else c.get("num_key_value_heads") or heads)
    if arch == "falcon" and not c["new_decoder_architecture"]:
        kv_heads = 1 if c["multi_query"] else heads
    parts = tensor.view(kv_heads, heads // kv_heads + 2, -1, *tensor.shape[1:])
    q, k, v = (part.flatten(0, 2) for part in (parts[:, :-2], parts[:, -2:-1], parts[:, -1:]))
    if arch == "internlm2":
        return {"wq": neighbouring(q, heads), "wk": neighbouring(k, kv_heads), "wv": v}
    return {"": torch.cat((q, k, v))}


def stacked(tensors: Tensors) -> Tensors:
    """Experts one by one as one tensor a layer, and what else comes one by one."""
    parts = {"gate_proj": "gate", "up_proj": "up", "down_proj": "down", "w1": "gate", "w3": "up", "w2": "down"}
    out: Tensors = {}
    pieces: dict[str, list[tuple[int, torch.Tensor]]] = {}
    for name, tensor in tensors.items():
        if "layernorm.norms." in name:  # a weight for each head
            whole, _, number = name.removesuffix(".weight").rpartition(".norms.")
            layer = name.split(".")[2]
            place = f"blk.{layer}.attn_{whole[-11]}_norm.weight"
            pieces.setdefault(place, []).append((int(number), tensor))
            continue
        if name.startswith("model.altup_"):  # a matrix for each stream
            base, number, _ = name.rsplit(".", 2)
            pieces.setdefault(base + ".weight", []).append((int(number), tensor))
            continue
        head, found, tail = name.partition(".experts.")
        if found and tail[0].isdigit():
            expert, part, _ = tail.split(".")
            layer = head.split(".")[2]
            pieces.setdefault(f"blk.{layer}.ffn_{parts[part]}_exps.weight", []).append((int(expert), tensor))
        else:
            out[name] = tensor
    out |= {name: torch.stack([t for _, t in sorted(some, key=lambda p: p[0])]) for name, some in pieces.items()}
    return out


def neighbouring(tensor: torch.Tensor, heads: int, share: float = 1.0) -> torch.Tensor:
    """Rotary rows (0, d/2), (1, d/2 + 1), ... of the first `share` of each head as neighbours (0, 1), (2, 3), ..."""
    by_head = tensor.view(heads, -1, *tensor.shape[1:])
    turned, rest = by_head.tensor_split([int(by_head.shape[1] * share)], 1)
    pairs = turned.unflatten(1, (2, -1)).transpose(1, 2).flatten(1, 2)
    return torch.cat((pairs, rest), 1).reshape(tensor.shape)


def llama3_divisors(c: dict[str, Any], rope: dict[str, Any]) -> torch.Tensor:
    """One for each pair of a head; where a part of it turns, ones behind that part's."""
    from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

    head = c.get("head_dim") or c["hidden_size"] // c["num_attention_heads"]
    dim = int(head * rope.get("partial_rotary_factor", 1.0))
    whole = {key: value for key, value in rope.items() if key != "partial_rotary_factor"}
    context = c["max_position_embeddings"]
    config = LlamaConfig(head_dim=dim, rope_parameters=whole, max_position_embeddings=context)
    scaled, _ = ROPE_INIT_FUNCTIONS["llama3"](config, "cpu")
    plain = 1.0 / (rope["rope_theta"] ** (torch.arange(0, dim, 2).float() / dim))
    return torch.cat((plain / scaled, torch.ones((head - dim) // 2)))
