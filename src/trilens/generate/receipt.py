"""What one call cost, as pure data. Counts are exact; times are measured; bytes and operations come from the
accountant."""

from __future__ import annotations

from collections import Counter
from dataclasses import asdict, dataclass
from fractions import Fraction
from typing import Any

from trilens.decoder.weights import Parameter
from trilens.executors.accountant import ParameterCount, Span, StepCost, count_parameters, step_cost
from trilens.executors.executor import Executor
from trilens.generate.scheduler import Generation
from trilens.units import big, data, flop


@dataclass(frozen=True)
class Tokens:
    """`prompt` tokens went in, `cached` of them without being computed again; `thinking`, `answer` and `control`
    came out."""

    prompt: int
    cached: int
    thinking: int
    answer: int
    control: int

    @property
    def completion(self) -> int:
        return self.thinking + self.answer + self.control


@dataclass(frozen=True)
class Phase:
    """One phase of a call. `weight_bytes` and `kv_bytes` are read from memory, by all its steps together."""

    tokens: int
    steps: int
    seconds: float
    tokens_per_second: float
    flops: int
    weight_bytes: int
    kv_bytes: int


@dataclass(frozen=True)
class Receipt:
    """One call. Bytes are bytes, `seconds` are wall seconds, FLOPs count a multiply-add as two.

    `weights_bytes` are held in memory, `bits_per_weight` on average; `converted` counts the tensors that are not held
    as the file has them, by what was done; `arithmetic` says what is rounded on the way. `same_bits`: the logits are
    the same to the bit in any batch, on any number of threads, however the prompt was cut. `batch` is the most
    sequences that shared a step: their weights were read once for all. `finish` says why it stopped: stop (the model's
    own end), stop_string, length (max_tokens), context (the model's context is full), cancelled. `temperature` and
    `seed` are the ones used, so that the call can be repeated.
    """

    model: str
    family: str
    executor: str
    parameters: ParameterCount
    tokens: Tokens
    prefill: Phase
    decode: Phase
    time_to_first_token: float
    kv_cache_bytes: int
    weights_bytes: int
    bits_per_weight: float
    converted: dict[str, int]
    arithmetic: str
    same_bits: bool
    batch: int
    finish: str
    temperature: float
    seed: int

    def as_dict(self) -> dict[str, Any]:
        """For JSON: every field by name, and the sums `tokens.completion` and `flops`."""
        data = asdict(self)
        data["tokens"]["completion"] = self.tokens.completion
        data["flops"] = self.prefill.flops + self.decode.flops
        return data

    def as_text(self) -> str:
        """A few lines for people."""
        p, t = self.parameters, self.tokens
        share = "" if p.every_weight_fires else f", {big(p.active)} active"
        shared = f" · {self.batch} answers shared the steps" if self.batch > 1 else ""
        converted = "".join(f", {n} tensors {change}" for change, n in self.converted.items())
        lines = [
            f"model    {self.model} ({self.family}) · {big(p.total)} parameters{share} · {self.executor}",
            f"tokens   {t.prompt} prompt ({t.cached} cached) · {t.thinking} thinking · {t.answer} answer · "
            f"{t.control} control",
            _phase("prefill", self.prefill),
            _phase("decode", self.decode),
            f"memory   {data(self.weights_bytes)} weights, {self.bits_per_weight:.2f} bits each{converted} · "
            f"{data(self.kv_cache_bytes)} KV cache",
            f"time     {self.time_to_first_token:.2f} s to the first token · stopped by {self.finish} · "
            f"temperature {self.temperature:g}, seed {self.seed}{shared}",
            f"bits     {self.arithmetic}; "
            + ("the same bits in any batch" if self.same_bits else "the bits may differ in another batch"),
        ]
        return "\n".join(lines)


def write_receipt(name: str, executor: Executor, generation: Generation, control: int, thinking: int = 0) -> Receipt:
    """The receipt of a finished generation; `control` of its tokens carry no text of their own."""
    g, spec = generation, executor.spec
    answer = len(g.tokens) - control - thinking
    tokens = Tokens(len(g.prompt), g.cached, thinking, answer, control)
    if min(answer, control, thinking) < 0 or tokens.completion != len(g.tokens):
        raise AssertionError(f"the counts do not add up: {tokens} for {len(g.tokens)} tokens")
    computed, parameters = len(g.prompt) - g.cached, count_parameters(spec)
    prefill = step_cost(spec, [Span(g.cached, computed)]) if computed else None
    decode = step_cost(spec, [Span(len(g.prompt), g.decode_steps, g.decode_steps)]) if g.decode_steps else None
    one_token = step_cost(spec, [Span(len(g.prompt), 1)])
    return Receipt(
        model=name,
        family=spec.family,
        executor=executor.name,
        parameters=parameters,
        tokens=tokens,
        prefill=_cost(executor, computed, g.prefill_steps, g.prefill_seconds, prefill, prefill),
        decode=_cost(executor, g.decode_steps, g.decode_steps, g.decode_seconds, decode, one_token),
        time_to_first_token=g.prefill_seconds,
        kv_cache_bytes=g.kv_bytes,
        weights_bytes=executor.weight_bytes,
        bits_per_weight=8 * executor.weight_bytes / parameters.total,
        converted=dict(Counter(executor.converted.values())),
        arithmetic=executor.arithmetic,
        same_bits=executor.same_bits,
        batch=g.most_beside,
        finish=g.finish or "cancelled",
        temperature=g.sampler.options.temperature,
        seed=g.sampler.options.seed,
    )


def _cost(
    executor: Executor, tokens: int, steps: int, seconds: float, work: StepCost | None, step: StepCost | None
) -> Phase:
    """`work` is the whole phase's arithmetic, `step` one of its steps, whose weights every step reads again."""

    def width(p: Parameter) -> Fraction:
        return executor.element_bytes(p)

    if work is None or step is None:
        return Phase(0, steps, seconds, 0.0, 0, 0, 0)
    one_by_one = tokens == steps
    return Phase(
        tokens=tokens,
        steps=steps,
        seconds=seconds,
        tokens_per_second=tokens / seconds if seconds else 0.0,
        flops=work.flops(),
        weight_bytes=steps * step.weight_bytes(width),
        kv_bytes=work.kv_elements_read(singly=one_by_one) * executor.kv_element_bytes,
    )


def _phase(name: str, p: Phase) -> str:
    if not p.steps:
        return f"{name:8} nothing to compute"
    return (
        f"{name:8} {p.tokens} tokens in {p.seconds:.2f} s · {p.tokens_per_second:.1f} tok/s · {flop(p.flops)} · "
        f"{data(p.weight_bytes)} weights and {data(p.kv_bytes)} KV read"
    )
