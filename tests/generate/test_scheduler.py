"""The scheduler: requests of many threads in the same steps, beginnings reused, memory given back."""

from __future__ import annotations

import random
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.executors.packing import native_executor as packed
from tests.executors.tiny import plain, random_tensors
from tests.families import prompt
from tests.grids import in_turn
from trilens.checkpoints.find import find
from trilens.checkpoints.into_native import native_executor
from trilens.checkpoints.load import open_model
from trilens.errors import CacheFull, RequestRefused
from trilens.executors.executor import StepInput
from trilens.executors.native.executor import NativeExecutor
from trilens.executors.torch import TorchExecutor
from trilens.generate.limits import Limits
from trilens.generate.prefix_cache import common_prefix
from trilens.generate.request import UNREAD, Finish, Request, TokenWriter
from trilens.generate.sampling import Sampling
from trilens.generate.scheduler import LEAST_ROWS, OLDEST, STEP_ROWS, Scheduler, shares

GREEDY = Sampling(temperature=0)
NONE: frozenset[int] = frozenset()

Tiny = Callable[[str], TorchExecutor]


def most(tokens: int) -> Limits:
    return Limits(tokens, tokens)


def all_tokens(scheduler: Scheduler, generation: Request) -> list[int]:
    while generation.finish is None:
        scheduler.advance([generation])
        generation.unread.clear()
    return generation.tokens


@pytest.fixture
def native(tiny_directory: Callable[[str], object]) -> Callable[..., NativeExecutor]:
    """A family's name -> its tiny model; `holds`: memory for so many sequences of 192 tokens."""

    def make(name: str, holds: int | None = None) -> NativeExecutor:
        files = open_model(find(str(tiny_directory(name))))
        if holds is None:
            return native_executor(files, kv_limit=40_000_000)
        page = native_executor(files, kv_limit=40_000_000).block_bytes
        return native_executor(open_model(find(str(tiny_directory(name)))), kv_limit=holds * 3 * page)

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
    assert first.largest_batch == 3


