"""Every shape of response leads to the right events, counts and state, and the state goes back unchanged."""

from __future__ import annotations

import base64
import json
from collections.abc import Callable
from typing import Any

import pytest

import trilens
from tests.hosted import wire
from tests.hosted.fake import FakeServer
from trilens.hosted.model import HostedModel
from trilens.hosted.receipt import HostedReceipt
from trilens.hosted.table import Asked
from trilens.model import fold
from trilens.text.events import EndEvent, TextEvent, ThinkingEvent

pytestmark = [
    pytest.mark.filterwarnings("ignore::DeprecationWarning:trilens.hosted"),
    pytest.mark.filterwarnings("ignore::UserWarning:trilens.hosted"),
]
At = Callable[..., HostedModel]
Serve = Callable[..., FakeServer]
PROMPT = "What is 2 + 2?"
Counts = tuple[int | None, ...]


def counts(receipt: HostedReceipt) -> Counts:
    t = receipt.tokens
    return (t.prompt, t.cached, t.thinking, t.answer, t.control)


def again(model: HostedModel, answer: Any) -> None:
    """The next turn, whose history went through JSON."""
    history = json.loads(json.dumps(answer.message))
    model.generate([{"role": "user", "content": PROMPT}, history, {"role": "user", "content": "Sure?"}])


def test_openai_summaries_counts_and_encrypted_state(serve: Serve, at: At) -> None:
    stream = wire.ResponsesStream().reasoning("Adding two.", "Checking.", encrypted="gAAA+/x=").message("4", "!")
    items = stream.items
    server = serve(stream.end(prompt=20, output=50, thinking=44, cached=12))
    model = at(server, "openai", "gpt-5.1")
    answer = model.generate(PROMPT, thinking="high")
    assert (answer.thinking, answer.text) == ("Adding two.\n\nChecking.", "4!")
    assert counts(answer.receipt) == (20, 12, 44, 6, None)
    assert answer.receipt.tokens.counted_by == "provider"
    assert answer.receipt.tokens.completion == 50
    assert answer.receipt.served_as == "gpt-5.1-2025-11-13"
    again(model, answer)
    assert server.asked[1].body["input"][1:-1] == items  # encrypted content of output_item.done, not of added


def test_openai_thinking_that_nobody_shows_is_counted(serve: Serve, at: At) -> None:
    server = serve(wire.ResponsesStream().reasoning().message("4").end(output=50, thinking=44))
    answer = at(server, "openai", "o3").generate(PROMPT)
    assert (answer.thinking, answer.receipt.thinking.thought) == ("", True)
    assert (answer.receipt.tokens.thinking, answer.receipt.thinking.unasked) == (44, False)


def test_anthropic_thinking_signatures_and_redacted_blocks(serve: Serve, at: At) -> None:
    blocks = [
        wire.thinking_block("Let me add.", "EqQB+/w="),
        wire.redacted_block("EmwK"),
        wire.text_block("It is ", "4."),
    ]
    server = serve(wire.messages(*blocks, prompt=10, cached=5, written=3, output=60, thinking=50))
    model = at(server, "anthropic", "claude-opus-4-6")
    answer = model.generate(PROMPT, thinking=True)
    assert (answer.thinking, answer.text) == ("Let me add.", "It is 4.")
    assert counts(answer.receipt) == (18, 5, 50, 10, None)
    again(model, answer)
    assert server.asked[1].body["messages"][1] == {
        "role": "assistant",
        "content": [
            {"type": "thinking", "thinking": "Let me add.", "signature": "EqQB+/w="},
            {"type": "redacted_thinking", "data": "EmwK"},
            {"type": "text", "text": "It is 4."},
        ],
    }


def test_anthropic_thinking_that_is_left_out_keeps_its_signature(serve: Serve, at: At) -> None:
    server = serve(wire.messages(wire.thinking_block("", "EqQB"), wire.text_block("4"), output=60, thinking=50))
    model = at(server, "anthropic", "claude-opus-5")
    answer = model.generate(PROMPT)
    assert (answer.thinking, answer.receipt.thinking.thought) == ("", True)
    again(model, answer)
    assert server.asked[1].body["messages"][1]["content"][0] == {
        "type": "thinking",
        "thinking": "",
        "signature": "EqQB",
    }


