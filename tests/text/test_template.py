"""Chat templates: SmolLM2's own equal to transformers', what templates use, and what hostile ones try."""

import contextlib
import json
import random
import threading
import time
from collections.abc import Mapping
from datetime import datetime
from pathlib import Path
from typing import Any

import jinja2.filters
import jinja2.tests
import pytest

from tests.grids import thinned
from trilens.errors import BadCheckpoint, BadTemplate, RequestRefused
from trilens.text import meter
from trilens.text.sandbox import environment
from trilens.text.template import ChatTemplate, directory_template, find_templates, gguf_template, gguf_templates
from trilens.text.tokenizer import Tokenizer

HI = [{"role": "user", "content": "Hi"}]
CHATS: list[list[dict[str, Any]]] = [
    HI,
    [{"role": "system", "content": "Be brief."}, {"role": "user", "content": " Why <b>?\n\n'é' 한국어 & more "}],
    [
        {"role": "user", "content": "Q1"},
        {"role": "assistant", "content": "A1"},
        {"role": "user", "content": "<|im_end|>{{ x }}"},
    ],
    [{"role": "user", "content": ""}, {"role": "assistant", "content": "A"}],
]


def render(source: str, messages: list[dict[str, Any]] = HI, **variables: Any) -> str:
    return ChatTemplate(source, bos_token="<s>", eos_token="</s>").render(messages, **variables)


def transformers_render(source: str, messages: list[dict[str, Any]], **variables: Any) -> str:
    from transformers.utils.chat_template_utils import render_jinja_template

    rendered, _ = render_jinja_template(
        [messages], chat_template=source, **{"bos_token": "<s>", "eos_token": "</s>", **variables}
    )
    return str(rendered[0])


@pytest.mark.parametrize("add_generation_prompt", [True, False])
def test_smollm2_equals_transformers(
    smollm2_metadata: Mapping[str, Any], smollm2_tokenizer: Tokenizer, add_generation_prompt: bool
) -> None:
    template = gguf_template(smollm2_metadata, smollm2_tokenizer)
    assert template is not None and template.variables() == frozenset()
    for chat in CHATS:
        want = transformers_render(template.source, chat, add_generation_prompt=add_generation_prompt)
        assert template.render(chat, add_generation_prompt=add_generation_prompt) == want
    assert template.render(HI) == (
        "<|im_start|>system\nYou are a helpful AI assistant named SmolLM, trained by Hugging Face<|im_end|>\n"
        "<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n"
    )


