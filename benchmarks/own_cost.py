"""What counting costs: calls with and without it, in alternating pairs -> docs/own-cost.md.

    python benchmarks/own_cost.py [--pairs N] [--routed FILE] [--page FILE]

A receipt: SmolLM2 answers 64 tokens, with its receipt made and with none. Routes: a model with a router decodes with
what fired kept and counted, without, and with the full trace. Each figure is the median of the pairs' ratios less one;
the interval holds 95 % of such medians drawn again from the same pairs.
"""

from __future__ import annotations

import argparse
import random
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import trilens
from trilens.executors.executor import StepInput
from trilens.model import Model

HERE = Path(__file__).resolve().parent
PROMPT = "Tell me about the sea, its tides, and the animals that live in it."


def paired(one: Callable[[], float], other: Callable[[], float], pairs: int) -> list[float]:
    """Ratios of the first's seconds to the other's; who begins alternates."""
    one(), other()
    ratios = []
    for i in range(pairs):
        if i % 2:
            b, a = other(), one()
        else:
            a, b = one(), other()
        ratios.append(a / b)
    return ratios


def median_and_interval(ratios: list[float]) -> tuple[float, float, float]:
    chance = random.Random(0)
    medians = sorted(statistics.median(chance.choices(ratios, k=len(ratios))) for _ in range(2000))
    return statistics.median(ratios) - 1, medians[50] - 1, medians[1949] - 1


def receipts(pairs: int) -> list[float]:
    model = trilens.load("smollm2")

    def call() -> float:
        begin = time.perf_counter()
        model.generate(PROMPT, temperature=0, max_tokens=64)
        seconds = time.perf_counter() - begin
        model.forget()
        return seconds

    def bare() -> float:
        made = Model._receipt
        Model._receipt = lambda *parts: None  # type: ignore[method-assign, assignment, return-value]
        try:
            begin = time.perf_counter()
            list(model.stream(PROMPT, temperature=0, max_tokens=64))
            seconds = time.perf_counter() - begin
        finally:
            Model._receipt = made  # type: ignore[method-assign]
        model.forget()
        return seconds

    return paired(call, bare, pairs)


def routes(model: Model, pairs: int, mode: str) -> list[float]:
    executor: Any = model.executor
    engine = executor.engine

    def decode() -> float:
        sequence = executor.sequence(128)
        executor.step([StepInput(sequence, [(7 * i) % executor.spec.vocab for i in range(64)])])
        begin = time.perf_counter()
        for i in range(32):
            executor.step([StepInput(sequence, [(11 * i) % executor.spec.vocab])])
        seconds = time.perf_counter() - begin
        sequence.free()
        return seconds

    def without() -> float:
        engine.keep_routes = False
        try:
            return decode()
        finally:
            engine.keep_routes = True

    def traced() -> float:
        engine.trace_routes(True)
        try:
            return decode()
        finally:
            engine.trace_routes(False)

    return paired(decode if mode == "kept" else traced, without, pairs)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pairs", type=int, default=41)
    parser.add_argument("--routed", default="tiny-routed", help="a model with a router; a large file is the usual case")
    parser.add_argument("--page", type=Path, help="write the table there")
    given = parser.parse_args()
    found = {"the receipt of a call, SmolLM2, 64 tokens": median_and_interval(receipts(given.pairs))}
    model = trilens.load(given.routed)
    name = Path(given.routed).stem
    found[f"keeping and counting the experts that fired, {name}"] = median_and_interval(
        routes(model, given.pairs, "kept")
    )
    found[f"a full trace, {name}"] = median_and_interval(routes(model, given.pairs, "traced"))
    lines = ["| what | cost | 95 % interval |", "| --- | --- | --- |"]
    lines += [f"| {what} | {m:+.2%} | {low:+.2%} to {high:+.2%} |" for what, (m, low, high) in found.items()]
    print("\n".join(lines))
    if given.page:
        head = [
            "# What counting costs",
            "",
            "Written by `benchmarks/own_cost.py`. A call with the feature and one without take turns. ",
        ]
        head[-1] += f"The cost is the ratio of their times minus one: the median of {given.pairs} pairs."
        given.page.write_text("\n".join([*head, "", *lines]) + "\n")


if __name__ == "__main__":
    main()
