"""Fake servers, and models of every service that talk to them."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import Any

import pytest

from tests.hosted.fake import FakeServer
from trilens.hosted.model import HostedModel

VARIABLES = {
    "openai": ("OPENAI_BASE_URL", "OPENAI_API_KEY"),
    "anthropic": ("ANTHROPIC_BASE_URL", "ANTHROPIC_API_KEY"),
    "gemini": ("GOOGLE_GEMINI_BASE_URL", "GEMINI_API_KEY"),
}
KEY = "key-that-must-not-show"


@pytest.fixture(autouse=True)
def _no_keys(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing of this machine's environment, and no keyring."""
    from trilens.hosted.table import rows

    named = {row.key for row in rows() if row.key} | {v for pair in VARIABLES.values() for v in pair}
    for variable in (*named, "GOOGLE_API_KEY", "ANTHROPIC_AUTH_TOKEN", "OPENAI_ORG_ID"):
        monkeypatch.delenv(variable, raising=False)
    monkeypatch.setattr("trilens.hosted.keys._from_keyring", lambda service: None)


@pytest.fixture
def serve() -> Iterator[Callable[..., FakeServer]]:
    """Replies -> a running server; all are stopped at the end."""
    with ExitStack() as stack:
        yield lambda *replies, **more: stack.enter_context(FakeServer(replies, **more).running())


@pytest.fixture
def at(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., HostedModel]]:
    """(fake server, service, model) -> that model, at that server."""
    loaded: list[HostedModel] = []

    def keep(*args: Any, **options: Any) -> HostedModel:
        loaded.append(load(*args, **options))
        return loaded[-1]

    def load(server: FakeServer, service: str, model: str, **options: Any) -> HostedModel:
        from trilens.hosted.load import load_hosted

        options = {"retries": 0, **options}
        if service in VARIABLES:
            address, key = VARIABLES[service]
            monkeypatch.setenv(address, server.url + ("/v1" if service == "openai" else ""))
            monkeypatch.setenv(key, KEY)
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", DeprecationWarning)  # of the vendors' own imports
                return load_hosted(f"{service}:{model}", **options)
        monkeypatch.setenv("A_KEY", KEY)
        return load_hosted(server.url, model=model, engine=service, key_variable="A_KEY", **options)

    yield keep
    for model in loaded:
        model.close()
