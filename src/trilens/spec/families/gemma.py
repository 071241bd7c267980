"""Gemma 2, 3 and 4: norms around every branch, scaled embeddings, windows; Gemma 3n and 4 also share caches between
layers and give every layer its own row of a second table. Gemma 3n has several residual rows, Gemma 4 may put experts
beside the dense feed-forward."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from statistics import NormalDist
from typing import Any

from trilens.errors import UnsupportedModel
from trilens.spec.families.parts import (
    WIDEST_HEAD,
    activation,
    attentions,
    decoder_only,
    head_norms,
    layer_count,
    layer_types,
    masks_by_type,
    norms_around,
    optional_number,
    read_rope,
    repeated,
    ropes_by_type,
)
from trilens.spec.keys import MOST_EXPERTS, Keys
from trilens.spec.model import (
    Attention,
    Beside,
    Dense,
    FeedForward,
    Glu,
    Head,
    Layer,
    LowRankBranch,
    ModelSpec,
    Norm,
    PerLayerInput,
    PerLayerTable,
    Positions,
    QueryKeyNorm,
    Rope,
    Routed,
    Router,
    Scoring,
    Streams,
)

MOST_STREAMS = 64  # residual rows of a token: sixteen times what any model has

# transformers' defaults; the larger Gemma 3 files state only what differs from them
COMMON: dict[str, object] = {
    "hidden_size": 2304,
    "intermediate_size": 9216,
    "num_attention_heads": 8,
    "num_key_value_heads": 4,
    "head_dim": 256,
    "rms_norm_eps": 1e-6,
    "hidden_activation": "gelu_pytorch_tanh",
    "tie_word_embeddings": True,
}


def gemma2(k: Keys) -> ModelSpec:
    """Gemma 2: windows on every other layer, attention scores and logits capped."""
    k.assume(**COMMON, num_hidden_layers=26, vocab_size=256000, max_position_embeddings=8192, sliding_window=4096)
    k.assume(query_pre_attn_scalar=256, attn_logit_softcapping=50.0, final_logit_softcapping=30.0)
    types = layer_types(k, lambda i: "sliding_attention" if (i + 1) % 2 else "full_attention")
    rope = read_rope(k, k.integer("head_dim", most=WIDEST_HEAD), k.length("max_position_embeddings"))
    return _gemma(k, "gemma2", types, dict.fromkeys(types, rope))


def gemma3(k: Keys) -> ModelSpec:
    """Gemma 3: five windows to one full layer, each kind with positions of its own, heads normalised."""
    k.assume(**COMMON, num_hidden_layers=26, vocab_size=262208, max_position_embeddings=131072, sliding_window=4096)
    k.assume(query_pre_attn_scalar=256, rope_theta=1e6, rope_local_base_freq=1e4, sliding_window_pattern=6)
    _causal(k)
    period = k.integer("sliding_window_pattern")
    k.ignore("_sliding_window_pattern")
    types = layer_types(k, lambda i: "sliding_attention" if (i + 1) % period else "full_attention")
    local = k.positive("rope_local_base_freq")
    dims = dict.fromkeys(types, k.integer("head_dim", most=WIDEST_HEAD))
    ropes = ropes_by_type(k, dims, k.length("max_position_embeddings"), local_theta=lambda theta: local)
    return head_norms(_gemma(k, "gemma3", types, ropes))


def _gemma(k: Keys, family: str, types: tuple[str, ...], ropes: Mapping[str, Any]) -> ModelSpec:
    bias, curve = k.flag("attention_bias", False), activation(k, "hidden_activation")
    k.ignore("hidden_act", "use_bidirectional_attention", "cache_implementation")
    dense = Dense(k.integer("intermediate_size"), Glu(curve))
    spec = decoder_only(
        k,
        family,
        qkv_bias=bias,
        out_bias=bias,
        mask=masks_by_type(k, types),
        rope=lambda i: ropes[types[i]],
        feed_forward=lambda i: dense,
    )
    scale = k.positive("query_pre_attn_scalar") ** -0.5
    spec = attentions(norms_around(spec), scale=scale, softcap=optional_number(k, "attn_logit_softcapping"))
    head = replace(spec.head, softcap=optional_number(k, "final_logit_softcapping"))
    return replace(spec, embedding_scale=spec.width**0.5, head=head)


def gemma3n(k: Keys) -> ModelSpec:
    """Gemma 3n: several residual rows of which a layer computes one, a branch of low rank beside attention, gates of
    which only the largest pass; the last layers read caches written before."""
    k.assume(**{**COMMON, "hidden_size": 2048, "intermediate_size": 16384, "num_key_value_heads": 2})
    k.assume(num_hidden_layers=35, vocab_size=262400, max_position_embeddings=32768, sliding_window=512)
    k.assume(hidden_size_per_layer_input=256, vocab_size_per_layer_input=262144, num_kv_shared_layers=15)
    k.assume(laurel_rank=64, altup_num_inputs=4, final_logit_softcapping=30.0, rope_theta=1e6)
    _causal(k)
    repeated(k, {"altup_active_idx": 0, "altup_correct_scale": True})
    # of training, or fixed
    k.ignore("altup_coef_clip", "altup_lr_multiplier", "query_pre_attn_scalar", "use_bidirectional_attention")
    width, count, norm = k.integer("hidden_size"), layer_count(k), Norm(k.number("rms_norm_eps", least=0, most=1))
    context = k.length("max_position_embeddings")
    types = layer_types(k, lambda i: "sliding_attention" if (i + 1) % 5 else "full_attention")
    dim, kv_heads = k.integer("head_dim", most=WIDEST_HEAD), k.integer("num_key_value_heads")
    local = k.number("rope_local_base_freq", 10000.0, least=1.001, most=1e12)
    ropes = ropes_by_type(k, dict.fromkeys(types, dim), context, local_theta=lambda theta: local)
    attention = _own_scale(k, norm, types, dict.fromkeys(types, (kv_heads, dim)), ropes)
    curve, rows = activation(k, "hidden_activation"), k.integer("hidden_size_per_layer_input")
    low_rank = LowRankBranch(k.integer("laurel_rank"), norm, 2**-0.5)
    thresholds, widths = _thresholds(k, count), k.for_each("intermediate_size", count, 16384)
    return ModelSpec(
        family="gemma3n",
        vocab=k.integer("vocab_size"),
        width=width,
        context=context,
        states=tuple(a.cache for a in attention if a.writes),
        final_norm=norm,
        head=Head(k.flag("tie_word_embeddings", True), softcap=optional_number(k, "final_logit_softcapping")),
        embedding_scale=width**0.5,
        per_layer_table=_second_table(k.integer("vocab_size_per_layer_input"), rows, width, norm),
        streams=Streams(k.integer("altup_num_inputs", least=2, most=MOST_STREAMS), norm, 1e-5),
        layers=tuple(
            Layer(
                mixer=attention[i],
                feed_forward=Dense(widths[i], Glu(curve), threshold=thresholds[i]),
                mixer_in=norm,
                mixer_out=norm,
                feed_forward_in=norm,
                feed_forward_out=norm,
                per_layer_input=PerLayerInput(rows, Glu(curve), norm, row_weight=True),
                low_rank=low_rank,
            )
            for i in range(count)
        ),
    )


def _thresholds(k: Keys, count: int) -> list[float | None]:
    """Of each layer: the deviations from the mean above which a normal distribution has what is left of a gate."""
    k.assume(activation_sparsity_pattern=[0.95 if i < 10 < count else 0.0 for i in range(count)])
    shares = k.numbers("activation_sparsity_pattern", count, least=0, most=0.999999) or ()
    return [NormalDist().inv_cdf(share) if share else None for share in shares]


def _second_table(vocab: int, rows: int, width: int, norm: Norm) -> PerLayerTable:
    return PerLayerTable(vocab, rows, rows**0.5, width**-0.5, 2**-0.5, norm)


def gemma4(k: Keys) -> ModelSpec:
    """Gemma 4: wider heads on full layers, whose key may be their value; the last layers read caches written before."""
    k.assume(**COMMON, num_hidden_layers=30, vocab_size=262144, max_position_embeddings=131072, sliding_window=512)
    k.assume(global_head_dim=512, hidden_size_per_layer_input=256, vocab_size_per_layer_input=262144)
    k.assume(
        rope_parameters={
            "sliding_attention": {"rope_type": "default", "rope_theta": 10000.0},
            "full_attention": {"rope_type": "proportional", "partial_rotary_factor": 0.25, "rope_theta": 1000000.0},
        }
    )
    _causal(k)
    width, count, norm = k.integer("hidden_size"), layer_count(k), Norm(k.number("rms_norm_eps", least=0, most=1))
    context = k.length("max_position_embeddings")
    attention = _gemma4_attention(k, norm, context)
    feed_forward = _gemma4_feed_forward(k, norm)
    curve = activation(k, "hidden_activation")
    rows = k.integer("hidden_size_per_layer_input", 0, least=0)
    vocab = k.integer("vocab_size_per_layer_input")
    # said once more by other keys, or fixed
    k.ignore("query_pre_attn_scalar", "attn_logit_softcapping", "_sliding_window_pattern", "routed_layer_pattern")
    k.ignore("stream_and_decode_in_f32", "attention_use_bidirectional", "use_bidirectional_attention")
    return ModelSpec(
        family="gemma4",
        vocab=k.integer("vocab_size"),
        width=width,
        context=context,
        states=tuple(a.cache for a in attention if a.writes),
        final_norm=norm,
        head=Head(k.flag("tie_word_embeddings", True), softcap=optional_number(k, "final_logit_softcapping")),
        embedding_scale=width**0.5,
        per_layer_table=_second_table(vocab, rows, width, norm) if rows else None,
        layers=tuple(
            Layer(
                mixer=attention[i],
                feed_forward=feed_forward(attention[i]),
                mixer_in=norm,
                mixer_out=norm,
                feed_forward_in=norm,
                feed_forward_out=norm,
                per_layer_input=PerLayerInput(rows, Glu(curve), norm) if rows else None,
                scalar=True,
            )
            for i in range(count)
        ),
    )


def _gemma4_attention(k: Keys, norm: Norm, context: int) -> tuple[Attention, ...]:
    types = list(layer_types(k, lambda i: "sliding_attention" if (i + 1) % 6 else "full_attention"))
    types[-1] = "full_attention"  # as transformers forces it
    key_is_value = k.flag("attention_k_eq_v", False)
    widths = {"sliding_attention": (k.integer("num_key_value_heads"), k.integer("head_dim", most=WIDEST_HEAD))}
    widths["full_attention"] = _full_layers(k, types, key_is_value)
    used = {kind: widths[kind] for kind in types}
    ropes = ropes_by_type(k, {kind: dim for kind, (_, dim) in used.items()}, context, local_theta=lambda theta: theta)
    return _own_scale(k, norm, types, widths, ropes, key_is_value)


def _own_scale(
    k: Keys,
    norm: Norm,
    types: Sequence[str],
    widths: Mapping[str, tuple[int, int]],
    ropes: Mapping[str, Rope],
    key_is_value: bool = False,
) -> tuple[Attention, ...]:
    """Attention whose scores are scaled by the weights of the heads' norms; values are normalised too. `widths`:
    key-value heads and their width, by type of layer."""
    heads, bias = k.integer("num_attention_heads"), k.flag("attention_bias", False)
    mask, attention = masks_by_type(k, tuple(types)), list[Attention]()
    for i, (kind, (cache, writes)) in enumerate(zip(types, _caches(k, types, widths), strict=True)):
        attention.append(
            Attention(
                heads=heads,
                cache=cache,
                scale=1.0,
                mask=mask(i),
                rope=ropes[kind],
                qkv_bias=bias,
                out_bias=bias,
                qk_norm=QueryKeyNorm(norm),
                value_norm=replace(norm, weight=False) if writes else None,
                value_is_key=writes and key_is_value and kind == "full_attention",
                writes=writes,
            )
        )
    return tuple(attention)


def _caches(k: Keys, types: Sequence[str], widths: Mapping[str, tuple[int, int]]) -> list[tuple[Positions, bool]]:
    """Of each layer its cache and whether it writes it: the last `num_kv_shared_layers` read the last one of their
    type."""
    shared = k.integer("num_kv_shared_layers", 0, least=0)
    mask, last, caches = masks_by_type(k, tuple(types)), dict[str, Positions](), list[tuple[Positions, bool]]()
    for i, kind in enumerate(types):
        writes = i < len(types) - shared
        if writes:
            kv_heads, dim = widths[kind]
            last[kind] = Positions(i, kv_heads, dim, dim, mask(i))
        elif kind not in last:
            raise k.wrong("num_kv_shared_layers", shared, f"at least one layer before them that writes for {kind}")
        caches.append((last[kind], writes))
    return caches


def _full_layers(k: Keys, types: list[str], key_is_value: bool) -> tuple[int, int]:
    """(key-value heads, head width) of the full layers: stated once, or for every layer in a re-saved file."""
    kv_heads = k.integer("num_key_value_heads")
    if "num_global_key_value_heads" in k and key_is_value:
        kv_heads = k.integer("num_global_key_value_heads")
    k.ignore("num_global_key_value_heads", "global_head_dim")
    by_layer = k.mapping("per_layer_config")
    if by_layer is None:
        return kv_heads, k.integer("global_head_dim", most=WIDEST_HEAD)
    found = set()
    for i, kind in enumerate(types):
        own = by_layer.mapping(str(i))
        if kind == "full_attention" and own is not None:
            found.add(
                (
                    own.integer("num_key_value_heads", k.integer("num_key_value_heads")),
                    own.integer("head_dim", most=WIDEST_HEAD),
                )
            )
        elif own is not None:
            raise UnsupportedModel(f"{k.where}: per_layer_config.{i} changes a layer with a window; not known")
    if len(found) > 1:
        raise UnsupportedModel(f"{k.where}: per_layer_config gives full layers different shapes; not known")
    return found.pop() if found else (kv_heads, k.integer("head_dim", most=WIDEST_HEAD))


def _gemma4_feed_forward(k: Keys, norm: Norm) -> Any:
    """attention of a layer -> its feed-forward: dense, twice as wide where the cache is shared, or with experts."""
    glu, width = Glu(activation(k, "hidden_activation")), k.integer("intermediate_size")
    double = k.flag("use_double_wide_mlp", False)
    expert_keys = ("num_experts", "top_k_experts", "moe_intermediate_size", "expert_intermediate_size")
    routed: Routed | None = None
    if k.flag("enable_moe_block", False):
        experts, chosen = k.integer("num_experts", most=MOST_EXPERTS), k.integer("top_k_experts")
        expert_width = k.integer("moe_intermediate_size" if "moe_intermediate_size" in k else expert_keys[-1])
        router = Router(experts, chosen, Scoring.SOFTMAX, renormalise=True, expert_scale=True)
        routed = Routed(router, expert_width, glu)
    k.ignore(*expert_keys)

    def feed_forward(attention: Attention) -> FeedForward:
        dense = Dense(width if attention.writes or not double else 2 * width, glu)
        return dense if routed is None else Beside(dense, routed, norm, norm, norm, norm)

    return feed_forward


def _causal(k: Keys) -> None:
    """Bidirectional attention over text is another kind of model; over images only it does not concern the text."""
    if k.raw("use_bidirectional_attention") in (True, "all"):
        raise UnsupportedModel(
            f"{k.where}: use_bidirectional_attention, over text, is not supported; this is not a generating model"
        )
