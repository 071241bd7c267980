"""The card of a model whose wiring nobody here knows says what its files say, and nothing more."""

from __future__ import annotations

import json
from pathlib import Path

import gguf
import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from tests.grids import first_of_each
from trilens.checkpoints.find import find
from trilens.checkpoints.load import open_model
from trilens.errors import UnsupportedModel
from trilens.lenses.cards.card import Card, card
from trilens.lenses.cards.partial import UNKNOWN, PartialCard
from trilens.lenses.plans.compare import compare
from trilens.spec.catalog import entries

CONFIGS = Path(__file__).parent.parent / "data" / "configs.json"
MODELS = json.loads(CONFIGS.read_text())
REFUSED = {name: model for name, model in MODELS.items() if "unknown" in model}
CONFIG = {
    "model_type": "mamba9",
    "text_config": {"vocab_size": 99, "n_layers": 3, "d_model": 8, "max_seq_len": 640},
    "num_experts": 4,
    "num_experts_per_tok": 2,
}


def partial(name: str) -> PartialCard:
    made = card(name, offline=True)
    assert isinstance(made, PartialCard)
    return made


def in_directory(directory: Path) -> Path:
    (directory / "config.json").write_text(json.dumps(CONFIG))
    experts = {f"model.layers.{i}.experts.{e}.w": torch.zeros(8, 5) for i in range(3) for e in range(4)}
    table = {"model.embed.weight": torch.zeros(99, 8, dtype=torch.bfloat16)}
    save_file(experts | table, directory / "model.safetensors")
    return directory


def test_a_directory(tmp_path: Path) -> None:
    made = partial(str(in_directory(tmp_path)))
    assert made.tensors is not None
    assert (made.family, made.backbone) == ("mamba9", "routed")
    assert (made.tensors.count, made.tensors.parameters) == (13, 12 * 40 + 99 * 8)
    assert made.tensors.bytes_by_type == {"F32": 12 * 40 * 4, "BF16": 99 * 8 * 2}
    assert (made.tensors.layers, made.tensors.experts) == (3, 4)
    assert made.stated == {
        "layers": (3, "text_config.n_layers"),
        "width": (8, "text_config.d_model"),
        "vocabulary": (99, "text_config.vocab_size"),
        "context": (640, "text_config.max_seq_len"),
        "experts": (4, "num_experts"),
        "experts per token": (2, "num_experts_per_tok"),
    }
    text = made.as_text(200)
    assert all(word in text for word in ("partial card", "13 tensors", "4 experts a layer by their names", *UNKNOWN))
    said = made.as_dict()
    assert said["parameters"] is said["kv_cache"] is said["flops_per_token"] is None
    json.dumps(said)


def test_a_gguf_file(tmp_path: Path) -> None:
    path = tmp_path / "model.gguf"
    writer = gguf.GGUFWriter(path, "mamba9")
    writer.add_context_length(640)
    writer.add_block_count(2)
    writer.add_token_list(["a", "b", "c"])
    writer.add_tensor("blk.1.ssm.weight", np.zeros((4, 8), np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    made = partial(str(path))
    assert made.stated == {
        "layers": (2, "block_count"),
        "vocabulary": (3, "vocab_size"),
        "context": (640, "context_length"),
    }
    assert made.tensors is not None and made.tensors.bytes_by_type == {"F32": 128}
    assert made.backbone == "unknown"


def test_only_running_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UnsupportedModel) as problem:
        open_model(find(str(in_directory(tmp_path))))
    assert problem.value.exit_code == 3


@pytest.mark.parametrize("name", REFUSED)
def test_every_published_configuration_that_is_not_read(name: str, tmp_path: Path) -> None:
    path = tmp_path / "config.json"
    path.write_text(json.dumps(REFUSED[name]["config"]))
    made = partial(str(path))
    assert REFUSED[name]["unknown"] in made.why
    experts = set() if REFUSED[name].get("without_experts") else {"experts", "experts per token"}
    assert {"layers", "width", "vocabulary", "context"} | experts <= set(made.stated)


@pytest.mark.parametrize("name", first_of_each(MODELS, lambda name: MODELS[name]["config"].get("model_type")))
def test_no_published_configuration_is_without_a_card(name: str, tmp_path: Path) -> None:
    """Wholly if it is read, partly if it is refused."""
    config = MODELS[name]["config"]
    path = tmp_path / ("config.json" if "model_type" in config else "params.json")
    path.write_text(json.dumps(config))
    made = card(str(path), offline=True)
    assert isinstance(made, PartialCard if name in REFUSED else Card)
    assert made.as_text(100) and json.dumps(made.as_dict())


@pytest.mark.parametrize("every", [9, pytest.param(1, marks=pytest.mark.slow)])
def test_the_catalog_is_carded_wholly_but_for_a_few(every: int) -> None:
    partly = {"deepseek-v4-flash", "deepseek-v4-pro", "kimi-k3", "minimax-m3"}
    names = [entry.name for entry in entries().values() if entry.config or entry.comes_with]
    assert len(names) >= 84
    tried = {*names[::every], *partly}
    assert {name for name in tried if isinstance(card(name, offline=True), PartialCard)} == partly


def test_the_catalog_says_what_is_published() -> None:
    made = partial("kimi-k3")
    assert made.published == ("2.8T total", "104B active")
    assert max(map(len, made.as_text(60).splitlines())) <= 60


def test_beside_others() -> None:
    assert "unknown" in compare(["kimi-k3", "qwen3-0.6b"], offline=True).as_text(200)
