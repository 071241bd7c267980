"""GGUF metadata -> the same ModelSpec: each architecture's keys are renamed to config.json's, and its family reads
them.

What GGUF says by the presence of a tensor instead of a key (a tied head, biases, rotary divisors) is read from there.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from statistics import NormalDist
from typing import Any

from trilens.errors import BadCheckpoint, UnsupportedModel
from trilens.spec.bounds import check
from trilens.spec.families.parts import MOST_LAYERS
from trilens.spec.gguf_latent import LATENT
from trilens.spec.gguf_listed import LISTED
from trilens.spec.gguf_ordinary import (
    ORDINARY,
    Config,
    Read,
    biased,
    kinds_of_layers,
    layers_with,
    named,
    turned_part,
)
from trilens.spec.gguf_ordinary import Source as Source
from trilens.spec.huggingface import FAMILIES
from trilens.spec.keys import Keys
from trilens.spec.model import Reading
from trilens.spec.prediction import with_prediction

# `ARCH.` + the left name -> config.json's name. A dotted right name goes into a nested mapping.
COMMON = {
    "context_length": "max_position_embeddings",
    "embedding_length": "hidden_size",
    "embedding_length_per_layer_input": "hidden_size_per_layer_input",
    "block_count": "num_hidden_layers",
    "feed_forward_length": "intermediate_size",
    "attention.head_count": "num_attention_heads",
    "attention.head_count_kv": "num_key_value_heads",
    "attention.key_length": "head_dim",
    "attention.layer_norm_rms_epsilon": "rms_norm_eps",
    "attention.layer_norm_epsilon": "rms_norm_eps",
    "attention.sliding_window": "sliding_window",
    "attention.shared_kv_layers": "num_kv_shared_layers",
    "attention.scale": "attention_multiplier",
    "attention.clamp_kqv": "clip_qkv",
    "attention.value_scale": "attention_value_scale",
    "attention.indexer.head_count": "index_n_heads",
    "attention.indexer.key_length": "index_head_dim",
    "attention.indexer.top_k": "index_topk",
    "attention.q_lora_rank": "q_lora_rank",
    "attention.kv_lora_rank": "kv_lora_rank",
    "attention.temperature_scale": "rope_scaling.llama_4_scaling_beta",
    "attn_logit_softcapping": "attn_logit_softcapping",
    "final_logit_softcapping": "final_logit_softcapping",
    "residual_scale": "residual_multiplier",
    "embedding_scale": "embedding_multiplier",
    "logit_scale": "logits_scaling",
    "leading_dense_block_count": "first_k_dense_replace",
    "interleave_moe_layer_step": "interleave_moe_layer_step",
    "expert_count": "num_experts",
    "expert_used_count": "num_experts_per_tok",
    "expert_shared_count": "n_shared_experts",
    "expert_feed_forward_length": "moe_intermediate_size",
    "expert_weights_scale": "routed_scaling_factor",
    "expert_weights_norm": "norm_topk_prob",
    "expert_group_count": "n_group",
    "expert_group_used_count": "topk_group",
    "shortconv.l_cache": "conv_L_cache",
    "moe_latent_size": "moe_latent_size",
    "moe_every_n_layers": "moe_every_n_layer",
    "swiglu_clamp_exp": "swiglu_limits",
    "swiglu_clamp_shexp": "swiglu_limits_shared",
    "kda.head_dim": "linear_head_dim",
    "nextn_predict_layers": "num_nextn_predict_layers",
    "altup.active_idx": "altup_active_idx",
    "altup.num_inputs": "altup_num_inputs",
    "rope.freq_base": "rope_theta",
    "rope.freq_base_swa": "rope_local_base_freq",
    "rope.scaling.type": "rope_scaling.rope_type",
    "rope.scaling.factor": "rope_scaling.factor",
    "rope.scaling.original_context_length": "rope_scaling.original_max_position_embeddings",
    "rope.scaling.yarn_attn_factor": "rope_scaling.attention_factor",
    "rope.scaling.yarn_beta_fast": "rope_scaling.beta_fast",
    "rope.scaling.yarn_beta_slow": "rope_scaling.beta_slow",
    "vocab_size": "vocab_size",
}

# Said again by other keys, or of the file and not of the model, or read by the architecture's own function.
REPEATED = frozenset(
    "tensor_data_layout "
    "attention.value_length attention.key_length_mla attention.value_length_mla attention.key_length_swa "
    "attention.value_length_swa attention.sliding_window_pattern rope.dimension_count rope.dimension_count_swa "
    "rope.scaling.finetuned rope.scaling.attn_factor rope.scaling.yarn_log_multiplier expert_gating_func "
    "expert_shared_feed_forward_length attention.causal full_attention_interval attention.recurrent_layers "
    "use_parallel_residual attention.indexer.types attention.rope_pattern attention.temperature_length "
    "activation_sparsity_scale "
    "rope.dimension_sections ssm.conv_kernel ssm.inner_size ssm.state_size ssm.time_step_rank ssm.group_count".split()
)
# config.json's names whose values are computed here -> the key that they are computed from.
COMPUTED = {
    "norm_eps": "attention.layer_norm_rms_epsilon",
    "num_dense_layers": "leading_dense_block_count",
    "qk_rope_head_dim": "rope.dimension_count",
    "partial_rotary_factor": "rope.dimension_count",
    "qk_nope_head_dim": "attention.key_length",
    "v_head_dim": "attention.value_length",
    "global_head_dim": "attention.key_length",
    "query_pre_attn_scalar": "attention.key_length",
    "intermediate_size_mlp": "feed_forward_length",
    "num_global_key_value_heads": "attention.head_count_kv",
    "top_k_experts": "expert_used_count",
    "expert_intermediate_size": "expert_feed_forward_length",
    "layer_types": "attention.sliding_window_pattern",
    "activation_sparsity_pattern": "activation_sparsity_scale",
    "mamba_d_conv": "ssm.conv_kernel",
    "conv_kernel": "ssm.conv_kernel",
    "mamba_d_state": "ssm.state_size",
    "ssm_state_size": "ssm.state_size",
    "mamba_n_groups": "ssm.group_count",
    "n_groups": "ssm.group_count",
    "mamba_n_heads": "ssm.time_step_rank",
    "mamba_num_heads": "ssm.time_step_rank",
    "mamba_d_ssm": "ssm.inner_size",
    "mamba_head_dim": "ssm.inner_size",
    "mamba_expand": "ssm.inner_size",
    "layer_norm_epsilon": "attention.layer_norm_rms_epsilon",
    "layer_norm_eps": "attention.layer_norm_epsilon",
    "norm_epsilon": "attention.layer_norm_epsilon",
    "scale_emb": "embedding_scale",
    "scale_depth": "residual_scale",
    "dim_model_base": "logit_scale",
    "num_kv_heads": "attention.head_count_kv",
    "moe_layer_start_index": "leading_dense_block_count",
    "moe_layer_interval": "interleave_moe_layer_step",
    "moe_num_shared_experts": "expert_shared_count",
    "shared_intermediate_size": "expert_shared_feed_forward_length",
    "moe_shared_expert_intermediate_size": "expert_shared_feed_forward_length",
    "linear_head_dim": "kda.head_dim",
    "linear_num_heads": "attention.head_count",
    "linear_conv_kernel_dim": "ssm.conv_kernel",
    "linear_key_head_dim": "ssm.state_size",
    "linear_value_head_dim": "ssm.inner_size",
    "linear_num_key_heads": "ssm.group_count",
    "linear_num_value_heads": "ssm.time_step_rank",
    "shared_expert_intermediate_size": "expert_shared_feed_forward_length",
    "rope_parameters.full_attention.rope_theta": "rope.freq_base",
    "rope_parameters.full_attention.partial_rotary_factor": "rope.dimension_count",
    "rope_parameters.sliding_attention.rope_theta": "rope.freq_base_swa",
    "rope_parameters.sliding_attention.partial_rotary_factor": "rope.dimension_count_swa",
    **{
        f"rope_parameters.full_attention.{ours.removeprefix('rope_scaling.')}": theirs
        for theirs, ours in COMMON.items()
        if ours.startswith("rope_scaling.")
    },
    "num_sliding_attention_heads": "attention.head_count",
    "num_attention_heads_per_layer": "attention.head_count",
    "swa_num_key_value_heads": "attention.head_count_kv",
    "swa_rope_theta": "rope.freq_base_swa",
    "share_expert_dim": "expert_shared_feed_forward_length",
    "moe_router_scaling_factor": "expert_weights_scale",
    "moe_routed_scaling_factor": "expert_weights_scale",
    "norm_expert_weight": "expert_weights_norm",
    "num_shared_experts": "expert_shared_count",
    "indexer_types": "attention.indexer.types",
    "layer_rope_theta": "attention.rope_pattern",
    "attn_config": "attention.head_count_kv",
    "attn_config.kv_n_heads": "attention.head_count_kv",
    "attn_config.rope_theta": "rope.freq_base",
    "attn_config.clip_qkv": "attention.clamp_kqv",
    "ffn_config.ffn_hidden_size": "feed_forward_length",
    "ffn_config.moe_num_experts": "expert_count",
    "ffn_config.moe_top_k": "expert_used_count",
    "rope_parameters": "rope.scaling.type",
    "rope_scaling": "rope.scaling.type",
    "rope_scaling.attention_factor": "rope.scaling.attn_factor",
    "rope_scaling.short_mscale": "rope.scaling.attn_factor",
    "rope_scaling.long_mscale": "rope.scaling.attn_factor",
    "rope_scaling.mscale": "rope.scaling.yarn_log_multiplier",
    "rope_scaling.mscale_all_dim": "rope.scaling.yarn_log_multiplier",
}
# What this file computes with before a family reads it.
COMPUTED_WITH = {
    "block_count",
    "embedding_length",
    "expert_count",
    "attention.head_count",
    "attention.key_length",
    "attention.key_length_mla",
    "attention.key_length_swa",
    "nextn_predict_layers",
    "rope.dimension_count",
    "ssm.inner_size",
    "ssm.time_step_rank",
}
# Architectures whose layers have different numbers of query heads.
HEADS_BY_LAYER = ("laguna", "step35")
# Keys of the model that do not begin with its architecture.
WITHOUT_PREFIX = ("xielu.",)
# Keys of tools that made the file. Those of other names, such as a publisher's own, say nothing of the model either.
BESIDE_THE_MODEL = ("general.", "tokenizer.", "split.", "quantize.", "GGUF.", "imatrix.")


def read_gguf_metadata(metadata: Mapping[str, Any], source: Source, where: str) -> Reading:
    """Raises BadCheckpoint for contradictions, UnsupportedModel for an unknown architecture."""
    arch = metadata.get("general.architecture")
    if not isinstance(arch, str):
        raise BadCheckpoint(f"{where}: has no general.architecture; expected one of {', '.join(sorted(ARCHITECTURES))}")
    if arch not in ARCHITECTURES:
        raise UnsupportedModel(
            f"{where}: the architecture {arch!r} is not supported; it may need parts that trilens does not have. "
            f"Supported: {', '.join(sorted(ARCHITECTURES))}"
        )
    own = {
        name.removeprefix(arch + "."): _whole(value) for name, value in metadata.items() if name.startswith(arch + ".")
    }
    stated = Keys(own, where, f"{arch}.")
    for name in COMPUTED_WITH & own.keys():
        if not (name == "attention.head_count" and arch in HEADS_BY_LAYER and isinstance(own[name], tuple)):
            stated.integer(name, least=0)
    beside = {name: value for name, value in metadata.items() if name.startswith(WITHOUT_PREFIX)}
    own.setdefault("vocab_size", _vocabulary(metadata, source, where))
    config: dict[str, Any] = {}
    unread: list[str] = []
    for name, value in own.items():
        if name in COMMON:
            _put(config, COMMON[name], value)
        elif name not in REPEATED:
            (unread if value not in (None, False, 0, "") else []).append(f"{arch}.{name}")
    if own.get("rope.scale_linear", 1.0) == 1.0:  # what files of 2023 said in place of rope.scaling.factor
        unread = [name for name in unread if name != f"{arch}.rope.scale_linear"]
    if own.get("rope.scaling.attn_factor", 1.0) != 1.0 and "rope_factors_long.weight" not in source.shapes:
        unread.append(f"{arch}.rope.scaling.attn_factor")
    others = [name for name in metadata if not name.startswith((arch + ".", *WITHOUT_PREFIX, *BESIDE_THE_MODEL))]
    config["tie_word_embeddings"] = "output.weight" not in source.shapes
    try:
        _repair_rope(config, own, source, arch)
        family = ARCHITECTURES[arch](config, {**own, **beside}, source)
    except (BadCheckpoint, UnsupportedModel) as problem:
        raise type(problem)(f"{where}: {arch}: {problem}") from None
    except KeyError as problem:
        raise BadCheckpoint(f"{where}: {arch} has no {_spelled(arch).get(problem.args[0], problem.args[0])}") from None
    except (TypeError, ValueError, ArithmeticError, AttributeError, IndexError) as problem:
        raise BadCheckpoint(f"{where}: the keys of {arch} contradict each other ({problem})") from None
    keys = Keys(config, where, spelled=_spelled(arch))
    spec = FAMILIES[family](keys)
    check(spec, keys)
    if f"blk.{len(spec.layers)}.nextn.eh_proj.weight" in source.shapes:
        spec = with_prediction(spec, {"num_nextn_predict_layers": own.get("nextn_predict_layers")})
    telling, empty = keys.unread()
    return Reading(
        spec,
        unread=tuple(unread + [n for n in telling if n != "head_dim"]),
        ignored=tuple(empty + others),
        defaults=keys.all_defaults(),
        factors=keys.factors,
    )


def _whole(value: Any) -> Any:
    """An array of numbers as a tuple, and as the one number where it says the same of every layer."""
    if isinstance(value, str) or not isinstance(value, Sequence):
        return value
    items = tuple(value)
    return items[0] if items and all(type(i) is int and i == items[0] for i in items) else items


def _spelled(arch: str) -> dict[str, str]:
    """config.json's names -> the architecture's keys."""
    renamed = {ours: theirs for theirs, ours in COMMON.items() if theirs != "attention.layer_norm_epsilon"}
    return {ours: f"{arch}.{theirs}" for ours, theirs in (renamed | COMPUTED).items()}


def _llama(config: Config, own: Mapping[str, Any], source: Source) -> str:
    config["attention_bias"] = "blk.0.attn_q.bias" in source.shapes
    config["mlp_bias"] = "blk.0.ffn_gate.bias" in source.shapes
    if own.get("expert_count"):
        return "mixtral"
    # one architecture name for several families: the window is what tells them apart
    return "mistral" if config.get("sliding_window") else "llama"


def _mistral3(config: Config, own: Mapping[str, Any], source: Source) -> str:
    if own.get("expert_count"):
        raise UnsupportedModel("routed models under the architecture 'mistral3' are not known")
    return "ministral3"


def _qwen3moe(config: Config, own: Mapping[str, Any], source: Source) -> str:
    config.setdefault("norm_topk_prob", True)
    return "qwen3_moe"


def _phi3(config: Config, own: Mapping[str, Any], source: Source) -> str:
    turned_part(config, own)
    return "phi3"


def _phimoe(config: Config, own: Mapping[str, Any], source: Source) -> str:
    config["attention_bias"] = "blk.0.attn_q.bias" in source.shapes
    config["lm_head_bias"] = "output.bias" in source.shapes
    rules = config.get("rope_scaling")
    if rules:
        rules["short_mscale"] = rules["long_mscale"] = rules.pop("attention_factor", 1.0)
    return "phimoe"


def _gemma2(config: Config, own: Mapping[str, Any], source: Source) -> str:
    _gemma_scale(config, largest=46)
    return "gemma2"


def _gemma3(config: Config, own: Mapping[str, Any], source: Source) -> str:
    _gemma_scale(config, largest=62)
    return "gemma3_text"


def _gemma_scale(config: Config, largest: int) -> None:
    """GGUF has no key for it: one over the root of a head's width, of width / heads in the largest model."""
    whole = config["num_hidden_layers"] == largest
    config["query_pre_attn_scalar"] = (
        config["hidden_size"] // config["num_attention_heads"] if whole else config.get("head_dim", 256)
    )


