"""What a model can do about thinking: its kind, the settings a caller can ask for, and the markers around thoughts.

A template is tested by rendering, not recognised (`read_template`). What it cannot show (a model that always thinks,
without any sign in its template) is in the catalog, and `completed` joins the two. No model is named here.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from trilens.spec.catalog import StatedInference

TURN = re.compile(r"^<\|\w+\|>assistant")
TURN_BEGUN = re.compile(r"<\|\w+\|>assistant$")
Kind = Literal["never", "always", "switchable", "levels", "unknown"]
Start = Literal["opened", "closed", "free", "answer"]
Role = Literal["system", "user"]

WORDS: dict[str, str] = {
    "never": "standard",
    "always": "thinking",
    "switchable": "switchable",
    "levels": "levels",
    "unknown": "unknown",
}


@dataclass(frozen=True)
class Markers:
    """Text around the thinking; `answer` opens the answer where a family has a marker for it, `end` closes it, and
    `preamble` opens a text before a call of a tool.

    `before_close` and `after_close` is the white space that the template writes on both sides of `close`.
    """

    open: str
    close: str
    answer: str | None = None
    before_close: str = ""
    after_close: str = ""
    end: str | None = None
    preamble: str | None = None

    @property
    def openings(self) -> tuple[str, ...]:
        """What opens the answer: its marker, and the same in a turn that the prompt has opened already."""
        found = [text for text in (self.answer, self.preamble) if text is not None]
        return (*found, *(bare for text in found if (bare := TURN.sub("", text)) != text))

    @property
    def turn(self) -> str:
        """The header of the turn that stands between a thinking and the answer, where there is one."""
        found = TURN.match(self.answer or "")
        return "" if found is None else found[0]

    @property
    def closing(self) -> str:
        """The text that ends a thinking and leads to the answer."""
        return self.before_close + self.close + (self.answer or "") + self.after_close


@dataclass(frozen=True)
class Setting:
    """One thing a caller can ask for, and how: template variables, or a text in a message.

    `start` is where the model's output begins: inside thinking that the prompt opened, behind thinking that the prompt
    closed, or free to do either.
    """

    name: str  # "off", "on", "auto", or a level
    variables: Mapping[str, Any]
    start: Start
    text: str | None = None
    text_role: Role | None = None


@dataclass(frozen=True)
class Inference:
    """`kind` is unknown where there is no template to read, and where one only handles thoughts of old turns; then
    `markers` say how they are written.

    `variable` switches the thinking on and off, `level_variable` chooses how much, `budget_variable` takes a number of
    tokens. `default` names the setting that an untouched template gives. `closing_phrase` is what the family's
    publisher writes where a thinking is cut short. `certain` is false where the template handles thoughts, or shows
    none, without saying what the model does; then the catalog's word counts. `source` says who said so.
    """

    kind: Kind
    variable: str | None = None
    level_variable: str | None = None
    budget_variable: str | None = None
    default: str | None = None
    settings: tuple[Setting, ...] = ()
    markers: Markers | None = None
    closing_phrase: str = ""
    certain: bool = True
    source: str = "no chat template"

    @property
    def word(self) -> str:
        """The second half of a card's tag."""
        return WORDS[self.kind]

    @property
    def levels(self) -> tuple[str, ...]:
        """How much it can think, in the template's own words, least first."""
        return tuple(s.name for s in self.settings if s.name not in ("off", "on", "auto"))

    @property
    def can_be_off(self) -> bool | None:
        """None where nobody knows."""
        if self.kind == "unknown" or (self.kind == "always" and not self.certain):
            return None
        return self.kind == "never" or any(s.name == "off" for s in self.settings)

    @property
    def opened_by_prompt(self) -> dict[str, bool]:
        """By setting: whether the output begins inside the thinking, so that no open marker comes."""
        return {s.name: s.start == "opened" for s in self.settings}

    def setting(self, name: str) -> Setting | None:
        return next((s for s in self.settings if s.name == name), None)

    def as_dict(self) -> dict[str, Any]:
        return {
            **asdict(self),
            "word": self.word,
            "levels": list(self.levels),
            "can_be_off": self.can_be_off,
            "opened_by_prompt": self.opened_by_prompt,
        }


def completed(read: Inference, fact: Inference | None) -> Inference:
    """What the template shows or, if that is not certain, what the catalog knows."""
    if fact is None or fact.kind == "unknown":
        return read
    markers = _together(read.markers, fact.markers)
    if fact.kind == read.kind:
        return replace(read, certain=True, markers=markers, closing_phrase=fact.closing_phrase)
    if read.certain and read.kind != "unknown":
        return replace(read, markers=markers) if read.markers else read
    return replace(fact, markers=markers)


def _together(read: Markers | None, fact: Markers | None) -> Markers | None:
    """The template's word on white space, the catalog's on what is around answers."""
    if read is None or fact is None:
        return read or fact
    if read.close.strip() != fact.close.strip():
        return fact
    return read if read.answer or not fact.answer else replace(read, answer=fact.answer, end=fact.end)


def start_of(prompt: str, markers: Markers | None) -> Start:
    """Where the output begins, from the tail of the prompt alone."""
    if markers is None:
        return "free"
    tail = prompt.rstrip()
    if turn := TURN_BEGUN.search(tail):  # behind a thinking that is a turn of its own, and empty
        empty = re.escape(markers.open.rstrip()) + r"\s*" + re.escape(markers.close.strip()) + "$"
        if re.search(empty, tail[: turn.start()]):
            return "closed"
    if tail.endswith(markers.open.rstrip()):
        return "opened"
    if tail.endswith((markers.close.rstrip(), (markers.answer or markers.close).rstrip())):
        return "closed"
    return "free"


def stated_inference(stated: StatedInference) -> Inference:
    """The catalog's word as an `Inference`: what to pass is known where the switch is a plain yes or no."""
    settings: list[Setting] = []
    boolean = stated.variable in ("enable_thinking", "thinking")
    on = {stated.variable: True} if boolean and stated.variable else {}
    if stated.off or stated.kind == "switchable":
        settings.append(Setting("off", {stated.variable: False} if boolean and stated.variable else {}, "free"))
    for level in stated.levels:
        given = {stated.level_variable: level} if stated.level_variable else {}
        settings.append(Setting(level, {**on, **given}, "free"))
    if stated.kind in ("always", "switchable"):
        settings.append(Setting("on", on, "free"))
    return Inference(
        stated.kind,
        variable=stated.variable,
        level_variable=stated.level_variable,
        default=stated.default or ("on" if stated.kind == "always" else None),
        settings=tuple(settings),
        markers=None if stated.markers is None else _stated_markers(stated.markers, stated.answer),
        closing_phrase=stated.closing_phrase,
        source="the catalog" + (f": {stated.note}" if stated.note else ""),
    )


def _stated_markers(markers: tuple[str, str], answer: tuple[str, str] | None) -> Markers:
    opening, end = answer or (None, None)
    return Markers(*markers, answer=opening, end=end)
