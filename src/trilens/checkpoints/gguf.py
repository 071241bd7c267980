"""GGUF files, versions 2 and 3: header -> metadata and tensors. Every number is checked before it is used.

    "GGUF" | version u32 | tensor count u64 | key count u64
    key count times:     key string | value type u32 | value
    tensor count times:  name string | dimension count u32 | dimensions u64 | type u32 | offset u64
    padding to general.alignment (32 unless stated) | data, to which the offsets count

The contiguous dimension comes first. A string is its length as u64 and UTF-8; an array is its items' type u32, their
count u64, and the items. All is little endian. A model split into `NAME-00001-of-00003.gguf` and so on is one
checkpoint, whichever part is named.
https://github.com/ggml-org/ggml/blob/master/docs/gguf.md
"""

import re
import struct
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from math import prod
from pathlib import Path
from typing import TYPE_CHECKING, Any, overload

from trilens.checkpoints.checkpoint import StoredTensor, raw_bytes
from trilens.checkpoints.ggml_types import GGML_TYPES, REMOVED
from trilens.checkpoints.opened import OpenFile
from trilens.errors import BadCheckpoint, UnsupportedModel
from trilens.files import bad, shown
from trilens.spec.families.parts import MOST_LAYERS

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

U32, U64 = struct.Struct("<I"), struct.Struct("<Q")
# Value type -> its name and the letter of `struct`; 7 is bool, read as a byte because only 0 and 1 are allowed.
SCALARS = {
    0: ("uint8", "B"),
    1: ("int8", "b"),
    2: ("uint16", "H"),
    3: ("int16", "h"),
    4: ("uint32", "I"),
    5: ("int32", "i"),
    6: ("float32", "f"),
    7: ("bool", "B"),
    10: ("uint64", "Q"),
    11: ("int64", "q"),
    12: ("float64", "d"),
}
BOOL, STRING, ARRAY = 7, 8, 9
READ_AHEAD = 1 << 20  # bytes of the header that are read at once
LONGEST_STRING = 100_000_000  # bytes; chat templates in use have 30,000
DEEPEST = 4  # arrays in arrays; no file in use goes beyond 1

# Numbers for each layer that are parameters of the model. Each becomes a tensor, KEY[layer].
NUMBERS_OF_LAYERS = ("xielu.alpha_p", "xielu.alpha_n")

PART = re.compile(r"(?P<stem>.+)-(?P<number>\d{5})-of-(?P<count>\d{5})\.gguf")


class GgufArray(Sequence[Any]):
    """An array of the metadata: its length is known, its items are read from the file when first asked for.

    Items are int, float, bool, str, or tuples for arrays in arrays. Asking raises BadCheckpoint if a string is not
    UTF-8 or the file has changed meanwhile.
    """

    def __init__(self, path: Path, kind: int, count: int, start: int, end: int) -> None:
        self.path, self.start = path, start  # of its first item
        self._kind, self._count, self._end = kind, count, end
        self._items: tuple[Any, ...] | None = None

    @property
    def item_type(self) -> str:
        """ "uint8", ..., "string" or "array"."""
        return _type_name(self._kind)

    def __len__(self) -> int:
        return self._count

    @overload
    def __getitem__(self, index: int) -> Any: ...
    @overload
    def __getitem__(self, index: slice) -> tuple[Any, ...]: ...
    def __getitem__(self, index: int | slice) -> Any:
        return self._read()[index]

    def __iter__(self) -> Iterator[Any]:
        return iter(self._read())

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Sequence) or isinstance(other, str):
            return NotImplemented
        return len(self) == len(other) and self._read() == tuple(other)

    __hash__ = None  # type: ignore[assignment]  # as for a list

    def __repr__(self) -> str:
        return f"GgufArray({self._count} {self.item_type})"

    def _read(self) -> tuple[Any, ...]:
        if self._items is None:
            file = OpenFile(self.path)
            try:
                data = file.read(self.start, self._end - self.start)
                self._items, _ = _items(data, 0, self._kind, self._count)
            except UnicodeDecodeError:
                raise bad(self.path, "a string in an array of its metadata is not UTF-8; download it again") from None
            except (struct.error, KeyError) as error:
                raise bad(self.path, f"changed while it was being read ({error}); start again") from None
            finally:
                file.close()
        return self._items


