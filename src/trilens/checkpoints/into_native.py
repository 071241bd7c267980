"""A checked checkpoint -> the native executor: each matrix packed from the file's own blocks while they are read."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from math import prod
from typing import TYPE_CHECKING, Any, cast

import numpy as np

from trilens.checkpoints.changes import Change, HeadRows, RowChange
from trilens.checkpoints.coded_types import CODED
from trilens.checkpoints.in_memory import packed_types, parameters_in_memory
from trilens.checkpoints.load import ModelFiles
from trilens.checkpoints.sound import ALL_ZERO, fault_of_blocks, says_something
from trilens.decoder.weights import Parameter
from trilens.errors import BadCheckpoint
from trilens.spec.choice import without_choice

if TYPE_CHECKING:
    from trilens.checkpoints.gguf import GgufFile
    from trilens.checkpoints.packed import OpenedForm, PackedForm
    from trilens.checkpoints.safetensors import SafetensorsCheckpoint
    from trilens.executors.adapter import Adapter
    from trilens.executors.native.executor import NativeExecutor, Rows, Weight

PIECE = 8 << 20  # bytes of the file that are handled at a time


def native_executor(
    files: ModelFiles,
    progress: Callable[[int, int], None] | None = None,
    quantise: str | None = None,
    adapters: Iterable[Adapter] = (),
    packed: PackedForm | None = None,
    opened: OpenedForm | None = None,
    **options: Any,
) -> NativeExecutor:
    """`progress` is called with (bytes read, bytes in all) after each parameter; `quantise` "8bit" or "4bit" makes
    unquantised matrices smaller (routers stay as they are); `packed` is where the packed form is to be kept, and
    `opened` what was found there; `options` are NativeExecutor's."""
    from trilens.checkpoints.packed import Unusable

    if opened is not None and packed is not None:
        try:
            executor = _executor(files, progress, quantise, adapters, opened, options)
            opened.checked()
            return executor
        except Unusable as problem:
            packed.remove(str(problem))
    executor = _executor(files, progress, quantise, adapters, None, options)
    if packed is not None:
        packed.write(executor.packed, progress)
    return executor


def _executor(
    files: ModelFiles,
    progress: Callable[[int, int], None] | None,
    quantise: str | None,
    adapters: Iterable[Adapter],
    opened: OpenedForm | None,
    options: Mapping[str, Any],
) -> NativeExecutor:
    from trilens.executors.native.executor import NativeExecutor, Packed

    spec = without_choice(files.spec)
    types = packed_types(files, quantise)
    wanted, beside = parameters_in_memory(files)
    total = sum(map(files.bytes_of, [*wanted, *beside]))
    done = 0

    def weights(some: Iterable[Parameter]) -> Iterator[tuple[Parameter, Weight]]:
        nonlocal done
        for p in some:
            if p not in types:
                yield p, files.read(p)
            elif opened is not None:
                yield p, opened.matrix(p.name)
            else:
                own, stored = types[p], files.type_of(p)
                coded = files.coded(files.stored[p.name].tensors[0]) is not None
                in_blocks = own == CODED[stored].native and p.shape[-1] % 32 == 0 if coded else own == stored
                if files.as_rows(p) and in_blocks and not stored.endswith("_SCATTERED"):
                    yield p, Packed(own, _as_stored(files, p, own))
                else:
                    yield p, Packed(own, _from_values(files, p, own))
            done += files.bytes_of(p)
            if progress is not None:
                progress(done, total)

    prediction = weights(beside) if beside else None
    executor = NativeExecutor(spec, weights(wanted), adapters=adapters, prediction=prediction, **options)
    held = {p.name: (files.type_of(p), own) for p, own in types.items()}
    executor.converted = {name: f"{stored} to {own}" for name, (stored, own) in held.items() if own != stored}
    executor.longest = None if spec is files.spec else spec.context
    return executor


