"""A constrained answer behind a thinking: what the model's own template writes there is allowed token by token, however
the thinking ends, and nothing else is."""

from __future__ import annotations

import json
from collections import deque
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from tests.text.test_fill_in import literal_with
from trilens.generate.answer import Constraint
from trilens.generate.grammar import Grammars
from trilens.generate.limits import request_limits
from trilens.generate.tool_grammar import forced_call, offered_calls
from trilens.model import Model
from trilens.text.events import EndEvent, Whole
from trilens.text.model_text import Encoded, ModelText
from trilens.text.read_template import KNOWN_MARKERS
from trilens.text.strategy import Strategy
from trilens.text.thinking import Inference, Markers
from trilens.text.tokenizer import Tokenizer
from trilens.text.tool_calls import CallFinder
from trilens.text.tool_formats import ToolFormat
from trilens.text.tool_table import HARMONY, HERMES

CONTROL = ["<|channel|>", "<|message|>", "<|start|>", "<|end|>", "<|constrain|>", "<|call|>", "<|return|>"]
CITY = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}
LOOK, ROME = {"look": CITY}, '{"city":"Rome"}'
CALL = '<tool_call>\n{"name": "look", "arguments": {"city": "Rome"}}\n</tool_call>'
TURN = "<|start|>assistant<|channel|>"
HARMONY_CALL = '<|channel|>commentary to=functions.look <|constrain|>json<|message|>{"city": "Rome"}<|call|>'
THINK = next(markers for markers in KNOWN_MARKERS if markers.open == "<think>")
FORMS: dict[str, tuple[Markers, ToolFormat]] = {"think": (THINK, HERMES), "harmony": (KNOWN_MARKERS[0], HARMONY)}


@pytest.fixture(scope="module")
def vocabulary(tmp_path_factory: pytest.TempPathFactory) -> tuple[Tokenizer, Grammars]:
    tokenizer = literal_with([*CONTROL, "\n\n"], tmp_path_factory.mktemp("control"), special=True).tokenizer
    tokenizer.eos_ids |= {tokenizer.id_of(text) or 0 for text in ("<|return|>", "<|call|>")}  # as gpt-oss's files say
    return tokenizer, Grammars(tokenizer, tokenizer.vocab_size)


class Spoken:
    """An answer behind an opened thinking, in tokens that a model would like."""

    def __init__(self, vocabulary: tuple[Tokenizer, Grammars], form: str, held: str) -> None:
        """`held`: to a "call", a "schema", or "either" of them."""
        self.tokenizer, grammars = vocabulary
        markers, self.form = FORMS[form]
        text = ModelText(self.tokenizer, None, Inference("always", markers=markers))
        text.__dict__["tool_format"] = self.form
        constraint: Constraint
        if held == "call":
            constraint = forced_call(grammars, self.tokenizer, self.form, LOOK, markers.turn)
        else:
            calls = offered_calls(grammars, self.tokenizer, self.form, LOOK, markers.turn)
            constraint = grammars.schema(CITY, calls if held == "either" else None)
        model: Any = SimpleNamespace(text=text)
        limits, opened = request_limits(4096, 8, None, thinks=True), Encoded([1], "opened")
        strategy = Strategy(None, "on")
        self.writer = Model._writer(model, strategy, opened, limits, text.end_ids, (), constraint, None, 0)
        self.unread: deque[Any] = deque()

    def refused(self, text: str) -> str:
        """What of the text is not allowed any more; empty where all of it is."""
        ids = self.tokenizer.encode(text)
        for place, token in enumerate(ids):
            allowed = self.writer.allowed()
            assert allowed is not None
            if not np.unpackbits(allowed.view(np.uint8), bitorder="little")[token]:
                return self.tokenizer.decode(ids[place:], skip_special=False)
            self.writer.take(token, self.unread)
        return ""

    def answer(self) -> tuple[str, str, list[tuple[str, Any]]]:
        """(thoughts, text, calls)."""
        self.writer.end("stop", self.unread)
        finder, whole = CallFinder(self.form, LOOK), Whole[None]()
        for event in (*self.unread, EndEvent(None)):
            for one in finder.push(event):
                whole.take(one)
        return whole.thinking, whole.text, [(call.name, json.loads(call.arguments)) for call in whole.calls]


