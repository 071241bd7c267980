"""The memory that trilens itself will need for a model on the native executor, before it is loaded."""

from __future__ import annotations

from collections.abc import Mapping

from trilens.decoder.weights import decoder_weights, parameters
from trilens.errors import UsageError
from trilens.executors.accountant import count_parameters, fixed_bytes
from trilens.executors.native.fuse import fuse
from trilens.executors.native.program import Op, Program, share_buffers
from trilens.executors.native.record import record
from trilens.lenses.memory.job import Job, Memory
from trilens.spec.model import Chunk, Full, ModelSpec, Positions, Window

ROWS, WANTED = 256, 32  # rows of a step's buffers: of all tokens, of those whose logits are wanted
KINDS = ("f16", "8bit", "f32")
FLOATS = ("F32", "F16", "BF16")
SMALL = 500_000_000  # parameters; below, activations have 16 bits by themselves
PRODUCTS = (Op.LINEAR, Op.LINEARS, Op.GLU_LINEAR, Op.HEAD_LINEAR)


def own_memory(spec: ModelSpec, types: Mapping[str, str], job: Job) -> Memory:
    """Packed weights, the pages of the sequences, the engine's buffers."""
    if job.key_type != job.value_type or job.key_type not in KINDS:
        raise UsageError(f"trilens keeps keys and values in one type of {', '.join(KINDS)}, not {job.key_type}")
    program = share_buffers(fuse(record(spec)))
    pages = pages_bytes(program.caches, job.key_type, job.context)
    return Memory(
        "trilens",
        packed_bytes(spec, types),
        pages * job.batch,
        fixed_bytes(spec) * job.batch,
        # a step writes the states behind it beside those before it, and those behind its prompt are kept
        buffer_bytes(program, types, fine=count_parameters(spec).total < SMALL) + 2 * fixed_bytes(spec) * job.batch,
        "resident memory without Python itself; keys and values in pages of 64 positions, as sequences grow",
    )


def packed_bytes(spec: ModelSpec, types: Mapping[str, str]) -> int:
    """Weights as they are held: packed matrices, and rows of 32-bit floats."""
    from trilens.executors.native import _native

    total = 0
    for p in {p.name: p for p in parameters(decoder_weights(spec))}.values():
        if p.name in types:
            count = p.shape[0] if len(p.shape) == 3 else 1
            total += int(_native.packed_bytes(types[p.name], count, *p.shape[-2:]))
        else:
            total += 4 * p.size
    return total


def pages_bytes(caches: tuple[Positions, ...], kind: str, tokens: int) -> int:
    """What the engine's own pool reserves for a sequence of so many tokens."""
    import numpy as np

    from trilens.executors.native import _native

    def mask(cache: Positions) -> tuple[int, int]:
        match cache.keep:
            case Full():
                return 0, 0
            case Window(size):
                return 1, size
            case Chunk(size):
                return 2, size

    shapes = [(c.kv_heads, c.key_dim, c.value_dim, int(c.latent), *mask(c)) for c in caches]
    return int(_native.Pool(np.array(shapes, np.int32), kind, 1 << 62, ROWS).need(tokens))


def buffer_bytes(program: Program, types: Mapping[str, str], *, fine: bool) -> int:
    """Of the step's buffers, their copies in 8 bits, and the experts' slots (csrc/engine.cpp, Engine::ready)."""
    rows = [WANTED if wanted else ROWS for wanted in program.wanted]
    total = sum(4 * n * width for n, width in zip(rows, program.widths, strict=True))
    quantised: dict[int, bool] = {}  # buffers that are read so, and whether with 16 bits
    slots = hidden = inner = result = 0
    for ins in program.instructions:
        if ins.op in PRODUCTS or ins.op is Op.EXPERTS:
            held = [types[p.name] for p in ins.parameters[::2] if p is not None and p.name in types]
            if any(kind not in FLOATS for kind in held):
                own = fine or ins.fine
                quantised[ins.inputs[0]] = own or quantised.get(ins.inputs[0], False)
        if ins.op is Op.EXPERTS:
            gate, down = ins.parameters[0], ins.parameters[4]
            assert gate is not None and down is not None
            chosen = ins.integers[0]
            slots, inner = max(slots, ROWS * chosen), max(inner, gate.shape[1])
            hidden = max(hidden, ROWS * chosen * gate.shape[1])
            result = max(result, ROWS * chosen * down.shape[1])
    total += sum(_quantised(rows[b], program.widths[b], own) for b, own in quantised.items())
    return total + 4 * (hidden + result) + (_quantised(slots, inner, fine) if slots else 0)


def _quantised(rows: int, width: int, fine: bool) -> int:
    """For every 32 columns 32 codes of a byte and four numbers of four bytes; the same twice for 16 bits."""
    return rows * -(-width // 32) * 48 * (1 + fine)
