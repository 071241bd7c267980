"""Requests -> tokens: one forward pass after the other for all that are running.

Requests join and leave at any time, from any number of threads. The scheduler has no thread of its own: whoever waits
for a token runs the next step, for all requests. Several threads can also step at once, each with its own stepper and a
part of the requests, so that one computes while another handles the results.

`_schedule` decides what goes into a step. Each request that decodes gets one row; prompts share the rest (`shares`).
Memory is allocated as a request grows. When none is left, unused prefixes are dropped first; then the newest request
gives its pages back and is computed again later, with the same bits. A reader that does not fetch its tokens is skipped
until it does.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from itertools import compress

import numpy as np

from trilens.errors import CacheFull, RequestRefused
from trilens.executors.executor import PAGE, Executor, Proposal, StepInput, StepOutput
from trilens.generate.limits import Limits
from trilens.generate.prefix_cache import PrefixCache, chain, link
from trilens.generate.request import UNREAD, Beginning, Finish, Request, StepRecord, Times, TokenWriter, Writer
from trilens.generate.sampling import MOST_DRAFT, Sampler, Sampling, Speculates
from trilens.generate.scores import PromptScores

STEP_ROWS = 256  # tokens in one step: as many as share one reading of the weights
LEAST_ROWS = 64  # of these, so many are open to prompts however slow the machine is: fewer waste the reading of weights
SCORED_ROWS = 32  # of a prompt whose every token's logits are read: a pass of the engine, however wide a vocabulary is
MOST_AHEAD = PAGE  # tokens that are drawn before they are looked at: memory is taken for all of these
STEP_SECONDS = 0.1  # that a step with pieces of prompts may take; what comes meanwhile waits for so long
OLDEST = 8  # the prompt that came first gets at least one row in so many, however many shorter ones come


def shares(left: Sequence[int], room: int, full: bool = True) -> list[int]:
    """How many rows of a step each prompt gets, of those that it has left; the oldest prompt comes first.

    One row in `OLDEST` belongs to the oldest prompt, so that none waits forever. The others go to the prompt with the
    fewest tokens left, so that a short prompt does not wait for a long one. If steps take long, they are not filled up
    (`full`) once a prompt ends in them, so that its answer begins sooner.
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

    def __init__(self, executor: Executor, prefix_bytes: int | None = None, speculates: Speculates = True) -> None:
        """`prefix_bytes`: memory that may keep beginnings for later requests; None: half of what the executor has.
        `speculates`: requests propose tokens, where that saves time, or always."""
        self.executor = executor
        self.speculates = speculates
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

    def begin(self, prompt: Sequence[int], limits: Limits, adapter: str | None = None) -> Beginning:
        """Check a prompt, and read from files what they have of its beginning: what takes time and needs no step to
        wait. Raises RequestRefused. What one adapter has computed is never found for another one, or for none."""
        vocabulary = self.executor.spec.vocab
        tokens = np.asarray(prompt, np.int64)
        if not tokens.size:
            raise RequestRefused("the prompt is empty; expected at least one token")
        if (bad := tokens[(tokens < 0) | (tokens >= vocabulary)]).size:
            raise RequestRefused(f"token {bad[0]} is outside the model's vocabulary of {vocabulary}")
        root = self.prefixes.root(self.executor.variant(len(prompt) + limits.total, adapter))
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
        fresh: bool = False,
        called: float | None = None,
        beginning: Beginning | None = None,
        scored: int | None = None,
        adapter: str | None = None,
    ) -> Request:
        """Take a request; what an earlier one has in common with its beginning is not computed again. `watched`: which
        experts fire is wanted with each step. `fresh`: all of the prompt is computed, whatever earlier requests have.
        `called`: when the caller asked, by `time.perf_counter`. `beginning`: what `begin` made of the prompt, if it was
        called before. `scored`: the log probabilities of the prompt's own tokens are wanted, with so many of the
        likeliest ones. `adapter`: the name of the one to use.

        Raises RequestRefused for an empty prompt or a token outside the vocabulary, and CacheFull for a request that
        would not fit even alone.
        """
        self.check_process()
        made = self.begin(prompt, limits, adapter) if beginning is None else beginning
        now = time.perf_counter()
        times = Times(now if called is None else called, now)
        sampler, writer = Sampler(sampling, prompt, self.speculates), writer or TokenWriter()
        sampler.end_with(end_ids)
        sequence = self.executor.sequence(len(prompt) + limits.total, adapter)
        keys = list(made.keys)
        request = Request(tuple(prompt), limits, end_ids, sampler, writer, sequence, made.root, keys, times, adapter)
        request.fired = [] if watched else None
        request.shares = not fresh
        request.follows = bool(self.speculates) and self.executor.predicts and self.executor.follow(sequence)
        if scored is not None:
            request.scores = PromptScores(request.prompt, scored)
            request.shares = False  # what others have computed has no logits any more
        self._put(request, writer.begin())
        if (allowed := writer.allowed()) is not None:
            sampler.allow(allowed)
        self._keep_states(request)
        self._adopt(request)
        with self._lock:
            self.running.append(request)
        return request

    def advance(self, requests: Sequence[Request]) -> None:
        """Return once one of these has something to fetch, or none of them will have any more.

        Raises the error that ended a step of one of them.
        """

        def waiting() -> bool:
            return not any(g.unread for g in requests) and any(g.finish is None for g in requests)

        self.check_process()
        while self._step_while(waiting):
            pass
        failure = next((g.failure for g in requests if g.failure is not None), None)
        if failure is not None:
            raise failure

    def step(self, stepper: int | None = None, ahead: float = 0.0) -> list[Request]:
        """One step for all that can go on, or for `stepper`'s part of them, and for `ahead` seconds further steps with
        what they drew. Returns who was in it, and who failed before it. What stops a request is kept with it."""
        self.check_process()
        return self._step_while(lambda: True, stepper, ahead)

    def end(self, request: Request, why: Finish, wait: bool = True) -> None:
        """Stop a request for a reason that its tokens do not show; does nothing for one that has stopped. One that is
        in a step stops with it; `wait` until then."""
        if os.getpid() != self._process:
            return  # its threads and what they held are another process's
        with self._lock:
            if request.in_step:
                request.leaves = why
                while wait and request.in_step:
                    self._wait()
            else:
                self._end(request, why)

    def forget(self) -> None:
        """Free the memory of all prefixes that are not in use."""
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
            scored = [r.scores is not None and r.prompting for r in fed]
            if True not in scored:
                self._step(fed, feeds, elsewhere, stepper, ahead)
            else:
                rest = [not one for one in scored]
                self._step(list(compress(fed, rest)), list(compress(feeds, rest)), elsewhere, stepper, ahead)
                for request, feed in zip(compress(fed, scored), compress(feeds, scored), strict=True):
                    self._step([request], [feed], elsewhere, stepper, ahead)
            return failed + fed
        finally:
            if mine:
                with self._lock:
                    self._steppers.remove(stepper)
                    for request in fed:
                        request.in_step = False
                        if request.leaves is not None:
                            self._end(request, request.leaves)
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
        can, elsewhere = self._ready(stepper)
        prompts: list[Request] = []
        for request in can:
            if request.prompting:  # one whose pages have just gone to one before it is a prompt again
                prompts.append(request)
            elif (feed := self._feed(request, request.length, True, ahead, fed, failed)) is not None:
                feeds.append(feed)
                fed.append(request)
        if prompts:
            room = min(STEP_ROWS - sum([len(feed.tokens) for feed in feeds]), self._prompt_rows())
            self._share(prompts, room, ahead, feeds, fed, failed)
        now = time.perf_counter()
        for request in fed:
            request.in_step = True
            if request.times.admitted is None:
                request.times.admitted = now
        return feeds, elsewhere

    def _share(
        self,
        prompts: list[Request],
        room: int,
        ahead: bool,
        feeds: list[StepInput],
        fed: list[Request],
        failed: list[Request],
    ) -> None:
        """Add to the step pieces of prompts with `room` tokens together."""
        admitted = self._admitted(prompts, room)
        begun = [g.fed for g in admitted]
        left = [(g.computed if g.fed < g.computed else len(g.prompt)) - g.fed for g in admitted]
        full = room * self._row_seconds <= STEP_SECONDS
        for request, first, share in zip(admitted, begun, shares(left, room, full), strict=True):
            rows = share if request.scores is None else min(share, SCORED_ROWS)
            if not rows or request.fed != first:  # its pages may have gone to one before it
                continue
            whole = first >= request.computed and first + rows >= len(request.prompt)
            # what its writer has put behind the prompt goes with the prompt's end
            end, draws = request.length if whole else first + rows, whole and request.limits.total > 0
            if (feed := self._feed(request, end, draws, ahead, fed, failed)) is not None:
                feeds.append(feed)
                fed.append(request)

    def _feed(
        self,
        request: Request,
        end: int,
        draws: bool,
        ahead: bool,
        fed: Sequence[Request],
        failed: list[Request],
    ) -> StepInput | None:
        """Its tokens up to place `end`; None where there is no memory for them or its writer has failed."""
        first, sequence, most, drafted = request.fed, request.sequence, 1, 0
        if draws and (ahead or self.speculates):
            try:
                most = min(request.max_draws, MOST_AHEAD) if ahead and not self._predicts(request) else 1
                # counted from the last of these draws on
                drafted = min(max(0, request.max_drafted - (most - 1)), MOST_DRAFT) if self.speculates else 0
            except Exception as fault:
                self._fail(request, fault)
                failed.append(request)
                return None
        more = min(most - 1 + drafted, request.limits.total - len(request.tokens) - 1)
        if more <= 0 or not sequence.grow(end - first + more):
            most, drafted = 1, 0
            if not self._grown(request, end - first, fed, failed):
                return None
        sampler = request.sampler if draws else None
        return StepInput(sequence, request.piece(first, end), draws, sampler, most, drafted)

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
        for request in prompts:
            if request.waiting:
                full = full or holders >= STEP_ROWS or (holders > 0 and not self._fits(request, holders))
                if full:
                    continue
                holders += 1
            self._adopt(request)
            at = request.fed // PAGE
            if request.fed % PAGE == 0 and at < self._shareable(request) and request.keys[at] in now:
                continue
            now.update(request.keys[at : (request.fed + room) // PAGE + 1])
            admitted.append(request)
        return admitted

    def _fits(self, request: Request, holders: int) -> bool:
        blocks = -(-request.length // PAGE) + holders + 1
        states = 2 * self.executor.costs.fixed_bytes  # those before a step and those behind it
        missing = blocks * self.executor.block_bytes + states - self.executor.cache_free
        return missing <= 0 or self.prefixes.free(missing)

    def _keep_states(self, request: Request) -> None:
        """Fixed states are kept at the last page's end in the prompt: the next turn of a conversation begins with it,
        but goes on otherwise where the template leaves out what was thought. A prompt that fills its pages has two such
        places: the same prompt again begins at the one before its last token."""
        for length in {len(request.prompt), len(request.prompt) - 1}:
            request.sequence.snapshot_at(length // PAGE * PAGE)

    def _shareable(self, request: Request) -> int:
        """How many blocks it may take from others. The last token is computed: its logits are what comes next."""
        return min(len(request.keys), (request.length - 1) // PAGE)

    def _adopt(self, request: Request) -> None:
        """Continue from blocks that other requests have computed."""
        if request.fed % PAGE or not request.shares:
            return
        at, first = request.fed // PAGE, not request.fed
        if not first and (at >= self._shareable(request) or request.keys[at] not in self.prefixes):
            return
        # whole pages only in the middle of a prompt, and where memory is short: others would have to be copied
        exact = not first or request.preempted > 0
        most = request.length - 1
        found = self.prefixes.find(request.root, request.keys, request.prompt, most, exact)
        if len(found.blocks) <= at:
            return
        adopted = request.sequence.adopt(found.blocks[at:], found.last_tokens)
        whole = len(found.blocks) - (found.last_tokens < PAGE)
        if request.fed + adopted < whole * PAGE:  # who comes next with the same beginning finds its states
            request.sequence.snapshot_at(whole * PAGE)
        for begin, source in enumerate(found.sources[at:], at):
            end = min((begin + 1) * PAGE, request.fed + adopted)
            if (new := end - max(begin * PAGE, request.computed)) > 0:
                request.reused[source] = request.reused.get(source, 0) + new
        request.fed += adopted
        request.kept = max(request.kept, request.fed // PAGE)

    # ------------------------------------------------------------------------------------------ memory

    def _grown(self, request: Request, tokens: int, fed: Sequence[Request], failed: list[Request]) -> bool:
        """Whether it has memory for so many more tokens. Unused prefixes are dropped, then the newest request gives
        way.
        """
        grow = request.sequence.grow
        while not grow(tokens):
            blocks = 1 + (request.fed + tokens) // PAGE - request.fed // PAGE
            self.prefixes.free(blocks * self.executor.block_bytes)
            if grow(tokens):
                break
            victim = self._last_come(request, fed)
            if victim is not None:
                self._preempt(victim)
            elif any(g.fed for g in self.running if g is not request):
                return False  # it waits until one of these has ended
            elif request.fed:
                request.shares = False  # what it shares is in its own way: it begins anew without that
                self._preempt(request)
                return False
            else:
                self._fail(
                    request, CacheFull("the page pool is full and no other request is running; ask for fewer tokens")
                )
                failed.append(request)
                return False
        return True

    def _last_come(self, before: Request, fed: Sequence[Request]) -> Request | None:
        """The request that gives way to `before`: one that nobody reads, or the newest one that came after it."""
        free = [g for g in self.running if g.fed and not g.in_step and g is not before and g not in fed]
        idle = next((g for g in reversed(free) if len(g.unread) >= UNREAD), None)
        if idle is not None or not free:
            return idle
        place = self.running.index
        return free[-1] if place(free[-1]) > place(before) else None

    def _preempt(self, request: Request) -> None:
        """Free its pages. It is computed again when there is room."""
        request.sequence.free()
        self._keep_states(request)
        if request.times.admitted is None:
            request.reused.clear()  # it has only held what others computed
        else:
            request.computed = max(request.computed, request.fed)
            request.preempted += 1
        request.fed = request.kept = 0

    def _offer(self, request: Request, ended: bool = False) -> None:
        """Share what it has computed: its full pages and, after its end, the last one too."""
        full, length = request.fed // PAGE, request.fed
        while len(request.keys) < full:
            at = len(request.keys)
            parent = request.keys[-1] if at else request.root
            request.keys.append(link(parent, request.piece(at * PAGE, (at + 1) * PAGE)))
        first = request.kept
        if ended:
            request.sequence.snapshot()
            first = max(0, min(first, full - 1))  # the last page again, now with the states behind it
        for at in range(first, full):
            self._offer_block(request, at, request.keys[at], (at + 1) * PAGE)
        request.kept = max(request.kept, full)
        if ended and length % PAGE:
            parent = request.keys[full - 1] if full else request.root
            self._offer_block(request, full, link(parent, request.piece(full * PAGE, length)), length)

    def _offer_block(self, request: Request, at: int, key: bytes, end: int) -> None:
        if key not in self.prefixes or self.executor.costs.fixed_bytes:
            parent = request.keys[at - 1] if at else request.root
            tokens = tuple(request.piece(at * PAGE, end))
            self.prefixes.put(key, parent, tokens, request.sequence.block(at), request.origin)

    # ------------------------------------------------------------------------------------------ what comes of it

    def _step(
        self, fed: list[Request], feeds: list[StepInput], elsewhere: int, stepper: int | None, ahead: float
    ) -> None:
        """One forward pass, or several. An interruption ends the requests of this step, and only those."""
        fed, feeds, predicting = self._proposed(fed, feeds, stepper)
        if not fed:
            return
        try:
            if fed[0].scores is not None and fed[0].prompting:
                drawn = self._scored(fed[0], feeds[0])
            else:
                drawn = self.executor.draw(feeds, stepper, ahead)
        except BaseException as failure:
            for request in fed:
                self._fail(request, failure)
            return
        now = time.perf_counter()
        if predicting:
            drawn = drawn._replace(seconds=[drawn.seconds[0] + predicting, *drawn.seconds[1:]])
        rows = sum([len(feed.tokens) for feed in feeds])
        if rows >= LEAST_ROWS // 2:
            took = drawn.seconds[0] / rows
            self._row_seconds = took if not self._row_seconds else (self._row_seconds + took) / 2
        batches = [elsewhere + len(fed)]  # of each pass: who was in it
        if len(drawn.seconds) > 1:
            batches += [elsewhere + sum([len(d) > i for d in drawn.drafts]) for i in range(1, len(drawn.seconds))]
        for n, request in enumerate(fed):
            try:
                tokens, fault = drawn.tokens[n], drawn.faults.get(n)
                taken = zip(drawn.seconds, batches, drawn.passes, drawn.drafts[n], strict=False)
                self._deliver(request, feeds[n], tokens, taken, now)
                if fault is not None:
                    self._fail(request, fault)
            except Exception as fault:  # a fault in one request's text is no other's
                self._fail(request, fault)
            except BaseException as interruption:
                for other in fed:
                    self._fail(other, interruption)
                return

    def _predicts(self, request: Request) -> bool:
        """Whether the block that predicts is asked for its next token."""
        return request.follows and request.sampler.predicts()

    def _proposed(
        self, fed: list[Request], feeds: list[StepInput], stepper: int | None
    ) -> tuple[list[Request], list[StepInput], float]:
        """The same with drafts for those whose writers know what is allowed behind each token, and for those that the
        block predicts, unless a prompt is in the step; and how long that took the block. What was looked up, or what a
        grammar forces, costs nothing and comes first. A request whose writer fails at that is left out."""
        ours = [
            feed.max_drafted > 0 and (request.writer.guides or (feed.max_draws == 1 and self._predicts(request)))
            for request, feed in zip(fed, feeds, strict=True)
        ]
        if True not in ours:
            return fed, feeds, 0.0
        asking: list[tuple[Request, StepInput, int]] = []
        decoding = all(len(feed.tokens) == 1 for feed in feeds)
        for request, feed in zip(compress(fed, ours), compress(feeds, ours), strict=True):
            try:
                looked_up, forced = request.sampler.propose(feed.max_drafted) if decoding else ([], 0)
                if looked_up or forced:
                    feed.proposal = _proposal(request, looked_up, forced)
                if feed.proposal is None and decoding and self._predicts(request):
                    asking.append((request, feed, forced))
            except Exception as fault:
                self._fail(request, fault)
        seconds = self._predict(asking, stepper) if asking else 0.0
        for feed in compress(feeds, ours):
            feed.max_drafted = 0 if feed.proposal is None else len(feed.proposal.tokens)
        still = [request.finish is None for request in fed]
        return list(compress(fed, still)), list(compress(feeds, still)), seconds

    def _predict(self, asking: Sequence[tuple[Request, StepInput, int]], stepper: int | None) -> float:
        """Drafts of the block that predicts, and its seconds."""
        begin = time.perf_counter()
        try:
            predicted = self.executor.predict([(feed.sequence, feed.tokens[0]) for _, feed, _ in asking], stepper)
        except BaseException as failure:
            for request, _, _ in asking:
                self._fail(request, failure)
            return 0.0
        seconds = time.perf_counter() - begin
        for (request, feed, forced), token in zip(asking, predicted, strict=True):
            request.sampler.predicted(seconds / len(asking))
            try:
                if token is not None and (proposal := _proposal(request, [token], forced)) is not None:
                    feed.proposal = proposal._replace(looked_up=0, predicted=proposal.looked_up)
            except Exception as fault:
                self._fail(request, fault)
        return seconds

    def _scored(self, request: Request, feed: StepInput) -> StepOutput:
        """A step of one request that reads the logits behind every token of its."""
        assert request.scores is not None
        begin = time.perf_counter()
        with self._scoring:  # the executor's own stepper, which nobody else uses
            logits = self.executor.step([StepInput(feed.sequence, feed.tokens)], every_row=True)
        request.scores.take(request.fed, logits)
        tokens, faults = list[int](), dict[int, RequestRefused]()
        if feed.sampler is not None:
            try:
                tokens.append(feed.sampler.choose(logits[-1]))
            except RequestRefused as fault:
                faults[0] = fault
        return StepOutput([tokens], faults, [time.perf_counter() - begin], [1], [[(0, 0)]])

    def _deliver(
        self,
        request: Request,
        feed: StepInput,
        tokens: Sequence[int],
        steps: Iterable[tuple[float, int, int, tuple[int, int]]],
        now: float,
    ) -> None:
        """Hand the results of a step to one request: its tokens to its writer, its pages to the prefix cache."""
        new, fed = len(feed.tokens), request.fed
        record = request.repeated if fed < request.computed else request.steps
        rows = new if request.scores is not None and request.prompting else int(feed.logits)
        for seconds, batch_size, passes, (proposed, accepted) in steps:
            new += accepted
            predicted = 0 if feed.proposal is None else min(proposed, feed.proposal.predicted)
            record.append(
                StepRecord(fed, new, rows + proposed, seconds, batch_size, passes, proposed, accepted, predicted)
            )
            fed += new
            new = 1
        request.fed = fed
        if tokens and request.times.first_token is None:
            request.times.first_token = now
        if request.fired is not None and request.fed > len(request.fired):
            request.fired += request.sequence.routes(len(request.fired)).tolist()
        undoable = record[-1].accepted
        used = () if feed.proposal is None or not feed.proposal.allowed.size else feed.proposal.allowed
        for n, token in enumerate(tokens):
            if not self._append(request, token, tokens[n + 1 :], undoable, used[n] if n < len(used) else None):
                break
        if request.finish is None and request.fed // PAGE > request.kept:
            self._offer(request)
        if request.finish is None and not request.limits.total and not request.prompting:
            self._end(request, "length")  # nothing but the prompt was wanted

    def _append(
        self, request: Request, token: int, behind: Sequence[int], undoable: int, used: np.ndarray | None
    ) -> bool:
        """A token that was drawn, and what its writer makes of it. The tokens `behind` it were drawn too, the first of
        them among those that `used` allows. If they are no more than `undoable`, they can be taken back. Whether they
        still count."""
        request.tokens.append(token)
        if request.sampler.options.logprobs is not None:
            request.logprobs[len(request.tokens) - 1] = request.sampler.take_report()
        follows = request.writer.take(token, request.unread, len(behind) > undoable)
        allowed = request.writer.allowed()
        ends: Finish | None = follows if isinstance(follows, str) else None
        put: Sequence[int] = () if follows is None or isinstance(follows, str) else follows
        if token in request.end_ids:
            ends = "stop"
        elif ends is None and len(request.tokens) >= request.limits.total:
            ends = "context" if request.limits.context_bound else "length"
        follow = ends is None and not put and (used is None or allowed is None or np.array_equal(allowed, used))
        if behind and len(behind) <= undoable and not follow:
            self._take_back(request, behind)
        if ends is not None:
            self._end(request, ends)
            return False
        if put:
            self._put(request, put)
        if allowed is not None:
            request.sampler.allow(allowed)
        return follow

    def _take_back(self, request: Request, tokens: Sequence[int]) -> None:
        """The last tokens of a draft are not wanted: all is as if they had not been accepted."""
        count, steps = len(tokens), request.repeated if request.fed < request.computed else request.steps
        request.sequence.take_back(count)
        request.sampler.undo(tokens)
        request.fed -= count
        last = steps[-1]
        steps[-1] = last._replace(fed=last.fed - count, accepted=last.accepted - count)
        if request.fired is not None:
            del request.fired[request.fed :]

    def _put(self, request: Request, tokens: Sequence[int]) -> None:
        """Insert tokens from outside, as if the model had written them."""
        request.tokens.extend(tokens)
        request.sampler.note(tokens)

    def _fail(self, request: Request, failure: BaseException) -> None:
        if request.finish is None:
            request.failure = failure
            self._end(request, "cancelled")

    def _end(self, request: Request, why: Finish) -> None:
        with self._lock:
            if request.finish is not None:
                return
            self.running.remove(request)
            request.times.ended = time.perf_counter()
            sequence = request.sequence
            try:
                request.writer.end(why, request.unread)
                if request.failure is None:
                    request.routes, request.kv_bytes = sequence.routes(), sequence.kv_bytes
                    request.kv_held, request.block_passes = sequence.held_bytes, sequence.block_passes
                    self._offer(request, ended=True)
            except Exception as fault:
                request.failure = request.failure or fault
            request.origin.source = "finished"
            sequence.free()
            request.finish = why  # the last of it: a reader in another thread finds the rest there


def _proposal(request: Request, tokens: Sequence[int], forced: int) -> Proposal | None:
    """A draft that begins with these tokens; behind them, up to `forced` in all, those that a grammar forces."""
    if request.writer.guides:
        return request.writer.propose(tokens, forced)
    return Proposal(tokens, len(tokens), np.empty((len(tokens), 0), np.uint32)) if tokens else None
