"""Every row of the table leads to exactly the request that its source documents, as it goes over the wire."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import pytest
from anthropic.types.message_create_params import MessageCreateParamsStreaming
from google.genai.types import GenerateContentConfig, ThinkingConfig
from openai.types.responses.response_create_params import ResponseCreateParamsStreaming
from pydantic import TypeAdapter

from tests.hosted import wire
from tests.hosted.fake import FakeServer
from trilens.errors import RequestRefused
from trilens.hosted.model import HostedModel
from trilens.hosted.table import ask, row_for, rows, words

pytestmark = [  # the vendors' own warnings about old models, and models that no price list has
    pytest.mark.filterwarnings("ignore::DeprecationWarning:trilens.hosted"),
    pytest.mark.filterwarnings("ignore::UserWarning:trilens.hosted"),
]
At = Callable[..., HostedModel]
Serve = Callable[..., FakeServer]
PROMPT = "What is 2 + 2?"


def effort(word: str) -> dict[str, Any]:
    return {"reasoning": {"effort": word, "summary": "auto"}}


NONE = {"reasoning": {"effort": "none"}}
AUTO = {"reasoning": {"summary": "auto"}}
# (model, thinking, fields of the body beside those that every request has)
OPENAI: list[tuple[str, Any, dict[str, Any]]] = [
    ("gpt-4.1", None, {}),
    ("gpt-4.1", False, {}),
    ("o1-mini", True, {}),
    ("o3", None, {}),
    ("o3", "high", {"reasoning": {"effort": "high"}}),
    ("o4-mini", True, {"reasoning": {"effort": "medium"}}),
    ("gpt-5", None, AUTO),
    ("gpt-5-mini", "minimal", effort("minimal")),
    ("gpt-5", "off-or-least", effort("minimal")),
    ("gpt-5-pro", True, effort("high")),
    ("gpt-5-pro", None, AUTO),
    ("gpt-5-pro", "high", effort("high")),
    ("gpt-5.1-chat-latest", True, effort("medium")),
    ("gpt-5.1-chat-latest", None, AUTO),
    ("gpt-5.1-chat-latest", "medium", effort("medium")),
    ("gpt-5.2-pro", "max", effort("xhigh")),
    ("gpt-5.2-pro", None, AUTO),
    ("gpt-5.1", None, {}),
    ("gpt-5.1", False, NONE),
    ("gpt-5.1", 0, NONE),
    ("gpt-5.1", True, effort("medium")),
    ("gpt-5.1", "max", effort("high")),
    ("gpt-5.4", "xhigh", effort("xhigh")),
    ("gpt-5.2", False, NONE),
    ("gpt-5.5", False, NONE),
    ("gpt-5.5", None, AUTO),
    ("gpt-5.5", "low", effort("low")),
    ("gpt-5.6", "off-or-least", NONE),
    ("gpt-5.6", False, NONE),
    ("gpt-6-sol", "max", effort("max")),
    ("gpt-6-sol", None, AUTO),
    ("gpt-6-astra", "off-or-least", effort("low")),
    ("gpt-6-astra", "max", effort("max")),
    ("gpt-6-astra", None, AUTO),
]
SHOWN = {"thinking": {"type": "adaptive", "display": "summarized"}}


def level(word: str) -> dict[str, Any]:
    return {**SHOWN, "output_config": {"effort": word}}


def enabled(budget: int) -> dict[str, Any]:
    return {"thinking": {"type": "enabled", "budget_tokens": budget}, "max_tokens": 4096 + budget}


DISABLED = {"thinking": {"type": "disabled"}}
MORE = {"max_tokens": 4096 + 8192}
ANTHROPIC: list[tuple[str, Any, dict[str, Any]]] = [
    ("claude-3-5-haiku-latest", False, {}),
    ("claude-sonnet-4-5", None, {}),
    ("claude-sonnet-4-20250514", False, DISABLED),
    ("claude-3-7-sonnet-20250219", True, enabled(8192)),
    ("claude-haiku-4-5", 1024, enabled(1024)),
    ("claude-opus-4-6", False, DISABLED),
    ("claude-opus-4-6", True, {**SHOWN, **MORE}),
    ("claude-opus-4-6", "max", {**level("max"), **MORE}),
    ("claude-opus-4-6", 2000, enabled(2000)),
    ("claude-sonnet-4-6", "high", {**level("high"), **MORE}),
    ("claude-sonnet-4-6", 4000, enabled(4000)),
    ("claude-sonnet-4-6", True, {**SHOWN, **MORE}),
    ("claude-sonnet-4-6", False, DISABLED),
    ("claude-opus-4-8", False, {}),
    ("claude-opus-4-7", True, {**SHOWN, **MORE}),
    ("claude-opus-4-7", "xhigh", {**level("xhigh"), **MORE}),
    ("claude-opus-5", None, {**SHOWN, **MORE}),
    ("claude-opus-5", False, DISABLED),
    ("claude-haiku-5-5", "low", {**level("low"), **MORE}),
    ("claude-sonnet-5", True, {**SHOWN, **MORE}),
    ("claude-sonnet-5-5", False, {"thinking": {"type": "between_tools"}}),
    ("claude-sonnet-5-5", True, {**SHOWN, **MORE}),
    ("claude-sonnet-5-5", None, {**SHOWN, **MORE}),
    ("claude-sonnet-5-5", "max", {**level("max"), **MORE}),
    ("claude-opus-5-5", "off-or-least", {**level("low"), **MORE}),
    ("claude-fable-5-1", "minimal", {**level("low"), **MORE}),
    ("claude-opus-5-5", True, {**SHOWN, **MORE}),
    ("claude-opus-5-5", None, {**SHOWN, **MORE}),
]


def config(**fields: Any) -> dict[str, Any]:
    ThinkingConfig.model_validate(fields)
    return {"generationConfig": {"thinkingConfig": fields}}


GEMINI: list[tuple[str, Any, dict[str, Any]]] = [
    ("gemini-2.0-flash", False, {}),
    ("gemini-2.5-pro", None, config(includeThoughts=True)),
    ("gemini-2.5-pro", True, config(thinkingBudget=-1, includeThoughts=True)),
    ("gemini-2.5-pro", "off-or-least", config(thinkingBudget=128, includeThoughts=True)),
    ("gemini-2.5-pro", 32768, config(thinkingBudget=32768, includeThoughts=True)),
    ("gemini-2.5-flash", False, config(thinkingBudget=0)),
    ("gemini-2.5-flash", None, config(includeThoughts=True)),
    ("gemini-2.5-flash", 100, config(thinkingBudget=100, includeThoughts=True)),
    ("gemini-2.5-flash", True, config(thinkingBudget=-1, includeThoughts=True)),
    ("gemini-2.5-flash-lite", None, {}),
    ("gemini-2.5-flash-lite", False, config(thinkingBudget=0)),
    ("gemini-2.5-flash-lite", True, config(thinkingBudget=-1, includeThoughts=True)),
    ("gemini-2.5-flash-lite", 512, config(thinkingBudget=512, includeThoughts=True)),
    ("gemini-3-flash", "minimal", config(thinkingLevel="MINIMAL", includeThoughts=True)),
    ("gemini-3-flash", True, config(includeThoughts=True)),
    ("gemini-3-flash", None, config(includeThoughts=True)),
    ("gemini-3-pro", "off-or-least", config(thinkingLevel="LOW", includeThoughts=True)),
    ("gemini-3-pro", None, config(includeThoughts=True)),
    ("gemini-3-pro", "high", config(thinkingLevel="HIGH", includeThoughts=True)),
    ("gemini-3.1-pro-preview", "medium", config(thinkingLevel="MEDIUM", includeThoughts=True)),
    ("gemini-3.1-pro-preview", None, config(includeThoughts=True)),
]


def camel(value: Any) -> Any:
    """Google's library writes inner names with underscores, which the service reads as the documented ones."""
    if not isinstance(value, dict):
        return value
    return {re.sub("_(.)", lambda m: m[1].upper(), k): camel(v) for k, v in value.items()}


