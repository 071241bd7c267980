"""Models whose attention chooses among earlier positions, seen as models that do not."""

from __future__ import annotations

from dataclasses import replace

from trilens.spec.families.parts import attentions, renumbered
from trilens.spec.model import LatentAttention, ModelSpec
from trilens.spec.prediction import block_alone


def seen_whole(spec: ModelSpec) -> int:
    """The longest sequence of which every position is chosen."""
    chosen = [mixer.chosen for mixer in _latent(spec)]
    return min((spec.context, *(count for count in chosen if count is not None)))


def without_choice(spec: ModelSpec) -> ModelSpec:
    """The same model for sequences up to `seen_whole`: no index, and no choice. Others are given back as they are."""
    if all(mixer.chosen is None for mixer in _latent(spec)):
        return spec
    spec = _block_without_choice(spec)
    return renumbered(replace(attentions(spec, chosen=None, index=None), context=seen_whole(spec)))


def _block_without_choice(spec: ModelSpec) -> ModelSpec:
    """The same model, whose block that predicts sees every position of such sequences too."""
    if spec.prediction is None:
        return spec
    alone = without_choice(block_alone(spec))
    return replace(spec, prediction=replace(spec.prediction, layer=alone.layers[0], states=alone.states))


def _latent(spec: ModelSpec) -> list[LatentAttention]:
    return [mixer for layer in spec.layers for mixer in layer.mixers if isinstance(mixer, LatentAttention)]
