"""A program as plain arrays of numbers, for the code that replays it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from trilens.decoder.ops import Part

if TYPE_CHECKING:
    from trilens.decoder.weights import Parameter
    from trilens.executors.native.program import Program

OUTPUTS, INPUTS, PARAMETERS, INTEGERS, NUMBERS = 3, 5, 6, 8, 4
PARTS = list(Part)


@dataclass(frozen=True)
class Encoded:
    """`integers` [instructions, 6 + 3 + 5 + 6 + 8]: op, wanted, part, layer, two widths; outputs, inputs, parameters,
    integers, -1 where there is none. `numbers` [instructions, 4]. A parameter is its place in `parameters`.
    """

    integers: np.ndarray
    numbers: np.ndarray
    parameters: tuple[Parameter, ...]


def encode(program: Program, known: Sequence[Parameter] = ()) -> Encoded:
    """Every instruction as one row of fixed length. `known`: the first of `parameters`, used or not."""
    parameters = list(known)
    places = {p.name: i for i, p in enumerate(parameters)}
    integers = np.full((len(program.instructions), 6 + OUTPUTS + INPUTS + PARAMETERS + INTEGERS), -1, np.int32)
    numbers = np.zeros((len(program.instructions), NUMBERS), np.float32)
    for row, ins in enumerate(program.instructions):
        for p in ins.parameters:
            if p is not None and p.name not in places:
                places[p.name] = len(parameters)
                parameters.append(p)
        layer = -1 if ins.layer is None else ins.layer
        integers[row, :6] = ins.op, ins.wanted, PARTS.index(ins.part), layer, ins.width, ins.input_width
        at = 6
        named = tuple(-1 if p is None else places[p.name] for p in ins.parameters)
        for field, length in (
            (ins.outputs, OUTPUTS),
            (ins.inputs, INPUTS),
            (named, PARAMETERS),
            (ins.integers, INTEGERS),
        ):
            integers[row, at : at + len(field)] = field
            at += length
        numbers[row, : len(ins.numbers)] = ins.numbers
    return Encoded(integers, numbers, tuple(parameters))
