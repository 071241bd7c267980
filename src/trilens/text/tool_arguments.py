"""The arguments of a call, in whichever form they are written -> JSON text, as they come."""

from __future__ import annotations

import json
import re
from collections.abc import Generator, Sequence
from typing import Any

from trilens.text.stream import partial
from trilens.text.tool_cursor import Cursor, Cut, NoCall, Wait, take_units
from trilens.text.tool_formats import KEY, Json, Keywords, Loose, Tagged, ToolFormat, units
from trilens.text.tool_values import (
    WORD,
    Put,
    json_string,
    key,
    kinds_of,
    literal,
    member_of,
    members,
    nested,
    of_kind,
    string,
    value,
)


def object_or_text(cursor: Cursor, put: Put) -> Wait:
    """An object; or its text as a JSON string, as some templates have it."""
    if (first := (yield from cursor.next())) == '"':
        parts: list[str] = []
        yield from string(cursor, parts.append)
        made = literal(json.loads("".join(parts)))
        if made is None or not made.startswith("{"):
            raise NoCall
        put(made)
    elif first == "{":
        yield from members(cursor, put)
    else:
        raise NoCall


class ArgumentsReader:
    """One call's arguments, from the cursor's place on. Values take the schema's types where the form has none."""

    def __init__(self, cursor: Cursor, form: ToolFormat, schema: Any, put: Put) -> None:
        self.cursor = cursor
        self.form = form
        self.schema = schema
        self.put = put

    def read(self) -> Wait:
        match self.form.arguments:
            case Json():
                yield from object_or_text(self.cursor, self.put)
            case Loose(quote):
                yield from self._loose(quote)
            case Keywords():
                yield from self._keywords()
            case Tagged() as tags:
                yield from self._tagged(tags)

    def _loose(self, quote: str) -> Wait:
        cursor = self.cursor
        yield from cursor.space()
        yield from cursor.take("{")
        self.put("{")
        first = True
        while (yield from cursor.next()) != "}":
            name = yield from key(cursor, quote)
            yield from cursor.space()
            yield from cursor.take(":")
            self.put(self._lead(name, first))
            first = False
            yield from self._converted(name, quote)
            if (yield from cursor.next()) != "}":
                yield from cursor.take(",")
        yield from cursor.take("}")
        self.put("}")

    def _keywords(self) -> Wait:
        cursor = self.cursor
        close = self.form.tail.strip()[:1] or ")"
        self.put("{")
        first = True
        while (yield from cursor.next()) != close:
            name = yield from cursor.matched(WORD)
            yield from cursor.space()
            yield from cursor.take("=")
            self.put(self._lead(name, first))
            first = False
            yield from self._converted(name, None)
            if (yield from cursor.next()) == ",":
                cursor.at += 1
        self.put("}")

    def _lead(self, name: str, first: bool) -> str:
        return ("" if first else ", ") + json.dumps(name, ensure_ascii=False) + ": "

    def _kinds(self, name: str) -> tuple[str, ...]:
        return kinds_of(member_of(self.schema, name, self.schema), self.schema)

    def _converted(self, name: str, quote: str | None) -> Wait:
        """A literal; a string that the schema does not allow becomes what it allows, and so does a bare word."""
        cursor, kinds = self.cursor, self._kinds(name)
        first = yield from cursor.next()
        start, parts = cursor.at, list[str]()
        quotes = first and (first in "\"'" or (quote is not None and first == quote[0]))
        if quotes and kinds and "string" not in kinds:
            yield from value(cursor, parts.append, quote)
            self.put(of_kind(json.loads("".join(parts)), kinds))
        elif quotes or (first and first in "{[("):
            yield from value(cursor, self.put, quote)
        else:
            try:
                yield from value(cursor, parts.append, quote)
                if (yield from cursor.next()) not in (",", ")", "}", "") and not (yield from self._a_keyword()):
                    raise NoCall
                self.put("".join(parts))
            except NoCall:
                cursor.at = start
                yield from self._bare_word(kinds)

    def _a_keyword(self) -> Generator[None, None, bool]:
        """Whether key= comes next: a template forgot the comma."""
        start = self.cursor.at
        try:
            yield from self.cursor.matched(WORD)
            return (yield from self.cursor.next()) == "="
        except NoCall:
            return False
        finally:
            self.cursor.at = start

    def _bare_word(self, kinds: tuple[str, ...]) -> Wait:
        """A value without quotes: as far as the next key, or the end of the call."""
        cursor = self.cursor
        ends = re.compile(r"\s*(?:,\s*[A-Za-z_]\w*\s*=|\)\s*(?:\]|,\s*[A-Za-z_][\w.]*\()|\)\s*$)")
        while True:
            found = ends.search(cursor.text, cursor.at)
            if found is not None and (cursor.ended or found.end() < len(cursor.text)):
                break
            yield from cursor.more()
        text = cursor.text[cursor.at : found.start()]
        cursor.at = found.start()
        self.put(of_kind(text, kinds))

    def _tagged(self, tags: Tagged) -> Wait:
        cursor = self.cursor
        self.put("{")
        first, middles = True, tags.middles
        while not (yield from self._ahead(_tail(self.form.tail, tags))):
            start = cursor.at
            try:
                name = yield from self._tag(tags)
            except Cut:
                raise
            except NoCall:
                cursor.at = start
                break
            self.put(self._lead(name, first))
            first = False
            middle, kinds = yield from self._middle(middles)
            yield from self._tagged_value(tags, name, middle, kinds)
        self.put("}")

    def _tag(self, tags: Tagged) -> Generator[None, None, str]:
        """The key of the argument that begins here; what stands between it and its value comes next."""
        yield from take_units(self.cursor, list(units(tags.open.partition(KEY)[0])))
        yield from self.cursor.space()
        return (yield from self.cursor.upto(tags.key_end))

    def _ahead(self, literal: Sequence[str]) -> Generator[None, None, bool]:
        """Whether this comes next; it is not taken. Raises Cut where the text ends within it."""
        start = self.cursor.at
        try:
            yield from take_units(self.cursor, literal)
            return bool(literal)
        except Cut:
            raise
        except NoCall:
            return False
        finally:
            self.cursor.at = start

    def _middle(
        self, middles: Sequence[tuple[str, frozenset[str]]]
    ) -> Generator[None, None, tuple[str, frozenset[str]]]:
        start = self.cursor.at
        for text, kinds in middles:
            try:
                yield from take_units(self.cursor, list(units(text)))
                return text, kinds
            except NoCall:
                self.cursor.at = start
        raise NoCall

    def _tagged_value(
        self,
        tags: Tagged,
        name: str,
        middle: str,
        stated: frozenset[str],
    ) -> Wait:
        cursor = self.cursor
        if tags.strips:
            yield from cursor.space()
        elif middle[-1:].isspace():
            yield from cursor.comes(middle[len(middle.rstrip()) :])
        close = tags.close.replace(KEY, name)
        core = close.strip()
        lead = close[: len(close) - len(close.lstrip())]
        kinds = self._kinds(name)
        is_text = stated == {"string"} or (not stated and kinds == ("string",))
        if is_text:
            self.put('"')
        parts: list[str] = []
        at = cursor.at
        while True:
            end = cursor.text.find(core, at)
            if end < 0:
                held = partial(cursor.rest, (core,))
                ready = len(cursor.text) - held
            else:
                ready = end
            if tags.strips:
                ready = cursor.at + len(cursor.text[cursor.at : ready].rstrip())
            else:
                ready = max(cursor.at, ready - len(lead))
            text = cursor.text[cursor.at : ready]
            if is_text:
                self.put(json_string(text))
            else:
                parts.append(text)
            cursor.at = ready
            if end < 0:
                if cursor.ended:
                    rest = cursor.rest[: len(cursor.rest) - held].removesuffix(lead)
                    self.put(json_string(rest) if is_text else "".join([*parts, rest]).strip())
                yield from cursor.more()
                at = cursor.at
                continue
            last = cursor.text[cursor.at : end]
            cursor.at = end + len(core)
            if (yield from self._closes(tags)):
                break
            cursor.at, at = end - len(last), end + len(core)
            text = cursor.text[cursor.at : at]
            if is_text:
                self.put(json_string(text))
            else:
                parts.append(text)
            cursor.at = at
        kept = last.rstrip() if tags.strips else last.removesuffix(lead)
        if is_text:
            self.put(json_string(kept) + '"')
            return
        whole = "".join(parts) + kept
        if tags.item and whole.strip().startswith(tags.open.partition(KEY)[0]):
            self.put(nested(whole, tags, member_of(self.schema, name, self.schema), self.schema))
        elif stated and "string" not in stated:
            self.put(literal(whole.strip()) or of_kind(whole, tuple(stated)))
        else:
            self.put(of_kind(whole, kinds))

    def _closes(self, tags: Tagged) -> Generator[None, None, bool]:
        """Whether a value ends here: another argument follows, or what closes the call, and not more of the value."""
        if not self.form.tail.strip():
            return True
        start = self.cursor.at
        try:
            if not (yield from self._ahead(_tail(self.form.tail, tags))):
                yield from self._tag(tags)
            return True
        except Cut:
            return True
        except NoCall:
            return False
        finally:
            self.cursor.at = start


def _tail(tail: str, tags: Tagged) -> list[str]:
    """As much of what closes a call as tells it from what opens another argument."""
    found, opening = list(units(tail)), list(units(tags.open))
    same = next((i for i, (a, b) in enumerate(zip(found, opening, strict=False)) if a != b), len(found))
    return found[: same + 1]
