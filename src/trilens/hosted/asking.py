"""How to ask one model for thinking: every possible value, and the request fields for it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from trilens.errors import RequestRefused, UsageError
from trilens.hosted.load import load_hosted
from trilens.hosted.names import ADDRESS, VENDORS, at_vendor
from trilens.hosted.table import Row, ask, row_for, rows, words
from trilens.text.strategy import Thinking
from trilens.text.thinking import Inference

SAMPLING = {
    "free": "temperature and similar options are accepted",
    "not while thinking": "temperature and similar options are accepted only without thinking",
    "never": "temperature and similar options are refused",
}


@dataclass(frozen=True)
class Asking:
    """`fields` of the request for each value of `thinking`, as `--thinking` writes it; under `NOTHING` those without
    a request for thinking. None: this cannot be requested there.
    """

    where: str
    default: str
    fields: Mapping[str, Mapping[str, Any] | None]
    source: str
    sampling: str = ""
    note: str = ""

    def as_dict(self) -> dict[str, Any]:
        return {
            "where": self.where,
            "default": self.default,
            "fields": {name: None if said is None else dict(said) for name, said in self.fields.items()},
            "sampling": self.sampling,
            "source": self.source,
            "note": self.note,
        }

    def as_text(self) -> str:
        lines = [self.where, f"  {'by default':<12}  {self.default}"]
        for name, said in self.fields.items():
            shown = "not possible" if said is None else json.dumps(said) if said else "nothing is sent"
            lines.append(f"  {name:<12}  {shown}")
        for name in ("sampling", "note", "source"):
            if said := getattr(self, name):
                lines.append(f"  {name:<12}  {said}")
        return "\n".join(lines)


NOTHING = "not asked"


def word(value: Thinking) -> str:
    """A value of `thinking` as the command line writes it."""
    match value:
        case None:
            return NOTHING
        case bool(on):
            return "on" if on else "off"
        case level:
            return str(level)


def asking(name: str, *, engine: str | None = None, offline: bool = False) -> list[Asking]:
    """For a hosted model, its row of thinking.toml. For a model with weights, the settings of its template and the
    row of every engine, or of the named one. Raises what `load_hosted` and `card_source` do, but needs no key.
    """
    vendors = at_vendor(name)
    if vendors is not None:
        return [_of_row(row_for(*vendors), vendors[1], name)]
    if ADDRESS.match(name):
        there = load_hosted(name, engine=engine).elsewhere
        return [_of_row(there.row, there.model, f"{there.model}, {there.where}")]
    from trilens.lenses.cards.source import card_source

    source = card_source(name, offline=offline)
    engines = [row for row in rows() if not row.hosts and row.service not in VENDORS]
    chosen = [row for row in engines if engine in (None, row.service)]
    if not chosen:
        raise UsageError(f"engine is {engine!r}; expected one of {', '.join(row.service for row in engines)}")
    return [_of_template(source.inference, source.title), *(_of_row(row, name, row.service) for row in chosen)]


def _of_row(row: Row, model: str, where: str) -> Asking:
    said: dict[str, Mapping[str, Any] | None] = {NOTHING: ask(row, model, None).request}
    values: tuple[Thinking, ...] = (False, True, *row.levels)
    for value in values:
        try:
            said[word(value)] = ask(row, model, value).request
        except RequestRefused:
            said[word(value)] = None
    said["a number"] = row.budget
    note = "; ".join(part for part in (row.note, words(row)[-1] if row.budget is not None else "") if part)
    return Asking(where, row.default, said, row.source, SAMPLING[row.sampling], note)


def _of_template(inference: Inference, title: str) -> Asking:
    """The variables and the text that the model's own chat template is given; a budget is kept by trilens itself."""
    by_name = {s.name: s for s in inference.settings}
    said: dict[str, Mapping[str, Any] | None] = {NOTHING: {}}
    if inference.kind == "unknown":
        return Asking(f"{title}, here", "unknown", said, inference.source)
    for value, name in ((False, "off"), (True, "on")):
        setting = by_name.get(name)
        nothing: Mapping[str, Any] | None = {} if inference.kind == "never" and not value else None
        said[name] = nothing if setting is None else _told(setting.variables, setting.text, setting.text_role)
    if said["on"] is None and inference.levels:
        said["on"] = {}
    for level in inference.levels:
        setting = by_name[level]
        said[level] = _told(setting.variables, setting.text, setting.text_role)
    said["a number"] = {} if inference.markers is not None and inference.kind != "never" else None
    note = "trilens counts the tokens and ends the thinking" if said["a number"] is not None else ""
    return Asking(f"{title}, here", inference.default or "off", said, inference.source, "", note)


def _told(variables: Mapping[str, Any], text: str | None, role: str | None) -> dict[str, Any]:
    return {**variables, **({} if text is None else {f"text in the {role} message": text})}