def test_gemini_thoughts_counted_apart_and_signatures(serve: Serve, at: At) -> None:
    signature = base64.b64encode(bytes(range(240, 256)) + b"\xfb\xff?>").decode()
    parts = [{"text": "Adding.", "thought": True}, {"text": "It is "}, {"text": "4.", "thoughtSignature": signature}]
    usage = {"promptTokenCount": 7, "cachedContentTokenCount": 2, "candidatesTokenCount": 3, "thoughtsTokenCount": 40}
    server = serve(wire.gemini(*parts, usage={**usage, "totalTokenCount": 50}))
    model = at(server, "gemini", "gemini-2.5-flash")
    answer = model.generate(PROMPT)
    assert (answer.thinking, answer.text) == ("Adding.", "It is 4.")
    assert counts(answer.receipt) == (7, 2, 40, 3, None)
    assert answer.receipt.tokens.completion == 43
    again(model, answer)
    sent = server.asked[1].body["contents"][1]["parts"]  # not merged, not split
    assert sent[:2] == parts[:2]
    assert base64.urlsafe_b64decode(sent[2].pop("thoughtSignature")) == base64.b64decode(signature)
    assert sent[2] == {"text": "4."}


@pytest.mark.parametrize("field", ["reasoning_content", "reasoning"])
def test_chat_thoughts_under_both_names(serve: Serve, at: At, field: str) -> None:
    deltas = [{field: "Add"}, {field: "ing."}, {"content": "\n\nIt is "}, {"content": "4."}]
    server = serve(wire.chat(*deltas, usage=wire.chat_usage(9, 30, 20, 4)))
    answer = at(server, "vllm", "m").generate(PROMPT, thinking=True)
    assert (answer.thinking, answer.text) == ("Adding.", "It is 4.")
    assert counts(answer.receipt) == (9, 4, 20, 10, None)


def test_chat_thoughts_under_both_names_at_once_are_said_once(serve: Serve, at: At) -> None:
    server = serve(wire.chat({"reasoning_content": "Hm.", "reasoning": "Hm."}, {"content": "4"}))
    assert at(server, "trilens", "m").generate(PROMPT).thinking == "Hm."


def test_chat_details_of_openrouter_go_back_unchanged(serve: Serve, at: At) -> None:
    def text(said: str, **more: Any) -> dict[str, Any]:
        detail = {"type": "reasoning.text", "text": said, "index": 0, **more}
        return {"reasoning": said, "reasoning_details": [detail]}

    hidden = {"type": "reasoning.encrypted", "data": "gAAA", "id": "rs_1", "index": 1}
    server = serve(
        wire.chat(text("Add"), text("ing.", signature="sig"), {"reasoning_details": [hidden]}, {"content": "4"})
    )
    model = at(server, "openrouter", "m")
    answer = model.generate(PROMPT, thinking=True)
    assert (answer.thinking, answer.text) == ("Adding.", "4")
    again(model, answer)
    assert server.asked[1].body["messages"][1]["reasoning_details"] == [
        {"type": "reasoning.text", "text": "Adding.", "index": 0, "signature": "sig"},
        hidden,
    ]


def test_chat_content_that_is_a_list_of_chunks(serve: Serve, at: At) -> None:
    thinking = {"type": "thinking", "thinking": [{"type": "text", "text": "Adding."}]}
    server = serve(
        wire.chat({"content": [thinking]}, {"content": [{"type": "text", "text": "It is "}]}, {"content": "4."})
    )
    answer = at(server, "mistral", "m").generate(PROMPT)
    assert (answer.thinking, answer.text) == ("Adding.", "It is 4.")


def test_chat_thoughts_left_inside_the_answer_are_taken_out(serve: Serve, at: At) -> None:
    server = serve(wire.chat({"content": "<th"}, {"content": "ink>Add"}, {"content": "ing.</think>\n\nIt is 4."}))
    answer = at(server, "any", "m").generate(PROMPT)
    assert (answer.thinking, answer.text) == ("Adding.", "It is 4.")


def test_chat_thoughts_that_the_prompt_opened_are_taken_out_where_that_is_known(serve: Serve, at: At) -> None:
    """An engine without a parser, whose model's template is known here: no open marker comes."""
    server = serve(wire.chat({"content": "Adding.<"}, {"content": "/think>\n\nIt is 4."}))
    asked = Asked(True, "on", {"chat_template_kwargs": {"thinking": True}})
    messages = [{"role": "user", "content": PROMPT}]
    stream = at(server, "vllm", "m").send(messages, asked, limit=9, sampling={}, start="opened", extra={"priority": 1})
    [answer] = fold(stream, 1)
    assert (answer.thinking, answer.text) == ("Adding.", "It is 4.")
    body = server.asked[0].body
    assert (body["max_tokens"], body["priority"], body["chat_template_kwargs"]) == (9, 1, {"thinking": True})


