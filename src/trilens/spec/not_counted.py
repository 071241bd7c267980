"""What a checkpoint holds beside the text decoder, in parameters, where the configuration determines it.

Towers that see or hear are counted by the shapes of transformers' modules of those names; bounds of clipped matrices
(scalars without a dimension) are not numbers of the model and are left out, as the hub's own totals leave them out.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import suppress
from typing import Any

from trilens.errors import BadCheckpoint
from trilens.spec.keys import Keys
from trilens.spec.model import (
    Attention,
    Beside,
    Dense,
    GatedRecurrence,
    Glu,
    LatentAttention,
    Layer,
    ModelSpec,
    Prediction,
    Routed,
    ShortConvolution,
    Shortcut,
    SingleMixer,
)

Matrix = tuple[int, int, int]  # how many, out, in


def not_counted(config: Mapping[str, Any], text: Mapping[str, Any], spec: ModelSpec, where: str) -> dict[str, int]:
    """Parts by name -> parameters. What the configuration says too little of is not in it."""
    found: dict[str, int] = {}
    prediction = spec.prediction
    if spec.family == "opt":
        found["rows of positions that no token has"] = 2 * spec.width
    if prediction is not None:
        found["layers that predict further tokens"] = prediction.blocks * _prediction_block(prediction, spec.width)
    if prediction is not None and prediction.own_tables:
        found["their copies of the embedding and the head"] = prediction.blocks * 2 * spec.vocab * spec.width
    found["8-bit block scales"] = _fp8_scales(config, text, spec)
    found["4-bit block scales"] = _mxfp4_scales(config, text, spec)
    found["keys and values of layers that read another's cache"] = sum(map(_dead(spec.width), spec.layers))
    for part, tower in (("vision_config", _vision), ("audio_config", _audio)):
        values = config.get(part)
        if isinstance(values, Mapping) and values:
            with suppress(BadCheckpoint):  # a tower that is described too briefly is not the text's concern
                found[f"{part.removesuffix('_config')} tower"] = tower(Keys(values, where), config["model_type"], spec)
    return {name: count for name, count in found.items() if count}


def _matrices(layer: Layer, width: int) -> Iterator[Matrix]:
    """The layer's matrices but for its router."""
    for mixer in layer.mixers:
        yield from _mixer_matrices(mixer, width)
    match layer.feed_forward:
        case Dense() as dense:
            yield from _gated(1, dense, width)
        case Routed() as routed:
            yield from _gated(routed.router.experts, routed, routed.latent or width)
            if routed.latent is not None:
                yield 1, routed.latent, width
                yield 1, width, routed.latent
            if routed.shared is not None:
                yield from _gated(1, routed.shared, width)
        case Beside(dense=dense, routed=routed) | Shortcut(dense=dense, routed=routed):
            yield from _gated(1, dense, width)
            yield from _gated(routed.router.experts, routed, width)
        case None:
            pass


def _mixer_matrices(mixer: SingleMixer, width: int) -> Iterator[Matrix]:
    match mixer:
        case Attention(heads=heads, cache=cache):
            yield 1, heads * cache.key_dim, width
            yield 1, cache.kv_heads * cache.key_dim, width
            yield 1, cache.kv_heads * cache.value_dim, width
            yield 1, width, heads * cache.value_dim
            if mixer.gate is not None:
                yield 1, heads * (1 if mixer.gate.per_head else cache.value_dim), width
        case LatentAttention() as a:
            head = a.nope_dim + a.rope_dim
            if a.q_rank is None:
                yield 1, a.heads * head, width
            else:
                yield 1, a.q_rank, width
                yield 1, a.heads * head, a.q_rank
            yield 1, a.kv_rank + a.rope_dim, width
            yield 1, a.heads * (a.nope_dim + a.value_dim), a.kv_rank
            yield 1, width, a.heads * a.value_dim
            if a.index is not None and a.q_rank is not None:
                yield 1, a.index.heads * a.index.cache.key_dim, a.q_rank
                yield 1, a.index.cache.key_dim, width
        case ShortConvolution() as c:
            yield 3, c.width, width
            yield 1, width, c.width
        case GatedRecurrence(rule=rule):
            yield 2, rule.keys, width
            yield 2, rule.values, width
            yield 1, width, rule.values