ON = {"chat_template_kwargs": {"enable_thinking": True, "thinking": True}}
OFF = {"chat_template_kwargs": {"enable_thinking": False, "thinking": False}}
CHAT: list[tuple[str, str, Any, dict[str, Any]]] = [
    ("openai-chat", "gpt-5.1", False, {"reasoning_effort": "none"}),
    ("openai-chat", "gpt-5.1", "high", {"reasoning_effort": "high"}),
    ("openrouter", "m", False, {"reasoning": {"effort": "none"}}),
    ("openrouter", "m", True, {"reasoning": {"enabled": True}}),
    ("openrouter", "m", "low", {"reasoning": {"effort": "low"}}),
    ("openrouter", "m", 700, {"reasoning": {"max_tokens": 700}}),
    ("deepseek", "deepseek-reasoner", True, {}),
    ("deepseek", "deepseek-chat", False, {"thinking": {"type": "disabled"}}),
    ("deepseek", "deepseek-chat", True, {"thinking": {"type": "enabled"}}),
    ("deepseek", "deepseek-chat", "max", {"thinking": {"type": "enabled"}, "reasoning_effort": "max"}),
    ("qwen", "qwen3-max", False, {"enable_thinking": False}),
    ("qwen", "qwen3-max", True, {"enable_thinking": True}),
    ("qwen", "qwen3-max", 50, {"enable_thinking": True, "thinking_budget": 50}),
    ("zai", "glm-5.3", "off-or-least", {"reasoning_effort": "low"}),
    ("zai", "glm-5.3", "max", {"reasoning_effort": "max"}),
    ("zai", "glm-5", False, {"thinking": {"type": "disabled"}}),
    ("zai", "glm-5", True, {"thinking": {"type": "enabled"}}),
    ("xai", "grok-4.3", False, {"reasoning_effort": "none"}),
    ("xai", "grok-4.3", "low", {"reasoning_effort": "low"}),
    ("xai", "grok-4.5", True, {"reasoning_effort": "high"}),
    ("xai", "grok-4.5", "low", {"reasoning_effort": "low"}),
    ("groq", "openai/gpt-oss-20b", "high", {"reasoning_effort": "high"}),
    ("groq", "qwen/qwen3-32b", None, {"reasoning_format": "parsed"}),
    ("groq", "qwen/qwen3-32b", False, {"reasoning_effort": "none"}),
    ("groq", "qwen/qwen3-32b", True, {"reasoning_effort": "default", "reasoning_format": "parsed"}),
    ("mistral", "mistral-medium-latest", False, {"reasoning_effort": "none"}),
    ("mistral", "mistral-medium-latest", True, {"reasoning_effort": "high"}),
    ("mistral", "mistral-medium-latest", "high", {"reasoning_effort": "high"}),
    ("vllm", "m", None, {}),
    ("vllm", "m", False, OFF),
    ("vllm", "m", True, ON),
    ("vllm", "m", "low", {"reasoning_effort": "low", **ON}),
    ("vllm", "m", 64, {"thinking_token_budget": 64, **ON}),
    ("sglang", "m", False, OFF),
    ("sglang", "m", True, ON),
    ("sglang", "m", "high", {"reasoning_effort": "high", **ON}),
    ("llama.cpp", "m", False, OFF),
    ("llama.cpp", "m", True, ON),
    ("llama.cpp", "m", "high", {"reasoning_effort": "high"}),
    ("llama.cpp", "m", 64, {"reasoning_budget_tokens": 64, **ON}),
    ("ollama", "m", False, {"reasoning_effort": "none"}),
    ("ollama", "m", True, {"reasoning_effort": "medium"}),
    ("ollama", "m", "low", {"reasoning_effort": "low"}),
    ("mlx-lm", "m", False, OFF),
    ("mlx-lm", "m", True, ON),
    ("tensorrt-llm", "m", False, OFF),
    ("tensorrt-llm", "m", True, ON),
    ("lm-studio", "m", "low", {"reasoning_effort": "low"}),
    ("llama-cpp-python", "m", None, {}),
    ("trilens", "m", False, {"thinking": False}),
    ("trilens", "m", True, {"thinking": True}),
    ("trilens", "m", "low", {"thinking": "low"}),
    ("trilens", "m", 64, {"thinking": 64}),
    ("any", "m", False, OFF),
    ("any", "m", True, ON),
]


