"""Tools: which a request forces, what the answer then has to be, and what an answer calls."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from trilens.errors import RequestRefused
from trilens.model import Model
from trilens.serve.engine_model import EngineModel
from trilens.serve.wire import FieldRefused, followed, new_id
from trilens.text.stream import partial

OPEN, CLOSE = "<tool_call>", "</tool_call>"
MOST_TOOLS = 128


@dataclass(frozen=True)
class Tool:
    name: str
    description: str
    parameters: Mapping[str, Any]

    def for_template(self) -> dict[str, Any]:
        function = {"name": self.name, "description": self.description, "parameters": dict(self.parameters)}
        return {"type": "function", "function": function}


@dataclass(frozen=True)
class ToolCall:
    id: str
    name: str
    arguments: str  # JSON


@dataclass(frozen=True)
class ToolUse:
    """What a request says of tools. `forced`: the answer is a call of one of these; `one` where its name is known, and
    the answer is its arguments alone."""

    tools: tuple[Tool, ...] = ()
    forced: tuple[Tool, ...] = ()

    @property
    def one(self) -> Tool | None:
        return self.forced[0] if len(self.forced) == 1 else None

    def schema(self) -> dict[str, Any] | None:
        """What a forced answer follows."""
        if not self.forced:
            return None
        if self.one is not None:
            return {"type": "object", **self.one.parameters}
        calls = [
            {
                "type": "object",
                "properties": {"name": {"const": tool.name}, "arguments": {"type": "object", **tool.parameters}},
                "required": ["name", "arguments"],
                "additionalProperties": False,
            }
            for tool in self.forced
        ]
        return {"anyOf": calls}

    def for_template(self, model: Model | EngineModel) -> list[dict[str, Any]] | None:
        """What the template is given. Raises RequestRefused where it cannot show tools and none is forced."""
        if not self.tools:
            return None
        template = model.text.template
        if template is not None and template.reads_tools:
            return [tool.for_template() for tool in self.tools]
        if not self.forced:
            raise RequestRefused(
                f"{model.name}'s template knows no tools; force one with tool_choice, or leave tools out"
            )
        return None

    def constraint(self, model: Model | EngineModel) -> Any:
        """As this model's own `prepare` takes it; None where nothing is forced."""
        schema = self.schema()
        return None if schema is None else followed(model, schema, "tools")


def tool_use(tools: Sequence[Tool], choice: str | None, name: str | None = None) -> ToolUse:
    """`choice`: auto, none, required or named. Raises RequestRefused."""
    if len(tools) > MOST_TOOLS:
        raise FieldRefused("tools", f"has {len(tools)} entries; expected at most {MOST_TOOLS}")
    if not tools:
        if choice in ("required", "named"):
            raise FieldRefused("tool_choice", "asks for a tool and there are no tools; add them, or leave it out")
        return ToolUse()
    match choice:
        case None | "auto":
            return ToolUse(tuple(tools))
        case "none":
            return ToolUse()
        case "required":
            return ToolUse(tuple(tools), tuple(tools))
        case "named":
            chosen = tuple(tool for tool in tools if tool.name == name)
            if not chosen:
                raise FieldRefused("tool_choice", f"names {name!r:.80}, which is not one of the tools")
            return ToolUse(tuple(tools), chosen[:1])
        case _:
            raise FieldRefused("tool_choice", f"is {choice!r:.60}; expected auto, none, required or a tool's name")


def forced_call(use: ToolUse, answer: str) -> ToolCall | None:
    """The call that a whole forced answer is; None where it was cut off before its name was known."""
    if use.one is not None:
        return ToolCall(new_id("call_"), use.one.name, answer)
    try:
        said = json.loads(answer)
    except ValueError:
        return None
    return ToolCall(new_id("call_"), said["name"], json.dumps(said["arguments"], ensure_ascii=False))


class CallFinder:
    """Takes calls out of an answer that comes in pieces; only where the template showed tools are they looked for.
    What is no call after all is text."""

    def __init__(self, use: ToolUse) -> None:
        self._names = {tool.name for tool in use.tools}
        self._held = ""
        self._behind = False  # a call: line ends that follow it are no text

    def push(self, text: str) -> list[str | ToolCall]:
        if not self._names:
            return [text] if text else []
        self._held += text
        out: list[str | ToolCall] = []
        while True:
            if self._behind:
                self._held = self._held.lstrip("\n")
                self._behind = not self._held
            at = self._held.find(OPEN)
            if at < 0:
                keep = partial(self._held, (OPEN,))
                ready, self._held = self._held[: len(self._held) - keep], self._held[len(self._held) - keep :]
                return [*out, ready] if ready else out
            end = self._held.find(CLOSE, at)
            if at:
                out.append(self._held[:at])
                self._held = self._held[at:]
                continue
            if end < 0:
                return out
            call = self._call(self._held[: end + len(CLOSE)])
            out.append(call)
            self._held, self._behind = self._held[end + len(CLOSE) :], isinstance(call, ToolCall)

    def finish(self) -> list[str | ToolCall]:
        """The end; a call whose close marker never came may be whole all the same."""
        held, self._held = self._held, ""
        if not held:
            return []
        return [self._call(held)] if held.startswith(OPEN) else [held]

    def _call(self, text: str) -> str | ToolCall:
        body = text.removeprefix(OPEN).removesuffix(CLOSE).strip()
        try:
            said = json.loads(body)
            name, arguments = said["name"], said.get("arguments", said.get("parameters", {}))
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
            return text
        if not isinstance(name, str) or name not in self._names:
            return text
        written = arguments if isinstance(arguments, str) else json.dumps(arguments, ensure_ascii=False)
        return ToolCall(new_id("call_"), name, written)
