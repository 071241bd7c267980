"""Calls of tools in an answer: its `TextEvent`s -> text and calls of the same event types.

How a model writes its calls is a `ToolFormat`; `model_format` finds it, in three layers: what the checkpoint declares
itself, what its chat template shows by difference, and a short table for what neither says.
"""

from __future__ import annotations

import json
import secrets
import string
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from trilens.text.events import EndEvent, Event, R, TextEvent, ToolCallEvent
from trilens.text.read_template import KNOWN_MARKERS
from trilens.text.template import ChatTemplate
from trilens.text.tool_declared import by_declaration
from trilens.text.tool_difference import by_difference
from trilens.text.tool_formats import ToolFormat
from trilens.text.tool_reader import Called, CallReader, Found, Piece
from trilens.text.tool_table import by_table

SHORT = string.ascii_letters + string.digits


def model_format(template: ChatTemplate | None, declared: Mapping[str, Any] | None = None) -> ToolFormat | None:
    """The form in which a model writes its calls; None where its template shows it no tools."""
    if template is None or not template.reads_tools:
        return None
    shown = by_difference(template, [markers.close for markers in KNOWN_MARKERS])
    stated = by_declaration(declared)
    if stated is None:
        return by_table(template.source, shown)
    if shown is None:
        return stated
    # where both begin alike the template says more: white space, ids, types
    first, other = (shown, stated) if shown.triggers[:1] == stated.triggers[:1] else (stated, shown)
    return replace(first, also=(other,))


class CallFinder:
    """Reads one answer's events. `tools` are the schemas of the tools that the model was shown, by name; without any,
    no call is looked for. What is no call after all stays text.

    `form` is None where the answer is `forced` to be a call and the model has no form of its own: then it is that
    call's JSON and no markers stand around it, of one tool its arguments alone, of several an object with name and
    arguments.
    """

    def __init__(
        self,
        form: ToolFormat | None,
        tools: Mapping[str, Any],
        forced: Sequence[str] = (),
        index: int = 0,
    ) -> None:
        self._reader = None if form is None or not tools else CallReader(form, tools)
        self._forced = tuple(forced) if form is None else ()
        self._short = form is not None and form.short_ids
        self._index = index
        self._held = ""
        self._calls = 0

    def push(self, event: Event[R]) -> list[Event[R]]:
        """What is certain with this event. The end comes last, behind what was held back."""
        if isinstance(event, EndEvent):
            found = self._rest()
            called = self._calls and event.reason in ("stop", "stop_string")
            return [*found, replace(event, reason="tool_calls") if called else event]
        if not isinstance(event, TextEvent):
            return [event]
        if self._reader is not None:
            found = self._events(self._reader.push(event.text))
            return [event] if found == [event] else found
        if len(self._forced) == 1:
            if not self._calls:
                return [self._call(self._forced[0], event.text)]
            return [ToolCallEvent(event.text, self._index, self._calls - 1)]
        if not self._forced:
            return [event]
        self._held += event.text
        return []

    def _rest(self) -> list[Any]:
        """What was held back."""
        if self._reader is not None:
            return self._events(self._reader.finish())
        held, self._held = self._held, ""
        if not held:
            return []
        try:
            said = json.loads(held)
        except ValueError:  # it was cut off
            return [TextEvent(held, self._index)]
        return [self._call(said["name"], json.dumps(said["arguments"], ensure_ascii=False))]

    def _events(self, found: Sequence[Found]) -> list[Any]:
        out: list[TextEvent | ToolCallEvent] = []
        for one in found:
            match one:
                case str():
                    out.append(TextEvent(one, self._index))
                case Called(name, id):
                    out.append(self._call(name, "", id))
                case Piece(text):
                    last = out[-1] if out else None
                    if isinstance(last, ToolCallEvent):
                        out[-1] = replace(last, arguments=last.arguments + text)
                    else:
                        out.append(ToolCallEvent(text, self._index, self._calls - 1))
        return out

    def _call(self, name: str, arguments: str, id: str | None = None) -> ToolCallEvent:
        self._calls += 1
        return ToolCallEvent(arguments, self._index, self._calls - 1, id or self._new_id(), name)

    def _new_id(self) -> str:
        if self._short:
            return "".join(secrets.choice(SHORT) for _ in range(9))
        return f"call_{secrets.token_hex(12)}"
