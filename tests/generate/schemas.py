"""Schemas of the kinds that clients send: pydantic's, OpenAI's examples, and those of JSONSchemaBench."""

from __future__ import annotations

import datetime
import decimal
import enum
import pathlib
import uuid
from typing import Annotated, Any, Literal, Optional, Union

from pydantic import AnyUrl, BaseModel, ConfigDict, Field, TypeAdapter


class Colour(enum.Enum):
    RED = "red"
    BLUE = "blue"


class Address(BaseModel):
    street: str = Field(max_length=8)
    zip: str = Field(pattern=r"^\d{5}$")


class Person(BaseModel):
    """Somebody."""

    name: str = Field(max_length=8)
    age: int = Field(ge=0, le=120)
    address: Address | None = None


class Tree(BaseModel):
    value: int = Field(ge=0, le=9)
    left: Optional[Tree] = None  # noqa: UP045


class Cat(BaseModel):
    kind: Literal["cat"]
    lives: int = Field(ge=1, le=9)


class Dog(BaseModel):
    kind: Literal["dog"]
    good: bool


class Owner(BaseModel):
    pet: Annotated[Union[Cat, Dog], Field(discriminator="kind")]  # noqa: UP007


class Closed(BaseModel):
    model_config = ConfigDict(extra="forbid")
    a: bool


class Open(BaseModel):
    model_config = ConfigDict(extra="allow")
    a: bool


class Derived(Person):
    colour: Colour = Colour.RED


class Dated(BaseModel):
    at: datetime.datetime
    on: datetime.date
    id: uuid.UUID


class Filed(BaseModel):
    path: pathlib.Path
    site: AnyUrl


class Several(BaseModel):
    names: list[Annotated[str, Field(max_length=4)]] = Field(max_length=3)
    pair: tuple[int, bool]
    tags: set[Colour]


class Mixed(BaseModel):
    value: int | bool | None
    price: decimal.Decimal = Field(ge=0, le=10)


PYDANTIC = [
    kind.model_json_schema()
    for kind in (Address, Person, Tree, Owner, Closed, Open, Derived, Dated, Filed, Several, Mixed)
]
ADAPTED = [
    TypeAdapter(kind).json_schema()
    for kind in (
        *(Colour, bool, int | None, list[bool], Literal["a", "b", 3], dict[Literal["x", "y"], bool]),
        *(list[Person], tuple[bool, bool], Cat | Dog),
    )
]
STRING, SHORT = {"type": "string"}, {"type": "string", "maxLength": 6}
INT = {"type": "integer", "minimum": 0, "maximum": 99}


def of(properties: dict[str, Any], **more: Any) -> dict[str, Any]:
    return {"type": "object", "properties": properties, "required": list(properties), **more}


