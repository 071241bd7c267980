# ruff: noqa: E501 (answers of models stand on one line)
"""Calls of tools in an answer as it comes, in the forms that real models have: what is found, and what stays text."""

from __future__ import annotations

import itertools
import json
from collections.abc import Sequence
from typing import Any

import pytest

from trilens.text.events import EndEvent, Event, TextEvent, ThinkingEvent, Whole
from trilens.text.thinking import Markers
from trilens.text.thoughts import ThoughtSplitter
from trilens.text.tool_calls import CallFinder
from trilens.text.tool_formats import ID, KEY, NAME, NUMBER, Envelope, Json, Keywords, Loose, Tagged, ToolFormat
from trilens.text.tool_table import HARMONY, HERMES, KIMI_K3

SCHEMA: dict[str, Any] = {
    "type": "object",
    "properties": {
        "city": {"type": "string"},
        "days": {"type": "integer"},
        "warm": {"type": "boolean"},
        "near": {"type": "array", "items": {"type": "string"}},
        "more": {"$ref": "#/$defs/more"},
        "kind": {"enum": ["a", "b"]},
        "least": {"anyOf": [{"type": "number"}, {"type": "null"}]},
    },
    "$defs": {"more": {"type": "object", "properties": {"list": {"type": "array", "items": {"type": "integer"}}}}},
}
TOOLS = {"weather": SCHEMA, "weather_now": SCHEMA, "ping": {"type": "object", "properties": {}}}

CODER = ToolFormat(
    "", "", f"<tool_call>\n<function={NAME}>", Tagged(f"\n<parameter={KEY}", ">\n", "\n</parameter>"),
    "\n</function>\n</tool_call>", "", "\n", "",
)  # fmt: skip
LLAMA = ToolFormat(
    "", "", f'{{"name": "{NAME}", "parameters": ', Json(), "}", "", "", "", Envelope(("name",), ("parameters",)),
    optional=("<|python_tag|>",),
)  # fmt: skip
PYTHONIC = ToolFormat("[", "", f"{NAME}(", Keywords(), ")", "", ", ", "]")
GEMMA = ToolFormat("", "", f"<|tool_call>call:{NAME}", Loose('<|"|>'), "<tool_call|>", "", "", "")
MISTRAL = ToolFormat(
    "[TOOL_CALLS] [", "", f'{{"name": "{NAME}", "arguments": ', Json(), f', "id": "{ID}"}}', "", ", ", "]",
    Envelope(("name",), ("arguments",), ("id",)), short_ids=True,
)  # fmt: skip
KIMI_K2 = ToolFormat(
    "<|calls|>", "", f"<|call|>functions.{NAME}:{NUMBER}<|args|>", Json(), "<|end|>", "", "", "<|/calls|>",
    id=f"functions.{NAME}:{NUMBER}",
)  # fmt: skip
NESTED = ToolFormat(
    "~[<calls>", "", f'~[<invoke name="{NAME}">', Tagged(f"~[<{KEY}", ">", f"~[</{KEY}>", item="item"),
    "~[</invoke>", "", "", "~[</calls>",
)  # fmt: skip


def whole(form: ToolFormat, pieces: Sequence[str], reason: Any = "stop") -> Whole[None]:
    finder = CallFinder(form, TOOLS)
    made = Whole[None]()
    events: list[Event[None]] = [*map(TextEvent, pieces), EndEvent(None, reason=reason)]
    for event in events:
        for one in finder.push(event):
            made.take(one)
    return made


def read(form: ToolFormat, text: str) -> tuple[str, list[tuple[str, str]]]:
    """(text, calls), the same wherever the text is cut."""
    made = whole(form, [text])
    found = made.text, [(call.name, call.arguments) for call in made.calls]
    for pieces in (list(text), *([text[:at], text[at:]] for at in range(1, len(text)))):
        again = whole(form, pieces)
        assert (again.text, [(call.name, call.arguments) for call in again.calls]) == found, pieces
    return found


HM = '{"city": "Rome", "days": 3}'


