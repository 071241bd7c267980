"""Requests -> tokens: one forward pass after the other for all that are running.

Requests join and leave at any time, from any number of threads. There is no thread of our own: whoever waits for a
token of theirs does the next step, for everybody. Or several step at once, each in a lane and for a part of the
requests, so that one computes while another looks at what came. A long prompt goes in pieces, so that running answers
keep their pace; a reader that does not fetch its tokens is left out until it does.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple, Protocol

import numpy as np

from trilens.errors import RequestRefused
from trilens.executors.executor import CachedSequence, Executor, Feed
from trilens.generate.limits import Limits
from trilens.generate.sampling import Sampler, Sampling

STEP_TOKENS = 256  # prompt tokens in one step, all requests together; bounds the pause of those who are answering
UNREAD = 256  # tokens that wait for their reader; more, and the request is left out of the steps
KEPT = 8  # finished sequences whose beginnings may be reused

Finish = Literal["stop", "stop_string", "length", "context", "cancelled"]


class Writer(Protocol):
    """What becomes of a request's tokens. It is told of each as soon as it is drawn, and says how to go on."""

    def begin(self) -> Sequence[int]:
        """Tokens that stand before anything is drawn."""
        ...

    def take(self, token: int, unread: deque[Any], more: bool = False) -> Finish | Sequence[int] | None:
        """Put what there is to read into `unread`. To end here: why. To go on behind more tokens: those. Neither where
        `more` were drawn already, as `ahead` allowed."""
        ...

    def allowed(self) -> np.ndarray | None:
        """uint32; bit i of all of them: whether token i may be drawn next. None: as before."""
        ...

    def ahead(self) -> int:
        """How many more tokens may be drawn before it looks at them: the last of these is the first for which `take`
        may say how to go on. At least 1."""
        ...

    def end(self, finish: Finish, unread: deque[Any]) -> None:
        """No more tokens come."""
        ...


class Tokens:
    """The plainest writer: the tokens themselves."""

    def begin(self) -> Sequence[int]:
        return ()

    def take(self, token: int, unread: deque[Any], more: bool = False) -> None:
        unread.append(token)

    def allowed(self) -> None:
        return None

    def ahead(self) -> int:
        return 1

    def end(self, finish: Finish, unread: deque[Any]) -> None:
        pass


class StepShare(NamedTuple):
    """A request's part in a step: `fed` tokens behind `past` ones, with a token drawn behind them or not. The whole
    step took `seconds`; `beside`: the requests that were in it, and in other lanes' steps then."""

    past: int
    fed: int
    draws: bool
    seconds: float
    beside: int


@dataclass(eq=False)
class Generation:
    """One request: its prompt, its tokens so far, what of them was not fetched yet, and where its time went."""

    prompt: tuple[int, ...]
    limits: Limits
    end_ids: frozenset[int]
    sampler: Sampler
    sequence: CachedSequence
    cached: int
    writer: Writer
    fed: int  # tokens that are in its sequence
    tokens: list[int] = field(default_factory=list)
    unread: deque[Any] = field(default_factory=deque)
    finish: Finish | None = None
    failure: BaseException | None = None
    steps: list[StepShare] = field(default_factory=list)
    logprobs: dict[int, list[tuple[int, float]]] = field(default_factory=dict)  # by place in `tokens`: `Sampler.last`
    kv_bytes: int = 0
    kv_reserved: int = 0
    routes: Any = None  # of the tokens that were fed, once it has finished: see `CachedSequence.routes`
    fired: list[list[int]] | None = None  # the same as it comes, where that is wanted
    in_step: bool = False  # whoever does the step has it for himself
    leaves: Finish | None = None  # it ends with that step

    @property
    def most(self) -> int:
        """The most tokens that may be drawn before somebody looks at them."""
        if self.sampler.options.logprobs is not None:
            return 1
        return max(1, min(self.limits.total - len(self.tokens), UNREAD - len(self.unread), self.writer.ahead()))

    @property
    def most_beside(self) -> int:
        """The most requests that shared a step with this one, itself counted."""
        return max((step.beside for step in self.steps), default=1)


@dataclass(frozen=True)
class Prefix:
    """A sequence that was finished, and the tokens that are in it."""

    tokens: tuple[int, ...]
    sequence: CachedSequence


