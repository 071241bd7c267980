"""The library's face: named options, streams for `for`, `async for`, `await` and `with`, counts, tables and HTML."""

from __future__ import annotations

import asyncio
import gc
import inspect
import time
import weakref
from collections.abc import Callable, Iterator
from dataclasses import fields, replace
from typing import Any

import pytest

import trilens
from tests.hosted import wire
from tests.hosted.fake import FakeServer
from trilens.errors import RequestRefused, UsageError
from trilens.generate.options import CallOptions, GenerateOptions, HostedOptions, LoadOptions, SamplingOptions
from trilens.generate.sampling import Sampling
from trilens.hosted.load import load_hosted
from trilens.loading import load
from trilens.model import Model
from trilens.text.conversation import Message, Text

ADD, TIMES = "What is 14 plus 25?", "What is 123 times 456?"


@pytest.fixture(scope="module")
def model() -> Model:
    return load("tiny-dense")


@pytest.fixture
def hosted(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., trilens.HostedModel]]:
    server = FakeServer([wire.ResponsesStream().message("39").end(20, 5)] * 3)
    with server.running():
        monkeypatch.setenv("OPENAI_BASE_URL", f"{server.url}/v1")
        monkeypatch.setenv("OPENAI_API_KEY", "none")
        yield lambda **options: load_hosted("openai:gpt-5.1", **options)


# ---- options


def named(function: Callable[..., Any]) -> set[str]:
    parameters = inspect.signature(function).parameters.values()
    return {p.name for p in parameters if p.kind is p.KEYWORD_ONLY}


def test_the_lists_of_options_are_the_signatures() -> None:
    sampling = {field.name for field in fields(Sampling)}
    assert set(SamplingOptions.__annotations__) == sampling
    assert set(GenerateOptions.__annotations__) == named(Model.stream_all) | sampling
    assert set(CallOptions.__annotations__) == set(GenerateOptions.__annotations__) - {"thinking"}
    assert set(LoadOptions.__annotations__) == named(load) | {"threads", "quantise", "kv", "activations"}
    assert set(HostedOptions.__annotations__) == named(load_hosted)


def test_every_public_name_is_there_and_listed() -> None:
    assert all(getattr(trilens, name) is not None for name in trilens.__all__)
    assert set(trilens.__all__) <= set(dir(trilens))
    with pytest.raises(AttributeError, match="lode"):
        trilens.lode  # type: ignore[attr-defined]  # noqa: B018


@pytest.mark.parametrize("thinking", [True, False, 20, "off-or-least"])
def test_extended_thinking_is_another_name_of_thinking(model: Model, thinking: bool | int | str) -> None:
    one = model.generate(ADD, thinking=thinking, temperature=0, seed=1)
    for other in (
        model.generate(ADD, extended_thinking=thinking, temperature=0, seed=1),
        trilens.call_model(model, ADD, extended_thinking=thinking, temperature=0, seed=1),
    ):
        assert other.receipt.replay == one.receipt.replay
        assert other.receipt.thinking == one.receipt.thinking


def test_both_names_of_thinking_are_refused(model: Model) -> None:
    for call in (model.generate, lambda *a, **o: trilens.call_model(model, *a, **o)):
        with pytest.raises(RequestRefused, match="two names of one option"):
            call(ADD, thinking=True, extended_thinking=True)


def test_options_of_models_here_are_refused_elsewhere(hosted: Callable[..., trilens.HostedModel]) -> None:
    there = hosted()
    values: dict[str, Any] = {"tools": [], "min_tokens": 1, "ignore_eos": True, "schema": {}, "regex": "a"}
    for option in (
        set(GenerateOptions.__annotations__) - named(trilens.HostedModel.stream) - {*SamplingOptions.__annotations__}
    ):
        with pytest.raises(RequestRefused, match=f"{option} is for models that run here"):
            there.generate("x", **{option: values.get(option)})  # type: ignore[misc]


# ---- streams


