"""What one call cost, as pure data. Counts are exact; times are measured; bytes and operations come from the
accountant."""

from __future__ import annotations

import hashlib
from bisect import bisect_left
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from trilens.executors.accountant import ParameterCount, Span, StepCounter
from trilens.executors.executor import Executor, distinct_experts, fired_experts
from trilens.generate.answer import AnswerWriter, ThinkingReport
from trilens.generate.request import Request, StepRecord
from trilens.units import big, data, flop


@dataclass(frozen=True)
class Tokens:
    """`prompt` is the length of the prompt, of which `cached` tokens were not computed again. `thinking`, `answer` and
    `control` are the generated tokens.
    """

    prompt: int
    cached: int
    thinking: int
    answer: int
    control: int

    @property
    def completion(self) -> int:
        return self.thinking + self.answer + self.control


@dataclass(frozen=True)
class Ceiling:
    """The measured limits of this machine: bytes per second from memory, and operations per second of its fastest
    kernel.
    """

    bytes_per_second: float
    flops_per_second: float


@dataclass(frozen=True)
class Phase:
    """One phase of a call. `weight_bytes` and `kv_bytes` are read from memory, by all its steps together; `fixed_bytes`
    are read of fixed states and written back.

    `distinct_experts`: how many experts, of all layers, fired for one of its tokens or more. The shares are of the
    machine's `Ceiling`, None where it was not measured; weights that stay in the processor's cache can bring the first
    above 1.
    """

    tokens: int
    steps: int
    seconds: float
    tokens_per_second: float
    flops: int
    weight_bytes: int
    kv_bytes: int
    fixed_bytes: int
    distinct_experts: int
    bandwidth_share: float | None
    arithmetic_share: float | None


@dataclass(frozen=True)
class Work:
    """A call's phases: the prompt, the thinking with what opens and closes it, the answer; `decode` is thinking and
    answer together. `repeated`: tokens computed a second time, because their memory had gone to other requests."""

    prefill: Phase
    thinking: Phase
    answer: Phase
    decode: Phase
    repeated: Phase

    @property
    def flops(self) -> int:
        return self.prefill.flops + self.decode.flops + self.repeated.flops


@dataclass(frozen=True)
class Drafts:
    """Speculation, which changes time and work but no token and no bit. `proposed` tokens were computed before they
    were drawn. `accepted` of them were what was drawn: each saved a step, and all together `weight_bytes_saved`. The
    others cost `flops_lost`, which no phase contains. `predicted` of the proposed and `predicted_accepted` of the
    accepted ones came from the model's block for multi-token prediction. What the block itself computed and read,
    `block_flops` and `block_weight_bytes`, is in no phase; its time is.
    """

    proposed: int
    accepted: int
    predicted: int
    predicted_accepted: int
    block_flops: int
    block_weight_bytes: int
    weight_bytes_saved: int
    flops_lost: int


@dataclass(frozen=True)
class Predicted:
    """Ten percent of such calls stay below `p10`, half below `p50`, 90 percent below `p90`. `measured` is this call's
    value.
    """

    p10: float
    p50: float
    p90: float
    measured: float


@dataclass(frozen=True)
class Prediction:
    """What was known before the call: seconds to the first token, seconds for each token after it, and tokens of
    thinking. None if there was nothing to predict, or nothing to predict from; `source` says which. `measured_on`: the
    date of the machine's measurements behind it, and `runs` the model's own calls. None and 0 if there are none.
    """

    first_token: Predicted | None
    token: Predicted | None
    thinking_tokens: Predicted | None
    source: str
    measured_on: str | None = None
    runs: int = 0


@dataclass(frozen=True)
class Energy:
    """Joules of the whole processor during the call, including other processes. None if the machine does not report it;
    `source` says why.
    """

    joules: float | None
    source: str


@dataclass(frozen=True)
class AdapterReport:
    """The adapter that a call used: its name, its numbers, and its bytes in memory. What it cost is in the phases."""

    name: str
    parameters: int
    bytes: int


