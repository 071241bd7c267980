"""What the logs of vLLM and SGLang say they hold beside what the memory model says.

    python -m benchmarks.capacity             check the rows, compare each with the model
    python -m benchmarks.capacity --write     the same, and write the tables of docs/predictions.md

`capacity.csv` has a line for each start of an engine that somebody published. Empty fields are not stated there.
`cache_gib` and `weights_gib` are of one device, `tokens` is how many the cache holds, `concurrency` how many requests
of `context` tokens. `step` is vLLM's --max-num-batched-tokens, which only models with windows need.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from functools import cache
from pathlib import Path
from statistics import median

from benchmarks.rows import faults, lines_of

from trilens.lenses.cards.source import card_source
from trilens.lenses.costs.weight_format import bits_of
from trilens.lenses.memory.job import KV_TYPES, Job
from trilens.lenses.memory.memory import VLLM_STEP, sglang_memory, vllm_memory, vllm_padding
from trilens.spec.model import ModelSpec

HERE = Path(__file__).parent
CSV, PAGE = HERE / "capacity.csv", HERE.parent / "docs/predictions.md"
BEGIN, END = "<!-- capacity -->", "<!-- /capacity -->"
COLUMNS = (
    *("engine", "version", "model", "format", "kv_type", "tensor", "pipeline", "block", "step"),
    *("cache_gib", "tokens", "context", "concurrency", "weights_gib", "source", "note"),
)
GIB = 1024**3
TARGET = 0.05
# Formats of logs that `bits_of` does not name: the format with the same bits, and a factor.
FORMATS = {"w8a8": ("fp8", 1), "f32": ("bf16", 2)}
STAGES = "the first stage of a pipeline has the table as well and the last one the head; the model splits evenly"
# (model, tensor, pipeline, what is compared) of rows beyond the target -> why.
EXCEPTIONS = {
    (
        "deepseek-r1-distill-qwen-14b",
        2,
        1,
        "tokens",
    ): "the cache that was seen is one worker's; vLLM takes the smallest "
    "of all workers, and 81,536 tokens need 7.46 GiB",
    ("llama-3.1-8b-instruct", 1, 4, "weights"): STAGES,
    ("qwen3-8b", 1, 3, "weights"): STAGES,
}


@dataclass(frozen=True)
class Row:
    """One line, read. Sizes in GiB of one device; None where the source does not say."""

    engine: str
    version: str
    model: str
    format: str
    job: Job
    block: int
    step: int | None
    cache_gib: float | None
    tokens: int | None
    context: int | None
    concurrency: float | None
    weights_gib: float | None
    source: str
    note: str

    @property
    def devices(self) -> int:
        return self.job.tensor * self.job.pipeline


@dataclass(frozen=True)
class Compared:
    """`what`: tokens, requests or weights. `ours` and `stated` in its unit."""

    row: Row
    what: str
    stated: float
    ours: float

    @property
    def error(self) -> float:
        return self.ours / self.stated - 1

    @property
    def within(self) -> bool:
        return abs(self.error) < TARGET

    @property
    def why(self) -> str | None:
        job = self.row.job
        return EXCEPTIONS.get((self.row.model, job.tensor, job.pipeline, self.what))


def read(path: Path = CSV) -> list[dict[str, str]]:
    return lines_of(path)


def check(lines: Sequence[dict[str, str]]) -> list[str]:
    """What is wrong, line by line."""
    return faults(lines, lambda line: compared(row_of(line)), lambda line: tuple(line.values()))


def row_of(line: dict[str, str]) -> Row:
    """Raises ValueError where a line cannot be right."""
    if tuple(line) != COLUMNS or None in line.values():
        raise ValueError(f"its columns are {', '.join(map(str, line))}; expected {', '.join(COLUMNS)}")
    if line["engine"] not in ("vllm", "sglang"):
        raise ValueError(f"its engine is {line['engine']!r}; expected vllm or sglang")
    if line["kv_type"] not in KV_TYPES:
        raise ValueError(f"its KV type is {line['kv_type']!r}; expected one of {', '.join(KV_TYPES)}")
    if not line["source"].startswith("https://"):
        raise ValueError("its source is not an address")
    row = Row(
        line["engine"],
        line["version"],
        line["model"],
        line["format"],
        Job(1, 1, line["kv_type"], line["kv_type"], _whole(line, "tensor"), _whole(line, "pipeline")),
        _whole(line, "block"),
        _whole(line, "step") if line["step"] else None,
        _size(line, "cache_gib"),
        _whole(line, "tokens") if line["tokens"] else None,
        _whole(line, "context") if line["context"] else None,
        _size(line, "concurrency"),
        _size(line, "weights_gib"),
        line["source"],
        line["note"],
    )
    if row.weights_gib is None and row.tokens is None and row.concurrency is None:
        raise ValueError("it states nothing that can be compared")
    if row.cache_gib is None and (row.tokens or row.concurrency):
        raise ValueError("it does not say how much memory its tokens take")
    if (row.context is None) != (row.concurrency is None):
        raise ValueError("context and concurrency need each other")
    if row.weights_gib is not None and not row.format:
        raise ValueError("it does not say the format of its weights")
    return row


def _whole(line: dict[str, str], column: str) -> int:
    value = int(line[column])
    if value < 1:
        raise ValueError(f"its {column} is {value}; expected 1 or more")
    return value


def _size(line: dict[str, str], column: str) -> float | None:
    if not line[column]:
        return None
    value = float(line[column])
    if not 0 < value < float("inf"):
        raise ValueError(f"its {column} is {value}; expected more than 0")
    return value


@cache
def _spec(model: str) -> ModelSpec:
    reading = card_source(model, offline=True).reading
    if reading is None:
        raise ValueError(f"the wiring of {model!r} is unknown")
    return reading.spec


def compared(row: Row) -> list[Compared]:
    """One comparison for what the cache holds, where it is stated, and one for the weights."""
    found = []
    if row.cache_gib is not None and (row.tokens is not None or row.concurrency is not None):
        found.append(_capacity(row, int(row.cache_gib * GIB * row.devices)))
    if row.weights_gib is not None:
        padding = row.engine == "vllm" and row.format == "mxfp4"
        ours = _weights(row.model, row.format, row.job.tensor if padding else None)
        found.append(Compared(row, "weights", row.weights_gib, ours / row.devices / GIB))
    return found


@cache
def _weights(model: str, name: str, padded: int | None) -> int:
    """Bytes of all weights. `padded`: devices that vLLM splits every expert over, None where it pads nothing."""
    known, factor = FORMATS.get(name, (name, 1))
    own = factor * bits_of(_spec(model), known).bytes
    return own if padded is None else own + vllm_padding(_spec(model), padded)


def _capacity(row: Row, pool: int) -> Compared:
    """Requests where the log counts them, because vLLM's log counts windows in full as tokens."""
    if row.context is not None and row.concurrency is not None:
        return Compared(row, "requests", row.concurrency, pool / _kv(row, row.context))
    assert row.tokens is not None
    blocks = Fraction(pool, _kv(row, row.block))
    return Compared(row, "tokens", row.tokens, int(blocks) * row.block)