def _gated(count: int, ffn: Dense | Routed, width: int) -> tuple[Matrix, Matrix]:
    into = 2 if isinstance(ffn.glu, Glu) else 1
    return (into * count, ffn.width, width), (count, width, ffn.width)


def _prediction_block(prediction: Prediction, width: int) -> int:
    """Its layer, a matrix that joins hidden state and embedding, three more norms."""
    layer = prediction.layer
    count = sum(n * out * inner for n, out, inner in _matrices(layer, width)) + 2 * width * width + 5 * width
    for mixer in layer.mixers:
        match mixer:
            case LatentAttention() as a:
                count += a.kv_rank + (a.q_rank or 0)
                if a.index is not None:
                    count += a.index.heads * width + 2 * a.index.cache.key_dim
            case Attention() as a:
                rows = a.heads * a.cache.key_dim + a.cache.kv_heads * (a.cache.key_dim + a.cache.value_dim)
                count += (rows if a.qkv_bias else 0) + (2 * a.cache.key_dim if a.qk_norm else 0)
            case ShortConvolution() | GatedRecurrence():
                raise AssertionError("a layer with attention was asked for")
    match layer.feed_forward:
        case Routed(router=router, shared_gate=gated):
            count += router.experts * (width + router.correction_bias) + width * gated
        case Dense() | Beside() | Shortcut() | None:
            pass
    return count


