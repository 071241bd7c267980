"""The small models: their questions, their data, and that others read the checkpoints as we do."""

from __future__ import annotations

import re
import sys
from collections import Counter
from functools import cache
from itertools import islice
from pathlib import Path
from typing import Any

import pytest
import torch

import trilens
from tests.grids import in_turn
from trilens.checkpoints.find import find
from trilens.model import Model
from trilens.text.tokenizer import Tokenizer
from trilens.trials.combos import combine
from trilens.trials.questions import (
    KINDS,
    LEARNT_PAIRS,
    RANGES,
    STRETCH,
    Question,
    asking,
    held_out,
    in_range,
    is_right,
    questions,
    range_of,
)
from trilens.trials.talk import TOPICS
from trilens.trials.wordings import BEFORE

RECIPE = Path(__file__).resolve().parents[2] / "recipes/tiny"
SINGLE = ("sum", "difference", "negative", "product")  # the kinds that have a range of single digits
STEP = re.compile(r"([\d+*-]+)=(\d+)")


@pytest.fixture(scope="module")
def recipe() -> Any:
    """The recipe's modules, which lie outside the package."""
    sys.path.insert(0, str(RECIPE))
    import examples
    import train
    import vocabulary

    yield examples, vocabulary, train
    sys.path.remove(str(RECIPE))


@pytest.mark.parametrize("kind", sorted({*KINDS, *STRETCH} - {"talk"}))
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
        ("negative", lambda a, b: a - b),
        ("product", lambda a, b: a * b),
        ("product3", lambda a, b: a * b),
        ("comparison", max),
    ):
        for question in islice(questions(kind, 6), 200):
            a, b = map(int, question.asked.split())
            assert int(question.answer) == result(a, b)
            assert (kind == "negative") == (question.answer[0] == "-")
    for question in islice(questions("letters", 6), 200):
        letter, word = question.asked.split()
        assert int(question.answer) == word.count(letter) and f'"{word}"' in question.text


@pytest.mark.parametrize(("kind", "digits"), [(kind, digits) for kind in RANGES for digits in RANGES[kind]])
def test_a_range_has_numbers_of_so_many_digits(kind: str, digits: str) -> None:
    for question in islice(questions(kind, 8, digits), 200):
        a, b = question.asked.split()
        lengths = sorted((len(a), len(b)))
        assert question.digits == range_of(int(a), int(b)) == digits
        assert lengths == [int(n) for n in digits.split("x")]
    few = in_range(kind, digits, 30)
    assert all(q.held_out and q.digits == digits for q in few) and len({q.text for q in few}) == len(few) == 30
    assert digits == LEARNT_PAIRS or len({q.asked for q in few}) == 30


@pytest.mark.parametrize("kind", ["difference", "negative"])
@pytest.mark.parametrize("digits", ["1x1", "2x2", "3x3"])
def test_close_numbers_come_as_often_as_asked_for(kind: str, digits: str) -> None:
    """Less than ten apart, which other numbers of three digits seldom are."""
    for close, least, most in ((1.0, 0.25, 1.0), (0.0, 0.0, {"1x1": 1.0, "2x2": 0.3, "3x3": 0.1}[digits])):
        asked = list(islice(questions(kind, 4, digits, close), 400))
        near = sum(abs(int(question.answer)) < 10 for question in asked)
        assert least <= near / len(asked) <= most
        assert all(
            question.digits == digits and (question.answer[0] == "-") == (kind == "negative") for question in asked
        )


@pytest.mark.parametrize("wrong", ["13", "-13 and 3", "3-13", "none", "1313"])
def test_a_sign_belongs_to_its_number(wrong: str) -> None:
    below = asking("negative", 17, 30)
    assert below.answer == "-13" and is_right(below, "-13") and is_right(below, "That is -13.")
    assert not is_right(below, wrong)


def test_the_same_seed_gives_the_same_questions() -> None:
    for kind in KINDS:
        assert list(islice(questions(kind, 1), 20)) == list(islice(questions(kind, 1), 20))
        assert list(islice(questions(kind, 1), 20)) != list(islice(questions(kind, 2), 20))
    asked = held_out(2100)
    others = [(q.kind, q.asked) for q in asked if q.digits != LEARNT_PAIRS]
    assert len({q.text for q in asked}) == len(asked) == 2100 and len(set(others)) == len(others)
    assert {q.kind for q in asked} == set(KINDS) and all(q.held_out for q in asked)