ONE = [("look", {"city": "Rome"})]
ENDS = ("</think>", "\n</think>\n\n", "</think>\n")
SAID: list[tuple[str, str, str, tuple[str, str, list[Any]]]] = [
    *(("think", "schema", f"Hm.{end}{ROME}", ("Hm.", ROME, [])) for end in ENDS),
    ("think", "schema", f"Say {CALL}?</think>{ROME}", (f"Say {CALL}?", ROME, [])),
    *(("think", "call", f"Hm.{end}{CALL}", ("Hm.", "", ONE)) for end in (*ENDS, "", "\n")),
    *(("think", "either", f"Hm.{end}{ROME}", ("Hm.", ROME, [])) for end in ENDS),
    *(("think", "either", f"Hm.{end}{CALL}", ("Hm.", "", ONE)) for end in (*ENDS, "", "\n")),
    ("think", "either", f"Hm.</think>{CALL}\n{CALL}", ("Hm.", "", [*ONE, *ONE])),
    ("harmony", "schema", f"Hm.<|end|>{TURN}final<|message|>{ROME}", ("Hm.", ROME, [])),
    ("harmony", "call", f"Hm.<|end|><|start|>assistant{HARMONY_CALL}", ("Hm.", "", ONE)),
    ("harmony", "call", f"Hm.<|end|>{HARMONY_CALL}", ("Hm.", "", ONE)),
    ("harmony", "either", f"Hm.<|end|>{TURN}final<|message|>{ROME}", ("Hm.", ROME, [])),
    ("harmony", "either", f"Hm.<|end|><|start|>assistant{HARMONY_CALL}", ("Hm.", "", ONE)),
]


@pytest.mark.parametrize(("form", "held", "said", "expected"), SAID)
def test_what_a_model_would_write_is_allowed(
    vocabulary: tuple[Tokenizer, Grammars], form: str, held: str, said: str, expected: Any
) -> None:
    spoken = Spoken(vocabulary, form, held)
    assert spoken.refused(said) == ""
    assert spoken.answer() == expected


@pytest.mark.parametrize(
    ("form", "held", "said", "left"),
    [
        ("think", "schema", "Hm.</think>\n\n\n{", "\n{"),
        ("think", "schema", "Hm.</think>So {", "So {"),
        ("think", "schema", f"Hm.</think>\n{CALL}", CALL),
        ("think", "call", "Hm.</think>\n\nI look", "I look"),
        ("think", "call", f"Hm.</think>\n{ROME}", ROME),
        ("harmony", "call", f"Hm.<|end|>{TURN}final<|message|>", "final<|message|>"),
        ("harmony", "call", "Hm.<|end|>final", "final"),
        ("harmony", "schema", f"Hm.<|end|>{TURN}final<|message|>No", "No"),
        ("harmony", "call", "Hm.<|return|>", "<|return|>"),
        ("think", "either", "Hm.</think><tool_call>2", "2"),
        ("think", "either", f"Hm.</think>{CALL}So", "So"),
        ("think", "call", f"Hm.</think>{CALL}\n{CALL}", f"\n{CALL}"),
    ],
)
def test_what_leads_elsewhere_is_not(
    vocabulary: tuple[Tokenizer, Grammars], form: str, held: str, said: str, left: str
) -> None:
    assert Spoken(vocabulary, form, held).refused(said) == left


@pytest.mark.parametrize("text", [CALL, HARMONY_CALL])
def test_there_is_an_end_behind_it(vocabulary: tuple[Tokenizer, Grammars], text: str) -> None:
    """And only there."""
    spoken = Spoken(vocabulary, "harmony" if "<|" in text else "think", "call")
    assert spoken.refused(f"Hm.{'<|end|>' if '<|' in text else '</think>'}{text}") == ""
    constraint: Any = spoken.writer._constraint
    assert constraint.complete
