"""The list of models: each with its card, what its thinking can do, and its three channels."""

from __future__ import annotations

from collections.abc import Callable
from fractions import Fraction
from functools import lru_cache
from typing import Any

from trilens.decoder.ops import Part
from trilens.errors import TrilensError
from trilens.lenses.cards.card import Card, card
from trilens.lenses.cards.channels import channels
from trilens.serve.registry import ModelRegistry, Place
from trilens.serve.remote_loop import RemoteLoop
from trilens.trials.inside import attention_heads

NOT_SAID = "1970-01-01T00:00:00Z"  # as the protocol has it


def models_list(registry: ModelRegistry, *, anthropic: bool) -> dict[str, Any]:
    """All models, in OpenAI's shape or in Anthropic's."""
    entries = [_entry(*registry.place(name), anthropic) for name in registry.names]
    if not anthropic:
        return {"object": "list", "data": entries}
    return {"data": entries, "has_more": False, "first_id": entries[0]["id"], "last_id": entries[-1]["id"]}


def one_model(registry: ModelRegistry, name: str, *, anthropic: bool) -> dict[str, Any]:
    """Raises ModelNotFound."""
    return _entry(*registry.place(name), anthropic)


def _entry(place: Place, adapter: str | None, anthropic: bool) -> dict[str, Any]:
    about = {"loaded": place.loop is not None, **_about(place.source, place.name), **_engine(place)}
    name = place.name if adapter is None else f"{place.name}:{adapter}"
    if adapter is not None:
        about["adapter"] = adapter
    if anthropic:
        made: dict[str, Any] = {
            "type": "model",
            "id": name,
            "display_name": name,
            "created_at": "1970-01-01T00:00:00Z",
        }
        return {**made, "max_input_tokens": about.get("context"), "trilens": about}
    made = {"id": name, "object": "model", "created": 0, "owned_by": "trilens"}
    return {**made, "max_model_len": about.get("context"), "trilens": about}


def _engine(place: Place) -> dict[str, Any]:
    """Whether an engine runs the model. Nobody knows then which experts fire."""
    return {"engine": True, "routes": False} if isinstance(place.loop, RemoteLoop) else {"engine": False}


@lru_cache
def _about(source: str, name: str) -> dict[str, Any]:
    """What does not change while the server runs. For a model whose files cannot be read, it says so."""
    try:
        made = card(source, context=1)
    except TrilensError:
        return {"readable": False}
    if not isinstance(made, Card):
        return {"readable": False}
    return shown_card(made, name, "served here")  # a path is nobody's business


def shown_card(made: Card, name: str, source: str) -> dict[str, Any]:
    """A card as the page shows it: with its settings for thinking, its channels and its costs by part."""
    inference, layers = made.inference, list(made.spec.routed_layers())
    settings = [setting.name for setting in inference.settings]
    each = Fraction(made.as_dict()["weight_bytes"]["own"], made.parameters.total)  # bytes of a weight, on average
    return {
        "readable": True,
        "thinking": {
            "default": inference.default,
            "settings": settings,
            "levels": list(inference.levels),
            "can_off": inference.can_be_off,
            "budget": inference.markers is not None,
        },
        "card": {**made.as_dict(), "name": name, "source": source},
        "lens": channels(made),
        "flops_by_part": parts_of(made.token.flops),
        "bytes_by_part": parts_of(lambda part: made.token.weight_bytes(lambda p: each, part)),
        "kv_over_context": [[tokens, made.kv_bytes(tokens)] for tokens in contexts(made.spec.context)],
        "layers": len(made.spec.layers),
        "routed_layers": [number for number, _ in layers],
        "attention_heads": attention_heads(made.spec),
        "experts": max((layer.router.choices for _, layer in layers), default=0),
        "routes": bool(layers),  # whether a chat can show the experts that fire
        "context": made.spec.context,
    }


def parts_of(count: Callable[[Part], int]) -> dict[str, int]:
    """Of one token, in the decoder's order; parts that come to nothing left out."""
    return {part.value: n for part in Part if (n := count(part))}


def contexts(most: int) -> list[int]:
    """Up to 33 lengths, evenly spread, from 1 to the model's most."""
    return sorted({max(1, most * i // 32) for i in range(33)})
