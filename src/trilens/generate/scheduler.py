"""Requests -> tokens: one forward pass after the other for all that are running.

Requests join and leave between steps, from any number of threads. There is no thread of our own: whoever waits for a
token of theirs does the next step, for everybody. A long prompt goes in pieces, so that running answers keep their
pace; a reader that does not fetch its tokens is left out until it does.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

from trilens.errors import ContextFull, RequestRefused
from trilens.executors.executor import CachedSequence, Executor, Feed
from trilens.generate.sampling import Sampler, Sampling

STEP_TOKENS = 256  # prompt tokens in one step, all requests together; bounds the pause of those who are answering
UNREAD = 64  # tokens that wait for their reader; more, and the request is left out of the steps
KEPT = 8  # finished sequences whose beginnings may be reused
DEFAULT_MAX_TOKENS = 4096

Finish = Literal["stop", "stop_string", "length", "context", "cancelled"]


@dataclass(eq=False)
class Generation:
    """One request: its prompt, its tokens so far, what of them was not fetched yet, and where its time went.

    A `careful` one is computed no further than its reader has read: the reader may find that it has to end here.
    """

    prompt: tuple[int, ...]
    max_tokens: int
    end_ids: frozenset[int]
    sampler: Sampler
    sequence: CachedSequence
    cached: int
    context_bound: bool
    careful: bool = False
    asked: bool = False
    tokens: list[int] = field(default_factory=list)
    unread: deque[int] = field(default_factory=deque)
    finish: Finish | None = None
    failure: BaseException | None = None
    prefill_steps: int = 0
    decode_steps: int = 0
    prefill_seconds: float = 0.0
    decode_seconds: float = 0.0
    most_beside: int = 1
    kv_bytes: int = 0


@dataclass(frozen=True)
class Prefix:
    """A sequence that was finished, and the tokens that are in it."""

    tokens: tuple[int, ...]
    sequence: CachedSequence


class Scheduler:
    """Runs requests on one executor, each step for all of them. Safe to use from many threads."""

    def __init__(self, executor: Executor) -> None:
        self.executor = executor
        self.running: list[Generation] = []
        self.kept: list[Prefix] = []  # least recently used first
        self._lock = threading.Lock()

    def submit(
        self,
        prompt: Sequence[int],
        sampling: Sampling,
        max_tokens: int | None,
        end_ids: frozenset[int],
        careful: bool = False,
    ) -> Generation:
        """Admit a request; what an earlier one has in common with its beginning is not computed again.

        Raises ContextFull when prompt and answer cannot fit the context, RequestRefused for an empty prompt, a token
        outside the vocabulary, or when there is no memory left for its cache.
        """
        spec = self.executor.spec
        most, bound = answer_limit(spec.context, len(prompt), max_tokens)
        bad = next((t for t in prompt if not 0 <= t < spec.vocab), None)
        if bad is not None:
            raise RequestRefused(f"token {bad} is outside the model's vocabulary of {spec.vocab}")
        sampler = Sampler(sampling, prompt)
        with self._lock:
            sequence = self._sequence(tuple(prompt), len(prompt) + most)
            generation = Generation(tuple(prompt), most, end_ids, sampler, sequence, sequence.length, bound, careful)
            self.running.append(generation)
        return generation

    def advance(self, generations: Sequence[Generation]) -> None:
        """Return once one of these has a token to fetch, or none of them will have any more.

        Raises what stopped the step that one of them was part of.
        """
        with self._lock:
            for generation in generations:
                generation.asked = True
            while not any(g.unread for g in generations) and any(g.finish is None for g in generations):
                self._step()
        failure = next((g.failure for g in generations if g.failure is not None), None)
        if failure is not None:
            raise failure

    def end(self, generation: Generation, why: Finish) -> None:
        """Stop a request for a reason that its tokens do not show; does nothing for one that has stopped."""
        with self._lock:
            self._end(generation, why)

    def forget(self) -> None:
        """Give back the memory of all finished sequences."""
        with self._lock:
            while self.kept:
                self.kept.pop().sequence.free()

    def _step(self) -> None:
        """One forward pass. Whatever interrupts it ends the requests that were part of it, and them alone."""
        feeds = self._feeds()
        start = time.perf_counter()
        try:
            logits = self.executor.step([feed for _, feed in feeds])
            seconds = time.perf_counter() - start
            row = 0
            for generation, feed in feeds:
                self._count(generation, seconds, len(feeds))
                if feed.logits:
                    self._append(generation, generation.sampler.choose(logits[row]))
                    row += 1
        except BaseException as failure:
            for generation, _ in feeds:
                generation.failure = failure
                self._end(generation, "cancelled")

    def _feeds(self) -> list[tuple[Generation, Feed]]:
        """What goes into the next step: a token of each that answers, and pieces of the prompts in order of arrival."""
        feeds, room = [], STEP_TOKENS
        for generation in self.running:
            if generation.tokens:
                if generation.asked if generation.careful else len(generation.unread) < UNREAD:
                    feeds.append((generation, Feed(generation.sequence, generation.tokens[-1:])))
            elif room:
                done = generation.sequence.length
                piece = generation.prompt[done : done + room]
                room -= len(piece)
                whole = done + len(piece) == len(generation.prompt)
                feeds.append((generation, Feed(generation.sequence, piece, logits=whole)))
        return feeds

    def _count(self, generation: Generation, seconds: float, beside: int) -> None:
        if generation.tokens:
            generation.decode_steps += 1
            generation.decode_seconds += seconds
        else:
            generation.prefill_steps += 1
            generation.prefill_seconds += seconds
        generation.most_beside = max(generation.most_beside, beside)
        generation.kv_bytes = max(generation.kv_bytes, generation.sequence.kv_bytes)

    def _append(self, generation: Generation, token: int) -> None:
        generation.tokens.append(token)
        generation.unread.append(token)
        generation.asked = False
        if token in generation.end_ids:
            self._end(generation, "stop")
        elif len(generation.tokens) == generation.max_tokens:
            self._end(generation, "context" if generation.context_bound else "length")

    def _end(self, generation: Generation, why: Finish) -> None:
        if generation.finish is not None:
            return
        generation.finish = why
        self.running.remove(generation)
        if generation.failure is not None:
            generation.sequence.free()
            return
        sequence = generation.sequence
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


def answer_limit(context: int, prompt: int, max_tokens: int | None) -> tuple[int, bool]:
    """(most tokens the answer may have, whether it is the context that says so). Nothing is ever cut silently."""
    if prompt == 0:
        raise RequestRefused("the prompt is empty; expected at least one token")
    if max_tokens is not None and max_tokens < 1:
        raise RequestRefused(f"max_tokens is {max_tokens}; expected at least 1")
    room = context - prompt
    if room < 1 or (max_tokens is not None and max_tokens > room):
        wanted = "" if max_tokens is None else f" and max_tokens {max_tokens}"
        raise ContextFull(
            f"the prompt's {prompt} tokens{wanted} do not fit the model's context of {context}; "
            f"shorten the prompt or ask for fewer tokens"
        )
    if max_tokens is not None:
        return max_tokens, False
    return (room, True) if room <= DEFAULT_MAX_TOKENS else (DEFAULT_MAX_TOKENS, False)


def common_prefix(a: Sequence[int], b: Sequence[int]) -> int:
    """How many leading tokens are the same."""
    return next((i for i, (x, y) in enumerate(zip(a, b, strict=False)) if x != y), min(len(a), len(b)))
