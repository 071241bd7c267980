"""safetensors files: values equal to the safetensors library's; shards; FP8 and MXFP4 with their scales; refusals."""

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from attacks import entry, safetensors_bytes
from safetensors.torch import load_file, save_file

from trilens.checkpoints.quantised import Rules, fp8_block_size, read_rules
from trilens.checkpoints.safetensors import read_config_json, read_safetensors
from trilens.errors import BadCheckpoint, UnsupportedModel

DTYPES = [
    *(torch.float64, torch.float32, torch.float16, torch.bfloat16, torch.float8_e4m3fn, torch.float8_e5m2),
    *(torch.int8, torch.uint8, torch.int16, torch.uint16, torch.int32, torch.uint32, torch.int64, torch.uint64),
    *(torch.bool, torch.float8_e8m0fnu),
]


def random_tensor(dtype: torch.dtype, *shape: int) -> torch.Tensor:
    """Any bytes: infinities, NaN and subnormal numbers among them."""
    size = torch.empty(0, dtype=dtype).element_size()
    raw = torch.randint(0, 2 if dtype == torch.bool else 256, (*shape[:-1], shape[-1] * size), dtype=torch.uint8)
    return raw.view(dtype)


def same(ours: np.ndarray, theirs: torch.Tensor) -> bool:
    """Equal in every bit, but for which NaN it is."""
    expected = theirs.to(torch.float32).numpy()
    assert ours.dtype == np.float32 and ours.shape == expected.shape
    return bool(((ours.view(np.uint32) == expected.view(np.uint32)) | (np.isnan(ours) & np.isnan(expected))).all())


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_values_are_those_of_the_library(dtype: torch.dtype, tmp_path: Path) -> None:
    torch.manual_seed(1)
    saved = {
        "a": random_tensor(dtype, 3, 1024),
        "scalar": random_tensor(dtype, 1)[0],
        "none": torch.empty(2, 0, 3, dtype=dtype),
        "deep": random_tensor(dtype, 2, 3, 4, 5),
    }
    save_file(saved, tmp_path / "model.safetensors", metadata={"format": "pt"})
    checkpoint = read_safetensors(tmp_path)
    assert checkpoint.metadata == {"format": "pt"}
    assert set(checkpoint.tensors) == set(saved) and not checkpoint.scales
    for name, tensor in load_file(tmp_path / "model.safetensors").items():
        assert checkpoint.tensors[name].shape == tuple(tensor.shape)
        assert bytes(checkpoint.raw(name)) == tensor.contiguous().view(-1).view(torch.uint8).numpy().tobytes()
        assert same(checkpoint.read(name), tensor)
    checkpoint.close()


@pytest.mark.parametrize("dtype", [torch.float8_e4m3fn, torch.float8_e5m2, torch.float8_e8m0fnu], ids=str)
def test_all_256_bytes(dtype: torch.dtype, tmp_path: Path) -> None:
    every = torch.arange(256, dtype=torch.uint8).view(dtype)
    save_file({"a": every}, tmp_path / "model.safetensors")
    assert same(read_safetensors(tmp_path).read("a"), every)


def test_shards(tmp_path: Path) -> None:
    names = ["model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"]
    saved = [{"a": torch.randn(2, 3), "b": torch.randn(4)}, {"c": torch.randn(5, 1)}]
    for name, tensors in zip(names, saved, strict=True):
        save_file(tensors, tmp_path / name)
    index = {"metadata": {"total_size": 1}, "weight_map": {"a": names[0], "b": names[0], "c": names[1]}}
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps(index))
    for path in (tmp_path, tmp_path / "model.safetensors.index.json"):
        checkpoint = read_safetensors(path)
        assert {name: tensor.file.name for name, tensor in checkpoint.tensors.items()} == index["weight_map"]
        for name, tensor in (saved[0] | saved[1]).items():
            assert same(checkpoint.read(name), tensor)
    assert list(read_safetensors(tmp_path / names[1]).tensors) == ["c"]
    (tmp_path / "model.safetensors.index.json").unlink()
    with pytest.raises(BadCheckpoint, match=f"contains several .safetensors files .*: {names[0]}, {names[1]}"):
        read_safetensors(tmp_path)


