"""Requests -> tokens: one forward pass after the other for all that are running; a long prompt goes in pieces."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

from trilens.errors import ContextFull, RequestRefused
from trilens.executors.executor import CachedSequence, Executor, Feed
from trilens.generate.sampling import Sampler, Sampling

PROMPT_PIECE = 512  # tokens; bounds the scratch memory of a step and the pause of those who are already answering

Finish = Literal["stop", "stop_string", "length", "context", "cancelled"]


@dataclass(eq=False)
class Generation:
    """One request under way: its prompt, its tokens so far, and where its time went."""

    prompt: tuple[int, ...]
    max_tokens: int
    end_ids: frozenset[int]
    sampler: Sampler
    sequence: CachedSequence
    cached: int
    tokens: list[int] = field(default_factory=list)
    finish: Finish | None = None
    context_bound: bool = False
    prefill_steps: int = 0
    decode_steps: int = 0
    prefill_seconds: float = 0.0
    decode_seconds: float = 0.0
    most_beside: int = 1
    kv_bytes: int = 0

    @property
    def in_cache(self) -> list[int]:
        """The tokens that its sequence holds."""
        return [*self.prompt, *self.tokens][: self.sequence.length]

    def end(self, why: Finish) -> None:
        """Stop here, for a reason that the tokens themselves do not show."""
        if self.finish is None:
            self.finish = why


class Scheduler:
    """Runs any number of requests on one executor, each step for all of them."""

    def __init__(self, executor: Executor) -> None:
        self.executor = executor
        self.running: list[Generation] = []

    def submit(
        self,
        prompt: Sequence[int],
        sampling: Sampling,
        max_tokens: int | None,
        end_ids: frozenset[int],
        kept: tuple[CachedSequence, Sequence[int]] | None = None,
    ) -> Generation:
        """Admit a request. `kept` is a sequence whose tokens may begin as this prompt does; the rest is forgotten.

        Raises ContextFull when prompt and answer cannot fit, RequestRefused for an empty prompt.
        """
        spec = self.executor.spec
        most, bound = answer_limit(spec.context, len(prompt), max_tokens)
        bad = next((t for t in prompt if not 0 <= t < spec.vocab), None)
        if bad is not None:
            raise RequestRefused(f"token {bad} is outside the model's vocabulary of {spec.vocab}")
        length = len(prompt) + most
        sequence, cached = self.executor.sequence(length), 0
        if kept is not None:
            old, old_tokens = kept
            shared = common_prefix(old_tokens, prompt)
            # the last prompt token is always computed: its logits are what the answer starts from
            if self.executor.can_extend(old, length) and old.rewind(min(shared, len(prompt) - 1)):
                old.request_length = length
                sequence, cached = old, old.length
        sampler = Sampler(sampling, prompt)
        generation = Generation(tuple(prompt), most, end_ids, sampler, sequence, cached, context_bound=bound)
        self.running.append(generation)
        return generation

    def step(self) -> list[tuple[Generation, int]]:
        """One forward pass; every (request, new token) that came of it."""
        if not self.running:
            return []
        feeds = [_feed(g) for g in self.running]
        start = time.perf_counter()
        logits = self.executor.step(feeds)
        seconds = time.perf_counter() - start
        sampled, row = [], 0
        for generation, feed in zip(self.running, feeds, strict=True):
            if generation.tokens:
                generation.decode_steps += 1
                generation.decode_seconds += seconds
            else:
                generation.prefill_steps += 1
                generation.prefill_seconds += seconds
            generation.most_beside = max(generation.most_beside, len(feeds))
            generation.kv_bytes = max(generation.kv_bytes, generation.sequence.kv_bytes)
            if feed.logits:
                token = generation.sampler.choose(logits[row])
                row += 1
                generation.tokens.append(token)
                sampled.append((generation, token))
                if token in generation.end_ids:
                    generation.finish = "stop"
                elif len(generation.tokens) == generation.max_tokens:
                    generation.finish = "context" if generation.context_bound else "length"
        return sampled

    def retire(self, generation: Generation) -> None:
        """Take a finished request out of the steps to come."""
        self.running.remove(generation)

    def cancel_all(self) -> None:
        for generation in self.running:
            generation.end("cancelled")
        self.running = []


DEFAULT_MAX_TOKENS = 4096


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


def _feed(generation: Generation) -> Feed:
    if generation.tokens:
        return Feed(generation.sequence, generation.tokens[-1:])
    done = generation.sequence.length
    piece = generation.prompt[done : done + PROMPT_PIECE]
    return Feed(generation.sequence, piece, logits=done + len(piece) == len(generation.prompt))