@pytest.mark.parametrize(("model", "thinking", "fields"), OPENAI)
def test_openai(serve: Serve, at: At, model: str, thinking: Any, fields: dict[str, Any]) -> None:
    server = serve(wire.ResponsesStream().message("4").end())
    at(server, "openai", model).generate(PROMPT, thinking=thinking)
    [asked] = server.asked
    items = [{"role": "user", "content": PROMPT}]
    base: dict[str, Any] = {"model": model, "input": items, "stream": True, "store": False}
    if model != "gpt-4.1":
        base["include"] = ["reasoning.encrypted_content"]
    assert asked.path == "/v1/responses"
    assert asked.body == base | fields
    TypeAdapter(ResponseCreateParamsStreaming).validate_python(asked.body)
    assert set(asked.body) <= set(ResponseCreateParamsStreaming.__annotations__) | {*base, *fields}


@pytest.mark.parametrize(("model", "thinking", "fields"), ANTHROPIC)
def test_anthropic(serve: Serve, at: At, model: str, thinking: Any, fields: dict[str, Any]) -> None:
    server = serve(wire.messages(wire.text_block("4")))
    at(server, "anthropic", model).generate(PROMPT, thinking=thinking)
    [asked] = server.asked
    turns = [{"role": "user", "content": PROMPT}]
    assert asked.path == "/v1/messages"
    assert asked.body == {"model": model, "messages": turns, "stream": True, "max_tokens": 4096} | fields
    TypeAdapter(MessageCreateParamsStreaming).validate_python(asked.body)


