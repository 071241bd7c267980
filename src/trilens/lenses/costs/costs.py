"""Seconds of a step on another machine: a sum of terms, each a number that is counted times constants that are fitted.

`terms` says which terms a step has; `python -m benchmarks.published --fit` fits the constants to published
measurements and writes `costs.json`. docs/predictions.md explains each one.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from importlib import resources
from typing import Any, Literal

from trilens.lenses.costs.shape import Shape
from trilens.lenses.costs.weight_format import Bits
from trilens.lenses.machines.target import Accelerator

USUAL_INTENSITY = 36.0  # operations in 32 bits for each byte read, where a source does not state the arithmetic (M2)
CHUNK = {"llama.cpp": 512, "mlx-lm": 2048}  # tokens of a prompt in one step
USUAL_CHUNK = 2048
OLD = "2025-01"  # before it, both llama.cpp and vLLM spent more of a step outside their kernels
UNIT = 1e12
PLAIN = 3e13  # operations a second around which rates are compared
FASTER = 6  # matrix units count where they are this many times as fast as the rest: in data centres
OVERLAPS = (1.0, 0.8, 0.6)  # what is tried for `overlap`


@dataclass(frozen=True)
class Step:
    """What is run. `tensor` devices share each layer, `pipeline` groups of them take turns, or `expert` devices share
    out the experts and the sequences. `context`: tokens that a new token sees; of a prompt, its length.
    `accepted`: tokens that a step yields for each sequence on average; more than 1 with speculative decoding, whose
    drafting costs `drafting` of a step."""

    kind: Literal["decode", "prefill"]
    engine: str
    backend: str
    batch: int = 1
    context: float = 1.0
    tensor: int = 1
    pipeline: int = 1
    expert: int = 1
    when: str = "9999"
    accepted: float = 1.0
    drafting: float = 0.0


@dataclass(frozen=True)
class Term:
    """`value` times the product of each constant to its power."""

    value: float
    constants: tuple[tuple[str, float], ...]


@dataclass(frozen=True)
class Costs:
    """`spread`: the tenth and ninetieth of a hundred ratios of measured to predicted seconds, by the kind of step."""

    constants: Mapping[str, float]
    overlap: float
    spread: Mapping[str, tuple[float, float]]
    machines: Mapping[str, int]  # that taught an engine, by engine and backend
    rows: int

    def seconds(self, shape: Shape, bits: Bits, device: Accelerator, step: Step) -> float:
        total = sum(self._of(term) for term in terms(shape, bits, device, step, self.overlap))
        return total * (1 + step.drafting) / step.accepted

    def meaning(self, shape: Shape, bits: Bits, device: Accelerator, step: Step) -> list[str]:
        """The constants that a forecast stands on, in words."""
        first, *rest = terms(shape, bits, device, step, self.overlap)
        read = first.value / (self._of(first) + sum(self._of(term) for term in rest))
        outside = sum(self._of(term) for term in rest if term.constants[0][0] in ("layer", "route"))
        words = [f"reading the weights at the stated bandwidth alone would take {100 * read:.0f} % of a step"]
        words.append(f"{1e6 * outside / shape.layers:.0f} us a layer beside reads")
        if step.batch > 1 and shape.experts:
            words.append(f"{step.batch} tokens wake the experts of {step.batch**self.overlap:.1f} independent ones")
        return words

    def _of(self, term: Term) -> float:
        product = term.value
        for name, power in term.constants:
            product *= self.constants.get(name, 1.0) ** power
        return product

    def ends(self, step: Step) -> tuple[float, float]:
        """Factors from predicted seconds to the tenth and the ninetieth of a hundred measured ones."""
        return self.spread[group(step, self.machines.get(f"{step.engine}/{step.backend}", 0))]


@cache
def costs() -> Costs:
    data = json.loads(resources.files("trilens.lenses.costs").joinpath("costs.json").read_text("utf-8"))
    spread = {name: (low, high) for name, (low, high) in data["spread"].items()}
    return Costs(data["constants"], data["overlap"], spread, data["machines"], data["rows"])


def group(step: Step, machines: int) -> str:
    """Steps whose errors are alike. An engine seen on fewer than two machines is a new one."""
    if machines < 2:
        return "new engine"
    if step.kind == "prefill":
        return "prefill"
    if step.tensor * step.pipeline * step.expert > 1:
        return "several devices"
    return "one sequence" if step.batch == 1 else "several sequences"


def width_of(bits: float) -> str:
    return "16" if bits > 12 else "8" if bits > 7 else "4"


def terms(shape: Shape, bits: Bits, device: Accelerator, step: Step, overlap: float) -> Iterator[Term]:
    """Of one step that yields a token for every sequence, or of a whole prompt."""
    yield from (
        _prompt(shape, bits, device, step) if step.kind == "prefill" else _tokens(shape, bits, device, step, overlap)
    )


def _tokens(shape: Shape, bits: Bits, device: Accelerator, step: Step, overlap: float) -> Iterator[Term]:
    e = f"{step.engine}/{step.backend}"
    old = _old(step, "decode")
    share = max(step.expert, 1)
    batch = step.batch / share  # sequences of one device
    layers = shape.layers
    woken = shape.expert_elements(step.batch**overlap) / share
    read = (shape.inner * bits.inner + shape.head * bits.head + woken * bits.experts) / 8
    width = width_of(bits.experts if shape.experts else bits.inner)
    bandwidth, plain = device.bandwidth * step.tensor, _plain(device) * step.tensor
    scale = math.log(device.bandwidth / UNIT)
    yield Term(
        read / bandwidth,
        (
            ("read", 1),
            (f"read/{width}", 1),
            (f"read/{e}", 1),
            (f"read/{e}/{width}", 1),
            ("wide", scale),
            (f"wide/{e}", scale),
            *old,
        ),
    )
    elements = shape.inner + shape.head + woken
    yield Term(elements / plain, ((f"unpack/{width}", 1), (f"unpack/{e}", 1), *old))
    cached = 2 * batch * shape.cache_elements(step.context) + 2 * batch * shape.fixed_bytes
    yield Term(cached / bandwidth, (("cache", 1), (f"cache/{e}", 1), ("wide", scale), *old))
    yield Term(layers * 1e-6, (("layer", 1), (f"layer/{e}", 1), *old))
    if shape.experts:
        yield Term(layers * 1e-6, (("route", 1), *old))
    yield Term(1e-6, ((f"token/{step.engine}", 1),))
    yield Term(step.batch * 1e-6, ((f"row/{step.engine}", 1),))
    if step.batch > 1:
        flops = (step.batch - 1) / share * shape.row_flops
        name, rate = _rate(device, step.tensor)
        yield Term(flops / rate, ((f"batch/{name}", 1), (f"batch/{e}", 1)))
    yield from _links(shape, device, step, step.batch)


def _prompt(shape: Shape, bits: Bits, device: Accelerator, step: Step) -> Iterator[Term]:
    e, tokens = f"{step.engine}/{step.backend}", step.context
    old = _old(step, "prefill")
    chunk = CHUNK.get(step.engine, USUAL_CHUNK)
    steps = math.ceil(tokens / chunk)
    name, rate = _rate(device, step.tensor)
    size = math.log(_plain(device) / PLAIN) if device.kind == "cuda" and name != "matrix" else 0.0
    width = width_of(bits.experts if shape.experts else bits.inner)
    inner = (("steep", size), (f"prompt/{name}", 1), (f"prompt/{e}", 1), (f"prompt/{width}", 1), *old)
    yield Term(tokens * shape.row_flops / rate, (*inner, ("prompt/experts", 1)) if shape.experts else inner)
    yield Term(shape.cache_flops * shape.pair_elements(tokens) / rate, (("steep", size), (f"attend/{name}", 1), *old))
    read = (
        shape.inner * bits.inner + shape.head * bits.head + shape.expert_elements(min(tokens, chunk)) * bits.experts
    ) / 8
    yield Term(steps * read / (device.bandwidth * step.tensor), (("read", 1), ("prompt/read", 1)))
    yield Term(steps * shape.layers * 1e-6, (("layer", 1), (f"layer/{e}", 1), *old))
    yield Term(1e-6, ((f"token/{step.engine}", 1),))
    yield from _links(shape, device, step, tokens)


def _links(shape: Shape, device: Accelerator, step: Step, rows: float) -> Iterator[Term]:
    """Two sums of all devices a layer for tensors; two exchanges for experts; one hand-over between groups."""
    kind = "nvlink" if device.node > 1 else "pcie"
    joined = step.tensor if step.tensor > 1 else step.expert
    if joined > 1:
        name = "sum" if step.tensor > 1 else "exchange"
        yield Term(2 * shape.layers * 1e-6, ((f"{name}/{kind}", 1),))
        if device.link:
            sent = 2 * shape.layers * rows * shape.width * 2 * 2 * (joined - 1) / joined
            yield Term(sent / device.link, ((f"link/{kind}", 1),))
    if step.pipeline > 1:
        yield Term((step.pipeline - 1) * 1e-6, (("stage", 1),))


def _plain(device: Accelerator) -> float:
    return device.arithmetic.get("f32") or USUAL_INTENSITY * device.bandwidth


def _rate(device: Accelerator, tensor: int) -> tuple[str, float]:
    """Arithmetic of many rows: of the matrix units where their rate is stated."""
    matrix = device.arithmetic.get("bf16", device.arithmetic.get("f16", 0.0))
    if matrix > FASTER * _plain(device):
        return "matrix", matrix * tensor
    return f"plain/{device.kind}", _plain(device) * tensor


def _old(step: Step, what: str) -> tuple[tuple[str, float], ...]:
    return ((f"old/{step.engine}/{what}", 1.0),) if step.when < OLD else ()


def as_json(costs: Costs) -> dict[str, Any]:
    return {
        "about": "Written by python -m benchmarks.published --fit; docs/predictions.md explains the constants.",
        "rows": costs.rows,
        "machines": dict(sorted(costs.machines.items())),
        "overlap": costs.overlap,
        "spread": {name: [round(x, 3) for x in ends] for name, ends in sorted(costs.spread.items())},
        "constants": {name: float(f"{value:.4g}") for name, value in sorted(costs.constants.items())},
    }
