"""Text as it comes -> calls of tools in a model's own form, and the text around them."""

from __future__ import annotations

import json
from collections.abc import Generator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from trilens.text.stream import partial
from trilens.text.tool_arguments import ArgumentsReader, object_or_text
from trilens.text.tool_cursor import DIGITS, Cursor, Cut, NoCall, Wait, take_units
from trilens.text.tool_formats import ID, NAME, NUMBER, ToolFormat, units
from trilens.text.tool_values import key, string, value

BETWEEN_BARE = ",;"  # calls that nothing marks may follow each other with these between them


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
        space = text[len(text.rstrip()) :]
        return space[space.find("\n") :] if "\n" in space else ""

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
            try:
                yield from self._cursor.take(unit)
            except Cut:
                self._cursor.at = len(self._cursor.text)  # the beginning of it is no text
                return
            except NoCall:
                self._cursor.at = start
                return

    # ------------------------------------------------------------------------------------------------------ one call

    def _call(self, form: ToolFormat, opening: Sequence[str]) -> Generator[None, None, bool]:
        """One call with what opens it; False if there is none."""
        before = self._calls
        slots: dict[str, str] = {}
        try:
            yield from take_units(self._cursor, opening, slots, self._names)
            if form.envelope is not None:
                yield from _Envelope(self, form).read()
            else:
                id = form.id.replace(NAME, slots[NAME]).replace(NUMBER, slots.get(NUMBER, "0"))
                self._begin(slots[NAME], slots.get(ID) or id or None)
                yield from ArgumentsReader(self._cursor, form, self._tools[slots[NAME]], self._put).read()
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
        self._told = self._cursor.at

    def _put(self, text: str) -> None:
        if text:
            self._out.append(Piece(text))
            self._told = self._cursor.at


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
            yield from object_or_text(self.cursor, self.held.append)
            return
        first = yield from self.cursor.next()
        if not first or first not in '{"n':
            raise NoCall
        if first == "n":  # null: a tool without arguments
            yield from self.cursor.take("null")
            self.held = ["{}"]
        elif first == '"':
            self.held = []
            yield from object_or_text(self.cursor, self.held.append)
        else:
            self._begin()
            yield from object_or_text(self.cursor, self.reader._put)

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
