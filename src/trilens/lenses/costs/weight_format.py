"""The formats in which published measurements hold their weights: bits of each part of a model.

A GGUF type gives every tensor the type that `trilens quantise` would give it. The others are what the engines' own
tools write: matrices of the layers in few bits with a scale for each group, the head and the table as they were.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from fractions import Fraction
from math import prod

from trilens.checkpoints.ggml_types import BY_NAME
from trilens.convert.file_types import FILE_TYPES, Facts, choose_types
from trilens.decoder.weights import Parameter, decoder_weights, parameters
from trilens.errors import UsageError
from trilens.spec.model import Attention, ModelSpec

# Bits of matrices in the layers, and of the head and the table. 16-bit scales: one for 128 weights (GPTQ, AWQ; the
# 4-bit ones have a 4-bit zero too), one and a 16-bit offset for 64 (mlx).
ENGINE_FORMATS: dict[str, tuple[Fraction, Fraction]] = {
    "bf16": (Fraction(16), Fraction(16)),
    "fp8": (Fraction(8), Fraction(16)),
    "int8": (Fraction(8) + Fraction(24, 128), Fraction(16)),
    "int4": (Fraction(4) + Fraction(20, 128), Fraction(16)),
    "int4-g32": (Fraction(5), Fraction(5)),
    **{f"mlx-{bits}bit": (bits + Fraction(1, 2), bits + Fraction(1, 2)) for bits in (4, 5, 6, 8)},
}
MXFP4 = Fraction(17, 4)
NAMES = ("mxfp4", "MXFP4", *ENGINE_FORMATS, *FILE_TYPES)


@dataclass(frozen=True)
class Bits:
    """A weight's bits, on average over each part of a model; `bytes` of all of them."""

    inner: float
    experts: float
    head: float
    table: float
    bytes: int


def uniform(weights: int, total: int) -> Bits:
    """`weights` bytes of `total` parameters, of which nobody knows more."""
    bits = 8 * weights / total
    return Bits(bits, bits, bits, bits, weights)


def bits_of(spec: ModelSpec, name: str) -> Bits:
    """Raises UsageError for a format that is unknown."""
    every = list({p.name: p for p in parameters(decoder_weights(spec))}.values())
    each = _bits(spec, name, every)
    tied = not any(p.name == "head" for p in every)
    sums: dict[str, list[Fraction]] = {
        part: [Fraction(0), Fraction(0)] for part in ("inner", "experts", "head", "table")
    }
    for p in every:
        part = _part(p, tied)
        sums[part][0] += each[p.name] * p.size
        sums[part][1] += p.size
    mean = {part: float(bits / size) if size else 0.0 for part, (bits, size) in sums.items()}
    if tied:
        mean["table"] = mean["head"]
    return Bits(**mean, bytes=round(sum(bits for bits, _ in sums.values()) / 8))


def _part(p: Parameter, tied: bool) -> str:
    if p.name.startswith("layers."):
        return "experts" if _is_experts(p) else "inner"
    return "head" if p.name in ("head", "final_norm") or (tied and p.name == "embedding") else "table"


def _is_experts(p: Parameter) -> bool:
    return ".experts." in p.name


def _bits(spec: ModelSpec, name: str, every: list[Parameter]) -> dict[str, Fraction]:
    if name in FILE_TYPES:
        return _gguf(spec, name, every)
    if name == "MXFP4":  # gpt-oss's own experts in a GGUF file, the rest in 8 bits
        return {p.name: _small(p) or (MXFP4 if _is_experts(p) else Fraction(17, 2)) for p in every}
    if name == "mxfp4":
        return {p.name: MXFP4 if _is_experts(p) and len(p.shape) == 3 else Fraction(16) for p in every}
    if name not in ENGINE_FORMATS:
        raise UsageError(f"the weight format {name!r} is unknown; expected one of {', '.join(NAMES)}")
    inner, rest = ENGINE_FORMATS[name]
    whole = name.startswith("mlx") or name == "int4-g32"
    return {
        p.name: Fraction(16)
        if len(p.shape) < 2 or _is_router(p)
        else inner
        if whole or p.name.startswith("layers.")
        else rest
        for p in every
    }


def _is_router(p: Parameter) -> bool:
    return p.name.endswith("router")


def _small(p: Parameter) -> Fraction | None:
    """GGUF keeps vectors and routers in 32 bits."""
    return Fraction(32) if len(p.shape) < 2 or _is_router(p) or p.name.endswith(".bias") else None


def _gguf(spec: ModelSpec, name: str, every: list[Parameter]) -> dict[str, Fraction]:
    attention = [m for layer in spec.layers for m in layer.mixers if isinstance(m, Attention)]
    per_head = attention[0].heads // attention[0].cache.kv_heads if attention else 1
    experts = next((p.shape[0] for p in every if _is_experts(p) and len(p.shape) == 3), 0)
    names = {p.name: _gguf_name(p) for p in every}
    shapes = {names[p.name]: p.shape for p in every}
    chosen = choose_types(shapes, name, Facts("llama", len(spec.layers), per_head, experts))
    found: dict[str, Fraction] = {}
    for p in every:
        kind = chosen[names[p.name]]
        block = None if kind is None else BY_NAME[kind]
        found[p.name] = _small(p) or (Fraction(32) if block is None else Fraction(8 * block.nbytes, block.block))
    return found


def _gguf_name(p: Parameter) -> str:
    """Enough of a tensor's name for the rules of `choose_types`."""
    if p.name == "embedding":
        return "token_embd.weight"
    if p.name == "head":
        return "output.weight"
    found = re.fullmatch(r"layers\.(\d+)\.(.+)", p.name)
    if found is None:
        return f"{p.name}.weight" if len(p.shape) > 1 else p.name
    layer, rest = found.groups()
    if len(p.shape) < 2 or prod(p.shape) < 2 or rest.endswith(".bias"):
        return f"blk.{layer}.{rest}"
    role = {"attention.v": "attn_v", "attention.k": "attn_k", "attention.out": "attn_output"}.get(rest, rest)
    if rest.endswith("router"):
        role = "ffn_gate_inp"
    elif rest.endswith(".down") and "feed_forward" in rest:
        role = f"ffn_down_{rest}"
    elif rest.endswith("_taps"):
        role = f"ssm_conv1d_{rest}"
    return f"blk.{layer}.{role}.weight"
