"""What the page's lesson is told: the card of a posted config.json, the questions, and each token with its experts."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import httpx2 as httpx
import pytest

import trilens
from tests.serve.conftest import Served
from trilens.lenses.cards.card import Card, card
from trilens.serve.chat_run import routes_of
from trilens.serve.guard import Rules
from trilens.trials.questions import held_out
from trilens.trials.routing import trace

MODELS = Path(trilens.__file__).parent / "models"


def config(name: str) -> dict[str, Any]:
    made: dict[str, Any] = json.loads((MODELS / name / "config.json").read_text())
    return made


def posted(server: Served, body: Any) -> httpx.Response:
    return httpx.post(f"{server.url}/v1/trilens/card", json=body)


@pytest.mark.parametrize("name", ["tiny-dense", "tiny-routed"])
def test_a_posted_config_has_the_card_of_the_file(server: Served, name: str) -> None:
    told = posted(server, {"config": config(name)}).json()
    own = card(str(MODELS / name / "config.json"))
    assert isinstance(own, Card)
    same = ("parameters", "flops_per_token", "kv_cache", "dense_lens", "moe_lens", "wiring", "backbone")
    for part in same:
        assert told["card"][part] == json.loads(json.dumps(own.as_dict()[part])), part


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"model_type": "llama"}, "config.json"),
        ({"model_type": "no-such-family", "hidden_size": 8}, "no-such-family"),
        ({"hidden_size": 8}, "model_type"),
        ({**config("tiny-dense"), "num_hidden_layers": 1 << 40}, "num_hidden_layers"),
        ({**config("tiny-dense"), "hidden_size": "wide"}, "hidden_size"),
        ({**config("tiny-dense"), "num_attention_heads": -1}, "num_attention_heads"),
    ],
)
def test_a_config_that_cannot_be_read_is_refused(server: Served, wrong: dict[str, Any], said: str) -> None:
    answer = posted(server, {"config": wrong})
    error = answer.json()["error"]
    assert answer.status_code == 400 and error["param"] == "config" and said in error["message"]
    assert "/" not in error["message"].replace("and/or", "")  # no path of the machine


def test_a_body_without_a_config_is_refused(server: Served) -> None:
    for body in ({}, {"config": {}}, {"config": []}, {"config": {"a": 1}, "more": 1}):
        assert posted(server, body).status_code == 400


def test_the_questions_are_those_of_combos(server: Served) -> None:
    told = httpx.get(f"{server.url}/v1/trilens/questions?count=24").json()["questions"]
    assert told == [{"kind": q.kind, "text": q.text, "answer": q.answer} for q in held_out(24)]
    for count in ("0", "-1", "401", "x"):
        assert httpx.get(f"{server.url}/v1/trilens/questions?count={count}").status_code == 400


def test_the_routes_need_the_key_too() -> None:
    from tests.serve.conftest import served

    with served(["tiny-dense"], rules=Rules(key="s3cret")) as locked:
        assert posted(locked, {"config": config("tiny-dense")}).status_code == 401
        assert httpx.get(f"{locked.url}/v1/trilens/questions").status_code == 401


def test_each_token_with_its_experts_as_trace_has_them(server: Served) -> None:
    asked = {
        "model": "tiny-routed",
        "messages": [{"role": "user", "content": "What is 47 times 86?"}],
        "temperature": 0,
        "stream": True,
        "trilens": {"routes": True},
    }
    with httpx.stream("POST", f"{server.url}/v1/chat/completions", json=asked) as stream:
        lines = [line[6:] for line in stream.iter_lines() if line.startswith("data: {")]
    routes = [route for line in lines for route in json.loads(line).get("trilens", {}).get("routes", ())]
    own = trace(trilens.load("tiny-routed"), "What is 47 times 86?", temperature=0)
    assert [r["text"] for r in routes] == list(own.texts)
    assert [r["experts"] for r in routes] == [
        [layer.ids[i].tolist() for layer in own.layers] for i in range(len(own.tokens))
    ]


def test_a_fresh_call_computes_all_of_its_prompt(server: Served) -> None:
    body = {"model": "tiny-dense", "messages": [{"role": "user", "content": "What is 12 plus 30?"}], "temperature": 0}
    receipts = []
    for fresh in (False, True, False, True):
        asked = {**body, "trilens": {"fresh": fresh}}
        receipts.append(httpx.post(f"{server.url}/v1/chat/completions", json=asked).json()["trilens"]["receipt"])
    usual, first, again, second = receipts
    assert again["tokens"]["cached"] > 0
    assert first["tokens"]["cached"] == second["tokens"]["cached"] == 0
    assert first["work"]["prefill"]["tokens"] == first["tokens"]["prompt"]
    assert first["flops"] == second["flops"] > again["flops"]
    assert {r["replay"] for r in receipts} == {usual["replay"]}  # the same tokens and the same experts


def test_text_completions_refuse_it(server: Served) -> None:
    asked = {"model": "tiny-dense", "prompt": "a", "trilens": {"fresh": True}}
    answer = httpx.post(f"{server.url}/v1/completions", json=asked)
    assert answer.status_code == 400 and answer.json()["error"]["param"] == "trilens.fresh"


def test_experts_that_are_noted_before_their_token_come_with_the_next_chunk() -> None:
    """A step notes them in its own thread, while a chunk is written in another."""
    model = trilens.load("tiny-routed")
    chosen = [layer.router.chosen for _, layer in model.spec.routed_layers()]
    call = model.prepare("What is 12 plus 30?", temperature=0)
    call.watched = True
    call.submit()
    while not call.finished:
        model.advance([call])
        list(call.events())
    assert call.request is not None
    tokens, call.request.tokens = call.request.tokens, call.request.tokens[:1]
    early, shown = routes_of(call, 0, chosen)
    assert shown == len(early) == len(call.ids) + 1
    call.request.tokens = tokens
    late, end = routes_of(call, shown, chosen)
    assert end == len(call.fired) and [r["token"] for r in early + late] == list(range(end))