# One template for each thing that templates in use do.
USED = {
    "whitespace": "  {% for m in messages %}\n  {%- if true %}\n    {{ m.content }}\n  {% endif %}\n  {% endfor %}\n",
    "tojson": '{{ tools | tojson }} {{ tools | tojson(indent=2) }} {{ "<é>" | tojson(ensure_ascii=true) }}',
    "tojson order": '{{ {"b": 1, "a": [none, true, 1.5]} | tojson(separators=(",", ":"), sort_keys=true) }}',
    "loop controls": "{% for i in range(9) %}{% if i == 2 %}{% continue %}{% elif i == 5 %}{% break %}{% endif %}"
    "{{ i }}{% endfor %}",
    "generation": "{% for m in messages %}{% generation %}{% set x = 1 %}{{ m.content }}\n{% endgeneration %}"
    "{% endfor %}",
    "namespace": "{% set ns = namespace(n=0, last='') %}{% for m in messages %}{% set ns.n = ns.n + 1 %}"
    "{% set ns.last = m.role %}{% endfor %}{{ ns.n }}{{ ns.last }}",
    "items": "{% for k, v in messages[0].items() %}{{ k }}={{ v }};{% endfor %}"
    "{% for k, v in messages[0] | items %}{{ k }}{% endfor %}{% for k, v in messages[0] | dictsort %}{{ k }}"
    "{% endfor %}",
    "macros": "{% macro tag(name, x='-') -%}<{{ name }}>{{ x }}"
    "{{ caller() if caller else '' }}</{{ name }}>{%- endmacro %}"
    "{{ tag('a') }}{% call tag('b', x=1) %}inner{% endcall %}",
    "methods": "{{ ' a,b '.strip().split(',') }}{{ 'abc'.startswith('ab') }}{{ 'a'.upper() }}"
    "{{ 'x-y'.replace('-', '+') }}"
    "{{ ', '.join(['a', 'b']) }}{{ 'a</think>b'.split('</think>')[-1].lstrip('\\n') }}"
    "{{ messages[0].get('x', 'none') }}",
    "filters": "{{ ' a ' | trim }}{{ [3, 1, 2] | sort | join(',') }}{{ messages | length }}"
    "{{ nothing | default('d') }}"
    "{{ messages | map(attribute='role') | join('|') }}"
    "{{ messages | selectattr('role', 'equalto', 'user') | list | length }}"
    "{{ 'a\nb' | indent(2) }}{{ 'a\n\nb' | indent(2, true, true) }}{{ [1, 2] | first }}{{ [1, 2] | last }}"
    "{{ 'ab' | upper | lower | capitalize | title }}{{ [1, [2]] | string }}{{ 2.567 | round(1) }}{{ '7' | int + 1 }}"
    "{{ [1, 1, 2] | unique | list }}{{ 'a-b' | replace('-', '+') }}{{ [1, 2] | reverse | list }}"
    "{{ '%03d' | format(7) }}",
    "more filters": "{{ [1, 2.5] | sum }}{{ messages | map(attribute='role') | map('length') | sum(start=7) }}"
    "{{ [{'a': 2}] | sum('a') }}{{ [1, 2, 3] | batch(2) | list }}{{ [1, 2, 3] | batch(2, 0) | list }}"
    "{{ [1, 2, 3] | slice(2) | list }}{{ [1, 2, 3] | slice(2, 0) | list }}[{{ 'ab' | center(5) }}]"
    "{{ 123456 | filesizeformat }}{{ '2048' | filesizeformat(true) }}{{ {'b': [1], 'a': none} | pprint }}"
    "{{ '<b>a</b> <!-- x --> &amp;  c' | striptags }}{{ 'one two three' | truncate(9) }}"
    "{{ 'one two three' | truncate(9, true, '!', 0) }}{{ 'a/b c=é&' | urlencode }}{{ {'a b': '1/2'} | urlencode }}"
    "{{ 'one two three-four' | wordwrap(7) }}{{ 'abcdef' | wordwrap(2, wrapstring='|') }}"
    "<x{{ {'a': 1, 'b': none, 'c': '<'} | xmlattr }}>{{ ' a' | attr('strip') is callable }}{{ {'a': 1} | attr('a') }}"
    "{{ '<&>' | forceescape }}",
    "tests": "{{ messages is iterable and messages is not string and messages[0] is mapping and none is none }}"
    "{{ x is defined }}{{ 1 is odd }}{{ 'a' in ['a'] }}{{ 'a' is in ['b'] }}{{ messages[0].content is string }}",
    "operators": "{{ 'a' + 'b' ~ 1 ~ none }}{{ 'ab' * 2 }}{{ 7 // 2 }}{{ 7 % 4 }}{{ '%s!' % 'a' }}{{ 2 ** 5 }}"
    "{{ [1] + [2] }}"
    "{{ messages[::-1][0].role }}{{ messages[1:] }}{{ -1 }}{{ not true }}{{ 'y' if false }}{{ {'a': [1, (2, 3)]} }}",
    "blocks": "{% set x %}a{{ 1 }}{% endset %}{{ x }}{% filter upper %}b{{ x }}{% endfilter %}{% with y = 2 %}"
    "{{ y }}{% endwith %}",
    "format": "{{ '{} {:>4} {a}'.format(1, 2, a='x') }}",
    "undefined": "[{{ nothing }}]{{ messages[0].nothing }}{{ messages[0]['nothing'] is defined }}",
    "tokens": "{{ bos_token }}{{ eos_token }}{% if add_generation_prompt %}!{% endif %}",
    "loop": "{% for m in messages if m.role == 'user' %}{{ loop.index0 }}{{ loop.first }}{{ loop.last }}"
    "{{ loop.length }}"
    "{{ loop.previtem is defined }}{{ loop.cycle('a', 'b') }}{% else %}none{% endfor %}",
    "recursive": "{% for x in [[1, 2], [3]] recursive %}{{ loop(x) if x is iterable else x }}{% endfor %}",
}


