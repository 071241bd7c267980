"""What a row of the families' table is."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from transformers import PretrainedConfig, PreTrainedModel

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
    """`edge`: a length that lies beyond the window's edge or the scaled rope's original context, where there is one; or
    one to which a convolution's rows have to be carried.

    `overrides` are put into the saved config.json, and `rewrite` makes its tensors those of a family that transformers
    does not have. `repair` mends the reference. `model`: its class, where AutoModel does not know it.
    """

    name: str
    config: Callable[[], PretrainedConfig]
    edge: int = 0
    overrides: dict[str, Any] = field(default_factory=dict)
    repair: Callable[[PreTrainedModel], None] = lambda model: None
    model: type[PreTrainedModel] | None = None
    rewrite: Callable[[dict[str, torch.Tensor]], dict[str, torch.Tensor]] | None = None

    def __str__(self) -> str:
        return self.name
