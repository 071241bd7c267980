"""Firefox and WebKit as they are installed: each opens a page and runs scripts in it, by its own remote interface."""

from __future__ import annotations

import itertools
import json
import os
import re
import shutil
import subprocess
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, Protocol

import httpx2 as httpx
import pytest

FIREFOX = next((path for name in ("firefox", "firefox-esr") if (path := shutil.which(name))), None)
WEBKIT = shutil.which("WebKitWebDriver")
MINIBROWSER = next(Path("/usr/lib").glob("*/webkit2gtk-4.*/MiniBrowser"), None)
SCREEN = shutil.which("Xvfb")


class Page(Protocol):
    def run(self, script: str) -> Any:
        """The value of an expression, or of what it promises."""
        ...

    def open(self, url: str) -> None: ...


@contextmanager
def started(*words: str, environment: dict[str, str] | None = None, **more: Any) -> Iterator[subprocess.Popen[str]]:
    process = subprocess.Popen(words, text=True, env={**os.environ, **(environment or {})}, **more)
    try:
        yield process
    finally:
        process.terminate()
        process.wait(30)


class Firefox:
    """WebDriver BiDi, which Firefox speaks by itself."""

    def __init__(self, socket: Any) -> None:
        self._socket, self._numbers = socket, itertools.count(1)
        self._ask("session.new", capabilities={})
        self._context = self._ask("browsingContext.getTree")["contexts"][0]["context"]

    def _ask(self, method: str, **parameters: Any) -> Any:
        number = next(self._numbers)
        self._socket.send(json.dumps({"id": number, "method": method, "params": parameters}))
        while (told := json.loads(self._socket.recv(timeout=60))).get("id") != number:
            pass
        assert told["type"] == "success", told
        return told["result"]

    def run(self, script: str) -> Any:
        text = f"(async () => JSON.stringify(await ({script})))()"
        told = self._ask("script.evaluate", expression=text, target={"context": self._context}, awaitPromise=True)
        assert told["type"] == "success", told
        value = told["result"].get("value")
        return None if value is None else json.loads(value)

    def open(self, url: str) -> None:
        self._ask("browsingContext.navigate", context=self._context, url=url, wait="complete")


class WebKit:
    """WebDriver, by the server that comes with WebKitGTK."""

    def __init__(self, server: str) -> None:
        options = {"binary": str(MINIBROWSER), "args": ["--automation"]}
        asked = {"capabilities": {"alwaysMatch": {"webkitgtk:browserOptions": options}}}
        self._client = httpx.Client(timeout=60)
        self._session = f"{server}/session"
        self._session += f"/{self._ask('', asked)['sessionId']}"

    def _ask(self, path: str, body: Any) -> Any:
        answer = self._client.post(f"{self._session}{path}", json=body)
        assert answer.status_code == 200, answer.text
        return answer.json()["value"]

    def run(self, script: str) -> Any:
        return self._ask("/execute/sync", {"script": f"return (async () => await ({script}))()", "args": []})

    def open(self, url: str) -> None:
        self._ask("/url", {"url": url})

    def close(self) -> None:
        self._client.delete(self._session)
        self._client.close()


@contextmanager
def firefox(folder: Path) -> Iterator[Page]:
    client = pytest.importorskip("websockets.sync.client")
    assert FIREFOX is not None
    words = (FIREFOX, "--headless", "--no-remote", "--profile", str(folder), "--remote-debugging-port=0")
    with (folder / "said").open("w") as said, started(*words, stderr=said, stdout=said):
        found = _until(lambda: re.search(r"BiDi listening on (ws://\S+)", (folder / "said").read_text("utf-8")))
        with client.connect(f"{found[1]}/session", max_size=1 << 26) as socket:
            yield Firefox(socket)


@contextmanager
def webkit(folder: Path) -> Iterator[Page]:
    assert WEBKIT is not None
    with ExitStack() as stack:
        environment = {"WEBKIT_DISABLE_SANDBOX_THIS_IS_DANGEROUS": "1", "XDG_DATA_HOME": str(folder)}
        if "DISPLAY" not in os.environ:
            assert SCREEN is not None
            words = (SCREEN, "-displayfd", "1", "-screen", "0", "1200x900x24")
            screen = stack.enter_context(started(*words, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL))
            assert screen.stdout is not None
            environment["DISPLAY"] = f":{stack.enter_context(screen.stdout).readline().strip()}"
        port = str(20_000 + os.getpid() % 20_000)
        stack.enter_context(started(WEBKIT, f"--port={port}", environment=environment, stderr=subprocess.DEVNULL))
        server = f"http://127.0.0.1:{port}"
        _until(lambda: _answers(server))
        page = WebKit(server)
        stack.callback(page.close)
        yield page


def _answers(server: str) -> bool:
    try:
        return httpx.get(f"{server}/status").status_code == 200
    except httpx.HTTPError:
        return False


def _until(found: Any, seconds: float = 60) -> Any:
    end = time.monotonic() + seconds
    while not (value := found()):
        assert time.monotonic() < end, "the browser did not start"
        time.sleep(0.05)
    return value


BROWSERS = {
    "firefox": (firefox, FIREFOX is not None),
    "webkit": (webkit, WEBKIT is not None and MINIBROWSER is not None and ("DISPLAY" in os.environ or bool(SCREEN))),
}
