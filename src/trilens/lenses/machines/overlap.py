"""How much the experts of several tokens overlap, counted on a loaded model.

It is a property of the weights and the texts, not of the machine. A step reads each expert that fires once, for however
many tokens it fires, so this decides what a batch costs.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from trilens.executors.native.executor import NativeExecutor, NativeSequence

SEQUENCES, PROMPT, STEPS = 4, 64, 8  # of a trace


@dataclass(frozen=True)
class Overlap:
    """Exponents: n tokens fire as many experts as n ** exponent independent tokens would (`distinct_experts` of the
    accountant). `text` is for tokens of one text, `texts` for one token of each of several texts. 1: the tokens are
    independent; 0: all tokens have the same experts."""

    text: float
    texts: float

    def independent(self, lengths: Sequence[int]) -> float:
        """The number of independent tokens that fire as many experts as texts with so many tokens each."""
        mean = sum(math.pow(n, self.text) for n in lengths) / len(lengths)
        return mean * math.pow(len(lengths), self.texts)


def traced(executor: NativeExecutor) -> Overlap | None:
    """Counted in a prompt and in steps of a batch with different texts; None for a model without experts, or one whose
    context is too short for two tokens and these steps."""
    from trilens.executors.executor import StepInput, fired_experts

    routers = [routed.router for _, routed in executor.spec.routed_layers()]
    length = min(PROMPT, executor.spec.context - STEPS)
    if not routers or length < 3:
        return None
    experts, share = (
        sum(counts) / len(routers) for counts in zip(*((r.experts, r.chosen / r.choices) for r in routers), strict=True)
    )
    vocab = executor.spec.vocab
    sequences = [executor.sequence(length + STEPS) for _ in range(SEQUENCES)]

    def fired(feeds: list[tuple[NativeSequence, list[int]]]) -> float:
        """Experts of an average layer in this step, from the bytes of experts that it read."""
        before = executor.bytes_by_kind().get("experts", 0)
        executor.step([StepInput(s, [t % vocab for t in tokens]) for s, tokens in feeds])
        return float(executor.bytes_by_kind()["experts"] - before)

    try:
        read = fired([(sequences[0], [7])])
        alone = sum(fired_experts(executor.spec, sequences[0].routes(), [slice(0, 1)])) / len(routers)
        if not alone:  # all that it chose has no weights
            return None
        one = read / alone  # bytes of one expert in each layer
        prompts = [fired([(s, [31 * n + 7 * i for i in range(1, length)])]) / one for n, s in enumerate(sequences)]
        steps = [fired([(s, [37 * n + 101 * i]) for n, s in enumerate(sequences)]) / one for i in range(STEPS)]
    finally:
        for sequence in sequences:
            sequence.free()
    return Overlap(
        _exponent(experts, share, length - 1, sum(prompts) / len(prompts)),
        _exponent(experts, share, SEQUENCES, sum(steps) / len(steps)),
    )


def _exponent(experts: float, share: float, tokens: int, fired: float) -> float:
    """1 if all experts fired: then nothing shows that the tokens are not independent. `share`: of them that a token
    chooses."""
    if share >= 1 or fired >= experts:
        return 1.0
    independent = math.log1p(-fired / experts) / math.log1p(-share)
    return min(1.0, max(0.0, math.log(max(1.0, independent)) / math.log(tokens)))
