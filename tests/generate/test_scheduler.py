"""The scheduler: requests of many threads in the same steps, beginnings reused, memory given back."""

from __future__ import annotations

import random
import threading
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest

from tests.families import prompt
from trilens.checkpoints.find import find
from trilens.checkpoints.into_native import native_executor
from trilens.checkpoints.load import open_model
from trilens.errors import RequestRefused
from trilens.executors.executor import Feed
from trilens.executors.native.executor import NativeExecutor
from trilens.executors.torch import TorchExecutor
from trilens.generate.limits import Limits
from trilens.generate.sampling import Sampling
from trilens.generate.scheduler import KEPT, UNREAD, Finish, Generation, Scheduler, Tokens, common_prefix

GREEDY = Sampling(temperature=0)
NONE: frozenset[int] = frozenset()

Tiny = Callable[[str], TorchExecutor]


def most(tokens: int) -> Limits:
    return Limits(tokens, tokens)


def all_tokens(scheduler: Scheduler, generation: Generation) -> list[int]:
    while generation.finish is None:
        scheduler.advance([generation])
        generation.unread.clear()
    return generation.tokens


@pytest.fixture
def native(tiny_directory: Callable[[str], object]) -> Callable[[str], NativeExecutor]:
    def make(name: str) -> NativeExecutor:
        return native_executor(open_model(find(str(tiny_directory(name)))), kv_limit=40_000_000)

    return make


def test_requests_join_and_leave_between_steps(tiny_executor: Tiny) -> None:
    scheduler = Scheduler(tiny_executor("llama 3"))
    alone = [all_tokens(scheduler, scheduler.submit(prompt(9, seed=s), GREEDY, most(12), NONE)) for s in range(3)]
    scheduler.forget()
    first = scheduler.submit(prompt(9, seed=0), GREEDY, most(12), NONE)
    for _ in range(4):
        scheduler.advance([first])
        first.unread.clear()
    others = [scheduler.submit(prompt(9, seed=s), GREEDY, most(12), NONE) for s in (1, 2)]
    together = [all_tokens(scheduler, g) for g in (first, *others)]
    assert together == alone
    assert first.most_beside == 3


def test_a_long_prompt_goes_in_pieces_and_does_not_stop_the_others(tiny_executor: Tiny) -> None:
    executor = tiny_executor("mistral nemo")
    sizes: list[list[int]] = []
    step = executor.step

    def watched(batch: Sequence[Feed]) -> np.ndarray:
        sizes.append([len(f.tokens) for f in batch])
        return step(batch)

    scheduler = Scheduler(executor)
    executor.step = watched  # type: ignore[method-assign]
    try:
        answering = scheduler.submit(prompt(3), GREEDY, most(40), NONE)
        scheduler.advance([answering])
        long = scheduler.submit([t for s in range(7) for t in prompt(30, seed=s)] + prompt(40), GREEDY, most(3), NONE)
        all_tokens(scheduler, long)
    finally:
        del executor.step  # type: ignore[method-assign]
    assert [s for s in sizes if sum(s) > 257] == []
    assert [1, 249] in sizes or [1, 250] in sizes


def test_a_beginning_is_not_computed_again(tiny_executor: Tiny) -> None:
    scheduler = Scheduler(tiny_executor("qwen3"))
    start = prompt(40)
    first = scheduler.submit(start, GREEDY, most(10), NONE)
    answer = all_tokens(scheduler, first)
    follow = [*start, *answer, 5, 6, 7]
    again = scheduler.submit(follow, GREEDY, most(10), NONE)
    assert again.cached == len(start) + len(answer) - 1  # the last token of an answer is never fed
    other = scheduler.submit([*start[:25], 99, 98], GREEDY, most(10), NONE)
    assert other.cached == 25
    same = scheduler.submit(start, GREEDY, most(10), NONE)
    assert same.cached == len(start) - 1
    cold = Scheduler(scheduler.executor)
    assert all_tokens(scheduler, again) == all_tokens(cold, cold.submit(follow, GREEDY, most(10), NONE))
    assert all_tokens(scheduler, same) == answer


