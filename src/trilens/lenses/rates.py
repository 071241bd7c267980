"""How fast this machine carries out each kind of instruction: small made-up models run on the native executor, timed.

What is timed are the very kernels that later run. Everything is kept as seconds for one unit of one row, by the rows of
the step. A unit is a weight of a matrix (once for matrices that stay in the processor's cache, once for those that come
from memory), for attention a number of a key or value that a query head meets, for the rest a number of the result.
"""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from trilens.decoder.weights import Parameter, decoder_weights, parameters
from trilens.executors.accountant import visible_pairs
from trilens.spec.model import (
    Attention,
    Cache,
    Curve,
    Dense,
    Full,
    Glu,
    Head,
    Layer,
    ModelSpec,
    Norm,
    Rope,
    Routed,
    Router,
    Scoring,
)

if TYPE_CHECKING:
    import numpy as np

    from trilens.executors.native.executor import NativeExecutor, NativeSequence, Packed

WIDTH, FEED_FORWARD, HEAD_DIM, VOCAB = 1024, 4096, 64, 256
EXPERTS, CHOSEN, EXPERT_WIDTH = 32, 4, 512
DECODE_ROWS = (1, 2, 4, 8)
PROMPT_ROWS = (16, 64, 256)  # the last: what the engine takes at once
GROUPS = (1, 4, 8)  # query heads on one key-value head
TILE = 48  # rows of queries that meet a block of keys together, at most
PAGE, CONTEXT = 64, 512  # positions that attention is timed at
ATTENTIONS = 16  # of one model, so that their caches do not fit a core's own cache
PRODUCTS = ("linear", "linears", "glu_linear")
ROW_KINDS = ("embed", "last_rows", "norm", "rope", "write_kv", "add", "route")
MOST_STREAMED = 256 << 20  # bytes of a made-up model, however large the processor's cache is
ROUNDS = 7
LONG_ENOUGH = 0.02  # seconds that short rounds are repeated for


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
    one, many = _small(), _small(_layers_beyond(_small(), layout, cache_bytes))
    speeds: Speeds = {}
    for tier, spec, rows in (("cached", one, DECODE_ROWS + PROMPT_ROWS), ("streamed", many, DECODE_ROWS)):
        trial = _Trial(spec, layout, activations, threads)
        settle(threads)
        weights = _weights_by_kind(trial.executor)
        timed = [(r, trial.decoding(r) if r <= DECODE_ROWS[-1] else trial.prompt(r)) for r in rows]
        for kind in PRODUCTS:
            seconds = tuple(max(0.0, t[kind]) / (r * weights[kind]) for r, t in timed)
            speeds[f"{kind}/{layout}/{activations}/{tier}"] = Speed(rows, seconds)
    return speeds


