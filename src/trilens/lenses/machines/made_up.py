"""Small synthetic models on the native executor, and the seconds that their instructions take."""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from trilens.decoder.weights import Parameter, decoder_weights, parameters
from trilens.spec.model import (
    Attention,
    Curve,
    Dense,
    Full,
    GatedRecurrence,
    Glu,
    Head,
    Layer,
    ModelSpec,
    Norm,
    OutputGate,
    Positions,
    Recurrence,
    Rope,
    Routed,
    Router,
    Scoring,
    SoftplusDecay,
    recurrent_state,
)

if TYPE_CHECKING:
    import numpy as np

    from trilens.executors.native.executor import NativeExecutor, NativeSequence, Packed

WIDTH, HEAD_DIM, VOCAB = 1024, 64, 256
EXPERTS, CHOSEN, EXPERT_WIDTH = 32, 4, 512
DECODE_ROWS = (1, 2, 4, 8)
PROMPT_ROWS = (16, 64, 256)  # the last: what the engine takes at once
PAGE, CONTEXT = 64, 512  # positions that attention is timed at
ATTENTIONS = 16  # of one model, so that their caches do not fit a core's own cache
RECURRENCES, TAPS = 4, 4  # of one model; tokens that a convolution spans
PRODUCTS = ("linear", "linears", "glu_linear")
MOST_STREAMED = 256 << 20  # bytes of a made-up model, however large the processor's cache is
ROUNDS, PROMPT_ROUNDS = 7, 3
LONG_ENOUGH = 0.02  # seconds that short rounds are repeated for


