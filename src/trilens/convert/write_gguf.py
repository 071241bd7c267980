"""Weights into a GGUF file: tensor after tensor, each as its type, so that one tensor is in memory at a time."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gguf
import numpy as np

from trilens import system
from trilens.checkpoints.coded_types import CODED
from trilens.checkpoints.find import Found
from trilens.checkpoints.ggml_types import BY_NAME
from trilens.checkpoints.gguf import GgufFile, read_gguf
from trilens.checkpoints.load import read_spec
from trilens.convert.file_types import FILE_TYPES, WHOLE, Facts, choose_types
from trilens.errors import UnsupportedModel, UsageError
from trilens.executors.native.extension import _native
from trilens.files import bad, exists, shown
from trilens.spec.model import ModelSpec

NATIVE = ("Q2_K", "Q3_K", "Q4_K", "Q5_K", "Q6_K")
AT_ONCE = 1 << 20  # values that one thread encodes at a time
OWN_KEYS = ("GGUF.", "split.", "general.file_type", "general.quantization_version", "general.architecture")


@dataclass(frozen=True)
class Source:
    """What is to be written. `keys` go to the writer by themselves; `read` gives a tensor's values in its shape."""

    path: Path
    facts: Facts
    keys: Callable[[gguf.GGUFWriter], None]
    shapes: Mapping[str, Sequence[int]]
    types: Mapping[str, str]  # that the tensors have in their files
    read: Callable[[str], np.ndarray]
    spec: ModelSpec | None = None  # that the new file must read back as


@dataclass(frozen=True)
class Written:
    """`before` and `after` are bytes of the tensors, `types` counts the tensors by their type."""

    path: Path
    to: str
    before: int
    after: int
    types: Mapping[str, int]
    twice: bool  # whether the weights were rounded before, so that the errors add up


def quantise(
    found: Found, to: str, out: Path, *, threads: int | None = None, progress: Callable[[int, int], None] | None = None
) -> Written:
    """Write a model's weights as a GGUF file of type `to`, a key of `FILE_TYPES`.

    `progress` is called with (values written, values in all). The file appears only when it is complete. Raises
    UsageError for a file that exists or cannot be written, UnsupportedModel, BadCheckpoint.
    """
    if exists(out):
        raise UsageError(f"{out}: already exists; give the name of a new file")
    if found.kind == "gguf":
        checkpoint = read_gguf(found.path)
        try:
            return _write(gguf_source(checkpoint), to, out, threads, progress)
        finally:
            checkpoint.close()
    from trilens.convert.to_gguf import directory_source

    with directory_source(found) as source:
        return _write(source, to, out, threads, progress)


def gguf_source(checkpoint: GgufFile) -> Source:
    arch = str(checkpoint.metadata.get("general.architecture"))

    def number(key: str, default: int) -> int:
        value = checkpoint.metadata.get(f"{arch}.{key}", default)
        if isinstance(value, Sequence):  # one a layer
            value = max(value)
        return int(value)

    heads = number("attention.head_count", 1)
    facts = Facts(
        arch,
        number("block_count", 0),
        heads // max(1, number("attention.head_count_kv", heads)),
        number("expert_count", 0),
    )
    return Source(
        checkpoint.path,
        facts,
        lambda writer: _copy_keys(checkpoint.path, writer),
        {name: t.shape for name, t in checkpoint.tensors.items()},
        {name: t.type for name, t in checkpoint.tensors.items()},
        checkpoint.read,
    )


