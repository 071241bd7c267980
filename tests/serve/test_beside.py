"""What clients expect beside a chat: models by name, tokens, health, scores of prompts, and the forms of structure."""

from __future__ import annotations

import json
import re
from typing import Any

import httpx2 as httpx
import numpy as np
import openai
import pytest

import trilens
from tests.serve.conftest import Served
from trilens.executors.executor import StepInput
from trilens.generate.scores import row_probabilities

TOOL = {"type": "function", "function": {"name": "weather", "parameters": {"type": "object"}}}
USER = [{"role": "user", "content": "What is 4 plus 5?"}]


def post(server: Served, path: str, **body: Any) -> Any:
    return httpx.post(f"{server.url}{path}", json={"model": "tiny-dense", **body}, timeout=60).json()


def test_a_model_in_both_shapes(server: Served) -> None:
    ours = httpx.get(f"{server.url}/v1/models/tiny-dense").json()
    assert (ours["object"], ours["id"]) == ("model", "tiny-dense")
    anthropic = {"anthropic-version": "2023-06-01"}
    theirs = httpx.get(f"{server.url}/v1/models/tiny-dense", headers=anthropic).json()
    assert (theirs["type"], theirs["id"]) == ("model", "tiny-dense")
    listed = httpx.get(f"{server.url}/v1/models", headers=anthropic).json()
    assert listed["has_more"] is False and listed["data"][0]["type"] == "model"
    missing = httpx.get(f"{server.url}/v1/models/no/such")
    assert missing.status_code == 404 and missing.json()["error"]["code"] == "model_not_found"


@pytest.mark.parametrize("path", ["/", "/health", "/healthz", "/v1/models", "/v1/models/tiny-dense"])
def test_head_is_get_without_a_body(server: Served, path: str) -> None:
    whole, head = httpx.get(server.url + path), httpx.head(server.url + path)
    assert head.status_code == whole.status_code == 200 and head.content == b""
    assert head.headers["content-type"] == whole.headers["content-type"]


def test_tokens_and_back(server: Served) -> None:
    tokenizer = trilens.load("tiny-dense").text.tokenizer
    made = post(server, "/tokenize", prompt="What is <|im_end|>", return_token_strs=True)
    assert made["tokens"] == tokenizer.encode("What is <|im_end|>") and made["token_strs"][-1] == "<|im_end|>"
    assert post(server, "/detokenize", tokens=made["tokens"])["prompt"] == "What is <|im_end|>"
    chat = post(server, "/tokenize", messages=USER)
    whole = post(server, "/v1/chat/completions", messages=USER, max_tokens=1)
    assert chat["count"] == whole["usage"]["prompt_tokens"]


def test_offsets_are_places_in_the_text(server: Served) -> None:
    """Also of tokens that are a part of a character, which are shown as bytes."""
    text = "a😀é b"
    [choice] = post(server, "/v1/completions", prompt=text, echo=True, logprobs=0, max_tokens=0)["choices"]
    scores, before = choice["logprobs"], b""
    assert any(token.startswith("bytes:") for token in scores["tokens"])
    for token, offset in zip(scores["tokens"], scores["text_offset"], strict=True):
        assert offset == len(before.decode("utf-8", "ignore"))
        before += bytes.fromhex(token[6:].replace("\\x", "")) if token.startswith("bytes:") else token.encode()
    assert before.decode() == text


@pytest.mark.parametrize("most", [0, 1, 5])
@pytest.mark.parametrize("stream", [False, True])
def test_echo_scores_the_prompt(server: Served, most: int, stream: bool) -> None:
    model = trilens.load("tiny-dense")
    ids = model.text.tokenizer.encode("What is 12 plus 30? " * 12, special=False)
    sequence = model.executor.sequence(len(ids))
    rows = model.executor.step([StepInput(sequence, ids)], every_row=True)
    expected = [float(row_probabilities(row)[token]) for row, token in zip(rows, ids[1:], strict=False)]
    client = openai.OpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0)
    options: dict[str, Any] = {"model": "tiny-dense", "prompt": ids, "max_tokens": most, "echo": True, "logprobs": 2}
    made = client.completions.create(stream=stream, **options)
    pieces = [chunk.choices[0] for chunk in made] if stream else made.choices
    scores = [score for piece in pieces for score in piece.logprobs.token_logprobs]
    assert scores[0] is None and np.allclose(scores[1 : len(ids)], expected)
    assert len(scores) - len(ids) <= most
    tokens = [token for piece in pieces for token in piece.logprobs.tokens]
    offsets = [offset for piece in pieces for offset in piece.logprobs.text_offset]
    text = "".join(piece.text for piece in pieces)
    for token, offset in list(zip(tokens, offsets, strict=True))[: len(ids)]:
        assert text[offset : offset + len(token)] == token


