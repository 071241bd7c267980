"""The native executor on every family of the table: its logits are the torch executor's."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from tests.executors.test_parity import logits_in_pieces
from tests.families import BY_NAME, FAMILIES, prompt
from trilens.checkpoints.find import find
from trilens.checkpoints.into_native import native_executor
from trilens.checkpoints.load import open_model
from trilens.errors import RequestRefused
from trilens.executors.executor import StepInput
from trilens.executors.torch import TorchExecutor


@pytest.mark.parametrize("name", [family.name for family in FAMILIES])
def test_logits(
    name: str, tiny_directory: Callable[[str], Path], tiny_executor: Callable[[str], TorchExecutor]
) -> None:
    """Float32 weights and cache, so nothing is rounded: a prompt in pieces beyond every edge, then one by one."""
    edge = BY_NAME[name].edge
    native = native_executor(open_model(find(str(tiny_directory(name)))), kv="f32", threads=2)
    tokens = prompt(2 * edge + 11 if edge else 24, seed=3)[: native.spec.context]
    sequence = native.sequence(len(tokens))
    rows = [
        torch.from_numpy(native.step([StepInput(sequence, piece)], every_row=True))
        for piece in (tokens[:9], tokens[9:-4], *([t] for t in tokens[9:][-4:]))
        if piece
    ]
    theirs = logits_in_pieces(tiny_executor(name), tokens, 1000, len(tokens))
    assert (torch.cat(rows) - theirs).abs().max() < 1e-3
    assert (torch.cat(rows) - theirs).norm() / theirs.norm() < 1e-4


def test_positions_are_not_chosen_here(tiny_directory: Callable[[str], Path]) -> None:
    """A model whose attention chooses among positions runs as far as it would choose all of them, and no further."""
    native = native_executor(open_model(find(str(tiny_directory("glm-5")))), kv="f32", threads=2)
    assert native.spec.context == 12
    with pytest.raises(RequestRefused, match="beyond 12 tokens"):
        native.sequence(13)
