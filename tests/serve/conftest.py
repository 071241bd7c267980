"""A real server on a free port, with the two small models."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import pytest

from tests.serve.browser import chromium, opened
from trilens.serve.connections import Limits
from trilens.serve.guard import Rules
from trilens.serve.registry import ModelRegistry, Room
from trilens.serve.server import Server, _bound


@dataclass
class Served:
    url: str
    registry: ModelRegistry
    server: Server

    @property
    def at_rest(self) -> bool:
        return all(not p.leases and (p.loop is None or p.loop.idle) for p in self.registry.places.values())

    def settle(self, seconds: float = 5.0) -> None:
        """Until nothing runs any more."""
        end = time.monotonic() + seconds
        while not self.at_rest:
            assert time.monotonic() < end, "requests still run"
            time.sleep(0.005)


Serving = Callable[..., Any]


@contextmanager
def served(
    models: Sequence[str] = ("tiny-dense", "tiny-routed"),
    rules: Rules | None = None,
    grace: float = 5.0,
    port: int = 0,
    limits: Limits | None = None,
    adapters: Mapping[str, Mapping[str, str]] | None = None,
    **room: Any,
) -> Iterator[Served]:
    registry = ModelRegistry(models, Room(**room), adapters or {})
    bound = _bound("127.0.0.1", port)
    server = Server(registry, rules or Rules(), limits or Limits(), grace)
    thread = threading.Thread(target=server.run, kwargs={"sockets": [bound]}, daemon=True)
    thread.start()
    while not server.started:
        assert thread.is_alive()
        time.sleep(0.005)
    try:
        yield Served(f"http://127.0.0.1:{bound.getsockname()[1]}", registry, server)
    finally:
        server.should_exit = True
        thread.join(20)
        bound.close()
        assert not thread.is_alive(), "the server did not stop"


@pytest.fixture(scope="session")
def server() -> Iterator[Served]:
    with served() as running:
        yield running


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with chromium() as running:
        yield running


@pytest.fixture
def page(browser: Any, server: Served) -> Iterator[Any]:
    with opened(browser, server.url) as page:
        yield page
