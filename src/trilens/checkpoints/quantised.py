"""What the configuration says of quantised weights: what can be read, and what the files alone do not show. All other
methods are refused by name."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from trilens.errors import UnsupportedModel
from trilens.files import bad, shown

SPOKEN = {"aqlm": "AQLM", "hqq": "HQQ", "eetq": "EETQ", "vptq": "VPTQ", "quip": "QuIP#", "torchao": "torchao"}
# Endings of names that belong to a matrix of codes. One that is left over has lost its codes.
ENDINGS = tuple(
    ".qweight .qzeros .g_idx .weight_packed .weight_scale_2 .weight_global_scale .weight_zero_point .weight_g_idx .SCB "
    ".absmax .quant_map .nested_absmax .nested_quant_map .pre_quant_scale".split()
)
COMPRESSED = (
    "pack-quantized",
    "int-quantized",
    "naive-quantized",
    "float-quantized",
    "nvfp4-pack-quantized",
    "mxfp4-pack-quantized",
    "mixed-precision",
    "dense",
)
COMPRESSED_WEIGHTS = (("int", 2), ("int", 4), ("int", 8), ("float", 4), ("float", 8))
FP8_FORMATS = ("e4m3", "float8_e4m3fn")
READ = "GPTQ, AWQ, compressed-tensors, ModelOpt, bitsandbytes, MLX, FP8, MXFP4 or NVFP4"


@dataclass(frozen=True)
class Rules:
    """What a configuration says of quantised tensors, and their own shapes and names do not.

    block        rows, columns that share an FP8 scale
    group        columns of a group; None: not stated
    groups       the same for single modules (MLX)
    symmetric    GPTQ: every zero is in the middle
    asymmetric   compressed-tensors: every matrix has zeros of its own
    ordered      GPTQ: columns have an order of their own
    zero_offset  GPTQ: what the stored zeros are short of
    mlx          the tensors are mlx-lm's
    """

    block: tuple[int, int] = (128, 128)
    group: int | None = None
    groups: Mapping[str, int] = field(default_factory=dict)
    symmetric: bool = False
    asymmetric: bool = False
    ordered: bool = True
    zero_offset: int = 1
    mlx: bool = False


def read_rules(config: Mapping[str, Any], path: Path) -> Rules:
    """The rules of a config.json. Raises UnsupportedModel, naming the method, for those that cannot be read."""
    quantisation = quantisation_of(config)
    if not quantisation:
        return Rules()
    method, block = method_of(quantisation), fp8_block_size(config, path)
    if method in ("", "mlx") and "group_size" in quantisation:
        return _mlx(quantisation, path)
    group = _group(quantisation, path)
    match method:
        case "mxfp4" | "bitsandbytes" | "nvfp4" | "":
            return Rules(block, group)
        case "fp8" | "fbgemm_fp8":
            if quantisation.get("fmt", "e4m3") not in FP8_FORMATS:
                raise _refused(path, f"FP8 of the format {shown(str(quantisation['fmt']))}")
            return Rules(block, group)
        case "compressed-tensors":
            _refuse_compressed(quantisation, path)
            zeros = [weights.get("symmetric") is False for weights in _weights(quantisation)]
            return Rules(block, group, asymmetric=bool(zeros) and all(zeros))
        case "gptq" | "auto-round" | "auto_round" | "intel/auto-round":
            return _gptq(quantisation, method, group, path)
        case "awq":
            if str(quantisation.get("version", "gemm")).lower() != "gemm":
                raise _refused(path, f"AWQ of the version {shown(str(quantisation['version']))}")
            _check_bits(quantisation, "AWQ", (4,), path)
            return Rules(block, group)
        case _:
            pass
    if method.startswith("modelopt"):
        algorithm = str(quantisation.get("quant_algo", "NVFP4")).upper()
        if not algorithm.startswith(("NVFP4", "FP8", "MIXED", "MXFP4", "W4A16_NVFP4")) or "AWQ" in algorithm:
            raise _refused(path, f"{shown(algorithm)} of NVIDIA ModelOpt")
        return Rules(block, group)
    raise _refused(path, SPOKEN.get(method) or f"the method {shown(method)}")


def method_of(quantisation: Mapping[str, Any]) -> str:
    """quant_method in small letters; empty where nothing says it, as in MLX's own configurations."""
    method = str(quantisation.get("quant_method", "")).lower()
    if not method and (quantisation.get("load_in_4bit") or quantisation.get("load_in_8bit")):
        return "bitsandbytes"
    return method