def test_a_length_dependent_rope_keeps_beginnings_apart(tiny_executor: Tiny) -> None:
    scheduler = Scheduler(tiny_executor("phi-4-mini"))
    start = prompt(20)
    all_tokens(scheduler, scheduler.submit(start, GREEDY, most(4), NONE))
    assert scheduler.submit(start, GREEDY, most(5), NONE).cached == 19
    assert scheduler.submit(start, GREEDY, most(200), NONE).cached == 0


def test_a_reader_that_does_not_fetch_is_left_out(tiny_executor: Tiny) -> None:
    scheduler = Scheduler(tiny_executor("llama 3"))
    slow = scheduler.submit(prompt(4), GREEDY, most(UNREAD + 100), NONE)
    for seed in range(2):
        all_tokens(scheduler, scheduler.submit(prompt(5, seed=seed), GREEDY, most(200), NONE))
    assert len(slow.tokens) == len(slow.unread) == UNREAD
    assert len(all_tokens(scheduler, slow)) == UNREAD + 100


def test_a_step_for_all_that_can_go_on(tiny_executor: Tiny) -> None:
    scheduler = Scheduler(tiny_executor("llama 3"))
    assert not scheduler.step()
    both = [scheduler.submit(prompt(4 + seed), GREEDY, most(UNREAD + seed), NONE) for seed in (0, 1)]
    for drawn in range(1, UNREAD + 1):
        assert scheduler.step() and [len(g.tokens) for g in both] == [drawn, drawn]
    assert [g.finish for g in both] == ["length", None]
    assert not scheduler.step()  # nobody reads what the second one has
    both[1].unread.clear()
    assert scheduler.step() and both[1].finish == "length"


class Interrupting(Tokens):
    """Ends, or puts tokens in, behind the n-th token that is drawn."""

    def __init__(self, at: int, what: Finish | tuple[int, ...]) -> None:
        self.at, self.what, self.taken = at, what, 0

    def begin(self) -> tuple[int, ...]:
        return ()

    def take(self, token: int, unread: deque[Any], more: bool = False) -> Finish | tuple[int, ...] | None:
        unread.append(token)
        self.taken += 1
        return self.what if self.taken == self.at else None

    def end(self, finish: Finish, unread: deque[Any]) -> None:
        unread.append(finish)


def test_a_writer_ends_its_request_and_nothing_more_is_computed(tiny_executor: Tiny) -> None:
    scheduler = Scheduler(tiny_executor("llama 3"))
    ending = scheduler.submit(prompt(4), GREEDY, most(50), NONE, Interrupting(3, "stop_string"))
    all_tokens(scheduler, scheduler.submit(prompt(5), GREEDY, most(30), NONE))
    assert (ending.finish, len(ending.tokens), ending.sequence.length) == ("stop_string", 3, 4 + 2)
    assert list(ending.unread) == [*ending.tokens, "stop_string"]


@pytest.mark.parametrize("name", ["llama 3", "mistral"])
def test_tokens_from_outside_are_like_a_prompt_that_held_them(
    name: str, native: Callable[[str], NativeExecutor]
) -> None:
    scheduler = Scheduler(native(name))
    put = scheduler.submit(prompt(9), GREEDY, most(20), NONE, Interrupting(4, (11, 12, 13)))
    tokens = all_tokens(scheduler, put)
    assert tokens[4:7] == [11, 12, 13] and len(tokens) == 20
    scheduler.forget()
    whole = scheduler.submit([*prompt(9), *tokens[:7]], GREEDY, most(13), NONE)
    assert all_tokens(scheduler, whole) == tokens[7:]
    fed = [(s.past, s.fed, s.draws) for s in put.steps[:6]]
    assert fed == [(0, 9, True), (9, 1, True), (10, 1, True), (11, 1, True), (12, 4, True), (16, 1, True)]


def test_a_fault_in_one_writer_ends_its_request_alone(tiny_executor: Tiny) -> None:
    class Broken(Interrupting):
        def take(self, token: int, unread: deque[Any], more: bool = False) -> None:
            raise ValueError("no such character")

    scheduler = Scheduler(tiny_executor("llama 3"))
    broken = scheduler.submit(prompt(4), GREEDY, most(50), NONE, Broken(1, ()))
    assert len(all_tokens(scheduler, scheduler.submit(prompt(5), GREEDY, most(6), NONE))) == 6
    with pytest.raises(ValueError, match="no such character"):
        scheduler.advance([broken])
    assert scheduler.running == []


