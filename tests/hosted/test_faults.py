"""Faults of the network and of services, at every point of a stream: a typed error or a retry, and nothing lost."""

from __future__ import annotations

import socket
import sys
import time
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest

from tests.hosted import wire
from tests.hosted.conftest import KEY
from tests.hosted.fake import Cut, FakeServer, Pause, Reset, Status
from trilens.errors import HostedError, RateLimited, Refused, RequestRefused, ServiceFailed, Unreachable, UsageError
from trilens.hosted.keys import _from_keyring as from_keyring  # before the fixture takes it away
from trilens.hosted.load import load_hosted
from trilens.hosted.model import HostedModel
from trilens.hosted.price import UnpricedWarning

pytestmark = [
    pytest.mark.filterwarnings("ignore::DeprecationWarning:trilens.hosted"),
    pytest.mark.filterwarnings("ignore::UserWarning:trilens.hosted"),
]
At = Callable[..., HostedModel]
Serve = Callable[..., FakeServer]
PROMPT = "What is 2 + 2?"
STREAMS: dict[str, tuple[str, list[bytes]]] = {
    "openai": ("gpt-5.1", wire.ResponsesStream().reasoning("Hm.").message("It is ", "4.").end()),
    "anthropic": (
        "claude-opus-4-6",
        wire.messages(wire.thinking_block("Hm.", "s"), wire.text_block("It is ", "4.")),
    ),
    "gemini": ("gemini-2.5-flash", wire.gemini({"text": "Hm.", "thought": True}, {"text": "It is "}, {"text": "4."})),
    "vllm": ("m", wire.chat({"reasoning": "Hm."}, {"content": "It is "}, {"content": "4."})),
}
SERVICES = list(STREAMS)


def until_the_answer(events: list[bytes]) -> list[bytes]:
    """Up to the first piece of the answer."""
    return events[: next(i for i, event in enumerate(events) if b"It is " in event) + 1]


@pytest.mark.parametrize("service", SERVICES)
@pytest.mark.parametrize(
    ("status", "error"),
    [(400, Refused), (401, Refused), (403, Refused), (404, Refused), (429, RateLimited), (500, ServiceFailed)],
)
def test_statuses(serve: Serve, at: At, service: str, status: int, error: type[HostedError]) -> None:
    said = {"error": {"message": f"no, {KEY} cannot", "type": "x", "code": status, "status": "X"}, "type": "error"}
    server = serve(Status(status, said))
    with pytest.raises(error) as raised:
        at(server, service, STREAMS[service][0]).generate(PROMPT)
    assert type(raised.value) is error
    assert "no, *** cannot" in str(raised.value)
    assert (raised.value.exit_code, raised.value.partial) == (7, None)
    assert KEY not in repr(raised.value) and raised.value.__cause__ is None
    assert len(server.asked) == 1


