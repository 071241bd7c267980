"""What a chat template reads of a conversation, found by rendering small ones and looking at the output.

Templates differ in whether a call's arguments are an object or its JSON, whether a content is a text or a list of
parts, how thoughts are passed, and whether a turn that continues after a tool result gets a generation prompt.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from trilens.text.conversation import THOUGHT_KEYS, Message, arguments_of
from trilens.text.events import ToolCall

Render = Callable[..., str | None]  # (messages, tools=..., add_generation_prompt=...): None where it fails
ROLES = ("system", "user", "assistant", "tool")
SHORT_ID = re.compile(r"[A-Za-z0-9]{9}")  # all that Mistral's templates take


@dataclass(frozen=True)
class Accepts:
    """`texts` and `parts` are the roles whose content is read as a text, and as a list of text parts.

    `arguments`: how a call's arguments are read. `empty`: what stands for the content of a message that only calls.
    `calls_beside_text`: calls are shown also where something was said with them. `short_ids`: ids of calls have nine
    letters or digits. `several_systems`: more than one system message at the beginning is shown. `thoughts`: whether
    thoughts are read from a message's fields, from parts of its content, or not at all. `after_result`: a turn that
    goes on behind a tool's result gets a generation prompt.
    """

    texts: frozenset[str] = frozenset(ROLES)
    parts: frozenset[str] = frozenset()
    arguments: Literal["mapping", "text"] = "mapping"
    empty: Literal["text", "null", "absent"] = "text"
    calls_beside_text: bool = True
    short_ids: bool = False
    several_systems: bool = True
    thoughts: Literal["fields", "parts", "none"] = "fields"
    after_result: bool = True

    def shown(self, messages: Sequence[Message]) -> list[dict[str, Any]]:
        """The messages in the form that the template reads."""
        return [self._message(message) for message in self._joined(messages)]

    def _joined(self, messages: Sequence[Message]) -> list[Message]:
        """With one system message where the template shows only one, and calls in a message of their own where it
        shows no others."""
        out: list[Message] = []
        if not self.several_systems:
            leading = next((i for i, m in enumerate(messages) if m.role != "system"), len(messages))
            if leading > 1:
                texts = [message.text for message in messages[:leading]]
                messages = [messages[0].with_texts(["\n\n".join(texts)]), *messages[leading:]]
        for message in messages:
            if message.calls and message.text and not self.calls_beside_text:
                said = tuple(part for part in message.parts if not isinstance(part, ToolCall))
                out.append(Message(message.role, said, message.name, other=message.other))
                message = Message(message.role, tuple(message.calls), message.name, other=message.other)
            out.append(message)
        return out

    def _message(self, message: Message) -> dict[str, Any]:
        made: dict[str, Any] = {"role": message.role, **message.other, "content": self._content(message)}
        if message.name is not None:
            made["name"] = message.name
        if message.call_id is not None:
            made["tool_call_id"] = self._id(message.call_id)
        if message.thinking:
            made |= dict.fromkeys(THOUGHT_KEYS, message.thinking)
        if message.calls:
            made["tool_calls"] = [self._call(call) for call in message.calls]
            if not message.texts and not isinstance(made["content"], list):
                if self.empty == "null":
                    made["content"] = None
                elif self.empty == "absent":
                    del made["content"]
        return made

    def _content(self, message: Message) -> str | list[dict[str, str]]:
        texts, role = message.texts, message.role
        thoughts = [message.thinking] if self.thoughts == "parts" and message.thinking else []
        listed = role in self.parts and (len(texts) > 1 or role not in self.texts)
        if not thoughts and (not listed or not texts):
            return message.text
        return [
            *({"type": "thinking", "thinking": thought} for thought in thoughts),
            *({"type": "text", "text": text} for text in texts),
        ]

    def _call(self, call: ToolCall) -> dict[str, Any]:
        arguments = call.arguments if self.arguments == "text" else arguments_of(call)
        made = {"type": "function", "function": {"name": call.name, "arguments": arguments}}
        return {"id": self._id(call.id), **made} if call.id else made

    def _id(self, id: str) -> str:
        if not self.short_ids or SHORT_ID.fullmatch(id):
            return id
        return hashlib.sha256(id.encode("utf-8", "surrogatepass")).hexdigest()[:9]


# ---- the probe ----

USER = {"role": "user", "content": "Hello"}
KEY, VALUE, SAID, GAVE, SEEN = "probed_key", "probed value", "Gladly said.", "Result seven.", "I saw it."
TOOL = {
    "type": "function",
    "function": {
        "name": "look_up",
        "description": "Looks something up.",
        "parameters": {"type": "object", "properties": {KEY: {"type": "string"}}, "required": [KEY]},
    },
}
NINE, LONG = "abcdef123", "call_0123456789abcdef0123"
DUMPED = re.compile(r"""type['"]:\s*['"](text|thinking)""")  # a list of parts, as Python or JSON writes it


