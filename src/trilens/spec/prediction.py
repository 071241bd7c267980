"""The block for multi-token prediction: read from a configuration, and as a model of one layer."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from trilens.errors import UnsupportedModel
from trilens.spec.families.parts import MOST_LAYERS, renumbered
from trilens.spec.model import Attention, LatentAttention, ModelSpec, Prediction

# Families whose checkpoints have blocks that are known to the last parameter, and those of them that store a copy of
# the embedding and the head with each.
WITHOUT_COPIES = ("qwen3_next", "qwen3_5", "qwen3_5_moe", "nemotron_h", "glm_moe_dsa")
WITH_COPIES = ("deepseek_v3", "deepseek_v32", "glm4_moe")


def with_prediction(spec: ModelSpec, text: Mapping[str, Any]) -> ModelSpec:
    """The same model with the block that its configuration tells of: one more layer like the last with attention."""
    if spec.family not in (*WITHOUT_COPIES, *WITH_COPIES):
        return spec
    blocks = 1 if spec.family == "qwen3_next" else predicting(text)  # that family's class has one, and no key for it
    last = list(reversed(spec.layers))
    layer = next((layer for layer in last if isinstance(layer.mixer, Attention | LatentAttention)), None)
    if not blocks or layer is None:
        return spec
    if layer.feed_forward is None:  # a layer is one block: two of them predict
        routed = next((x for x in last if x.feed_forward is not None), None)
        if routed is None:
            return spec
        layer = replace(layer, feed_forward=routed.feed_forward, feed_forward_in=routed.feed_forward_in)
    alone = renumbered(replace(spec, layers=(layer,)))
    copies = spec.family in WITH_COPIES or text.get("mtp_use_dedicated_embeddings") is True
    norm = spec.final_norm
    return replace(spec, prediction=Prediction(blocks, alone.layers[0], alone.states, norm, norm, norm, copies))


def predicting(text: Mapping[str, Any]) -> int:
    """How many blocks a configuration states."""
    names = ("num_nextn_predict_layers", "num_mtp_layers", "mtp_num_hidden_layers")
    stated = next((text[name] for name in names if name in text), 0)
    told = isinstance(stated, int) and not isinstance(stated, bool) and 0 < stated <= MOST_LAYERS
    return stated if told else 0


def block_alone(spec: ModelSpec) -> ModelSpec:
    """A model of the block's layer alone, with its state: what sequences of the block keep."""
    if spec.prediction is None:
        raise UnsupportedModel(f"{spec.family}: the model has no block for multi-token prediction")
    return replace(spec, layers=(spec.prediction.layer,), states=spec.prediction.states, prediction=None)
