"""Answers under a JSON schema: whole, valid, and behind a thinking only where the answer begins."""

from __future__ import annotations

import json

import jsonschema
import pytest

import trilens
from trilens.errors import RequestRefused
from trilens.model import Model

PERSON = {
    "type": "object",
    "properties": {"name": {"type": "string", "maxLength": 8}, "age": {"type": "integer", "minimum": 0, "maximum": 99}},
    "required": ["name", "age"],
    "additionalProperties": False,
}


@pytest.fixture(scope="module")
def model() -> Model:
    return trilens.load("tiny-dense")


@pytest.mark.parametrize("thinking", [False, True, 5])
@pytest.mark.parametrize("seed", range(4))
def test_the_answer_follows_the_schema(model: Model, thinking: bool | int, seed: int) -> None:
    answer = model.generate("What is 4 plus 5?", thinking=thinking, schema=PERSON, temperature=1.0, seed=seed)
    assert answer.receipt.finish == "stop"
    jsonschema.validate(json.loads(answer.text), PERSON)
    assert bool(answer.thinking) == bool(thinking)


def test_a_number_that_the_model_would_say_anyway(model: Model) -> None:
    answer = model.generate("What is 14 plus 25?", thinking=True, schema={"type": "integer"}, temperature=0)
    assert json.loads(answer.text) == 39


def test_cut_off_says_so(model: Model) -> None:
    answer = model.generate("Hello", thinking=False, schema=PERSON, max_tokens=3)
    assert answer.receipt.finish == "length"


@pytest.mark.parametrize(
    "schema", [{"type": "nonsense"}, {"$ref": "#/nowhere"}, {"enum": []}, {"type": "string", "pattern": "("}]
)
def test_a_schema_that_cannot_be_is_refused(model: Model, schema: dict[str, object]) -> None:
    with pytest.raises(RequestRefused, match="schema"):
        model.generate("Hello", thinking=False, schema=schema)


def test_two_constrained_answers_and_a_free_one_together(model: Model) -> None:
    answers = model.generate(["What is 4 plus 5?", "Hello"], thinking=False, schema=PERSON, seed=3)
    for answer in answers:
        jsonschema.validate(json.loads(answer.text), PERSON)
    assert model.generate("What is 14 plus 25?", thinking=True, temperature=0).text == "39"
