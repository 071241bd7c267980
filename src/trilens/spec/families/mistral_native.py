"""Mistral's models in their publisher's own form, params.json: the keys are renamed, and the usual functions read them.

Its matrices turn neighbouring numbers of a head, where the files of transformers turn halves.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from trilens.spec.families.dense import ministral3, mistral
from trilens.spec.families.latent import mistral4
from trilens.spec.families.parts import each_layer, with_attention
from trilens.spec.families.routed import mixtral
from trilens.spec.keys import Keys
from trilens.spec.model import Attention, Layer, ModelSpec


def mistral_native(k: Keys) -> ModelSpec:
    """7B to Large 2, Mixtral, Ministral 3 and Large 3, told apart by what is stated."""
    moe, yarn, growth = (_part(k, name) for name in ("moe", "yarn", "llama_4_scaling"))
    k.ignore(*NATIVE, "n_kv_heads", "head_dim", "vision_encoder", "sliding_window", "model_type")
    config: dict[str, Any] = _renamed(k, NATIVE) | _renamed(moe, NATIVE_EXPERTS)
    config["rope_parameters"] = {"rope_type": "default", "rope_theta": k.values.get("rope_theta", 10000.0)}
    latent = k.values.get("kv_lora_rank") is not None
    if yarn is not None:
        # without `apply_scale` neither the angles nor the attention's scale are stretched
        whole = 1.0 if yarn.values.get("apply_scale", True) else 0.0
        beta = 0.0 if growth is None else growth.number("beta", 0.0, least=0)
        said = {"rope_type": "yarn", "attention_factor": 1.0, "llama_4_scaling_beta": beta}
        config["rope_parameters"] |= {**_renamed(yarn, NATIVE_YARN), **said} | (
            {"mscale_all_dim": whole} if latent else {}
        )
    if latent:
        if moe is not None and moe.values.get("route_every_n", 1) != 1:
            raise moe.wrong("route_every_n", moe.values["route_every_n"], "1: experts on every layer")
        config["norm_topk_prob"] = True
        read = mistral4
    else:
        config |= _renamed(k, {"n_kv_heads": "num_key_value_heads", "head_dim": "head_dim"})
        config["sliding_window"] = k.values.get("sliding_window")
        read = ministral3 if yarn is not None else mistral if moe is None else mixtral
    spec = read(Keys({n: v for n, v in config.items() if v is not None}, k.where, spelled=_spelled(k)))
    return replace(each_layer(spec, lambda i, layer: _neighbours(layer)), family="mistral_native")


def _neighbours(layer: Layer) -> Layer:
    match layer.mixer:
        case Attention(rope=rope) if rope is not None:
            return with_attention(layer, rope=replace(rope, interleaved=True))
        case _:
            return layer


NATIVE = {
    "dim": "hidden_size",
    "n_layers": "num_hidden_layers",
    "hidden_dim": "intermediate_size",
    "n_heads": "num_attention_heads",
    "norm_eps": "rms_norm_eps",
    "vocab_size": "vocab_size",
    "tied_embeddings": "tie_word_embeddings",
    "rope_theta": "rope_theta",
    "max_position_embeddings": "max_position_embeddings",
    "max_seq_len": "max_position_embeddings",
    "q_lora_rank": "q_lora_rank",
    "kv_lora_rank": "kv_lora_rank",
    "qk_nope_head_dim": "qk_nope_head_dim",
    "qk_rope_head_dim": "qk_rope_head_dim",
    "v_head_dim": "v_head_dim",
}
NATIVE_EXPERTS = {
    "expert_hidden_dim": "moe_intermediate_size",
    "num_experts": "n_routed_experts",
    "num_experts_per_tok": "num_experts_per_tok",
    "num_shared_experts": "n_shared_experts",
    "first_k_dense_replace": "first_k_dense_replace",
    "num_expert_groups": "n_group",
    "num_expert_groups_per_tok": "topk_group",
    "routed_scale": "routed_scaling_factor",
}
NATIVE_YARN = {
    "factor": "factor",
    "original_max_position_embeddings": "original_max_position_embeddings",
    "beta": "beta_fast",
    "alpha": "beta_slow",
}


def _part(k: Keys, name: str) -> Keys | None:
    found = k.mapping(name)
    if found is not None:
        found.ignore(*found.values)
    return found


def _renamed(k: Keys | None, names: Mapping[str, str]) -> dict[str, Any]:
    return {} if k is None else {ours: k.values[theirs] for theirs, ours in names.items() if theirs in k.values}


def _spelled(k: Keys) -> dict[str, str]:
    """Our names -> those of params.json."""
    nested = (("moe.", NATIVE_EXPERTS, ""), ("yarn.", NATIVE_YARN, "rope_parameters."))
    inner = {at + ours: outer + theirs for outer, names, at in nested for theirs, ours in names.items()}
    return (
        inner
        | {ours: theirs for theirs, ours in NATIVE.items() if theirs in k.values}
        | {"rope_parameters.rope_theta": "rope_theta"}
    )
