"""Values inside a tool call, read as they come: JSON, Python literals and looser objects -> JSON text.

The readers are generators that yield where they need more text, so that they read the same wherever it is cut.
"""

from __future__ import annotations

import ast
import json
import re
from collections.abc import Callable, Generator, Mapping
from typing import Any

from trilens.text.stream import partial
from trilens.text.tool_cursor import Cursor, Cut, NoCall, Wait
from trilens.text.tool_formats import KEY, Tagged

MOST_DEPTH = 64  # of lists and objects in a value
WORDS = {"true": "true", "True": "true", "false": "false", "False": "false", "null": "null", "None": "null"}
ESCAPES = {"n": "\n", "t": "\t", "r": "\r", "b": "\b", "f": "\f", "a": "\a", "v": "\v", "0": "\0", "\n": ""}
NUMBER = re.compile(r"[-+]?[\d._]*(?:[eE][-+]?\d*)?")
JSON_NUMBER = re.compile(r"-?(?:0|[1-9]\d*)(?:\.\d+)?(?:[eE][-+]?\d+)?")
WORD = re.compile(r"[A-Za-z_][\w.\-]*")

Put = Callable[[str], None]


def json_string(text: str) -> str:
    """As it stands inside a JSON string."""
    return json.dumps(text, ensure_ascii=False)[1:-1]


def value(cursor: Cursor, put: Put, quote: str | None = None, depth: int = 0) -> Wait:
    """One value. `quote` stands around strings that have no escapes, where a form has such."""
    first = yield from cursor.next()
    if not first:
        raise Cut
    if quote is not None and first == quote[0] and (yield from cursor.comes(quote, True)):
        yield from quoted(cursor, put, quote)
    elif first in "\"'":
        yield from string(cursor, put)
    elif first in ("{", "[", "("):
        if depth >= MOST_DEPTH:
            raise NoCall
        if first == "{":
            yield from members(cursor, put, quote, depth)
        else:
            yield from items(cursor, put, quote, depth)
    elif first.isdigit() or first in "-+.":
        number = yield from cursor.matched(NUMBER)
        if cursor.at == len(cursor.text) and not number[-1:].isdigit():
            raise Cut
        put(_number(number))
    else:
        word = yield from cursor.matched(WORD)
        if word not in WORDS:
            cut = cursor.at == len(cursor.text) and any(known.startswith(word) for known in WORDS)
            raise Cut if cut else NoCall
        put(WORDS[word])


def members(cursor: Cursor, put: Put, quote: str | None = None, depth: int = 0) -> Wait:
    """An object; its keys may be bare."""
    yield from cursor.space()
    yield from cursor.take("{")
    put("{")
    first = True
    while (yield from cursor.next()) != "}":
        name = yield from key(cursor, quote)
        yield from cursor.space()
        yield from cursor.take(":")
        put(("" if first else ", ") + json.dumps(name, ensure_ascii=False) + ": ")
        yield from value(cursor, put, quote, depth + 1)
        first = False
        if (yield from cursor.next()) != "}":
            yield from cursor.take(",")
    yield from cursor.take("}")
    put("}")


def items(cursor: Cursor, put: Put, quote: str | None, depth: int) -> Wait:
    """A list or a tuple."""
    close = "]" if cursor.text[cursor.at] == "[" else ")"
    cursor.at += 1
    put("[")
    first = True
    while (yield from cursor.next()) != close:
        if not first:
            put(", ")
        yield from value(cursor, put, quote, depth + 1)
        first = False
        if (yield from cursor.next()) != close:
            yield from cursor.take(",")
    yield from cursor.take(close)
    put("]")


def key(cursor: Cursor, quote: str | None = None) -> Generator[None, None, str]:
    """The key of a member."""
    first = yield from cursor.next()
    parts: list[str] = []
    if quote is not None and first == quote[0] and (yield from cursor.comes(quote, True)):
        yield from quoted(cursor, parts.append, quote)
    elif first and first in "\"'":
        yield from string(cursor, parts.append)
    else:
        return (yield from cursor.matched(WORD))
    return str(json.loads("".join(parts)))