@pytest.mark.parametrize(("model", "thinking", "fields"), GEMINI)
def test_gemini(serve: Serve, at: At, model: str, thinking: Any, fields: dict[str, Any]) -> None:
    server = serve(wire.gemini({"text": "4"}))
    at(server, "gemini", model).generate(PROMPT, thinking=thinking)
    [asked] = server.asked
    contents = [{"role": "user", "parts": [{"text": PROMPT}]}]
    assert asked.path == f"/v1/models/{model}:streamGenerateContent?alt=sse"
    assert {k: camel(v) for k, v in asked.body.items() if v != {}} == {"contents": contents} | fields
    GenerateContentConfig.model_validate(asked.body.get("generationConfig", {}))


@pytest.mark.parametrize(("service", "model", "thinking", "fields"), CHAT)
def test_chat(serve: Serve, at: At, service: str, model: str, thinking: Any, fields: dict[str, Any]) -> None:
    server = serve(wire.chat({"content": "4"}))
    at(server, service, model).generate(PROMPT, thinking=thinking)
    [asked] = server.asked
    turns = [{"role": "user", "content": PROMPT}]
    stream = {"stream": True, "stream_options": {"include_usage": True}}
    assert asked.path == "/v1/chat/completions"
    assert asked.body == {"model": model, "messages": turns, **stream} | fields


def test_nothing_of_the_table_is_left_out() -> None:
    """Each thing that each row can ask for is in one of the lists above."""
    cases = [(s, m, t) for s, m, t, _ in CHAT]
    for service, those in (("openai", OPENAI), ("anthropic", ANTHROPIC), ("gemini", GEMINI)):
        cases += [(service, m, t) for m, t, _ in those]
    tried = {(row_for(s, m), kind(t)) for s, m, t in cases}
    for row in rows():
        able = {
            "untouched": bool(row.untouched),
            "off": row.off is not None,
            "on": row.on is not None,
            "budget": row.budget is not None,
            "level": bool(row.levels),
        }
        missing = [what for what, can in able.items() if can and (row, what) not in tried]
        assert not missing, (row.service, row.models, missing)


def kind(thinking: Any) -> str:
    if isinstance(thinking, bool):
        return "on" if thinking else "off"
    if isinstance(thinking, int):
        return "budget" if thinking else "off"
    return {None: "untouched", "off-or-least": "least"}.get(thinking, "level")


@pytest.mark.parametrize(
    ("service", "model", "thinking", "says"),
    [
        ("openai", "gpt-5", False, "'minimal'"),
        ("openai", "gpt-5.1", "xhigh", "the nearest is thinking='high'"),
        ("openai", "gpt-5.1", 100, "expected False, True, 'low'"),
        ("openai", "gpt-4.1", True, "expected False"),
        ("openai", "gpt-77", True, "no row for gpt-77"),
        ("anthropic", "claude-opus-5-5", False, "expected True, 'low'"),
        ("anthropic", "claude-sonnet-4-5", "high", "a number of tokens from 1024"),
        ("anthropic", "claude-sonnet-4-5", 100, "the nearest is 1024"),
        ("gemini", "gemini-2.5-pro", 0, "a number of tokens from 128 to 32768"),
        ("gemini", "gemini-2.5-pro", 99999, "the nearest is 32768"),
        ("gemini", "gemini-3-pro", "medium", "the nearest is thinking='low'"),
        ("llama-cpp-python", "m", False, "no field for it"),
        ("vllm", "m", -1, "a number of tokens from 0"),
        ("vllm", "m", "lots", "expected True, False, minimal"),
    ],
)
def test_what_cannot_be_asked_for_is_refused_with_the_nearest(
    service: str, model: str, thinking: Any, says: str
) -> None:
    with pytest.raises(RequestRefused) as refused:
        ask(row_for(service, model), model, thinking)
    assert says in str(refused.value)


def test_every_row_has_a_source_and_says_what_can_be_asked() -> None:
    for row in rows():
        assert row.source.startswith("https://") or row.service == "trilens"
        assert words(row) or row.service == "llama-cpp-python"