@pytest.mark.parametrize("name", sorted(USED))
def test_what_templates_use_equals_transformers(name: str) -> None:
    tools = [
        {"type": "function", "function": {"name": "f", "description": 'say "é" <now>', "parameters": {"a": [1.5]}}}
    ]
    for chat in CHATS:
        want = transformers_render(USED[name], chat, tools=tools, add_generation_prompt=True)
        assert render(USED[name], chat, tools=tools) == want


def test_every_filter_and_test_of_jinja_but_two() -> None:
    """`random` would make two prompts of one conversation, and the work of `urlize` has no bound."""
    known = environment()
    assert set(jinja2.filters.FILTERS) - set(known.filters) == {"random", "urlize"}
    assert set(jinja2.tests.TESTS) <= set(known.tests)


VALUES = (
    "'a' * 300000",
    "'a b ' * 80000",
    "'<!--' * 80000",
    "'<a' * 100000",
    "'&amp;' * 60000",
    "'a-' * 9000",
    "'\n' * 300000",
    "range(99999) | list",
    "range(99999)",
    "[[[[[[[[1]]]]]]]] * 9999",
    "['ab'] * 50000",
    "messages",
    "messages[0]",
    "10**300",
    "1e308",
    "none",
    "nothing",
)
ARGUMENTS = ("", "0", "-1", "1", "10**9", "'b' * 99999", "none", "'role'", "1, 1", "10**9, 'x' * 9999", "2, [0] * 999")