def test_a_long_prompt_goes_in_pieces_and_does_not_stop_the_others(
    tiny_executor: Tiny, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("trilens.generate.scheduler.STEP_SECONDS", 1e9)
    executor = tiny_executor("mistral nemo")
    sizes: list[list[int]] = []
    step = executor.step

    def watched(batch: Sequence[StepInput]) -> np.ndarray:
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
    assert [s for s in sizes if sum(s) > STEP_ROWS] == []
    assert sizes[0] == [3] and sizes[1:4] == [[1, LEAST_ROWS], [1, 250 - LEAST_ROWS], [1, 1]]


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


class Interrupting(TokenWriter):
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


def test_each_piece_of_a_scored_prompt_reads_the_weights_once() -> None:
    spec = replace(plain(), vocab=140_000)  # so wide that the engine takes the fewest rows of logits at a time
    executor = packed(spec, random_tensors(spec), "F32", threads=1)
    scheduler = Scheduler(executor)
    request = scheduler.submit(range(1, 101), Sampling(), Limits(1, 1), NONE, scored=0)
    while request.finish is None:
        scheduler.step()
    assert sum(step.passes for step in request.steps) == executor.engine.counts()["passes"] > 1


def test_a_writer_ends_its_request_and_nothing_more_is_computed(tiny_executor: Tiny) -> None:
    scheduler = Scheduler(tiny_executor("llama 3"))
    ending = scheduler.submit(prompt(4), GREEDY, most(50), NONE, Interrupting(3, "stop_string"))
    all_tokens(scheduler, scheduler.submit(prompt(5), GREEDY, most(30), NONE))
    assert (ending.finish, len(ending.tokens), ending.fed) == ("stop_string", 3, 4 + 2)
    assert list(ending.unread) == [*ending.tokens, "stop_string"]


@pytest.mark.parametrize("name", ["llama 3", "mistral"])
def test_tokens_from_outside_are_like_a_prompt_that_held_them(
    name: str, native: Callable[[str], NativeExecutor]
) -> None:
    scheduler = Scheduler(native(name), speculates=False)  # a step draws one token
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

    def fails(batch: Sequence[StepInput]) -> np.ndarray:
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


class Counting(TokenWriter):
    """Says that it looks at every n-th token alone, and twice puts tokens in there."""

    def __init__(self, every: int) -> None:
        self.every, self.taken = every, 0

    def take(self, token: int, unread: deque[Any], more: bool = False) -> tuple[int, ...] | None:
        unread.append(token)
        self.taken += 1
        last = self.taken % self.every == 0
        assert not (last and more)
        return (9, 8) if last and self.taken <= 2 * self.every else None

    def lookahead(self) -> int:
        return self.every - self.taken % self.every


def test_lanes_and_tokens_ahead_change_nothing(native: Callable[..., NativeExecutor]) -> None:
    """The same tokens, passes and experts as one request after the other, a step at a time."""
    executor = native("qwen3 moe")
    assert executor.steppers == min(2, executor.threads)

    def submit(scheduler: Scheduler, i: int) -> Request:
        options = Sampling(
            temperature=[0.0, 0.8][i % 2], top_k=[0, 5][i % 3 == 0], seed=i, logprobs=[None, 2][i % 7 == 6]
        )
        ends = frozenset({3, 4} if i % 4 == 1 else ())
        return scheduler.submit(
            prompt(3 + 17 * i % 40, seed=i), options, most(20 + 5 * i), ends, Counting(1 + 3 * i), watched=i % 5 == 0
        )

    alone = []
    for i in range(15):
        scheduler = Scheduler(executor, speculates=False)
        alone.append(submit(scheduler, i))
        all_tokens(scheduler, alone[-1])
        scheduler.forget()
    scheduler = Scheduler(executor, speculates=False)
    together = [submit(scheduler, i) for i in range(15)]

    def stepper(number: int) -> None:
        while scheduler.running:
            for generation in scheduler.step(number, 0.001 * (1 + number)):
                generation.unread.clear()

    threads = [threading.Thread(target=stepper, args=(number,)) for number in range(executor.steppers)]
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
    assert max(g.largest_batch for g in together) >= 8
    scheduler.forget()
    assert executor.pool.pages_in_use == 0


def test_who_is_in_a_step_ends_with_it(native: Callable[..., NativeExecutor]) -> None:
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


@pytest.mark.parametrize(("name", "steppers"), in_turn(["mistral", "llama 3"], [False, True]))
@pytest.mark.parametrize("each", [20, pytest.param(125, marks=pytest.mark.slow)])
def test_many_random_requests_leave_nothing_behind(
    each: int, name: str, steppers: bool, native: Callable[..., NativeExecutor]
) -> None:
    """Lengths, options, cancellations and preemptions at random, from eight threads, with steppers or not, in memory
    for a few of them: each gets the tokens that it gets alone, and then no page is in use."""
    executor = native(name, 12)
    scheduler = Scheduler(executor)
    finished: list[tuple[tuple[Any, ...], Request]] = []
    faults: list[BaseException] = []

    def submit(scheduler: Scheduler, length: int, kind: int, options: Sampling, most_: int, put: bool) -> Request:
        writer = Interrupting(5, (7, 8)) if put else None
        return scheduler.submit(prompt(length, seed=kind), options, most(most_), frozenset({3, 4}), writer)

    def client(seed: int) -> None:
        chance = random.Random(seed)
        try:
            for _ in range(each):
                temperature, top_k = chance.choice([0.0, 1.0]), chance.choice([0, 5])
                options = Sampling(temperature=temperature, top_k=top_k, seed=chance.randrange(9))
                put = chance.random() < 0.3
                asked = (chance.choice([1, 5, 30, 120]), chance.randrange(4), options, chance.choice([1, 9, 60]), put)
                generation = submit(scheduler, *asked)
                cancel_at = chance.choice([None, None, 0, 3])
                while generation.finish is None:
                    if cancel_at is not None and len(generation.tokens) >= cancel_at:
                        scheduler.end(generation, "cancelled")
                        break
                    if chance.random() < 0.02:
                        with scheduler._lock:
                            others = [g for g in scheduler.running if g.fed and not g.in_step]
                            if others:
                                scheduler._preempt(chance.choice(others))
                    scheduler.advance([generation])
                    generation.unread.clear()
                finished.append((asked, generation))
        except BaseException as fault:
            faults.append(fault)

    def stepper(number: int) -> None:
        while len(finished) < 8 * each and not faults:
            scheduler.step(number, 0.001)

    threads = [threading.Thread(target=client, args=(seed,)) for seed in range(8)]
    if steppers:
        threads += [threading.Thread(target=stepper, args=(number,)) for number in range(executor.steppers)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert faults == []
    assert len(finished) == 8 * each
    assert {"stop", "length", "cancelled"} <= {str(g.finish) for _, g in finished}
    assert scheduler.running == []
    assert sum(g.preempted for _, g in finished) > 0
    scheduler.forget()
    assert (executor.pool.pages_in_use, executor.pool.bytes_in_use) == (0, 0)
    alone: dict[tuple[Any, ...], Request] = {}
    for (length, kind, options, most_, put), generation in finished:
        key = (length, kind, options.temperature, options.top_k, options.seed, most_, put)
        if key not in alone:
            alone[key] = submit(scheduler, length, kind, options, most_, put)
            all_tokens(scheduler, alone[key])
            scheduler.forget()
        one = alone[key]
        assert generation.tokens == one.tokens[: len(generation.tokens)]
        if generation.finish != "cancelled":
            assert (generation.tokens, generation.finish) == (one.tokens, one.finish)
            assert sum(s.fed for s in generation.steps) + generation.cached == sum(s.fed for s in one.steps)


def test_more_requests_than_fit_take_turns(native: Callable[..., NativeExecutor]) -> None:
    """The pool holds ten; a hundred and twenty are answered, each as alone."""
    executor = native("llama 3", 10)
    scheduler = Scheduler(executor)
    runs = [scheduler.submit(prompt(3 + i % 90, seed=i % 7), GREEDY, most(100), NONE) for i in range(120)]
    while scheduler.running:
        for generation in scheduler.step(None, 0.01):
            generation.unread.clear()
        assert executor.pool.bytes_in_use <= executor.pool.limit
    assert all(g.finish == "length" and g.failure is None for g in runs)
    assert sum(g.preempted for g in runs) > 0
    roomy = Scheduler(native("llama 3"))
    assert [all_tokens(roomy, roomy.submit(g.prompt, GREEDY, most(100), NONE)) for g in runs[:30]] == [
        g.tokens for g in runs[:30]
    ]


def test_what_would_not_fit_even_alone_is_refused(native: Callable[..., NativeExecutor]) -> None:
    executor = native("llama 3", 2)
    scheduler = Scheduler(executor)
    fits = 2 * 192
    with pytest.raises(CacheFull, match="ask for fewer tokens"):
        scheduler.submit(prompt(100), GREEDY, most(fits - 99), NONE)
    assert len(all_tokens(scheduler, scheduler.submit(prompt(100), GREEDY, most(fits - 100), NONE))) == fits - 100


def test_tables_and_pages_are_made_for_what_is_used(native: Callable[..., NativeExecutor]) -> None:
    executor = native("llama 3", 2)
    with pytest.raises(CacheFull):
        executor.sequence(3_000_000)
    sequence = executor.sequence(380)
    assert executor.pool.bytes_in_use == 0
    executor.step([StepInput(sequence, prompt(3))])
    assert executor.pool.bytes_in_use == executor.block_bytes
    assert all(reach <= 512 for reach, _ in executor._tables.values())


@given(st.lists(st.integers(1, 5000), max_size=9), st.integers(0, STEP_ROWS))
def test_shares_of_a_step(left: list[int], room: int) -> None:
    given_ = shares(left, room)
    assert sum(given_) == min(room, sum(left))
    assert all(0 <= rows <= all_ for rows, all_ in zip(given_, left, strict=True))
    if left:
        assert given_[0] >= min(left[0], room // OLDEST)
    enough = room - -(-room // OLDEST)
    short = [i for i in range(len(left)) if sum(n for n in left if n <= left[i]) <= enough]
    assert all(given_[i] == left[i] for i in short)
    slow = shares(left, room, False)
    assert all(a <= b for a, b in zip(slow, given_, strict=True)) and all(slow[i] == left[i] for i in short)
    ends = [i for i, rows in enumerate(slow) if rows == left[i]]
    begun = [i for i, rows in enumerate(slow) if 0 < rows < left[i]]
    assert not ends or not left or set(begun) <= {0}


@pytest.mark.parametrize("short", [1, 40, 47])
def test_a_short_prompt_does_not_wait_for_a_long_one(
    short: int, tiny_executor: Tiny, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Even where steps have least room, its first token comes with the next step; the long one goes on beside it."""
    monkeypatch.setattr("trilens.generate.scheduler.STEP_SECONDS", 0.0)
    scheduler = Scheduler(tiny_executor("llama 3"))
    long = scheduler.submit([t for s in range(9) for t in prompt(250, seed=s)], GREEDY, most(2), NONE)
    steps = 0
    for i in range(10):
        scheduler.step()
        before = long.fed
        one = scheduler.submit(prompt(short, seed=20 + i), GREEDY, most(1), NONE)
        scheduler.step()
        steps += 2
        assert len(one.tokens) == 1 and one.steps[-1].seconds > 0 and long.fed - before == LEAST_ROWS // OLDEST
    while not long.tokens:
        scheduler.step()
        steps += 1
    assert steps == 10 + -(-(len(long.prompt) - 10 * LEAST_ROWS // OLDEST) // LEAST_ROWS)


def test_a_long_prompt_is_not_starved_by_short_ones(tiny_executor: Tiny) -> None:
    scheduler = Scheduler(tiny_executor("llama 3"))
    long = scheduler.submit([t for s in range(4) for t in prompt(250, seed=s)], GREEDY, most(2), NONE)
    for step in range(1000 * OLDEST // LEAST_ROWS + 1):
        for i in range(4):
            scheduler.submit(prompt(100, seed=1000 + 4 * step + i), GREEDY, most(1), NONE)
        scheduler.step()
    assert long.tokens


@pytest.mark.parametrize("name", ["llama 3", "mistral", "qwen3 moe"])
def test_one_beginning_asked_for_by_many_at_once_is_computed_once(
    name: str, native: Callable[..., NativeExecutor]
) -> None:
    executor = native(name)
    start = [t for s in range(2) for t in prompt(100, seed=s)]
    lone = Scheduler(executor)
    alone = [all_tokens(lone, lone.submit([*start, 5 + i], GREEDY, most(9), NONE)) for i in range(8)]
    lone.forget()
    scheduler = Scheduler(executor)
    many = [scheduler.submit([*start, 5 + i], GREEDY, most(9), NONE) for i in range(8)]
    assert [all_tokens(scheduler, g) for g in many] == alone
    assert sorted(g.cached for g in many) == [0] + [192] * 7
    assert {source for g in many for source in g.reused} <= {"running", "finished"} and many[1].reused["running"] > 0


def test_a_step_of_48_sequences_reads_the_weights_once(native: Callable[..., NativeExecutor]) -> None:
    executor = native("llama 3")
    weights = ("linear", "linears", "glu_linear", "head_linear")

    def read(batch: int) -> tuple[int, int]:
        scheduler = Scheduler(executor)
        runs = [scheduler.submit(prompt(2, seed=i), GREEDY, most(90), NONE) for i in range(batch)]
        while any(g.prompting for g in runs):
            scheduler.step()
        before = executor.bytes_by_kind()
        assert len(scheduler.step()) == batch
        after = executor.bytes_by_kind()
        passes = {g.steps[-1].passes for g in runs}
        assert len(passes) == 1
        for generation in runs:
            scheduler.end(generation, "cancelled")
        return sum(after[kind] - before.get(kind, 0) for kind in weights if kind in after), passes.pop()

    one, passes = read(1)
    assert passes == 1
    assert read(48) == (one, 1)
    assert read(STEP_ROWS) == (one, 1)
    scheduler = Scheduler(executor)
    runs = [scheduler.submit(prompt(2, seed=i), GREEDY, most(2), NONE) for i in range(STEP_ROWS + 40)]
    while scheduler.running:
        assert len(scheduler.step()) <= STEP_ROWS  # more wait, for they would read them twice
    assert {step.passes for g in runs for step in g.steps} == {1}


def test_times_are_the_callers(tiny_executor: Tiny) -> None:
    scheduler = Scheduler(tiny_executor("llama 3"))
    called = time.perf_counter() - 1
    generation = scheduler.submit(prompt(9), GREEDY, most(3), NONE, called=called)
    before = time.perf_counter()
    scheduler.step()
    after = time.perf_counter()
    times = generation.times
    assert times.called == called and called < times.queued < before
    assert times.admitted is not None and times.first_token is not None
    assert before <= times.admitted <= times.first_token <= after and times.ended is None
    all_tokens(scheduler, generation)
    assert times.ended is not None and times.ended >= after


class Faulty(TokenWriter):
    """Raises in one of its methods, from the n-th time on."""

    def __init__(self, where: str, nth: int) -> None:
        self.where, self.left = where, nth
        self.guides = where == "propose"

    def _now(self, where: str) -> None:
        if where == self.where:
            self.left -= 1
            if self.left <= 0:
                raise ValueError("no such character")

    def begin(self) -> tuple[int, ...]:
        self._now("begin")
        return ()

    def take(self, token: int, unread: deque[Any], more: bool = False) -> None:
        self._now("take")
        unread.append(token)

    def allowed(self) -> Any:
        self._now("allowed")
        return np.zeros(1, np.uint32) if self.where == "constraint" and self.left < 1 else None

    def lookahead(self) -> int:
        self._now("ahead")
        self.left -= self.where == "constraint"
        return 1

    def propose(self, looked_up: Sequence[int], most: int) -> None:
        self._now("propose")

    def end(self, finish: Finish, unread: deque[Any]) -> None:
        self._now("end")


@pytest.mark.parametrize("nth", [1, 3])
@pytest.mark.parametrize("where", ["begin", "take", "allowed", "ahead", "propose", "end", "constraint"])
def test_a_fault_in_any_callback_ends_its_request_alone(
    where: str, nth: int, native: Callable[..., NativeExecutor]
) -> None:
    executor = native("llama 3")
    scheduler = Scheduler(executor)
    alone = all_tokens(scheduler, scheduler.submit(prompt(5), GREEDY, most(9), NONE))
    scheduler.forget()
    neighbour = scheduler.submit(prompt(5), GREEDY, most(9), NONE)
    called = where in ("begin", "end") or (where == "allowed" and nth == 1)
    try:
        broken = scheduler.submit(prompt(4), GREEDY, most(9), NONE, Faulty(where, 1 if called else nth))
    except ValueError:
        broken = None
        assert where in ("begin", "allowed")
    while scheduler.running:
        for generation in scheduler.step(None, 0.01):
            generation.unread.clear()
    assert neighbour.tokens == alone and neighbour.failure is None
    if broken is not None:
        assert broken.failure is not None and broken.finish is not None
    assert all_tokens(scheduler, scheduler.submit(prompt(5), GREEDY, most(9), NONE)) == alone
    scheduler.forget()
    assert executor.pool.pages_in_use == 0
