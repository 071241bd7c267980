"""The official Anthropic client against the real server."""

from __future__ import annotations

import random
from collections.abc import Iterator
from typing import Any

import anthropic
import jsonschema
import pytest

import trilens
from tests.serve.conftest import Served
from tests.serve.test_openai import schema_of

ADD: list[Any] = [{"role": "user", "content": "What is 12 plus 30?"}]
TIMES: list[Any] = [{"role": "user", "content": "What is 47 times 86?"}]
COLD = {"temperature": 0}  # a field that this client has no word for any more
TOOL: dict[str, Any] = {
    "name": "weather",
    "description": "The weather somewhere.",
    "input_schema": {
        "type": "object",
        "properties": {"city": {"type": "string", "maxLength": 10}},
        "required": ["city"],
        "additionalProperties": False,
    },
}


@pytest.fixture(scope="module")
def client(server: Served) -> Iterator[anthropic.Anthropic]:
    with anthropic.Anthropic(base_url=server.url, api_key="none", max_retries=0) as made:
        yield made


@pytest.mark.parametrize("model", ["tiny-dense", "tiny-routed"])
@pytest.mark.parametrize("stream", [False, True])
def test_thinking_on(client: anthropic.Anthropic, model: str, stream: bool) -> None:
    ours = trilens.load(model).generate(TIMES, thinking=500, temperature=0)
    options: dict[str, Any] = {"model": model, "messages": TIMES, "max_tokens": 900, "extra_body": COLD}
    options["thinking"] = {"type": "enabled", "budget_tokens": 500}
    if stream:
        with client.messages.stream(**options) as events:
            kinds = [event.type for event in events]
            message = events.get_final_message()
        assert kinds[0] == "message_start" and kinds[-1] == "message_stop" and "thinking" in kinds
    else:
        message = client.messages.create(**options)
    thought, said = message.content
    assert (thought.thinking, said.text) == (ours.thinking, ours.text)  # type: ignore[union-attr]
    assert message.stop_reason == "end_turn" and message.usage.output_tokens == ours.receipt.tokens.completion
    if not stream:
        assert message.trilens["receipt"]["replay"] == ours.receipt.replay  # type: ignore[attr-defined]


@pytest.mark.parametrize("stream", [False, True])
def test_thinking_off(client: anthropic.Anthropic, stream: bool) -> None:
    options: dict[str, Any] = {"model": "tiny-routed", "messages": ADD, "max_tokens": 50}
    options["thinking"] = {"type": "disabled"}
    if stream:
        with client.messages.stream(**options) as events:
            message = events.get_final_message()
    else:
        message = client.messages.create(**options)
    assert [block.type for block in message.content] == ["text"]


def test_a_budget(client: anthropic.Anthropic) -> None:
    message = client.messages.create(
        model="tiny-routed",
        messages=TIMES,
        max_tokens=900,
        extra_body=COLD,
        thinking={"type": "enabled", "budget_tokens": 6},
    )
    assert message.trilens["receipt"]["thinking"]["closed_by"] == "budget"  # type: ignore[attr-defined]


@pytest.mark.parametrize("stream", [False, True])
def test_a_forced_tool_and_its_result(client: anthropic.Anthropic, stream: bool) -> None:
    options: dict[str, Any] = {"model": "tiny-dense", "messages": ADD, "max_tokens": 900, "tools": [TOOL]}
    options |= {"tool_choice": {"type": "tool", "name": "weather"}}
    if stream:
        with client.messages.stream(**options) as events:
            message = events.get_final_message()
    else:
        message = client.messages.create(**options)
    assert message.stop_reason == "tool_use"
    [call] = [block for block in message.content if block.type == "tool_use"]
    jsonschema.validate(call.input, TOOL["input_schema"])
    result = {"type": "tool_result", "tool_use_id": call.id, "content": "rain"}
    turns = [*ADD, {"role": "assistant", "content": message.content}, {"role": "user", "content": [result]}]
    again = client.messages.create(**{**options, "messages": turns, "tool_choice": {"type": "none"}})
    assert again.stop_reason in ("end_turn", "max_tokens")


def test_random_schemas(client: anthropic.Anthropic) -> None:
    for seed in range(12):
        schema = {"type": "object", "properties": {"x": schema_of(random.Random(seed))}, "required": ["x"]}
        schema["additionalProperties"] = False
        message = client.messages.create(
            model="tiny-dense",
            messages=ADD,
            max_tokens=1500,
            thinking={"type": "disabled"},
            tools=[{"name": "f", "input_schema": schema}],  # type: ignore[list-item]
            tool_choice={"type": "any"},
        )
        [call] = [block for block in message.content if block.type == "tool_use"]
        jsonschema.validate(call.input, schema)


def test_stops_lengths_and_counts(client: anthropic.Anthropic) -> None:
    options: dict[str, Any] = {"model": "tiny-dense", "messages": ADD, "extra_body": COLD}
    options["thinking"] = {"type": "enabled", "budget_tokens": 200}
    stopped = client.messages.create(max_tokens=300, stop_sequences=["zz", "2"], **options)
    assert stopped.stop_reason == "stop_sequence" and stopped.stop_sequence == "2"
    cut = client.messages.create(max_tokens=4, **options)
    assert cut.stop_reason == "max_tokens" and cut.usage.output_tokens == 4
    counted = client.messages.count_tokens(model="tiny-dense", messages=ADD, thinking=options["thinking"])
    assert counted.input_tokens == cut.usage.input_tokens + (cut.usage.cache_read_input_tokens or 0) == 18


def test_a_system_text_and_parts(client: anthropic.Anthropic) -> None:
    parts = [{"type": "text", "text": "What is"}, {"type": "text", "text": "12 plus 30?"}]
    message = client.messages.create(
        model="tiny-dense",
        system=[{"type": "text", "text": "Answer in digits."}],
        messages=[{"role": "user", "content": parts}],  # type: ignore[typeddict-item]
        max_tokens=300,
    )
    assert message.usage.input_tokens > 18


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"extra_body": {"frobnicate": 1}}, "frobnicate is unknown"),
        ({"thinking": {"type": "sometimes"}}, "thinking.type"),
        ({"messages": [{"role": "user", "content": [{"type": "image", "source": {}}]}]}, "not supported"),
        ({"tool_choice": {"type": "any"}}, "no tools"),
        ({"max_tokens": 0}, "max_tokens"),
    ],
)
def test_what_is_wrong_is_said(client: anthropic.Anthropic, options: dict[str, Any], said: str) -> None:
    with pytest.raises(anthropic.BadRequestError) as caught:
        client.messages.create(**{"model": "tiny-dense", "messages": ADD, "max_tokens": 10, **options})
    body: Any = caught.value.body
    assert body["type"] == "error" and body["error"]["type"] == "invalid_request_error"
    assert said in body["error"]["message"]


def test_a_client_that_goes_away(server: Served, client: anthropic.Anthropic) -> None:
    stream = client.messages.create(
        model="tiny-routed", messages=TIMES, max_tokens=1500, stream=True, stop_sequences=["never"]
    )
    for _, event in zip(range(3), stream, strict=False):
        assert event.type
    stream.close()
    server.settle()
