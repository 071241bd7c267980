"""Bytes of weights: at the usual widths, and as the model's own files hold them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

from trilens.checkpoints.configured import Form, configured
from trilens.checkpoints.find import Found
from trilens.decoder.weights import decoder_weights, parameters
from trilens.errors import TrilensError
from trilens.spec.model import ModelSpec

GROUP = 32  # numbers that share one 16-bit scale in the common 8- and 4-bit formats


@dataclass(frozen=True)
class WeightBytes:
    """`bytes` is None where it cannot be told, and `meaning` then says why."""

    type: str
    bytes: int | None
    meaning: str


def weight_bytes(spec: ModelSpec) -> tuple[WeightBytes, ...]:
    """Every weight of the text decoder at the usual widths. Vectors stay at 16 bits where groups are used."""
    every = list({p.name: p for p in parameters(decoder_weights(spec))}.values())
    total = sum(p.size for p in every)
    vectors = sum(p.size for p in every if len(p.shape) < 2)
    scaled = total - vectors
    return (
        WeightBytes("bf16", 2 * total, "2 bytes a weight"),
        WeightBytes("fp8", total, "1 byte a weight, scales left out"),
        WeightBytes("8-bit", 2 * vectors + _with_scales(scaled, 8), f"with a 16-bit scale for every {GROUP}: 8.5 bits"),
        WeightBytes("4-bit", 2 * vectors + _with_scales(scaled, 4), f"with a 16-bit scale for every {GROUP}: 4.5 bits"),
    )


def _with_scales(numbers: int, bits: int) -> int:
    return round(Fraction(numbers) * (Fraction(bits, 8) + Fraction(2, GROUP)))


def own_bytes(found: Found | None, config: Mapping[str, Any] | None, spec: ModelSpec) -> WeightBytes | None:
    """At the checkpoint's own types: summed from its headers, else worked out from what its config says of them."""
    if found is not None and found.kind in ("gguf", "directory"):
        return _in_files(found)
    return None if config is None else _as_configured(config, spec)


def _in_files(found: Found) -> WeightBytes | None:
    from trilens.checkpoints.checkpoint import Checkpoint
    from trilens.checkpoints.gguf import read_gguf
    from trilens.checkpoints.safetensors import read_safetensors

    try:
        checkpoint: Checkpoint = read_gguf(found.path) if found.kind == "gguf" else read_safetensors(found.path)
    except TrilensError as problem:
        return WeightBytes("own", None, str(problem))
    by_type: dict[str, int] = {}
    for tensor in [*checkpoint.tensors.values(), *getattr(checkpoint, "scales", {}).values()]:
        by_type[tensor.type] = by_type.get(tensor.type, 0) + tensor.nbytes
    checkpoint.close()
    most = max(by_type, key=lambda t: by_type[t]) if by_type else "nothing"
    return WeightBytes("own", sum(by_type.values()), f"in the files, mostly {most}")


def _as_configured(config: Mapping[str, Any], spec: ModelSpec) -> WeightBytes:
    dtype, width = _dtype(config), width_of(config)
    if width is None:
        return WeightBytes("own", None, f"its type {dtype} is not supported")
    every = list({p.name: p for p in parameters(decoder_weights(spec))}.values())
    try:
        known = configured(config, spec, every, width)
    except TrilensError as problem:
        return WeightBytes("own", None, str(problem))
    if known is None:
        return WeightBytes("own", width * sum(p.size for p in every), f"{dtype}, as its config says")
    sizes: dict[str, int] = {}
    for p in every:
        form = known.form_of(p)
        kind = dtype if form is None else spoken(form)
        sizes[kind] = sizes.get(kind, 0) + (width * p.size if form is None else form.bytes_of(p))
    quantised = [kind for kind in sizes if kind != dtype]
    rest = f", the rest {dtype}" if dtype in sizes and quantised else ""
    return WeightBytes("own", sum(sizes.values()), f"{', '.join(quantised) or dtype}{rest}, as its config says")


def spoken(form: Form) -> str:
    """INT4 with a scale for every 32"""
    name = "FP8" if form.type.startswith("F8") else form.type.partition("_")[0]
    block = f"{form.high} x {form.group}" if form.high > 1 else f"{form.group}"
    shared = f"a scale for every {block}" if form.group else "a scale a row" if form.group is None else "one scale"
    return f"{name} with {shared}"


def width_of(config: Mapping[str, Any]) -> int | None:
    """Bytes of an unquantised weight, None for a type that is not supported."""
    return {"float32": 4, "float16": 2, "bfloat16": 2}.get(_dtype(config))


def _dtype(config: Mapping[str, Any]) -> str:
    inner = config.get("text_config") or {}
    return str(_first(config, inner, "dtype", "torch_dtype") or "bfloat16").removeprefix("torch.")


def _first(outer: Mapping[str, Any], inner: Mapping[str, Any], *names: str) -> Any:
    return next((place[name] for place in (outer, inner) for name in names if place.get(name)), None)
