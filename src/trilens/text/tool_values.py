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

MOST_DEPTH = 64  # of lists and objects in a value
MOST_KEY = 256  # characters in a key, and in any other short part of a call
MOST_NUMBER = 4096  # digits
WORDS = {"true": "true", "True": "true", "false": "false", "False": "false", "null": "null", "None": "null"}
ESCAPES = {"n": "\n", "t": "\t", "r": "\r", "b": "\b", "f": "\f", "a": "\a", "v": "\v", "0": "\0", "\n": ""}
NUMBER = re.compile(r"[-+]?[\d._]*(?:[eE][-+]?\d*)?")
JSON_NUMBER = re.compile(r"-?(?:0|[1-9]\d*)(?:\.\d+)?(?:[eE][-+]?\d+)?")
WORD = re.compile(r"[A-Za-z_][\w.\-]*")

Wait = Generator[None, None, None]
Put = Callable[[str], None]


class NoCall(Exception):
    """What is there is not what a call has here."""


class Cut(NoCall):
    """The text ends before it is whole."""


class Cursor:
    """Text that is still coming, and a place in it."""

    def __init__(self) -> None:
        self.text = ""
        self.at = 0
        self.ended = False

    @property
    def rest(self) -> str:
        return self.text[self.at :]

    def more(self) -> Wait:
        """Wait for more text. Raises Cut where no more comes."""
        if self.ended:
            raise Cut
        yield

    def space(self) -> Wait:
        """Go behind white space."""
        while True:
            while self.at < len(self.text) and self.text[self.at].isspace():
                self.at += 1
            if self.at < len(self.text) or self.ended:
                return
            yield

    def next(self, behind_space: bool = True) -> Generator[None, None, str]:
        """The character that comes next, which stays; "" at the end."""
        if behind_space:
            yield from self.space()
        while self.at >= len(self.text):
            if self.ended:
                return ""
            yield
        return self.text[self.at]

    def take(self, text: str) -> Wait:
        """Go behind this text, which has to come next."""
        while not self.text.startswith(text, self.at):
            if not text.startswith(self.text[self.at : self.at + len(text)]):
                raise NoCall
            yield from self.more()
        self.at += len(text)

    def comes(self, text: str) -> Generator[None, None, bool]:
        """Whether this text comes next; goes behind it if so, and nowhere if not."""
        try:
            yield from self.take(text)
        except NoCall:
            return False
        return True

    def matched(self, pattern: re.Pattern[str]) -> Generator[None, None, str]:
        """The longest match from here on, once what follows it is there."""
        while True:
            found = pattern.match(self.text, self.at)
            if found is None:
                if self.at < len(self.text):
                    raise NoCall
                yield from self.more()
            elif found.end() < len(self.text) or self.ended:
                self.at = found.end()
                return found[0]
            elif len(found[0]) > MOST_NUMBER:
                raise NoCall
            else:
                yield

    def upto(self, pattern: re.Pattern[str]) -> Generator[None, None, str]:
        """What stands before the first match of this pattern, which is not taken; it is not empty."""
        while (found := pattern.search(self.text, self.at)) is None:
            if len(self.text) - self.at > 2 * MOST_KEY:
                raise NoCall
            yield from self.more()
        if not self.at < found.start() <= self.at + MOST_KEY:
            raise NoCall
        start, self.at = self.at, found.start()
        return self.text[start : self.at]

    def until(self, text: str, most: int = MOST_KEY) -> Generator[None, None, str]:
        """What stands before this text, which is not taken."""
        while (found := self.text.find(text, self.at)) < 0:
            if len(self.text) - self.at > most + len(text):
                raise NoCall
            yield from self.more()
        if found - self.at > most:
            raise NoCall
        start, self.at = self.at, found
        return self.text[start:found]


def json_string(text: str) -> str:
    """As it stands inside a JSON string."""
    return json.dumps(text, ensure_ascii=False)[1:-1]


def value(cursor: Cursor, put: Put, quote: str | None = None, depth: int = 0) -> Wait:
    """One value. `quote` stands around strings that have no escapes, where a form has such."""
    first = yield from cursor.next()
    if not first:
        raise Cut
    if quote is not None and first == quote[0] and (yield from cursor.comes(quote)):
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
        put(_number((yield from cursor.matched(NUMBER))))
    else:
        word = yield from cursor.matched(WORD)
        if word not in WORDS:
            raise NoCall
        put(WORDS[word])


def members(cursor: Cursor, put: Put, quote: str | None = None, depth: int = 0) -> Wait:
    """An object; its keys may be bare."""
    yield from cursor.space()
    yield from cursor.take("{")
    put("{")
    first = True
    while (yield from cursor.next()) != "}":
        name = yield from key(cursor, quote)
        put(("" if first else ", ") + json.dumps(name, ensure_ascii=False) + ": ")
        yield from cursor.space()
        yield from cursor.take(":")
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
    if quote is not None and first == quote[0] and (yield from cursor.comes(quote)):
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
            run = plain.match(cursor.text, cursor.at)
            assert run is not None
            cursor.at = run.end()
            put(json_string(run[0]))
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
