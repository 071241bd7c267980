"""Drafts of answers that follow a schema: what is allowed behind each proposed token is known before it is drawn, and a
writer that is wrong about it changes no token."""

from __future__ import annotations

import random
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest

from tests.generate.schemas import SCHEMAS
from tests.grids import thinned
from trilens.checkpoints.find import find
from trilens.checkpoints.into_native import native_executor
from trilens.checkpoints.load import open_model
from trilens.executors.executor import Proposal
from trilens.generate.grammar import GrammarConstraint
from trilens.generate.limits import Limits
from trilens.generate.request import Request
from trilens.generate.sampling import MOST_DRAFT, Sampler, Sampling, Speculates
from trilens.generate.scheduler import Scheduler
from trilens.loading import load
from trilens.model import Model


@pytest.fixture(scope="module")
def model() -> Model:
    return load("tiny-dense")


def tokens_of(words: np.ndarray) -> set[int]:
    return {int(i) for i in np.flatnonzero(np.unpackbits(words.view(np.uint8), bitorder="little"))}


def walked(
    constraint: GrammarConstraint, rng: random.Random, ends: frozenset[int]
) -> tuple[list[int], list[np.ndarray]]:
    """Random tokens that the constraint allows, and what it allows before each."""
    path, masks = list[int](), list[np.ndarray]()
    while len(path) < 60 and not ends & set(path):
        masks.append(constraint.allowed())
        path.append(rng.choice(sorted(tokens_of(masks[-1]))))
        constraint.take(path[-1])
    return path, masks


@pytest.mark.parametrize("number", thinned(range(len(SCHEMAS)), 2))
def test_looking_ahead_is_right_and_changes_nothing(model: Model, number: int) -> None:
    rng, schema = random.Random(number), model.grammars.schema
    for _ in range(5):
        path, masks = walked(schema(SCHEMAS[number]), rng, model.text.end_ids)
        looking, at = schema(SCHEMAS[number]), 0
        while at < len(path):
            wanted = path[at : at + rng.randrange(9)]
            if rng.random() < 0.3:
                wanted.insert(rng.randrange(len(wanted) + 1), rng.randrange(model.spec.vocab))
            most = rng.randrange(9)
            ahead = looking.ahead(wanted, most)
            assert ahead.tokens[: ahead.looked_up] == wanted[: ahead.looked_up]
            assert len(ahead.allowed) == len(ahead.tokens) <= max(most, ahead.looked_up)
            before = masks[at]
            for n, (token, behind) in enumerate(zip(ahead.tokens, ahead.allowed, strict=True), 1):
                assert token in tokens_of(before)
                if ahead.tokens[:n] == path[at : at + n] and at + n < len(masks):
                    assert np.array_equal(behind, masks[at + n])
                if n == ahead.looked_up < len(wanted):
                    assert wanted[n] not in tokens_of(behind) - model.text.end_ids
                before = behind
            for _ in range(rng.randrange(1, 6)):
                if at < len(path):
                    assert np.array_equal(looking.allowed(), masks[at])
                    looking.take(path[at])
                    at += 1


def test_a_text_that_begins_the_answer_makes_what_was_known_ahead_void(model: Model) -> None:
    letter = model.text.tokenizer.encode("a", special=False)
    looking, plain = model.grammars.regex("aab"), model.grammars.regex("aab")
    assert looking.ahead(letter, 0).tokens == letter
    for constraint in (looking, plain):
        constraint.begin("a")
        constraint.take(letter[0])
    assert np.array_equal(looking.allowed(), plain.allowed())


def test_a_grammar_proposes_what_it_leaves_no_choice_about(model: Model) -> None:
    schema = {"const": {"measurements": ["temperature", "pressure"], "unit": "kelvin"}}
    model._scheduler.speculates = "always"
    options: dict[str, Any] = {"schema": schema, "temperature": 0, "thinking": False}
    answer = model.generate("Hello", **options)
    drafts, tokens = answer.receipt.drafts, answer.receipt.tokens.completion
    assert drafts.accepted > tokens / 2 and drafts.accepted > 0.8 * drafts.proposed
    plain = load("tiny-dense", speculation=False).generate("Hello", **options)
    assert (plain.text, plain.receipt.replay) == (answer.text, answer.receipt.replay)