def expert_speeds(layout: str, activations: str, threads: int, cache_bytes: int) -> Speeds:
    """By `experts/<layout>/<activations>/cached` and `.../streamed`: a unit is a weight of an expert that fires, the
    rows are that expert's own."""
    one = _small(experts=EXPERTS)
    half = _small(experts=EXPERTS, chosen=EXPERTS // 2)  # so many that a step leaves nothing of the last one behind
    many = _small(2 * _layers_beyond(half, layout, cache_bytes), experts=EXPERTS, chosen=EXPERTS // 2)
    speeds: Speeds = {}
    for tier, spec, rows in (("cached", one, DECODE_ROWS + PROMPT_ROWS), ("streamed", many, DECODE_ROWS)):
        trial = _Trial(spec, layout, activations, threads)
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
        trial = _Trial(_attentive(group), "F32", "8bit", threads, kv)
        units = ATTENTIONS * 4 * group * 2 * HEAD_DIM
        sequence = trial.executor.sequence(CONTEXT + PAGE)
        trial.spent([sequence], PAGE - 1)
        short = _median([trial.again([sequence]) for _ in range(ROUNDS)])
        for start in range(PAGE - 1, CONTEXT - 1, PROMPT_ROWS[-1]):
            new = min(CONTEXT - 1 - start, PROMPT_ROWS[-1])
            spent = trial.spent([sequence], new)["attend"]
            points["cached"].append((min(TILE, new * group), spent / (visible_pairs(Full(), start, new) * units)))
        long = _median([trial.again([sequence]) for _ in range(ROUNDS)])
        each = (long - short) / ((CONTEXT - PAGE) * units)
        fixed.append(max(0.0, short - PAGE * units * each) / ATTENTIONS)
        points["cached"].append((group, each))
        if group == GROUPS[1]:
            away = group * max(0.0, trial.from_memory(sequence, 2 * cache_bytes) / (CONTEXT * units) - each)
    # what reading adds is shared by the heads of a group
    points["streamed"] = [(group, each + away / group) for group, each in points["cached"] if group in GROUPS]
    return {f"attend/{kv}/{tier}": _speed(own) for tier, own in points.items()}, _median(fixed)


def row_speeds(threads: int) -> tuple[Speeds, dict[str, float]]:
    """The kinds that go row by row, a unit being a number of the result; and seconds that come with each instruction,
    with each step (`step`) and with each sequence in it (`sequence`)."""
    tiny = _Trial(_small(4, width=32, experts=4, chosen=1, expert_width=32), "F32", "8bit", threads)
    least, several = tiny.decoding(1), tiny.decoding(DECODE_ROWS[-1])
    overheads = {kind: least[kind] / count for kind, count in _instructions_by_kind(tiny.executor).items()}
    overheads["step"] = least["wall"] - sum(s for kind, s in least.items() if kind != "wall")
    more = several["wall"] - sum(s for kind, s in several.items() if kind != "wall")
    overheads["sequence"] = max(0.0, more - overheads["step"]) / (DECODE_ROWS[-1] - 1)
    trial = _Trial(_small(2, experts=EXPERTS), "Q8_0", "8bit", threads)
    timed = [(r, trial.decoding(r)) for r in DECODE_ROWS] + [(r, trial.prompt(r)) for r in PROMPT_ROWS]
    counts, widths = _instructions_by_kind(trial.executor), _widths_by_kind(trial.executor)
    speeds: Speeds = {}
    for kind in ROW_KINDS:
        points = timed if kind != "last_rows" else timed[: len(DECODE_ROWS)]
        seconds = [max(1e-12, t[kind] - counts[kind] * overheads[kind]) / (r * widths[kind]) for r, t in points]
        speeds[kind] = Speed(tuple(float(r) for r, _ in points), tuple(seconds))
    return speeds, overheads


# ------------------------------------------------------------------------------------------------- made-up models


def _small(
    layers: int = 1, *, width: int = WIDTH, experts: int = 0, chosen: int = CHOSEN, expert_width: int = EXPERT_WIDTH
) -> ModelSpec:
    glu = Glu(Curve.SILU)
    router = Router(experts, chosen, Scoring.SOFTMAX, renormalise=True)
    ffn = Routed(router, expert_width, glu) if experts else Dense(4 * width, glu)
    return _model(layers, width, max(1, width // HEAD_DIM), max(1, width // HEAD_DIM // 4), min(width, HEAD_DIM), ffn)


def _attentive(group: int) -> ModelSpec:
    """Little else than attention: four key-value heads, `group` query heads on each."""
    return _model(ATTENTIONS, 64, 4 * group, 4, HEAD_DIM, Dense(64, Glu(Curve.SILU)))


def _model(layers: int, width: int, heads: int, kv_heads: int, head_dim: int, ffn: Dense | Routed) -> ModelSpec:
    norm = Norm(1e-5)
    caches = tuple(Cache(i, kv_heads, head_dim, head_dim, Full()) for i in range(layers))
    rope = Rope(head_dim, 10000.0)
    stack = tuple(Layer(Attention(heads, c, head_dim**-0.5, Full(), rope), ffn, norm, None, norm, None) for c in caches)
    return ModelSpec("made up", VOCAB, width, 4 * CONTEXT, stack, caches, norm, Head(tied=False))


def _layers_beyond(one: ModelSpec, layout: str, cache_bytes: int) -> int:
    """Layers that do not fit the processor's cache two and a half times over."""
    from trilens.executors.native.executor import matrices, native_types

    values, size = native_types()[layout]
    packed = matrices(one)
    per_layer = sum(p.size for p in parameters(decoder_weights(one)) if p.name in packed) * size // values
    return max(2, math.ceil(min(5 * cache_bytes // 2, MOST_STREAMED) / per_layer))


class _Trial:
    """A made-up model on the native executor, and its seconds by kind of instruction."""

    def __init__(self, spec: ModelSpec, layout: str, activations: str, threads: int, kv: str = "f16") -> None:
        from trilens.executors.native.executor import NativeExecutor

        self.executor = NativeExecutor(
            spec,
            _weights(spec, layout),
            threads=threads,
            kv=kv,  # type: ignore[arg-type]
            activations=activations,  # type: ignore[arg-type]
        )
        self.fired = 0  # experts, in the last step

    def decoding(self, rows: int) -> dict[str, float]:
        """One token for each of `rows` sequences; the median of a few rounds."""
        return self._rounds([self.executor.sequence(PAGE) for _ in range(rows)], 1, ROUNDS)

    def prompt(self, rows: int) -> dict[str, float]:
        """`rows` tokens at the beginning of a sequence."""
        return self._rounds([self.executor.sequence(rows * 4)], rows, 2)

    def again(self, sequences: Sequence[NativeSequence]) -> float:
        """Seconds of attention for one token more of each, which are then taken back."""
        seconds = self.spent(sequences, 1)["attend"]
        for sequence in sequences:
            sequence.rewind(sequence.length - 1)
        return seconds

    def from_memory(self, like: NativeSequence, cache_bytes: int) -> float:
        """The same for each of as many such sequences as do not fit the processor's cache."""
        many = [self.executor.sequence(like.length + PAGE) for _ in range(max(2, cache_bytes // like.kv_bytes))]
        for sequence in many:
            for start in range(0, like.length, PROMPT_ROWS[-1]):
                self.spent([sequence], min(PROMPT_ROWS[-1], like.length - start))
        settle(self.executor.threads)
        rounds = [self.again(many) / len(many) for _ in range(ROUNDS)]
        for sequence in many:
            sequence.free()
        return _median(rounds)

    def _rounds(self, sequences: Sequence[NativeSequence], tokens: int, rounds: int) -> dict[str, float]:
        self.spent(sequences, tokens)
        taken = [self.spent(sequences, tokens) for _ in range(rounds)]
        while len(taken) < PAGE // 2 and rounds > 2 and sum(t["wall"] for t in taken) < LONG_ENOUGH:
            taken.append(self.spent(sequences, tokens))
        for sequence in sequences:
            sequence.free()
        return {kind: _median([t[kind] for t in taken]) for kind in taken[0]}

    def spent(self, sequences: Sequence[NativeSequence], tokens: int) -> dict[str, float]:
        """Seconds of one step by kind, and `wall` for all of it; its tokens differ, so that experts do."""
        from trilens.executors.executor import Feed

        feeds = [
            Feed(s, [(s.length + 37 * i + 11 * t) % VOCAB for t in range(tokens)]) for i, s in enumerate(sequences)
        ]
        before, experts = self.executor.seconds_by_kind(), self.executor.experts_fired()
        start = time.perf_counter()
        self.executor.step(feeds)
        wall = time.perf_counter() - start
        after = self.executor.seconds_by_kind()
        fired = zip(experts, self.executor.experts_fired(), strict=True)
        self.fired = sum(a != b for old, new in fired for a, b in zip(old, new, strict=True))
        return {**{kind: s - before.get(kind, 0.0) for kind, s in after.items()}, "wall": wall}


def _weights(spec: ModelSpec, layout: str) -> Iterator[tuple[Parameter, Packed | np.ndarray]]:
    """Matrices of one and the same byte, but a table and routers of random numbers, so that tokens differ."""
    import numpy as np

    from trilens.executors.native.executor import Packed, Rows, matrices, native_types

    packed, random = matrices(spec), np.random.default_rng(0)
    for p in parameters(decoder_weights(spec)):
        if p.name not in packed:
            yield p, np.ones(p.shape, np.float32)
            continue
        rows, columns = p.shape[-2:]
        if p.name.endswith("router") or p.name == "embedding":
            values = random.standard_normal((rows, columns), np.float32).view(np.uint8)
            yield p, Packed("F32", [Rows(0, 0, values)])
            continue
        block, size = native_types()[layout]
        data = np.full((rows, columns // block * size), 0x11, np.uint8)
        count = p.shape[0] if len(p.shape) == 3 else 1
        yield p, Packed(layout, [Rows(which, 0, data) for which in range(count)])


def settle(threads: int, seconds: float = 0.1) -> None:
    """Read memory for a while: machines that are shared give more of it for a moment than they can keep up."""
    from trilens.executors.native import _native

    start = time.perf_counter()
    while time.perf_counter() - start < seconds:
        _native.memory_read_bytes_per_second(threads, 64 << 20, 16)


def _median(values: Sequence[float]) -> float:
    return statistics.median(values)


def _speed(points: list[tuple[float, float]]) -> Speed:
    """Two points at the same rows become one."""
    rows = sorted({r for r, _ in points})
    return Speed(tuple(rows), tuple(_median([s for own, s in points if own == r]) for r in rows))


def _instructions_by_kind(executor: NativeExecutor) -> dict[str, int]:
    kinds = [ins.op.name.lower() for ins in executor.program.instructions]
    return {kind: kinds.count(kind) for kind in kinds}


def _widths_by_kind(executor: NativeExecutor) -> dict[str, int]:
    """Numbers of a row that all instructions of a kind write (or, where they write none or less, read)."""
    widths: dict[str, int] = {}
    for ins in executor.program.instructions:
        kind = ins.op.name.lower()
        widths[kind] = widths.get(kind, 0) + max(ins.width, ins.input_width)
    return widths


def _weights_by_kind(executor: NativeExecutor) -> dict[str, int]:
    from trilens.executors.native.executor import MATRICES

    weights: dict[str, int] = {}
    for ins in executor.program.instructions:
        if ins.op.name.lower() in PRODUCTS:
            used = [ins.parameters[i] for i in MATRICES[ins.op] if i < len(ins.parameters)]
            size = sum(p.size for p in used if p is not None)
            weights[ins.op.name.lower()] = weights.get(ins.op.name.lower(), 0) + size
    return weights
