"""One type for a conversation, shown to each template in the form that it reads."""

from __future__ import annotations

import json
from typing import Any

import pytest

from trilens.errors import FieldRefused, RequestRefused
from trilens.text.conversation import Message, Text, Thought, as_chat, read_conversation
from trilens.text.events import ToolCall
from trilens.text.template import ChatTemplate

USER = {"role": "user", "content": "Hello"}
ARGUMENTS = {"city": "Oslo", "days": 3, "deep": {"warm": True, "names": ["a", None]}}
RESULT = {"role": "tool", "content": "4", "tool_call_id": "call_0123456789abcdef"}


def called(arguments: Any, content: Any = None) -> dict[str, Any]:
    function = {"name": "look", "arguments": arguments}
    call = {"id": "call_0123456789abcdef", "type": "function", "function": function}
    return {"role": "assistant", "content": content, "tool_calls": [call]}


EACH = "{% for m in messages %}[{{ m.role }}]BODY{% endfor %}[assistant]"
TEXT = "{{ m.content }}"
# a template's way of reading calls -> what it prints of the one above
CALLS: dict[str, tuple[str, str]] = {
    "as JSON of an object": (
        TEXT + "{% for c in m.tool_calls or [] %}<{{ c.function.arguments | tojson }}>{% endfor %}",
        f"<{json.dumps(ARGUMENTS)}>",
    ),
    "name by name": (
        TEXT + "{% for c in m.tool_calls or [] %}{% for k, v in c.function.arguments | items %}"
        "<{{ k }}={{ v | tojson }}>{% endfor %}{% endfor %}",
        "".join(f"<{key}={json.dumps(value)}>" for key, value in ARGUMENTS.items()),
    ),
    "as a text": (
        TEXT + "{% for c in m.tool_calls or [] %}{{ '<' + c.function.arguments + '>' }}{% endfor %}",
        f"<{json.dumps(ARGUMENTS)}>",
    ),
    "as a text, printed": (
        TEXT + "{% for c in m.tool_calls or [] %}<{{ c.function.arguments }}>{% endfor %}",
        f"<{json.dumps(ARGUMENTS)}>",
    ),
    "without a content": (
        "{% if m.content is none %}{% for c in m.tool_calls %}<{{ c.function.arguments | tojson }}>{% endfor %}"
        "{% else %}{{ m.content }}{% endif %}",
        f"<{json.dumps(ARGUMENTS)}>",
    ),
}


@pytest.mark.parametrize("way", CALLS)
@pytest.mark.parametrize("said", [None, "", "I will look."])
def test_arguments_are_shown_as_the_template_reads_them(way: str, said: Any) -> None:
    """The same prompt from an object and from JSON, with something said beside the call and without."""
    body, shown = CALLS[way]
    template = ChatTemplate(EACH.replace("BODY", body))
    prompts = {
        template.render([USER, called(arguments, said), RESULT]) for arguments in (ARGUMENTS, json.dumps(ARGUMENTS))
    }
    assert len(prompts) == 1
    prompt = prompts.pop()
    assert prompt.count(shown) == 1 and "None" not in prompt and (said or "") in prompt


@pytest.mark.parametrize("arguments", ["{", "", "[1]", '"x"', '{"a": 1'])
def test_arguments_that_are_no_object_are_kept(arguments: str) -> None:
    """A call that was cut off is shown as the text that it is; an empty one has no arguments."""
    body, _ = CALLS["name by name"]
    prompt = ChatTemplate(EACH.replace("BODY", body)).render([USER, called(arguments), RESULT])
    assert (f"<INVALID_JSON={json.dumps(arguments)}>" in prompt) == (arguments != "")


def test_ids_are_short_where_the_template_takes_no_others() -> None:
    body = (
        "{% for c in m.tool_calls or [] %}{% if c.id | length != 9 %}{{ raise_exception('nine') }}{% endif %}"
        "{{ c.id }}{{ c.function.arguments | tojson }}{% endfor %}"
        "{% if m.role == 'tool' %}{{ m.tool_call_id }}{% endif %}"
    )
    prompt = ChatTemplate(EACH.replace("BODY", body + TEXT)).render([USER, called(ARGUMENTS), RESULT])
    first, second = (part[:9] for part in (prompt.split("[assistant]")[1], prompt.split("[tool]")[1]))
    assert first == second and first.isalnum()


