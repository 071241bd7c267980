"""Forced and offered tool calls in the model's own format, as a grammar for llguidance."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any

from trilens.generate.grammar import CallRules, GrammarConstraint, Grammars, SchemaRefused, quoted
from trilens.text.tokenizer import Tokenizer
from trilens.text.tool_formats import ID, KEY, NAME, NUMBER, Json, Keywords, Loose, Tagged, ToolFormat
from trilens.text.tool_values import json_string, kinds_of, referred

JSON_STYLE = {"item_separator": ", ", "key_separator": ": "}  # as models and templates write it
SLOT = re.compile(f"([{ID}{NUMBER}{NAME}{KEY}])")
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
    return grammars.forced(rules.written(tools, turn, several=False))


def offered_calls(
    grammars: Grammars,
    tokenizer: Tokenizer,
    form: ToolFormat,
    tools: Mapping[str, Any],
    turn: str = "",
    several: bool = True,
) -> CallRules:
    """Calls of these tools, or one where there may not be `several`, as an alternative to what else an answer may be.
    Arguments whose schema cannot be followed are any object, and reported."""
    rules = _Rules(grammars, tokenizer, form)
    followed = dict(tools)
    for name, schema in tools.items():
        try:
            grammars.json_rule(schema)
        except SchemaRefused as refused:
            followed[name] = {"type": "object"}
            rules.ignored.append(f"{name}, whose schema cannot be followed: {refused.said}")
    return rules.written(followed, turn, several and form.several)


class _Rules:
    """The rules of one grammar, in Lark's notation."""

    def __init__(self, grammars: Grammars, tokenizer: Tokenizer, form: ToolFormat) -> None:
        self.grammars = grammars
        self.form = form
        self.ignored: list[str] = []  # keywords of schemas that nothing is held to
        self.rules: list[str] = []
        control = {tokenizer.piece(i).decode("utf-8", "replace") for i in tokenizer.special_ids}
        self.control = {text for text in control if text and any(text in literal for literal in form.texts)}

    def written(self, tools: Mapping[str, Any], turn: str, several: bool) -> CallRules:
        form = self.form
        bodies = {name: self.arguments(schema) for name, schema in tools.items()}
        given = {name: self.rule(body) if body else "" for name, body in bodies.items()}
        opening = (form.begin + form.before + form.head).lstrip()
        opening = opening[opening.index(NAME) :] if form.prompted else opening
        parts = [f"({self.literal(turn)})?"] if turn else []
        parts.append(self.one_of(opening, given))
        if several:
            parts.append(f"{self.one_of(form.between + form.before + form.head, given)}*")
        parts.append(self.literal(form.end))
        rules = "\n".join([f"calls: {' '.join(part for part in parts if part)}", *self.rules]) + "\n"
        return CallRules(rules, tuple(dict.fromkeys(self.ignored)))

    def one_of(self, opening: str, tools: Mapping[str, str]) -> str:
        """A call of one of these tools; of each there is the rule for its arguments."""
        calls = []
        for name, arguments in tools.items():
            slots = {NAME: json_string(name) if self.form.envelope is not None else name}
            ends = self.literal(opening, slots), arguments, self.literal(self.form.tail + self.form.after, slots)
            calls.append(self.rule(" ".join(part for part in ends if part)))
        return f"({' | '.join(calls)})"

    def rule(self, body: str, attributes: str = "") -> str:
        name = f"r{len(self.rules)}"
        self.rules.append(f"{name}{attributes}: {body}")
        return name

    def literal(self, text: str, slots: Mapping[str, str] | None = None) -> str:
        """Text of the form: control tokens in it are tokens, and each slot is what fits it. What a caller named, in
        `slots`, is text whatever it spells."""
        parts = []
        for piece in SLOT.split(text):
            if slots is not None and piece in slots:
                parts.append(quoted(slots[piece]))
            elif piece:
                parts.append(SLOTS.get(piece) or self.grammars.literal(piece))
        return " ".join(parts)

    # ----------------------------------------------------------------------------------------------------- arguments

    def arguments(self, schema: Any) -> str:
        schema = schema if isinstance(schema, Mapping) else {}
        match self.form.arguments:
            case Json():
                return self.rule(self.json({**schema, "type": "object"}))
            case Keywords():
                return self.members(schema, ", ", lambda key, one: f"{quoted(key + '=')} {self.python(one)}")
            case Loose(quote):
                inner = self.members(schema, ",", lambda key, one: f"{quoted(key + ':')} {self.loose(one, quote)}")
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
        before = self.literal(tags.open + middle, {KEY: key})
        if kind == "string":
            return f"{before} {self.text(schema, tags.close, key)}"
        return f"{before} {self.rule(self.json(schema))} {self.literal(tags.close, {KEY: key})}"

    def text(self, schema: Any, close: str, key: str = "") -> str:
        """A string as it stands, with what ends it."""
        end = self.literal(close, {KEY: key})
        schema = referred(schema, schema)
        values = schema.get("enum") if isinstance(schema, Mapping) else None
        if isinstance(values, list) and values and all(isinstance(value, str) and value for value in values):
            return f"({' | '.join(map(quoted, values))}) {end}"
        if any(text in close for text in self.control):  # no text can hold it
            return f"/(?s:.*)/ {end}"
        return self.rule("/(?s:.*)/", f"[suffix={quoted(close.replace(KEY, key))}]")