def bare(text: str) -> str:
    """What somebody asks, without how it is typed: no capitals, no politeness, no marks at the end."""
    text = text.lower()
    text = next((text.removeprefix(before) for before in BEFORE if text.startswith(before)), text)
    return re.sub(r"[ .?!=,]*(please|thanks)?[ .?!=,]*$", "", text)


@pytest.mark.parametrize("kind", SINGLE)
def test_pairs_of_single_digits_are_held_out_in_some_wordings_only(kind: str) -> None:
    """The same ones however a wording is typed; asked as often as numbers of another range, and all pairs in turn."""
    typed: dict[tuple[str, str], set[bool]] = {}
    for question in islice(questions(kind, 9, LEARNT_PAIRS), 20_000):
        typed.setdefault((question.asked, bare(question.text)), set()).add(question.held_out)
    assert all(len(held) == 1 for held in typed.values())
    learnt = Counter(asked for (asked, _), held in typed.items() if held == {False})
    pairs = {asked for (asked, _), held in typed.items() if held == {True}}
    assert learnt.keys() == {q.asked for q in single_digits(kind)} and min(learnt.values()) > 8
    asked = held_out(60, (kind,))
    cells = Counter(q.digits for q in asked)
    assert max(cells.values()) == min(cells.values()) and len(cells) == len(RANGES[kind])
    singles = [q.asked for q in asked if q.digits == LEARNT_PAIRS]
    assert set(singles) <= pairs and len(set(singles)) >= min(len(singles), len(pairs)) - 1


@cache
def forbidden() -> set[str]:
    """Held-out questions, those of single digits among them."""
    return {bare(q.text) for q in (*held_out(1000), *(q for kind in SINGLE for q in in_range(kind, LEARNT_PAIRS, 60)))}


@pytest.mark.parametrize("mix", ["FIRST", "LATER", "CLOSE", "LAST"])
def test_no_held_out_question_is_learnt(recipe: Any, mix: str) -> None:
    """Nor in another way to type it, nor as an earlier turn."""
    examples, _, _ = recipe
    tokenizer = Tokenizer.from_directory(find("tiny-dense").path)
    asked: list[str] = []
    for example in islice(examples.examples(tokenizer._engine, 3, getattr(examples, mix)), 1200):
        turns = tokenizer.decode(example.ids, skip_special=False).split("<|im_start|>user\n")[1:]
        asked += [bare(turn.split("<|im_end|>")[0]) for turn in turns]
    assert len(asked) > 1270 and not set(asked) & forbidden()


def test_both_modes_are_equally_many(recipe: Any) -> None:
    examples, _, _ = recipe
    tokenizer = Tokenizer.from_directory(find("tiny-dense").path)
    texts = [tokenizer.decode(e.ids, skip_special=False) for e in islice(examples.examples(tokenizer._engine, 3), 2000)]
    assert all(text.rsplit("assistant\n", 1)[1].startswith("<think>\n\n</think>") for text in texts[1::2])
    written = [text.rsplit("assistant\n", 1)[1] for text in texts[::2]]
    assert sum(not text.startswith("<think>\n\n</think>") for text in written) > 990  # a cut one can be cut at once


def test_a_key_is_told_and_its_value_is_learnt(recipe: Any) -> None:
    """As under a JSON schema, after any thoughts: with a space or without, and the key in any tokens. No object is ever
    begun by the model itself.
    """
    examples, _, _ = recipe
    tokenizer = Tokenizer.from_directory(find("tiny-dense").path)
    objects, seen = 0, set()
    for e in islice(examples.examples(tokenizer._engine, 5, examples.LAST), 2000):
        told = tokenizer.decode(e.ids[: e.learnt], skip_special=False).rsplit("assistant\n", 1)[1]
        written = tokenizer.decode(e.ids[e.learnt :], skip_special=False)
        assert "{" not in written
        assert ("{" in told) == ("}" in written)
        if "{" in told:
            thought, answer = told.split("</think>\n\n")
            key = re.fullmatch(r'\{"[a-z]+":( ?)', answer)
            assert key and re.fullmatch(r"-?\d+\}<\|im_end\|>", written)
            assert thought.startswith("<think>\n")
            usual = e.ids[: e.learnt][-len(tokenizer.encode(answer)) :] == tokenizer.encode(answer)
            seen |= {("space", bool(key[1])), ("usual tokens", usual), ("thoughts", thought != "<think>\n\n")}
            objects += 1
    assert 60 < objects < 500 and len(seen) == 6


