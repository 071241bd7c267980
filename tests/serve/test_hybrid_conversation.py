"""Ten turns with a small hybrid through both protocols and the page: each turn computes what is new, not its past."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import anthropic
import openai
import pytest
import torch
from transformers import AutoModelForCausalLM

from tests.families import BY_NAME
from tests.serve.browser import FOUND, ask
from tests.serve.conftest import Served, served
from trilens.checkpoints.find import find

TURNS = 10
MOST_REPLY = 12
PAGE = 64  # positions; snapshots lie at ends of pages
TEMPLATE = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


@pytest.fixture(scope="module")
def hybrid(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """Qwen3.5's wiring with random weights, which answers in letters: column 0 of what flows through it is always the
    same, so the head can prefer tokens by it."""
    folder = tmp_path_factory.mktemp("hybrid") / "small-hybrid"
    words = find("tiny-dense").path
    vocab = json.loads((words / "tokenizer.json").read_text())["model"]["vocab"]
    config = BY_NAME["qwen3.5 (text)"].config()
    config.vocab_size, config.max_position_embeddings, config.tie_word_embeddings = 453, 2048, False
    config.eos_token_id = 2
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(config).float()
    letters = [i for piece, i in vocab.items() if re.fullmatch("[a-z]", piece)]
    with torch.no_grad():
        model.get_input_embeddings().weight[:, 0] = 3.0
        for name, weight in model.named_parameters():
            if name.endswith(("o_proj.weight", "out_proj.weight", "down_proj.weight")):
                weight[0] = 0
        head = model.get_output_embeddings().weight
        head[:, 0] = -4.0
        head[[*letters, 2], 0] = 4.0
    model.save_pretrained(folder)
    (folder / "tokenizer.json").write_bytes((words / "tokenizer.json").read_bytes())
    names = json.loads((words / "tokenizer_config.json").read_text())
    (folder / "tokenizer_config.json").write_text(json.dumps({**names, "chat_template": TEMPLATE}))
    options = {"eos_token_id": [2], "do_sample": True, "temperature": 1.0}
    (folder / "generation_config.json").write_text(json.dumps(options))
    with served([str(folder)]) as running:
        yield running


def question(turn: int) -> str:
    return f"Question {turn}: " + " ".join(f"word{turn}{i}" for i in range(12))


@dataclass(frozen=True)
class Turn:
    """What was sent, and how many tokens its prompt had and how many of them came from the cache."""

    messages: list[Any]
    prompt: int
    cached: int


def assert_only_what_is_new_is_computed(turns: list[Turn]) -> None:
    """From the cache comes all of an earlier turn's prompt but what lies behind its last snapshot, which is at most a
    page from its end. The earlier turn is the last one that this one continues: the page does not send a question again
    that got an empty answer."""
    assert len(turns) == TURNS
    assert turns[-1].prompt > 4 * turns[0].prompt
    for i, turn in enumerate(turns[1:], 1):
        before = max((t.prompt for t in turns[:i] if turn.messages[: len(t.messages)] == t.messages), default=0)
        assert turn.cached >= before - PAGE
    assert sum(t.cached for t in turns) > 0.5 * sum(t.prompt for t in turns)


def test_openai(hybrid: Served) -> None:
    client = openai.OpenAI(base_url=hybrid.url + "/v1", api_key="none", max_retries=0)
    messages: list[Any] = []
    turns = []
    for turn in range(TURNS):
        messages.append({"role": "user", "content": "openai " + question(turn)})
        done = client.chat.completions.create(model="small-hybrid", messages=messages, max_tokens=MOST_REPLY, seed=turn)
        assert done.usage is not None and done.usage.prompt_tokens_details is not None
        cached = done.usage.prompt_tokens_details.cached_tokens or 0
        turns.append(Turn(list(messages), done.usage.prompt_tokens, cached))
        messages.append({"role": "assistant", "content": done.choices[0].message.content})
    assert_only_what_is_new_is_computed(turns)


def test_anthropic(hybrid: Served) -> None:
    client = anthropic.Anthropic(base_url=hybrid.url, api_key="none", max_retries=0)
    messages: list[Any] = []
    turns = []
    for turn in range(TURNS):
        messages.append({"role": "user", "content": "anthropic " + question(turn)})
        done = client.messages.create(model="small-hybrid", messages=messages, max_tokens=MOST_REPLY)
        cached = done.usage.cache_read_input_tokens or 0
        turns.append(Turn(list(messages), done.usage.input_tokens + cached, cached))
        messages.append({"role": "assistant", "content": "".join(b.text for b in done.content if b.type == "text")})
    assert_only_what_is_new_is_computed(turns)


@pytest.mark.skipif(FOUND is None, reason="no Chromium is installed here")
def test_page(hybrid: Served) -> None:
    from playwright.sync_api import sync_playwright

    with sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=FOUND, args=["--no-sandbox"])
        page = browser.new_page()
        sent: list[list[Any]] = []
        page.on(
            "request", lambda r: sent.append(r.post_data_json["messages"]) if "/chat/completions" in r.url else None
        )
        page.goto(hybrid.url)
        page.wait_for_selector("#model option", state="attached")
        for turn in range(TURNS):
            ask(page, "page " + question(turn))
        turns = []
        for messages, receipt in zip(sent, page.locator("details.receipt pre").all(), strict=True):
            found = re.search(r"(\d[\d,]*) prompt(?: \((\d[\d,]*) cached)?", receipt.text_content() or "")
            assert found is not None
            turns.append(Turn(messages, *(int((n or "0").replace(",", "")) for n in found.groups())))
        browser.close()
    assert_only_what_is_new_is_computed(turns)
