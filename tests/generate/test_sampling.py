"""Sampling: each option against its definition, and the same seed the same tokens."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from trilens.errors import RequestRefused
from trilens.executors.native.extension import _native
from trilens.generate.sampling import Sampler, Sampling

uniform = _native.uniform

LOGITS = np.log(np.array([0.05, 0.4, 0.3, 0.2, 0.05], dtype=np.float32))


def drawn(n: int = 4000, prompt: list[int] | None = None, **options: Any) -> np.ndarray:
    """Shares of the tokens over n first draws, each with its own seed."""
    options = {"temperature": 1.0, "top_p": 1.0, **options}
    tokens = [Sampler(Sampling(**options, seed=s), prompt or []).choose(LOGITS) for s in range(n)]
    return np.bincount(tokens, minlength=5) / n


def test_greedy_takes_the_likeliest_and_the_lowest_of_equals() -> None:
    sampler = Sampler(Sampling(temperature=0), [])
    assert sampler.choose(LOGITS) == 1
    assert sampler.choose(np.array([1.0, 3.0, 3.0], dtype=np.float32)) == 1


def test_shares_follow_the_softmax() -> None:
    assert np.allclose(drawn(), np.exp(LOGITS), atol=0.025)


def test_temperature_sharpens() -> None:
    sharp = np.exp(2 * LOGITS) / np.exp(2 * LOGITS).sum()
    assert np.allclose(drawn(temperature=0.5), sharp, atol=0.025)


def test_top_k_keeps_k() -> None:
    assert (drawn(200, top_k=2) > 0).tolist() == [False, True, True, False, False]


@pytest.mark.parametrize(("p", "kept"), [(0.39, 1), (0.5, 2), (0.69, 2), (0.75, 3), (0.97, 5)])
def test_top_p_keeps_the_fewest_that_reach_it(p: float, kept: int) -> None:
    assert (drawn(1500, top_p=p) > 0).sum() == kept


def test_min_p_is_relative_to_the_likeliest() -> None:
    assert (drawn(500, min_p=0.6) > 0).tolist() == [False, True, True, False, False]


@pytest.mark.parametrize("temperature", [0.3, 1.0, 30.0])
@pytest.mark.parametrize(
    "options", [{}, {"top_p": 0.9}, {"top_k": 300}, {"min_p": 0.01}, {"top_p": 0.999, "min_p": 1e-4, "top_k": 5000}]
)
def test_a_draw_is_what_sorting_the_whole_vocabulary_gives(temperature: float, options: dict[str, Any]) -> None:
    """Also where the 256 likeliest are not enough, and where many logits are equal."""
    chance = np.random.default_rng(7)
    logits = np.round(chance.standard_normal(9000).astype(np.float32) * 3, 1)
    o = Sampling(**{"temperature": temperature, "top_p": 1.0, **options})
    order = np.lexsort((np.arange(9000), -logits))[: o.top_k or 9000]
    shares = np.exp((logits[order] - logits.max()) / np.float64(temperature))
    kept = shares[: np.searchsorted(shares.cumsum(), o.top_p * shares.sum()) + 1] if o.top_p < 1 else shares
    kept = kept[kept >= o.min_p]
    for seed in range(60):
        expected = order[np.searchsorted(kept.cumsum(), uniform(seed, 0) * kept.sum(), side="right")]
        sampler = Sampler(Sampling(**{"temperature": temperature, "top_p": 1.0, **options, "seed": seed}), [])
        assert sampler.choose(logits) == expected


def test_penalties() -> None:
    logits = np.array([2.0, 1.9, -1.0], dtype=np.float32)
    once = Sampler(Sampling(temperature=0, presence_penalty=0.5), [])
    assert [once.choose(logits) for _ in range(4)] == [0, 1, 0, 0]
    often = Sampler(Sampling(temperature=0, frequency_penalty=0.2), [])
    assert [often.choose(logits) for _ in range(4)] == [0, 1, 0, 1]
    repeated = Sampler(Sampling(temperature=0, repetition_penalty=1.2), [0])
    assert repeated.choose(logits) == 1
    assert logits.tolist() == pytest.approx([2.0, 1.9, -1.0])


def test_the_exponential_is_right_to_the_last_bits() -> None:
    x = -np.concatenate((np.linspace(0, 40, 20001), np.geomspace(1e-12, 699, 5000)))
    ours = np.array([_native.exp_negative(v) for v in x])
    assert np.abs(ours / np.exp(x) - 1).max() < 5e-16
    assert _native.exp_negative(-701.0) == 0.0 and _native.exp_negative(0.0) == 1.0


def test_bias_and_what_is_allowed() -> None:
    assert Sampler(Sampling(temperature=0, logit_bias={4: 9.0}), []).choose(LOGITS) == 4
    assert Sampler(Sampling(temperature=0, logit_bias={1: -100.0, 77: 5.0}), []).choose(LOGITS) == 2
    for options in ({"temperature": 0.0}, {"temperature": 5.0, "top_p": 1.0}):
        sampler = Sampler(Sampling(**options), [])
        sampler.allow(np.array([0b11001], np.uint32))
        assert {sampler.choose(LOGITS) for _ in range(100)} <= {0, 3, 4}
    sampler.allow(np.array([0], np.uint32))
    with pytest.raises(RequestRefused, match="no token is allowed next"):
        sampler.choose(LOGITS)


def test_logits_that_are_no_numbers_are_refused() -> None:
    bad = np.full(5, np.nan, np.float32)
    for temperature in (0.0, 1.0):
        with pytest.raises(RequestRefused, match="the model's logits are no numbers"):
            Sampler(Sampling(temperature=temperature), []).choose(bad)
    some = np.array([np.nan, 1.0, -np.inf], np.float32)
    assert {Sampler(Sampling(seed=s), []).choose(some) for s in range(20)} == {1}


def test_log_probabilities_are_the_models_own() -> None:
    sampler = Sampler(Sampling(temperature=0, logit_bias={4: 9.0}, logprobs=2), [])
    assert sampler.choose(LOGITS) == 4
    tokens, values = zip(*sampler.take_report(), strict=True)
    assert tokens == (4, 1, 2)
    assert np.allclose(values, np.log([0.05, 0.4, 0.3]), atol=1e-6)
    assert Sampler(Sampling(), []).take_report() == []


def test_a_seed_gives_the_same_tokens_and_another_seed_others() -> None:
    def tokens(seed: int) -> list[int]:
        sampler = Sampler(Sampling(temperature=1.0, top_p=1.0, seed=seed), [])
        return [sampler.choose(LOGITS) for _ in range(50)]

    assert tokens(7) == tokens(7) != tokens(8)


def test_the_random_numbers_are_spread_evenly_and_pinned() -> None:
    numbers = np.array([uniform(3, n) for n in range(20000)])
    assert 0 <= numbers.min() < numbers.max() < 1
    assert np.allclose(np.histogram(numbers, 10, (0, 1))[0] / 20000, 0.1, atol=0.01)
    # splitmix64 from state 0 starts with 0xE220A8397B1DCDAF: the reference sequence of its author
    assert uniform(0, 0) == (0xE220A8397B1DCDAF >> 11) / 2**53


@pytest.mark.parametrize(
    "options",
    [
        {"temperature": -0.1},
        {"temperature": float("nan")},
        {"temperature": "hot"},
        {"top_p": 0.0},
        {"top_p": 1.1},
        {"top_k": -1},
        {"min_p": 2},
        {"repetition_penalty": 0},
        {"seed": -1},
        {"seed": 1.5},
        {"logprobs": 21},
        {"logit_bias": {0: 101.0}},
        {"logit_bias": {-1: 1.0}},
    ],
)
def test_options_out_of_range_are_refused_by_name(options: dict[str, Any]) -> None:
    with pytest.raises(RequestRefused, match=next(iter(options))):
        Sampling(**options)
