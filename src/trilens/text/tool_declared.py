"""The form of calls that a checkpoint declares itself: the `tool_calls` field of a `response_template`.

transformers (5.13 and later) reads it from tokenizer_config.json: what opens and closes a call, as text or as a regular
expression, how its body is encoded, and where name and arguments are in it. Expressions made of literal text, white
space, named groups and a choice of literals are taken apart into a form; for others there is the template itself.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

from trilens.text.tool_formats import KEY, NAME, Arguments, Envelope, Json, Keywords, Loose, Tagged, ToolFormat

MOST = 2000  # characters of an expression
VALUE = "\ue00f"  # where a value stands
GROUPS = {"name": NAME, "key": KEY, "value": VALUE}


class _Unclear(Exception):
    """A part that no form can be made of."""


def by_declaration(declared: Any) -> ToolFormat | None:
    """The form that a `response_template` declares; None if it declares none, or none that can be taken apart."""
    fields = declared.get("fields") if isinstance(declared, Mapping) else None
    calls = fields.get("tool_calls") if isinstance(fields, Mapping) else None
    if not isinstance(calls, Mapping):
        return None
    try:
        form = replace(_form(calls), source="the response template")
    except _Unclear:
        return None
    return form if form.envelope is not None or NAME in form.head else None


def _form(calls: Mapping[str, Any]) -> ToolFormat:
    first, between, opening = _opening(calls)
    close, end = _closing(calls)
    content, options = calls.get("content", "text"), calls.get("content_args")
    options = options if isinstance(options, Mapping) else {}
    name, arguments, id = _places(calls)
    if NAME in opening:
        if name != ("name",) or arguments != ("content",):
            raise _Unclear
        return ToolFormat(first, "", opening, _encoding(str(content), options), close, "", between, end)
    if content == "python-call-list":
        return ToolFormat(opening + "[", "", NAME + "(", Keywords(), ")", "", ", ", "]" + close)
    if content != "json" or options or name[:1] != ("content",) or arguments[:1] != ("content",):
        raise _Unclear
    keys = [path[1:] or default for path, default in ((name, ("name",)), (arguments, ("arguments",)))]
    envelope = Envelope(keys[0], keys[1], id[1:] if id[:1] == ("content",) else ())
    if len(keys[0]) != 1 or len(keys[1]) != 1:
        raise _Unclear
    head = f'{{"{keys[0][0]}": "{NAME}", "{keys[1][0]}": '
    if calls.get("transform_each") is True:  # one list of all calls
        return ToolFormat(opening + "[", "", head, Json(), "}", "", ", ", "]" + close, envelope)
    return ToolFormat(first, opening, head, Json(), "}", close, between, end, envelope)


def _encoding(content: str, options: Mapping[str, Any]) -> Arguments:
    match content:
        case "json":
            quotes = options.get("string_delims")
            if quotes and options.get("unquoted_keys"):
                return Loose(str(quotes[0][0]))
            return Json()
        case "xml-inline":
            before, key, rest = _text(str(options.get("tag_pattern", ""))).partition(KEY)
            middle, value, close = rest.partition(VALUE)
            if not key or not value:
                raise _Unclear
            if not before.strip() and middle == "=" and not close.strip():
                return Keywords()
            return Tagged(before + KEY, middle, close, strips="\\s" in str(options["tag_pattern"]))
        case _:
            raise _Unclear


def _places(calls: Mapping[str, Any]) -> tuple[tuple[str, ...], tuple[str, ...], tuple[str, ...]]:
    """Where a call's name, arguments and id come from: a path from "content", or a named group."""
    transform = calls.get("transform")
    if transform is None:
        return ("content",), ("content",), ()
    function = transform.get("function") if isinstance(transform, Mapping) else None
    if function == "{content}":
        return ("content", "name"), ("content", "arguments"), ()
    if not isinstance(transform, Mapping) or not isinstance(function, Mapping):
        raise _Unclear
    each = calls.get("transform_each") is True
    found = []
    for value in (function.get("name"), function.get("arguments"), transform.get("id")):
        path = tuple(value[1:-1].split(".")) if isinstance(value, str) and value[:1] == "{" else ()
        found.append(("content", *path) if each and path and path[0] != "content" else path)
    return found[0], found[1], found[2]


def _opening(calls: Mapping[str, Any]) -> tuple[str, str, str]:
    """(what stands before the first call alone, what stands before each other one alone, what opens each)."""
    if (literal := _literal(calls.get("open"))) is not None:
        return "", "", literal
    pattern = str(calls.get("open_pattern", ""))
    if (found := re.match(r"\(\?:((?:\\.|[^()\\|])*)\|((?:\\.|[^()\\|])*)\)", pattern)) is None:
        return "", "", _text(pattern)
    return _text(found[1]), _text(found[2]), _text(pattern[found.end() :])


def _closing(calls: Mapping[str, Any]) -> tuple[str, str]:
    """(what closes each call, what may follow the last)."""
    if (literal := _literal(calls.get("close"))) is not None:
        return literal, ""
    pattern = str(calls.get("close_pattern", ""))
    if (found := re.search(r"\(\?:((?:\\.|[^()\\|])*)\)\?", pattern)) is not None:
        return _text(pattern[: found.start()]), _text(found[1])
    return _text(pattern), ""


def _literal(stated: Any) -> str | None:
    """A text, or the first of a list of them."""
    first = stated[0] if isinstance(stated, list) and stated else stated
    return first if isinstance(first, str) else None


def _text(pattern: str) -> str:
    """An expression as literal text with slots; white space that may be there is a line end."""
    if len(pattern) > MOST:
        raise _Unclear
    return "".join(_pieces(pattern))


def _pieces(pattern: str) -> Iterator[str]:
    at = 0
    while at < len(pattern):
        rest = pattern[at:]
        if (group := re.match(r"\(\?P<(\w+)>", rest)) is not None:
            if group[1] not in GROUPS:
                raise _Unclear
            yield GROUPS[group[1]]
            at += _group_length(rest)
        elif (space := re.match(r"(\\s[*+?]?|\\n[*?+]?| [*?+]?|\n[*?+]?)+", rest)) is not None:
            if space[0] in (" ", "\n", "\\n"):
                yield "\n" if space[0] != " " else " "
            elif "+" in space[0]:
                yield " "
            at += space.end()
        elif rest[0] == "\\" and len(rest) > 1 and not rest[1].isalnum():
            yield rest[1]
            at += 2
        elif rest[0] in "$^":
            at += 1
        elif rest[0] in "\\.[](){}*+?|" or rest[1:2] in ("*", "+", "?", "{"):
            raise _Unclear
        else:
            yield rest[0]
            at += 1


def _group_length(text: str) -> int:
    """Characters of the group that begins here."""
    depth, at, inside = 0, 0, False
    while at < len(text):
        if text[at] == "\\":
            at += 1
        elif text[at] == "[":
            inside = True
        elif text[at] == "]":
            inside = False
        elif not inside:
            depth += {"(": 1, ")": -1}.get(text[at], 0)
            if depth == 0:
                return at + 1
        at += 1
    raise _Unclear
