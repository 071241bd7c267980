"""Decode speed with speculation and without, by the kind of question.

    python benchmarks/speculation.py [--model smollm2] [--tokens 160] [--rounds 6]

Each question is asked with and without, in turns, and every answer's replay hash has to be equal. The ratio of tokens
per second is of the best of the rounds; beside it stands the median of the rounds' own ratios.
"""

from __future__ import annotations

import argparse
import json
import statistics
from typing import Any

import trilens
from trilens.model import Model

RECORDS = [
    {"id": 1000 + 37 * i, "name": name, "city": city, "active": i % 3 != 0, "score": round(17.5 + 3.25 * i, 2)}
    for i, (name, city) in enumerate(
        (
            ("Alder", "Bergen"),
            ("Birch", "Porto"),
            ("Cedar", "Quito"),
            ("Elm", "Turku"),
            ("Fir", "Sucre"),
            ("Oak", "Perth"),
        )
    )
]
LIST = json.dumps(RECORDS, indent=1)
CODE = """def moving_average(values, width):
    if width < 1:
        raise ValueError("the width is at least 1")
    averages = []
    total = sum(values[:width])
    averages.append(total / width)
    for index in range(width, len(values)):
        total = total + values[index] - values[index - width]
        averages.append(total / width)
    return averages
"""
TEXT = """The harbour of Lindholm was built in 1871, after the old pier had been destroyed by the winter storms of 1868.
Its engineer, Marta Ekeland, decided against stone from the island, because it splits in frost. The blocks
came from the quarries of Varnes instead, forty kilometres to the north, on barges that could sail only
between May and September. The work took six summers. When the harbour was opened, the fishing fleet grew from
twelve boats to fifty, and the town hall, the school and the lighthouse were paid for with the harbour's fees.
Today the fleet has gone to the larger port of Varnes, and the harbour of Lindholm is used by sailing boats
and by the ferry, which crosses the sound four times a day in summer and once a day in winter."""
SCHEMA = {
    "type": "object",
    "properties": {
        "harbour": {"type": "string", "maxLength": 30},
        "built_in": {"type": "integer", "minimum": 1000, "maximum": 2100},
        "engineer": {
            "type": "object",
            "properties": {"first_name": {"type": "string"}, "last_name": {"type": "string"}},
            "required": ["first_name", "last_name"],
        },
        "boats": {"type": "integer", "minimum": 0, "maximum": 500},
        "used_by": {"type": "array", "items": {"enum": ["fishing boats", "sailing boats", "ferry"]}, "maxItems": 3},
    },
    "required": ["harbour", "built_in", "engineer", "boats", "used_by"],
}
# (prompt, raw, schema): a small model copies as a continuation of a text what it would not copy when it is asked to
QUESTIONS: dict[str, tuple[str, bool, dict[str, Any] | None]] = {
    "copy JSON": (3 * (LIST + "\n\n") + LIST[: len(LIST) // 6], True, None),
    "copy code": (3 * (CODE + "\n\n") + CODE[: len(CODE) // 6], True, None),
    "question from a text": (
        f"{TEXT}\n\nWhere did the blocks come from, and what was paid for with the fees?",
        False,
        None,
    ),
    "summary": (f"{TEXT}\n\nSummarise this text in three sentences.", False, None),
    "schema": (f"{TEXT}\n\nWrite the facts about the harbour as JSON.", False, SCHEMA),
    "list": ("List ten animals that live in the sea, one on each line.", False, None),
    "chat": ("I have a free weekend and like walking. What would you suggest?", False, None),
}


def ask(model: Model, question: str, raw: bool, schema: dict[str, Any] | None, tokens: int) -> tuple[float, str, str]:
    model.forget()
    receipt = model.generate(question, raw=raw, temperature=0, max_tokens=tokens, schema=schema).receipt
    d, tokens = receipt.drafts, receipt.tokens.completion
    return receipt.work.decode.tokens_per_second, receipt.replay, f"{d.accepted} of {d.proposed}, {tokens} tokens"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default="smollm2")
    parser.add_argument("--tokens", type=int, default=160, help="most tokens of an answer")
    parser.add_argument("--rounds", type=int, default=6)
    options = parser.parse_args()
    plain, drafting = trilens.load(options.model, speculation=False), trilens.load(options.model)
    print(f"{'question':22} {'without':>8} {'with':>8}  best  median  right drafts")
    for kind, question in QUESTIONS.items():
        without, having, drafts = [], [], ""
        for turn in range(options.rounds + 1):
            first, second = (plain, drafting) if turn % 2 else (drafting, plain)
            one, other = ask(first, *question, options.tokens), ask(second, *question, options.tokens)
            if one[1] != other[1]:
                raise SystemExit(f"{kind}: the answers differ")
            if turn == 0:
                continue  # the first ones warm up
            bare, drafted = (one, other) if turn % 2 else (other, one)
            without.append(bare[0])
            having.append(drafted[0])
            drafts = drafted[2]
        median = statistics.median(b / a for a, b in zip(without, having, strict=True))
        best = max(having) / max(without)
        print(f"{kind:22} {max(without):8.1f} {max(having):8.1f}  {best:.2f}  {median:.2f}    {drafts}", flush=True)


if __name__ == "__main__":
    main()
