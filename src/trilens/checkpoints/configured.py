"""How each parameter will be stored in a model's files, worked out from its configuration alone.

Lists of modules that stay as they are (`ignore`, `modules_to_not_convert`, ...) are matched against the module's name
in the files, with every prefix that a text decoder has.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase
from math import prod
from pathlib import Path
from typing import Any

from trilens.checkpoints import names
from trilens.checkpoints.load import rows_for
from trilens.checkpoints.quantised import method_of, quantisation_of, read_rules
from trilens.decoder.weights import Parameter
from trilens.errors import UnsupportedModel
from trilens.spec.model import ModelSpec

IGNORED = ("ignore", "exclude_modules", "modules_to_not_convert", "llm_int8_skip_modules")
PREFIXES = ("model.", *names.TEXT_PREFIXES)
SHARED = 64  # values that share one of bitsandbytes' scales; 256 of those share another where they are quantised


@dataclass(frozen=True)
class Form:
    """How matrices are quantised: the type (as in `CODED`, or FP8), columns of a group (None: the whole row; 0: all of
    the matrix), and the bytes beside the codes: of each group of each row, of each column, of each matrix."""

    type: str
    bits: int
    group: int | None
    per_group: float = 0.0
    per_column: int = 0
    per_matrix: int = 0
    high: int = 1  # rows that share a scale

    def bytes_of(self, p: Parameter) -> int:
        *stack, rows, columns = p.shape
        groups = 1 if not self.group else -(-columns // self.group)
        scales = self.per_group * groups * (1 if self.group == 0 else -(-rows // self.high))
        one = -(-columns * self.bits // 8) * rows + scales + self.per_column * columns + self.per_matrix
        return round(prod(stack) * one)


@dataclass(frozen=True)
class Configured:
    """`method`: for people. `form_of`: the form of a parameter, None where it is not quantised."""

    method: str
    forms: Mapping[str, Form]

    def form_of(self, p: Parameter) -> Form | None:
        return self.forms.get(p.name)


def configured(config: Mapping[str, Any], spec: ModelSpec, every: Iterable[Parameter], width: int) -> Configured | None:
    """None for a model that is not quantised. `width`: bytes of an unquantised number, and of scales.

    Raises UnsupportedModel for a method that is not read.
    """
    quantisation = quantisation_of(config)
    if quantisation is None:
        return None
    rules, method = read_rules(config, Path("config.json")), method_of(quantisation)
    forms: dict[str, Form] = {}
    named = rules.mlx or any(quantisation.get(key) for key in (*IGNORED, "dynamic", "config_groups"))
    matrices = [p for p in every if len(p.shape) > 1 and not p.name.endswith((".bias", "_taps"))]
    for p in matrices:
        modules = module_names(spec, p, mlx=rules.mlx) if named else []
        if any(_ignored(quantisation, method, module) for module in modules):
            continue
        form: Form | None = None
        if rules.mlx:
            form = _mlx(quantisation, modules)
        elif _linear(p, quantisation, method):
            form = _form(quantisation, method, modules, p, rules.block, width)
        if form is not None:
            forms[p.name] = form
    return Configured(method or "mlx", forms)


def module_names(spec: ModelSpec, p: Parameter, *, mlx: bool) -> list[str]:
    """What the files may call the parameter's module, with every prefix; of experts the first."""
    found = []
    for theirs in rows_for(spec, p):
        name = theirs.removesuffix(".weight").replace("{e}", "0")
        if ".switch_mlp." in name and not mlx:  # only mlx-lm's files call experts so
            continue
        rest = name.removeprefix("model.")
        found += [prefix + rest for prefix in PREFIXES] if name.startswith("model.") else [name]
    return found


def _ignored(quantisation: Mapping[str, Any], method: str, module: str) -> bool:
    for key in IGNORED:
        listed = quantisation.get(key)
        for pattern in listed if isinstance(listed, list) else ():
            if isinstance(pattern, str) and _matches(pattern, module, method):
                return True
    dynamic = quantisation.get("dynamic")  # GPTQModel's: -: leaves a module out
    left_out = [name[2:] for name in dynamic if name.startswith("-:")] if isinstance(dynamic, Mapping) else []
    return quantisation.get(module) is False or any(_searched(pattern, module) for pattern in left_out)


def _matches(pattern: str, module: str, method: str) -> bool:
    if pattern.startswith("re:"):
        return _searched(pattern[3:], module)
    if "*" in pattern:
        return fnmatchcase(module, pattern)
    if method in ("awq", "bitsandbytes", "fp8", "mxfp4"):
        return re.search(rf"(^|\.){re.escape(pattern)}(\.|$)", module) is not None
    return module == pattern or module.startswith(pattern + ".")


def _searched(pattern: str, module: str) -> bool:
    try:
        return re.match(pattern, module) is not None
    except re.error:
        return False


def _linear(p: Parameter, quantisation: Mapping[str, Any], method: str) -> bool:
    """Whether the tools quantise it: matrices of the layers but for routers, and some of them the head."""
    if p.name == "head":
        return _head(quantisation, method)
    return p.name.startswith("layers.") and not p.name.endswith("router")


def _head(quantisation: Mapping[str, Any], method: str) -> bool:
    return method == "compressed-tensors" or method.startswith("modelopt") or quantisation.get("lm_head") is True