def _gemma3n(config: Config, own: Mapping[str, Any], source: Source) -> str:
    config["layer_types"] = kinds_of_layers(own, config["num_hidden_layers"])
    config["activation_sparsity_pattern"] = [NormalDist().cdf(scale) for scale in own["activation_sparsity_scale"]]
    config["laurel_rank"] = source.shapes["blk.0.laurel_l.weight"][0]
    config["vocab_size_per_layer_input"] = source.shapes["per_layer_token_embd.weight"][0]
    return "gemma3n_text"


def _gemma4(config: Config, own: Mapping[str, Any], source: Source) -> str:
    config["layer_types"] = kinds_of_layers(own, config["num_hidden_layers"])
    sliding = [kind == "sliding_attention" for kind in config["layer_types"]]
    config["global_head_dim"] = config["head_dim"]
    config["head_dim"] = own.get("attention.key_length_swa", config["head_dim"])
    kv_heads = config["num_key_value_heads"]
    if not isinstance(kv_heads, int):
        by_type = dict(zip(sliding, kv_heads, strict=False))
        config["num_global_key_value_heads"] = by_type.get(False)
        config["num_key_value_heads"] = by_type.get(True, by_type.get(False))
    config["attention_k_eq_v"] = any(
        f"blk.{i}.attn_k.weight" in source.shapes and f"blk.{i}.attn_v.weight" not in source.shapes
        for i in range(len(sliding))
    )
    widths = config["intermediate_size"]
    if not isinstance(widths, int):
        config["intermediate_size"], config["use_double_wide_mlp"] = widths[0], widths[-1] == 2 * widths[0]
    config["enable_moe_block"] = bool(config.get("num_experts"))
    config["top_k_experts"] = config.pop("num_experts_per_tok", None)
    turned = [d for d in source.values("rope_freqs.weight") if d < 1e20] if "rope_freqs.weight" in source.shapes else []
    share = 2 * len(turned) / config["global_head_dim"] if turned else 0.25
    config["rope_parameters"] = {
        "sliding_attention": {"rope_type": "default", "rope_theta": config.pop("rope_local_base_freq", 10000.0)},
        "full_attention": {
            "rope_type": "proportional",
            "rope_theta": config.pop("rope_theta", 1000000.0),
            "partial_rotary_factor": share,
        },
    }
    config.pop("rope_scaling", None)
    if "per_layer_token_embd.weight" in source.shapes:
        config["vocab_size_per_layer_input"] = source.shapes["per_layer_token_embd.weight"][0]
    return "gemma4_text"


