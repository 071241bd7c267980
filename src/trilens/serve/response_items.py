"""The items of a response's output, whole and while they are written, and those that are kept for later requests."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping, Sequence
from typing import Any

from trilens.errors import FieldRefused
from trilens.serve.fields import shown
from trilens.serve.wire import AnyReceipt, new_id
from trilens.text.events import Event, TextEvent, ThinkingEvent, ToolCallEvent, Whole

MOST_KEPT = 4096  # items
MOST_CHARACTERS = 1 << 24  # of all that are kept


class KeptItems:
    """The latest items of outputs, in memory alone, for clients that send a reference (`item_reference`) instead of the
    item."""

    def __init__(self) -> None:
        self._items: OrderedDict[str, tuple[dict[str, Any], int]] = OrderedDict()
        self._characters = 0

    def keep(self, items: Sequence[dict[str, Any]]) -> None:
        for item in items:
            size = len(str(item))
            self._items[item["id"]] = item, size
            self._characters += size
        while len(self._items) > MOST_KEPT or self._characters > MOST_CHARACTERS:
            _, (_, size) = self._items.popitem(last=False)
            self._characters -= size

    def resolved(self, given: str | list[dict[str, Any]]) -> str | list[dict[str, Any]]:
        """An input with the items that it refers to. Raises FieldRefused for one that is not kept."""
        return given if isinstance(given, str) else [self._item(item, f"input.{i}") for i, item in enumerate(given)]

    def _item(self, item: dict[str, Any], at: str) -> dict[str, Any]:
        if not is_reference(item):
            return item
        id = item.get("id")
        if not isinstance(id, str) or id not in self._items:
            raise FieldRefused(f"{at}.id", f"is {shown(id)}, which is not stored here (any more); send the item itself")
        return self._items[id][0]


def is_reference(item: Mapping[str, Any]) -> bool:
    """Whether an item of the input refers to an earlier output. Clients may leave out its type."""
    return item.get("type") == "item_reference" or (set(item) == {"id"})


class Item:
    """One item of the output while it is written."""

    def __init__(self, piece: Event[AnyReceipt]) -> None:
        self.text = ""
        self.logprobs: list[dict[str, Any]] = []
        self.piece = piece
        prefix = {ThinkingEvent: "rs_", TextEvent: "msg_", ToolCallEvent: "fc_"}[type(piece)]
        self.id = new_id(prefix)

    def takes(self, piece: Event[AnyReceipt]) -> bool:
        return type(piece) is type(self.piece) and not (isinstance(piece, ToolCallEvent) and piece.id is not None)

    def begun(self, at: int) -> list[tuple[str, dict[str, Any]]]:
        events = [("output_item.added", {"output_index": at, "item": self.item("in_progress", empty=True)})]
        if isinstance(self.piece, TextEvent):
            events.append(("content_part.added", {**self._place(at), "part": _text("")}))
        return events

    def add(self, piece: Event[AnyReceipt], at: int, logprobs: list[dict[str, Any]]) -> tuple[str, dict[str, Any]]:
        match piece:
            case ThinkingEvent(text):
                self.text += text
                return "reasoning_text.delta", {**self._place(at), "delta": text}
            case ToolCallEvent(arguments):
                self.text += arguments
                place = {"item_id": self.id, "output_index": at}
                return "function_call_arguments.delta", {**place, "delta": arguments}
            case TextEvent(text):
                self.text += text
                self.logprobs += logprobs
                return "output_text.delta", {**self._place(at), "delta": text, "logprobs": logprobs}
        raise AssertionError(piece)

    def done(self, at: int) -> list[tuple[str, dict[str, Any]]]:
        place = self._place(at)
        item = ("output_item.done", {"output_index": at, "item": self.item("completed")})
        match self.piece:
            case ThinkingEvent():
                return [("reasoning_text.done", {**place, "text": self.text}), item]
            case ToolCallEvent(_, _, _, _, name):
                fields = {"item_id": self.id, "output_index": at, "name": name, "arguments": self.text}
                return [("function_call_arguments.done", fields), item]
        text = ("output_text.done", {**place, "text": self.text, "logprobs": self.logprobs})
        return [text, ("content_part.done", {**place, "part": _text(self.text, self.logprobs)}), item]

    def _place(self, at: int) -> dict[str, Any]:
        return {"item_id": self.id, "output_index": at, "content_index": 0}

    def item(self, status: str, empty: bool = False) -> dict[str, Any]:
        match self.piece:
            case ThinkingEvent():
                return _reasoning(self.id, None if empty else self.text, status)
            case ToolCallEvent(_, _, _, id, name):
                return _function_call(self.id, id, name, "" if empty else self.text, status)
        return _output_message(self.id, None if empty else self.text, status, self.logprobs)


def items_of(answer: Whole[AnyReceipt], logprobs: list[dict[str, Any]]) -> list[dict[str, Any]]:
    items = [_reasoning(new_id("rs_"), answer.thinking, "completed")] if answer.thinking else []
    if answer.text or not answer.calls:
        items.append(_output_message(new_id("msg_"), answer.text, "completed", logprobs))
    return items + [_function_call(new_id("fc_"), c.id, c.name, c.arguments, "completed") for c in answer.calls]


def _reasoning(id: str, text: str | None, status: str) -> dict[str, Any]:
    content = [] if text is None else [{"type": "reasoning_text", "text": text}]
    return {"id": id, "type": "reasoning", "summary": [], "content": content, "status": status}


def _output_message(id: str, text: str | None, status: str, logprobs: list[dict[str, Any]]) -> dict[str, Any]:
    content = [] if text is None else [_text(text, logprobs)]
    return {"id": id, "type": "message", "role": "assistant", "status": status, "content": content}


def _function_call(id: str, call: str | None, name: str | None, arguments: str, status: str) -> dict[str, Any]:
    return {
        "id": id,
        "type": "function_call",
        "call_id": call,
        "name": name,
        "arguments": arguments,
        "status": status,
    }


def _text(text: str, logprobs: Sequence[dict[str, Any]] = ()) -> dict[str, Any]:
    return {"type": "output_text", "text": text, "annotations": [], "logprobs": list(logprobs)}
