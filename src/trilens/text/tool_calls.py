"""Calls of tools, found in an answer's text: its `TextEvent`s -> text and calls of the same event types."""

from __future__ import annotations

import json
import secrets
from collections.abc import Collection
from dataclasses import replace
from typing import Any

from trilens.text.events import EndEvent, Event, R, TextEvent, ToolCallEvent
from trilens.text.stream import partial

OPEN, CLOSE = "<tool_call>", "</tool_call>"


class CallFinder:
    """Reads one answer's events. `names` are the tools that the model was shown; without any, no call is looked for.
    What is no call after all stays text. Where the answer is `forced` to be a call, it is that call's JSON and no
    markers stand around it: of one tool its arguments alone, of several an object with name and arguments."""

    def __init__(self, names: Collection[str] = (), forced: Collection[str] = (), index: int = 0) -> None:
        self._names = frozenset(names)
        self._forced = tuple(forced)
        self._index = index
        self._held = ""
        self._behind = False  # a call: line ends that follow it are no text
        self._calls = 0

    def push(self, event: Event[R]) -> list[Event[R]]:
        """What is certain with this event. The end comes last, behind what was held back."""
        if isinstance(event, EndEvent):
            found = self._rest()
            called = self._calls and event.reason in ("stop", "stop_string")
            return [*found, replace(event, reason="tool_calls") if called else event]
        if not isinstance(event, TextEvent):
            return [event]
        if len(self._forced) == 1:
            if not self._calls:
                return [self._call(self._forced[0], event.text)]
            return [ToolCallEvent(event.text, self._index, self._calls - 1)]
        if not self._forced and not self._names:
            return [event]
        self._held += event.text
        return [] if self._forced else self._found(event)

    def _found(self, event: TextEvent) -> list[Any]:
        out: list[TextEvent | ToolCallEvent] = []
        while True:
            if self._behind:
                self._held = self._held.lstrip("\n")
                self._behind = not self._held
            at = self._held.find(OPEN)
            if at < 0:
                ready = self._held[: len(self._held) - partial(self._held, (OPEN,))]
                self._held = self._held[len(ready) :]
                if ready:  # nearly always all of what came
                    out.append(event if ready == event.text else TextEvent(ready, self._index))
                return out
            if at:
                out.append(TextEvent(self._held[:at], self._index))
                self._held = self._held[at:]
            end = self._held.find(CLOSE)
            if end < 0:
                return out
            end += len(CLOSE)
            found = self._read(self._held[:end])
            out.append(found)
            self._held, self._behind = self._held[end:], isinstance(found, ToolCallEvent)

    def _rest(self) -> list[Any]:
        """What was held back. A call whose close marker never came may be whole all the same."""
        held, self._held = self._held, ""
        if not held:
            return []
        if self._forced:
            try:
                said = json.loads(held)
            except ValueError:  # it was cut off
                return [TextEvent(held, self._index)]
            return [self._call(said["name"], json.dumps(said["arguments"], ensure_ascii=False))]
        return [self._read(held) if held.startswith(OPEN) else TextEvent(held, self._index)]

    def _read(self, text: str) -> TextEvent | ToolCallEvent:
        body = text.removeprefix(OPEN).removesuffix(CLOSE).strip()
        try:
            said = json.loads(body)
            name, arguments = said["name"], said.get("arguments", said.get("parameters", {}))
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
            return TextEvent(text, self._index)
        if not isinstance(name, str) or name not in self._names:
            return TextEvent(text, self._index)
        written = arguments if isinstance(arguments, str) else json.dumps(arguments, ensure_ascii=False)
        return self._call(name, written)

    def _call(self, name: str, arguments: str) -> ToolCallEvent:
        self._calls += 1
        id = f"call_{secrets.token_hex(12)}"
        return ToolCallEvent(arguments, self._index, self._calls - 1, id, name)
