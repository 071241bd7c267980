"""Configurations with one field, or two that belong together, set to what no publisher writes."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from trilens.errors import BadCheckpoint, UnsupportedModel
from trilens.executors.accountant import Span, count_parameters, fixed_bytes, kv_bytes, step_cost
from trilens.spec.huggingface import read_config
from trilens.spec.model import ModelSpec, Reading

CONFIGS = Path(__file__).parents[1] / "data" / "configs.json"
ABSENT = object()
FILE = "place/config.json"
VALUES: dict[str, object] = {
    "0": 0,
    "-1": -1,
    "2^31": 2**31,
    "10^30": 10**30,
    "1e30": 1e30,
    "nan": float("nan"),
    "inf": float("inf"),
    "1e-30": 1e-30,
    "text": "many",
    "list": [],
    "list of one": [7],
    "mapping": {"a": 1},
    "true": True,
    "null": None,
    "absent": ABSENT,
}
# Fields that are about the same thing, and values that each may have alone but that contradict each other.
PAIRS: list[dict[str, object]] = [
    {"num_attention_heads": 4, "num_key_value_heads": 3},
    {"num_attention_heads": 2, "num_key_value_heads": 4},
    {"hidden_size": 50, "num_attention_heads": 4, "head_dim": None},
    {"num_attention_heads": 2**20, "head_dim": 2**14},
    {"head_dim": 7, "num_attention_heads": 4},
    {"head_dim": 2, "partial_rotary_factor": 0.25},
    {"partial_rotary_factor": 3, "head_dim": 16},
    {"partial_rotary_factor": 3.0},
    {"num_experts": 2, "num_local_experts": 2, "n_routed_experts": 2, "num_experts_per_tok": 4, "top_k_experts": 4},
    {"num_experts": 1, "num_local_experts": 1, "n_routed_experts": 1},
    {"num_experts": 8, "num_local_experts": 4},
    {"n_routed_experts": 1024, "n_group": 512, "topk_group": 2},
    {"n_routed_experts": 8, "n_group": 8, "topk_group": 2, "num_experts_per_tok": 4},
    {"n_routed_experts": 8, "n_group": 4, "topk_group": 1, "num_experts_per_tok": 4},
    {"n_group": 2, "topk_group": 3},
    {"n_group": 3, "topk_group": 2},
    {"n_shared_experts": 2**20, "moe_intermediate_size": 2**20},
    {"num_hidden_layers": 4, "first_k_dense_replace": 4, "num_nextn_predict_layers": 1},
    {"num_hidden_layers": 2, "layer_types": ["full_attention"]},
    {"num_hidden_layers": 2, "layer_types": ["full_attention", "flat_attention"]},
    {"num_hidden_layers": 4, "num_kv_shared_layers": 4},
    {"num_hidden_layers": 3, "num_key_value_heads": [2, 1]},
    {"num_hidden_layers": 1001},
    {"hidden_size_per_layer_input": 2**20, "num_hidden_layers": 100},
    {"altup_num_inputs": 64, "hidden_size": 2**20},
    {"num_hidden_layers": 2, "activation_sparsity_pattern": [0.95]},
    {"num_hidden_layers": 2, "activation_sparsity_pattern": [0.95, 1.0]},
    {"num_hidden_layers": 2, "activation_sparsity_pattern": [0.95, "much"]},
    {"sliding_window": 2**31, "layer_types": None},
    {"sliding_window": 2**31 - 1, "max_position_embeddings": 2**31 - 1},
    {"max_position_embeddings": 1, "original_max_position_embeddings": 4096},
    {"max_position_embeddings": 8, "sliding_window": 4096},
    {"kv_lora_rank": 2**24, "num_attention_heads": 2},
    {"qk_rope_head_dim": 3},
    {"qk_rope_head_dim": 2**17},
    {"per_layer_config": {"0": {"head_dim": 8}}},
    {"expert_intermediate_size": 0, "moe_intermediate_size": None},
    {"no_rope_layers": [1]},
    {"no_rope_layer_interval": 0, "no_rope_layers": None},
    {"interleave_moe_layer_step": 0, "moe_layers": None},
    {"decoder_sparse_step": 0},
    {"attention_chunk_size": 0},
    {"rope_theta": 1.0},
    {"rope_theta": 1e12, "max_position_embeddings": 2**30},
]
SCALED: list[dict[str, object]] = [
    {"rope_type": "yarn", "factor": 4.0, "beta_fast": 0},
    {"rope_type": "yarn", "factor": 4.0, "beta_fast": -1},
    {"rope_type": "yarn", "factor": 4.0, "beta_fast": 1.0, "beta_slow": 32.0},
    {"rope_type": "yarn", "factor": 4.0, "mscale": 1.0, "mscale_all_dim": -7.213},
    {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 0},
    {"rope_type": "yarn"},
    {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 4.0, "high_freq_factor": 1.0},
    {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 0, "high_freq_factor": 1.0},
    {"rope_type": "llama3"},
    {"rope_type": "linear", "factor": 0},
    {"rope_type": "linear", "factor": 1e-30},
    {"rope_type": "dynamic", "factor": -1},
    {"rope_type": "dynamic", "factor": 1e6},
    {"rope_type": "longrope", "factor": 2.0, "short_factor": [0] * 8, "long_factor": [0] * 8},
    {"rope_type": "longrope", "factor": 2.0, "short_factor": [1], "long_factor": [1]},
    {"rope_type": "longrope", "factor": 2.0, "original_max_position_embeddings": 1},
    {"rope_type": "proportional", "partial_rotary_factor": 3},
    {"rope_type": "wound up"},
    {"rope_type": ["yarn"]},
    {"rope_type": 7},
]


def real_configs() -> dict[str, dict[str, Any]]:
    """Published configurations by their model's name."""
    return {name: entry["config"] for name, entry in json.loads(CONFIGS.read_text("utf-8")).items()}


