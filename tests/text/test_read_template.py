"""What a template can do, found by reading it. The templates here are this project's own, written to behave as the
published ones are documented to; real ones are read too where an installed package or $TRILENS_TEMPLATES has them."""

from __future__ import annotations

import importlib.util
import os
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from trilens.errors import BadTemplate
from trilens.spec.catalog import StatedInference, entries
from trilens.text import read_template
from trilens.text.read_template import WRAPPERS, inference_of
from trilens.text.template import ChatTemplate
from trilens.text.thinking import Inference, Markers, completed, start_of, stated_inference

TURNS = "{% for m in messages %}<|{{ m.role }}|>{{ m.content }}\n{% endfor %}"
KEPT = (
    "{% for m in messages %}<|{{ m.role }}|>{% if m.reasoning_content %}OPEN{{ m.reasoning_content }}CLOSE{% endif %}"
    "{{ m.content }}\n{% endfor %}"
)
ASK = "{% if add_generation_prompt %}<|assistant|>{% endif %}"


def kept(open_: str, close: str) -> str:
    return KEPT.replace("OPEN", open_).replace("CLOSE", close)


def closed_if(condition: str, block: str) -> str:
    return "{% if CONDITION %}BLOCK{% endif %}".replace("CONDITION", condition).replace("BLOCK", block)


def one_of(condition: str, yes: str, no: str) -> str:
    return f"{{% if {condition} %}}{yes}{{% else %}}{no}{{% endif %}}"


OFF = "enable_thinking is defined and not enable_thinking"
ON = "enable_thinking is defined and enable_thinking"


@dataclass(frozen=True)
class Expected:
    """`starts`: the settings in order, each with where its output begins."""

    kind: str
    starts: str = ""
    variable: str | None = None
    level_variable: str | None = None
    default: str | None = None
    markers: tuple[str, str] | None = ("<think>", "</think>")


HYBRID = "off:closed on:free"
OPENED = "off:closed on:opened"
THOUGHT, CHANNEL = ("<think>", "</think>"), ("<|channel>thought\n", "<channel|>")