@dataclass(frozen=True)
class Receipt:
    """The cost of one call. Times are wall-clock seconds, and FLOPs count a multiply-add as two.

    - `time_to_first_token`, `queue_seconds` (until the first step began) and `seconds` (until the end) are counted
      from the call. None for a call that did not get that far.
    - `reused`: the prompt's cached tokens by their origin: a "running" request, a "finished" one, or "disk".
    - `preempted`: how often its memory went to other requests, so that it was computed again (`work.repeated`).
    - `drafts`: tokens that were proposed and computed ahead, and what that saved.
    - `kv_cache_bytes` were used, in pages of `kv_held_bytes`. `fixed_state_bytes` are needed besides, whatever the
      length.
    - `weights_bytes`: memory of the weights, with `bits_per_weight` on average. `converted` counts the tensors that
      are not stored as in the file, by the kind of change.
    - `adapter`: None for a call without one.
    - `arithmetic`: what is rounded during the computation.
    - `same_bits`: whether the logits are bit-identical in any batch, on any number of threads and for any split of
      the prompt. `determinism` says so in words, or why not.
    - `replay`: a hash of all tokens and of the experts that fired for each. Repeating the call gives the same hash.
    - `batch`: the largest number of sequences that shared a step. `weight_bytes` count every reading of the
      weights, shared or not.
    - `finish`: why it stopped. stop (the model's own end), stop_string, length (`max_tokens`), context (the context
      is full) or cancelled.
    - `temperature` and `seed` are those that were used, so that the call can be repeated.
    """

    model: str
    family: str
    executor: str
    parameters: ParameterCount
    tokens: Tokens
    thinking: ThinkingReport
    work: Work
    time_to_first_token: float | None
    queue_seconds: float | None
    seconds: float
    reused: dict[str, int]
    preempted: int
    drafts: Drafts
    kv_cache_bytes: int
    kv_held_bytes: int
    fixed_state_bytes: int
    weights_bytes: int
    bits_per_weight: float
    converted: dict[str, int]
    adapter: AdapterReport | None
    arithmetic: str
    same_bits: bool
    determinism: str
    replay: str
    batch: int
    finish: str
    temperature: float
    seed: int
    energy: Energy
    prediction: Prediction

    def as_dict(self) -> dict[str, Any]:
        """For JSON: every field by name, and the sums `tokens.completion` and `flops`."""
        data: dict[str, Any] = _plain(self)
        data["tokens"]["completion"] = self.tokens.completion
        data["flops"] = self.work.flops
        return data

    def as_text(self) -> str:
        """The receipt in a few lines."""
        p, t = self.parameters, self.tokens
        share = "" if p.every_weight_fires else f", {big(p.active_with_embeddings)} active"
        shared = f" · {self.batch} answers shared the steps" if self.batch > 1 else ""
        first = "" if self.time_to_first_token is None else f"{self.time_to_first_token:.2f} s to the first token"
        if self.queue_seconds is not None and self.queue_seconds >= 0.01:
            first += f", {self.queue_seconds:.2f} s of it in the queue"
        again = f" · preempted {self.preempted} times" if self.preempted else ""
        converted = "".join(f", {n} tensors {change}" for change, n in self.converted.items())
        fixed = f" · {data(self.fixed_state_bytes)} fixed states" if self.fixed_state_bytes else ""
        lines = [
            f"model    {self.model} ({self.family}) · {big(p.total)} parameters{share} · {self.executor}",
            f"tokens   {t.prompt} prompt ({t.cached} cached{_sources(self.reused)}) · {t.thinking} thinking · "
            f"{t.answer} answer · {t.control} control",
            *_adapter(self.adapter),
            *thinking_lines(self.thinking),
            _phase("prefill", self.work.prefill),
            *([_phase("thinking", self.work.thinking)] if self.work.thinking.steps else []),
            _phase("answer", self.work.answer),
            *_drafts(self.drafts),
            *([_phase("repeated", self.work.repeated)] if self.work.repeated.steps else []),
            f"memory   {data(self.weights_bytes)} weights, {self.bits_per_weight:.2f} bits per weight{converted} · "
            f"{data(self.kv_cache_bytes)} of KV cache in {data(self.kv_held_bytes)}{fixed}",
            f"time     {first} · {self.seconds:.2f} s total{again} · stopped by {self.finish} · "
            f"temperature {self.temperature:g}, seed {self.seed}{shared}",
            *_predicted(self.prediction),
            *([f"energy   {self.energy.joules:.3g} J, {self.energy.source}"] if self.energy.joules is not None else []),
            f"bits     {self.arithmetic}; {self.determinism} · replay {self.replay}",
        ]
        return "\n".join(lines)

    def _repr_html_(self) -> str:
        from trilens.notebook import labelled

        return labelled(self.as_text().splitlines())


