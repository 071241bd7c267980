"""The events of an answer as they arrive: thinking, text, tool calls, and the end.

These types go unchanged from where text is split (or from a service's stream) to the library's caller and to the
protocols of `serve/`. Each event is created once, with the index of its prompt. `merged` joins neighbours, and `Whole`
builds a whole answer.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from itertools import groupby
from typing import Any, Generic, Literal, TypeVar

R = TypeVar("R")  # the receipt; a call elsewhere has another one than a call here
Reason = Literal["stop", "stop_string", "length", "context", "tool_calls", "cancelled"]


@dataclass(frozen=True, slots=True)
class ThinkingEvent:
    """A piece of the thinking before an answer; `index` says which prompt it belongs to when several run together."""

    text: str
    index: int = 0


@dataclass(frozen=True, slots=True)
class TextEvent:
    """A piece of an answer."""

    text: str
    index: int = 0


@dataclass(frozen=True, slots=True)
class ToolCallEvent:
    """A piece of a tool call: JSON text of its arguments. The first piece of each call also has its `id` and `name`.
    `number` counts the calls of one answer from 0."""

    arguments: str
    index: int = 0
    number: int = 0
    id: str | None = None
    name: str | None = None


@dataclass(frozen=True, slots=True)
class EndEvent(Generic[R]):
    """An answer is complete: its receipt, why it ended, and the stop string that ended it. `state` is what a hosted
    model wants back unchanged with the next turn."""

    receipt: R
    index: int = 0
    state: Mapping[str, Any] | None = None
    reason: Reason = "stop"
    stop: str | None = None


Event = ThinkingEvent | TextEvent | ToolCallEvent | EndEvent[R]


@dataclass(frozen=True, slots=True)
class ToolCall:
    """A whole call of a tool; `arguments` is JSON."""

    id: str
    name: str
    arguments: str


def merged(events: Iterable[Event[R]]) -> list[Event[R]]:
    """The same with neighbours of one kind and one prompt joined. An event without such a neighbour stays the same
    object."""
    out: list[Event[R]] = []
    for _, group in groupby(events, key=lambda event: (type(event), event.index)):
        first, *more = group
        if more and isinstance(first, ThinkingEvent | TextEvent):
            texts = [event.text for event in (first, *more) if isinstance(event, type(first))]
            out.append(type(first)("".join(texts), first.index))
        else:
            out += [first, *more]
    return out


class Whole(Generic[R]):
    """One answer, put together from its events."""

    def __init__(self) -> None:
        self.calls: list[ToolCall] = []
        self.ended: EndEvent[R] | None = None
        self._thoughts: list[str] = []
        self._texts: list[str] = []

    @property
    def thinking(self) -> str:
        return "".join(self._thoughts)

    @property
    def text(self) -> str:
        return "".join(self._texts)

    @property
    def end(self) -> EndEvent[R]:
        assert self.ended is not None, "an answer that did not fail has an end"
        return self.ended

    def take(self, event: Event[R]) -> None:
        match event:
            case ThinkingEvent(text):
                self._thoughts.append(text)
            case TextEvent(text):
                self._texts.append(text)
            case ToolCallEvent(arguments, id=id, name=name) if id is not None and name is not None:
                self.calls.append(ToolCall(id, name, arguments))
            case ToolCallEvent(arguments):
                last = self.calls[-1]
                self.calls[-1] = ToolCall(last.id, last.name, last.arguments + arguments)
            case EndEvent():
                self.ended = event
