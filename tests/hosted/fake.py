"""A server on the loopback address that answers what a test told it to, and keeps what it was asked."""

from __future__ import annotations

import json
import socket
import struct
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


@dataclass(frozen=True)
class Asked:
    path: str
    headers: dict[str, str]
    body: Any


@dataclass(frozen=True)
class Status:
    """An error, as a service reports it before anything else."""

    code: int
    body: Any = field(default_factory=lambda: {"error": {"message": "it cannot", "type": "some_error"}})
    headers: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Reset:
    """The connection is reset: at once, or in the middle of a stream."""


@dataclass(frozen=True)
class Cut:
    """The connection is closed in the middle of a stream, without its end."""


@dataclass(frozen=True)
class Pause:
    seconds: float


@dataclass(frozen=True)
class Json:
    body: Any


Piece = bytes | Cut | Reset | Pause
Reply = Status | Reset | Json | Sequence[Piece]


class FakeServer:
    """`replies` are used up in turn, the last one again and again. A reply may be a function of what was asked."""

    def __init__(self, replies: Iterable[Reply | Callable[[Asked], Reply]] = (), models: Any = ()) -> None:
        self.replies = list(replies)
        self.models = list(models)
        self.asked: list[Asked] = []
        self.closed = threading.Event()  # a client left in the middle of a stream
        self._lock = threading.Lock()

    def next_reply(self, asked: Asked) -> Reply:
        with self._lock:
            self.asked.append(asked)
            reply = self.replies.pop(0) if len(self.replies) > 1 else self.replies[0]
        return reply(asked) if callable(reply) else reply

    @contextmanager
    def running(self) -> Any:
        fake = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:
                body = json.dumps({"object": "list", "data": fake.models}).encode()
                self._plain(200, body, {})

            def do_POST(self) -> None:
                length = int(self.headers.get("content-length", 0))
                body = json.loads(self.rfile.read(length) or b"null")
                headers = {k.lower(): v for k, v in self.headers.items()}
                reply = fake.next_reply(Asked(self.path, headers, body))
                match reply:
                    case Status(code, said, more):
                        self._plain(code, json.dumps(said).encode(), more)
                    case Json(said):
                        self._plain(200, json.dumps(said).encode(), {})
                    case Reset():
                        self._reset()
                    case pieces:
                        self._stream(pieces)

            def _plain(self, code: int, body: bytes, headers: dict[str, str]) -> None:
                self.send_response(code)
                self.send_header("content-type", "application/json")
                self.send_header("content-length", str(len(body)))
                for name, value in headers.items():
                    self.send_header(name, value)
                self.end_headers()
                self.wfile.write(body)

            def _reset(self) -> None:
                self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                self.close_connection = True
                self.connection.close()

            def _stream(self, pieces: Sequence[Piece]) -> None:
                self.send_response(200)
                self.send_header("content-type", "text/event-stream")
                self.send_header("transfer-encoding", "chunked")
                self.end_headers()
                try:
                    for piece in pieces:
                        match piece:
                            case Pause(seconds):
                                time.sleep(seconds)
                            case Cut():
                                self.close_connection = True
                                return
                            case Reset():
                                self._reset()
                                return
                            case text:
                                self.wfile.write(b"%x\r\n%s\r\n" % (len(text), text))
                                self.wfile.flush()
                    self.wfile.write(b"0\r\n\r\n")
                except OSError:
                    fake.closed.set()
                    self.close_connection = True

            def finish(self) -> None:
                with suppress(OSError):
                    super().finish()

            def log_message(self, *args: Any) -> None:
                pass

        class Server(ThreadingHTTPServer):
            daemon_threads = True

            def handle_error(self, *args: Any) -> None:
                pass

        server = Server(("127.0.0.1", 0), Handler)
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
        thread.start()
        self.url = f"http://127.0.0.1:{server.server_port}"
        try:
            yield self
        finally:
            server.shutdown()
            server.server_close()
            thread.join()