@pytest.mark.parametrize("service", SERVICES)
@pytest.mark.parametrize("first", [Status(429, headers={"retry-after-ms": "1"}), Status(500), Reset()], ids=str)
def test_retries_before_an_answer(
    serve: Serve, at: At, service: str, first: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(time, "sleep", lambda seconds: None)  # the vendors' libraries back off with it
    model, events = STREAMS[service]
    server = serve(first, events)
    if service == "gemini" and isinstance(first, Reset):
        pytest.skip("Google's library retries statuses and time-outs only")
    assert at(server, service, model, retries=1).generate(PROMPT).text == "It is 4."
    assert len(server.asked) == 2


@pytest.mark.parametrize("service", SERVICES)
def test_how_long_to_wait(serve: Serve, at: At, service: str) -> None:
    server = serve(Status(429, headers={"retry-after": "17"}))
    with pytest.raises(RateLimited, match="try again in 17 s") as raised:
        at(server, service, STREAMS[service][0]).generate(PROMPT)
    assert raised.value.retry_after == 17


@pytest.mark.parametrize("service", SERVICES)
def test_nobody_there(serve: Serve, at: At, service: str) -> None:
    server = FakeServer()
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        server.url = f"http://127.0.0.1:{free.getsockname()[1]}"
    with pytest.raises(Unreachable, match="no connection"):
        at(server, service, STREAMS[service][0]).generate(PROMPT)


@pytest.mark.parametrize("service", SERVICES)
def test_reset_before_anything(serve: Serve, at: At, service: str) -> None:
    with pytest.raises((Unreachable, ServiceFailed)) as raised:
        at(serve(Reset()), service, STREAMS[service][0]).generate(PROMPT)
    assert raised.value.partial is None


@pytest.mark.parametrize("service", SERVICES)
@pytest.mark.parametrize("fault", [Cut(), Reset(), None], ids=["cut", "reset", "ended"])
def test_broken_in_the_middle(serve: Serve, at: At, service: str, fault: Any) -> None:
    model, events = STREAMS[service]
    pieces = until_the_answer(events)
    server = serve([*pieces, Pause(0.1), fault] if fault else pieces)
    with pytest.raises(ServiceFailed, match="broke off") as raised:
        at(server, service, model).generate(PROMPT)
    partial = raised.value.partial
    assert (partial.thinking, partial.text) == ("Hm.", "It is ")
    assert (partial.receipt.finish, partial.receipt.price.total) == ("broken", None)
    assert len(server.asked) == 1  # what has begun is not asked for twice


@pytest.mark.parametrize("service", SERVICES)
def test_broken_at_every_event(serve: Serve, at: At, service: str) -> None:
    model, events = STREAMS[service]
    whole = at(serve(events), service, model).generate(PROMPT)
    asked = at(serve(*[[*events[:n], Cut()] for n in range(len(events) + 1)]), service, model)
    last = ""
    for n in range(len(events) + 1):
        try:
            text = asked.generate(PROMPT).text
            assert text == whole.text, n  # only what comes after the end may be missing
        except ServiceFailed as problem:
            text = problem.partial.text if problem.partial else ""
        assert whole.text.startswith(text)
        assert len(text) >= len(last)
        last = text
    assert last == whole.text


@pytest.mark.parametrize("service", SERVICES)
def test_slow(serve: Serve, at: At, service: str) -> None:
    model, events = STREAMS[service]
    server = serve([*until_the_answer(events), Pause(1.5)])
    with pytest.raises(Unreachable, match="in time") as raised:
        at(server, service, model, timeout=0.4).generate(PROMPT)
    assert raised.value.partial.text == "It is "


@pytest.mark.parametrize(
    ("service", "event", "error"),
    [
        (
            "anthropic",
            wire._sse({"type": "error", "error": {"type": "overloaded_error", "message": "Overloaded"}}, "error"),
            RateLimited,
        ),
        (
            "anthropic",
            wire._sse({"type": "error", "error": {"type": "api_error", "message": "Internal"}}, "error"),
            ServiceFailed,
        ),
        ("vllm", wire._sse({"error": {"message": "EngineDeadError", "code": 500}}), ServiceFailed),
        (
            "gemini",
            wire._sse({"error": {"message": "Overloaded", "code": 503, "status": "UNAVAILABLE"}}),
            ServiceFailed,
        ),
        (
            "openai",
            wire._sse(
                {"type": "error", "code": "server_error", "message": "x", "param": None, "sequence_number": 9}, "error"
            ),
            ServiceFailed,
        ),
    ],
)
def test_errors_inside_a_stream(serve: Serve, at: At, service: str, event: bytes, error: type[HostedError]) -> None:
    model, events = STREAMS[service]
    with pytest.raises(error) as raised:
        at(serve([*until_the_answer(events), event]), service, model).generate(PROMPT)
    assert type(raised.value) is error
    assert raised.value.partial.text == "It is "


def test_a_response_that_failed(serve: Serve, at: At) -> None:
    stream = wire.ResponsesStream().message("It is ")
    failed = stream.response("failed", error={"code": "rate_limit_exceeded", "message": "Too many"})
    with pytest.raises(RateLimited, match="Too many"):
        at(serve(stream.add("response.failed", response=failed).events), "openai", "gpt-5.1").generate(PROMPT)


@pytest.mark.parametrize(
    ("service", "reply", "says"),
    [
        ("anthropic", wire.messages(wire.text_block("It is "), stop="refusal"), "will not answer"),
        ("gemini", wire.gemini({"text": "It is "}, finish="SAFETY"), "SAFETY"),
        ("vllm", wire.chat({"content": "It is "}, finish="content_filter"), "will not answer"),
        ("openai", wire.ResponsesStream().message("It is ").end(reason="content_filter"), "will not answer"),
    ],
)
def test_a_model_that_will_not_answer(serve: Serve, at: At, service: str, reply: Any, says: str) -> None:
    with pytest.raises(Refused, match=says) as raised:
        at(serve(reply), service, STREAMS[service][0]).generate(PROMPT)
    assert raised.value.partial.text == "It is "
    assert raised.value.partial.receipt.finish == "refused"


@pytest.mark.parametrize("service", SERVICES)
def test_closing_a_stream_closes_the_connection(serve: Serve, at: At, service: str) -> None:
    model, events = STREAMS[service]
    padding = [b": " + b"x" * 65536 + b"\n\n"] * 200
    server = serve([*until_the_answer(events), *padding, Pause(0.05), *padding])
    stream = at(server, service, model).stream(PROMPT)
    next(stream)
    stream.close()
    assert server.closed.wait(5)
    with pytest.raises(StopIteration):
        next(stream)


def test_a_page_that_is_no_such_service(serve: Serve, at: At) -> None:
    server = serve([b"<html>hello</html>"])
    with pytest.raises(ServiceFailed):
        at(server, "vllm", "m").generate(PROMPT)


def test_no_key_names_the_variable(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UsageError, match="set OPENAI_API_KEY, or store one with `keyring set trilens openai`"):
        load_hosted("openai:gpt-5.1")
    monkeypatch.setattr("trilens.hosted.keys._from_keyring", lambda service: f"kept-{service}")
    assert load_hosted("openai:gpt-5.1").elsewhere.key == "kept-openai"


@pytest.mark.parametrize(("kept", "found"), [("from-the-ring", "from-the-ring"), ("", None), (OSError("locked"), None)])
def test_the_systems_keyring(kept: Any, found: str | None, monkeypatch: pytest.MonkeyPatch) -> None:
    def get_password(service: str, user: str) -> str:
        assert (service, user) == ("trilens", "openai")
        if isinstance(kept, Exception):
            raise kept
        return str(kept)

    monkeypatch.setitem(sys.modules, "keyring", SimpleNamespace(get_password=get_password))
    assert from_keyring("openai") == found
    monkeypatch.setitem(sys.modules, "keyring", None)
    assert from_keyring("openai") is None


def test_a_key_is_never_shown(serve: Serve, at: At, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(0)
    for service in SERVICES:
        model, events = STREAMS[service]
        server = serve(events)
        there = at(server, service, model)
        answer = there.generate(PROMPT)
        assert KEY in str(server.asked[0].headers)  # it did go there
        assert KEY not in server.asked[0].path
        assert KEY not in repr(there.elsewhere) + repr(answer) + str(answer.receipt.as_dict())
    assert KEY not in caplog.text


def test_a_missing_library_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ANTHROPIC_API_KEY", KEY)
    monkeypatch.setitem(__import__("sys").modules, "anthropic", None)
    with pytest.raises(UsageError, match=r"pip install 'trilens\[anthropic\]'"):
        load_hosted("anthropic:claude-opus-4-6")


def test_a_price_that_nobody_lists_is_a_warning(serve: Serve, at: At) -> None:
    usage = wire.ResponsesStream().message("4").end()
    usage = [event.replace(b"gpt-5.1-2025-11-13", b"made-up") for event in usage]
    with pytest.warns(UnpricedWarning, match="made-up"):
        receipt = at(serve(usage), "openai", "gpt-5.1").generate(PROMPT).receipt
    assert receipt.price.total is None
    assert "unpriced" in receipt.as_text()


@pytest.mark.parametrize(
    ("name", "options", "says"),
    [
        ("openai:", {}, "expected openai:MODEL"),
        ("openai:gpt-5", {"model": "x"}, "only for a server's address"),
        ("http://u:p@127.0.0.1:1/v1", {"model": "x", "engine": "vllm"}, "contains a password"),
        ("http://127.0.0.1:1/v1", {"model": "x", "engine": "nope"}, "expected one of any, "),
        ("https://api.deepseek.com", {"model": "deepseek-chat"}, "set DEEPSEEK_API_KEY"),
    ],
)
def test_names_that_cannot_be_loaded(
    name: str, options: dict[str, Any], says: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(UsageError) as refused:
        load_hosted(name, **options)
    assert says in str(refused.value)


def test_what_a_server_says_of_itself(serve: Serve) -> None:
    server = serve(wire.chat({"content": "4"}), models=[{"id": "a", "owned_by": "llamacpp"}])
    model = load_hosted(server.url)
    assert (model.elsewhere.row.service, model.name) == ("llama.cpp", "a")
    several = serve(wire.chat({"content": "4"}), models=[{"id": "a"}, {"id": "b"}])
    with pytest.raises(UsageError, match=r"serves a, b; say which, as in http://127.0.0.1:\d+/v1#a$"):
        load_hosted(several.url)
    assert load_hosted(several.url, model="b").elsewhere.row.service == "any"
    assert load_hosted(f"{several.url}/v1#b").name == "b"


def test_a_thinking_elsewhere_cannot_be_ended_early(serve: Serve, at: At) -> None:
    model, events = STREAMS["vllm"]
    stream = at(serve(events), "vllm", model).stream(PROMPT)
    assert not stream.thinking
    with pytest.raises(RequestRefused, match="close the stream"):
        stream.answer_now()
