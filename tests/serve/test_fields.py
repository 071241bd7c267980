"""Every field of every protocol: done, left aside and listed, or refused by name; and the page says the same."""

from __future__ import annotations

import json
import urllib.error
import urllib.request
from typing import Any, Literal, get_args, get_origin

import pytest
from pydantic import ValidationError

from tests.serve.conftest import Served
from tests.serve.fields_page import PAGE, REQUESTS, parts, with_table
from trilens.serve.fields import Fields

PARTS = sorted({part for request in REQUESTS.values() for _, part in parts(request)}, key=lambda part: part.__name__)
ASIDE = [(part, name) for part in PARTS for name in part.table("aside")]
REFUSED = [(part, name) for part in PARTS for name in part.table("refused")]
OPTIONAL = [(part, name) for part in PARTS for name, field in part.model_fields.items() if not field.is_required()]
USER = [{"role": "user", "content": "What is 4 plus 5?"}]
SAMPLES: dict[str, Any] = {
    "model": "tiny-dense",
    "messages": USER,
    "prompt": "What is",
    "input": "What is 4 plus 5?",
    "max_tokens": 4,
    "name": "n",
    "tokens": [1],
    "layer": 0,
    "head": 0,
    "schema": {},
    "tools": [],
    "function": {"name": "n"},
    "allowed_tools": {"mode": "auto", "tools": []},
}
ROUTES: dict[str, dict[str, Any]] = {
    "/v1/chat/completions": {"model": "tiny-dense", "messages": USER, "max_tokens": 4},
    "/v1/completions": {"model": "tiny-dense", "prompt": "What is", "max_tokens": 4},
    "/v1/responses": {"model": "tiny-dense", "input": "What is 4 plus 5?", "max_output_tokens": 4},
    "/v1/messages": {"model": "tiny-dense", "messages": USER, "max_tokens": 4},
}


def least(part: type[Fields]) -> dict[str, Any]:
    """The fewest fields that it can be read from."""
    made: dict[str, Any] = {}
    for name, field in part.model_fields.items():
        if field.is_required():
            key = field.alias or name
            literal = get_origin(field.annotation) is Literal
            made[key] = get_args(field.annotation)[0] if literal else SAMPLES[key]
    return made


def post(url: str, body: dict[str, Any]) -> tuple[int, dict[str, Any]]:
    request = urllib.request.Request(url, json.dumps(body).encode(), {"Content-Type": "application/json"})
    try:
        with urllib.request.urlopen(request) as answer:
            return answer.status, json.load(answer)
    except urllib.error.HTTPError as refused:
        return refused.code, json.load(refused)


@pytest.mark.parametrize(("part", "name"), ASIDE)
def test_what_is_left_aside_is_listed(part: type[Fields], name: str) -> None:
    for value in ("x", 1, {"a": [1]}, [], True):
        assert part.model_validate({**least(part), name: value}).left_aside("at.") == [f"at.{name}"]


@pytest.mark.parametrize(("part", "name"), REFUSED)
def test_what_is_refused_is_named_with_its_reason(part: type[Fields], name: str) -> None:
    rule = part.table("refused")[name]
    with pytest.raises(ValidationError) as caught:
        part.model_validate({**least(part), name: {"some": "thing"}})
    [error] = caught.value.errors()
    assert error["loc"] == (name,) and rule.why in error["msg"]
    for value in rule.unless:
        assert part.model_validate({**least(part), name: value}).left_aside() == [name]


@pytest.mark.parametrize(("part", "name"), [*OPTIONAL, *ASIDE, *REFUSED])
def test_null_is_the_same_as_leaving_a_field_out(part: type[Fields], name: str) -> None:
    field = part.model_fields.get(name)
    key = name if field is None else field.alias or name
    with_null, bare = part.model_validate({**least(part), key: None}), part.model_validate(least(part))
    assert with_null == bare and with_null.left_aside() == bare.left_aside()


@pytest.mark.parametrize("part", PARTS)
def test_no_field_has_two_fates(part: type[Fields]) -> None:
    done = {field.alias or name for name, field in part.model_fields.items()}
    fates = [done, set(part.table("aside")), set(part.table("refused")), set(part.table("also"))]
    assert sum(map(len, fates)) == len(set().union(*fates))
    assert set(part.table("also").values()) <= done


@pytest.mark.parametrize("route", ROUTES)
def test_the_answer_lists_what_was_left_aside(server: Served, route: str) -> None:
    body, request = ROUTES[route], REQUESTS[route]
    aside = list(request.table("aside"))
    status, answer = post(server.url + route, {**body, **dict.fromkeys(aside, "x")})
    assert status == 200 and sorted(answer["trilens"]["ignored"]) == sorted(aside)
    status, answer = post(server.url + route, body)
    assert status == 200 and answer["trilens"]["ignored"] == []


@pytest.mark.parametrize("route", ROUTES)
def test_all_refusals_come_in_one_error(server: Served, route: str) -> None:
    refused = list(REQUESTS[route].table("refused"))
    wrong = {**{name: {"x": 1} for name in refused}, "top_k": "x", "frobnicate": 1}
    status, answer = post(server.url + route, {**ROUTES[route], **wrong})
    said = answer["error"]["message"]
    assert status == 400 and said.startswith(f"{len(refused) + 2} fields are wrong. ")
    assert all(name in said for name in wrong)


def test_messages_and_tools_are_told_together_with_other_fields(server: Served) -> None:
    image = [{"type": "image_url", "image_url": {}}]
    body = {
        **ROUTES["/v1/chat/completions"],
        "messages": [{"role": "user", "content": image}],
        "tools": [{"type": "web_search"}, {"type": "frobnicate"}, {"type": "function", "function": {"name": 1}}],
        "stop": 3,
    }
    _, answer = post(f"{server.url}/v1/chat/completions", body)
    said = answer["error"]["message"]
    for place in ("messages.0.content.0", "tools.1.type", "tools.2.function.name", "stop"):
        assert place in said
    assert "tools.0" not in said


def test_hosted_tools_are_left_aside(server: Served) -> None:
    names = ["web_search_20250305", "code_execution_20250825", "web_fetch_20250910", "tool_search_tool_regex_20251119"]
    tools = [{"type": name, "name": "x"} for name in names]
    _, answer = post(f"{server.url}/v1/messages", {**ROUTES["/v1/messages"], "tools": tools})
    assert answer["trilens"]["ignored"] == [f"tools.{i} ({name})" for i, name in enumerate(names)]
    names = ["web_search", "namespace", "file_search", "code_interpreter", "image_generation", "mcp"]
    tools = [{"type": name, "tools": []} for name in names]
    _, answer = post(f"{server.url}/v1/responses", {**ROUTES["/v1/responses"], "tools": tools})
    assert answer["trilens"]["ignored"] == [f"tools.{i} ({name})" for i, name in enumerate(names)]


def test_the_page_says_the_same() -> None:
    page = PAGE.read_text("utf-8")
    assert with_table(page) == page, "run: python -m tests.serve.fields_page"