def _items(data: bytearray, at: int, kind: int, count: int) -> tuple[tuple[Any, ...], int]:
    """`count` items of type `kind` from position `at`, and the position behind them. The layout was checked before."""
    if kind == STRING:
        texts: list[str] = []
        length_at = U64.unpack_from
        for _ in range(count):
            (length,) = length_at(data, at)
            texts.append(data[at + 8 : at + 8 + length].decode("utf-8"))
            at += 8 + length
        return tuple(texts), at
    if kind == ARRAY:
        arrays: list[tuple[Any, ...]] = []
        for _ in range(count):
            (inner,), (length,) = U32.unpack_from(data, at), U64.unpack_from(data, at + 4)
            items, at = _items(data, at + 12, inner, length)
            arrays.append(items)
        return tuple(arrays), at
    layout = struct.Struct(f"<{count}{SCALARS[kind][1]}")
    numbers = layout.unpack_from(data, at)
    return (tuple(map(bool, numbers)) if kind == BOOL else numbers), at + layout.size


@dataclass(frozen=True)
class GgufFile:
    """A Checkpoint: one GGUF file, or all parts of a split one."""

    path: Path  # of a split file: the first part
    version: int
    alignment: int  # bytes
    metadata: Mapping[str, Any]  # int, float, bool, str or GgufArray; of a split file: the first part's
    tensors: Mapping[str, StoredTensor]
    scales: Mapping[str, StoredTensor]  # of NVFP4 tensors, by the tensor's name: a factor for each of its matrices
    files: Mapping[Path, OpenFile]

    def raw(self, name: str, start: int = 0, stop: int | None = None) -> bytearray:
        return raw_bytes(self.files, self._tensor(name), start, stop)

    def read(self, name: str) -> "NDArray[np.float32]":
        import numpy as np

        from trilens.checkpoints.values import can_read, dequantise

        tensor = self._tensor(name)
        if not can_read(tensor.type):
            raise UnsupportedModel(
                f"{tensor.file}: tensor {shown(name)} is {tensor.type}, a type that trilens cannot read;"
                " choose another quantisation of this model, such as Q4_K_M or Q8_0"
            )
        values = dequantise(self.raw(name), tensor.type, tensor.shape)
        if name in self.scales:
            factors = self.factors(name)
            with np.errstate(all="ignore"):  # what is not finite is found by who uses the values
                values.reshape(len(factors), -1)[...] *= factors[:, None]
        return values

    def factors(self, name: str) -> "NDArray[np.float32]":
        """What the matrices of a tensor are multiplied with, float32 [one, or one for each]."""
        import numpy as np

        from trilens.checkpoints.values import dequantise

        if name not in self.scales:
            return np.ones(1, np.float32)
        scale = self.scales[name]
        return dequantise(raw_bytes(self.files, scale, 0, None), scale.type, scale.shape).reshape(-1)

    def close(self) -> None:
        for file in self.files.values():
            file.close()

    def _tensor(self, name: str) -> StoredTensor:
        if name not in self.tensors:
            raise bad(self.path, f"has no tensor {shown(name)}")
        return self.tensors[name]


def read_gguf(path: Path | str) -> GgufFile:
    """Reads the header of the file, and of its other parts if it is split; no tensor is read yet.

    Raises BadCheckpoint, naming the file and the fault.
    """
    path = Path(path)
    opened = [_read_part(path)]
    try:
        parts = _all_parts(opened)
        tensors: dict[str, StoredTensor] = {}
        for part in parts:
            for name, tensor in part.tensors.items():
                if name in tensors:
                    raise bad(part.file.path, f"tensor {shown(name)} is also in {tensors[name].file.name}")
                tensors[name] = tensor
        promised = parts[0].metadata.get("split.tensors.count", len(tensors))
        if len(parts) > 1 and promised != len(tensors):
            raise bad(parts[0].file.path, f"promises {promised} tensors in all parts, found {len(tensors)}")
        tensors, scales = _apart(tensors | _numbers_of_layers(parts[0].metadata))
    except BaseException:
        for part in opened:
            part.file.close()
        raise
    first = parts[0]
    files = {part.file.path: part.file for part in parts}
    return GgufFile(first.file.path, first.version, first.alignment, first.metadata, tensors, scales, files)


