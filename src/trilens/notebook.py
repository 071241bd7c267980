"""HTML for notebooks, for `_repr_html_` of answers, receipts, cards and traces.

Colours come from the notebook if possible, so that a dark one stays dark. All text is escaped, because a model can
write anything.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape

COLOURS = ("#4c78a8", "#f58518", "#54a24b", "#b279a2", "#e45756", "#72b7b2", "#9d755d", "#bab0ac")
_CELL = "text-align:left;vertical-align:top;padding:1px 10px 1px 0;border:0;background:none"
_PRE = "white-space:pre;overflow-x:auto;font-family:monospace;font-size:85%;margin:4px 0"


def answer_html(text: str, thinking: str, receipt: str) -> str:
    """`receipt` is its text."""
    thoughts = folded("thinking", f'<div style="white-space:pre-wrap;opacity:.7">{escape(thinking)}</div>')
    said = f'<div style="white-space:pre-wrap;margin:4px 0">{escape(text)}</div>'
    return f"<div>{thoughts if thinking else ''}{said}{folded('receipt', labelled(receipt.splitlines()))}</div>"


def labelled(lines: Sequence[str]) -> str:
    """Lines that begin with a word as a table of two columns."""
    return pairs([tuple(line.split(maxsplit=1)) for line in lines if line.strip()])


def pairs(rows: Sequence[Sequence[str]]) -> str:
    """(label, text) each."""
    cells = "".join(
        f'<tr style="background:none"><th style="{_CELL}">{escape(row[0])}</th>'
        f'<td style="{_CELL}">{escape(" ".join(row[1:]))}</td></tr>'
        for row in rows
    )
    return f'<table style="border-collapse:collapse;margin:4px 0">{cells}</table>'


def folded(title: str, content: str) -> str:
    return f'<details><summary style="cursor:pointer;opacity:.7">{escape(title)}</summary>{content}</details>'


def titled(title: str, note: str, *content: str) -> str:
    head = f'<b>{escape(title)}</b> <span style="opacity:.7">{escape(note)}</span>'
    return f"<div>{head}{''.join(content)}</div>"


def preformatted(text: str) -> str:
    return f'<pre style="{_PRE}">{escape(text)}</pre>'


def bars(rows: Mapping[str, Mapping[str, float]], said: Mapping[str, str], width: int = 420) -> str:
    """A bar for each row, put together from its parts and drawn to one scale; `said` stands behind each bar. Parts that
    are nowhere are not drawn, but keep their colours, so that two pictures can be compared.
    """
    every = list(dict.fromkeys(part for row in rows.values() for part in row))
    parts = [part for part in every if any(row.get(part) for row in rows.values())]
    most = max(sum(row.values()) for row in rows.values()) or 1
    colour = {part: COLOURS[i % len(COLOURS)] for i, part in enumerate(every)}
    drawn = []
    for i, (label, row) in enumerate(rows.items()):
        y, x = 22 * i, 90.0
        drawn.append(f'<text x="84" y="{y + 13}" text-anchor="end">{escape(label)}</text>')
        for part in parts:
            long = width * row.get(part, 0) / most
            drawn.append(
                f'<rect x="{x:.1f}" y="{y}" width="{long:.1f}" height="18" fill="{colour[part]}">'
                f"<title>{escape(part)}</title></rect>"
            )
            x += long
        drawn.append(f'<text x="{x + 6:.1f}" y="{y + 13}">{escape(said[label])}</text>')
    legend, x = [], 90
    for part in parts:
        y = 22 * len(rows) + 4
        legend.append(f'<rect x="{x}" y="{y}" width="10" height="10" fill="{colour[part]}"/>')
        legend.append(f'<text x="{x + 14}" y="{y + 9}">{escape(part)}</text>')
        x += 26 + 7 * len(part)
    return _svg(max(width + 200, x), 22 * len(rows) + 20, [*drawn, *legend])


def heat_map(rows: Mapping[str, Sequence[float]], wide: int = 720) -> str:
    """A row of cells for each label; 0 is blank, 1 half and 2 or more the full colour."""
    most = max(len(row) for row in rows.values())
    cell, high = wide / most, 14 if len(rows) <= 24 else 7
    drawn = []
    for i, (label, row) in enumerate(rows.items()):
        if high > 7 or i % 4 == 0:
            drawn.append(f'<text x="34" y="{high * i + 10}" text-anchor="end">{escape(label)}</text>')
        for j, value in enumerate(row):
            if value > 0:
                drawn.append(
                    f'<rect x="{40 + cell * j:.1f}" y="{high * i}" width="{max(cell - 0.5, 0.5):.1f}" '
                    f'height="{high - 1}" fill="{COLOURS[0]}" fill-opacity="{min(1.0, value / 2):.2f}">'
                    f"<title>layer {escape(label)}, expert {j}: {value:.2f}</title></rect>"
                )
    return _svg(wide + 50, high * len(rows), drawn)


def _svg(width: float, height: float, content: Sequence[str]) -> str:
    style = "font:11px sans-serif;fill:currentColor;display:block;margin:6px 0;max-width:100%"
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{width:.0f}" height="{height:.0f}" '
        f'viewBox="0 0 {width:.0f} {height:.0f}" style="{style}">{"".join(content)}</svg>'
    )
