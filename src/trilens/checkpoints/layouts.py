"""How quantised safetensors files spread one matrix over several tensors. A layout is recognised by the tensors' names,
shapes and types; the configuration adds only what they do not say (`quantised.Rules`).

For a matrix X.weight [N, K] with G groups of columns; all words are filled from their lowest bits:

    compressed-tensors, pack-quantized   X.weight_packed I32 [N, K b / 32], X.weight_scale [N, G] or [N, 1] or [1],
                                         X.weight_zero_point I32 [N b / 32, G], X.weight_g_idx [K], X.weight_shape [2]
    compressed-tensors, int-quantized    X.weight I8 [N, K], X.weight_scale and X.weight_zero_point likewise, not packed
    compressed-tensors, NVFP4            X.weight_packed U8 [N, K / 2], X.weight_scale F8_E4M3 [N, K / 16],
                                         X.weight_global_scale [1], by which the scales are divided
    compressed-tensors, MXFP4            X.weight_packed U8 [N, K / 2], X.weight_scale U8 [N, K / 32], powers of two
    ModelOpt, NVFP4                      X.weight U8 [..., N, K / 2], X.weight_scale F8_E4M3 [..., N, K / 16],
                                         X.weight_scale_2 [] or [...], by which the scales are multiplied
    GPTQ                                 X.qweight I32 [K b / 32, N], X.qzeros I32 [G, N b / 32] (one less than the zero
                                         in its first version), X.scales [G, N], X.g_idx [K]
    AWQ, gemm                            X.qweight I32 [K, N / 8], X.qzeros I32 [G, N / 8], X.scales [G, N]; the eight
                                         rows of a word in the order 0, 2, 4, 6, 1, 3, 5, 7
    MLX, affine                          X.weight U32 [..., N, K b / 32], X.scales, X.biases [..., N, G]
    MLX, mxfp4                           X.weight U32 [..., N, K / 8], X.scales U8 [..., N, K / 32]
    bitsandbytes, 4 bits                 X.weight U8 [N K / 2, 1], the first value of a byte in its high bits;
                                         X.weight.absmax, quant_map and quant_state, and nested_absmax and
                                         nested_quant_map where absmax is quantised itself
    bitsandbytes, 8 bits                 X.weight I8 [N, K], X.SCB [N], 127 times the scale
    gpt-oss                              X_blocks U8 [..., N, K / 32, 16], X_scales U8 [..., N, K / 32]
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from math import gcd, prod
from typing import Any

from trilens.checkpoints.checkpoint import StoredTensor
from trilens.checkpoints.coded_types import CODED
from trilens.checkpoints.quantised import Rules
from trilens.errors import BadCheckpoint
from trilens.files import bad, shown

SCALES = ("F32", "F16", "BF16")
WORDS = ("I32", "U32")
Raw = Callable[[StoredTensor], bytearray]


@dataclass(frozen=True)
class CodedTensor:
    """One matrix, or a stack of them, [..., N, K]. `parts`: what each of its tensors is -> its name in the file;
    `group`: columns (of bitsandbytes: values) that share a scale; `offset`: what the file's zeros are short of."""

    name: str
    shape: tuple[int, ...]
    type: str
    layout: str
    group: int
    parts: Mapping[str, str]
    beside: tuple[str, ...] = ()
    offset: int = 0
    in_order: bool = True
    nested: tuple[int, float] = (0, 0.0)

    @property
    def bits(self) -> int:
        return CODED[self.type].bits


