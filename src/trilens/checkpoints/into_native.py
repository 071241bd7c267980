"""A checked checkpoint -> the native executor: each matrix packed from the file's own blocks while they are read."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from math import prod
from typing import TYPE_CHECKING, Any

import numpy as np

from trilens.checkpoints.changes import Change, HeadRows, RowChange
from trilens.checkpoints.load import ModelFiles
from trilens.checkpoints.sound import ALL_ZERO, fault_of_blocks, says_something
from trilens.decoder.weights import Parameter, decoder_weights, parameters
from trilens.errors import BadCheckpoint, UsageError
from trilens.spec.choice import without_choice

if TYPE_CHECKING:
    from trilens.executors.adapter import Adapter
    from trilens.executors.native.executor import NativeExecutor, Packed, Rows

PIECE = 8 << 20  # bytes of the file that are handled at a time
FLOATS = ("F32", "F16", "BF16")
QUANTISE = {None: None, "8bit": "Q8_0", "4bit": "Q4_1"}  # of matrices that the file holds as floats


def native_executor(
    files: ModelFiles,
    progress: Callable[[int, int], None] | None = None,
    quantise: str | None = None,
    adapters: Iterable[Adapter] = (),
    **options: Any,
) -> NativeExecutor:
    """`progress` is called with (bytes read, bytes in all) after each parameter; `quantise` "8bit" or "4bit" makes
    unquantised matrices smaller (routers stay as they are); `options` are NativeExecutor's."""
    from trilens.executors.native.executor import NativeExecutor, Packed, matrices, native_types

    if quantise not in QUANTISE:
        raise UsageError(f"quantise is {quantise!r}; expected '8bit', '4bit' or nothing")
    spec = without_choice(files.spec)  # it runs as far as every position is chosen
    packed = matrices(spec)
    types = native_types()
    wanted = list(parameters(decoder_weights(spec)))
    total = sum(map(files.bytes_of, wanted))
    converted: dict[str, str] = {}

    def weights() -> Iterator[tuple[Parameter, Packed | np.ndarray]]:
        done = 0
        for p in wanted:
            if p.name not in packed:
                yield p, files.read(p)
            else:
                stored = files.type_of(p)
                own = native_type(stored, p, QUANTISE[quantise], types)
                if own == stored and _blocks_as_stored(files, p):
                    yield p, Packed(own, _as_stored(files, p))
                else:
                    if own != stored:
                        converted[p.name] = f"{stored} to {own}"
                    yield p, Packed(own, _from_values(files, p, own))
            done += files.bytes_of(p)
            if progress is not None:
                progress(done, total)

    executor = NativeExecutor(spec, weights(), adapters=adapters, **options)
    executor.converted = converted
    executor.longest = None if spec is files.spec else spec.context
    return executor


def native_type(stored: str, p: Parameter, quantise: str | None, types: dict[str, tuple[int, int]]) -> str:
    """The type in memory of a matrix stored as `stored`: the same, if it has a kernel and `quantise`, a type, is not
    given.
    """
    columns = p.shape[-1]
    if quantise is not None and stored not in types and columns % 32 == 0:
        return quantise
    if quantise is not None and stored in FLOATS and columns % 32 == 0 and not p.name.endswith(".router"):
        return quantise
    if stored in types and columns % types[stored][0] == 0:
        return stored
    if stored.startswith("F8") or columns % 32:
        return "F16"
    return "Q8_0"


def _blocks_as_stored(files: ModelFiles, p: Parameter) -> bool:
    """Whether the parameter's rows are rows of the file (and not its columns, for example), in GGUF's blocks."""
    stored = files.stored[p.name]
    gpt_oss = files.found.kind != "gguf" and files.type_of(p) == "MXFP4"
    return not gpt_oss and (stored.change is None or isinstance(stored.change, RowChange))


