"""Chat templates of real releases: conversations are rendered as transformers renders them, and what a template says
about thinking is read right.

The templates come out of packages' sources at test time (see `templates_of_packages`); none of them is kept here.
"""

from __future__ import annotations

import json
import os
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from tests.text.templates_of_packages import VARIABLE, templates
from trilens.errors import BadTemplate, RequestRefused
from trilens.text.read_template import inference_of
from trilens.text.template import ChatTemplate

pytestmark = pytest.mark.corpus

TOKENS = {"bos_token": "<BOS>", "eos_token": "<EOS>"}
KEY, VALUE = "zqcity", "Zqparis, the city"
SCHEMA = {"type": "object", "properties": {KEY: {"type": "string", "description": "Which."}}, "required": [KEY]}
TOOLS = [{"type": "function", "function": {"name": "zq_look", "description": "Looks.", "parameters": SCHEMA}}]
USER, MORE = {"role": "user", "content": "Hello there"}, {"role": "user", "content": "And now?"}
SYSTEM, SAID = {"role": "system", "content": "Be kind."}, {"role": "assistant", "content": "Gladly."}
THOUGHT = {**SAID, **dict.fromkeys(("thinking", "reasoning_content", "reasoning"), "I wonder.")}
RESULT = {"role": "tool", "content": "Result 7", "tool_call_id": "zqcall001", "name": "zq_look"}

# what is said -> (messages, options); the same is given to both
PLAIN: dict[str, tuple[list[dict[str, Any]], dict[str, Any]]] = {
    "a question": ([USER], {}),
    "no prompt for an answer": ([USER, SAID], {"add_generation_prompt": False}),
    "a system message": ([SYSTEM, USER], {}),
    "turns": ([USER, SAID, MORE], {}),
    "turns under a system message": ([SYSTEM, USER, SAID, MORE], {}),
    "a thought": ([USER, THOUGHT, MORE], {}),
    "thinking off": ([USER], {"enable_thinking": False, "thinking": False}),
    "thinking on": ([USER], {"enable_thinking": True, "thinking": True}),
    "tools": ([USER], {"tools": TOOLS}),
}


# Where we mean to differ (docs/tools.md): `| safe` makes no HTML here; thoughts go in as the parts that this template
# reads; a test's template of vLLM shows the first part of a list alone, so that its users' texts stay texts here.
DOCUMENTED = {
    "meetkai-functionary-medium-v3.1.jinja",
    "mistralai-Ministral-3-14B-Reasoning-2512.jinja: a thought",
    "test_prompt_embeds.py",
}


@cache
def corpus() -> dict[str, str]:
    if VARIABLE not in os.environ:
        pytest.skip(f"{VARIABLE} names no directory of templates; see tests/text/templates_of_packages.py")
    return templates(Path(os.environ[VARIABLE]))


@cache
def compiled(source: str) -> ChatTemplate | None:
    try:
        return ChatTemplate(source, **TOKENS)
    except BadTemplate:
        return None


def ours(source: str, messages: Any, **options: Any) -> str | None:
    template = compiled(source)
    try:
        return None if template is None else template.render(messages, **options)
    except (BadTemplate, RequestRefused):
        return None


def theirs(source: str, messages: Any, **options: Any) -> str | None:
    from transformers.utils.chat_template_utils import render_jinja_template

    given = {"add_generation_prompt": True, "tools": None, **TOKENS, **options}
    try:
        rendered, _ = render_jinja_template(conversations=[messages], chat_template=source, **given)
    except Exception:  # whatever a template does
        return None
    return str(rendered[0])


def _heard(prompt: str | None, messages: list[dict[str, Any]]) -> bool:
    """Whether all that the user said is in the prompt."""
    return prompt is not None and all(m["content"] in prompt for m in messages if m["role"] == "user")


def _documented(different: str) -> bool:
    name = different.rpartition("/")[2]
    return name in DOCUMENTED or name.partition(":")[0] in DOCUMENTED


