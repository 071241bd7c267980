"""Architectures of GGUF files whose layers differ: windows on some of them, with a rope and heads of their own."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from trilens.errors import BadCheckpoint, UnsupportedModel
from trilens.spec.families.parts import MOST_LAYERS
from trilens.spec.gguf_ordinary import (
    Config,
    Read,
    Source,
    has_bias,
    kinds_of_layers,
    routed_layers,
    turned_part,
    without_predictors,
)


def _kinds(config: Config, own: Mapping[str, Any], *, every: int, full_first: bool = False) -> list[str]:
    """Windows on all layers but one of `every`, or of as many as the key says; none where the file has no window."""
    pattern, count = own.get("attention.sliding_window_pattern"), config["num_hidden_layers"]
    if type(count) is not int or not 0 < count <= MOST_LAYERS:
        return []  # the family says what is wrong with that
    if not config.get("sliding_window"):
        config.pop("sliding_window", None)
        return ["full_attention"] * count
    if pattern is not None and type(pattern) is not int:
        return kinds_of_layers(own, count)
    every = every if pattern is None else pattern
    full = 0 if full_first else every - 1
    return ["full_attention" if every and i % every == full else "sliding_attention" for i in range(count)]


def _by_kind(key: str, listed: Any, kinds: Sequence[str]) -> dict[str, Any]:
    """A number for each kind of layer, which is listed layer by layer."""
    numbers = listed if isinstance(listed, tuple) else (listed,) * len(kinds)
    found: dict[str, Any] = {}
    if len(numbers) < len(kinds) or any(found.setdefault(k, n) != n for k, n in zip(kinds, numbers, strict=False)):
        raise BadCheckpoint(f"{key} is {list(numbers)[:8]}; expected a number for each layer, the same for each kind")
    return found


def _ropes(config: Config, own: Mapping[str, Any], full: int, windowed: int) -> None:
    """A rope for each kind of layer over so many dimensions of a head; only that of full attention is scaled."""
    theta, scaling = config.pop("rope_theta", 10000.0), config.pop("rope_scaling", None) or {"rope_type": "default"}
    for factors in ("short_factor", "long_factor"):  # as many as the widest rope needs
        if factors in scaling:
            scaling[factors] = scaling[factors][: full // 2]
    config["rope_parameters"] = {
        "full_attention": {**scaling, "rope_theta": theta, "partial_rotary_factor": full / config["head_dim"]},
        "sliding_attention": {
            "rope_type": "default",
            "rope_theta": config.pop("rope_local_base_freq", theta),
            "partial_rotary_factor": windowed / config["head_dim"],
        },
    }


def _exaone_moe(config: Config, own: Mapping[str, Any], source: Source) -> str:
    without_predictors(config)
    config["layer_types"] = _kinds(config, own, every=4)
    config["mlp_layer_types"] = routed_layers(config, source)
    config.setdefault("sliding_window", None)
    config.setdefault("routed_scaling_factor", 1.0)
    config.setdefault("norm_topk_prob", False)
    return "exaone_moe"


def _mimo2(config: Config, own: Mapping[str, Any], source: Source) -> str:
    """Layers with windows have sinks, and key-value heads of their own."""
    without_predictors(config)
    kinds = config["layer_types"] = kinds_of_layers(own, config["num_hidden_layers"])
    heads = _by_kind("attention.head_count_kv", config["num_key_value_heads"], kinds)
    few = heads.get("full_attention", heads.get("sliding_attention"))
    config["num_key_value_heads"] = few
    config["swa_num_key_value_heads"] = heads.get("sliding_attention", few)
    config["v_head_dim"] = own["attention.value_length"]
    config["swa_rope_theta"] = config.pop("rope_local_base_freq", config.get("rope_theta", 10000.0))
    config["mlp_layer_types"] = routed_layers(config, source)
    config["attention_bias"] = has_bias(source)
    config.setdefault("attention_value_scale", 1.0)
    turned_part(config, own)
    return "mimo_v2_flash"


def _step35(config: Config, own: Mapping[str, Any], source: Source) -> str:
    """Layers with windows turn whole heads, the others half of them; what gates let through is bounded by layer."""
    without_predictors(config)
    kinds = config["layer_types"] = kinds_of_layers(own, config["num_hidden_layers"])
    heads = _by_kind("attention.head_count", config["num_attention_heads"], kinds)
    config["num_attention_heads"] = heads.get("full_attention", heads.get("sliding_attention"))
    config["num_sliding_attention_heads"] = heads.get("sliding_attention", config["num_attention_heads"])
    config["mlp_layer_types"] = routed_layers(config, source)
    config.pop("first_k_dense_replace", None)  # the routers show it
    config["share_expert_dim"] = own["expert_shared_feed_forward_length"]
    config["moe_router_scaling_factor"] = config.pop("routed_scaling_factor", 1.0)
    config["norm_expert_weight"] = config.pop("norm_topk_prob", False)
    for bounds in ("swiglu_limits", "swiglu_limits_shared"):
        if isinstance(config.get(bounds), tuple):
            config[bounds] = list(config[bounds])
    config["attention_bias"] = has_bias(source)
    turned = own.get("rope.dimension_count", config["head_dim"])
    _ropes(config, own, turned // 2, own.get("rope.dimension_count_swa", turned))
    return "step3p5"


def _laguna(config: Config, own: Mapping[str, Any], source: Source) -> str:
    """The rows of a gate's matrix tell whether it has one for each head or for each number."""
    config["layer_types"] = _kinds(config, own, every=4, full_first=True)
    heads = config["num_attention_heads"]
    if isinstance(heads, tuple):
        config["num_attention_heads_per_layer"], config["num_attention_heads"] = heads, heads[0]
    first = config["num_attention_heads"]
    config["gating"] = (
        "per-head" if source.shapes.get("blk.0.attn_gate.weight", (first,))[0] == first else "per-element"
    )
    config["mlp_layer_types"] = routed_layers(config, source)
    config.pop("first_k_dense_replace", None)
    if not config.pop("norm_topk_prob", False):
        raise UnsupportedModel("expert_weights_norm is false or missing; supported: true")
    config.pop("n_shared_experts", None)
    config["shared_expert_intermediate_size"] = own["expert_shared_feed_forward_length"]
    config["moe_routed_scaling_factor"] = config.pop("routed_scaling_factor", 1.0)
    config["attention_bias"] = has_bias(source)
    turned = own.get("rope.dimension_count", config["head_dim"])
    _ropes(config, own, turned, own.get("rope.dimension_count_swa", turned))
    return "laguna"