def test_a_fault_ends_those_who_were_in_the_step_and_nobody_else(tiny_executor: Tiny) -> None:
    executor = tiny_executor("llama 3")
    scheduler = Scheduler(executor)
    broken = scheduler.submit(prompt(4), GREEDY, most(50), NONE)

    def fails(batch: Sequence[Feed]) -> np.ndarray:
        raise RuntimeError("the machine is on fire")

    executor.step = fails  # type: ignore[method-assign]
    try:
        with pytest.raises(RuntimeError, match="on fire"):
            scheduler.advance([broken])
    finally:
        del executor.step  # type: ignore[method-assign]
    assert (broken.finish, scheduler.running) == ("cancelled", [])
    assert len(all_tokens(scheduler, scheduler.submit(prompt(4), GREEDY, most(5), NONE))) == 5


def test_bad_prompts_are_refused_before_any_work(tiny_executor: Tiny) -> None:
    scheduler = Scheduler(tiny_executor("llama 3"))
    with pytest.raises(RequestRefused, match="token 131 is outside"):
        scheduler.submit([131], GREEDY, most(5), NONE)
    assert scheduler.running == []


def test_the_end_of_the_context_is_said(tiny_executor: Tiny) -> None:
    scheduler = Scheduler(tiny_executor("llama 3"))
    generation = scheduler.submit(prompt(250), GREEDY, Limits(6, 6, context_bound=True), NONE)
    assert len(all_tokens(scheduler, generation)) == 6
    assert generation.finish == "context"


def test_common_prefix() -> None:
    assert common_prefix([1, 2, 3], [1, 2, 4]) == 2
    assert common_prefix([1, 2], [1, 2, 4]) == 2
    assert common_prefix([], [1]) == 0


class Counting(Tokens):
    """Says that it looks at every n-th token alone, and twice puts tokens in there."""

    def __init__(self, every: int) -> None:
        self.every, self.taken = every, 0

    def take(self, token: int, unread: deque[Any], more: bool = False) -> tuple[int, ...] | None:
        unread.append(token)
        self.taken += 1
        last = self.taken % self.every == 0
        assert not (last and more)
        return (9, 8) if last and self.taken <= 2 * self.every else None

    def ahead(self) -> int:
        return self.every - self.taken % self.every


