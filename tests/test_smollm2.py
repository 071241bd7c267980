"""The real SmolLM2-135M-Instruct: logits as transformers reads the same file, and the public face on it."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM

import trilens
from trilens.checkpoints.find import find
from trilens.checkpoints.into_torch import torch_executor
from trilens.checkpoints.load import open_model
from trilens.errors import ContextFull, RequestRefused, UsageError
from trilens.executors.executor import StepInput
from trilens.model import Model
from trilens.text.events import EndEvent, TextEvent
from trilens.text.strategy import Strategy

PASSAGE = (
    "The tide came in before the lamps were lit, and with it the small boats, one behind the other, low in the water. "
    "Nobody on the quay spoke. A boy counted under his breath: nineteen, twenty, twenty-one. There should have been "
    "twenty-three. The harbour master wrote the number down, closed the book, and opened it again, as though the page "
    "might have changed its mind. 'They had the wind behind them,' said the baker, who had never sailed. Someone "
    "fetched bread; someone else fetched rope. The church bell rang a quarter past seven and then, because the ringer "
    "had lost count, rang it again. Out past the breakwater a light moved, stopped, and moved on: it could have been a "
    "lantern, or a star, or the reflection of one. The boy said, 'Twenty-two,' and everybody turned their heads. "
    "Then the rain began, softly, as if it too were counting, and nobody went home."
)


@pytest.fixture(scope="module")
def model(smollm2: Path) -> Model:
    return trilens.load("smollm2")


def test_logits_equal_transformers_on_the_same_file(
    model: Model, smollm2: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A prompt of 200 tokens, all at once and its last 16 token by token; float32."""
    with monkeypatch.context() as quicker:
        # transformers asks for the same names with every module, and for every word as a piece of a mapped file
        quicker.setattr(gguf, "get_tensor_name_map", cache(gguf.get_tensor_name_map))
        quicker.setattr(np, "memmap", lambda path, dtype=np.uint8, mode="r": np.fromfile(path, dtype))
        theirs = AutoModelForCausalLM.from_pretrained(
            str(smollm2.parent), gguf_file=smollm2.name, dtype=torch.float32, attn_implementation="eager"
        ).eval()
    tokens = model.text.tokenizer.encode(PASSAGE)[:200]
    assert len(tokens) == 200
    executor = torch_executor(open_model(find("smollm2")))
    with torch.no_grad():
        expected = theirs(torch.tensor([tokens])).logits[0]
        at_once = executor.forward([StepInput(executor.sequence(200), tokens)], every_row=True)
        sequence = executor.sequence(200)
        executor.forward([StepInput(sequence, tokens[:184])])
        singly = torch.cat([executor.forward([StepInput(sequence, [t])]) for t in tokens[184:]])
    assert (at_once - expected).abs().max() < 1e-3
    assert (singly - expected[184:]).abs().max() < 1e-3


def test_the_answer_is_a_fold_over_the_stream(model: Model) -> None:
    options: dict[str, Any] = {"temperature": 0.8, "seed": 11, "max_tokens": 24}
    events = list(model.stream("Name a fruit.", **options))
    answer = model.generate("Name a fruit.", **options)
    assert "".join(e.text for e in events if isinstance(e, TextEvent)) == answer.text
    assert isinstance(events[-1], EndEvent)
    assert events[-1].receipt.tokens.completion == answer.receipt.tokens.completion


def test_a_list_is_answered_as_each_alone(model: Model) -> None:
    prompts = ["What is the capital of Italy?", "Say hello.", "What is 2 + 2?"]
    alone = [model.generate(p, temperature=0, max_tokens=12) for p in prompts]
    together = model.generate(prompts, temperature=0, max_tokens=12)
    assert [a.text for a in together] == [a.text for a in alone]
    assert {a.receipt.batch for a in together} == {3}