@pytest.mark.parametrize(
    ("form", "text", "calls"),
    [
        # keys in another order, other white space, both names of the arguments, strings that hold markers
        (HERMES, '<tool_call>{"arguments": {"city": "Rome", "days": 3}, "name": "weather"}</tool_call>', [HM]),
        (HERMES, '<tool_call>\n\n {"name":"weather","parameters":{"city":"Rome","days":3}}\n</tool_call>', [HM]),
        (HERMES, '<tool_call>{"id": [1, {"x": null}], "name": "weather", "arguments": {}}</tool_call>', ["{}"]),
        (HERMES, '<tool_call>{"name": "weather", "arguments": null}</tool_call>', ["{}"]),
        (HERMES, '<tool_call>{"name": "weather"}</tool_call>', ["{}"]),
        (HERMES, '<tool_call>{"name": "weather", "arguments": "{\\"days\\": 1}"}</tool_call>', ['{"days": 1}']),
        (
            HERMES,
            '<tool_call>{"name": "weather", "arguments": {"city": "</tool_call>\\u00e9\\ud83d\\ude00\\/\\n"}}</tool_call>',
            ['{"city": "</tool_call>é😀/\\n"}'],
        ),
        (HERMES, '<tool_call>{"name": "weather", "arguments": {"city": "a\nb"}}', ['{"city": "a\\nb"}']),
        (HERMES, "<tool_call>{'name': 'weather', 'arguments': {'warm': True, 'x': None}}", ['{"warm": true, "x": null}']),
        # tags: types by the schema, a missing outer marker, missing line ends, a close tag inside a value
        (CODER, "<tool_call>\n<function=weather>\n<parameter=city>\nRome\n</parameter>\n<parameter=days>\n3\n"
                "</parameter>\n</function>\n</tool_call>", [HM]),
        (CODER, "<function=weather><parameter=city>Rome</parameter><parameter=days>3</parameter></function>", [HM]),
        (CODER, "<function=ping>\n</function>\n</tool_call>", ["{}"]),
        (CODER, "<function=weather><parameter=city>\n\n  a</parameter>b\n\n</parameter></function>",
                ['{"city": "\\n  a</parameter>b\\n"}']),
        (CODER, "<function=weather><parameter=warm>True</parameter><parameter=near>['a', \"b\"]</parameter>"
                "<parameter=kind>b</parameter><parameter=least>None</parameter><parameter=days>4.0</parameter></function>",
                ['{"warm": true, "near": ["a", "b"], "kind": "b", "least": null, "days": 4}']),
        (CODER, '<function=weather><parameter=more>{"list": [1]}</parameter><parameter=new>7</parameter></function>',
                ['{"more": {"list": [1]}, "new": 7}']),
        (CODER, "<function=weather><parameter=days>many</parameter></function>", ['{"days": "many"}']),
        (NESTED, '~[<calls>~[<invoke name="weather">~[<more>~[<list>~[<item>1~[</item>~[<item>2~[</item>~[</list>~[</more>'
                 "~[<near>~[<item>x~[</item>~[</near>~[</invoke>~[</calls>", ['{"more": {"list": [1, 2]}, "near": ["x"]}']),
        # a Python call
        (PYTHONIC, "[weather(city='Rome', days=3)]", [HM]),
        (PYTHONIC, '[weather(city="it\'s \\"x\\"", near=[\'a\',], more={"list": (1, 2)})]',
                   ['{"city": "it\'s \\"x\\"", "near": ["a"], "more": {"list": [1, 2]}}']),
        (PYTHONIC, "[weather(city=Rome the city, days=3)]", ['{"city": "Rome the city", "days": 3}']),
        (PYTHONIC, '[weather(days="3", warm="True")]', ['{"days": 3, "warm": true}']),
        (PYTHONIC, "[weather(days=3), ping()]", ['{"days": 3}', "{}"]),
        # JSON that nothing marks
        (LLAMA, '{"name": "weather", "parameters": {"days": 3}}', ['{"days": 3}']),
        (LLAMA, ' <|python_tag|>{"type": "function", "name": "weather", "parameters": {"days": 3}}', ['{"days": 3}']),
        (LLAMA, '{"name": "ping", "parameters": {}}; {"name": "ping", "parameters": {}}', ["{}", "{}"]),
        # strings with delimiters of their own
        (GEMMA, '<|tool_call>call:weather{city:<|"|>a "b", {c}\\n<|"|>,near:[<|"|>x<|"|>],more:{list:[1]}}<tool_call|>',
                ['{"city": "a \\"b\\", {c}\\\\n", "near": ["x"], "more": {"list": [1]}}']),
        (GEMMA, '<|tool_call>call:weather{days:<|"|>3<|"|>,warm:true}<tool_call|>', ['{"days": 3, "warm": true}']),
        (MISTRAL, '[TOOL_CALLS] [{"name": "ping", "arguments": {}, "id": "abcdefgh1"}, '
                  '{"name": "weather", "arguments": {"days": 1}}]', ["{}", '{"days": 1}']),
        # gpt-oss in both orders
        (HARMONY, '<|channel|>commentary to=functions.weather <|constrain|>json<|message|>{"days": 3}<|call|>', ['{"days": 3}']),
        (HARMONY, ' to=functions.weather<|channel|>commentary json<|message|>{"days": 3}', ['{"days": 3}']),
        (HARMONY, 'to=functions.weather<|channel|>commentary <|constrain|>json<|message|>{"days": 3}', ['{"days": 3}']),
        (HARMONY, '<|start|>assistant<|channel|>commentary to=functions.weather<|message|>{"days": 3}', ['{"days": 3}']),
        (KIMI_K3, '<|open|>tools<|sep|><|open|>call tool="weather" index="1"<|sep|><|open|>argument key="city" type="string"'
                  '<|sep|>3<|close|>argument<|sep|><|open|>argument key="near" type="array"<|sep|>["a"]<|close|>argument<|sep|>'
                  "<|close|>call<|sep|><|close|>tools<|sep|>", ['{"city": "3", "near": ["a"]}']),
        (KIMI_K2, '<|calls|><|call|>functions.weather_now:0<|args|>{"days": 1}<|end|><|/calls|>', ['{"days": 1}']),
        (KIMI_K2, '<|call|>functions.ping:12<|args|>{}<|end|>', ["{}"]),
    ],
)  # fmt: skip
def test_what_is_found(form: ToolFormat, text: str, calls: list[str]) -> None:
    said, found = read(form, text)
    assert said == "" and [arguments for _, arguments in found] == calls
    assert all(json.loads(arguments) is not None for arguments in calls)