class Scheduler:
    """Runs requests on one executor, each step for all of them or a lane's part. Safe to use from many threads."""

    def __init__(self, executor: Executor) -> None:
        self.executor = executor
        self.running: list[Generation] = []
        self.kept: list[Prefix] = []  # least recently used first
        self._lock = threading.RLock()  # of `running`, `kept`, and who is in a step
        self._turn = threading.Condition(self._lock)
        self._waiters = 0
        self._lanes: set[int | None] = set()  # in which somebody does a step

    def submit(
        self,
        prompt: Sequence[int],
        sampling: Sampling,
        limits: Limits,
        end_ids: frozenset[int],
        writer: Writer | None = None,
        *,
        watched: bool = False,
    ) -> Generation:
        """Admit a request; what an earlier one has in common with its beginning is not computed again. `watched`: which
        experts fire is wanted with each step.

        Raises RequestRefused for an empty prompt, a token outside the vocabulary, or when there is no memory left for
        its cache.
        """
        vocabulary = self.executor.spec.vocab
        bad = next((t for t in prompt if not 0 <= t < vocabulary), None)
        if bad is not None:
            raise RequestRefused(f"token {bad} is outside the model's vocabulary of {vocabulary}")
        sampler, writer = Sampler(sampling, prompt), writer or Tokens()
        sampler.end_with(end_ids)
        with self._lock:
            sequence = self._sequence(tuple(prompt), len(prompt) + limits.total)
            cached = sequence.length
            generation = Generation(tuple(prompt), limits, end_ids, sampler, sequence, cached, writer, cached)
            generation.fired = [] if watched else None
            try:
                self._put(generation, writer.begin())
                if (allowed := writer.allowed()) is not None:
                    sampler.allow(allowed)
            except BaseException:
                sequence.free()
                raise
            self.running.append(generation)
        return generation

    def advance(self, generations: Sequence[Generation]) -> None:
        """Return once one of these has something to fetch, or none of them will have any more.

        Raises what stopped the step that one of them was part of.
        """

        def waiting() -> bool:
            return not any(g.unread for g in generations) and any(g.finish is None for g in generations)

        while self._step_while(waiting):
            pass
        failure = next((g.failure for g in generations if g.failure is not None), None)
        if failure is not None:
            raise failure

    def step(self, lane: int | None = None, ahead: float = 0.0) -> list[Generation]:
        """One step for all that can go on, or for `lane`'s part of them, and for `ahead` seconds further ones with what
        they drew; of whom. What stops one is kept with it."""
        return self._step_while(lambda: True, lane, ahead)

    def _step_while(self, wanted: Callable[[], bool], lane: int | None = None, ahead: float = 0.0) -> list[Generation]:
        """One step once nobody else does one in this lane, if it is still wanted then; of whom."""
        fed, broken = list[Generation](), list[Generation]()
        mine = False
        try:
            with self._lock:
                while (go := wanted()) and lane in self._lanes:
                    self._wait()
                if not go:
                    return fed
                mine = True
                self._lanes.add(lane)
                feeds, elsewhere = self._feeds(fed, broken, lane, ahead > 0)
            if feeds:
                self._step(fed, feeds, elsewhere, lane, ahead)
            return fed + broken
        finally:
            if mine:
                with self._lock:
                    self._lanes.remove(lane)
                    for generation in fed:
                        generation.in_step = False
                        if generation.leaves is not None:
                            self._end(generation, generation.leaves)
                    if self._waiters:
                        self._turn.notify_all()

    def _wait(self) -> None:
        """Until a step is over."""
        self._waiters += 1
        try:
            self._turn.wait()
        finally:
            self._waiters -= 1

    def end(self, generation: Generation, why: Finish, wait: bool = True) -> None:
        """Stop a request for a reason that its tokens do not show; does nothing for one that has stopped. One that is
        in a step stops with it; `wait` until then."""
        with self._lock:
            if generation.in_step:
                generation.leaves = why
                while wait and generation.in_step:
                    self._wait()
            else:
                self._end(generation, why)

    def forget(self) -> None:
        """Give back the memory of all finished sequences."""
        with self._lock:
            while self.kept:
                self.kept.pop().sequence.free()

    def _step(self, fed: list[Generation], feeds: list[Feed], elsewhere: int, lane: int | None, ahead: float) -> None:
        """One forward pass, or several. What interrupts it ends the requests that were part of it, and them alone."""
        try:
            tokens, faults, seconds = self.executor.draw(feeds, lane, ahead)
            passes = [(seconds[0], elsewhere + len(fed))]  # of each its seconds, and who was in it
            for i in range(1, len(seconds)):
                inside = sum(len(drawn) + (n in faults) > i for n, drawn in enumerate(tokens))
                passes.append((seconds[i], elsewhere + inside))
            for n, generation in enumerate(fed):
                new, logits, drawn = len(feeds[n].tokens), feeds[n].logits, tokens[n]
                for took, beside in passes[: max(1, len(drawn) + (n in faults))]:
                    generation.steps.append(StepShare(generation.fed, new, logits, took, beside))
                    generation.fed += new
                    new = 1
                if generation.fired is not None:
                    generation.fired += generation.sequence.routes(len(generation.fired)).tolist()
                try:
                    for left, token in enumerate(drawn, 1 - len(drawn)):
                        if generation.finish is None:
                            self._append(generation, token, left < 0)
                except Exception as fault:  # a fault in one request's text is no other's
                    self._fail(generation, fault)
                if n in faults:
                    self._fail(generation, faults[n])
        except BaseException as failure:
            for generation in fed:
                self._fail(generation, failure)

    def _feeds(
        self, fed: list[Generation], broken: list[Generation], lane: int | None, ahead: bool
    ) -> tuple[list[Feed], int]:
        """What goes into the next step, and how many requests are in other lanes' steps: what is new of each that
        answers, and pieces of the prompts in order of arrival. A lane takes its part of those that no other one has.
        `broken` gets those whose writer fails."""
        can = [g for g in self.running if not g.in_step and len(g.unread) < UNREAD]
        elsewhere = 0
        if len(self._lanes) > 1:
            elsewhere = sum(g.in_step for g in self.running)
        if lane is not None:
            del can[-(-(len(can) + elsewhere) // self.executor.lanes) :]
        feeds, room = [], STEP_TOKENS
        for generation in can:
            done, prompt = generation.fed, len(generation.prompt)
            try:
                most = generation.most if ahead else 1
            except Exception as fault:
                self._fail(generation, fault)
                broken.append(generation)
                continue
            if done >= prompt:
                new = generation.tokens[done - prompt :]
                feeds.append(Feed(generation.sequence, new, True, generation.sampler, most))
            elif room:
                wanted = (*generation.prompt[done : done + room], *generation.tokens)
                piece = wanted[:room]
                room -= len(piece)
                whole = done + len(piece) == prompt + len(generation.tokens)
                sampler = generation.sampler if whole else None
                feeds.append(Feed(generation.sequence, piece, whole, sampler, most))
            else:
                continue
            fed.append(generation)
            generation.in_step = True
        return feeds, elsewhere

    def _append(self, generation: Generation, token: int, more: bool) -> None:
        """A token that was drawn, and what its writer makes of it; whether there are `more` of these."""
        generation.tokens.append(token)
        if generation.sampler.options.logprobs is not None:
            generation.logprobs[len(generation.tokens) - 1] = generation.sampler.last
        follows = generation.writer.take(token, generation.unread, more)
        allowed = generation.writer.allowed()
        if token in generation.end_ids:
            self._end(generation, "stop")
        elif isinstance(follows, str):
            self._end(generation, follows)
        elif len(generation.tokens) >= generation.limits.total:
            self._end(generation, "context" if generation.limits.context_bound else "length")
        else:
            if follows:
                self._put(generation, follows)
            if allowed is not None:
                generation.sampler.allow(allowed)

    def _put(self, generation: Generation, tokens: Sequence[int]) -> None:
        """Tokens from outside, as if the model had written them."""
        generation.tokens.extend(tokens)
        generation.sampler.note(tokens)

    def _fail(self, generation: Generation, fault: BaseException) -> None:
        if generation.finish is None:
            generation.failure = fault
            self._end(generation, "cancelled")

    def _end(self, generation: Generation, why: Finish) -> None:
        with self._lock:
            if generation.finish is not None:
                return
            self.running.remove(generation)
            try:
                generation.writer.end(why, generation.unread)
            except Exception as fault:
                generation.failure = generation.failure or fault
            sequence = generation.sequence
            if generation.failure is not None:
                sequence.free()
                generation.finish = why
                return
            generation.routes, generation.kv_bytes = sequence.routes(), sequence.kv_bytes
            generation.kv_reserved = sequence.reserved_bytes
            generation.finish = why  # the last of it: a reader in another thread finds the rest there
            inside = (*generation.prompt, *generation.tokens)[: sequence.length]
            # only what was used stays reserved, where that changes no rotary table
            if sequence.length and self.executor.can_extend(sequence, sequence.length):
                sequence.request_length = sequence.length
            self.kept.append(Prefix(inside, sequence))
            if len(self.kept) > KEPT:
                self.kept.pop(0).sequence.free()

    def _sequence(self, prompt: tuple[int, ...], request_length: int) -> CachedSequence:
        """A sequence for a request, begun with what is cached; finished ones give way when memory is short."""
        while True:
            try:
                return self._begun(prompt, request_length) or self.executor.sequence(request_length)
            except RequestRefused:
                if not self.kept:
                    raise
                self.kept.pop(0).sequence.free()

    def _begun(self, prompt: tuple[int, ...], request_length: int) -> CachedSequence | None:
        usable = [p for p in self.kept if self.executor.can_extend(p.sequence, request_length)]
        for prefix in sorted(usable, key=lambda p: common_prefix(p.tokens, prompt), reverse=True):
            # the last prompt token is always computed: its logits are what the answer starts from
            shared = min(common_prefix(prefix.tokens, prompt), len(prompt) - 1)
            begun = prefix.sequence.fork(shared, request_length) if shared else None
            if begun is not None:
                self.kept.remove(prefix)
                self.kept.append(prefix)
                return begun
        return None


def common_prefix(a: Sequence[int], b: Sequence[int]) -> int:
    """How many leading tokens are the same."""
    return next((i for i, (x, y) in enumerate(zip(a, b, strict=False)) if x != y), min(len(a), len(b)))
