"""Requests -> tokens: one forward pass after the other for all that are running.

Requests join and leave at any time, from any number of threads. There is no thread of our own: whoever waits for a
token of theirs does the next step, for everybody. Or several step at once, each in a stepper and for a part of the
requests, so that one computes while another looks at what came.

`_schedule` decides what goes into a step. Whoever decodes gets a row each; prompts share the rest of the room
(`shares`). Memory is taken as a request grows. When there is none left, beginnings that nobody uses go first; then the
request that came last gives its pages back and is computed again later, to the same bits. A reader that does not fetch
its tokens is left out until it does.
"""

from __future__ import annotations

import os
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from itertools import compress
from typing import Any, Literal, NamedTuple, Protocol

import numpy as np

from trilens.errors import CacheFull, RequestRefused
from trilens.executors.executor import PAGE, CachedSequence, Executor, StepInput, StepOutput
from trilens.generate.limits import Limits
from trilens.generate.prefix_cache import Origin, PrefixCache, chain, link
from trilens.generate.sampling import Sampler, Sampling
from trilens.generate.scores import PromptScores

STEP_ROWS = 256  # tokens in one step: as many as share one reading of the weights
LEAST_ROWS = 64  # of these, so many are open to prompts however slow the machine is: fewer waste the reading of weights
SCORED_ROWS = 64  # of a prompt whose every token's logits are read: a vocabulary is wide
STEP_SECONDS = 0.1  # that a step with pieces of prompts may take; what comes meanwhile waits for so long
OLDEST = 8  # the prompt that came first gets at least one row in so many, however many shorter ones come
UNREAD = 256  # tokens that wait for their reader; more, and the request is left out of the steps

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

    def lookahead(self) -> int:
        """How many more tokens may be drawn before it looks at them: the last of these is the first for which `take`
        may say how to go on. At least 1."""
        ...

    def end(self, finish: Finish, unread: deque[Any]) -> None:
        """No more tokens come."""
        ...


class TokenWriter:
    """The plainest writer: the tokens themselves."""

    def begin(self) -> Sequence[int]:
        return ()

    def take(self, token: int, unread: deque[Any], more: bool = False) -> None:
        unread.append(token)

    def allowed(self) -> None:
        return None

    def lookahead(self) -> int:
        return 1

    def end(self, finish: Finish, unread: deque[Any]) -> None:
        pass


class StepRecord(NamedTuple):
    """A request's part in a step: `fed` tokens behind `past` ones, with `draws` rows of logits. The whole step took
    `seconds` and read the weights `passes` times. `batch_size`: the requests in it, and in the steps of other steppers
    at that time."""

    past: int
    fed: int
    draws: int
    seconds: float
    batch_size: int
    passes: int = 1


@dataclass
class Times:
    """When what happened to a request, by `time.perf_counter`; None: not yet."""

    called: float  # the caller asked
    queued: float  # it was handed to the scheduler
    admitted: float | None = None  # its first step began
    first_token: float | None = None  # was drawn
    ended: float | None = None


class Beginning(NamedTuple):
    """How a prompt is found in the prefix cache: what its blocks' keys start from, and the keys of its full pages."""

    root: bytes
    keys: list[bytes]


