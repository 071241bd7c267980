"""Published speeds beside forecasts that know nothing of their machines.

    python -m benchmarks.published            check the rows; test on every machine left out
    python -m benchmarks.published --check    only check the rows
    python -m benchmarks.published --fit      fit the constants to all rows and write lenses/costs/costs.json
    python -m benchmarks.published --write    test, and write the tables of docs/predictions.md

`published.csv` has a line for each measurement: `figure` in tokens a second, of all sequences together (decode) or of
a prompt (prefill); `context` is what a new token sees on average, or the prompt's length.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from functools import cache
from pathlib import Path

import numpy as np
from benchmarks.published_fit import Model, Row, designs, leave_one_out
from benchmarks.published_page import PARALLEL, constants, later, tables
from benchmarks.rows import faults, lines_of

from trilens.lenses.cards.source import card_source
from trilens.lenses.costs.costs import Step, as_json, costs
from trilens.lenses.costs.shape import Shape, shape_of
from trilens.lenses.costs.weight_format import Bits, bits_of
from trilens.lenses.machines.share import COLUMNS
from trilens.lenses.machines.target import accelerators

HERE = Path(__file__).parent
CSV, COSTS = HERE / "published.csv", HERE.parent / "src/trilens/lenses/costs/costs.json"
PAGE = HERE.parent / "docs/predictions.md"
NOT_THE_SAME = ("figure", "weight_bytes", "source")  # columns that do not tell one measurement from another
BEGIN, END = "<!-- published -->", "<!-- /published -->"


def read(path: Path = CSV) -> list[dict[str, str]]:
    return lines_of(path)


def check(lines: Sequence[dict[str, str]]) -> list[str]:
    """What is wrong, line by line."""
    return faults(lines, _check_line, lambda line: tuple(line[c] for c in COLUMNS if c not in NOT_THE_SAME))


def _check_line(line: dict[str, str]) -> None:
    if list(line) != COLUMNS or None in line.values():
        raise ValueError(f"its columns are {', '.join(map(str, line))}; expected {', '.join(COLUMNS)}")
    if line["metric"] not in ("decode", "prefill"):
        raise ValueError(f"its metric is {line['metric']!r}; expected decode or prefill")
    if float(line["figure"]) <= 0 or int(line["batch"]) < 1 or int(line["context"]) < 1:
        raise ValueError("its figure, batch and context must be positive")
    if line["machine"] not in accelerators():
        raise ValueError(f"the machine {line['machine']!r} is unknown")
    if not line["source"].startswith("https://"):
        raise ValueError("its source is not an address")
    if _devices(line["parallelism"]) != int(line["devices"]):
        raise ValueError(f"{line['devices']} devices do not make {line['parallelism']!r}")
    bits = _bits(line["model"], line["format"])
    if bits.bytes != int(line["weight_bytes"]):
        raise ValueError(f"weights of {line['weight_bytes']} bytes; the card has {bits.bytes}")


def _devices(parallelism: str) -> int:
    if parallelism == "none":
        return 1
    kind, count = parallelism.split(" ")
    if kind not in PARALLEL:
        raise ValueError(f"the parallelism {kind!r} is unknown; expected none or one of {', '.join(PARALLEL)}")
    return int(count)


def row_of(line: dict[str, str]) -> Row:
    kind, _, count = line["parallelism"].partition(" ")
    split = {kind: int(count)} if kind != "none" else {}
    batch, context, decode = int(line["batch"]), int(line["context"]), line["metric"] == "decode"
    step = Step(
        "decode" if decode else "prefill", line["engine"], line["backend"], batch, context, when=line["when"], **split
    )
    return Row(
        line["machine"],
        (batch if decode else context) / float(line["figure"]),
        _shape(line["model"]),
        _bits(line["model"], line["format"]),
        accelerators()[line["machine"]],
        step,
    )


@cache
def _shape(model: str) -> Shape:
    reading = card_source(model, offline=True).reading
    if reading is None:
        raise ValueError(f"nobody knows the wiring of {model!r}")
    return shape_of(reading.spec)


@cache
def _bits(model: str, name: str) -> Bits:
    reading = card_source(model, offline=True).reading
    if reading is None:
        raise ValueError(f"nobody knows the wiring of {model!r}")
    return bits_of(reading.spec, name)


def fit(rows: Sequence[Row]) -> None:
    model = Model(designs(rows), rows, np.ones(len(rows), bool), spread=True)
    COSTS.write_text(json.dumps(as_json(model.costs(len(rows))), indent=1) + "\n", encoding="utf-8")
    print(f"{COSTS}: {len(model.theta)} constants of {len(rows)} rows")


def main(arguments: Sequence[str]) -> int:
    lines = read()
    wrong = check(lines)
    if wrong:
        print("\n".join(wrong))
        return 1
    print(f"{len(lines)} rows of {len({line['machine'] for line in lines})} machines, all checked")
    if "--check" in arguments:
        return 0
    rows = [row_of(line) for line in lines]
    if "--fit" in arguments:
        fit(rows)
        return 0
    used = costs().rows
    text = tables(leave_one_out(rows[:used]))
    if rows[used:]:
        text += "\n\n" + later(rows[used:])
    print(text)
    if "--write" in arguments:
        page = PAGE.read_text("utf-8")
        before, _, rest = page.partition(BEGIN)
        after = rest.partition(END)[2]
        made = f"{text}\n\n{constants(costs())}"
        PAGE.write_text(f"{before}{BEGIN}\n\n{made}\n\n{END}{after}", encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
