"""How long a call will take, as the range from the 10th to the 90th percentile, and the source of the estimate."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace

from trilens.lenses.costs.calibration import Calibration, middle_and_ends
from trilens.lenses.costs.costs import Step, costs
from trilens.lenses.costs.predict import Runner
from trilens.lenses.costs.shape import Shape, shape_of
from trilens.lenses.costs.weight_format import Bits
from trilens.lenses.machines.target import Accelerator, Target
from trilens.lenses.memory.job import Job
from trilens.spec.model import ModelSpec

# Of the predicted seconds, where no run of the model has corrected them, and where one has: docs/predictions.md.
UNCALIBRATED = (0.91, 1.0, 1.38)
CALIBRATED = (0.8, 1.0, 1.11)
ENOUGH = 5  # runs, from which their own spread is taken
ANSWER = 256  # tokens of an answer behind a thinking, where a sum needs them
# Tokens of thinking where no call of the model here has shown any: a prior, of no model in particular.
PRIOR = {"minimal": (30, 100, 300), "low": (100, 300, 1000), "on": (300, 1200, 4800), "high": (800, 3000, 12000)}
PRIOR |= {"medium": PRIOR["on"], "max": PRIOR["high"], "xhigh": PRIOR["high"]}


@dataclass(frozen=True)
class Interval:
    """The 10th, 50th and 90th percentiles."""

    p10: float
    p50: float
    p90: float

    def scaled(self, factor: float) -> Interval:
        return Interval(self.p10 * factor, self.p50 * factor, self.p90 * factor)

    def rate(self, units: float) -> Interval:
        """Units per second, for an interval of seconds."""
        return Interval(units / self.p90, units / self.p50, units / self.p10)

    def as_dict(self) -> dict[str, float]:
        return asdict(self)


@dataclass(frozen=True)
class Forecast:
    """Seconds. `first_token` of a prompt as long as the context, `token` of a step at that context; `tokens` a second
    of all sequences together. None where a device's source does not state its arithmetic. `calibrated`: by how many
    runs. `source` says on what it rests."""

    first_token: Interval | None
    token: Interval
    batch: int
    calibrated: int
    source: str

    @property
    def tokens(self) -> Interval:
        return self.token.rate(self.batch)


@dataclass(frozen=True)
class ThinkingLength:
    """Tokens of thinking before an answer, and the source of this estimate."""

    tokens: Interval
    source: str

    @property
    def multiplier(self) -> Interval:
        """Tokens of a whole call over those of its answer."""
        t = self.tokens
        return Interval(*(1 + n / ANSWER for n in (t.p10, t.p50, t.p90)))


def on_this_machine(runner: Runner, job: Job, known: Calibration) -> Forecast:
    first, first_runs = corrected(runner.first_token_seconds(job.context), known.prefill)
    token, token_runs = corrected(runner.token_seconds(job.context, job.batch), known.decode)
    runs = min(first_runs, token_runs) if job.context > 1 else token_runs
    source = f"this machine's kernels, measured on {runner.machine.date}"
    source += f", corrected by {runs} run{'s' * (runs > 1)} of this model" if runs else "; no run of this model yet"
    return Forecast(first, token, job.batch, runs, source)


def corrected(seconds: float, ratios: Sequence[float]) -> tuple[Interval, int]:
    """(predicted seconds as an interval, of how many runs): `ratios` are of measured to predicted seconds."""
    if len(ratios) >= ENOUGH:
        factors = middle_and_ends(ratios)
    elif ratios:
        middle = sorted(ratios)[len(ratios) // 2]
        factors = tuple(middle * f for f in CALIBRATED)  # type: ignore[assignment]
    else:
        factors = UNCALIBRATED
    return Interval(*(seconds * f for f in factors)), len(ratios)


def on_accelerators(
    spec: ModelSpec, engine: str, job: Job, bits: Bits, target: Target, accepted: float = 1.0
) -> Forecast:
    """By the cost model that published measurements taught (`costs.py`). `accepted`: tokens that a step yields for each
    sequence on average, with speculative decoding."""
    device = target.device
    assert device is not None
    return forecast_of_shape(shape_of(spec), engine, job, bits, device, accepted)


def forecast_of_shape(
    shape: Shape, engine: str, job: Job, bits: Bits, device: Accelerator, accepted: float = 1.0
) -> Forecast:
    """The same for a model of which only the shape is known. No first token where the arithmetic is not stated."""
    known = costs()
    step = Step("decode", engine, device.kind, job.batch, job.context, job.tensor, job.pipeline, accepted=accepted)
    prompt = replace(step, kind="prefill", batch=1, accepted=1.0)
    token = _spread(known.seconds(shape, bits, device, step), known.ends(step))
    first = None
    if device.arithmetic:
        first = _spread(known.seconds(shape, bits, device, prompt), known.ends(prompt))
    taught = known.machines.get(f"{engine}/{device.kind}", 0)
    parts = [f"fitted to {known.rows} published measurements, {engine} on {device.kind} seen on {_machines(taught)}"]
    parts += known.meaning(shape, bits, device, step)
    if first is None:
        parts.append("its arithmetic is not stated, so the first token is unknown")
    if accepted != 1:
        parts.append(f"a step is said to yield {accepted:g} tokens")
    return Forecast(first, token, job.batch, 0, "; ".join(parts))


def _spread(seconds: float, ends: tuple[float, float]) -> Interval:
    return Interval(seconds * ends[0], seconds, seconds * ends[1])


def _machines(count: int) -> str:
    return "no machine" if count == 0 else f"{count} machine{'s' * (count > 1)}"


def thinking_length(word: str, known: Calibration) -> ThinkingLength:
    """`word`: what was asked for: on, a level, or a most number of tokens."""
    seen = known.thinking.get(word, ())
    if len(seen) >= 2:
        ends = middle_and_ends([float(n) for n in seen])
        return ThinkingLength(Interval(*ends), f"{len(seen)} calls of this model on this machine")
    if word.isdigit():
        most = float(word)
        low, middle, high = (min(most, float(n)) for n in PRIOR["on"])
        return ThinkingLength(
            Interval(low, middle, high), "a general prior, limited by the budget; no call of this model here yet"
        )
    low, middle, high = PRIOR.get(word, PRIOR["on"])
    return ThinkingLength(Interval(low, middle, high), "a general prior; no call of this model here yet")
