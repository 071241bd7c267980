"""The idea as a table: the same questions through both backbones, with thinking and without, on the same weights."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from trilens.errors import UsageError
from trilens.loading import load
from trilens.trials.questions import KINDS, RANGES, Question, held_out, is_right
from trilens.units import big, flop

MODELS = ("tiny-dense", "tiny-routed")
AT_ONCE = 32  # questions that run together


@dataclass(frozen=True)
class Combination:
    """One backbone, thinking or not. `seconds` is for all questions, `flops_per_answer` the mean of one call."""

    backbone: str
    thinking: bool
    model: str
    asked: int
    correct: int
    by_kind: dict[str, float]  # the share that was right
    by_range: dict[str, dict[str, tuple[int, int]]]  # of a kind, by how many digits its numbers have: (right, asked)
    thinking_tokens: int
    answer_tokens: int
    seconds: float
    flops_per_answer: int
    parameters: dict[str, int]  # total, and active in a token


def combine(
    count: int, kinds: Sequence[str] = KINDS, progress: Callable[[str, int], None] | None = None
) -> list[Combination]:
    """Ask `count` held-out questions of each of the four. Raises UsageError for a count below one."""
    if count < 1:
        raise UsageError(f"{count} questions were asked for; expected at least 1")
    questions = held_out(count, tuple(kinds))
    return [ask(name, questions, thinking, progress) for name in MODELS for thinking in (False, True)]


def ask(
    name: str, questions: Sequence[Question], thinking: bool, progress: Callable[[str, int], None] | None = None
) -> Combination:
    """All questions of one model in one mode, greedily."""
    model = load(name)
    answers, started = [], time.perf_counter()
    for some in (questions[at : at + AT_ONCE] for at in range(0, len(questions), AT_ONCE)):
        answers += model.generate([q.text for q in some], thinking=thinking, temperature=0)
        if progress is not None:
            progress(name, len(some))
    seconds = time.perf_counter() - started
    right = {q: is_right(q, a.text) for q, a in zip(questions, answers, strict=True)}
    kinds = dict.fromkeys(q.kind for q in questions)
    receipts = [a.receipt for a in answers]
    parameters = receipts[0].parameters
    return Combination(
        backbone=model.card().tag.split(" ")[0],
        thinking=thinking,
        model=name,
        asked=len(questions),
        correct=sum(right.values()),
        by_kind={k: _share([right[q] for q in questions if q.kind == k]) for k in kinds},
        by_range=_by_range(right),
        thinking_tokens=sum(r.tokens.thinking for r in receipts),
        answer_tokens=sum(r.tokens.answer for r in receipts),
        seconds=seconds,
        flops_per_answer=round(sum(r.work.flops for r in receipts) / len(receipts)),
        parameters={"total": parameters.total, "active": parameters.active},
    )


def as_dicts(rows: Sequence[Combination]) -> list[dict[str, Any]]:
    return [asdict(row) for row in rows]


def as_text(rows: Sequence[Combination]) -> str:
    """The table, what of each kind of question was right, and how many of each range of digits."""
    head = ("backbone", "thinking", "correct", "thought", "answered", "seconds", "an answer", "parameters, active")
    body = [
        (
            row.backbone,
            "on" if row.thinking else "off",
            f"{row.correct} of {row.asked} ({row.correct / row.asked:.1%})",
            f"{row.thinking_tokens:,} tokens",
            f"{row.answer_tokens:,} tokens",
            f"{row.seconds:.2f}",
            flop(row.flops_per_answer),
            f"{big(row.parameters['total'])}, {big(row.parameters['active'])}",
        )
        for row in rows
    ]
    kinds = list(rows[0].by_kind)
    shares = [
        (row.backbone, "on" if row.thinking else "off", *(f"{row.by_kind[kind]:.1%}" for kind in kinds)) for row in rows
    ]
    tables: list[Sequence[Sequence[str]]] = [[head, *body], [("right", "thinking", *kinds), *shares]]
    if rows[0].by_range:
        tables.append(_ranges(rows))
    return "\n\n".join(_table(table) for table in tables)


def _ranges(rows: Sequence[Combination]) -> list[Sequence[str]]:
    """A line for each kind that has ranges, with "right/asked" for each of them."""
    columns = list(dict.fromkeys(digits for kind in rows[0].by_range for digits in RANGES[kind]))
    table: list[Sequence[str]] = [("right", "thinking", "digits", *columns)]
    for row in rows:
        for kind, parts in row.by_range.items():
            cells = ("{}/{}".format(*parts[digits]) if digits in parts else "" for digits in columns)
            table.append((row.backbone, "on" if row.thinking else "off", kind, *cells))
    return table


def _by_range(right: dict[Question, bool]) -> dict[str, dict[str, tuple[int, int]]]:
    found: dict[str, dict[str, tuple[int, int]]] = {}
    for question, is_so in right.items():
        if question.digits:
            before, asked = found.setdefault(question.kind, {}).get(question.digits, (0, 0))
            found[question.kind][question.digits] = before + is_so, asked + 1
    return found


def _table(rows: Sequence[Sequence[str]]) -> str:
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
    return "\n".join(lines)


def _share(right: Sequence[bool]) -> float:
    return sum(right) / len(right)
