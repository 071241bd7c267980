"""What the page's lesson needs beside the protocols: the card of a posted config.json, and the held-out questions."""

from __future__ import annotations

from typing import Any

from pydantic import Field

from trilens.errors import BadCheckpoint, FieldRefused, UnsupportedModel
from trilens.lenses.cards.card import card_of_config
from trilens.serve.fields import Fields
from trilens.serve.models import shown_card
from trilens.trials.questions import held_out

MOST_QUESTIONS = 400


class CardRequest(Fields):
    """The content of a config.json."""

    config: dict[str, Any] = Field(min_length=1)


def posted_card(request: CardRequest) -> dict[str, Any]:
    """The same fields as `trilens` in the list of models has. Raises FieldRefused if the configuration cannot be
    read.
    """
    try:
        made = card_of_config(request.config)
    except (BadCheckpoint, UnsupportedModel) as problem:
        raise FieldRefused("config", f"cannot be read: {problem}") from None
    return shown_card(made, "config.json", "the posted config.json")


def questions(count: int) -> dict[str, Any]:
    """The questions of `trilens combos`, in its order. Raises FieldRefused."""
    if not 1 <= count <= MOST_QUESTIONS:
        raise FieldRefused("count", f"is {count}; expected 1 to {MOST_QUESTIONS}")
    return {"questions": [{"kind": q.kind, "text": q.text, "answer": q.answer} for q in held_out(count)]}
