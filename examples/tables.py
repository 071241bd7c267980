"""Receipts as a table, here as csv. `pandas.DataFrame(trilens.table(answers))` is the same as a data frame."""

from __future__ import annotations

import csv
import sys

import trilens

COLUMNS = ["text", "receipt.tokens.thinking", "receipt.tokens.answer", "receipt.seconds", "receipt.flops"]


def main() -> None:
    questions = [f"What is {n} times 7?" for n in (3, 12, 45)]
    with trilens.load("tiny-routed") as model:
        answers = model.generate(questions, thinking=True, temperature=0)
    rows = trilens.table(answers)
    writer = csv.DictWriter(sys.stdout, COLUMNS, extrasaction="ignore")
    writer.writeheader()
    writer.writerows(rows)


if __name__ == "__main__":
    main()
