"""Fields that change an answer change it: fewer tools, one call, scores of tokens, a middle; and what is left aside in
messages is listed."""

from __future__ import annotations

import json
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.clients.scripted import scripted_server
from tests.serve.conftest import Served, served
from tests.serve.test_fields import post
from tests.text.test_fill_in import PAD
from trilens.checkpoints.find import find
from trilens.text.fill_in import FORMS

CHAT, RESPONSES, MESSAGES = "/v1/chat/completions", "/v1/responses", "/v1/messages"
CITY = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}
NAMES = ("look", "book")


def written(name: str, city: str) -> str:
    return f'<tool_call>\n{{"name": "{name}", "arguments": {{"city": "{city}"}}}}\n</tool_call>'


BOTH = f"[[say {written('look', 'Rome')}\n{written('book', 'Oslo')} Done.]]"


@pytest.fixture(scope="module")
def scripted() -> Iterator[Served]:
    with scripted_server() as running:
        yield running


def body(route: str, said: str, names: tuple[str, ...] = NAMES, **more: Any) -> dict[str, Any]:
    """A request at this route that says this and offers these tools, without thinking."""
    functions = [{"name": name, "description": "", "parameters": CITY} for name in names]
    asked = {"model": "tiny-dense", **more}
    match route:
        case "/v1/chat/completions":
            tools = [{"type": "function", "function": f} for f in functions]
            return {"messages": [{"role": "user", "content": said}], "thinking": False, "tools": tools, **asked}
        case "/v1/responses":
            tools = [{"type": "function", **f} for f in functions]
            return {"input": said, "thinking": False, "tools": tools, **asked}
        case _:
            tools = [{"name": f["name"], "input_schema": f["parameters"]} for f in functions]
            messages = [{"role": "user", "content": said}]
            return {"messages": messages, "max_tokens": 900, "tools": tools, **asked}


def events(url: str, asked: dict[str, Any]) -> list[dict[str, Any]]:
    request = urllib.request.Request(
        url, json.dumps({**asked, "stream": True}).encode(), {"Content-Type": "application/json"}
    )
    with urllib.request.urlopen(request) as answer:
        lines = [line[6:] for line in answer.read().decode().splitlines() if line.startswith("data: {")]
    return [json.loads(line) for line in lines]


def calls_of(route: str, answer: dict[str, Any]) -> list[str]:
    match route:
        case "/v1/chat/completions":
            return [call["function"]["name"] for call in answer["choices"][0]["message"].get("tool_calls", ())]
        case "/v1/responses":
            return [item["name"] for item in answer["output"] if item["type"] == "function_call"]
        case _:
            return [block["name"] for block in answer["content"] if block["type"] == "tool_use"]


def streamed_calls(route: str, found: list[dict[str, Any]]) -> list[str]:
    match route:
        case "/v1/chat/completions":
            deltas = [choice["delta"] for event in found for choice in event["choices"]]
            begun = [call["function"] for delta in deltas for call in delta.get("tool_calls", ()) if "id" in call]
            return [call["name"] for call in begun]
        case "/v1/responses":
            return calls_of(route, found[-1]["response"])
        case _:
            return calls_of(route, {"content": [e["content_block"] for e in found if "content_block" in e]})


ONE_CALL = {CHAT: {"parallel_tool_calls": False}, RESPONSES: {"parallel_tool_calls": False}}
ONE_CALL[MESSAGES] = {"tool_choice": {"type": "auto", "disable_parallel_tool_use": True}}  # type: ignore[dict-item]


@pytest.mark.parametrize("route", ONE_CALL)
def test_one_call_where_no_more_are_wanted(scripted: Served, route: str) -> None:
    url = scripted.url + route
    for more, expected in (({}, ["look", "book"]), (ONE_CALL[route], ["look"])):
        asked = body(route, BOTH, **more)
        _, answer = post(url, asked)
        assert calls_of(route, answer) == expected
        assert ("Done." in json.dumps(answer)) == (len(expected) == 2)
        assert streamed_calls(route, events(url, asked)) == expected


def allowed(route: str, mode: str, *names: str) -> dict[str, Any]:
    if route == CHAT:
        tools: list[Any] = [{"type": "function", "function": {"name": name}} for name in names]
        return {"tool_choice": {"type": "allowed_tools", "allowed_tools": {"mode": mode, "tools": tools}}}
    tools = [{"type": "function", "name": name} for name in names]
    return {"tool_choice": {"type": "allowed_tools", "mode": mode, "tools": tools}}


def text_of(route: str, answer: dict[str, Any]) -> str:
    if route == CHAT:
        return str(answer["choices"][0]["message"]["content"])
    return "".join(p["text"] for item in answer["output"] if item["type"] == "message" for p in item["content"])


def used(answer: dict[str, Any]) -> int:
    usage = answer["usage"]
    return int(usage.get("prompt_tokens") or usage["input_tokens"])


