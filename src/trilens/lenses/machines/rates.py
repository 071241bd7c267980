"""How fast this machine runs each kind of instruction, measured with small synthetic models on the native executor.

The kernels that are timed are those that run later. Everything is kept as seconds for one unit of one row, by the rows
of the step. A unit is a weight of a matrix (once for matrices that stay in the processor's cache, once for those that
come from memory), for attention a number of a key or value that a query head meets, for the rest a number of the
result.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass

from trilens.executors.accountant import visible_pairs
from trilens.executors.native.program import Op
from trilens.lenses.machines.made_up import (
    ATTENTIONS,
    CONTEXT,
    DECODE_ROWS,
    EXPERT_WIDTH,
    EXPERTS,
    HEAD_DIM,
    PAGE,
    PRODUCTS,
    PROMPT_ROWS,
    WIDTH,
    Trial,
    attentive,
    instructions_by_kind,
    layers_beyond,
    recurrent,
    settle,
    small,
    weights_by_kind,
    widths_by_kind,
)
from trilens.spec.model import Full

GROUPS = (1, 4, 8)  # query heads on one key-value head
TILE = 48  # rows of queries that meet a block of keys together, at most
ROW_KINDS = ("embed", "last_rows", "norm", "rope", "write_kv", "add", "route")


@dataclass(frozen=True)
class Speed:
    """Seconds for one unit of one row, when `rows` rows go together. A power law between two, constant beyond."""

    rows: tuple[float, ...]
    seconds: tuple[float, ...]

    def at(self, rows: float) -> float:
        if rows <= self.rows[0]:
            return self.seconds[0]
        for i in range(1, len(self.rows)):
            if rows <= self.rows[i]:
                share = math.log(rows / self.rows[i - 1]) / math.log(self.rows[i] / self.rows[i - 1])
                return math.exp((1 - share) * math.log(self.seconds[i - 1]) + share * math.log(self.seconds[i]))
        return self.seconds[-1]


Speeds = dict[str, Speed]


def product_speeds(layout: str, activations: str, threads: int, cache_bytes: int) -> Speeds:
    """By `<kind>/<layout>/<activations>/cached` and `.../streamed`: a unit is a weight."""
    one, many = small(), small(layers_beyond(small(), layout, cache_bytes))
    speeds: Speeds = {}
    for tier, spec, rows in (("cached", one, DECODE_ROWS + PROMPT_ROWS), ("streamed", many, DECODE_ROWS)):
        trial = Trial(spec, layout, activations, threads)
        settle(threads)
        weights = weights_by_kind(trial.executor)
        timed = [(r, trial.decoding(r) if r <= DECODE_ROWS[-1] else trial.prompt(r)) for r in rows]
        for kind in PRODUCTS:
            seconds = tuple(max(0.0, t[kind]) / (r * weights[kind]) for r, t in timed)
            speeds[f"{kind}/{layout}/{activations}/{tier}"] = Speed(rows, seconds)
    return speeds


def expert_speeds(layout: str, activations: str, threads: int, cache_bytes: int) -> Speeds:
    """By `experts/<layout>/<activations>/cached` and `.../streamed`: a unit is a weight of an expert that fires, the
    rows are that expert's own."""
    one = small(experts=EXPERTS)
    half = small(experts=EXPERTS, chosen=EXPERTS // 2)  # so many that a step leaves nothing of the last one behind
    many = small(2 * layers_beyond(half, layout, cache_bytes), experts=EXPERTS, chosen=EXPERTS // 2)
    speeds: Speeds = {}
    for tier, spec, rows in (("cached", one, DECODE_ROWS + PROMPT_ROWS), ("streamed", many, DECODE_ROWS)):
        trial = Trial(spec, layout, activations, threads)
        settle(threads)
        points = []
        for r in rows:
            timed = trial.decoding(r) if r <= DECODE_ROWS[-1] else trial.prompt(r)
            slots = sum(r * routed.router.chosen for _, routed in spec.routed_layers())
            points.append((slots / trial.fired, timed["experts"] / (slots * 3 * WIDTH * EXPERT_WIDTH)))
        speeds[f"experts/{layout}/{activations}/{tier}"] = _speed(points)
    return speeds


def attention_speeds(kv: str, threads: int, cache_bytes: int) -> tuple[Speeds, float]:
    """By `attend/<kv>/cached` and `.../streamed`: a unit is a number of a key or value that a query head meets; the
    rows are the queries that meet it together. And the seconds that come with each attention of one token."""
    points: dict[str, list[tuple[float, float]]] = {"cached": [], "streamed": []}
    fixed, away = [], 0.0
    for group in GROUPS:
        trial = Trial(attentive(group), "F32", "8bit", threads, kv)
        units = ATTENTIONS * 4 * group * 2 * HEAD_DIM
        sequence = trial.executor.sequence(CONTEXT + PAGE)
        trial.spent([sequence], PAGE - 1)
        short = trial.attention([sequence])
        for start in range(PAGE - 1, CONTEXT - 1, PROMPT_ROWS[-1]):
            new = min(CONTEXT - 1 - start, PROMPT_ROWS[-1])
            spent = trial.spent([sequence], new)["attend"]
            points["cached"].append((min(TILE, new * group), spent / (visible_pairs(Full(), start, new) * units)))
        long = trial.attention([sequence])
        # other programs can make the longer one look quicker, and a speed is never negative
        each = (long - short) / ((CONTEXT - PAGE) * units) if long > short else long / (CONTEXT * units)
        fixed.append(max(0.0, short - PAGE * units * each) / ATTENTIONS)
        points["cached"].append((group, each))
        if group == GROUPS[1]:
            away = group * max(0.0, trial.from_memory(sequence, 2 * cache_bytes) / (CONTEXT * units) - each)
    # what reading adds is shared by the heads of a group
    points["streamed"] = [(group, each + away / group) for group, each in points["cached"] if group in GROUPS]
    return {f"attend/{kv}/{tier}": _speed(own) for tier, own in points.items()}, _median(fixed)


def recurrence_speeds(name: str, delta: bool, vector_decay: bool, threads: int) -> Speeds:
    """By `name`: a unit is a number of a head's state, the rows are the tokens that a sequence has in the step."""
    trial = Trial(recurrent(delta, vector_decay), "F32", "8bit", threads)
    state = sum(ins.width * ins.integers[3] for ins in trial.executor.program.instructions if ins.op is Op.RECUR)
    settle(threads)
    return {name: _speed([(r, t["recur"] / (r * state)) for r, t in _of_one_sequence(trial)])}


def convolution_speed(threads: int) -> Speed:
    """A unit is a tap of a number of the result, the rows are the tokens that a sequence has in the step."""
    trial = Trial(recurrent(delta=True, vector_decay=False), "F32", "8bit", threads)
    taps = sum(ins.width * ins.integers[1] for ins in trial.executor.program.instructions if ins.op is Op.CONVOLVE)
    return _speed([(r, t["convolve"] / (r * taps)) for r, t in _of_one_sequence(trial)])


def _of_one_sequence(trial: Trial) -> list[tuple[int, dict[str, float]]]:
    return [(1, trial.decoding(1)), *((r, trial.prompt(r)) for r in (*DECODE_ROWS[1:], *PROMPT_ROWS))]


def row_speeds(threads: int) -> tuple[Speeds, dict[str, float]]:
    """The kinds that go row by row, a unit being a number of the result; and seconds that come with each instruction,
    with each step (`step`) and with each sequence in it (`sequence`)."""
    tiny = Trial(small(4, width=32, experts=4, chosen=1, expert_width=32), "F32", "8bit", threads)
    least, several = tiny.decoding(1), tiny.decoding(DECODE_ROWS[-1])
    overheads = {kind: least[kind] / count for kind, count in instructions_by_kind(tiny.executor).items()}
    overheads["step"] = least["wall"] - sum(s for kind, s in least.items() if kind != "wall")
    more = several["wall"] - sum(s for kind, s in several.items() if kind != "wall")
    overheads["sequence"] = max(0.0, more - overheads["step"]) / (DECODE_ROWS[-1] - 1)
    trial = Trial(small(2, experts=EXPERTS), "Q8_0", "8bit", threads)
    timed = [(r, trial.decoding(r)) for r in DECODE_ROWS] + [(r, trial.prompt(r)) for r in PROMPT_ROWS]
    counts, widths = instructions_by_kind(trial.executor), widths_by_kind(trial.executor)
    speeds: Speeds = {"convolve": convolution_speed(threads)}
    for kind in ROW_KINDS:
        points = timed if kind != "last_rows" else timed[: len(DECODE_ROWS)]
        seconds = [max(1e-12, t[kind] - counts[kind] * overheads[kind]) / (r * widths[kind]) for r, t in points]
        speeds[kind] = Speed(tuple(float(r) for r, _ in points), tuple(seconds))
    return speeds, overheads


def _median(values: Sequence[float]) -> float:
    return statistics.median(values)


def _speed(points: list[tuple[float, float]]) -> Speed:
    """Two points at the same rows become one."""
    rows = sorted({r for r, _ in points})
    return Speed(tuple(rows), tuple(_median([s for own, s in points if own == r]) for r in rows))
