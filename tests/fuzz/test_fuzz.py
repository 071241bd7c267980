"""A short run of the fuzzer: the corpus again, 200 inputs a target from a fixed seed, and that failures are noticed."""

from __future__ import annotations

import random
from pathlib import Path

import pytest
from fuzz.run import fuzz, save
from fuzz.targets import OWN, TARGETS, Target
from fuzz.worker import ROOT

FRESH = 200
CORPUS = ROOT / "fuzz" / "corpus"
# Inputs of the corpus that still fail, and why: "target/file" -> reason. Whoever mends one takes it out.
KNOWN: dict[str, str] = {
    "config/crash-no-routed-layer": "AssertionError: prediction layers stated, and no routed layer to copy",
    "config/crash-yarn-beta-below-zero": "ValueError: a logarithm of a negative yarn beta",
    "params/crash-rope-theta-one": "ZeroDivisionError: yarn with a theta of 1",
    "gguf/crash-rope-theta-one.xz": "ZeroDivisionError: yarn with a theta of 1",
    "tekken/crash-rank-infinite": "OverflowError: a rank that is no whole number",
    "tiktoken/crash-token-of-600000-bytes.xz": "a hang: one long token is cut into its parts in quadratic time",
    "tokenizer-model/crash-piece-of-200000-bytes.xz": "a signal: the library's tree of pieces is freed recursively",
    "http-chat/crash-lone-surrogate-field": "UnicodeEncodeError: a field's name cannot be said in UTF-8",
    "http-completions/crash-lone-surrogate-field": "UnicodeEncodeError: a field's name cannot be said in UTF-8",
    "http-responses/crash-lone-surrogate-field": "UnicodeEncodeError: a field's name cannot be said in UTF-8",
    "http-messages/crash-lone-surrogate-field": "UnicodeEncodeError: a field's name cannot be said in UTF-8",
    "http-count/crash-lone-surrogate-field": "UnicodeEncodeError: a field's name cannot be said in UTF-8",
    "http-chat/crash-lone-surrogate-schema": "ValueError: the schema cannot be said in UTF-8",
    "http-responses/crash-echoed-not-a-number": "ValueError: NaN in a tool is echoed in the answer",
    "http-responses/crash-nested-tool": "RecursionError: a deeply nested tool",
    "http-count/crash-nested-tool": "RecursionError: a deeply nested tool",
}


def _files(target: str) -> list[Path]:
    return sorted(path for path in (CORPUS / target).glob("*") if path.is_file())


@pytest.mark.parametrize("target", TARGETS.values(), ids=lambda t: t.name)
def test_nothing_fails(target: Target) -> None:
    paths, valid = _files(target.name), len(target.seeds())
    again = fuzz(target.name, inputs=paths)
    failing = {
        f"{target.name}/{path.name}": outcome
        for path, outcome in zip(paths, again.by_input, strict=True)
        if outcome.startswith("failed")
    }
    known = {name for name in KNOWN if name.startswith(f"{target.name}/")}
    assert failing.keys() <= known, failing
    assert known <= failing.keys(), "these do not fail any more; take them out of KNOWN"

    fresh = fuzz(target.name, most=valid + FRESH)
    assert [outcome for outcome in fresh.by_input[:valid] if not outcome.startswith("accepted")] == []
    new = {outcome: failure.text for outcome, failure in fresh.failures.items() if outcome not in failing.values()}
    assert not new, new


def test_the_corpus_is_small() -> None:
    files = [path for path in CORPUS.rglob("*") if path.is_file()]
    assert {path.parent.name for path in files} <= TARGETS.keys()
    assert [path.name for path in files if path.stat().st_size >= 64 << 10] == []
    assert sum(path.stat().st_size for path in files) < 1 << 20


@pytest.mark.parametrize(
    ("data", "outcome"),
    [
        ("", "accepted fine"),
        ("refuse", "refused BadCheckpoint refused"),
        ("raise", "failed ValueError at fuzz/targets.py"),
        ("memory", "failed memory"),
        ("signal", "failed SIGSEGV at fuzz/targets.py"),
        ("hang", "failed hang at fuzz/targets.py"),
    ],
)
def test_failures_are_noticed(data: str, outcome: str, tmp_path: Path) -> None:
    path = tmp_path / "input"
    path.write_text(data)
    tally = fuzz(OWN.name, inputs=[path], limit=1.0)
    assert tally.tried == 1
    assert tally.by_input[0].startswith(outcome)
    assert [failure.data for failure in tally.failures.values()] == ([data.encode()] if "failed" in outcome else [])
    assert [saved.read_text() for saved in save(tally, tmp_path / "found")] == ([data] if "failed" in outcome else [])


def test_a_worker_that_died_costs_one_input(tmp_path: Path) -> None:
    inputs = []
    for number, data in enumerate(["", "signal", "refuse", "signal", ""]):
        inputs.append(tmp_path / str(number))
        inputs[-1].write_text(data)
    words = [outcome.split()[0] for outcome in fuzz(OWN.name, inputs=inputs).by_input]
    assert words == ["accepted", "failed", "refused", "failed", "accepted"]


@pytest.mark.parametrize("target", TARGETS.values(), ids=lambda t: t.name)
def test_a_seed_gives_the_same_inputs_again(target: Target) -> None:
    seeds = target.seeds()
    assert seeds == target.seeds()

    def made(seed: int) -> list[bytes]:
        return [target.mutate(seeds[n % len(seeds)], random.Random(f"{seed}/{n}"), seeds) for n in range(20)]

    assert made(1) == made(1) != made(2)
