"""Which model to use: plans on one machine, with speed, memory, and thinking as a multiplier."""

from __future__ import annotations

import textwrap
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from trilens.errors import RequestRefused, UsageError
from trilens.executors.accountant import count_parameters
from trilens.lenses.costs.forecast import ANSWER, Interval
from trilens.lenses.layout import table_in_parts, terminal_width
from trilens.lenses.machines.target import target
from trilens.lenses.plans.dense_or_routed import machine_of
from trilens.lenses.plans.plan import Plan, plan
from trilens.units import data

HEADER = ("model", "tag", "weights", "memory", "fits", "tok/s", "p10 to p90", "thinking", "answer after")


@dataclass(frozen=True)
class PlanComparison:
    """Plans in the order of their names. `unknown` has the models of unknown size, each with the reason."""

    plans: tuple[Plan, ...]
    unknown: dict[str, str]
    machine: str
    context: int

    def as_dict(self) -> list[dict[str, Any]]:
        known = [{**p.as_dict(), "seconds_to_answer": _dict(answer_seconds(p))} for p in self.plans]
        return known + [{"model": name, "unknown": why} for name, why in self.unknown.items()]

    def as_text(self, width: int | None = None) -> str:
        width = width or terminal_width()
        lines = table_in_parts(HEADER, [_row(p) for p in self.plans], width)
        said = (
            f"On {self.machine}, with sequences of {self.context} tokens, or a model's maximum. thinking: tokens of "
            f"the whole call divided by the {ANSWER} of its answer. answer after: seconds until its last token, for "
            "a prompt of one token."
        )
        lines += ["", *textwrap.wrap(said, width)]
        sources = {p.length.source for p in self.plans if p.length is not None}
        lines += [
            line
            for source in sorted(sources)
            for line in textwrap.wrap(f"The length of the thinking is from {source}.", width)
        ]
        for name, why in self.unknown.items():
            lines += textwrap.wrap(f"{name}: {why}", width)
        at = target(self.machine)
        routed = [p for p in self.plans if p.backbone == "routed"]
        if at.device is not None and routed:
            there = machine_of(at.device, at.count)
            verdicts = [there.verdict(p.model, count_parameters(p.spec)) for p in routed]
            for line in [there.rule(), *verdicts]:
                lines += ["", *textwrap.wrap(line, width)]
        return "\n".join(lines)


def compare_plans(
    names: Sequence[str],
    *,
    context: int,
    machine: str,
    thinking: str | None = None,
    batch: int = 1,
    engine: str | None = None,
    offline: bool = False,
    say: Callable[[str], None] = lambda line: None,
) -> PlanComparison:
    """`thinking` applies to the models that can think; others are compared without it."""
    if not names:
        raise UsageError("nothing to compare; expected the names of two models or more")
    plans, unknown = [], {}
    for name in names:
        options = {"machine": machine, "batch": batch, "engine": engine, "offline": offline, "say": say}
        try:
            plans.append(_plan(name, context, thinking, options))
        except RequestRefused as problem:
            unknown[name] = str(problem)
    return PlanComparison(tuple(plans), unknown, machine, context)


def answer_seconds(p: Plan) -> Interval | None:
    """Seconds from a prompt of one token to the end of an answer of `ANSWER` tokens, its thinking included."""
    if p.forecast is None:
        return None
    t, times = p.forecast.token, Interval(1.0, 1.0, 1.0) if p.length is None else p.length.multiplier
    return Interval(ANSWER * t.p10 * times.p10, ANSWER * t.p50 * times.p50, ANSWER * t.p90 * times.p90)


def _plan(name: str, context: int, thinking: str | None, options: dict[str, Any]) -> Plan:
    from trilens.lenses.cards.source import card_source

    source = card_source(name, offline=options["offline"])
    if source.reading is None:
        raise RequestRefused(source.without_numbers)
    never = source.inference.kind == "never"
    return plan(
        name, context=min(context, source.reading.spec.context), thinking=None if never else thinking, **options
    )


def _row(p: Plan) -> tuple[str, ...]:
    f, seconds = p.forecast, answer_seconds(p)
    mark = {"dense": "o dense", "routed": "# routed"}[p.backbone]
    least = ">= " if p.memory.unknown else ""
    return (
        p.model,
        mark,
        p.choice.type,
        least + data(p.memory.total),
        "yes" if p.fits else "no",
        "unknown" if f is None else f"{f.tokens.p50:.1f}",
        "unknown" if f is None else f"{f.tokens.p10:.1f} to {f.tokens.p90:.1f}",
        "none" if p.length is None else f"x {p.length.multiplier.p50:.1f}",
        "unknown" if seconds is None else f"{seconds.p50:.1f} s",
    )


def _dict(interval: Interval | None) -> dict[str, float] | None:
    return None if interval is None else interval.as_dict()