def _adapter(used: AdapterReport | None) -> list[str]:
    if used is None:
        return []
    return [f"adapter  {used.name} · {big(used.parameters)} parameters · {data(used.bytes)} in memory"]


def _sources(reused: dict[str, int]) -> str:
    """The origin of cached tokens, if it is not a finished request."""
    words = {"running": "from a running request", "disk": "from disk"}
    found = [f"{n} {words[source]}" for source, n in reused.items() if source in words]
    return f": {', '.join(found)}" if found else ""


def _plain(value: Any) -> Any:
    """`dataclasses.asdict` of what a receipt holds, in a fifth of its time."""
    if hasattr(value, "__dataclass_fields__"):
        return {name: _plain(getattr(value, name)) for name in value.__dataclass_fields__}
    return dict(value) if isinstance(value, dict) else value


NOT_PREDICTED = Prediction(None, None, None, "not predicted")
NO_ENERGY = Energy(None, "not asked")


def write_receipt(
    name: str,
    executor: Executor,
    request: Request,
    writer: AnswerWriter,
    ceiling: Ceiling | None = None,
    energy: Energy = NO_ENERGY,
) -> Receipt:
    """The receipt of a finished request, whose tokens `writer` has counted; its prediction is put in afterwards."""
    g, spec, counts = request, executor.spec, writer.counts.counts
    tokens = Tokens(len(g.prompt), g.cached, counts["thinking"], counts["answer"], counts["control"])
    if tokens.completion != len(g.tokens):
        raise AssertionError(f"the counts do not add up: {tokens} for {len(g.tokens)} tokens")
    parameters = executor.costs.parameters
    begun = len(g.tokens) if writer.before_answer is None else writer.before_answer
    answer_from = len(g.prompt) + begun
    # they follow one another; a step behind `past` tokens draws the token of that number and those it was fed
    first = bisect_left(g.steps, len(g.prompt), key=lambda s: s.past)
    second = max(first, bisect_left(g.steps, answer_from, key=lambda s: s.past + s.fed))
    prompt, decode = g.steps[:first], g.steps[first:]
    parts = (prompt, g.steps[first:second], g.steps[second:], decode, g.repeated)
    costs = executor.costs_with(g.adapter)
    return Receipt(
        model=name,
        family=spec.family,
        executor=executor.name,
        parameters=parameters,
        tokens=tokens,
        thinking=writer.report,
        work=Work(*phases(executor, g, parts, ceiling)),
        time_to_first_token=_between(g.times.called, g.times.first_token),
        queue_seconds=_between(g.times.called, g.times.admitted),
        seconds=_between(g.times.called, g.times.ended) or 0.0,
        reused=dict(g.reused),
        preempted=g.preempted,
        drafts=_drafts_of(costs, decode, executor.prediction_costs, g.block_passes),
        kv_cache_bytes=g.kv_bytes,
        kv_held_bytes=g.kv_held,
        fixed_state_bytes=executor.costs.fixed_bytes,
        weights_bytes=executor.weight_bytes,
        bits_per_weight=8 * executor.weight_bytes / parameters.total,
        converted=dict(Counter(executor.converted.values())),
        adapter=_adapter_of(executor, g.adapter),
        arithmetic=executor.arithmetic,
        same_bits=executor.same_bits,
        determinism=executor.determinism,
        replay=replay_hash((*g.prompt, *g.tokens), g.routes),
        batch=g.largest_batch,
        finish=g.finish or "cancelled",
        temperature=g.sampler.options.temperature,
        seed=g.sampler.options.seed,
        energy=energy,
        prediction=NOT_PREDICTED,
    )