def test_an_opening_ends_where_its_sign_and_numbers_are_known(recipe: Any) -> None:
    examples, _, _ = recipe
    tokenizer = Tokenizer.from_directory(find("tiny-dense").path)
    signs = {"<0": 0, ":": 0}
    for e in islice(examples.examples(tokenizer._engine, 6, examples.LAST), 4000):
        written = tokenizer.decode(e.ids[e.learnt :], skip_special=False)
        if not written.endswith(":"):
            assert written.endswith("<|im_end|>")
            continue
        found = re.fullmatch(r"<think>\n(\d+)([+-])(\d+)(?:<0\n(\d+)-(\d+))?:", written)
        assert found
        top, sign, low, first, second = found.groups()
        assert len(top) == len(low) and (first is not None) == (sign == "-" and int(top) < int(low))
        assert first is None or (first, second) == (low, top)
        if sign == "-":
            signs["<0" if first else ":"] += 1
    assert min(signs.values()) > 200 and abs(signs["<0"] - signs[":"]) < 0.2 * sum(signs.values())


def test_the_tokenizer_is_made_again_the_same_and_writes_every_byte(recipe: Any) -> None:
    _, vocabulary, _ = recipe
    tokenizer = Tokenizer.from_directory(find("tiny-dense").path)
    assert vocabulary.make_tokenizer().to_str() == tokenizer._engine.to_str()
    text = '12 \N{HANGUL SYLLABLE HAN}\N{HANGUL SYLLABLE GEUL} {"a": [1.5, null]} <tool_call>\n\t\N{GRINNING FACE}'
    assert tokenizer.decode(tokenizer.encode(text)) == text
    assert all(len(tokenizer.encode(str(digit) * 3)) == 3 for digit in range(10))


