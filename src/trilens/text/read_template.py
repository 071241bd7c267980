"""A chat template -> what it can do about thinking, found by rendering it with each known switch on and off and
comparing.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Protocol

from trilens.errors import BadTemplate, RequestRefused
from trilens.text.allowance import together, used_up
from trilens.text.thinking import Inference, Kind, Markers, Role, Setting, start_of

if TYPE_CHECKING:
    from trilens.checkpoints.find import Found


class Template(Protocol):
    """What is needed of a chat template."""

    @property
    def source(self) -> str: ...

    def variables(self) -> frozenset[str] | set[str]: ...

    def render(self, messages: Sequence[Mapping[str, Any]], /, **variables: Any) -> str: ...


# Pairs that families write, the more special first. The third is what opens an answer.
KNOWN_MARKERS = (
    Markers(
        "<|channel|>analysis<|message|>",
        "<|end|>",
        "<|start|>assistant<|channel|>final<|message|>",
        end="<|end|>",
        preamble="<|start|>assistant<|channel|>commentary<|message|>",
    ),
    Markers("<|channel>thought\n", "<channel|>"),
    Markers("<|open|>think<|sep|>", "<|close|>think<|sep|>", "<|open|>response<|sep|>", end="<|close|>response<|sep|>"),
    Markers("<mm:think>", "</mm:think>"),
    Markers("<seed:think>", "</seed:think>"),
    Markers("<longcat_think>", "</longcat_think>"),
    Markers("<ifm|think>", "</ifm|think>"),
    Markers("<|START_THINKING|>", "<|END_THINKING|>"),
    Markers("<|plamo:begin_think:plamo|>", "<|plamo:end_think:plamo|>"),
    Markers("<|inner_prefix|>", "<|inner_suffix|>"),
    Markers("<|content_thinking|>", "<|end_message|>"),
    Markers("to=self<|message|>", "<|eom|>", "to=user<|message|>"),
    Markers("<|think:start|>", "<|think:end|>"),
    Markers("◁think▷", "◁/think▷"),
    Markers("[THINK]", "[/THINK]"),
    Markers("<think>", "</think>"),
    Markers("<|think|>", "<|end|>", "<|begin|>assistant<|content|>", end="<|end|>"),
    Markers("<|think|>", "<|end|>"),
    Markers("Here are my reasoning steps:\n", "[BEGIN FINAL RESPONSE]", end="[END FINAL RESPONSE]"),
    Markers("Here is my thought process:", "Here is my response:"),
)
# Pairs around an answer; a template may also write them around what a tool gave back.
WRAPPERS = (("<answer>", "</answer>"), ("<response>", "</response>"))
SUFFIXED = re.compile(r"<think:[\w-]+>")  # a suffix that changes with the release

SWITCHES = ("enable_thinking", "thinking", "think", "reasoning")
MODES = ("thinking_mode", "think_mode")
MODE_NAMES = {"enabled": "on", "thinking": "on", "on": "on", "disabled": "off", "chat": "off", "off": "off"}
MODE_NAMES |= {"adaptive": "auto", "auto": "auto"}
EFFORTS = ("reasoning_effort", "thinking_effort", "reasoning_strength")
NO_EFFORT = ("none", "no_think", "off")
LEVELS = ("minimal", "low", "medium", "high", "xhigh", "max")
PLAIN_LEVELS = ("low", "medium", "high")  # where a template prints whatever it is given, unchecked
EFFORT_FLAGS = {"low_effort": "low", "medium_effort": "medium"}
BUDGETS = ("thinking_budget",)
TEXT_SWITCHES = (("/think", "/no_think"), ("/think", "/nothink"), ("detailed thinking on", "detailed thinking off"))
NONSENSE = "zebra"

SECONDS = 3.0  # of processor time for all renderings of one template; those in use take a tenth of a second

ASK = ({"role": "user", "content": "Hello"},)


def inference_of(template: Template | None, source: str = "the chat template") -> Inference:
    """Render a small conversation with each known switch in each position, and compare.

    Raises BadTemplate for a template with which all of this together takes more than SECONDS.
    """
    if template is None:
        return Inference("unknown")
    with together(SECONDS):
        try:
            found = _Reader(template).read(source)
        except (BadTemplate, RequestRefused) as problem:
            found = Inference("unknown", certain=False, source=f"{source} cannot be rendered: {problem}")
        if used_up():  # then what was found may be missing something
            raise BadTemplate(
                f"{source} takes more than {SECONDS:g} s of processor time for a few short conversations; "
                "it is damaged or hostile, use another"
            )
        return found


def read_inference(found: Found) -> Inference:
    """From a model's small files alone."""
    from trilens.text.template import directory_template, gguf_template

    try:
        if found.kind == "gguf":
            from trilens.checkpoints.gguf import read_gguf

            checkpoint = read_gguf(found.path)
            template = gguf_template(checkpoint.metadata, None)
            checkpoint.close()
        else:
            template = directory_template(found.path if found.path.is_dir() else found.path.parent, None)
        return inference_of(template)
    except BadTemplate as problem:
        return Inference("unknown", certain=False, source=str(problem))


