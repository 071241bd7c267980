"""The answer of `trilens which` as text."""

from __future__ import annotations

from typing import TYPE_CHECKING

from trilens.lenses.layout import heading, paragraph, table, terminal_width
from trilens.units import big, data

if TYPE_CHECKING:
    from trilens.lenses.plans.which import Answer, Candidate

SHOWN = 15


def which_text(answer: Answer, width: int | None = None, most: int = SHOWN) -> str:
    width = width or terminal_width()
    device = answer.at.device
    assert device is not None
    shown = answer.candidates[:most]
    title = f"{answer.at.count} x {device.title} with {answer.engine}"
    lines = heading(title, f"{len(answer.candidates)} of {answer.known} models fit", width)
    asked = f"{answer.batch} x {answer.context} tokens · {data(answer.capacity)} for the model"
    lines += paragraph("asked", asked, width)
    lines += paragraph("sorted by", f"{answer.sorted_by}; not a quality: none is claimed here", width)
    if shown:
        lines += paragraph("speed", shown[0].forecast.source, width)
        lines.append("")
        head = ["model", "total", "active", "weights", "memory", "tokens/s", "first token", "thinking", "answer"]
        lines += table(head, [_row(c) for c in shown], width, indent=2)
    if len(answer.candidates) > len(shown):
        lines += ["", f"{len(answer.candidates) - len(shown)} more; --all shows them"]
    return "\n".join(line.rstrip() for line in lines)


def _row(c: Candidate) -> list[str]:
    t, first = c.forecast.tokens, c.forecast.first_token
    return [
        c.model,
        big(c.total),
        big(c.active),
        c.weights,
        data(c.memory),
        f"{t.p50:.0f} ({t.p10:.0f} to {t.p90:.0f})",
        "unknown" if first is None else f"{first.p50:.1f} s",
        "-" if c.thinking is None else f"{c.thinking.tokens.p50:.0f}",
        f"{c.answer:.0f} s",
    ]
