"""The switch on whole models: the two that come with trilens, and the same weights under other templates."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import trilens
from trilens.checkpoints.find import find
from trilens.errors import ContextFull, RequestRefused
from trilens.model import Answer, Model
from trilens.text.events import EndEvent, TextEvent, ThinkingEvent

QUESTION = "What is 47 times 86?"
SOURCES = Path(trilens.__file__).parent


@pytest.fixture(scope="module", params=["tiny-dense", "tiny-routed"])
def model(request: pytest.FixtureRequest) -> Model:
    return trilens.load(request.param)


@pytest.fixture
def under_template(tmp_path: Path) -> Callable[[str], Model]:
    """The same weights with another end of the chat template."""

    def make(end: str) -> Model:
        folder = tmp_path / "model"
        shutil.copytree(find("tiny-dense").path, folder)
        path = folder / "tokenizer_config.json"
        config = json.loads(path.read_text("utf-8"))
        head = config["chat_template"].split("{%- if add_generation_prompt %}")[0]
        config["chat_template"] = (
            head + "{%- if add_generation_prompt %}{{- '<|im_start|>assistant\\n" + end + "' }}{%- endif %}"
        )
        path.write_text(json.dumps(config), "utf-8")
        return trilens.load(str(folder))

    return make


def checked(answer: Answer) -> Answer:
    """What holds for every answer."""
    t, report = answer.receipt.tokens, answer.receipt.thinking
    assert t.thinking + t.answer + t.control == t.completion
    assert report.thought == (t.thinking > 0) == bool(answer.thinking)
    steps = answer.receipt.work
    assert t.prompt <= steps.prefill.tokens + t.cached <= t.prompt + t.control
    fed = steps.prefill.tokens + steps.decode.tokens + t.cached
    assert t.prompt + t.completion - fed in (0, 1)  # what is drawn last is never fed
    assert "<think>" not in answer.text + answer.thinking and "</think>" not in answer.text + answer.thinking
    return answer


@pytest.mark.parametrize("prompt", [QUESTION, "Add 3 and 4.", 'Count the letter "a" in the word "banana".'])
def test_on_and_off_on_the_same_weights(model: Model, prompt: str) -> None:
    off = checked(trilens.call_model(model, prompt, thinking=False, temperature=0))
    on = checked(trilens.call_model(model, prompt, thinking=True, temperature=0))
    left_out = checked(trilens.call_model(model, prompt, temperature=0))
    assert (off.thinking, off.receipt.thinking.effective, off.receipt.thinking.closed_by) == ("", "off", None)
    assert on.thinking and on.receipt.thinking.closed_by == "model"
    assert left_out.text == off.text and left_out.receipt.thinking.requested == "off-or-least"
    assert on.receipt.work.decode.flops > 2 * off.receipt.work.decode.flops
    assert not off.receipt.thinking.unasked


@pytest.mark.parametrize("budget", [0, 1, 8, 64, 500])
def test_a_budget_is_kept_and_the_answer_is_there(model: Model, budget: int) -> None:
    answer = checked(model.generate(QUESTION, thinking=budget, temperature=0, max_tokens=20))
    assert answer.receipt.tokens.thinking <= budget
    assert answer.text.strip() and answer.receipt.finish == "stop"
    expected = {0: None, 500: "model"}.get(budget, "budget")
    assert answer.receipt.thinking.closed_by == expected
    assert answer.receipt.thinking.budget == (budget or None)


def test_a_thinking_that_is_cut_short_goes_on_from_the_same_tokens(model: Model) -> None:
    whole = model.generate(QUESTION, thinking=True, temperature=0)
    cut = model.generate(QUESTION, thinking=20, temperature=0)
    assert whole.thinking.startswith(cut.thinking) and len(cut.thinking) < len(whole.thinking)


def test_the_stream_is_the_answer_in_pieces(model: Model) -> None:
    whole = model.generate(QUESTION, thinking=True, temperature=0)
    events = list(model.stream(QUESTION, thinking=True, temperature=0))
    kinds = [type(e) for e in events]
    assert kinds == sorted(kinds, key=[ThinkingEvent, TextEvent, EndEvent].index)
    assert "".join(e.text for e in events if isinstance(e, ThinkingEvent)) == whole.thinking
    assert "".join(e.text for e in events if isinstance(e, TextEvent)) == whole.text


def test_the_caller_ends_a_running_thinking(model: Model) -> None:
    stream, thoughts, text = model.stream(QUESTION, thinking=True, temperature=0), 0, ""
    for event in stream:
        match event:
            case ThinkingEvent():
                thoughts += 1
                if thoughts == 5:
                    assert stream.thinking
                    stream.answer_now()
            case TextEvent(piece):
                text += piece
            case EndEvent(receipt):
                assert receipt.thinking.closed_by == "caller"
                assert 5 <= receipt.tokens.thinking <= 7
    assert text.strip() and not stream.thinking


def test_several_prompts_think_side_by_side(model: Model) -> None:
    prompts = [QUESTION, "Add 3 and 4.", "What is 52 minus 17?"]
    alone = [model.generate(p, thinking=True, temperature=0) for p in prompts]
    together = model.generate(prompts, thinking=True, temperature=0)
    assert [(a.text, a.thinking) for a in together] == [(a.text, a.thinking) for a in alone]


def test_history_drops_old_thoughts_by_the_templates_rule(model: Model) -> None:
    first = model.generate("Add 3 and 4.", thinking=True, temperature=0)
    assert set(first.message) == {"role", "content", "thinking"}
    ask = [{"role": "user", "content": "Add 3 and 4."}]
    follow = [*ask, first.message, {"role": "user", "content": "Add 5 and 4."}]
    bare = [*ask, {"role": "assistant", "content": first.text}, {"role": "user", "content": "Add 5 and 4."}]
    with_thoughts, without = (model.generate(m, thinking=False, temperature=0) for m in (follow, bare))
    assert with_thoughts.receipt.tokens.prompt == without.receipt.tokens.prompt
    going_on = [*ask, first.message]
    assert (
        model.generate(going_on, thinking=False, temperature=0).receipt.tokens.prompt
        > model.generate(bare[:2], thinking=False, temperature=0).receipt.tokens.prompt
    )


def test_what_cannot_be_done_costs_nothing(model: Model) -> None:
    for thinking, says in (("high", "no levels"), (-1, "from 0"), ("zebra", "expected True, False")):
        with pytest.raises(RequestRefused, match=says):
            model.stream(QUESTION, thinking=thinking)
    with pytest.raises(RequestRefused, match="a raw prompt contains its own setting"):
        model.stream(QUESTION, thinking=True, raw=True)
    with pytest.raises(ContextFull, match="and a thinking budget of 3000 do not fit"):
        model.stream(QUESTION, thinking=3000)


def test_a_raw_prompt_is_left_whole(model: Model) -> None:
    prompt = "<|im_start|>user\nAdd 3 and 4.<|im_end|>\n<|im_start|>assistant\n"
    answer = model.generate(prompt, raw=True, temperature=0, max_tokens=5)
    assert answer.thinking == "" and 0 < answer.receipt.tokens.completion <= 5
    assert answer.receipt.tokens.thinking == 0 and answer.receipt.thinking.effective == "unknown"


def test_a_prompt_that_opens_the_thinking(under_template: Callable[[str], Model]) -> None:
    """The output has only the close marker, as of models that always think."""
    model = under_template("<think>\\n")
    assert model.text.inference.kind == "always"
    answer = checked(model.generate(QUESTION, temperature=0))
    assert answer.thinking and answer.text.strip() and answer.receipt.thinking.closed_by == "model"
    none = checked(model.generate(QUESTION, thinking=0, temperature=0))
    assert (none.receipt.tokens.thinking, none.receipt.thinking.closed_by) == (0, "budget")
    assert none.text.strip()
    with pytest.raises(RequestRefused, match="this model always thinks: thinking=False is not possible"):
        model.stream(QUESTION, thinking=False)
    least = checked(trilens.call_model(model, QUESTION, temperature=0))
    assert (least.receipt.thinking.requested, least.receipt.thinking.effective) == ("off-or-least", "on")


def test_no_room_that_knows_the_wiring() -> None:
    """One code path: the rooms that run a call never ask which backbone it is (one tokenizer's name has the word)."""
    rooms = ["text", "generate", "hosted", "serve"]
    files = [SOURCES / "model.py", *(f for room in rooms for f in (SOURCES / room).rglob("*.py"))]
    assert len(files) > 15
    for file in files:
        found = re.search(r"\b(?<!hunyuan-)(dense|routed)\b", file.read_text("utf-8"), re.IGNORECASE)
        assert found is None, f"{file.name}: {found}"


def test_combos_are_four_and_add_up() -> None:
    from trilens.trials.combos import as_dicts, combine

    rows: list[dict[str, Any]] = as_dicts(combine(24))
    assert [(r["backbone"], r["thinking"]) for r in rows] == [
        ("dense", False),
        ("dense", True),
        ("routed", False),
        ("routed", True),
    ]
    for row in rows:
        assert row["asked"] == 24 and 0 <= row["correct"] <= 24
        assert (row["thinking_tokens"] > 0) == row["thinking"]
    assert rows[1]["correct"] > rows[0]["correct"] and rows[3]["correct"] > rows[2]["correct"]
    assert rows[0]["parameters"]["total"] == rows[0]["parameters"]["active"]
    assert rows[2]["parameters"]["total"] > 2 * rows[2]["parameters"]["active"]
