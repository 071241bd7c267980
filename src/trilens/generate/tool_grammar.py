"""A call that an answer is held to, in the form in which the model writes its calls: as a grammar of llguidance."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from typing import Any

from trilens.generate.grammar import GrammarConstraint, Grammars
from trilens.text.tokenizer import Tokenizer
from trilens.text.tool_formats import ID, KEY, NAME, NUMBER, Json, Keywords, Loose, Tagged, ToolFormat
from trilens.text.tool_values import json_string, kinds_of, referred

JSON_STYLE = {"item_separator": ", ", "key_separator": ": "}  # as models and templates write it
SLOT = re.compile(f"([{ID}{NUMBER}])")
SLOTS = {ID: "/[a-zA-Z0-9]{9}/", NUMBER: "/[0-9]{1,2}/"}
PYTHON = {"boolean": '("True" | "False")', "null": '"None"'}


def forced_call(
    grammars: Grammars, tokenizer: Tokenizer, form: ToolFormat, tools: Mapping[str, Any], turn: str = ""
) -> GrammarConstraint:
    """Holds an answer to one call of one of these tools; `tools` are the schemas of their arguments, by name. `turn`
    may stand before the call: a header behind a thinking that was a turn of its own.

    Raises RequestRefused for a schema that cannot be followed.
    """
    rules = _Rules(grammars, tokenizer, form)
    grammar = rules.written(tools, turn)
    return grammars.forced_call(grammar, tuple(dict.fromkeys(rules.ignored)))


class _Rules:
    """The rules of one grammar, in Lark's notation."""

    def __init__(self, grammars: Grammars, tokenizer: Tokenizer, form: ToolFormat) -> None:
        self.grammars = grammars
        self.form = form
        self.ignored: list[str] = []  # keywords of schemas that nothing is held to
        self.rules: list[str] = []
        control = {tokenizer.piece(i).decode("utf-8", "replace") for i in tokenizer.special_ids}
        self.control = {text for text in control if text and any(text in literal for literal in form.texts)}

    def written(self, tools: Mapping[str, Any], turn: str) -> str:
        calls = [self.rule(self.call(name, schema)) for name, schema in tools.items()]
        before = f"({self.literal(turn)})? " if turn else ""
        return "\n".join([f"start: {before}({' | '.join(calls)})", *self.rules]) + "\n"

    def call(self, name: str, schema: Any) -> str:
        form = self.form
        name = json_string(name) if form.envelope is not None else name
        opening = (form.begin + form.before + form.head).lstrip()
        if form.prompted:
            opening = opening[opening.index(NAME) :]
        parts = [self.literal(opening.replace(NAME, name)), self.arguments(schema)]
        parts.append(self.literal((form.tail + form.after + form.end).replace(NAME, name)))
        return " ".join(part for part in parts if part)

    def rule(self, body: str, attributes: str = "") -> str:
        name = f"r{len(self.rules)}"
        self.rules.append(f"{name}{attributes}: {body}")
        return name

    def literal(self, text: str) -> str:
        """Text as it stands; control tokens in it are tokens, and slots are what fits them."""
        pieces = [piece for piece in SLOT.split(text) if piece]
        return " ".join(SLOTS[piece] if piece in SLOTS else self.grammars.literal(piece) for piece in pieces)

    # ----------------------------------------------------------------------------------------------------- arguments

    def arguments(self, schema: Any) -> str:
        schema = schema if isinstance(schema, Mapping) else {}
        match self.form.arguments:
            case Json():
                return self.rule(self.json({"type": "object", **schema}))
            case Keywords():
                return self.members(schema, ", ", lambda key, one: f"{self.literal(key + '=')} {self.python(one)}")
            case Loose(quote):
                inner = self.members(schema, ",", lambda key, one: f'"{key}:" {self.loose(one, quote)}')
                return f'"{{" {inner} "}}"'
            case Tagged() as tags:
                return self.members(schema, "", lambda key, one: self.tagged(key, one, tags))

    def members(self, schema: Mapping[str, Any], between: str, one: Callable[[str, Any], str]) -> str:
        """Each required argument and any of the others, those that are required first."""
        properties = schema.get("properties")
        properties = properties if isinstance(properties, Mapping) else {}
        required = [key for key in schema.get("required") or () if key in properties]
        shared = {name: schema[name] for name in ("$defs", "definitions") if name in schema}
        separator = self.literal(between)
        written = {
            key: self.rule(one(key, {**shared, **value} if isinstance(value, Mapping) else value))
            for key, value in properties.items()
        }
        others = [key for key in properties if key not in required]
        behind = self.others([written[key] for key in others], separator)
        if required:
            return f" {separator} ".join(written[key] for key in required) + f" {behind}"
        if not others:
            return ""
        # the first that is there has nothing before it
        starts = []
        for place, key in enumerate(others):
            starts.append(f"{written[key]} {self.others([written[k] for k in others[place + 1 :]], separator)}")
        return f"({' | '.join(starts)})?"

    def others(self, rules: list[str], separator: str) -> str:
        return " ".join(f"({separator} {rule})?" for rule in rules)

    def json(self, schema: Any) -> str:
        rule, ignored = self.grammars.json_rule(schema if isinstance(schema, Mapping) else {}, JSON_STYLE)
        self.ignored += ignored
        return rule

    def python(self, schema: Any) -> str:
        kinds = kinds_of(schema)
        if kinds and all(kind in PYTHON for kind in kinds):
            return "(" + " | ".join(PYTHON[kind] for kind in kinds) + ")"
        return self.rule(self.json(schema))

    def loose(self, schema: Any, quote: str) -> str:
        if kinds_of(schema) == ("string",):
            return f"{self.literal(quote)} {self.text(schema, quote)}"
        return self.rule(self.json(schema))

    def tagged(self, key: str, schema: Any, tags: Tagged) -> str:
        kinds = kinds_of(schema)
        kind = kinds[0] if kinds else "string"
        middle = dict[str, str](tags.typed).get(kind, tags.middle)
        before = self.literal((tags.open + middle).replace(KEY, key))
        close = tags.close.replace(KEY, key)
        if kind == "string":
            return f"{before} {self.text(schema, close)}"
        return f"{before} {self.rule(self.json(schema))} {self.literal(close)}"

    def text(self, schema: Any, close: str) -> str:
        """A string as it stands, with what ends it."""
        schema = referred(schema, schema)
        values = schema.get("enum") if isinstance(schema, Mapping) else None
        if isinstance(values, list) and values and all(isinstance(value, str) and value for value in values):
            return f"({' | '.join(map(self.literal, values))}) {self.literal(close)}"
        if any(text in close for text in self.control):  # no text can hold it
            return f"/(?s:.*)/ {self.literal(close)}"
        return self.rule("/(?s:.*)/", f"[suffix={json.dumps(close, ensure_ascii=False)}]")
