"""A chat template -> the form in which its model writes calls of tools: by rendering turns with calls and comparing.

Turns with no, one and two calls are rendered, with names, keys, values and ids that occur nowhere else. What stands
around them in every call belongs to a call; what stands there once opens and closes all of them.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol

from trilens.errors import BadTemplate, RequestRefused
from trilens.text.allowance import together, used_up
from trilens.text.tool_cursor import Cursor, NoCall
from trilens.text.tool_formats import (
    ID,
    KEY,
    NAME,
    NUMBER,
    Arguments,
    Envelope,
    Json,
    Keywords,
    Kind,
    Loose,
    Tagged,
    ToolFormat,
)
from trilens.text.tool_reader import Called, CallReader, Piece
from trilens.text.tool_values import members

SECONDS = 3.0  # of processor time for all renderings of one template
MOST_TURN = 8000  # characters of a turn; those in use write hundreds
NEAREST = 16  # places that are tried, of those where something may begin
NAMES = ("zq_first_tool", "zq_second_tool")
KEYS = ("zq_one", "zq_two")
VALUES = (("zqvalueone", "zqvaluetwo"), ("zqvaluethree", "zqvaluefour"))
IDS = ("zqcallid1", "zqcallid2")  # nine letters and digits: some templates take no others
NUMBERED_IDS = tuple(f"functions.{name}:{i}" for i, name in enumerate(NAMES))  # Kimi's way: a name inside an id
LONG_IDS = ("call_zqcallid1", "call_zqcallid2")
ASK, SAID = "Zqquestion", "Zqcontent"
OTHERS: tuple[tuple[Kind, Any, str], ...] = (
    ("integer", 918273, r"918273"),
    ("number", 918.25, r"918\.25"),
    ("boolean", True, r"[Tt]rue"),
    ("null", None, r"null|None"),
    ("array", ["zqitem"], r"\["),
    ("object", {"zqinner": "zqitem"}, r"\{"),
)
DIGITS = re.compile(r"\d+")
NUMBERED = re.compile(rf"[\w.]*{NAME}:{NUMBER}")
QUOTES = "\"'"


class Template(Protocol):
    """What is needed of a chat template."""

    def render(self, messages: Sequence[Mapping[str, Any]], /, **variables: Any) -> str: ...


@dataclass(frozen=True)
class _Turn:
    """An assistant's turn with calls, as a template writes it: the text behind the user's words."""

    text: str
    start: int  # where what belongs to calls begins
    ends: str  # what ends a turn without calls


def by_difference(template: Template, closers: Sequence[str] = ()) -> ToolFormat | None:
    """The form in which this template writes calls; None if it writes none, or in no form that can be read again.

    `closers` are markers that end a thinking: what stands before the last of them belongs to no call.
    """
    with together(SECONDS):
        return _Probe(template, closers).read()


class _Probe:
    def __init__(self, template: Template, closers: Sequence[str]) -> None:
        self.template = template
        self.closers = closers
        self.ids: Sequence[str] = IDS
        self.count = 2  # calls that a turn can hold

    def read(self) -> ToolFormat | None:
        prompt = self._behind([], add_generation_prompt=True) or ""
        for self.ids in (IDS, NUMBERED_IDS):
            for as_text in (False, True):
                for self.count in (2, 1):
                    turns = [turn for said in ("", None, SAID) if (turn := self._turn(as_text, said)) is not None]
                    forms = [self._completed(form, prompt) for turn in turns for form in self._of(turn, as_text)]
                    forms = [form for form in forms if form.envelope is not None or NAME in form.head]
                    found = [form for form in forms if all(self._reads(form, turn) for turn in turns)]
                    if found and not used_up():
                        best = min(found, key=lambda form: (form.envelope is None, len(form.opening.strip())))
                        has_id = ID in best.head + best.tail
                        return replace(best, short_ids=has_id and self._refuses_long_ids(as_text))
        return None

    def _completed(self, form: ToolFormat, prompt: str) -> ToolFormat:
        opening = form.opening.strip()
        numbered = NUMBERED.search(form.head) if form.envelope is None else None
        return replace(
            form,
            several=self.count == 2,
            prompted=bool(opening) and prompt.rstrip().endswith(opening),
            id=numbered[0] if numbered else "",
        )

    def _reads(self, form: ToolFormat, turn: _Turn) -> bool:
        """Whether a reader of this form finds what the template wrote."""
        schema = {"properties": {key: {"type": "string"} for key in KEYS}}
        reader = CallReader(form, dict.fromkeys(NAMES, schema))
        found = [*reader.push(turn.text[turn.start :]), *reader.finish()]
        names = [one.name for one in found if isinstance(one, Called)]
        wanted = [dict(zip(KEYS, VALUES[i], strict=True)) for i in range(self.count)]
        return names == list(NAMES[: self.count]) and _arguments(found) == wanted

    # ------------------------------------------------------------------------------------------------- what is written

    def _behind(self, turn: list[dict[str, Any]], **options: Any) -> str | None:
        """What the template writes behind the user's words; None where it refuses."""
        if used_up():
            return None
        options = {"add_generation_prompt": False, "tools": TOOLS, **options}
        try:
            text = self.template.render([{"role": "user", "content": ASK}, *turn], **options)
        except (BadTemplate, RequestRefused):
            return None
        behind = text[text.rfind(ASK) + len(ASK) :] if ASK in text else ""
        return behind if 0 < len(behind) <= MOST_TURN else None

    def _turn(self, as_text: bool, said: str | None) -> _Turn | None:
        """A turn with as many calls as are looked at; None where the template does not write all of them."""
        calls = []
        for i in range(self.count):
            arguments: Any = dict(zip(KEYS, VALUES[i], strict=True))
            calls.append(_call(i, json.dumps(arguments) if as_text else arguments, self.ids[i]))
        text = self._behind([{"role": "assistant", "content": said, "tool_calls": calls}])
        words = [*(value for row in VALUES[: self.count] for value in row), *NAMES[: self.count]]
        if text is None or not all(word in text for word in words):
            return None
        first = min(text.find(word) for word in (*VALUES[0], NAMES[0]))
        none = self._behind([{"role": "assistant", "content": SAID}]) or ""
        ends = none[none.rfind(SAID) + len(SAID) :] if SAID in none else ""
        at = text.rfind(SAID)
        if at > first:
            return None  # what was said comes behind the calls
        if at >= 0:
            start = at + len(SAID)
            start += _boundary(text[start:first], _common(text[start:first], ends))
        else:
            others = (self._behind([], add_generation_prompt=True), none, self._behind([]))
            start = max(_boundary(text, _common(text[:first], other)) for other in others if other is not None)
        for closer in self.closers:
            if (at := text.rfind(closer, start, first)) >= 0:
                start = max(start, at + len(closer))
        return _Turn(text, start, ends)

    def _refuses_long_ids(self, as_text: bool) -> bool:
        arguments: Any = dict(zip(KEYS, VALUES[0], strict=True))
        call = _call(0, json.dumps(arguments) if as_text else arguments, LONG_IDS[0])
        return self._behind([{"role": "assistant", "content": "", "tool_calls": [call]}]) is None

    # -------------------------------------------------------------------------------------------------------- the form

    def _of(self, turn: _Turn, as_text: bool) -> Iterator[ToolFormat]:
        text, start, ends = turn.text, turn.start, turn.ends
        count = self.count
        arguments = [_object(text, i, start) for i in range(count)]
        places = [place for place in arguments if place is not None]
        if len(places) == count:
            found = [_envelope(text, place, i, start) for i, place in enumerate(places)]
            envelopes = [one for one in found if one is not None]
            if len(envelopes) == count and len({envelope for envelope, _ in envelopes}) == 1:
                (envelope, (first, last)), (a, b) = envelopes[0], places[0]
                head, tail = _counted(self._slotted(text[first:a], 0)), _counted(self._slotted(text[b:last], 0))
                for form in self._around(text, start, [place for _, place in envelopes], ends, Json()):
                    yield replace(form, before=form.head, head=head, tail=tail, after=form.tail, envelope=envelope)
            yield from self._around(text, start, places, ends, Json())
        yield from self._keywords(text, count, start, ends)
        yield from self._loose(text, count, start, ends)
        yield from self._tagged(text, count, start, ends, as_text)

    def _slotted(self, text: str, call: int) -> str:
        """The text around a call's arguments, with slots for what is that call's own."""
        text = text.replace(self.ids[call], ID) if self.ids is IDS else text
        return text.replace(NAMES[call], NAME)

    def _around(
        self, text: str, start: int, spans: Sequence[tuple[int, int]], ends: str, arguments: Arguments
    ) -> Iterator[ToolFormat]:
        """The form in which calls with arguments (or objects) at these places stand; `head` and `tail` around each."""
        opening = self._slotted(text[start : spans[0][0]], 0)
        last = text[spans[-1][1] :]
        cut = len(last) - _trailing(last, ends)
        while not _is_boundary(last, cut):
            cut += 1
        rest = self._slotted(last[:cut], len(spans) - 1)
        if len(spans) == 1:
            yield ToolFormat("", "", _counted(opening), arguments, rest, "", "", "")
            return
        between = text[spans[0][1] : spans[1][0]]
        if NAMES[0] in between and between.find(NAMES[0]) > between.find(NAMES[1]) >= 0:
            return
        between = self._slotted(between.replace(self.ids[0], ID).replace(NAMES[0], NAME), 1)
        opening, between, rest = _numbered(opening, between, rest)
        at = len(opening) - _trailing(opening, between)
        while not _is_boundary(opening, at):
            at += 1
        begin, head = opening[:at], opening[at:]
        behind = between[: len(between) - len(head)]
        shared = _boundary(behind, _common(behind, rest))
        yield ToolFormat(begin, "", head, arguments, behind[:shared], "", behind[shared:], rest[shared:])

    def _keywords(self, text: str, count: int, start: int, ends: str) -> Iterator[ToolFormat]:
        spans = []
        for i in range(count):
            first = text.find(VALUES[i][0])
            key = text.rfind(KEYS[0], start, first)
            between = text[key + len(KEYS[0]) : first]
            if key < 0 or between.strip(QUOTES + " ") != "=" or text[key - 1] != "(":
                return
            end = text.find(VALUES[i][1]) + len(VALUES[i][1])
            spans.append((key, end + (text[end : end + 1] in tuple(QUOTES))))
        yield from self._around(text, start, spans, ends, Keywords())

    def _loose(self, text: str, count: int, start: int, ends: str) -> Iterator[ToolFormat]:
        spans, quote = [], ""
        for i in range(count):
            first = text.find(VALUES[i][0])
            key = text.rfind(KEYS[0], start, first)
            between = text[key + len(KEYS[0]) : first]
            if key < 0 or not between.startswith(":") or text[key - 1] != "{":
                return
            quote = between[1:].strip()
            end = text.find(VALUES[i][1]) + len(VALUES[i][1] + quote)
            if not quote or text[end - len(quote) : end + 1] != quote + "}":
                return
            spans.append((key - 1, end + 1))
        yield from self._around(text, start, spans, ends, Loose(quote))

    def _tagged(self, text: str, count: int, start: int, ends: str, as_text: bool) -> Iterator[ToolFormat]:
        spans, tags = [], None
        for i in range(count):
            values = [text.find(value) for value in VALUES[i]]
            keys = [
                text.rfind(KEYS[0], start, values[0]),
                text.rfind(KEYS[1], values[0], values[1]),
            ]
            name = text.rfind(NAMES[i], start, keys[0])
            if min(*values, *keys, name) < 0:
                return
            before = text[name + len(NAMES[i]) : keys[0]]
            middle = text[keys[0] + len(KEYS[0]) : values[0]].replace(KEYS[0], KEY)
            between = text[values[0] + len(VALUES[i][0]) : keys[1]].replace(KEYS[0], KEY)
            behind = text[values[1] + len(VALUES[i][1]) :].replace(KEYS[1], KEY)
            at = len(before) - _trailing(before, between)
            while at < len(before) and (at == 0 or not _is_boundary(before, at)) and before[at] not in "<[{\n ":
                at += 1
            open_ = before[at:]
            close = between[: len(between) - len(open_)]
            close = close[: _boundary(close, _common(close, behind))]
            if not close or between[len(close) : len(between) - len(open_)].strip():
                return
            tags = Tagged(open_ + KEY, middle, close)
            closed = len(close.replace(KEY, KEYS[1]))
            spans.append((keys[0] - len(open_), values[1] + len(VALUES[i][1]) + closed))
        if tags is None:  # there are no calls
            return
        tags = replace(tags, typed=self._typed(tags, as_text), item=self._item(tags, as_text))
        yield from self._around(text, start, spans, ends, tags)

    def _item(self, tags: Tagged, as_text: bool) -> str:
        """The key of a list's items, where they have text around them as arguments have."""
        arguments: Any = {KEYS[0]: ["zqitem"]}
        call = _call(0, json.dumps(arguments) if as_text else arguments, self.ids[0])
        text = self._behind([{"role": "assistant", "content": "", "tool_calls": [call]}]) or ""
        before, around = re.escape(tags.middle), [re.escape(part) for part in tags.open.split(KEY)]
        found = re.search(f"{KEYS[0]}{before}{around[0]}([\\w.-]+){around[1]}{before}zqitem", text)
        return found[1] if found else ""

    def _typed(self, tags: Tagged, as_text: bool) -> tuple[tuple[Kind, str], ...]:
        """What stands between a key and values of each kind, where it says which kind."""
        found: list[tuple[Kind, str]] = [("string", tags.middle)]
        for kind, value, shape in OTHERS:
            arguments: Any = {KEYS[0]: value}
            call = _call(0, json.dumps(arguments) if as_text else arguments, self.ids[0])
            text = self._behind([{"role": "assistant", "content": "", "tool_calls": [call]}]) or ""
            at = text.find(KEYS[0])
            matches = list(re.compile(shape).finditer(text, at)) if at >= 0 else []
            if matches:  # a type's name may stand before the value: "null" twice
                match = matches[-1 if kind in ("null", "boolean") else 0]
                found.append((kind, text[at + len(KEYS[0]) : match.start()]))
        return tuple(found) if dict(found).get("integer", tags.middle) != tags.middle else ()


