"""The interface of every service: requests, a stream of events, and what the service says at the end."""

from __future__ import annotations

from collections.abc import Generator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

from trilens.hosted.table import Asked, Row
from trilens.text.conversation import ChatMessage as Message
from trilens.text.events import TextEvent, ThinkingEvent
from trilens.text.thinking import Markers, Start

Finish = Literal["stop", "stop_string", "length", "context", "refused"]
INLINE = Markers("<think>", "</think>")  # what a server leaves in the answer that takes no thoughts out


@dataclass(frozen=True)
class Usage:
    """The service's own counts. `output` includes thinking and answer; `cached` and `written` are part of `prompt`.
    None if the service does not say.
    """

    prompt: int | None = None
    cached: int | None = None
    written: int | None = None
    output: int | None = None
    thinking: int | None = None


@dataclass(frozen=True)
class ServiceEnd:
    """What the service says at the end of its stream.

    `state` is what it wants back unchanged with the next turn; `said` its words for a refusal; `model` and `id` are
    what it calls the model and the answer; `own` is the receipt that another trilens sends; `stop` the stop string that
    ended it, where it says.
    """

    finish: Finish
    usage: Usage = Usage()
    state: tuple[Any, ...] = ()
    said: str = ""
    model: str | None = None
    id: str | None = None
    own: Mapping[str, Any] | None = None
    stop: str | None = None


FromService = ThinkingEvent | TextEvent | ServiceEnd


@dataclass(frozen=True)
class Wish:
    """What a request is made of. `limit`: most tokens of the output, thinking and answer together. `extra`: fields that
    go along as they are. `markers` and `start`: how thoughts look that come inside the answer, and whether the prompt
    has opened them. `index` goes into the events."""

    model: str
    messages: Sequence[Message]
    asked: Asked
    row: Row
    limit: int | None
    stop: tuple[str, ...]
    sampling: Mapping[str, Any]
    extra: Mapping[str, Any] = field(default_factory=dict)
    markers: Markers = INLINE
    start: Start = "free"
    index: int = 0


class Service(Protocol):
    """One interface of one vendor. `name` is the table's; `sampling` are the options it takes; `wants_limit`: a request
    without a limit is refused."""

    name: str
    sampling: frozenset[str]
    wants_limit: bool

    def request(self, wish: Wish) -> dict[str, Any]:
        """The arguments of the vendor's own call. Raises RequestRefused."""
        ...

    def close(self) -> None:
        """Close its connections."""
        ...

    def events(self, request: dict[str, Any], wish: Wish) -> Generator[FromService]:
        """Send what `wish` came to and read what comes; the last is a `ServiceEnd`. Raises what the vendor's library
        raises; closing it closes the connection."""
        ...


def state_of(message: Message, service: str) -> tuple[Any, ...]:
    """The data that the service wants back with this message; nothing if the text has been changed since."""
    state = message.get("state")
    if not isinstance(state, Mapping) or state.get("service") != service:
        return ()
    return tuple(state["items"]) if state.get("content") == message.get("content") else ()


def plain(message: Message, *more: str) -> dict[str, Any]:
    """The message as services know it: role, content, and the named fields."""
    return {key: message[key] for key in ("role", "content", "name", *more) if key in message}