def _olmo2(config: Config, own: Mapping[str, Any], source: Source) -> str:
    if not config.get("sliding_window"):
        return "olmo2"
    config["layer_types"] = kinds_of_layers(own, config["num_hidden_layers"])
    return "olmo3"


def _olmoe(config: Config, own: Mapping[str, Any], source: Source) -> str:
    config["norm_topk_prob"] = False
    return "olmoe"


def _granite_moe(config: Config, own: Mapping[str, Any], source: Source) -> str:
    config["attention_bias"] = "blk.0.attn_q.bias" in source.shapes
    if not (shared := own.get("expert_shared_feed_forward_length")):
        return "granitemoe"
    config["shared_intermediate_size"] = shared
    return "granitemoeshared"


def _glm4moe(config: Config, own: Mapping[str, Any], source: Source) -> str:
    turned_part(config, own)
    config["attention_bias"] = "blk.0.attn_q.bias" in source.shapes
    config["use_qk_norm"] = "blk.0.attn_q_norm.weight" in source.shapes
    config.setdefault("first_k_dense_replace", 0)
    # the layers that predict further tokens are counted as blocks
    config["num_hidden_layers"] -= config.get("num_nextn_predict_layers", 0)
    return "glm4_moe"


def _gpt_oss(config: Config, own: Mapping[str, Any], source: Source) -> str:
    config["attention_bias"] = "blk.0.attn_q.bias" in source.shapes
    config["intermediate_size"] = config.pop("moe_intermediate_size", config.get("intermediate_size"))
    rules = config.get("rope_scaling")
    if rules:
        rules["truncate"] = False
    return "gpt_oss"


