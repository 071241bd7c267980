"""Fixed states on the torch executor: carried over, gone back to where they were kept, and with gradients."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch

from tests.executors.test_parity import CLOSE, expected, logits_in_pieces
from tests.executors.tiny import MODELS, VOCAB, random_tensors
from tests.families import prompt
from tests.grids import in_turn
from trilens.errors import TrilensError
from trilens.executors.accountant import fixed_bytes
from trilens.executors.executor import StepInput
from trilens.executors.torch import TorchExecutor, TorchSequence
from trilens.spec.model import Fixed, Positions, by_kind

Tiny = Callable[[str], TorchExecutor]
FAMILIES = ["lfm2", "lfm2 untied, biases", "lfm2 moe", "lfm2 moe without a correction"]


def run(executor: TorchExecutor, sequence: TorchSequence, tokens: list[int]) -> torch.Tensor:
    with torch.no_grad():
        return executor.forward([StepInput(sequence, tokens)], every_row=True)


@pytest.mark.parametrize(("name", "piece"), in_turn(FAMILIES, [1, 7, 250]))
def test_states_are_carried_through_a_long_text(name: str, piece: int, tiny_executor: Tiny) -> None:
    tokens = prompt(250, seed=3)
    ours = logits_in_pieces(tiny_executor(name), tokens, piece, 250)
    assert (ours - expected(name, tokens)).abs().max() < CLOSE


@pytest.mark.parametrize("name", FAMILIES)
def test_only_what_was_kept_can_be_gone_back_to(name: str, tiny_executor: Tiny) -> None:
    executor, tokens = tiny_executor(name), prompt(40)
    whole = run(executor, executor.sequence(60), tokens)
    sequence = executor.sequence(60)
    for begin, end in ((0, 5), (5, 20), (20, 40)):
        run(executor, sequence, tokens[begin:end])
        if end < 40:
            sequence.snapshot()
    places = {0: 0, 4: 0, 5: 5, 19: 5, 20: 20, 39: 20, 40: 40, 99: 40}
    assert {wanted: sequence.nearest(wanted) for wanted in places} == places
    assert sequence.fork(12, 60) is None and not sequence.rewind(12) and sequence.length == 40
    for place in (0, 5, 20):
        fork = sequence.fork(place, 60)
        assert fork is not None and fork.fixed_bytes == sequence.fixed_bytes == fixed_bytes(executor.spec)
        assert (run(executor, fork, tokens[place:]) - whole[place:]).abs().max() < CLOSE
    assert sequence.rewind(5) and sequence.nearest(40) == 5
    assert (run(executor, sequence, tokens[5:]) - whole[5:]).abs().max() < CLOSE


def test_a_step_that_fails_leaves_the_states_as_they_were(tiny_executor: Tiny) -> None:
    executor, tokens = tiny_executor("lfm2"), prompt(20)
    sequence = executor.sequence(30)
    run(executor, sequence, tokens)
    before = {key: value.clone() for key, value in sequence.fixed.items()}
    with pytest.raises((IndexError, TrilensError)):
        run(executor, sequence, [executor.spec.vocab])
    assert sequence.length == 20
    assert all(torch.equal(value, before[key]) for key, value in sequence.fixed.items())


def test_the_convolution_has_gradients() -> None:
    spec = MODELS["convolved"]()
    tensors = {name: tensor.requires_grad_() for name, tensor in random_tensors(spec).items()}
    executor = TorchExecutor(spec, tensors)
    executor.forward([StepInput(executor.sequence(9), [t % VOCAB for t in prompt(9)])], every_row=True).sum().backward()
    named = [name for name in tensors if ".convolution." in name]
    assert len(named) == 2 * 5 + 5  # one of the two has biases
    for name in named:
        gradient = tensors[name].grad
        assert gradient is not None and gradient.abs().sum() > 0, name


def test_every_state_is_of_one_kind() -> None:
    for make in MODELS.values():
        spec = make()
        positions, fixed = by_kind(spec.states)
        assert sorted([s.index for s in (*positions, *fixed)]) == list(range(len(spec.states)))
        assert all(isinstance(s, Positions) for s in positions) and all(isinstance(s, Fixed) for s in fixed)
    with pytest.raises(AssertionError):
        by_kind(["neither"])  # type: ignore[list-item]