def test_a_stream_gives_the_whole_answer_too(model: Model) -> None:
    whole = model.generate(ADD, thinking=True, temperature=0)
    stream = model.stream(ADD, thinking=True, temperature=0)
    next(stream)
    answer = stream.answer()
    assert (answer.text, answer.thinking, answer.receipt.replay) == (whole.text, whole.thinking, whole.receipt.replay)
    assert stream.answer() == answer
    several = model.stream_all([ADD, TIMES], temperature=0)
    assert [a.text for a in several.answers()] == [model.generate(p, temperature=0).text for p in (ADD, TIMES)]
    with pytest.raises(UsageError, match="has 2 answers"):
        several.answer()


def test_a_block_closes_its_stream(model: Model) -> None:
    with model.stream(TIMES, thinking=True) as stream:
        next(stream)
    assert stream.calls[0].request is not None and stream.calls[0].request.finish == "cancelled"
    with pytest.raises(UsageError, match="closed before its answer had ended"):
        stream.answer()


def test_events_are_the_same_in_an_event_loop(model: Model) -> None:
    async def collected() -> tuple[str, str]:
        texts, thoughts = [], []
        async for event in model.stream(ADD, thinking=True, temperature=0):
            match event:
                case trilens.TextEvent(text):
                    texts.append(text)
                case trilens.ThinkingEvent(text):
                    thoughts.append(text)
        return "".join(texts), "".join(thoughts)

    async def both() -> Any:
        return await asyncio.gather(collected(), awaited())

    async def awaited() -> trilens.Answer:
        return await model.stream(ADD, thinking=True, temperature=0)

    whole = model.generate(ADD, thinking=True, temperature=0)
    (text, thinking), answer = asyncio.run(both())
    assert (text, thinking) == (whole.text, whole.thinking) == (answer.text, answer.thinking)


def test_many_are_awaited_side_by_side(model: Model) -> None:
    async def ask() -> list[trilens.Answer]:
        async def one(n: int) -> trilens.Answer:
            return await model.stream(f"What is {n} plus 30?", temperature=0)

        return await asyncio.gather(*map(one, range(20)))

    answers = asyncio.run(ask())
    assert [a.text for a in answers] == [model.generate(f"What is {n} plus 30?", temperature=0).text for n in range(20)]


def test_the_loop_is_free_while_an_answer_is_made(model: Model) -> None:
    async def count() -> int:
        turns, done = 0, asyncio.ensure_future(whole())
        while not done.done():
            turns += 1
            await asyncio.sleep(0)
        return turns

    async def whole() -> None:
        await model.stream(TIMES, thinking=True, temperature=0)

    assert asyncio.run(count()) > 3