def _llama4(config: Config, own: Mapping[str, Any], source: Source) -> str:
    """Chunks, temperature and the layers without positions have no keys: every model of the family has the same."""
    config["intermediate_size_mlp"] = config["intermediate_size"]
    config["intermediate_size"] = config.pop("moe_intermediate_size")
    config["use_qk_norm"] = config["num_experts"] != 128  # the only trace that the larger model leaves
    return "llama4_text"


def _lfm2(config: Config, own: Mapping[str, Any], source: Source) -> str:
    """A layer without heads of keys and values is a convolution; the feed-forward's width is final."""
    kv_heads, layers = config["num_key_value_heads"], config["num_hidden_layers"]
    by_layer = list(kv_heads) if isinstance(kv_heads, Sequence) and not isinstance(kv_heads, str) else [kv_heads]
    if all(type(heads) is int for heads in by_layer) and type(layers) is int and 0 < layers <= MOST_LAYERS:
        by_layer = by_layer * layers if len(by_layer) == 1 else by_layer
        config["num_key_value_heads"] = max(by_layer)
        config["layer_types"] = ["full_attention" if heads else "conv" for heads in by_layer]
    config["norm_eps"] = config.pop("rms_norm_eps", 1e-5)
    config["conv_bias"] = any(name.endswith("shortconv.conv.bias") for name in source.shapes)
    if not own.get("expert_count"):
        config["block_auto_adjust_ff_dim"] = False
        return "lfm2"
    config["num_dense_layers"] = config.pop("first_k_dense_replace", 0)
    config["use_expert_bias"] = any("exp_probs_b" in name for name in source.shapes)
    config.setdefault("norm_topk_prob", True)
    return "lfm2_moe"