def listed(messages: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [{**m, "content": [{"type": "text", "text": m["content"]}]} for m in messages]


def test_plain_conversations_are_rendered_as_transformers_renders_them() -> None:
    """But where it leaves out what the user said, because the template reads contents as lists only."""
    checked, different = 0, []
    for label, source in corpus().items():
        for name, (messages, options) in PLAIN.items():
            reference = theirs(source, messages, **options)
            if not _heard(reference, messages):
                reference = theirs(source, listed(messages), **options)
            if not _heard(reference, messages):
                continue  # not a model's template: a part of one, or a test's
            checked += 1
            if ours(source, messages, **options) != reference:
                different.append(f"{label}: {name}")
    different = [one for one in different if not _documented(one)]
    print(f"{checked} conversations, {len(different)} differ", *different, sep="\n")
    assert checked > 300 * 5 and len(different) < 0.005 * checked


def forms(content: str) -> list[list[dict[str, Any]]]:
    """A turn with a call in every form that some template reads."""
    made = []
    for arguments in ({KEY: VALUE}, json.dumps({KEY: VALUE})):
        for said in (content,) if content else ("", None, ...):
            function = {"name": "zq_look", "arguments": arguments}
            call = {"role": "assistant", "tool_calls": [{"id": "zqcall001", "type": "function", "function": function}]}
            made.append([USER, call if said is ... else {**call, "content": said}, RESULT])
    return made


def shows(prompt: str | None) -> bool:
    """The call with its arguments, neither as Python writes them nor as JSON in JSON, and the result."""
    return (
        prompt is not None
        and all(part in prompt for part in (KEY, VALUE, "Result 7"))
        and not any(part in prompt for part in (f"'{KEY}'", f'\\"{KEY}', "None"))
    )


@pytest.mark.parametrize("content", ["", "I will look."])
def test_histories_with_calls_are_rendered_as_transformers_renders_them(content: str) -> None:
    """Arguments as an object and as JSON give the same prompt, and it is one that transformers gives for some form of
    them that shows the call as it should."""
    checked, different = 0, []
    for label, source in corpus().items():
        tried = forms(content)
        right = {prompt for form in tried if shows(prompt := theirs(source, form, tools=TOOLS))}
        if not right and content:
            right = {prompt for form in tried if shows(prompt := theirs(source, listed(form), tools=TOOLS))}
        if not right:
            continue
        checked += 1
        mapping, *_, text = (form for form in forms(content) if form[1].get("content", ...) == content)
        prompts = {ours(source, form, tools=TOOLS) for form in (mapping, text)}
        if len(prompts) > 1 or not prompts & right:
            different.append(label)
    different = [one for one in different if not _documented(one)]
    print(f"{checked} templates, {len(different)} differ", *different, sep="\n")
    assert checked > 150 and len(different) <= 0.005 * checked


# release -> what is read from its template, by hand: the kind, the untouched setting, whether it can be off, the levels
NEVER, ALWAYS, UNKNOWN = "never off yes", "always on no", "unknown None None"
ON, OFF, AUTO = "switchable on yes", "switchable off yes", "switchable auto yes"
RELEASES = {
    **dict.fromkeys(
        (
            *(
                "meta-llama-Llama-3.1-8B-Instruct.jinja",
                "meta-llama-Llama-3.2-3B-Instruct.jinja",
                "google-gemma-2-2b-it.jinja",
            ),
            *("mistralai-Mistral-Nemo-Instruct-2407.jinja", "Mistral-Small-3.2-24B-Instruct-2506.jinja"),
            *("unsloth-mistral-Devstral-Small-2507.jinja", "Qwen3-Coder.jinja", "Kimi-K2-Instruct.jinja"),
            *("ibm-granite-granite-4.0.jinja", "meetkai-functionary-medium-v3.1.jinja", "qwen3_instruct_2507.jinja"),
            *("internlm3-instruct.json[0]", "deepseek-v3.json[0]", "deepseek-v2.5.json[0]", "glm4-chat.json[0]"),
            *("phi-3-mini-128k-instruct.json[0]", "Yi-1.5-chat-16k.json[0]", "qwen2.5-instruct-1m.json[0]"),
        ),
        NEVER,
    ),
    **dict.fromkeys(
        (
            *("Qwen-Qwen3-0.6B.jinja", "Qwen3.5-4B.jinja", "qwen3_6.jinja", "HuggingFaceTB-SmolLM3-3B.jinja"),
            *("GLM-4.6.jinja", "glm-4.5.json[0]", "GLM-4.7-Flash.jinja", "glm-5.1.json[0]", "Kimi-K2.5.json[0]"),
            *("NVIDIA-Nemotron-3-Nano-30B-A3B-BF16.jinja", "NVIDIA-Nemotron-Nano-v2.jinja", "ByteDance-Seed-OSS.jinja"),
            *("tool_chat_template_hunyuan_a13b.jinja", "mistralai-Ministral-3-14B-Reasoning-2512.jinja"),
            *("Cohere2MoE.jinja", "inclusionai-ling-3.0-flash.jinja", "upstage-Solar-Open-100B.jinja"),
            *("poolside-Laguna-S-2.1.jinja",),
        ),
        ON,
    ),
    **dict.fromkeys(
        (
            *("deepseek-ai-DeepSeek-V3.1.jinja", "deepseek-ai-DeepSeek-V3.2.jinja", "DeepSeek-V3.2.json[0]"),
            *("google-gemma-4-31B-it.jinja", "ibm-granite-granite-3.3-2B-Instruct.jinja", "Apertus-8B-Instruct.jinja"),
            *("exaone4.jinja", "Reka-Edge.jinja", "Bielik-11B-v3.0-Instruct.jinja"),
        ),
        OFF,
    ),
    **dict.fromkeys(("MiniMax-M3.jinja", "openbmb-MiniCPM5-1B.jinja"), AUTO),
    **dict.fromkeys(
        (
            *("QwQ-32B.json[0]", "Qwen3-Next-Thinking.json[0]", "Qwen3-VL-Thinking.json[0]", "MiniMax-M2.jinja"),
            *("deepseek-ai-DeepSeek-R1-Distill-Llama-8B.jinja", "StepFun3.5-Flash.jinja"),
            *("Apriel-1.6-15b-Thinker-fixed.jinja", "unsloth-Apriel-1.5.jinja"),
        ),
        ALWAYS,
    ),
    **dict.fromkeys(
        (
            *("Kimi-K2-Thinking.jinja", "LFM2.5-8B-A1B.jinja", "Qwen3-Instruct.json[0]", "deepseek-r1-0528.json[0]"),
            *("KAT-V1.json[0]", "skywork-or1.json[0]"),
        ),
        UNKNOWN,
    ),
    "openai-gpt-oss-120b.jinja": "levels medium no low medium high",
    "muse-glimmer.jinja": "levels high no low medium high",
    "Kimi-K3.jinja": "levels max yes low high max",
    "deepseek-ai-DeepSeek-V4.jinja": "levels off yes max",
    "deepseek-ai-DeepSeek-V4-Flash-0731.jinja": "levels off yes high max",
    "qwen3_8.jinja": "levels xhigh yes low medium xhigh",
    "nemotron_3_super.jinja": "levels on yes low",
    "nemotron_3_ultra.jinja": "levels on yes medium",
    "glm-5.2.json[0]": "levels max yes high max",
    "glm-5.3.json[0]": "levels max no low high max",
    "tencent-Hy3.jinja": "levels off yes low high",
}


def test_thinking_is_read_right() -> None:
    """Unknown ones are said as unsure, and so are those whose template shows no thinking at all."""
    found: dict[str, str] = {}
    for label, source in corpus().items():
        name = label.rpartition("/")[2]
        if name not in RELEASES:
            continue
        read = inference_of(ChatTemplate(source, **TOKENS))
        assert read.certain == (read.kind not in ("unknown", "never")), name
        off = {True: "yes", False: "no", None: "None"}[read.can_be_off]
        default = read.default or {"never": "off"}.get(read.kind)
        found.setdefault(name, " ".join((read.kind, str(default), off, *read.levels)))
    assert len(found) >= 60
    assert found == {name: RELEASES[name] for name in found}