# release -> (a template that behaves so, what is to be read from it)
OURS: dict[str, tuple[str, Expected]] = {
    "Llama 3.3": (TURNS + ASK, Expected("never", markers=None)),
    "Qwen3-Instruct-2507": (TURNS + ASK, Expected("never", markers=None)),
    "Qwen3": (
        kept(*THOUGHT) + ASK + closed_if(OFF, "<think>\n\n</think>\n\n"),
        Expected("switchable", HYBRID, "enable_thinking", default="on"),
    ),
    "Qwen3-Thinking-2507": (TURNS + ASK + "<think>\n", Expected("always", "on:opened", default="on")),
    "QwQ": (kept(*THOUGHT) + ASK + "<think>\n", Expected("always", "on:opened", default="on")),
    "Qwen3.5": (
        kept(*THOUGHT) + ASK + one_of(OFF, "<think>\n\n</think>\n\n", "<think>\n"),
        Expected("switchable", OPENED, "enable_thinking", default="on"),
    ),
    "Qwen3.5 small": (
        kept(*THOUGHT) + ASK + one_of(ON, "<think>\n", "<think>\n\n</think>\n\n"),
        Expected("switchable", OPENED, "enable_thinking", default="off"),
    ),
    "Qwen3.8": (
        "{% set e = reasoning_effort | default('xhigh') %}"
        "{% if not (enable_thinking is defined and not enable_thinking) %}"
        "{% if e not in ['low', 'medium', 'xhigh'] %}{{ raise_exception('no such effort') }}{% endif %}effort {{ e }}\n"
        "{% endif %}" + kept(*THOUGHT) + ASK + one_of(OFF, "<think>\n\n</think>\n\n", "<think>\n"),
        Expected(
            "levels",
            "off:closed low:opened medium:opened xhigh:opened on:opened",
            "enable_thinking",
            "reasoning_effort",
            "xhigh",
        ),
    ),
    "DeepSeek-R1": (kept(*THOUGHT) + ASK + "<think>\n", Expected("always", "on:opened", default="on")),
    "DeepSeek-V3.1": (
        kept(*THOUGHT) + ASK + one_of("thinking is defined and thinking", "<think>", "</think>"),
        Expected("switchable", OPENED, "thinking", default="off"),
    ),
    "gpt-oss": (
        "Reasoning: {{ reasoning_effort | default('medium') }}\n"
        "{% for m in messages %}{% if m.thinking %}<|channel|>analysis<|message|>{{ m.thinking }}<|end|>{% endif %}"
        "<|start|>{{ m.role }}<|message|>{{ m.content }}<|end|>{% endfor %}<|start|>assistant",
        Expected(
            "levels",
            "low:free medium:free high:free",
            None,
            "reasoning_effort",
            "medium",
            ("<|channel|>analysis<|message|>", "<|end|>"),
        ),
    ),
    "GLM-4.6": (
        "{% for m in messages %}<|{{ m.role }}|>{{ m.content }}"
        "{{ '/nothink' if m.role == 'user' and enable_thinking is defined and not enable_thinking }}\n{% endfor %}"
        + ASK
        + closed_if(OFF, "<think></think>"),
        Expected("switchable", HYBRID, "enable_thinking", default="on"),
    ),
    "GLM-4.7": (
        kept(*THOUGHT) + ASK + one_of(OFF, "</think>", "<think>"),
        Expected("switchable", OPENED, "enable_thinking", default="on"),
    ),
    "Kimi-K2-Thinking": (kept(*THOUGHT) + ASK, Expected("unknown")),
    "Qwen3-30B-A3B-Instruct, with thoughts taken out": (
        TURNS.replace("m.content", "m.content.split('</think>')[-1]") + ASK,
        Expected("unknown"),
    ),
    "closed in advance, always": (kept(*THOUGHT) + ASK + "<think>\n\n</think>\n\n", Expected("never", markers=None)),
    "Command A Reasoning, by its switch": (
        kept("<|START_THINKING|>", "<|END_THINKING|>")
        + ASK
        + one_of(
            "reasoning is defined and not reasoning",
            "<|START_THINKING|><|END_THINKING|>",
            "<|START_THINKING|>",
        ),
        Expected("switchable", OPENED, "reasoning", default="on", markers=("<|START_THINKING|>", "<|END_THINKING|>")),
    ),
    "DeepSeek-V4": (
        "{% if thinking and reasoning_effort == 'max' %}Think as much as you can.{% endif %}"
        + kept(*THOUGHT)
        + ASK
        + one_of("thinking", "<think>", "</think>"),
        Expected("levels", "off:closed max:opened on:opened", "thinking", "reasoning_effort", default="off"),
    ),
    "Solar Open": (
        "{% set e = reasoning_effort | default('high') %}{% for m in messages %}<|begin|>{{ m.role }}<|content|>"
        "{{ m.content }}<|end|>{% endfor %}"
        + closed_if("e in ['low', 'minimal']", "<|begin|>assistant<|think|><|end|>")
        + "<|begin|>assistant",
        Expected(
            "switchable",
            "off:closed on:free",
            "reasoning_effort",
            "reasoning_effort",
            default="on",
            markers=("<|think|>", "<|end|>"),
        ),
    ),
    "Apriel 1.5": (
        "Before you answer, think. Then answer so: [BEGIN FINAL RESPONSE] ... [END FINAL RESPONSE]\n" + TURNS + ASK,
        Expected("always", "on:free", None, None, "on", ("Here are my reasoning steps:\n", "[BEGIN FINAL RESPONSE]")),
    ),
    "Kimi K3": (
        "{% set e = thinking_effort | default('max') %}{% if e not in ['low', 'high', 'max'] %}"
        "{{ raise_exception('effort') }}{% endif %}{{ e }}\n"
        + kept("<|open|>think<|sep|>", "<|close|>think<|sep|>")
        + ASK
        + one_of("thinking is defined and not thinking", "<|open|>response<|sep|>", "<|open|>think<|sep|>"),
        Expected(
            "levels",
            "off:closed low:opened high:opened max:opened on:opened",
            "thinking",
            "thinking_effort",
            "max",
            ("<|open|>think<|sep|>", "<|close|>think<|sep|>"),
        ),
    ),
    "MiniMax-M2": (kept(*THOUGHT) + ASK + "<think>\n", Expected("always", "on:opened", default="on")),
    "MiniMax-M3": (
        kept("<mm:think>", "</mm:think>")
        + ASK
        + "{% if thinking_mode == 'enabled' %}<mm:think>{% elif thinking_mode == 'disabled' %}</mm:think>"
        "{% elif thinking_mode == 'adaptive' %}{% endif %}",
        Expected(
            "switchable",
            "off:closed auto:free on:opened",
            "thinking_mode",
            default="auto",
            markers=("<mm:think>", "</mm:think>"),
        ),
    ),
    "SmolLM3": (
        "{% set off = (enable_thinking is defined and not enable_thinking) or "
        "(messages[0].role == 'system' and '/no_think' in messages[0].content) %}"
        + TURNS
        + ASK
        + "{% if off %}<think>\n\n</think>\n{% endif %}",
        Expected("switchable", HYBRID, "enable_thinking", default="on"),
    ),
    "Nemotron Nano v2": (
        "{% set ns = namespace(on=true) %}{% for m in messages %}{% if '/no_think' in m.content %}"
        "{% set ns.on = false %}{% elif '/think' in m.content %}{% set ns.on = true %}{% endif %}"
        "<|{{ m.role }}|>{{ m.content.replace('/no_think', '').replace('/think', '') }}\n{% endfor %}"
        "{% if ns.on %}<think>\n{% else %}<think></think>{% endif %}",
        Expected("switchable", OPENED, default="on"),
    ),
    "Nemotron 3 Super": (
        "{% for m in messages %}<|{{ m.role }}|>{{ m.content }}\n{% endfor %}"
        "{% if low_effort is defined and low_effort %}{reasoning effort: low}\n{% endif %}"
        + ASK
        + one_of(OFF, "<think></think>", "<think>\n"),
        Expected("levels", "off:closed low:opened on:opened", "enable_thinking", "low_effort", "on"),
    ),
    "Ministral 3 Reasoning": (
        "{% if messages[0].role != 'system' %}[SYSTEM_PROMPT]Think first: [THINK]...[/THINK] and then answer as "
        "shortly and clearly as you can.[/SYSTEM_PROMPT]{% endif %}" + TURNS + ASK,
        Expected("switchable", "off:free on:free", default="on", markers=("[THINK]", "[/THINK]")),
    ),
    "Gemma 4": (
        "<|turn>system\n{% if enable_thinking is defined and enable_thinking %}<|think|>{% endif %}"
        + TURNS
        + "<|turn>model\n"
        + "{% if not (enable_thinking is defined and enable_thinking) %}<|channel>thought\n<channel|>{% endif %}",
        Expected("switchable", HYBRID, "enable_thinking", default="off", markers=CHANNEL),
    ),
    "Gemma 4 E4B": (
        "<|turn>system\n{% if enable_thinking is defined and enable_thinking %}<|think|>{% endif %}"
        "{% for m in messages %}{{ m.content.split('<channel|>')[-1] }}{% endfor %}{# <|channel> #}<|turn>model\n",
        Expected("switchable", "off:free on:free", "enable_thinking", default="off", markers=CHANNEL),
    ),
    "Granite 3.3": (
        "{% if thinking %}Write your thoughts between <think></think>.\n{% endif %}" + TURNS + ASK,
        Expected("switchable", "off:free on:free", "thinking", default="off"),
    ),
    "Hy3": (
        "{% set e = reasoning_effort | default('no_think') %}{% if e not in ['no_think', 'low', 'high'] %}"
        "{{ raise_exception('effort') }}{% endif %}{{ e }}\n"
        + TURNS
        + "{% if e == 'no_think' %}<think:v1></think:v1>{% else %}<think:v1>{% endif %}",
        Expected(
            "levels",
            "off:closed low:opened high:opened",
            None,
            "reasoning_effort",
            "off",
            ("<think:v1>", "</think:v1>"),
        ),
    ),
    "Seed-OSS": (
        "{% set b = thinking_budget | default(-1) %}"
        + kept("<seed:think>", "</seed:think>")
        + ASK
        + "{% if b == 0 %}<seed:think></seed:think>{% elif b > 0 %}budget {{ b }}{% endif %}",
        Expected(
            "switchable",
            HYBRID,
            "thinking_budget",
            default="on",
            markers=("<seed:think>", "</seed:think>"),
        ),
    ),
    "Command A Reasoning": (
        TURNS
        + ASK
        + one_of(
            "reasoning_effort is defined and reasoning_effort == 'none'",
            "<|START_THINKING|><|END_THINKING|>",
            "<|START_THINKING|>",
        ),
        Expected(
            "switchable",
            OPENED,
            "reasoning_effort",
            "reasoning_effort",
            "on",
            ("<|START_THINKING|>", "<|END_THINKING|>"),
        ),
    ),
    "Apertus": (
        "Deliberation: {{ 'enabled' if enable_thinking is defined and enable_thinking else 'disabled' }}\n"
        + kept("<|inner_prefix|>", "<|inner_suffix|>")
        + ASK,
        Expected(
            "switchable",
            "off:free on:free",
            "enable_thinking",
            default="off",
            markers=("<|inner_prefix|>", "<|inner_suffix|>"),
        ),
    ),
    "MiniCPM5": (
        kept(*THOUGHT) + ASK + closed_if(ON, "<think>\n") + closed_if(OFF, "<think>\n\n</think>\n"),
        Expected("switchable", "off:closed auto:free on:opened", "enable_thinking", default="auto"),
    ),
    "Ling 3": (
        "detailed thinking {{ 'off' if enable_thinking is defined and not enable_thinking else 'on' }}\n"
        + TURNS
        + ASK
        + one_of(OFF, "\n<think></think>", "\n<think>"),
        Expected("switchable", OPENED, "enable_thinking", default="on"),
    ),
}


