"""Text as it comes -> calls of tools in a model's own form, and the text around them."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Generator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from trilens.text.stream import partial
from trilens.text.tool_formats import (
    ANY,
    ID,
    KEY,
    NAME,
    NUMBER,
    Json,
    Keywords,
    Loose,
    Tagged,
    ToolFormat,
    units,
)
from trilens.text.tool_values import (
    WORD,
    Cursor,
    Cut,
    NoCall,
    Wait,
    json_string,
    key,
    kinds_of,
    literal,
    members,
    of_kind,
    string,
    value,
)

IDS = re.compile(r"[\w.:\-]+")
DIGITS = re.compile(r"\d+")
BETWEEN_BARE = ",;"  # calls that nothing marks may follow each other with these between them
LINE_END = re.compile(r"\n\s*$")
LETTERS = re.compile(r"[\w.\-]")


@dataclass(frozen=True)
class Called:
    """A call begins."""

    name: str
    id: str | None  # as the model wrote it


@dataclass(frozen=True)
class Piece:
    """More JSON text of the newest call's arguments."""

    text: str


Found = str | Called | Piece


class CallReader:
    """Finds calls of these tools in one answer. What is no call after all stays text.

    Text in front of a call and behind it keeps no line ends that stood between the two. A call is told as soon as its
    name is certain; arguments that then break off stay as far as they came, and the rest is text again.
    """

    def __init__(self, form: ToolFormat, tools: Mapping[str, Any]) -> None:
        """`tools`: the schema of each tool's arguments, by its name."""
        self._forms = (form, *form.also)
        self._tools = tools
        self._names = sorted(tools, key=len, reverse=True)
        self._cursor = Cursor()
        self._out: list[Found] = []
        self._fresh = True  # no text yet: a call that nothing marks may come
        self._calls = 0
        self._name = ""  # of the newest call
        self._told = 0  # where what was told of it ends
        self._run = self._answer()
        next(self._run)

    def push(self, text: str) -> list[Found]:
        """What is certain with this text."""
        self._cursor.text += text
        return self._go()

    def finish(self) -> list[Found]:
        """What is left, once no more text comes."""
        self._cursor.ended = True
        return self._go()

    def _go(self) -> list[Found]:
        next(self._run, None)
        out: list[Found] = []
        for found in self._out:
            if isinstance(found, str) and out and isinstance(out[-1], str):
                out[-1] += found
            elif isinstance(found, Piece) and out and isinstance(out[-1], Piece):
                out[-1] = Piece(out[-1].text + found.text)
            elif not isinstance(found, str) or found:
                out.append(found)
        self._out = []
        return out

    # -------------------------------------------------------------------------------------------- text and sections

    def _answer(self) -> Wait:
        cursor = self._cursor
        yield  # for `__init__`
        triggers = tuple(dict.fromkeys(t for form in self._forms for t in form.triggers))
        if any(form.bare or form.prompted for form in self._forms):
            yield from self._at_start()
        while True:
            found = [(at, -len(t), t) for t in triggers if (at := cursor.text.find(t, cursor.at)) >= 0]
            if found:
                at, _, trigger = min(found)
                kept = self._before(at)
                if (yield from self._section(trigger)):
                    continue
                self._say(kept + cursor.text[at : at + 1])
                cursor.at = at + 1
                continue
            held = 0 if cursor.ended else partial(cursor.rest, triggers) if triggers else 0
            ready = len(cursor.text) - held
            if not cursor.ended:
                ready -= len(self._kept(cursor.text[cursor.at : ready]))
            self._say(cursor.text[cursor.at : ready])
            cursor.at = ready
            self._forget()
            if cursor.ended:
                return
            yield

    def _before(self, at: int) -> str:
        """Say what stands before a call that may begin at `at`, but for the line ends, which are returned."""
        text = self._cursor.text[self._cursor.at : at]
        kept = self._kept(text)
        self._say(text[: len(text) - len(kept)])
        self._cursor.at = at
        return kept

    def _kept(self, text: str) -> str:
        """White space at its end that is no text if a call follows: line ends, and all there is before any text."""
        if self._fresh and not text.strip():
            return text
        ends = LINE_END.search(text)
        return ends[0] if ends else ""

    def _say(self, text: str) -> None:
        if text:
            self._out.append(text)
            self._fresh = self._fresh and text.isspace()

    def _forget(self) -> None:
        cursor = self._cursor
        if cursor.at > 4096:
            cursor.text, cursor.at, self._told = cursor.rest, 0, 0

    def _at_start(self) -> Wait:
        """A call that nothing marks, before anything else is said."""
        cursor = self._cursor
        start = cursor.at
        for form in self._forms:
            if not (form.bare or form.prompted):
                continue
            cursor.at = start
            if (yield from self._calls_of(form, "")):
                return
        cursor.at = start

    def _section(self, trigger: str) -> Generator[None, None, bool]:
        """Calls from here on, where a marker stands. False, and at the same place, if there is none."""
        start = self._cursor.at
        for form in self._forms:
            if trigger in form.triggers:
                self._cursor.at = start
                if (yield from self._calls_of(form, trigger)):
                    return True
        self._cursor.at = start
        return False

    def _calls_of(self, form: ToolFormat, trigger: str) -> Generator[None, None, bool]:
        """Whether there was at least one call; then the cursor is behind the last."""
        cursor, before = self._cursor, self._calls
        first = form.begin + form.before + ("" if form.envelope else form.head)
        openings = [list(units(first))]
        if trigger:
            openings = [_from(openings[0], trigger)]
        elif form.prompted:
            openings.append(_from(openings[0], NAME))
        start = cursor.at
        for opening in openings:
            cursor.at = start
            if not trigger:
                yield from self._optional(form)
            if (yield from self._call(form, opening)):
                break
        following = list(units(form.between + form.before + ("" if form.envelope else form.head)))
        while self._calls > before:
            behind = cursor.at
            if form.bare and not form.between.strip():
                yield from self._bare_between()
            if not (yield from self._call(form, following)):
                cursor.at = behind
                break
        if self._calls == before:
            return False
        yield from self._maybe(units(form.end))
        yield from self._behind()
        return True

    def _optional(self, form: ToolFormat) -> Wait:
        again = True
        while again:
            again = False
            yield from self._cursor.space()
            for marker in form.optional:
                again = again or (yield from self._cursor.comes(marker))

    def _bare_between(self) -> Wait:
        while (found := (yield from self._cursor.next())) and found in BETWEEN_BARE:
            self._cursor.at += 1

    def _behind(self) -> Wait:
        """Line ends that follow a call are no text."""
        cursor = self._cursor
        while (yield from cursor.next(behind_space=False)) == "\n":
            cursor.at += 1

    def _maybe(self, literal: Any) -> Wait:
        """Go behind these units as far as they come."""
        for unit in literal:
            start = self._cursor.at
            yield from self._cursor.space()
            if not (yield from self._cursor.comes(unit)):
                self._cursor.at = start
                return

    # ------------------------------------------------------------------------------------------------------ one call

    def _call(self, form: ToolFormat, opening: Sequence[str]) -> Generator[None, None, bool]:
        """One call with what opens it; False if there is none."""
        before = self._calls
        slots: dict[str, str] = {}
        try:
            yield from self._literal(opening, slots)
            if form.envelope is not None:
                yield from _Envelope(self, form).read()
            else:
                id = form.id.replace(NAME, slots[NAME]).replace(NUMBER, slots.get(NUMBER, "0"))
                self._begin(slots[NAME], slots.get(ID) or id or None)
                yield from self._arguments(form, slots)
            yield from self._maybe(units(form.after if form.envelope else form.tail))
        except Cut:
            if self._calls == before:
                return False
            self._cursor.at = len(self._cursor.text)  # what is left is the call's, and says nothing
        except NoCall:
            if self._calls == before:
                return False
            self._cursor.at = self._told
        return True

    def _begin(self, name: str, id: str | None) -> None:
        if name not in self._tools:
            raise NoCall
        self._calls += 1
        self._fresh = False
        self._out.append(Called(name, id))
        self._name = name
        self._told = self._cursor.at

    def _put(self, text: str) -> None:
        if text:
            self._out.append(Piece(text))
            self._told = self._cursor.at

    def _literal(self, literal: Sequence[str], slots: dict[str, str]) -> Wait:
        """Take a literal, white space between its units or not, and fill the slots in it."""
        cursor = self._cursor
        for place, unit in enumerate(literal):
            if unit == NAME and NAME not in slots:
                yield from cursor.space()
                slots[NAME] = yield from self._one_of(self._names)
            elif unit == ID:
                yield from cursor.space()
                slots[ID] = yield from cursor.matched(IDS)
            elif unit == NUMBER:
                slots[NUMBER] = yield from cursor.matched(DIGITS)
            elif unit == ANY:
                yield from cursor.until(literal[place + 1])
            elif unit == NAME:
                yield from cursor.take(slots[NAME])
            else:
                yield from cursor.space()
                yield from cursor.take(unit)

    def _one_of(self, names: Sequence[str]) -> Generator[None, None, str]:
        """The longest of these that comes next."""
        cursor = self._cursor
        while True:
            rest = cursor.text[cursor.at : cursor.at + 1 + len(names[0] if names else "")]
            if not cursor.ended and any(name.startswith(rest) for name in names):
                yield
                continue
            for name in names:
                if rest.startswith(name) and not LETTERS.match(rest[len(name) :]):
                    cursor.at += len(name)
                    return name
            raise NoCall

    # ----------------------------------------------------------------------------------------------------- arguments

    def _arguments(self, form: ToolFormat, slots: dict[str, str]) -> Wait:
        match form.arguments:
            case Json():
                yield from self._object()
            case Loose(quote):
                yield from self._loose(quote)
            case Keywords():
                yield from self._keywords(form)
            case Tagged():
                yield from self._tagged(form, form.arguments)

    def _object(self, put: Callable[[str], None] | None = None) -> Wait:
        """An object; or its text as a JSON string, as some templates have it."""
        put = put or self._put
        if (first := (yield from self._cursor.next())) == '"':
            parts: list[str] = []
            yield from string(self._cursor, parts.append)
            made = literal(json.loads("".join(parts)))
            if made is None or not made.startswith("{"):
                raise NoCall
            put(made)
        elif first == "{":
            yield from members(self._cursor, put)
        else:
            raise NoCall

    def _loose(self, quote: str) -> Wait:
        cursor = self._cursor
        yield from cursor.space()
        yield from cursor.take("{")
        self._put("{")
        first = True
        while (yield from cursor.next()) != "}":
            name = yield from key(cursor, quote)
            self._put(self._lead(name, first))
            first = False
            yield from cursor.space()
            yield from cursor.take(":")
            yield from self._converted(name, quote)
            if (yield from cursor.next()) != "}":
                yield from cursor.take(",")
        yield from cursor.take("}")
        self._put("}")

    def _keywords(self, form: ToolFormat) -> Wait:
        cursor = self._cursor
        close = form.tail.strip()[:1] or ")"
        self._put("{")
        first = True
        while (yield from cursor.next()) != close:
            name = yield from cursor.matched(WORD)
            self._put(self._lead(name, first))
            first = False
            yield from cursor.space()
            yield from cursor.take("=")
            yield from self._converted(name, None)
            if (yield from cursor.next()) == ",":
                cursor.at += 1
        self._put("}")

    def _lead(self, name: str, first: bool) -> str:
        return ("" if first else ", ") + json.dumps(name, ensure_ascii=False) + ": "

    def _kinds(self, name: str) -> tuple[str, ...]:
        schema = self._tools[self._name]
        properties = schema.get("properties") if isinstance(schema, Mapping) else None
        return kinds_of(properties.get(name), schema) if isinstance(properties, Mapping) else ()

    def _converted(self, name: str, quote: str | None) -> Wait:
        """A literal; a string that the schema does not allow becomes what it allows, and so does a bare word."""
        cursor, kinds = self._cursor, self._kinds(name)
        first = yield from cursor.next()
        start, parts = cursor.at, list[str]()
        quotes = first and (first in "\"'" or (quote is not None and first == quote[0]))
        if quotes and kinds and "string" not in kinds:
            yield from value(cursor, parts.append, quote)
            self._put(of_kind(json.loads("".join(parts)), kinds))
        elif quotes or (first and first in "{[("):
            yield from value(cursor, self._put, quote)
        else:
            try:
                yield from value(cursor, parts.append, quote)
                if (yield from cursor.next()) not in (",", ")", "}", "") and not (yield from self._a_keyword()):
                    raise NoCall
                self._put("".join(parts))
            except NoCall:
                cursor.at = start
                yield from self._bare_word(kinds)

    def _a_keyword(self) -> Generator[None, None, bool]:
        """Whether key= comes next: a template forgot the comma."""
        start = self._cursor.at
        try:
            yield from self._cursor.matched(WORD)
            return (yield from self._cursor.next()) == "="
        except NoCall:
            return False
        finally:
            self._cursor.at = start

    def _bare_word(self, kinds: tuple[str, ...]) -> Wait:
        """A value without quotes: as far as the next key, or the end of the call."""
        cursor = self._cursor
        ends = re.compile(r"\s*(?:,\s*[A-Za-z_]\w*\s*=|\)\s*(?:\]|,\s*[A-Za-z_][\w.]*\()|\)\s*$)")
        while True:
            found = ends.search(cursor.text, cursor.at)
            if found is not None and (cursor.ended or found.end() < len(cursor.text)):
                break
            if cursor.ended:
                raise NoCall
            yield
        text = cursor.text[cursor.at : found.start()]
        cursor.at = found.start()
        self._put(of_kind(text, kinds))

    def _tagged(self, form: ToolFormat, tags: Tagged) -> Wait:
        cursor = self._cursor
        self._put("{")
        first, middles = True, tags.middles
        while not (yield from self._ahead(form.tail)):
            start = cursor.at
            try:
                name = yield from self._tag(tags)
            except NoCall:
                cursor.at = start
                break
            self._put(self._lead(name, first))
            first = False
            middle, kinds = yield from self._middle(middles)
            yield from self._tagged_value(form, tags, name, middle, kinds)
        self._put("}")

    def _tag(self, tags: Tagged) -> Generator[None, None, str]:
        """The key of the argument that begins here; what stands between it and its value comes next."""
        yield from self._literal(list(units(tags.open.partition(KEY)[0])), {})
        yield from self._cursor.space()
        return (yield from self._cursor.upto(tags.key_end))

    def _ahead(self, literal: str) -> Generator[None, None, bool]:
        """Whether this comes next; it is not taken."""
        start = self._cursor.at
        try:
            yield from self._literal(list(units(literal)), {})
            return bool(literal.strip())
        except NoCall:
            return False
        finally:
            self._cursor.at = start

    def _middle(
        self, middles: Sequence[tuple[str, frozenset[str]]]
    ) -> Generator[None, None, tuple[str, frozenset[str]]]:
        start = self._cursor.at
        for text, kinds in middles:
            try:
                yield from self._literal(list(units(text)), {})
                return text, kinds
            except NoCall:
                self._cursor.at = start
        raise NoCall

    def _tagged_value(
        self,
        form: ToolFormat,
        tags: Tagged,
        name: str,
        middle: str,
        stated: frozenset[str],
    ) -> Wait:
        cursor = self._cursor
        for space in _ends_in_space(middle):
            yield from cursor.comes(space)
        close = tags.close.replace(KEY, name)
        core = close.strip()
        lead = close[: len(close) - len(close.lstrip())]
        kinds = self._kinds(name)
        is_text = stated == {"string"} or (not stated and kinds == ("string",))
        if is_text:
            self._put('"')
        parts: list[str] = []
        at = cursor.at
        while True:
            end = cursor.text.find(core, at)
            if end < 0:
                held = partial(cursor.rest, (core,))
                ready = len(cursor.text) - held
            else:
                ready = end
            ready = max(cursor.at, ready - len(lead)) if lead else ready
            text = cursor.text[cursor.at : ready]
            if is_text:
                self._put(json_string(text))
            else:
                parts.append(text)
            cursor.at = ready
            if end < 0:
                if cursor.ended:
                    self._put(json_string(cursor.rest) if is_text else "".join(parts).strip())
                yield from cursor.more()
                at = cursor.at
                continue
            last = cursor.text[cursor.at : end]
            cursor.at = end + len(core)
            if (yield from self._closes(form, tags)):
                break
            cursor.at, at = end - len(last), end + len(core)
            text = cursor.text[cursor.at : at]
            if is_text:
                self._put(json_string(text))
            else:
                parts.append(text)
            cursor.at = at
        kept = last.removesuffix(lead)
        if is_text:
            self._put(json_string(kept) + '"')
            return
        whole = "".join(parts) + kept
        if stated and "string" not in stated:
            self._put(literal(whole.strip()) or of_kind(whole, tuple(stated)))
        else:
            self._put(of_kind(whole, kinds))

    def _closes(self, form: ToolFormat, tags: Tagged) -> Generator[None, None, bool]:
        """Whether a value ends here: another argument follows, or what closes the call, and not more of the value."""
        if not form.tail.strip():
            return True
        start = self._cursor.at
        try:
            if not (yield from self._cursor.next()) or (yield from self._ahead(form.tail)):
                return True
            yield from self._tag(tags)
            return True
        except NoCall:
            return False
        finally:
            self._cursor.at = start


