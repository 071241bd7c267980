"""GGUF metadata: which keys are read, which are left aside, and numbers that are said layer by layer."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from tests.executors.packing import native_executor
from tests.executors.tiny import random_tensors
from tests.grids import in_turn
from trilens.errors import BadCheckpoint, UnsupportedModel
from trilens.executors.executor import StepInput
from trilens.executors.torch import TorchExecutor
from trilens.spec.gguf import ARCHITECTURES, Source, read_gguf_metadata
from trilens.spec.huggingface import read_config

LLAMA: dict[str, Any] = {
    "general.architecture": "llama",
    "llama.context_length": 256,
    "llama.embedding_length": 64,
    "llama.block_count": 3,
    "llama.feed_forward_length": 96,
    "llama.attention.head_count": 4,
    "llama.attention.head_count_kv": 2,
    "llama.attention.layer_norm_rms_epsilon": 1e-5,
    "llama.rope.freq_base": 10000.0,
}
SOURCE = Source({"token_embd.weight": (100, 64)}, lambda name: [])


def read(**changed: Any) -> Any:
    metadata = {**LLAMA, **{"llama." + name.replace("__", "."): value for name, value in changed.items()}}
    return read_gguf_metadata({name: v for name, v in metadata.items() if v is not None}, SOURCE, "m.gguf")


@pytest.mark.parametrize(
    "key, value",
    [
        ("mradermacher.quantize_version", "2"),
        ("mradermacher.quantized_by", "mradermacher"),
        ("mradermacher.quantized_at", "2025-01-01T00:00:00+01:00"),
        ("mradermacher.quantized_on", "host"),
        ("mradermacher.convert_type", "hf"),
        ("a_publisher_of_next_year.note", [1, 2]),
        ("no_namespace_at_all", 7),
    ],
)
def test_keys_of_other_names_are_listed_and_not_refused(key: str, value: Any) -> None:
    reading = read_gguf_metadata({**LLAMA, key: value}, SOURCE, "m.gguf")
    assert reading.unread == () and key in reading.ignored


@pytest.mark.parametrize("key", ["llama.a_new_part", "llama.attention.a_new_part", "llama.rope.scaling.a_new_part"])
def test_keys_of_the_architecture_are_still_read_or_named(key: str) -> None:
    assert read_gguf_metadata({**LLAMA, key: 7}, SOURCE, "m.gguf").unread == (key,)


def test_old_keys() -> None:
    assert read(tensor_data_layout="Meta AI original pth", rope__scale_linear=1.0).unread == ()
    assert read(rope__scale_linear=2.0).unread == ("llama.rope.scale_linear",)


@pytest.mark.parametrize("name", ["attention__head_count", "attention__head_count_kv", "feed_forward_length"])
def test_an_array_that_says_the_same_of_every_layer(name: str) -> None:
    once = LLAMA["llama." + name.replace("__", ".")]
    assert read(**{name: [once] * 3}).spec == read().spec


@pytest.mark.parametrize("form", ["gguf", "config"])
def test_key_value_heads_layer_by_layer(form: str) -> None:
    counts = [1, 4, 2]
    if form == "gguf":
        spec = read(attention__head_count_kv=counts).spec
    else:
        same = {"hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 3, "num_attention_heads": 4}
        spec = read_config({"model_type": "llama", "vocab_size": 100, "num_key_value_heads": counts, **same}).spec
    assert [c.kv_heads for c in spec.states] == counts
    tensors, tokens = random_tensors(spec), list(range(1, 20))
    native = native_executor(spec, tensors, "F32", threads=1, kv="f32")
    ours = native.step([StepInput(native.sequence(32), tokens)], every_row=True)
    executor = TorchExecutor(spec, tensors)
    with torch.no_grad():
        theirs = executor.forward([StepInput(executor.sequence(32), tokens)], every_row=True).numpy()
    assert np.abs(ours - theirs).max() < 1e-4


def keys_of(architecture: str) -> dict[str, Any]:
    """Metadata with most keys that an architecture may have."""
    return {name.replace("llama.", architecture + "."): v for name, v in LLAMA.items()} | {
        "general.architecture": architecture,
        f"{architecture}.rope.dimension_count": 16,
        f"{architecture}.attention.key_length": 24,
        f"{architecture}.attention.value_length": 16,
        f"{architecture}.attention.kv_lora_rank": 16,
        f"{architecture}.attention.sliding_window": 16,
        f"{architecture}.attention.sliding_window_pattern": (True, False, True),
        f"{architecture}.expert_count": 8,
        f"{architecture}.expert_used_count": 2,
        f"{architecture}.expert_shared_count": 1,
        f"{architecture}.expert_feed_forward_length": 32,
        f"{architecture}.expert_group_count": 4,
        f"{architecture}.expert_group_used_count": 2,
        f"{architecture}.rope.scaling.type": "yarn",
        f"{architecture}.rope.scaling.factor": 4.0,
        f"{architecture}.rope.scaling.yarn_log_multiplier": 0.1,
        f"{architecture}.rope.scaling.original_context_length": 64,
        f"{architecture}.final_logit_softcapping": 30.0,
        f"{architecture}.nextn_predict_layers": 1,
    }


HOSTILE: list[Any] = [0, -1, 2**31, 2**63, 1e30, float("nan"), "many", (), (1, 2), (0, 0, 0), True, None]


@pytest.mark.parametrize(("architecture", "value"), in_turn(sorted(ARCHITECTURES), HOSTILE, 2))
def test_hostile_numbers(architecture: str, value: Any) -> None:
    """Each key of an architecture in turn: refused with the file's and the key's name, or accepted."""
    keys = keys_of(architecture)
    for key in [name for name in keys if name.startswith(architecture)]:
        changed = {**keys, key: value}
        if value is None:
            del changed[key]
        try:
            read_gguf_metadata(changed, SOURCE, "m.gguf")
        except (BadCheckpoint, UnsupportedModel) as refusal:
            said = str(refusal)
            assert said.startswith("m.gguf: ") and "\n" not in said and architecture in said, (key, said)


STEP: dict[str, Any] = {
    **{name.replace("llama.", "step35."): v for name, v in LLAMA.items()},
    "general.architecture": "step35",
    "step35.attention.head_count": (4, 6, 4),
    "step35.attention.key_length": 16,
    "step35.attention.sliding_window": 16,
    "step35.attention.sliding_window_pattern": (False, True, False),
    "step35.expert_count": 8,
    "step35.expert_used_count": 2,
    "step35.expert_feed_forward_length": 32,
    "step35.expert_shared_feed_forward_length": 32,
    "step35.expert_weights_norm": True,
}


def test_query_heads_layer_by_layer() -> None:
    spec = read_gguf_metadata(STEP, SOURCE, "m.gguf").spec
    assert [layer.mixer.heads for layer in spec.layers] == [4, 6, 4]  # type: ignore[union-attr]
    with pytest.raises(BadCheckpoint, match=r"attention\.head_count"):
        read_gguf_metadata({**STEP, "step35.attention.head_count": (4, 6, 5)}, SOURCE, "m.gguf")
    with pytest.raises(BadCheckpoint, match=r"attention\.head_count"):
        read_gguf_metadata({**STEP, "step35.attention.head_count": (4, 6)}, SOURCE, "m.gguf")


def test_a_curve_of_another_slope_is_refused() -> None:
    keys = {name.replace("llama.", "apertus."): v for name, v in LLAMA.items()} | {"general.architecture": "apertus"}
    slopes = {"xielu.beta": (0.5, 0.5, 0.5), "xielu.eps": (-1e-6,) * 3}
    assert read_gguf_metadata({**keys, **slopes}, SOURCE, "m.gguf").unread == ()
    with pytest.raises(UnsupportedModel, match=r"xielu\.beta"):
        read_gguf_metadata({**keys, "xielu.beta": (0.5, 0.25, 0.5)}, SOURCE, "m.gguf")