def string(cursor: Cursor, put: Put) -> Wait:
    """A string in single or double quotes, as JSON or Python write it."""
    close = cursor.text[cursor.at]
    plain = re.compile(rf"[^\\{close}]+")
    cursor.at += 1
    put('"')
    while (found := (yield from cursor.next(behind_space=False))) != close:
        if not found:
            raise Cut
        if found == "\\":
            put((yield from _escape(cursor)))
        else:
            begin = cursor.at
            run = plain.match(cursor.text, begin)
            cursor.at = begin + 1 if run is None else run.end()
            put(json_string(cursor.text[begin : cursor.at]))
    cursor.at += 1
    put('"')


def quoted(cursor: Cursor, put: Put, close: str) -> Wait:
    """A string without escapes, up to `close`."""
    put('"')
    while (end := cursor.text.find(close, cursor.at)) < 0:
        ready = len(cursor.text) - partial(cursor.rest, (close,))
        put(json_string(cursor.text[cursor.at : ready]))
        cursor.at = ready
        yield from cursor.more()
    put(json_string(cursor.text[cursor.at : end]) + '"')
    cursor.at = end + len(close)


def _escape(cursor: Cursor) -> Generator[None, None, str]:
    """What a backslash and what follows it stand for, inside a JSON string."""
    while len(cursor.text) < cursor.at + 2:
        yield from cursor.more()
    letter = cursor.text[cursor.at + 1]
    if letter in "ux":
        return json_string((yield from _code(cursor, 4 if letter == "u" else 2)))
    cursor.at += 2
    if letter in "\\/\"'":
        return json_string(letter)
    return json_string(ESCAPES.get(letter, "\\" + letter))


def _code(cursor: Cursor, digits: int) -> Generator[None, None, str]:
    """A character by its number; the two halves of one beyond 16 bits come as two escapes."""
    code = yield from _digits(cursor, digits)
    if 0xD800 <= code < 0xDC00:
        start = cursor.at
        try:
            if (yield from cursor.comes("\\u")):
                cursor.at -= 2
                low = yield from _digits(cursor, 4)
                if 0xDC00 <= low < 0xE000:
                    return chr(0x10000 + ((code - 0xD800) << 10) + low - 0xDC00)
        except NoCall:
            pass
        cursor.at = start
    return chr(code) if not 0xD800 <= code < 0xE000 else "\ufffd"  # half a character is none


def _digits(cursor: Cursor, count: int) -> Generator[None, None, int]:
    while len(cursor.text) < cursor.at + 2 + count:
        yield from cursor.more()
    digits = cursor.text[cursor.at + 2 : cursor.at + 2 + count]
    if any(digit not in "0123456789abcdefABCDEF" for digit in digits):
        raise NoCall
    cursor.at += 2 + count
    return int(digits, 16)


def _number(text: str) -> str:
    if JSON_NUMBER.fullmatch(text):
        return text
    try:
        return json.dumps(ast.literal_eval(text), allow_nan=False)
    except (ValueError, SyntaxError):
        raise NoCall from None


# ------------------------------------------------------------------------------------------ values without a type


def referred(schema: Any, root: Any) -> Any:
    """The schema itself, or the one in `root` that it refers to."""
    for _ in range(8):
        if not isinstance(schema, Mapping) or not isinstance(reference := schema.get("$ref"), str):
            return schema
        schema = root
        for part in reference.removeprefix("#").strip("/").split("/"):
            schema = schema.get(part) if isinstance(schema, Mapping) else None
    return None


