"""What csrc/check.cpp refuses: numbers that the spec's bounds would not let through, handed over all the same."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from tests.executors.packing import native_executor
from tests.executors.tiny import SILU, attention, layer, model, plain, random_tensors, routed
from trilens.errors import RequestRefused
from trilens.executors.executor import StepInput
from trilens.executors.native import executor as native
from trilens.executors.native.encode import INPUTS, OUTPUTS, PARAMETERS
from trilens.executors.native.program import Op
from trilens.executors.torch import TorchExecutor
from trilens.spec.model import ExpertGroups, Full, Positions, Routed, Router, Scoring

INTEGERS = 6 + OUTPUTS + INPUTS + PARAMETERS  # where an instruction's own integers begin
HOSTILE = (0, -1, 3, 7, 1000, 2**31 - 1, -(2**31))


def changed(monkeypatch: pytest.MonkeyPatch, op: Op, place: int, value: int) -> None:
    """Every instruction `op` of the next program gets `value` as its `place`-th integer."""
    real = native.encode

    def encode(program: Any) -> Any:
        encoded = real(program)
        rows = encoded.integers[:, 0] == op
        assert rows.any()
        encoded.integers[rows, INTEGERS + place] = value
        return encoded

    monkeypatch.setattr(native, "encode", encode)


@pytest.mark.parametrize("value", HOSTILE)
@pytest.mark.parametrize(
    "spec, op, place",
    [
        (plain, Op.ROPE, 0),  # heads
        (plain, Op.ROPE, 2),  # dimensions that turn
        (plain, Op.NORM, 0),  # groups
        (plain, Op.WRITE_KV, 0),  # which cache
        (plain, Op.ATTEND, 1),  # heads
        (routed, Op.ROUTE, 0),  # experts chosen
        (routed, Op.ROUTE, 4),  # groups chosen
        (routed, Op.ROUTE, 5),  # experts that make a group's score
        (routed, Op.EXPERTS, 0),  # experts chosen
        (routed, Op.EXPERTS, 4),  # of how many
    ],
)
def test_numbers_that_would_leave_a_buffer(
    spec: Callable[[], Any], op: Op, place: int, value: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    if (op, value) == (Op.WRITE_KV, 0) or (op, place, value) == (Op.ROUTE, 4, 3):
        pytest.skip("a number that it may be")
    tensors = random_tensors(spec())
    changed(monkeypatch, op, place, value)
    with pytest.raises(RequestRefused, match="this program cannot be run"):
        native_executor(spec(), tensors, "F32", threads=1)


@pytest.mark.parametrize("groups", [1, 2, 256, 512, 1024])
def test_groups_as_many_as_experts(groups: int) -> None:
    """1,024 experts in up to 1,024 groups: there is no array of fixed size for them."""
    best = 1 if groups > 512 else 2
    chosen_groups = max(1, groups // 2)
    router = Router(1024, 3 if groups < 1024 else 2, Scoring.SOFTMAX, groups=ExpertGroups(groups, chosen_groups, best))
    if groups == 1:
        router = replace(router, groups=ExpertGroups(1, 1, best))
    spec = model([layer(attention(Positions(0, 2, 16, 16, Full())), Routed(router, 8, SILU))])
    tensors, tokens = random_tensors(spec), list(range(12))
    executor = native_executor(spec, tensors, "F32", threads=1, kv="f32")
    ours = executor.step([StepInput(executor.sequence(16), tokens)], every_row=True)
    reference = TorchExecutor(spec, tensors)
    with torch.no_grad():
        theirs = reference.forward([StepInput(reference.sequence(16), tokens)], every_row=True).numpy()
    assert np.abs(ours - theirs).max() < 1e-4


def test_a_thousand_layers_are_recorded_in_no_time_to_speak_of() -> None:
    """What joins instructions looks at each of them a few times, not at all of them for each."""
    spec = model(
        [layer(attention(Positions(i, 1, 4, 4, Full()), heads=2), plain().layers[0].feed_forward) for i in range(999)]
    )
    program = native.fuse(native.record(spec))
    assert sum(ins.op == Op.ATTEND for ins in program.instructions) == 999