OPENAI: list[dict[str, Any]] = [
    of(
        {
            "steps": {"type": "array", "maxItems": 2, "items": of({"explanation": SHORT, "output": SHORT})},
            "final": SHORT,
        }
    ),
    of({"title": SHORT, "authors": {"type": "array", "items": SHORT, "maxItems": 2}, "abstract": SHORT}),
    of({"is_violating": {"type": "boolean"}, "category": {"type": ["string", "null"], "enum": ["violence", None]}}),
    of(
        {
            "type": {"type": "string", "enum": ["div", "button"]},
            "label": SHORT,
            "children": {"type": "array", "maxItems": 0},
        }
    ),
    of({"location": SHORT, "unit": {"type": "string", "enum": ["c", "f"]}}, additionalProperties=False),
    of({"linked": {"anyOf": [{"$ref": "#/$defs/n"}, {"type": "null"}]}}, **{"$defs": {"n": of({"v": INT})}}),
]
BENCH: list[dict[str, Any]] = [
    {"type": "object"},
    {"type": "object", "properties": {}},
    of({"a": {"type": "string", "format": "int32", "maxLength": 4}}),
    of({"a": {"type": "string", "format": "uri-reference", "maxLength": 4}}),
    of({"a": {"type": "string", "format": "date-time"}}),
    of({"a": {"type": "string", "format": "email"}}),
    of({"a": {"type": "string", "format": "ipv4"}}),
    of({"a": {"type": "array", "items": INT, "uniqueItems": True, "maxItems": 1}}),
    of({"a": {"type": "array", "items": INT, "minItems": 2, "maxItems": 3}}),
    of({"a": {"type": "array", "prefixItems": [INT, {"type": "boolean"}], "items": False}}),
    {
        "$schema": "http://json-schema.org/draft-07/schema#",
        "type": "array",
        "items": [INT, SHORT],
        "additionalItems": False,
        "minItems": 2,
    },
    of({"a": {"type": "integer", "multipleOf": 5, "minimum": 0, "maximum": 50}}),
    of({"a": {"type": "number", "exclusiveMinimum": 0, "exclusiveMaximum": 1}}),
    of({"a": {"const": {"x": [1, None]}}}),
    of({"a": {"enum": [1, "two", None, True, {"three": 3}]}}),
    of({"a": {"type": ["integer", "null"], "minimum": 0, "maximum": 9}}),
    of({"a": SHORT}, additionalProperties=INT, maxProperties=1),
    of({"a": SHORT}, patternProperties={"^x_": INT}, additionalProperties=False),
    {"type": "object", "properties": {"a": INT}, "anyOf": [{"required": ["a"]}]},
    {"allOf": [of({"a": INT}), of({"b": SHORT})]},
    {"allOf": [{"$ref": "#/definitions/x"}, of({"c": INT})], "definitions": {"x": of({"a": INT})}},
    {"anyOf": [of({"a": INT}), of({"b": INT})]},
    {"oneOf": [of({"kind": {"const": "a"}}), of({"kind": {"const": "b"}})]},
    of({"a": {"oneOf": [{"type": "boolean"}, {"type": "null"}]}}),
    {"$ref": "#/definitions/node", "definitions": {"node": of({"v": INT}, additionalProperties=False)}},
    {
        "$schema": "http://json-schema.org/draft-07/schema#",
        "$id": "http://example.com/x",
        "title": "t",
        **of({"a": INT}),
    },
    of({"a": {"type": "boolean", "description": "d", "default": True, "examples": [False], "deprecated": True}}),
    of({"a": {"type": "string", "pattern": "^[a-c]{2,4}$"}}),
    of({"a": {"type": "string", "pattern": "^(19|20)\\d\\d$"}}),
    of({"a": {"type": "string", "minLength": 2, "maxLength": 5}}),
    of({"a": {"type": "object", "additionalProperties": False}}),
    of({"a": of({"b": of({"c": of({"d": {"type": "boolean"}})})})}),
    of({"größe": INT, "with space": INT, 'quote"d': INT}),
    {"type": "integer", "minimum": -5, "maximum": 5},
    {"type": "string", "enum": ["only"]},
    {"type": "null"},
    of({"a": INT}, unevaluatedProperties=False),
    {"type": "object", "properties": {"a": INT, "b": INT}, "required": ["a"], "nullable": True, "x-order": 1},
    of({"a": {"$ref": "#/properties/b"}, "b": {"type": "boolean"}}),
]
SCHEMAS = [*PYDANTIC, *ADAPTED, *OPENAI, *BENCH]
# What llguidance cannot express, and the path that the refusal names.
REFUSED: list[tuple[dict[str, Any], str]] = [
    (of({"a": {"not": STRING}}), "properties.a"),
    (
        of({"a": {"type": "array", "items": of({"b": {"if": STRING, "then": SHORT}})}}),
        "properties.a.items.properties.b",
    ),
    (of({"a": {"type": "array", "contains": INT}}), "properties.a"),
    (of({"a": {"type": "string", "pattern": "^(?!x)"}}), "properties.a"),
    (of({"a": of({"b": INT}, dependentRequired={"b": ["c"]})}), "properties.a"),
    (of({"a": {"$ref": "#/$defs/missing"}}), "properties.a"),
    (of({"a": {"anyOf": [SHORT, {"propertyNames": SHORT}]}}), "properties.a.anyOf.1"),
]
