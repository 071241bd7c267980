"""The form of a model's calls, read from its chat template by difference: templates that nobody has seen before."""

from __future__ import annotations

import json
import time
from typing import Any

import pytest

from tests.grids import in_turn
from tests.text.invented_templates import CALLS, invented
from trilens.text.events import EndEvent, Event, TextEvent, Whole
from trilens.text.template import ChatTemplate
from trilens.text.tool_calls import CallFinder, model_format
from trilens.text.tool_difference import by_difference
from trilens.text.tool_formats import ToolFormat

SCHEMA: dict[str, Any] = {
    "type": "object",
    "properties": {
        "city": {"type": "string"},
        "days": {"type": "integer"},
        "share": {"type": "number"},
        "warm": {"type": "boolean"},
        "near": {"type": "array", "items": {"type": "string"}},
        "more": {"type": "object"},
    },
}
NAMES = ("get_weather", "find_hotel")
TOOLS = [{"type": "function", "function": {"name": name, "description": "", "parameters": SCHEMA}} for name in NAMES]
ARGUMENTS: list[tuple[dict[str, Any], dict[str, Any]]] = [
    ({"city": "Rome", "days": 3}, {"city": "Oslo"}),
    ({"city": 'a "quoted" \\ one, it\'s', "warm": True}, {"share": -2.5, "days": -4, "warm": False}),
    ({"city": "São Tomé\n  two lines", "near": ["a", "b, c"]}, {"more": {"deep": [1, {"x": None}]}}),
    ({"city": "1"}, {"city": "true", "near": []}),
    ({"city": "a < b && c > [d] {e}"}, {"city": "<</acts> [[DONE «/py @@s </cit> )"}),
]


def read(form: ToolFormat, pieces: list[str]) -> tuple[str, list[tuple[str, Any]]]:
    finder = CallFinder(form, dict.fromkeys(NAMES, SCHEMA))
    whole = Whole[None]()
    events: list[Event[None]] = [*map(TextEvent, pieces), EndEvent(None)]
    for event in events:
        for one in finder.push(event):
            whole.take(one)
    assert whole.end.reason == ("tool_calls" if whole.calls else "stop")
    return whole.text, [(call.name, json.loads(call.arguments)) for call in whole.calls]


def written(name: str, arguments: tuple[dict[str, Any], ...], said: str = "") -> str:
    """An assistant's turn in the words of the template, without what stands around all turns."""
    calls = [
        {"id": f"call0000{i}", "type": "function", "function": {"name": NAMES[i], "arguments": one}}
        for i, one in enumerate(arguments)
    ]
    turns = [{"role": "user", "content": "?"}, {"role": "assistant", "content": said, "tool_calls": calls}]
    text = invented(name).render(turns, tools=TOOLS, add_generation_prompt=False)
    return text[text.index("«model» ") + len("«model» ") : text.rindex(" «end»")]


@pytest.mark.parametrize(("name", "arguments"), in_turn(CALLS, ARGUMENTS, 2))
def test_calls_are_found_wherever_they_are_cut(name: str, arguments: tuple[dict[str, Any], dict[str, Any]]) -> None:
    form = by_difference(invented(name))
    assert form is not None
    for count in (1, 2):
        wanted = list(zip(NAMES, arguments, strict=True))[:count]
        for said in ("", "I look."):
            text = written(name, arguments[:count], said)
            assert read(form, [text]) == (said, wanted)
            assert read(form, list(text)) == (said, wanted)
            for at in range(1, len(text)):
                assert read(form, [text[:at], text[at:]]) == (said, wanted)


@pytest.mark.parametrize("name", CALLS)
def test_what_is_no_call_stays_text(name: str) -> None:
    """A tool that was not offered, and every beginning of a call that never says which tool it is for."""
    form = by_difference(invented(name))
    assert form is not None
    text = written(name, ARGUMENTS[0])
    unknown = text.replace(NAMES[0], "another_tool")
    assert read(form, [unknown])[0].count("another_tool") == 1
    named = text.index(NAMES[0]) + (0 if name != "json" else len(NAMES[0]))
    for at in range(1, named):
        assert read(form, list(text[:at])) == (text[:at], [])
        assert read(form, [text[:at], " and so on"]) == (text[:at] + " and so on", [])


@pytest.mark.parametrize("name", CALLS)
def test_a_call_is_told_as_it_comes(name: str) -> None:
    """The arguments so far are there before the call has ended."""
    form = by_difference(invented(name))
    assert form is not None
    text = written(name, ({"city": "a long text without an end"},))
    finder = CallFinder(form, dict.fromkeys(NAMES, SCHEMA))
    whole = Whole[None]()
    for event in finder.push(TextEvent(text[: text.index("without")])):
        whole.take(event)
    if name == "json":  # its name comes behind its arguments
        assert whole.calls == []
    else:
        [call] = whole.calls
        assert call.arguments == '{"city": "a long text ' or call.arguments == '{"city": "a long text'


def test_no_tools_no_form() -> None:
    assert model_format(None) is None
    assert model_format(ChatTemplate("{{ messages[0].content }}")) is None


@pytest.mark.parametrize("filler", ["{", "0 1 2 ", "<a>", "\n", '{"a": ', "1"])
def test_a_template_that_writes_very_much_is_soon_given_up(filler: str) -> None:
    """Within the seconds that its renderings may take, and a few more."""
    source = (
        "{% for m in messages %}{{ m.content }}{% for c in m.tool_calls or [] %}"
        + "{{ " + repr(filler) + " * COUNT }}{{ c.function | tojson }}{% endfor %}{% endfor %}{% if tools %}{% endif %}"
    )  # fmt: skip
    began = time.process_time()
    for count in (3000 // len(filler), 400_000):
        model_format(ChatTemplate(source.replace("COUNT", str(count))))
    assert time.process_time() - began < 20