TOOLS = [
    {
        "type": "function",
        "function": {
            "name": name,
            "description": "A tool.",
            "parameters": {
                "type": "object",
                "properties": {key: {"type": "string", "description": "A text."} for key in KEYS},
                "required": list(KEYS),
            },
        },
    }
    for name in NAMES
]


def _call(number: int, arguments: Any, id: str) -> dict[str, Any]:
    return {"id": id, "type": "function", "function": {"name": NAMES[number], "arguments": arguments}}


def _arguments(found: Sequence[Any]) -> list[Any]:
    """What was read as arguments, call by call; None for what is no JSON."""
    texts: list[str] = []
    for one in found:
        if isinstance(one, Called):
            texts.append("")
        elif isinstance(one, Piece):
            texts[-1] += one.text
    made = []
    for text in texts:
        try:
            made.append(json.loads(text))
        except ValueError:
            made.append(None)
    return made


def _object(text: str, call: int, start: int) -> tuple[int, int] | None:
    """Where the arguments of a call stand as an object; None if they do not."""
    wanted = dict(zip(KEYS, VALUES[call], strict=True))
    for at in _braces(text, start, text.find(VALUES[call][0])):
        cursor, parts = Cursor(), list[str]()
        cursor.text, cursor.at, cursor.ended = text, at, True
        try:
            for _ in members(cursor, parts.append):
                pass
            if json.loads("".join(parts)) == wanted:
                return at, cursor.at
        except (NoCall, ValueError):
            pass
    return None


