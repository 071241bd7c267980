"""Answers, receipts and cards as rows of a table, for pandas, polars or csv."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Protocol


class HasDict(Protocol):
    """Anything with its content as JSON data: answers, receipts, cards."""

    def as_dict(self) -> dict[str, Any]: ...


def table(of: Iterable[HasDict]) -> list[dict[str, Any]]:
    """Return one row per object. Every row has all columns, with None for missing values.

    Columns are named after the fields, for example `receipt.tokens.prompt`; lists stay lists. The result can be passed
    to `pandas.DataFrame` and `polars.DataFrame`.
    """
    rows = [_flat(one.as_dict(), "") for one in of]
    columns = dict.fromkeys(column for row in rows for column in row)
    return [{column: row.get(column) for column in columns} for row in rows]


def _flat(data: Mapping[str, Any], before: str) -> dict[str, Any]:
    row: dict[str, Any] = {}
    for name, value in data.items():
        if isinstance(value, Mapping):
            row |= _flat(value, f"{before}{name}.")
        else:
            row[before + name] = value
    return row
