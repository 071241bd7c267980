"""Tags for names as people write them: the backbone, the inference, and what to look up where one is unknown."""

from __future__ import annotations

import textwrap
from collections.abc import Iterable
from dataclasses import asdict
from typing import Any

from trilens.lenses.layout import table, terminal_width
from trilens.spec.catalog.recognise import Recognised, recognise


def read_names(text: str) -> list[str]:
    """One name a line; blank lines and lines that begin with # are left out, and so are list marks."""
    lines = (line.strip().lstrip("*•").strip() for line in text.splitlines())
    names = [line.removeprefix("- ").strip() for line in lines]
    return [name for name in names if name and not name.startswith("#")]


def tag_names(names: Iterable[str]) -> list[Recognised]:
    return [recognise(name) for name in names]


def tags_as_text(tags: list[Recognised], width: int | None = None) -> str:
    """A table, and under it a line for each name of which something is unknown."""
    width = width or terminal_width()
    rows = [(t.name, t.backbone, t.inference) for t in tags]
    lines = table(("model", "backbone", "inference"), rows, width, indent=0)
    unknown = [t for t in tags if t.look_up]
    if unknown:
        lines += ["", "look up next"]
        for t in unknown:
            lines += textwrap.wrap(f"{t.name}: {t.look_up}", width, initial_indent="  ", subsequent_indent="    ")
    return "\n".join(lines)


def tag_as_dict(tag: Recognised) -> dict[str, Any]:
    return {**asdict(tag), "tag": tag.tag, "known_as": list(tag.known_as)}