def _form(
    q: Mapping[str, Any], method: str, modules: list[str], p: Parameter, block: tuple[int, int], width: int
) -> Form | None:
    group = q.get("group_size", 128)
    size = group if type(group) is int and group > 0 else None
    match method:
        case "fp8" | "fbgemm_fp8":
            if q.get("weight_block_size") is None:
                return Form("F8_E4M3", 8, None, 4)
            high, wide = block
            return _fp8(wide, 4, high)
        case "mxfp4":
            return Form("MXFP4", 4, 32, 1) if ".experts." in p.name and len(p.shape) == 3 else None
        case "gptq" | "auto-round" | "auto_round" | "intel/auto-round":
            if "awq" in str(q.get("packing_format", "")):
                return _awq(size)
            bits = q.get("bits", 4)
            ordered = method == "gptq" and q.get("desc_act") is not False  # as read_rules takes it
            scattered = size is not None and (size % 32 != 0 or (ordered and size < p.shape[-1]))
            kind = f"INT{bits}_SCATTERED" if scattered else f"INT{bits}" if q.get("sym") is True else f"INT{bits}_ZERO"
            return Form(kind, bits, size, 2 + bits / 8, per_column=4 if method == "gptq" else 0)
        case "awq":
            return _awq(size)
        case "bitsandbytes":
            if q.get("load_in_8bit"):
                return Form("INT8", 8, None, 4)
            kind = str(q.get("bnb_4bit_quant_type", "fp4")).upper()
            nested = q.get("bnb_4bit_use_double_quant") is True
            return Form(kind, 4, SHARED, 1 + 4 / 256 if nested else 4, per_matrix=4 * (16 + 256 * nested))
        case _:
            pass
    groups = q.get("config_groups")
    if isinstance(groups, Mapping) and groups:
        return _of_groups(groups, str(q.get("format")), modules, width)
    algorithm = str(q.get("quant_algo", "NVFP4")).upper()
    return Form("NVFP4", 4, 16, 1, per_matrix=8) if "FP4" in algorithm else Form("F8_E4M3", 8, 0, 8)


def _fp8(columns: int, per_group: float, high: int) -> Form:
    """A scale for each block: as `scales.shared_by_128` has it."""
    return Form("F8_E4M3" if columns % 128 == 0 else "F8", 8, columns, per_group, high=high)


def _awq(size: int | None) -> Form:
    return Form("INT4_SCATTERED" if size is not None and size % 32 else "INT4_ZERO", 4, size, 2.5)


def _of_groups(groups: Mapping[str, Any], form: str, modules: list[str], width: int) -> Form | None:
    """compressed-tensors and ModelOpt: the group that names the module, else the one for every linear layer."""
    chosen: Mapping[str, Any] | None = None
    for group in groups.values():
        if not isinstance(group, Mapping):
            continue
        stated = group.get("targets")
        targets = [t for t in stated if isinstance(t, str)] if isinstance(stated, list) else []
        if any(_matches(target, module, "") for target in targets for module in modules):
            chosen = group
            break
        if "Linear" in targets and chosen is None:
            chosen = group
    weights = None if chosen is None else chosen.get("weights")
    if not isinstance(weights, Mapping):
        return None
    bits, size = weights.get("num_bits", 8), weights.get("group_size")
    size = size if type(size) is int and size > 0 else None
    if weights.get("type") == "float":
        if bits == 8:
            structure = weights.get("block_structure")
            if structure:
                return _fp8(structure[1], width, structure[0])
            return Form("F8_E4M3", 8, None, width) if weights.get("strategy") == "channel" else Form("F8_E4M3", 8, 0, 8)
        return Form("MXFP4", 4, 32, 1) if size == 32 else Form("NVFP4", 4, 16, 1, per_matrix=8)
    packed = (chosen or {}).get("format", form) == "pack-quantized"
    symmetric = weights.get("symmetric") is not False
    if weights.get("strategy") == "tensor":
        return Form(f"INT{bits}" if symmetric else f"INT{bits}_ZERO", bits, 0, width)
    ordered = weights.get("actorder") == "group" and size is not None
    scattered = size is not None and (size % 32 != 0 or ordered)
    kind = f"INT{bits}_SCATTERED" if scattered else f"INT{bits}" if symmetric else f"INT{bits}_ZERO"
    zeros = 0 if symmetric else bits / 8 if packed else 1
    return Form(kind, bits if packed else 8, size, width + zeros, 4 if ordered else 0, 16 if packed else 0)


def _mlx(quantisation: Mapping[str, Any], modules: list[str]) -> Form:
    own = next((quantisation[m] for m in modules if isinstance(quantisation.get(m), Mapping)), quantisation)
    bits, group = own.get("bits", 4), own.get("group_size", 64)
    if own.get("mode", quantisation.get("mode")) == "mxfp4":
        return Form("MXFP4", 4, 32, 1)
    if type(bits) is not int or type(group) is not int or group < 1:
        raise UnsupportedModel("config.json: its quantization has no whole numbers bits and group_size")
    return Form(f"INT{bits}_MIN" if group % 32 == 0 else f"INT{bits}_SCATTERED", bits, group, 4)