@dataclass(eq=False)
class Request:
    """One request: its prompt, its tokens so far, what of them was not fetched yet, and what happened to it."""

    prompt: tuple[int, ...]
    limits: Limits
    end_ids: frozenset[int]
    sampler: Sampler
    writer: Writer
    sequence: CachedSequence
    root: bytes  # what the keys of its blocks start from
    keys: list[bytes]  # of the full pages of its tokens
    times: Times
    fed: int = 0  # tokens that are in its sequence
    computed: int = 0  # tokens that were in it before its pages were taken away
    kept: int = 0  # blocks of it that were offered to others
    tokens: list[int] = field(default_factory=list)
    unread: deque[Any] = field(default_factory=deque)
    finish: Finish | None = None
    failure: BaseException | None = None
    steps: list[StepRecord] = field(default_factory=list)  # each token of it once
    repeated: list[StepRecord] = field(default_factory=list)  # tokens that were computed again
    preempted: int = 0  # how often its pages were taken away
    shares: bool = True  # it may go on with what others have computed
    reused: dict[str, int] = field(default_factory=dict)  # tokens of the prompt that were not computed, by their source
    origin: Origin = field(default_factory=lambda: Origin("running"))
    logprobs: dict[int, list[tuple[int, float]]] = field(default_factory=dict)  # by place in `tokens`: `Sampler.last`
    scores: PromptScores | None = None  # of the prompt's own tokens, where they are wanted
    kv_bytes: int = 0
    kv_held: int = 0
    routes: Any = None  # of the tokens that were fed, once it has finished: see `CachedSequence.routes`
    fired: list[list[int]] | None = None  # the same as it comes, where that is wanted
    in_step: bool = False  # whoever does the step has it for himself
    leaves: Finish | None = None  # it ends with that step

    @property
    def cached(self) -> int:
        """Tokens of the prompt that were not computed for it."""
        return sum(self.reused.values())

    @property
    def length(self) -> int:
        """Of prompt and answer so far."""
        return len(self.prompt) + len(self.tokens)

    @property
    def waiting(self) -> bool:
        """It has not begun, or has to begin again."""
        return not self.fed or self.times.admitted is None

    @property
    def prompting(self) -> bool:
        """Its prompt is not computed yet, or what it has to compute again."""
        return self.fed < max(len(self.prompt), self.computed)

    @property
    def max_draws(self) -> int:
        """The most tokens that may be drawn before somebody looks at them."""
        if self.sampler.options.logprobs is not None:
            return 1
        return max(1, min(self.limits.total - len(self.tokens), UNREAD - len(self.unread), self.writer.lookahead()))

    @property
    def largest_batch(self) -> int:
        """The most requests that shared a step with this one, itself counted."""
        return max((step.batch_size for step in self.steps), default=1)

    def piece(self, first: int, end: int) -> Sequence[int]:
        """Tokens of prompt and answer from place `first` up to `end`."""
        prompt = len(self.prompt)
        if first >= prompt:
            return self.tokens[first - prompt : end - prompt]
        return (*self.prompt[first:end], *self.tokens[: max(0, end - prompt)])


