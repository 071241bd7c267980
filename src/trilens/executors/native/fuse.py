"""Instructions that read the same input or feed each other are fused, so that threads have to wait less often in a
step.

Works on a program in which every value still has a buffer of its own. The results are the same numbers.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

from trilens.executors.native.program import Instruction, Op, Program

MOST_TOGETHER = 3  # outputs of one instruction


def fuse(program: Program) -> Program:
    """Gate, up and their product; a convolution and the curve behind it; a matrix and the residual it is added to;
    matrices on the same input."""
    for rule in (_gated, _curved, _residual, _side_by_side):
        program = replace(program, instructions=tuple(rule(list(program.instructions), program.logits)))
    return program


def _uses(instructions: list[Instruction], logits: int) -> Counter[int]:
    return Counter([v for ins in instructions for v in ins.inputs] + [logits])


def _writers(instructions: list[Instruction]) -> dict[int, Instruction]:
    return {value: ins for ins in instructions for value in ins.outputs}


def _gated(instructions: list[Instruction], logits: int) -> list[Instruction]:
    """linear(x), linear(x), glu -> glu_linear(x)."""
    uses, writers = _uses(instructions, logits), _writers(instructions)
    gone: set[Instruction] = set()
    result = []
    for ins in instructions:
        if ins.op is Op.GLU:
            gate, up = (writers[v] for v in ins.inputs)
            plain = all(w.op is Op.LINEAR and uses[w.outputs[0]] == 1 for w in (gate, up))
            if plain and (gate.inputs, gate.width, gate.integers) == (up.inputs, up.width, up.integers):
                gone |= {gate, up}
                ins = replace(
                    ins,
                    op=Op.GLU_LINEAR,
                    inputs=gate.inputs,
                    input_width=gate.input_width,
                    parameters=gate.parameters + up.parameters,
                    integers=(*ins.integers, *gate.integers),
                )
        result.append(ins)
    return [ins for ins in result if ins not in gone]


def _curved(instructions: list[Instruction], logits: int) -> list[Instruction]:
    """activate(convolve(x)) -> convolve(x), which passes each row through the curve as it writes it."""
    uses, writers = _uses(instructions, logits), _writers(instructions)
    gone: set[Instruction] = set()
    result = []
    for ins in instructions:
        if ins.op is Op.ACTIVATE:
            before = writers[ins.inputs[0]]
            if before.op is Op.CONVOLVE and uses[ins.inputs[0]] == 1:
                gone.add(before)
                place, taps, _ = before.integers
                ins = replace(before, outputs=ins.outputs, integers=(place, taps, *ins.integers))
        result.append(ins)
    return [ins for ins in result if ins not in gone]


def _residual(instructions: list[Instruction], logits: int) -> list[Instruction]:
    """add(r, linear(x)) -> linear(x, r), which adds as it writes."""
    uses, writers = _uses(instructions, logits), _writers(instructions)
    gone: set[Instruction] = set()
    result = []
    for ins in instructions:
        if ins.op is Op.ADD:
            for residual, value in (ins.inputs, ins.inputs[::-1]):
                linear = writers[value]
                if linear.op is Op.LINEAR and len(linear.inputs) == 1 and uses[value] == 1 and linear not in gone:
                    gone.add(linear)
                    ins = replace(linear, inputs=(*linear.inputs, residual), outputs=ins.outputs)
                    break
        result.append(ins)
    return [ins for ins in result if ins not in gone]


def _side_by_side(instructions: list[Instruction], logits: int) -> list[Instruction]:
    """linear(x), ..., linear(x) -> linears(x), where the first of them stood."""
    by_input: dict[int, list[Instruction]] = {}
    for ins in instructions:
        if ins.op is Op.LINEAR and len(ins.inputs) == 1:
            by_input.setdefault(ins.inputs[0], []).append(ins)
    first: dict[Instruction, list[Instruction]] = {}
    gone: set[Instruction] = set()
    for group in by_input.values():
        together = group[:MOST_TOGETHER]
        if len(together) > 1:
            first[together[0]] = together
            gone |= set(together[1:])
    result = []
    for ins in instructions:
        if ins in first:
            group = first[ins]
            ins = replace(
                ins,
                op=Op.LINEARS,
                outputs=tuple(w.outputs[0] for w in group),
                parameters=tuple(p for w in group for p in w.parameters),
                integers=(max(w.integers[0] for w in group),),
            )
        if ins not in gone:
            result.append(ins)
    return result
