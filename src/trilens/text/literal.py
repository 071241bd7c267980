"""A caller's text stays text: control tokens in it are replaced while a template renders, and encoded as ordinary
pieces afterwards. Control tokens of the template itself stay tokens.

A template may trim a text, quote it as JSON or search it, so nothing is put around texts. Only the control tokens in
them are replaced, each by a meaningless word of letters and digits. A text without control tokens is not changed, and
neither are its ids.
"""

from __future__ import annotations

import re
import secrets
from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from typing import Any

from trilens.errors import RequestRefused
from trilens.text.conversation import Message, MessagePart, Text, Thought, arguments_of, written
from trilens.text.events import ToolCall
from trilens.text.tokenizer import Tokenizer

MARKED = re.compile(r"<[|\uff5c].*[|\uff5c]>", re.DOTALL)  # how control tokens are written, marked as such or not


def marked(tokenizer: Tokenizer, text: str) -> bool:
    """Whether an added token is special, or written like one: those that open and end turns are."""
    return tokenizer.added.get(text, False) or MARKED.fullmatch(text) is not None


def control_texts(tokenizer: Tokenizer, written: Sequence[str]) -> frozenset[str]:
    """The added tokens that no caller may write: those that are marked as special, that are written like one, or that
    are `written` by the model's templates. White space is text."""
    return frozenset(
        text
        for text, special in tokenizer.added.items()
        if text
        and not text.isspace()
        and (special or MARKED.fullmatch(text) or any(text in source for source in written))
    )


class Literal:
    """The control tokens of one model."""

    def __init__(self, tokenizer: Tokenizer, control: Collection[str]) -> None:
        self.tokenizer = tokenizer
        self.control = frozenset(control)
        self._pattern = re.compile(_any_of(self.control)) if control else None
        self._engine = tokenizer.without(self.control)

    def spans(self, text: str, exempt: Collection[str] = ()) -> list[tuple[int, int]]:
        """The places of control tokens in a text."""
        if self._pattern is None:
            return []
        return [found.span() for found in self._pattern.finditer(text) if found[0] not in exempt]

    def encode(self, text: str, aside: Aside) -> list[int]:
        """The ids of a prompt in which `aside` has put words; what they stand for is ordinary text."""
        if not aside.words:
            return self.tokenizer.encode(text)
        ids: list[int] = []
        for start, end, own in self.tokenizer.runs(text):
            run = text[start:end]
            ids += own if aside.word not in run else self.plain(aside.back(run), follows=start > 0)
        return ids

    def plain(self, text: str, *, follows: bool = False) -> list[int]:
        """The ids of a text in which no control token counts; `follows`: it stands behind a token of the prompt."""
        return self._engine.encode(text, follows)


class Aside:
    """The words of one prompt, and the control tokens that they stand for."""

    def __init__(self, literal: Literal) -> None:
        self.words: list[str] = []
        self._literal = literal

    @cached_property
    def word(self) -> str:
        """The common prefix of all words. Most prompts need none."""
        return f"z{secrets.token_hex(6)}y"

    def message(self, message: Message, exempt: Collection[str] = ()) -> Message:
        """The same with words. `exempt` are markers that a template has to find in the assistant's own text."""
        parts: Sequence[MessagePart] = message.parts
        joined = self._literal.spans("".join(message.texts))
        if len(joined) > sum(len(self._literal.spans(text)) for text in message.texts):
            parts = message.with_texts(["".join(message.texts)]).parts  # a token in two pieces
        return replace(
            message,
            parts=tuple(self._part(part, exempt) for part in parts),
            name=None if message.name is None else self.text(message.name),
            call_id=None if message.call_id is None else self.text(message.call_id),
            other=self.data(message.other),
        )

    def _part(self, part: MessagePart, exempt: Collection[str]) -> MessagePart:
        match part:
            case Text(text):
                return Text(self.text(text, exempt))
            case Thought(text, signature):
                return Thought(self.text(text), signature)
            case ToolCall(id, name, arguments):
                if "\\u" in arguments:  # JSON may spell a token by the numbers of its characters
                    before = len(self.words)
                    data = self.data(arguments_of(part))
                    arguments = written(data) if len(self.words) > before else arguments
                return ToolCall(self.text(id), self.text(name), self.text(arguments))

    def data(self, value: Any) -> Any:
        """JSON data with words in all of its texts."""
        match value:
            case str():
                return self.text(value)
            case Mapping():
                return {self.text(key): self.data(item) for key, item in value.items()}
            case list() | tuple():
                return [self.data(item) for item in value]
            case _:
                return value

    def text(self, text: str, exempt: Collection[str] = ()) -> str:
        spans = self._literal.spans(text, exempt)
        if not spans:
            return text
        pieces, at = [], 0
        for start, end in spans:
            pieces += [text[at:start], f"{self.word}{len(self.words)}x"]
            self.words.append(text[start:end])
            at = end
        return "".join([*pieces, text[at:]])

    def back(self, text: str) -> str:
        """The text with the control tokens put back. Raises RequestRefused if a template has cut or changed a word."""
        if not self.words:
            return text
        made = re.sub(rf"{self.word}(\d+)x", lambda found: self.words[int(found[1])], text)
        if self.word[:8] in made.lower():
            raise RequestRefused(
                f"the model's chat template changes a text that spells a control token such as {self.words[0]!r}; "
                "remove it, or trust control tokens"
            )
        return made


def _any_of(texts: Collection[str]) -> str:
    """A pattern that finds the longest of these texts, and looks at each character of a long text once."""
    tree: dict[str, Any] = {}
    for text in texts:
        node = tree
        for character in text:
            node = node.setdefault(character, {})
        node[""] = {}
    return _branches(tree)


def _branches(node: Mapping[str, Any]) -> str:
    ways = []
    for character, below in node.items():
        path = character
        while len(below) == 1 and "" not in below:
            [(following, below)] = below.items()
            path += following
        if character:
            ways.append(re.escape(path) + _branches(below))
    if not ways:
        return ""
    made = "(?:" + "|".join(ways) + ")"
    return made + "?" if "" in node else made