def read(source: str) -> Inference:
    return inference_of(ChatTemplate(source))


@pytest.mark.parametrize("release", OURS)
def test_what_a_template_can_do(release: str) -> None:
    source, expected = OURS[release]
    found = read(source)
    assert found.kind == expected.kind
    assert " ".join(f"{s.name}:{s.start}" for s in found.settings) == expected.starts
    assert (found.variable, found.level_variable) == (expected.variable, expected.level_variable)
    # a level and the bare switch may be the same prompt: the first of them is named
    assert found.default == expected.default
    if expected.markers is not None:
        assert found.markers is not None and (found.markers.open, found.markers.close) == expected.markers
    elif expected.kind == "never":
        assert found.markers is None


WRAPPED = "{% if 'OPEN' in c %}{{ c.split('OPEN')[1].split('CLOSE')[0] | trim }}{% else %}{{ c }}{% endif %}"


@pytest.mark.parametrize(("open_", "close"), WRAPPERS)
def test_what_an_answer_is_wrapped_in(open_: str, close: str) -> None:
    """Read where old turns lose it or a prompt names it; not where a template wraps a tool's results in it."""
    body = "{% set c = m.content.split('</think>')[-1] %}" + WRAPPED.replace("OPEN", open_).replace("CLOSE", close)
    taken = "{% for m in messages %}<|{{ m.role }}|>" + body + "{% endfor %}" + ASK + "<think>\n"
    named = f"Write <think>thoughts</think> and {open_}the answer{close}.\n" + TURNS + ASK + "<think>\n"
    results = f"{{% if m.role == 'tool' %}}{open_}{{{{ m.content }}}}{close}{{% endif %}}"
    tools = TURNS.replace("{% endfor %}", results + "{% endfor %}") + ASK + "<think>\n"
    for source, expected in ((taken, (open_, close)), (named, (open_, close)), (tools, (None, None))):
        markers = read(source).markers
        assert markers is not None and (markers.answer, markers.end) == expected


