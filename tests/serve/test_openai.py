"""The official OpenAI client against the real server."""

from __future__ import annotations

import json
import random
from collections.abc import Iterator
from itertools import chain
from typing import Any

import jsonschema
import openai
import pytest

import trilens
from tests.serve.conftest import Served, served

ADD = [{"role": "user", "content": "What is 12 plus 30?"}]
TIMES = [{"role": "user", "content": "What is 47 times 86?"}]
TOOL = {
    "type": "function",
    "function": {
        "name": "weather",
        "description": "The weather somewhere.",
        "parameters": {
            "type": "object",
            "properties": {"city": {"type": "string", "maxLength": 10}, "days": {"enum": [1, 2, 3]}},
            "required": ["city", "days"],
            "additionalProperties": False,
        },
    },
}


@pytest.fixture(scope="module")
def client(server: Served) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0) as made:
        yield made


def streamed(chunks: Any) -> tuple[str, str, list[Any]]:
    got = list(chunks)
    deltas = [c.choices[0].delta for c in got if c.choices]
    text = "".join(d.content or "" for d in deltas)
    return text, "".join(getattr(d, "reasoning_content", None) or "" for d in deltas), got


class TestChat:
    @pytest.mark.parametrize("model", ["tiny-dense", "tiny-routed"])
    @pytest.mark.parametrize("thinking", [True, False])
    def test_whole_and_streamed_are_the_library(self, client: openai.OpenAI, model: str, thinking: bool) -> None:
        ours = trilens.load(model).generate(ADD, thinking=thinking, temperature=0)
        options: dict[str, Any] = {"model": model, "messages": ADD, "temperature": 0}
        options["extra_body"] = {"enable_thinking": thinking}
        whole = client.chat.completions.create(**options)
        message = whole.choices[0].message
        assert message.content == ours.text and whole.choices[0].finish_reason == "stop"
        assert (getattr(message, "reasoning_content", None) or "") == ours.thinking
        assert (getattr(message, "reasoning", None) or "") == ours.thinking
        text, thoughts, chunks = streamed(client.chat.completions.create(stream=True, **options))
        assert (text, thoughts) == (ours.text, ours.thinking)
        assert chunks[-1].choices[0].finish_reason == "stop"
        for usage in (whole.usage, chunks[-1].usage):
            assert usage.completion_tokens == ours.receipt.tokens.completion
            assert usage.completion_tokens_details.reasoning_tokens == ours.receipt.tokens.thinking
        for receipt in (whole.trilens["receipt"], chunks[-1].trilens["receipt"]):
            assert receipt["replay"] == ours.receipt.replay and receipt["model"] == model

    def test_usage_apart_comes_last(self, client: openai.OpenAI) -> None:
        chunks = list(
            client.chat.completions.create(
                model="tiny-dense", messages=ADD, stream=True, stream_options={"include_usage": True}
            )
        )
        assert chunks[-1].choices == [] and chunks[-1].usage.prompt_tokens == 18
        assert "receipt" in chunks[-1].trilens and all(c.usage is None for c in chunks[:-1])

    @pytest.mark.parametrize(
        "asked",
        [
            {"reasoning_effort": "high"},
            {"extra_body": {"reasoning": {"effort": "low"}}},
            {"extra_body": {"thinking": {"type": "enabled", "budget_tokens": 500}}},
            {"extra_body": {"chat_template_kwargs": {"enable_thinking": True}}},
            {"extra_body": {"enable_thinking": True, "thinking_budget": 500}},
            {"extra_body": {"thinking": 500}},
        ],
    )
    def test_every_field_leads_to_the_switch(self, client: openai.OpenAI, asked: dict[str, Any]) -> None:
        whole = client.chat.completions.create(model="tiny-routed", messages=TIMES, temperature=0, **asked)
        report = whole.trilens["receipt"]["thinking"]
        assert report["effective"] == "on" and report["thought"] and report["closed_by"] == "model"
        assert whole.choices[0].message.content == "4042"

    @pytest.mark.parametrize(
        "asked",
        [
            {"reasoning_effort": "none"},
            {"extra_body": {"thinking": {"type": "disabled"}}},
            {"extra_body": {"thinking": 0}},
        ],
    )
    def test_off(self, client: openai.OpenAI, asked: dict[str, Any]) -> None:
        whole = client.chat.completions.create(model="tiny-dense", messages=ADD, **asked)
        assert whole.usage.completion_tokens_details.reasoning_tokens == 0

    def test_a_budget_closes_the_thinking(self, client: openai.OpenAI) -> None:
        whole = client.chat.completions.create(
            model="tiny-routed", messages=TIMES, extra_body={"thinking_budget": 6}, temperature=0
        )
        report = whole.trilens["receipt"]["thinking"]
        assert report["closed_by"] == "budget" and whole.usage.completion_tokens_details.reasoning_tokens <= 6

    @pytest.mark.parametrize(
        ("options", "said"),
        [
            ({"reasoning_effort": "none", "extra_body": {"enable_thinking": True}}, "give one of them"),
            ({"extra_body": {"thinking": "enormous"}}, "enormous"),
            ({"extra_body": {"frobnicate": 1}}, "frobnicate is unknown"),
            ({"extra_body": {"thinking": {"type": "maybe"}}}, "thinking.type"),
            ({"messages": []}, "messages is empty"),
            ({"messages": [{"role": "king", "content": "x"}]}, "messages.0.role"),
            ({"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {}}]}]}, "only text"),
            ({"temperature": -1}, "temperature"),
            ({"max_tokens": 0}, "max_tokens"),
            ({"n": 99}, "n is 99"),
            ({"stop": [""]}, "stop has an empty string"),
            ({"logit_bias": {"a": 1}}, "logit_bias"),
            ({"tool_choice": "required"}, "no tools"),
            ({"messages": [{"role": "user", "content": "x" * 100_000}]}, "context"),
            (
                {"response_format": {"type": "json_schema", "json_schema": {"name": "x", "schema": {"type": "no"}}}},
                "schema",
            ),
        ],
    )
    def test_what_is_wrong_is_said_in_a_line(self, client: openai.OpenAI, options: dict[str, Any], said: str) -> None:
        with pytest.raises(openai.BadRequestError) as caught:
            client.chat.completions.create(**{"model": "tiny-dense", "messages": ADD, **options})
        message = caught.value.body["message"]  # type: ignore[index]
        assert said in message and "\n" not in message and "/" not in message.replace("and/or", "")

    def test_a_model_that_is_not_there(self, client: openai.OpenAI) -> None:
        with pytest.raises(openai.NotFoundError, match="tiny-dense, tiny-routed"):
            client.chat.completions.create(model="gpt-9", messages=ADD)

    def test_choices_with_seeds_of_their_own(self, client: openai.OpenAI) -> None:
        options: dict[str, Any] = {"model": "tiny-dense", "messages": ADD, "n": 4, "seed": 7, "temperature": 3}
        options["extra_body"] = {"enable_thinking": False}
        whole = client.chat.completions.create(**options)
        again = client.chat.completions.create(**options)
        texts = [c.message.content for c in whole.choices]
        assert texts == [c.message.content for c in again.choices] and len(set(texts)) > 1
        assert len(whole.trilens["receipts"]) == 4
        one = client.chat.completions.create(**{**options, "n": 1, "seed": 9})
        assert one.choices[0].message.content == texts[2]
        pieces: dict[int, str] = {}
        for chunk in client.chat.completions.create(stream=True, **options):
            for choice in chunk.choices:
                pieces[choice.index] = pieces.get(choice.index, "") + (choice.delta.content or "")
        assert [pieces[i] for i in range(4)] == texts

    def test_stop_strings_and_lengths(self, client: openai.OpenAI) -> None:
        whole = client.chat.completions.create(model="tiny-dense", messages=ADD, stop=["2"], temperature=0)
        assert whole.choices[0].message.content == "4" and whole.choices[0].finish_reason == "stop"
        cut = client.chat.completions.create(model="tiny-dense", messages=ADD, max_tokens=5, temperature=0)
        assert cut.choices[0].finish_reason == "length" and cut.usage.completion_tokens == 5

    def test_logprobs(self, client: openai.OpenAI) -> None:
        options: dict[str, Any] = {"model": "tiny-dense", "messages": ADD, "temperature": 0}
        whole = client.chat.completions.create(logprobs=True, top_logprobs=3, **options)
        content = whole.choices[0].logprobs.content
        assert "".join(t.token for t in content) == whole.choices[0].message.content == "42"
        for token in content:
            assert token.logprob <= 0 and len(token.top_logprobs) == 3
            assert token.top_logprobs[0].logprob == token.logprob
        chunks = list(client.chat.completions.create(logprobs=True, top_logprobs=3, stream=True, **options))
        found = [t for c in chunks if c.choices[0].logprobs for t in c.choices[0].logprobs.content]
        assert [t.token for t in found] == ["4", "2"]

    def test_the_experts_that_fired(self, client: openai.OpenAI) -> None:
        options: dict[str, Any] = {"messages": ADD, "stream": True, "temperature": 0}
        options["extra_body"] = {"trilens": {"routes": True}}
        chunks = list(client.chat.completions.create(model="tiny-routed", **options))
        routes = [r for c in chunks for r in (getattr(c, "trilens", None) or {}).get("routes", ())]
        stream = trilens.load("tiny-routed").stream(ADD, temperature=0)
        list(stream)
        generation = stream.calls[0].request
        assert generation is not None
        assert [r["token"] for r in routes] == list(range(len(generation.routes)))
        assert [list(chain(*r["experts"])) for r in routes] == generation.routes.tolist()
        dense = list(client.chat.completions.create(model="tiny-dense", **options))
        assert all("routes" not in (getattr(c, "trilens", None) or {}) for c in dense)

    def test_a_conversation_goes_on_from_the_cache(self, client: openai.OpenAI) -> None:
        first = client.chat.completions.create(model="tiny-routed", messages=ADD, temperature=0)
        message = first.choices[0].message
        turn = {"role": "assistant", "content": message.content, "reasoning_content": message.reasoning_content}
        more = [*ADD, turn, {"role": "user", "content": "What is 5 plus 6?"}]
        second = client.chat.completions.create(model="tiny-routed", messages=more, temperature=0)  # type: ignore[arg-type]
        assert second.usage.prompt_tokens_details.cached_tokens > 0


class TestTools:
    def test_a_forced_tool(self, client: openai.OpenAI) -> None:
        options: dict[str, Any] = {"model": "tiny-dense", "messages": ADD, "tools": [TOOL], "temperature": 1, "seed": 1}
        options["tool_choice"] = {"type": "function", "function": {"name": "weather"}}
        whole = client.chat.completions.create(**options)
        [call] = whole.choices[0].message.tool_calls
        assert call.function.name == "weather" and whole.choices[0].finish_reason == "tool_calls"
        jsonschema.validate(json.loads(call.function.arguments), TOOL["function"]["parameters"])  # type: ignore[index]
        with client.chat.completions.stream(**options) as stream:
            final = stream.get_final_completion()
        [again] = final.choices[0].message.tool_calls
        assert again.function.arguments == call.function.arguments

    def test_one_of_several(self, client: openai.OpenAI) -> None:
        other = json.loads(json.dumps(TOOL))
        other["function"]["name"] = "forecast"
        whole = client.chat.completions.create(
            model="tiny-dense", messages=ADD, tools=[TOOL, other], tool_choice="required", seed=3, temperature=2
        )
        [call] = whole.choices[0].message.tool_calls
        assert call.function.name in ("weather", "forecast")
        jsonschema.validate(json.loads(call.function.arguments), TOOL["function"]["parameters"])  # type: ignore[index]


def schema_of(chance: random.Random, depth: int = 0) -> dict[str, Any]:
    """A random JSON schema of bounded sizes."""
    kinds = ["string", "integer", "number", "boolean", "null", "enum"] + ["object", "array"] * (depth < 2)
    match chance.choice(kinds):
        case "string":
            return {"type": "string", "maxLength": chance.randint(0, 6)}
        case "integer":
            low = chance.randint(-50, 50)
            return {"type": "integer", "minimum": low, "maximum": low + chance.randint(0, 100)}
        case "number":
            return {"type": "number", "minimum": 0, "maximum": chance.randint(1, 9), "multipleOf": 0.5}
        case "enum":
            return {"enum": chance.sample(["a", "bc", 1, None, True, "é"], chance.randint(1, 4))}
        case "array":
            least = chance.randint(0, 2)
            return {"type": "array", "items": schema_of(chance, depth + 1), "minItems": least, "maxItems": least + 2}
        case "object":
            properties = {name: schema_of(chance, depth + 1) for name in chance.sample("abcdef", chance.randint(0, 3))}
            required = [name for name in properties if chance.random() < 0.7]
            shape = {"type": "object", "properties": properties, "required": required}
            return {**shape, "additionalProperties": False}
        case kind:
            return {"type": kind}


class TestSchemas:
    def test_a_hundred_random_schemas_give_valid_json(self, client: openai.OpenAI) -> None:
        for seed in range(100):
            schema = schema_of(random.Random(seed))
            whole = client.chat.completions.create(
                model="tiny-dense" if seed % 2 else "tiny-routed",
                messages=ADD,
                temperature=1.5,
                seed=seed,
                max_completion_tokens=900,
                response_format={"type": "json_schema", "json_schema": {"name": "x", "schema": schema}},
                extra_body={"thinking": bool(seed % 3)},
            )
            assert whole.choices[0].finish_reason == "stop", schema
            jsonschema.validate(json.loads(whole.choices[0].message.content), schema)

    def test_any_object(self, client: openai.OpenAI) -> None:
        whole = client.chat.completions.create(
            model="tiny-dense", messages=ADD, response_format={"type": "json_object"}, temperature=0, max_tokens=200
        )
        if whole.choices[0].finish_reason == "stop":
            assert isinstance(json.loads(whole.choices[0].message.content), dict)

    def test_cut_off_says_length(self, client: openai.OpenAI) -> None:
        schema = {"type": "array", "items": {"type": "integer", "minimum": 100}, "minItems": 50, "maxItems": 50}
        whole = client.chat.completions.create(
            model="tiny-dense",
            messages=ADD,
            max_tokens=10,
            response_format={"type": "json_schema", "json_schema": {"name": "x", "schema": schema}},
            extra_body={"thinking": False},
        )
        assert whole.choices[0].finish_reason == "length"


class TestOthers:
    def test_completions(self, client: openai.OpenAI) -> None:
        ours = trilens.load("tiny-dense").generate("What is", raw=True, temperature=0, max_tokens=12)
        whole = client.completions.create(model="tiny-dense", prompt="What is", temperature=0, max_tokens=12)
        assert whole.choices[0].text == ours.text
        chunks = client.completions.create(
            model="tiny-dense", prompt="What is", temperature=0, max_tokens=12, stream=True, echo=True
        )
        assert "".join(c.choices[0].text for c in chunks) == "What is" + ours.text

    def test_models(self, client: openai.OpenAI) -> None:
        listed = {m.id: m.trilens for m in client.models.list()}
        assert list(listed) == ["tiny-dense", "tiny-routed"]
        dense, routed = listed["tiny-dense"], listed["tiny-routed"]
        assert dense["lens"]["dense"] == 1 and dense["routed_layers"] == [] and dense["experts"] == 0
        assert 0 < routed["lens"]["dense"] < 0.5 and len(routed["routed_layers"]) == 4 and routed["experts"] == 8
        assert routed["thinking"]["settings"] == ["off", "on"] and routed["thinking"]["can_off"]

    @pytest.mark.parametrize("stream", [False, True])
    def test_responses(self, client: openai.OpenAI, stream: bool) -> None:
        ours = trilens.load("tiny-routed").generate(TIMES, thinking=True, temperature=0)
        options: dict[str, Any] = {"model": "tiny-routed", "input": "What is 47 times 86?", "temperature": 0}
        options["reasoning"] = {"effort": "medium"}
        if stream:
            with client.responses.stream(**options) as events:
                kinds = [event.type for event in events]
                made = events.get_final_response()
            assert kinds[0] == "response.created" and kinds[-1] == "response.completed"
            assert "response.reasoning_text.delta" in kinds
        else:
            made = client.responses.create(**options)
        thought, said = made.output
        assert made.output_text == ours.text == said.content[0].text
        assert thought.content[0].text == ours.thinking
        assert made.usage.output_tokens_details.reasoning_tokens == ours.receipt.tokens.thinking
        assert made.trilens["receipt"]["replay"] == ours.receipt.replay

    def test_responses_with_a_tool_and_a_schema(self, client: openai.OpenAI) -> None:
        tool = {"type": "function", **TOOL["function"]}  # type: ignore[dict-item]
        made = client.responses.create(
            model="tiny-dense", input="Hello", tools=[tool], tool_choice="required", temperature=1
        )
        [call] = [item for item in made.output if item.type == "function_call"]
        jsonschema.validate(json.loads(call.arguments), tool["parameters"])
        form = {"type": "json_schema", "name": "x", "schema": {"type": "integer"}}
        made = client.responses.create(
            model="tiny-dense", input="What is 14 plus 25?", text={"format": form}, temperature=0
        )
        assert json.loads(made.output_text) == 39
        cut = client.responses.create(model="tiny-dense", input="Hello", max_output_tokens=1)
        assert cut.status == "incomplete" and cut.incomplete_details.reason == "max_output_tokens"


class TestLeaving:
    def test_a_client_that_goes_away_ends_its_request(self, server: Served, client: openai.OpenAI) -> None:
        schema = {"type": "array", "items": {"type": "integer", "minimum": 100}, "minItems": 400}
        form = {"type": "json_schema", "json_schema": {"name": "x", "schema": schema}}
        options: dict[str, Any] = {"model": "tiny-dense", "messages": ADD, "response_format": form}
        options["extra_body"] = {"thinking": False}
        stream = client.chat.completions.create(stream=True, **options)
        for _, chunk in zip(range(3), stream, strict=False):
            assert chunk.id
        stream.close()
        server.settle()
        with pytest.raises(openai.APITimeoutError):
            client.with_options(timeout=0.05).chat.completions.create(**options)
        server.settle()

    def test_answer_now(self, server: Served, client: openai.OpenAI) -> None:
        """The thinking is held open by a bias against what closes it."""
        tokenizer = trilens.load("tiny-routed").text.tokenizer
        bias = {str(tokenizer.encode(text)[0]): -100 for text in ("</think>", "<|im_end|>")}
        options: dict[str, Any] = {"model": "tiny-routed", "messages": TIMES, "stream": True, "logit_bias": bias}
        stream = client.chat.completions.create(extra_body={"thinking": True}, **options)
        first = next(iter(stream))
        client.post("/trilens/answer_now", body={"id": first.id}, cast_to=object)
        _, _, chunks = streamed(stream)
        assert chunks[-1].trilens["receipt"]["thinking"]["closed_by"] == "caller"
        with pytest.raises(openai.NotFoundError):
            client.post("/trilens/answer_now", body={"id": first.id}, cast_to=object)


def test_a_full_line_is_429_with_a_time() -> None:
    with served(parallel=1, waiting=0) as small:
        client = openai.OpenAI(base_url=f"{small.url}/v1", api_key="none", max_retries=0)
        schema = {"type": "array", "items": {"type": "integer", "minimum": 100}, "minItems": 1000}
        form = {"type": "json_schema", "json_schema": {"name": "x", "schema": schema}}
        options: dict[str, Any] = {"model": "tiny-dense", "messages": ADD, "extra_body": {"thinking": False}}
        stream = client.chat.completions.create(stream=True, response_format=form, **options)  # type: ignore[call-overload]
        next(iter(stream))
        with pytest.raises(openai.RateLimitError) as caught:
            client.chat.completions.create(**options)
        assert int(caught.value.response.headers["retry-after"]) >= 1
        stream.close()
        small.settle()
        assert client.chat.completions.create(**options).choices[0].message.content


def test_a_request_has_its_time() -> None:
    with served(seconds=0.2) as small:
        client = openai.OpenAI(base_url=f"{small.url}/v1", api_key="none", max_retries=0)
        schema = {"type": "array", "items": {"type": "string", "minLength": 50}, "minItems": 400}
        form = {"type": "json_schema", "json_schema": {"name": "x", "schema": schema}}
        with pytest.raises(openai.APIStatusError, match="longer than"):
            client.chat.completions.create(
                model="tiny-dense",
                messages=ADD,  # type: ignore[arg-type]
                response_format=form,  # type: ignore[arg-type]
                extra_body={"thinking": False},
                temperature=2,
            )
        small.settle()
