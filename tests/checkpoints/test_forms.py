"""Checkpoints as different publishers write them give the same weights: experts one by one or stacked, fused and apart,
quantised in blocks, with what the text decoder does not need left out by name."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from trilens.checkpoints.find import find
from trilens.checkpoints.into_torch import torch_executor
from trilens.checkpoints.load import ModelFiles, open_model
from trilens.errors import BadCheckpoint
from trilens.executors.torch import TorchExecutor

Tensors = dict[str, torch.Tensor]


def rewritten(source: Path, target: Path, change: Callable[[Tensors], Tensors], **config: object) -> ModelFiles:
    """A copy of the model with its tensors changed, opened."""
    shutil.copytree(source, target, dirs_exist_ok=True)
    tensors = change(load_file(source / "model.safetensors"))
    save_file({name: t.contiguous() for name, t in tensors.items()}, target / "model.safetensors")
    path = target / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **config}))
    return open_model(find(str(target)))


def stacked_experts(tensors: Tensors) -> Tensors:
    """`experts.{e}.gate_proj` and so on as transformers keeps them: `experts.gate_up_proj`, `experts.down_proj`."""
    kept = {n: t for n, t in tensors.items() if ".experts." not in n}
    for layer in sorted({n.split(".experts.")[0] for n in tensors if ".experts." in n}):
        count = len({n.split(".experts.")[1].split(".")[0] for n in tensors if n.startswith(layer + ".experts.")})

        def stack(part: str, layer: str = layer, count: int = count) -> torch.Tensor:
            return torch.stack([tensors[f"{layer}.experts.{e}.{part}.weight"] for e in range(count)])

        kept[layer + ".experts.gate_up_proj"] = torch.cat((stack("gate_proj"), stack("up_proj")), 1)
        kept[layer + ".experts.down_proj"] = stack("down_proj")
    return kept


def same_weights(files: ModelFiles, executor: TorchExecutor, within: float = 0.0) -> None:
    for name, tensor in torch_executor(files).tensors.items():
        assert (tensor - executor.tensors[name]).abs().max() <= within * executor.tensors[name].abs().max(), name


@pytest.mark.parametrize("name", ["qwen3 moe", "olmoe", "deepseek v3", "glm-4.5"])
def test_experts_stacked(
    name: str, tiny_directory: Callable[[str], Path], tiny_executor: Callable[[str], TorchExecutor], tmp_path: Path
) -> None:
    same_weights(rewritten(tiny_directory(name), tmp_path, stacked_experts), tiny_executor(name))


@pytest.mark.parametrize("name", ["deepseek v3", "qwen3-next", "qwen3.5 (text)", "kimi linear"])
def test_fp8_blocks(
    name: str, tiny_directory: Callable[[str], Path], tiny_executor: Callable[[str], TorchExecutor], tmp_path: Path
) -> None:
    """DeepSeek-V3's form, and Qwen's: each projection and expert in 8 bits, with a factor for each block."""
    rows, columns = 16, 8

    def quantise(tensors: Tensors) -> Tensors:
        out = {}
        for name, tensor in tensors.items():
            out[name] = tensor
            if "proj" not in name or tensor.dim() < 2:
                continue
            high, wide = -(-tensor.shape[0] // rows), -(-tensor.shape[1] // columns)
            scale = torch.empty(high, wide)
            for r in range(high):
                for c in range(wide):
                    block = tensor[r * rows : (r + 1) * rows, c * columns : (c + 1) * columns]
                    scale[r, c] = block.abs().max() / 448
            full = scale.repeat_interleave(rows, 0)[: tensor.shape[0]].repeat_interleave(columns, 1)
            out[name] = (tensor / full[:, : tensor.shape[1]]).to(torch.float8_e4m3fn)
            out[name + "_scale_inv"] = scale
        return out

    rule = {"quant_method": "fp8", "fmt": "e4m3", "weight_block_size": [rows, columns]}
    files = rewritten(tiny_directory(name), tmp_path, quantise, quantization_config=rule)
    same_weights(files, tiny_executor(name), within=0.04)
    assert files.reading.not_counted["8-bit block scales"] > 0


def test_mxfp4_pairs(
    tiny_directory: Callable[[str], Path], tiny_executor: Callable[[str], TorchExecutor], tmp_path: Path
) -> None:
    """gpt-oss's form: experts [E, out, in] in 4-bit blocks of 32 along `in`; the others are stored [E, in, out]."""
    levels = torch.tensor([0, 0.5, 1, 1.5, 2, 3, 4, 6])

    def pack(tensors: Tensors) -> Tensors:
        out = {}
        for name, tensor in tensors.items():
            if not name.endswith("gate_up_proj"):
                out[name] = tensor
                continue
            groups = tensor.transpose(1, 2).unflatten(-1, (-1, 32))
            power = torch.floor(torch.log2(groups.abs().amax(-1))) - 2
            unit = groups / torch.exp2(power)[..., None]
            code = (unit.abs()[..., None] - levels).abs().argmin(-1) + 8 * (unit < 0)
            out[name + "_blocks"] = (code[..., 0::2] | code[..., 1::2] << 4).to(torch.uint8)
            out[name + "_scales"] = (power + 127).to(torch.uint8)
        return out

    files = rewritten(tiny_directory("gpt-oss"), tmp_path, pack, quantization_config={"quant_method": "mxfp4"})
    same_weights(files, tiny_executor("gpt-oss"), within=0.25)


