"""Tools: which a request forces, and what the answer then has to be."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from trilens.errors import RequestRefused
from trilens.model import Model
from trilens.serve.engine_model import EngineModel
from trilens.serve.wire import FieldRefused, followed
from trilens.text.tool_calls import CallFinder

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

    def finder(self, index: int, model: Model | EngineModel) -> CallFinder:
        """What finds the calls in the answer with this index."""
        schemas = {tool.name: tool.parameters for tool in self.tools}
        form = None if self.forced else model.text.tool_format
        return CallFinder(form, schemas, [tool.name for tool in self.forced], index)

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
