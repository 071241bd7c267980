"""A checked checkpoint -> the native executor: each matrix packed from the file's own blocks while they are read."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

import numpy as np

from trilens.checkpoints.changes import stored_rows
from trilens.checkpoints.ggml_types import BY_NAME
from trilens.checkpoints.load import ModelFiles
from trilens.decoder.weights import Parameter, decoder_weights, parameters

if TYPE_CHECKING:
    from trilens.executors.native.executor import NativeExecutor, Packed, Rows

PIECE = 8 << 20  # bytes of the file that are held at a time
CONVERTED = "Q8_0"  # what has no kernel of its own becomes this


def native_executor(
    files: ModelFiles, progress: Callable[[int, int], None] | None = None, **options: Any
) -> NativeExecutor:
    """`progress` is called with (bytes read, bytes in all) after each parameter; `options` are NativeExecutor's."""
    from trilens.executors.native.executor import NativeExecutor, Packed, matrices, native_types
    from trilens.executors.native.fuse import fuse
    from trilens.executors.native.record import record

    packed = matrices(fuse(record(files.spec)))
    types = native_types()
    wanted = list(parameters(decoder_weights(files.spec)))
    total = sum(map(files.bytes_of, wanted))
    converted: dict[str, str] = {}

    def weights() -> Iterator[tuple[Parameter, Packed | np.ndarray]]:
        done = 0
        for p in wanted:
            if p.name not in packed:
                yield p, files.read(p)
            else:
                kind = files.type_of(p)
                if kind in types and p.shape[-1] % types[kind][0] == 0:
                    yield p, Packed(kind, _as_stored(files, p))
                else:
                    own = CONVERTED if p.shape[-1] % 32 == 0 else "F32"
                    converted[p.name] = f"{kind} to {own}"
                    yield p, Packed(own, _quantised(files, p, own))
            done += files.bytes_of(p)
            if progress is not None:
                progress(done, total)

    executor = NativeExecutor(files.spec, weights(), **options)
    executor.converted = converted
    return executor


def _as_stored(files: ModelFiles, p: Parameter) -> Iterator[Rows]:
    """The parameter's rows, a few MB at a time, in our order."""
    from trilens.executors.native.executor import Rows

    stored = files.stored[p.name]
    stacked = len(p.shape) == 3
    for n, name in enumerate(stored.tensors):
        tensor = files.checkpoint.tensors[name]
        kind = BY_NAME[tensor.type]
        columns = tensor.shape[-1]
        raw = np.frombuffer(files.checkpoint.raw(name), np.uint8).reshape(-1, columns // kind.block * kind.nbytes)
        order = None if stored.change is None else np.array(stored_rows(stored.change, p.shape[-2]))
        step = max(8, PIECE // raw.shape[1] // 8 * 8)
        matrices = 1 if not stacked or stored.stacked else p.shape[0]
        for which in range(matrices):
            matrix = raw[which * p.shape[-2] : (which + 1) * p.shape[-2]]
            for first in range(0, len(matrix), step):
                some = slice(first, first + step)
                rows = matrix[some] if order is None else matrix[order[some]]
                yield Rows(n if stored.stacked else which, first, rows)


def _quantised(files: ModelFiles, p: Parameter, kind: str) -> Iterator[Rows]:
    from trilens.executors.native.executor import Rows

    values = files.read(p)
    stack = values if values.ndim == 3 else values[None]
    for which, matrix in enumerate(stack):
        rows = matrix if kind == "F32" else quantise_8bit(matrix)
        yield Rows(which, 0, np.ascontiguousarray(rows).view(np.uint8))


def quantise_8bit(values: np.ndarray) -> np.ndarray:
    """[n, columns] float32 -> Q8_0 rows: groups of 32 with the scale (a half) that makes the largest 127."""
    groups = values.reshape(len(values), -1, 32)
    scales = (np.abs(groups).max(-1, keepdims=True) / 127).astype(np.float16)
    wide = scales.astype(np.float32)
    codes = np.rint(np.divide(groups, wide, out=np.zeros_like(groups), where=wide > 0)).clip(-127, 127).astype(np.int8)
    blocks = np.concatenate([scales.view(np.uint8), codes.view(np.uint8)], -1)
    return blocks.reshape(len(values), -1)