def _gated_delta(family: str, *, tiled: bool) -> Read:
    """Gated delta nets between gated attention. `tiled`: value head h works with key head h modulo their number, which
    is another order than that of the publisher's files."""

    def read(config: Config, own: Mapping[str, Any], source: Source) -> str:
        turned_part(config, own)
        # the layers that predict further tokens are counted as blocks
        config["num_hidden_layers"] -= config.pop("num_nextn_predict_layers", 0)
        recurrent = layers_with(config, source, "ssm_a")
        config["layer_types"] = ["linear_attention" if there else "full_attention" for there in recurrent]
        config["linear_conv_kernel_dim"] = own["ssm.conv_kernel"]
        config["linear_key_head_dim"] = own["ssm.state_size"]
        config["linear_num_key_heads"] = own["ssm.group_count"]
        config["linear_num_value_heads"] = own["ssm.time_step_rank"]
        config["linear_value_head_dim"] = _share(own, "ssm.inner_size", "ssm.time_step_rank")
        config["tiled_value_heads"] = tiled
        config["attention_bias"] = any(name.endswith("attn_k.bias") for name in source.shapes)
        if config.get("num_experts"):
            shared = own.get("expert_shared_feed_forward_length", config["moe_intermediate_size"])
            config["shared_expert_intermediate_size"] = shared
            routed = layers_with(config, source, "ffn_gate_inp.weight")
            config["mlp_only_layers"] = [i for i, there in enumerate(routed) if not there]
            config.setdefault("norm_topk_prob", True)
        return family

    return read


