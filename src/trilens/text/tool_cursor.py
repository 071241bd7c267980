"""Text that is still coming: a place in it, and what can be taken from there on.

What takes is a generator that yields where it needs more text, so that it takes the same wherever the text is cut.
"""

from __future__ import annotations

import re
from collections.abc import Generator, Sequence

from trilens.text.tool_formats import ANY, ID, NAME, NUMBER

MOST_KEY = 256  # characters in a key, and in any other short part of a call
MOST_NUMBER = 4096  # digits
IDS = re.compile(r"[\w.:\-]+")
DIGITS = re.compile(r"\d+")
LETTERS = re.compile(r"[\w.\-]")

Wait = Generator[None, None, None]


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

    def comes(self, text: str, whole: bool = False) -> Generator[None, None, bool]:
        """Whether this text comes next; goes behind it if so, and nowhere if not. Where the text ends within it there
        is none of it, or Cut is raised if `whole`."""
        try:
            yield from self.take(text)
        except NoCall as fault:
            if whole and isinstance(fault, Cut):
                raise
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


def take_units(
    cursor: Cursor, literal: Sequence[str], slots: dict[str, str] | None = None, names: Sequence[str] = ()
) -> Wait:
    """Take a literal, white space between its units or not, and fill the slots in it; `names` are those that may stand
    in it, the longest first."""
    slots = {} if slots is None else slots
    for place, unit in enumerate(literal):
        if unit == NAME and NAME not in slots:
            yield from cursor.space()
            slots[NAME] = yield from one_of(cursor, names)
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


def one_of(cursor: Cursor, names: Sequence[str]) -> Generator[None, None, str]:
    """The longest of these that comes next."""
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