def test_prompts_in_a_list_are_answered_as_each_alone(server: Served) -> None:
    tokenizer = trilens.load("tiny-dense").text.tokenizer
    texts = ["What is", "12 + 30 ="]
    cold: dict[str, Any] = {"temperature": 0, "max_tokens": 6}
    alone = [post(server, "/v1/completions", prompt=text, **cold) for text in texts]
    ids = [tokenizer.encode(text, special=False) for text in texts]
    for prompt in (texts, ids):
        together = post(server, "/v1/completions", prompt=prompt, n=2, **cold)
        said = [choice["text"] for choice in together["choices"]]
        assert said == [one["choices"][0]["text"] for one in alone for _ in range(2)]
        assert together["usage"]["prompt_tokens"] == sum(one["usage"]["prompt_tokens"] for one in alone)
    best = post(server, "/v1/completions", prompt="What is", n=1, best_of=4, max_tokens=5, seed=1)
    assert len(best["choices"]) == 1 and len(best["trilens"]["receipts"]) == 4


def test_a_suffix_needs_the_models_own_tokens(server: Served) -> None:
    refused = post(server, "/v1/completions", prompt="a", suffix="b")["error"]
    assert refused["param"] == "suffix" and "no tokens for filling in" in refused["message"]


@pytest.mark.parametrize(
    ("fields", "allowed"),
    [
        ({"structured_outputs": {"regex": "[0-9]{3}"}}, "[0-9]{3}"),
        ({"structured_outputs": {"choice": ["yes", "no"]}}, "yes|no"),
        ({"structured_outputs": {"grammar": 'root ::= "a" | "b"'}}, "a|b"),
        ({"structured_outputs": {"json": {"const": 7}}}, "7"),
        ({"guided_choice": ["yes"]}, "yes"),
        ({"regex": "x{4}"}, "xxxx"),
        ({"response_format": {"type": "regex", "pattern": "y{2}"}}, "yy"),
    ],
)
def test_forms_of_an_answer(server: Served, fields: dict[str, Any], allowed: str) -> None:
    whole = post(server, "/v1/chat/completions", messages=USER, thinking=False, temperature=2, **fields)
    assert re.fullmatch(allowed, whole["choices"][0]["message"]["content"])


def test_a_schema_beside_tools_allows_either(server: Served) -> None:
    """At a high temperature both come, and nothing else."""
    form = {"type": "json_schema", "json_schema": {"name": "x", "schema": {"type": "integer", "maximum": 9}}}
    options = {"messages": USER, "tools": [TOOL], "response_format": form, "thinking": False, "max_tokens": 30}
    kinds = set()
    for seed in range(12):
        bias = {str(trilens.load("tiny-dense").text.tokenizer.encode("<tool_call>")[0]): 8 * (seed % 2)}
        made = post(server, "/v1/chat/completions", **options, seed=seed, temperature=2, logit_bias=bias)
        content = made["choices"][0]["message"]["content"] or ""
        kinds.add("call" if content.startswith("<tool_call>") or not content else "json")
        if not content.startswith("<tool_call>") and made["choices"][0]["finish_reason"] == "stop":
            assert json.loads(content) <= 9
    assert "json" in kinds


def test_a_schema_that_cannot_be_is_refused_with_its_path(server: Served) -> None:
    schema = {"properties": {"a": {"items": {"not": {}}}}}
    form = {"type": "json_schema", "json_schema": {"name": "x", "schema": schema}}
    refused = post(server, "/v1/chat/completions", messages=USER, response_format=form)["error"]
    assert refused["param"] == "response_format.json_schema.schema.properties.a.items"


def test_anthropics_thinking_only_where_it_is_asked_for(server: Served) -> None:
    def kinds(**more: Any) -> list[tuple[str, bool]]:
        made = post(server, "/v1/messages", messages=USER, max_tokens=200, temperature=0, **more)
        return [(block["type"], bool(block.get("thinking") or block.get("text"))) for block in made["content"]]

    assert kinds() == [("text", True)]
    assert kinds(output_config={"effort": "high"}) == [("text", True)]
    assert kinds(thinking={"type": "adaptive"}) == [("thinking", True), ("text", True)]
    assert kinds(thinking={"type": "enabled", "budget_tokens": 100, "display": "omitted"})[0] == ("thinking", False)


def test_items_of_outputs_may_be_referred_to(server: Served) -> None:
    first = post(server, "/v1/responses", input="What is 4 plus 5?", max_output_tokens=60)
    reference = {"type": "item_reference", "id": first["output"][-1]["id"]}
    turns = [{"role": "user", "content": "What is 4 plus 5?"}, reference, {"role": "user", "content": "And 1?"}]
    assert post(server, "/v1/responses", input=turns, max_output_tokens=5)["object"] == "response"
    unkept = post(server, "/v1/responses", input="Hello", store=False, max_output_tokens=60)["output"][-1]["id"]
    refused = post(server, "/v1/responses", input=[{"type": "item_reference", "id": unkept}])["error"]
    assert refused["param"] == "input.0.id"
