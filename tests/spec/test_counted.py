"""Parameters that are counted without a description of the layers, against the modules of transformers."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers as t
from transformers import AutoConfig, AutoModelForCausalLM

from trilens.lenses.cards.published import compare_counted
from trilens.spec.catalog import entries
from trilens.spec.counted import COUNTED, counted

CONFIGS = json.loads((Path(__file__).parent.parent / "data" / "configs.json").read_text())
PUBLISHED = ("deepseek-ai/DeepSeek-V4-Flash", "deepseek-ai/DeepSeek-V4-Pro", "MiniMaxAI/MiniMax-M3")
THEIRS = {"minimax_m3": "minimax_m3_vl_text"}  # transformers' name for a publisher's

# Tiny ones whose numbers are all different, so that no two of them can stand for each other.
V4: dict[str, Any] = {
    "vocab_size": 131,
    "hidden_size": 42,
    "num_hidden_layers": 5,
    "num_attention_heads": 6,
    "head_dim": 28,
    "q_lora_rank": 22,
    "o_groups": 3,
    "o_lora_rank": 18,
    "index_n_heads": 5,
    "index_head_dim": 14,
    "n_routed_experts": 9,
    "num_experts_per_tok": 2,
    "moe_intermediate_size": 26,
    "hc_mult": 3,
    "num_hash_layers": 2,
    "qk_rope_head_dim": 8,
    "compress_ratios": [0, 128, 4, 4, 128],
}
M3: dict[str, Any] = {
    "vocab_size": 131,
    "hidden_size": 42,
    "num_hidden_layers": 4,
    "num_attention_heads": 6,
    "num_key_value_heads": 2,
    "head_dim": 28,
    "intermediate_size": 22,
    "dense_intermediate_size": 50,
    "shared_intermediate_size": 18,
    "num_local_experts": 9,
    "num_experts_per_tok": 2,
    "moe_layer_freq": [0, 1, 1, 1],
    "sparse_attention_config": {
        "sparse_num_index_heads": 2,
        "sparse_index_dim": 14,
        "sparse_attention_freq": [0, 0, 1, 1],
    },
}
TINY: dict[str, Callable[[], t.PretrainedConfig]] = {
    "deepseek_v4": lambda: t.DeepseekV4Config(**V4),
    "deepseek_v4, tied": lambda: t.DeepseekV4Config(**{**V4, "num_hash_layers": 0, "tie_word_embeddings": True}),
}


def allocated(config: t.PretrainedConfig) -> int:
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config)
    model.tie_weights()
    kept = set(model.state_dict())
    buffers = sum(buffer.numel() for name, buffer in model.named_buffers() if name in kept)
    return sum(p.numel() for p in model.parameters()) + buffers


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_models_have_what_transformers_allocates(name: str) -> None:
    config = dict(CONFIGS[name]["config"])
    config.pop("quantization_config", None)
    found = counted(config, name)
    kind = config.pop("model_type")
    assert found is not None
    assert found.total == allocated(AutoConfig.for_model(THEIRS.get(kind, kind), **config))


@pytest.mark.parametrize("name", TINY)
def test_tiny_models_have_what_transformers_allocates(name: str) -> None:
    config = TINY[name]()

    found = counted(config.to_dict(), name)
    assert found is not None and found.total == allocated(config)


def test_a_publishers_words_for_the_layers_of_deepseek_v4() -> None:
    found = counted({**V4, "model_type": "deepseek_v4", "n_shared_experts": 1}, "tiny")
    assert found == counted(TINY["deepseek_v4"]().to_dict(), "tiny")


def test_block_sparse_layers_of_minimax() -> None:
    found = counted({**M3, "model_type": "minimax_m3"}, "tiny")
    assert found is not None
    assert found.total == allocated(AutoConfig.for_model("minimax_m3_vl_text", **M3))
    assert found.resting == 3 * 7 * 3 * 22 * 42


@pytest.mark.parametrize("kind", COUNTED)
def test_a_configuration_that_contradicts_itself_is_not_counted(kind: str) -> None:
    assert counted({"model_type": kind, "hidden_size": "wide", "vocab_size": 7}, "x") is None
    assert counted({"model_type": "mamba9"}, "x") is None


CONTRADICTIONS: list[tuple[dict[str, Any], str, object]] = [
    ({**V4, "model_type": "deepseek_v4"}, "num_experts_per_tok", 10),
    ({**V4, "model_type": "deepseek_v4"}, "num_hash_layers", 6),
    ({**V4, "model_type": "deepseek_v4"}, "compress_ratios", [0, 128, 4, 4, 5]),
    ({**M3, "model_type": "minimax_m3"}, "num_experts_per_tok", 10),
    ({**M3, "model_type": "minimax_m3"}, "moe_layer_freq", [0, 1, 1, 2]),
    ({**M3, "model_type": "minimax_m3"}, "sparse_attention_config", {"sparse_attention_freq": [0, 0, 1, -1]}),
]


@pytest.mark.parametrize(("config", "name", "value"), CONTRADICTIONS)
def test_numbers_that_contradict_each_other_are_not_counted(config: dict[str, Any], name: str, value: object) -> None:
    config = {"n_shared_experts": 1, **config}
    assert counted(config, "x") is not None
    assert counted({**config, name: value}, "x") is None


GOOD: dict[str, Callable[[], dict[str, Any]]] = {
    "deepseek_v4": lambda: {**V4, "n_shared_experts": 1},
    "minimax_m3": lambda: M3,
}
ODD = (None, "8", -1, 0, True, 0.5, float("nan"), float("inf"), 10**30, 10**7, 101, {}, [], ["a"] * 5, [None] * 5)
ODD_LISTS = ([-5] * 5, [7] * 5, [2**24] * 5, [10**30] * 5)


@pytest.mark.parametrize("kind", GOOD)
def test_odd_values_are_not_counted_or_make_sense(kind: str) -> None:
    """Every key of a configuration, nested ones too, with every odd value, and without the key."""
    good = {**json.loads(json.dumps(GOOD[kind]())), "model_type": kind}
    assert counted(good, "x") is not None
    places = [(good, key) for key in good if key != "model_type"]
    places += [(inner, key) for inner in good.values() if isinstance(inner, dict) for key in inner]
    for holder, key in places:
        kept = holder.pop(key)
        values = [*ODD, *(ODD_LISTS if isinstance(kept, list) else ())]
        for value in [..., *values]:
            if value is not ...:
                holder[key] = value
            found = counted(good, "x")
            if found is None:
                continue
            assert key not in ("moe_layer_freq", "sparse_attention_freq") or value in (..., None), (key, value)
            assert 0 <= found.resting < found.total and 0 <= found.looked_up < found.total, (key, value, found)
            assert 0 < found.active <= found.active_with_embeddings <= found.total, (key, value, found)
            assert 0 < found.head < found.total, (key, value, found)
        holder[key] = kept


@pytest.mark.parametrize("name", ["deepseek-v4-flash", "deepseek-v4-pro", "minimax-m3"])
def test_published_sizes_agree_or_the_entry_says_why(name: str) -> None:
    entry = entries()[name]
    assert entry.config is not None
    found = counted(entry.config, name)
    assert found is not None
    for stated, compared in zip(entry.published, compare_counted(entry.published, found), strict=True):
        assert compared.agrees != bool(stated.differs), compared.as_line()