def test_a_budget_that_was_used_up_and_a_stop_string(serve: Serve, at: At) -> None:
    thought = wire.chat({"reasoning": "\nHm."}, {"content": "4"}, usage=wire.chat_usage(9, 9, 5))
    used = at(serve(thought), "vllm", "m").generate(PROMPT, thinking=5)
    assert (used.thinking, used.receipt.thinking.closed_by) == ("Hm.", "budget")
    left = at(serve(thought), "vllm", "m").generate(PROMPT, thinking=6)
    assert left.receipt.thinking.closed_by == "model"
    last = wire.chunk({}, "stop").replace(b'"finish_reason": "stop"', b'"finish_reason": "stop", "stop_reason": "9"')
    stream = at(serve([wire.chunk({"content": "4"}), last, wire.DONE]), "vllm", "m").stream(PROMPT, stop="9")
    end = list(stream)[-1]
    assert isinstance(end, EndEvent)
    assert (end.receipt.finish, end.reason, end.stop) == ("stop_string", "stop_string", "9")


def test_chat_an_answer_that_a_parser_took_for_thoughts(serve: Serve, at: At) -> None:
    """Told off, the template has closed the thinking, and a parser that waits for the marker finds none."""
    server = serve(wire.chat({"reasoning": "It is "}, {"reasoning": "4."}, usage=wire.chat_usage(9, 4, 4)))
    model = at(server, "vllm", "m")
    off = model.generate(PROMPT, thinking=False)
    assert (off.thinking, off.text) == ("", "It is 4.")
    on = model.generate(PROMPT, thinking=True)
    assert (on.thinking, on.text) == ("It is 4.", "")


def test_off_that_was_not_off_is_said_with_what_it_cost(serve: Serve, at: At) -> None:
    server = serve(wire.ResponsesStream().reasoning("Hm.").message("4").end(prompt=20, output=150, thinking=100))
    receipt = at(server, "openai", "gpt-5.1").generate(PROMPT, thinking=False).receipt
    assert receipt.thinking.unasked
    assert receipt.price.total == pytest.approx(20 * 1.25e-6 + 150 * 10e-6)
    assert receipt.price.thinking == pytest.approx(100 * 10e-6)
    assert "the model thought although thinking was off (100 tokens, $0.001000)" in receipt.as_text()
    server = serve(wire.chat({"reasoning": "Hm."}, {"content": "4"}, usage=wire.chat_usage(9, 9, 5)))
    assert at(server, "vllm", "m").generate(PROMPT, thinking=False).receipt.thinking.unasked


@pytest.mark.parametrize("told", [None, 0])
def test_counts_that_a_server_does_not_give_are_ours_or_an_estimate(serve: Serve, at: At, told: int | None) -> None:
    server = serve(wire.chat({"reasoning": "12345678"}, {"content": "12"}, usage=wire.chat_usage(9, 20, told)))
    plain = at(server, "vllm", "m").generate(PROMPT, thinking=True).receipt.tokens
    assert (plain.thinking, plain.answer, plain.counted_by) == (16, 4, "estimate")  # 8 of 10 characters
    ours = at(server, "vllm", "m", tokenizer="tiny-dense").generate(PROMPT, thinking=True).receipt.tokens
    assert (ours.thinking, ours.answer, ours.control, ours.counted_by) == (8, 2, 10, "us")  # a token a character
    assert ours.completion == 20


def test_a_server_that_counts_nothing(serve: Serve, at: At) -> None:
    server = serve(wire.chat({"content": "4"}))
    receipt = at(server, "vllm", "m").generate(PROMPT).receipt
    assert counts(receipt) == (None, None, None, None, None)
    assert receipt.tokens.completion is None
    assert "unknown prompt" in receipt.as_text()
    json.dumps(receipt.as_dict())


def test_thinking_that_a_service_counts_beside_the_output(serve: Serve, at: At) -> None:
    server = serve(wire.chat({"reasoning_content": "Hm."}, {"content": "4"}, usage=wire.chat_usage(9, 5, 20)))
    tokens = at(server, "xai", "grok-4.5").generate(PROMPT).receipt.tokens
    assert (tokens.thinking, tokens.answer, tokens.completion) == (20, 5, 25)


def test_the_receipt_of_another_trilens(serve: Serve, at: At) -> None:
    own = {"tokens": {"prompt": 9, "cached": 1, "thinking": 3, "answer": 2, "control": 4, "completion": 9}}
    last = wire.chunk({}, "stop", trilens={"receipt": own, "text": "..."})
    server = serve([wire.chunk({"content": "4"}), last, wire.chat_usage(9, 9, 3), wire.DONE])
    receipt = at(server, "trilens", "m").generate(PROMPT).receipt
    assert counts(receipt) == (9, 1, 3, 2, 4)
    assert receipt.served == own


