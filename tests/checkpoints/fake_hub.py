"""A hub of our own on this machine: as much of huggingface.co as a look-up and a download need."""

import hashlib
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import unquote, urlsplit

COMMIT = "0123456789abcdef0123456789abcdef01234567"


def published_hash(name: str, data: bytes) -> str:
    """What the hub names a file's bytes by: large ones by their SHA-256, small ones as git does."""
    return hashlib.sha256(data).hexdigest() if name.endswith((".safetensors", ".gguf")) else git_hash(data)


def git_hash(data: bytes) -> str:
    return hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()


class FakeHub(ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self, repositories: dict[str, dict[str, bytes]], refused: dict[str, tuple[int, str]]) -> None:
        super().__init__(("127.0.0.1", 0), _Answer)
        self.repositories = repositories  # "org/name" -> file -> bytes
        self.refused = refused  # "org/name" -> status, X-Error-Code
        self.fetched: list[str] = []  # the files that were asked for with GET

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"


class _Answer(BaseHTTPRequestHandler):
    server: FakeHub

    def do_HEAD(self) -> None:
        self.answer()

    def do_GET(self) -> None:
        self.answer()

    def answer(self) -> None:
        parts = unquote(urlsplit(self.path).path).strip("/").split("/")
        if parts[:2] == ["api", "models"]:
            repo, rest = "/".join(parts[2:4]), parts[4:]
        else:
            repo, rest = "/".join(parts[:2]), parts[2:]
        if repo in self.server.refused or repo not in self.server.repositories:
            status, code = self.server.refused.get(repo, (404, "RepoNotFound"))
            return self.send(status, b"{}", {"X-Error-Code": code, "X-Error-Message": code})
        files = self.server.repositories[repo]
        if not rest or rest[0] == "revision":
            if rest and rest[1] not in ("main", COMMIT):
                return self.send(404, b"{}", {"X-Error-Code": "RevisionNotFound"})
            siblings = [{"rfilename": name, "size": len(data)} for name, data in files.items()]
            return self.send_json({"id": repo, "modelId": repo, "sha": COMMIT, "siblings": siblings})
        if rest[0] == "tree":
            tree = [
                {"type": "file", "path": name, "size": len(data), "oid": git_hash(data)} for name, data in files.items()
            ]
            return self.send_json(tree)
        name = "/".join(rest[2:])  # resolve/COMMIT/NAME
        if name not in files:
            return self.send(404, b"", {"X-Error-Code": "EntryNotFound"})
        if self.command == "GET":
            self.server.fetched.append(name)
        etag = f'"{published_hash(name, files[name])}"'
        return self.send(200, files[name], {"ETag": etag, "X-Repo-Commit": COMMIT, "Accept-Ranges": "bytes"})

    def send_json(self, value: object) -> None:
        self.send(200, json.dumps(value).encode(), {"Content-Type": "application/json"})

    def send(self, status: int, body: bytes, headers: dict[str, str]) -> None:
        self.send_response(status)
        for name, value in (headers | {"Content-Length": str(len(body))}).items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:
        pass


@contextmanager
def fake_hub(
    repositories: dict[str, dict[str, bytes]], refused: dict[str, tuple[int, str]] | None = None
) -> Iterator[FakeHub]:
    with FakeHub(repositories, refused or {}) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield server
        finally:
            server.shutdown()
            thread.join()
