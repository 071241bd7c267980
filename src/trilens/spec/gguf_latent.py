"""Architectures of GGUF files whose families have latent attention."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from trilens.errors import BadCheckpoint
from trilens.spec.gguf_ordinary import Config, Read, Source, layers_with, without_predictors

SIGMOID = 2  # of expert_gating_func


def _deepseek2(config: Config, own: Mapping[str, Any], source: Source) -> str:
    """Latent attention in the absorbed form, or in the older one, where a single matrix holds both halves."""
    rope = own["rope.dimension_count"]
    config["qk_rope_head_dim"] = rope
    config["qk_nope_head_dim"] = own.get("attention.key_length_mla", own.get("attention.key_length", 0)) - rope
    config["v_head_dim"] = own.get("attention.value_length_mla", own.get("attention.value_length"))
    config.setdefault("q_lora_rank", None)
    config.setdefault("n_group", 1)
    config.setdefault("topk_group", 1)
    config.setdefault("first_k_dense_replace", 0)
    config.setdefault("routed_scaling_factor", 1.0)
    if not own.get("expert_count"):
        return _youtu(config)
    rules = config.get("rope_scaling")
    if rules and own.get("rope.scaling.yarn_log_multiplier"):
        rules["mscale"] = rules["mscale_all_dim"] = round(10 * own["rope.scaling.yarn_log_multiplier"], 6)
    if own.get("expert_gating_func", 1) == SIGMOID:
        config.setdefault("norm_topk_prob", False)
        return "deepseek_v3"
    original = own.get("rope.scaling.original_context_length")
    if own.get("attention.temperature_length", original) != original:
        raise BadCheckpoint(
            f"attention.temperature_length is {own['attention.temperature_length']}; "
            f"expected rope.scaling.original_context_length, {original}"
        )
    return "mistral4" if config.get("norm_topk_prob") else "deepseek_v2"


def _youtu(config: Config) -> str:
    """The same without experts, whose numbers the file states all the same."""
    for name in (
        "n_group topk_group first_k_dense_replace routed_scaling_factor moe_intermediate_size n_shared_experts".split()
    ):
        config.pop(name, None)
    return "youtu"


def _minicpm3(config: Config, own: Mapping[str, Any], source: Source) -> str:
    """Its constant factors have no keys: every model of the family has the same."""
    config["qk_rope_head_dim"] = own["rope.dimension_count"]
    config["qk_nope_head_dim"] = own["attention.key_length"] - own["rope.dimension_count"]
    config.pop("head_dim", None)
    return "minicpm3"


def _indexed(family: str) -> Read:
    """With an index that chooses positions."""

    def read(config: Config, own: Mapping[str, Any], source: Source) -> str:
        without_predictors(config)
        _deepseek2(config, {**own, "expert_gating_func": SIGMOID}, source)
        if family == "glm_moe_dsa":
            stated = own.get("attention.indexer.types")
            there = layers_with(config, source, "indexer.attn_k.weight")
            full = list(stated) if isinstance(stated, tuple) else there
            config["indexer_types"] = ["full" if has else "shared" for has in full[: len(there)]]
        return family

    return read


LATENT: dict[str, Read] = {
    "deepseek2": _deepseek2,
    "deepseek32": _indexed("deepseek_v32"),
    "glm-dsa": _indexed("glm_moe_dsa"),
    "minicpm3": _minicpm3,
}