def phases(
    executor: Executor, request: Request, parts: Sequence[Sequence[StepRecord]], ceiling: Ceiling | None = None
) -> list[Phase]:
    """Of these parts of a request's steps."""
    spec, routes, costs = executor.spec, request.routes, executor.costs_with(request.adapter)
    fired = by_routes = [0] * len(parts)
    if routes is not None:
        pieces = [_positions(steps) for steps in parts]
        fired = distinct_experts(spec, routes, pieces)
        if costs.depends_on_routes:
            by_routes = [
                costs.flops_of_routes(fired_experts(spec, routes, piece), sum(s.stop - s.start for s in piece))
                for piece in pieces
            ]
    return [
        _phase_of(executor, costs, steps, experts, flops, ceiling)
        for steps, experts, flops in zip(parts, fired, by_routes, strict=True)
    ]


def _adapter_of(executor: Executor, name: str | None) -> AdapterReport | None:
    if name is None:
        return None
    return AdapterReport(name, executor.adapters[name].parameters, executor.adapter_bytes(name))


def replay_hash(tokens: Sequence[int], routes: np.ndarray | None) -> str:
    """Of a call's tokens and of the experts that fired for them, [tokens fed, columns]."""
    digest = hashlib.sha256(np.array(tokens, "<i4").tobytes())
    if routes is not None:
        digest.update(routes.astype("<u2").tobytes())
    return digest.hexdigest()[:16]


def _between(begin: float, end: float | None) -> float | None:
    return None if end is None else end - begin


def _positions(steps: Sequence[StepRecord]) -> list[slice]:
    """Of the tokens that these steps were fed; between two of them there may be cached ones."""
    found: list[slice] = []
    begin = end = steps[0].past if steps else 0
    for step in steps:
        if step.past != end:
            found.append(slice(begin, end))
            begin = step.past
        end = step.past + step.fed
    return [*found, slice(begin, end)] if steps else found


def _phase_of(
    executor: Executor,
    costs: StepCounter,
    steps: Sequence[StepRecord],
    experts: int,
    by_routes: int,
    ceiling: Ceiling | None,
) -> Phase:
    """The sums of these steps, each of which read its weights anew. `by_routes`: operations that the routes add to what
    was expected."""
    if not steps:
        return Phase(0, 0, 0.0, 0.0, 0, 0, 0, 0, 0, None, None)
    singles = [s for s in steps if s.computed == 1 and s.draws]
    pieces = [s for s in steps if s.computed > 1 or not s.draws] if len(singles) < len(steps) else []
    spans = [Span(s.past, s.computed, int(s.draws)) for s in pieces]
    kept = [Span(s.past, s.fed, s.draws - s.lost) for s in pieces]
    runs = [Span(first, count, count) for first, count in _runs(singles)]
    tokens = len(singles) + sum(s.fed for s in pieces)
    flops = by_routes + costs.flops(tokens, len(singles) + sum(s.draws - s.lost for s in pieces), [*kept, *runs])
    kv = sum(costs.kv_elements_read(s, singly=False) for s in spans)
    kv += sum(costs.kv_elements_read(s, singly=True) for s in runs)
    weights = sum(costs.weight_bytes(s.computed, int(s.draws)) * s.passes for s in pieces)
    weights += sum([s.passes for s in singles]) * costs.weight_bytes(1, 1)
    seconds = sum([s.seconds for s in steps])
    kv_bytes = kv * executor.kv_element_bytes
    fixed = sum(costs.fixed_bytes_moved(s, singly=False) for s in spans)
    fixed += sum(costs.fixed_bytes_moved(s, singly=True) for s in runs)
    fixed += sum(s.proposed for s in pieces) * costs.fixed_bytes  # written behind each token that may be taken back
    moved = weights + kv_bytes + fixed
    known = ceiling is not None and seconds > 0
    return Phase(
        tokens=tokens,
        steps=len(steps),
        seconds=seconds,
        tokens_per_second=tokens / seconds if seconds else 0.0,
        flops=flops,
        weight_bytes=weights,
        kv_bytes=kv_bytes,
        fixed_bytes=fixed,
        distinct_experts=experts,
        bandwidth_share=moved / seconds / ceiling.bytes_per_second if known and ceiling else None,
        arithmetic_share=flops / seconds / ceiling.flops_per_second if known and ceiling else None,
    )


