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
    """A table; under it why each tag is what it is, and where to look where something is unknown."""
    width = width or terminal_width()
    rows = [(t.name, t.backbone, t.inference) for t in tags]
    lines = table(("model", "backbone", "inference"), rows, width, indent=0)
    unknown: dict[str, list[str]] = {}
    for t in tags:
        if t.look_up:
            unknown.setdefault(t.look_up, []).append(t.name)
    for title, said in (
        ("why", [f"{t.name}: {t.why}" for t in tags]),
        ("look up next", [f"{', '.join(names)}: {place}" for place, names in unknown.items()]),
    ):
        lines += ["", title] if said else []
        for one in said:
            lines += textwrap.wrap(one, width, initial_indent="  ", subsequent_indent="    ", break_on_hyphens=False)
    return "\n".join(lines)


def tag_as_dict(tag: Recognised) -> dict[str, Any]:
    return {**asdict(tag), "tag": tag.tag, "known_as": list(tag.known_as)}