def _granite_hybrid(config: Config, own: Mapping[str, Any], source: Source) -> str:
    """Granite 4 and Bamba: a layer with a rate is Mamba-2; whether attention has positions is said by a rope's key."""
    recurrent = layers_with(config, source, "ssm_a")
    config["layer_types"] = ["mamba" if there else "attention" for there in recurrent]
    config["num_key_value_heads"] = _most(config["num_key_value_heads"])
    config["attention_bias"] = any(name.endswith("attn_q.bias") for name in source.shapes)
    config["position_embedding_type"] = "rope" if own.get("rope.scaling.finetuned", True) else "nope"
    head = config.get("head_dim") or config["hidden_size"] // config["num_attention_heads"]
    config.setdefault("attention_multiplier", head**-0.5)
    if own.get("rope.dimension_count", head) != head:  # of Bamba
        turned_part(config, own)
    config["mamba_n_heads"], config["mamba_d_state"] = own["ssm.time_step_rank"], own["ssm.state_size"]
    config["mamba_n_groups"], config["mamba_d_conv"] = own["ssm.group_count"], own["ssm.conv_kernel"]
    config["mamba_expand"] = _share(own, "ssm.inner_size", "embedding_length")
    config["mamba_conv_bias"] = any(name.endswith("ssm_conv1d.bias") for name in source.shapes)
    config["num_local_experts"] = config.pop("num_experts", 0)
    shared = "expert_shared_feed_forward_length" if config["num_local_experts"] else "feed_forward_length"
    config["shared_intermediate_size"] = own[shared]
    return "granitemoehybrid"