@dataclass
class _Found:
    """The tensors around one tensor of codes, and the faults that they can have."""

    stored: Mapping[str, StoredTensor]
    codes: StoredTensor
    base: str
    parts: dict[str, str] = field(default_factory=dict)

    def part(self, role: str, name: str, types: tuple[str, ...], *, needed: bool = False) -> StoredTensor | None:
        there = needed or self.base + name in self.stored
        return self.needed(role, name, types) if there else None

    def needed(self, role: str, name: str, types: tuple[str, ...]) -> StoredTensor:
        tensor = self.stored.get(self.base + name)
        if tensor is None:
            raise bad(self.codes.file, f"tensor {shown(self.codes.name)} has no {shown(self.base + name)} beside it")
        if tensor.type not in types:
            raise self.misfit(tensor)
        self.parts[role] = tensor.name
        return tensor

    def misfit(self, tensor: StoredTensor) -> BadCheckpoint:
        codes = self.codes
        return bad(
            tensor.file,
            f"{shown(tensor.name)} of {tensor.type} {list(tensor.shape)} does not fit"
            f" {shown(codes.name)} of {codes.type} {list(codes.shape)}",
        )

    def unread(self, fault: str) -> BadCheckpoint:
        return bad(self.codes.file, f"tensor {shown(self.codes.name)} {fault}")

    def group(self, scales: StoredTensor, groups: int, columns: int, stated: int | None) -> int:
        """Columns of a group: what the configuration says where it fits, else an equal share."""
        if groups < 1 or columns < 1:
            raise self.misfit(scales)
        if groups == 1:
            return columns
        if stated is not None and stated > 0 and -(-columns // stated) == groups:
            return stated
        if columns % groups:
            raise self.misfit(scales)
        return columns // groups

    def of_rows(self, scales: StoredTensor, rows: int) -> int:
        """How many groups the scales are for, where they are [N, G], [N] or one."""
        shape = scales.shape
        if prod(shape) == 1:
            return 1
        if shape == (rows,):
            return 1
        if len(shape) != 2 or shape[0] != rows:
            raise self.misfit(scales)
        return shape[1]

    def coded(self, shape: tuple[int, ...], kind: str, layout: str, group: int, **more: Any) -> CodedTensor:
        if kind not in CODED:
            raise self.unread(f"has codes that are not supported ({kind}); expected 2, 3, 4, 5, 6 or 8 bits")
        if min(shape) < 1:
            raise self.misfit(self.codes)
        name = more.pop("name", self.base + ".weight")
        if name in self.stored and name != self.codes.name:
            raise self.unread(f"and {shown(name)} are the same matrix")
        return CodedTensor(name, shape, kind, layout, group, {"codes": self.codes.name, **self.parts}, **more)


def find_coded(stored: Mapping[str, StoredTensor], rules: Rules, raw: Raw) -> dict[str, CodedTensor]:
    """Every matrix of codes by its name. `raw` reads a small tensor, such as a shape.

    Raises BadCheckpoint, naming the tensor, for parts that are missing or do not fit each other.
    """
    found: dict[str, CodedTensor] = {}
    for name, tensor in stored.items():
        coded = _coded(stored, tensor, name, rules, raw)
        if coded is not None:
            if coded.name in found:
                raise bad(
                    tensor.file, f"tensor {shown(name)} and {shown(found[coded.name].parts['codes'])} are the same"
                )
            found[coded.name] = coded
    return found


def _coded(
    stored: Mapping[str, StoredTensor], tensor: StoredTensor, name: str, rules: Rules, raw: Raw
) -> CodedTensor | None:
    if name.endswith(".qweight"):
        return _columns(_Found(stored, tensor, name.removesuffix(".qweight")), rules)
    if name.endswith(".weight_packed"):
        return _compressed(_Found(stored, tensor, name.removesuffix(".weight_packed")), rules, raw)
    if name.endswith("_blocks") and (scales := stored.get(name.removesuffix("_blocks") + "_scales")) is not None:
        if (tensor.type, scales.type) == ("U8", "U8"):
            return _gpt_oss(_Found(stored, tensor, name.removesuffix("_blocks")))
        return None
    state = next(
        (
            f".quant_state.bitsandbytes__{k}"
            for k in ("nf4", "fp4")
            if name + f".quant_state.bitsandbytes__{k}" in stored
        ),
        None,
    )
    if state is not None:
        return _bitsandbytes(_Found(stored, tensor, name), state, raw)
    if not name.endswith(".weight"):
        return None
    at = _Found(stored, tensor, name.removesuffix(".weight"))
    if tensor.type == "I8":
        return _bytes(at, rules)
    if tensor.type == "U32":
        return _mlx(at, rules)
    if tensor.type == "U8" and (at.base + ".weight_scale_2" in stored or at.base + ".weight_scale" in stored):
        return _nvfp4(at, "modelopt", ".weight_scale_2")
    return None


def _scattered(kind: str, group: int, columns: int, ordered: bool = False) -> str:
    """The type, where 32 columns share a scale or not. One group is in order whatever its order says."""
    bits = kind.partition("_")[0]
    whole = group % 32 == 0 or group >= columns
    return kind if whole and not (ordered and group < columns) else f"{bits}_SCATTERED"


def _columns(at: _Found, rules: Rules) -> CodedTensor:
    """GPTQ and AWQ: both have a column of the file for each row of the matrix."""
    codes, zeros = at.codes, at.needed("zeros", ".qzeros", WORDS)
    scales = at.needed("scales", ".scales", SCALES)
    if codes.type not in WORDS or len(codes.shape) != 2 or len(scales.shape) != 2:
        raise at.misfit(scales)
    groups, rows = scales.shape
    if len(zeros.shape) != 2 or zeros.shape[0] != groups or rows < 1 or zeros.shape[1] * 32 % rows:
        raise at.misfit(zeros)
    bits = zeros.shape[1] * 32 // rows
    if bits not in (2, 3, 4, 8):
        raise at.misfit(zeros)
    if codes.shape[1] * 8 == rows and bits == 4:
        columns = codes.shape[0]
        group = at.group(scales, groups, columns, rules.group)
        return at.coded((rows, columns), _scattered("INT4_ZERO", group, columns), "awq", group)
    if codes.shape[1] != rows or codes.shape[0] * 32 % bits:
        raise at.misfit(codes)
    if bits == 3:
        raise at.unread("is GPTQ with 3 bits, whose words trilens does not read; take one of 4 or 8 bits")
    columns = codes.shape[0] * 32 // bits
    group = at.group(scales, groups, columns, rules.group)
    order = at.part("order", ".g_idx", ("I32", "I64"))
    if order is not None and order.shape != (columns,):
        raise at.misfit(order)
    ordered = rules.ordered and order is not None
    kind = f"INT{bits}" if rules.symmetric else f"INT{bits}_ZERO"
    kind = _scattered(kind, group, columns, ordered)
    in_order = not ordered or groups == 1
    return at.coded((rows, columns), kind, "gptq", group, offset=rules.zero_offset, in_order=in_order)


def _compressed(at: _Found, rules: Rules, raw: Raw) -> CodedTensor:
    codes = at.codes
    if codes.type == "U8":
        scale = at.needed("scales", ".weight_scale", ("F8_E4M3", "U8", "F8_E8M0"))
        if scale.type == "F8_E4M3":
            return _nvfp4(at, "compressed", ".weight_global_scale")
        return _powers(at, scale, 2)
    if codes.type not in WORDS or len(codes.shape) != 2:
        raise at.unread(f"of {codes.type} {list(codes.shape)} is not a matrix of 32-bit words")
    scales = at.needed("scales", ".weight_scale", SCALES)
    size = at.needed("size", ".weight_shape", ("I64", "I32"))
    if size.shape != (2,):
        raise at.misfit(size)
    width = size.nbytes // 2
    data = bytes(raw(size))
    rows, columns = (int.from_bytes(data[i * width : (i + 1) * width], "little", signed=True) for i in range(2))
    words = codes.shape[1]
    bits = next((b for b in (2, 4, 8) if columns > 0 and -(-columns * b // 32) == words), None)
    if rows != codes.shape[0] or bits is None:
        raise at.unread(
            f"has {codes.shape[0]} x {words} words, which are no {rows} x {columns} codes of 2, 4 or 8 bits"
        )
    groups = at.of_rows(scales, rows)
    zeros = at.part("zeros", ".weight_zero_point", (*WORDS, "I8"), needed=rules.asymmetric)
    if zeros is not None:
        packed = zeros.type in WORDS
        if zeros.shape not in ((-(-rows * bits // 32), groups),) if packed else prod(zeros.shape) != rows * groups:
            raise at.misfit(zeros)
    order = at.part("order", ".weight_g_idx", ("I32", "I64"))
    if order is not None and order.shape != (columns,):
        raise at.misfit(order)
    group = at.group(scales, groups, columns, rules.group)
    kind = _scattered(f"INT{bits}" if zeros is None else f"INT{bits}_ZERO", group, columns, order is not None)
    beside = _beside(at, ".input_global_scale", ".input_scale", ".input_zero_point", ".output_scale")
    return at.coded((rows, columns), kind, "packed", group, beside=beside, in_order=order is None or groups == 1)


def _bytes(at: _Found, rules: Rules) -> CodedTensor | None:
    """A byte for each code: bitsandbytes' LLM.int8 and compressed-tensors."""
    codes = at.codes
    if len(codes.shape) != 2:
        return None
    rows, columns = codes.shape
    if at.base + ".SCB" in at.stored:
        scales = at.needed("scales", ".SCB", SCALES)
        if scales.shape not in ((rows,), (rows, 1)):
            raise at.misfit(scales)
        return at.coded((rows, columns), "INT8", "scb", columns, beside=_beside(at, ".weight_format"))
    scales = at.needed("scales", ".weight_scale", SCALES)
    groups = at.of_rows(scales, rows)
    zeros = at.part("zeros", ".weight_zero_point", ("I8",), needed=rules.asymmetric)
    if zeros is not None and zeros.shape != scales.shape:
        raise at.misfit(zeros)
    group = at.group(scales, groups, columns, rules.group)
    kind = _scattered("INT8" if zeros is None else "INT8_ZERO", group, columns)
    beside = _beside(at, ".input_scale", ".input_zero_point", ".output_scale")
    return at.coded((rows, columns), kind, "bytes", group, beside=beside)


def _mlx(at: _Found, rules: Rules) -> CodedTensor | None:
    """No other publisher has whole numbers of 32 bits for a weight."""
    codes = at.codes
    if len(codes.shape) < 2:
        return None
    scales = at.needed("scales", ".scales", (*SCALES, "U8"))
    if scales.shape[:-1] != codes.shape[:-1] or not scales.shape or scales.shape[-1] < 1:
        raise at.misfit(scales)
    if scales.type == "U8":
        return _powers(at, scales, 8)
    minima = at.needed("minima", ".biases", SCALES)
    if minima.shape != scales.shape:
        raise at.misfit(minima)
    group = rules.groups.get(at.base, rules.group)
    if group is None:
        raise at.unread("is MLX's, but the configuration has no quantization with a group_size; download it again")
    columns = scales.shape[-1] * group
    if codes.shape[-1] * 32 % columns:
        raise at.misfit(scales)
    kind = _scattered(f"INT{codes.shape[-1] * 32 // columns}_MIN", group, columns)
    return at.coded((*codes.shape[:-1], columns), kind, "mlx", group)


def _nvfp4(at: _Found, layout: str, factor: str) -> CodedTensor:
    codes = at.codes
    scales = at.needed("scales", ".weight_scale", ("F8_E4M3",))
    if len(codes.shape) < 2 or scales.shape != (*codes.shape[:-1], codes.shape[-1] // 8) or codes.shape[-1] % 8:
        raise at.misfit(scales)
    factors = at.needed("factor", factor, ("F32",))
    if prod(factors.shape) not in (1, prod(codes.shape[:-2])):
        raise at.misfit(factors)
    beside = _beside(at, ".input_global_scale", ".input_scale")
    return at.coded((*codes.shape[:-1], 2 * codes.shape[-1]), "NVFP4", f"nvfp4 {layout}", 16, beside=beside)


def _powers(at: _Found, scales: StoredTensor, in_a_unit: int) -> CodedTensor:
    """MXFP4 with a power of two for 32 columns; `in_a_unit`: codes of one number of the file."""
    codes = at.codes
    columns = codes.shape[-1] * in_a_unit if codes.shape else 0
    if len(codes.shape) < 2 or columns % 32 or scales.shape != (*codes.shape[:-1], columns // 32):
        raise at.misfit(scales)
    return at.coded((*codes.shape[:-1], columns), "MXFP4", "mxfp4", 32, beside=_beside(at, ".input_scale"))


def _gpt_oss(at: _Found) -> CodedTensor:
    codes, scales = at.codes, at.needed("scales", "_scales", ("U8",))
    if codes.shape != (*scales.shape, 16) or len(scales.shape) < 2:
        raise at.misfit(scales)
    if at.base in at.stored:
        raise bad(codes.file, f"tensor {shown(at.base)} is there both as itself and as MXFP4 blocks")
    return at.coded((*scales.shape[:-1], scales.shape[-1] * 32), "MXFP4", "mxfp4", 32, name=at.base)


def _bitsandbytes(at: _Found, state: str, raw: Raw) -> CodedTensor:
    codes, about = at.codes, at.needed("state", state, ("U8",))
    try:
        said = json.loads(bytes(raw(about)))
        shape = tuple(int(n) for n in said["shape"])
        block, nested = int(said["blocksize"]), (0, 0.0)
        if "nested_blocksize" in said:
            nested = (int(said["nested_blocksize"]), float(said["nested_offset"]))
    except (ValueError, KeyError, TypeError, RecursionError, OverflowError):
        raise bad(about.file, f"tensor {shown(about.name)} is not the state of a quantised matrix") from None
    if (
        len(shape) != 2
        or len(codes.shape) != 2
        or codes.type != "U8"
        or min(*shape, block) < 1
        or shape[1] % 2
        or nested[0] < 0
    ):
        raise at.misfit(about)
    if 2 * prod(codes.shape) != prod(shape):
        raise at.misfit(about)
    blocks = -(-prod(shape) // block)
    scales = at.needed("scales", ".absmax", ("U8",) if nested[0] else SCALES)
    levels = at.needed("levels", ".quant_map", ("F32",))
    if scales.shape != (blocks,) or levels.shape != (16,):
        raise at.misfit(scales if scales.shape != (blocks,) else levels)
    if nested[0]:
        outer = at.needed("nested_scales", ".nested_absmax", SCALES)
        table = at.needed("nested_levels", ".nested_quant_map", ("F32",))
        if outer.shape != (-(-blocks // nested[0]),) or table.shape != (256,):
            raise at.misfit(outer if table.shape == (256,) else table)
    kind = _scattered("NF4" if state.endswith("nf4") else "FP4", gcd(block, shape[1]), shape[1] + 1)
    return at.coded(shape, kind, "bitsandbytes", block, name=at.base, nested=nested)


def _beside(at: _Found, *names: str) -> tuple[str, ...]:
    """Tensors that only say how an engine rounds activations, and the parts that nobody needs."""
    return tuple(at.base + name for name in names if at.base + name in at.stored)
