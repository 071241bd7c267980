"""adapter_config.json of PEFT: what of it changes the numbers, and what cannot be applied.

Which modules an adapter changes is read from its tensors, so target_modules and the like only repeat it.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from trilens.errors import UnsupportedModel
from trilens.files import bad, read_json_object, shown

# Of the training, of the file, or said again by the tensors.
BESIDE = frozenset(
    "alpha_pattern arrow_config auto_mapping base_model_name_or_path corda_config ensure_weight_tying eva_config "
    "exclude_modules fan_in_fan_out inference_mode init_lora_weights layers_pattern layers_to_transform loftq_config "
    "lora_alpha lora_dropout lora_ga_config megatron_config megatron_core peft_type peft_version qalora_group_size r "
    "rank_pattern revision runtime_config target_modules target_parameters task_type use_rslora".split()
)
# What changes the forward pass in other ways, and how to say so; all of them are off unless they are stated.
NOT_APPLIED = {
    "use_dora": "DoRA",
    "modules_to_save": "modules that are replaced as a whole (modules_to_save)",
    "trainable_token_indices": "tokens with embeddings of their own (trainable_token_indices)",
    "layer_replication": "layers that are used several times (layer_replication)",
    "lora_bias": "biases (lora_bias)",
    "alora_invocation_tokens": "an activated LoRA (alora_invocation_tokens)",
    "use_qalora": "QALoRA",
    "use_bdlora": "BD-LoRA",
}
MOST_PATTERNS = 4096
LONGEST = 200  # characters of a pattern
MOST_REPEATS = 2  # in a pattern; with more, or nested ones, a file could make matching take forever
MOST_REPEATING = 64  # patterns that have any
REPEAT = re.compile(r"(?<!\\)[*+{?]")


@dataclass(frozen=True)
class LoraConfig:
    """`alpha` None: the product of the two matrices is added as it is. `rank` None: whatever the tensors have."""

    alpha: float | None
    rank: int | None = None
    rslora: bool = False
    alphas: Mapping[str, float] = field(default_factory=dict)  # by a pattern of modules
    ranks: Mapping[str, int] = field(default_factory=dict)

    def scale(self, path: Path, module: str, rank: int) -> float:
        """The factor of a module's product. Raises BadCheckpoint if the tensors have another rank than stated."""
        stated = _of_module(self.ranks, module, self.rank)
        if stated is not None and stated != rank:
            raise bad(path, f"the matrices of {shown(module)} have rank {rank}; the configuration says {stated}")
        alpha = _of_module(self.alphas, module, self.alpha)
        return 1.0 if alpha is None else alpha / (math.sqrt(rank) if self.rslora else rank)


def read_lora_config(directory: Path) -> LoraConfig:
    """Raises BadCheckpoint for a file that is no such configuration, UnsupportedModel for what cannot be applied."""
    path = directory / "adapter_config.json"
    try:
        config = read_json_object(path)
    except FileNotFoundError:
        raise bad(directory, "contains no adapter_config.json; expected an adapter in PEFT's layout") from None
    if config.get("peft_type") != "LORA":
        raise UnsupportedModel(
            f"{path}: peft_type is {shown(str(config.get('peft_type')))}; only 'LORA' can be applied"
        )
    for key, value in config.items():
        if key in BESIDE or not value or (key == "bias" and value == "none"):
            continue
        what = NOT_APPLIED.get(key) or ("biases (bias)" if key == "bias" else f"the key {shown(key)}")
        raise UnsupportedModel(f"{path}: trilens cannot apply {what}; merge the adapter into the model, and load that")
    rslora = config.get("use_rslora") or False
    if not isinstance(rslora, bool):
        raise bad(path, f"use_rslora is {shown(str(rslora))}; expected true or false")
    return LoraConfig(
        alpha=_number(path, "lora_alpha", config.get("lora_alpha")),
        rank=int(_number(path, "r", config.get("r"), whole=True)),
        rslora=rslora,
        alphas=_patterns(path, "alpha_pattern", config.get("alpha_pattern")),
        ranks={k: int(n) for k, n in _patterns(path, "rank_pattern", config.get("rank_pattern"), whole=True).items()},
    )


def _number(path: Path, name: str, value: Any, *, whole: bool = False) -> float:
    fits = type(value) in ((int,) if whole else (int, float)) and math.isfinite(value) and abs(value) < 1e9
    if not fits or (whole and value < 1):
        raise bad(
            path, f"{shown(name)} is {shown(str(value))}; expected {'a whole number from 1' if whole else 'a number'}"
        )
    return float(value)


def _patterns(path: Path, name: str, value: Any, *, whole: bool = False) -> dict[str, float]:
    """Patterns of modules and a number for each. Raises BadCheckpoint for a pattern that is not simple."""
    if not value:
        return {}
    if not isinstance(value, dict) or len(value) > MOST_PATTERNS:
        raise bad(path, f"{name} is {shown(str(value))}; expected an object of at most {MOST_PATTERNS} patterns")
    if sum(REPEAT.search(pattern) is not None for pattern in value) > MOST_REPEATING:
        raise bad(path, f"{name} has more than {MOST_REPEATING} regular expressions; expected names")
    for pattern in value:
        if not _is_simple(pattern):
            raise bad(path, f"{name} has the pattern {shown(pattern)}; expected a name, or a short regular expression")
    return {pattern: _number(path, f"{name} of {pattern}", number, whole=whole) for pattern, number in value.items()}


def _is_simple(pattern: str) -> bool:
    if len(pattern) > LONGEST or len(REPEAT.findall(pattern)) > MOST_REPEATS or re.search(r"\)\s*[*+{?]|\(\?", pattern):
        return False
    try:
        re.compile(pattern)
    except re.error:
        return False
    return True


def _of_module(patterns: Mapping[str, Any], module: str, default: Any) -> Any:
    """The number of the first pattern that a module's name ends with, as PEFT looks them up."""
    for pattern, number in patterns.items():
        if re.fullmatch(rf"(.*\.)?({pattern})", module):
            return number
    return default
