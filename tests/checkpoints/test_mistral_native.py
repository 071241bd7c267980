"""Mistral's own form, params.json with consolidated.safetensors, gives the logits of transformers' form."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file, save_file
from tests.executors.test_parity import expected, logits_in_pieces
from tests.families import prompt

from trilens.checkpoints.find import find
from trilens.checkpoints.into_torch import torch_executor
from trilens.checkpoints.load import open_model
from trilens.spec.families.mistral_native import NATIVE, NATIVE_EXPERTS

NAMES = {
    r"^model\.embed_tokens": "tok_embeddings",
    r"^model\.": "",
    r"^lm_head": "output",
    r"input_layernorm": "attention_norm",
    r"post_attention_layernorm": "ffn_norm",
    r"self_attn\.([qkvo])_proj": r"attention.w\1",
    r"self_attn\.q_a_layernorm": "attention.q_a_norm",
    r"self_attn\.kv_a_layernorm": "attention.kv_a_norm",
    r"self_attn\.(q_a|q_b|kv_b)_proj": r"attention.w\1",
    r"self_attn\.kv_a_proj_with_mqa": "attention.wkv_a_with_mqa",
    r"mlp\.gate\.": "gate.",
    r"(block_sparse_moe|mlp)\.experts": "experts",
    r"block_sparse_moe\.gate": "feed_forward.gate",
    r"mlp\.shared_experts": "shared_experts",
    r"mlp\.": "feed_forward.",
    r"gate_proj": "w1",
    r"up_proj": "w3",
    r"down_proj": "w2",
}


def native(source: Path, target: Path) -> Path:
    """The same model as its publisher would write it."""
    config = json.loads((source / "config.json").read_text())
    tensors = {}
    for name, tensor in load_file(source / "model.safetensors").items():
        for pattern, own in NAMES.items():
            name = re.sub(pattern, own, name)
        heads = {"wq": config["num_attention_heads"], "wk": config.get("num_key_value_heads")}.get(name.split(".")[-2])
        if heads:
            tensor = tensor.reshape(heads, 2, -1, tensor.shape[1]).transpose(1, 2).reshape(tensor.shape)
        tensors[name] = tensor.contiguous()
    save_file(tensors, target / "consolidated.safetensors")
    (target / "params.json").write_text(json.dumps(params(config)))
    return target


def params(config: dict[str, Any]) -> dict[str, Any]:
    said: dict[str, Any] = {theirs: config.get(ours) for theirs, ours in NATIVE.items() if theirs != "max_seq_len"}
    said |= {"head_dim": config.get("head_dim"), "n_kv_heads": config["num_key_value_heads"]}
    rules = config["rope_parameters"]
    said |= {"rope_theta": rules["rope_theta"], "sliding_window": config.get("sliding_window")}
    experts = {"num_local_experts": "num_experts", **{ours: theirs for theirs, ours in NATIVE_EXPERTS.items()}}
    if "num_experts_per_tok" in config:
        said["moe"] = {experts[name]: value for name, value in config.items() if name in experts and value is not None}
    if rules["rope_type"] == "yarn":
        names = {"factor": "factor", "beta_fast": "beta", "beta_slow": "alpha"}
        names["original_max_position_embeddings"] = "original_max_position_embeddings"
        said["yarn"] = {own: rules[theirs] for theirs, own in names.items()} | {"apply_scale": True}
        said["llama_4_scaling"] = {"beta": rules["llama_4_scaling_beta"]}
    return said


@pytest.mark.parametrize("name", ["mistral", "mistral nemo", "mixtral", "ministral 3 (text)"])
def test_the_same_logits(name: str, tiny_directory: Callable[[str], Path], tmp_path: Path) -> None:
    directory = native(tiny_directory(name), tmp_path)
    tokens = prompt(140, seed=6)
    executor = torch_executor(open_model(find(str(directory))))
    assert (logits_in_pieces(executor, tokens, 140, 140) - expected(name, tokens)).abs().max() < 1e-4
    (directory / "config.json").write_text("{}")  # its publishers put both forms into one repository
    assert open_model(find(str(directory))).spec == executor.spec
