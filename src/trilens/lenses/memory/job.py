"""What an engine is asked to hold, and what that takes."""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction
from typing import Any, Literal

Engine = Literal["trilens", "llama.cpp", "vllm", "sglang", "mlx-lm", "tensorrt-llm", "transformers"]
KV_TYPES = {
    "f32": Fraction(4),
    "f16": Fraction(2),
    "bf16": Fraction(2),
    "fp8": Fraction(1),
    "8bit": Fraction(1),  # trilens's own, scales apart
    "q8_0": Fraction(34, 32),
    "q5_1": Fraction(24, 32),
    "q5_0": Fraction(22, 32),
    "q4_1": Fraction(20, 32),
    "q4_0": Fraction(18, 32),
}


@dataclass(frozen=True)
class Job:
    """What an engine is asked to hold: `batch` sequences of `context` tokens, keys and values in these types, split
    over `tensor` devices (each with its share of the heads) and `pipeline` groups of layers."""

    context: int
    batch: int = 1
    key_type: str = "f16"
    value_type: str = "f16"
    tensor: int = 1
    pipeline: int = 1

    @property
    def key_bytes(self) -> Fraction:
        return KV_TYPES[self.key_type]

    @property
    def value_bytes(self) -> Fraction:
        return KV_TYPES[self.value_type]


@dataclass(frozen=True)
class Memory:
    """Bytes over all devices; None if unknown, with the reason in `unknown`. `meaning` says what memory the engine
    uses for them. `fixed`: states whose size does not depend on the length of a sequence.
    """

    engine: Engine
    weights: int
    kv: int
    fixed: int | None
    scratch: int | None
    meaning: str
    unknown: tuple[str, ...] = ()

    @property
    def total(self) -> int:
        """The sum of the known parts: exact if `unknown` is empty, else a lower bound."""
        return self.weights + self.kv + (self.fixed or 0) + (self.scratch or 0)

    def as_dict(self) -> dict[str, Any]:
        return {
            "weights": self.weights,
            "kv": self.kv,
            "fixed": self.fixed,
            "scratch": self.scratch,
            "total": self.total,
            "at_least": bool(self.unknown),
            "meaning": self.meaning,
            "unknown": list(self.unknown),
        }
