"""Models are loaded when first asked for, and put away when another needs their memory."""

from __future__ import annotations

import threading
import time
import weakref
from typing import Any

import httpx2 as httpx
import pytest

from tests.serve.conftest import Served, served
from trilens.checkpoints.find import find
from trilens.errors import UsageError
from trilens.serve import shelf
from trilens.serve.shelf import Room, Shelf

CHAT = "/v1/chat/completions"


def ask(server: Served, model: str, **more: Any) -> str:
    body = {"model": model, "messages": [{"role": "user", "content": "What is 12 plus 30?"}], "temperature": 0, **more}
    answer = httpx.post(server.url + CHAT, json=body, timeout=30)
    assert answer.status_code == 200, answer.text
    return str(answer.json()["choices"][0]["message"]["content"])


def loaded(server: Served) -> list[str]:
    return [place.name for place in server.shelf.places.values() if place.pump is not None]


def test_a_model_is_loaded_when_it_is_first_asked_for() -> None:
    with served() as own:
        assert loaded(own) == []
        assert ask(own, "tiny-routed") == "42" and loaded(own) == ["tiny-routed"]
        assert ask(own, "tiny-dense") == "42" and loaded(own) == ["tiny-dense", "tiny-routed"]


def test_it_is_put_away_when_another_needs_its_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    with served() as own:
        ask(own, "tiny-dense")
        pump = own.shelf.places["tiny-dense"].pump
        assert pump is not None
        model = weakref.ref(pump.model)
        del pump
        own.settle()
        monkeypatch.setattr(shelf, "_available", lambda: 1000)
        assert ask(own, "tiny-routed") == "42" and loaded(own) == ["tiny-routed"]
        assert model() is None  # its memory with it
        own.settle()
        assert ask(own, "tiny-dense") == "42" and loaded(own) == ["tiny-dense"]


def test_one_that_answers_is_not_put_away(monkeypatch: pytest.MonkeyPatch) -> None:
    with served() as own:
        ask(own, "tiny-dense")
        pump = own.shelf.places["tiny-dense"].pump
        assert pump is not None
        usual, go_on, said = pump.model.step, threading.Event(), []
        monkeypatch.setattr(pump.model, "step", lambda *asked: usual(*asked) if go_on.wait(20) else [])
        asking = threading.Thread(target=lambda: said.append(ask(own, "tiny-dense")))
        asking.start()
        while pump.idle:
            time.sleep(0.005)
        monkeypatch.setattr(shelf, "_available", lambda: 1000)
        assert ask(own, "tiny-routed") == "42" and loaded(own) == ["tiny-dense", "tiny-routed"]
        go_on.set()
        asking.join()
        assert said == ["42"]


def test_a_model_that_is_not_here_yet_has_no_size() -> None:
    assert shelf._bytes_of("org/nobody-has-this") is None
    assert shelf._bytes_of("tiny-routed") == find("tiny-routed").path.joinpath("model.safetensors").stat().st_size


def test_two_under_one_name() -> None:
    with pytest.raises(UsageError, match="rename"):
        Shelf(["tiny-dense", "tiny-dense"], Room())
