"""Hostile values in every field of every protocol, and in headers and URLs: never a fault of ours, always a word."""

from __future__ import annotations

import http.client
import json
from collections.abc import Iterator, Mapping
from typing import Any
from urllib.parse import urlsplit

import httpx2 as httpx
import pytest
from pydantic import BaseModel

from tests.serve.conftest import Served, served
from trilens.serve.body import MOST_DEPTH, MOST_VALUES, BadBody, read_json
from trilens.serve.chat import ChatRequest
from trilens.serve.completions import CompletionRequest
from trilens.serve.messages import MessagesRequest, Prompted
from trilens.serve.responses import ResponseRequest

QUESTION = {"role": "user", "content": "What is 12 plus 30?"}
SCHEMA = {"type": "object", "properties": {"a": {"type": "integer"}}, "required": ["a"]}
CALL = {"id": "c1", "type": "function", "function": {"name": "sum", "arguments": "{}"}}
SAMPLING = {"temperature": 0, "top_p": 1, "seed": 1, "logit_bias": {"3": 1}}
# valid requests that between them state every field that has parts; JSON text stands where a hostile value goes
VALID: dict[str, list[tuple[type[BaseModel], dict[str, Any]]]] = {
    "chat/completions": [
        (
            ChatRequest,
            {
                "model": "tiny-dense",
                "messages": [
                    {"role": "system", "content": "Be brief."},
                    {"role": "user", "content": [{"type": "text", "text": "hi"}], "name": "me"},
                    {"role": "assistant", "content": None, "tool_calls": [CALL], "reasoning_content": "so"},
                    {"role": "tool", "content": "42", "tool_call_id": "c1"},
                    QUESTION,
                ],
                "max_tokens": 1,
                "n": 1,
                "stop": ["x"],
                "stream_options": {"include_usage": True},
                "chat_template_kwargs": {"enable_thinking": False, "other": 1},
                "trilens": {"routes": False},
                **SAMPLING,
            },
        ),
        (
            ChatRequest,
            {
                "model": "tiny-dense",
                "messages": [QUESTION],
                "max_tokens": 1,
                "tools": [{"type": "function", "function": {"name": "sum", "parameters": SCHEMA}}],
                "tool_choice": {"type": "function", "function": {"name": "sum"}},
                "thinking": {"type": "disabled"},
            },
        ),
        (
            ChatRequest,
            {
                "model": "tiny-dense",
                "messages": [QUESTION],
                "max_tokens": 1,
                "response_format": {"type": "json_schema", "json_schema": {"name": "a", "schema": SCHEMA}},
                "reasoning": {"effort": "none"},
            },
        ),
    ],
    "completions": [
        (CompletionRequest, {"model": "tiny-dense", "prompt": "12+30", "max_tokens": 1, "stop": "x", **SAMPLING})
    ],
    "responses": [
        (
            ResponseRequest,
            {
                "model": "tiny-dense",
                "input": [
                    {"type": "message", "role": "user", "content": [{"type": "input_text", "text": "hi"}]},
                    {"type": "reasoning", "content": [{"type": "reasoning_text", "text": "so"}]},
                    {"type": "function_call", "name": "sum", "arguments": "{}", "call_id": "c1"},
                    {"type": "function_call_output", "call_id": "c1", "output": "42"},
                    {"role": "user", "content": "What is 12 plus 30?"},
                ],
                "instructions": "Be brief.",
                "max_output_tokens": 2,
                "reasoning": {"effort": "none"},
                **SAMPLING,
            },
        ),
        (
            ResponseRequest,
            {
                "model": "tiny-dense",
                "input": "What is 12 plus 30?",
                "max_output_tokens": 2,
                "tools": [{"type": "function", "name": "sum", "parameters": SCHEMA}],
                "tool_choice": {"type": "function", "name": "sum"},
            },
        ),
        (
            ResponseRequest,
            {
                "model": "tiny-dense",
                "input": "What is 12 plus 30?",
                "max_output_tokens": 2,
                "text": {"format": {"type": "json_schema", "schema": SCHEMA}},
            },
        ),
    ],
    "messages": [
        (
            MessagesRequest,
            {
                "model": "tiny-dense",
                "system": [{"type": "text", "text": "Be brief."}],
                "messages": [
                    {"role": "user", "content": [{"type": "text", "text": "hi"}]},
                    {
                        "role": "assistant",
                        "content": [
                            {"type": "thinking", "thinking": "so", "signature": ""},
                            {"type": "tool_use", "id": "c1", "name": "sum", "input": {}},
                        ],
                    },
                    {"role": "user", "content": [{"type": "tool_result", "tool_use_id": "c1", "content": "42"}]},
                ],
                "max_tokens": 1,
                "thinking": {"type": "enabled", "budget_tokens": 1},
                **SAMPLING,
            },
        ),
        (
            MessagesRequest,
            {
                "model": "tiny-dense",
                "messages": [QUESTION],
                "max_tokens": 1,
                "output_config": {"effort": "none"},
                "tools": [{"name": "sum", "input_schema": SCHEMA}],
                "tool_choice": {"type": "tool", "name": "sum"},
            },
        ),
    ],
    "messages/count_tokens": [(Prompted, {"model": "tiny-dense", "messages": [QUESTION]})],
}
HOSTILE = (
    *("null", "true", "-1", "2.5", "NaN", "-Infinity", "1e999", "1" + "0" * 400, "9223372036854775807"),
    *(
        '""',
        '"x"',
        '"\\u0000"',
        '"\\ud800"',
        "[]",
        "[[]]",
        "[null]",
        "{}",
        '{"a": 1}',
        '{"\\udfff": 1}',
        '{"type": {}}',
    ),
    *('["a", 5]', "1" * 5000, "[" * 40 + "]" * 40, '{"a":' * 70 + "1" + "}" * 70),
)
HERE = "\0here\0"  # where the hostile text is put in


