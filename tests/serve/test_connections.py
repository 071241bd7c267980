"""Connections that are no request yet, against a real `trilens serve` process with real sockets."""

from __future__ import annotations

import json
import os
import re
import select
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx2 as httpx
import pytest

from tests.started import Started, started
from trilens.serve.connections import Limits, system_limits

CHAT = "/v1/chat/completions"
ASK = {"model": "tiny-dense", "messages": [{"role": "user", "content": "What is 12 plus 30?"}]}
LONG = {**ASK, "temperature": 2, "logit_bias": {}, "max_tokens": 900, "stream": True}
HEAD = b"POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
GONE = 30.0  # generous: nothing here waits so long unless it hangs


@dataclass
class Process:
    port: int
    running: Started | subprocess.Popen[bytes]
    log: list[str] = field(default_factory=list)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def connect(self, sent: bytes = b"") -> socket.socket:
        one = socket.create_connection(("127.0.0.1", self.port), timeout=GONE)
        one.sendall(sent)
        return one

    def said(self) -> str:
        return "\n".join(self.log)

    def stop(self) -> float:
        """SIGTERM; the seconds until it has ended."""
        begin = time.monotonic()
        self.running.send_signal(signal.SIGTERM)
        self.running.wait(60)
        return time.monotonic() - begin


@contextmanager
def serving(*options: str, descriptors: int | None = None) -> Iterator[Process]:
    """`trilens serve tiny-dense`, ready; in the end stopped, with no traceback on its standard error."""
    ours, theirs = os.pipe()
    with Path(os.devnull).open("wb") as nowhere:
        words = ["serve", "tiny-dense", "--port", "0", *options]
        running = started(words, nowhere.fileno(), theirs, descriptors=descriptors)
    os.close(theirs)
    said = os.fdopen(ours, encoding="utf-8")
    first = said.readline()
    found = re.search(r"http://127\.0\.0\.1:(\d+) serves", first)
    assert found is not None, first
    made = Process(int(found[1]), running)

    def read() -> None:
        for line in said:
            made.log.append(line.rstrip("\n"))

    reader = threading.Thread(target=read, daemon=True)
    reader.start()
    try:
        while True:
            try:
                httpx.get(made.url + "/healthz", timeout=GONE)
                break
            except httpx.ConnectError:
                time.sleep(0.02)
        yield made
    finally:
        if running.poll() is None:
            running.terminate()
        running.wait(60)
        reader.join(10)
        said.close()
    assert "Traceback" not in made.said(), made.said()


def until_closed(one: socket.socket) -> bytes:
    """What comes until the other side closes. Fails where it does not."""
    one.settimeout(GONE)
    came = b""
    try:
        while piece := one.recv(65536):
            came += piece
    except ConnectionError:
        pass
    return came


def open_still(sockets: list[socket.socket]) -> int:
    """How many of these the other side has not closed, without waiting."""
    count = 0
    for one in sockets:
        one.setblocking(False)
        try:
            while one.recv(65536):
                pass
        except BlockingIOError:
            count += 1
        except ConnectionError:
            pass
    return count


def half(kind: int) -> bytes:
    """Beginnings of a request, none of which is one."""
    return (
        b"",
        b"\r\n",
        b"POST",
        b"POST /v1/chat/comp",
        HEAD,
        HEAD + b"X-Long: " + b"x" * 1000,
        HEAD + b"Content-Length: 100\r\n\r\n",
        HEAD + b'Content-Length: 100\r\n\r\n{"model"',
        HEAD + b"Transfer-Encoding: chunked\r\n\r\n",
        HEAD + b"Transfer-Encoding: chunked\r\n\r\n5\r\nab",
        b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\nGET /heal",  # a whole one, and half of the next
        b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n",  # a whole one, and nothing
    )[kind]


KINDS = range(12)


def test_six_hundred_that_are_no_request_yet() -> None:
    with serving("--read-limit", "2") as server, ExitStack() as stack:
        sockets = [stack.enter_context(server.connect(half(i % len(KINDS)))) for i in range(600)]
        answer = httpx.post(server.url + CHAT, json=ASK, timeout=GONE)
        assert answer.status_code == 200 and answer.json()["usage"]["completion_tokens"] > 0
        end = time.monotonic() + GONE
        while open_still(sockets):
            assert time.monotonic() < end, f"{open_still(sockets)} of 600 are still open"
            time.sleep(0.1)
        assert httpx.post(server.url + CHAT, json=ASK, timeout=GONE).status_code == 200
        assert "did not arrive within 2 seconds" in server.said()
        assert len(server.log) < 20, server.said()


@pytest.fixture(scope="module")
def short() -> Iterator[Process]:
    """With limits of half a second and three; an answer that is not read lasts at most four."""
    with serving("--read-limit", "0.5", "--time-limit", "1") as process:
        yield process


