"""The tables of docs/predictions.md about other machines: errors on machines left out, and the constants."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence

import numpy as np
from benchmarks.published_fit import Row, Tested

from trilens.lenses.costs.costs import Costs, costs, width_of

PARALLEL = ("tensor", "pipeline", "expert")
# What stands beside each constant: its unit and the part of a step that it belongs to.
BASE = {
    "read": ("times", "weights: bytes read / bandwidth"),
    "read/16": ("times", "the same, of weights of 16 bits"),
    "read/8": ("times", "the same, of weights of about 8 bits"),
    "read/4": ("times", "the same, of weights of about 4 bits"),
    "wide": ("power", "of the bandwidth in TB/s, of all reads: fast memory is used less well"),
    "unpack/16": ("times", "elements read / 32-bit operations a second"),
    "unpack/8": ("times", "the same, of weights of about 8 bits"),
    "unpack/4": ("times", "the same, of weights of about 4 bits"),
    "cache": ("times", "keys, values and fixed states: bytes / bandwidth"),
    "layer": ("us", "a layer, whatever its size"),
    "route": ("us", "a layer of a model with experts"),
    "batch/matrix": ("times", "operations of every sequence but one / rate of the matrix units"),
    "batch/plain/cuda": ("times", "the same / 32-bit rate, where the matrix units' rate is not used"),
    "batch/plain/metal": ("times", "the same on Apple's"),
    "batch/plain/rocm": ("times", "the same on AMD's"),
    "prompt/matrix": ("times", "operations of a prompt / rate of the matrix units"),
    "prompt/plain/cuda": ("times", "the same / 32-bit rate"),
    "prompt/plain/metal": ("times", "the same on Apple's"),
    "prompt/plain/rocm": ("times", "the same on AMD's"),
    "prompt/16": ("times", "of a prompt, weights of 16 bits"),
    "prompt/8": ("times", "of a prompt, weights of about 8 bits"),
    "prompt/4": ("times", "of a prompt, weights of about 4 bits"),
    "prompt/experts": ("times", "of a prompt, models with experts"),
    "prompt/read": ("times", "weights read once for each piece of a prompt / bandwidth"),
    "steep": ("power", "of NVIDIA's 32-bit rate in 30 TFLOPS: fast cards are used less well"),
    "attend/matrix": ("times", "attention of a prompt / rate of the matrix units"),
    "attend/plain/cuda": ("times", "the same / 32-bit rate"),
    "attend/plain/metal": ("times", "the same on Apple's"),
    "attend/plain/rocm": ("times", "the same on AMD's"),
    "sum/nvlink": ("us", "a sum over tensor-parallel devices, two a layer"),
    "sum/pcie": ("us", "the same without NVLink"),
    "link/nvlink": ("times", "bytes sent / link"),
    "link/pcie": ("times", "the same without NVLink"),
    "exchange/nvlink": ("us", "an exchange between devices that share out experts, two a layer"),
    "stage": ("us", "a hand-over to the next group of layers"),
}
ENGINE = ("read", "read/16", "read/8", "read/4", "wide", "unpack", "cache", "layer", "batch", "prompt")


def constants(known: Costs) -> str:
    """Markdown: what all engines share, and each engine's factors of it."""
    lines = ["| constant | value | unit | what it multiplies |", "| --- | --- | --- | --- |"]
    for name, (unit, what) in BASE.items():
        value = known.constants.get(name)
        if value is not None:
            shown = float(np.log(value)) if unit == "power" else value
            lines.append(f"| `{name}` | {shown:.3g} | {unit} | {what} |")
    lines.append(
        f"| `overlap` | {known.overlap:g} | power | of the batch: the tokens whose experts would be independent |"
    )
    engines = sorted(known.machines)
    lines += ["", f"| engine | {' | '.join(ENGINE)} | token, us | row, us | machines |"]
    lines.append("| --- " * (len(ENGINE) + 4) + "|")
    for engine in engines:
        cells = []
        for name in ENGINE:
            head, _, width = name.partition("/")
            value = known.constants.get(f"{head}/{engine}/{width}" if width else f"{head}/{engine}")
            cells.append("" if value is None else f"{np.log(value) if head == 'wide' else value:.2f}")
        program = engine.split("/")[0]
        cells += [f"{known.constants.get(f'{name}/{program}', 0):.0f}" for name in ("token", "row")]
        lines.append(f"| {engine} | {' | '.join(cells)} | {known.machines[engine]} |")
    return "\n".join(lines)


def tables(tested: Sequence[Tested]) -> str:
    """Markdown: overall, and by engine, by width of the weights and by batch."""
    decode = [t for t in tested if t.row.step.kind == "decode"]
    one = [t for t in decode if t.row.step.batch == 1]
    several = [t for t in decode if t.row.step.batch > 1]
    prompts = [t for t in tested if t.row.step.kind == "prefill"]
    parts = [("one sequence", one), ("several sequences", several), ("prompts", prompts), ("all rows", list(tested))]
    text = [_table("", parts)]
    text.append(_table("engine", _by(tested, lambda t: f"{t.row.step.engine} on {t.row.step.backend}")))
    text.append(_table("weights", _by(decode, lambda t: f"{_width(t.row)} bits")))
    text.append(_table("batch", _by(decode, _batch)))
    text.append(_table("devices", _by(decode, _split)))
    return "\n\n".join(text)


def _by(tested: Iterable[Tested], of: Callable[[Tested], str]) -> list[tuple[str, list[Tested]]]:
    parts: dict[str, list[Tested]] = defaultdict(list)
    for t in tested:
        parts[of(t)].append(t)
    return sorted(parts.items())


def _width(row: Row) -> str:
    return width_of(row.bits.experts if row.shape.experts else row.bits.inner)


def _batch(t: Tested) -> str:
    batch = t.row.step.batch
    return "1" if batch == 1 else " 2 to 8" if batch <= 8 else " 9 to 32" if batch <= 32 else "33 to 128"


def _split(t: Tested) -> str:
    step = t.row.step
    return next((f"several, {kind}" for kind in PARALLEL if getattr(step, kind) > 1), "one")


def _table(head: str, parts: Sequence[tuple[str, Sequence[Tested]]]) -> str:
    lines = [f"| {head} | rows | machines | median error | inside the 80 % interval | median width either way |"]
    lines.append("| --- | --- | --- | --- | --- | --- |")
    for name, found in parts:
        if found:
            error = 100 * float(np.median([t.error for t in found]))
            inside = 100 * float(np.mean([t.inside for t in found]))
            width = float(np.median([(t.high / t.low) ** 0.5 for t in found]))
            machines = len({t.row.machine for t in found})
            lines.append(f"| {name} | {len(found)} | {machines} | {error:.1f} % | {inside:.0f} % | {width:.2f} |")
    return "\n".join(lines)


def later(rows: Sequence[Row]) -> str:
    """Rows that came after the fit, by the constants in the package."""
    known = costs()
    tested = []
    for row in rows:
        seconds, ends = known.seconds(row.shape, row.bits, row.device, row.step), known.ends(row.step)
        tested.append(Tested(row, seconds * ends[0], seconds, seconds * ends[1], ""))
    return _table("after the fit", _by(tested, lambda t: t.row.step.engine))
