"""When a dense model beats a routed one on a given machine: memory used against compute saved.

A token reads each weight that takes part in it once, so it takes (active bytes) / (bandwidth). A routed model of T
parameters needs the memory of a dense one of T parameters, but reads only its active ones. That is no advantage while
the dense model is fast enough. So up to T = bandwidth / (required tokens per second x bytes per weight) a dense model
makes better use of the memory; above that, only routing makes the size usable.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, Literal

from trilens.executors.accountant import ParameterCount
from trilens.lenses.machines.target import Accelerator
from trilens.units import big, data

ENOUGH = 30.0  # tokens a second: a thousand tokens of thinking in half a minute
BYTES = 4.5 / 8  # of a weight in 4 bits, with a 16-bit scale for every 32


@dataclass(frozen=True)
class Weighing:
    """A routed model against the dense ones of its total and of its active size. `memory_held`: bytes that it holds
    beyond the dense one of equal active size; `compute_saved`: the share of the dense one of equal total size's."""

    total: int
    active: int
    memory: int
    memory_held: int
    compute_saved: float
    tokens_per_second: float
    dense_tokens_per_second: float  # of a dense model of equal total size
    fits: bool
    wins: Literal["dense", "routed", "neither"]


@dataclass(frozen=True)
class Machine:
    """`memory` in bytes, `bandwidth` in bytes a second; `dense_up_to` parameters are fast enough where all fire."""

    name: str
    memory: int
    bandwidth: float

    @property
    def dense_up_to(self) -> float:
        return self.bandwidth / (ENOUGH * BYTES)

    def weigh(self, count: ParameterCount) -> Weighing:
        total, active = count.total, count.active
        dense, memory = self.bandwidth / (total * BYTES), round(total * BYTES)
        fits = memory <= self.memory
        return Weighing(
            total=total,
            active=active,
            memory=memory,
            memory_held=memory - round(active * BYTES),
            compute_saved=1 - active / total,
            tokens_per_second=self.bandwidth / (active * BYTES),
            dense_tokens_per_second=dense,
            fits=fits,
            wins="neither" if not fits else "dense" if dense >= ENOUGH else "routed",
        )

    def as_dict(self, count: ParameterCount) -> dict[str, Any]:
        named = {"machine": self.name, "dense_wins_up_to": round(self.dense_up_to), "enough_tokens_per_second": ENOUGH}
        return {**named, **asdict(self.weigh(count))}

    def rule(self) -> str:
        return (
            f"On {self.name} ({data(self.memory)} at {data(self.bandwidth)}/s, 4-bit weights, one sequence): a dense "
            f"model reaches {ENOUGH:.0f} tokens per second or more up to {big(self.dense_up_to)} parameters. Below "
            "that size, dense wins: a routed model of the same size needs as much memory, and is faster than "
            "necessary. Above it, routed wins."
        )

    def verdict(self, name: str, count: ParameterCount) -> str:
        w = self.weigh(count)
        said = (
            f"{name}: needs {data(w.memory)}, {data(w.memory_held)} more than a dense model of its active size, and "
            f"saves {100 * w.compute_saved:.0f} % of the compute of a dense model of its total size: "
            f"{w.tokens_per_second:,.0f} tokens per second instead of {w.dense_tokens_per_second:,.0f}. "
        )
        ends = {
            "dense": "Dense wins here.",
            "routed": "Routed wins here.",
            "neither": f"It does not fit into {data(self.memory)}.",
        }
        return said + ends[w.wins]


def machine_of(device: Accelerator, count: int = 1) -> Machine:
    """So many of one device, their memory and bandwidth taken together."""
    title = device.title if count == 1 else f"{count} x {device.title}"
    return Machine(title, device.memory * count, device.bandwidth * count)
