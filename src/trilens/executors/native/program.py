"""A recorded forward pass: a flat list of instructions over numbered buffers. It knows no token, position or length."""

from __future__ import annotations

from dataclasses import dataclass, replace
from enum import IntEnum, unique

from trilens.decoder.ops import Part
from trilens.decoder.weights import Parameter
from trilens.spec.model import Positions, PositionScale, Rope, StateTensor


@unique
class Op(IntEnum):
    """What an instruction does. The compiled part takes its numbers from here (see CMakeLists.txt).

    Behind each: inputs -> outputs | parameters | integers | numbers, in the order in which an `Instruction` holds them.
    """

    EMBED = 0  # -> y | table | by position (0: by token)
    LAST_ROWS = 1  # x -> y
    LINEAR = 2  # x -> y | weight, bias | fine: x with 16 bits in every model
    HEAD_LINEAR = 3  # x -> y | weight | heads
    NORM = 4  # x -> y | weight, bias | groups, centred | eps
    ROPE = 5  # x -> y | | heads, which rope, dim, interleaved
    SCALE_BY_POSITION = 6  # x -> y | | which rule
    CLIP = 7  # x -> y | | | least, most
    SLICE = 8  # x -> y | | groups, start, stop
    JOIN = 9  # a, b -> y | | groups
    ADD = 10  # a, b -> y
    MUL = 11  # x -> y | factors: one for each of equal parts of x
    SCALE = 12  # x -> y | | | factor
    SOFTCAP = 13  # x -> y | | | cap
    GLU = 14  # gate, up -> y | | curve | clamp (infinite: none), slope, up offset, the gate's clamp
    #           a gate that is narrower than up has a number for each of equal parts of it
    WRITE_KV = 15  # k, v (none: latent) -> | | which cache
    ATTEND = 16  # q -> y | sinks | cache, heads, mask (0 full, 1 window, 2 chunk), its size | scale, softcap (0: none)
    ROUTE = 17  # logits -> ids, weights | correction bias, expert scale
    #             | chosen, scoring, renormalise, groups (0: none), groups chosen, best of a group
    #             | renormalise eps, scale, jitter
    EXPERTS = 18  # x, ids, weights -> y | gate, its bias, up, its bias, down, its bias
    #               | chosen, weight on input, curve, gated (0: gate and up are one), of how many | as of GLU
    #               what is chosen beyond the last expert hands x on

    CONVOLVE = 19  # x -> y | taps, bias | which fixed tensor, W, curve behind it (-1: none)
    RECUR = 20  # q, k, v, decay, beta -> y | | which fixed tensor, heads, key heads, key dim, value dim, delta rule,
    #             vector decay, tiled heads
    ACTIVATE = 21  # x -> y | | curve
    ABOVE = 22  # x -> y | | | deviations
    RESIZED = 23  # x, like -> y | | parts of x as wide as like | least mean square
    MIX = 24  # x, weights -> y | | parts of x
    GIVEN = 25  # -> y: the rows that come with the tokens of the step

    # what fuse.py makes of several; there, LINEAR may have a second input that is added to its result
    LINEARS = 26  # x -> up to 3 results | weight, bias of each | fine
    GLU_LINEAR = 27  # x -> y | gate, its bias, up, its bias | curve, fine | as of GLU


@dataclass(frozen=True)
class Instruction:
    """One operation. `outputs` and `inputs` are buffer numbers; `wanted`: only on the rows whose logits are wanted.

    `width` and `input_width` are the columns of the first output and of the first input (0 where there is none).
    """

    op: Op
    part: Part
    layer: int | None
    outputs: tuple[int, ...] = ()
    inputs: tuple[int, ...] = ()
    parameters: tuple[Parameter | None, ...] = ()
    integers: tuple[int, ...] = ()
    numbers: tuple[float, ...] = ()
    width: int = 0
    input_width: int = 0
    wanted: bool = False

    @property
    def fine(self) -> bool:
        """Whether it reads its input with 16 bits in every model."""
        match self.op:
            case Op.LINEAR | Op.LINEARS:
                return bool(self.integers[0])
            case Op.GLU_LINEAR:
                return bool(self.integers[1])
            case _:
                return False


@dataclass(frozen=True)
class Program:
    """Buffer b has a row per token of the step, `widths[b]` numbers of 4 bytes wide (a row
    only for each token whose logits are wanted, where `wanted[b]`); `logits` is the result."""

    instructions: tuple[Instruction, ...]
    widths: tuple[int, ...]
    wanted: tuple[bool, ...]
    logits: int
    caches: tuple[Positions, ...]
    fixed: tuple[StateTensor, ...]  # the tensors of all fixed states
    ropes: tuple[Rope, ...]
    position_scales: tuple[PositionScale, ...]
    behind: int = -1  # of the rows behind the last layer, which are kept through the step; -1: nobody wants them


def share_buffers(program: Program) -> Program:
    """The same program with values that never live at the same time in the same buffer.

    An output never shares a buffer with the inputs of its instruction, so operations need not handle overlap.
    """
    last_use = {v: i for i, ins in enumerate(program.instructions) for v in (*ins.outputs, *ins.inputs)}
    last_use[program.logits] = last_use[program.behind] = len(program.instructions)
    widths: list[int] = []
    wanted: list[bool] = []
    free: list[int] = []
    home: dict[int, int] = {}

    def settle(value: int) -> int:
        need = program.widths[value]
        # the tightest buffer that fits, else the widest one, made wider
        same_rows = [b for b in free if wanted[b] == program.wanted[value]]
        at = min(same_rows, key=lambda b: (widths[b] < need, abs(widths[b] - need)), default=None)
        if at is None:
            widths.append(need)
            wanted.append(program.wanted[value])
            return len(widths) - 1
        free.remove(at)
        widths[at] = max(widths[at], need)
        return at

    placed = []
    for i, ins in enumerate(program.instructions):
        for value in ins.outputs:
            home[value] = settle(value)
        placed.append(
            replace(ins, outputs=tuple(home[v] for v in ins.outputs), inputs=tuple(home[v] for v in ins.inputs))
        )
        free.extend(home[v] for v in {*ins.outputs, *ins.inputs} if last_use[v] == i)
    return replace(
        program,
        instructions=tuple(placed),
        widths=tuple(widths),
        wanted=tuple(wanted),
        logits=home[program.logits],
        behind=home.get(program.behind, -1),
    )
