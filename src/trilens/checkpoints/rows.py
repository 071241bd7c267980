"""What a row of the tables of tensor names is."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Row:
    ours: str
    theirs: str
    change: str = ""  # the name of a function in changes.py; empty: taken as it is


def in_layer(theirs: str, number: int) -> str:
    """Their name in the layer of that number."""
    places = {"{i}": number, "{i/2}": number // 2, "{i%2}": number % 2}
    for place, value in places.items():
        theirs = theirs.replace(place, str(value))
    return theirs


def rows(table: str) -> tuple[Row, ...]:
    """Three columns a line: ours, theirs, and the change where there is one. A name without a dot before `{i}.` lies in
    the layer on both sides."""
    return tuple(Row(*line.split()) for line in table.strip().splitlines())


def in_layers(prefix: str, table: str) -> tuple[Row, ...]:
    """The same of one layer: both names without what stands before them, which is `layers.{i}.` and `prefix`."""
    return tuple(Row("layers.{i}." + row.ours, prefix + row.theirs, row.change) for row in rows(table))