def _envelope(text: str, arguments: tuple[int, int], call: int, start: int) -> tuple[Envelope, tuple[int, int]] | None:
    """The JSON object around a call's name and its arguments, and where it stands."""
    for at in _braces(text, start, arguments[0]):
        try:
            made, end = json.JSONDecoder().raw_decode(text, at)
        except (ValueError, RecursionError):
            continue
        paths = dict(_paths(made, ()))
        name = next((path for path, value in paths.items() if value == NAMES[call]), None)
        wanted = dict(zip(KEYS, VALUES[call], strict=True))
        given = next((path for path, value in paths.items() if value == wanted), None)
        if given and name is None and given[-1] == NAMES[call]:
            return Envelope((), ("",)), (at, end)
        if given and name is not None:
            id = next((path for path, value in paths.items() if value == IDS[call]), ())
            return Envelope(name, given, id), (at, end)
    return None


def _braces(text: str, start: int, end: int) -> list[int]:
    """Where an object may begin, the nearest first."""
    return [place for place in range(end - 1, start - 1, -1) if text[place] == "{"][:NEAREST]


def _paths(made: Any, path: tuple[str, ...]) -> Iterator[tuple[tuple[str, ...], Any]]:
    if isinstance(made, dict):
        for key, value in made.items():
            yield (*path, key), value
            yield from _paths(value, (*path, key))