def _falcon_h1(config: Config, own: Mapping[str, Any], source: Source) -> str:
    """Its constant factors are in the weights. The gate stands before the norm, where there is one."""
    config["mamba_n_heads"], config["mamba_d_state"] = own["ssm.time_step_rank"], own["ssm.state_size"]
    config["mamba_n_groups"], config["mamba_d_conv"] = own["ssm.group_count"], own["ssm.conv_kernel"]
    config["mamba_d_ssm"] = own["ssm.inner_size"]
    config["mamba_conv_bias"] = any(name.endswith("ssm_conv1d.bias") for name in source.shapes)
    config["mamba_rms_norm"] = any(name.endswith("ssm_norm.weight") for name in source.shapes)
    config["mamba_norm_before_gate"] = False
    return "falcon_h1"


def _nemotron_h(config: Config, own: Mapping[str, Any], source: Source) -> str:
    """One block per layer; its tensors show which one."""
    config["num_hidden_layers"] -= config.pop("num_nextn_predict_layers", 0)
    marks = {"mamba": "ssm_a", "attention": "attn_q.weight", "moe": "ffn_gate_inp.weight", "mlp": "ffn_up.weight"}
    there = {kind: layers_with(config, source, tensor) for kind, tensor in marks.items()}
    count = len(there["mamba"])
    config["layers_block_type"] = [next((k for k in marks if there[k][i]), None) for i in range(count)]
    config["num_key_value_heads"] = _most(config["num_key_value_heads"])
    widths = config.pop("intermediate_size", None)
    if "mlp" in config["layers_block_type"]:
        config["intermediate_size"] = _most(widths)
    config["layer_norm_epsilon"] = config.pop("rms_norm_eps", 1e-5)
    config["mamba_num_heads"], config["ssm_state_size"] = own["ssm.time_step_rank"], own["ssm.state_size"]
    config["n_groups"], config["conv_kernel"] = own["ssm.group_count"], own["ssm.conv_kernel"]
    config["mamba_head_dim"] = _share(own, "ssm.inner_size", "ssm.time_step_rank")
    config["use_conv_bias"] = any(name.endswith("ssm_conv1d.bias") for name in source.shapes)
    config["mlp_bias"] = any(name.endswith("ffn_up.bias") for name in source.shapes)
    if "moe" in config["layers_block_type"]:
        config["moe_shared_expert_intermediate_size"] = own["expert_shared_feed_forward_length"]
        config["n_routed_experts"] = config.pop("num_experts")
        config.setdefault("topk_group", config.get("n_group", 1))
    return "nemotron_h"


def _kimi_linear(config: Config, own: Mapping[str, Any], source: Source) -> str:
    """Latent attention in the absorbed form between recurrences, which have as many heads."""
    rope = own["rope.dimension_count"]
    config["qk_rope_head_dim"] = rope
    config["qk_nope_head_dim"] = own["attention.key_length_mla"] - rope
    config["v_head_dim"] = own["attention.value_length_mla"]
    config.pop("head_dim", None)
    config["num_key_value_heads"] = config["linear_num_heads"] = config["num_attention_heads"]
    config["linear_conv_kernel_dim"] = own["ssm.conv_kernel"]
    full = layers_with(config, source, "attn_kv_a_mqa.weight")
    config["layer_types"] = ["full_attention" if there else "linear_attention" for there in full]
    config.setdefault("norm_topk_prob", True)
    config.setdefault("n_group", 1)
    config.setdefault("topk_group", 1)
    return "kimi_linear"