def _apart(tensors: Mapping[str, StoredTensor]) -> tuple[dict[str, StoredTensor], dict[str, StoredTensor]]:
    """(parameters, scales of NVFP4 tensors by the tensor's name).

    `X.weight` has `X.scale` or `X.weight.scale`: a number for each of its matrices, or one for all. Tensors called
    `input_scale` are for engines that round activations.
    """
    parameters, scales = dict(tensors), dict[str, StoredTensor]()
    for name, tensor in tensors.items():
        if tensor.type != "NVFP4":
            continue
        for stem in (name.removesuffix(".weight"), name):
            parameters.pop(stem + ".input_scale", None)
            scale = parameters.pop(stem + ".scale", None)
            if scale is None:
                continue
            if scale.type not in ("F32", "F16", "BF16") or prod(scale.shape) not in (1, prod(tensor.shape[:-2])):
                raise bad(
                    scale.file,
                    f"{shown(scale.name)} of {scale.type} {list(scale.shape)} does not fit"
                    f" {shown(name)} of NVFP4 {list(tensor.shape)}",
                )
            scales[name] = scale
    return parameters, scales


def _numbers_of_layers(metadata: Mapping[str, Any]) -> dict[str, StoredTensor]:
    found: dict[str, StoredTensor] = {}
    for key in NUMBERS_OF_LAYERS:
        numbers = metadata.get(key)
        if isinstance(numbers, GgufArray) and numbers.item_type == "float32" and len(numbers) <= MOST_LAYERS:
            for layer in range(len(numbers)):
                name = f"{key}[{layer}]"
                found[name] = StoredTensor(name, (1,), "F32", numbers.path, numbers.start + 4 * layer, 4)
    return found


@dataclass(frozen=True)
class _Part:
    file: OpenFile
    version: int
    alignment: int
    metadata: dict[str, Any]
    tensors: dict[str, StoredTensor]


def _all_parts(opened: list[_Part]) -> list[_Part]:
    """The parts in their order; opens the missing ones, and appends each to `opened` so that it can be closed."""
    named = opened[0]
    path, count, number = named.file.path, named.metadata.get("split.count", 1), named.metadata.get("split.no", 0)
    for key, value in (("split.count", count), ("split.no", number)):
        if type(value) is not int or value < 0:
            raise bad(path, f"{key} is {value!r}, expected a whole number")
    if count <= 1:
        return opened
    found = PART.fullmatch(path.name)
    if not found or (int(found["number"]), int(found["count"])) != (number + 1, count):
        raise bad(
            path,
            f"is part {number + 1} of {count} by its metadata, so its name has to end in"
            f" -{number + 1:05d}-of-{count:05d}.gguf; rename it back",
        )
    parts: list[_Part] = []
    for index in range(count):
        expected = path.with_name(f"{found['stem']}-{index + 1:05d}-of-{count:05d}.gguf")
        if index == number:
            part = named
        elif not expected.exists():
            raise bad(path, f"is one of {count} parts and {expected.name} is missing; put it into the same directory")
        else:
            part = _read_part(expected)
            opened.append(part)
        says = part.metadata.get("split.no"), part.metadata.get("split.count")
        if says != (index, count):
            raise bad(expected, f"says split.no, split.count = {says[0]!r}, {says[1]!r}; expected {index}, {count}")
        parts.append(part)
    return parts


def _read_part(path: Path) -> _Part:
    file = OpenFile(path)
    try:
        return _Header(file).read()
    except BaseException:
        file.close()
        raise


