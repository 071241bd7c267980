"""The claim that below some size dense wins, computed for a machine; and what a card counts as active."""

from __future__ import annotations

import pytest

import trilens
from trilens.executors.accountant import ParameterCount
from trilens.lenses.machines.target import accelerators
from trilens.lenses.plans.compare import compare
from trilens.lenses.plans.compare_plans import compare_plans
from trilens.lenses.plans.dense_or_routed import BYTES, ENOUGH, Machine, machine_of

DENSE = ["qwen3-8b", "smollm2", "tiny-dense"]
ROUTED = ["qwen3-30b-a3b", "tiny-routed"]


@pytest.mark.parametrize("name", accelerators())
@pytest.mark.parametrize("count", [1, 8])
def test_the_size_up_to_which_dense_wins(name: str, count: int) -> None:
    machine = machine_of(accelerators()[name], count)
    most = machine.dense_up_to
    assert most * BYTES * ENOUGH == pytest.approx(machine.bandwidth)
    roomy = Machine("roomy", 1 << 60, machine.bandwidth)
    for total, wins in ((int(0.99 * most), "dense"), (int(1.01 * most), "routed")):
        weighed = roomy.weigh(ParameterCount(total, total // 10, total // 10))
        assert weighed.wins == wins
        assert weighed.memory_held == pytest.approx(0.9 * total * BYTES) and weighed.compute_saved == pytest.approx(0.9)
        assert weighed.tokens_per_second == pytest.approx(10 * weighed.dense_tokens_per_second, rel=1e-6)
    full = Machine("full", 10, machine.bandwidth).weigh(ParameterCount(total, total // 10, total // 10))
    assert full.wins == "neither" and not full.fits


def test_compare_says_it_for_a_laptop() -> None:
    made = compare([*DENSE, *ROUTED], offline=True)
    assert 30e9 < made.machine.dense_up_to < 35e9  # the lesson's "about 30B"
    text = " ".join(made.as_text(100).split())
    assert "up to 32.4B parameters. Below that size, dense wins" in text
    assert [c["name"] for c in made.as_dict() if "dense_or_routed" in c] == ROUTED
    for card in made.as_dict():
        if "dense_or_routed" in card:
            assert card["dense_or_routed"]["wins"] == "dense"
            assert card["dense_or_routed"]["active"] == card["parameters"]["active"]
    assert "dense wins" not in compare(DENSE, offline=True).as_text()


def test_compare_says_it_for_the_machine_that_is_named() -> None:
    text = " ".join(compare_plans(["qwen3-30b-a3b"], context=100, machine="l4x2", offline=True).as_text(100).split())
    assert "On 2 x NVIDIA L4 (48.0 GB at 600.0 GB/s" in text and "Dense wins here" in text
    text = " ".join(compare_plans(["qwen3-30b-a3b"], context=100, machine="l4", offline=True).as_text(100).split())
    assert "Routed wins here" in text


@pytest.mark.parametrize("name", DENSE)
def test_a_dense_card_reads_100_percent(name: str) -> None:
    made = trilens.card(name, offline=True)
    assert isinstance(made, trilens.Card)
    [line] = [line for line in made.as_text(200).splitlines() if line.lstrip().startswith("parameters")]
    assert line.endswith(": 100.0 %") and line.count(f"{made.parameters.total:,}") == 2
    multiplied = [line for line in made.as_text(200).splitlines() if line.lstrip().startswith("multiplied")]
    p = made.parameters
    assert len(multiplied) == (p.active != p.total)
    assert all(f" {p.active:,} of them" in line and f"{100 * p.active / p.total:.1f} %" in line for line in multiplied)
    counts = made.as_dict()["parameters"]
    assert (counts["active"], counts["active_with_embeddings"]) == (p.active, p.total)
    assert made.as_dict()["dense_lens"]["active_share"] == p.active / p.total


@pytest.mark.parametrize("name", ROUTED)
def test_a_routed_card_counts_tables_whole(name: str) -> None:
    made = trilens.card(name, offline=True)
    assert isinstance(made, trilens.Card)
    p = made.parameters
    assert f"{p.active_with_embeddings:,} active per token" in made.as_text(200)
    assert f"{100 * p.active_with_embeddings / p.total:.1f} %" in made.as_text(200)
