"""Requests of models with fixed states: a beginning is found again where the states were kept, and gives the same."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from tests.executors.packing import native_executor
from tests.executors.tiny import MODELS, random_tensors
from tests.families import prompt
from tests.generate.test_scheduler import GREEDY, NONE, all_tokens, most
from trilens.executors.executor import PAGE
from trilens.executors.native.executor import NativeExecutor
from trilens.executors.torch import TorchExecutor
from trilens.generate.scheduler import Scheduler


@pytest.fixture(params=["convolved", "recurrent"])
def executor(request: pytest.FixtureRequest) -> NativeExecutor:
    spec = MODELS[request.param]()
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
    """First where its end was kept by chance; then at the last page that all share, where the second one kept it."""
    scheduler, start = Scheduler(executor), words(460)
    all_tokens(scheduler, scheduler.submit([*start[:400], 1, 2] + [3] * 90, GREEDY, most(4), NONE))
    for seed, found in ((1, 256), (2, 384), (3, 384)):
        asked = [*start[:400], *words(150, seed=seed)]
        again = scheduler.submit(asked, GREEDY, most(8), NONE)
        assert again.cached == found
        cold = Scheduler(executor)
        expected = all_tokens(cold, cold.submit(asked, GREEDY, most(8), NONE))
        assert all_tokens(scheduler, again) == expected


@pytest.mark.parametrize("thought", [1, 30, 100])
def test_turns_without_their_thinking_begin_at_the_last_prompt(executor: NativeExecutor, thought: int) -> None:
    """A template leaves out what was thought: the next turn shares the prompt alone with the one before."""
    scheduler, said, before = Scheduler(executor), words(150), 0
    for turn in range(4):
        generation = scheduler.submit(said, GREEDY, most(thought + 5), NONE)
        answer = all_tokens(scheduler, generation)
        assert generation.cached == before // PAGE * PAGE
        before = len(said)
        said = [*said, *answer[thought:], *words(70, seed=turn + 1)]
    cold = Scheduler(executor)
    assert all_tokens(cold, cold.submit(generation.prompt, GREEDY, most(thought + 5), NONE)) == answer


@pytest.mark.parametrize("length", [127, 128, 129, 192, 193])
def test_a_turn_finds_the_last_page_of_a_prompt_that_went_on_from_an_answer(
    executor: NativeExecutor, length: int
) -> None:
    """The answer crossed the end of a page, where no states were kept, and the next prompt began behind it."""
    scheduler, said = Scheduler(executor), words(60)
    said = [*said, *all_tokens(scheduler, scheduler.submit(said, GREEDY, most(12), NONE))]
    said = [*said, *words(length - len(said), seed=1)]
    second = scheduler.submit(said, GREEDY, most(9), NONE)
    all_tokens(scheduler, second)
    assert second.cached == 71  # all that was fed
    third = scheduler.submit([*said, *words(30, seed=2)], GREEDY, most(9), NONE)
    assert third.cached == (length // PAGE * PAGE if length >= 128 else 0)
    cold = Scheduler(executor)
    expected = all_tokens(cold, cold.submit(third.prompt, GREEDY, most(9), NONE))
    assert all_tokens(scheduler, third) == expected


@pytest.mark.parametrize("length", [65, 127, 128, 129])
def test_the_same_prompt_again_begins_at_its_last_page(executor: NativeExecutor, length: int) -> None:
    scheduler = Scheduler(executor)
    first = all_tokens(scheduler, scheduler.submit(words(length), GREEDY, most(9), NONE))
    again = scheduler.submit(words(length), GREEDY, most(9), NONE)
    assert again.cached == (length - 1) // PAGE * PAGE
    assert all_tokens(scheduler, again) == first


@pytest.mark.parametrize("length", [63, 64, 65, 127, 128, 129])
def test_an_answer_that_ends_with_a_page_is_found_too(executor: NativeExecutor, length: int) -> None:
    scheduler, said = Scheduler(executor), words(40)
    answer = all_tokens(scheduler, scheduler.submit(said, GREEDY, most(length - 39), NONE))
    assert len(said) + len(answer) == length + 1  # of which the last is never fed
    again = scheduler.submit([*said, *answer, 5, 6], GREEDY, most(8), NONE)
    assert again.cached == length
    cold = Scheduler(executor)
    expected = all_tokens(cold, cold.submit([*said, *answer, 5, 6], GREEDY, most(8), NONE))
    assert all_tokens(scheduler, again) == expected


@pytest.mark.parametrize("name", ["convolved", "recurrent"])
def test_many_at_once_and_out_of_memory_give_what_each_gives_alone(name: str) -> None:
    spec = MODELS[name]()
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