def _kv(row: Row, context: int) -> int:
    """Bytes of a request over all devices."""
    spec, job = _spec(row.model), replace(row.job, context=context)
    if row.engine == "vllm":
        return vllm_memory(spec, job, 0, step=row.step or VLLM_STEP).kv
    return sglang_memory(spec, job, 0).kv


def tables(found: Sequence[Compared]) -> str:
    """Markdown: a summary, every comparison, and why some are off."""
    lines = ["| engine | what | figures | median error | worst error | beyond 5 % |", "| --- " * 6 + "|"]
    for engine in ("vllm", "sglang"):
        for what in ("cache", "weights"):
            lines += _summary(engine, what, [c for c in found if c.row.engine == engine and _part(c) == what])
    lines += ["", "| engine | model | weights | KV | devices | what | stated | ours | error |"]
    lines.append("| --- " * 9 + "|")
    lines += [_line(c) for c in found]
    lines.append("")
    missed = [c for c in found if not c.within]
    lines += [f"- {c.row.model}, {_devices(c.row)}, {c.what}: {c.why or 'no reason known'}." for c in missed]
    return "\n".join(lines)


def _part(one: Compared) -> str:
    return "weights" if one.what == "weights" else "cache"


def _summary(engine: str, what: str, found: Sequence[Compared]) -> Iterable[str]:
    if found:
        errors = [abs(c.error) for c in found]
        shown = f"{100 * median(errors):.2f} % | {100 * max(errors):.1f} %"
        yield f"| {engine} | {what} | {len(found)} | {shown} | {sum(not c.within for c in found)} |"


def _line(one: Compared) -> str:
    row = one.row
    if one.what == "weights":
        what, numbers = "weights of a device, GiB", [f"{n:.2f}" for n in (one.stated, one.ours)]
    elif one.what == "requests":
        what, numbers = f"requests of {row.context:,}", [f"{n:.2f}" for n in (one.stated, one.ours)]
    else:
        what, numbers = f"tokens in {row.cache_gib:g} GiB", [f"{n:,.0f}" for n in (one.stated, one.ours)]
    engine = f"[{row.engine} {row.version}".rstrip() + f"]({row.source.split()[0]})"
    cells = (
        engine,
        row.model,
        row.format,
        row.job.key_type,
        _devices(row),
        what,
        *numbers,
        f"{100 * one.error:+.1f} %",
    )
    return f"| {' | '.join(cells)} |"


def _devices(row: Row) -> str:
    parts = [("tensor", row.job.tensor), ("pipeline", row.job.pipeline)]
    return ", ".join(f"{name} {count}" for name, count in parts if count > 1) or "one"


def main(arguments: Sequence[str]) -> int:
    lines = read()
    wrong = check(lines)
    if wrong:
        print("\n".join(wrong))
        return 1
    print(f"{len(lines)} rows, all checked")
    found = [c for line in lines for c in compared(row_of(line))]
    text = tables(found)
    print(text)
    if "--write" in arguments:
        page = PAGE.read_text("utf-8")
        before, begin, rest = page.partition(BEGIN)
        if not begin:
            raise ValueError(f"{PAGE} has no {BEGIN}")
        PAGE.write_text(f"{before}{BEGIN}\n\n{text}\n\n{END}{rest.partition(END)[2]}", encoding="utf-8")
    return 0 if all(c.within or c.why for c in found) else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
