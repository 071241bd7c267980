"""The ledger: the receipt of every call in one SQLite file, if it is switched on. Prompts and answers are kept only on
request.

`trilens log --on` makes the file. While it exists and is on, each call of this user is written to it when the call
ends: from the library, the command line and the server, for local and hosted models. The file is `$TRILENS_LEDGER`,
else `ledger.db` in the user's data directory.
"""

from __future__ import annotations

import json
import os
import re
import sqlite3
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any, Literal

from trilens.errors import UsageError
from trilens.tables import HasDict

Keeps = Literal["off", "receipts", "prompts"]
By = Literal["model", "day", "where"]
DAYS = ("monday", "tuesday", "wednesday", "thursday", "friday", "saturday", "sunday")
UNITS = {"m": 60, "h": 3600, "d": 86400, "w": 7 * 86400}
SCHEMA = """
CREATE TABLE IF NOT EXISTS settings (name TEXT PRIMARY KEY, value TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS calls (
    id INTEGER PRIMARY KEY, at REAL NOT NULL, model TEXT NOT NULL, place TEXT NOT NULL, finish TEXT NOT NULL,
    prompt_tokens INTEGER, cached_tokens INTEGER, thinking_tokens INTEGER, answer_tokens INTEGER, seconds REAL,
    watt_hours REAL, dollars REAL, receipt TEXT NOT NULL, prompt TEXT, answer TEXT
);
CREATE INDEX IF NOT EXISTS calls_at ON calls (at);
"""


class LedgerWarning(UserWarning):
    """A call could not be written to the ledger. The call itself is not affected."""


@dataclass(frozen=True)
class Entry:
    """One call. `at` are seconds since 1970, `place` the executor or the service; None is unknown."""

    at: float
    model: str
    place: str
    finish: str
    prompt_tokens: int | None
    cached_tokens: int | None
    thinking_tokens: int | None
    answer_tokens: int | None
    seconds: float | None
    watt_hours: float | None
    dollars: float | None
    receipt: dict[str, Any]
    prompt: str | None = None
    answer: str | None = None


@dataclass(frozen=True)
class Total:
    """The calls of one model, day or place, added up. `measured` of them have watt-hours, `priced` have a price; the
    sums are of these alone, None where there are none."""

    of: str
    calls: int
    prompt_tokens: int
    thinking_tokens: int
    answer_tokens: int
    seconds: float
    watt_hours: float | None
    measured: int
    dollars: float | None
    priced: int


def path() -> Path:
    if stated := os.environ.get("TRILENS_LEDGER"):
        return Path(stated)
    import platformdirs

    return Path(platformdirs.user_data_dir("trilens", appauthor=False)) / "ledger.db"


def keep(what: Keeps) -> None:
    """Switch it on, with or without prompts, or off. Existing entries stay. Raises UsageError if the file cannot be
    written.
    """
    if what == "off" and not path().exists():
        return
    try:
        path().parent.mkdir(parents=True, exist_ok=True)
        if not path().exists():
            path().touch(mode=0o600)  # nobody else's business
        with _open() as file:
            file.execute("INSERT OR REPLACE INTO settings VALUES ('keeps', ?)", (what,))
    except (OSError, sqlite3.Error) as problem:
        why = getattr(problem, "strerror", None) or problem
        raise UsageError(f"{path()}: cannot be used as a ledger ({why}); set TRILENS_LEDGER to another file") from None


def kept() -> Keeps:
    """What is kept now."""
    if not path().exists():
        return "off"
    with _explained(), _open() as file:
        return _keeps(file)


def record(receipt: HasDict, texts: Callable[[], tuple[str, str]]) -> None:
    """Write a finished call, if the ledger is on. `texts` returns its prompt and answer. Never raises; a failure is
    a LedgerWarning.
    """
    if not path().exists():
        return
    try:
        with _open() as file:
            keeps = _keeps(file)
            if keeps == "off":
                return
            said = receipt.as_dict()
            tokens, energy, price = said["tokens"], said.get("energy") or {}, said.get("price") or {}
            joules = energy.get("joules")
            prompt, answer = texts() if keeps == "prompts" else (None, None)
            file.execute(
                f"INSERT INTO calls VALUES (NULL{', ?' * 14})",
                (
                    time.time(),
                    said["model"],
                    said["executor"],
                    said["finish"],
                    *(tokens[kind] for kind in ("prompt", "cached", "thinking", "answer")),
                    said["seconds"],
                    None if joules is None else joules / 3600,
                    price.get("total"),
                    json.dumps(said),
                    prompt,
                    answer,
                ),
            )
    except (OSError, sqlite3.Error, UnicodeError) as problem:
        warnings.warn(f"{path()}: a call was not written to the ledger ({problem})", LedgerWarning, stacklevel=2)


