"""Which quantised checkpoints can be read, from the configuration. All others are refused with the method's name."""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from trilens.errors import UnsupportedModel
from trilens.files import bad, shown

SPOKEN = {
    "awq": "AWQ",
    "gptq": "GPTQ",
    "nvfp4": "NVFP4",
    "bitsandbytes": "bitsandbytes",
}
# Tensor names that only one way of quantising writes.
NAMES = {
    ".g_idx": "GPTQ",
    ".qzeros": "AWQ or GPTQ",
    ".qweight": "AWQ or GPTQ",
    ".weight_scale_2": "NVFP4",
    ".weight_global_scale": "NVFP4",
    ".weight_packed": "compressed-tensors with packed integers",
    ".SCB": "bitsandbytes",
    ".absmax": "bitsandbytes",
    ".quant_map": "bitsandbytes",
}


def refuse_unsupported_quantisation(config: Mapping[str, Any], path: Path) -> None:
    """Raises UnsupportedModel, naming the method, unless `config` (a config.json) is unquantised, FP8 or MXFP4."""
    quantisation = _quantisation(config)
    if not quantisation:
        return
    method = str(quantisation.get("quant_method", "")).lower()
    if not method and (quantisation.get("load_in_4bit") or quantisation.get("load_in_8bit")):
        method = "bitsandbytes"
    if method == "mxfp4":
        return
    if method == "fp8":
        if quantisation.get("fmt", "e4m3") != "e4m3":
            raise _refused(path, f"FP8 of the format {shown(str(quantisation['fmt']))}")
        fp8_block_size(config, path)
        return
    if method == "compressed-tensors":
        _refuse_unless_fp8(quantisation, path)
        return
    if method.startswith("modelopt"):
        raise _refused(path, f"{shown(str(quantisation.get('quant_algo', 'NVFP4')))} of NVIDIA ModelOpt")
    raise _refused(path, SPOKEN.get(method) or f"the method {shown(method)}")


def fp8_block_size(config: Mapping[str, Any], path: Path) -> tuple[int, int]:
    """(rows, columns) that share an FP8 scale: `weight_block_size`, else `block_structure`, else 128, 128."""
    quantisation = _quantisation(config) or {}
    size = quantisation.get("weight_block_size")
    for weights in _weights(quantisation):
        size = weights.get("block_structure") or size
    if size is None:
        return 128, 128
    if not isinstance(size, list) or len(size) != 2 or any(type(width) is not int or width < 1 for width in size):
        raise bad(path, f"the quantisation's block size is {shown(str(size))}, expected two whole numbers")
    return size[0], size[1]


def refuse_quantised_names(names: Iterable[str], path: Path) -> None:
    """Raises UnsupportedModel if a tensor's name shows a quantisation that the configuration does not mention."""
    for name in names:
        for end, method in NAMES.items():
            if name.endswith(end):
                raise _refused(path, f"{method} (it has a tensor {shown(name)})")


def _quantisation(config: Mapping[str, Any]) -> Mapping[str, Any] | None:
    """The quantisation part of a config.json; multimodal models keep it with their text model's."""
    text = config.get("text_config")
    for part in (config, text if isinstance(text, Mapping) else {}):
        for key in ("quantization_config", "compression_config"):
            found = part.get(key)
            if isinstance(found, Mapping) and found:
                return found
    return None


def _weights(quantisation: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """How each of compressed-tensors' groups writes its weights."""
    groups = quantisation.get("config_groups")
    if not isinstance(groups, Mapping):
        return []
    found = [group.get("weights") for group in groups.values() if isinstance(group, Mapping)]
    return [weights for weights in found if isinstance(weights, Mapping)]


def _refuse_unless_fp8(quantisation: Mapping[str, Any], path: Path) -> None:
    form = quantisation.get("format")
    weights = _weights(quantisation)
    plain = form in ("float-quantized", "naive-quantized") and weights
    if not plain or any((w.get("num_bits"), w.get("type")) != (8, "float") for w in weights):
        raise _refused(path, f"compressed-tensors of the format {shown(str(form))}")
    sparsity = quantisation.get("sparsity_config")
    if isinstance(sparsity, Mapping) and sparsity.get("format", "dense") != "dense":
        raise _refused(path, "compressed-tensors with sparse weights")
    if quantisation.get("transform_config"):
        raise _refused(path, "compressed-tensors with transformed (rotated) weights")


def _refused(path: Path, method: str) -> UnsupportedModel:
    return UnsupportedModel(
        f"{path}: the weights are quantised by {method}, which trilens cannot read;"
        " take the unquantised model, an FP8 or MXFP4 one, or a GGUF file"
    )