@pytest.mark.parametrize(
    ("reply", "service", "model", "finish"),
    [
        (wire.chat({"content": "4"}, finish="length"), "vllm", "m", "length"),
        (wire.messages(wire.text_block("4"), stop="max_tokens"), "anthropic", "claude-opus-4-6", "length"),
        (wire.messages(wire.text_block("4"), stop="stop_sequence"), "anthropic", "claude-opus-4-6", "stop_string"),
        (
            wire.messages(wire.text_block("4"), stop="model_context_window_exceeded"),
            "anthropic",
            "claude-opus-4-6",
            "context",
        ),
        (wire.gemini({"text": "4"}, finish="MAX_TOKENS"), "gemini", "gemini-2.5-pro", "length"),
        (wire.ResponsesStream().message("4").end(reason="max_output_tokens"), "openai", "gpt-5", "length"),
    ],
)
def test_why_it_stopped(serve: Serve, at: At, reply: Any, service: str, model: str, finish: str) -> None:
    answer = at(serve(reply), service, model).generate(PROMPT)
    assert (answer.text, answer.receipt.finish) == ("4", finish)


def test_thinking_that_ate_the_limit(serve: Serve, at: At) -> None:
    server = serve(wire.chat({"reasoning": "Hm, hm"}, finish="length", usage=wire.chat_usage(9, 6, 6)))
    answer = at(server, "vllm", "m").generate(PROMPT, thinking=True)
    assert (answer.text, answer.thinking) == ("", "Hm, hm")
    assert (answer.receipt.finish, answer.receipt.thinking.closed_by) == ("length", "length")


def test_a_whole_answer_is_a_fold_over_the_stream(serve: Serve, at: At) -> None:
    server = serve(wire.messages(wire.thinking_block("Hm, hm.", "s"), wire.text_block("4", "!")))
    model = at(server, "anthropic", "claude-opus-4-6")
    *pieces, end = model.stream(PROMPT)
    assert pieces == [ThinkingEvent("Hm,"), ThinkingEvent(" hm."), TextEvent("4"), TextEvent("!")]
    assert isinstance(end, EndEvent)
    assert end.state == model.generate(PROMPT).state


def test_several_prompts_and_the_public_face(serve: Serve, at: At) -> None:
    def reply(asked: Any) -> Any:
        return wire.chat({"content": "to " + asked.body["messages"][0]["content"]})

    model = at(serve(reply), "vllm", "m")
    assert [a.text for a in model.generate(["one", "two", "three"])] == ["to one", "to two", "to three"]
    assert trilens.call_model(model, "one").text == "to one"
    assert trilens.call_model(model, "one").receipt.thinking.effective == "off"


def test_a_message_that_was_edited_goes_as_it_was_written(serve: Serve, at: At) -> None:
    server = serve(wire.messages(wire.thinking_block("Hm.", "s"), wire.text_block("4")))
    model = at(server, "anthropic", "claude-opus-4-6")
    edited = {**model.generate(PROMPT).message, "content": "5"}
    model.generate([{"role": "user", "content": PROMPT}, edited, {"role": "user", "content": "Sure?"}])
    assert server.asked[1].body["messages"][1] == {"role": "assistant", "content": "5"}


def test_another_services_state_is_left_at_home(serve: Serve, at: At) -> None:
    server = serve(wire.messages(wire.thinking_block("Hm.", "s"), wire.text_block("4")))
    said = at(server, "anthropic", "claude-opus-4-6").generate(PROMPT).message
    elsewhere = serve(wire.chat({"content": "4"}))
    at(elsewhere, "vllm", "m").generate([{"role": "user", "content": PROMPT}, said, {"role": "user", "content": "?"}])
    sent = elsewhere.asked[0].body["messages"][1]
    assert sent == {"role": "assistant", "content": "4", "reasoning": "Hm."}


def test_what_the_catalog_knows_of_a_served_model(serve: Serve, at: At) -> None:
    server = serve(wire.chat({"content": "4"}))
    known = at(server, "vllm", "Qwen/Qwen3-30B-A3B").generate(PROMPT).receipt
    assert known.backbone == "routed"
    assert known.parameters is not None
    assert known.parameters.active < known.parameters.total / 8
    unknown = at(server, "vllm", "my-own").generate(PROMPT).receipt
    assert (unknown.backbone, unknown.parameters, unknown.as_dict()["flops"]) == ("unknown", None, None)