@pytest.mark.parametrize(
    ("service", "model", "thinking", "options", "says"),
    [
        ("anthropic", "claude-opus-5-5", None, {"temperature": 0.5}, "takes no temperature; leave it out"),
        ("anthropic", "claude-sonnet-4-5", True, {"top_k": 5}, "takes no top_k while it thinks"),
        ("openai", "gpt-5.1", False, {"seed": 5}, "takes no seed; it takes temperature, top_p"),
        ("openai", "gpt-5.1", False, {"stop": "x"}, "takes no stop strings"),
        ("vllm", "m", None, {"raw": True}, "not a raw prompt"),
        ("vllm", "m", None, {"max_tokens": 0}, "expected at least 1"),
    ],
)
def test_options_that_are_not_taken_are_refused_before_anything_is_sent(
    serve: Serve, at: At, service: str, model: str, thinking: Any, options: dict[str, Any], says: str
) -> None:
    server = serve([])
    with pytest.raises(RequestRefused) as refused:
        at(server, service, model).stream(PROMPT, thinking=thinking, **options)
    assert says in str(refused.value)
    assert not server.asked


def test_sampling_limits_and_stops_go_where_each_service_has_them(serve: Serve, at: At) -> None:
    options: dict[str, Any] = {"temperature": 0.5, "top_p": 0.9, "max_tokens": 50}
    server = serve(wire.chat({"content": "4"}))
    at(server, "vllm", "m").generate(PROMPT, top_k=4, seed=7, stop=["a", "b"], **options)
    assert server.asked[0].body.items() >= {**options, "top_k": 4, "seed": 7, "stop": ["a", "b"]}.items()
    at(server, "openai-chat", "gpt-4.1").generate(PROMPT, max_tokens=50)
    assert server.asked[1].body["max_completion_tokens"] == 50
    assert "max_tokens" not in server.asked[1].body

    server = serve(wire.messages(wire.text_block("4")))
    at(server, "anthropic", "claude-sonnet-4-5").generate(PROMPT, top_k=4, stop="a", **options)
    assert server.asked[0].body.items() >= {**options, "top_k": 4, "stop_sequences": ["a"]}.items()

    server = serve(wire.gemini({"text": "4"}))
    at(server, "gemini", "gemini-2.5-flash").generate(PROMPT, thinking=False, seed=7, stop="a", **options)
    sent = server.asked[0].body["generationConfig"]
    assert sent.items() >= {"temperature": 0.5, "topP": 0.9, "maxOutputTokens": 50, "seed": 7}.items()
    assert sent["stopSequences"] == ["a"]

    server = serve(wire.ResponsesStream().message("4").end())
    at(server, "openai", "gpt-5.1").generate(PROMPT, thinking=False, **options)
    assert server.asked[0].body.items() >= {"temperature": 0.5, "top_p": 0.9, "max_output_tokens": 50}.items()


def test_a_limit_of_the_answer_leaves_room_for_the_thinking(serve: Serve, at: At) -> None:
    server = serve(wire.chat({"content": "4"}), models=[{"id": "m", "owned_by": "vllm", "max_model_len": 2048}])
    at(server, "vllm", "m").generate(PROMPT, thinking=100, max_tokens=50)
    at(server, "vllm", "m").generate(PROMPT, thinking=True, max_tokens=50)
    at(server, "vllm", "m").generate(PROMPT, thinking=False, max_tokens=50)
    at(server, None, None).generate(PROMPT, thinking=True, max_tokens=50)  # asks the server for its context
    assert [a.body["max_tokens"] for a in server.asked] == [150, 50 + 8192, 50, 50 + 1024]


def test_a_system_message_goes_where_each_service_has_it(serve: Serve, at: At) -> None:
    talk = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": PROMPT}]
    server = serve(wire.messages(wire.text_block("4")))
    at(server, "anthropic", "claude-sonnet-4-5").generate(talk)
    assert (server.asked[0].body["system"], len(server.asked[0].body["messages"])) == ("Be brief.", 1)
    server = serve(wire.gemini({"text": "4"}))
    at(server, "gemini", "gemini-2.0-flash").generate(talk)
    assert server.asked[0].body["systemInstruction"]["parts"] == [{"text": "Be brief."}]
    server = serve(wire.ResponsesStream().message("4").end())
    at(server, "openai", "gpt-4.1").generate(talk)
    assert server.asked[0].body["input"] == talk
    server = serve(wire.chat({"content": "4"}))
    at(server, "vllm", "m").generate(talk)
    assert server.asked[0].body["messages"] == talk