def shares(left: Sequence[int], room: int, full: bool = True) -> list[int]:
    """How many rows of a step each prompt gets, of those that it has left; the oldest prompt comes first.

    One row in `OLDEST` is the oldest one's, so that none waits for ever. The others go to whoever has least left, so
    that a short prompt does not wait for a long one. Where steps take long, they are not filled up (`full`) once a
    prompt ends in them, so that its answer begins sooner.
    """
    given = [0] * len(left)
    if left:
        given[0] = min(left[0], -(-room // OLDEST))
        room -= given[0]
    for i in sorted(range(len(left)), key=left.__getitem__):
        more = min(left[i] - given[i], room)
        if not full and given[i] + more < left[i] and any(map(int.__eq__, given, left)):
            break
        given[i] += more
        room -= more
    return given


class Scheduler:
    """Runs requests on one executor, each step for all of them or a stepper's part. Safe to use from many threads."""

    def __init__(self, executor: Executor, prefix_bytes: int | None = None) -> None:
        """`prefix_bytes`: memory that may keep beginnings for later requests; None: half of what the executor has."""
        self.executor = executor
        self.running: list[Request] = []  # in the order in which they came
        self.prefixes = PrefixCache(executor.cache_limit // 2 if prefix_bytes is None else prefix_bytes)
        self._lock = threading.RLock()  # of `running`, and who is in a step
        self._turn = threading.Condition(self._lock)
        self._waiters = 0
        self._steppers: set[int | None] = set()  # in which somebody does a step
        self._scoring = threading.Lock()
        self._row_seconds = 0.0  # of a prompt's token, of late
        self._process = os.getpid()

    # ------------------------------------------------------------------------------------------ for callers

    def begin(self, prompt: Sequence[int], limits: Limits) -> Beginning:
        """Check a prompt, and read from files what they have of its beginning: what takes time and needs no step to
        wait. Raises RequestRefused."""
        vocabulary = self.executor.spec.vocab
        tokens = np.asarray(prompt, np.int64)
        if not tokens.size:
            raise RequestRefused("the prompt is empty; expected at least one token")
        if (bad := tokens[(tokens < 0) | (tokens >= vocabulary)]).size:
            raise RequestRefused(f"token {bad[0]} is outside the model's vocabulary of {vocabulary}")
        root = self.prefixes.root(self.executor.variant(len(prompt) + limits.total))
        keys = chain(root, tokens)
        self.prefixes.restore(root, keys[: (len(prompt) - 1) // PAGE])
        return Beginning(root, keys)

    def submit(
        self,
        prompt: Sequence[int],
        sampling: Sampling,
        limits: Limits,
        end_ids: frozenset[int],
        writer: Writer | None = None,
        *,
        watched: bool = False,
        called: float | None = None,
        beginning: Beginning | None = None,
        scored: int | None = None,
    ) -> Request:
        """Take a request; what an earlier one has in common with its beginning is not computed again. `watched`: which
        experts fire is wanted with each step. `called`: when the caller asked, by `time.perf_counter`. `beginning`:
        what `begin` made of the prompt, where that was done before. `scored`: the log probabilities of the prompt's own
        tokens are wanted, and so many of the likeliest ones beside them.

        Raises RequestRefused for an empty prompt or a token outside the vocabulary, and CacheFull for a request that
        would not fit even alone.
        """
        self.check_process()
        made = self.begin(prompt, limits) if beginning is None else beginning
        now = time.perf_counter()
        times = Times(now if called is None else called, now)
        sampler, writer = Sampler(sampling, prompt), writer or TokenWriter()
        sampler.end_with(end_ids)
        sequence = self.executor.sequence(len(prompt) + limits.total)
        generation = Request(
            tuple(prompt), limits, end_ids, sampler, writer, sequence, made.root, list(made.keys), times
        )
        generation.fired = [] if watched else None
        if scored is not None:
            generation.scores = PromptScores(generation.prompt, scored)
            generation.shares = False  # what others have computed has no logits any more
        self._put(generation, writer.begin())
        if (allowed := writer.allowed()) is not None:
            sampler.allow(allowed)
        self._adopt(generation)
        with self._lock:
            self.running.append(generation)
        return generation

    def advance(self, generations: Sequence[Request]) -> None:
        """Return once one of these has something to fetch, or none of them will have any more.

        Raises what stopped the step that one of them was part of.
        """

        def waiting() -> bool:
            return not any(g.unread for g in generations) and any(g.finish is None for g in generations)

        self.check_process()
        while self._step_while(waiting):
            pass
        failure = next((g.failure for g in generations if g.failure is not None), None)
        if failure is not None:
            raise failure

    def step(self, stepper: int | None = None, ahead: float = 0.0) -> list[Request]:
        """One step for all that can go on, or for `stepper`'s part of them, and for `ahead` seconds further steps with
        what they drew. Returns who was in it, and who failed before it. What stops a request is kept with it."""
        self.check_process()
        return self._step_while(lambda: True, stepper, ahead)

    def end(self, generation: Request, why: Finish, wait: bool = True) -> None:
        """Stop a request for a reason that its tokens do not show; does nothing for one that has stopped. One that is
        in a step stops with it; `wait` until then."""
        if os.getpid() != self._process:
            return  # its threads and what they held are another process's
        with self._lock:
            if generation.in_step:
                generation.leaves = why
                while wait and generation.in_step:
                    self._wait()
            else:
                self._end(generation, why)

    def forget(self) -> None:
        """Give back the memory of all beginnings that nobody uses."""
        self.prefixes.clear()

    def check_process(self) -> None:
        """Raises RequestRefused in a process that was forked from the one that made this."""
        if os.getpid() != self._process:
            raise RequestRefused("this process was forked from the one that loaded the model; load it again here")

    # ------------------------------------------------------------------------------------------ a step

    def _step_while(self, wanted: Callable[[], bool], stepper: int | None = None, ahead: float = 0.0) -> list[Request]:
        """One step once nobody else does one in this stepper, if it is still wanted then; of whom."""
        fed: list[Request] = []
        failed: list[Request] = []
        mine = False
        try:
            with self._lock:
                while (go := wanted()) and stepper in self._steppers:
                    self._wait()
                if not go:
                    return fed
                mine = True
                self._steppers.add(stepper)
                feeds, elsewhere = self._schedule(fed, failed, stepper, ahead > 0)
            scored = [g.scores is not None and g.prompting for g in fed]
            if not all(scored):
                rest = [not one for one in scored]
                self._step(list(compress(fed, rest)), list(compress(feeds, rest)), elsewhere, stepper, ahead)
            for generation, feed in zip(compress(fed, scored), compress(feeds, scored), strict=True):
                self._step([generation], [feed], elsewhere, stepper, ahead)
            return failed + fed
        finally:
            if mine:
                with self._lock:
                    self._steppers.remove(stepper)
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

    def _schedule(
        self, fed: list[Request], failed: list[Request], stepper: int | None, ahead: bool
    ) -> tuple[list[StepInput], int]:
        """What goes into the next step, and how many requests are in other steppers' steps. First a row for each that
        decodes; then pieces of prompts, for which `shares` says how long. A stepper takes its part of those that no
        other one has."""
        feeds: list[StepInput] = []

        def plan(generation: Request, end: int, draws: bool) -> None:
            feed = self._feed(generation, end, draws, ahead, fed, failed)
            if feed is not None:
                feeds.append(feed)
                fed.append(generation)

        can, elsewhere = self._ready(stepper)
        for generation in can:
            if not generation.prompting:
                plan(generation, generation.length, True)
        room = min(STEP_ROWS - sum(len(feed.tokens) for feed in feeds), self._prompt_rows())
        prompts = self._admitted([g for g in can if g.prompting and g.finish is None], room)
        begun = [g.fed for g in prompts]
        left = [(g.computed if g.fed < g.computed else len(g.prompt)) - g.fed for g in prompts]
        full = room * self._row_seconds <= STEP_SECONDS
        for generation, first, share in zip(prompts, begun, shares(left, room, full), strict=True):
            rows = share if generation.scores is None else min(share, SCORED_ROWS)
            if rows and generation.fed == first:  # its pages may have gone to one before it
                whole = first >= generation.computed and first + rows >= len(generation.prompt)
                # what its writer has put behind the prompt goes with the prompt's end
                plan(generation, generation.length if whole else first + rows, whole and generation.limits.total > 0)
        now = time.perf_counter()
        for generation in fed:
            generation.in_step = True
            if generation.times.admitted is None:
                generation.times.admitted = now
        return feeds, elsewhere

    def _feed(
        self,
        generation: Request,
        end: int,
        draws: bool,
        ahead: bool,
        fed: Sequence[Request],
        failed: list[Request],
    ) -> StepInput | None:
        """Its tokens up to place `end`; None where there is no memory for them or its writer has failed."""
        new, most = end - generation.fed, 1
        if not self._grown(generation, new, fed, failed):
            return None
        if draws and ahead:
            try:
                most = generation.max_draws
            except Exception as fault:
                self._fail(generation, fault)
                failed.append(generation)
                return None
            if most > 1 and not generation.sequence.grow(new + most - 1):
                most = 1
        piece = generation.piece(generation.fed, end)
        return StepInput(generation.sequence, piece, draws, generation.sampler if draws else None, most)

    def _ready(self, stepper: int | None) -> tuple[list[Request], int]:
        """Who can go on, and how many are in other steppers' steps."""
        can = [g for g in self.running if not g.in_step and len(g.unread) < UNREAD]
        elsewhere = 0
        if len(self._steppers) > 1:
            elsewhere = sum(g.in_step for g in self.running)
        if stepper is not None:
            del can[-(-(len(can) + elsewhere) // self.executor.steppers) :]
        return can, elsewhere

    def _prompt_rows(self) -> int:
        """How many tokens of prompts go into a step, so that it takes about `STEP_SECONDS`."""
        if not self._row_seconds:
            return LEAST_ROWS
        return min(STEP_ROWS, max(LEAST_ROWS, int(STEP_SECONDS / self._row_seconds) // 16 * 16))

    def _admitted(self, prompts: list[Request], room: int) -> list[Request]:
        """Those of these prompts that may have a piece in this step.

        Requests are admitted in the order in which they came, as long as there is memory for their whole prompt and
        for every other one to grow by a page. A prompt that goes on as another one does, which is being computed now,
        waits for it.
        """
        in_step = [g for g in self.running if g.in_step]
        now = {key for g in in_step for key in g.keys[g.fed // PAGE : (g.fed + STEP_ROWS) // PAGE + 1]}
        holders = sum(not g.waiting for g in self.running)
        admitted, full = list[Request](), False
        for generation in prompts:
            if generation.waiting:
                full = full or holders >= STEP_ROWS or (holders > 0 and not self._fits(generation, holders))
                if full:
                    continue
                holders += 1
            self._adopt(generation)
            at = generation.fed // PAGE
            if generation.fed % PAGE == 0 and at < self._shareable(generation) and generation.keys[at] in now:
                continue
            now.update(generation.keys[at : (generation.fed + room) // PAGE + 1])
            admitted.append(generation)
        return admitted

    def _fits(self, generation: Request, holders: int) -> bool:
        blocks = -(-generation.length // PAGE) + holders + 1
        missing = blocks * self.executor.block_bytes - self.executor.cache_free
        return missing <= 0 or self.prefixes.free(missing)

    def _shareable(self, generation: Request) -> int:
        """How many blocks it may take from others. The last token is computed: its logits are what comes next."""
        return min(len(generation.keys), (generation.length - 1) // PAGE)

    def _adopt(self, generation: Request) -> None:
        """Go on with blocks that others have computed."""
        if generation.fed % PAGE or not generation.shares:
            return
        at, first = generation.fed // PAGE, not generation.fed
        if not first and (at >= self._shareable(generation) or generation.keys[at] not in self.prefixes):
            return
        # whole pages only in the middle of a prompt, and where memory is short: others would have to be copied
        exact = not first or generation.preempted > 0
        most = generation.length - 1
        found = self.prefixes.find(generation.root, generation.keys, generation.prompt, most, exact)
        if len(found.blocks) <= at:
            return
        adopted = generation.sequence.adopt(found.blocks[at:], found.last_tokens)
        for begin, source in enumerate(found.sources[at:], at):
            end = min((begin + 1) * PAGE, generation.fed + adopted)
            if (new := end - max(begin * PAGE, generation.computed)) > 0:
                generation.reused[source] = generation.reused.get(source, 0) + new
        generation.fed += adopted
        generation.kept = max(generation.kept, generation.fed // PAGE)

    # ------------------------------------------------------------------------------------------ memory

    def _grown(self, generation: Request, tokens: int, fed: Sequence[Request], failed: list[Request]) -> bool:
        """Whether it has memory for so many more tokens. Beginnings that nobody uses give way, then who came last."""
        grow = generation.sequence.grow
        blocks = 1 + (generation.fed + tokens) // PAGE - generation.fed // PAGE
        while not grow(tokens):
            self.prefixes.free(blocks * self.executor.block_bytes)
            if grow(tokens):
                break
            victim = self._last_come(generation, fed)
            if victim is not None:
                self._preempt(victim)
            elif any(g.fed for g in self.running if g is not generation):
                return False  # it waits until one of these has ended
            elif generation.fed:
                generation.shares = False  # what it shares is in its own way: it begins anew without that
                self._preempt(generation)
                return False
            else:
                self._fail(generation, CacheFull("the page pool is full and nobody else runs; ask for fewer tokens"))
                failed.append(generation)
                return False
        return True

    def _last_come(self, before: Request, fed: Sequence[Request]) -> Request | None:
        """Whoever gives way for `before`: one that nobody reads, or the last that came behind it."""
        free = [g for g in self.running if g.fed and not g.in_step and g is not before and g not in fed]
        idle = next((g for g in reversed(free) if len(g.unread) >= UNREAD), None)
        if idle is not None or not free:
            return idle
        place = self.running.index
        return free[-1] if place(free[-1]) > place(before) else None

    def _preempt(self, generation: Request) -> None:
        """Its pages go back; it is computed again when there is room."""
        generation.sequence.free()
        if generation.times.admitted is None:
            generation.reused.clear()  # it has only held what others computed
        else:
            generation.computed = max(generation.computed, generation.fed)
            generation.preempted += 1
        generation.fed = generation.kept = 0

    def _offer(self, generation: Request, ended: bool = False) -> None:
        """Let others use what it has computed: its full pages, and behind its end the last one too."""
        full, length = generation.fed // PAGE, generation.fed
        while len(generation.keys) < full:
            at = len(generation.keys)
            parent = generation.keys[-1] if at else generation.root
            generation.keys.append(link(parent, generation.piece(at * PAGE, (at + 1) * PAGE)))
        for at in range(generation.kept, full):
            self._offer_block(generation, at, generation.keys[at], (at + 1) * PAGE)
        generation.kept = max(generation.kept, full)
        if ended and length % PAGE:
            parent = generation.keys[full - 1] if full else generation.root
            self._offer_block(generation, full, link(parent, generation.piece(full * PAGE, length)), length)

    def _offer_block(self, generation: Request, at: int, key: bytes, end: int) -> None:
        if key not in self.prefixes:
            parent = generation.keys[at - 1] if at else generation.root
            tokens = tuple(generation.piece(at * PAGE, end))
            self.prefixes.put(key, parent, tokens, generation.sequence.block(at), generation.origin)

    # ------------------------------------------------------------------------------------------ what comes of it

    def _step(
        self, fed: list[Request], feeds: list[StepInput], elsewhere: int, stepper: int | None, ahead: float
    ) -> None:
        """One forward pass, or several. What interrupts it ends the requests that were part of it, and them alone."""
        try:
            if fed[0].scores is not None and fed[0].prompting:
                drawn = self._scored(fed[0], feeds[0])
            else:
                drawn = self.executor.draw(feeds, stepper, ahead)
        except BaseException as failure:
            for generation in fed:
                self._fail(generation, failure)
            return
        now = time.perf_counter()
        rows = sum(len(feed.tokens) for feed in feeds)
        if rows >= LEAST_ROWS // 2:
            took = drawn.seconds[0] / rows
            self._row_seconds = took if not self._row_seconds else (self._row_seconds + took) / 2
        batches = [elsewhere + len(fed)]  # of each pass: who was in it
        for i in range(1, len(drawn.seconds)):
            batches.append(elsewhere + sum(len(t) + (n in drawn.faults) > i for n, t in enumerate(drawn.tokens)))
        for n, generation in enumerate(fed):
            try:
                tokens, fault = drawn.tokens[n], drawn.faults.get(n)
                steps = max(1, len(tokens) + (fault is not None))
                taken = zip(drawn.seconds[:steps], batches[:steps], drawn.passes[:steps], strict=True)
                self._deliver(generation, feeds[n], tokens, taken, now)
                if fault is not None:
                    self._fail(generation, fault)
            except Exception as fault:  # a fault in one request's text is no other's
                self._fail(generation, fault)
            except BaseException as interruption:
                for other in fed:
                    self._fail(other, interruption)
                return

    def _scored(self, generation: Request, feed: StepInput) -> StepOutput:
        """A step of one request that reads the logits behind every token of its."""
        assert generation.scores is not None
        begin = time.perf_counter()
        with self._scoring:  # the executor's own stepper, which nobody else uses
            logits = self.executor.step([StepInput(feed.sequence, feed.tokens)], every_row=True)
        generation.scores.take(generation.fed, logits)
        tokens, faults = list[int](), dict[int, RequestRefused]()
        if feed.sampler is not None:
            try:
                tokens.append(feed.sampler.choose(logits[-1]))
            except RequestRefused as fault:
                faults[0] = fault
        return StepOutput([tokens], faults, [time.perf_counter() - begin], [1])

    def _deliver(
        self,
        generation: Request,
        feed: StepInput,
        tokens: Sequence[int],
        steps: Iterable[tuple[float, int, int]],
        now: float,
    ) -> None:
        """What a step has made of one request: its tokens to its writer, its pages to whoever needs them."""
        new, again = len(feed.tokens), generation.fed < generation.computed
        record = generation.repeated if again else generation.steps
        scored = generation.scores is not None and generation.prompting
        for seconds, batch_size, passes in steps:
            rows = new if scored else int(feed.logits)
            record.append(StepRecord(generation.fed, new, rows, seconds, batch_size, passes))
            generation.fed += new
            new = 1
        if tokens and generation.times.first_token is None:
            generation.times.first_token = now
        if generation.fired is not None and generation.fed > len(generation.fired):
            generation.fired += generation.sequence.routes(len(generation.fired)).tolist()
        for left, token in enumerate(tokens, 1 - len(tokens)):
            if generation.finish is None:
                self._append(generation, token, left < 0)
        if generation.finish is None and generation.fed // PAGE > generation.kept:
            self._offer(generation)
        if generation.finish is None and not generation.limits.total and not generation.prompting:
            self._end(generation, "length")  # nothing but the prompt was wanted

    def _append(self, generation: Request, token: int, more: bool) -> None:
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

    def _put(self, generation: Request, tokens: Sequence[int]) -> None:
        """Tokens from outside, as if the model had written them."""
        generation.tokens.extend(tokens)
        generation.sampler.note(tokens)

    def _fail(self, generation: Request, failure: BaseException) -> None:
        if generation.finish is None:
            generation.failure = failure
            self._end(generation, "cancelled")

    def _end(self, generation: Request, why: Finish) -> None:
        with self._lock:
            if generation.finish is not None:
                return
            self.running.remove(generation)
            generation.times.ended = time.perf_counter()
            sequence = generation.sequence
            try:
                generation.writer.end(why, generation.unread)
                if generation.failure is None:
                    generation.routes, generation.kv_bytes = sequence.routes(), sequence.kv_bytes
                    generation.kv_held = sequence.held_bytes
                    self._offer(generation, ended=True)
            except Exception as fault:
                generation.failure = generation.failure or fault
            generation.origin.source = "finished"
            sequence.free()
            generation.finish = why  # the last of it: a reader in another thread finds the rest there