def test_settings_do_what_they_say() -> None:
    """Passing a setting's variables gives the prompt whose start it states."""
    for release, (source, _) in OURS.items():
        template, found = ChatTemplate(source), read(source)
        for setting in found.settings:
            if setting.text is None:
                prompt = template.render([{"role": "user", "content": "Hello"}], **setting.variables)
                assert start_of(prompt, found.markers) == setting.start, (release, setting.name)


def test_text_switches_say_where_the_text_goes() -> None:
    off = read(OURS["Nemotron Nano v2"][0]).setting("off")
    assert off is not None and (off.text, off.text_role) == ("/no_think", "system")


def test_no_template_is_unknown() -> None:
    found = inference_of(None)
    assert (found.kind, found.word, found.can_be_off) == ("unknown", "unknown", None)


def test_a_template_that_fails_is_unknown_and_says_why() -> None:
    found = read("{{ messages[0].content.no_such_method() }}")
    assert found.kind == "unknown" and "cannot be rendered" in found.source


def test_words_and_levels() -> None:
    assert read(OURS["Llama 3.3"][0]).word == "standard"
    assert read(OURS["DeepSeek-R1"][0]).word == "thinking"
    oss = read(OURS["gpt-oss"][0])
    assert (oss.word, oss.levels, oss.can_be_off) == ("levels", ("low", "medium", "high"), False)
    qwen = read(OURS["Qwen3.8"][0])
    assert qwen.levels == ("low", "medium", "xhigh") and qwen.can_be_off
    assert read(OURS["Qwen3.5"][0]).opened_by_prompt == {"off": False, "on": True}


