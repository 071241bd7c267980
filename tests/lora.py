"""Random adapters for tiny models: as files of PEFT and of llama.cpp, and merged into a reference."""

from __future__ import annotations

import copy
import json
import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import torch
from safetensors.torch import save_file
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

Shape = tuple[int, int]  # out, in
SEES = re.compile(r"visual|vision|projector")
STACKED = re.compile(r"\.experts\.|altup_(unembed_)?projections\.")  # matrices that we hold as one


@dataclass(frozen=True)
class Lora:
    """Both matrices of each module, [rank, in] and [out, rank], and what adapter_config.json says."""

    pairs: Mapping[str, tuple[torch.Tensor, torch.Tensor]]
    config: Mapping[str, Any] = field(default_factory=dict)

    def delta(self, module: str) -> torch.Tensor:
        """[out, in]: what is added to a module's matrix."""
        down, up = self.pairs[module]
        last = module.rpartition(".")[2]
        alpha = self.config.get("alpha_pattern", {}).get(last, self.config["lora_alpha"])
        rank = down.shape[0]
        return (up @ down) * (alpha / (math.sqrt(rank) if self.config.get("use_rslora") else rank))

    def save(self, directory: Path, dtype: torch.dtype = torch.float32) -> Path:
        """In PEFT's layout."""
        directory.mkdir(parents=True, exist_ok=True)
        (directory / "adapter_config.json").write_text(json.dumps(self.config))
        tensors = {}
        for module, (down, up) in self.pairs.items():
            tensors[f"base_model.model.{module}.lora_A.weight"] = down.to(dtype)
            tensors[f"base_model.model.{module}.lora_B.weight"] = up.to(dtype)
        save_file(tensors, directory / "adapter_model.safetensors", metadata={"format": "pt"})
        return directory


def matrices(model: PreTrainedModel) -> dict[str, Shape]:
    """The modules of a reference that an adapter may change: all linear ones of the text, but for stacked ones."""
    found = {}
    for name, module in model.named_modules():
        if isinstance(module, torch.nn.Linear | Conv1D) and not STACKED.search(name) and not SEES.search(name):
            out, inner = module.weight.shape if isinstance(module, torch.nn.Linear) else module.weight.shape[::-1]
            found[name] = out, inner
    return found


def lora(
    shapes: Mapping[str, Shape], rank: int | Callable[[str], int] = 4, seed: int = 0, size: float = 0.1, **config: Any
) -> Lora:
    random = torch.Generator().manual_seed(seed)
    pairs = {}
    for name, (out, inner) in shapes.items():
        r = rank if isinstance(rank, int) else rank(name)
        down = torch.randn(r, inner, generator=random) * inner**-0.5
        up = torch.randn(out, r, generator=random) * size
        pairs[name] = down.to(torch.bfloat16).float(), up.to(torch.bfloat16).float()  # exact in every type
    own = {"peft_type": "LORA", "r": rank if isinstance(rank, int) else 1, "lora_alpha": 8, "bias": "none"}
    return Lora(pairs, {**own, "target_modules": sorted({n.rpartition(".")[2] for n in shapes}), **config})


def merged(model: PreTrainedModel, adapter: Lora) -> PreTrainedModel:
    """A copy of the reference with the adapter's products added to its matrices. A tied head gets one of its own."""
    other = copy.deepcopy(model)
    with torch.no_grad():
        for name in adapter.pairs:
            module = other.get_submodule(name)
            delta = adapter.delta(name)
            weight = module.weight + (delta.T if isinstance(module, Conv1D) else delta)
            module.weight = torch.nn.Parameter(weight)
    return other


def save_gguf(
    path: Path,
    arch: str,
    pairs: Mapping[str, tuple[torch.Tensor, torch.Tensor]],
    alpha: float,
    kind: gguf.GGMLQuantizationType = gguf.GGMLQuantizationType.F32,
    **said: str,
) -> Path:
    """As llama.cpp's convert_lora_to_gguf.py writes it; `pairs` by GGUF's names, rows in its order."""
    writer = gguf.GGUFWriter(path, arch)
    stated = {"general.type": "adapter", "adapter.type": "lora", **said}
    for key, value in stated.items():
        writer.add_string(key, value)
    writer.add_float32("adapter.lora.alpha", alpha)
    for name, (down, up) in pairs.items():
        for part, values in (("lora_a", down), ("lora_b", up)):
            stored = gguf.quants.quantize(values.numpy(), kind)
            writer.add_tensor(f"{name}.weight.{part}", np.ascontiguousarray(stored), raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def some(shapes: Mapping[str, Shape], wanted: Sequence[str]) -> dict[str, Shape]:
    """The modules whose names end with one of these."""
    return {name: shape for name, shape in shapes.items() if name.endswith(tuple(wanted))}
