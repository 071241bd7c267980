"""Several cards side by side: the memory of each model, and its compute per token."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from trilens.errors import UsageError
from trilens.lenses.cards.card import Card, StatedCard, card
from trilens.lenses.cards.partial import PartialCard
from trilens.lenses.layout import table_in_parts, terminal_width
from trilens.lenses.machines.target import accelerators
from trilens.lenses.plans.dense_or_routed import Machine, machine_of
from trilens.units import big, data, flop

USUAL_CONTEXT = 4096
USUAL_MACHINE = "m4-max"


@dataclass(frozen=True)
class Comparison:
    """Every number is at `context` tokens, or at a model's maximum where that is less."""

    cards: tuple[Card | PartialCard | StatedCard, ...]
    context: int
    machine: Machine

    def as_dict(self) -> list[dict[str, Any]]:
        """The cards; a routed model's has `dense_or_routed` too."""
        weighed = {c.name: {"dense_or_routed": self.machine.as_dict(c.parameters)} for c in self.routed}
        return [{**c.as_dict(), **weighed.get(c.name, {})} for c in self.cards]

    @property
    def routed(self) -> list[Card]:
        return [c for c in self.cards if isinstance(c, Card) and c.moe is not None]

    def as_text(self, width: int | None = None) -> str:
        header = ("model", "tag", "total", "active", "FLOP/token", "KV cache", "bf16", "4-bit")
        width = width or terminal_width()
        lines = table_in_parts(header, [_row(c) for c in self.cards], width)
        shown = f"FLOP/token and KV cache (f16) at {self.context} tokens, or a model's maximum; 4-bit with scales"
        lines += ["", *textwrap.wrap(shown, width)]
        said = [self.machine.verdict(c.name, c.parameters) for c in self.routed]
        for line in [self.machine.rule(), *said] if said else []:
            lines += ["", *textwrap.wrap(line, width)]
        return "\n".join(lines)


def compare(names: Sequence[str], *, context: int = USUAL_CONTEXT, offline: bool = False) -> Comparison:
    """The cards of all names; where dense or routed wins is said of an Apple M4 Max. Raises what `card` raises, for the
    first that cannot be read."""
    if not names:
        raise UsageError("nothing to compare; expected the names of two models or more")
    if context < 1:
        raise UsageError(f"context {context} is not possible; expected 1 token or more")
    cards = (card(name, context=context, offline=offline, up_to_context=True) for name in names)
    return Comparison(tuple(cards), context, machine_of(accelerators()[USUAL_MACHINE]))


def _row(c: Card | PartialCard | StatedCard) -> tuple[str, ...]:
    if isinstance(c, PartialCard) and c.parameters is not None:
        p = c.parameters
        known = big(p.total), big(p.active_with_embeddings)
        return (c.name, c.tag, *known, "unknown", "unknown", data(2 * p.total), "unknown")
    if not isinstance(c, Card):
        return (c.name, c.tag, *["unknown"] * 6)
    sizes = {w.type: w.bytes for w in c.weights}
    return (
        c.name,
        c.tag,
        big(c.parameters.total),
        big(c.parameters.active_with_embeddings),
        flop(c.token.flops()),
        data(c.kv_bytes(c.context)),
        data(sizes["bf16"] or 0),
        data(sizes["4-bit"] or 0),
    )
