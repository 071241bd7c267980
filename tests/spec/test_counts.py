"""The parameters of published models, from their configurations alone: against transformers and their publishers.

`tests/data/configs.json` has each model's configuration as published (bookkeeping and the names of unquantised modules
left out), where it is from, and what its publishers say of its size; or, of models that are refused, the part that the
refusal has to name.
"""

from __future__ import annotations

import json
import re
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM, Mistral4ForCausalLM, PreTrainedConfig

from tests.grids import first_of_each
from trilens.errors import UnsupportedModel
from trilens.executors.accountant import count_parameters
from trilens.spec.huggingface import AROUND_TEXT, read_config
from trilens.spec.model import Reading

MODELS: dict[str, Any] = json.loads((Path(__file__).parent.parent / "data" / "configs.json").read_text())
READ = [name for name, model in MODELS.items() if "published" in model]
REFUSED = [name for name, model in MODELS.items() if "unknown" in model]
UNITS = {"M": 10**6, "B": 10**9, "T": 10**12}


@cache
def reading(name: str) -> Reading:
    return read_config(MODELS[name]["config"], name)


def text_config(name: str) -> dict[str, Any]:
    """What transformers' text module is made from; the few keys that it cannot take are put as it wants them."""
    config = dict(MODELS[name]["config"])
    if "text_config" in config:
        family, text = config["model_type"], dict(config["text_config"])
        text.setdefault("model_type", AROUND_TEXT[family])
        if "tie_word_embeddings" in config:
            text["tie_word_embeddings"] = config["tie_word_embeddings"]
        config = text
    config.pop("quantization_config", None)
    if config["model_type"] == "hunyuan":  # its publisher's name, and a number for each layer
        config = {name: value[0] if isinstance(value, list) and value else value for name, value in config.items()}
        config = {**config, "model_type": "hunyuan_v1_moe", "rope_scaling": None}
        config["head_dim"] = config["hidden_size"] // config["num_attention_heads"]
    if config["model_type"] == "kimi_k2":  # the same class, in other sizes
        config["model_type"] = "deepseek_v3"
    if config["model_type"] == "exaone4":  # its publisher writes a pattern of letters
        config = {**config, "layer_types": ["full_attention"] * config["num_hidden_layers"]}
    if config["model_type"] == "gemma4_text" and "expert_intermediate_size" in config:  # a pre-release's names
        config["moe_intermediate_size"] = config.pop("expert_intermediate_size")
        config["hidden_size_per_layer_input"] = config["hidden_size_per_layer_input"] or 0
    return config


# A publisher's own format, and families that transformers does not have, or only together with a part that sees.
NOT_THEIRS = [name for name in READ if MODELS[name]["config"].get("model_type") in (None, "bailing_moe", "step3p5")]


@pytest.mark.parametrize(
    "name",
    first_of_each((name for name in READ if name not in NOT_THEIRS), lambda name: MODELS[name]["config"]["model_type"]),
)
def test_parameters_and_buffers_are_transformers_own(name: str) -> None:
    config = text_config(name)
    ours = AutoConfig.for_model(config.pop("model_type"), **config)
    with torch.device("meta"):
        around = Mistral4ForCausalLM if ours.model_type == "mistral4" else AutoModelForCausalLM.from_config
        model = around(ours)
    model.tie_weights()
    parameters = {id(p): p.numel() for p in model.parameters()}
    kept = set(model.state_dict())
    # a constant without a dimension is no number of the model, as on the hub
    buffers = sum(buffer.numel() for at, buffer in model.named_buffers() if at in kept and buffer.dim())
    assert count_parameters(reading(name).spec).total == sum(parameters.values()) + buffers - never_used(ours)


def never_used(config: PreTrainedConfig) -> int:
    """Gates that transformers allocates for experts without weights, and no file has."""
    if config.model_type != "longcat_flash":
        return 0
    return int(config.num_layers * config.zero_expert_num * 2 * config.expert_ffn_hidden_size * config.hidden_size)


def test_a_publishers_own_form_has_the_same_parameters() -> None:
    name = "mistralai/Mistral-Large-3-675B-Instruct-2512"
    assert count_parameters(reading(name + ".params").spec) == count_parameters(reading(name).spec)


@pytest.mark.parametrize("name", READ)
def test_every_key_is_known(name: str) -> None:
    assert reading(name).unread == ()


@pytest.mark.parametrize("name", READ)
def test_published_totals(name: str) -> None:
    """Exact ones to the last parameter; rounded ones after rounding, or with a line that says why not."""
    published, read = MODELS[name]["published"], reading(name)
    count = count_parameters(read.spec)
    assert count.total == published.get("exact", count.total)
    assert count.active_with_embeddings == published.get("exact_active", count.active_with_embeddings)
    if "with_rest" in published:
        rest = sum(read.not_counted.values()) + published.get("missing", 0)
        assert count.total + rest == published["with_rest"]
    active = count.active_with_embeddings if published.get("tables") else count.active
    agree = rounds_to(count.total, published.get("total")) and rounds_to(active, published.get("active"))
    assert agree or published.get("why")


@pytest.mark.parametrize("name", REFUSED)
def test_what_nobody_has_is_refused_by_its_part(name: str) -> None:
    with pytest.raises(UnsupportedModel, match=re.escape(MODELS[name]["unknown"])) as problem:
        read_config(MODELS[name]["config"], name)
    assert problem.value.exit_code == 3
    assert "\n" not in str(problem.value)


def test_what_a_partial_file_leaves_out_is_listed() -> None:
    assert reading("google/gemma-3-4b-it").defaults["text_config.vocab_size"] == 262208
    assert reading("zai-org/GLM-4.7-Flash").defaults["rms_norm_eps"] == 1e-5
    assert reading("microsoft/Phi-3.5-MoE-instruct").defaults["rope_scaling"] == "none"
    assert reading("meta-llama/Llama-4-Scout-17B-16E-Instruct").defaults["text_config.floor_scale"] == 8192


def rounds_to(count: int, said: str | None) -> bool:
    """Whether `count` is `said`, like 30.5B, when it is rounded to as many digits."""
    if said is None:
        return True
    digits = len(said.partition(".")[2]) - 1 if "." in said else 0
    return f"{count / UNITS[said[-1]]:.{digits}f}" == said[:-1]
