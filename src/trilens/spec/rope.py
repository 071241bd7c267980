"""Rotary frequencies: spec -> one number per rotated pair. Chosen once per request, never within a step."""

from __future__ import annotations

import math
import struct
from dataclasses import dataclass
from functools import lru_cache

from trilens.spec.model import (
    Attention,
    DynamicScaling,
    GatedRecurrence,
    LatentAttention,
    LinearScaling,
    Llama3Scaling,
    LongRopeScaling,
    ModelSpec,
    ProportionalScaling,
    Rope,
    ShortConvolution,
    YarnScaling,
)


@dataclass(frozen=True)
class RopeTable:
    """Angles of position p are p * `frequencies[i]` radians; cos and sin are multiplied by `factor`."""

    frequencies: tuple[float, ...]
    factor: float


@lru_cache(maxsize=64)
def rope_table(rope: Rope, request_length: int) -> RopeTable:
    """The table for a request of `request_length` tokens, prompt and answer together."""
    theta, pairs = rope.theta, rope.dim // 2
    match rope.scaling:
        case DynamicScaling(factor, original) if request_length > original:
            theta *= ((factor * request_length / original) - (factor - 1)) ** (rope.dim / (rope.dim - 2))
        case _:
            pass
    # The reference computes these in float32; at position 100,000 a double's extra digits would turn the angle visibly.
    powers = [_f32(theta ** _f32(2 * i / rope.dim)) for i in range(pairs)]
    plain = [_f32(1.0 / p) for p in powers]
    factor = rope.attention_factor
    match rope.scaling:
        case None | DynamicScaling():
            table = plain
        case LinearScaling(divisor):
            table = [_f32(f / divisor) for f in plain]
        case ProportionalScaling(rotated, divisor):
            table = [_f32(f / divisor) if i < rotated else 0.0 for i, f in enumerate(plain)]
        case Llama3Scaling() as s:
            table = [_f32(_llama3(f, s)) for f in plain]
        case YarnScaling() as s:
            table = _yarn(powers, rope, s)
        case LongRopeScaling(short, long, original):
            beyond = request_length > original
            table = [_f32(1.0 / _f32(d * p)) for d, p in zip(long if beyond else short, powers, strict=True)]
            if beyond and rope.long_attention_factor is not None:
                factor = rope.long_attention_factor
    return RopeTable(tuple(table), factor)


def yarn_attention_factor(factor: float, scale: float = 1.0) -> float:
    """YaRN's 0.1 * scale * ln(factor) + 1."""
    return 1.0 if factor <= 1 else 0.1 * scale * math.log(factor) + 1.0


def longrope_attention_factor(factor: float, original_context: int) -> float:
    """LongRoPE's sqrt(1 + ln(factor) / ln(original context))."""
    return 1.0 if factor <= 1 else math.sqrt(1 + math.log(factor) / math.log(original_context))


def _llama3(frequency: float, s: Llama3Scaling) -> float:
    wavelength = 2 * math.pi / frequency
    if wavelength < s.original_context / s.high_frequency:
        return frequency
    if wavelength > s.original_context / s.low_frequency or s.low_frequency == s.high_frequency:
        return frequency / s.factor
    smooth = (s.original_context / wavelength - s.low_frequency) / (s.high_frequency - s.low_frequency)
    return (1 - smooth) * frequency / s.factor + smooth * frequency


def _yarn(powers: list[float], rope: Rope, s: YarnScaling) -> list[float]:
    def pair_that_turns(times: float) -> float:
        return rope.dim * math.log(s.original_context / (times * 2 * math.pi)) / (2 * math.log(rope.theta))

    low, high = pair_that_turns(s.beta_fast), pair_that_turns(s.beta_slow)
    if s.truncate:
        low, high = math.floor(low), math.ceil(high)
    low, high = max(low, 0), min(high, rope.dim - 1)
    if low == high:
        high += 0.001
    table = []
    for i, power in enumerate(powers):
        interpolated = min(max(_f32((i - low) / (high - low)), 0.0), 1.0)
        kept = 1 - interpolated
        table.append(_f32(_f32(1.0 / _f32(s.factor * power)) * (1 - kept) + _f32(1.0 / power) * kept))
    return table


def _f32(x: float) -> float:
    """The nearest float32."""
    rounded: float = struct.unpack("f", struct.pack("f", x))[0]
    return rounded


def tables_key(spec: ModelSpec, request_length: int) -> tuple[object, ...]:
    """Equal for two request lengths exactly when the model's rotary tables are; part of a cached prefix's identity."""
    key: list[object] = []
    for rope in ropes(spec):
        match rope.scaling:
            case LongRopeScaling(original_context=original):
                key.append(request_length > original)
            case DynamicScaling(original_context=original):
                key.append(max(request_length, original))
            case _:
                pass
    return tuple(key)


def ropes(spec: ModelSpec) -> list[Rope]:
    """The model's different ropes, in the order of the layers that first use them."""
    found: dict[Rope, None] = {}
    for layer in spec.layers:
        for mixer in layer.mixers:
            match mixer:
                case Attention(rope=rope):
                    found |= {} if rope is None else {rope: None}
                case LatentAttention(rope=rope, index=index):
                    found |= {} if rope is None else {rope: None}
                    found |= {} if index is None else {index.rope: None}
                case ShortConvolution() | GatedRecurrence():
                    pass
    return list(found)
