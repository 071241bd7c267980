"""The library's door: every option with values of every wrong kind. A typed error names it, before any work."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import trilens
from trilens.errors import RequestRefused, TrilensError, UsageError
from trilens.generate.sampling import Sampling
from trilens.hosted.load import load_hosted
from trilens.model import Model

HI = [{"role": "user", "content": "1+1="}]


class Hostile:
    """An object that cannot even be shown."""

    def __repr__(self) -> str:
        raise RuntimeError("no")


WRONG: dict[str, Any] = {
    "a float": 2.5,
    "a truth": True,
    "zero": 0,
    "a negative number": -1,
    "a large number": 10**30,
    "nan": math.nan,
    "infinity": math.inf,
    "a text": "zebra",
    "an empty text": "",
    "bytes": b"hello",
    "a number": 5,
    "a list of numbers": [1, 2],
    "an empty list": [],
    "a list of texts": ["a", ""],
    "a list of lists": [[1]],
    "an object": {"a": 1},
    "an object of numbers": {1: 2},
    "a set": {1},
    "a function": print,
    "an unshowable object": Hostile(),
    "a generator": (i for i in range(2)),
}
# What each option takes of these; everything else has to be refused.
TAKES: dict[str, set[str]] = {
    "max_tokens": {"a number"},
    "thinking": {"zero"},
    "stop": {"a text", "an empty list"},
    "raw": set(),
    "tools": {"an empty list"},
    "tool_choice": set(),
    "template_variables": {"an object"},
    "schema": set(),
    "temperature": {"a float", "zero", "a number"},
    "top_k": {"zero", "a number"},
    "top_p": set(),
    "min_p": {"zero"},
    "repetition_penalty": {"a float", "a number"},
    "presence_penalty": {"a float", "zero", "a number", "a negative number"},
    "frequency_penalty": {"a float", "zero", "a number", "a negative number"},
    "seed": {"zero", "a number"},
    "logit_bias": {"an object of numbers"},
    "logprobs": {"zero", "a number"},
}
PAIRS = [(option, kind) for option in TAKES for kind in WRONG]


@pytest.fixture(scope="module")
def model() -> Model:
    loaded: Model = trilens.load("tiny-dense")
    return loaded


def refused(option: str, work: Callable[[], Any]) -> None:
    with pytest.raises(TrilensError) as caught:
        work()
    assert isinstance(caught.value, RequestRefused | UsageError)
    assert "\n" not in str(caught.value)
    assert option in str(caught.value) or option.replace("_", " ") in str(caught.value)


def test_every_option_is_named() -> None:
    assert TAKES.keys() >= set(Sampling.__dataclass_fields__)


@pytest.mark.parametrize("option", sorted(TAKES))
def test_every_option_of_a_request(model: Model, option: str) -> None:
    for kind, value in WRONG.items():
        if kind in TAKES[option] or (option == "schema" and isinstance(value, dict)):
            if option != "schema":
                model.prepare(HI, **{option: value})
            continue
        if option == "thinking" and kind in ("a truth", "a number"):
            continue  # what the model can do decides
        refused(option, lambda value=value: model.stream(HI, **{option: value}))  # type: ignore[misc]
        assert not model._scheduler.running


def test_tools_and_variables_hold_json(model: Model) -> None:
    deep: Any = []
    for _ in range(2000):
        deep = [deep]
    for value in (print, b"x", {1}, {1: 2}, 10**400, deep, Hostile()):
        for given in (
            {"tools": [{"type": "function", "function": value}]},
            {"template_variables": {"x": value}},
        ):
            with pytest.raises(RequestRefused):
                model.prepare(HI, **given)
    for name in ("tools", "messages", "add_generation_prompt", "strftime_now"):
        refused("template_variables", lambda name=name: model.prepare(HI, template_variables={name: 3}))  # type: ignore[misc]
    model.prepare(HI, template_variables={"self": 1, "template": 2})


MESSAGES: tuple[Any, ...] = (
    5,
    "text",
    b"text",
    [],
    {},
    {"role": "user"},
    {"content": "x"},
    {"role": 5, "content": "x"},
    {"role": "user", "content": 5},
    {"role": "user", "content": b"x"},
    {"role": "user", "content": None},
    {"role": "user", "content": [5]},
    {"role": "user", "content": [{"type": "text"}]},
    {"role": "user", "content": [{"type": "text", "text": 5}]},
    {"role": "user", "content": [{"type": "image", "text": "x"}]},
    {"role": "user", "content": "x", "name": 5},
    {"role": "user", "content": "x", 5: "y"},
    {"role": "user", "content": "x", "extra": print},
    {"role": "tool", "content": "x", "tool_call_id": 5},
    *(
        {"role": "assistant", "content": "", "tool_calls": calls}
        for calls in (
            5,
            "x",
            {},
            [5],
            [{}],
            [{"function": 5}],
            [{"function": {}}],
            [{"function": {"name": 5}}],
            [{"function": {"name": "f", "arguments": 5}}],
            [{"function": {"name": "f", "arguments": [1]}}],
        )
        if calls != {}
    ),
)


@pytest.mark.parametrize("number", range(len(MESSAGES)))
def test_every_part_of_a_message(model: Model, number: int) -> None:
    for conversation in ([MESSAGES[number]], [*HI, MESSAGES[number]], [MESSAGES[number], *HI]):
        for thinking in (None, True, "off-or-least"):
            with pytest.raises(RequestRefused):
                model.prepare(conversation, thinking=thinking)


PROMPTS: tuple[Any, ...] = ("", "  \n", [], 5, None, b"hello", {"role": "user"}, {1}, print, 2.5, [5], [[]], [HI, 5])


@pytest.mark.parametrize("prompt", PROMPTS)
def test_every_prompt(model: Model, prompt: Any) -> None:
    for work in (model.generate, model.stream, lambda p: trilens.call_model(model, p), lambda p: model.stream_all([p])):
        with pytest.raises(RequestRefused):
            work(prompt)
    assert not model._scheduler.running


@pytest.mark.parametrize("prompts", ["abc", {}, 5, None, [], b"x", {"a"}])
def test_several_prompts_are_a_list(model: Model, prompts: Any) -> None:
    with pytest.raises(RequestRefused, match="prompts"):
        model.stream_all(prompts)


@pytest.mark.parametrize("name", [5, None, b"smollm2", "", [], {}, 2.5, True, "a\0b", print, Hostile()])
def test_every_model_name(name: Any) -> None:
    for work in (trilens.load, trilens.card, lambda n: trilens.call_model(n, "x")):
        with pytest.raises(UsageError, match="the model is"):
            work(name)


LOADING: dict[str, tuple[str, ...]] = {
    "offline": ("a truth",),
    "ignore_keys": ("an empty list", "a list of texts"),
    "progress": ("a function",),
    "executor": (),
    "threads": ("a number",),
    "quantise": (),
    "kv": (),
    "activations": (),
}


@pytest.mark.parametrize("option", sorted(LOADING))
def test_every_option_of_loading(option: str) -> None:
    for kind, value in WRONG.items():
        if kind not in LOADING[option]:
            refused(option, lambda value=value: trilens.load("tiny-dense", **{option: value}))  # type: ignore[misc]


@pytest.mark.parametrize("option", ["context", "kv_type", "offline", "up_to_context"])
def test_every_option_of_a_card(model: Model, option: str) -> None:
    takes = {"context": {"a number"}, "offline": {"a truth"}, "up_to_context": {"a truth"}}.get(option, set())
    for kind, value in WRONG.items():
        if kind not in takes:
            refused(option, lambda value=value: trilens.card("tiny-dense", **{option: value}))  # type: ignore[misc]
    if option == "context":
        for value in WRONG.values():
            if value != 5:
                refused(option, lambda value=value: model.card(value))  # type: ignore[misc]


@pytest.mark.parametrize("option", ["model", "engine", "tokenizer", "key_variable", "retries", "timeout"])
def test_every_option_of_a_hosted_model(option: str) -> None:
    takes = {
        "retries": {"a number", "zero"},
        "timeout": {"a float", "a number"},
    }.get(option, {"a text"})
    for kind, value in WRONG.items():
        if kind not in takes:
            refused(option, lambda value=value: load_hosted("http://127.0.0.1:9#x", **{option: value}))  # type: ignore[misc]


HOSTED = sorted(TAKES.keys() - {"tools", "tool_choice", "template_variables", "schema"})


@pytest.mark.parametrize("option", HOSTED)
def test_every_option_of_a_hosted_request(option: str) -> None:
    """Refused before anything is sent: nobody listens at this address."""
    with contextlib.closing(load_hosted("http://127.0.0.1:9#x", engine="vllm")) as hosted:
        for kind, value in WRONG.items():
            if kind in TAKES[option] or (option == "thinking" and kind in ("a truth", "a number")):
                continue
            refused(option, lambda value=value: hosted.stream(HI, **{option: value}))  # type: ignore[misc]
        for message in MESSAGES:
            with pytest.raises(RequestRefused):
                hosted.stream([message])
        for prompt in PROMPTS:
            with pytest.raises(RequestRefused):
                hosted.generate(prompt)


@pytest.mark.parametrize("index", [2.5, True, -1, "0", b"0", [0]])
def test_whose_thinking_ends(model: Model, index: Any) -> None:
    with contextlib.closing(model.stream(HI)) as stream, pytest.raises(UsageError, match="index"):
        stream.answer_now(index)


def test_a_path_is_a_name() -> None:
    from trilens.checkpoints.find import find

    path = find("tiny-dense").path
    assert isinstance(path, Path)
    assert trilens.card(path).name  # type: ignore[arg-type]
