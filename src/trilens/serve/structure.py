"""The form of an answer: the many fields that ask for a schema, a regular expression, a choice or a grammar."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

from pydantic import Field

from trilens.errors import FieldRefused, RequestRefused
from trilens.generate.grammar import SchemaRefused
from trilens.generate.schema import dotted
from trilens.serve.fields import HINT, Fields, Refused

Kind = Literal["schema", "regex", "choice", "grammar"]


@dataclass(frozen=True)
class Wanted:
    """`value`, stated by `field`: a JSON schema (None: any object), a regular expression, texts or a grammar."""

    field: str
    kind: Kind
    value: Any

    def constraint(self, model: Any, calls: Any = None) -> Any:
        """As this model's own `prepare` takes it; an answer may also be `calls`, as `offered_calls` has them. Raises
        FieldRefused, which names the part at fault."""
        try:
            return getattr(model.grammars, self.kind)(self.value, calls)
        except SchemaRefused as problem:
            place = f"{self.field}.{dotted(problem.path)}" if problem.path else self.field
            raise FieldRefused(place, f"cannot be used: {problem.said}") from None
        except RequestRefused as problem:
            raise FieldRefused(self.field, f"cannot be used: {problem}") from None

    def left_aside(self, constraint: Any) -> list[str]:
        """The schema's keywords that are not enforced."""
        return [f"{self.field}.{keyword}" for keyword in constraint.ignored]


class JsonSchema(Fields):
    name: str = ""
    schema_: dict[str, Any] | None = Field(default=None, alias="schema")
    aside: ClassVar[Mapping[str, str]] = dict.fromkeys(("strict", "description"), HINT)


class ResponseFormat(Fields):
    type: Literal["text", "json_object", "json_schema", "regex", "grammar"]
    json_schema: JsonSchema | None = None
    schema_: dict[str, Any] | None = Field(default=None, alias="schema")
    pattern: str | None = None
    grammar: str | None = None

    def wanted(self, at: str) -> Wanted | None:
        match self.type:
            case "text":
                return None
            case "json_object":
                return Wanted(f"{at}.schema" if self.schema_ else at, "schema", self.schema_)
            case "json_schema":
                if self.json_schema is None or self.json_schema.schema_ is None:
                    if self.schema_ is not None:
                        return Wanted(f"{at}.schema", "schema", self.schema_)
                    raise FieldRefused(f"{at}.json_schema.schema", "is missing")
                return Wanted(f"{at}.json_schema.schema", "schema", self.json_schema.schema_)
            case "regex":
                if self.pattern is None:
                    raise FieldRefused(f"{at}.pattern", "is missing")
                return Wanted(f"{at}.pattern", "regex", self.pattern)
            case "grammar":
                if self.grammar is None:
                    raise FieldRefused(f"{at}.grammar", "is missing")
                return Wanted(f"{at}.grammar", "grammar", self.grammar)


class Structured(Fields):
    """vLLM's field, with one of these in it."""

    json_: dict[str, Any] | None = Field(default=None, alias="json")
    json_object: bool | None = None
    regex: str | None = None
    choice: list[str] | None = None
    grammar: str | None = None
    aside: ClassVar[Mapping[str, str]] = dict.fromkeys(
        ("disable_fallback", "disable_any_whitespace", "disable_additional_properties", "backend"), HINT
    )
    refused: ClassVar[Mapping[str, Refused]] = {
        "whitespace_pattern": Refused("JSON is written without white space", ()),
        "structural_tag": Refused("use tools, or a grammar", ()),
    }


class Structures(Fields):
    """The fields of other servers for the form of a text."""

    structured_outputs: Structured | None = None
    guided_json: dict[str, Any] | None = None
    guided_regex: str | None = None
    guided_choice: list[str] | None = None
    guided_grammar: str | None = None
    json_schema: dict[str, Any] | None = None
    regex: str | None = None
    grammar: str | None = None
    also: ClassVar[Mapping[str, str]] = {"ebnf": "grammar"}
    aside: ClassVar[Mapping[str, str]] = dict.fromkeys(("guided_decoding_backend", "guided_whitespace_pattern"), HINT)
    refused: ClassVar[Mapping[str, Refused]] = {"structural_tag": Refused("use tools, or a grammar", ())}

    def stated(self) -> list[Wanted]:
        each: dict[str, tuple[Kind, Any]] = {
            "guided_json": ("schema", self.guided_json),
            "guided_regex": ("regex", self.guided_regex),
            "guided_choice": ("choice", self.guided_choice),
            "guided_grammar": ("grammar", self.guided_grammar),
            "json_schema": ("schema", self.json_schema),
            "regex": ("regex", self.regex),
            "grammar": ("grammar", self.grammar),
        }
        own = [Wanted(field, kind, value) for field, (kind, value) in each.items() if value is not None]
        return [*wanted_of(self.structured_outputs), *own]


def wanted_of(stated: Structured | None) -> list[Wanted]:
    if stated is None:
        return []
    each: dict[str, tuple[Kind, Any]] = {
        "json": ("schema", stated.json_),
        "regex": ("regex", stated.regex),
        "choice": ("choice", stated.choice),
        "grammar": ("grammar", stated.grammar),
    }
    found = [Wanted(f"structured_outputs.{k}", kind, v) for k, (kind, v) in each.items() if v is not None]
    return [*found, *([Wanted("structured_outputs.json_object", "schema", None)] if stated.json_object else [])]


def one_of(*wanted: Wanted | None) -> Wanted | None:
    """The one that is given. Raises FieldRefused if there are several."""
    stated = [one for one in wanted if one is not None]
    if len(stated) > 1:
        raise FieldRefused(
            stated[1].field, f"and {stated[0].field} both determine the form of the answer; give one of them"
        )
    return stated[0] if stated else None