@pytest.mark.parametrize("thinking", [True, 6, False])
@pytest.mark.parametrize("stop", [(), ("4",)])
def test_a_thinking_ends_inside_a_draft(
    model: Model, thinking: bool | int, stop: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The proposals are what will come, so that every end of a thinking and of an answer is in a draft."""
    plain, drafting = load("tiny-dense", speculation=False), model
    drafting._scheduler.speculates = "always"
    tried, taken_back = 0, 0
    original = Scheduler._take_back

    def take_back(self: Scheduler, request: Request, tokens: Sequence[int]) -> None:
        nonlocal taken_back
        taken_back += 1
        original(self, request, tokens)

    monkeypatch.setattr(Scheduler, "_take_back", take_back)
    for seed in range(6):
        options: dict[str, Any] = {"temperature": 0.8, "seed": seed, "thinking": thinking, "stop": stop, "logprobs": 1}
        schema = {"type": "object", "properties": {"sum": {"type": "integer"}}, "required": ["sum"]}
        found = []
        for one in (plain, drafting):
            constraint = one.grammars.schema(schema)
            call = one.prepare(f"What is 1{seed} plus 25?", constraint=constraint, max_tokens=30, **options)
            call.submit()
            request = call.request
            assert request is not None
            if found:
                known = found[0].tokens
                propose = lambda _, most, r=request, t=known: (t[len(r.tokens) : len(r.tokens) + most], 0)  # noqa: E731
                monkeypatch.setattr(Sampler, "propose", propose)
            while one.step(None):
                pass
            found.append(request)
            one.forget()
        assert (found[1].tokens, found[1].logprobs) == (found[0].tokens, found[0].logprobs)
        assert found[1].finish == found[0].finish
        tried += sum(step.accepted for step in found[1].steps)
    assert tried > 20 and (taken_back > 0 or not (thinking or stop))


class Rule:
    """What may come depends on the token before. `lies`: how often what is said about a draft is something else."""

    guides = True

    def __init__(self, vocabulary: int, lies: float, seed: int) -> None:
        self.vocabulary, self.lies, self.rng, self.last = vocabulary, lies, random.Random(seed), 0

    def after(self, token: int) -> np.ndarray:
        bits = np.zeros((self.vocabulary + 31) // 32 * 32, bool)
        bits[: self.vocabulary] = (np.arange(self.vocabulary) + token) % 5 != 0
        return np.packbits(bits, bitorder="little").view(np.uint32)

    def begin(self) -> Sequence[int]:
        return ()

    def take(self, token: int, unread: deque[Any], more: bool = False) -> None:
        self.last = token

    def allowed(self) -> np.ndarray:
        return self.after(self.last)

    def lookahead(self) -> int:
        return 1

    def draftable(self) -> int:
        return MOST_DRAFT

    def propose(self, looked_up: Sequence[int], most: int) -> Proposal | None:
        if not looked_up:
            return None
        said = [token + 1 if self.rng.random() < self.lies else token for token in looked_up]
        return Proposal(looked_up, len(looked_up), np.stack([self.after(token) for token in said]))

    def end(self, finish: Any, unread: deque[Any]) -> None:
        pass


# full attention; latent attention and experts; a gated delta net with experts; Mamba-2
@pytest.mark.parametrize("family", ["llama 3", "deepseek v3", "qwen3-next", "granite 4 h"])
def test_a_writer_that_is_wrong_about_a_draft_changes_no_token(
    family: str, tiny_directory: Callable[[str], object]
) -> None:
    executor = native_executor(open_model(find(str(tiny_directory(family)))), kv_limit=40_000_000)
    vocabulary = executor.spec.vocab

    def answered(speculates: Speculates, lies: float) -> list[Request]:
        scheduler, rng, found = Scheduler(executor, speculates=speculates), random.Random(family), []
        for batch in (1, 3, 6):
            some = []
            for _ in range(batch):
                phrase = [rng.randrange(3, vocabulary) for _ in range(rng.randrange(2, 8))]
                bias, seed = dict.fromkeys(phrase, 4.0), rng.randrange(1000)
                sampling = Sampling(temperature=rng.choice((0.0, 0.7, 1.2)), logit_bias=bias, seed=seed, logprobs=2)
                writer, limits = Rule(vocabulary, lies, seed), Limits(60, 60)
                some.append(scheduler.submit(phrase * 4, sampling, limits, frozenset({0}), writer))
            while any(request.finish is None for request in some):
                scheduler.step()
            found += some
        return found

    plain = answered(False, 0.0)
    for lies in (0.0, 0.4, 1.0):
        for one, other in zip(plain, answered("always", lies), strict=True):
            assert one.failure is None and other.failure is None
            assert (other.tokens, other.logprobs, other.finish) == (one.tokens, one.logprobs, one.finish)
            assert np.array_equal(one.routes, other.routes) and one.kv_bytes == other.kv_bytes
            assert sum(s.fed for s in other.steps) + other.cached == sum(s.fed for s in one.steps) + one.cached
    proposed, accepted = (
        [sum(getattr(step, what) for r in answered("always", lies) for step in r.steps) for lies in (0.0, 1.0)]
        for what in ("proposed", "accepted")
    )
    assert proposed[0] > 50 and accepted[0] > 20 > accepted[1]
