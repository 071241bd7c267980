"""Requests of models with fixed states: a beginning is found again where the states were kept, and gives the same."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from tests.executors.packing import native_executor
from tests.executors.tiny import MODELS, random_tensors
from tests.families import prompt
from tests.generate.test_scheduler import GREEDY, NONE, all_tokens, most
from trilens.executors.native.executor import NativeExecutor
from trilens.executors.torch import TorchExecutor
from trilens.generate.scheduler import Scheduler


@pytest.fixture
def executor() -> NativeExecutor:
    spec = MODELS["convolved"]()
    return native_executor(spec, random_tensors(spec), "Q4_0", threads=2, kv_limit=20_000_000)


def words(length: int, seed: int = 0) -> list[int]:
    return prompt(length, vocab=96, seed=seed)


def test_turns_of_a_conversation_find_what_they_said(executor: NativeExecutor) -> None:
    """Each turn begins with all of the one before it, whose end is kept."""
    scheduler, said, before = Scheduler(executor), words(40), 0
    for turn in range(6):
        generation = scheduler.submit(said, GREEDY, most(20), NONE)
        answer = all_tokens(scheduler, generation)
        cold = Scheduler(executor)
        assert all_tokens(cold, cold.submit(said, GREEDY, most(20), NONE)) == answer
        assert generation.cached == before
        before = len(said) + len(answer) - 1  # the last token of an answer is never fed
        said = [*said, *answer, *words(11, seed=turn + 1)]


def test_a_beginning_that_others_share_is_found_up_to_the_last_states(executor: NativeExecutor) -> None:
    scheduler, start = Scheduler(executor), words(300)
    all_tokens(scheduler, scheduler.submit([*start, 1, 2], GREEDY, most(4), NONE))
    for end in ([3, 4, 5], [6] * 30):
        again = scheduler.submit([*start, *end], GREEDY, most(8), NONE)
        cold = Scheduler(executor)
        assert again.cached == 256
        expected = all_tokens(cold, cold.submit([*start, *end], GREEDY, most(8), NONE))
        assert all_tokens(scheduler, again) == expected


def test_many_at_once_and_out_of_memory_give_what_each_gives_alone() -> None:
    spec = MODELS["convolved"]()
    tensors = random_tensors(spec)
    roomy = native_executor(spec, tensors, "Q4_0", threads=2)
    prompts = [[*words(150), *words(20 + 9 * i, seed=i)] for i in range(8)]
    alone = []
    for tokens in prompts:
        scheduler = Scheduler(roomy)
        alone.append(all_tokens(scheduler, scheduler.submit(tokens, GREEDY, most(90), NONE)))
    tight = native_executor(spec, tensors, "Q4_0", threads=2, kv_limit=roomy.pool.need(330))
    scheduler = Scheduler(tight)
    generations = [scheduler.submit(tokens, GREEDY, most(90), NONE) for tokens in prompts]
    steps = 0
    while scheduler.running:
        for generation in scheduler.step():
            generation.unread.clear()
        steps += 1
        if steps % 7 == 0 and scheduler.running:
            scheduler._preempt(scheduler.running[steps % len(scheduler.running)])
    assert [g.tokens for g in generations] == alone
    assert sum(g.preempted for g in generations) > 0


def test_torch_finds_the_end_of_a_turn_too(tiny_executor: Callable[[str], TorchExecutor], tmp_path: Path) -> None:
    scheduler, said = Scheduler(tiny_executor("lfm2")), words(40)
    first = all_tokens(scheduler, scheduler.submit(said, GREEDY, most(10), NONE))
    follow = [*said, *first, 5, 6]
    again = scheduler.submit(follow, GREEDY, most(10), NONE)
    assert again.cached == len(said) + len(first) - 1
    cold = Scheduler(scheduler.executor)
    assert all_tokens(scheduler, again) == all_tokens(cold, cold.submit(follow, GREEDY, most(10), NONE))
