"""A short run of the fuzzer: the corpus, 25 fresh inputs a target from a fixed seed, and that failures are noticed."""

from __future__ import annotations

import random
from pathlib import Path

import pytest
from fuzz.__main__ import HEAD, _page
from fuzz.run import fuzz, save
from fuzz.targets import OWN, TARGETS, Target
from fuzz.worker import ROOT

FRESH = 25
CORPUS = ROOT / "fuzz" / "corpus"


def _files(target: str) -> list[Path]:
    return sorted(path for path in (CORPUS / target).glob("*") if path.is_file())


@pytest.mark.parametrize("target", TARGETS.values(), ids=lambda t: t.name)
def test_nothing_fails(target: Target) -> None:
    paths, valid = _files(target.name), len(target.seeds())
    tally = fuzz(target.name, inputs=paths, more=True, most=len(paths) + valid + FRESH)
    failing = {
        path.name: outcome for path, outcome in zip(paths, tally.by_input, strict=False) if outcome.startswith("failed")
    }
    assert not failing
    fresh = tally.by_input[len(paths) :]
    assert len(fresh) == valid + FRESH
    assert [outcome for outcome in fresh[:valid] if not outcome.startswith("accepted")] == []
    assert not {outcome: failure.text for outcome, failure in tally.failures.items()}


def test_a_page_keeps_the_rows_of_targets_that_did_not_run() -> None:
    text = _page(
        _page("a\n<!-- fuzz -->\n<!-- end -->\nb\n", {"prompts": "| prompts | 1 |", "gguf": "| gguf | 1 |"}), {}
    )
    again = _page(text, {"prompts": "| prompts | 2 |", "config": "| config | 2 |"})
    assert again == f"a\n<!-- fuzz -->\n{HEAD}\n| gguf | 1 |\n| config | 2 |\n| prompts | 2 |\n<!-- end -->\nb\n"


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
    tally = fuzz(OWN.name, inputs=[path], limit=1.0 if data == "hang" else 60.0)
    assert tally.tried == 1
    assert tally.by_input[0].startswith(outcome)
    assert [failure.data for failure in tally.failures.values()] == ([data.encode()] if "failed" in outcome else [])
    assert [saved.read_text() for saved in save(tally, tmp_path / "found")] == ([data] if "failed" in outcome else [])


def test_a_worker_that_sleeps_hangs_and_one_that_was_stopped_does_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("fuzz.run.WAITING", 1.5)
    inputs = []
    for number, data in enumerate(["", "stop", "wait", ""]):
        inputs.append(tmp_path / str(number))
        inputs[-1].write_text(data)
    assert fuzz(OWN.name, inputs=inputs).by_input == [
        "accepted fine",
        "accepted fine",
        "failed hang (it waits) at ?",
        "accepted fine",
    ]


def test_an_extension_without_the_sanitizers_is_refused(tmp_path: Path) -> None:
    from trilens.executors.native import _native

    with pytest.raises(RuntimeError, match="not compiled with the address and undefined-behaviour sanitizers"):
        fuzz(OWN.name, most=1, native=Path(_native.__file__))


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


@pytest.mark.parametrize("target", TARGETS.values(), ids=lambda t: t.name)
def test_damage_can_be_damaged_further(target: Target) -> None:
    pool = target.seeds()[:3]
    draw = random.Random(1)
    for _ in range(150):
        pool.append(target.mutate(draw.choice(pool[-8:]), draw, pool))
    assert len(set(pool)) > 75