def kinds_of(schema: Any, root: Any = None, depth: int = 0) -> tuple[str, ...]:
    """JSON types that a schema allows, in its order; () where it says nothing."""
    root = schema if root is None else root
    schema = referred(schema, root)
    if not isinstance(schema, Mapping) or depth > 8:
        return ()
    stated = schema.get("type")
    found = [stated] if isinstance(stated, str) else [k for k in stated if isinstance(k, str)] if stated else []
    for union in ("anyOf", "oneOf", "allOf"):
        for choice in schema.get(union) or ():
            found += kinds_of(choice, root, depth + 1)
    if not found:
        values = [*(schema.get("enum") or ()), *([schema["const"]] if "const" in schema else ())]
        names = {str: "string", bool: "boolean", int: "integer", float: "number", type(None): "null", dict: "object"}
        found = [names.get(type(one), "array") for one in values]
    return tuple(dict.fromkeys(found))


def member_of(schema: Any, name: str, root: Any) -> Any:
    """The schema of a member of an object; None where it is not described."""
    schema = referred(schema, root)
    properties = schema.get("properties") if isinstance(schema, Mapping) else None
    return properties.get(name) if isinstance(properties, Mapping) else None


def of_kind(text: str, kinds: tuple[str, ...]) -> str:
    """JSON text for a value that was written without its type: the first kind that it can be, else a string."""
    bare = text.strip()
    for kind in kinds or ("null", "boolean", "number", "object", "array"):
        match kind:
            case "string":
                if bare in ("null", "None") and "null" in kinds:
                    return "null"
                break
            case "integer" | "number":
                if JSON_NUMBER.fullmatch(bare) and (kind == "number" or float(bare).is_integer()):
                    return bare if kind == "number" or bare.lstrip("-").isdigit() else str(int(float(bare)))
            case "boolean":
                if bare.lower() in ("true", "false"):
                    return bare.lower()
            case "null":
                if bare in ("null", "None"):
                    return "null"
            case "object" | "array":
                if bare[:1] == ("{" if kind == "object" else "[") and (made := literal(bare)) is not None:
                    return made
            case _:  # no type of JSON
                pass
    return json.dumps(text, ensure_ascii=False)


def nested(text: str, tags: Tagged, schema: Any, root: Any, depth: int = 0) -> str:
    """JSON text of a list or an object each of whose members has text around it, or of a value without."""
    before, middle = tags.open.partition(KEY)[0], tags.middle
    rest = text.strip()
    if not rest.startswith(before) or depth > MOST_DEPTH:
        return of_kind(text, kinds_of(schema, root))
    described = referred(schema, root)
    found: list[tuple[str, str]] = []
    while rest:
        name, at, inner = rest.removeprefix(before).partition(middle)
        close = tags.close.replace(KEY, name)
        end = _matching(inner, before + name + middle, close)
        if not rest.startswith(before) or not at or end < 0:
            return json.dumps(text, ensure_ascii=False)
        items = described.get("items") if isinstance(described, Mapping) else None
        inside = items if name == tags.item and items is not None else member_of(described, name, root)
        found.append((name, nested(inner[:end], tags, inside, root, depth + 1)))
        rest = inner[end + len(close) :].strip()
    if all(name == tags.item for name, _ in found):
        return "[" + ", ".join(made for _, made in found) + "]"
    return "{" + ", ".join(f"{json.dumps(name, ensure_ascii=False)}: {made}" for name, made in found) + "}"


def _matching(text: str, open_: str, close: str) -> int:
    """Where the one that is open closes, others like it inside."""
    at, depth = 0, 1
    while (end := text.find(close, at)) >= 0:
        depth += text.count(open_, at, end) - 1
        if not depth:
            return end
        at = end + len(close)
    return -1


def literal(text: str) -> str | None:
    """JSON text of a JSON or Python literal; None if it is none."""
    cursor, parts = Cursor(), list[str]()
    cursor.text, cursor.ended = text, True
    try:
        for _ in value(cursor, parts.append):
            pass
    except NoCall:
        return None
    return "".join(parts) if not cursor.rest.strip() else None
