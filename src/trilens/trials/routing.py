"""The router made visible: which experts fired for each token and layer of one call, and what follows from it.

A model without a router shows the trivial trace: the call is made twice, and tokens and logits are compared to the bit.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from typing_extensions import Unpack

from trilens.errors import UsageError
from trilens.executors.accountant import distinct_experts
from trilens.executors.executor import StepInput
from trilens.executors.native.executor import NativeExecutor
from trilens.generate.options import GenerateOptions
from trilens.model import Answer, Model, Prompt, fold
from trilens.notebook import heat_map, preformatted, titled

Phase = Literal["prompt", "thinking", "answer"]
PHASES: tuple[Phase, ...] = ("prompt", "thinking", "answer")
HOT = 0.9  # a hot set carries this part of the load ...
FEW = 0.5  # ... with no more than this part of the experts
BATCHES = (1, 4, 16, 64)


@dataclass(frozen=True)
class LayerTrace:
    """One routed layer. `ids` and `weights` [tokens, chosen], in order of rank; `load` is how often each expert fired.
    Experts without weights count as the others do.

    `entropy` in bits, at most log2 of the experts; `coverage` the share of experts that fired at all; `hot` the fewest
    experts that together carry `HOT` of the load.
    """

    layer: int
    experts: int
    chosen: int
    ids: np.ndarray
    weights: np.ndarray

    @property
    def load(self) -> np.ndarray:
        return np.bincount(self.ids.ravel(), minlength=self.experts)

    @property
    def entropy(self) -> float:
        shares = self.load[self.load > 0] / self.ids.size
        return float(-(shares * np.log2(shares)).sum()) + 0.0

    @property
    def coverage(self) -> float:
        return float((self.load > 0).mean())

    @property
    def hot(self) -> int:
        reached = np.sort(self.load)[::-1].cumsum()
        return int(np.searchsorted(reached, HOT * self.ids.size)) + 1

    def distinct(self, batch: int) -> float:
        """Distinct experts that `batch` tokens in a row touch, on average over the call."""
        starts = range(0, len(self.ids) - batch + 1, batch)
        counts = [len(np.unique(self.ids[at : at + batch])) for at in starts]
        return sum(counts) / len(counts)


@dataclass(frozen=True)
class Trace:
    """A call's tokens as they were fed, the phase of each, and the routed layers. `twice` for a model without any:
    whether tokens and logits were the same bits both times. `replay` is the receipt's hash of tokens and routes."""

    model: str
    tokens: tuple[int, ...]
    texts: tuple[str, ...]
    phases: tuple[Phase, ...]
    layers: tuple[LayerTrace, ...]
    text: str
    thinking: str
    replay: str
    twice: bool | None = None

    def rows(self) -> Iterator[dict[str, Any]]:
        """One for each token, layer and rank."""
        for layer in self.layers:
            for i, (ids, weights) in enumerate(zip(layer.ids, layer.weights, strict=True)):
                for rank, (expert, weight) in enumerate(zip(ids, weights, strict=True)):
                    yield {
                        "position": i,
                        "phase": self.phases[i],
                        "token": self.tokens[i],
                        "text": self.texts[i],
                        "layer": layer.layer,
                        "rank": rank,
                        "expert": int(expert),
                        "weight": float(weight),
                    }

    def apart(self, layer: LayerTrace, a: Phase, b: Phase) -> float | None:
        """How differently two phases are routed: half the sum of the differences of their loads' shares, 0 alike and 1
        disjoint; None where one of them has no token."""
        shares = []
        for phase in (a, b):
            ids = layer.ids[[p == phase for p in self.phases]]
            if not ids.size:
                return None
            shares.append(np.bincount(ids.ravel(), minlength=layer.experts) / ids.size)
        return float(np.abs(shares[0] - shares[1]).sum() / 2)

    @property
    def verdict(self) -> str:
        if not self.layers:
            same = "the same path and the same bits" if self.twice else "NOT the same bits"
            return f"every weight, for every token; run twice: {same}"
        hot = [layer for layer in self.layers if layer.hot <= FEW * layer.experts]
        part = f"{len(hot)} of {len(self.layers)} layers"
        words = f"{HOT:.0%} of the load on at most {FEW:.0%} of the experts"
        few = (
            f"; {len(self.tokens)} tokens are too few to be sure"
            if len(self.tokens) < 4 * self.layers[0].experts
            else ""
        )
        if len(hot) > len(self.layers) / 2:
            return f"a hot set exists: {part} put {words}; keeping the other experts in slower memory can pay off{few}"
        return f"no hot set: only {part} put {words}; keep all experts in fast memory{few}"

    def as_dict(self) -> dict[str, Any]:
        return {
            "model": self.model,
            "replay": self.replay,
            "tokens": list(self.tokens),
            "phases": dict(Counter(self.phases)),
            "text": self.text,
            "thinking": self.thinking,
            "twice": self.twice,
            "verdict": self.verdict,
            "layers": [
                {
                    "layer": layer.layer,
                    "experts": layer.experts,
                    "chosen": layer.chosen,
                    "load": layer.load.tolist(),
                    "entropy_bits": layer.entropy,
                    "coverage": layer.coverage,
                    "hot": layer.hot,
                    "apart": {f"{a}/{b}": self.apart(layer, a, b) for a, b in _pairs()},
                    "distinct": {str(n): (layer.distinct(n), float(_expected(layer, n))) for n in self._batches()},
                    "ids": layer.ids.tolist(),
                    "weights": layer.weights.tolist(),
                }
                for layer in self.layers
            ],
        }

    def as_text(self) -> str:
        phases = Counter(self.phases)
        counted = " · ".join(f"{phases[phase]} {phase}" for phase in PHASES if phases[phase])
        lines = [f"{self.model} · {counted} tokens · replay {self.replay}", self.verdict]
        if not self.layers:
            return "\n".join(lines)
        heads = ["layer", "experts", "fired", "entropy", "hot", *(f"{a} to {b}" for a, b in _pairs())]
        heads += [f"{n} tokens touch" for n in self._batches()]
        rows = [heads]
        for layer in self.layers:
            apart = [self.apart(layer, a, b) for a, b in _pairs()]
            rows.append(
                [
                    str(layer.layer),
                    f"{layer.chosen} of {layer.experts}",
                    f"{layer.coverage:.0%}",
                    f"{layer.entropy:.2f} of {math.log2(layer.experts):.2f}",
                    str(layer.hot),
                    *("" if value is None else f"{value:.2f}" for value in apart),
                    *(f"{layer.distinct(n):.1f} ({float(_expected(layer, n)):.1f})" for n in self._batches()),
                ]
            )
        widths = [max(len(row[i]) for row in rows) for i in range(len(heads))]
        lines += ["  ".join(cell.ljust(w) for cell, w in zip(row, widths, strict=True)).rstrip() for row in rows]
        return "\n".join([*lines, "hot: the fewest experts with 90 % of the load; (expected of an even router)"])

    def _repr_html_(self) -> str:
        rows = {str(layer.layer): (layer.load * layer.experts / layer.ids.size).tolist() for layer in self.layers}
        drawn = heat_map(rows) if rows else ""
        return titled(self.model, f"{len(self.tokens)} tokens: {self.verdict}", drawn, preformatted(self.as_text()))

    def _batches(self) -> list[int]:
        return [n for n in BATCHES if n <= len(self.tokens)]