def test_directory_without_weights(tmp_path: Path) -> None:
    with pytest.raises(BadCheckpoint, match=r"contains no \.safetensors file"):
        read_safetensors(tmp_path)


def expand(scale: torch.Tensor, shape: torch.Size, block: tuple[int, int]) -> torch.Tensor:
    """Blocks of scales, each repeated over its block and cut at the edges."""
    wide = scale.repeat_interleave(block[0], -2).repeat_interleave(block[1], -1)
    return wide[..., : shape[-2], : shape[-1]]


@pytest.mark.parametrize("ending", ["_scale_inv", "_scale"])
@pytest.mark.parametrize("scale_type", [torch.float32, torch.bfloat16, torch.float8_e8m0fnu], ids=str)
@pytest.mark.parametrize(
    "shape, block", [((256, 128), (128, 128)), ((300, 200), (128, 128)), ((7, 5), (3, 2)), ((2, 9, 8), (4, 4))]
)
def test_fp8_blocks(
    shape: tuple[int, ...], block: tuple[int, int], scale_type: torch.dtype, ending: str, tmp_path: Path
) -> None:
    torch.manual_seed(2)
    weight = torch.randn(shape).to(torch.float8_e4m3fn)
    blocks = (*shape[:-2], -(-shape[-2] // block[0]), -(-shape[-1] // block[1]))
    scale = (torch.rand(blocks) + 0.1).to(scale_type)
    saved = {"x.weight": weight, f"x.weight{ending}": scale, "x.bias": torch.randn(3), "y_scale": torch.ones(1)}
    saved |= {"x.input_scale": torch.ones(1)}
    save_file(saved, tmp_path / "model.safetensors")
    checkpoint = read_safetensors(tmp_path, Rules(block))
    assert set(checkpoint.tensors) == {"x.weight", "x.bias", "y_scale"}
    assert set(checkpoint.scales) == {f"x.weight{ending}", "x.input_scale"}
    assert checkpoint.scale_of == {"x.weight": f"x.weight{ending}"}
    assert same(checkpoint.read("x.weight"), weight.float() * expand(scale.float(), weight.shape, block))
    assert same(checkpoint.read(f"x.weight{ending}"), scale)


@pytest.mark.parametrize(
    "weight_shape, scale_shape, seen_as",
    [
        ((6, 4), (), (1, 1)),
        ((6, 4), (1,), (1, 1)),
        ((6, 4), (6,), (6, 1)),
        ((6, 4), (6, 1), (6, 1)),
        ((6,), (1,), (1,)),
        ((3, 6, 4), (3,), (3, 1, 1)),
        ((3, 6, 4), (3, 1, 1), (3, 1, 1)),
        ((3, 6, 4), (3, 6, 1), (3, 6, 1)),
        ((3, 6, 4), (3, 6), (3, 6, 1)),
    ],
)
def test_fp8_scale_for_all_for_rows_and_for_experts(
    weight_shape: tuple[int, ...], scale_shape: tuple[int, ...], seen_as: tuple[int, ...], tmp_path: Path
) -> None:
    torch.manual_seed(3)
    weight = torch.randn(weight_shape).to(torch.float8_e4m3fn)
    scale = torch.rand(scale_shape) + 0.1
    save_file({"w": weight, "w_scale": scale}, tmp_path / "model.safetensors")
    assert same(read_safetensors(tmp_path).read("w"), weight.float() * scale.reshape(seen_as))


def test_fp8_without_its_scale_is_not_guessed(tmp_path: Path) -> None:
    weight = torch.ones(2, 2).to(torch.float8_e4m3fn)
    save_file({"a": weight, "a_scale": torch.ones(1), "b": weight.clone()}, tmp_path / "model.safetensors")
    checkpoint = read_safetensors(tmp_path)
    checkpoint.read("a")
    with pytest.raises(BadCheckpoint, match="tensor 'b' is F8_E4M3 without a scale"):
        checkpoint.read("b")


def test_two_scales_for_one_tensor(tmp_path: Path) -> None:
    weight = torch.ones(2, 2).to(torch.float8_e4m3fn)
    save_file({"a": weight, "a_scale": torch.ones(1), "a_scale_inv": torch.ones(1)}, tmp_path / "model.safetensors")
    with pytest.raises(BadCheckpoint, match="tensor 'a' has two scales"):
        read_safetensors(tmp_path)


def test_mxfp4_pairs_are_those_of_transformers(tmp_path: Path) -> None:
    from transformers.integrations.mxfp4 import convert_moe_packed_tensors

    torch.manual_seed(4)
    blocks = torch.randint(0, 256, (2, 6, 3, 16), dtype=torch.uint8)
    scales = torch.randint(7, 250, (2, 6, 3), dtype=torch.uint8)
    saved = {"e.w_blocks": blocks, "e.w_scales": scales, "e.w_bias": torch.ones(2, 6), "y_blocks": torch.ones(2)}
    save_file(saved, tmp_path / "model.safetensors")
    checkpoint = read_safetensors(tmp_path)
    assert set(checkpoint.tensors) == {"e.w", "e.w_bias", "y_blocks"} and set(checkpoint.scales) == {"e.w_scales"}
    tensor = checkpoint.tensors["e.w"]
    assert (tensor.shape, tensor.type, tensor.nbytes) == ((2, 6, 96), "MXFP4", blocks.numel())
    theirs = convert_moe_packed_tensors(blocks, scales, dtype=torch.float32)
    assert same(checkpoint.read("e.w"), theirs.transpose(1, 2))
    assert bytes(checkpoint.raw("e.w")) == blocks.numpy().tobytes()


def test_mxfp4_extreme_scales_by_hand(tmp_path: Path) -> None:
    block = bytes([0x10] + [0] * 15)  # value 0 is 0, value 1 is 0.5
    header = {"w_blocks": entry("U8", [1, 2, 16], 0, 32), "w_scales": entry("U8", [1, 2], 32, 34)}
    (tmp_path / "model.safetensors").write_bytes(safetensors_bytes(header, block + block + bytes([0, 254])))
    values = read_safetensors(tmp_path).read("w")
    assert values.shape == (1, 64)
    assert (values[0, 1], values[0, 33]) == (2.0**-128, 2.0**126)


def test_types_that_cannot_be_read_are_still_listed(tmp_path: Path) -> None:
    (tmp_path / "model.safetensors").write_bytes(safetensors_bytes({"t": entry("F4", [4], 0, 2)}, bytes(2)))
    checkpoint = read_safetensors(tmp_path)
    assert checkpoint.tensors["t"].type == "F4"
    with pytest.raises(UnsupportedModel, match="tensor 't' is F4"):
        checkpoint.read("t")


def test_library_reads_what_we_take_for_good(tmp_path: Path) -> None:
    from attacks import GOOD_SAFETENSORS

    (tmp_path / "model.safetensors").write_bytes(GOOD_SAFETENSORS)
    assert set(load_file(tmp_path / "model.safetensors")) == {"a", "b"}


FP8_GROUP = {"group_0": {"weights": {"num_bits": 8, "type": "float", "strategy": "channel"}, "targets": ["Linear"]}}
INT4_GROUP = {"group_0": {"weights": {"num_bits": 4, "type": "int", "strategy": "group"}, "targets": ["Linear"]}}
COMPRESSED: dict[str, Any] = {"quant_method": "compressed-tensors", "format": "float-quantized"}


@pytest.mark.parametrize(
    "quantisation",
    [
        None,
        {},
        {"quant_method": "mxfp4", "modules_to_not_convert": ["lm_head"]},
        {"quant_method": "fp8", "fmt": "e4m3", "weight_block_size": [128, 128], "activation_scheme": "dynamic"},
        {"quant_method": "fp8", "weight_block_size": None},
        COMPRESSED | {"config_groups": FP8_GROUP, "sparsity_config": {}, "transform_config": {}},
    ],
)
def test_quantisation_that_is_read(quantisation: Any) -> None:
    read_rules({"quantization_config": quantisation}, Path("config.json"))


@pytest.mark.parametrize(
    "quantisation, named",
    [
        ({"quant_method": "awq", "bits": 4, "version": "gemv"}, "AWQ of the version 'gemv'"),
        ({"quant_method": "gptq", "bits": 4, "checkpoint_format": "marlin"}, "GPTQ of the format 'marlin'"),
        ({"quant_method": "auto-round", "packing_format": "auto_round:fake"}, "auto-round of the format"),
        ({"quant_method": "modelopt", "quant_algo": "W4A16_AWQ"}, "'W4A16_AWQ' of NVIDIA ModelOpt"),
        ({"quant_method": "aqlm"}, "AQLM"),
        ({"group_size": 64, "bits": 4, "mode": "nvfp8"}, "MLX of the mode 'nvfp8'"),
        ({"quant_method": "fp8", "fmt": "e5m2"}, "FP8 of the format 'e5m2'"),
        ({"quant_method": "hqq"}, "HQQ"),
        ({"quant_method": "new"}, "the method 'new'"),
        ({"quant_method": ["x\n"]}, "the method"),
        (COMPRESSED | {"format": "marlin-24", "config_groups": INT4_GROUP}, "the format 'marlin-24'"),
        (COMPRESSED | {"config_groups": {"a": {"weights": {"num_bits": 6, "type": "float"}}}}, "'6 bits, float'"),
        (COMPRESSED | {"config_groups": FP8_GROUP, "sparsity_config": {"format": "sparse-24"}}, "sparse"),
        (COMPRESSED | {"config_groups": FP8_GROUP, "transform_config": {"a": 1}}, "transformed"),
    ],
)
def test_quantisation_that_is_refused_by_name(quantisation: Any, named: str) -> None:
    for config in ({"quantization_config": quantisation}, {"text_config": {"quantization_config": quantisation}}):
        with pytest.raises(UnsupportedModel, match=named) as caught:
            read_rules(config, Path("config.json"))
        assert str(caught.value).startswith("config.json: ") and str(caught.value).isprintable()


@pytest.mark.parametrize(
    "name",
    ["l.q.g_idx", "l.q.qzeros", "l.q.weight_scale_2", "l.q.weight.absmax", "l.q.SCB", "l.q.pre_quant_scale"],
)
def test_a_part_without_its_codes_is_named(name: str, tmp_path: Path) -> None:
    save_file({name: torch.ones(2)}, tmp_path / "model.safetensors")
    with pytest.raises(UnsupportedModel, match=re.escape(f"it has a tensor {name!r} without its codes")):
        read_safetensors(tmp_path)


@pytest.mark.parametrize(
    "quantisation, size",
    [
        ({}, (128, 128)),
        ({"weight_block_size": [64, 32]}, (64, 32)),
        ({"config_groups": {"g": {"weights": {"block_structure": [16, 8]}}}}, (16, 8)),
    ],
)
def test_block_size(quantisation: Any, size: tuple[int, int]) -> None:
    assert fp8_block_size({"quantization_config": quantisation}, Path("c")) == size


@pytest.mark.parametrize("size", [[0, 1], [1], "128x128", [1.5, 2], [True, 1]])
def test_block_size_of_nonsense(size: Any) -> None:
    with pytest.raises(BadCheckpoint, match="block size"):
        fp8_block_size({"quantization_config": {"quant_method": "fp8", "weight_block_size": size}}, Path("c"))


def test_config_json(tmp_path: Path) -> None:
    with pytest.raises(BadCheckpoint, match=r"config\.json: no such file|params\.json: no such file"):
        read_config_json(tmp_path)
    (tmp_path / "params.json").write_text('{"dim": 1}')
    assert read_config_json(tmp_path) == {"dim": 1}
    (tmp_path / "config.json").write_text("[]")
    with pytest.raises(BadCheckpoint, match=r"config\.json: holds a list; expected a JSON object"):
        read_config_json(tmp_path)
