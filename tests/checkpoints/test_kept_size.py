"""GGUF files of every type on the native executor: their size in memory, what is said of it, and the logits."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
from gguf import GGMLQuantizationType
from tests.executors.packing import random_rows
from tests.executors.test_native import distance, torch_logits

from trilens.checkpoints.find import find
from trilens.checkpoints.ggml_types import BY_NAME
from trilens.checkpoints.gguf import read_gguf
from trilens.checkpoints.into_native import native_executor, nvfp4_blocks
from trilens.checkpoints.into_torch import torch_executor
from trilens.checkpoints.load import open_model
from trilens.errors import BadCheckpoint
from trilens.executors.executor import StepInput
from trilens.executors.native import _native
from trilens.executors.native.matrices import native_types
from trilens.lenses.cards.held import growth, held_types
from trilens.lenses.cards.source import card_source
from trilens.lenses.memory.own_memory import packed_bytes

WIDTH, HIDDEN, VOCAB, LAYERS = 256, 512, 64, 2
KEPT = sorted(kind for kind in native_types() if kind in BY_NAME and BY_NAME[kind].readable)
BECOME_Q8_0 = ("TQ1_0", "TQ2_0")
KEEP_THEIR_SIZE = ("F", "BF16", "Q4_0", "Q4_1", "Q8_0", "IQ1", "IQ2", "IQ3", "IQ4_NL", "NVFP4")


def rows_of_type(kind: str, rows: int, columns: int, seed: int) -> np.ndarray:
    if kind in BECOME_Q8_0:
        values = np.random.default_rng(seed).standard_normal((rows, columns), np.float32) * np.float32(columns**-0.5)
        return gguf.quants.quantize(values, GGMLQuantizationType[kind]).view(np.uint8)
    if kind == "NVFP4":
        raw = np.random.default_rng(seed).integers(0, 256, (rows, columns // 64, 36), np.uint8)
        raw[:, :, :4] = raw[:, :, :4] % 32 + 0x10  # scales of at most 1 / 4
        return raw.reshape(rows, -1)
    return random_rows(kind, rows, columns, seed, columns**-0.5)


def model_of(kind: str, path: Path) -> Path:
    """A llama with every matrix of that type."""
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_block_count(LAYERS)
    writer.add_context_length(128)
    writer.add_embedding_length(WIDTH)
    writer.add_feed_forward_length(HIDDEN)
    writer.add_head_count(4)
    writer.add_head_count_kv(2)
    writer.add_rope_dimension_count(64)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_vocab_size(VOCAB)

    def matrix(name: str, rows: int, columns: int) -> None:
        raw = rows_of_type(kind, rows, columns, len(name) * rows)
        writer.add_tensor(name, raw, raw_dtype=GGMLQuantizationType[kind])
        if kind == "NVFP4" and "ffn_up" not in name:  # one without: the factor is 1
            stem = name.removesuffix("weight") if "attn" in name else name + "."  # both names are in use
            writer.add_tensor(stem + "scale", np.array([4 * columns**-0.5 + rows / 4096], np.float32))
            writer.add_tensor(stem + "input_scale", np.ones(1, np.float32))

    matrix("token_embd.weight", VOCAB, WIDTH)
    matrix("output.weight", VOCAB, WIDTH)
    writer.add_tensor("output_norm.weight", np.ones(WIDTH, np.float32))
    for i in range(LAYERS):
        for norm in ("attn_norm", "ffn_norm"):
            writer.add_tensor(f"blk.{i}.{norm}.weight", np.ones(WIDTH, np.float32))
        for name, rows, columns in (
            ("attn_q", WIDTH, WIDTH),
            ("attn_k", WIDTH // 2, WIDTH),
            ("attn_v", WIDTH // 2, WIDTH),
            ("attn_output", WIDTH, WIDTH),
            ("ffn_gate", HIDDEN, WIDTH),
            ("ffn_up", HIDDEN, WIDTH),
            ("ffn_down", WIDTH, HIDDEN),
        ):
            matrix(f"blk.{i}.{name}.weight", rows, columns)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


@pytest.mark.parametrize("kind", [*KEPT, *BECOME_Q8_0])
def test_a_file_of_one_type(kind: str, tmp_path: Path) -> None:
    path = model_of(kind, tmp_path / "model.gguf")
    files = open_model(find(str(path)))
    executor = native_executor(files, kv="f32", activations="16bit", threads=1)
    in_file = sum(tensor.nbytes for tensor in files.checkpoint.tensors.values())
    source = card_source(str(path), offline=True)
    assert source.reading is not None
    held, grown = held_types(source), growth(source)
    assert held == dict(executor.types)
    assert packed_bytes(source.reading.spec, held) == executor.weight_bytes
    if kind in BECOME_Q8_0:
        assert set(held.values()) == {"Q8_0"}
        assert grown is not None and f"matrices of {kind.replace('_', ' ')} are held as Q8_0" in grown.said[0]
        assert grown.bytes == executor.weight_bytes
        assert set(executor.converted) == set(held) and set(executor.converted.values()) == {f"{kind} to Q8_0"}
    else:
        assert set(held.values()) == {kind} and grown is None
        if kind.startswith(KEEP_THEIR_SIZE):
            assert executor.weight_bytes <= 1.05 * in_file
    tokens = [3, 1, 4, 1, 5, 9, 2, 6]
    got = executor.step([StepInput(executor.sequence(len(tokens)), tokens)], every_row=True)
    assert distance(got, torch_logits(files.spec, torch_executor(files).tensors, tokens)) < 2e-3
    files.checkpoint.close()


@pytest.mark.parametrize("lead", [(), (3,)], ids=["one matrix", "a stack"])
@pytest.mark.parametrize("scales", ["none", "one", "each"])
def test_nvfp4_blocks_have_the_values_of_the_gguf_package(scales: str, lead: tuple[int, ...], tmp_path: Path) -> None:
    rows, columns = 24, 192
    raw = np.random.default_rng(7).integers(0, 256, (*lead, rows, columns // 64, 36), np.uint8)
    raw[..., :4] &= 127  # scales have no sign; 127 stands for nothing
    raw = raw.reshape(*lead, rows, -1)
    writer = gguf.GGUFWriter(tmp_path / "m.gguf", "llama")
    writer.add_tensor("x.weight", raw, raw_dtype=GGMLQuantizationType.NVFP4)
    count = {"none": 0, "one": 1, "each": lead[0] if lead else 1}[scales]
    factors = np.random.default_rng(8).uniform(0.1, 2, count).astype(np.float32)
    if count:
        writer.add_tensor("x.scale", factors)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    file = read_gguf(tmp_path / "m.gguf")
    assert list(file.tensors) == ["x.weight"]
    expected = gguf.quants.dequantize(raw, GGMLQuantizationType.NVFP4).reshape(*lead, rows, columns)
    if count:
        expected = expected * factors.reshape(-1, *(1,) * 2) if lead else expected * factors[0]
    assert np.array_equal(file.read("x.weight"), expected)
    flat = expected.reshape(-1, columns)
    for first, stop in ((0, len(flat)), (5, 23)):
        blocks, zero = nvfp4_blocks(file, "x.weight", columns // 64 * 36)(first, stop)
        out = np.empty((stop - first, columns), np.float32)
        _native.unpacked("NVFP4", blocks, out)
        assert not zero and np.allclose(out, flat[first:stop], rtol=3e-7, atol=0)
    file.close()


def test_a_scale_of_another_shape_is_refused_by_name(tmp_path: Path) -> None:
    writer = gguf.GGUFWriter(tmp_path / "m.gguf", "llama")
    writer.add_tensor("x.weight", np.zeros((8, 36), np.uint8), raw_dtype=GGMLQuantizationType.NVFP4)
    writer.add_tensor("x.scale", np.ones(3, np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    with pytest.raises(BadCheckpoint, match=r"'x.scale' of F32 \[3\] does not fit 'x.weight' of NVFP4 \[8, 64\]"):
        read_gguf(tmp_path / "m.gguf")


@pytest.mark.parametrize("run", [native_executor, torch_executor])
@pytest.mark.parametrize("factor", [np.nan, np.inf, -np.inf, 0.0])
def test_a_damaged_scale_of_nvfp4_is_one_error_and_no_warning(
    factor: float, run: Callable[..., object], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    add = gguf.GGUFWriter.add_tensor

    def damaged(writer: gguf.GGUFWriter, name: str, values: np.ndarray, **options: Any) -> None:
        add(writer, name, np.full_like(values, factor) if name == "blk.1.attn_q.scale" else values, **options)

    monkeypatch.setattr(gguf.GGUFWriter, "add_tensor", damaged)
    files = open_model(find(str(model_of("NVFP4", tmp_path / "model.gguf"))))
    with pytest.raises(BadCheckpoint, match=r"'blk\.1\.attn_q\.weight' .*(not finite|is zero everywhere)"):
        run(files)
    files.checkpoint.close()