class _Envelope:
    """A call that is one JSON object, its keys in any order."""

    def __init__(self, reader: CallReader, form: ToolFormat) -> None:
        assert form.envelope is not None
        self.reader = reader
        self.cursor = reader._cursor
        self.form = form.envelope
        self.name: str | None = None
        self.id: str | None = None
        self.held: list[str] | None = None  # arguments that came before the name
        self.begun = False

    def read(self) -> Wait:
        yield from self._members(())
        if not self.begun:
            self._begin()
            self.reader._put("".join(self.held or ["{}"]))

    def _members(self, path: tuple[str, ...]) -> Wait:
        cursor, form = self.cursor, self.form
        yield from cursor.space()
        yield from cursor.take("{")
        while (yield from cursor.next()) != "}":
            name = yield from key(cursor)
            yield from cursor.space()
            yield from cursor.take(":")
            here = (*path, name)
            if not form.name and not path:
                if name not in self.reader._tools:
                    raise NoCall
                self.name = name
                yield from self._arguments()
            elif here == form.name:
                self.name = yield from self._text()
            elif here == form.arguments or (here[:-1] == form.arguments[:-1] and name in ("arguments", "parameters")):
                yield from self._arguments()
            elif here == form.id:
                self.id = yield from self._text()
            elif any(wanted[: len(here)] == here for wanted in (form.name, form.arguments)):
                yield from self._members(here)
            else:
                yield from value(cursor, lambda text: None)
            if (yield from cursor.next()) != "}":
                yield from cursor.take(",")
        yield from cursor.take("}")

    def _arguments(self) -> Wait:
        if self.begun or self.held is not None:
            raise NoCall
        if self.name is None:
            self.held = []
            yield from self.reader._object(self.held.append)
            return
        first = yield from self.cursor.next()
        if not first or first not in '{"n':
            raise NoCall
        if first == "n":  # null: a tool without arguments
            yield from self.cursor.take("null")
            self.held = ["{}"]
        elif first == '"':
            self.held = []
            yield from self.reader._object(self.held.append)
        else:
            self._begin()
            yield from self.reader._object()

    def _begin(self) -> None:
        if self.name is None:
            raise NoCall
        self.reader._begin(self.name, self.id)
        self.begun = True

    def _text(self) -> Generator[None, None, str]:
        parts: list[str] = []
        if (found := (yield from self.cursor.next())) not in ('"', "'"):
            if not found.isdigit():
                raise NoCall
            return (yield from self.cursor.matched(DIGITS))
        yield from string(self.cursor, parts.append)
        return str(json.loads("".join(parts)))


def _from(opening: Sequence[str], trigger: str) -> list[str]:
    """An opening from where this text begins in it."""
    if trigger == NAME:
        return list(opening[opening.index(NAME) :])
    for place in range(len(opening)):
        if "".join(opening[place:]).startswith(trigger):
            return list(opening[place:])
    return list(opening)


def _ends_in_space(middle: str) -> list[str]:
    """White space that a template writes in front of a value."""
    return [middle[len(middle.rstrip()) :]] if middle[-1:].isspace() else []
