"""A forced call is held to the model's own form: whatever is drawn is read as one call that its schema allows."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import jsonschema
import numpy as np
import pytest

from tests.text.invented_templates import CALLS, invented
from tests.text.test_fill_in import literal_with
from trilens.checkpoints.find import find
from trilens.generate.grammar import Grammars
from trilens.generate.tool_grammar import forced_call
from trilens.text.events import EndEvent, TextEvent, Whole
from trilens.text.tokenizer import Tokenizer
from trilens.text.tool_calls import CallFinder
from trilens.text.tool_difference import by_difference
from trilens.text.tool_formats import ToolFormat
from trilens.text.tool_table import HARMONY, HERMES, KIMI_K3, UNWRITTEN

TOOLS: dict[str, Any] = {
    "set_light": {
        "type": "object",
        "properties": {
            "level": {"type": "integer", "minimum": 0, "maximum": 9},
            "mode": {"type": "string", "enum": ["warm", "cold"]},
            "on": {"type": "boolean"},
            "tags": {"type": "array", "items": {"enum": ["a", "b"]}, "maxItems": 2},
        },
        "required": ["level", "mode"],
        "additionalProperties": False,
    },
    "choose": {
        "type": "object",
        "properties": {"mode": {"$ref": "#/$defs/mode"}, "off": {"type": ["boolean", "null"]}},
        "$defs": {"mode": {"type": "string", "enum": ["one", "two"]}},
        "additionalProperties": False,
    },
    "list_all": {"type": "object", "properties": {}, "additionalProperties": False},
}
FORMS: dict[str, ToolFormat] = {"hermes": HERMES, "harmony": HARMONY, "kimi": KIMI_K3}
FORMS |= {f"table {marker}": form for marker, form in UNWRITTEN}
FORMS |= {name: form for name in CALLS if (form := by_difference(invented(name))) is not None}


def drawn(tokenizer: Tokenizer, grammars: Grammars, form: ToolFormat, tools: dict[str, Any], seed: int) -> str:
    """A text that the constraint allows, drawn token by token; short tokens near its end, so that it ends."""
    chance = np.random.default_rng(seed)
    constraint = forced_call(grammars, tokenizer, form, tools)
    ends, text = tokenizer.eos_ids, b""
    for _ in range(2000):
        bits = np.unpackbits(constraint.allowed().view(np.uint8), bitorder="little")
        allowed = np.flatnonzero(bits[: tokenizer.vocab_size])
        if not len(allowed) or set(allowed) & ends:
            return text.decode("utf-8", "replace")
        token = int(chance.choice(allowed))
        text += tokenizer.piece(token)
        constraint.take(token)
    raise AssertionError(f"it goes on and on: {text[-200:]!r}")


@pytest.fixture(scope="module")
def vocabulary() -> tuple[Tokenizer, Grammars]:
    tokenizer = Tokenizer.from_directory(find("tiny-dense").path)
    return tokenizer, Grammars(tokenizer, tokenizer.vocab_size)


@pytest.mark.parametrize("name", FORMS)
def test_what_is_drawn_is_a_call(vocabulary: tuple[Tokenizer, Grammars], name: str) -> None:
    tokenizer, grammars = vocabulary
    seen = set()
    for seed in range(12):
        for only in (TOOLS, {"choose": TOOLS["choose"]}, {"set_light": TOOLS["set_light"]}):
            text = drawn(tokenizer, grammars, FORMS[name], dict(only), seed)
            finder = CallFinder(FORMS[name], only)
            whole = Whole[None]()
            for event in [*finder.push(TextEvent(text)), *finder.push(EndEvent(None))]:
                whole.take(event)
            assert len(whole.calls) == 1 and whole.text == "", text
            [call] = whole.calls
            jsonschema.validate(json.loads(call.arguments), TOOLS[call.name])
            seen.add(call.name)
    assert seen == set(TOOLS)


WORD = "zzcontrol"
SPELLED = {
    f"a_{WORD}": {
        "type": "object",
        "properties": {f"k_{WORD}": {"type": "string", "enum": [WORD]}},
        "required": [f"k_{WORD}"],
        "additionalProperties": False,
    }
}


@pytest.mark.parametrize("name", FORMS)
def test_what_a_caller_named_is_text(tmp_path: Path, name: str) -> None:
    """Names, keys and values that spell a control token are written without it."""
    tokenizer = literal_with([WORD], tmp_path, special=True).tokenizer
    grammars = Grammars(tokenizer, tokenizer.vocab_size)
    constraint = forced_call(grammars, tokenizer, FORMS[name], SPELLED)
    text = drawn(tokenizer, grammars, FORMS[name], dict(SPELLED), 0)
    assert text.count(WORD) >= 3
    finder, whole = CallFinder(FORMS[name], SPELLED), Whole[None]()
    for event in [*finder.push(TextEvent(text)), *finder.push(EndEvent(None))]:
        whole.take(event)
    assert [(c.name, json.loads(c.arguments)) for c in whole.calls] == [(f"a_{WORD}", {f"k_{WORD}": WORD})]
    for token in tokenizer.encode(text, special=False):
        constraint.take(token)
    assert constraint.complete and tokenizer.id_of(WORD) not in tokenizer.encode(text, special=False)


FREE = {"note": {"type": "object", "properties": {"text": {"type": "string"}, "days": {"type": "integer"}}}}
NOTE = "a <b> && {c} 'd' [e]\n  f"


@pytest.mark.parametrize("name", CALLS)
def test_what_the_template_writes_is_allowed(vocabulary: tuple[Tokenizer, Grammars], name: str) -> None:
    """Free text too, and only then may the answer end."""
    tokenizer, grammars = vocabulary
    call = {"function": {"name": "note", "arguments": {"text": NOTE, "days": -3}}, "id": "abcdefgh1"}
    turns = [{"role": "user", "content": "?"}, {"role": "assistant", "content": "", "tool_calls": [call]}]
    text = invented(name).render(turns, tools=[], add_generation_prompt=False)
    text = text[text.index("«model» ") + len("«model» ") : text.rindex(" «end»")].strip()
    constraint = forced_call(grammars, tokenizer, FORMS[name], FREE)
    for token in tokenizer.encode(text, special=False):
        allowed = np.unpackbits(constraint.allowed().view(np.uint8), bitorder="little")
        assert allowed[token] and not any(allowed[end] for end in tokenizer.eos_ids), tokenizer.piece(token)
        constraint.take(token)
    assert constraint.complete
