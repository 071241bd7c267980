"""Who is let in, what is said to the others, and what no response tells."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx2 as httpx
import pytest

from tests.serve.conftest import Served, served
from trilens.errors import ModelNotFound, TrilensError
from trilens.serve.faults import fault_of
from trilens.serve.guard import Rules

CHAT = "/v1/chat/completions"
ASK = {"model": "tiny-dense", "messages": [{"role": "user", "content": "What is 12 plus 30?"}]}


@pytest.fixture(scope="module")
def locked() -> Iterator[Served]:
    rules = Rules(key="s3cret", origins=("https://friend.example",), most_bytes=2000)
    with served(rules=rules) as running:
        yield running


def post(server: Served, body: Any, **headers: str) -> httpx.Response:
    return httpx.post(server.url + CHAT, json=body, headers=headers)


class TestKey:
    @pytest.mark.parametrize("headers", [{}, {"Authorization": "Bearer nope"}, {"x-api-key": "s3cre"}])
    def test_without_it_nothing(self, locked: Served, headers: dict[str, str]) -> None:
        answer = post(locked, ASK, **headers)
        assert answer.status_code == 401 and "s3cret" not in answer.text
        for path in ("/v1/models", "/metrics", "/openapi.json"):
            assert httpx.get(locked.url + path, headers=headers).status_code == 401

    @pytest.mark.parametrize("headers", [{"Authorization": "Bearer s3cret"}, {"x-api-key": "s3cret"}])
    def test_with_it(self, locked: Served, headers: dict[str, str]) -> None:
        assert post(locked, ASK, **headers).status_code == 200
        assert httpx.get(locked.url + "/metrics", headers=headers).status_code == 200

    def test_the_page_and_the_health_are_open(self, locked: Served) -> None:
        assert httpx.get(locked.url + "/").status_code == httpx.get(locked.url + "/healthz").status_code == 200


class TestOrigins:
    def test_another_host_is_refused(self, server: Served) -> None:
        answer = post(server, ASK, Host="evil.example")
        assert answer.status_code == 403 and "evil.example" in answer.json()["error"]["message"]

    def test_another_origin_is_refused_unless_listed(self, server: Served, locked: Served) -> None:
        assert post(server, ASK, Origin="https://evil.example").status_code == 403
        assert post(server, ASK, Origin="null").status_code == 403
        key = {"x-api-key": "s3cret"}
        assert post(locked, ASK, Origin="https://evil.example", **key).status_code == 403
        friend = post(locked, ASK, Origin="https://friend.example", **key)
        assert friend.headers["access-control-allow-origin"] == "https://friend.example"
        preflight = httpx.options(locked.url + CHAT, headers={"Origin": "https://friend.example"})
        assert preflight.status_code == 204

    def test_the_page_itself_may_ask(self, server: Served) -> None:
        assert post(server, ASK, Origin=server.url).status_code == 200


class TestBodies:
    def test_too_large(self, locked: Served) -> None:
        key = {"x-api-key": "s3cret"}
        assert post(locked, {**ASK, "user": "x" * 3000}, **key).status_code == 413

        def pieces() -> Iterator[bytes]:
            for _ in range(50):
                yield b" " * 100

        answer = httpx.post(locked.url + CHAT, content=pieces(), headers={**key, "content-type": "application/json"})
        assert answer.status_code == 413 and "2000" in answer.json()["error"]["message"]

    @pytest.mark.parametrize(
        ("content", "kind", "said"),
        [
            (b"{", "application/json", "not JSON"),
            (b"[1]", "application/json", "the body"),
            (b"{}", "text/plain", "Content-Type: application/json"),
            (b"", "application/json", "missing"),
            (b'{"model": 3, "messages": []}', "application/json", "model is 3"),
            (b"\xff\xfe", "application/json", "the body"),
        ],
    )
    def test_no_json(self, server: Served, content: bytes, kind: str, said: str) -> None:
        answer = httpx.post(server.url + CHAT, content=content, headers={"content-type": kind})
        assert answer.status_code == 400, answer.text
        assert said in answer.json()["error"]["message"]

    def test_no_such_route(self, server: Served) -> None:
        assert httpx.get(server.url + "/v1/nothing").status_code == 404
        assert httpx.get(server.url + CHAT).status_code == 405
        for path in ("/..%2fapp.py", "/%2e%2e/app.py", "/app.py", "/index.html%00"):
            assert httpx.get(server.url + path).status_code == 404


class TestWhatIsTold:
    def test_headers(self, server: Served) -> None:
        page = httpx.get(server.url + "/")
        assert page.headers["content-type"].startswith("text/html")
        assert "default-src 'self'" in page.headers["content-security-policy"]
        assert page.headers["x-content-type-options"] == "nosniff" and "server" not in page.headers

    def test_metrics_have_counts_and_no_words(self, server: Served) -> None:
        post(server, ASK)
        text = httpx.get(server.url + "/metrics").text
        assert 'trilens_tokens_total{kind="answer",model="tiny-dense"}' in text
        assert 'trilens_requests_total{route="/v1/chat/completions",status="200"}' in text
        assert "plus" not in text

    def test_a_models_path_stays_here(self, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
        from trilens.checkpoints.find import find

        copy = tmp_path / "mine"
        copy.symlink_to(find("tiny-dense").path)
        broken = tmp_path / "broken.gguf"
        broken.write_bytes(b"GGUF" + b"\0" * 50)
        with caplog.at_level(logging.INFO), served([str(copy.resolve()), str(broken)]) as own:
            names = [m["id"] for m in httpx.get(own.url + "/v1/models").json()["data"]]
            listed = httpx.get(own.url + "/v1/models").text
            answer = post(own, {**ASK, "model": names[0]})
            failed = post(own, {**ASK, "model": "broken"})
        assert answer.status_code == 200 and failed.status_code == 503
        for text in (listed, answer.text, failed.text):
            assert str(tmp_path) not in text and str(copy.resolve().parent) not in text
        assert "plus" not in caplog.text

    def test_a_fault_of_ours_is_not_told(self) -> None:
        told = json.dumps(fault_of(RuntimeError("/secret/path")).openai())
        assert "secret" not in told and "log" in told
        assert fault_of(TrilensError("/secret")).message == "the request failed"
        assert fault_of(ModelNotFound("no")).status == 404