@pytest.mark.parametrize("name", ["tiny-dense", "tiny-routed"])
@pytest.mark.parametrize(
    ("thinking", "number"),
    [(False, 20), *(pytest.param(*more, marks=pytest.mark.slow) for more in ((False, 50), (True, 20)))],
)
def test_transformers_answers_as_we_do(name: str, thinking: bool, number: int) -> None:
    """Greedy answers to the same questions: by torch all equal, natively all but one at most."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    path = str(find(name).path)
    theirs = AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32)
    tokenizer = AutoTokenizer.from_pretrained(path)
    torch_model, native = trilens.load(name, executor="torch"), trilens.load(name)
    asked = [q.text for q in held_out(number)]
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


NAMES = ("tiny-dense", "tiny-routed")


def right(model: Model, asked: list[Question], thinking: bool) -> list[Question]:
    """The questions that it answers right."""
    answers = model.generate([q.text for q in asked], thinking=thinking, temperature=0)
    return [q for q, answer in zip(asked, answers, strict=True) if is_right(q, answer.text)]


def single_digits(kind: str) -> list[Question]:
    pairs = [(a, b) for a in range(10) for b in range(10)]
    if kind in ("difference", "negative"):
        pairs = [(a, b) for a, b in pairs if (a < b) == (kind == "negative")]
    return [asking(kind, a, b) for a, b in pairs]


@pytest.mark.parametrize(("kind", "name"), in_turn(SINGLE, NAMES))
def test_single_digits_are_right(kind: str, name: str) -> None:
    """All of them after thinking; at once, all but one in ten at most."""
    model, asked = trilens.load(name), single_digits(kind)
    assert right(model, asked, thinking=True) == asked
    assert len(right(model, asked, thinking=False)) >= 0.9 * len(asked)


FLOOR = 0.9  # of 40 questions, where the recipe's 1000 say 95.9 % or more


@pytest.mark.parametrize(("part", "name"), in_turn([f"{kind} {d}" for kind in SINGLE for d in RANGES[kind]], NAMES))
def test_every_range_is_as_good_as_the_recipe_says(part: str, name: str) -> None:
    asked = in_range(*part.split(), 40)
    assert len(right(trilens.load(name), asked, thinking=True)) >= FLOOR * len(asked)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("key", ["grams", "answer", "zorp", "n"])
def test_a_schema_gets_the_right_number(name: str, key: str) -> None:
    """After thinking, whatever the key: in few tokens, so that the number has to end."""
    schema = {
        "type": "object",
        "properties": {key: {"type": "integer"}},
        "required": [key],
        "additionalProperties": False,
    }
    asked = held_out(24, ("sum", "difference", "product"), 3)
    texts = [q.text for q in asked]
    answers = trilens.load(name).generate(texts, schema=schema, thinking=True, temperature=0, max_tokens=24)
    given = [a.text == f'{{"{key}":{q.answer}}}' for q, a in zip(asked, answers, strict=True)]
    assert sum(given) >= 22


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("thinking", [True, False])
def test_what_is_no_arithmetic_gets_the_answer_of_its_topic(name: str, thinking: bool) -> None:
    answers = {topic.working: topic.answer for topic in TOPICS}
    said = {
        **dict.fromkeys(("hi",), "greeting"),
        **dict.fromkeys(("what can you do",), "what I can do"),
        **dict.fromkeys(("thanks", "Thank you!"), "thanks"),
        **dict.fromkeys(
            ("Tell me a joke.", "What is the capital of France?", "Why is the sky blue?"), "not arithmetic"
        ),
        "What is 123456 plus 654321?": "too long",
    }
    got = trilens.load(name).generate(list(said), thinking=thinking, temperature=0)
    assert {q: a.text for q, a in zip(said, got, strict=True)} == {q: answers[topic] for q, topic in said.items()}


def test_both_together_are_below_twelve_megabytes() -> None:
    files = [path for name in NAMES for path in find(name).path.iterdir()]
    assert sum(path.stat().st_size for path in files) < 12e6


@pytest.mark.parametrize("name", NAMES)
def test_the_recipe_still_learns_and_starts_from_what_is_shipped(recipe: Any, name: str) -> None:
    """Two steps on the same few examples: the shipped weights know them, and new ones get better."""
    examples, vocabulary, train = recipe
    tokenizer = vocabulary.make_tokenizer()
    spec = train.read_config({**train.CONFIGS[name], "vocab_size": tokenizer.get_vocab_size()}, name).spec
    batch = list(islice(examples.examples(tokenizer, 3, examples.LATER), 12))
    shipped, new = train.initial(spec), train.initial(spec)
    train.read_shipped(find(name).path, shipped)
    assert train.learn(train.TorchExecutor(spec, shipped), batch) < 0.5
    optimizer = torch.optim.AdamW(new.values(), lr=1e-3)
    losses = []
    for _ in range(3):
        losses.append(train.learn(train.TorchExecutor(spec, new), batch))
        optimizer.step()
        optimizer.zero_grad()
    assert losses[2] < losses[1] < losses[0]


@pytest.mark.parametrize("each", [20, pytest.param(40, marks=pytest.mark.slow)])
def test_thinking_is_what_products_and_chains_need(each: int) -> None:
    """On as many held-out questions of each of the 8 kinds; the two models are close."""
    rows = {(row.backbone, row.thinking): row for row in combine(8 * each)}
    for backbone in ("dense", "routed"):
        on, off = rows[backbone, True], rows[backbone, False]
        assert on.correct / on.asked > 0.85
        for kind in ("product", "chain"):
            assert on.by_kind[kind] - off.by_kind[kind] > 0.25
        assert sum(r for r, _ in on.by_range["sum"].values()) == round(on.by_kind["sum"] * each)
        assert sum(asked for parts in on.by_range.values() for _, asked in parts.values()) == 4 * each
    assert rows["routed", True].correct > rows["dense", True].correct - 0.1 * 8 * each
