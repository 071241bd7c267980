"""How a model writes tool calls, as data: the literal text around each part of a call, and how arguments are encoded.

A format is text with slots. The slots are single characters of Unicode's private use area, so that a format can be
printed, compared and written back. White space in a literal is what the template writes; a reader takes any, or none.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cached_property
from typing import Literal

NAME, ID, NUMBER, KEY = "\ue000", "\ue001", "\ue002", "\ue003"
ANY = "\ue004"  # text that says nothing, up to the next marker; in forms that are only read
SLOTS = NAME + ID + NUMBER + KEY + ANY
# A marker such as <tool_call> or [ARGS], a run of other text, or a slot. White space may stand between any two.
UNIT = re.compile(rf"[{SLOTS}]|<[^\s<>{SLOTS}]*>?|\[[A-Z_]+\]|[\[\]{{}}]|[^\s<\[\]{{}}{SLOTS}]+")
# The same, with a word that follows it at once.
MARKER = re.compile(rf"(?:<[^\s<>{SLOTS}]*>?|\[[A-Z_]+\])\w*|[^\s<\[{{{SLOTS}]+")

Kind = Literal["string", "integer", "number", "boolean", "null", "array", "object"]


@dataclass(frozen=True)
class Envelope:
    """A call is one JSON object that holds its name and its arguments; the keys may come in any order.

    Each is a path of keys. `name` is () where the name itself is the key of the arguments.
    """

    name: tuple[str, ...]
    arguments: tuple[str, ...]
    id: tuple[str, ...] = ()


@dataclass(frozen=True)
class Json:
    """Arguments are one JSON object."""


@dataclass(frozen=True)
class Keywords:
    """Arguments are a Python call's: key=value, separated by commas."""


@dataclass(frozen=True)
class Loose:
    """An object without quotes around its keys, whose strings stand between two `quote`s and have no escapes."""

    quote: str


@dataclass(frozen=True)
class Tagged:
    """Each argument has text around it: `open` holds the key, `close` may hold it again. `typed` is what stands
    between key and value for values of each kind, where it differs; `middle` is for all others. `strips`: white space
    around a value is not part of it. `item`: where lists and objects are written with such text around each of their
    members too, the key that each item of a list has."""

    open: str
    middle: str
    close: str
    typed: tuple[tuple[Kind, str], ...] = ()
    strips: bool = False
    item: str = ""

    @cached_property
    def key_end(self) -> re.Pattern[str]:
        """What comes behind a key."""
        texts = [text for text, _ in self.middles]
        ends = {("\\s+" if text[:1].isspace() else "\\s*") + re.escape(next(units(text), "")) for text in texts}
        return re.compile("|".join(sorted(ends, key=len, reverse=True)))

    @property
    def middles(self) -> tuple[tuple[str, frozenset[str]], ...]:
        """(text between key and value, the kinds it is for; none where it says nothing), the longest first."""
        kinds: dict[str, set[str]] = {self.middle: set()}
        for kind, text in self.typed:
            kinds.setdefault(text, set()).add(kind)
        if not self.typed:
            return ((self.middle, frozenset()),)
        stated = [(text, frozenset(of)) for text, of in kinds.items() if of]
        return tuple(sorted(stated, key=lambda row: -len(row[0])))


Arguments = Json | Keywords | Loose | Tagged


@dataclass(frozen=True)
class ToolFormat:
    """One form of calls: `begin`, then each call with `between` from the second on, then `end`.

    A call is `head` (it holds NAME, and ID or NUMBER where the form has them), arguments, `tail`. With an `envelope`
    these three are one JSON object, and `before` and `after` are what stands around each.
    """

    begin: str
    before: str
    head: str
    arguments: Arguments
    tail: str
    after: str
    between: str
    end: str
    envelope: Envelope | None = None
    several: bool = True  # whether one turn can hold more than one call
    prompted: bool = False  # whether the prompt has already written what opens a call
    id: str = ""  # a call's id where it is made of its name and its number
    short_ids: bool = False  # whether the template takes only ids of nine letters and digits
    optional: tuple[str, ...] = ()  # markers that a model may write before the first call
    also: tuple[ToolFormat, ...] = field(default=(), repr=False)  # other ways in which the same model writes calls
    source: str = "the chat template"

    @cached_property
    def opening(self) -> str:
        """What stands before the name of the first call, as the template writes it."""
        whole = self.begin + self.before + ("" if self.envelope else self.head)
        return whole[: min((at for slot in SLOTS if (at := whole.find(slot)) >= 0), default=len(whole))]

    @property
    def bare(self) -> bool:
        """Whether nothing marks a call, so that only an answer's first words can be one."""
        return all(character in "[{(\"'" for character in self.opening.strip())

    @cached_property
    def triggers(self) -> tuple[str, ...]:
        """Text of which each piece may open a call: models leave out an outer marker."""
        if self.bare:
            return ()
        markers = [marker for marker in MARKER.findall(self.opening) if any(map(str.isalpha, marker))]
        first = markers[0] if markers else self.opening.split()[0]
        lead = self.opening.strip().partition(first)[0]
        whole = "".join((self.begin, self.before, self.head, self.tail, self.after, self.between, self.end))
        inner = [one for one in markers[1:] if one[0] in "<[" and whole.count(one) == 1]
        return (first if any(map(str.isspace, lead)) else lead + first, *inner)

    @property
    def texts(self) -> tuple[str, ...]:
        """Every literal, for what asks which control tokens a call is made of."""
        own = [self.begin, self.before, self.head, self.tail, self.after, self.between, self.end, *self.optional]
        match self.arguments:
            case Tagged(open_, middle, close, typed):
                own += [open_, middle, close, *(text for _, text in typed)]
            case Loose(quote):
                own.append(quote)
            case Json() | Keywords():
                pass
        pieces = [piece for text in own for piece in re.split(f"[{SLOTS}]", text) if piece]
        return (*pieces, *(text for other in self.also for text in other.texts))


def units(literal: str) -> Iterator[str]:
    """A literal's markers, words and slots, without the white space between them."""
    return (found[0] for found in UNIT.finditer(literal))