def _counted(text: str) -> str:
    """The number of a call that is the first, in the text beside its name."""
    return re.sub(r'(?<=["=:.])[01](?=["\s,\]>]|$)', NUMBER, text) if NAME not in text.partition(NUMBER)[2] else text


def _numbered(opening: str, between: str, rest: str) -> tuple[str, str, str]:
    """The same with a slot for the number of a call, where one counts from the first to the second."""
    for first in list(DIGITS.finditer(opening))[-NEAREST:]:
        if first[0] not in ("0", "1"):
            continue
        for second in reversed(list(DIGITS.finditer(between))[-NEAREST:]):
            if second[0] != str(int(first[0]) + 1):
                continue
            one = opening[: first.start()] + NUMBER + opening[first.end() :]
            two = between[: second.start()] + NUMBER + between[second.end() :]
            if _trailing(one, two) > max(_trailing(opening, between), len(one) - one.index(NUMBER)):
                return one, two, rest
    return opening, between, rest


def _common(a: str, b: str) -> int:
    """How many characters both begin with."""
    return next((i for i, (x, y) in enumerate(zip(a, b, strict=False)) if x != y), min(len(a), len(b)))


def _trailing(a: str, b: str) -> int:
    """How many characters both end with."""
    return _common(a[::-1], b[::-1])


def _is_boundary(text: str, at: int) -> bool:
    """Whether a marker can begin here: no cut goes through one."""
    if at in (0, len(text)):
        return True
    before, here = text[at - 1], text[at]
    return here in f"<[{{\n {NAME}" or before in ">]}[{()\n "


def _boundary(text: str, at: int) -> int:
    """The last place up to here where a marker can begin."""
    while not _is_boundary(text, at):
        at -= 1
    return at
