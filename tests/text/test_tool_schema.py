"""Functions as tools: their schema comes from the signature and the docstring."""

from __future__ import annotations

import enum
from collections.abc import Callable, Sequence
from typing import Annotated, Any, Literal

import pytest

from trilens.errors import RequestRefused
from trilens.text.tool_schema import described, schemas_of


class Unit(enum.Enum):
    C = "celsius"
    F = "fahrenheit"


def one(hint: Any) -> Any:
    """The schema of one argument with this hint."""

    def tool(value: Any) -> None: ...

    tool.__annotations__ = {"value": hint}
    return described(tool)["function"]["parameters"]["properties"]["value"]


@pytest.mark.parametrize(
    ("hint", "schema"),
    [
        (str, {"type": "string"}),
        (int, {"type": "integer"}),
        (float, {"type": "number"}),
        (bool, {"type": "boolean"}),
        (Any, {}),
        (list, {"type": "array"}),
        (list[int], {"type": "array", "items": {"type": "integer"}}),
        (Sequence[str], {"type": "array", "items": {"type": "string"}}),
        (dict, {"type": "object"}),
        (dict[str, float], {"type": "object", "additionalProperties": {"type": "number"}}),
        (int | None, {"anyOf": [{"type": "integer"}, {"type": "null"}]}),
        (Literal["a", 1], {"enum": ["a", 1]}),
        (Unit, {"enum": ["celsius", "fahrenheit"]}),
        (Annotated[str, "A city."], {"type": "string", "description": "A city."}),
        (list[list[bool]], {"type": "array", "items": {"type": "array", "items": {"type": "boolean"}}}),
    ],
)
def test_types(hint: Any, schema: dict[str, Any]) -> None:
    assert one(hint) == schema


def test_a_function_with_a_docstring() -> None:
    def get_weather(city: str, days: int = 1) -> str:
        """The weather in a city.

        Args:
            city: where to look
            days (int): how far ahead
        """
        return city * days

    assert described(get_weather) == {
        "type": "function",
        "function": {
            "name": "get_weather",
            "description": "The weather in a city.",
            "parameters": {
                "type": "object",
                "properties": {
                    "city": {"type": "string", "description": "where to look"},
                    "days": {"type": "integer", "description": "how far ahead"},
                },
                "required": ["city"],
                "additionalProperties": False,
            },
        },
    }


def test_schemas_are_taken_as_they_are() -> None:
    schema = {"type": "object", "properties": {"x": {"type": "integer"}}}
    function = {"name": "f", "description": "", "parameters": schema}
    wanted = {"type": "function", "function": function}
    assert described(wanted) == described(function) == described({"name": "f", "input_schema": schema}) == wanted
    assert schemas_of([wanted]) == {"f": schema}


def variable(*values: int) -> None: ...


def strange(value: Callable[[], int]) -> None: ...


@pytest.mark.parametrize("tool", [variable, strange, 3, {"description": "no name"}, {"name": "f", "parameters": 3}])
def test_what_is_no_tool_is_refused(tool: Any) -> None:
    with pytest.raises(RequestRefused, match="tool"):
        described(tool)


def test_two_of_one_name_are_refused() -> None:
    tool = described({"name": "f"})
    with pytest.raises(RequestRefused, match="two tools have the name 'f'"):
        schemas_of([tool, tool])