def test_a_conversation_reuses_its_prefix(model: Model) -> None:
    messages = [{"role": "user", "content": "What is the capital of Italy?"}]
    first = model.generate(messages, temperature=0, max_tokens=30)
    messages += [{"role": "assistant", "content": first.text}, {"role": "user", "content": "And of Spain?"}]
    second = model.generate(messages, temperature=0, max_tokens=30)
    cold = trilens.model.Model(model.name, model.files, model.executor, model.text)
    again = cold.generate(messages, temperature=0, max_tokens=30)
    assert second.receipt.tokens.cached > first.receipt.tokens.prompt
    assert again.receipt.tokens.cached == 0
    assert second.text == again.text


def test_the_receipt_counts_what_was_done(model: Model) -> None:
    fresh = trilens.model.Model(model.name, model.files, model.executor, model.text, speculation=False)
    receipt = fresh.generate("What is the capital of France?", temperature=0).receipt
    prompt = len(
        model.text.encode("What is the capital of France?", Strategy(None, "off"), raw=False, variables={}).ids
    )
    tokens = receipt.tokens
    assert (tokens.prompt, tokens.cached, tokens.thinking, tokens.control) == (prompt, 0, 0, 1)
    assert tokens.answer == len(model.text.tokenizer.encode("The capital of France is Paris."))
    assert receipt.work.answer.tokens == receipt.work.answer.steps == tokens.completion - 1
    # linears by hand: every weight but the embedding's rows and the norms, twice a token; the head once a logit row
    per_token = 2 * 30 * (576 * (576 + 192 + 192) + 576 * 576 + 3 * 576 * 1536)
    pairs = prompt * (prompt + 1) // 2
    attention = 30 * 9 * 2 * (64 + 64) * pairs
    assert receipt.work.prefill.flops == prompt * per_token + attention + 2 * 576 * 49152
    assert receipt.kv_cache_bytes == (prompt + tokens.completion - 1) * 30 * 2 * 192 * 2
    matrices, floats = 134_515_008 - 61 * 576, 61 * 576
    # Q4_1 is packed with a scale and a minimum of 16 bits for every 32 codes, two matrices of the file are Q8_0
    assert 0.625 * matrices + 4 * floats <= receipt.weights_bytes <= 1.0625 * matrices + 4 * floats
    assert receipt.finish == "stop"


def test_stop_strings_end_the_answer_and_are_not_in_it(model: Model) -> None:
    answer = model.generate("What is the capital of France?", temperature=0, stop=[" Paris", "zzz"])
    assert answer.text == "The capital of France is"
    assert answer.receipt.finish == "stop_string"


def test_a_seed_repeats_an_answer_and_is_in_the_receipt(model: Model) -> None:
    first = model.generate("Tell me a story.", max_tokens=20, temperature=1.0)
    again = model.generate("Tell me a story.", max_tokens=20, temperature=1.0, seed=first.receipt.seed)
    assert again.text == first.text
    assert again.receipt.finish == "length"


def test_a_closed_stream_stops_the_work(model: Model) -> None:
    stream = model.stream("Write a long story.", temperature=0, max_tokens=2000)
    next(stream)
    stream.close()  # type: ignore[attr-defined]  # a generator
    assert "Paris" in model.generate("What is the capital of France?", temperature=0).text


def test_raw_text_is_continued_without_the_template(model: Model) -> None:
    answer = model.generate("The capital of France is", raw=True, temperature=0, max_tokens=2)
    assert answer.text.startswith(" Paris")
    assert answer.receipt.tokens.prompt == 5


def test_what_cannot_be_done_is_refused_before_any_work(model: Model) -> None:
    with pytest.raises(ContextFull, match="8192"):
        model.stream("hi", max_tokens=9000)
    with pytest.raises(RequestRefused, match="does not think"):
        model.stream("hi", thinking=True)
    with pytest.raises(UsageError, match="temprature"):
        model.stream("hi", temprature=0)
    with pytest.raises(RequestRefused, match="messages and other things"):
        model.generate(["hi", {"role": "user", "content": "hi"}])
    with pytest.raises(RequestRefused, match="empty"):
        model.stream("hi", stop="")


def test_call_model(model: Model) -> None:
    assert "Paris" in trilens.call_model(model, "What is the capital of France?", temperature=0).text
    assert trilens.call_model(model, "Hi", thinking=False, temperature=0, max_tokens=3).thinking == ""
