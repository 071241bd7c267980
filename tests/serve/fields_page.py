"""docs/serving.md's table of fields, from the classes that read them. `python -m tests.serve.fields_page` writes it."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_args

from trilens.serve.chat import ChatRequest
from trilens.serve.completions import CompletionRequest
from trilens.serve.fields import Fields
from trilens.serve.inside import AttentionRequest, LensRequest
from trilens.serve.lesson import CardRequest
from trilens.serve.messages import MessagesRequest
from trilens.serve.responses import ResponseRequest
from trilens.serve.tokens import DetokenizeRequest, TokenizeRequest
from trilens.serve.tools import HostedTool

PAGE = Path(__file__).parents[2] / "docs" / "serving.md"
BEGIN, END = "<!-- fields -->\n", "<!-- end of fields -->\n"
REQUESTS: dict[str, type[Fields]] = {
    "/v1/chat/completions": ChatRequest,
    "/v1/completions": CompletionRequest,
    "/v1/responses": ResponseRequest,
    "/v1/messages": MessagesRequest,
    "/tokenize": TokenizeRequest,
    "/detokenize": DetokenizeRequest,
    "/v1/trilens/card": CardRequest,
    "/v1/trilens/attention": AttentionRequest,
    "/v1/trilens/logit_lens": LensRequest,
}


def parts(request: type[Fields], at: str = "") -> Iterator[tuple[str, type[Fields]]]:
    """The class of a request and those of its fields, each with its place."""
    yield at, request
    for name, field in request.model_fields.items():
        for inner in _classes(field.annotation):
            if inner is not HostedTool:
                yield from parts(inner, f"{at}{field.alias or name}.")


def _classes(annotation: Any) -> Iterator[type[Fields]]:
    if isinstance(annotation, type) and issubclass(annotation, Fields):
        yield annotation
    for one in get_args(annotation):
        yield from _classes(one)


def table() -> str:
    lines = []
    for route, request in REQUESTS.items():
        done, aside, refused = list[str](), defaultdict[str, list[str]](list), list[str]()
        for at, part in parts(request):
            inner = {name: list(_classes(field.annotation)) for name, field in part.model_fields.items()}
            done += [f"`{at}{field.alias or name}`" for name, field in part.model_fields.items() if not inner[name]]
            done += [f"`{at}{other}` (as `{name}`)" for other, name in part.table("also").items()]
            for name, why in part.table("aside").items():
                aside[why].append(f"`{at}{name}`")
            for name, rule in part.table("refused").items():
                unless = " or ".join(map(_json, rule.unless))
                refused.append(f"`{at}{name}`{f' unless {unless}' if unless else ''}: {rule.why}")
        lines.append(f"**`{route}`**\n\n| | |\n| --- | --- |\n| supported | {', '.join(dict.fromkeys(done))} |")
        lines += [f"| ignored: {why} | {', '.join(dict.fromkeys(names))} |" for why, names in aside.items()]
        lines += [f"| refused | {'; '.join(dict.fromkeys(refused))} |"] if refused else []
        lines.append("")
    return "\n".join(lines)


def _json(value: Any) -> str:
    import json

    return f"`{json.dumps(value)}`"


def with_table(page: str) -> str:
    before, rest = page.split(BEGIN)
    return f"{before}{BEGIN}{table()}{END}{rest.split(END)[1]}"


if __name__ == "__main__":
    PAGE.write_text(with_table(PAGE.read_text("utf-8")), "utf-8")
