"""Speculation changes no token: the same requests with it and without, proposals accepted and rejected on the way."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import pytest

from tests.generate.schemas import SCHEMAS
from trilens.checkpoints.find import find
from trilens.checkpoints.into_native import native_executor
from trilens.checkpoints.load import open_model
from trilens.generate.answer import Constraint
from trilens.generate.limits import Limits
from trilens.generate.receipt import Receipt, replay_hash
from trilens.generate.request import Request, TokenWriter
from trilens.generate.sampling import Sampling, Speculates
from trilens.generate.scheduler import Scheduler
from trilens.loading import load
from trilens.model import Call, Model
from trilens.text.events import EndEvent

# full attention; windows and softcaps; latent attention and experts; a gated delta net with experts; Mamba-2
FAMILIES = ("llama 3", "gemma 3 (text)", "deepseek v3", "qwen3-next", "granite 4 h")
REQUESTS = 40
MOST_PROPOSED = 8


class Ahead(TokenWriter):
    """A writer that need not look at each token."""

    def lookahead(self) -> int:
        return 64


def asked(rng: random.Random, vocabulary: int) -> dict[str, Any]:
    """A prompt with repetitions, which proposals are found in, and options of all kinds."""
    phrase = [rng.randrange(3, vocabulary) for _ in range(rng.randrange(2, 12))]
    prompt = (phrase * rng.randrange(1, 6))[: rng.randrange(1, 50)] + [rng.randrange(3, vocabulary)] * rng.randrange(4)
    sampling = Sampling(
        temperature=rng.choice((0.0, 0.0, 0.2, 0.7, 1.5)),
        top_k=rng.choice((0, 0, 3)),
        top_p=rng.choice((1.0, 0.9)),
        repetition_penalty=rng.choice((1.0, 1.0, 1.1)),
        frequency_penalty=rng.choice((0.0, 0.0, 0.3)),
        seed=rng.randrange(1 << 30),
        # what is liked comes again and again
        logit_bias=dict.fromkeys(phrase, 4.0) if rng.random() < 0.7 else {},
    )
    ends = frozenset({rng.choice(phrase)} if rng.random() < 0.3 else ())
    return {"prompt": prompt, "sampling": sampling, "limits": Limits(*[rng.randrange(1, 60)] * 2), "end_ids": ends}


def answered(scheduler: Scheduler, wanted: list[dict[str, Any]], batch: int, ahead: float) -> list[Request]:
    """The requests, `batch` at a time."""
    done = []
    for first in range(0, len(wanted), batch):
        some = [scheduler.submit(**w, writer=Ahead()) for w in wanted[first : first + batch]]
        while any(r.finish is None for r in some):
            for r in some:
                r.unread.clear()
            scheduler.step(ahead=ahead)
        done += some
    return done


@pytest.mark.parametrize("family", FAMILIES)
def test_tokens_and_routes_are_equal(family: str, tiny_directory: Callable[[str], object]) -> None:
    executor = native_executor(open_model(find(str(tiny_directory(family)))), kv_limit=40_000_000)
    rng = random.Random(family)
    wanted = [asked(rng, executor.spec.vocab) for _ in range(REQUESTS)]
    results: dict[Speculates, list[Request]] = {}
    for speculates in (False, "always", True):
        scheduler = Scheduler(executor, speculates=speculates)
        results[speculates] = answered(
            scheduler, wanted, 1 if speculates is False else 4, 0.0 if speculates is True else 0.01
        )
    proposed = accepted = 0
    for plain, *others in zip(*results.values(), strict=True):
        for other in others:
            assert other.tokens == plain.tokens and other.finish == plain.finish
            assert replay_hash((*other.prompt, *other.tokens), other.routes) == replay_hash(
                (*plain.prompt, *plain.tokens), plain.routes
            )
            assert other.kv_bytes == plain.kv_bytes
            assert sum(s.fed for s in other.steps) + other.cached == sum(s.fed for s in plain.steps) + plain.cached
            for step in other.steps:
                assert 0 <= step.accepted <= step.proposed <= MOST_PROPOSED
        proposed += sum(s.proposed for s in others[0].steps)
        accepted += sum(s.accepted for s in others[0].steps)
    assert not any(s.proposed for r in results[False] for s in r.steps)
    assert accepted > 50 and proposed - accepted > 50  # both are part of the test


TOOLS = {
    "add": {"type": "object", "properties": {"one": {"type": "integer"}, "other": {"type": "integer"}}},
    "say": {"type": "object", "properties": {"text": {"type": "string", "maxLength": 8}}, "required": ["text"]},
}
# What an answer is held to: a method of `Grammars`, or calls of the tools, and its argument.
FORMS: list[tuple[str, Any]] = [
    *(("schema", schema) for schema in SCHEMAS),
    ("regex", r"(\d{1,3}[+-]\d{1,3}=\d{1,4}, ){2,6}"),
    ("choice", ["forty-two", "forty-three", "no"]),
    ("grammar", 'root ::= (number "+" number "=" number ", ")* "done"\nnumber ::= [0-9]+'),
    ("grammar", 'start: "The sum of these numbers is " /[0-9]{1,4}/ (", not " /[0-9]{1,4}/)* "."'),
    ("forced_call", TOOLS),
    ("forced_call", {"say": TOOLS["say"]}),
]
SUMS = (
    "12+30=42, 12+31=43, 12+32=44, 12+3",
    "What is 17 times 23?",
    "a b c a b c a b c a b",
    "hi",
    "9-4=5 9-3=6 9-2=7 9-",
)


def call_options(rng: random.Random, thinks: bool) -> dict[str, Any]:
    """Of one call: any mixture of sampling, thinking, stop strings, structure and log probabilities."""
    options: dict[str, Any] = {"temperature": rng.choice((0, 0, 0.3, 0.8, 1.5)), "seed": rng.randrange(1000)}
    options["max_tokens"] = rng.choice((1, 2, 10, 30, 50))
    if rng.random() < 0.3:
        options["raw"] = True
    elif thinks:
        options["thinking"] = rng.choice((True, False, 12))
    for name, share, value in (
        ("stop", 0.3, [rng.choice(("4", "b c", "=", " 1"))]),
        ("logprobs", 0.3, rng.randrange(4)),
        ("frequency_penalty", 0.2, 0.4),
        ("repetition_penalty", 0.2, 1.2),
        ("min_tokens", 0.2, min(9, options["max_tokens"])),
    ):
        if rng.random() < share:
            options[name] = value
    return options


@dataclass(frozen=True)
class Asked:
    """One call. `form`: what its answer is held to; `cancelled` after so many tokens."""

    prompt: str
    options: dict[str, Any]
    form: tuple[str, Any] | None
    cancelled: int | None

    @staticmethod
    def random(rng: random.Random, thinks: bool) -> Asked:
        options = call_options(rng, thinks)
        cancelled = rng.randrange(20) if rng.random() < 0.1 else None
        form = rng.choice(FORMS) if rng.random() < 0.45 else None
        return Asked(rng.choice(SUMS), options, form, cancelled)

    def constraint(self, model: Model) -> Constraint | None:
        if self.form is None:
            return None
        held: Constraint | None = getattr(model if self.form[0] == "forced_call" else model.grammars, self.form[0])(
            self.form[1]
        )
        return held


def called(model: Model, batch: list[Asked]) -> list[tuple[Call, Receipt]]:
    """The calls, run together, and their receipts."""
    calls = []
    for i, asked in enumerate(batch):
        calls.append(model.prepare(asked.prompt, index=i, constraint=asked.constraint(model), **asked.options))
        calls[-1].submit()
    step = 0
    while model.step(None, 0.01 * (step % 2)):
        step += 1
        for call, asked in zip(calls, batch, strict=True):
            assert call.request is not None
            if asked.cancelled is not None and len(call.request.tokens) > asked.cancelled:
                call.cancel()
    model.forget()
    found = []
    for call in calls:
        end = list(call.events())[-1]
        assert isinstance(end, EndEvent)
        found.append((call, end.receipt))
    return found


def calls_are_equal(name: str, count: int) -> tuple[int, int]:
    """Ask so many calls with speculation and without, one to eight at a time. How many proposed tokens were right, in
    free answers and in those that are held to a form."""
    rng = random.Random(name)
    plain, drafting, right, left = load(name, speculation=False), load(name), [0, 0], count
    drafting._scheduler.speculates = "always"
    while left > 0:
        batch = [Asked.random(rng, name != "smollm2") for _ in range(min(left, rng.randrange(1, 9)))]
        left -= len(batch)
        for asked, (one, expected), (other, got) in zip(
            batch, called(plain, batch), called(drafting, batch), strict=True
        ):
            assert one.request is not None and other.request is not None
            ours, theirs = other.request.tokens, one.request.tokens
            right[asked.form is not None] += got.drafts.accepted
            assert not expected.drafts.proposed
            if asked.cancelled is None:
                assert (ours, got.finish, got.replay) == (theirs, expected.finish, expected.replay), asked
                assert replace(got.tokens, cached=0) == replace(expected.tokens, cached=0), asked
                assert (got.thinking, got.kv_cache_bytes) == (expected.thinking, expected.kv_cache_bytes), asked
                assert other.request.logprobs == one.request.logprobs, asked
            else:
                same = min(len(ours), len(theirs))
                assert ours[:same] == theirs[:same], asked
    return right[0], right[1]


@pytest.mark.parametrize("name", ["tiny-dense", "tiny-routed"])
def test_calls_are_equal(name: str) -> None:
    assert min(calls_are_equal(name, 100)) > 10


@pytest.mark.slow
@pytest.mark.parametrize("name", ["smollm2", "tiny-dense"])
def test_a_thousand_calls_are_equal(name: str) -> None:
    assert min(calls_are_equal(name, 1000)) > 200
