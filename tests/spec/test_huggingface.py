"""config.json -> spec: every key is read or named; what is unknown stops a run."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from tests.families_plain import STEP_3_5
from trilens.errors import BadCheckpoint, UnsupportedModel
from trilens.executors.accountant import count_parameters, kv_bytes, token_cost
from trilens.spec.huggingface import read_config, read_config_file
from trilens.spec.model import Attention, Full, Llama3Scaling, Window

CONFIGS = Path(__file__).parent.parent / "data" / "configs.json"
LLAMA_31_8B: dict[str, Any] = {  # meta-llama/Llama-3.1-8B-Instruct, the numbers of its config.json
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "hidden_size": 4096,
    "intermediate_size": 14336,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "max_position_embeddings": 131072,
    "vocab_size": 128256,
    "rms_norm_eps": 1e-05,
    "rope_theta": 500000.0,
    "rope_scaling": {
        "factor": 8.0,
        "low_freq_factor": 1.0,
        "high_freq_factor": 4.0,
        "original_max_position_embeddings": 8192,
        "rope_type": "llama3",
    },
    "tie_word_embeddings": False,
    "hidden_act": "silu",
    "attention_bias": False,
    "mlp_bias": False,
}


def changed(**keys: Any) -> dict[str, Any]:
    return {**LLAMA_31_8B, **keys}


def test_llama_31_8b_to_the_last_parameter() -> None:
    spec = read_config(LLAMA_31_8B).spec
    count = count_parameters(spec)
    assert count.total == 8_030_261_248
    assert count.active == 8_030_261_248 - (128256 - 1) * 4096
    assert count.every_weight_fires
    assert kv_bytes(spec, 1) == 131_072
    feed_forward = token_cost(spec).flops_by_part()["feed_forward"]
    assert feed_forward == 2 * 3 * 4096 * 14336 * 32
    attention = spec.layers[0].mixer
    assert isinstance(attention, Attention)
    assert attention.rope is not None
    assert attention.rope.scaling == Llama3Scaling(8.0, 1.0, 4.0, 8192)


def test_both_ways_of_writing_the_rope_are_the_same_model() -> None:
    newer = changed(rope_parameters={**LLAMA_31_8B["rope_scaling"], "rope_theta": 500000.0})
    del newer["rope_scaling"], newer["rope_theta"]
    assert read_config(newer).spec == read_config(LLAMA_31_8B).spec


def test_an_unknown_key_that_says_something_is_unread_and_an_empty_one_ignored() -> None:
    reading = read_config(changed(attention_twist=3, no_twist=None, twists=[], twisted=False))
    assert reading.unread == ("attention_twist",)
    assert set(reading.ignored) == {"no_twist", "twists", "twisted"}


def test_an_unknown_key_inside_the_rope_is_unread_by_its_path() -> None:
    rope = {**LLAMA_31_8B["rope_scaling"], "wobble": 2}
    assert read_config(changed(rope_scaling=rope)).unread == ("rope_scaling.wobble",)


def test_what_was_not_stated_is_listed_as_a_default() -> None:
    config = changed()
    del config["num_key_value_heads"], config["rms_norm_eps"]
    assert read_config(config).defaults == {"num_key_value_heads": 32, "rms_norm_eps": 1e-6}


@pytest.mark.parametrize(
    ("keys", "said"),
    [
        ({"hidden_size": "4096"}, "hidden_size is '4096'; expected an integer"),
        ({"hidden_size": None}, "hidden_size is missing"),
        ({"hidden_size": -1}, "hidden_size is -1"),
        ({"hidden_size": True}, "hidden_size is True"),
        ({"num_hidden_layers": 10**18}, "num_hidden_layers is"),
        ({"num_hidden_layers": 2**30}, "num_hidden_layers is"),
        ({"num_key_value_heads": 5}, "num_key_value_heads is 5; expected a divisor of num_attention_heads, 32"),
        ({"num_attention_heads": 31, "num_key_value_heads": 31}, "num_attention_heads is 31"),
        ({"rms_norm_eps": float("nan")}, "rms_norm_eps is nan"),
        ({"rope_scaling": [1]}, "rope_scaling is [1]; expected a mapping"),
        ({"rope_theta": 0}, "rope_theta is 0"),
    ],
)
def test_a_wrong_value_is_named_in_one_line(keys: dict[str, Any], said: str) -> None:
    with pytest.raises(BadCheckpoint) as problem:
        read_config(changed(**keys), "here/config.json")
    assert said in str(problem.value)
    assert str(problem.value).startswith("here/config.json: ")
    assert "\n" not in str(problem.value)


@pytest.mark.parametrize(
    ("keys", "said"),
    [
        ({"model_type": "mamba9"}, "'mamba9' is not supported"),
        ({"hidden_act": "sine"}, "'sine' is not supported"),
        ({"rope_scaling": {"rope_type": "spiral", "factor": 2.0}}, "'spiral' is not supported"),
    ],
)
def test_an_unknown_part_is_refused_by_name(keys: dict[str, Any], said: str) -> None:
    with pytest.raises(UnsupportedModel, match=said):
        read_config(changed(**keys))


@pytest.mark.parametrize(
    ("keys", "problem", "said"),
    [
        ({"zero_expert_type": "copy"}, UnsupportedModel, "zero_expert_type 'copy' is not supported"),
        ({"attention_method": "MHA"}, UnsupportedModel, "attention_method 'MHA' is not supported"),
        ({"mla_scale_q_lora": False}, UnsupportedModel, "mla_scale_q_lora False is not supported"),
        ({"norm_topk_prob": True}, UnsupportedModel, "norm_topk_prob True is not supported"),
        ({"router_bias": True}, UnsupportedModel, "router_bias True is not supported"),
        ({"num_hidden_layers": 28}, BadCheckpoint, "num_hidden_layers is 28; expected 56"),
        ({"head_dim": 96}, BadCheckpoint, "head_dim is 96; expected 64"),
        ({"moe_topk": 769}, BadCheckpoint, "moe_topk is 769; expected no more than the 768 experts there are"),
        ({"zero_expert_num": 65535}, BadCheckpoint, "zero_expert_num is 65535; expected an integer from 0 to 65023"),
        ({"num_layers": None}, BadCheckpoint, "num_layers is missing"),
    ],
)
def test_what_longcat_flash_says_more(keys: dict[str, Any], problem: type[Exception], said: str) -> None:
    config = json.loads(CONFIGS.read_text())["meituan-longcat/LongCat-Flash-Chat"]["config"]
    published = {"zero_expert_type": "identity", "mla_scale_kv_lora": True, "norm_topk_prob": False, **config}
    assert not read_config(published).unread
    with pytest.raises(problem, match=re.escape(said)):
        read_config({**published, **keys})


@pytest.mark.parametrize("text", ["", "{", "[]", "null", '"llama"', "[" * 100_000])
def test_a_file_that_is_no_config(text: str, tmp_path: Path) -> None:
    path = tmp_path / "config.json"
    path.write_text(text)
    with pytest.raises(BadCheckpoint) as problem:
        read_config_file(path)
    assert str(path) in str(problem.value)


def test_windows_of_mistral_and_qwen2() -> None:
    mistral = changed(model_type="mistral", sliding_window=4096)
    assert {layer.mixer.mask for layer in read_config(mistral).spec.layers} == {Window(4096)}
    assert {c.mixer.mask for c in read_config({**mistral, "sliding_window": None}).spec.layers} == {Full()}
    qwen = changed(model_type="qwen2", sliding_window=1000, use_sliding_window=True, max_window_layers=30)
    masks = [layer.mixer.mask for layer in read_config(qwen).spec.layers]
    assert masks == [Full()] * 30 + [Window(1000)] * 2
    assert {c.mixer.mask for c in read_config({**qwen, "use_sliding_window": False}).spec.layers} == {Full()}


def test_a_config_survives_json(tmp_path: Path) -> None:
    path = tmp_path / "config.json"
    path.write_text(json.dumps(LLAMA_31_8B))
    assert read_config_file(path) == read_config(LLAMA_31_8B)


def test_bounds_of_step_belong_to_silu() -> None:
    with pytest.raises(UnsupportedModel, match="hidden_act 'gelu' is not supported"):
        read_config({**STEP_3_5, "hidden_act": "gelu"})


def test_thetas_of_step_are_stated_once_or_layer_by_layer() -> None:
    def thetas(value: object) -> list[float]:
        mixers = [layer.mixer for layer in read_config({**STEP_3_5, "rope_theta": value}).spec.layers]
        return [mixer.rope.theta for mixer in mixers if isinstance(mixer, Attention) and mixer.rope is not None]

    assert thetas([50000.0, 10000.0, 50000.0, 10000.0]) == [50000.0, 10000.0, 50000.0, 10000.0]
    assert thetas(70000.0) == [70000.0] * 4
    assert thetas(None) == [10000.0] * 4
    with pytest.raises(BadCheckpoint, match=r"rope_theta is .*; expected a list of 4 numbers"):
        thetas([50000.0, 10000.0])
    with pytest.raises(BadCheckpoint, match=r"rope_theta is .*; expected the same number for all layers of a type"):
        thetas([50000.0, 10000.0, 50000.0, 20000.0])