@pytest.mark.parametrize(
    ("form", "text"),
    [
        (LLAMA, '{"name": "other", "parameters": {}}'),
        (LLAMA, 'Write {"name": "weather", "parameters": {}} to call it.'),
        (LLAMA, '{"name": "weather", "parameters": [1]}'),
        (PYTHONIC, "[weather]"),
        (PYTHONIC, "[weather_later(days=3)]"),
        (PYTHONIC, "As in [ping()]."),
        (CODER, "<function=weather_later><parameter=days>3</parameter></function>"),
        (CODER, "Use <tool_call> and <function=...>."),
        (GEMMA, "<|tool_call>call:nothing{}<tool_call|>"),
        (HARMONY, "<|channel|>commentary to=browser.search<|message|>{}"),
        (HERMES, "a\n\n"),
        (HERMES, "\n <tool_call"),
        (HERMES, '<tool_call>\n{"name": "other", "arguments": {"x": "<tool_call>"}}\n</tool_call>\n'),
    ],
)
def test_what_is_no_call_stays_text(form: ToolFormat, text: str) -> None:
    assert read(form, text) == (text, [])


def test_text_around_calls() -> None:
    """Line ends between text and calls belong to neither; what else there is stays."""
    call = '<tool_call>\n{"name": "ping", "arguments": {}}\n</tool_call>'
    assert read(HERMES, f"One. \n\n{call}\n{call}\nTwo. <tool_call> {call} three\n") == (
        "One. Two. <tool_call>  three\n",
        [("ping", "{}")] * 3,
    )


