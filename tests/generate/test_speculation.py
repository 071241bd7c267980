"""Speculation changes no token: the same requests with it and without, proposals accepted and rejected on the way."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

import pytest

from trilens.checkpoints.find import find
from trilens.checkpoints.into_native import native_executor
from trilens.checkpoints.load import open_model
from trilens.generate.limits import Limits
from trilens.generate.receipt import replay_hash
from trilens.generate.request import Request, TokenWriter
from trilens.generate.sampling import Sampling, Speculates
from trilens.generate.scheduler import Scheduler

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