class _Header:
    """A position in the file that only moves forward, and a buffer of the bytes that follow it."""

    def __init__(self, file: OpenFile) -> None:
        self.file, self.at = file, 0
        self.buffer, self.base = bytearray(), 0  # bytes of the file, and where they begin

    def ahead(self, nbytes: int) -> tuple[bytearray, int]:
        """(the buffer, the offset in it) of the next `nbytes` bytes, or of all bytes that are left."""
        if self.at < self.base or self.at + nbytes > self.base + len(self.buffer):
            left = max(0, self.file.size - self.at)
            self.base, self.buffer = self.at, self.file.read(self.at, min(max(nbytes, READ_AHEAD), left))
        return self.buffer, self.at - self.base

    def read(self) -> _Part:
        version = self.start()
        tensor_count, key_count = self.number(U64, "the tensor count"), self.number(U64, "the key count")
        self.fits(tensor_count, 32, "tensors")  # an empty name, one dimension
        self.fits(key_count, 13, "keys")  # an empty key, one byte
        metadata: dict[str, Any] = {}
        for _ in range(key_count):
            key = self.named("a key")
            if key in metadata:
                raise self.bad(f"the key {shown(key)} occurs twice")
            metadata[key] = self.value(self.number(U32, f"the type of {shown(key)}"), key)
        alignment = metadata.get("general.alignment", 32)
        if type(alignment) is not int or alignment < 1 or alignment & (alignment - 1):
            raise self.bad(f"general.alignment is {shown(str(alignment))}, expected a power of two")
        tensors = self.tensors(tensor_count, alignment)
        return _Part(self.file, version, alignment, metadata, tensors)

    def start(self) -> int:
        """The version, after checking that magic, byte order and version are supported."""
        magic = bytes(self.ahead(4)[0][:4])
        self.at = 4
        if magic != b"GGUF":
            if magic in (b"lmgg", b"fmgg", b"tjgg", b"algg"):
                raise self.bad("is a GGML file from before GGUF; convert the model again with llama.cpp")
            raise self.bad(f"is not a GGUF file: it starts with {magic!r}, expected b'GGUF'")
        version: int = self.number(U32, "the version")
        if version in (2, 3):
            return version
        if version and version & 0xFFFF == 0:
            raise self.bad("is a big-endian GGUF file, only little-endian ones are read; convert the model again")
        raise self.bad(f"is GGUF version {version}, expected 2 or 3; convert the model again with llama.cpp")

    def tensors(self, count: int, alignment: int) -> dict[str, StoredTensor]:
        """The tensors' descriptions, with absolute offsets, none of them outside the data or inside another."""
        described = [self.tensor(alignment) for _ in range(count)]
        data = -(-self.at // alignment) * alignment
        tensors: dict[str, StoredTensor] = {}
        for tensor in described:
            if tensor.name in tensors:
                raise self.bad(f"tensor {shown(tensor.name)} occurs twice")
            end = data + tensor.offset + tensor.nbytes
            if end > self.file.size:
                raise self.bad(
                    f"tensor {shown(tensor.name)} ends at byte {end}, outside the file of {self.file.size} bytes;"
                    " the file is truncated or damaged, download it again"
                )
            tensors[tensor.name] = StoredTensor(
                tensor.name, tensor.shape, tensor.type, tensor.file, data + tensor.offset, tensor.nbytes
            )
        in_order = sorted(tensors.values(), key=lambda tensor: tensor.offset)
        for before, after in pairwise(in_order):
            if before.offset + before.nbytes > after.offset:
                raise self.bad(f"tensors {shown(before.name)} and {shown(after.name)} overlap; download it again")
        return tensors

    def tensor(self, alignment: int) -> StoredTensor:
        """One description; its offset still counts from the start of the data."""
        name = self.named("a tensor's name")
        quoted = shown(name)
        dims = self.number(U32, f"the dimension count of {quoted}")
        if not 1 <= dims <= 4:
            raise self.bad(f"tensor {quoted} has {dims} dimensions, expected 1 to 4")
        shape = tuple(self.number(U64, f"the dimensions of {quoted}") for _ in range(dims))[::-1]
        number = self.number(U32, f"the type of {quoted}")
        offset = self.number(U64, f"the offset of {quoted}")
        if number not in GGML_TYPES:
            gone = f"{REMOVED[number]}, which ggml has removed" if number in REMOVED else "unknown"
            raise self.bad(f"tensor {quoted} has the type {number}, {gone}; choose another quantisation of this model")
        kind = GGML_TYPES[number]
        values = 1
        for width in shape:
            values *= width
        if not 0 < values < 2**63:
            raise self.bad(f"tensor {quoted} has the shape {shape}, expected dimensions from 1, below 2^63 values")
        if shape[-1] % kind.block:
            raise self.bad(
                f"tensor {quoted} has rows of {shape[-1]}, expected a multiple of {kind.block} for {kind.name}"
            )
        if offset % alignment:
            raise self.bad(f"tensor {quoted} has the offset {offset}, expected a multiple of the alignment {alignment}")
        return StoredTensor(name, shape, kind.name, self.file.path, offset, values // kind.block * kind.nbytes)

    def value(self, kind: int, key: str) -> Any:
        if kind == STRING:
            return self.string(f"the value of {shown(key)}")
        if kind == ARRAY:
            return self.array(key)
        if kind not in SCALARS:
            raise self.bad(f"the key {shown(key)} has the value type {kind}, expected 0 to 12")
        number = self.number(struct.Struct("<" + SCALARS[kind][1]), f"the value of {shown(key)}")
        if kind != BOOL:
            return number
        if number > 1:
            raise self.bad(f"the key {shown(key)} is a bool of value {number}, expected 0 or 1")
        return bool(number)

    def array(self, key: str) -> GgufArray:
        kind, count = self.number(U32, f"the type of {shown(key)}"), self.number(U64, f"the length of {shown(key)}")
        start = self.at
        self.skip_items(kind, count, key, 1)
        return GgufArray(self.file.path, kind, count, start, self.at)

    def skip_items(self, kind: int, count: int, key: str, depth: int) -> None:
        """Moves behind an array's items. A vocabulary has 10^5 strings: their lengths are checked, not their text."""
        if kind == STRING:
            self.fits(count, 8, f"strings in {shown(key)}")
            self.skip_strings(count, key)
        elif kind == ARRAY:
            self.fits(count, 12, f"arrays in {shown(key)}")
            if depth == DEEPEST:
                raise self.bad(f"the key {shown(key)} nests arrays more than {DEEPEST} deep")
            for _ in range(count):
                inner, length = self.number(U32, "an inner type"), self.number(U64, "an inner length")
                self.skip_items(inner, length, key, depth + 1)
        elif kind in SCALARS:
            width = struct.calcsize("<" + SCALARS[kind][1])
            self.fits(count, width, f"values in {shown(key)}")
            end = self.at + count * width
            while kind == BOOL and self.at < end:
                buffer, at = self.ahead(1)
                some = buffer[at : at + end - self.at]
                if some.strip(b"\0\1"):
                    raise self.bad(f"the key {shown(key)} has a bool that is neither 0 nor 1")
                self.at += len(some)
            self.at = end
        else:
            raise self.bad(f"the key {shown(key)} is an array of value type {kind}, expected 0 to 12")

    def skip_strings(self, count: int, key: str) -> None:
        length_at = U64.unpack_from
        while count:
            buffer, at = self.ahead(8)
            try:
                while count:
                    at += 8 + length_at(buffer, at)[0]
                    count -= 1
            except (struct.error, OverflowError):
                if self.base + at == self.at:  # not one length was left
                    at = self.file.size + 1
            if self.base + at > self.file.size:
                raise self.bad(f"the file ends within the strings of {shown(key)}; download it again")
            self.at = self.base + at

    def number(self, layout: struct.Struct, what: str) -> Any:
        try:
            (number,) = layout.unpack_from(*self.ahead(layout.size))
        except struct.error:
            raise self.bad(f"the file ends within {what}; download it again") from None
        self.at += layout.size
        return number

    def string(self, what: str) -> str:
        length = self.number(U64, f"the length of {what}")
        if length > self.file.size - self.at:
            raise self.bad(f"{what} claims {length} bytes, {self.file.size - self.at} are left; download it again")
        if length > LONGEST_STRING:
            raise self.bad(f"{what} has {length} bytes; expected at most {LONGEST_STRING}")
        buffer, at = self.ahead(length)
        text = bytes(buffer[at : at + length])
        self.at += length
        try:
            return text.decode("utf-8")
        except UnicodeDecodeError:
            raise self.bad(f"{what} is not UTF-8: {shown(repr(text))}") from None

    def named(self, what: str) -> str:
        name = self.string(what)
        if not name:
            raise self.bad(f"{what} is empty; download it again")
        return name

    def fits(self, count: int, smallest: int, what: str) -> None:
        """Raises if the rest of the file cannot hold `count` items of at least `smallest` bytes."""
        if count * smallest > self.file.size - self.at:
            raise self.bad(f"claims {count} {what}, but its {self.file.size} bytes cannot hold them; download it again")

    def bad(self, fault: str) -> BadCheckpoint:
        return bad(self.file.path, fault)


def _type_name(kind: int) -> str:
    return {STRING: "string", ARRAY: "array"}[kind] if kind in (STRING, ARRAY) else SCALARS[kind][0]
