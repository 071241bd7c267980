"""One row a family: a tiny random model of it, made by transformers with every mechanism of the family switched on.

The parity test, the counts and docs/families.md are driven by this table; a new family is a new row.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import torch
from transformers import (
    AutoModelForCausalLM,
    LlamaConfig,
    MistralConfig,
    PretrainedConfig,
    PreTrainedModel,
    Qwen2Config,
    Qwen3Config,
)

TINY: dict[str, Any] = {
    "vocab_size": 131,
    "hidden_size": 48,
    "intermediate_size": 80,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 256,
    "rms_norm_eps": 1e-5,
}


@dataclass(frozen=True)
class Family:
    """`edge`: a length that lies beyond the window's edge or the scaled rope's original context, where there is one."""

    name: str
    config: Callable[[], PretrainedConfig]
    edge: int = 0
    overrides: dict[str, Any] = field(default_factory=dict)

    def __str__(self) -> str:
        return self.name


def _llama3_rope() -> dict[str, Any]:
    return {
        "rope_type": "llama3",
        "rope_theta": 10000.0,
        "factor": 8.0,
        "low_freq_factor": 1.0,
        "high_freq_factor": 4.0,
        "original_max_position_embeddings": 32,
    }


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
        lambda: LlamaConfig(
            **TINY,
            rope_parameters={
                "rope_type": "yarn",
                "rope_theta": 10000.0,
                "factor": 4.0,
                "original_max_position_embeddings": 64,
            },
        ),
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
]

BY_NAME = {family.name: family for family in FAMILIES}


@cache
def reference(name: str) -> PreTrainedModel:
    """The family's model with random weights everywhere: norms, biases and buffers too, which start as ones and
    zeros."""
    torch.manual_seed(sum(map(ord, name)))
    config = BY_NAME[name].config()
    config._attn_implementation = "eager"
    model = AutoModelForCausalLM.from_config(config).float().eval()
    with torch.no_grad():
        for parameter in [*model.parameters(), *_persistent_buffers(model)]:
            if parameter.dim() == 1:
                parameter.copy_(1 + 0.3 * torch.randn_like(parameter))
            else:
                parameter.normal_(std=1.5 * parameter.shape[-1] ** -0.5)
    return model


def saved(name: str, directory: Path) -> Path:
    """The model as its own publishers would write it: config.json and safetensors."""
    reference(name).save_pretrained(directory)
    return directory


def prompt(length: int, vocab: int = 131, seed: int = 0) -> list[int]:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, vocab, (length,), generator=generator).tolist()


def _persistent_buffers(model: PreTrainedModel) -> list[torch.Tensor]:
    names = set(model.state_dict())
    return [b for n, b in model.named_buffers() if n in names and b.is_floating_point()]
