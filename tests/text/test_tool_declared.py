"""A `response_template` that a checkpoint brings: the same calls are found as transformers finds with it."""

from __future__ import annotations

import json
from typing import Any

import pytest
from transformers.utils.chat_parsing import parse_response

from trilens.text.events import EndEvent, Event, TextEvent, Whole
from trilens.text.template import ChatTemplate
from trilens.text.tool_calls import CallFinder, model_format
from trilens.text.tool_declared import by_declaration
from trilens.text.tool_formats import ToolFormat

SCHEMA: dict[str, Any] = {
    "type": "object",
    "properties": {"city": {"type": "string"}, "days": {"type": "integer"}, "near": {"type": "array"}},
}
TOOLS = [{"type": "function", "function": {"name": name, "parameters": SCHEMA}} for name in ("look", "find-it")]
WHOLE = {"type": "function", "function": "{content}"}
NAMED = {"type": "function", "function": {"name": "{name}", "arguments": "{content}"}}

# (the field, an answer in its form)
DECLARED: dict[str, tuple[dict[str, Any], str]] = {
    "whole": (
        {"open": "<do>", "close_pattern": r"</do>\s*", "content": "json", "transform": WHOLE},
        'Hm. <do>{"name": "look", "arguments": {"city": "Rome", "days": 3}}</do>\n'
        '<do>{"name": "find-it", "arguments": {"near": ["a"]}}</do>',
    ),
    "paths": (
        {
            "open": "[[",
            "close": "]]",
            "content": "json",
            "transform": {"function": {"name": "{content.tool}", "arguments": "{content.with}"}},
        },
        '[[{"tool": "look", "with": {"city": "[a]"}}]][[{"tool": "find-it", "with": {}}]]',
    ),
    "list": (
        {
            "open": "ACTS ",
            "close_pattern": r"\s*STOP",
            "content": "json",
            "transform_each": True,
            "transform": {"function": {"name": "{tool}", "arguments": "{with}"}},
        },
        'ACTS [{"tool": "look", "with": {"city": "x"}}, {"tool": "find-it", "with": {"days": 2}}] STOP',
    ),
    "named": (
        {
            "open_pattern": r"@@(?P<name>[\w-]+)\s*:\s*",
            "close_pattern": r"\s*;;\s*",
            "content": "json",
            "transform": NAMED,
        },
        '@@look: {"city": "Oslo"};; @@find-it : {"days": 1}\n;;',
    ),
    "tags": (
        {
            "open_pattern": r"<call>\s*<tool=(?P<name>[^\n>]+)>",
            "close_pattern": r"</call>\s*",
            "content": "xml-inline",
            "content_args": {"tag_pattern": r"<arg=(?P<key>[^>\n]+)>\s*(?P<value>.*?)\s*</arg>"},
            "transform": NAMED,
        },
        "<call>\n<tool=look>\n<arg=city>\nRome <b>\n</arg>\n<arg=days>\n3\n</arg>\n</call>\n"
        "<call><tool=find-it></call>",
    ),
    "python": (
        {
            "open": "<|py|>",
            "close": "<|/py|>",
            "content": "python-call-list",
            "transform_each": True,
            "transform": NAMED | {"function": {"name": "{name}", "arguments": "{arguments}"}},
        },
        "<|py|>[look(city='it\\'s', days=3), find-it(near=[\"a\", 'b'])]<|/py|>",
    ),
    "loose": (
        {
            "open_pattern": r"<\|do>call:(?P<name>[\w-]+)",
            "close_pattern": r"<do\|>\s*",
            "content": "json",
            "content_args": {"string_delims": [["<q>", "<q>"]], "unquoted_keys": True},
            "transform": NAMED,
        },
        '<|do>call:look{city:<q>a, {b}: "c"<q>,days:4}<do|><|do>call:find-it{near:[<q>x<q>]}<do|>',
    ),
}


def template(field: dict[str, Any]) -> dict[str, Any]:
    fields = {"tool_calls": {"repeats": True, **field}, "content": {"content": "text"}}
    if field.get("transform_each"):
        fields["tool_calls"].pop("repeats")
    return {"start_anchor": "<|model|>", "fields": fields}


def read(form: ToolFormat, pieces: list[str]) -> tuple[str, list[tuple[str, Any]]]:
    finder = CallFinder(form, dict.fromkeys(("look", "find-it"), SCHEMA))
    whole = Whole[None]()
    events: list[Event[None]] = [*map(TextEvent, pieces), EndEvent(None)]
    for event in events:
        for one in finder.push(event):
            whole.take(one)
    return whole.text, [(call.name, json.loads(call.arguments)) for call in whole.calls]


@pytest.mark.parametrize("name", DECLARED)
def test_as_transformers_reads_it(name: str) -> None:
    field, said = DECLARED[name]
    form = by_declaration(template(field))
    assert form is not None and form.source == "the response template"
    message = parse_response(said, template(field), prefix="", tools=TOOLS)
    wanted = [(call["function"]["name"], call["function"]["arguments"]) for call in message["tool_calls"]]
    assert len(wanted) == 2
    text, calls = read(form, [said])
    assert calls == wanted and text.strip() == message.get("content", "")
    for at in range(1, len(said)):
        assert read(form, [said[:at], said[at:]]) == (text, calls)
    assert read(form, list(said)) == (text, calls)


def test_a_marker_inside_a_string_ends_nothing() -> None:
    """transformers stops at the first close marker; here a string ends where its quotes end."""
    form = by_declaration(template(DECLARED["whole"][0]))
    assert form is not None
    said = '<do>{"name": "look", "arguments": {"city": "</do>"}}</do>'
    assert read(form, [said]) == ("", [("look", {"city": "</do>"})])


@pytest.mark.parametrize(
    "declared",
    [
        None,
        [],
        {"fields": 3},
        {"fields": {"content": {}}},
        {"fields": {"tool_calls": {}}},
        {"fields": {"tool_calls": {"open_pattern": r"(a+)+(?P<name>\w+)", "content": "json", "transform": NAMED}}},
        {"fields": {"tool_calls": {"open_pattern": r"(?=x)(?P<name>\w+)", "content": "json", "transform": NAMED}}},
        {"fields": {"tool_calls": {"open_pattern": "x" * 5000, "content": "json", "transform": WHOLE}}},
        {"fields": {"tool_calls": {"open_pattern": r"<(?P<name>\w+", "content": "json", "transform": NAMED}}},
        {"fields": {"tool_calls": {"open": "<do>", "content": "kv-lines", "transform": NAMED}}},
        {"fields": {"tool_calls": {"open": "<do>", "content": "json", "transform": {"function": 3}}}},
    ],
)
def test_what_cannot_be_taken_apart_is_left_to_the_template(declared: Any) -> None:
    assert by_declaration(declared) is None


def test_declared_and_shown() -> None:
    """A template that writes calls otherwise than its checkpoint declares: both are read."""
    source = (
        "{% for m in messages %}{{ m.role }}: {{ m.content }}{% for c in m.tool_calls or [] %}<old>"
        "{{ c.function | tojson }}</old>{% endfor %}|{% endfor %}{% if tools %}{% endif %}"
    )
    form = model_format(ChatTemplate(source), template(DECLARED["whole"][0]))
    assert form is not None and form.opening == "<do>"
    for marker in ("do", "old"):
        said = f'<{marker}>{{"name": "look", "arguments": {{"days": 1}}}}</{marker}>'
        assert read(form, [said]) == ("", [("look", {"days": 1})])
