"""Tools that are offered: calls are found in an answer wherever its text is cut, and go out as each protocol has them.
(Forced ones: the tests of the two clients.)"""

from __future__ import annotations

import json
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import anthropic
import openai
import pytest

from tests.serve.conftest import Served, served
from trilens.generate.answer import Constraint
from trilens.model import Model
from trilens.serve.tools import Tool, ToolUse, tool_use
from trilens.text.events import EndEvent, Event, TextEvent, Whole
from trilens.text.tool_table import HERMES

CITY = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}
TOOLS = [Tool("weather", "", CITY), Tool("time", "", CITY)]
ONE = '<tool_call>\n{"name": "weather", "arguments": {"city": "Rome"}}\n</tool_call>'
TWO = '<tool_call>{"name": "time", "parameters": {"city": "Oslo"}}</tool_call>'
SAID = f"I look. {ONE}\n{TWO}"
MODEL: Any = SimpleNamespace(text=SimpleNamespace(tool_format=HERMES))


def found(pieces: list[str], use: ToolUse | None = None) -> tuple[str, list[tuple[str, Any]]]:
    finder = (tool_use(TOOLS, "auto") if use is None else use).finder(0, MODEL)
    whole = Whole[None]()
    events: list[Event[None]] = [*map(TextEvent, pieces), EndEvent(None)]
    for event in events:
        for one in finder.push(event):
            whole.take(one)
    assert whole.end.reason == ("tool_calls" if whole.calls else "stop")
    return whole.text, [(call.name, json.loads(call.arguments)) for call in whole.calls]


BOTH = [("weather", {"city": "Rome"}), ("time", {"city": "Oslo"})]


def test_every_split_point() -> None:
    assert found([SAID]) == found(list(SAID)) == ("I look. ", BOTH)
    for at in range(1, len(SAID)):
        assert found([SAID[:at], SAID[at:]]) == ("I look. ", BOTH)


@pytest.mark.parametrize(
    "text",
    [
        "<tool_call>{broken</tool_call>",
        '<tool_call>{"name": "unknown", "arguments": {}}</tool_call>',
        "<tool_call>[1]</tool_call>",
        '<tool_call>{"name": ["weather"]}</tool_call>',
        '<tool_call>{"arguments": {}}</tool_call>',
        "<tool_ca",
        "<tool_call>" + "[" * 100_000 + "</tool_call>",
    ],
)
def test_what_is_no_call_is_text(text: str) -> None:
    assert found([text]) == found([*text[:99], text[99:]]) == (text, [])


def test_a_call_whose_close_marker_never_came() -> None:
    assert found([ONE.removesuffix("\n</tool_call>")]) == ("", BOTH[:1])


def test_without_tools_nothing_is_looked_for() -> None:
    assert found(list(SAID), ToolUse()) == (SAID, [])


@pytest.fixture
def calling(monkeypatch: pytest.MonkeyPatch) -> Iterator[Served]:
    """A server whose models say SAID: a small model would rather not."""

    def says(use: ToolUse, model: Model, *_: object) -> Constraint:
        grammars = model.grammars
        return grammars._constraint(grammars._llguidance.LLMatcher.grammar_from_lark(f"start: {json.dumps(SAID)}"))

    monkeypatch.setattr(ToolUse, "constraint", says)
    with served(["tiny-dense"]) as running:
        yield running


ASK: list[Any] = [{"role": "user", "content": "What is the weather in Rome?"}]


@pytest.mark.parametrize("thinking", [True, False])
def test_openai(calling: Served, thinking: bool) -> None:
    functions = [{"name": t.name, "description": "", "parameters": dict(t.parameters)} for t in TOOLS]
    options: dict[str, Any] = {"model": "tiny-dense", "messages": ASK, "extra_body": {"thinking": thinking}}
    options["tools"] = [{"type": "function", "function": function} for function in functions]
    with openai.OpenAI(base_url=f"{calling.url}/v1", api_key="none", max_retries=0) as client:
        whole = client.chat.completions.create(**options)
        with client.chat.completions.stream(**options) as stream:
            streamed = stream.get_final_completion()
        items = client.responses.create(
            model="tiny-dense", input=ASK[0]["content"], tools=[{"type": "function", **f} for f in functions]
        ).output
    for made in (whole, streamed):
        [choice] = made.choices
        assert choice.finish_reason == "tool_calls" and choice.message.content == "I look. "
        calls = [(c.function.name, json.loads(c.function.arguments)) for c in choice.message.tool_calls]
        assert calls == BOTH
    assert [(i.name, json.loads(i.arguments)) for i in items if i.type == "function_call"] == BOTH


def test_anthropic(calling: Served) -> None:
    tools: list[Any] = [{"name": t.name, "input_schema": dict(t.parameters)} for t in TOOLS]
    options: dict[str, Any] = {"model": "tiny-dense", "messages": ASK, "max_tokens": 900, "tools": tools}
    with anthropic.Anthropic(base_url=calling.url, api_key="none", max_retries=0) as client:
        whole = client.messages.create(**options)
        with client.messages.stream(**options) as stream:
            streamed = stream.get_final_message()
    for made in (whole, streamed):
        assert made.stop_reason == "tool_use"
        assert [(b.name, b.input) for b in made.content if b.type == "tool_use"] == BOTH
        assert "".join(b.text for b in made.content if b.type == "text") == "I look. "
