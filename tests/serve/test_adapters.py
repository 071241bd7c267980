"""Adapters on the server: MODEL:ADAPTER is a model like others, in every protocol and in any company."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx2 as httpx
import pytest

import trilens
from tests.generate.test_adapters import QUESTION, tiny_lora
from tests.serve.conftest import Served, served
from trilens.cli.serve import _by_model
from trilens.errors import ModelNotFound, UsageError
from trilens.serve.registry import ModelRegistry, Room

NAMES = ("tiny-dense", "tiny-dense:poet", "tiny-dense:clerk")
ASKED: list[Any] = [{"role": "user", "content": QUESTION}]


@pytest.fixture(scope="module")
def paths(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    folder = tmp_path_factory.mktemp("adapters")
    return {name: str(tiny_lora(seed).save(folder / name)) for seed, name in enumerate(("poet", "clerk"))}


@pytest.fixture(scope="module")
def own(paths: dict[str, str]) -> Iterator[Served]:
    with served(("tiny-dense", "tiny-routed"), adapters={"tiny-dense": paths}) as running:
        yield running


@pytest.fixture(scope="module")
def library(paths: dict[str, str]) -> dict[str, str]:
    """The answers of the library, by served name."""
    with trilens.load("tiny-dense", adapters=paths) as model:
        return {
            name: model.generate(
                ASKED, thinking=False, temperature=0, max_tokens=12, adapter=name.partition(":")[2] or None
            ).text
            for name in NAMES
        }


def post(own: Served, path: str, **body: Any) -> Any:
    answer = httpx.post(own.url + path, json=body, timeout=60)
    assert answer.status_code == 200, answer.text
    return answer.json()


def chat(own: Served, model: str, **more: Any) -> Any:
    options = {"temperature": 0, "max_tokens": 12, "enable_thinking": False, **more}
    return post(own, "/v1/chat/completions", model=model, messages=ASKED, **options)


def test_they_are_listed_as_models(own: Served) -> None:
    for headers in ({}, {"anthropic-version": "2023-06-01"}):
        listed = httpx.get(f"{own.url}/v1/models", headers=headers).json()["data"]
        assert [entry["id"] for entry in listed] == [*NAMES, "tiny-routed"]
        assert [entry["trilens"].get("adapter") for entry in listed] == [None, "poet", "clerk", None]
    one = httpx.get(f"{own.url}/v1/models/tiny-dense:poet").json()
    assert one["id"] == "tiny-dense:poet" and one["max_model_len"] == listed[0]["max_input_tokens"]


def test_answers_are_the_librarys_all_at_once(own: Served, library: dict[str, str]) -> None:
    assert len(set(library.values())) == 3
    with ThreadPoolExecutor(12) as pool:
        answers = list(pool.map(lambda name: chat(own, name), NAMES * 6))
    for name, answer in zip(NAMES * 6, answers, strict=True):
        assert answer["choices"][0]["message"]["content"] == library[name]
        assert answer["model"] == name
        receipt = answer["trilens"]["receipt"]
        assert receipt["model"] == "tiny-dense"
        assert (receipt["adapter"] or {}).get("name") == (name.partition(":")[2] or None)
    assert [place.name for place in own.registry.places.values() if place.loop is not None] == ["tiny-dense"]


@pytest.mark.parametrize("name", NAMES[1:])
def test_every_protocol_takes_the_name(own: Served, name: str, library: dict[str, str]) -> None:
    options: dict[str, Any] = {"model": name, "temperature": 0}
    answer = post(own, "/v1/responses", input=QUESTION, max_output_tokens=12, reasoning={"effort": "none"}, **options)
    assert answer["model"] == name and answer["output"][-1]["content"][0]["text"] == library[name]
    answer = post(own, "/v1/messages", messages=ASKED, max_tokens=12, thinking={"type": "disabled"}, **options)
    assert answer["model"] == name and answer["content"][-1]["text"] == library[name]
    for model in (name, "tiny-dense"):
        answer = post(own, "/v1/completions", prompt="12+30=", max_tokens=8, **{**options, "model": model})
        assert answer["model"] == model
        assert (answer["trilens"]["receipt"]["adapter"] is None) == (model == "tiny-dense")
    with httpx.stream(
        "POST",
        f"{own.url}/v1/chat/completions",
        json={"messages": ASKED, "stream": True, "max_tokens": 12, "enable_thinking": False, **options},
        timeout=60,
    ) as stream:
        assert f'"model":"{name}"' in stream.read().decode()
    assert post(own, "/tokenize", model=name, prompt="12")["count"] > 0


@pytest.mark.parametrize("name", ["tiny-dense:nobody", "tiny-routed:poet", ":poet", "tiny-dense:", "poet"])
def test_an_unknown_adapter_is_an_unknown_model(own: Served, name: str) -> None:
    answers = [
        httpx.post(f"{own.url}/v1/chat/completions", json={"model": model, "messages": ASKED})
        for model in (name, "nobody")
    ]
    assert [answer.status_code for answer in answers] == [404, 404]
    said, unknown = (answer.json()["error"] for answer in answers)
    assert said == {**unknown, "message": unknown["message"].replace("'nobody'", repr(name))}
    assert "expected one of tiny-dense, tiny-dense:poet, tiny-dense:clerk, tiny-routed" in said["message"]


def test_the_fields_of_other_servers_say_how(own: Served) -> None:
    for field in ({"lora": [{"id": 0, "scale": 1.0}]}, {"lora_adapter": "poet"}):
        answer = httpx.post(f"{own.url}/v1/chat/completions", json={"model": NAMES[0], "messages": ASKED, **field})
        assert answer.status_code == 400 and "MODEL:ADAPTER" in answer.json()["error"]["message"]


def test_metrics_are_by_served_name(own: Served) -> None:
    chat(own, NAMES[1])
    own.settle()
    page = httpx.get(f"{own.url}/metrics").text
    assert 'trilens_tokens_total{kind="answer",model="tiny-dense:poet"}' in page


def test_a_broken_adapter_is_told_in_the_log_alone(tmp_path: Path, paths: dict[str, str]) -> None:
    broken = tiny_lora(0).save(tmp_path / "broken")
    (broken / "adapter_config.json").write_text("{}")
    with served(("tiny-dense",), adapters={"tiny-dense": {"broken": str(broken)}}) as other:
        answer = httpx.post(f"{other.url}/v1/chat/completions", json={"model": "tiny-dense:broken", "messages": ASKED})
        assert answer.status_code >= 500 and str(tmp_path) not in answer.text


def test_names_on_the_command_line(tmp_path: Path) -> None:
    here = str(tmp_path)
    assert _by_model(("tiny-dense",), (("poet", here),)) == {"tiny-dense": {"poet": here}}
    two = ("tiny-dense", "tiny-routed")
    given = (("tiny-routed:poet", here), ("tiny-dense:poet", here), ("tiny-dense:clerk", here))
    assert _by_model(two, given) == {"tiny-dense": {"poet": here, "clerk": here}, "tiny-routed": {"poet": here}}
    for wrong in ("poet", "nobody:poet", "tiny-dense:a b"):
        with pytest.raises(UsageError, match=r"which model is it for|adapters is"):
            _by_model(two, ((wrong, here),))
    with pytest.raises(UsageError, match="two adapters of that name"):
        _by_model(two, (("tiny-dense:poet", here), ("tiny-dense:poet", here)))
    with pytest.raises(ModelNotFound, match="no such file or directory"):
        _by_model(("tiny-dense",), (("poet", here + "/nowhere"),))
    with pytest.raises(UsageError, match="would be served as 'a:b'"):
        ModelRegistry(["a", "a:b"], Room(), {"a": {"b": here}})