def _fp8_scales(config: Mapping[str, Any], text: Mapping[str, Any], spec: ModelSpec) -> int:
    """One number for each block of every matrix but the router, embedding and head."""
    rule = _quantisation(config, text)
    block = rule.get("weight_block_size")
    if rule.get("quant_method") != "fp8" or not isinstance(block, list) or len(block) != 2:
        return 0
    if not all(isinstance(side, int) and side > 0 for side in block):
        return 0  # whoever reads the weights refuses it
    high, wide = block
    layers = [*spec.layers, *([] if spec.prediction is None else [spec.prediction.layer] * spec.prediction.blocks)]
    return sum(n * -(-out // high) * -(-i // wide) for layer in layers for n, out, i in _matrices(layer, spec.width))


def _mxfp4_scales(config: Mapping[str, Any], text: Mapping[str, Any], spec: ModelSpec) -> int:
    """One number for each 32 of every expert's numbers."""
    if _quantisation(config, text).get("quant_method") != "mxfp4":
        return 0
    return sum(3 * r.router.experts * r.width * spec.width // 32 for _, r in spec.routed_layers())


def _quantisation(config: Mapping[str, Any], text: Mapping[str, Any]) -> Mapping[str, Any]:
    for place in (config, text):
        rule = place.get("quantization_config")
        if isinstance(rule, Mapping):
            return rule
    return {}


def _dead(width: int) -> Any:
    """A layer -> the keys' and values' matrices and the keys' norm that its publishers ship and nobody reads."""

    def count(layer: Layer) -> int:
        a = layer.mixer
        if not isinstance(a, Attention) or a.writes:
            return 0
        return a.cache.width * width + (a.cache.key_dim if a.qk_norm else 0)

    return count


def _vision(v: Keys, model: str, spec: ModelSpec) -> int:
    """The tower and what carries its output into the text decoder."""
    match model:
        case "gemma3":
            width, inner, layers = _sizes(v)
            patch = v.integer("patch_size")
            patches = (v.integer("image_size") // patch) ** 2
            layer = 4 * width * (width + 1) + 4 * width + 2 * width * inner + inner + width
            return (3 * patch**2 + 1 + patches + 2) * width + layers * layer + width * spec.width + width
        case "qwen3_5" | "qwen3_5_moe":
            width, inner, layers = v.integer("hidden_size"), v.integer("intermediate_size"), v.integer("depth")
            merged = v.integer("spatial_merge_size", 2) ** 2 * width
            patch = 3 * v.integer("temporal_patch_size", 2) * v.integer("patch_size", 16) ** 2 + 1
            layer = 4 * width * (width + 1) + 2 * width * inner + inner + width + 4 * width
            merger = 2 * width + merged * (merged + 1) + (merged + 1) * spec.width
            return patch * width + v.integer("num_position_embeddings", 2304) * width + layers * layer + merger
        case "gemma4":
            width, inner, layers = _sizes(v)
            heads, head = v.integer("num_attention_heads"), v.integer("head_dim")
            kv_heads, patch = v.integer("num_key_value_heads", heads), v.integer("patch_size")
            layer = 2 * (heads + kv_heads) * head * width + 2 * head + 3 * width * inner + 4 * width
            positions = 2 * v.integer("position_embedding_size") * width
            standard = 2 * width if v.flag("standardize", False) else 0
            return 3 * patch**2 * width + positions + layers * layer + standard + width * spec.width
        case "gemma4_unified":
            width, patch = v.integer("mm_embed_dim"), 3 * v.integer("model_patch_size") ** 2
            positions = 2 * v.integer("mm_posemb_size") * width
            return positions + 2 * patch + (patch + 1) * width + 4 * width + width * spec.width
        case "llama4":
            v.assume(num_hidden_layers=34, intermediate_size=5632, patch_size=14, image_size=448)
            v.assume(vision_output_dim=7680, projector_input_dim=4096, projector_output_dim=4096)
            v.assume(pixel_shuffle_ratio=0.5)
            width, inner, layers = _sizes(v)
            patch, joined = v.integer("patch_size"), v.integer("projector_input_dim")
            positions = (v.integer("image_size") // patch) ** 2 + 1
            layer = 4 * width * (width + 1) + 4 * width + 2 * width * inner + inner + width
            adapter = round(width / v.positive("pixel_shuffle_ratio") ** 2) * joined
            adapter += joined * v.integer("projector_output_dim")
            adapter += v.integer("vision_output_dim") * spec.width
            return (1 + positions + 3 * patch**2 + 4) * width + layers * layer + adapter
        case "mistral3" | "ministral3":
            width, inner, layers = _sizes(v)
            heads, head = v.integer("num_attention_heads"), v.integer("head_dim")
            layer = 4 * heads * head * width + 3 * width * inner + 2 * width
            merged = 4 * width * width  # patches are merged two by two
            tower = 3 * v.integer("patch_size") ** 2 * width + width + layers * layer
            return tower + width + merged + width * spec.width + spec.width**2
        case _:
            return 0


def _sizes(v: Keys) -> tuple[int, int, int]:
    return v.integer("hidden_size"), v.integer("intermediate_size"), v.integer("num_hidden_layers")


def _audio(v: Keys, model: str, spec: ModelSpec) -> int:
    if model == "gemma4_unified":
        return v.integer("audio_embed_dim") * spec.width
    if model != "gemma4":
        return 0
    width, out = v.integer("hidden_size"), v.integer("output_proj_dims", 1536)
    prefix = "conf_" if "conf_num_hidden_layers" in v else ""
    layers, heads = v.integer(prefix + "num_hidden_layers", 12), v.integer(prefix + "num_attention_heads", 8)
    kernel = v.integer("conf_conv_kernel_size", 5)
    channels = v.integers("sscp_conv_channel_size", 2) or v.integers("subsampling_conv_channels", 2)
    first, second = channels or (128, 32)
    features = v.integer("input_feat_size", 128) // 4  # halved twice
    convolutions = first * 9 + first + second * first * 9 + second + second * features * width
    feed_forward = 2 * (8 * width * width + 2 * width)
    attention = 5 * width * width + width // heads + 2 * width
    convolution = 3 * width * width + width * kernel + 2 * width
    tower = convolutions + layers * (feed_forward + attention + convolution + width) + (width + 1) * out
    return tower + out * spec.width
