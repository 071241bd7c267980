"""Loading is strict: every parameter found once, every tensor used or listed, a fault named in one line."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from trilens.checkpoints.find import find
from trilens.checkpoints.into_torch import torch_executor
from trilens.checkpoints.load import open_model
from trilens.decoder.weights import decoder_weights, parameters
from trilens.errors import BadCheckpoint, ModelNotFound, UnsupportedModel

Directory = Callable[[str], Path]


def changed(source: Path, target: Path, change: Callable[[dict[str, torch.Tensor]], object]) -> Path:
    """A copy of a tiny model with its tensors changed."""
    shutil.copytree(source, target)
    tensors = load_file(target / "model.safetensors")
    change(tensors)
    save_file(tensors, target / "model.safetensors", metadata={"format": "pt"})
    return target


def with_config(source: Path, target: Path, **keys: Any) -> Path:
    shutil.copytree(source, target)
    path = target / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **keys}))
    return target


def assert_refused(directory: Path, *said: str) -> None:
    with pytest.raises(BadCheckpoint) as problem:
        open_model(find(str(directory)))
    assert "\n" not in str(problem.value)
    for words in (str(directory), *said):
        assert words in str(problem.value)


def test_every_parameter_is_written_once_with_the_files_values(tiny_directory: Directory) -> None:
    directory = tiny_directory("qwen2")
    files = open_model(find(str(directory)))
    stored = load_file(directory / "model.safetensors")
    assert sorted(name for s in files.stored.values() for name in s.tensors) == sorted(stored)
    for parameter in parameters(decoder_weights(files.spec)):
        [name] = files.stored[parameter.name].tensors
        assert np.array_equal(files.read(parameter), stored[name].numpy())


def test_a_missing_tensor(tiny_directory: Directory, tmp_path: Path) -> None:
    gone = "model.layers.2.mlp.up_proj.weight"
    directory = changed(tiny_directory("llama 2"), tmp_path / "m", lambda t: t.pop(gone))
    assert_refused(directory, "layers.2.feed_forward.up", gone)


def test_a_tensor_that_nobody_uses(tiny_directory: Directory, tmp_path: Path) -> None:
    extra = "model.layers.0.self_attn.wobble.weight"
    directory = changed(tiny_directory("llama 2"), tmp_path / "m", lambda t: t.update({extra: torch.zeros(3)}))
    assert_refused(directory, extra)


def test_a_wrong_shape(tiny_directory: Directory, tmp_path: Path) -> None:
    name = "model.layers.1.self_attn.o_proj.weight"
    directory = changed(tiny_directory("llama 2"), tmp_path / "m", lambda t: t.update({name: torch.zeros(47, 48)}))
    assert_refused(directory, name, "[47, 48]", "[48, 48]")


def test_known_leftovers_are_listed(tiny_directory: Directory, tmp_path: Path) -> None:
    def add(tensors: dict[str, torch.Tensor]) -> None:
        tensors["model.layers.0.self_attn.rotary_emb.inv_freq"] = torch.zeros(6)
        tensors["lm_head.weight"] = tensors["model.embed_tokens.weight"].clone()

    files = open_model(find(str(changed(tiny_directory("llama 3.2"), tmp_path / "m", add))))
    assert set(files.left_out) == {"model.layers.0.self_attn.rotary_emb.inv_freq", "lm_head.weight"}


def test_an_unread_key_stops_a_run_and_can_be_waved_through(tiny_directory: Directory, tmp_path: Path) -> None:
    directory = with_config(tiny_directory("llama 2"), tmp_path / "m", attention_twist=3, no_twist=None)
    with pytest.raises(UnsupportedModel, match=r"attention_twist.*--ignore-key attention_twist"):
        open_model(find(str(directory)))
    files = open_model(find(str(directory)), ignore_keys=["attention_twist"])
    assert files.reading.unread == ("attention_twist",)


def test_shards(tiny_directory: Directory, tmp_path: Path) -> None:
    source = tiny_directory("mistral")
    tensors = load_file(source / "model.safetensors")
    names, target = sorted(tensors), tmp_path / "m"
    shutil.copytree(source, target, ignore=shutil.ignore_patterns("*.safetensors"))
    halves = {"a": names[:9], "b": names[9:]}
    for shard, inside in halves.items():
        save_file({n: tensors[n] for n in inside}, target / f"model-{shard}.safetensors", metadata={"format": "pt"})
    index = {
        "metadata": {},
        "weight_map": {n: f"model-{s}.safetensors" for s, inside in halves.items() for n in inside},
    }
    (target / "model.safetensors.index.json").write_text(json.dumps(index))
    whole, parts = open_model(find(str(source))), open_model(find(str(target)))
    for parameter in parameters(decoder_weights(whole.spec)):
        assert np.array_equal(whole.read(parameter), parts.read(parameter))
    (target / "model-b.safetensors").unlink()
    assert_refused(target, "model-b.safetensors")


@pytest.mark.parametrize("kind", [torch.bfloat16, torch.float16])
def test_bfloat16_and_float16_are_read_exactly(kind: torch.dtype, tiny_directory: Directory, tmp_path: Path) -> None:
    directory = changed(
        tiny_directory("qwen3"), tmp_path / "m", lambda t: t.update({n: v.to(kind) for n, v in t.items()})
    )
    stored = load_file(directory / "model.safetensors")
    executor = torch_executor(open_model(find(str(directory))))
    assert torch.equal(executor.tensors["embedding"], stored["model.embed_tokens.weight"].float())


def test_an_empty_directory(tmp_path: Path) -> None:
    with pytest.raises(ModelNotFound, match="empty"):
        find(str(tmp_path))


def test_quantised_checkpoints_we_cannot_read_are_refused_by_name(tiny_directory: Directory, tmp_path: Path) -> None:
    for method in ("aqlm", "hqq", "spqr"):
        directory = with_config(
            tiny_directory("llama 2"), tmp_path / method, quantization_config={"quant_method": method}
        )
        with pytest.raises(UnsupportedModel, match=f"(?i){method}"):
            open_model(find(str(directory)))


def test_matrices_for_experts_that_have_no_weights(tiny_directory: Directory, tmp_path: Path) -> None:
    """transformers writes some into files, and their publisher does not; what experts that fire need stays strict."""
    source, ours = tiny_directory("longcat-flash"), open_model(find(str(tiny_directory("longcat-flash"))))

    def without(*numbers: int) -> Callable[[dict[str, torch.Tensor]], object]:
        def change(tensors: dict[str, torch.Tensor]) -> None:
            for name in [n for n in tensors if any(f".experts.{number}." in n for number in numbers)]:
                del tensors[name]

        return change

    published = open_model(find(str(changed(source, tmp_path / "published", without(8, 9, 10, 11, 12)))))
    assert published.stored == ours.stored and not published.left_out
    assert len(ours.left_out) == 2 * 2 * 5
    assert_refused(changed(source, tmp_path / "fewer", without(7)), "mlp.experts.7.gate_proj.weight")
    one = "model.layers.0.mlp.experts.{}.gate_proj.weight"
    more = changed(source, tmp_path / "more", lambda t: t.update({one.format(13): t[one.format(0)].clone()}))
    assert_refused(more, "does not use", one.format(13))