def encode(values: np.ndarray, kind: str, threads: int = 1) -> np.ndarray:
    """float32 values -> bytes of a type, block after block. Raises ValueError where one is not finite."""
    flat = np.ascontiguousarray(values, np.float32).reshape(-1)
    if kind not in NATIVE:
        if not np.isfinite(flat).all():
            raise ValueError("has values that are not finite")
        rows = flat.reshape(-1, values.shape[-1])
        with np.errstate(all="ignore"):  # of blocks that are too small for a half, which become zeros
            made = gguf.quantize(rows, gguf.GGMLQuantizationType[kind])
        if kind == "F16" and not np.isfinite(made).all():
            raise ValueError("has values that do not fit 16-bit floats")
        return made.reshape(-1).view(np.uint8)
    block = BY_NAME[kind]
    out = np.empty(flat.size // block.block * block.nbytes, np.uint8)

    def some(first: int) -> bool:
        piece = flat[first : first + AT_ONCE]
        at = first // block.block * block.nbytes
        return _native.encode(kind, piece, out[at : at + piece.size // block.block * block.nbytes])

    with ThreadPoolExecutor(threads) as pool:
        if not all(pool.map(some, range(0, flat.size, AT_ONCE))):
            raise ValueError("has values that are not finite")
    return out


def _write(
    source: Source, to: str, out: Path, threads: int | None, progress: Callable[[int, int], None] | None
) -> Written:
    chosen = choose_types(source.shapes, to, source.facts)
    kept = {name: _kept_type(kind) if source.spec is None else "F32" for name, kind in source.types.items()}
    kinds = {name: kind or kept[name] for name, kind in chosen.items()}
    partial = out.with_name(out.name + ".part")
    sizes = {name: _bytes(source.shapes[name], kind) for name, kind in kinds.items()}
    total, done = sum(int(np.prod(source.shapes[name])) for name in kinds), 0
    try:
        with closing(gguf.GGUFWriter(partial, source.facts.architecture)) as writer:
            source.keys(writer)
            writer.add_file_type(FILE_TYPES[to].number)
            writer.add_quantization_version(gguf.GGML_QUANT_VERSION)
            for name, kind in kinds.items():
                shape, number = tuple(source.shapes[name]), gguf.GGMLQuantizationType[kind]
                writer.add_tensor_info(name, shape, np.dtype(np.float32), sizes[name], number)
            writer.write_header_to_file()
            writer.write_kv_data_to_file()
            writer.write_ti_data_to_file()
            for name, kind in kinds.items():
                values = source.read(name)
                try:
                    writer.write_tensor_data(encode(values, kind, threads or system.usable_cores()))
                except ValueError as problem:
                    raise bad(source.path, f"tensor {shown(name)} {problem}") from None
                done += values.size
                if progress is not None:
                    progress(done, total)
        _check_wiring(source, partial)
        partial.replace(out)
    except OSError as problem:
        raise UsageError(f"{out}: cannot be written ({problem.strerror or problem})") from None
    finally:
        with suppress(OSError):  # it hides no other error
            partial.unlink(missing_ok=True)
    before = sum(_bytes(source.shapes[name], source.types[name]) for name in kinds)
    counts: dict[str, int] = {}
    for kind in kinds.values():
        counts[kind] = counts.get(kind, 0) + 1
    twice = to not in WHOLE and any(kind not in (*WHOLE, "F8_E4M3") for kind in source.types.values())
    return Written(out, to, before, sum(sizes.values()), counts, twice)


def _check_wiring(source: Source, written: Path) -> None:
    """Finds whatever the keys cannot express of a family, before anybody runs the file."""
    if source.spec is None:
        return
    read = read_spec(Found("gguf", written, "path")).spec
    if _wiring(read) != _wiring(source.spec):
        raise UnsupportedModel(f"{source.path}: a GGUF file cannot say all of this model's wiring")


def _wiring(spec: ModelSpec) -> str:
    """The spec as text, without what a GGUF file says differently: the family's name, the rule of the rotary
    divisors, and the last digits of numbers, which are 32-bit floats there.
    """
    rule = r"scaling=(Llama3Scaling|LongRopeScaling)\((?:[^()]|\([^()]*\))*\)"
    factors = r", interleaved=(\w+), attention_factor=[^,]+, long_attention_factor=[^,)]+"
    said = re.sub(rule + factors, r"divisors, interleaved=\2", repr(spec.layers))
    said = re.sub(r"\d+\.\d+(e-?\d+)?|\d+e-?\d+", lambda number: f"{float(number[0]):.5g}", said)
    return f"{spec.vocab} {spec.width} {spec.head} {spec.per_layer_table} {spec.embedding_scale:.5g} {said}"


def _kept_type(kind: str) -> str:
    """Of a tensor that stays as it is."""
    return kind if kind in WHOLE else "F32"


def _bytes(shape: Sequence[int], kind: str) -> int:
    known = BY_NAME.get(kind)
    values = int(np.prod(shape))
    if known is not None:
        return values // known.block * known.nbytes
    return values * CODED[kind].bits // 8 if kind in CODED else values  # scales left out; FP8 has no place in GGUF


def _copy_keys(path: Path, writer: gguf.GGUFWriter) -> None:
    """All keys of a file, with their types, but those that the new one has of its own."""
    for name, field in gguf.GGUFReader(path).fields.items():
        if name.startswith(OWN_KEYS):
            continue
        inner = field.types[-1] if field.types[0] == gguf.GGUFValueType.ARRAY else None
        content: Any = field.contents()
        if inner is not None and not isinstance(content, Iterable):
            raise UnsupportedModel(f"{path}: the key {name} cannot be copied")
        writer.add_key_value(name, content, field.types[0], inner)
