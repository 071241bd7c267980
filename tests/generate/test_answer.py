"""One request's tokens as the scheduler gives them to its writer: pieces, counts, budgets, and who closed."""

from __future__ import annotations

from collections import deque
from dataclasses import replace
from typing import Any

import pytest

import trilens
from trilens.generate.answer import AnswerWriter, Closing
from trilens.generate.limits import request_limits
from trilens.text.events import EndEvent
from trilens.text.read_template import KNOWN_MARKERS
from trilens.text.strategy import Strategy
from trilens.text.thinking import Markers, Start
from trilens.text.thoughts import KIND, ThoughtSplitter
from trilens.text.tokenizer import Tokenizer

THINK = Markers("<think>", "</think>", before_close="\n", after_close="\n\n")


class Run:
    """A writer, fed by hand with the tokens of a text."""

    def __init__(
        self,
        tokenizer: Tokenizer,
        *,
        markers: Markers | None = THINK,
        start: Start = "opened",
        effective: str = "on",
        budget: int | None = None,
        max_tokens: int | None = 50,
        stops: tuple[str, ...] = (),
    ) -> None:
        self.tokenizer = tokenizer
        closing = () if markers is None else tuple(tokenizer.encode(markers.closing))
        opening = () if markers is None else tuple(tokenizer.encode(markers.open))
        thinks = effective != "off" and markers is not None
        limits = request_limits(2048, 10, max_tokens, thinks=thinks, budget=budget, extra=len(closing) + len(opening))
        self.writer = AnswerWriter(
            tokenizer,
            ThoughtSplitter(markers, start),
            Strategy(None, effective, budget=budget),
            limits,
            Closing(closing, opening) if thinks else None,
            start=start,
            end_ids=tokenizer.eos_ids,
            shown=frozenset(),
            stops=stops,
            continues=False,
        )
        self.unread: deque[Any] = deque()
        self.tokens = list(self.writer.begin())
        self.why: Any = None

    def say(self, text: str, until_closed: bool = False) -> Run:
        for token in self.tokenizer.encode(text):
            if self.why is not None or (until_closed and self.writer.closed_by is not None):
                break
            self.tokens.append(token)
            follows = self.writer.take(token, self.unread)
            if isinstance(follows, str):
                self.why = follows
            elif follows:
                self.tokens.extend(follows)
        return self

    def end(self, why: Any = "stop") -> Run:
        if why == "stop":
            self.tokens.append(min(self.tokenizer.eos_ids))
            self.writer.take(self.tokens[-1], self.unread)
        self.writer.end(self.why or why, self.unread)
        assert sum(self.writer.counts.counts.values()) == len(self.tokens) == self.writer.tokens
        return self

    def part(self, part: str) -> str:
        return "".join(p.text for p in self.unread if KIND[type(p)] == part)

    @property
    def counts(self) -> tuple[int, int, int]:
        c = self.writer.counts.counts
        return c["thinking"], c["answer"], c["control"]


def test_thoughts_and_answer(small_tokenizer: Tokenizer) -> None:
    run = Run(small_tokenizer).say("12+3\n</think>\n\n15").end()
    assert (run.part("thinking"), run.part("answer")) == ("12+3", "15")
    assert run.counts[0] == len(small_tokenizer.encode("12+3")) and run.counts[1] == 2
    report = run.writer.report
    assert (report.thought, report.unasked, report.closed_by) == (True, False, "model")


@pytest.mark.parametrize("budget", [1, 2, 3, 8, 64])
@pytest.mark.parametrize("start", ["opened", "free"])
def test_a_budget_is_never_exceeded_and_the_answer_is_there(
    small_tokenizer: Tokenizer, budget: int, start: Start
) -> None:
    run = Run(small_tokenizer, budget=budget, start=start)
    thoughts = "1 \N{GRINNING FACE} 2 </thin 3 " * 20
    run.say(("" if start == "opened" else "<think>") + thoughts, until_closed=True)
    run.say("\n\n42").end()
    assert run.counts[0] <= budget
    assert run.part("answer") == "42"
    assert run.writer.report.closed_by == "budget"
    closing = small_tokenizer.encode(THINK.closing)
    assert any(run.tokens[i : i + len(closing)] == closing for i in range(len(run.tokens)))


def test_a_budget_that_is_not_used_up_closes_nothing(small_tokenizer: Tokenizer) -> None:
    assert Run(small_tokenizer, budget=64).say("1+1=2</think>2").end().writer.report.closed_by == "model"


@pytest.mark.parametrize(("start", "opened"), [("opened", ""), ("free", "<think>")])
def test_a_budget_of_nothing(small_tokenizer: Tokenizer, start: Start, opened: str) -> None:
    run = Run(small_tokenizer, budget=0, start=start)
    assert run.tokens == small_tokenizer.encode(opened) + small_tokenizer.encode(THINK.closing)
    run.say("42").end()
    assert (run.counts[0], run.part("thinking"), run.part("answer")) == (0, "", "42")
    assert run.writer.report.closed_by == "budget"