def test_a_fused_tensor_of_other_rows_is_refused(tiny_directory: Callable[[str], Path], tmp_path: Path) -> None:
    def longer(tensors: Tensors) -> Tensors:
        name = "model.layers.1.self_attn.qkv_proj.weight"
        return {**tensors, name: torch.cat((tensors[name], tensors[name][:4]))}

    files = rewritten(tiny_directory("phi-4"), tmp_path, longer)
    with pytest.raises(BadCheckpoint, match=r"qkv_proj.weight has 100 rows; expected 96"):
        torch_executor(files)


def test_layers_that_predict_further_tokens_are_left_out(
    tiny_directory: Callable[[str], Path], tiny_executor: Callable[[str], TorchExecutor], tmp_path: Path
) -> None:
    def more(tensors: Tensors) -> Tensors:
        further = {"eh_proj": torch.ones(48, 96), "enorm": torch.ones(48)}
        return {**tensors, **{f"model.layers.4.{name}.weight": t for name, t in further.items()}}

    files = rewritten(tiny_directory("glm-4.5"), tmp_path, more, num_nextn_predict_layers=1)
    same_weights(files, tiny_executor("glm-4.5"))
    assert set(files.left_out.values()) == {"layers that predict further tokens"}


def test_dead_keys_and_values_are_left_out(
    tiny_directory: Callable[[str], Path], tiny_executor: Callable[[str], TorchExecutor], tmp_path: Path
) -> None:
    def dead(tensors: Tensors) -> Tensors:
        keys = {"k_proj.weight": (40, 48), "v_proj.weight": (40, 48), "k_norm.weight": (20,)}
        return {**tensors, **{f"model.layers.4.self_attn.{k}": torch.ones(s) for k, s in keys.items()}}

    files = rewritten(tiny_directory("gemma 4 E2B"), tmp_path, dead)
    same_weights(files, tiny_executor("gemma 4 E2B"))
    assert set(files.left_out.values()) == {"keys and values of a layer that reads another's cache"}
    assert files.reading.not_counted == {
        "keys and values of layers that read another's cache": 2 * (2 * 40 * 48 + 20) + 2 * 48 * 48 + 24
    }


@pytest.mark.parametrize("name", ["gemma 3", "mistral small 3", "llama 4 scout", "gemma 4 26B-A4B"])
def test_the_parts_that_see_are_left_out_and_counted(name: str, tiny_directory: Callable[[str], Path]) -> None:
    files = open_model(find(str(tiny_directory(name))))
    assert set(files.left_out.values()) == {"the part that sees"}
    sizes = [torch.Size(files.checkpoint.tensors[n].shape).numel() for n in files.left_out]
    assert sum(files.reading.not_counted.values()) == sum(sizes)
