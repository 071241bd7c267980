"""How long a step will take on this machine: the recorded program, instruction by instruction, at the machine's speeds.

Equal layers are computed once and counted. The sum of all instructions equals the accountant's count; a test compares
them to the last operation.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from trilens.executors.accountant import Span, distinct_experts, fixed_bytes, visible_pairs
from trilens.executors.native.program import Instruction, Op, Program
from trilens.lenses.costs.costs import costs
from trilens.lenses.machines.machine import Layout, Machine, Measurable, Rule
from trilens.lenses.machines.made_up import PAGE
from trilens.lenses.machines.overlap import Overlap
from trilens.lenses.machines.rates import TILE
from trilens.spec.model import Chunk, Full, Mask, ModelSpec, Positions, Window, first_visible

if TYPE_CHECKING:
    from trilens.executors.native.executor import NativeExecutor

PIECE = 256  # rows that the engine takes at once
FITS, FULL = 0.6, 1.2  # of the processor's cache: what a step reads stays in it, or all comes from memory
FLOATS = ("F32", "F16", "BF16")
KV_BYTES = {"f32": 4, "f16": 2, "8bit": 1}
MATRICES = {Op.LINEAR: (0,), Op.LINEARS: (0, 2, 4), Op.GLU_LINEAR: (0, 2), Op.HEAD_LINEAR: (0,), Op.EXPERTS: (0, 2, 4)}
AS_ADD = {Op.CLIP, Op.SLICE, Op.JOIN, Op.MUL, Op.SCALE, Op.SCALE_BY_POSITION, Op.SOFTCAP, Op.GLU, Op.ACTIVATE}
AS_ADD |= {Op.ABOVE, Op.RESIZED}


@dataclass(frozen=True)
class Kind:
    """What one instruction costs, apart from where in the model it stands.

    `matrices`: (weights, layout) of each. `work`: for attention (heads, key and value numbers, query heads on one
    key-value head), for experts (experts, chosen), for a convolution (taps), for a recurrence (rows of a head's state,
    products with it, bytes of it, and whether its rule is the delta rule and has a decay for each row), for a mix
    (parts), else nothing.
    """

    op: Op
    wanted: bool
    width: int
    matrices: tuple[tuple[int, str], ...] = ()
    work: tuple[int, ...] = ()
    mask: Mask | None = None
    fine: bool = False  # it reads 16 bits in every model


@dataclass(frozen=True)
class Runner:
    """A model as the native executor holds it, on a machine whose speeds are known for its layouts."""

    kinds: Mapping[Kind, int]  # how many instructions are of it
    weight_bytes: int
    kv_token_bytes: int
    fixed_bytes: int  # of states that every step of a sequence reads and writes
    activations: str
    kv: str
    machine: Machine
    overlap: Overlap
    adapter_numbers: int = 0  # of the matrices of the adapter that the calls use

    def step_seconds(self, spans: Sequence[Span]) -> float:
        """One step for these sequences, cut as the engine cuts it."""
        return sum(self._piece(piece) for piece in cut(spans)) + (
            self.machine.overheads["step"] + len(spans) * self.machine.overheads["sequence"]
        )

    def first_token_seconds(self, prompt: int, cached: int = 0) -> float:
        """From a prompt to its last token's logits, fed a piece at a time."""
        starts = range(cached, prompt, PIECE)
        return sum(self.step_seconds([Span(at, min(PIECE, prompt - at), int(at + PIECE >= prompt))]) for at in starts)

    def token_seconds(self, context: int, batch: int = 1) -> float:
        """A step of decoding: one token for each of `batch` sequences that hold `context` tokens with it."""
        return self.step_seconds([Span(context - 1, 1)] * batch)

    def _piece(self, spans: Sequence[Span]) -> float:
        rows, wanted = sum(s.new for s in spans), sum(s.logits for s in spans)
        kept = sum((s.past + s.new) * self.kv_token_bytes + self.fixed_bytes for s in spans)
        streamed = min(1.0, max(0.0, ((self.weight_bytes + kept) / self.machine.cache_bytes - FITS) / (FULL - FITS)))
        return self._adapter(rows, streamed) + sum(
            count * self._seconds(kind, wanted if kind.wanted else rows, spans, streamed)
            for kind, count in self.kinds.items()
            if not kind.wanted or wanted
        )

    def _adapter(self, rows: int, streamed: float) -> float:
        """Its products, a multiply-add for each number and row, or the way of its numbers from memory."""
        computed = rows * self.adapter_numbers * self.machine.speeds["add"].at(rows)
        moved = 4 * self.adapter_numbers / self.machine.memory_read[max(self.machine.memory_read)]
        return max(computed, streamed * moved)

    def _seconds(self, kind: Kind, rows: int, spans: Sequence[Span], streamed: float) -> float:
        name, speeds = kind.op.name.lower(), self.machine.speeds
        fixed = self.machine.overheads.get(name, self.machine.overheads["add"])
        match kind.op:
            case Op.LINEAR | Op.LINEARS | Op.GLU_LINEAR | Op.HEAD_LINEAR:
                fixed = self.machine.overheads["linear"]
                known = "linear" if kind.op is Op.HEAD_LINEAR else name
                return fixed + sum(
                    n * rows * self._product(known, layout, rows, streamed, fine=kind.fine)
                    for n, layout in kind.matrices
                )
            case Op.EXPERTS:
                experts, chosen, choices = kind.work
                alone = self.overlap.independent([s.new for s in spans])
                fired = float(distinct_experts(experts, chosen, alone, choices - experts))
                slots = rows * chosen * experts / choices  # that have weights
                return fixed + sum(
                    n / experts * slots * self._product(name, layout, slots / fired, streamed)
                    for n, layout in kind.matrices
                )
            case Op.ATTEND:
                return self._attention(kind, spans, streamed)
            case Op.CONVOLVE:
                return fixed + rows * kind.width * kind.work[0] * speeds[name].at(rows)
            case Op.RECUR:
                key_dim, _, size, *flags = kind.work
                speed = speeds[Rule(*map(bool, flags)).name]
                computed = sum(s.new * kind.width * key_dim * speed.at(s.new) for s in spans)
                moved = 2 * size * len(spans) / self.machine.memory_read[max(self.machine.memory_read)]
                return fixed + max(computed, streamed * moved)
            case Op.MIX:
                return fixed + rows * kind.width * kind.work[0] * speeds["add"].at(rows)
            case op if op in AS_ADD:
                return fixed + rows * kind.width * speeds["add"].at(rows)
            case _:
                return fixed + rows * kind.width * speeds[name].at(rows)

    def _product(self, name: str, layout: str, rows: float, streamed: float, *, fine: bool = False) -> float:
        """Seconds for one weight and row, between what it is from the cache and from memory."""
        activations = "8bit" if layout in FLOATS else "16bit" if fine else self.activations
        cached = self.machine.speeds[f"{name}/{layout}/{activations}/cached"].at(rows)
        if not streamed:
            return cached
        table = self.machine.speeds[f"{name}/{layout}/{activations}/streamed"]
        # with more rows than were tried from memory, the reading is shared by all of them
        from_memory = table.at(rows) * min(1.0, table.rows[-1] / rows)
        return (1 - streamed) * cached + streamed * max(cached, from_memory)

    def _attention(self, kind: Kind, spans: Sequence[Span], streamed: float) -> float:
        heads, numbers, group = kind.work
        assert kind.mask is not None
        speeds = [self.machine.speeds[f"attend/{self.kv}/{tier}"] for tier in ("cached", "streamed")]
        seconds = 0.0
        for span in spans:
            together = min(TILE, span.new * min(group, 16))
            cached = speeds[0].at(together)
            away = max(cached, speeds[1].at(together) * min(1.0, speeds[1].rows[-1] / together))
            each = (1 - streamed) * cached + streamed * away
            seconds += self._pairs(kind.mask, span) * heads * numbers * each
        return self.machine.overheads[f"attend/{self.kv}"] + seconds

    @staticmethod
    def _pairs(mask: Mask, span: Span) -> int:
        """Query-key pairs; one token's keys in whole pages, as they are computed."""
        if span.new > 1:
            return visible_pairs(mask, span.past, span.new)
        first = first_visible(mask, span.past)
        return -(-(span.past + 1) // PAGE) * PAGE - first // PAGE * PAGE


def runner(
    spec: ModelSpec,
    program: Program,
    types: Mapping[str, str],
    packed_bytes: int,
    machine: Machine,
    *,
    activations: str,
    kv: str = "f16",
    overlap: Overlap | None = None,
) -> Runner:
    """`program` fused, `types` what `held_types` says, `overlap` what was counted on the model; without it, what
    published batches show."""
    kinds = Counter(_kind(ins, types, program.caches) for ins in program.instructions)
    token = sum(c.width for c in program.caches) * KV_BYTES[kv]
    overlap = overlap or Overlap(costs().overlap, costs().overlap)
    return Runner(kinds, packed_bytes, token, fixed_bytes(spec), activations, kv, machine, overlap)


def runner_of(executor: NativeExecutor, machine: Machine, overlap: Overlap | None = None) -> Runner:
    """Of a model that is loaded."""
    return runner(
        executor.spec,
        executor.program,
        executor.types,
        executor.weight_bytes,
        machine,
        activations=executor.activations,
        kv=executor.kv,
        overlap=overlap,
    )


def measurables_of(program: Program, types: Mapping[str, str], activations: str) -> list[Measurable]:
    """What has to be measured before such a program can be predicted."""
    wanted: dict[Measurable, None] = {}
    for ins in program.instructions:
        if ins.op is Op.RECUR:
            wanted[Rule(bool(ins.integers[5]), bool(ins.integers[6]))] = None
        for p in (ins.parameters[i] for i in MATRICES.get(ins.op, ()) if i < len(ins.parameters)):
            if p is not None:
                own = "8bit" if types[p.name] in FLOATS else "16bit" if ins.fine else activations
                wanted[Layout(types[p.name], own, ins.op is Op.EXPERTS)] = None
    return list(wanted)


def cut(spans: Iterable[Span]) -> list[list[Span]]:
    """The pieces of at most 256 rows, in order."""
    pieces: list[list[Span]] = [[]]
    room = PIECE
    for span in spans:
        done = 0
        while done < span.new:
            if not room:
                pieces.append([])
                room = PIECE
            n = min(room, span.new - done)
            pieces[-1].append(Span(span.past + done, n, span.logits if done + n == span.new else 0))
            done, room = done + n, room - n
    return pieces


def flops(kinds: Mapping[Kind, int], spans: Sequence[Span]) -> int:
    """Operations of a step, by the same sums as its seconds; equal to the accountant's."""
    rows, wanted = sum(s.new for s in spans), sum(s.logits for s in spans)
    total = 0
    for kind, count in kinds.items():
        own = wanted if kind.wanted else rows
        match kind.op:
            case Op.EXPERTS:
                experts, chosen, choices = kind.work
                firing = -(-chosen * experts // choices)
                total += count * 2 * own * firing * sum(n for n, _ in kind.matrices) // experts
            case Op.ATTEND:
                heads, numbers, _ = kind.work
                assert kind.mask is not None
                pairs = sum(visible_pairs(kind.mask, s.past, s.new) for s in spans)
                total += count * 2 * heads * numbers * pairs
            case Op.CONVOLVE | Op.MIX:
                total += count * 2 * own * kind.width * kind.work[0]
            case Op.RECUR:
                key_dim, products, *_ = kind.work
                total += count * 2 * own * kind.width * key_dim * products
            case _:
                total += count * 2 * own * sum(n for n, _ in kind.matrices)
    return total


def _kind(ins: Instruction, types: Mapping[str, str], caches: Sequence[Positions]) -> Kind:
    used = [ins.parameters[i] for i in MATRICES.get(ins.op, ()) if i < len(ins.parameters)]
    matrices = tuple((p.size, types[p.name]) for p in used if p is not None)
    width = max(ins.width, ins.input_width)
    match ins.op:
        case Op.ATTEND:
            cache = caches[ins.integers[0]]
            heads, mask, size = ins.integers[1:4]
            work = (heads, cache.key_dim + cache.value_dim, heads // cache.kv_heads)
            return Kind(ins.op, ins.wanted, width, work=work, mask=(Full(), Window(size), Chunk(size))[mask])
        case Op.EXPERTS:
            assert used[0] is not None
            gated = bool(ins.integers[3])
            work = (used[0].shape[0], ins.integers[0], ins.integers[4])
            return Kind(ins.op, ins.wanted, width, matrices[not gated :], work)
        case Op.CONVOLVE:
            return Kind(ins.op, ins.wanted, width, work=(ins.integers[1],))
        case Op.MIX:
            return Kind(ins.op, ins.wanted, ins.width, work=(ins.integers[0],))
        case Op.RECUR:
            heads, _, key_dim, value_dim, delta, vector_decay = ins.integers[1:7]
            rule = (key_dim, 2 + delta, 4 * heads * key_dim * value_dim, delta, vector_decay)
            return Kind(ins.op, ins.wanted, ins.width, work=rule)
        case _:
            return Kind(ins.op, ins.wanted, width, matrices, fine=ins.fine)
