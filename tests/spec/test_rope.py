"""Rotary tables equal transformers', to the bit where float32 allows it."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from transformers import LlamaConfig
from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

from trilens.spec.huggingface import read_config
from trilens.spec.rope import rope_table, tables_key

BASE: dict[str, Any] = {
    "hidden_size": 512,
    "intermediate_size": 64,
    "num_hidden_layers": 1,
    "num_attention_heads": 4,
    "num_key_value_heads": 4,
    "vocab_size": 10,
    "max_position_embeddings": 4096,
}
RULES: dict[str, dict[str, Any]] = {
    "linear": {"factor": 4.0},
    "dynamic": {"factor": 4.0},
    "llama3": {
        "factor": 8.0,
        "low_freq_factor": 1.0,
        "high_freq_factor": 4.0,
        "original_max_position_embeddings": 512,
    },
    "yarn": {"factor": 8.0, "original_max_position_embeddings": 512},
    "yarn, mscale": {
        "factor": 40.0,
        "original_max_position_embeddings": 512,
        "mscale": 1.0,
        "mscale_all_dim": 0.7,
        "beta_fast": 16.0,
        "beta_slow": 2.0,
    },
    "yarn, one beta": {
        "factor": 32.0,
        "original_max_position_embeddings": 512,
        "mscale": 1.0,
        "mscale_all_dim": 1.0,
        "beta_fast": 1.0,
        "beta_slow": 1.0,
    },
    "longrope": {
        "short_factor": [1.0 + i / 64 for i in range(64)],
        "long_factor": [2.0 + i for i in range(64)],
        "factor": 8.0,
        "original_max_position_embeddings": 512,
    },
}


@pytest.mark.parametrize("length", [100, 600, 9000])
@pytest.mark.parametrize("name", RULES)
def test_tables(name: str, length: int) -> None:
    kind = name.split(",")[0]
    config = LlamaConfig(**BASE, rope_parameters={"rope_type": kind, "rope_theta": 10000.0, **RULES[name]})
    theirs, factor = ROPE_INIT_FUNCTIONS[kind](config, torch.device("cpu"), seq_len=length)
    [layer] = read_config(config.to_dict()).spec.layers
    assert layer.mixer.rope is not None
    ours = rope_table(layer.mixer.rope, length)
    assert torch.allclose(torch.tensor(ours.frequencies), theirs, rtol=3e-7, atol=0)
    assert ours.factor == pytest.approx(factor, rel=1e-12)


def test_only_ropes_that_depend_on_length_keep_prefixes_apart() -> None:
    def spec(kind: str) -> Any:
        rope = {"rope_type": kind, "rope_theta": 10000.0, **RULES.get(kind, {})}
        return read_config({**BASE, "model_type": "llama", "rope_parameters": rope}).spec

    assert tables_key(spec("default"), 10) == tables_key(spec("default"), 4000)
    assert tables_key(spec("llama3"), 10) == tables_key(spec("llama3"), 4000)
    assert tables_key(spec("longrope"), 10) == tables_key(spec("longrope"), 512)
    assert tables_key(spec("longrope"), 10) != tables_key(spec("longrope"), 513)
    assert tables_key(spec("dynamic"), 5000) != tables_key(spec("dynamic"), 6000)