def _mellum(config: Config, own: Mapping[str, Any], source: Source) -> str:
    config["layer_types"] = _kinds(config, own, every=4)
    config["mlp_layer_types"] = routed_layers(config, source)
    config["attention_bias"] = has_bias(source)
    config.setdefault("norm_topk_prob", True)
    turned = own.get("rope.dimension_count", config["head_dim"])
    _ropes(config, own, turned, turned)
    return "mellum"


def _granite_swa(config: Config, own: Mapping[str, Any], source: Source) -> str:
    if own.get("expert_count"):
        raise UnsupportedModel("routed models under the architecture 'granite_swa' are not known")
    config["layer_types"] = kinds_of_layers(own, config["num_hidden_layers"])
    turned = own.get("attention.rope_pattern")
    if isinstance(turned, tuple):
        config["layer_rope_theta"] = [
            config["rope_theta"] if on else 0.0 for on in turned[: len(config["layer_types"])]
        ]
    config["attention_bias"] = has_bias(source)
    config["mlp_bias"] = has_bias(source, "ffn_gate")
    return "granite_swa"


LISTED: dict[str, Read] = {
    "exaone-moe": _exaone_moe,
    "granite_swa": _granite_swa,
    "laguna": _laguna,
    "mellum": _mellum,
    "mimo2": _mimo2,
    "step35": _step35,
}