class _Reader:
    """One template under examination; `seen` collects everything it printed, where markers are looked for."""

    def __init__(self, template: Template) -> None:
        self.template = template
        self.known = template.variables()
        self.plain = self._must_render({})
        self.seen = [self.plain]

    def read(self, source: str) -> Inference:
        switch = self._switch()
        efforts = self._efforts(switch)
        budget = next((name for name in BUDGETS if self._differs({name: 0}, {name: -1})), None)
        texts = [] if switch or efforts or budget else self._text_switch()
        markers = self._markers()
        settings = [
            Setting(name, variables, start_of(prompt, markers)) for name, variables, prompt in [*switch, *efforts]
        ]
        settings += [Setting(name, {}, start_of(prompt, markers), text, role) for name, text, role, prompt in texts]
        if budget is not None and not settings:
            for name, value in (("off", 0), ("on", -1)):
                prompt = self._render({budget: value}) or ""
                settings.append(Setting(name, {budget: value}, start_of(prompt, markers)))
        settings = _without_closed_levels(settings)
        default = self._default(settings)
        if settings and default is None:
            default = "auto"
            settings.append(Setting("auto", {}, start_of(self.plain, markers)))
        level_variable = next((v for _, given, _ in efforts for v in given if v in EFFORTS or v in EFFORT_FLAGS), None)
        variable = next(iter(switch[0][1]), None) if switch else budget
        kind: Kind
        certain = True
        if any(s.name in LEVELS for s in settings):
            kind = "levels"
        elif settings:
            kind = "switchable"
        elif start_of(self.plain, markers) == "opened":
            kind, settings = "always", [Setting("on", {}, "opened")]
        elif start_of(self.plain, markers) == "closed":
            kind = "never"
        elif markers is not None and self._asks_for_thoughts(markers):
            kind, settings = "always", [Setting("on", {}, start_of(self.plain, markers))]
        elif markers is not None:  # it handles thoughts, and may be a model's that has none
            kind, certain = "unknown", False
        else:
            kind, certain = "never", False
        return Inference(
            kind,
            variable=variable or (level_variable if kind == "switchable" else None),
            level_variable=level_variable,
            budget_variable=budget,
            default=default or ("on" if kind == "always" else None),
            settings=tuple(sorted(settings, key=_by_amount)),
            markers=None if kind == "never" or markers is None else self._with_spaces(self._with_answer(markers)),
            certain=certain,
            source=source,
        )

    # ------------------------------------------------------------------------------------ switches

    def _switch(self) -> list[tuple[str, dict[str, Any], str]]:
        """(setting, variables, prompt) for each position of what turns the thinking on and off; empty without one."""
        for name in SWITCHES:
            if self._differs({name: False}, {name: True}):
                return [
                    (word, {name: value}, self._render({name: value}) or "")
                    for word, value in (("off", False), ("on", True))
                ]
        for name in MODES:
            if name in self.known:
                return self._modes(name)
        return []

    def _modes(self, name: str) -> list[tuple[str, dict[str, Any], str]]:
        found: dict[str, tuple[str, dict[str, Any], str]] = {}
        for value, word in MODE_NAMES.items():
            prompt = self._render({name: value})
            if prompt is not None and self._quotes(value):
                found.setdefault(word, (word, {name: value}, prompt))
        return list(found.values()) if len({prompt for _, _, prompt in found.values()}) > 1 else []

    def _efforts(self, switch: list[tuple[str, dict[str, Any], str]]) -> list[tuple[str, dict[str, Any], str]]:
        """Levels, and "off" where an effort is what switches; each with the switch on where there is one."""
        on = next((variables for word, variables, _ in switch if word == "on"), {})
        for name in EFFORTS:
            if name not in self.known:
                continue
            nonsense = self._render({**on, name: NONSENSE})
            rows = [(value, {**on, name: value}, self._render({**on, name: value})) for value in (*NO_EFFORT, *LEVELS)]
            found = [(v, given, p) for v, given, p in rows if p is not None and self._understood(v, p, nonsense)]
            levels = [row for row in found if row[0] in LEVELS]
            offs = [("off", given, prompt) for value, given, prompt in found if value in NO_EFFORT]
            if offs and len({prompt for *_, prompt in levels}) == 1:
                levels = [("on", *levels[0][1:])]
            if offs and not levels and offs[0][2] != self.plain:
                levels = [("on", dict(on), self.plain)]
            if len({prompt for *_, prompt in [*offs, *levels]} | ({nonsense} if levels and nonsense else set())) > 1:
                return ([] if switch else offs[:1]) + ([] if switch and levels[0][0] == "on" else levels)
        flags = []
        for name, level in EFFORT_FLAGS.items():
            if self._differs({**on, name: False}, {**on, name: True}):
                flags.append((level, {**on, name: True}, self._render({**on, name: True}) or ""))
        return flags

    def _understood(self, value: str, prompt: str, nonsense: str | None) -> bool:
        """Whether the template knows this level, judged by what it makes of a word that is none (None: it refuses)."""
        if nonsense is None:
            return True
        if NONSENSE in nonsense.lower():  # it prints what it is given
            echo = nonsense.replace(NONSENSE, value).replace(NONSENSE.capitalize(), value.capitalize())
            return prompt != echo or value in PLAIN_LEVELS
        return prompt != nonsense or self._quotes(value)

    def _text_switch(self) -> list[tuple[str, str | None, Role | None, str]]:
        """Switches that are words in a message, which the template itself looks for."""
        for on, off in TEXT_SWITCHES:
            if off not in self.template.source:
                continue
            roles: tuple[Role, ...] = ("system", "user")
            for role in roles:
                without, thinking = self._with_text(role, off), self._with_text(role, on)
                if without is not None and thinking is not None and without.replace(off, on) != thinking:
                    return [("off", off, role, without), ("on", on, role, thinking)]
        # a default system message that asks for the thinking, and goes when the caller writes another
        own = self._with_text("system", "Be kind.")
        for markers in KNOWN_MARKERS:
            if own is not None and markers.open in self.plain[:-40] and markers.open not in own:
                return [("off", "", "system", own), ("on", None, None, self.plain)]
        return []

    def _with_text(self, role: Role, text: str) -> str | None:
        messages = [{"role": "user", "content": f"{text} Hello" if role == "user" else "Hello"}]
        if role == "system":
            messages.insert(0, {"role": "system", "content": text})
        return self._render({}, messages)

    def _default(self, settings: list[Setting]) -> str | None:
        """The setting whose prompt is that of the untouched template, white space aside: a line that sets a variable
        may leave some behind."""
        plain = self.plain.split()
        for setting in sorted(settings, key=lambda s: s.name == "on"):  # a level that is the default says more
            if setting.text is None and (self._render(dict(setting.variables)) or "").split() == plain:
                return setting.name
        return "on" if any(s.text is not None for s in settings) else None

    # ------------------------------------------------------------------------------------- markers

    def _markers(self) -> Markers | None:
        """Of the pairs that occur, the one at the tail of a prompt, else the first."""
        self._render_history()
        text = "\n".join([self.template.source.replace("\\n", "\n"), *self.seen])
        tails = [p.rstrip() for p in self.seen]
        opened = [m for m in KNOWN_MARKERS if any(tail.endswith(m.open.rstrip()) for tail in tails)]
        there = opened + [m for m in KNOWN_MARKERS if m.open in text and m.close in text]
        there = [m for m in there if not m.answer or m.openings[-1] in text or not _has_twin(m)]
        if not there:  # an opener of two parts whose second one the template never writes
            there = [m for m in KNOWN_MARKERS if m.open.endswith("\n") and m.open.partition(">")[0] + ">" in text]
            there = [m for m in there if m.close in text]
        there += [Markers(open_, "</" + open_[1:]) for open_ in sorted(set(SUFFIXED.findall("\n".join(self.seen))))]
        if not there:  # a close marker that is a line of its own, which nobody writes for another reason
            there = [m for m in KNOWN_MARKERS if m.close.startswith("[BEGIN") and m.close in text]
        if not there and "</think>" in text:
            there = [Markers("<think>", "</think>")]
        for markers in there:
            if any(tail.endswith((markers.open.rstrip(), markers.close.rstrip())) for tail in tails):
                return markers
        return there[0] if there else None

    def _asks_for_thoughts(self, markers: Markers) -> bool:
        """Whether each prompt tells the model to write the close marker, whatever the system message."""
        own = self._with_text("system", "Be kind.")
        return markers.close in self.plain and (own is None or markers.close in own)

    def _with_answer(self, markers: Markers) -> Markers:
        """With what the model wraps its answer in: a pair that prompts name, or that is taken out of old turns."""
        if markers.answer is not None or markers.end is not None:
            return markers
        for open_, close in WRAPPERS:
            if open_ not in self.template.source or close not in self.template.source:
                continue
            said = f"{open_}\nHi there.\n{close}"
            turn = {"role": "assistant", "content": f"{markers.open}I.{markers.close}{said}"}
            old = self._render({}, [*ASK, turn, *ASK])
            named = any(open_ in prompt and said not in prompt for prompt in self.seen)
            if named or (old is not None and open_ not in old and "Hi there." in old):
                return replace(markers, answer=open_, end=close)
        return markers

    def _with_spaces(self, markers: Markers) -> Markers:
        """The white space around the close marker, where a turn that still goes on, or a prompt, shows it."""
        around = re.compile(r"I see\.(\s*)" + re.escape(markers.close) + r"(\s*)" + re.escape(markers.answer or "Hi."))
        if found := next(filter(None, map(around.search, self.seen)), None):
            return replace(markers, before_close=found[1], after_close="" if markers.answer else found[2])
        behind = re.compile(re.escape(markers.close) + r"(\s*)$")
        closed = next(filter(None, map(behind.search, self.seen)), None)
        lines = any(prompt.endswith(markers.open.rstrip() + "\n") for prompt in self.seen)
        return replace(markers, before_close="\n" if lines else "", after_close=closed[1] if closed else "")

    def _render_history(self) -> None:
        """Render old thoughts in the current turn and in an earlier one. The markers show around them."""
        thought = dict.fromkeys(("reasoning_content", "reasoning", "thinking"), "I see.")
        self._render({}, [*ASK, {"role": "assistant", "content": "Hi.", **thought}, *ASK])
        self._render({}, [*ASK, {"role": "assistant", "content": "Hi.", **thought}])

    # ----------------------------------------------------------------------------------- rendering

    def _differs(self, a: dict[str, Any], b: dict[str, Any]) -> bool:
        if not set(a) & set(self.known):
            return False
        first, second = self._render(a), self._render(b)
        return first is not None and second is not None and first != second

    def _quotes(self, value: str) -> bool:
        return f"'{value}'" in self.template.source or f'"{value}"' in self.template.source

    def _render(self, variables: dict[str, Any], messages: Sequence[Mapping[str, Any]] = ASK) -> str | None:
        """None where the template refuses, and once the time for all renderings is used up."""
        if used_up():
            return None
        try:
            prompt = self.template.render(messages, **variables)
        except (BadTemplate, RequestRefused):
            return None
        self.seen.append(prompt)
        return prompt

    def _must_render(self, variables: dict[str, Any]) -> str:
        return self.template.render(ASK, **variables)


def _without_closed_levels(settings: list[Setting]) -> list[Setting]:
    """Remove levels that close the thinking in advance, because they do not think, whatever their name. A single
    level means on.
    """
    levels = [setting for setting in settings if setting.name in LEVELS]
    closed = [setting for setting in levels if setting.start == "closed"]
    if not closed or len(closed) == len(levels):
        return settings
    kept = [setting for setting in settings if setting not in closed]
    if not any(setting.name == "off" for setting in kept):
        kept.insert(0, replace(closed[0], name="off"))
    if len(levels) - len(closed) == 1:
        kept = [replace(setting, name="on") if setting in levels else setting for setting in kept]
    return kept


def _by_amount(setting: Setting) -> int:
    order = ("off", "auto", *LEVELS, "on")
    return order.index(setting.name) if setting.name in order else len(order)


def _has_twin(markers: Markers) -> bool:
    return any(other.open == markers.open for other in KNOWN_MARKERS if other is not markers)