def test_every_half_is_closed_with_a_word(short: Process) -> None:
    """All at once, since each takes its time."""
    with ExitStack() as stack:
        halves = {kind: stack.enter_context(short.connect(half(kind))) for kind in KINDS}
        came = {kind: until_closed(one) for kind, one in halves.items()}
    assert [kind for kind in (10, 11) if not came[kind].startswith(b"HTTP/1.1 200")] == []
    for kind, said in came.items():
        if kind != 11:
            head, _, body = said[said.rindex(b"HTTP/1.1") :].partition(b"\r\n\r\n")
            assert head.startswith(b"HTTP/1.1 408 Request Timeout"), kind
            assert "did not arrive within" in json.loads(body)["error"]["message"], kind


def test_bytes_that_trickle_in_do_not_stretch_the_limit(short: Process) -> None:
    """A byte at a time for ever, in a header, in a body, and line ends between two requests."""
    begun = (HEAD + b"X-Slow: ", HEAD + b"Content-Length: 1000\r\n\r\n", half(11))
    with ExitStack() as stack:
        sockets = [stack.enter_context(short.connect(sent)) for sent in begun]
        end = time.monotonic() + GONE
        while sockets:
            assert time.monotonic() < end, "still open"
            time.sleep(0.1)
            for one, more in zip(list(sockets), (b"x", b"x", b"\r\n"), strict=False):
                try:
                    one.sendall(more)
                    if select.select([one], [], [], 0)[0] and not one.recv(65536):
                        sockets.remove(one)
                except ConnectionError:
                    sockets.remove(one)