def mutations(config: Mapping[str, Any]) -> Iterator[tuple[str, tuple[str, ...], dict[str, Any]]]:
    """(what was done, the fields that were changed, the configuration)."""
    for path in _paths(config, ()):
        for name, value in VALUES.items():
            yield f"{'.'.join(path)} = {name}", path[-1:], with_value(config, path, value)
    places = [p for p in ((), ("text_config",)) if not p or isinstance(config.get("text_config"), Mapping)]
    for place in places[-1:]:
        inner = config["text_config"] if place else config
        for fields in PAIRS:
            changed: Mapping[str, Any] = config
            for field, value in fields.items():
                changed = with_value(changed, (*place, field), ABSENT if value is None else value)
            yield f"{fields}", tuple(fields), dict(changed)
        for rules in SCALED:
            name = "rope_parameters" if "rope_parameters" in inner else "rope_scaling"
            stated = {"rope_theta": 1e4, **rules}
            yield f"{name} = {rules}", (*rules, name), with_value(config, (*place, name), stated)


def _paths(config: Mapping[str, Any], at: tuple[str, ...]) -> Iterator[tuple[str, ...]]:
    for name, value in config.items():
        yield (*at, name)
        if isinstance(value, Mapping) and len(at) < 3:
            yield from _paths(value, (*at, name))


def with_value(config: Mapping[str, Any], path: tuple[str, ...], value: object) -> dict[str, Any]:
    first, *rest = path
    changed = dict(config)
    if rest:
        changed[first] = with_value(config[first], tuple(rest), value)
    elif value is ABSENT:
        changed.pop(first, None)
    else:
        changed[first] = value
    return changed


def read(what: str, fields: tuple[str, ...], config: Mapping[str, Any]) -> Reading | None:
    """The reading, or None for a configuration that is refused in one line with the file's and a field's name."""
    try:
        return read_config(config, FILE)
    except (BadCheckpoint, UnsupportedModel) as refusal:
        line = str(refusal)
        assert line.startswith(FILE + ": ") and "\n" not in line and len(line) < 1000, what
        words = set(re.findall(r"\w+", line.removeprefix(FILE)))
        assert words & {*fields, *_names(config), "model_type", "expert_intermediate_size", "num_experts_per_tok"}, (
            f"{what}: {line}"
        )
        return None


def _names(config: Mapping[str, Any]) -> Iterator[str]:
    for name, value in config.items():
        yield name
        if isinstance(value, Mapping):
            yield from _names(value)


def account(spec: ModelSpec) -> None:
    count = count_parameters(spec)
    assert count.total >= count.active > 0
    kept = fixed_bytes(spec)  # all that a model without attention keeps
    assert kv_bytes(spec, 3) + kept > 0 and kv_bytes(spec, spec.context) + kept > 0
    assert step_cost(spec, [Span(2, 5)]).flops() > 0


def readable() -> Iterator[dict[str, Any]]:
    for config in real_configs().values():
        try:
            read_config(config)
        except (BadCheckpoint, UnsupportedModel):
            continue  # its family is unknown
        yield config


def read_all(every: int) -> tuple[int, int]:
    """(configurations that were tried, those that were accepted)."""
    tried = accepted = 0
    for number, config in enumerate(readable()):
        for i, (what, fields, hostile) in enumerate(mutations(config)):
            if (i + number) % every:
                continue
            tried += 1
            reading = read(what, fields, hostile)
            accepted += reading is not None
            if reading is not None and (tried % 8 == 0 or len(reading.spec.layers) < 8):
                account(reading.spec)
    return tried, accepted
