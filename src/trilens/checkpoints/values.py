"""Stored bytes -> float32. The only file of this room whose functions need numpy (and gguf's own dequantisation)."""

from functools import cache
from typing import TYPE_CHECKING

from trilens.checkpoints.ggml_types import BY_NAME

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

PLAIN = {
    "F64": "<f8",
    "F32": "<f4",
    "F16": "<f2",
    "I64": "<i8",
    "I32": "<i4",
    "I16": "<i2",
    "I8": "i1",
    "U64": "<u8",
    "U32": "<u4",
    "U16": "<u2",
    "U8": "u1",
    "BOOL": "?",
}
BYTE_FLOATS = ("F8_E4M3", "F8_E5M2", "F8_E8M0")

CHUNK = 2**18  # values turned at once: the working arrays stay near the processor's cache


def can_read(type: str) -> bool:
    """Whether `dequantise` knows `type`."""
    return type in PLAIN or type in BYTE_FLOATS or (type in BY_NAME and BY_NAME[type].readable)


def dequantise(data: bytearray, type: str, shape: tuple[int, ...]) -> "NDArray[np.float32]":
    """The values of `data`, written as `type` (`can_read`), in a fresh float32 array of `shape`.

    `data` holds exactly the bytes of `shape`; peak memory is the result and a few MB. Integers beyond 2^24 and F64
    are rounded to the nearest float32.
    """
    import numpy as np

    out = np.empty(shape, np.float32)
    flat = out.reshape(-1)
    with np.errstate(all="ignore"):  # inf and NaN are data here, not an accident
        if type in PLAIN:
            flat[:] = np.frombuffer(data, PLAIN[type])
        elif type in BYTE_FLOATS:
            np.take(_byte_floats(type), np.frombuffer(data, np.uint8), out=flat)
        elif type == "BF16":
            flat.view(np.uint32)[:] = np.frombuffer(data, "<u2")
            flat.view(np.uint32)[:] <<= 16
        else:
            _dequantise_blocks(data, type, flat)
    return out


def _dequantise_blocks(data: bytearray, type: str, out: "NDArray[np.float32]") -> None:
    import numpy as np
    from gguf.constants import GGMLQuantizationType
    from gguf.quants import dequantize

    kind = BY_NAME[type]
    number = GGMLQuantizationType[type]
    step = CHUNK // kind.block
    for first in range(0, len(data) // kind.nbytes, step):
        blocks = np.frombuffer(memoryview(data)[first * kind.nbytes : (first + step) * kind.nbytes], np.uint8)
        # One row: gguf works through 16 rows at a time in Python, and blocks know nothing of rows.
        out[first * kind.block : (first + step) * kind.block] = dequantize(blocks[None, :], number)[0]


@cache
def _byte_floats(type: str) -> "NDArray[np.float32]":
    """The value of each of the 256 bytes, float32 [256]. OCP 8-bit floating point specification, tables 1 and 2;
    E8M0 is a power of two, the scale of the OCP microscaling formats."""
    import numpy as np

    byte = np.arange(256, dtype=np.uint16)
    if type == "F8_E5M2":
        return (byte << 8).view(np.float16).astype(np.float32)  # the upper half of a float16
    if type == "F8_E8M0":
        power = np.ldexp(np.float32(1), byte.astype(np.int32) - 127).astype(np.float32)
        power[255] = np.nan
        return power
    exponent, mantissa = (byte >> 3 & 15).astype(np.int32), (byte & 7).astype(np.float32)
    normal = np.ldexp(1 + mantissa / 8, exponent - 7)
    value = np.where(exponent == 0, np.ldexp(mantissa / 8, -6), normal)
    value[[0x7F, 0xFF]] = np.nan  # E4M3 has no infinities
    return np.copysign(value, np.where(byte < 128, 1, -1)).astype(np.float32)
