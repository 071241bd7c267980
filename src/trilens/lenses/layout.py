"""Text for terminals of any width: labelled paragraphs, and tables that become lists if they do not fit."""

from __future__ import annotations

import shutil
import textwrap
import unicodedata
from collections.abc import Sequence
from itertools import pairwise

NARROW = 60  # columns; below, a label stands on a line of its own
LABEL = 14


def terminal_width() -> int:
    """$COLUMNS, else the terminal's, else 100."""
    return max(20, shutil.get_terminal_size((100, 24)).columns)


def paragraph(label: str, text: str, width: int) -> list[str]:
    """The label, and the text beside it, or below it where there is little room."""
    if width < NARROW:
        first = ["  " + label] if label else []
        return first + textwrap.wrap(text, width, initial_indent="    ", subsequent_indent="    ")
    indent = " " * (LABEL + 2)
    lead = "  " + label.ljust(LABEL - 1) + " "
    return textwrap.wrap(text, width, initial_indent=lead, subsequent_indent=indent, break_on_hyphens=False) or [lead]


def columns(text: str) -> int:
    """How many a terminal gives to the text: two for a letter of Hangul, Chinese or kana."""
    return sum(0 if unicodedata.combining(c) else 1 + (unicodedata.east_asian_width(c) in "WF") for c in text)


def heading(name: str, tag: str, width: int) -> list[str]:
    """The first line of a card, or its first two."""
    line = f"{name}  [{tag}]"
    return [line] if len(line) <= width else [*textwrap.wrap(name, width), *textwrap.wrap(f"[{tag}]", width)]


def table(header: Sequence[str], rows: Sequence[Sequence[str]], width: int, indent: int = 2) -> list[str]:
    """The first column to the left, the others to the right; each row as a small list if the table is too wide."""
    sizes = [max(columns(row[i]) for row in [header, *rows]) for i in range(len(header))]
    if indent + sum(sizes) + 2 * (len(sizes) - 1) <= width:
        return [" " * indent + _line(row, sizes) for row in [header, *rows]]
    lines = []
    for row in rows:
        lines += textwrap.wrap(row[0], width, initial_indent=" " * indent, subsequent_indent=" " * (indent + 2))
        for name, value in zip(header[1:], row[1:], strict=True):
            lines += textwrap.wrap(
                f"{name} {value}", width, initial_indent=" " * (indent + 2), subsequent_indent=" " * (indent + 4)
            )
    return lines


def table_in_parts(header: Sequence[str], rows: Sequence[Sequence[str]], width: int) -> list[str]:
    """A table whose columns go below each other where they do not fit beside each other, the first one repeated."""
    sizes = [max(len(row[i]) for row in [header, *rows]) for i in range(len(header))]
    parts: list[list[int]] = [[]]
    for i in range(1, len(header)):
        taken = sizes[0] + sum(2 + sizes[j] for j in parts[-1])
        if parts[-1] and taken + 2 + sizes[i] > width:
            parts.append([])
        parts[-1].append(i)
    lines: list[str] = []
    for part in parts:
        if lines:
            lines.append("")
        shown = [0, *part]
        lines += table([header[i] for i in shown], [[row[i] for i in shown] for row in rows], width, indent=0)
    return lines


def ranges(numbers: Sequence[int]) -> str:
    """0-2, 5 for consecutive ones; "1, 3, ... 47" where they are evenly spaced."""
    steps = {b - a for a, b in pairwise(numbers)}
    if len(numbers) > 3 and len(steps) == 1 and (step := steps.pop()) > 1:
        return f"every {step}. from {numbers[0]} to {numbers[-1]}"
    parts: list[tuple[int, int]] = []
    for n in numbers:
        if parts and parts[-1][1] == n - 1:
            parts[-1] = (parts[-1][0], n)
        else:
            parts.append((n, n))
    return ", ".join(str(a) if a == b else f"{a}-{b}" for a, b in parts)


def spaced(n: int) -> str:
    """30532122624 -> 30,532,122,624."""
    return f"{n:,}"


def _line(row: Sequence[str], sizes: Sequence[int]) -> str:
    blank = [" " * (size - columns(cell)) for cell, size in zip(row, sizes, strict=True)]
    return "  ".join(
        [row[0] + blank[0], *(space + cell for space, cell in zip(blank[1:], row[1:], strict=True))]
    ).rstrip()
