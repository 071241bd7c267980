"""Text as tokens arrive: never half a character, and never a part of a stop string."""

import codecs
from collections.abc import Sequence

from trilens.errors import RequestRefused
from trilens.text.tokenizer import Tokenizer


class TextStream:
    """Decodes token by token. What `push` and, at the end, `finish` return adds up to `Tokenizer.decode` of all ids.

    A token has the same bytes wherever it stands, so nothing is decoded twice: the work for a token is the length of
    its own text, and at most three bytes wait for the rest of their character.
    """

    def __init__(self, tokenizer: Tokenizer, *, skip_special: bool = True, continues: bool = False) -> None:
        self._tokenizer = tokenizer
        self._hidden = tokenizer.special_ids if skip_special else frozenset()
        self._strip = tokenizer.spelling.leading_space and not continues
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self._broken = False  # inside a character

    def push(self, token_id: int) -> str:
        """The text that is complete with this token; often a word, sometimes nothing."""
        if token_id in self._hidden:
            return ""
        if not (self._broken or self._strip) and (text := self._tokenizer.whole(token_id)) is not None:
            return text  # nearly always
        piece = self._tokenizer.piece(token_id)
        if self._strip and piece:
            piece, self._strip = piece.removeprefix(b" "), False
        text = self._decoder.decode(piece)
        self._broken = bool(self._decoder.getstate()[0])
        return text

    def finish(self) -> str:
        """What is left: U+FFFD if the last character never became whole."""
        self._broken = False
        return self._decoder.decode(b"", final=True)


class StopMatcher:
    """Finds the first stop string in text that comes in pieces, and holds back only what may still become one.

    The first to be complete wins, whatever the pieces; of several that are complete with the same character, the
    longest. Raises RequestRefused for an empty stop string.
    """

    def __init__(self, stops: Sequence[str]) -> None:
        if not all(stops):
            raise RequestRefused("a stop string is empty; expected at least one character")
        self.hit: str | None = None  # the one that was completed
        self._stops = sorted(set(stops), key=len, reverse=True)
        self._held = ""

    def push(self, text: str) -> tuple[str, bool]:
        """(text that is safe to show, whether a stop string was completed). After a hit there is no more to push."""
        if not self._stops:
            return text, False
        text = self._held + text
        found = [(at + len(stop), at, stop) for stop in self._stops if (at := text.find(stop)) >= 0]
        if found:
            self._held = ""
            _, at, self.hit = min(found)
            return text[:at], True
        keep = partial(text, self._stops)
        self._held = text[len(text) - keep :]
        return text[: len(text) - keep], False

    def finish(self) -> str:
        """The text that was held back, when no more text comes."""
        held, self._held = self._held, ""
        return held


def partial(text: str, wanted: Sequence[str]) -> int:
    """How many characters at the end of `text` may still become one of `wanted`."""
    for first in wanted:
        if first[0] in text:
            break
    else:  # nearly always, and quickly
        return 0
    longest = max(map(len, wanted), default=0)
    lengths = range(min(longest - 1, len(text)), 0, -1)
    return next((n for n in lengths if any(w.startswith(text[-n:]) for w in wanted)), 0)
