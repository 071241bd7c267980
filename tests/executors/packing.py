"""Tiny models' float tensors, quantised as a file would have them, for the native executor and for torch."""

from __future__ import annotations

from collections.abc import Iterator

import gguf
import numpy as np
import torch

from trilens.decoder.weights import Parameter, decoder_weights, parameters
from trilens.executors.native.executor import NativeExecutor, Packed, Rows
from trilens.executors.native.matrices import matrices, native_types
from trilens.spec.choice import without_choice
from trilens.spec.model import ModelSpec

HALVES = {  # where a block keeps its scales
    **dict.fromkeys(("Q4_0", "Q5_0", "Q8_0", "IQ4_NL", "IQ4_XS"), (0,)),
    **dict.fromkeys(("Q4_1", "Q5_1", "Q4_K", "Q5_K"), (0, 2)),
    "Q2_K": (80, 82),
    "Q3_K": (108,),
    "Q6_K": (208,),
    **dict.fromkeys(("NF4", "FP4"), (0,)),
    **dict.fromkeys(("IQ1_S", "IQ2_XXS", "IQ2_XS", "IQ2_S", "IQ3_XXS", "IQ3_S"), (0,)),
    "Q8_MIN": (0, 2),
}
# Of types that GGUF files do not have: what a code of 4 bits stands for, in whole numbers.
TABLES = {
    "NF4": (-112, -78, -59, -44, -32, -21, -10, 0, 9, 18, 28, 38, 49, 63, 81, 112),
    "FP4": (0, 1, 80, 120, 40, 60, 20, 30, 0, -1, -80, -120, -40, -60, -20, -30),
}
OWN_TYPES = (*TABLES, "NVFP4", "Q8_MIN", "F8_E4M3")
E2M1 = np.array([0, 0.5, 1, 1.5, 2, 3, 4, 6, 0, -0.5, -1, -1.5, -2, -3, -4, -6], np.float32)


