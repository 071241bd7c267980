"""GGUF files byte by byte, so that a test can write what no proper writer would."""

import struct
from dataclasses import dataclass
from typing import Any

U8, I8, U16, I16, U32, I32, F32, BOOL, STRING, ARRAY, U64, I64, F64 = range(13)
LETTERS = {U8: "B", I8: "b", U16: "H", I16: "h", U32: "I", I32: "i", F32: "f", BOOL: "B", U64: "Q", I64: "q", F64: "d"}


def u32(value: int) -> bytes:
    return struct.pack("<I", value)


def u64(value: int) -> bytes:
    return struct.pack("<Q", value)


def text(value: str | bytes) -> bytes:
    data = value if isinstance(value, bytes) else value.encode()
    return u64(len(data)) + data


def array(kind: int, items: list[Any]) -> bytes:
    return u32(kind) + u64(len(items)) + b"".join(payload(kind, item) for item in items)


def payload(kind: int, value: Any) -> bytes:
    """The bytes of one value; those of an array are made by `array` and given as they are."""
    if kind == STRING:
        return text(value)
    return value if kind == ARRAY else struct.pack("<" + LETTERS[kind], value)


def key(name: str | bytes, kind: int, value: Any) -> bytes:
    return text(name) + u32(kind) + (value if isinstance(value, bytes) and kind != STRING else payload(kind, value))


@dataclass
class Tensor:
    name: str
    dims: tuple[int, ...]  # as in the file: the contiguous one first
    type: int
    offset: int  # from the start of the data

    def bytes(self) -> bytes:
        dims = b"".join(u64(width) for width in self.dims)
        return text(self.name) + u32(len(self.dims)) + dims + u32(self.type) + u64(self.offset)


def header(
    keys: list[bytes],
    tensors: list[Tensor],
    *,
    magic: bytes = b"GGUF",
    version: int = 3,
    tensor_count: int | None = None,
    key_count: int | None = None,
) -> bytes:
    counts = u64(len(tensors) if tensor_count is None else tensor_count) + u64(
        len(keys) if key_count is None else key_count
    )
    return magic + u32(version) + counts + b"".join(keys) + b"".join(t.bytes() for t in tensors)


def padded(data: bytes, alignment: int = 32) -> bytes:
    return data + bytes(-len(data) % alignment)


def whole(keys: list[bytes], tensors: list[Tensor], data: bytes, *, alignment: int = 32, **counts: Any) -> bytes:
    return padded(header(keys, tensors, **counts), alignment) + data
