"""The small models: their questions, their data, and that others read the checkpoints as we do."""

from __future__ import annotations

import re
import sys
from itertools import islice
from pathlib import Path
from typing import Any

import pytest
import torch

import trilens
from trilens.checkpoints.find import find
from trilens.model import Model
from trilens.text.tokenizer import Tokenizer
from trilens.trials.combos import combine
from trilens.trials.questions import KINDS, STRETCH, held_out, is_right, questions

RECIPE = Path(__file__).resolve().parents[2] / "recipes/tiny"
STEP = re.compile(r"([\d+*-]+)=(\d+)")


@pytest.fixture(scope="module")
def recipe() -> Any:
    """The recipe's modules, which lie outside the package."""
    sys.path.insert(0, str(RECIPE))
    import examples
    import vocabulary

    yield examples, vocabulary
    sys.path.remove(str(RECIPE))


@pytest.mark.parametrize("kind", [*KINDS, *STRETCH])
def test_every_step_on_paper_is_right(kind: str) -> None:
    for question in islice(questions(kind, 5), 300):
        steps = STEP.findall(question.working)
        assert all(eval(step) == int(result) for step, result in steps), question  # digits and signs alone
        assert question.working.endswith(question.answer)
        assert is_right(question, question.answer) and is_right(question, f"It is {question.answer}.")
        assert not is_right(question, f"{question.answer}1") and not is_right(question, "none")


def test_answers_are_right() -> None:
    for kind, result in (
        ("sum", lambda a, b: a + b),
        ("difference", lambda a, b: a - b),
        ("product", lambda a, b: a * b),
        ("product3", lambda a, b: a * b),
        ("comparison", max),
    ):
        for question in islice(questions(kind, 6), 200):
            assert int(question.answer) == result(*map(int, question.asked.split()))
    for question in islice(questions("letters", 6), 200):
        letter, word = question.asked.split()
        assert int(question.answer) == word.count(letter) and f'"{word}"' in question.text


def test_the_same_seed_gives_the_same_questions() -> None:
    for kind in KINDS:
        assert list(islice(questions(kind, 1), 20)) == list(islice(questions(kind, 1), 20))
        assert list(islice(questions(kind, 1), 20)) != list(islice(questions(kind, 2), 20))
    asked = held_out(2100)
    assert len({(q.kind, q.asked) for q in asked}) == len(asked) == 2100
    assert {q.kind for q in asked} == set(KINDS) and all(q.held_out for q in asked)


def test_no_held_out_question_is_learnt_and_both_modes_are_equally_many(recipe: Any) -> None:
    examples, _ = recipe
    tokenizer = Tokenizer.from_directory(find("tiny-dense").path)
    texts = [tokenizer.decode(e.ids, skip_special=False) for e in islice(examples.examples(tokenizer._engine, 3), 2000)]
    assert all(text.rsplit("assistant\n", 1)[1].startswith("<think>\n\n</think>") for text in texts[1::2])
    written = [text.rsplit("assistant\n", 1)[1] for text in texts[::2]]
    assert sum(not text.startswith("<think>\n\n</think>") for text in written) > 990  # a cut one can be cut at once
    forbidden = {q.text for q in held_out(3000)}
    asked = {turn.split("<|im_end|>")[0] for text in texts for turn in text.split("<|im_start|>user\n")[1:]}
    assert len(asked) > 1500 and not asked & forbidden


def test_the_tokenizer_is_made_again_the_same_and_writes_every_byte(recipe: Any) -> None:
    _, vocabulary = recipe
    tokenizer = Tokenizer.from_directory(find("tiny-dense").path)
    assert vocabulary.make_tokenizer().to_str() == tokenizer._engine.to_str()
    text = '12 \N{HANGUL SYLLABLE HAN}\N{HANGUL SYLLABLE GEUL} {"a": [1.5, null]} <tool_call>\n\t\N{GRINNING FACE}'
    assert tokenizer.decode(tokenizer.encode(text)) == text
    assert all(len(tokenizer.encode(str(digit) * 3)) == 3 for digit in range(10))


@pytest.mark.parametrize("name", ["tiny-dense", "tiny-routed"])
@pytest.mark.parametrize("thinking", [True, False])
def test_transformers_answers_as_we_do(name: str, thinking: bool) -> None:
    """Greedy answers to the same questions: by torch all equal, natively all but one of 50 at most."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    path = str(find(name).path)
    theirs = AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32)
    tokenizer = AutoTokenizer.from_pretrained(path)
    torch_model, native = trilens.load(name, executor="torch"), trilens.load(name)
    asked = [q.text for q in held_out(20 if thinking else 50)]  # thoughts are long
    differ = 0
    for text in asked:
        prompt = tokenizer.apply_chat_template(
            [{"role": "user", "content": text}],
            add_generation_prompt=True,
            enable_thinking=thinking,
            return_tensors="pt",
            return_dict=True,
        )
        with torch.inference_mode():
            out = theirs.generate(**prompt, do_sample=False, max_new_tokens=300)
        expected = tokenizer.decode(out[0, prompt["input_ids"].shape[1] :], skip_special_tokens=True)
        assert whole(torch_model, text, thinking) == expected
        differ += whole(native, text, thinking) != expected
    assert differ <= 1


def whole(model: Model, text: str, thinking: bool) -> str:
    """The output as transformers prints it: markers and all, but for control tokens."""
    answer = model.generate(text, thinking=thinking, temperature=0, max_tokens=290)
    return f"<think>\n{answer.thinking}\n</think>\n\n{answer.text}" if thinking else answer.text


def test_the_shipped_weights_are_as_good_as_the_readme_says() -> None:
    """On 600 held-out questions: thinking is right on nineteen of twenty, and that is what products and chains need."""
    rows = {(row.backbone, row.thinking): row for row in combine(600)}
    for backbone in ("dense", "routed"):
        on, off = rows[backbone, True], rows[backbone, False]
        assert on.correct / on.asked > 0.94
        for kind in ("product", "chain"):
            assert on.by_kind[kind] - off.by_kind[kind] > 0.25
    assert rows["routed", True].correct > rows["dense", True].correct - 0.02 * 600
