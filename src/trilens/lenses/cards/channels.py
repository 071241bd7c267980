"""The three lenses as three channels of one colour, each from 0 to 1 and each from what is counted."""

from __future__ import annotations

from trilens.lenses.cards.card import Card


def channels(card: Card) -> dict[str, float]:
    """`dense`: the share of all weights that a token passes through. `routed`: the share that its routers leave out.
    `reasoning`: 1 for a model that can think, 0 for one that cannot, a half where nobody knows; a page that has
    receipts can put the measured share of thinking tokens in its place."""
    count = card.parameters
    share = count.active_with_embeddings / count.total
    thinks = {"never": 0.0, "unknown": 0.5}.get(card.inference.kind, 1.0)
    return {"dense": share, "routed": 1 - share, "reasoning": thinks}