@pytest.mark.parametrize("how", ["await", "async for"])
def test_a_cancelled_task_cancels_its_stream(model: Model, how: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """So that nothing is computed for nobody."""
    draw = model.executor.draw
    monkeypatch.setattr(model.executor, "draw", lambda *a, **o: time.sleep(0.005) or draw(*a, **o))
    stream = model.stream(TIMES, thinking=True, temperature=0, max_tokens=2000, ignore_eos=True)

    async def read() -> None:
        if how == "await":
            await stream
        else:
            async for _ in stream:
                pass

    async def cancelled() -> None:
        task = asyncio.ensure_future(read())
        while stream.calls[0].request is None or not stream.calls[0].request.tokens:
            await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(cancelled())
    stream._thread.shutdown()  # it ends with the step that ran
    generation = stream.calls[0].request
    assert generation is not None and generation.finish == "cancelled" and len(generation.tokens) < 2000


def test_an_error_comes_through_an_event_loop(model: Model) -> None:
    async def ask() -> None:
        await model.stream(ADD, temperature=-1)

    with pytest.raises(RequestRefused, match="temperature"):
        asyncio.run(ask())


def test_a_hosted_stream_is_the_same(hosted: Callable[..., trilens.HostedModel]) -> None:
    async def ask() -> trilens.Answer[trilens.HostedReceipt]:
        return await there.stream("What is 14 plus 25?")

    with hosted() as there:
        assert there.stream("What is 14 plus 25?").answer().text == "39"
        assert asyncio.run(ask()).text == "39"


# ---- a model's end


def test_a_block_gives_a_model_s_memory_back() -> None:
    with load("tiny-dense") as model:
        executor = weakref.ref(model.executor)
        model.generate(ADD, temperature=0)
    gc.collect()
    assert executor() is None
    for use in (lambda: model.generate(ADD), lambda: model.count_tokens(ADD), lambda: model.spec, lambda: model.card()):
        with pytest.raises(UsageError, match="tiny-dense was closed"):
            use()
    model.close()
    with pytest.raises(AttributeError, match="no attribute 'anything'"):
        model.anything  # type: ignore[attr-defined]  # noqa: B018


def test_a_stream_of_a_closed_model_ends_with_an_error() -> None:
    model = load("tiny-dense")
    stream = model.stream(TIMES, thinking=True)
    next(stream)
    model.close()
    with pytest.raises(UsageError, match="was closed"):
        stream.answer()


# ---- counts


CONVERSATION = [Message("system", (Text("Be brief."),)), {"role": "user", "content": ADD}]


@pytest.mark.parametrize("prompt", [ADD, "é漢字🙂", "a\n" * 40, CONVERSATION, [{"role": "user", "content": "x" * 300}]])
@pytest.mark.parametrize("thinking", [None, True, False])
def test_tokens_are_counted_as_they_are_sent(model: Model, prompt: Any, thinking: bool | None) -> None:
    receipt = model.generate(prompt, thinking=thinking, max_tokens=1).receipt
    assert model.count_tokens(prompt, thinking=thinking) == receipt.tokens.prompt


def test_raw_and_long_prompts_are_counted(model: Model) -> None:
    assert model.count_tokens(ADD, raw=True) == model.generate(ADD, raw=True, max_tokens=1).receipt.tokens.prompt
    assert model.count_tokens("seven " * 5000) > model.spec.context
    with pytest.raises(RequestRefused, match="empty"):
        model.count_tokens("")


def test_a_hosted_model_counts_with_a_tokenizer(hosted: Callable[..., trilens.HostedModel], model: Model) -> None:
    there, tokenizer = hosted(), model.text.tokenizer
    with pytest.raises(RequestRefused, match="its tokenizer is not published"):
        there.count_tokens(ADD)
    there.elsewhere = replace(there.elsewhere, host="there")
    with pytest.raises(RequestRefused, match="load the model with tokenizer="):
        there.count_tokens(ADD)
    there.elsewhere = replace(there.elsewhere, tokens_of=lambda text: len(tokenizer.encode(text)))
    assert there.count_tokens(ADD) == model.count_tokens(ADD, raw=True)
    assert there.count_tokens([{"role": "user", "content": ADD}] * 2) == 2 * there.count_tokens(ADD)


# ---- tables, texts and HTML


def test_a_table_has_every_field_as_a_column(model: Model, hosted: Callable[..., trilens.HostedModel]) -> None:
    def leaves(data: dict[str, Any], before: str = "") -> dict[str, Any]:
        flat: dict[str, Any] = {}
        for name, value in data.items():
            flat |= leaves(value, f"{before}{name}.") if isinstance(value, dict) else {before + name: value}
        return flat

    things = [model.generate(ADD, temperature=0), hosted().generate(ADD)]
    rows = trilens.table(things)
    columns = {name for thing in things for name in leaves(thing.as_dict())}
    assert [set(row) for row in rows] == [columns, columns]
    for row, thing in zip(rows, things, strict=True):
        own = leaves(thing.as_dict())
        assert row == {name: own.get(name) for name in columns}
    assert rows[0]["receipt.tokens.prompt"] == things[0].receipt.tokens.prompt
    assert trilens.table([]) == []


def test_an_answer_prints_its_text(model: Model) -> None:
    answer = model.generate(ADD, temperature=0)
    assert str(answer) == answer.text and "receipt" not in repr(answer)


def test_html_holds_no_tag_of_a_model_s_own(model: Model) -> None:
    evil = "<script>alert(1)</script><img src=x onerror='x'>&amp;\""
    answer = model.generate(ADD, temperature=0)
    shown = trilens.Answer(evil, evil, answer.receipt)._repr_html_()
    assert "<script" not in shown and "<img" not in shown
    assert shown.count("&lt;script&gt;alert(1)") == 2