def entries(since: str | None = None, model: str | None = None, limit: int | None = None) -> list[Entry]:
    """The newest calls, the last one first. `since` is what `seconds_of` reads. Raises UsageError."""
    where, values = _where(since, model)
    if not path().exists():
        return []
    columns = ", ".join(Entry.__dataclass_fields__)
    with _explained(), _open() as file:
        rows = file.execute(
            f"SELECT {columns} FROM calls {where} ORDER BY id DESC LIMIT ?", (*values, -1 if limit is None else limit)
        ).fetchall()
    return [Entry(**{**row, "receipt": json.loads(row["receipt"])}) for row in map(dict, rows)]


def totals(by: By = "model", since: str | None = None, model: str | None = None) -> list[Total]:
    """Sums by model, by day (local time) or by where it ran, the most calls first. Raises UsageError."""
    where, values = _where(since, model)
    if not path().exists():
        return []
    of = {"model": "model", "day": "date(at, 'unixepoch', 'localtime')", "where": "place"}[by]
    sums = ", ".join(f"TOTAL({kind}_tokens)" for kind in ("prompt", "thinking", "answer"))
    with _explained(), _open() as file:
        rows = file.execute(
            f"SELECT {of}, COUNT(*), {sums}, TOTAL(seconds), SUM(watt_hours), COUNT(watt_hours), SUM(dollars), "
            f"COUNT(dollars) FROM calls {where} GROUP BY 1 ORDER BY {'1' if by == 'day' else '2 DESC, 1'}",
            values,
        ).fetchall()
    return [Total(row[0], row[1], *map(int, row[2:5]), *row[5:]) for row in rows]


def seconds_of(said: str, now: datetime | None = None) -> float:
    """today | yesterday | monday | 3d | 12h | 2026-11-20 | 2026-11-20T08:00 -> seconds since 1970, in local time. A day
    of the week is the last one, today included. Raises UsageError."""
    now = datetime.now() if now is None else now
    today = now.replace(hour=0, minute=0, second=0, microsecond=0)
    word = said.strip().lower()
    if word in ("today", "yesterday"):
        return (today - timedelta(days=word == "yesterday")).timestamp()
    if word in DAYS:
        return (today - timedelta(days=(today.weekday() - DAYS.index(word)) % 7)).timestamp()
    if (span := re.fullmatch(r"(\d{1,5})([mhdw])", word)) is not None:
        return now.timestamp() - int(span[1]) * UNITS[span[2]]
    try:
        return datetime.fromisoformat(said.strip()).timestamp()
    except (ValueError, OverflowError):
        raise UsageError(f"the time {said!r} is unknown; expected today, monday, 3d, 12h or 2026-11-20") from None


def _where(since: str | None, model: str | None) -> tuple[str, list[Any]]:
    parts: list[tuple[str, Any]] = []
    if since is not None:
        parts.append(("at >= ?", seconds_of(since)))
    if model is not None:
        parts.append(("model = ?", model))
    return ("WHERE " if parts else "") + " AND ".join(part for part, _ in parts), [value for _, value in parts]


def _keeps(file: sqlite3.Connection) -> Keeps:
    row = file.execute("SELECT value FROM settings WHERE name = 'keeps'").fetchone()
    found: Keeps = "off" if row is None else row[0]
    return found


@contextmanager
def _open() -> Iterator[sqlite3.Connection]:
    """A new connection for each call, because threads and forked processes must not share one."""
    file = sqlite3.connect(path(), timeout=5)
    try:
        file.row_factory = sqlite3.Row
        file.execute("PRAGMA journal_mode = WAL")
        file.execute("PRAGMA synchronous = NORMAL")
        file.executescript(SCHEMA)
        with file:
            yield file
    finally:
        file.close()


@contextmanager
def _explained() -> Iterator[None]:
    try:
        yield
    except sqlite3.Error as problem:
        raise UsageError(f"{path()}: cannot be read as a ledger ({problem}); move it away") from None