def test_lanes_and_tokens_ahead_change_nothing(native: Callable[[str], NativeExecutor]) -> None:
    """The same tokens, passes and experts as one request after the other, a step at a time."""
    executor = native("qwen3 moe")
    assert executor.lanes == min(2, executor.threads)

    def submit(scheduler: Scheduler, i: int) -> Generation:
        options = Sampling(
            temperature=[0.0, 0.8][i % 2], top_k=[0, 5][i % 3 == 0], seed=i, logprobs=[None, 2][i % 7 == 6]
        )
        ends = frozenset({3, 4} if i % 4 == 1 else ())
        return scheduler.submit(
            prompt(3 + 17 * i % 40, seed=i), options, most(20 + 5 * i), ends, Counting(1 + 3 * i), watched=i % 5 == 0
        )

    alone = []
    for i in range(15):
        scheduler = Scheduler(executor)
        alone.append(submit(scheduler, i))
        all_tokens(scheduler, alone[-1])
        scheduler.forget()
    scheduler = Scheduler(executor)
    together = [submit(scheduler, i) for i in range(15)]

    def lane(number: int) -> None:
        while scheduler.running:
            for generation in scheduler.step(number, 0.001 * (1 + number)):
                generation.unread.clear()

    threads = [threading.Thread(target=lane, args=(number,)) for number in range(executor.lanes)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for one, other in zip(alone, together, strict=True):
        assert (one.tokens, one.finish, one.fired) == (other.tokens, other.finish, other.fired)
        assert one.logprobs == other.logprobs and other.failure is None
        fed = [[(s.past, s.fed, s.draws) for s in g.steps] for g in (one, other)]
        assert sum(s[1] for s in fed[0]) == sum(s[1] for s in fed[1])
        assert [s for s in fed[0] if s[0] >= len(one.prompt)] == [s for s in fed[1] if s[0] >= len(one.prompt)]
        assert np.array_equal(one.routes, other.routes)
    assert max(g.most_beside for g in together) >= 8
    scheduler.forget()
    assert executor.pool.pages_in_use == 0


def test_who_is_in_a_step_ends_with_it(native: Callable[[str], NativeExecutor]) -> None:
    """`end` from another thread waits for the step, or does not; either way the request ends with it."""
    executor = native("llama 3")
    scheduler = Scheduler(executor)
    both = [scheduler.submit(prompt(4), GREEDY, most(200), NONE) for _ in range(2)]
    inside, go_on = threading.Event(), threading.Event()
    draw = executor.draw

    def slowly(*asked: Any) -> Any:
        inside.set()
        go_on.wait(10)
        return draw(*asked)

    executor.draw = slowly  # type: ignore[method-assign]
    stepping = threading.Thread(target=scheduler.step)
    stepping.start()
    assert inside.wait(10)
    scheduler.end(both[0], "cancelled", wait=False)
    waiting = threading.Thread(target=scheduler.end, args=(both[1], "cancelled"))
    waiting.start()
    newcomer = scheduler.submit(prompt(5), GREEDY, most(3), NONE)  # does not wait for the step
    waiting.join(0.05)
    assert waiting.is_alive() and [g.finish for g in both] == [None, None]
    go_on.set()
    stepping.join()
    waiting.join()
    assert [(g.finish, len(g.tokens)) for g in both] == [("cancelled", 1)] * 2
    assert scheduler.running == [newcomer]


@pytest.mark.parametrize("lanes", [False, True])
@pytest.mark.parametrize("name", ["mistral", "llama 3"])
def test_a_thousand_random_requests_leave_nothing_behind(
    name: str, lanes: bool, native: Callable[[str], NativeExecutor]
) -> None:
    """Lengths, options and cancellations at random, from eight threads, with lanes or not; then no page is in use."""
    executor = native(name)
    scheduler = Scheduler(executor)
    finished: list[str] = []
    faults: list[BaseException] = []

    def client(seed: int) -> None:
        chance = random.Random(seed)
        try:
            for _ in range(125):
                length = chance.choice([1, 5, 30, 120])
                options = Sampling(
                    temperature=chance.choice([0.0, 1.0]), top_k=chance.choice([0, 5]), seed=chance.randrange(99)
                )
                tokens = prompt(length, seed=chance.randrange(4))
                limits = most(chance.choice([1, 9, 60]))
                writer = Interrupting(5, (7, 8)) if chance.random() < 0.3 else None
                generation = scheduler.submit(tokens, options, limits, frozenset({3, 4}), writer)
                cancel_at = chance.choice([None, 0, 3])
                while generation.finish is None:
                    if cancel_at is not None and len(generation.tokens) >= cancel_at:
                        scheduler.end(generation, "cancelled")
                        break
                    scheduler.advance([generation])
                    generation.unread.clear()
                finished.append(str(generation.finish))
        except BaseException as fault:
            faults.append(fault)

    def lane(number: int) -> None:
        while len(finished) < 1000 and not faults:
            scheduler.step(number, 0.001)

    threads = [threading.Thread(target=client, args=(seed,)) for seed in range(8)]
    if lanes:
        threads += [threading.Thread(target=lane, args=(number,)) for number in range(executor.lanes)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert faults == []
    assert len(finished) == 1000
    assert {"stop", "length", "cancelled"} <= set(finished)
    assert scheduler.running == []
    assert len(scheduler.kept) <= KEPT
    scheduler.forget()
    assert (executor.pool.pages_in_use, executor.pool.reserved_bytes) == (0, 0)


def test_a_full_pool_refuses_the_newcomer_and_harms_nobody(native: Callable[[str], NativeExecutor]) -> None:
    executor = native("llama 3")
    scheduler = Scheduler(executor)
    runs, refused = [], None
    for _ in range(100_000):
        try:
            runs.append(scheduler.submit(prompt(100), GREEDY, most(100), NONE))
        except RequestRefused as problem:
            refused = problem
            break
    assert refused is not None
    assert "\n" not in str(refused)
    few = runs[:3]
    for generation in runs[3:]:
        scheduler.end(generation, "cancelled")
    assert [len(all_tokens(scheduler, g)) for g in few] == [100, 100, 100]
    assert len(all_tokens(scheduler, scheduler.submit(prompt(100), GREEDY, most(100), NONE))) == 100