@pytest.mark.parametrize("route", [CHAT, RESPONSES])
def test_only_allowed_tools_are_shown_and_called(scripted: Served, route: str) -> None:
    url = scripted.url + route
    _, answer = post(url, body(route, BOTH, **allowed(route, "auto", "book")))
    assert calls_of(route, answer) == ["book"]
    assert written("look", "Rome") in text_of(route, answer)
    assert used(answer) == used(post(url, body(route, BOTH, names=("book",)))[1])
    _, answer = post(
        url, body(route, f"[[call look {json.dumps({'city': 'Rome'})}]]", **allowed(route, "required", "book"))
    )
    assert calls_of(route, answer) == ["book"]
    status, answer = post(url, body(route, BOTH, **allowed(route, "auto", "cook")))
    assert status == 400 and "'cook'" in answer["error"]["message"]
    status, answer = post(url, body(route, BOTH, **allowed(route, "required")))
    assert status == 400 and answer["error"]["param"] == "tool_choice"


QUESTION = "What is 14 plus 25?"


@pytest.mark.parametrize("thinking", [True, False])
def test_scores_of_a_response_are_those_of_a_chat(server: Served, thinking: bool) -> None:
    options = {"model": "tiny-dense", "temperature": 0, "thinking": thinking, "top_logprobs": 3}
    chat = {**options, "messages": [{"role": "user", "content": QUESTION}], "logprobs": True}
    scores = post(server.url + CHAT, chat)[1]["choices"][0]["logprobs"]["content"]
    assert scores and all(len(score["top_logprobs"]) == 3 for score in scores)
    asked = {**options, "input": QUESTION}
    [message] = [item for item in post(server.url + RESPONSES, asked)[1]["output"] if item["type"] == "message"]
    assert message["content"][0]["logprobs"] == scores
    found = events(server.url + RESPONSES, asked)
    deltas = [event["logprobs"] for event in found if event["type"] == "response.output_text.delta"]
    assert [score for delta in deltas for score in delta] == scores
    [message] = [item for item in found[-1]["response"]["output"] if item["type"] == "message"]
    assert message["content"][0]["logprobs"] == scores
    del asked["top_logprobs"]
    own = post(server.url + RESPONSES, {**asked, "include": ["message.output_text.logprobs"]})[1]["output"][-1]
    assert own["content"][0]["logprobs"] == [{**score, "top_logprobs": []} for score in scores]
    assert post(server.url + RESPONSES, asked)[1]["output"][-1]["content"][0]["logprobs"] == []


def test_a_middle(tmp_path: Path) -> None:
    """A small model whose vocabulary has the tokens for it, in the place of others."""
    where = tmp_path / "filling"
    where.mkdir()
    for file in find("tiny-dense").path.iterdir():
        (where / file.name).write_bytes(file.read_bytes())
    described = json.loads((where / "tokenizer.json").read_text("utf-8"))
    model, marks = described["model"], [*(text for text in FORMS[0] if text is not None), PAD]
    for mark in marks:  # the last merged token becomes this one
        token, id = max(model["vocab"].items(), key=lambda entry: entry[1])
        del model["vocab"][token]
        model["merges"] = [m for m in model["merges"] if "".join(m if isinstance(m, list) else m.split(" ")) != token]
        described["added_tokens"].append({**described["added_tokens"][-1], "id": id, "content": mark})
    ids = {one["content"]: one["id"] for one in described["added_tokens"]}
    described["added_tokens"].sort(key=lambda one: one["id"])
    (where / "tokenizer.json").write_text(json.dumps(described), "utf-8")
    with served([str(where), "tiny-dense"]) as running:
        url = f"{running.url}/v1/completions"
        asked = {"model": "filling", "prompt": "def f(", "suffix": "):", "max_tokens": 5, "temperature": 0}
        _, prompt = post(
            f"{running.url}/tokenize", {"model": "filling", "prompt": "def f():", "add_special_tokens": False}
        )
        status, answer = post(url, asked)
        assert status == 200 and answer["usage"]["prompt_tokens"] == prompt["count"] + 3
        [choice] = post(url, {**asked, "logit_bias": {str(ids[PAD]): 100}})[1]["choices"]
        assert (choice["text"], choice["finish_reason"]) == ("", "stop")
        status, refused = post(url, {**asked, "model": "tiny-dense"})
        assert status == 400 and refused["error"]["param"] == "suffix"
        for more in ({"echo": True}, {"prompt": ["a"]}, {"prompt": [1]}):
            status, refused = post(url, {**asked, **more})
            assert status == 400 and refused["error"]["param"] == "suffix"