def _as_stored(files: ModelFiles, p: Parameter, kind: str) -> Iterator[Rows]:
    """The parameter's rows in our order as blocks of `kind`, made of the file's own codes, a few MB at a time."""
    from trilens.executors.native.executor import Rows

    stored = files.stored[p.name]
    ours = p.shape[-2]
    for n, name in enumerate(stored.tensors):
        tensor = files.checkpoint.tensors[name]
        matrices, rows = prod(tensor.shape[:-2]), tensor.shape[-2]
        row_bytes = tensor.nbytes // (matrices * rows)
        blocks = _blocks_of(files, name, kind, row_bytes)
        order = _order(files, p, name, stored.change, matrices, rows)
        piece_bytes = PIECE if files.coded(name) is None else PIECE // 4  # unpacked codes take a byte each
        step = max(8, piece_bytes // row_bytes // 8 * 8)
        for which in range(len(order) if order is not None else matrices):
            zero = says_something(p)
            for first in range(0, ours, step):
                wanted = np.arange(first, min(ours, first + step))
                wanted = which * rows + wanted if order is None else order[which, wanted]
                low, high = int(wanted.min()), int(wanted.max()) + 1
                piece, says_nothing = blocks(low, high)
                if order is not None:
                    piece = piece[wanted - low]
                if (fault := fault_of_blocks(piece, kind)) is not None:
                    raise files.damaged(name, fault)
                zero = zero and says_nothing
                yield Rows(n if stored.stacked else which, first, piece)
            if zero:
                raise files.damaged(name, ALL_ZERO)


def _blocks_of(
    files: ModelFiles, name: str, kind: str, row_bytes: int
) -> Callable[[int, int], tuple[np.ndarray, bool]]:
    """(first, stop) -> those rows of a tensor as blocks, and whether all of them are zero."""
    coded = files.coded(name)
    if kind == "F8_E4M3":
        return blocks_of_bytes(cast("SafetensorsCheckpoint", files.checkpoint), name, row_bytes)
    if coded is None and kind == "NVFP4":
        return nvfp4_blocks(cast("GgufFile", files.checkpoint), name, row_bytes)
    if coded is None:

        def blocks(first: int, stop: int) -> tuple[np.ndarray, bool]:
            raw = files.checkpoint.raw(name, first * row_bytes, stop * row_bytes)
            piece = np.frombuffer(raw, np.uint8).reshape(stop - first, row_bytes)
            return piece, not piece.any()

        return blocks
    from trilens.checkpoints.codes import Reader, rows_of

    rows = rows_of(cast(Reader, files.checkpoint), coded)

    def blocks_of_codes(first: int, stop: int) -> tuple[np.ndarray, bool]:
        codes = rows(first, stop)
        return codes.blocks(kind), codes.all_zero()

    return blocks_of_codes


def blocks_of_bytes(
    checkpoint: SafetensorsCheckpoint, name: str, columns: int
) -> Callable[[int, int], tuple[np.ndarray, bool]]:
    """(first, stop) -> those rows of an FP8 matrix as blocks of 32 columns (the factor that 128 columns share, then the
    bytes), and whether all of them are zero."""
    factors = checkpoint.factors(name)

    def blocks(first: int, stop: int) -> tuple[np.ndarray, bool]:
        raw = checkpoint.raw(name, first * columns, stop * columns)
        codes = np.frombuffer(raw, np.uint8).reshape(stop - first, -1, 32)
        of_128 = factors(first, stop)
        of_32 = np.repeat(of_128, 4, axis=1)[:, : columns // 32, None]
        zero = not of_128.any() or not (codes & np.uint8(127)).any()
        return np.concatenate((of_32.view(np.uint8), codes), -1).reshape(stop - first, -1), zero

    return blocks


def nvfp4_blocks(checkpoint: GgufFile, name: str, row_bytes: int) -> Callable[[int, int], tuple[np.ndarray, bool]]:
    """The same for NVFP4 of a GGUF file.

    A block of 64 columns there has four scales, then four times 8 bytes: the codes of columns 0 to 7, and of 8 to 15.
    A block in memory has a factor, two scales and the codes of 32 columns.
    """
    from trilens.checkpoints.codes import nibbles

    shape = checkpoint.tensors[name].shape
    factors = np.broadcast_to(checkpoint.factors(name), max(1, prod(shape[:-2])))

    def blocks(first: int, stop: int) -> tuple[np.ndarray, bool]:
        raw = checkpoint.raw(name, first * row_bytes, stop * row_bytes)
        whole = np.frombuffer(raw, np.uint8).reshape(stop - first, -1, 36)
        scales = whole[..., :4] & np.uint8(127)
        scales[scales == 127] = 0  # as ggml reads what would be no number
        pairs = whole[..., 4:].reshape(stop - first, -1, 8)
        codes = np.concatenate((pairs & np.uint8(15), pairs >> np.uint8(4)), -1).reshape(stop - first, -1, 32)
        of_rows = factors[np.arange(first, stop) // shape[-2]]
        factor = np.broadcast_to(of_rows[:, None, None], (*codes.shape[:2], 1)).astype("<f4")
        zero = not (of_rows.any() and scales.any() and (codes & np.uint8(7)).any())
        parts = (factor.view(np.uint8), scales.reshape(stop - first, -1, 2), nibbles(codes))
        return np.concatenate(parts, -1).reshape(stop - first, -1), zero

    return blocks


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
