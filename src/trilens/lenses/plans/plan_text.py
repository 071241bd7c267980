"""A plan as text."""

from __future__ import annotations

from typing import TYPE_CHECKING

from trilens.lenses.costs.forecast import Interval
from trilens.lenses.layout import heading, paragraph, table, terminal_width
from trilens.lenses.plans.commands import CHECKED
from trilens.units import data

if TYPE_CHECKING:
    from trilens.lenses.plans.plan import Plan


def plan_text(plan: Plan, width: int | None = None) -> str:
    width = width or terminal_width()
    at, m, job = plan.target, plan.memory, plan.job
    title = "this machine" if at.device is None else f"{at.count} x {at.device.title}"
    verdict = "fits" if plan.fits else "does not fit"
    lines = heading(f"{plan.model} on {title} with {plan.engine}", verdict, width)
    lines += paragraph(
        "asked", f"{job.batch} x {job.context} tokens · {_kv(plan)} cache · weights {plan.choice.type}", width
    )
    if at.count > 1:
        split = f"{job.tensor} tensor x {job.pipeline} pipeline"
        lines += paragraph("parallel", split + (f" · experts over {plan.expert}" if plan.expert > 1 else ""), width)
    scratch = "unknown" if m.scratch is None else data(m.scratch)
    least = "at least " if m.unknown else ""
    fixed = " · unknown fixed states" if m.fixed is None else f" · {data(m.fixed)} fixed states" if m.fixed else ""
    sizes = f"{data(m.weights)} weights · {data(m.kv)} KV{fixed} · {scratch} scratch · {least}{data(m.total)} of "
    lines += paragraph("memory", sizes + data(plan.capacity), width)
    lines += paragraph("", m.meaning, width)
    for said in plan.held:
        lines += paragraph("held", said, width)
    for unknown in m.unknown:
        lines += paragraph("unknown", unknown, width)
    lines += _speed(plan, width)
    best = "no type fits" if plan.best is None else f"{plan.best.type} is the largest type that fits"
    lines += ["", *paragraph("weights", best, width)]
    rows = [[c.type, data(c.memory.weights), data(c.memory.total), "yes" if c.fits else "no"] for c in plan.choices]
    lines += table(["type", "weights", "total", "fits"], rows, width, indent=4)
    lines.append("")
    for engine, command in plan.commands.items():
        lines += [f"# {engine} ({CHECKED[engine]})", command]
    return "\n".join(line.rstrip() for line in lines)


def _speed(plan: Plan, width: int) -> list[str]:
    f = plan.forecast
    if f is None:
        return paragraph("speed", f"unknown: {plan.no_forecast}", width)
    together = " together" if f.batch > 1 else ""
    lines = paragraph("speed", f"{_interval(f.tokens, '{:.1f}')} tokens a second{together} at that context", width)
    first = "unknown" if f.first_token is None else f"{_interval(f.first_token, '{:.2f}')} s"
    lines += paragraph("", f"first token of a prompt of that length: {first}", width)
    lines += paragraph("", f.source, width)
    if plan.length is not None:
        t, times = plan.length.tokens, plan.length.multiplier
        words = (
            f"{plan.thinking}: {_interval(t, '{:.0f}')} tokens, a call takes {_interval(times, '{:.1f}')} times as many"
        )
        lines += paragraph("thinking", words, width)
        lines += paragraph("", plan.length.source, width)
    return lines


def _interval(i: Interval, form: str) -> str:
    low, middle, high = (form.format(v) for v in (i.p10, i.p50, i.p90))
    return f"{middle} ({low} to {high})"


def _kv(plan: Plan) -> str:
    keys, values = plan.job.key_type, plan.job.value_type
    return keys if keys == values else f"{keys} and {values}"
