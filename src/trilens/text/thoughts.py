"""Text as it arrives -> thoughts, answer, and control text: markers and the white space around them."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

from trilens.text.events import TextEvent, ThinkingEvent
from trilens.text.stream import partial
from trilens.text.thinking import Markers, Start

TokenKind = Literal["thinking", "answer", "control"]
HEADER = 200  # characters between a thinking and its answer, at most, where a marker opens the answer


@dataclass(frozen=True, slots=True)
class Control:
    """Text that is neither thinking nor answer. It is counted, but not shown."""

    text: str
    index: int = 0


Piece = ThinkingEvent | TextEvent | Control
KIND: dict[type[Piece], TokenKind] = {ThinkingEvent: "thinking", TextEvent: "answer", Control: "control"}
RANK: dict[TokenKind, int] = {
    "control": 0,
    "thinking": 1,
    "answer": 2,
}  # a token of several kinds is the highest


class ThoughtSplitter:
    """Splits one output. The pieces that come out are, joined, the text that went in; only what may still become a
    marker is held back, and white space that may turn out to stand beside one.

    `start`: where the output begins, as the prompt leaves it ("answer": in the middle of one). `closers` end a thinking
    as its close marker does, and belong to the answer (a tool call); where a header leads to the answer, one of `calls`
    does too. `reopens`: a second thinking may follow, because the open marker is a control token that no quotation
    holds; elsewhere markers inside an answer are text, and `marked` says that one was there.
    """

    def __init__(
        self,
        markers: Markers | None,
        start: Start = "free",
        *,
        closers: Sequence[str] = (),
        calls: Sequence[str] = (),
        reopens: bool = False,
        index: int = 0,
    ) -> None:
        self.markers = markers
        self.index = index  # of the prompt; each event has it
        self.thought = start == "opened"  # whether it ever was inside a thinking
        self.closed = False  # whether the output itself closed one
        self.marked = False
        self._reopens = reopens
        self._held = ""
        self._tail = ""
        self._state: Literal["before", "thinking", "answer"] = "before"
        self._strip = start == "closed"  # white space here stands between a marker and the answer
        self._fresh = start == "opened"  # the same at the beginning of a thinking
        self._header = False
        # whether the answer's end is looked for
        self._wrapped = markers is not None and markers.end is not None and start in ("closed", "answer")
        self._lead = False  # white space here stands between the answer's marker and the answer
        if markers is None or start == "answer":
            self._state = "answer"
        if markers is None:
            return
        self._closers = (markers.close, *closers)
        self._calls = tuple(calls)
        self._firsts = frozenset(closer[0] for closer in self._closers)
        self._answers = markers.openings
        if start == "opened":
            self._state = "thinking"

    @property
    def thinking(self) -> bool:
        return self._state == "thinking"

    @property
    def held(self) -> str:
        """Text that is held back."""
        return self._held

    @property
    def answering(self) -> bool:
        """Whether the answer has begun."""
        return self._state == "answer"

    def push(self, text: str) -> list[Piece]:
        if text and not self._held and (kind := self._plain(text)) is not None:
            return [kind(text, self.index)]
        self._held += text
        out: list[Piece] = []
        while self._held and self._advance(out):
            pass
        return out

    def _plain(self, text: str) -> type[Piece] | None:
        """The fast path if nothing is held back: the kind of the whole text, if no part of it could belong to a
        marker or be next to one. That is nearly always so.
        """
        if self._state == "thinking":
            quiet = not self._fresh and not text[-1].isspace() and self._firsts.isdisjoint(text)
            return ThinkingEvent if quiet else None
        if self._state == "answer" and not self._wrapped and not self._lead:
            quiet = self.markers is None or (not self._tail and self.markers.open[0] not in text)
            return TextEvent if quiet else None
        return None

    @property
    def idle(self) -> bool:
        """Whether a thinking was opened and no thought has come yet."""
        return self._state == "thinking" and self._fresh

    def close(self) -> list[Piece]:
        """The thinking was closed from outside, so the answer comes next."""
        pieces = self.finish()
        self._state, self._strip, self._fresh = "before", True, False
        return pieces

    def finish(self) -> list[Piece]:
        """What was held back, once no more text comes."""
        held, self._held = self._held, ""
        if not held:
            return []
        if self._state == "before":
            body = held.lstrip()
            cut = self._header and any(marker.startswith(body) for marker in self._answers)  # in the midst of a header
            return [(Control if cut or (self._strip and not body) else TextEvent)(held, self.index)]
        if self._state == "answer":
            ended = self._wrapped and held.strip() == self._end
            return [(Control if ended else TextEvent)(held, self.index)]
        body = held.rstrip() if not self._fresh else held.strip()
        at = held.find(body) if body else 0
        pieces: tuple[tuple[type[Piece], str], ...] = (
            (Control, held[:at]),
            (ThinkingEvent, body),
            (Control, held[at + len(body) :]),
        )
        return [kind(text, self.index) for kind, text in pieces if text]

    def _advance(self, out: list[Piece]) -> bool:
        """One move; False when more text is needed."""
        if self._state == "before":
            return self._before(out)
        return self._inside(out) if self._state == "thinking" else self._after(out)

    def _before(self, out: list[Piece]) -> bool:
        assert self.markers is not None
        body = self._held.lstrip()
        if not body:
            return False
        space = len(self._held) - len(body)
        for marker in (*self._answers, self.markers.open, self.markers.close):
            if body.startswith(marker):
                self._take(out, Control, space + len(marker))
                if marker == self.markers.open:
                    self._open()
                elif marker == self.markers.close:
                    self._strip = True
                else:
                    self._state, self._wrapped = "answer", self.markers.end is not None
                    self._lead = self._wrapped and not self._reopens
                return True
        if self._header and any(body.startswith(call) for call in self._calls):
            self._take(out, Control, space)
            self._state = "answer"
            return True
        markers = (*self._answers, self.markers.open, self.markers.close, *(self._calls if self._header else ()))
        if any(marker.startswith(body) for marker in markers):
            return False
        if self._header and len(body) < HEADER:
            found = [at for m in (*self._answers, self.markers.open, *self._calls) if (at := body.find(m)) >= 0]
            if not found:
                return False
            self._take(out, Control, space + min(found))
            return True
        if self._strip:
            self._take(out, Control, space)
        self._state = "answer"
        return True

    def _inside(self, out: list[Piece]) -> bool:
        assert self.markers is not None
        if self._fresh:
            body = self._held.lstrip()
            if not body or (len(body) < len(self.markers.open) and self.markers.open.startswith(body)):
                return False
            again = len(self.markers.open) if body.startswith(self.markers.open) else 0
            self._fresh = again > 0
            self._take(out, Control, len(self._held) - len(body) + again)
            if not self._held or again:
                return True
        found = [(at, marker) for marker in self._closers if (at := self._held.find(marker)) >= 0]
        if found:
            at, marker = min(found)
            thought = len(self._held[:at].rstrip())
            self._take(out, ThinkingEvent, thought)
            self._take(out, Control, at - thought)
            if marker == self.markers.close:
                self._take(out, Control, len(marker))
                self._wrapped = self.markers.end is not None and self.markers.answer is None
            self._state, self._strip, self.closed = "before", True, True
            self._header = bool(self._answers) and (self._reopens or self.markers.end is None)
            return True
        kept = partial(self._held, self._closers)
        self._take(out, ThinkingEvent, len(self._held[: len(self._held) - kept].rstrip()))
        return False

    def _after(self, out: list[Piece]) -> bool:
        if self.markers is None:
            self._take(out, TextEvent, len(self._held))
            return False
        if self._lead:
            self._take(out, Control, len(self._held) - len(self._held.lstrip()))
            self._lead = not self._held
            return not self._lead
        stops = ((self.markers.open,) if self._reopens else ()) + ((self._end,) if self._wrapped else ())
        found = [(at, marker) for marker in stops if (at := self._held.find(marker)) >= 0]
        if not found:
            kept = partial(self._held, stops)
            ready = self._held[: len(self._held) - kept]
            self._say(out, len(ready.rstrip() if self._wrapped and not self._reopens else ready))
            return False
        at, marker = min(found)
        if marker != self._end:
            self._say(out, at)
            self._take(out, Control, len(marker))
            self._open()
            return True
        if self._reopens:  # a control token: what follows is a turn's next part
            self._say(out, at)
            self._take(out, Control, len(marker))
            self._state, self._strip, self._header, self._wrapped = "before", True, True, False
            return True
        if self._held[at + len(marker) :].isspace() or self._held.endswith(marker):
            self._say(out, len(self._held[:at].rstrip()))  # it ends the answer unless more text follows
            return False
        self._say(out, at + len(marker))
        return True

    @property
    def _end(self) -> str:
        return "" if self.markers is None else self.markers.end or ""

    def _say(self, out: list[Piece], count: int) -> None:
        """So much of what is held back belongs to the answer."""
        if not self._reopens and self.markers is not None:
            seen = self._tail + self._held[:count]
            self.marked = self.marked or self.markers.open in seen
            self._tail = seen[len(seen) - partial(seen, (self.markers.open,)) :]
        self._take(out, TextEvent, count)

    def _open(self) -> None:
        self._state, self._fresh, self.thought = "thinking", True, True

    def _take(self, out: list[Piece], kind: type[Piece], count: int) -> None:
        if count:
            out.append(kind(self._held[:count], self.index))
            self._held = self._held[count:]


class TokenCounts:
    """How many tokens thought, answered or controlled: each is counted once, as the highest kind of its text.

    A token without text of its own is a piece of the character that comes next.
    """

    def __init__(self) -> None:
        self.counts: dict[TokenKind, int] = {"thinking": 0, "answer": 0, "control": 0}
        self._waiting: deque[list[int]] = deque()  # tokens, their characters that are still to come out
        self.silent = 0  # tokens at the end that wrote no character yet
        self._kind: TokenKind = "control"

    @property
    def undecided(self) -> int:
        """Tokens whose text is still held back."""
        return self.silent + sum(tokens for tokens, _ in self._waiting)

    def control(self, tokens: int = 1) -> None:
        """Tokens that write no text: end markers, and what was put in from outside."""
        self.counts["control"] += tokens

    def push(self, text: str, pieces: Sequence[Piece]) -> None:
        """One token's text went in, and these pieces came out."""
        if len(pieces) == 1 and not self._waiting and not self.silent and len(pieces[0].text) == len(text):
            self.counts[KIND[type(pieces[0])]] += 1  # nearly always: all of it, at once
            return
        self.silent += 1
        if text:
            self._waiting.append([self.silent, len(text)])
            self.silent = 0
        self._out(pieces)

    def finish(self, text: str, pieces: Iterable[Piece]) -> None:
        """The end: `text` is what the last, silent tokens came to."""
        if text and self.silent:
            self._waiting.append([self.silent, len(text)])
            self.silent = 0
        self._out(pieces)
        self.control(self.undecided)
        self._waiting.clear()
        self.silent = 0

    def _out(self, pieces: Iterable[Piece]) -> None:
        for piece in pieces:
            left, kind = len(piece.text), KIND[type(piece)]
            while left and self._waiting:
                first = self._waiting[0]
                taken = min(left, first[1])
                first[1] -= taken
                left -= taken
                if RANK[kind] > RANK[self._kind]:
                    self._kind = kind
                if not first[1]:
                    self.counts[self._kind] += first[0]
                    self._kind = "control"
                    self._waiting.popleft()