def _gptq(quantisation: Mapping[str, Any], method: str, group: int | None, path: Path) -> Rules:
    """auto-round writes GPTQ's layout too, with the zeros of its first version or its second."""
    form = str(quantisation.get("checkpoint_format") or quantisation.get("packing_format") or "gptq").lower()
    _check_bits(quantisation, "GPTQ" if method == "gptq" else "auto-round", (2, 4, 8), path)
    first = ("gptq", "auto_round:auto_gptq", "auto_round:gptq")
    second = ("gptq_v2", "auto_round", "auto_round:gptqmodel")
    others = ("auto_round:auto_awq", "auto_round:llm_compressor", "auto_round:awq")
    if form not in (*first, *second, *others):
        raise _refused(path, f"{'GPTQ' if method == 'gptq' else 'auto-round'} of the format {shown(form)}")
    return Rules(
        group=group,
        symmetric=quantisation.get("sym") is True,
        ordered=quantisation.get("desc_act") is not False and method == "gptq",
        zero_offset=int(form in first),
    )


def _mlx(quantisation: Mapping[str, Any], path: Path) -> Rules:
    if quantisation.get("mode", "affine") not in ("affine", "mxfp4"):
        raise _refused(path, f"MLX of the mode {shown(str(quantisation['mode']))}")
    for part in (quantisation, *(of for of in quantisation.values() if isinstance(of, Mapping))):
        _check_bits(part, "MLX", (2, 3, 4, 5, 6, 8), path)
    own = {name: _group(of, path) for name, of in quantisation.items() if isinstance(of, Mapping)}
    groups = {name: group for name, group in own.items() if group is not None}
    return Rules(group=_group(quantisation, path), groups=groups, mlx=True)


def _check_bits(quantisation: Mapping[str, Any], method: str, known: tuple[int, ...], path: Path) -> None:
    bits = quantisation.get("bits", 4)
    if type(bits) is not int or bits not in known:
        raise _refused(path, f"{method} with {shown(str(bits))} bits")


def _group(quantisation: Mapping[str, Any], path: Path) -> int | None:
    """group_size, of compressed-tensors that of all its groups; None where it is -1, not stated or not one."""
    stated = [weights.get("group_size") for weights in _weights(quantisation)] or [quantisation.get("group_size")]
    size = stated[0] if all(other == stated[0] for other in stated) else None
    if size is None or size in (-1, 0):
        return None
    if type(size) is not int or size < 1:
        raise bad(path, f"the quantisation's group_size is {shown(str(size))}, expected a whole number")
    return size


def fp8_block_size(config: Mapping[str, Any], path: Path) -> tuple[int, int]:
    """(rows, columns) that share an FP8 scale: `weight_block_size`, else `block_structure`, else 128, 128."""
    quantisation = quantisation_of(config) or {}
    size = quantisation.get("weight_block_size")
    for weights in _weights(quantisation):
        size = weights.get("block_structure") or size
    if size is None:
        return 128, 128
    if not isinstance(size, list) or len(size) != 2 or any(type(width) is not int or width < 1 for width in size):
        raise bad(path, f"the quantisation's block size is {shown(str(size))}, expected two whole numbers")
    return size[0], size[1]


def refuse_left_over(names: Iterable[str], path: Path) -> None:
    """Raises UnsupportedModel if a tensor's name shows a quantisation whose layout was not found."""
    for name in names:
        if name.endswith(ENDINGS):
            raise _refused(path, f"a method of an unknown layout (it has a tensor {shown(name)} without its codes)")


def quantisation_of(config: Mapping[str, Any]) -> Mapping[str, Any] | None:
    """The quantisation part of a config.json; multimodal models keep it with their text model's."""
    text = config.get("text_config")
    for part in (config, text if isinstance(text, Mapping) else {}):
        for key in ("quantization_config", "compression_config", "quantization"):
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


def _refuse_compressed(quantisation: Mapping[str, Any], path: Path) -> None:
    groups = quantisation.get("config_groups")
    own = (
        [group.get("format") for group in groups.values() if isinstance(group, Mapping)]
        if isinstance(groups, Mapping)
        else []
    )
    for form in (quantisation.get("format"), *own):
        if form is not None and form not in COMPRESSED:
            raise _refused(path, f"compressed-tensors of the format {shown(str(form))}")
    for weights in _weights(quantisation):
        kind = (weights.get("type", "int"), weights.get("num_bits"))
        if kind not in COMPRESSED_WEIGHTS:
            raise _refused(path, f"compressed-tensors with weights of {shown(f'{kind[1]} bits, {kind[0]}')}")
    sparsity = quantisation.get("sparsity_config")
    if isinstance(sparsity, Mapping) and sparsity.get("format", "dense") != "dense":
        raise _refused(path, "compressed-tensors with sparse weights")
    if quantisation.get("transform_config"):
        raise _refused(path, "compressed-tensors with transformed (rotated) weights")


def _refused(path: Path, method: str) -> UnsupportedModel:
    return UnsupportedModel(
        f"{path}: the weights are quantised by {method}, which trilens cannot read;"
        f" take the unquantised model, one in {READ}, or a GGUF file"
    )