def test_several_parts_are_a_list_where_the_template_reads_lists() -> None:
    parts = [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]
    each = "{% for p in m.content %}<{{ p.text }}>{% endfor %}"
    lists = "{% if m.content is string %}{{ m.content }}{% else %}" + each + "{% endif %}"
    for body, shown in ((lists, "<a><b>"), (TEXT, "a\nb")):
        template = ChatTemplate(EACH.replace("BODY", body))
        assert shown in template.render([{"role": "user", "content": parts}])


def test_system_messages_are_one_where_the_template_takes_one() -> None:
    first_only = "{% if m.role == 'system' and not loop.first %}{{ raise_exception('first') }}{% endif %}" + TEXT
    both = [{"role": "system", "content": "A."}, {"role": "system", "content": "B."}, USER]
    assert "[system]A.\n\nB.[user]" in ChatTemplate(EACH.replace("BODY", first_only)).render(both)
    assert "[system]A.[system]B.[user]" in ChatTemplate(EACH.replace("BODY", TEXT)).render(both)


def test_thoughts_are_parts_where_the_template_reads_parts() -> None:
    fields = "{% if m.reasoning_content %}({{ m.reasoning_content }}){% endif %}" + TEXT
    parts = (
        "{% if m.content is string %}{{ m.content }}{% else %}{% for p in m.content %}"
        "{% if p.type == 'thinking' %}({{ p.thinking }}){% else %}{{ p.text }}{% endif %}{% endfor %}{% endif %}"
    )
    for key in ("thinking", "reasoning_content", "reasoning"):
        for body in (fields, parts):
            said = {"role": "assistant", "content": "Hi.", key: "I see."}
            assert "[assistant](I see.)Hi." in ChatTemplate(EACH.replace("BODY", body)).render([USER, said, USER])
    with pytest.raises(FieldRefused, match="different thoughts under several names"):
        read_conversation([{**USER, "thinking": "a", "reasoning": "b"}])


def test_a_result_gets_its_calls_name() -> None:
    read = read_conversation([USER, called(ARGUMENTS), RESULT])
    assert (read[2].name, read[2].call_id) == ("look", "call_0123456789abcdef")


def test_a_conversation_is_the_same_after_a_round() -> None:
    said = Message("assistant", (Thought("I see."), Text("Hi."), ToolCall("a", "look", '{"city": "Oslo"}')))
    assert read_conversation([as_chat(said)]) == [said] == read_conversation([said])


@pytest.mark.parametrize("said", ["The capital is", "The capital is ", "a\n\nb\n", "<b>"])
def test_the_last_message_is_continued(said: str) -> None:
    """The prompt ends with its text, exactly, whatever the template puts behind messages or takes from them."""
    last = "{{ m.content.strip() }}<end>{% if loop.last %}x{% endif %}"
    for body in (TEXT + "<end>\n", "{{ m.content | trim }}<end>", last):
        template = ChatTemplate(EACH.replace("BODY", body))
        messages = [USER, {"role": "assistant", "content": said}]
        assert template.render(messages, continue_final_message=True).endswith(f"[assistant]{said}")


@pytest.mark.parametrize("last", [USER, {"role": "assistant", "content": ""}, called(ARGUMENTS, "Hi.")])
def test_what_cannot_be_continued_is_refused(last: dict[str, Any]) -> None:
    with pytest.raises(RequestRefused, match="nothing to continue"):
        ChatTemplate(EACH.replace("BODY", TEXT)).render([USER, last], continue_final_message=True)


def test_a_template_that_does_not_show_the_last_message_is_refused() -> None:
    template = ChatTemplate(EACH.replace("BODY", "{% if m.role == 'user' %}{{ m.content }}{% endif %}"))
    with pytest.raises(RequestRefused, match="cannot be continued"):
        template.render([USER, {"role": "assistant", "content": "Hi"}], continue_final_message=True)


def test_further_special_tokens_are_given() -> None:
    tokens = {"pad_token": "P", "additional_special_tokens": ["a", "b"]}
    template = ChatTemplate("{{ pad_token }}{{ additional_special_tokens[1] }}", tokens=tokens)
    assert template.render([USER]) == "Pb" and not template.variables()