@pytest.mark.parametrize("size", [70_000, 300_000, 20_000_000])
@pytest.mark.parametrize("place", ["line", "url", "many", "trailer"])
def test_a_large_header_is_refused(server: Any, size: int, place: str) -> None:
    sent = {
        "line": HEAD + b"X-Long: " + b"x" * size,
        "url": b"GET /" + b"x" * size,
        "many": HEAD + b"X-Some: thing\r\n" * (size // 10),
        "trailer": HEAD + b"Transfer-Encoding: chunked\r\n\r\n0\r\n" + b"X-Some: thing\r\n" * (size // 10),
    }[place]
    with connected(server) as one:
        with suppress(ConnectionError):  # it is closed before all of it was sent
            one.sendall(sent)
        came = until_closed(one)
    assert not came or came.startswith(b"HTTP/1.1 431 "), came[:200]
    assert httpx.get(server.url + "/healthz", timeout=GONE).status_code == 200


def connected(server: Any) -> socket.socket:
    return socket.create_connection(("127.0.0.1", int(server.url.rsplit(":", 1)[1])), timeout=GONE)


def test_few_descriptors_and_many_that_wait() -> None:
    """The newest comes in, whoever waited longest goes, and the log says so."""
    with serving(descriptors=256) as server, ExitStack() as stack:
        for i in range(300):
            stack.enter_context(server.connect(half(i % 10)))
        for _ in range(5):
            answer = httpx.post(server.url + CHAT, json=ASK, timeout=GONE)
            assert answer.status_code == 200, answer.text
        assert "192 connections are open, which is the maximum" in server.said()
        assert len(server.log) < 20, server.said()


def test_who_runs_is_not_pushed_out() -> None:
    """With every place taken by a request that runs, the next one is told so."""
    with serving("--parallel", "64", descriptors=80) as server, ExitStack() as stack:
        body = json.dumps(LONG).encode()
        request = HEAD + b"Content-Length: %d\r\n\r\n" % len(body) + body
        sockets = [stack.enter_context(server.connect(request)) for _ in range(44)]
        came = [until_end(one) for one in sockets]
    whole = [c for c in came if c.startswith(b"HTTP/1.1 200")]
    away = [c for c in came if c.startswith(b"HTTP/1.1 503")]
    assert len(whole) >= 40 and len(whole) + len(away) == len(came)
    assert all(b"[DONE]" in c for c in whole)
    assert all(b"Retry-After: 1" in c and b"which is the maximum" in c for c in away)


def until_end(one: socket.socket) -> bytes:
    """A whole streamed answer, or what comes before the connection is closed."""
    came = b""
    while not came.endswith(b"0\r\n\r\n"):
        try:
            piece = one.recv(65536)
        except ConnectionError:
            break
        if not piece:
            break
        came += piece
    return came


@pytest.mark.parametrize("kind", [*(pytest.param(kind, marks=pytest.mark.slow) for kind in (0, 4)), 7, None])
def test_sigterm_waits_for_nothing_that_is_no_request(kind: int | None) -> None:
    """One of each kind, and 600 of all kinds. The bound is the issue's: two seconds."""
    with serving() as server, ExitStack() as stack:
        assert httpx.post(server.url + CHAT, json=ASK, timeout=GONE).status_code == 200
        for i in range(600) if kind is None else [kind]:
            stack.enter_context(server.connect(half(i % len(KINDS))))
        httpx.get(server.url + "/healthz", timeout=GONE)  # they have all been accepted
        took = server.stop()
        assert took < 10, f"it took {took:.1f} s"
        assert "Traceback" not in server.said() and len(server.log) < 5, server.said()


def test_sigterm_lets_an_answer_end() -> None:
    with serving() as server, ExitStack() as stack:
        body = json.dumps({**LONG, "max_tokens": 300}).encode()
        one = stack.enter_context(server.connect(HEAD + b"Content-Length: %d\r\n\r\n" % len(body) + body))
        came = one.recv(65536)
        assert came.startswith(b"HTTP/1.1 200")
        for i in KINDS:
            stack.enter_context(server.connect(half(i)))
        server.stop()
        came += until_closed(one)
        assert b"data: [DONE]" in came and came.endswith(b"0\r\n\r\n")


def test_a_client_that_does_not_read_is_let_go(short: Process) -> None:
    """It asks for many megabytes and takes none of them, or so little that it would take for ever."""

    def until_let_go(sips: bool) -> bool:
        with socket.socket() as one:
            one.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            one.connect(("127.0.0.1", short.port))
            one.settimeout(GONE)
            one.sendall(b"GET /openapi.json HTTP/1.1\r\nHost: localhost\r\n\r\n" * 1500)
            end = time.monotonic() + GONE
            with suppress(ConnectionError):
                while time.monotonic() < end:
                    one.sendall(b"\r\n")  # fails once the other side has closed
                    if sips:
                        assert one.recv(100)
                    time.sleep(0.05)
                return False
        return True

    with ThreadPoolExecutor(2) as both:
        assert list(both.map(until_let_go, (False, True))) == [True, True]
    assert httpx.get(short.url + "/healthz", timeout=GONE).status_code == 200


def test_requests_behind_a_running_one(server: Any) -> None:
    """All are answered, in order."""
    body = json.dumps(ASK).encode()
    request = HEAD + b"Content-Length: %d\r\n\r\n" % len(body) + body
    with connected(server) as one:
        one.sendall(request * 2 + b"GET /healthz HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
        came = until_closed(one)
    assert came.count(b"HTTP/1.1 200") == 3
    assert came.rstrip().endswith(b'{"status":"ok"}')


@pytest.mark.parametrize(
    "sent",
    [
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",  # a client that speaks TLS
        b"HELO there\r\n\r\n",
        b"GET / HTTP/9.9\r\n\r\n",
        b"GET /\xff HTTP/1.1\r\nHost: localhost\r\n\r\n",
        b"GET ?only=query HTTP/1.1\r\nHost: localhost\r\n\r\n",
        b"GET http://[bad/ HTTP/1.1\r\nHost: localhost\r\n\r\n",
        b"CONNECT localhost:1 HTTP/1.1\r\nHost: localhost\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1, 2\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: localhost\r\nContent-Length: " + b"9" * 5000 + b"\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: localhost\r\nContent-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n",
        b"POST / HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
        b"GET / HTTP/1.1\r\nHost: localhost\r\nBad Name: 1\r\n\r\n",
        b"\0" * 100,
    ],
)
def test_what_is_not_http_is_said_to_be_none(server: Any, sent: bytes) -> None:
    with connected(server) as one:
        one.sendall(sent)
        came = until_closed(one)
    assert came.startswith(b"HTTP/1.1 400 "), came[:100]


@pytest.mark.parametrize("name", ["websocket", "h2c", "nothing"])
def test_an_upgrade_is_not_made(server: Any, name: str) -> None:
    headers = {"Connection": "Upgrade", "Upgrade": name}
    assert httpx.get(server.url + "/healthz", headers=headers).status_code == 200
    # what follows the header belongs to the other protocol, so a body is not seen
    answer = httpx.post(server.url + CHAT, json=ASK, headers=headers)
    assert answer.status_code == 400 and "the body is missing" in answer.text


class TestSystemLimits:
    """In child processes, since a hard limit cannot be raised again."""

    def test_more_is_kept_than_a_burst_takes(self) -> None:
        pairs = ((64, 64), (64, 256), (256, 256), (256, 4096), (4096, 4096))
        code = (
            "import os, resource; from trilens.serve.connections import *\n"
            f"for soft, hard in {pairs}:\n"
            "    if (child := os.fork()) == 0:\n"
            "        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))\n"
            "        made = system_limits(Limits())\n"
            "        print(made.most, made.backlog, resource.getrlimit(resource.RLIMIT_NOFILE)[0], flush=True)\n"
            "        os._exit(0)\n"
            "    os.waitpid(child, 0)"
        )
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
        for line, (_, hard) in zip(done.stdout.splitlines(), pairs, strict=True):
            most, backlog, now = map(int, line.split())
            assert now == hard, "the soft limit is raised to the hard one"
            assert most >= hard // 2 and most + backlog < hard

    def test_what_is_stated_stays(self) -> None:
        made = system_limits(Limits(head=3))
        assert made.head == 3 and made.most > 0