EXTRA = {"zzkept": {"a": [1]}}
CALL = {"id": "a", "type": "function", "function": {"name": "look", "arguments": "{}", **EXTRA}, **EXTRA}
PART = {"type": "text", "text": "Hi", **EXTRA}
HISTORIES: dict[str, tuple[dict[str, Any], set[str]]] = {
    CHAT: (
        {
            "messages": [
                {"role": "user", "content": [PART], **EXTRA},
                {"role": "assistant", "content": "", "reasoning_content": "Hm.", "tool_calls": [CALL]},
                {"role": "tool", "tool_call_id": "a", "content": [PART]},
            ],
            "reasoning": {"enabled": False, "summary": "auto"},
        },
        {"messages.zzkept", "messages.content.zzkept", "messages.tool_calls.zzkept"}
        | {"messages.tool_calls.function.zzkept", "reasoning.summary"},
    ),
    RESPONSES: (
        {
            "input": [
                {"role": "user", "content": [{**PART, "type": "input_text"}], **EXTRA},
                {"type": "reasoning", "id": "rs_1", "summary": [{"type": "summary_text", "text": "Hm.", **EXTRA}]},
                {"type": "function_call", "call_id": "a", "name": "look", "arguments": "{}", "status": "completed"},
                {"type": "function_call_output", "call_id": "a", "output": [PART]},
            ]
        },
        {"input.zzkept", "input.content.zzkept", "input.id", "input.summary.zzkept", "input.status"}
        | {"input.output.zzkept"},
    ),
    MESSAGES: (
        {
            "system": [PART],
            "messages": [
                {"role": "user", "content": [PART], **EXTRA},
                {"role": "assistant", "content": [{"type": "tool_use", "id": "a", "name": "look", "input": EXTRA}]},
                {
                    "role": "user",
                    "content": [{"type": "tool_result", "tool_use_id": "a", "content": [PART], "is_error": True}],
                },
            ],
        },
        {"system.zzkept", "messages.zzkept", "messages.content.zzkept", "messages.content.content.zzkept"}
        | {"messages.content.is_error"},
    ),
}


@pytest.mark.parametrize("route", HISTORIES)
def test_what_is_left_aside_in_messages_is_listed(scripted: Served, route: str) -> None:
    history, expected = HISTORIES[route]
    status, answer = post(scripted.url + route, {**body(route, ""), **history})
    assert status == 200 and set(answer["trilens"]["ignored"]) == expected
    without = json.loads(json.dumps(history), object_hook=lambda one: {k: v for k, v in one.items() if k != "zzkept"})
    _, answer = post(scripted.url + route, {**body(route, ""), **without})
    assert set(answer["trilens"]["ignored"]) == {one for one in expected if not one.endswith("zzkept")}


@pytest.mark.parametrize("route", HISTORIES)
def test_parameters_are_of_an_object(scripted: Served, route: str) -> None:
    """A tool that states none takes none; what is no object is refused."""
    asked = body(route, "[[call look {}]]", names=("look",))
    described = asked["tools"][0].get("function", asked["tools"][0])
    key = "input_schema" if route == MESSAGES else "parameters"
    forced = {MESSAGES: {"type": "any"}}.get(route, "required")
    for stated in ({}, None, {"type": "object", "properties": {}}):
        described[key] = stated
        _, answer = post(scripted.url + route, {**asked, "tool_choice": forced})
        assert calls_of(route, answer) == ["look"]
        assert '"length"' not in json.dumps(answer) and used(answer) > 0
    described[key] = {"type": "array", "items": {}}
    status, answer = post(scripted.url + route, asked)
    assert status == 400 and "tools.0 has parameters of type" in answer["error"]["message"]


WANTED = {"type": "object", "properties": {"x": {"type": "boolean"}}, "required": ["x"]}
FORMS_OF_WANTED: dict[str, dict[str, Any]] = {
    CHAT: {"response_format": {"type": "json_schema", "json_schema": {"name": "n", "schema": WANTED}}},
    RESPONSES: {"text": {"format": {"type": "json_schema", "name": "n", "schema": WANTED}}},
    MESSAGES: {"output_config": {"format": {"type": "json_schema", "schema": WANTED}}},
}


@pytest.mark.parametrize("route", FORMS_OF_WANTED)
def test_a_schema_beside_tools_is_followed_or_a_tool_is_called(scripted: Served, route: str) -> None:
    called = [[], ["look"], ["look", "book"]]
    both = f"{written('look', 'Rome')}\n{written('book', 'Oslo')}"
    for said, names in zip(('{"x":true}', written("look", "Rome"), both), called, strict=True):
        _, answer = post(scripted.url + route, body(route, f"[[say {said}]]", **FORMS_OF_WANTED[route]))
        assert calls_of(route, answer) == names
        assert names or '{\\"x\\":true}' in json.dumps(answer)
    one = {**FORMS_OF_WANTED[route], **ONE_CALL[route]}
    _, answer = post(scripted.url + route, body(route, f"[[say {both}]]", **one))
    assert calls_of(route, answer) == ["look"]