@pytest.mark.parametrize(
    ("form", "text"),
    [
        (HERMES, '<tool_call>{"name": "weather", "arguments": {"city": "Rome", "days": 31, "near": ["x"]}}</tool_call>'),
        (CODER, "<function=weather>\n<parameter=city>\nRome</x>\n</parameter>\n<parameter=days>\n31\n</parameter>\n</function>"),
        (PYTHONIC, "[weather(city='Rome', near=['x', 'y'], days=31)]"),
        (GEMMA, '<|tool_call>call:weather{city:<|"|>Rome<|"|>,days:31}<tool_call|>'),
    ],
)  # fmt: skip
def test_cut_off(form: ToolFormat, text: str) -> None:
    """Where an answer is cut off inside a call, what came of its arguments is the beginning of all of them, and no
    marker becomes text."""
    [(_, arguments)] = read(form, text)[1]
    named = text.index("weather") + len("weather") + 1
    for at in range(named, len(text)):
        made = whole(form, [text[:at]], "length")
        assert made.end.reason == "length"
        if made.calls:
            [call] = made.calls
            assert arguments.startswith(call.arguments.rstrip()) and made.text == "", text[:at]
        else:
            assert made.text == text[:at]


def test_broken_arguments() -> None:
    """A call is told before its end; where its arguments break, they stay as far as they came and the rest is text."""
    said, [(name, arguments)] = read(HERMES, '<tool_call>{"name": "weather", "arguments": {"days": oops}}</tool_call>')
    assert name == "weather" and arguments == '{"days": ' and said == " oops}}</tool_call>"


def test_arguments_as_they_come() -> None:
    finder = CallFinder(CODER, TOOLS)
    made = Whole[None]()
    text = "<function=weather>\n<parameter=city>\nA long city's name\n</parameter>\n</function>"
    seen = []
    for character in text:
        for event in finder.push(TextEvent(character)):
            made.take(event)
        if made.calls:
            seen.append(made.calls[0].arguments)
    assert '{"city": "A long' in seen and seen[-1] == '{"city": "A long city\'s name"}'
    assert all(later.startswith(earlier) for earlier, later in itertools.pairwise(seen))


def test_ids() -> None:
    """The model's own where its form has them before the arguments; of the form's kind where it has none."""
    [call] = whole(KIMI_K2, ["<|call|>functions.ping:3<|args|>{}<|end|>"]).calls
    assert call.id == "functions.ping:3"
    [call] = whole(MISTRAL, ['[TOOL_CALLS] [{"id": "zyxwvuts9", "name": "ping", "arguments": {}}]']).calls
    assert call.id == "zyxwvuts9"
    [call] = whole(MISTRAL, ['[TOOL_CALLS] [{"name": "ping", "arguments": {}}]']).calls
    assert len(call.id) == 9 and call.id.isalnum()
    calls = whole(HERMES, ['<tool_call>{"name": "ping"}</tool_call>' * 2]).calls
    assert len({call.id for call in calls}) == 2 and all(call.id.startswith("call_") for call in calls)


def test_a_long_nest_is_no_call_and_ends_in_time() -> None:
    text = '<tool_call>{"name": "weather", "x": ' + "[" * 100_000
    assert whole(HERMES, [text]).text == text


def test_a_header_between_a_thinking_and_a_call() -> None:
    """gpt-oss: what leads from its thinking to a call is neither."""
    markers = Markers("<|channel|>analysis<|message|>", "<|end|>", "<|start|>assistant<|channel|>final<|message|>")
    text = (
        "<|channel|>analysis<|message|>I look.<|end|><|start|>assistant<|channel|>commentary to=functions.ping "
        "<|constrain|>json<|message|>{}<|call|>"
    )
    for pieces in ([text], list(text)):
        splitter = ThoughtSplitter(markers, calls=HARMONY.triggers)
        finder = CallFinder(HARMONY, TOOLS)
        made = Whole[None]()
        for piece in [*(p for text in pieces for p in splitter.push(text)), *splitter.finish(), EndEvent(None)]:
            if isinstance(piece, TextEvent | ThinkingEvent | EndEvent):
                for event in finder.push(piece):
                    made.take(event)
        assert (made.thinking, made.text, [call.name for call in made.calls]) == ("I look.", "", ["ping"])
