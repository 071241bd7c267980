"""Codes as the layouts of `layouts.py` have them -> rows of codes -> values, or blocks of a type in memory.

Each layout has one function: (reader, tensor) -> rows of codes. Layouts whose rows lie one behind the other are read
a few at a time; GPTQ and AWQ have columns instead, so their packed matrix is read as a whole. Blocks are made of the
codes themselves: nothing is rounded but what a 16-bit scale or minimum cannot hold (docs/quantisation.md).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from math import prod
from typing import Any, Protocol, cast

import numpy as np
from numpy.typing import NDArray

from trilens.checkpoints.checkpoint import StoredTensor
from trilens.checkpoints.coded_types import CODED
from trilens.checkpoints.layouts import CodedTensor
from trilens.checkpoints.values import dequantise
from trilens.files import bad, shown

Floats = NDArray[np.float32]
Bytes = NDArray[np.uint8]

VALUES = 2**18  # values made at a time
AWQ_PLACES = (0, 4, 1, 5, 2, 6, 3, 7)  # of the eight rows in a word
LARGEST = {"NF4": 112, "FP4": 120}  # what the native tables have for 1


class Reader(Protocol):
    """Where the parts of a coded tensor are read."""

    def part(self, name: str) -> StoredTensor: ...
    def raw(self, name: str, start: int = 0, stop: int | None = None) -> bytearray: ...


@dataclass(frozen=True)
class Codes:
    """Rows of codes, [n, K], and what they stand for: factor * scale * (level - zero) + minimum. Scales, zeros and
    minima are [n, groups]; `group` columns share one, or those of an equal `order`, [K]. `scale_bytes`: the scales as
    the file has them, where they are bytes; `factor`: [n]."""

    kind: str
    codes: Bytes
    group: int
    scales: Floats
    zeros: Floats | None = None
    minima: Floats | None = None
    order: NDArray[np.int64] | None = None
    scale_bytes: Bytes | None = None
    factor: Floats | None = None

    @property
    def levels(self) -> Floats:
        coded = CODED[self.kind]
        if coded.levels is not None:
            return np.array(coded.levels, np.float32)
        plain = np.arange(1 << coded.bits, dtype=np.float32)
        return plain if self.zeros is not None or self.minima is not None else plain - np.float32(1 << coded.bits - 1)

    def values(self) -> Floats:
        """float32 [n, K]."""
        out = np.take(self.levels, self.codes)
        columns = out.shape[1]
        at = np.arange(columns) // self.group if self.order is None else self.order
        step = max(1, VALUES // max(columns, 1))
        with np.errstate(all="ignore"):
            for first in range(0, len(out), step):
                rows = slice(first, first + step)
                if self.zeros is not None:
                    out[rows] -= self.zeros[rows][:, at]
                scales = self.scales[rows] if self.factor is None else self.scales[rows] * self.factor[rows, None]
                out[rows] *= scales[:, at]
                if self.minima is not None:
                    out[rows] += self.minima[rows][:, at]
        return out

    def blocks(self, native: str) -> Bytes:
        """Rows of the type's blocks, uint8 [n, bytes]. K and `group` are multiples of 32."""
        n, columns = self.codes.shape
        codes = self.codes.reshape(n, -1, 32)

        def each(of_groups: Any, unit: int = 32) -> Any:  # [n, K / unit, 1]
            whole = np.repeat(of_groups, max(1, min(self.group, columns) // unit), axis=1)
            return whole[:, : columns // unit, None]

        def halves(of_groups: Floats) -> Bytes:
            wide: Bytes = each(of_groups.astype(np.float16)).view(np.uint8)
            return wide

        centre = 1 << CODED[self.kind].bits - 1
        with np.errstate(all="ignore"):
            match native:
                case "Q4_0":
                    parts = [halves(self.scales), nibbles(codes + np.uint8(8 - centre))]
                case "Q8_0":
                    parts = [halves(self.scales), codes - np.uint8(centre)]
                case "Q4_1":
                    parts = [halves(self.scales), halves(self._minima()), nibbles(codes)]
                case "Q8_MIN":
                    parts = [halves(self.scales), halves(self._minima()), codes - np.uint8(128)]
                case "NF4" | "FP4":
                    parts = [halves(self.scales / np.float32(LARGEST[native])), nibbles(codes)]
                case "NVFP4":
                    of_rows = cast(Floats, self.factor)[:, None, None]
                    factor = np.broadcast_to(of_rows, (n, columns // 32, 1)).astype("<f4")
                    parts = [factor.view(np.uint8), cast(Bytes, self.scale_bytes).reshape(n, -1, 2), nibbles(codes)]
                case "MXFP4":
                    parts = [cast(Bytes, self.scale_bytes)[..., None], nibbles(codes)]
                case _:
                    raise ValueError(f"codes of {self.kind} have no blocks of {native}")
        return np.concatenate(parts, -1).reshape(n, -1)

    def all_zero(self) -> bool:
        if not self.scales.any() or (self.factor is not None and not self.factor.any()):
            return self.minima is None or not self.minima.any()
        if self.zeros is not None or self.minima is not None:
            return False
        return not self.levels[self.codes[:1]].any() and not self.levels[self.codes].any()

    def _minima(self) -> Floats:
        return -self.scales * cast(Floats, self.zeros) if self.minima is None else self.minima


def nibbles(codes: Bytes) -> Bytes:
    """[..., 32] codes of four bits: the i-th and the (i + 16)-th in one byte."""
    return codes[..., :16] | codes[..., 16:] << np.uint8(4)


Rows = Callable[[int, int], Codes]


def rows_of(reader: Reader, tensor: CodedTensor) -> Rows:
    """(first, stop) -> the codes of those rows, matrices of a stack one behind the other.

    Raises BadCheckpoint, naming the tensor, for scales that are not finite and numbers that cannot be.
    """
    return LAYOUTS[tensor.layout.partition(" ")[0]](_Parts(reader, tensor), tensor)


def values_of(reader: Reader, tensor: CodedTensor) -> Floats:
    """All values, float32 in the tensor's shape."""
    out = np.empty(tensor.shape, np.float32)
    flat, rows = out.reshape(-1, tensor.shape[-1]), rows_of(reader, tensor)
    step = max(8, 4 * VALUES // tensor.shape[-1] // 8 * 8)
    for first in range(0, len(flat), step):
        stop = min(len(flat), first + step)
        flat[first:stop] = rows(first, stop).values()
    return out


@dataclass(frozen=True)
class _Parts:
    reader: Reader
    tensor: CodedTensor

    def stored(self, role: str) -> StoredTensor:
        return self.reader.part(self.tensor.parts[role])

    def __contains__(self, role: str) -> bool:
        return role in self.tensor.parts

    def rows(self, role: str, first: int, stop: int, row_bytes: int) -> Bytes:
        """Bytes of rows, [n, row_bytes]."""
        raw = self.reader.raw(self.tensor.parts[role], first * row_bytes, stop * row_bytes)
        return np.frombuffer(raw, np.uint8).reshape(stop - first, row_bytes)

    def array(self, role: str, kind: str) -> Any:
        stored = self.stored(role)
        return np.frombuffer(self.reader.raw(stored.name), kind).reshape(stored.shape)

    def floats(self, role: str) -> Floats:
        """Finite floats, in the shape of the file."""
        stored = self.stored(role)
        values = dequantise(self.reader.raw(stored.name), stored.type, stored.shape)
        if not np.isfinite(values).all():
            raise self.bad(role, "contains a value that is not finite (NaN or infinity)")
        return values

    def grid(self, role: str, rows: int) -> Floats:
        """Floats as [rows, groups], from [N, G], [N], or one for all."""
        values = self.floats(role)
        if values.size == 1:
            return np.broadcast_to(values.reshape(1, 1), (rows, 1))
        return values.reshape(rows, -1)

    def order(self, groups: int) -> NDArray[np.int64] | None:
        """The group of each column, where columns have an order of their own. Where the configuration says that they
        have none, the file must agree."""
        if "order" not in self:
            return None
        stored = self.stored("order")
        order: NDArray[np.int64] = self.array("order", "<i8" if stored.type == "I64" else "<i4").astype(np.int64)
        if order.min() < 0 or order.max() >= groups:
            raise self.bad("order", f"contains a group outside 0 to {groups - 1}")
        if not self.tensor.in_order:
            return order
        if not np.array_equal(order, np.arange(len(order)) // self.tensor.group):
            raise self.bad("order", "reorders columns, but the configuration's desc_act is false")
        return None

    def bad(self, role: str, fault: str) -> Exception:
        stored = self.stored(role)
        return bad(stored.file, f"tensor {shown(stored.name)} {fault}; the file is damaged, download it again")


def _gptq(parts: _Parts, t: CodedTensor) -> Rows:
    words = parts.array("codes", "<u4")
    scales = parts.floats("scales")
    zeros = unpacked(parts.array("zeros", "<u4"), t.bits)
    zeros = zeros + np.uint8(t.offset) & np.uint8((1 << t.bits) - 1)
    order = parts.order(len(scales))
    symmetric = t.type == f"INT{t.bits}"
    if symmetric and (zeros != 1 << t.bits - 1).any():
        raise parts.bad("zeros", f"has other zeros than {1 << t.bits - 1}, but the configuration's sym is true")

    def rows(first: int, stop: int) -> Codes:
        codes = unpacked(np.ascontiguousarray(words[:, first:stop].T), t.bits)
        own = None if symmetric else np.ascontiguousarray(zeros[:, first:stop].T, np.float32)
        return Codes(t.type, codes, t.group, np.ascontiguousarray(scales[:, first:stop].T), own, order=order)

    return rows


def _awq(parts: _Parts, t: CodedTensor) -> Rows:
    words = parts.array("codes", "<u4")
    scales = parts.floats("scales")
    zeros = _awq_order(parts.array("zeros", "<u4"))

    def rows(first: int, stop: int) -> Codes:
        whole = first // 8 * 8
        codes = _awq_order(words[:, first // 8 : -(-stop // 8)])[:, first - whole : stop - whole]
        own = np.ascontiguousarray(zeros[:, first:stop].T, np.float32)
        return Codes(t.type, np.ascontiguousarray(codes.T), t.group, np.ascontiguousarray(scales[:, first:stop].T), own)

    return rows


def _awq_order(words: NDArray[np.uint32]) -> Bytes:
    codes = unpacked(np.ascontiguousarray(words), 4).reshape(len(words), -1, 8)
    return codes[..., AWQ_PLACES].reshape(len(words), -1)


def _packed(parts: _Parts, t: CodedTensor) -> Rows:
    n, columns = t.shape
    row_bytes = parts.stored("codes").nbytes // n
    scales = parts.grid("scales", n)
    groups = scales.shape[1]
    zeros, order = None, parts.order(groups)
    if "zeros" in parts and parts.stored("zeros").type == "I8":
        zeros = _signed_zeros(parts, n, 1 << t.bits - 1)
    elif "zeros" in parts:
        words = np.ascontiguousarray(parts.array("zeros", "<u4").T)
        zeros = np.ascontiguousarray(unpacked(words, t.bits)[:, :n].T, np.float32)

    def rows(first: int, stop: int) -> Codes:
        codes = unpacked(parts.rows("codes", first, stop, row_bytes).view("<u4"), t.bits)[:, :columns]
        own = None if zeros is None else zeros[first:stop]
        return Codes(t.type, codes, t.group, scales[first:stop], own, order=order)

    return rows


def _bytes(parts: _Parts, t: CodedTensor) -> Rows:
    n, columns = t.shape
    scales = parts.grid("scales", n)
    if t.layout == "scb":
        scales = scales / np.float32(127)
    zeros = _signed_zeros(parts, n, 128) if "zeros" in parts else None

    def rows(first: int, stop: int) -> Codes:
        codes = parts.rows("codes", first, stop, columns) ^ np.uint8(128)
        return Codes(t.type, codes, t.group, scales[first:stop], None if zeros is None else zeros[first:stop])

    return rows


def _signed_zeros(parts: _Parts, n: int, centre: int) -> Floats:
    zeros = parts.array("zeros", "i1").astype(np.float32) + np.float32(centre)
    return np.broadcast_to(zeros.reshape(1, 1), (n, 1)) if zeros.size == 1 else zeros.reshape(n, -1)


def _mlx(parts: _Parts, t: CodedTensor) -> Rows:
    row_bytes = t.shape[-1] * t.bits // 8
    scales, minima = (parts.floats(role).reshape(prod(t.shape[:-1]), -1) for role in ("scales", "minima"))

    def rows(first: int, stop: int) -> Codes:
        codes = unpacked(parts.rows("codes", first, stop, row_bytes).view("<u4"), t.bits)
        return Codes(t.type, codes, t.group, scales[first:stop], minima=minima[first:stop])

    return rows


def _nvfp4(parts: _Parts, t: CodedTensor) -> Rows:
    columns = t.shape[-1]
    scales = parts.floats("scales").reshape(-1, columns // 16)
    factor = parts.floats("factor").reshape(-1)
    if t.layout == "nvfp4 compressed":
        if not factor.all():
            raise parts.bad("factor", "is zero, and the scales are divided by it")
        factor = np.float32(1) / factor
    factor = np.repeat(factor, len(scales) // len(factor))
    if (parts.array("scales", "u1") > 127).any():
        raise parts.bad("scales", "contains a scale below zero")
    stored = parts.array("scales", "u1").reshape(-1, columns // 16)

    def rows(first: int, stop: int) -> Codes:
        codes = _pairs(parts.rows("codes", first, stop, columns // 2))
        own = slice(first, stop)
        return Codes("NVFP4", codes, 16, scales[own], scale_bytes=stored[own], factor=factor[own])

    return rows


def _mxfp4(parts: _Parts, t: CodedTensor) -> Rows:
    columns = t.shape[-1]
    stored = parts.array("scales", "u1").reshape(-1, columns // 32)
    if (stored == 255).any():
        raise parts.bad("scales", "contains a value that is not finite (NaN or infinity)")

    def rows(first: int, stop: int) -> Codes:
        codes = _pairs(parts.rows("codes", first, stop, columns // 2))
        powers = np.ldexp(np.float32(1), stored[first:stop].astype(np.int32) - 127).astype(np.float32)
        return Codes("MXFP4", codes, 32, powers, scale_bytes=stored[first:stop])

    return rows


def _bitsandbytes(parts: _Parts, t: CodedTensor) -> Rows:
    columns, (nested, offset) = t.shape[1], t.nested
    if not np.allclose(parts.floats("levels"), CODED[t.type].levels or 0, atol=1e-4):
        raise parts.bad("levels", f"has other levels than {t.type.partition('_')[0]}")
    if nested:
        outer = np.repeat(parts.floats("nested_scales"), nested)
        codes = parts.array("scales", "u1")
        scales = parts.floats("nested_levels")[codes] * outer[: len(codes)] + np.float32(offset)
    else:
        scales = parts.floats("scales")
    unit = np.gcd(t.group, columns)

    def rows(first: int, stop: int) -> Codes:
        codes = _pairs(parts.rows("codes", first, stop, columns // 2), high_first=True)
        starts = np.arange(first, stop)[:, None] * columns + np.arange(0, columns, unit)
        return Codes(t.type, codes, int(unit), scales[starts // t.group])

    return rows


LAYOUTS: dict[str, Callable[[_Parts, CodedTensor], Rows]] = {
    "gptq": _gptq,
    "awq": _awq,
    "packed": _packed,
    "bytes": _bytes,
    "scb": _bytes,
    "mlx": _mlx,
    "nvfp4": _nvfp4,
    "mxfp4": _mxfp4,
    "bitsandbytes": _bitsandbytes,
}


def _pairs(packed: Bytes, *, high_first: bool = False) -> Bytes:
    """[n, K / 2] bytes of two codes -> [n, K]."""
    low, high = packed & np.uint8(15), packed >> np.uint8(4)
    return np.stack((high, low) if high_first else (low, high), -1).reshape(len(packed), -1)


def unpacked(words: Any, bits: int) -> Bytes:
    """[n, W] little-endian 32-bit words, contiguous, filled from their lowest bits -> [n, 32 W / bits] codes."""
    data = words.view(np.uint8)
    match bits:
        case 8:
            codes: Bytes = data
        case 4:
            codes = _pairs(data)
        case 2:
            codes = np.stack([data >> np.uint8(2 * i) & np.uint8(3) for i in range(4)], -1).reshape(len(data), -1)
        case _:
            single = np.unpackbits(data, axis=1, bitorder="little").reshape(len(data), -1, bits)
            codes = np.packbits(single, axis=2, bitorder="little").reshape(len(data), -1)
    return codes