def test_an_effort_that_is_only_printed_is_not_an_off_switch() -> None:
    """gpt-oss's template writes "Reasoning: none" and thinks all the same."""
    assert read(OURS["gpt-oss"][0]).setting("off") is None


class TestFactsBesideTheTemplate:
    fact = Inference("always", markers=Markers("<think>", "</think>"), source="the catalog")

    def test_a_template_that_shows_nothing_yields_to_the_catalog(self) -> None:
        assert completed(read(OURS["Llama 3.3"][0]), self.fact).kind == "always"

    def test_a_template_that_switches_wins(self) -> None:
        assert completed(read(OURS["Qwen3"][0]), self.fact).kind == "switchable"

    def test_markers_in_old_turns_alone_are_no_proof(self) -> None:
        weak = read(OURS["Kimi-K2-Thinking"][0])
        assert not weak.certain
        assert completed(weak, Inference("never", source="the catalog")).kind == "never"
        assert completed(weak, self.fact).certain

    def test_no_template_and_a_fact(self) -> None:
        assert completed(inference_of(None), self.fact).kind == "always"

    def test_no_fact(self) -> None:
        assert completed(inference_of(None), None).kind == "unknown"


# ------------------------------------------------------------------------------- templates of others, if here

REAL = {
    "Qwen-Qwen3-0.6B": "qwen3-0.6b",
    "qwen3": "qwen3-8b",
    "qwen3_instruct_2507": "qwen3-30b-a3b-instruct-2507",
    "qwen3_5_think": "qwen3.5-9b",
    "qwen3_6": "qwen3.6-27b",
    "qwen3_8": "qwen3.8",
    "Qwen3-Coder": "qwen3-coder-30b-a3b-instruct",
    "Qwen3.5-4B": "qwen3.5-27b",
    "deepseek_r1_distill": "deepseek-r1-distill-llama-8b",
    "gptoss": "gpt-oss-120b",
    "openai-gpt-oss-120b": "gpt-oss-120b",
    "glm4moe": "glm-4.5-air",
    "GLM-4.6": "glm-4.5",
    "GLM-4.7-Flash": "glm-4.7-flash",
    "gemma3": "gemma-3-4b-it",
    "gemma4": "gemma-4-e4b-it",
    "gemma4_v2": "gemma-4-e4b-it",
    "gemma4_v5": "gemma-4-e4b-it",
    "google-gemma-4-31B-it": "gemma-4",
    "google-gemma-2-2b-it": "gemma-2",
    "llama3_1": "llama-3.1-8b-instruct",
    "llama3_2": "llama-3.2-1b-instruct",
    "meta-llama-Llama-3.3-70B-Instruct": "llama-3.3-70b-instruct",
    "HuggingFaceTB-SmolLM3-3B": "smollm3-3b",
    "Kimi-K2-Instruct": "kimi-k2-instruct",
    "Kimi-K2-Thinking": "kimi-k2-thinking",
    "Kimi-K3": "kimi-k3",
    "MiniMax-M2": "minimax-m2",
    "MiniMax-M3": "minimax-m3",
    "nemotron_3_nano": "nemotron-3-nano-30b-a3b",
    "nemotron_3_super": "nemotron-3-super-120b-a12b-fp8",
    "nemotron_3_ultra": "nemotron-3-ultra-550b-a55b",
    "mistralai-Ministral-3-14B-Reasoning-2512": "ministral-3-reasoning",
    "mistralai-Mistral-Nemo-Instruct-2407": "mistral-nemo",
    "ibm-granite-granite-3.3-2B-Instruct": "granite-3.2",
    "ByteDance-Seed-OSS": "seed-oss-36b",
    "Apertus-8B-Instruct": "apertus",
    "StepFun3.5-Flash": "step-3.5-flash",
    "phi3": "phi-3",
    "qwen2_5": "qwen2.5",
}