def _drafts_of(
    costs: StepCounter, steps: Sequence[StepRecord], block: StepCounter | None, passes: Sequence[Span]
) -> Drafts:
    """What speculation did in these steps, and in these passes of the block that predicts."""
    drafted = [s for s in steps if s.proposed]
    saved = sum(s.accepted * costs.weight_bytes(1, 1) for s in drafted)
    saved -= sum(costs.weight_bytes(s.computed, s.draws) - costs.weight_bytes(1, 1) for s in drafted)
    lost = 0
    for s in drafted:
        every, kept = Span(s.past, s.computed, s.draws), Span(s.past, s.fed, s.draws - s.lost)
        lost += costs.flops(every.new, s.draws, [every]) - costs.flops(kept.new, s.draws - s.lost, [kept])
    return Drafts(
        proposed=sum(s.proposed for s in drafted),
        accepted=sum(s.accepted for s in drafted),
        predicted=sum(s.predicted for s in drafted),
        predicted_accepted=sum(min(s.predicted, s.accepted) for s in drafted),
        block_flops=block.flops(sum(p.new for p in passes), sum(p.logits for p in passes), passes) if block else 0,
        block_weight_bytes=sum(block.weight_bytes(p.new, p.logits) for p in passes) if block else 0,
        weight_bytes_saved=saved,
        flops_lost=lost,
    )


def _runs(singles: Sequence[StepRecord]) -> Iterator[tuple[int, int]]:
    """(first position, how many) of steps of one token each that follow one another."""
    if singles and singles[-1].past - singles[0].past == len(singles) - 1:
        yield singles[0].past, len(singles)  # nearly always
        return
    first, count = singles[0].past if singles else 0, 0
    for step in singles:
        if step.past != first + count:
            yield first, count
            first, count = step.past, 0
        count += 1
    if count:
        yield first, count


def thinking_lines(report: ThinkingReport) -> list[str]:
    """Nothing for a call without any thinking."""
    if report.requested is None and not report.thought and not report.unasked:
        return []
    budget = "" if report.budget is None else f" · budget {report.budget}"
    closed = "" if report.closed_by is None else f" · closed by {report.closed_by}"
    unasked = " · the model thought although thinking was off" if report.unasked else ""
    match report.requested:
        case None:
            requested = "the default"
        case bool(on):
            requested = "on" if on else "off"
        case level:
            requested = str(level)
    return [f"thinking {report.effective} (requested: {requested}){budget}{closed}{unasked}"]


def _phase(name: str, p: Phase) -> str:
    if not p.steps:
        return f"{name:8} nothing to compute"
    shares = ((p.bandwidth_share, "bandwidth"), (p.arithmetic_share, "arithmetic"))
    reached = " and ".join(f"{share:.0%} of the {what}" for share, what in shares if share is not None)
    experts = f" · {p.distinct_experts} experts fired" if p.distinct_experts else ""
    count = f"{p.tokens} token{'s' * (p.tokens != 1)}"
    return (
        f"{name:8} {count} in {p.seconds:.2f} s · {p.tokens_per_second:.1f} tok/s · {flop(p.flops)} · "
        f"{data(p.weight_bytes)} weights and {data(p.kv_bytes)} KV read{experts}{' · ' + reached if reached else ''}"
    )


def _drafts(d: Drafts) -> list[str]:
    if not d.proposed and not d.block_flops:
        return []
    saved = data(max(0, d.weight_bytes_saved))
    block = ""
    if d.block_flops:
        work = f"{flop(d.block_flops)} and {data(d.block_weight_bytes)} weights read"
        block = f", {d.predicted_accepted} of {d.predicted} by the prediction block ({work})"
    return [
        f"drafts   {d.accepted} of {d.proposed} proposed tokens were right{block} · "
        f"{saved} of weights not read again · {flop(d.flops_lost)} in vain"
    ]


def _predicted(prediction: Prediction) -> list[str]:
    parts = []
    for what, unit, scale, known in (
        ("to the first token", "ms", 1e3, prediction.first_token),
        ("per token", "ms", 1e3, prediction.token),
        ("of thinking", "tokens", 1, prediction.thinking_tokens),
    ):
        if known is not None:
            low, middle, high, took = (scale * n for n in (known.p10, known.p50, known.p90, known.measured))
            parts.append(f"{middle:.3g} ({low:.3g} to {high:.3g}) {unit} {what}, measured {took:.3g}")
    return [f"forecast {' · '.join(parts)}"] if parts else []
