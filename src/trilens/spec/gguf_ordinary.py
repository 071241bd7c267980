"""Architectures of GGUF files whose families have ordinary attention: what their families have to be told beside the
keys that `gguf.py` renames. Much of it shows in which tensors are there."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from trilens.errors import BadCheckpoint, UnsupportedModel
from trilens.spec.families.parts import MOST_LAYERS


@dataclass(frozen=True)
class Source:
    """What a GGUF file says beside its metadata: the shapes of its tensors by name, and the values of a small one."""

    shapes: Mapping[str, tuple[int, ...]]
    values: Callable[[str], Sequence[float]]


Config = dict[str, Any]
Read = Callable[[Config, Mapping[str, Any], Source], str]  # completes the configuration; -> the family


def named(family: str) -> Read:
    """An architecture whose keys say all that its family wants to know."""
    return lambda config, own, source: family


def biased(family: str) -> Read:
    """The same, with biases where their tensors are."""

    def read(config: Config, own: Mapping[str, Any], source: Source) -> str:
        config["attention_bias"] = has_bias(source)
        config["mlp_bias"] = f"blk.0.{'ffn_gate' if 'blk.0.ffn_gate.weight' in source.shapes else 'ffn_up'}.bias" in (
            source.shapes
        )
        return family

    return read


def has_bias(source: Source, matrix: str = "") -> bool:
    """Whether queries have a bias, or the matrix named."""
    names = (matrix,) if matrix else ("attn_q", "attn_qkv")
    return any(f"blk.0.{name}.bias" in source.shapes for name in names)


def turned_part(config: Config, own: Mapping[str, Any]) -> None:
    """The share of a head that turns, which GGUF gives as a number of dimensions."""
    head = config.get("head_dim") or config["hidden_size"] // config["num_attention_heads"]
    config["partial_rotary_factor"] = own.get("rope.dimension_count", head) / head


def kinds_of_layers(own: Mapping[str, Any], count: int) -> list[str]:
    """`sliding_window_pattern`, a flag for each layer, as names."""
    pattern = own.get("attention.sliding_window_pattern")
    if pattern is None or isinstance(pattern, int) or len(pattern) < count:
        raise BadCheckpoint("attention.sliding_window_pattern is missing or too short; expected a flag for each layer")
    return ["sliding_attention" if flag else "full_attention" for flag in list(pattern)[:count]]


def layers_with(config: Config, source: Source, tensor: str) -> list[bool]:
    """Of each layer: whether it has such a tensor."""
    layers = config["num_hidden_layers"]
    if type(layers) is not int or not 0 < layers <= MOST_LAYERS:
        return []  # the family says what is wrong with that
    return [f"blk.{i}.{tensor}" in source.shapes for i in range(layers)]


def routed_layers(config: Config, source: Source) -> list[str]:
    """Of each layer whether it has a router, as transformers names it."""
    return ["sparse" if there else "dense" for there in layers_with(config, source, "ffn_gate_inp.weight")]


def without_predictors(config: Config) -> None:
    """The layers that predict further tokens are counted as blocks."""
    config["num_hidden_layers"] -= config.pop("num_nextn_predict_layers", 0)


def _apertus(config: Config, own: Mapping[str, Any], source: Source) -> str:
    if (slope := own.get("xielu.beta")) is not None and {*_listed(slope)} != {0.5}:
        raise UnsupportedModel(f"xielu.beta is {sorted({*_listed(slope)})[:3]}; supported: 0.5 for every layer")
    config["attention_bias"] = has_bias(source)
    return "apertus"


def _listed(value: Any) -> list[Any]:
    return list(value) if isinstance(value, Sequence) and not isinstance(value, str) else [value]


def _glm(config: Config, own: Mapping[str, Any], source: Source) -> str:
    turned_part(config, own)
    config.setdefault("head_dim", config["hidden_size"] // config["num_attention_heads"])
    config["attention_bias"] = has_bias(source)
    return "glm"


def _bailingmoe(config: Config, own: Mapping[str, Any], source: Source) -> str:
    config.setdefault("head_dim", own.get("rope.dimension_count"))
    config["use_qkv_bias"] = has_bias(source)
    config["num_shared_experts"] = config.pop("n_shared_experts", 0)
    config.setdefault("norm_topk_prob", False)
    if config.pop("routed_scaling_factor", 1.0) != 1.0:
        raise UnsupportedModel("expert_weights_scale other than 1 is not supported in such files")
    return "bailing_moe"


def _bitnet(config: Config, own: Mapping[str, Any], source: Source) -> str:
    config["hidden_act"] = "silu"  # as in the first models of this kind, the only ones that such files hold
    config["attention_bias"] = has_bias(source)
    return "bitnet"


def _dbrx(config: Config, own: Mapping[str, Any], source: Source) -> str:
    config.pop("rms_norm_eps", None)  # 1e-5 in all of them
    config["attn_config"] = {
        "clip_qkv": config.pop("clip_qkv", None),
        "kv_n_heads": config.pop("num_key_value_heads", config["num_attention_heads"]),
        "rope_theta": config.pop("rope_theta", 10000.0),
    }
    config["ffn_config"] = {
        "ffn_hidden_size": config.pop("intermediate_size"),
        "moe_num_experts": config.pop("num_experts"),
        "moe_top_k": config.pop("num_experts_per_tok"),
    }
    return "dbrx"


def _hy_v3(config: Config, own: Mapping[str, Any], source: Source) -> str:
    without_predictors(config)
    config["mlp_layer_types"] = routed_layers(config, source)
    config["attention_bias"] = has_bias(source)
    shared = own.get("expert_shared_feed_forward_length", config["moe_intermediate_size"])
    config["num_shared_experts"], rest = divmod(shared, config["moe_intermediate_size"])
    if rest:
        raise BadCheckpoint(
            f"expert_shared_feed_forward_length is {shared}; expected a multiple of expert_feed_forward_length, "
            f"{config['moe_intermediate_size']}"
        )
    config.setdefault("routed_scaling_factor", 1.0)
    return "hy_v3"


def _seed_oss(config: Config, own: Mapping[str, Any], source: Source) -> str:
    config["attention_bias"], config["attention_out_bias"] = has_bias(source), has_bias(source, "attn_output")
    return "seed_oss"


def _glm4(config: Config, own: Mapping[str, Any], source: Source) -> str:
    turned_part(config, own)
    config["attention_bias"] = has_bias(source)
    sections = own.get("rope.dimension_sections")  # of models that see; their rows are in the order of halves
    config["rope_interleave"] = not (isinstance(sections, Sequence) and any(sections))
    return "glm4"


def _ernie(config: Config, own: Mapping[str, Any], source: Source) -> str:
    config["use_bias"] = has_bias(source)
    return "ernie4_5"


def _exaone4(config: Config, own: Mapping[str, Any], source: Source) -> str:
    config.setdefault("sliding_window", None)  # the small model has none
    return "exaone4"


def _minicpm(config: Config, own: Mapping[str, Any], source: Source) -> str:
    config["scale_emb"] = config.pop("embedding_multiplier", 1.0)
    config["scale_depth"] = config.pop("residual_multiplier", 1.0) * config["num_hidden_layers"] ** 0.5
    config["dim_model_base"] = round(config["hidden_size"] / config.pop("logits_scaling", 1.0))
    return "minicpm"


def _qwen2moe(config: Config, own: Mapping[str, Any], source: Source) -> str:
    config["shared_expert_intermediate_size"] = own["expert_shared_feed_forward_length"]
    config.setdefault("norm_topk_prob", False)
    return "qwen2_moe"


def _qwen3vlmoe(config: Config, own: Mapping[str, Any], source: Source) -> str:
    config.setdefault("norm_topk_prob", True)
    return "qwen3_vl_moe_text"


def _dots1(config: Config, own: Mapping[str, Any], source: Source) -> str:
    config["attention_bias"] = has_bias(source)
    config.setdefault("norm_topk_prob", True)
    return "dots1"


def _minimax_m2(config: Config, own: Mapping[str, Any], source: Source) -> str:
    turned_part(config, own)
    config["intermediate_size"] = config.pop("moe_intermediate_size", config.get("intermediate_size"))
    return "minimax_m2"


def _ernie_moe(config: Config, own: Mapping[str, Any], source: Source) -> str:
    config["use_bias"] = has_bias(source)
    config["moe_num_shared_experts"] = config.pop("n_shared_experts", 0)
    config["moe_layer_start_index"] = config.pop("first_k_dense_replace", 0)
    config["moe_layer_interval"] = config.pop("interleave_moe_layer_step", 1)
    return "ernie4_5_moe"


def _bailingmoe2(config: Config, own: Mapping[str, Any], source: Source) -> str:
    turned_part(config, own)
    without_predictors(config)
    config["use_qkv_bias"] = has_bias(source)
    return "bailing_moe_v2"


def _afmoe(config: Config, own: Mapping[str, Any], source: Source) -> str:
    config["mup_enabled"] = True  # in all of them
    config["attention_bias"] = has_bias(source)
    return "afmoe"


def _hunyuan_moe(config: Config, own: Mapping[str, Any], source: Source) -> str:
    config["intermediate_size"] = own["expert_shared_feed_forward_length"]
    config["num_shared_expert"] = 1  # all that are shared, as one
    return "hunyuan_v1_moe"


# ------------------------------------------------------------------------- norms that take the mean away


def _centred(config: Config, key: str = "layer_norm_eps") -> None:
    config[key] = config.pop("rms_norm_eps", 1e-5)


def _command(family: str) -> Read:
    def read(config: Config, own: Mapping[str, Any], source: Source) -> str:
        _centred(config)
        config["attention_bias"] = has_bias(source)
        config["logit_scale"] = config.pop("logits_scaling", 1.0)
        if family == "cohere":
            config["use_qk_norm"] = "blk.0.attn_q_norm.weight" in source.shapes
        return family

    return read


def _stablelm(config: Config, own: Mapping[str, Any], source: Source) -> str:
    _centred(config)
    turned_part(config, own)
    config["use_qkv_bias"] = has_bias(source)
    config["qk_layernorm"] = "blk.0.attn_q_norm.weight" in source.shapes
    config["use_parallel_residual"] = "blk.0.ffn_norm.weight" not in source.shapes
    return "stablelm"


def _starcoder2(config: Config, own: Mapping[str, Any], source: Source) -> str:
    _centred(config, "norm_epsilon")
    config["use_bias"] = has_bias(source)
    return "starcoder2"


def _gptneox(config: Config, own: Mapping[str, Any], source: Source) -> str:
    _centred(config)
    turned_part(config, own)
    config["attention_bias"] = has_bias(source)
    config["use_parallel_residual"] = own.get("use_parallel_residual", True)
    return "gpt_neox"


def _phi2(config: Config, own: Mapping[str, Any], source: Source) -> str:
    _centred(config)
    turned_part(config, own)
    return "phi"


def _nemotron(config: Config, own: Mapping[str, Any], source: Source) -> str:
    _centred(config, "norm_eps")
    turned_part(config, own)
    config["attention_bias"], config["mlp_bias"] = has_bias(source), has_bias(source, "ffn_up")
    return "nemotron"


def _jais2(config: Config, own: Mapping[str, Any], source: Source) -> str:
    _centred(config)
    config["attention_bias"], config["mlp_bias"] = has_bias(source), has_bias(source, "ffn_up")
    return "jais2"


def _olmo(config: Config, own: Mapping[str, Any], source: Source) -> str:
    config.pop("rms_norm_eps", None)  # 1e-5 in all of them
    return "olmo"


def _falcon(config: Config, own: Mapping[str, Any], source: Source) -> str:
    _centred(config, "layer_norm_epsilon")
    heads = config["num_attention_heads"]
    kv_heads = config["num_kv_heads"] = config.pop("num_key_value_heads", heads)
    two_norms = "blk.0.attn_norm_2.weight" in source.shapes
    config["new_decoder_architecture"] = two_norms or kv_heads not in (1, heads)
    if config["new_decoder_architecture"]:
        config["num_ln_in_parallel_attn"] = 2 if two_norms else 1
    config["bias"] = has_bias(source)
    return "falcon"


def _with_table(family: str) -> Read:
    def read(config: Config, own: Mapping[str, Any], source: Source) -> str:
        _centred(config, "layer_norm_epsilon")
        if family == "gpt2":
            config.pop("num_key_value_heads", None)
        return family

    return read


ORDINARY: dict[str, Read] = {
    "afmoe": _afmoe,
    "apertus": _apertus,
    "arcee": biased("arcee"),
    "bailingmoe": _bailingmoe,
    "bailingmoe2": _bailingmoe2,
    "bitnet": _bitnet,
    "chatglm": _glm,
    "command-r": _command("cohere"),
    "cohere2": _command("cohere2"),
    "dbrx": _dbrx,
    "dots1": _dots1,
    "ernie4_5": _ernie,
    "ernie4_5-moe": _ernie_moe,
    "exaone": named("exaone"),
    "exaone4": _exaone4,
    "falcon": _falcon,
    "gemma": named("gemma"),
    "glm4": _glm4,
    "gpt2": _with_table("gpt2"),
    "gptneox": _gptneox,
    "hunyuan-dense": named("hunyuan_v1_dense"),
    "hunyuan-moe": _hunyuan_moe,
    "hy_v3": _hy_v3,
    "internlm2": named("llama"),
    "jais2": _jais2,
    "minicpm": _minicpm,
    "minimax-m2": _minimax_m2,
    "nemotron": _nemotron,
    "olmo": _olmo,
    "phi2": _phi2,
    "qwen2moe": _qwen2moe,
    "qwen2vl": named("qwen2_vl_text"),
    "qwen3vl": named("qwen3_vl_text"),
    "qwen3vlmoe": _qwen3vlmoe,
    "seed_oss": _seed_oss,
    "stablelm": _stablelm,
    "starcoder": _with_table("gpt_bigcode"),
    "starcoder2": _starcoder2,
}
