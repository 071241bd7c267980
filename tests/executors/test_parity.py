"""The torch executor's logits equal transformers', for every family, however the tokens come."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import pytest
import torch
from transformers import DynamicCache

from tests.families import BY_NAME, FAMILIES, prompt, reference
from tests.grids import in_turn
from trilens.executors.executor import StepInput
from trilens.executors.torch import TorchExecutor

NAMES = [family.name for family in FAMILIES]
WITH_EDGE = [family.name for family in FAMILIES if family.edge]
CLOSE = 1e-4


def logits_in_pieces(executor: TorchExecutor, tokens: Sequence[int], piece: int, length: int) -> torch.Tensor:
    """[len(tokens), vocab] with the tokens fed `piece` at a time to a request of `length`."""
    sequence = executor.sequence(length)
    with torch.no_grad():
        rows = [
            executor.forward([StepInput(sequence, tokens[at : at + piece])], every_row=True)
            for at in range(0, len(tokens), piece)
        ]
    return torch.cat(rows)


def expected(name: str, tokens: Sequence[int]) -> torch.Tensor:
    with torch.no_grad():
        return reference(name)(torch.tensor([list(tokens)]), use_cache=False).logits[0]


@pytest.mark.parametrize("name", NAMES)
def test_prefill(name: str, tiny_executor: Callable[[str], TorchExecutor]) -> None:
    tokens = prompt(20)
    ours = logits_in_pieces(tiny_executor(name), tokens, 20, 20)
    assert (ours - expected(name, tokens)).abs().max() < CLOSE


@pytest.mark.parametrize("name", NAMES)
def test_token_by_token(name: str, tiny_executor: Callable[[str], TorchExecutor]) -> None:
    """Against transformers decoding with its own cache, so that the caches are compared too."""
    tokens, cache, theirs, ours = prompt(20, seed=1), DynamicCache(config=reference(name).config), [], []
    executor = tiny_executor(name)
    sequence = executor.sequence(20)
    with torch.no_grad():
        for piece in (tokens[:1], tokens[1:9], *([token] for token in tokens[9:])):
            out = reference(name)(torch.tensor([piece]), cache=cache, use_cache=True)
            theirs.append(out.logits[0])
            ours.append(executor.forward([StepInput(sequence, piece)], every_row=True))
    assert (torch.cat(ours) - torch.cat(theirs)).abs().max() < CLOSE


@pytest.mark.parametrize(("name", "piece"), in_turn(WITH_EDGE, [1, 7, 1000], 9))
def test_beyond_the_edge(name: str, piece: int, tiny_executor: Callable[[str], TorchExecutor]) -> None:
    """Past the window's edge, and past the original context of a scaled rope."""
    edge = BY_NAME[name].edge
    tokens = prompt(2 * edge + 11, seed=2)
    ours = logits_in_pieces(tiny_executor(name), tokens, piece, len(tokens))
    theirs = expected(name, tokens)
    assert (ours - theirs).abs().max() < CLOSE
    # the edge is felt: a reference that knew only the last few tokens would answer differently
    assert (theirs[-1] - expected(name, tokens[-5:])[-1]).abs().max() > 10 * CLOSE


def test_a_batch_of_different_lengths_gives_what_each_gives_alone(
    tiny_executor: Callable[[str], TorchExecutor],
) -> None:
    executor = tiny_executor("mistral")
    prompts = [prompt(n, seed=n) for n in (3, 40, 17)]
    alone = [logits_in_pieces(executor, p, 1000, 60)[-1] for p in prompts]
    sequences = [executor.sequence(60) for _ in prompts]
    together = executor.step([StepInput(s, p) for s, p in zip(sequences, prompts, strict=True)])
    for one, row in zip(alone, together, strict=True):
        assert (one - torch.from_numpy(row)).abs().max() < 1e-5


def test_only_the_wanted_rows_come_back(tiny_executor: Callable[[str], TorchExecutor]) -> None:
    executor = tiny_executor("llama 3")
    feeds = [StepInput(executor.sequence(9), prompt(4), logits=False), StepInput(executor.sequence(9), prompt(5))]
    assert executor.step(feeds).shape == (1, 131)


def test_a_rewound_sequence_goes_on_as_if_it_had_never_been_longer(
    tiny_executor: Callable[[str], TorchExecutor],
) -> None:
    executor = tiny_executor("llama 3.1")
    first, tail = prompt(30), prompt(9, seed=5)
    sequence = executor.sequence(64)
    executor.step([StepInput(sequence, first)])
    assert sequence.rewind(12)
    after = executor.step([StepInput(sequence, tail)])[0]
    fresh = executor.step([StepInput(executor.sequence(64), [*first[:12], *tail])])[0]
    assert abs(after - fresh).max() < 1e-5


def test_a_window_that_has_moved_on_cannot_be_rewound(tiny_executor: Callable[[str], TorchExecutor]) -> None:
    executor = tiny_executor("mistral")
    sequence = executor.sequence(64)
    executor.step([StepInput(sequence, prompt(60))])
    held = sequence.kv_bytes
    assert not sequence.rewind(12)
    assert (sequence.length, sequence.kv_bytes) == (60, held)
    assert sequence.rewind(60)
