"""Tools as a caller of the library gives them -> as chat templates read them: functions are described from their
signature and docstring, schemas are taken as they are."""

from __future__ import annotations

import enum
import inspect
import re
import types
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Annotated, Any, Literal, Union, get_args, get_origin, get_type_hints

from trilens.errors import RequestRefused, shown

TYPES: dict[Any, str] = {str: "string", int: "integer", float: "number", bool: "boolean", type(None): "null"}
LISTS: tuple[Any, ...] = (list, set, Sequence, Iterable)
# A line of a docstring about one argument: "city: where to look", "city (str): where to look", ":param city: ..."
ABOUT = re.compile(r"^[ \t]*(?::param[ \t]+)?(\w+)[ \t]*(?:\([^)]*\))?:[ \t]+(\S.*)$", re.MULTILINE)
HEADINGS = re.compile(r"^\s*(Args|Arguments|Parameters|Returns|Raises|:param)\b", re.MULTILINE)


def described(tool: Mapping[str, Any] | Callable[..., Any]) -> dict[str, Any]:
    """{"type": "function", "function": {"name", "description", "parameters"}}. Raises RequestRefused."""
    if isinstance(tool, Mapping):
        inner = tool.get("function", tool)
        if not isinstance(inner, Mapping) or not isinstance(inner.get("name"), str):
            raise RequestRefused(f"one of the tools is {shown(tool)}; expected a function, or an object with a name")
        parameters = inner.get("parameters", inner.get("input_schema"))
        if parameters is not None and not isinstance(parameters, Mapping):
            raise RequestRefused(f"the parameters of tool {inner['name']!r} are {shown(parameters)}; expected a schema")
        if not takes_object(parameters or EMPTY):
            raise RequestRefused(f"the parameters of tool {inner['name']!r} are of another type; expected an object")
        function = {key: value for key, value in inner.items() if key not in ("type", "input_schema")}
        function |= {"description": inner.get("description") or "", "parameters": dict(parameters or EMPTY)}
        return {"type": "function", "function": function}
    if not callable(tool) or not hasattr(tool, "__name__"):
        raise RequestRefused(f"one of the tools is {shown(tool)}; expected a function, or an object with a name")
    return {"type": "function", "function": _of_function(tool)}


def takes_object(parameters: Mapping[str, Any]) -> bool:
    """Whether a schema of arguments is one of an object."""
    kind = parameters.get("type", "object")
    return kind == "object" or (isinstance(kind, list) and "object" in kind)


def schemas_of(tools: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """The schemas of the arguments of such tools, by name. Raises RequestRefused where two have one name."""
    found: dict[str, Any] = {}
    for tool in tools:
        function = tool["function"]
        if function["name"] in found:
            raise RequestRefused(f"two tools have the name {function['name']!r}; tool names must be unique")
        found[function["name"]] = function["parameters"]
    return found


EMPTY: dict[str, Any] = {"type": "object", "properties": {}}  # of a tool that states no parameters


def _of_function(function: Callable[..., Any]) -> dict[str, Any]:
    name = function.__name__
    try:
        hints = get_type_hints(function, include_extras=True)
        parameters = inspect.signature(function).parameters
    except (NameError, TypeError, ValueError) as problem:
        raise RequestRefused(f"tool {name}: its signature cannot be read ({problem}); give a schema instead") from None
    doc = inspect.getdoc(function) or ""
    about = dict(ABOUT.findall(doc))
    heading = HEADINGS.search(doc)
    properties: dict[str, Any] = {}
    required = []
    for key, parameter in parameters.items():
        if parameter.kind in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD, parameter.POSITIONAL_ONLY):
            raise RequestRefused(f"tool {name}: parameter {key!r} cannot be given by name; give a schema instead")
        schema = _schema(hints.get(key, Any), f"tool {name}: parameter {key!r}")
        if key in about:
            schema = {**schema, "description": about[key].strip()}
        properties[key] = schema
        if parameter.default is parameter.empty:
            required.append(key)
    schema = {"type": "object", "properties": properties, "required": required, "additionalProperties": False}
    return {"name": name, "description": doc[: heading.start()].strip() if heading else doc, "parameters": schema}


def _schema(hint: Any, where: str) -> dict[str, Any]:
    """The JSON schema of a type hint."""
    if hint in (Any, inspect.Parameter.empty):
        return {}
    if hint in TYPES:
        return {"type": TYPES[hint]}
    origin, arguments = get_origin(hint), get_args(hint)
    if origin is Annotated:
        inner = _schema(arguments[0], where)
        said = next((one for one in arguments[1:] if isinstance(one, str)), None)
        return inner if said is None else {**inner, "description": said}
    if origin is Literal:
        return {"enum": list(arguments)}
    if origin in (Union, types.UnionType):
        return {"anyOf": [_schema(one, where) for one in arguments]}
    if (origin or hint) in LISTS:
        return {"type": "array", "items": _schema(arguments[0], where)} if arguments else {"type": "array"}
    if (origin or hint) in (dict, Mapping):
        values = {"additionalProperties": _schema(arguments[1], where)} if len(arguments) == 2 else {}
        return {"type": "object", **values}
    if isinstance(hint, type) and issubclass(hint, enum.Enum):
        return {"enum": [member.value for member in hint]}
    if hasattr(hint, "model_json_schema"):  # a model of pydantic's
        return dict(hint.model_json_schema())
    raise RequestRefused(f"{where} has the type {hint}, which is not a JSON type; give a schema instead")