def test_the_caller_ends_the_thinking(small_tokenizer: Tokenizer) -> None:
    run = Run(small_tokenizer).say("1+")
    run.writer.close_now = True
    run.say("1").say("2").end()
    assert (run.part("thinking"), run.part("answer"), run.writer.report.closed_by) == ("1+1", "2", "caller")


def test_a_thinking_without_a_budget_leaves_the_answer_its_room(small_tokenizer: Tokenizer) -> None:
    run = Run(small_tokenizer, max_tokens=1900)
    while run.writer.closed_by is None:
        run.say("1")
    assert run.writer.report.closed_by == "length"
    assert 2048 - 10 - len(run.tokens) >= 1900


def test_max_tokens_counts_the_answer(small_tokenizer: Tokenizer) -> None:
    run = Run(small_tokenizer, max_tokens=3).say("1+1=2, 2+2=4\n</think>\n\n1234567").end("length")
    assert (run.why, run.part("answer")) == ("length", "123")
    plain = Run(small_tokenizer, markers=None, effective="off", max_tokens=3).say("1234567").end("length")
    assert (plain.why, plain.part("answer"), plain.counts) == ("length", "123", (0, 3, 0))


def test_an_end_inside_the_thinking(small_tokenizer: Tokenizer) -> None:
    run = Run(small_tokenizer).say("1+1").end()
    assert (run.part("thinking"), run.part("answer"), run.writer.report.closed_by) == ("1+1", "", "model")


def test_it_thought_though_it_was_told_not_to(small_tokenizer: Tokenizer) -> None:
    run = Run(small_tokenizer, start="closed", effective="off").say("<think>1+1</think>2").end()
    assert (run.part("thinking"), run.part("answer")) == ("1+1", "2")
    assert run.writer.report.unasked and run.writer.report.thought
    quoted = Run(small_tokenizer, start="closed", effective="off").say("so: <think>1+1</think>2").end()
    assert quoted.part("answer") == "so: <think>1+1</think>2"
    assert quoted.writer.report.unasked and not quoted.writer.report.thought
    quiet = Run(small_tokenizer, start="closed", effective="off").say("\n\n2").end()
    assert not quiet.writer.report.unasked


def test_stop_strings_are_looked_for_in_the_answer_alone(small_tokenizer: Tokenizer) -> None:
    run = Run(small_tokenizer, stops=("4",)).say("2+2=4\n</think>\n\n2 and 4 and 6").end("cancelled")
    assert (run.why, run.part("thinking"), run.part("answer")) == ("stop_string", "2+2=4", "2 and ")


@pytest.mark.parametrize("markers", [pytest.param(m, id=m.open.strip()) for m in KNOWN_MARKERS])
def test_every_familys_thinking_closes_from_outside(small_tokenizer: Tokenizer, markers: Markers) -> None:
    run = Run(small_tokenizer, markers=markers, budget=5).say("12345").say("\n\nYes.").end()
    assert run.part("thinking") == "12345"
    assert run.part("answer").strip() == "Yes."
    assert run.counts[0] == 5


ASKED: list[dict[str, Any]] = [
    {"thinking": True},
    {"thinking": False},
    {"thinking": 1},
    {"thinking": 7},
    {"thinking": 30},
    {"thinking": 0},
    {"thinking": True, "max_tokens": 2},
    {"thinking": True, "max_completion": 25},
    {"thinking": False, "max_tokens": 1},
    {"thinking": True, "stop": "4"},
    {"thinking": True, "logprobs": 2},
    {"raw": True, "max_tokens": 40},
]


@pytest.mark.parametrize("name", ["tiny-routed", "tiny-dense"])
def test_tokens_ahead_change_nothing(name: str) -> None:
    """Steps without a look between them: the same texts, counts, finishes and reports."""
    model = trilens.load(name)

    def ask(ahead: float, close_at: int | None = None) -> list[tuple[Any, ...]]:
        calls = [
            model.prepare(f"What is {40 + 3 * i} times {71 - i}?", index=i, temperature=0.9, seed=i, **options)
            for i, options in enumerate(ASKED * 2)
        ]
        for call in calls:
            call.submit()
        for step in range(1000):
            if step == close_at:
                for call in calls:
                    call.answer_now()
            if not model.step(None, ahead):
                break
        said = []
        for call in calls:
            events = list(call.events())
            end = events[-1]
            assert isinstance(end, EndEvent)
            r = end.receipt
            tokens = replace(r.tokens, cached=0)  # what could be shared depends on when the others were so far
            text = "".join(getattr(e, "text", "") for e in events)
            said.append((text, tokens, r.finish, r.thinking, r.work.decode.flops, r.replay))
        model.forget()  # the next ones begin from nothing as well
        return said

    one_by_one = ask(0)
    assert ask(5) == one_by_one and ask(0.0005) == one_by_one
    assert {finish for _, _, finish, *_ in one_by_one} >= {"stop", "length", "stop_string"}
    closed = [report.closed_by for _, _, _, report, *_ in ask(0.0005, close_at=2)]
    assert "caller" in closed