def paths(value: Any, path: tuple[str | int, ...] = ()) -> Iterator[tuple[str | int, ...]]:
    """Of every field and part of a request."""
    if path:
        yield path
    parts: Any = value.items() if isinstance(value, Mapping) else enumerate(value) if isinstance(value, list) else ()
    for key, inner in parts:
        yield from paths(inner, (*path, key))


def with_hostile(valid: dict[str, Any], path: tuple[str | int, ...], hostile: str) -> str:
    copy = json.loads(json.dumps(valid))
    holder = copy
    for key in path[:-1]:
        holder = holder[key]
    holder[path[-1]] = HERE
    return json.dumps(copy).replace(json.dumps(HERE), hostile)


def message_of(answer: httpx.Response) -> str:
    """The error's words, in the protocol's own form."""
    body = answer.json()
    if "/messages" in str(answer.url):
        assert body["type"] == "error" and set(body["error"]) == {"type", "message"}
    else:
        assert set(body["error"]) == {"message", "type", "param", "code"}
    return str(body["error"]["message"])


def assert_answered(answer: httpx.Response, path: tuple[str | int, ...], sent: str) -> None:
    where = f"{path}: {sent[:300]} -> {answer.status_code} {answer.text[:300]}"
    assert answer.status_code in (200, 400, 404), where
    if answer.status_code == 200:
        assert answer.headers["content-type"].startswith("text/event-stream") or answer.json(), where
        return
    said = message_of(answer)
    assert "\n" not in said and len(said) < 700, where
    top = str(path[0])
    if answer.status_code == 404:
        assert top == "model", where
        return
    if said.startswith("the body "):
        return  # nothing in it could be read
    fields = {top, "thinking"} if top in ("reasoning", "output_config", "chat_template_kwargs") else {top}
    fields |= {"tools"} if top == "tool_choice" else {"tool_choice"} if top == "tools" else set()
    fields |= (
        {"messages"} if top in ("system", "input", "instructions") else {"message"} if top == "messages" else set()
    )
    assert any(field in said for field in fields), where


@pytest.mark.parametrize("every", [6, pytest.param(1, marks=pytest.mark.slow)])
@pytest.mark.parametrize("route", VALID)
def test_every_field_with_every_hostile_value(server: Served, route: str, every: int) -> None:
    """In the fast suite each field gets one in four of them, its neighbour the next ones."""
    tried = 0
    with httpx.Client(timeout=60) as client:
        for model, valid in VALID[route]:
            assert client.post(f"{server.url}/v1/{route}", json=valid).status_code == 200, valid
            places = [*paths(valid), *((field.alias or name,) for name, field in model.model_fields.items())]
            for number, path in enumerate(dict.fromkeys(places)):
                for hostile in HOSTILE[number % every :: every]:
                    sent = with_hostile(valid, path, hostile)
                    headers = {"content-type": "application/json"}
                    answer = client.post(f"{server.url}/v1/{route}", content=sent, headers=headers)
                    assert_answered(answer, path, sent)
                    tried += 1
    assert tried > 200 / every


NAMES = ["\\ud800", "nope", "\\u0000", "self", "__class__", "x" * 10_000, ""]


