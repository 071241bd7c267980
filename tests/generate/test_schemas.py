"""Schemas that clients send: accepted, and followed by whatever a model says; or refused with the place."""

from __future__ import annotations

import json
from typing import Any

import jsonschema
import pytest

import trilens
from tests.generate.schemas import REFUSED, SCHEMAS
from tests.grids import thinned
from trilens.errors import RequestRefused
from trilens.generate.grammar import SchemaRefused
from trilens.generate.schema import followed
from trilens.model import Model


@pytest.fixture(scope="module")
def model() -> Model:
    return trilens.load("tiny-dense")


def test_there_are_enough_of_them() -> None:
    assert len(SCHEMAS) >= 60


@pytest.mark.parametrize("number", thinned(range(len(SCHEMAS)), 2))
def test_what_is_finished_is_valid(model: Model, number: int) -> None:
    """At three temperatures, so that the least likely turns are taken too."""
    schema: dict[str, Any] = SCHEMAS[number]
    ignored = model.grammars.schema(schema).ignored
    bare = _without(schema, [keyword.split(" ")[0] for keyword in ignored])
    for seed, temperature in enumerate((0.5, 1.0, 3.0)):
        options: dict[str, Any] = {"thinking": False, "max_tokens": 300, "seed": seed, "temperature": temperature}
        answer = model.generate("Hello", schema=schema, **options)
        if answer.receipt.finish == "stop":
            jsonschema.validate(json.loads(answer.text), bare)
        else:
            assert answer.receipt.finish == "length"


@pytest.mark.parametrize(("schema", "path"), REFUSED)
def test_what_cannot_be_followed_is_refused_with_its_place(model: Model, schema: dict[str, Any], path: str) -> None:
    with pytest.raises(SchemaRefused) as caught:
        model.grammars.schema(schema)
    assert ".".join(caught.value.path) == path and path in str(caught.value)


def test_formats_and_unique_items_are_reported(model: Model) -> None:
    schema = {"properties": {"a": {"items": {"format": "int32"}, "uniqueItems": True}}}
    assert model.grammars.schema(schema).ignored == ("properties.a.uniqueItems", 'properties.a.items.format "int32"')
    known = {"properties": {"a": {"format": "date-time"}, "b": {"uniqueItems": False}}}
    assert model.grammars.schema(known).ignored == ()


@pytest.mark.parametrize(
    ("schema", "closed"),
    [
        ({"properties": {"a": {}}}, True),
        ({"properties": {}}, True),
        ({"type": "object"}, False),
        ({"properties": {"a": {}}, "additionalProperties": True}, False),
        ({"properties": {"a": {}}, "additionalProperties": {"type": "string"}}, False),
        ({"properties": {"a": {}}, "patternProperties": {"x": {}}}, False),
        ({"allOf": [{"properties": {"a": {}}}, {"properties": {"b": {}}}]}, True),
        ({"allOf": [{"properties": {"a": {}}}, {"additionalProperties": True}]}, False),
        ({"properties": {"a": {}}, "anyOf": [{"properties": {"b": {}}}]}, True),
    ],
)
def test_objects_are_closed_unless_the_schema_opens_them(schema: dict[str, Any], closed: bool) -> None:
    for made in (followed(schema, lambda _: True).schema, _beneath(schema)):
        assert (made.get("additionalProperties") is False) == closed
        wanted = {
            name
            for part in (schema, *schema.get("allOf", ()), *schema.get("anyOf", ()))
            for name in part.get("properties", ())
        }
        assert not closed or set(made["properties"]) == wanted


def _beneath(schema: dict[str, Any]) -> dict[str, Any]:
    """The same as a property, and as an item of one."""
    outer = {"properties": {"x": {"items": schema}}}
    made: dict[str, Any] = followed(outer, lambda _: True).schema["properties"]["x"]["items"]
    return made


@pytest.mark.parametrize(
    ("options", "allowed"),
    [
        ({"regex": "[0-9]{3}"}, r"[0-9]{3}"),
        ({"regex": "^ab?/c$"}, r"ab?/c"),
        ({"choice": ["yes", "no", 'qu"ote\n', "größe"]}, 'yes|no|qu"ote\n|größe'),
        ({"grammar": 'root ::= "a" [0-9] | "b"'}, "a[0-9]|b"),
        ({"grammar": 'start: "x" | /[a-c]{2}/'}, "x|[a-c]{2}"),
    ],
)
def test_other_forms(model: Model, options: dict[str, Any], allowed: str) -> None:
    import re

    for seed in range(4):
        answer = model.generate("Hello", thinking=seed % 2 == 0, temperature=2.0, seed=seed, **options)
        assert answer.receipt.finish == "stop" and re.fullmatch(allowed, answer.text)


@pytest.mark.parametrize(
    "options",
    [
        {"regex": "(?=a)"},
        {"choice": []},
        {"grammar": "start: missing"},
        {"grammar": "root ::= (("},
        {"regex": "a", "choice": ["b"]},
    ],
)
def test_forms_that_cannot_be_followed(model: Model, options: dict[str, Any]) -> None:
    with pytest.raises(RequestRefused, match="|".join(options)):
        model.generate("Hello", **options)


def test_an_answer_ends_where_it_may(model: Model) -> None:
    options: dict[str, Any] = {"thinking": False, "temperature": 0}
    short = model.generate("What is 14 plus 25?", **options)
    length = short.receipt.tokens.completion
    longer = model.generate("What is 14 plus 25?", min_tokens=length + 5, max_tokens=60, **options)
    assert longer.receipt.tokens.completion >= length + 5
    endless = model.generate("What is 14 plus 25?", ignore_eos=True, max_tokens=40, **options)
    assert (endless.receipt.finish, endless.receipt.tokens.completion) == ("length", 40)
    [first] = model.text.tokenizer.encode(short.text[0])
    assert model.generate("What is 14 plus 25?", stop_token_ids=[first], **options).text == ""
    with pytest.raises(RequestRefused, match="min_tokens is 30, and at most 20"):
        model.generate("Hello", min_tokens=30, max_tokens=20, **options)


def _without(schema: Any, paths: list[str]) -> Any:
    """The schema without the keywords at these paths."""
    made = json.loads(json.dumps(schema))
    for path in paths:
        *parents, last = path.split(".")
        at = made
        for part in parents:
            at = at[int(part)] if isinstance(at, list) else at[part]
        del at[last]
    return made
