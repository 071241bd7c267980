"""The plan asked the other way round: which open models fit a machine, at which quantisation, and how fast.

The models are those of the catalog. No quality is claimed: they are sorted by a number that is counted or forecast.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from importlib import resources
from typing import Any, Literal, get_args

from trilens.errors import UsageError
from trilens.lenses.costs.calibration import Calibration
from trilens.lenses.costs.forecast import ANSWER, Forecast, ThinkingLength, forecast_of_shape, thinking_length
from trilens.lenses.costs.shape import Shape, shape_from
from trilens.lenses.costs.weight_format import Bits
from trilens.lenses.machines.target import Target, target
from trilens.lenses.memory.job import Job

Task = Literal["chat", "code", "any"]
Measure = Literal["total", "active", "speed", "answer"]
# Formats of each engine, most bits first; "own": as the publisher has it.
ENGINE_WEIGHTS = {
    "llama.cpp": ("own", "BF16", "Q8_0", "Q6_K", "Q4_K_M"),
    "vllm": ("own", "bf16", "fp8", "int4"),
    "sglang": ("own", "bf16", "fp8", "int4"),
    "mlx-lm": ("bf16", "mlx-8bit", "mlx-6bit", "mlx-4bit"),
}
OWN = {"bf16": ("bf16", "BF16"), "fp8": ("fp8",), "mxfp4": ("mxfp4", "MXFP4")}
WANTED = ("Q8_0", "Q6_K", "Q4_K_M", "fp8", "int4", "bf16", "BF16", "mlx-8bit", "mlx-6bit", "mlx-4bit")
SCRATCH, LEAST_SCRATCH = 0.04, 400e6  # of the weights, and bytes: what engines take beside weights and cache
CAPACITY = {"metal": 0.75, "cuda": 0.9, "rocm": 0.9, "vulkan": 0.9, "cpu": 0.9}  # of the memory, for the model
MEASURES: dict[Measure, str] = {
    "total": "total parameters, most first",
    "active": "parameters that fire for a token, most first",
    "speed": "tokens a second, most first",
    "answer": f"seconds of an answer of {ANSWER} tokens with its thinking, fewest first",
}


@dataclass(frozen=True)
class Candidate:
    """`memory` in bytes; `answer` in seconds: the thinking, if any, and an answer behind a prompt that fills the rest
    of the context (without the prompt's seconds where the arithmetic of the machine is not stated)."""

    model: str
    total: int
    active: int
    weights: str
    memory: int
    forecast: Forecast
    thinking: ThinkingLength | None
    answer: float

    def as_dict(self) -> dict[str, Any]:
        f = self.forecast
        return {
            "model": self.model,
            "total_parameters": self.total,
            "active_parameters": self.active,
            "weights": self.weights,
            "memory": self.memory,
            "tokens_per_second": f.tokens.as_dict(),
            "seconds_to_first_token": None if f.first_token is None else f.first_token.as_dict(),
            "thinking_tokens": None if self.thinking is None else self.thinking.tokens.as_dict(),
            "seconds_of_an_answer": round(self.answer, 2),
        }


@dataclass(frozen=True)
class Answer:
    """`capacity` in bytes over all devices. `candidates` in the order of `measure`; `known` models were looked at."""

    at: Target
    engine: str
    context: int
    batch: int
    measure: Measure
    capacity: int
    known: int
    candidates: tuple[Candidate, ...]

    @property
    def sorted_by(self) -> str:
        """The measure in words."""
        return MEASURES[self.measure]

    def as_dict(self) -> dict[str, Any]:
        return {
            "machine": self.at.as_dict(),
            "engine": self.engine,
            "context": self.context,
            "batch": self.batch,
            "sorted_by": self.sorted_by,
            "capacity": self.capacity,
            "models_known": self.known,
            "models": [c.as_dict() for c in self.candidates],
        }

    def as_text(self, width: int | None = None) -> str:
        from trilens.lenses.plans.which_text import which_text

        return which_text(self, width)


def which(
    machine: str,
    *,
    task: Task = "chat",
    context: int = 4096,
    batch: int = 1,
    thinking: str | None = None,
    at_least: float = 0.0,
    sort: Measure = "total",
    engine: str | None = None,
    bandwidth: float | None = None,
    tflops: float | None = None,
    memory: float | None = None,
) -> Answer:
    """Every model of the catalog for `task` that fits with `batch` sequences of `context` tokens, in the format with
    the most bits that fits and yields `at_least` tokens a second to each sequence. `thinking`: on, off, a level, or a
    most number of tokens; None takes each model's default. Raises UsageError."""
    at = target(machine, bandwidth=bandwidth, tflops=tflops, memory=memory)
    if at.device is None:
        raise UsageError("which needs another machine than this one; measure here with trilens plan or trilens bench")
    for word, words in ((task, get_args(Task)), (sort, get_args(Measure))):
        if word not in words:
            raise UsageError(f"{word!r} is unknown; expected one of {', '.join(words)}")
    chosen = engine or _usual(at)
    if chosen not in ENGINE_WEIGHTS:
        raise UsageError(f"engine {chosen!r} has no forecast here; expected one of {', '.join(ENGINE_WEIGHTS)}")
    capacity = int(CAPACITY[at.device.kind] * at.memory * at.count)
    joined = at.device.node > 1 and chosen != "llama.cpp"
    job = Job(context, batch, tensor=at.count if joined else 1, pipeline=1 if joined else at.count)
    known = [(name, data) for name, data in models().items() if task == "any" or data["task"] == task]
    found = []
    for name, data in known:
        length = _thinking(data, thinking)
        if length is None or data["context"] < context:
            continue
        best = _best(name, data, at, chosen, job, capacity, at_least, length[0])
        if best is not None:
            found.append(best)
    found.sort(key=lambda c: _key(c, sort))
    return Answer(at, chosen, context, batch, sort, capacity, len(known), tuple(found))


@cache
def models() -> dict[str, dict[str, Any]]:
    """The catalog's models by name, as `python -m benchmarks.catalog_shapes` wrote them."""
    text = resources.files("trilens.lenses.plans").joinpath("shapes.json").read_text("utf-8")
    found: dict[str, dict[str, Any]] = json.loads(text)
    return found


def _best(
    name: str,
    data: Mapping[str, Any],
    at: Target,
    engine: str,
    job: Job,
    capacity: int,
    at_least: float,
    length: ThinkingLength | None,
) -> Candidate | None:
    shape = shape_from(data["shape"])
    assert at.device is not None
    beside = job.batch * (2 * shape.cache_elements(job.context) + shape.fixed_bytes)
    for word in ENGINE_WEIGHTS[engine]:
        weights = _format(word, engine, data)
        if weights is None:
            continue
        bits = Bits(*data["formats"][weights])
        needed = int(bits.bytes + beside + max(LEAST_SCRATCH, SCRATCH * bits.bytes))
        if needed > capacity:
            continue
        forecast = forecast_of_shape(shape, engine, job, bits, at.device)
        if forecast.tokens.p50 / job.batch < at_least:
            continue
        tokens = ANSWER + (0.0 if length is None else length.tokens.p50)
        first = 0.0 if forecast.first_token is None else forecast.first_token.p50
        seconds = first + tokens * forecast.token.p50
        return Candidate(name, shape.total, _active(shape), weights, needed, forecast, length, seconds)
    return None


def _active(shape: Shape) -> int:
    return shape.inner + shape.head + round(shape.expert_elements(1))


def _format(word: str, engine: str, data: Mapping[str, Any]) -> str | None:
    """The format's name; None where a model's own has fewer bits, or is not of this engine."""
    own = data["own"]
    if word == "own":
        names = OWN[own]
        return (names[-1] if engine == "llama.cpp" else names[0]) if own != "fp8" or engine != "llama.cpp" else None
    wider = {"fp8": ("bf16", "BF16"), "mxfp4": ("bf16", "BF16", "fp8", "Q8_0", "Q6_K")}.get(own, ())
    return None if word in wider or word not in data["formats"] else word


def _thinking(data: Mapping[str, Any], wanted: str | None) -> tuple[ThinkingLength | None] | None:
    """A length, none, or None for a model that cannot do what is wanted."""
    kind = data["thinking"]
    if kind in ("never", "unknown"):
        return (None,) if wanted in (None, "off") else None
    word = wanted or data["default"] or "on"
    if word == "off":
        return (None,) if kind != "always" else None
    return (thinking_length(word, Calibration()),)


def _usual(at: Target) -> str:
    assert at.device is not None
    if at.device.kind == "metal":
        return "mlx-lm"
    return "vllm" if at.device.node > 1 else "llama.cpp"


def _key(c: Candidate, sort: Measure) -> tuple[float, str]:
    number = {"total": -c.total, "active": -c.active, "speed": -c.forecast.tokens.p50, "answer": c.answer}[sort]
    return float(number), c.model