def trace(model: Model, prompt: Prompt, **options: Unpack[GenerateOptions]) -> Trace:
    """Make the call with the native executor and keep what its routers chose. Options are those of `generate`.

    Raises UsageError for a model on another executor, and what `generate` raises.
    """
    executor = model.executor
    if not isinstance(executor, NativeExecutor):
        raise UsageError("a trace is taken by the native executor; load the model with it")
    executor.engine.trace_routes(True)
    try:
        tokens, phases, answer = _call(model, prompt, options)
        ids, weights = executor.engine.routes()
    finally:
        executor.engine.trace_routes(False)
    layers = [
        LayerTrace(number, routed.router.choices, routed.router.chosen, *_matrices(i, w, routed.router.chosen))
        for (number, routed), i, w in zip(executor.spec.routed_layers(), ids, weights, strict=True)
    ]
    twice = None
    if not layers:
        again, _, _ = _call(model, prompt, options)
        twice = again == tokens and _same_bits(executor, tokens)
    texts = tuple(model.text.tokenizer.decode([t], skip_special=False) for t in tokens)
    return Trace(
        model.name, tokens, texts, phases, tuple(layers), answer.text, answer.thinking, answer.receipt.replay, twice
    )


def _call(model: Model, prompt: Prompt, options: GenerateOptions) -> tuple[tuple[int, ...], tuple[Phase, ...], Answer]:
    """(the tokens in the order they were fed, the phase of each, the answer); nothing of earlier calls is reused."""
    # what is computed and taken back would stand in the trace
    fresh = Model(model.name, model.files, model.executor, model.text, speculation=False)
    stream = fresh.stream(prompt, **options)
    [answer] = fold(stream, 1)
    request = stream.calls[0].request
    assert request is not None
    work = answer.receipt.work
    fed = (*request.prompt, *request.tokens)[: sum(p.tokens for p in (work.prefill, work.thinking, work.answer))]
    counts: tuple[tuple[Phase, int], ...] = (
        ("prompt", work.prefill.tokens),
        ("thinking", work.thinking.tokens),
        ("answer", work.answer.tokens),
    )
    fresh.forget()
    return fed, tuple(phase for phase, count in counts for _ in range(count)), answer


def _same_bits(executor: NativeExecutor, tokens: Sequence[int]) -> bool:
    """Whether the logits behind every token are the same bits at once and in two pieces."""
    rows = []
    for cut in (len(tokens), max(1, len(tokens) // 2)):
        sequence = executor.sequence(len(tokens))
        pieces = [piece for piece in (tokens[:cut], tokens[cut:]) if piece]
        rows.append(np.concatenate([executor.step([StepInput(sequence, piece)], every_row=True) for piece in pieces]))
        sequence.free()
    return bool(np.array_equal(rows[0].view(np.uint32), rows[1].view(np.uint32)))


def _matrices(ids: Sequence[int], weights: Sequence[float], chosen: int) -> tuple[np.ndarray, np.ndarray]:
    return np.array(ids, np.int32).reshape(-1, chosen), np.array(weights, np.float32).reshape(-1, chosen)


def _expected(layer: LayerTrace, tokens: int) -> float:
    return float(distinct_experts(layer.experts, layer.chosen, tokens))


def _pairs() -> tuple[tuple[Phase, Phase], ...]:
    return (("prompt", "thinking"), ("thinking", "answer"), ("prompt", "answer"))
