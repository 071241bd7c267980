"""Tools in the library: functions in, calls out, whole and as they come, and the next turn of the conversation."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any, Literal

import pytest

import trilens
from trilens.generate.tool_grammar import forced_call

ASK = [{"role": "user", "content": "Which light?"}]


def set_light(room: Literal["kitchen", "cellar"], on: bool) -> str:
    """Switch a light."""
    return f"{room} {on}"


HUM: dict[str, Any] = {"name": "hum", "parameters": {"type": "object", "properties": {"song": {"enum": [1, 2]}}}}


@pytest.fixture(scope="module")
def model() -> trilens.Model:
    loaded = trilens.load("tiny-dense")
    assert isinstance(loaded, trilens.Model)
    return loaded


@pytest.mark.parametrize("thinking", [True, False])
@pytest.mark.parametrize("choice", ["required", "set_light", "hum"])
def test_a_forced_call(model: trilens.Model, choice: str, thinking: bool) -> None:
    answer = model.generate(
        ASK, tools=[set_light, HUM], tool_choice=choice, thinking=thinking, temperature=1.0, seed=3, max_tokens=400
    )
    [call] = answer.calls
    assert answer.text == "" and call.name in ("set_light", "hum") and choice in ("required", call.name)
    if call.name == "set_light":
        arguments = json.loads(call.arguments)
        assert set(arguments) == {"room", "on"} and arguments["room"] in ("kitchen", "cellar")
        assert set_light(**arguments)
    assert answer.message["tool_calls"][0]["function"] == {"name": call.name, "arguments": call.arguments}


def test_the_same_as_it_comes(model: trilens.Model) -> None:
    options: dict[str, Any] = {"tools": [set_light], "tool_choice": "required", "temperature": 0, "max_tokens": 400}
    whole = model.generate(ASK, thinking=False, **options)
    events = list(model.stream(ASK, thinking=False, **options))
    pieces = [event for event in events if isinstance(event, trilens.ToolCallEvent)]
    assert pieces[0].name == "set_light" and len(pieces) > 2
    assert "".join(piece.arguments for piece in pieces) == whole.calls[0].arguments
    assert isinstance(events[-1], trilens.EndEvent) and events[-1].reason == "tool_calls"


def test_the_next_turn(model: trilens.Model) -> None:
    """What was called goes back with its result."""
    first = model.generate(ASK, tools=[set_light], tool_choice="required", thinking=False, max_tokens=400)
    result = {"role": "tool", "tool_call_id": first.calls[0].id, "content": "done"}
    again = model.generate([*ASK, first.message, result], tools=[set_light], max_tokens=5)
    assert again.receipt.tokens.prompt > first.receipt.tokens.prompt


def test_several_prompts(model: trilens.Model) -> None:
    answers = model.generate([ASK, ASK], tools=[set_light], tool_choice="required", thinking=False, max_tokens=400)
    assert [len(answer.calls) for answer in answers] == [1, 1]


def test_offered_and_not_called(model: trilens.Model) -> None:
    answer = model.generate(ASK, tools=[set_light], max_tokens=5, temperature=0)
    assert answer.calls == () and "tool_calls" not in answer.message


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"tool_choice": "required"}, "tool_choice is 'required'"),
        ({"tools": [HUM], "tool_choice": "other"}, "expected one of auto, required, hum"),
        ({"tools": "hum"}, "tools is 'hum'; expected a list"),
        ({"tools": [HUM], "tool_choice": "hum", "schema": {}}, "both determine the form of the answer"),
    ],
)
def test_what_cannot_be_is_refused(model: trilens.Model, options: dict[str, Any], said: str) -> None:
    with pytest.raises(trilens.RequestRefused, match=said):
        model.generate(ASK, **options)


def test_control_tokens_of_a_call_reach_the_reader(model: trilens.Model) -> None:
    """A form whose markers are control tokens: the calls are found, and nothing of the markers is left."""
    from tests.text.invented_templates import special_form

    form = special_form(model.text.tokenizer)
    text = model.text
    vars(text)["tool_format"] = form
    for name in ("shown",):
        vars(text).pop(name, None)
    try:
        assert forced_call(model.grammars, text.tokenizer, form, {"hum": HUM["parameters"]})
        answer = model.generate(ASK, tools=[HUM], tool_choice="hum", thinking=False, max_tokens=100)
        assert [call.name for call in answer.calls] == ["hum"] and answer.text == ""
    finally:
        for name in ("shown", "tool_format"):
            vars(text).pop(name, None)


def test_the_example_of_the_page(capsys: pytest.CaptureFixture[str]) -> None:
    page = (Path(__file__).parents[1] / "docs" / "tools.md").read_text(encoding="utf-8")
    [source] = re.findall(r"```python\n(.*?)```", page, re.DOTALL)
    found: dict[str, Any] = {}
    exec(compile(source, "docs/tools.md", "exec"), found)
    assert found["call"].name == "set_light" and json.loads(found["call"].arguments).keys() == {"room", "on"}
    assert capsys.readouterr().out == f"set_light {found['call'].arguments}"