def probed(render: Render) -> Accepts:
    """`render` prints exactly the messages that it is given."""
    return _Probe(render).read()


class _Probe:
    def __init__(self, render: Render) -> None:
        self._render = render
        self._as_list = False  # whether all that the user says goes in as a list

    def read(self) -> Accepts:
        plain = ({"messages": [USER]}, {"messages": [{**USER, "content": _listed("Hello")}]})
        if not any(self._render(**asked, tools=tools) is not None for tools in (None, [TOOL]) for asked in plain):
            return Accepts()  # it renders nothing at all, and whoever uses it is told why
        texts, parts = self._contents()
        self._as_list = "user" not in texts and "user" in parts
        arguments, empty = self._arguments()
        call = self._call(arguments, empty)
        after = [self._shown([*self._asked, call, self._result()], add_generation_prompt=on) for on in (True, False)]
        return Accepts(
            texts=texts,
            parts=parts,
            arguments=arguments,
            empty=empty,
            calls_beside_text=self._beside_text(arguments),
            short_ids=after[0] is not None and self._exchange(self._call(arguments, empty, id=LONG), LONG) is None,
            several_systems=self._systems("system" not in texts and "system" in parts),
            thoughts=self._thoughts(call),
            after_result=after[0] is None or after[0] != after[1],
        )

    @property
    def _asked(self) -> list[dict[str, Any]]:
        return [{**USER, "content": _listed("Hello")} if self._as_list else USER]

    def _shown(self, messages: Sequence[Mapping[str, Any]], **options: Any) -> str | None:
        called = any(message.get("tool_calls") for message in messages)
        return self._render(messages, tools=[TOOL] if called else None, **options)

    def _contents(self) -> tuple[frozenset[str], frozenset[str]]:
        """The roles whose content is shown where it is a text, and where it is a list of parts."""
        texts, parts = set[str](), set[str]()
        for role in ("user", "system", "assistant", "tool"):
            self._as_list = role != "user" and "user" not in texts and "user" in parts
            if self._has(self._said(role, SAID), [SAID]):
                texts.add(role)
            pieces = ["First bit.", "Second bit."]
            if self._has(self._said(role, _listed(*pieces)), pieces):
                parts.add(role)
        unknown = set(ROLES) - texts - parts
        usual = texts if "user" in texts or "user" not in parts else parts
        usual |= unknown  # what is never shown goes the user's way
        return frozenset(texts), frozenset(parts)

    def _said(self, role: str, content: Any) -> str | None:
        message = {"role": role, "content": content}
        if role == "user":
            return self._shown([message])
        if role == "system":
            return self._shown([message, *self._asked])
        if role == "assistant":
            return self._shown([*self._asked, message, *self._asked])
        result = self._result() | message
        calls = [self._call("mapping", "text"), self._call("text", "text"), self._call("text", "null")]
        tries = (self._shown([*self._asked, call, result]) for call in calls)
        return next((prompt for prompt in tries if prompt is not None), None)

    @staticmethod
    def _has(prompt: str | None, pieces: Iterable[str]) -> bool:
        """Whether these texts are in the prompt, and not written as a Python or JSON list of parts."""
        return prompt is not None and all(piece in prompt for piece in pieces) and not DUMPED.search(prompt)

    def _call(self, arguments: str, empty: str, text: str = "", id: str = NINE) -> dict[str, Any]:
        given: Any = {KEY: VALUE} if arguments == "mapping" else f'{{"{KEY}": "{VALUE}"}}'
        function = {"name": "look_up", "arguments": given}
        made = {"role": "assistant", "tool_calls": [{"id": id, "type": "function", "function": function}]}
        return made if empty == "absent" else {**made, "content": text if empty == "text" else None}

    def _result(self, id: str = NINE) -> dict[str, Any]:
        return {"role": "tool", "content": GAVE, "tool_call_id": id, "name": "look_up"}

    def _exchange(self, call: Mapping[str, Any], id: str = NINE) -> str | None:
        return self._shown([*self._asked, call, self._result(id)])

    def _arguments(self) -> tuple[Literal["mapping", "text"], Literal["text", "null", "absent"]]:
        """The first form in which a call is shown as JSON or in the template's own format, without being encoded
        twice.
        """
        tries: list[tuple[Literal["mapping", "text"], Literal["text", "null", "absent"]]] = [
            (arguments, empty) for arguments in ("mapping", "text") for empty in ("text", "null", "absent")
        ]
        prompts = {pair: self._exchange(self._call(*pair)) for pair in tries}
        for wanted in (_as_it_should, _at_all):
            for pair, prompt in prompts.items():
                if prompt is not None and wanted(prompt):
                    return pair
        return next((pair for pair, prompt in prompts.items() if prompt is not None), tries[0])

    def _beside_text(self, arguments: str) -> bool:
        """Also true if a call is never shown."""
        alone = [self._exchange(self._call(arguments, empty)) for empty in ("text", "null", "absent")]
        beside = self._exchange(self._call(arguments, "text", text=SAID))
        return beside is None or VALUE in beside or not any(prompt and VALUE in prompt for prompt in alone)

    def _systems(self, as_list: bool) -> bool:
        def system(text: str) -> dict[str, Any]:
            return {"role": "system", "content": _listed(text) if as_list else text}

        two = self._shown([system("First rule."), system("Second rule."), *self._asked])
        if two is not None and "First rule." in two and "Second rule." in two:
            return True
        one = self._shown([system("First rule."), *self._asked])
        return one is None or "First rule." not in one

    def _thoughts(self, call: Mapping[str, Any]) -> Literal["fields", "parts", "none"]:
        fields = dict.fromkeys(THOUGHT_KEYS, SEEN)
        part = {"type": "thinking", "thinking": SEEN}
        said = {"role": "assistant", "content": SAID}
        ways: list[tuple[Literal["fields", "parts"], list[dict[str, Any]]]] = [
            ("fields", [{**said, **fields}, {**call, **fields}]),
            ("parts", [{**said, "content": [part, *_listed(SAID)]}, {**call, "content": [part]}]),
        ]
        for word, messages in ways:
            prompts = [
                self._shown([*self._asked, messages[0]]),
                self._shown([*self._asked, messages[0], *self._asked]),
                self._exchange(messages[1]),
            ]
            if any(prompt is not None and SEEN in prompt and not DUMPED.search(prompt) for prompt in prompts):
                return word
        return "none"


def _listed(*texts: str) -> list[dict[str, str]]:
    return [{"type": "text", "text": text} for text in texts]


def _at_all(prompt: str) -> bool:
    return VALUE in prompt


def _as_it_should(prompt: str) -> bool:
    """With the arguments in it, neither as Python writes them nor as JSON inside JSON, and no None for a content."""
    wrong = f"'{KEY}'" in prompt or f'\\"{KEY}' in prompt or "None" in prompt
    return KEY in prompt and VALUE in prompt and GAVE in prompt and not wrong