def small(
    layers: int = 1, *, width: int = WIDTH, experts: int = 0, chosen: int = CHOSEN, expert_width: int = EXPERT_WIDTH
) -> ModelSpec:
    glu = Glu(Curve.SILU)
    router = Router(experts, chosen, Scoring.SOFTMAX, renormalise=True)
    ffn = Routed(router, expert_width, glu) if experts else Dense(4 * width, glu)
    return _model(layers, width, max(1, width // HEAD_DIM), max(1, width // HEAD_DIM // 4), min(width, HEAD_DIM), ffn)


def attentive(group: int) -> ModelSpec:
    """Little else than attention: four key-value heads, `group` query heads on each."""
    return _model(ATTENTIONS, 64, 4 * group, 4, HEAD_DIM, Dense(64, Glu(Curve.SILU)))


def recurrent(delta: bool, vector_decay: bool) -> ModelSpec:
    """Little else than recurrences, with heads of the usual size."""
    rule = Recurrence(8, 8, 128, 128, delta, vector_decay)
    norm, curve = Norm(1e-5), Curve.SILU
    states = tuple(recurrent_state(i, rule, TAPS) for i in range(RECURRENCES))
    ffn = Dense(64, Glu(curve))
    stack = tuple(
        Layer(GatedRecurrence(s, rule, SoftplusDecay(), OutputGate(curve, None)), ffn, norm, None, norm, None)
        for s in states
    )
    return ModelSpec("made up", VOCAB, 64, 4 * CONTEXT, stack, states, norm, Head(tied=False))


def _model(layers: int, width: int, heads: int, kv_heads: int, head_dim: int, ffn: Dense | Routed) -> ModelSpec:
    norm = Norm(1e-5)
    caches = tuple(Positions(i, kv_heads, head_dim, head_dim, Full()) for i in range(layers))
    rope = Rope(head_dim, 10000.0)
    stack = tuple(Layer(Attention(heads, c, head_dim**-0.5, Full(), rope), ffn, norm, None, norm, None) for c in caches)
    return ModelSpec("made up", VOCAB, width, 4 * CONTEXT, stack, caches, norm, Head(tied=False))


def layers_beyond(one: ModelSpec, layout: str, cache_bytes: int) -> int:
    """Layers that do not fit the processor's cache two and a half times over."""
    from trilens.executors.native.matrices import matrices, native_types

    values, size = native_types()[layout]
    packed = matrices(one)
    per_layer = sum(p.size for p in parameters(decoder_weights(one)) if p.name in packed) * size // values
    return max(2, math.ceil(min(5 * cache_bytes // 2, MOST_STREAMED) / per_layer))


class Trial:
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
        """`rows` tokens at the beginning of a sequence; the median of a few rounds."""
        return self._rounds([self.executor.sequence(rows * (PROMPT_ROUNDS + 1))], rows, PROMPT_ROUNDS)

    def attention(self, sequences: Sequence[NativeSequence]) -> float:
        """Seconds of attention for one more token of each sequence, the median of some rounds. Their tokens are removed
        afterwards."""
        taken: list[float] = []
        while len(taken) < ROUNDS or (sum(taken) < LONG_ENOUGH and len(taken) < PAGE // 2):
            taken.append(self.spent(sequences, 1)["attend"])
            for sequence in sequences:
                sequence.rewind(sequence.length - 1)
        return statistics.median(taken)

    def from_memory(self, like: NativeSequence, cache_bytes: int) -> float:
        """The same for each of as many such sequences as do not fit the processor's cache."""
        many = [self.executor.sequence(like.length + PAGE) for _ in range(max(2, cache_bytes // like.kv_bytes))]
        for sequence in many:
            for start in range(0, like.length, PROMPT_ROWS[-1]):
                self.spent([sequence], min(PROMPT_ROWS[-1], like.length - start))
        settle(self.executor.threads)
        seconds = self.attention(many) / len(many)
        for sequence in many:
            sequence.free()
        return seconds

    def _rounds(self, sequences: Sequence[NativeSequence], tokens: int, rounds: int) -> dict[str, float]:
        self.spent(sequences, tokens)
        taken = [self.spent(sequences, tokens) for _ in range(rounds)]
        while len(taken) < PAGE // 2 and rounds > PROMPT_ROUNDS and sum(t["wall"] for t in taken) < LONG_ENOUGH:
            taken.append(self.spent(sequences, tokens))
        for sequence in sequences:
            sequence.free()
        return {kind: statistics.median([t[kind] for t in taken]) for kind in taken[0]}

    def spent(self, sequences: Sequence[NativeSequence], tokens: int) -> dict[str, float]:
        """Seconds of one step by kind, and `wall` for all of it; its tokens differ, so that experts do."""
        from trilens.executors.executor import StepInput

        feeds = [
            StepInput(s, [(s.length + 37 * i + 11 * t) % VOCAB for t in range(tokens)]) for i, s in enumerate(sequences)
        ]
        before, experts = self.executor.seconds_by_kind(), self.executor.experts_fired()
        start = time.perf_counter()
        self.executor.step(feeds)
        wall = time.perf_counter() - start
        after = self.executor.seconds_by_kind()
        fired = zip(experts, self.executor.experts_fired(), strict=True)
        self.fired = sum(a != b for old, new in fired for a, b in zip(old, new, strict=True))
        return {**{kind: s - before.get(kind, 0.0) for kind, s in after.items()}, "wall": wall}


def settle(threads: int, seconds: float = 0.1) -> float:
    """Read memory for a while, because shared machines give more bandwidth for a moment than they can sustain.

    Returns the processor time that the threads got, as a share of what they wanted. Near 1 unless other programs run.
    """
    from trilens.executors.native import _native

    start, own = time.perf_counter(), time.process_time()
    while time.perf_counter() - start < seconds:
        _native.memory_read_bytes_per_second(threads, 64 << 20, 16)
    return min(1.0, (time.process_time() - own) / (threads * (time.perf_counter() - start)))


def instructions_by_kind(executor: NativeExecutor) -> dict[str, int]:
    kinds = [ins.op.name.lower() for ins in executor.program.instructions]
    return {kind: kinds.count(kind) for kind in kinds}


def widths_by_kind(executor: NativeExecutor) -> dict[str, int]:
    """Numbers of a row that all instructions of a kind write (or, where they write none or less, read)."""
    widths: dict[str, int] = {}
    for ins in executor.program.instructions:
        kind = ins.op.name.lower()
        widths[kind] = widths.get(kind, 0) + max(ins.width, ins.input_width)
    return widths


def weights_by_kind(executor: NativeExecutor) -> dict[str, int]:
    from trilens.executors.native.matrices import MATRICES

    weights: dict[str, int] = {}
    for ins in executor.program.instructions:
        if ins.op.name.lower() in PRODUCTS:
            used = [ins.parameters[i] for i in MATRICES[ins.op] if i < len(ins.parameters)]
            size = sum(p.size for p in used if p is not None)
            weights[ins.op.name.lower()] = weights.get(ins.op.name.lower(), 0) + size
    return weights


def _weights(spec: ModelSpec, layout: str) -> Iterator[tuple[Parameter, Packed | np.ndarray]]:
    """Matrices of one and the same byte, but a table and routers of random numbers, so that tokens differ."""
    import numpy as np

    from trilens.executors.native.executor import Packed, Rows
    from trilens.executors.native.matrices import matrices, native_types

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
