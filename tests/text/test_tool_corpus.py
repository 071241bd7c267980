"""Chat templates of real releases: the calls that a template writes into a turn are found in it again.

The templates come out of packages' sources at test time (see `templates_of_packages`); none of them is kept here.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from tests.text.templates_of_packages import VARIABLE, templates
from trilens.errors import BadTemplate, RequestRefused
from trilens.text.events import EndEvent, TextEvent, ToolCallEvent
from trilens.text.read_template import inference_of
from trilens.text.template import ChatTemplate
from trilens.text.thinking import Inference, start_of
from trilens.text.thoughts import ThoughtSplitter
from trilens.text.tool_calls import CallFinder, model_format
from trilens.text.tool_formats import ToolFormat

pytestmark = pytest.mark.corpus

ASK, SAID = "What now, zquser?", "Zqsaid this first."
NAMES = ("zq_weather", "zq_hotel")
SCHEMA: dict[str, Any] = {
    "type": "object",
    "properties": {
        "city": {"type": "string", "description": "A city."},
        "days": {"type": "integer", "description": "How many."},
        "warm": {"type": "boolean", "description": "Whether it is."},
    },
    "required": ["city"],
}
PARAMETERS = dict.fromkeys(NAMES, SCHEMA)
TOOLS = [{"type": "function", "function": {"name": n, "description": "A tool.", "parameters": SCHEMA}} for n in NAMES]
ARGUMENTS: tuple[dict[str, Any], ...] = ({"city": "Zqparis, the city", "days": 31}, {"city": "Zqrome", "warm": True})


@dataclass(frozen=True)
class Written:
    """A turn with calls, as the template writes it behind the prompt."""

    text: str
    prompt: str
    calls: int


def spoken(template: ChatTemplate) -> Iterator[Written]:
    """The turns that the template writes: with text before the calls and without, as far as it takes them."""
    for said in ("", SAID):
        if (turn := _turn(template, said)) is not None:
            yield turn


def _turn(template: ChatTemplate, said: str) -> Written | None:
    asked = [{"role": "user", "content": ASK}]
    for count in (2, 1):
        for as_text in (False, True):
            calls = [
                {
                    "id": f"zqcall00{i}",
                    "type": "function",
                    "function": {"name": NAMES[i], "arguments": json.dumps(one) if as_text else one},
                }
                for i, one in enumerate(ARGUMENTS[:count])
            ]
            for id in ("zqcall00{i}", "functions.{name}:{i}"):
                for i, call in enumerate(calls):
                    call["id"] = id.format(i=i, name=NAMES[i])
                turn = {"role": "assistant", "content": said, "tool_calls": calls}
                try:
                    prompt = template.render(asked, tools=TOOLS)
                    text = template.render([*asked, turn], tools=TOOLS, add_generation_prompt=False)
                except (BadTemplate, RequestRefused):
                    continue
                behind = text[text.rfind(ASK) :]
                if all(NAMES[i] in behind and ARGUMENTS[i]["city"] in behind for i in range(count)):
                    at = next((i for i, (a, b) in enumerate(zip(prompt, text, strict=False)) if a != b), len(prompt))
                    while prompt[at:] and text[at - 1] not in ">]}\n" and text[at] not in "<[{":
                        at -= 1  # no cut goes through a marker
                    return Written(text[at:], prompt, count)
    return None


def read(form: ToolFormat, inference: Inference, turn: Written, pieces: Sequence[str]) -> tuple[str, list[Any]]:
    """(text, calls) of an answer that comes in these pieces, its thoughts taken out."""
    calls = form.triggers
    closers = [call for call in calls if "<" in call or call.startswith("[")]
    markers = inference.markers
    splitter = ThoughtSplitter(markers, start_of(turn.prompt, markers), closers=closers, calls=calls)
    finder = CallFinder(form, PARAMETERS)
    text, found = "", list[list[str]]()
    for piece in [*(p for text in pieces for p in splitter.push(text)), *splitter.finish(), EndEvent(None)]:
        if not isinstance(piece, TextEvent | EndEvent):
            continue
        for event in finder.push(piece):
            match event:
                case TextEvent(more):
                    text += more
                case ToolCallEvent(arguments, name=str(name)):
                    found.append([name, arguments])
                case ToolCallEvent(arguments):
                    found[-1][1] += arguments
    return text, [(name, _json(arguments)) for name, arguments in found]


def _json(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        return text


def fault(template: ChatTemplate) -> str | None:
    """What is wrong with how this template's calls are read; None where all of them are found."""
    form = model_format(template)
    assert form is not None
    inference = inference_of(template)
    for turn in spoken(template):
        wanted = list(zip(NAMES, ARGUMENTS, strict=True))[: turn.calls]
        text, calls = read(form, inference, turn, [turn.text])
        if calls != wanted:
            return f"read {calls} in {turn.text!r}"
        if any(word in text for word in (*NAMES, "Zqparis", "Zqrome", "city")):
            return f"left {text!r}"
        if read(form, inference, turn, list(turn.text)) != (text, calls):
            return f"read otherwise character by character: {turn.text!r}"
        for at in range(1, len(turn.text)):
            if read(form, inference, turn, [turn.text[:at], turn.text[at:]]) != (text, calls):
                return f"read otherwise when cut at {at}: {turn.text!r}"
    return None


@cache
def corpus() -> dict[str, ChatTemplate]:
    directory = os.environ.get(VARIABLE)
    if not directory:
        pytest.skip(f"{VARIABLE} names no directory of downloaded packages; see tests/text/templates_of_packages.py")
    found: dict[str, ChatTemplate] = {}
    for name, source in templates(Path(directory)).items():
        try:
            found[name] = ChatTemplate(source, bos_token="<s>", eos_token="</s>")
        except BadTemplate:
            continue  # a part of one, in a program
    return found


def test_the_corpus_is_large_enough() -> None:
    assert len(corpus()) >= 300


def test_every_template_reads_its_own_calls() -> None:
    shown = {name: template for name, template in corpus().items() if template.reads_tools}
    writing = {name: template for name, template in shown.items() if next(spoken(template), None) is not None}
    faults = {name: said for name, template in writing.items() if (said := fault(template)) is not None}
    print(f"\n{len(corpus())} templates, {len(shown)} read tools, {len(writing)} write calls")
    print(f"{len(writing) - len(faults)} of {len(writing)} find their own, whole and at every cut")
    for name in sorted(shown.keys() - writing.keys()):
        print(f"  writes none: {name}")
    for name, said in sorted(faults.items()):
        print(f"  {name}: {said:.600}")
    assert len(writing) - len(faults) >= 0.95 * len(writing)
