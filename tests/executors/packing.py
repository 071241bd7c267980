"""Tiny models' float tensors, quantised as a file would have them, for the native executor and for torch."""

from __future__ import annotations

from collections.abc import Iterator

import gguf
import numpy as np
import torch

from trilens.decoder.weights import Parameter, decoder_weights, parameters
from trilens.executors.native.executor import NativeExecutor, Packed, Rows, matrices
from trilens.executors.native.fuse import fuse
from trilens.executors.native.record import record
from trilens.spec.model import ModelSpec

BLOCKS = {"F32": 1, "F16": 1, "BF16": 1}


def quantised(tensors: dict[str, torch.Tensor], spec: ModelSpec, kind: str) -> dict[str, tuple[str, np.ndarray]]:
    """Each matrix's type and its rows' bytes; a matrix whose rows do not fit the type's blocks, and every router, is F32."""
    packed = matrices(fuse(record(spec)))
    result = {}
    for p in parameters(decoder_weights(spec)):
        if p.name not in packed:
            continue
        values = tensors[p.name].numpy()
        block = gguf.GGML_QUANT_SIZES[gguf.GGMLQuantizationType[kind]][0]
        fits = p.shape[-1] % block == 0 and not p.name.endswith("router")
        own = kind if fits else "F32"
        result[p.name] = (own, gguf.quants.quantize(values, gguf.GGMLQuantizationType[own]).view(np.uint8))
    return result


def native_executor(
    spec: ModelSpec, tensors: dict[str, torch.Tensor], kind: str = "F32", **options: object
) -> NativeExecutor:
    stored = quantised(tensors, spec, kind)

    def weights() -> Iterator[tuple[Parameter, Packed | np.ndarray]]:
        for p in parameters(decoder_weights(spec)):
            if p.name not in stored:
                yield p, tensors[p.name].numpy()
                continue
            own, raw = stored[p.name]
            stack = raw if raw.ndim == 3 else raw[None]
            yield p, Packed(own, [Rows(e, 0, stack[e]) for e in range(stack.shape[0])])

    return NativeExecutor(spec, weights(), **options)


def dequantised(spec: ModelSpec, tensors: dict[str, torch.Tensor], kind: str) -> dict[str, torch.Tensor]:
    """The same tensors with the values that the quantised ones stand for."""
    result = dict(tensors)
    for name, (own, raw) in quantised(tensors, spec, kind).items():
        values = gguf.quants.dequantize(raw, gguf.GGMLQuantizationType[own])
        result[name] = torch.from_numpy(np.array(values, np.float32).reshape(tensors[name].shape))
    return result