@pytest.mark.parametrize("count", [6, pytest.param(60, marks=pytest.mark.slow)])
@pytest.mark.parametrize("name", thinned(sorted(jinja2.filters.FILTERS), 6))
def test_no_filter_runs_away(name: str, count: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each filter on large values, with arguments of every size: an ordinary end, and no step that takes seconds."""
    monkeypatch.setattr(meter, "SECONDS", 0.1)
    pairs = [(value, arguments) for value in VALUES for arguments in ARGUMENTS]
    for value, arguments in random.Random(name).sample(pairs, count):
        source = f"{{{{ ({value}) | {name}({arguments}) | string | length }}}}"
        began = time.thread_time()
        with contextlib.suppress(BadTemplate):
            render(source)
        assert time.thread_time() - began < 5, source


def test_the_clock() -> None:
    template = ChatTemplate("{{ strftime_now('%d %b %Y') }}", now=lambda: datetime(2024, 7, 26, 12))
    assert template.render(HI) == "26 Jul 2024"


def test_variables() -> None:
    source = (
        "{% if enable_thinking is defined %}{{ enable_thinking }}{% endif %}{% set own = 1 %}{{ own }}{{ range(2) }}"
    )
    template = ChatTemplate(source + "{{ messages }}{{ tools }}{{ bos_token }}{{ strftime_now('') }}")
    assert template.variables() == {"enable_thinking"}
    assert ChatTemplate(source).render(HI, enable_thinking=False).startswith("False")
    with pytest.raises(RequestRefused, match="function"):
        ChatTemplate(source).render(HI, enable_thinking=len)


# ---- messages ----


def test_text_parts_are_joined() -> None:
    parts = [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}, "c"]
    assert render("{{ messages[0].content }}", [{"role": "user", "content": parts}]) == "a\nb\nc"


def test_a_template_that_reads_only_typed_parts() -> None:
    """With a text it would print nothing of what the user said."""
    source = "{% for m in messages %}{{ m.role }}:{% for part in m.content %}{{ part.text }}{% endfor %};{% endfor %}"
    template = ChatTemplate(source)
    assert template.render(HI) == "user:Hi;"
    assert template.render([*HI, {"role": "assistant", "content": "Ho"}]) == "user:Hi;assistant:Ho;"


def test_a_template_cannot_change_the_messages() -> None:
    messages: list[dict[str, Any]] = [{"role": "user", "content": "Hi", "tool_calls": [{"name": "f"}]}]
    with pytest.raises(BadTemplate, match="'append' of a list"):
        render("{{ messages[0].tool_calls.append(2) }}", messages)
    assert messages == [{"role": "user", "content": "Hi", "tool_calls": [{"name": "f"}]}]


@pytest.mark.parametrize(
    ("messages", "says"),
    [
        ([], "empty"),
        ("Hi", "is not a list"),
        ({"role": "user"}, "not a list"),
        (["Hi"], "messages.0 has no role"),
        ([{"content": "Hi"}], "messages.0 has no role"),
        ([*HI, {"role": 1, "content": "Hi"}], "messages.1 has no role"),
        ([{"role": "user"}], "content is None"),
        ([{"role": "user", "content": 7}], "content is 7"),
        ([{"role": "user", "content": [{"type": "image_url", "image_url": "x"}]}], "'image_url'"),
        ([{"role": "user", "content": [7]}], "messages.0.content.0 is 7"),
        ([{"role": "user", "content": "Hi", "extra": object()}], "object; expected JSON"),
    ],
)
def test_other_messages_are_refused(messages: Any, says: str) -> None:
    with pytest.raises(RequestRefused) as caught:
        render("{{ messages }}", messages)
    assert says in str(caught.value) and "\n" not in str(caught.value)


def test_a_tool_call_needs_no_content() -> None:
    call = {"role": "assistant", "content": None, "tool_calls": [{"function": {"name": "f", "arguments": {"a": 1}}}]}
    assert render("{{ messages[1].tool_calls[0].function.name }}", [*HI, call]) == "f"


def test_the_template_refuses() -> None:
    with pytest.raises(RequestRefused, match="refuses the conversation: roles must alternate, please") as caught:
        render("{{ raise_exception('roles must\n alternate, please') }}")
    assert not isinstance(caught.value, BadTemplate)


BROKEN_BY = {
    "an undefined argument": ("{{ messages[0].tool_calls[0].function.arguments.city.name }}", {}),
    "tools of another shape": ("{% if tools %}{{ tools[0].function.parameters.properties.x.y }}{% endif %}", {}),
    "a variable of another type": ("{{ level + 1 if level else 0 }}", {"level": "high"}),
    "too much of it": ("{% if n %}{{ 'a' * n }}{% endif %}", {"n": 10**9}),
    "a division": ("{{ 1 / n if n is defined else 0 }}", {"n": 0}),
}


@pytest.mark.parametrize("name", sorted(BROKEN_BY))
def test_whose_fault_it_is(name: str) -> None:
    """A template that renders a plain conversation fails on the caller's; one that renders none is broken itself."""
    source, variables = BROKEN_BY[name]
    call = {"role": "assistant", "content": "", "tool_calls": [{"function": {"name": "f", "arguments": {}}}]}
    chat, tools = ([call], None) if "tool_calls" in source else (HI, [{"type": "function", "function": {"name": "f"}}])
    guarded = source if "tool_calls" not in source else "{% if messages[0].tool_calls %}" + source + "{% endif %}"
    with pytest.raises(RequestRefused, match="fails on this conversation, though not on a plain one"):
        render(guarded, chat, tools=tools, **variables)
    assert render(guarded) is not None
    with pytest.raises(BadTemplate, match="damaged or hostile"):
        render(guarded + "{{ nothing.at.all }}", chat, tools=tools, **variables)
    with pytest.raises(BadTemplate, match="__class__"):
        render("{% if tools %}{{ ''.__class__ }}{% endif %}", HI, tools=[{}])


# ---- where templates are found ----


def test_templates_beside_a_checkpoint(tmp_path: Path) -> None:
    assert find_templates(tmp_path) == {} and directory_template(tmp_path) is None
    config = tmp_path / "tokenizer_config.json"
    config.write_text(json.dumps({"chat_template": "one"}))
    assert find_templates(tmp_path) == {"default": "one"}
    named = [{"name": "default", "template": "{{ bos_token }}"}, {"name": "tool_use", "template": "tools"}]
    config.write_text(json.dumps({"chat_template": named}))
    assert find_templates(tmp_path) == {"default": "{{ bos_token }}", "tool_use": "tools"}
    (tmp_path / "chat_template.json").write_text(json.dumps({"chat_template": "three"}))
    assert find_templates(tmp_path)["default"] == "three"
    (tmp_path / "chat_template.jinja").write_text("{{ messages[0].content }} é", encoding="utf-8")
    (tmp_path / "additional_chat_templates").mkdir()
    (tmp_path / "additional_chat_templates" / "rag.jinja").write_text("rag")
    assert find_templates(tmp_path) == {"default": "{{ messages[0].content }} é", "tool_use": "tools", "rag": "rag"}
    template, rag = directory_template(tmp_path), directory_template(tmp_path, name="rag")
    assert template is not None and template.render(HI) == "Hi é"
    assert rag is not None and rag.source == "rag"


@pytest.mark.parametrize("content", ["{", "[]", '{"chat_template": 7}', '{"chat_template": [{"name": "x"}]}', "\xff"])
def test_damaged_template_files(tmp_path: Path, content: str) -> None:
    (tmp_path / "tokenizer_config.json").write_bytes(content.encode("latin-1"))
    with pytest.raises(BadCheckpoint, match=r"tokenizer_config\.json"):
        find_templates(tmp_path)


def test_templates_in_gguf_metadata() -> None:
    metadata = {"tokenizer.chat_template": "a", "tokenizer.chat_template.tool_use": "b", "tokenizer.chat_templates": []}
    assert gguf_templates(metadata) == {"default": "a", "tool_use": "b"}
    assert gguf_template({}) is None
    with pytest.raises(BadCheckpoint):
        gguf_templates({"tokenizer.chat_template": 7})


# ---- hostile templates ----

LOOP = "{% for i in range(99999) %}{% for j in range(99999) %}BODY{% endfor %}{% endfor %}"
GROW = "{% set ns = namespace(x=START, y=START) %}{% for i in range(60) %}BODY{% endfor %}{{ ns.x == ns.y }}"


def grow(start: str, body: str) -> str:
    return GROW.replace("START", start).replace("BODY", body)


ENDLESS = {
    "nested loops": LOOP.replace("BODY", ""),
    "a filtered loop": LOOP.replace("(99999) %}{% endfor", "(99999) if j < 0 %}{% endfor"),
    "printing": "{% macro f() %}" + LOOP.replace("BODY", "x{% if i %}{% endif %}" * 100) + "{% endmacro %}{{ f() }}",
    "macros that call themselves": "{% macro f(n) %}{% if n %}{{ f(n-1) }}{{ f(n-1) }}{% endif %}"
    "{% endmacro %}{{ f(60) }}",
    "counting": "{% set ns = namespace(i=0) %}" + LOOP.replace("BODY", "{% set ns.i = ns.i + 1 %}"),
    "lazy filters": "{% for i in range(99999) %}{{ range(99999) | select('in', [1]) | map('string') | list }}"
    "{% endfor %}",
    "searching": "{{ range(99999) | select('in', range(99999) | list) | list }}",
    "sorting by a long path": "{{ range(99999) | sort(attribute='" + ".".join(["real"] * 9999) + "') | list }}",
    "long texts": "{% set a = 'a' * 900000 %}" + LOOP.replace("BODY", "{% set b = a.upper() %}"),
}
HOSTILE = {
    "endless recursion": ("{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}", "recursion"),
    "endless recursive loop": ("{% for a in [1] recursive %}{{ loop([1]) }}{% endfor %}", "recursion"),
    "include": ("{% include '/etc/passwd' %}", "include"),
    "import": ("{% import 'x' as y %}", "import"),
    "from import": ("{% from 'x' import y %}", "import"),
    "extends": ("{% extends 'x' %}", "extends"),
    "block": ("{% block a %}{{ self.a() }}{% endblock %}", "block"),
    "huge range": ("{{ range(10**9) | list }}", "too big"),
    "colliding range": ("{{ range(0, 10**30, 2305843009213693951) | unique | list }}", "2^53"),
    "times": ("{{ 'a' * 10**10 }}", "10000000000 characters"),
    "times, turned": ("{{ 10**10 * 'a' }}", "10000000000 characters"),
    "times a list": ("{{ [1] * 10**9 }}", "characters"),
    "power": ("{{ 9 ** 99999999 }}", "power"),
    "growing number": (grow("3", "{% set ns.x = ns.x * ns.x %}"), "bits"),
    "doubling with ~": (grow("'aaaaaaaa'", "{% set ns.x = ns.x ~ ns.x %}"), "characters"),
    "doubling with +": (grow("'aaaaaaaa'", "{% set ns.x = ns.x + ns.x %}"), "characters"),
    "doubling a block": (
        grow("'aaaaaaaa'", "{% set t %}{{ ns.x }}{{ ns.x }}{% endset %}{% set ns.x = t %}"),
        "characters",
    ),
    "doubling a list": (grow("[1]", "{% set ns.x = [ns.x, ns.x] %}{% set ns.y = [ns.y, ns.y] %}"), "characters"),
    "doubling a dict": (grow("{'a': 1}", "{% set ns.x = {'a': ns.x, 'b': ns.x} %}"), "characters"),
    "doubling a tuple": (grow("(1,)", "{% set ns.x = ns.x + ns.x %}"), "characters"),
    "namespaces in lists": ("{% set ns = namespace() %}{% set ns.a = [ns, ns] %}{{ ns.a }}", "as if it were data"),
    "namespace in itself": ("{% set ns = namespace() %}{% set ns.a = ns %}{{ ns }}", "as if it were data"),
    "hoarding": ("{% set a = 'a' * 900000 %}" + "".join(f"{{% set a{i} = a[1:] %}}" for i in range(200)), "memory"),
    "hoarding pieces": (
        "{% set ns = namespace(x=[]) %}{% for i in range(9999) %}"
        "{% set ns.x = ns.x + [('a,' * 9999).split(',')] %}{% endfor %}",
        "",
    ),
    "center": ("{{ 'a' | center(10**9) }}", "1000000000 characters"),
    ".center": ("{{ 'a'.center(10**9) }}", "1000000000 characters"),
    ".ljust": ("{{ 'a'.ljust(10**9) }}", "characters"),
    ".zfill": ("{{ 'a'.zfill(10**9) }}", "characters"),
    ".expandtabs": ("{{ ('\t' * 99).expandtabs(10**9) }}", "characters"),
    "replace": ("{{ ('a' * 99999) | replace('a', 'b' * 99999) }}", "characters"),
    ".replace": ("{{ ('a' * 99999).replace('', 'b' * 99999) }}", "characters"),
    "join": ("{{ (['a'] * 9999) | join('b' * 99999) }}", "characters"),
    ".join": ("{{ ('b' * 99999).join(['a'] * 9999) }}", "characters"),
    "indent": ("{{ ('\n' * 99999) | indent(1000) }}", ""),
    "tojson": ("{{ messages | tojson(indent=10**9) }}", "JSON"),
    "%": ("{{ '%1000000000d' % 1 }}", "formats"),
    "%*": ("{{ '%*d' % (1000000000, 1) }}", "formats"),
    "% many times": ("{{ ('%(a)s' * 9999) % {'a': 'b' * 99999} }}", "characters"),
    "format": ("{{ '%1000000000d' | format(1) }}", "formats"),
    ".format": ("{{ '{:1000000000}'.format(1) }}", "formats"),
    ".format nested": ("{{ '{:{}}'.format(1, 1000000000) }}", "formats"),
    ".format many times": ("{{ ('{0}' * 9999).format('a' * 99999) }}", "characters"),
    "round": ("{{ 5 | round(-1000000000) }}", "rounds"),
    "strip": ("{{ 'aaa'.strip('b' * 999999 ~ 'a') }}", "strips"),
    "rfind": ("{{ ('a' * 500000).rfind('b' ~ 'a' * 250000) }}", "backwards"),
    "strftime": ("{{ strftime_now('%1000000000Y') }}", "time"),
    "bytes": ("{{ (1).to_bytes(10**9) }}", "to_bytes"),
    "the class of a text": ("{{ ''.__class__ }}", "'__class__' of a str"),
    "the classes of all": ("{{ ''.__class__.__mro__[1].__subclasses__() }}", "'__class__' of a str"),
    "the class by its name": ("{{ ''['__class__'] }}", "'__class__' of a str"),
    "attr": ("{{ '' | attr('__class__') }}", "'__class__' of a str"),
    "attr of a function": ("{{ raise_exception | attr('_function') }}", "'_function'"),
    "attr, then a call": ("{{ (1 | attr('to_bytes'))(10**9) }}", "to_bytes"),
    "attr, then format": ("{{ ('{:1000000000}' | attr('format'))(1) }}", "formats"),
    "sum of lists": ("{{ (range(9999) | map('string') | map('list') | list * 99) | sum(start=[]) }}", ""),
    "batch with a filling": ("{{ [1] | batch(10**9, 0) }}", "characters"),
    "slice": ("{{ [1] | slice(10**9) }}", "characters"),
    "pprint": ("{{ range(99999) | list | pprint }}", "pretty-prints"),
    "wordwrap": ("{{ ('a' * 99999) | wordwrap(1) }}", "wraps"),
    "wordwrap with a long mark": ("{{ ('a' * 9999) | wordwrap(1, wrapstring='b' * 9999) }}", "characters"),
    "urlencode": ("{{ ('😀' * 900000) | urlencode }}", "characters"),
    "map attribute": ("{{ [''] | map(attribute='__class__') | list }}", "'__class__' of a str"),
    "format attribute": ("{{ '{0.__class__}'.format('') }}", "'__class__' of a str"),
    "format_map attribute": ("{{ '{x.__class__}'.format_map({'x': ''}) }}", "'__class__' of a str"),
    "the globals of a function": ("{{ raise_exception.__globals__ }}", "'__globals__'"),
    "inside a function": ("{{ raise_exception._function }}", "'_function'"),
    "inside a loop": ("{% for a in [1] %}{{ loop._recurse }}{% endfor %}", "'_recurse'"),
    "magic in a namespace": ("{% set ns = namespace(__html__=1) %}", "__html__"),
    "magic set in a namespace": ("{% set ns = namespace() %}{% set ns.__class__ = 1 %}", "__class__"),
    "lipsum": ("{{ lipsum(n=10**9) }}", "lipsum"),
    "calling a text": ("{{ ('')() }}", "calls"),
    "changing": ("{{ messages[0].update(role='x') }}", "'update' of a dict"),
    "calling what is not there": ("{{ nothing() }}", "'nothing' is undefined"),
    "inside what is not there": ("{{ nothing.at.all }}", "'nothing' is undefined"),
    "adding apples": ("{{ 1 + 'a' }}", "unsupported operand"),
    "dividing by zero": ("{{ 1 / 0 }}", "division by zero"),
    "no such filter": ("{{ 1 | nope }}", "nope"),
    "unclosed": ("line 1\n{% if x %}", "line 2"),
    "no expression": ("\n\n{% for %}", "line 3"),
    "deep": ("{{ " + "(" * 5000 + "1" + ")" * 5000 + " }}", "recursion"),
    "deep blocks": ("{% if 1 %}" * 2000 + "{% endif %}" * 2000, "recursion"),
    "a long number": ("{{ " + "9" * 9999 + " }}", "digits"),
    "too long": ("x" * 1_000_000, "1000000 characters"),
    "compile-time trap": ("{{ 'a' | indent('b' * 10**9) }}", "characters"),
    "autoescape": ("{% autoescape 'a' * 10**10 %}{% endautoescape %}", ""),
}


@pytest.mark.parametrize("name", sorted(HOSTILE))
def test_hostile_templates_end_in_one_line(name: str) -> None:
    source, says = HOSTILE[name]
    with pytest.raises(BadTemplate) as caught:
        render(source)
    assert says in str(caught.value), caught.value
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 400
    assert caught.value.__cause__ is None and (caught.value.__suppress_context__ or not caught.value.__context__)


@pytest.mark.parametrize("name", sorted(ENDLESS))
def test_endless_templates_are_stopped(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(meter, "SECONDS", 0.1)
    with pytest.raises(BadTemplate, match=r"runs for more than 0.1 s|memory|a value of"):
        render(ENDLESS[name])


def test_in_any_thread_and_beside_others(monkeypatch: pytest.MonkeyPatch) -> None:
    """A hostile rendering in one thread is stopped after its time; a friendly one beside it is not touched."""
    monkeypatch.setattr(meter, "SECONDS", 0.4)
    ends: list[str] = []

    def hostile() -> None:
        try:
            render(ENDLESS["nested loops"])
        except BadTemplate as fault:
            ends.append(str(fault))

    thread = threading.Thread(target=hostile)
    thread.start()
    while thread.is_alive():
        assert render("{{ messages[0].content }}") == "Hi"
        thread.join(0.05)
    assert ends == ["chat template, line 1: it runs for more than 0.4 s; it is damaged or hostile, use another"]


def test_memory_stays_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    resource = pytest.importorskip("resource")
    monkeypatch.setattr(meter, "SECONDS", 0.5)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for name in ("doubling with ~", "doubling a list", "hoarding", "hoarding pieces", "join", "times a list"):
        with pytest.raises(BadTemplate):
            render(HOSTILE[name][0])
    for name in ("printing", "long texts", "lazy filters"):
        with pytest.raises(BadTemplate):
            render(ENDLESS[name])
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 200 << 10  # in KiB


def test_a_long_conversation_is_no_attack() -> None:
    """What a rendering may use grows with what it is given: 2,000 messages, four megabytes."""
    chat = [{"role": ("user", "assistant")[i % 2], "content": f"message {i} " * 150} for i in range(2001)]
    source = (
        "{% set ns = namespace(all='') %}{% for m in messages %}{% if not loop.last and messages[loop.index:] %}"
        "{% set content = m.content.split('</think>')[-1] | trim %}"
        "{{ '<|' + m.role + '|>' ~ content }}{% endif %}{% endfor %}{{ messages | tojson }}"
    )
    assert len(render(source, chat)) > 7_000_000


def test_the_line_of_a_fault() -> None:
    with pytest.raises(BadTemplate, match="line 4"):
        render("{% macro f() %}\n{% for x in [1] %}\n\n{{ 1 / 0 }}{% endfor %}{% endmacro %}\n\n{{ f() }}")
