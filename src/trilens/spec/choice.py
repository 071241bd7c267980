"""Models whose attention chooses among earlier positions, seen as models that do not."""

from __future__ import annotations

from dataclasses import replace

from trilens.spec.families.parts import attentions, renumbered
from trilens.spec.model import LatentAttention, ModelSpec


def seen_whole(spec: ModelSpec) -> int:
    """The longest sequence of which every position is chosen."""
    chosen = [mixer.chosen for layer in spec.layers for mixer in layer.mixers if isinstance(mixer, LatentAttention)]
    return min((count for count in chosen if count is not None), default=spec.context)


def without_choice(spec: ModelSpec) -> ModelSpec:
    """The same model for sequences up to `seen_whole`: no index, and no choice. Others are given back as they are."""
    longest = seen_whole(spec)
    if longest == spec.context:
        return spec
    return renumbered(replace(attentions(spec, chosen=None, index=None), context=longest))
