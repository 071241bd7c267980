"""A caller's JSON schema -> the schema that is enforced: with closed objects, and without the keywords that are
ignored.

An object that lists its properties has no others, unless the schema says so (`additionalProperties`,
`patternProperties`). According to JSON Schema it could have any, and a small model would invent more until its tokens
run out. Unknown formats are annotations, and `uniqueItems` cannot be enforced token by token. Both are removed and
reported.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

Schema = Any  # an object, or true or false
Path = tuple[str, ...]

OF_NAMES = ("properties", "patternProperties", "$defs", "definitions", "dependentSchemas")  # their values are schemas
OF_SCHEMAS = ("allOf", "anyOf", "oneOf", "prefixItems")
SINGLE = (
    *("items", "additionalItems", "contains", "additionalProperties", "propertyNames", "unevaluatedProperties"),
    *("unevaluatedItems", "not", "if", "then", "else"),
)
OPENING = ("patternProperties", "unevaluatedProperties")
MOST_REFS = 64  # that are followed from one to the next


@dataclass(frozen=True)
class Followed:
    """`ignored` names the keywords that were ignored, each with its path and its value."""

    schema: Schema
    ignored: tuple[str, ...]


def followed(schema: Schema, knows_format: Callable[[str], bool]) -> Followed:
    """The schema that an answer follows. `knows_format` says whether a string's format can be held."""
    if isinstance(schema, Mapping):
        schema = {key: value for key, value in schema.items() if key != "x-guidance"}  # options of llguidance itself
    reading = _Reading(schema, knows_format)
    return Followed(reading.closed(schema, ()), tuple(reading.ignored))


def dotted(path: Path) -> str:
    """For a message: a name or a path that is long is cut."""
    return ".".join(f"{part:.40}" for part in path)[:200]


def inner(schema: Schema) -> Iterator[tuple[Path, Schema]]:
    """The schemas directly inside this one, with their paths from it."""
    if not isinstance(schema, Mapping):
        return
    for key, value in schema.items():
        if key in OF_NAMES and isinstance(value, Mapping):
            yield from (((key, name), one) for name, one in value.items())
        elif isinstance(value, list) and (key in OF_SCHEMAS or key == "items"):
            yield from (((key, str(i)), one) for i, one in enumerate(value))
        elif key in SINGLE and isinstance(value, Mapping):
            yield (key,), value


class _Reading:
    def __init__(self, root: Schema, knows_format: Callable[[str], bool]) -> None:
        self.ignored: list[str] = []
        self._root = root
        self._knows_format = knows_format
        self._open: set[str] = (
            set()
        )  # definitions that are part of something composed, and say only some of its properties
        before = -1
        while len(self._open) > before:  # one that is open opens those that it refers to
            before = len(self._open)
            self._collect(root)

    def closed(self, schema: Schema, path: Path, open_: bool = False) -> Schema:
        """`open_`: another schema around it says which properties there are."""
        if not isinstance(schema, Mapping):
            return schema
        made = _with_listed_names(schema)
        if made.get("uniqueItems") is not None:
            if made["uniqueItems"] is not False:
                self.ignored.append(f"{dotted((*path, 'uniqueItems'))}")
            del made["uniqueItems"]
        if isinstance(made.get("format"), str) and not self._knows_format(made["format"]):
            self.ignored.append(f'{dotted((*path, "format"))} "{made["format"]:.40}"')
            del made["format"]
        composed = self._composed(made)
        for where, one in inner(made):
            in_place = where[0] in ("allOf", "anyOf", "oneOf")
            beneath = self.closed(one, (*path, *where), in_place and (open_ or composed))
            if len(where) == 1:
                made[where[0]] = beneath
            elif isinstance(made[where[0]], list):
                made[where[0]] = _put(made[where[0]], int(where[1]), beneath)
            else:
                made[where[0]] = {**made[where[0]], where[1]: beneath}
        if open_ or "/".join(("#", *path)) in self._open or not (composed or "properties" in made):
            return made
        names = self._names(made)
        if names:
            stated = made.get("properties")
            own = stated if isinstance(stated, Mapping) else {}
            made["properties"] = {**own, **{name: {} for name in names if name not in own}}
            made["additionalProperties"] = False
            if made.get("unevaluatedProperties") is False:
                del made["unevaluatedProperties"]  # it says the same
        elif names is not None and made.get("properties") == {} and not composed:
            made["additionalProperties"] = False
        return made

    def _composed(self, schema: Mapping[str, Any]) -> bool:
        """Whether more than one schema says which properties the same object has."""
        parts = ("properties" in schema) + ("anyOf" in schema) + ("oneOf" in schema)
        parts += len(schema["allOf"]) if isinstance(schema.get("allOf"), list) else 0
        ref = schema.get("$ref")
        return parts + (ref is not None) > 1 or (isinstance(ref, str) and ref in self._open)

    def _collect(self, root: Schema) -> None:
        waiting: list[tuple[Schema, bool, str]] = [(root, False, "#")]
        while waiting:
            one, part, pointer = waiting.pop()
            if not isinstance(one, Mapping):
                continue
            part = part or pointer in self._open
            composed = self._composed(one)
            ref = one.get("$ref")
            if isinstance(ref, str) and (part or (composed and ref not in self._open)):
                self._open.add(ref)
            for where, beneath in inner(one):
                in_place = where[0] in ("allOf", "anyOf", "oneOf")
                waiting.append((beneath, in_place and (part or composed), "/".join((pointer, *where))))

    def _names(self, schema: Schema, depth: int = 0) -> list[str] | None:
        """The properties that an object of this schema can have; None where it says that there may be others."""
        if not isinstance(schema, Mapping):
            return []
        if any(schema.get(key) not in (None, False) for key in OPENING) or depth > MOST_REFS:
            return None
        if schema.get("additionalProperties") not in (None, False):
            return None
        properties, required = schema.get("properties"), schema.get("required")
        names = list(properties) if isinstance(properties, Mapping) else []
        names += [name for name in required if isinstance(name, str)] if isinstance(required, list) else []
        parts = [one for where, one in inner(schema) if where[0] in ("allOf", "anyOf", "oneOf")]
        if "$ref" in schema:
            target = self._target(schema["$ref"])
            if target is None:
                return None
            parts.append(target)
        for part in parts:
            more = self._names(part, depth + 1)
            if more is None:
                return None
            names += more
        return list(dict.fromkeys(names))

    def _target(self, ref: Any) -> Schema | None:
        if not isinstance(ref, str) or not ref.startswith("#"):
            return None
        found = self._root
        for part in ref[1:].split("/")[1:]:
            name = part.replace("~1", "/").replace("~0", "~")
            found = found.get(name) if isinstance(found, Mapping) else None
        return found


def _with_listed_names(schema: Mapping[str, Any]) -> dict[str, Any]:
    """A copy in which names that `propertyNames` lists, as for a dictionary with an enumeration's keys, are
    properties."""
    made = dict(schema)
    names, of = made.get("propertyNames"), made.get("additionalProperties")
    if isinstance(names, Mapping) and isinstance(names.get("enum"), list) and isinstance(of, Mapping):
        listed = {name: of for name in names["enum"] if isinstance(name, str)}
        del made["propertyNames"]
        made |= {"properties": {**listed, **made.get("properties", {})}, "additionalProperties": False}
    return made


def _put(values: list[Any], at: int, value: Any) -> list[Any]:
    return [*values[:at], value, *values[at + 1 :]]
