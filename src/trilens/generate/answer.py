"""One request's tokens -> pieces of its thinking and its answer. Every token is counted, and the thinking stays
within its budget.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol

import numpy as np

from trilens.errors import RequestRefused
from trilens.executors.executor import Proposal
from trilens.generate.ends import ANY, EndsBarred, also, without
from trilens.generate.limits import Limits
from trilens.generate.request import UNREAD, Finish
from trilens.text.events import TextEvent
from trilens.text.strategy import Strategy, Thinking
from trilens.text.stream import StopMatcher, TextStream
from trilens.text.thinking import Start
from trilens.text.thoughts import Control, Piece, ThoughtSplitter, TokenCounts
from trilens.text.tokenizer import Tokenizer

ClosedBy = Literal["model", "budget", "caller", "length"]
Calls = Literal["none", "allowed", "forced"]  # whether a constrained answer is a call of a tool
MOST_BREAKS = 2  # lines that a model may leave free between a thinking that it closed and a constrained answer


class Constraint(Protocol):
    """The rules that an answer has to follow, token by token. With `calls` "forced" they also cover what comes
    between the thinking and the call, such as the header of a new turn.
    """

    @property
    def calls(self) -> Calls: ...

    def allowed(self) -> np.ndarray:
        """uint32; bit i of all of them: whether token i may come next."""
        ...

    def take(self, token: int) -> None:
        """The token that came."""
        ...

    def ahead(self, looked_up: Sequence[int], most: int) -> Proposal:
        """Those of the tokens `looked_up` that may come; behind them, up to `most` in all, tokens that the rules leave
        no choice about."""
        ...

    def begin(self, text: str) -> None:
        """The answer begins with this text, which arrived before it was clear that the answer had begun."""
        ...


@dataclass(frozen=True)
class Closing:
    """Tokens that close the thinking from outside. `opening` tokens come first if the prompt has not opened it."""

    ids: tuple[int, ...]
    opening: tuple[int, ...] = ()


@dataclass(frozen=True)
class ThinkingReport:
    """What was requested of the thinking, and what the tokens show.

    `effective` is the setting that was rendered: "off", "on", "auto", a level, or "unknown". `thought`: the model
    thought. `unasked`: it thought although it was told not to, before the answer or, if markers show it, inside.
    `closed_by`: who ended the thinking; None if there was none, or if it never ended.
    """

    requested: Thinking
    effective: str
    budget: int | None
    thought: bool
    unasked: bool
    closed_by: ClosedBy | None


class AnswerWriter:
    """A scheduler's `Writer` that reads text. `unread` gets `ThinkingEvent`s and `TextEvent`s."""

    def __init__(
        self,
        tokenizer: Tokenizer,
        splitter: ThoughtSplitter,
        strategy: Strategy,
        limits: Limits,
        closing: Closing | None,
        *,
        start: Start,
        end_ids: frozenset[int],
        shown: frozenset[int],
        stops: Sequence[str],
        continues: bool,
        constraint: Constraint | None = None,
        barred: EndsBarred | None = None,
    ) -> None:
        """`shown` are the control tokens that markers are made of; `closing` is None where nothing can be closed.

        Raises RequestRefused where the limits leave no room behind the tokens that are put in at the beginning.
        """
        self._constraint = constraint
        self._breaks = MOST_BREAKS
        self._free_words: np.ndarray | None = None
        self._barred = barred
        self.counts = TokenCounts()
        self.tokens = 0
        self.before_answer: int | None = None  # tokens before the answer's first
        self.closed_by: ClosedBy | None = None
        self.close_now = False  # set from any thread: end the thinking with the next token
        self._tokenizer = tokenizer
        self._splitter = splitter
        self._strategy = strategy
        self._limits = limits
        self._closing = closing
        self._start = start
        self._end_ids = end_ids
        self._silent = end_ids | (tokenizer.special_ids - shown)
        self._stream = self._new_stream(continues)
        self._matcher = StopMatcher(stops)
        self._stops = bool(stops)
        self._finished = False
        self._note_answer(0)
        if (first := len(self._first())) and first >= limits.total:
            raise RequestRefused(
                f"the limit on tokens is {limits.total}, and the thinking's markers alone take {first}; "
                f"expected at least {first + 1}"
            )

    @property
    def thinking(self) -> bool:
        return self._splitter.thinking and not self._finished

    @property
    def stop_hit(self) -> str | None:
        """The stop string that ended the answer."""
        return self._matcher.hit

    @property
    def report(self) -> ThinkingReport:
        thought = self.counts.counts["thinking"] > 0
        unasked = self._strategy.effective == "off" and (self._splitter.thought or self._splitter.marked)
        s = self._strategy
        return ThinkingReport(s.requested, s.effective, s.budget, thought, unasked, self.closed_by)

    def begin(self) -> Sequence[int]:
        """Tokens that are put in before the first is drawn: a budget of nothing is used up at once."""
        first = self._first()
        if self._closing is not None and self._strategy.budget == 0:
            self._forced(first[: len(first) - len(self._closing.ids)])
            self._close("budget", deque())
        elif first:
            self._open()
        return first

    def _first(self) -> tuple[int, ...]:
        if self._closing is None:
            return ()
        if self._strategy.budget == 0:
            return self._closing.ids if self._start == "opened" else (*self._closing.opening, *self._closing.ids)
        return self._closing.opening if self._constraint is not None and self._start == "free" else ()

    def allowed(self) -> np.ndarray | None:
        """What the constraint allows next; before the answer begins anything but an end. Ends that are barred are left
        out, unless nothing else is allowed. None: as before."""
        if self._finished:
            return None
        allowed = None
        if self._constraint is not None and not self._constrained:
            allowed = self._free(self._constraint)
        elif self._constraint is not None:
            allowed = self._constraint.allowed()
            if breaks := self._line_breaks():
                allowed = also(allowed, breaks)
        return allowed if self._barred is None else self._barred.rest(allowed, self.tokens)

    def _free(self, constraint: Constraint) -> np.ndarray:
        """What is allowed before a constrained answer."""
        if self._free_words is None:
            self._free_words = without(np.full_like(constraint.allowed(), ANY), self._end_ids)
        return self._free_words

    @property
    def _constrained(self) -> bool:
        """Whether what comes next belongs to the answer; where a marker opens it behind a thinking, not before that."""
        if self.before_answer is not None:
            return True
        markers, forced = self._splitter.markers, self._constraint is not None and self._constraint.calls == "forced"
        marked = not forced and markers is not None and markers.answer is not None and self._splitter.thought
        return self._splitter.answering or not (self._splitter.thinking or marked)

    def take(self, token: int, unread: deque[Any], more: bool = False) -> Finish | Sequence[int] | None:
        self.tokens += 1
        splitter, most = self._splitter, self._limits.thinking
        held = self._constraint is not None and self._held(token, self._constraint)
        if token in self._silent:
            self.counts.control()
        else:
            text = self._stream.push(token)
            pieces = splitter.push(text)
            self.counts.push(text, pieces)
            begun = "".join(p.text for p in pieces if isinstance(p, TextEvent)) + splitter.held
            if self._constraint is not None and not held and splitter.answering and begun:
                self._constraint.begin(begun)
            if self._show(pieces, unread):
                return "stop_string"
        if self.before_answer is None:
            self._note_answer(1)
        if self._closing is not None and splitter.thinking and token not in self._end_ids:
            if self.close_now and not more:
                return self._close_if_room("caller", unread)
            # no more of them are thoughts than there are
            if most is not None and self.tokens >= most and self._thoughts() >= most:
                return self._close_if_room("budget" if self._strategy.budget is not None else "length", unread)
        if self.before_answer is not None and self.tokens - self.before_answer >= self._limits.answer:
            return "context" if self._limits.context_bound else "length"
        return None

    def _held(self, token: int, constraint: Constraint) -> bool:
        """Whether the constraint is in force. It is told the token then, but for line breaks that it does not know."""
        if not self._constrained:
            return False
        lines = self._line_breaks().get(token, 0)
        if lines and not constraint.allowed()[token // 32] >> np.uint32(token % 32) & 1:
            self._breaks -= lines
        else:
            constraint.take(token)
        return True

    def _line_breaks(self) -> dict[int, int]:
        """Line breaks that the model may write now: behind a thinking that it closed itself, as its template does."""
        if self._breaks < 1 or self._splitter.answering or not self._splitter.closed:
            return {}
        return {token: lines for token, lines in self._tokenizer.line_breaks.items() if lines <= self._breaks}

    def lookahead(self) -> int:
        """See `Writer.lookahead`: as far as no limit of the answer or of the thinking can be reached."""
        if self._stops or self._constraint is not None or self.close_now:
            return 1
        answered = self.counts.undecided if self.before_answer is None else self.tokens - self.before_answer
        most = self._limits.answer - answered
        if self._closing is not None and self._limits.thinking is not None:
            most = min(most, self._limits.thinking - self._thoughts())
        if self._barred is not None and self.tokens < self._barred.min_tokens:
            most = min(most, self._barred.min_tokens - self.tokens)
        return max(1, most)

    @property
    def guides(self) -> bool:
        return self._constraint is not None

    def propose(self, looked_up: Sequence[int], most: int) -> Proposal | None:
        """See `Writer.propose`. A thinking before a constrained answer may end inside the draft. The tokens behind its
        end are taken back, because `allowed` is something else there."""
        constraint = self._constraint
        if constraint is None or self._line_breaks():
            return None
        if self._constrained:
            ahead = constraint.ahead(looked_up, most)
        else:
            allowed = np.broadcast_to(free := self._free(constraint), (len(looked_up), len(free)))
            ahead = Proposal(looked_up, len(looked_up), allowed)
        if self._barred is not None and len(ahead.tokens):
            left = [self._barred.rest(words, self.tokens + n) for n, words in enumerate(ahead.allowed, 1)]
            ahead = ahead._replace(allowed=np.stack(left))
        return ahead if len(ahead.tokens) else None

    def draftable(self) -> int:
        """See `Writer.draftable`."""
        if self.close_now:
            return 0
        if self._constraint is not None:
            return UNREAD  # `propose` says what is allowed behind each
        if self._barred is not None and self.tokens < self._barred.min_tokens:
            return self._barred.min_tokens - self.tokens - 1
        return UNREAD

    def end(self, finish: Finish, unread: deque[Any]) -> None:
        self._finished = True
        if self.closed_by is None and self._splitter.thought:
            ended: dict[Finish, ClosedBy | None] = {"length": "length", "context": "length", "stop": "model"}
            self.closed_by = ended.get(finish) if self._splitter.thinking else "model"
        rest = self._stream.finish()
        pieces = [*self._splitter.push(rest), *self._splitter.finish()]
        self.counts.finish(rest, pieces)
        if finish != "stop_string" and not self._show(pieces, unread):
            self._put(self._matcher.finish(), unread)

    def _thoughts(self) -> int:
        """Tokens of thinking so far, those that are still held back taken as such."""
        held = self.counts.silent if self._splitter.idle else self.counts.undecided
        return self.counts.counts["thinking"] + held

    def _close_if_room(self, by: ClosedBy, unread: deque[Any]) -> Finish | Sequence[int]:
        """Close the thinking and go on, or end here where the limit on all tokens leaves no room for an answer."""
        assert self._closing is not None
        if self.tokens + len(self._closing.ids) >= self._limits.total:
            return "context" if self._limits.context_bound else "length"
        return self._close(by, unread)

    def _close(self, by: ClosedBy, unread: deque[Any]) -> Sequence[int]:
        assert self._closing is not None
        self.closed_by = by
        rest = self._stream.finish()
        pieces = [*self._splitter.push(rest), *self._splitter.close()]
        self.counts.finish(rest, pieces)
        self._show(pieces, unread)
        self._stream = self._new_stream(True)
        return self._forced(self._closing.ids)

    def _open(self) -> Sequence[int]:
        """A constrained answer leaves no room for a marker, so a thinking that is asked for begins at once."""
        assert self._closing is not None
        if self._splitter.markers is not None:
            self._splitter.push(self._splitter.markers.open)
        return self._forced(self._closing.opening)

    def _forced(self, ids: Sequence[int]) -> Sequence[int]:
        self.tokens += len(ids)
        self.counts.control(len(ids))
        return ids

    def _note_answer(self, newest: int) -> None:
        """Remember where the answer began: with the newest token, or those before it whose text was held back."""
        if self.before_answer is None and self._splitter.answering:
            self.before_answer = self.tokens - max(newest, self.counts.counts["answer"] + self.counts.undecided)

    def _show(self, pieces: Sequence[Piece], unread: deque[Any]) -> bool:
        """Whether a stop string was completed. They are looked for in the answer alone."""
        for piece in pieces:
            if isinstance(piece, TextEvent) and self._stops:
                text, hit = self._matcher.push(piece.text)
                self._put(text, unread)
                if hit:
                    return True
            elif not isinstance(piece, Control):
                unread.append(piece)
        return False

    def _put(self, text: str, unread: deque[Any]) -> None:
        if text:
            unread.append(TextEvent(text, self._splitter.index))

    def _new_stream(self, continues: bool) -> TextStream:
        return TextStream(self._tokenizer, skip_special=False, continues=continues)