@pytest.mark.parametrize("every", [6, pytest.param(1, marks=pytest.mark.slow)])
@pytest.mark.parametrize("route", VALID)
@pytest.mark.parametrize("name", NAMES)
def test_a_name_that_nobody_knows_at_every_place(server: Served, route: str, name: str, every: int) -> None:
    """In the fast suite each name stands at the top and at one in four of the places below, the next name at the
    next."""
    with httpx.Client(timeout=60) as client:
        for _, valid in VALID[route]:
            for path in ((), *list(paths(valid))[NAMES.index(name) % every :: every]):
                holder: Any = json.loads(json.dumps(valid))
                copy = holder
                for key in path:
                    holder = holder[key]
                if not isinstance(holder, dict):
                    continue
                holder[HERE] = 1
                sent = json.dumps(copy).replace(json.dumps(HERE), f'"{name}"')
                headers = {"content-type": "application/json"}
                answer = client.post(f"{server.url}/v1/{route}", content=sent, headers=headers)
                assert answer.status_code in (200, 400), f"{path} {answer.text}"
                if answer.status_code == 400:
                    assert len(message_of(answer)) < 700
                if not path or name == "\\ud800":
                    assert answer.status_code == 400


@pytest.mark.parametrize(
    "variable", ["messages", "tools", "add_generation_prompt", "self", "strftime_now", "eos_token"]
)
def test_the_servers_own_variables_are_not_the_callers(server: Served, variable: str) -> None:
    for value in (3, None, [], {"a": 1}):
        body = {"model": "tiny-dense", "messages": [QUESTION], "chat_template_kwargs": {variable: value}}
        answer = httpx.post(f"{server.url}/v1/chat/completions", json=body)
        assert answer.status_code == 400
        assert answer.json()["error"]["param"] == f"chat_template_kwargs.{variable}"


def test_the_field_is_named_and_what_it_expects() -> None:
    cases = {
        '"stop": 5': ("stop", "valid string"),
        '"stop": ["a", 5]': ("stop.1", "valid string"),
        '"temperature": "hot"': ("temperature", "number"),
        '"tool_choice": {"type": "function"}': ("tool_choice.function", "missing"),
        '"tool_choice": 3': ("tool_choice", "'auto'"),
        '"thinking": 2.5': ("thinking", "boolean"),
        '"tools": [{"type": "function", "function": {}}]': ("tools.0.function.name", "missing"),
        '"seed": 1e999': ("seed", "finite"),
        '"metadata": {"a": [1, NaN]}': ("metadata.a.1", "finite"),
        '"nope": 1': ("nope", "is unknown"),
        '"messages": [{"role": "user", "content": 3}]': ("messages.0.content", "expected a text"),
        '"messages": [{"role": "assistant", "tool_calls": [{}]}]': ("messages.0.tool_calls.0.function.name", "name"),
        '"reasoning_effort": "huge"': ("reasoning_effort", "minimal"),
    }
    with served(["tiny-dense"]) as own:
        for field, (param, said) in cases.items():
            body = '{"model": "tiny-dense", "messages": [{"role": "user", "content": "hi"}], ' + field + "}"
            headers = {"content-type": "application/json"}
            error = httpx.post(f"{own.url}/v1/chat/completions", content=body, headers=headers).json()["error"]
            assert error["param"] == param, (field, error)
            assert said in error["message"], (field, error)


class TestBody:
    def test_what_is_read(self) -> None:
        assert read_json(b'{"a": [1, 18446744073709551615, -9223372036854775808, "\\ud83d\\ude00"]}') == {
            "a": [1, (1 << 64) - 1, -(1 << 63), "😀"]
        }

    @pytest.mark.parametrize("depth", [MOST_DEPTH + 2, 100_000])
    def test_depth(self, depth: int) -> None:
        for body in (b"[" * depth + b"]" * depth, b'{"a":' * depth + b"1" + b"}" * depth):
            with pytest.raises(BadBody, match="nested too deeply"):
                read_json(body)
        read_json(b"[" * MOST_DEPTH + b"]" * MOST_DEPTH)

    def test_number_of_values(self) -> None:
        with pytest.raises(BadBody, match=f"more than {MOST_VALUES} values"):
            read_json(b"[" + b"1," * MOST_VALUES + b"1]")


HEADERS = (
    "Host",
    "Origin",
    "Content-Type",
    "Content-Length",
    "Authorization",
    "X-Api-Key",
    "Accept",
    "Expect",
    "Cookie",
)
VALUES = (
    *(b"", b"[bad", b"[::1", b"]", b"localhost:99999999", b"//", b"http://[bad", b"\xff\xfe", b"\xc3\x28", b"null"),
    *(b"x" * 5000, b"9" * 30, b"-1", b"1e3", b"Bearer", b"Bearer \xff", b"application/json; charset=\xff", b"*"),
    *(b"application/json; charset=utf-16", b"multipart/form-data", b"a, b", b"100-continue", b"@", b"%00", b"user@["),
)


