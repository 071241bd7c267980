"""What a model needs on a machine in each engine, how fast it will be there, and how to start it."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from trilens.checkpoints.adapters import adapter_bytes, adapter_parameters
from trilens.checkpoints.quantised import method_of, quantisation_of
from trilens.errors import RequestRefused, UsageError
from trilens.lenses.cards.source import CardSource, card_source
from trilens.lenses.cards.weights import own_bytes, weight_bytes
from trilens.lenses.costs.forecast import ANSWER, Forecast, ThinkingLength
from trilens.lenses.machines.target import Target, target
from trilens.lenses.memory.job import KV_TYPES, Engine, Job, Memory
from trilens.lenses.memory.memory import engine_memory, vllm_padding
from trilens.lenses.plans.commands import CHECKED, UTILISATION, Served, commands
from trilens.lenses.plans.plan_speed import forecast_of
from trilens.spec.model import Attention, GatedRecurrence, LatentAttention, ModelSpec, ShortConvolution, SingleMixer
from trilens.text.thinking import Inference

USUAL_CONTEXT = 4096
# What an engine can be given, most bits first; "own" is as the files or the publisher have it.
QUANTISED: dict[Engine, tuple[str, ...]] = {
    "trilens": ("own", "8bit", "4bit"),
    "llama.cpp": ("own", "bf16", "8bit", "4bit"),
    "vllm": ("own", "bf16", "fp8"),
    "sglang": ("own", "bf16", "fp8"),
    "mlx-lm": ("own", "bf16", "8bit", "4bit"),
    "tensorrt-llm": ("own", "bf16", "fp8"),
    "transformers": ("own", "bf16"),
}
OWN_KV = {"q8_0": "8bit", "fp8": "8bit", "bf16": "f16"}  # trilens's words for them


@dataclass(frozen=True)
class Choice:
    """A quantisation and what it comes to."""

    type: str
    memory: Memory
    fits: bool


@dataclass(frozen=True)
class Plan:
    """Bytes over all devices; `capacity` is what the engine can use. `forecast` is None if unknown."""

    model: str
    spec: ModelSpec
    backbone: str
    engine: Engine
    target: Target
    job: Job
    choice: Choice
    choices: tuple[Choice, ...]
    capacity: int
    forecast: Forecast | None
    no_forecast: str
    thinking: str | None
    length: ThinkingLength | None
    commands: dict[str, str]
    held: tuple[str, ...] = ()  # what trilens does not hold as the files have it

    @property
    def fits(self) -> bool:
        return self.choice.fits

    @property
    def memory(self) -> Memory:
        return self.choice.memory

    @property
    def best(self) -> Choice | None:
        """The most bits that fit."""
        return next((c for c in self.choices if c.fits), None)

    def as_dict(self) -> dict[str, Any]:
        f = self.forecast
        return {
            "model": self.model,
            "backbone": self.backbone,
            "engine": self.engine,
            "machine": self.target.as_dict(),
            "context": self.job.context,
            "batch": self.job.batch,
            "kv_type": {"keys": self.job.key_type, "values": self.job.value_type},
            "parallel": {"tensor": self.job.tensor, "pipeline": self.job.pipeline, "expert": self.expert},
            "fits": self.fits,
            "capacity": self.capacity,
            "memory": self.memory.as_dict(),
            "held": list(self.held),
            "quantise": self.choice.type,
            "best_quantisation": None if self.best is None else self.best.type,
            "quantisations": [
                {"type": c.type, "weights": c.memory.weights, "total": c.memory.total, "fits": c.fits}
                for c in self.choices
            ],
            "seconds_to_first_token": None if f is None or f.first_token is None else f.first_token.as_dict(),
            "seconds_per_token": None if f is None else f.token.as_dict(),
            "tokens_per_second": None if f is None else f.tokens.as_dict(),
            "speed": {
                "known": f is not None,
                "calibrated_by_runs": 0 if f is None else f.calibrated,
                "source": self.no_forecast if f is None else f.source,
            },
            "thinking": {
                "asked": self.thinking,
                "tokens": None if self.length is None else self.length.tokens.as_dict(),
                "multiplier": None if self.length is None else self.length.multiplier.as_dict(),
                "answer_tokens": ANSWER,
                "source": None if self.length is None else self.length.source,
            },
            "commands": self.commands,
            "commands_checked": {engine: CHECKED[engine] for engine in self.commands},
        }

    @property
    def expert(self) -> int:
        """Devices that experts are spread over."""
        return self.job.tensor if self.backbone == "routed" else 1

    def as_text(self, width: int | None = None) -> str:
        from trilens.lenses.plans.plan_text import plan_text

        return plan_text(self, width)


def plan(
    name: str,
    *,
    context: int | None = None,
    batch: int = 1,
    machine: str = "this",
    engine: str | None = None,
    quantise: str | None = None,
    kv_type: str = "f16",
    thinking: str | None = None,
    threads: int | None = None,
    bandwidth: float | None = None,
    tflops: float | None = None,
    memory: float | None = None,
    accepted: float = 1.0,
    offline: bool = False,
    adapters: Iterable[str] = (),
    say: Callable[[str], None] = lambda line: None,
) -> Plan:
    """`context`: tokens per sequence (default: 4096, or the model's maximum); `batch`: sequences at once. `machine`:
    this, or an accelerator as in h100x8. `engine`: default is trilens for this machine, mlx-lm for Apple's, and vllm or
    llama.cpp for others. `quantise`: None takes the most bits that fit. `kv_type`: one type, or K,V. `bandwidth`
    (GB/s), `tflops` and `memory` (GB) describe a machine that is not in the list, or correct one that is. `accepted`:
    tokens that a step yields with speculative decoding. `adapters`: paths of LoRA adapters that are held too; the speed
    of trilens is that of calls with the largest, the speed of other engines that of calls without one. `say` is told
    what is being measured.

    Raises UsageError, UnsupportedModel, or RequestRefused for a model of unknown size.
    """
    at = target(machine, bandwidth=bandwidth, tflops=tflops, memory=memory)
    chosen = _engine(engine, at)
    source = card_source(name, offline=offline)
    if source.reading is None:
        raise RequestRefused(f"{source.title}: {source.without_numbers}")
    spec = source.reading.spec
    job = _job(spec, context, batch, kv_type, chosen, at)
    word = _thinking_word(thinking, source.inference, source.title)
    capacity = _capacity(chosen, at)
    paths = [Path(path) for path in adapters]
    held, slowest = sum(map(adapter_bytes, paths)), max(map(adapter_parameters, paths), default=0)
    choices = tuple(
        Choice(c, replace(m, weights=m.weights + held), m.total + held <= capacity)
        for c in QUANTISED[chosen]
        if (m := _memory(source, chosen, job, c)) is not None
    )
    choice = _choice(choices, quantise, chosen)
    forecast, why_not, length = forecast_of(
        source, chosen, at, job, choice.type, choice.memory.weights - held, word, threads, say, accepted, slowest
    )
    found = source.found
    served = Served(
        name=name,
        hub=None if source.entry is None else source.entry.hub,
        file=str(found.path) if found is not None and found.kind == "gguf" else None,
        folder=None if found is None or source.entry is None or not source.entry.comes_with else str(found.path),
        family=spec.family,
        routed=spec.backbone == "routed",
        inference=source.inference,
        job=job,
        target=at,
        quantise=choice.type,
        thinking=word,
        threads=threads,
    )
    return Plan(
        model=source.title,
        spec=spec,
        backbone=spec.backbone,
        engine=chosen,
        target=at,
        job=job,
        choice=choice,
        choices=choices,
        capacity=capacity,
        forecast=forecast,
        no_forecast=why_not,
        thinking=word,
        length=length,
        commands=commands(served, chosen),
        held=_held(source, chosen, choice.type),
    )


def _engine(wanted: str | None, at: Target) -> Engine:
    if wanted is None:
        if at.device is None:
            return "trilens"
        small = at.device.kind != "cuda" and at.device.node == 1
        return "mlx-lm" if at.apple else "llama.cpp" if small else "vllm"
    found = next((engine for engine in QUANTISED if engine == wanted.lower()), None)
    if found is None:
        raise UsageError(f"engine {wanted!r} is unknown; expected one of {', '.join(QUANTISED)}")
    return found


def _job(spec: ModelSpec, context: int | None, batch: int, kv_type: str, engine: Engine, at: Target) -> Job:
    wanted = min(USUAL_CONTEXT, spec.context) if context is None else context
    if not 1 <= wanted <= spec.context:
        raise UsageError(f"context {wanted} is outside the model's 1 to {spec.context}")
    if batch < 1:
        raise UsageError(f"batch {batch} is not possible; expected 1 or more")
    keys, _, values = kv_type.partition(",")
    for kind in (keys, values or keys):
        if kind not in KV_TYPES:
            raise UsageError(f"KV type {kind!r} is unknown; expected one of {', '.join(KV_TYPES)}, or two as K,V")
    job = Job(wanted, batch, keys, values or keys)
    if engine == "trilens":
        job = replace(job, key_type=OWN_KV.get(keys, keys), value_type=OWN_KV.get(job.value_type, job.value_type))
    if engine in ("vllm", "sglang", "tensorrt-llm") and at.count > 1:
        tensor, pipeline = split(spec, at)
        return replace(job, tensor=tensor, pipeline=pipeline)
    return replace(job, pipeline=at.count) if at.count > 1 else job


def split(spec: ModelSpec, at: Target) -> tuple[int, int]:
    """(tensor, pipeline): tensors inside what the link joins, as far as the heads can be shared out; stages beyond."""
    heads = [h for layer in spec.layers for mixer in layer.mixers if (h := _heads(mixer)) is not None]
    joined = max(at.device.node, 1) if at.device is not None else 1
    most = min(at.count, joined) if joined > 1 else at.count
    tensor = max(n for n in range(1, most + 1) if at.count % n == 0 and all(h % n == 0 for h in heads))
    return tensor, at.count // tensor


def _heads(mixer: SingleMixer) -> int | None:
    """What a layer's attention or recurrence can be shared out by."""
    match mixer:
        case Attention(heads=heads) | LatentAttention(heads=heads):
            return heads
        case GatedRecurrence(rule=rule):
            return rule.key_heads
        case ShortConvolution():
            return None


def _capacity(engine: Engine, at: Target) -> int:
    """Bytes over all devices that the engine's weights, cache and scratch can have."""
    share = UTILISATION if engine in ("vllm", "sglang", "tensorrt-llm") and at.device is not None else 1.0
    return int(at.memory * at.count * share)


def _memory(source: CardSource, engine: Engine, job: Job, quantise: str) -> Memory | None:
    """None where the weights' size at that quantisation is unknown."""
    assert source.reading is not None
    spec = source.reading.spec
    if engine == "trilens":
        from trilens.lenses.cards.held import held_types

        types = held_types(source, None if quantise == "own" else quantise)
        return engine_memory(engine, spec, job, 0, types)
    if quantise == "own":
        own = own_bytes(source.found, source.config, spec)
        size = None if own is None else own.bytes
        quantisation = quantisation_of(source.config or {})
        if size is not None and engine == "vllm" and quantisation and method_of(quantisation) == "mxfp4":
            size += vllm_padding(spec)  # whole experts: its command line shares them out
    else:
        size = next(w.bytes for w in weight_bytes(spec) if w.type.replace("-", "") == quantise)
    return None if size is None else engine_memory(engine, spec, job, size)


def _held(source: CardSource, engine: Engine, quantise: str) -> tuple[str, ...]:
    if engine != "trilens":
        return ()
    from trilens.lenses.cards.held import growth

    made = growth(source, None if quantise == "own" else quantise)
    return () if made is None else made.said


def _choice(choices: tuple[Choice, ...], wanted: str | None, engine: Engine) -> Choice:
    if not choices:
        raise RequestRefused("the size of its weights is unknown; name its files")
    if wanted is None:
        return next((c for c in choices if c.fits), choices[-1])
    found = next((c for c in choices if c.type == wanted), None)
    if found is None:
        raise UsageError(
            f"{engine} has no {wanted!r} weights for this model; expected {', '.join(c.type for c in choices)}"
        )
    return found


def _thinking_word(wanted: str | None, inference: Inference, title: str) -> str | None:
    """The setting's name, checked against what the model can do; None if it never thinks and no thinking was
    requested.
    """
    if wanted is None:
        return inference.default if inference.kind not in ("never", "unknown") else None
    if inference.kind == "never":
        if wanted in ("off", "off-or-least"):
            return None
        raise RequestRefused(f"{title} never thinks: {wanted!r} is not possible; leave out --thinking")
    names = [s.name for s in inference.settings]
    if wanted == "off-or-least":
        return "off" if "off" in names else next(iter(inference.levels), inference.default)
    if wanted == "on" and "on" not in names and inference.kind in ("levels", "always"):
        return inference.default if inference.default in names else next(iter(inference.levels), "on")
    if wanted.isdigit() or inference.kind == "unknown" or wanted in names or wanted == inference.default:
        return wanted
    raise RequestRefused(
        f"{title} has no thinking {wanted!r}; expected a number of tokens or {', '.join(names) or 'on'}"
    )
