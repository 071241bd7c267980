"""Looks inside over HTTP: what they show, what they cost, what is refused, and that nothing else feels them."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor, as_completed
from itertools import islice
from pathlib import Path
from typing import Any

import httpx2 as httpx
import numpy as np
import pytest

import trilens
from tests.serve.conftest import Served, served
from tests.serve.engines import fake, serving
from trilens.checkpoints.find import find
from trilens.checkpoints.load import open_model
from trilens.decoder.look import AttentionMap, LogitLens
from trilens.errors import FieldRefused
from trilens.executors.executor import StepInput
from trilens.model import Model
from trilens.serve import inside
from trilens.serve.guard import Rules
from trilens.trials.inside import MOST_TOKENS, attention_heads, check_head, head_attention, look_costs

QUESTION = [{"role": "user", "content": "What is 47 times 86?"}]
PATHS = ("attention", "logit_lens")
NEEDED: dict[str, dict[str, int]] = {"attention": {"layer": 1, "head": 2}, "logit_lens": {}}


def look(server: Served, path: str, timeout: float = 60, **body: Any) -> httpx.Response:
    body = {"model": "tiny-routed", **NEEDED[path], **body}
    return httpx.post(f"{server.url}/v1/trilens/{path}", json=body, timeout=timeout)


def refusal(answer: httpx.Response, status: int = 400) -> tuple[str, str]:
    error = answer.json()["error"]
    assert answer.status_code == status and "\n" not in error["message"]
    return error["param"], error["message"]


def model_of(server: Served, name: str = "tiny-routed") -> Model:
    look(server, "logit_lens", prompt="1", model=name)  # it is loaded now
    loop = server.registry.places[name].loop
    assert loop is not None and isinstance(loop.model, Model)
    return loop.model


def test_attention(server: Served) -> None:
    told = look(server, "attention", messages=QUESTION).json()
    tokens = httpx.post(
        f"{server.url}/tokenize", json={"model": "tiny-routed", "messages": QUESTION, "return_token_strs": True}
    ).json()
    assert told["tokens"] == tokens["token_strs"] and (told["layer"], told["head"]) == (1, 2)
    own = head_attention(model_of(server), tokens["tokens"], 1, 2)
    for i, row in enumerate(told["weights"]):
        assert len(row) == i + 1 and sum(row) == pytest.approx(1, abs=1e-3)
        assert row == pytest.approx(own.weights[i, : i + 1], abs=1e-4)
        assert not own.weights[i, i + 1 :].any()


def test_logit_lens(server: Served) -> None:
    told = look(server, "logit_lens", messages=QUESTION, top=3).json()
    assert told["position"] == len(told["tokens"]) - 1 and [len(layer) for layer in told["layers"]] == [3] * 4
    model = model_of(server)
    ids = model.text.tokenizer.encode("".join(told["tokens"]))
    logits = model.executor.step([StepInput(model.executor.sequence(len(ids)), ids)])[0].astype(np.float64)
    shares = np.exp(logits - logits.max()) / np.exp(logits - logits.max()).sum()
    assert told["layers"][-1][0]["probability"] == pytest.approx(shares.max())
    assert told["layers"][-1][0]["token"] == model.text.tokenizer.decode([int(shares.argmax())], skip_special=False)
    earlier = look(server, "logit_lens", messages=QUESTION, position=4).json()
    assert earlier["position"] == 4 and earlier["tokens"] == told["tokens"]
    assert earlier["layers"] == look(server, "logit_lens", prompt="".join(told["tokens"][:5]), top=5).json()["layers"]


@pytest.mark.parametrize("path", PATHS)
def test_its_cost_is_the_accountants(server: Served, path: str) -> None:
    told = look(server, path, messages=QUESTION).json()
    executor, count = model_of(server).executor, len(told["tokens"])
    view = AttentionMap(1, 2, 64) if path == "attention" else LogitLens()
    cost = look_costs(executor, view, [count], told["cost"]["seconds"])
    assert {key: told["cost"][key] for key in ("tokens", "flops", "weight_bytes", "kv_bytes", "fixed_bytes")} == {
        "tokens": count,
        "flops": cost.flops,
        "weight_bytes": cost.weight_bytes,
        "kv_bytes": cost.kv_bytes,
        "fixed_bytes": 0,
    }
    assert 0 < told["cost"]["seconds"] < 60 and str(count) in told["cost"]["text"]


@pytest.mark.parametrize(
    ("path", "body", "param", "said"),
    [
        ("attention", {"prompt": "1", "layer": 4}, "layer", "layer is 4; expected 0 to 3"),
        ("attention", {"prompt": "1", "head": 4}, "head", "head is 4; expected 0 to 3 in layer 1"),
        ("attention", {"prompt": "1", "layer": -1}, "layer", "greater than or equal to 0"),
        ("attention", {"prompt": "1", "layer": 1 << 40}, "layer", "less than or equal to"),
        ("attention", {"prompt": "1", "head": None}, "head", "head is missing"),
        (
            "logit_lens",
            {"prompt": "12", "position": 2},
            "position",
            "position is 2; expected 0 to 1, a token of the text",
        ),
        ("logit_lens", {"prompt": "1", "top": 21}, "top", "less than or equal to 20"),
        ("logit_lens", {"prompt": "1", "top": 0}, "top", "greater than or equal to 1"),
        ("logit_lens", {"prompt": "1", "layer": 1}, "layer", "unknown"),
    ],
)
def test_what_is_wrong_is_named(server: Served, path: str, body: dict[str, Any], param: str, said: str) -> None:
    at, message = refusal(look(server, path, **body))
    assert at == param and said in message


@pytest.mark.parametrize("path", PATHS)
def test_texts_have_a_length(server: Served, path: str) -> None:
    for text, count in (("", 0), ("1" * (MOST_TOKENS + 1), MOST_TOKENS + 1)):
        param, message = refusal(look(server, path, prompt=text))
        assert param == "prompt" and f"has {count} tokens; expected 1 to {MOST_TOKENS}" in message
    assert look(server, path, prompt="1" * MOST_TOKENS).status_code == 200
    for body in ({}, {"prompt": "1", "messages": QUESTION}):
        assert "expected one of them" in refusal(look(server, path, **body))[1]


def test_a_layer_without_attention_is_named(tiny_directory: Callable[[str], Path]) -> None:
    """For every kind of layer that has none."""
    for name, kind in (
        ("qwen3-next", "a gated recurrence"),
        ("lfm2", "a short convolution"),
        ("nemotron-3 nano", "a feed-forward block"),
    ):
        spec = open_model(find(str(tiny_directory(name)))).spec
        heads = attention_heads(spec)
        able = [layer for layer, count in enumerate(heads) if count]
        assert able and able != list(range(len(heads)))
        said = set()
        for layer, count in enumerate(heads):
            if count:
                check_head(spec, layer, count - 1)
                continue
            with pytest.raises(FieldRefused, match=f"expected one of {', '.join(map(str, able))}$") as caught:
                check_head(spec, layer, 0)
            said.add(str(caught.value))
        assert any(kind in one for one in said)


def test_an_engine_shows_nothing(tmp_path: Path) -> None:
    words = ("tiny-routed", "--port", "0", "--engine", "vllm", "--engine-path", str(fake(tmp_path)))
    with serving(*words, folder=tmp_path) as serve:
        for path in PATHS:
            answer = httpx.post(
                f"{serve.address()}/v1/trilens/{path}", json={"model": "tiny-routed", "prompt": "1", **NEEDED[path]}
            )
            assert refusal(answer)[0] == "model" and "engine" in answer.text


@pytest.mark.parametrize("path", PATHS)
def test_they_need_the_key(path: str) -> None:
    with served(["tiny-dense"], rules=Rules(key="s3cret")) as locked:
        assert look(locked, path, model="tiny-dense", prompt="1").status_code == 401


def test_looks_and_answers_at_once(server: Served) -> None:
    """Answers are the same bits, looks are the same numbers, and one waits for another."""
    chat = {"model": "tiny-routed", "messages": QUESTION, "temperature": 0, "thinking": True}

    def answer() -> str:
        told = httpx.post(f"{server.url}/v1/chat/completions", json=chat, timeout=60).json()
        return str(told["trilens"]["receipt"]["replay"])

    def seen() -> str:
        return json.dumps(look(server, "attention", messages=QUESTION).json()["weights"])

    alone = answer(), seen()
    with ThreadPoolExecutor(8) as threads:
        answers = [threads.submit(answer) for _ in range(4)]
        looks = [threads.submit(seen) for _ in range(8)]
        assert {one.result() for one in answers} == {alone[0]} and {one.result() for one in looks} == {alone[1]}


def test_not_more_wait_than_there_is_room_for(server: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    model_of(server)
    hold, real = threading.Event(), inside.head_attention

    def held(*given: Any) -> Any:
        assert hold.wait(60)
        return real(*given)

    monkeypatch.setattr(inside, "head_attention", held)
    monkeypatch.setattr(inside, "WAITING", 2)
    with ThreadPoolExecutor(6) as threads:
        asked = [threads.submit(look, server, "attention", prompt="1") for _ in range(6)]
        for refused in islice(as_completed(asked, timeout=60), 3):
            assert refused.result().status_code == 429
        # a look that takes long keeps no answer waiting
        chat = {"model": "tiny-routed", "messages": QUESTION, "max_tokens": 1}
        assert httpx.post(f"{server.url}/v1/chat/completions", json=chat).status_code == 200
        hold.set()
        assert sorted(one.result().status_code for one in asked) == [200] * 3 + [429] * 3


def test_one_that_nobody_waits_for_keeps_its_place_until_it_ends(
    server: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    model_of(server)
    began, hold, real = threading.Event(), threading.Event(), inside.head_attention

    def held(*given: Any) -> Any:
        began.set()
        assert hold.wait(60)
        return real(*given)

    monkeypatch.setattr(inside, "head_attention", held)
    monkeypatch.setattr(inside, "WAITING", 0)
    with ThreadPoolExecutor(1) as threads:
        left = threads.submit(look, server, "attention", prompt="1", timeout=1)
        assert began.wait(60)
        with pytest.raises(httpx.ReadTimeout):
            left.result()
        assert look(server, "attention", prompt="1").status_code == 429
        hold.set()
        while (again := look(server, "attention", prompt="1").status_code) == 429:
            pass
        assert again == 200


def test_the_code_can_be_read(server: Served) -> None:
    root = Path(trilens.__file__).parent
    told = httpx.get(f"{server.url}/code/decoder/look.py")
    assert told.text == (root / "decoder" / "look.py").read_text("utf-8")
    assert told.headers["content-type"].startswith("text/plain")
    for path in ("decoder/", "nothing.py", "../../pyproject.toml", "%2e%2e/%2e%2e/setup.py", "serve/page/main.js"):
        assert httpx.get(f"{server.url}/code/{path}").status_code == 404, path
