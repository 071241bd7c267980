"""Perplexity: how well a model predicts a text, token by token."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from trilens.errors import UsageError
from trilens.executors.executor import StepInput
from trilens.generate import arguments
from trilens.model import Model

ROWS = 128  # logits that are held at a time, a vocabulary each


@dataclass(frozen=True)
class Perplexity:
    """`perplexity` is e to the mean of -ln p over `tokens` tokens; `error` its standard error."""

    model: str
    perplexity: float
    error: float
    tokens: int
    pieces: int
    context: int

    def as_text(self) -> str:
        return (
            f"perplexity {self.perplexity:.4f} +- {self.error:.4f} ({self.model}, {self.tokens} tokens scored in "
            f"{self.pieces} pieces of {self.context})"
        )


def perplexity(
    model: Model,
    text: str,
    *,
    context: int = 512,
    pieces: int | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Perplexity:
    """Of the text cut into pieces of `context` tokens; of each, the second half is scored, behind the first half. So
    does llama.cpp's tool. A rest that fills no piece is left out. Raises UsageError for a text that is too short.
    """
    arguments.whole("context", context, 16, none=False, error=UsageError)
    if context > model.spec.context:
        raise UsageError(f"context {context} is more than the model's {model.spec.context}")
    tokenizer = model.text.tokenizer
    begin = [tokenizer.bos_id] if tokenizer.add_bos and tokenizer.bos_id is not None else []
    ids = begin + tokenizer.encode(text, special=False)
    count = len(ids) // context if pieces is None else min(pieces, len(ids) // context)
    if count == 0:
        raise UsageError(f"the text has {len(ids)} tokens; expected at least {context}, or a smaller context")
    surprises: list[np.ndarray] = []
    for i in range(count):
        piece = ids[i * context : (i + 1) * context]
        piece[: len(begin)] = begin  # each piece begins as a text does
        surprises.append(_surprises(model, piece))
        if progress is not None:
            progress(i + 1, count)
    every = np.concatenate(surprises)
    mean, deviation = float(every.mean()), float(every.std(ddof=1))
    value = math.exp(mean)
    return Perplexity(model.name, value, value * deviation / math.sqrt(every.size), every.size, count, context)


def _surprises(model: Model, piece: list[int]) -> np.ndarray:
    """-ln p of the tokens in the second half, [len(piece) - half - 1] float64."""
    half, found = len(piece) // 2, []
    sequence = model.executor.sequence(len(piece))
    try:
        for first in range(0, len(piece), ROWS):
            some = piece[first : first + ROWS]
            logits = model.executor.step([StepInput(sequence, some)], every_row=True)
            kept = [i for i in range(len(some)) if half <= first + i < len(piece) - 1]
            if not kept:
                continue
            rows = logits[kept].astype(np.float64)
            rows -= rows.max(axis=1, keepdims=True)
            following = [piece[first + i + 1] for i in kept]
            found.append(np.log(np.exp(rows).sum(axis=1)) - rows[np.arange(len(kept)), following])
    finally:
        sequence.free()
    return np.concatenate(found)
