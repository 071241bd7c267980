"""Forms of calls that no difference between renderings shows: a short table, by what stands in the template.

A template may write calls in its history in a way that its model does not (gpt-oss), or never write them at all
(Granite 3.3, LFM2), though its model was trained to. `also` holds further ways in which the same model writes them.
"""

from __future__ import annotations

from dataclasses import replace

from trilens.text.tool_formats import ANY, KEY, NAME, NUMBER, Envelope, Json, Keywords, Tagged, ToolFormat


def _plain(begin: str, head: str, tail: str, **more: object) -> ToolFormat:
    """Calls whose arguments are JSON."""
    return ToolFormat(begin, "", head, Json(), tail, "", "", "", source="the table", **more)  # type: ignore[arg-type]


def _json(begin: str, before: str, after: str, between: str, end: str) -> ToolFormat:
    """Calls that are JSON objects with a name and arguments."""
    envelope = Envelope(("name",), ("arguments",))
    head = f'{{"name": "{NAME}", "arguments": '
    return ToolFormat(begin, before, head, Json(), "}", after, between, end, envelope, source="the table")


HERMES = _json("", "<tool_call>\n", "\n</tool_call>", "\n", "")

# gpt-oss: the channel and the recipient may come in either order, and the splitter of thoughts has taken what stands
# before the recipient where a thinking came first.
HARMONY = replace(
    _plain("", f"<|channel|>commentary to=functions.{NAME} <|constrain|>json<|message|>", "<|call|>"),
    several=False,
    also=tuple(
        _plain("", f"{lead}to=functions.{NAME}{ANY}<|message|>", "<|call|>")
        for lead in (
            "",
            "<|channel|>commentary ",
            "<|channel|>analysis ",
            "<|start|>assistant ",
            "<|start|>assistant<|channel|>commentary ",
        )
    ),
)

# Kimi K3's markers are made of three tokens each, which no comparison keeps together.
KIMI_K3 = ToolFormat(
    "<|open|>tools<|sep|>",
    "",
    f'<|open|>call tool="{NAME}" index="{NUMBER}"<|sep|>',
    Tagged(
        f'<|open|>argument key="{KEY}',
        '" type="string"<|sep|>',
        "<|close|>argument<|sep|>",
        (
            ("string", '" type="string"<|sep|>'),
            ("integer", '" type="number"<|sep|>'),
            ("number", '" type="number"<|sep|>'),
            ("boolean", '" type="boolean"<|sep|>'),
            ("null", '" type="null"<|sep|>'),
            ("array", '" type="array"<|sep|>'),
            ("object", '" type="object"<|sep|>'),
        ),
    ),
    "<|close|>call<|sep|>",
    "",
    "",
    "<|close|>tools<|sep|>",
    source="the table",
)

# (what stands in the template, the form); for templates that write no calls
UNWRITTEN = (
    (
        "<|tool_call_start|>",
        ToolFormat(
            "<|tool_call_start|>[", "", f"{NAME}(", Keywords(), ")", "", ", ", "]<|tool_call_end|>", source="the table"
        ),
    ),
    ("<|tool_call|>", _json("<|tool_call|>[", "", "", ", ", "]")),
    ("<tool_call>", HERMES),
)


def by_table(source: str, found: ToolFormat | None) -> ToolFormat | None:
    """What is known of this template's model beyond what its template shows (`found`)."""
    if "<|channel|>" in source and "to=functions." in source:
        return HARMONY
    if "<|open|>" in source and "<|sep|>" in source:
        return KIMI_K3
    if found is None:
        return next((form for marker, form in UNWRITTEN if marker in source), HERMES)
    if found.bare and found.envelope is not None:
        markers = ("<|python_tag|>", "<|python_start|>", "<|python_end|>")
        return replace(found, optional=tuple(marker for marker in markers if marker in source))
    return found
