"""How long a call will take, as the range from the 10th to the 90th percentile, and the source of the estimate."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from fractions import Fraction

from trilens.executors.accountant import Span, kv_bytes, step_cost, token_cost
from trilens.lenses.calibration import Calibration, middle_and_ends
from trilens.lenses.memory import Job
from trilens.lenses.predict import Runner
from trilens.lenses.target import Target
from trilens.spec.model import ModelSpec

# Of the predicted seconds, where no run of the model has corrected them, and where one has: docs/predictions.md.
UNCALIBRATED = (0.88, 1.0, 1.2)
CALIBRATED = (0.9, 1.0, 1.14)
ENOUGH = 5  # runs, from which their own spread is taken
# What decoding reaches of a device's memory bandwidth or arithmetic in engines that people measured.
REACHED = (0.5, 0.6, 0.7)
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


def on_accelerators(spec: ModelSpec, job: Job, weights: int, total: int, target: Target) -> Forecast:
    """The roofline of devices that share every layer: the slower of reading and multiplying, with what engines reach of
    it; reading alone for a device whose arithmetic its source does not state.

    `weights`: bytes of all `total` parameters; a step reads those that it touches, which the accountant expects.
    """
    device = target.device
    assert device is not None
    rates = [rate * job.tensor for kind, rate in device.arithmetic.items() if kind in ("bf16", "f16")]
    bandwidth = device.bandwidth * job.tensor  # pipeline stages take turns on one token
    step = token_cost(spec, job.context, job.batch)
    read = step.weight_bytes(lambda p: Fraction(weights, total))
    read += job.batch * kv_bytes(spec, job.context, job.key_bytes) + step.fixed_bytes_moved()
    sent = 2 * len(spec.layers) * job.batch * spec.width * 2 * 2 * (job.tensor - 1) / job.tensor
    link = sent / device.link if device.link and job.tensor > 1 else 0.0
    low, middle, high = REACHED
    spread = Interval(1 / high, 1 / middle, 1 / low)
    seconds = max([read / bandwidth, *(step.flops() / rate for rate in rates)]) + link
    prompt = step_cost(spec, [Span(0, job.context)]).flops()
    first = spread.scaled(max(prompt / rates[0], weights / bandwidth)) if rates else None
    parts = [f"roofline of {device.title} with {low:g} to {high:g} of it reached"]
    if not rates:
        parts.append("its source states no arithmetic, so only memory reads are counted")
    if job.tensor > 1:
        parts.append("the link's latency is not counted" if device.link else "the link is not counted")
    return Forecast(first, spread.scaled(seconds), job.batch, 0, "; ".join(parts))


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