def _most(by_layer: Any) -> Any:
    """Of a number for each layer the largest; others have none."""
    numbers = isinstance(by_layer, Sequence) and not isinstance(by_layer, str) and all(type(n) is int for n in by_layer)
    return max(by_layer) if numbers and by_layer else by_layer


def _share(own: Mapping[str, Any], of: str, by: str) -> int:
    whole, parts = own[of], own[by]
    if parts < 1 or whole % parts:
        raise BadCheckpoint(f"{of} is {whole}; expected a multiple of {by}, {parts}")
    return int(whole // parts)


ARCHITECTURES: dict[str, Read] = {
    **ORDINARY,
    **LISTED,
    **LATENT,
    "llama": _llama,
    "mistral3": _mistral3,
    "qwen2": named("qwen2"),
    "qwen3": named("qwen3"),
    "qwen3moe": _qwen3moe,
    "phi3": _phi3,
    "phimoe": _phimoe,
    "gemma2": _gemma2,
    "gemma3": _gemma3,
    "gemma3n": _gemma3n,
    "gemma4": _gemma4,
    "smollm3": biased("smollm3"),
    "olmo2": _olmo2,
    "olmoe": _olmoe,
    "granite": biased("granite"),
    "granitemoe": _granite_moe,
    "glm4moe": _glm4moe,
    "gpt-oss": _gpt_oss,
    "llama4": _llama4,
    "qwen3next": _gated_delta("qwen3_next", tiled=False),
    "qwen35": _gated_delta("qwen3_5_text", tiled=True),
    "qwen35moe": _gated_delta("qwen3_5_moe_text", tiled=True),
    "granitehybrid": _granite_hybrid,
    "falcon-h1": _falcon_h1,
    "nemotron_h": _nemotron_h,
    "nemotron_h_moe": _nemotron_h,
    "kimi-linear": _kimi_linear,
    "lfm2": _lfm2,
    "lfm2moe": _lfm2,
}


def _repair_rope(config: Config, own: Mapping[str, Any], source: Source, arch: str) -> None:
    """Scaling that GGUF writes as tensors of divisors becomes the rule that has divisors."""
    rules = config.get("rope_scaling", {})
    if rules.get("rope_type") == "none":
        rules["rope_type"] = "default"
    if rules.get("rope_type") == "yarn" and arch == "mistral3" and own.get("rope.scaling.yarn_log_multiplier"):
        rules["mscale"] = rules["mscale_all_dim"] = own["rope.scaling.yarn_log_multiplier"]
    if "rope_factors_long.weight" in source.shapes:
        rules |= {
            "rope_type": "longrope",
            "short_factor": list(source.values("rope_factors_short.weight")),
            "long_factor": list(source.values("rope_factors_long.weight")),
            "attention_factor": own.get("rope.scaling.attn_factor", 1.0),
        }
        config["rope_scaling"] = rules
    elif "rope_freqs.weight" in source.shapes and arch != "gemma4":
        divisors = list(source.values("rope_freqs.weight"))
        config["rope_scaling"] = {
            "rope_type": "longrope",
            "short_factor": divisors,
            "long_factor": divisors,
            "factor": 1.0,
            "original_max_position_embeddings": config.get("max_position_embeddings"),
        }
    elif not rules:
        config.pop("rope_scaling", None)


def _put(config: dict[str, Any], path: str, value: Any) -> None:
    *outer, last = path.split(".")
    for name in outer:
        config = config.setdefault(name, {})
    config[last] = value


def _vocabulary(metadata: Mapping[str, Any], source: Source, where: str) -> int:
    """The embedding's rows: they may be more than the tokens that have a text."""
    shape = source.shapes.get("token_embd.weight")
    if shape is None or len(shape) != 2:
        raise BadCheckpoint(f"{where}: has no matrix token_embd.weight; expected the embedding table under that name")
    return shape[0]
