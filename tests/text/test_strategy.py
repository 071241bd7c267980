"""One switch that means the same for every model, and says before any work what one cannot do."""

from __future__ import annotations

from typing import Any

import pytest

from tests.text.test_read_template import OURS
from trilens.errors import RequestRefused
from trilens.text.conversation import read_conversation
from trilens.text.read_template import inference_of
from trilens.text.strategy import as_thinking, check_start, choose, render_with
from trilens.text.template import ChatTemplate
from trilens.text.thinking import Inference

ASK = [{"role": "user", "content": "Hello"}]


def inference(release: str) -> Inference:
    return inference_of(ChatTemplate(OURS[release][0]))


def prompt(release: str, thinking: Any, messages: Any = ASK, **variables: Any) -> str:
    found = inference(release)
    strategy = choose(found, thinking)
    rendered, given = render_with(strategy, found, read_conversation(messages), variables)
    text = ChatTemplate(OURS[release][0]).render(rendered, **given)
    check_start(strategy, found, text)
    return text


@pytest.mark.parametrize(
    ("release", "thinking", "effective"),
    [
        ("Qwen3", None, "on"),
        ("Qwen3", False, "off"),
        ("Qwen3", True, "on"),
        ("Qwen3", 512, "on"),
        ("Qwen3", 0, "off"),
        ("Qwen3", "off-or-least", "off"),
        ("Qwen3.5 small", None, "off"),
        ("Qwen3.8", True, "xhigh"),
        ("Qwen3.8", "max", "xhigh"),
        ("Qwen3.8", "minimal", "low"),
        ("Qwen3.8", "medium", "medium"),
        ("Qwen3.8", False, "off"),
        ("gpt-oss", None, "medium"),
        ("gpt-oss", True, "medium"),
        ("gpt-oss", "off-or-least", "low"),
        ("gpt-oss", 0, "medium"),
        ("DeepSeek-R1", None, "on"),
        ("DeepSeek-R1", True, "on"),
        ("DeepSeek-R1", "off-or-least", "on"),
        ("MiniCPM5", None, "auto"),
        ("Kimi-K2-Thinking", None, "unknown"),
        ("Kimi-K2-Thinking", False, "unknown"),
        ("Kimi-K2-Thinking", True, "unknown"),
        ("Kimi-K2-Thinking", 64, "unknown"),
        ("Kimi-K2-Thinking", "off-or-least", "unknown"),
        ("Llama 3.3", None, "off"),
        ("Llama 3.3", False, "off"),
        ("Llama 3.3", 0, "off"),
        ("Llama 3.3", "off-or-least", "off"),
    ],
)
def test_what_is_chosen(release: str, thinking: Any, effective: str) -> None:
    chosen = choose(inference(release), thinking)
    assert (chosen.requested, chosen.effective) == (thinking, effective)
    assert chosen.budget == (thinking if type(thinking) is int and effective != "off" else None)


@pytest.mark.parametrize(
    ("release", "thinking", "says"),
    [
        ("DeepSeek-R1", False, "always thinks: thinking=False is not possible; the nearest is a budget, as thinking=0"),
        ("gpt-oss", False, "always thinks: thinking=False is not possible; the nearest is 'low'"),
        ("gpt-oss", "xhigh", "no level 'xhigh'; it has low, medium, high; the nearest is thinking='high'"),
        ("Qwen3.8", "high", "no level 'high'; it has low, medium, xhigh; the nearest is thinking='medium'"),
        ("Qwen3", "high", "no levels of thinking: thinking='high' is not possible; expected True, False or a number"),
        ("DeepSeek-R1", "low", "no levels of thinking: thinking='low' is not possible; expected True or a number"),
        ("Llama 3.3", True, "is not known to think: thinking=True is not possible; leave it out"),
        ("Llama 3.3", 64, "is not known to think: thinking=64 is not possible"),
        ("Qwen3", "zebra", "thinking is 'zebra'; expected True, False, minimal"),
        ("Qwen3", -3, "thinking is -3; expected a number of tokens from 0"),
        ("Qwen3", 1.5, "thinking is 1.5; expected True, False"),
    ],
)
def test_what_cannot_be_done_is_said(release: str, thinking: Any, says: str) -> None:
    with pytest.raises(RequestRefused) as refused:
        choose(inference(release), thinking)
    assert says in str(refused.value) and "\n" not in str(refused.value)


def test_every_setting_of_every_release_leaves_the_prompt_where_it_says() -> None:
    for release in OURS:
        found = inference(release)
        for setting in found.settings:
            word = {"on": True, "off": False, "auto": None}.get(setting.name, setting.name)
            prompt(release, word)


def test_a_contradiction_is_refused() -> None:
    with pytest.raises(RequestRefused, match="sets enable_thinking=False and template_variables says True"):
        prompt("Qwen3", False, enable_thinking=True)
    assert "<think>" not in prompt("Qwen3", None, enable_thinking=True)
    assert prompt("Qwen3", None, enable_thinking=False).endswith("</think>\n\n")


def test_a_word_in_a_message_that_switches_against_the_request_is_refused() -> None:
    off = [{"role": "user", "content": "What does /no_think do?"}]
    with pytest.raises(RequestRefused, match="the conversation itself switches the thinking"):
        prompt("Nemotron Nano v2", True, off)


def test_text_switches_join_the_callers_own_system_message() -> None:
    found = inference("Nemotron Nano v2")
    own = read_conversation([{"role": "system", "content": "Be kind."}, *ASK])
    messages, _ = render_with(choose(found, False), found, own, {})
    assert [message.text for message in messages] == ["/no_think\n\nBe kind.", "Hello"]
    parts = [{"type": "text", "text": "Be kind."}, {"type": "text", "text": "Be short."}]
    own = read_conversation([{"role": "system", "content": parts}, *ASK])
    messages, _ = render_with(choose(found, False), found, own, {})
    assert messages[0].texts == ["/no_think\n\nBe kind.", "Be short."]


def test_a_budget_is_also_told_to_a_template_that_takes_one() -> None:
    release = next(r for r in OURS if inference(r).budget_variable)
    found = inference(release)
    _, given = render_with(choose(found, 300), found, read_conversation(ASK), {})
    assert given[found.budget_variable or ""] == 300


def test_the_command_lines_words() -> None:
    words = {"on": True, "off": False, "512": 512, "low": "low", "off-or-least": "off-or-least", "auto": None}
    assert {word: as_thinking(word) for word in words} == words
    assert as_thinking(None) is None