def random_rows(kind: str, rows: int, columns: int, seed: int = 0, spread: float = 0.1) -> np.ndarray:
    """Rows as a file of that type has them, every code at random, with values of about that spread."""
    rng = np.random.default_rng(seed)
    floats = rng.standard_normal((rows, columns), np.float32) * np.float32(spread)
    if kind == "F32":
        return floats.view(np.uint8)
    if kind == "F16":
        return floats.astype(np.float16).view(np.uint8)
    if kind == "BF16":
        return (floats.view(np.uint32) >> 16).astype(np.uint16).view(np.uint8)
    block, size = native_types()[kind]
    blocks = rng.integers(0, 256, (rows, columns // block, size), np.uint8)
    if kind == "MXFP4":
        blocks[:, :, 0] = rng.integers(-2, 2, blocks.shape[:2]) + 124 + round(np.log2(spread))
        return blocks.reshape(rows, -1)
    if kind == "NVFP4":
        factor = rng.uniform(0.5, 1, (rows, 1)).astype(np.float32) * np.float32(spread / 32)
        blocks[:, :, :4] = factor[..., None].view(np.uint8)
        blocks[:, :, 4:6] = rng.integers(0x40, 0x60, (*blocks.shape[:2], 2))
        return blocks.reshape(rows, -1)
    if kind == "F8_E4M3":
        factors = rng.uniform(0.5, 1, (rows, -(-columns // 128))).astype(np.float32) * np.float32(spread / 64)
        blocks[:, :, :4] = np.repeat(factors, 4, 1)[:, : columns // 32, None].view(np.uint8)
        blocks[:, :, 4:][blocks[:, :, 4:] & 127 == 127] = 0  # NaN
        return blocks.reshape(rows, -1)
    if kind == "IQ1_M":  # the half lies in the four highest bits of four words
        halves = rng.uniform(0.5, 1, blocks.shape[:2]) * rng.choice([-1, 1], blocks.shape[:2]) * spread / 8
        four = halves.astype(np.float16).view(np.uint16)[..., None] >> np.arange(0, 16, 4, dtype=np.uint16) & 15
        blocks[:, :, 49::2] = blocks[:, :, 49::2] & 15 | (four << 4).astype(np.uint8)
        return blocks.reshape(rows, -1)
    for scale in (0.02, 0.02 * spread):  # the second time so that the values have the spread asked for
        for at in HALVES[kind]:
            halves = rng.uniform(0.5, 1, blocks.shape[:2]) * rng.choice([-1, 1], blocks.shape[:2]) * scale
            blocks[:, :, at : at + 2] = halves.astype(np.float16)[..., None].view(np.uint8)
        if scale == 0.02:
            spread /= values_of(kind, blocks.reshape(rows, -1), columns).std()
    return blocks.reshape(rows, -1)


def values_of(kind: str, raw: np.ndarray, columns: int) -> np.ndarray:
    """What those rows stand for."""
    if kind in OWN_TYPES:
        return own_values(kind, raw.reshape(-1, raw.shape[-1])).reshape(-1, columns)
    return gguf.quants.dequantize(raw, gguf.GGMLQuantizationType[kind]).reshape(-1, columns)


def own_values(kind: str, raw: np.ndarray) -> np.ndarray:
    blocks = raw.reshape(len(raw), -1, native_types()[kind][1])

    def halves(at: int) -> np.ndarray:
        return np.ascontiguousarray(blocks[..., at : at + 2]).view(np.float16).astype(np.float32)

    if kind == "Q8_MIN":  # codes are kept 128 lower
        codes = blocks[..., 4:].view(np.int8).astype(np.float32) + 128
        return codes * halves(0) + halves(2)
    if kind == "F8_E4M3":
        values = torch.from_numpy(np.ascontiguousarray(blocks[..., 4:])).view(torch.float8_e4m3fn).float().numpy()
        return values * np.ascontiguousarray(blocks[..., :4]).view(np.float32)
    packed = blocks[..., 6:] if kind == "NVFP4" else blocks[..., 2:]
    codes = np.concatenate((packed & 15, packed >> 4), -1)
    if kind == "NVFP4":
        factor = np.ascontiguousarray(blocks[..., :4]).view(np.float32)
        scales = torch.from_numpy(np.ascontiguousarray(blocks[..., 4:6])).view(torch.float8_e4m3fn).float().numpy()
        return np.repeat(factor * scales, 16, -1) * E2M1[codes]
    return np.array(TABLES[kind], np.float32)[codes] * halves(0)


def q6_k(values: np.ndarray) -> np.ndarray:
    """Six-bit codes, an eight-bit scale for every 16 and a half for every 256, rounded to the nearest."""
    groups = values.reshape(-1, 16, 16)
    scales = np.abs(groups).max(-1) / 31
    whole = scales.max(-1).astype(np.float32) / 127
    eighths = np.maximum(np.rint(scales / whole[:, None]), 1)
    codes = (np.rint(groups / (eighths * whole[:, None])[..., None]).clip(-32, 31) + 32).astype(np.uint8)
    quarters = codes.reshape(-1, 2, 4, 32)
    low = quarters[:, :, :2] & 15 | (quarters[:, :, 2:] & 15) << 4
    high = (quarters >> 4 << np.array([0, 2, 4, 6], np.uint8)[:, None]).sum(2, dtype=np.uint8)
    parts = (low.reshape(-1, 128), high.reshape(-1, 64), eighths.astype(np.int8).view(np.uint8))
    return np.concatenate((*parts, whole.astype(np.float16)[:, None].view(np.uint8)), 1)


IQ4 = np.array([-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113], np.float32)


def iq4_xs(values: np.ndarray) -> np.ndarray:
    """Four-bit codes on an uneven scale, a six-bit factor for every 32 and a half for every 256."""
    groups = values.reshape(-1, 8, 32)
    scales = np.abs(groups).max(-1) / 127
    whole = scales.max(-1) / 31
    steps = np.maximum(np.rint(scales / whole[:, None]), 1)
    exact = groups / (steps * whole[:, None])[..., None]
    codes = np.searchsorted((IQ4[1:] + IQ4[:-1]) / 2, exact).astype(np.uint8)
    factors = steps.astype(np.uint8) + 32
    low = factors[:, 0::2] & 15 | (factors[:, 1::2] & 15) << 4
    high = ((factors >> 4).astype(np.uint16) << np.arange(0, 16, 2, dtype=np.uint16)).sum(1, dtype=np.uint16)
    nibbles = codes[..., :16] | codes[..., 16:] << 4
    parts = (high[:, None].view(np.uint8), low, nibbles.reshape(-1, 128))
    return np.concatenate((whole.astype(np.float16)[:, None].view(np.uint8), *parts), 1)


OWN = {"Q6_K": q6_k, "IQ4_XS": iq4_xs}


def rows_of(kind: str, values: np.ndarray, seed: int) -> np.ndarray:
    """The values quantised; random rows in their stead where neither the gguf package nor we can write the type."""
    if kind in OWN:
        return OWN[kind](values).reshape(*values.shape[:-1], -1)
    try:
        if kind in OWN_TYPES:
            raise NotImplementedError
        return gguf.quants.quantize(values, gguf.GGMLQuantizationType[kind]).view(np.uint8)
    except NotImplementedError:
        columns = values.shape[-1]
        raw = random_rows(kind, values.size // columns, columns, seed, columns**-0.5)
        return raw.reshape(*values.shape[:-1], -1)


def quantised(tensors: dict[str, torch.Tensor], spec: ModelSpec, kind: str) -> dict[str, tuple[str, np.ndarray]]:
    """Each matrix's type and its rows' bytes; a router, or a matrix of other rows, is F32."""
    packed = matrices(spec)
    result = {}
    for p in parameters(decoder_weights(spec)):
        if p.name not in packed:
            continue
        values = tensors[p.name].numpy()
        block = native_types()[kind][0]
        fits = p.shape[-1] % block == 0 and not p.name.endswith("router")
        own = kind if fits else "F32"
        result[p.name] = (own, rows_of(own, values, len(result)))
    return result


def native_executor(
    spec: ModelSpec, tensors: dict[str, torch.Tensor], kind: str = "F32", **options: object
) -> NativeExecutor:
    return executor_of(spec, tensors, quantised(tensors, spec, kind), **options)


def executor_of(
    spec: ModelSpec, tensors: dict[str, torch.Tensor], stored: dict[str, tuple[str, np.ndarray]], **options: object
) -> NativeExecutor:
    """On matrices that are quantised already."""
    spec = without_choice(spec)

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
    return values_stored(tensors, quantised(tensors, spec, kind))


def values_stored(
    tensors: dict[str, torch.Tensor], stored: dict[str, tuple[str, np.ndarray]]
) -> dict[str, torch.Tensor]:
    result = dict(tensors)
    for name, (own, raw) in stored.items():
        values = values_of(own, raw, tensors[name].shape[-1])
        result[name] = torch.from_numpy(np.array(values, np.float32).reshape(tensors[name].shape))
    return result