def _as_stored(files: ModelFiles, p: Parameter) -> Iterator[Rows]:
    """The parameter's rows in our order, a few MB at a time."""
    from trilens.executors.native.executor import Rows

    stored, kind = files.stored[p.name], files.type_of(p)
    ours = p.shape[-2]
    for n, name in enumerate(stored.tensors):
        tensor = files.checkpoint.tensors[name]
        matrices, rows = prod(tensor.shape[:-2]), tensor.shape[-2]
        row_bytes = tensor.nbytes // (matrices * rows)
        order = _order(files, p, name, stored.change, matrices, rows)
        step = max(8, PIECE // row_bytes // 8 * 8)
        for which in range(len(order) if order is not None else matrices):
            zero = says_something(p)
            for first in range(0, ours, step):
                wanted = np.arange(first, min(ours, first + step))
                wanted = which * rows + wanted if order is None else order[which, wanted]
                low, high = int(wanted.min()), int(wanted.max()) + 1
                raw = files.checkpoint.raw(name, low * row_bytes, high * row_bytes)
                piece = np.frombuffer(raw, np.uint8).reshape(high - low, row_bytes)
                if order is not None:
                    piece = piece[wanted - low]
                if (fault := fault_of_blocks(piece, kind)) is not None:
                    raise files.damaged(name, fault)
                zero = zero and not piece.any()
                yield Rows(n if stored.stacked else which, first, piece)
            if zero:
                raise files.damaged(name, ALL_ZERO)


def _order(
    files: ModelFiles, p: Parameter, name: str, change: Change | None, matrices: int, rows: int
) -> np.ndarray | None:
    """The tensor's row (all its matrices one behind the other) for each row of ours, [matrices of ours, rows]; None
    where they are in order."""
    ours = p.shape[-2]
    order: np.ndarray | None = None
    if isinstance(change, RowChange):
        try:
            order = np.array(change.order(rows))
        except ValueError as problem:
            raise BadCheckpoint(f"{files.checkpoint.path}: {name} {problem}") from None
        if isinstance(change, HeadRows):
            order = order.reshape(change.heads, -1)
        else:
            order = np.arange(matrices)[:, None] * rows + order
    found = rows if order is None else order.shape[1]
    if found != ours:
        raise BadCheckpoint(f"{files.checkpoint.path}: {name} gives {p.name} {found} rows; expected {ours}")
    return order


def _from_values(files: ModelFiles, p: Parameter, kind: str) -> Iterator[Rows]:
    from trilens.executors.native.executor import Rows

    values = files.read(p)
    for which, matrix in enumerate(values if values.ndim == 3 else values[None]):
        step = max(8, PIECE // (4 * matrix.shape[1]) // 8 * 8)
        for first in range(0, len(matrix), step):
            with np.errstate(over="ignore"):
                blocks = to_blocks(matrix[first : first + step], kind)
            if fault_of_blocks(blocks, kind) is not None:
                raise files.damaged(files.stored[p.name].tensors[0], f"contains values that are too large for {kind}")
            yield Rows(which, first, blocks)


def to_blocks(values: np.ndarray, kind: str) -> np.ndarray:
    """[n, columns] float32 -> rows of the type's blocks."""
    from trilens.executors.native.executor import float_rows

    match kind:
        case "F32" | "F16" | "BF16":
            return float_rows(values, kind)
        case "Q8_0":
            return _eight_bits(values)
        case "Q4_1":
            return _four_bits(values)
        case _:
            from gguf import GGMLQuantizationType, quants

            blocks: np.ndarray = quants.quantize(values, GGMLQuantizationType[kind])
            return blocks


def _eight_bits(values: np.ndarray) -> np.ndarray:
    """Groups of 32: a half that makes the largest 127, then the codes."""
    groups = values.reshape(len(values), -1, 32)
    scales = (np.abs(groups).max(-1, keepdims=True) / 127).astype(np.float16)
    codes = _divided(groups, scales.astype(np.float32)).clip(-127, 127).astype(np.int8)
    return np.concatenate([scales.view(np.uint8), codes.view(np.uint8)], -1).reshape(len(values), -1)


def _four_bits(values: np.ndarray) -> np.ndarray:
    """Groups of 32: a scale and a minimum as halves, then codes 0 to 15, the i-th and the (i + 16)-th in one byte."""
    groups = values.reshape(len(values), -1, 32)
    least = groups.min(-1, keepdims=True)
    scales = ((groups.max(-1, keepdims=True) - least) / 15).astype(np.float16)
    minima = least.astype(np.float16)
    wide = groups - minima.astype(np.float32)
    codes = _divided(wide, scales.astype(np.float32)).clip(0, 15).astype(np.uint8)
    both = codes[..., :16] | codes[..., 16:] << 4
    return np.concatenate([scales.view(np.uint8), minima.view(np.uint8), both], -1).reshape(len(values), -1)


def _divided(values: np.ndarray, scales: np.ndarray) -> np.ndarray:
    """Rounded quotients; 0 where the scale is."""
    rounded: np.ndarray = np.rint(np.divide(values, scales, out=np.zeros_like(values), where=scales != 0))
    return rounded
