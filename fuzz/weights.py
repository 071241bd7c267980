"""Random weights of the shapes that a spec asks for: as arrays under their names in a file, and in an executor."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from trilens.checkpoints import names
from trilens.decoder.weights import Parameter, decoder_weights, parameters
from trilens.executors.native.executor import NativeExecutor, Packed, Rows
from trilens.executors.native.matrices import matrices
from trilens.spec.choice import without_choice
from trilens.spec.model import LatentAttention, ModelSpec

HERE = ("", "half_split", "plus_one", "root_of_width")  # changes that leave the shape as it is


def values(parameter: Parameter, seed: int) -> np.ndarray:
    """Random weights that keep a row's size; norms around one."""
    noise = np.random.default_rng(seed).standard_normal(parameter.shape, np.float32)
    if len(parameter.shape) == 1:
        return 1 + np.float32(0.1) * noise
    return noise * np.float32(parameter.shape[-1] ** -0.5)


def random_executor(spec: ModelSpec, **options: Any) -> NativeExecutor:
    """One thread, and random weights of the shapes that the spec asks for."""
    spec = without_choice(spec)
    packed = matrices(spec)

    def weights() -> Iterator[tuple[Parameter, Any]]:
        for number, p in enumerate(parameters(decoder_weights(spec))):
            value = values(p, number)
            if p.name not in packed:
                yield p, value
                continue
            stacks = value.reshape(-1, *p.shape[-2:])
            yield p, Packed("F32", [Rows(i, 0, one.view("u1")) for i, one in enumerate(stacks)])

    return NativeExecutor(spec, weights(), threads=1, **options)


def stored(spec: ModelSpec, rows: tuple[names.Row, ...]) -> dict[str, np.ndarray]:
    """Every parameter under the first of its names in a file; stacks of experts as the name wants them."""
    found: dict[str, np.ndarray] = {}
    for number, p in enumerate(parameters(decoder_weights(spec))):
        value = values(p, number)
        bias = p.name.endswith(".bias") and not p.name.endswith("correction_bias")
        base = p.name.removesuffix(".bias") if bias else p.name
        first, _, rest = base.partition(".")
        layer, _, inside = rest.partition(".")
        pattern = f"layers.{{i}}.{inside}" if first == "layers" else base
        row = next((r for r in rows if r.ours == p.name.replace(f".{layer}.", ".{i}.", 1)), None)
        row = row or next((r for r in rows if r.ours == pattern and r.change in HERE), None)
        if row is None:  # latent attention's keys and values, which lie in one matrix
            found[names_of(pattern, rows).replace("{i}", layer)] = _latent(spec, int(layer), number)
            continue
        name = row.theirs.replace("{i}", layer)
        if bias and row.ours == pattern:
            name = name.removesuffix(".weight") + ".bias"
        if "{e}" in name:
            found |= {name.replace("{e}", str(e)): one for e, one in enumerate(value)}
        else:
            found[name] = value
    return found


def names_of(pattern: str, rows: tuple[names.Row, ...]) -> str:
    return next(row.theirs for row in rows if row.ours == pattern)


def _latent(spec: ModelSpec, layer: int, seed: int) -> np.ndarray:
    a = spec.layers[layer].attention
    assert isinstance(a, LatentAttention)
    return values(Parameter("", (a.heads * (a.nope_dim + a.value_dim), a.kv_rank)), seed)


def safetensors_file(tensors: Mapping[str, np.ndarray], kind: str) -> bytes:
    """`kind`: F32, F16 or BF16."""
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    data = b""
    for name, value in tensors.items():
        raw = {"F32": value, "F16": value.astype(np.float16), "BF16": (value.view(np.uint32) >> 16).astype(np.uint16)}
        piece = np.ascontiguousarray(raw[kind]).tobytes()
        header[name] = {"dtype": kind, "shape": list(value.shape), "data_offsets": [len(data), len(data) + len(piece)]}
        data += piece
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text + data
