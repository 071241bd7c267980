"""Tools: those that a request forces, and the form that the answer then has to have."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Annotated, Any

from pydantic import AfterValidator, ConfigDict
from pydantic_core import PydanticCustomError

from trilens.errors import FieldRefused, RequestRefused
from trilens.model import Model
from trilens.serve.engine_model import EngineModel
from trilens.serve.fields import Fields, shown
from trilens.serve.structure import Wanted
from trilens.text.tool_calls import CallFinder
from trilens.text.tool_formats import ToolFormat
from trilens.text.tool_schema import EMPTY, takes_object

MOST_TOOLS = 512
# OpenAI's names of tools that run beside its models, and Anthropic's, which end in a date.
HOSTED_TYPES = (
    r"(web_search|web_fetch|code_execution|code_interpreter|file_search|image_generation|mcp|namespace|tool_search"
    r"|computer|computer_use|advisor|memory|bash|text_editor|local_shell|shell|apply_patch|programmatic_tool_calling)"
    r"(_preview)?(_tool)?(_(regex|bm25))?(_\d[\d_]*)?"
)


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
    parallel: bool = True  # an answer may have several calls

    @property
    def one(self) -> Tool | None:
        return self.forced[0] if len(self.forced) == 1 else None

    def schema(self) -> dict[str, Any] | None:
        """What a forced answer follows."""
        if not self.forced:
            return None
        if self.one is not None:
            return {**self.one.parameters, "type": "object"}
        calls = [
            {
                "type": "object",
                "properties": {"name": {"const": tool.name}, "arguments": {**tool.parameters, "type": "object"}},
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
        if model.text.reads_tools:
            return [tool.for_template() for tool in self.tools]
        if not self.forced:
            raise RequestRefused(
                f"{model.name}'s template has no place for tools; force one with tool_choice, or leave tools out"
            )
        return None

    def finder(self, index: int, model: Model | EngineModel) -> CallFinder:
        """What finds the calls in the answer with this index."""
        schemas = {tool.name: tool.parameters for tool in self.tools}
        return CallFinder(self._form(model), schemas, [tool.name for tool in self.forced], index)

    def _form(self, model: Model | EngineModel) -> ToolFormat | None:
        """The form of the calls in an answer; an engine is told to force a call's JSON alone."""
        return model.text.tool_format if isinstance(model, Model) or not self.forced else None

    def constraint(self, model: Model | EngineModel, wanted: Wanted | None, ignored: list[str]) -> Any:
        """What holds the answer to a forced call, or to what is wanted of it, as this model's own `prepare` takes it;
        None where it is free. Where tools are offered, the answer is a call or what is wanted. `ignored` gets the
        keywords of schemas that it is not held to."""
        schema = self.schema()
        if schema is not None:
            if wanted is not None:
                raise FieldRefused(wanted.field, "and a forced tool_choice contradict each other; give one of them")
            if isinstance(model, Model) and self._form(model) is not None:
                return self._own_call(model, ignored)
            wanted = Wanted("tools", "schema", schema)
        if wanted is None:
            return None
        offered = {tool.name: tool.parameters for tool in self.tools if not self.forced}
        calls = model.offered_calls(offered, self.parallel) if offered else None
        constraint = wanted.constraint(model, calls)
        ignored += [f"tools: {one}" for one in getattr(calls, "ignored", ())]
        ignored += wanted.left_aside(constraint)
        return constraint

    def _own_call(self, model: Model, ignored: list[str]) -> Any:
        try:
            constraint = model.forced_call({tool.name: tool.parameters for tool in self.forced})
        except RequestRefused as problem:
            raise FieldRefused("tools", f"cannot be used: {problem}") from None
        ignored += [] if constraint is None else [f"tools: {one}" for one in constraint.ignored]
        return constraint


def tool_use(
    tools: Sequence[Tool],
    choice: str | None,
    name: str | None = None,
    *,
    allowed: Sequence[str] | None = None,
    parallel: bool = True,
) -> ToolUse:
    """`choice`: auto, none, required or named. `allowed`: the names of those that may be called. Raises
    RequestRefused."""
    if len(tools) > MOST_TOOLS:
        raise FieldRefused("tools", f"has {len(tools)} entries; expected at most {MOST_TOOLS}")
    tools = [tool if tool.parameters else replace(tool, parameters=EMPTY) for tool in tools]
    names = [tool.name for tool in tools]
    for number, tool in enumerate(tools):
        if not takes_object(tool.parameters):
            kind = shown(tool.parameters["type"])
            raise FieldRefused(f"tools.{number}", f"has parameters of type {kind}; expected an object")
    for number, one in enumerate(names):
        if one in names[:number]:
            raise FieldRefused(
                f"tools.{number}", f"has the same name as another tool, {one!r:.80}; tool names must be unique"
            )
    if allowed is not None:
        unknown = next((one for one in allowed if one not in names), None)
        if unknown is not None:
            raise FieldRefused("tool_choice", f"allows {unknown!r:.80}, which is not one of the tools")
        tools = [tool for tool in tools if tool.name in allowed]
    if not tools:
        if choice in ("required", "named"):
            raise FieldRefused("tool_choice", "asks for a tool and there are no tools; add them, or leave it out")
        return ToolUse()
    match choice:
        case None | "auto":
            return ToolUse(tuple(tools), (), parallel)
        case "none":
            return ToolUse()
        case "required":
            return ToolUse(tuple(tools), tuple(tools), parallel)
        case "named":
            chosen = tuple(tool for tool in tools if tool.name == name)
            if not chosen:
                raise FieldRefused("tool_choice", f"names {name!r:.80}, which is not one of the tools")
            return ToolUse(tuple(tools), chosen[:1], parallel)
        case _:
            raise FieldRefused("tool_choice", f"is {choice!r:.60}; expected auto, none, required or a tool's name")


def _hosted_type(value: str) -> str:
    if re.fullmatch(HOSTED_TYPES, value) is None:
        said = "expected function, or the type of a tool that a service runs beside the model"
        raise PydanticCustomError("type", said)
    return value


class HostedTool(Fields):
    """A tool that a service runs itself. It is not run here, and is ignored."""

    model_config = ConfigDict(extra="allow")
    type: Annotated[str, AfterValidator(_hosted_type)]

    def left_aside(self, at: str = "") -> list[str]:
        return [f"{at.removesuffix('.')} ({self.type})"]


def kind_of_tool(tool: Any) -> str:
    """Which class reads a tool of a request: those that are described there, or those that a service knows."""
    kind = tool.get("type") if isinstance(tool, Mapping) else getattr(tool, "type", None)
    return "described" if kind in (None, "function", "custom") else "hosted"
