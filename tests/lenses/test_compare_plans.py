"""Plans side by side on one machine: the table, the JSON, the picture."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.command import command as trilens
from trilens.errors import UsageError
from trilens.lenses.costs.forecast import ANSWER
from trilens.lenses.plans.compare_plans import answer_seconds, compare_plans

MODELS = ["qwen3-8b", "qwen3-30b-a3b", "gpt-oss-120b", "llama-3.3-70b-instruct", "gpt-4o"]


def test_the_table_marks_dense_and_routed_and_fits() -> None:
    made = compare_plans(MODELS, context=4096, machine="h100x2", thinking="on", offline=True)
    assert [(p.model, p.backbone) for p in made.plans][1:3] == [("qwen3-30b-a3b", "routed"), ("gpt-oss-120b", "routed")]
    assert "gpt-4o" in made.unknown
    for width in (50, 80, 140):
        text = made.as_text(width)
        assert max(map(len, text.splitlines())) <= width
        assert (
            "# routed" in text and "o dense" in text and "gpt-4o: its sizes are not published" in " ".join(text.split())
        )


def test_thinking_multiplies_the_time_to_an_answer() -> None:
    plain, thinks = (
        compare_plans(["qwen3-8b"], context=100, machine="h100", thinking=word, offline=True).plans[0]
        for word in ("off", "on")
    )
    before, after = answer_seconds(plain), answer_seconds(thinks)
    assert before is not None and after is not None and plain.forecast is not None and thinks.length is not None
    assert before.p50 == pytest.approx(ANSWER * plain.forecast.token.p50)
    assert after.p50 == pytest.approx(before.p50 * thinks.length.multiplier.p50)


def test_a_model_that_never_thinks_is_compared_without() -> None:
    [made] = compare_plans(["llama-3.3-70b-instruct"], context=100, machine="h100x4", thinking="on", offline=True).plans
    assert made.length is None


def test_json_and_picture(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    options = ["--machine", "h100x2", "--thinking", "on", "--offline", "--plot", str(tmp_path / "a.svg"), "--json"]
    done = trilens("compare", *MODELS, *options)
    first, *_, last = json.loads(done.stdout)
    assert done.returncode == 0, done.stderr
    assert first["model"] == "qwen3-8b" and first["seconds_to_answer"]["p10"] < first["seconds_to_answer"]["p90"]
    assert last["model"] == "gpt-4o" and "unknown" in last
    picture = (tmp_path / "a.svg").read_text()
    assert all(name in picture for name in ("qwen3-8b", "after thinking", "routed"))


def test_what_needs_a_machine_says_so() -> None:
    done = trilens("compare", "qwen3-8b", "--thinking", "on", "--offline")
    assert done.returncode == 2 and "--machine" in done.stderr and len(done.stderr.splitlines()) == 1


def test_nothing_to_compare() -> None:
    with pytest.raises(UsageError, match="nothing to compare"):
        compare_plans([], context=100, machine="h100")