@pytest.fixture(scope="module")
def open_to_all() -> Iterator[Served]:
    """A server that answers to every host name, and asks for a key."""
    from trilens.serve.guard import Rules

    with served(["tiny-dense"], Rules(host="0.0.0.0", key="key")) as running:
        yield running


ROUTES = ("/v1/chat/completions", "/v1/messages", "/v1/models/", "/nothing/here")


@pytest.mark.parametrize("every", [len(ROUTES), pytest.param(1, marks=pytest.mark.slow)])
@pytest.mark.parametrize("name", HEADERS)
@pytest.mark.parametrize("kind", ["loopback", "open"])
def test_every_header_with_every_hostile_value(
    server: Served, open_to_all: Served, name: str, kind: str, every: int, caplog: pytest.LogCaptureFixture
) -> None:
    """On every route, or on the routes in turn."""
    running = server if kind == "loopback" else open_to_all
    body = json.dumps({"model": "tiny-dense", "messages": [QUESTION], "max_tokens": 1}).encode()
    for number, value in enumerate(VALUES):
        for path in ROUTES[(number + HEADERS.index(name)) % every :: every]:
            sent = {b"Host": b"localhost", b"Content-Type": b"application/json", b"Content-Length": b"%d" % len(body)}
            sent[name.encode()] = value
            lines = b"".join(b"%s: %s\r\n" % one for one in sent.items())
            status = raw_status(running, b"POST " + path.encode() + b" HTTP/1.1\r\nConnection: close\r\n" + lines, body)
            assert status is None or status < 500, (name, value, path, status)
    assert "a request failed" not in caplog.text


def raw_status(running: Served, head: bytes, body: bytes) -> int | None:
    """The answer's status; None where the server waits for a body that is longer than what is sent."""
    port = urlsplit(running.url).port
    assert port is not None
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
    connection.connect()
    connection.sock.sendall(head + b"\r\n" + body)
    answer = http.client.HTTPResponse(connection.sock)
    if b"Content-Length: 9999" in head:
        connection.sock.settimeout(0.5)
    try:
        answer.begin()
        return answer.status
    except (TimeoutError, http.client.HTTPException, ConnectionError):
        return None
    finally:
        answer.close()
        connection.close()


@pytest.mark.parametrize("method", ["GET", "HEAD", "PUT", "DELETE", "PATCH", "OPTIONS", "TRACE", "PROPFIND"])
def test_every_method_and_odd_urls(server: Served, method: str) -> None:
    urls = ("/", "//", "/%00", "/%ff%fe", "/..%2f..", "/v1/models/", "/v1//models", "/?a=%ff&a[]=[", "/healthz?\x7f")
    for url in (*urls, "/" + "a/" * 500, "/v1/chat/completions?model=[", "*"):
        head = f"{method} {url} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n"
        status = raw_status(server, head.encode("latin-1"), b"")
        assert status is None or status < 500, (method, url, status)


@pytest.mark.parametrize("route", ["chat/completions", "completions", "responses", "messages"])
def test_what_begins_as_a_stream_has_its_protocols_end(server: Served, route: str) -> None:
    """Whether it comes to its own end or breaks off in the middle."""
    end = {"responses": "response.completed", "messages": "message_stop"}.get(route, "data: [DONE]")
    fault = {"responses": '"type":"error"', "messages": "event: error"}.get(route, '"error":')
    for _, valid in VALID[route]:
        body = {key: value for key, value in valid.items() if key != "stream_options"} | {"stream": True}
        text = httpx.post(f"{server.url}/v1/{route}", json=body, timeout=60).text
        assert end in text or "response.incomplete" in text, text
    with served(["tiny-dense"], seconds=0.1) as hurried:
        body = VALID[route][0][1] | {"stream": True}
        for most in ("max_tokens", "max_output_tokens"):
            if most in body:
                body[most] = 2000
        got = httpx.post(f"{hurried.url}/v1/{route}", json=body, timeout=60)
        begun = got.status_code == 200  # on a slow machine the time may be up before the stream begins
        assert not begun or end in got.text or fault in got.text or "response.incomplete" in got.text, got.text
        if route.endswith("completions") and text.startswith("data:"):
            assert text.rstrip().endswith("data: [DONE]")