def real_templates() -> Iterator[Path]:
    """Template files of packages that happen to be installed, and of the directory that a developer names."""
    places = [Path(os.environ["TRILENS_TEMPLATES"])] if "TRILENS_TEMPLATES" in os.environ else []
    for package in ("trl", "vllm", "llama_cpp"):
        spec = importlib.util.find_spec(package)
        places += [Path(p) for p in (spec.submodule_search_locations or ())] if spec else []
    for place in places:
        yield from sorted(place.rglob("*.jinja"))


def test_real_templates_agree_with_the_catalog() -> None:
    read_so_far = 0
    for path in real_templates():
        name = REAL.get(path.stem)
        if name is None:
            continue
        stated: StatedInference = entries()[name].inference
        found = read(path.read_text("utf-8"))
        read_so_far += 1
        if not found.certain:  # said as unsure, and the catalog's word counts
            assert found.kind in ("unknown", "never"), path.stem
            found = completed(found, stated_inference(stated))
        assert found.kind == stated.kind, path.stem
        assert stated.variable in (None, found.variable), path.stem
        assert stated.level_variable in (None, found.level_variable), path.stem
        if stated.levels:
            assert found.levels == stated.levels, path.stem
        if stated.kind == "levels":
            assert found.can_be_off == stated.off, path.stem
        if stated.default:
            assert found.default == stated.default, path.stem
        if stated.markers and found.markers:
            assert (found.markers.open, found.markers.close) == stated.markers, path.stem
    if not read_so_far:
        pytest.skip("no package with chat templates is installed; name a directory in TRILENS_TEMPLATES")


def test_a_slow_template_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    """No rendering takes its own two seconds, all of them together would take minutes."""
    monkeypatch.setattr(read_template, "SECONDS", 0.3)
    slow = "{% for i in range(20000) %}{% set x = i in [1] %}{% endfor %}"
    source = KEPT.replace("OPEN", "<think>").replace("CLOSE", "</think>") + ASK + closed_if(OFF, "<think></think>")
    began = time.thread_time()
    with pytest.raises(BadTemplate, match=r"more than 0.3 s of processor time"):
        inference_of(ChatTemplate(slow * 3 + source))
    assert time.thread_time() - began < 5
    assert inference_of(ChatTemplate(source)).kind == "switchable"
