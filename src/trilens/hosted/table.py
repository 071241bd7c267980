"""How to ask services and engines for thinking: the rows of thinking.toml, and the request fields for a caller's
value.
"""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from fnmatch import fnmatchcase
from functools import cache
from importlib import resources
from typing import Any, Literal

from trilens.errors import RequestRefused, shown
from trilens.text.strategy import OFF_OR_LEAST, WORDS, Thinking

Fields = Mapping[str, Any]


@dataclass(frozen=True, eq=False)
class Row:
    """One row of thinking.toml, where each field is explained. None: this cannot be requested."""

    service: str
    source: str
    default: str = "unknown"
    models: tuple[str, ...] = ("*",)
    hosts: tuple[str, ...] = ()
    untouched: Fields = field(default_factory=dict)
    off: Fields | None = None
    on: Fields | None = None
    levels: tuple[str, ...] = ()
    level: Fields = field(default_factory=dict)
    budget: Fields | None = None
    least: int = 1
    most: int | None = None
    sampling: Literal["free", "not while thinking", "never"] = "free"
    limit: str = "max_tokens"
    replay: str | None = None
    apart: bool = False
    key: str | None = None
    note: str = ""

    @property
    def thinks(self) -> bool:
        """Whether there is anything but off."""
        return self.on is not None or bool(self.levels) or self.budget is not None

    def fits(self, model: str) -> bool:
        return any(fnmatchcase(model.lower(), pattern) for pattern in self.models)


@dataclass(frozen=True)
class Asked:
    """The thinking of one request. `request`: the fields that ask for it. `effective`: "off", "on", a level, or
    "unknown" where the service decides and nobody says how.
    """

    requested: Thinking
    effective: str
    request: Fields
    budget: int | None = None


@cache
def rows() -> tuple[Row, ...]:
    """The table, in its order."""
    text = resources.files(__package__).joinpath("thinking.toml").read_text("utf-8")
    return tuple(_row(data) for data in tomllib.loads(text)["row"])


def row_for(service: str, model: str) -> Row:
    """The first row that matches. For a model that is not in the table, a row that says so."""
    for row in rows():
        if row.service == service and row.fits(model):
            return row
    near = next(row for row in rows() if row.service == service)
    unknown = f"the table has no row for {model}"
    return Row(service, near.source, hosts=near.hosts, key=near.key, apart=near.apart, limit=near.limit, note=unknown)


def service_of_host(host: str) -> str | None:
    """The service that is known to answer there."""
    return next((row.service for row in rows() if any(fnmatchcase(host, pattern) for pattern in row.hosts)), None)


def ask(row: Row, model: str, thinking: Thinking) -> Asked:
    """The request fields for this value. Raises RequestRefused, with the nearest possible value, for what this model
    cannot do.
    """
    if thinking is None:
        return Asked(None, row.default, row.untouched)
    if thinking is False:
        return _off(row, model, thinking)
    if thinking is True:
        return _on(row, model, thinking)
    if isinstance(thinking, int):
        return _budget(row, model, thinking)
    if thinking == OFF_OR_LEAST:
        return _off_or_least(row)
    if thinking in (*WORDS, *row.levels):
        return _level(row, model, thinking)
    raise RequestRefused(
        f"thinking is {shown(thinking)}; expected True, False, {', '.join(WORDS)}, {OFF_OR_LEAST}, "
        "or a number of tokens"
    )


def words(row: Row) -> list[str]:
    """What can be asked for, as a caller writes it."""
    said = ["False"] if row.off is not None else []
    said += ["True"] if row.on is not None or row.levels else []
    said += [repr(level) for level in row.levels]
    if row.budget is not None:
        said.append(f"a number of tokens from {row.least}" + ("" if row.most is None else f" to {row.most}"))
    return said


def _off(row: Row, model: str, requested: Thinking) -> Asked:
    if row.off is None:
        raise _impossible(row, model, requested)
    return Asked(requested, "off", row.off)


def _off_or_least(row: Row) -> Asked:
    if row.off is not None:
        return Asked(OFF_OR_LEAST, "off", row.off)
    if row.levels:
        return Asked(OFF_OR_LEAST, row.levels[0], _put(row.level, "{level}", row.levels[0]))
    if row.budget is not None:
        return Asked(OFF_OR_LEAST, "on", _put(row.budget, "{budget}", row.least), row.least)
    return Asked(OFF_OR_LEAST, row.default, row.on if row.on is not None else row.untouched)


def _on(row: Row, model: str, requested: Thinking) -> Asked:
    if row.on is not None:
        return Asked(requested, "on", row.on)
    if not row.levels:
        raise _impossible(row, model, requested)
    usual = row.default if row.default in row.levels else "medium" if "medium" in row.levels else row.levels[-1]
    return Asked(requested, usual, _put(row.level, "{level}", usual))


def _level(row: Row, model: str, word: str) -> Asked:
    levels = row.levels
    if not levels:
        raise _impossible(row, model, word)
    name = word if word in levels else {"minimal": levels[0], "max": levels[-1]}.get(word)
    if name is None:
        near = min(levels, key=lambda level: abs(_rank(level) - _rank(word)))
        raise RequestRefused(
            f"{model} has no level {word!r}; it has {', '.join(levels)}; the nearest is thinking={near!r}"
        )
    return Asked(word, name, _put(row.level, "{level}", name))


def _budget(row: Row, model: str, tokens: int) -> Asked:
    if not 0 <= tokens < 1 << 63:
        raise RequestRefused(f"thinking is {shown(tokens)}; expected a number of tokens from 0")
    if tokens == 0:
        return _off(row, model, tokens)
    if row.budget is None:
        raise _impossible(row, model, tokens)
    nearest = max(row.least, tokens if row.most is None else min(tokens, row.most))
    if nearest != tokens:
        raise RequestRefused(f"{model} takes {words(row)[-1]} of thinking, not {tokens}; the nearest is {nearest}")
    return Asked(tokens, "on", _put(row.budget, "{budget}", tokens), tokens)


def _impossible(row: Row, model: str, requested: Thinking) -> RequestRefused:
    known = words(row)
    possible = f"expected {', '.join(known)}" if known else "leave it out"
    note = f" ({row.note})" if row.note else ""
    return RequestRefused(f"{row.service}, {model}: thinking={requested!r} is not possible; {possible}{note}")


def _rank(level: str) -> int:
    return WORDS.index(level) if level in WORDS else 0


def _put(template: Fields, place: str, value: str | int) -> dict[str, Any]:
    """A copy of the template with the value in its place."""
    return {
        name: _put(part, place, value) if isinstance(part, Mapping) else value if part == place else part
        for name, part in template.items()
    }


def _row(data: dict[str, Any]) -> Row:
    known = {f.name for f in fields(Row)}
    if unknown := set(data) - known:
        raise ValueError(f"thinking.toml: {sorted(unknown)[0]!r} is no field of a row")
    stated: dict[str, Any] = {name: tuple(v) if isinstance(v, list) else v for name, v in data.items()}
    return Row(**stated)
