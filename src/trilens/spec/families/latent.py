"""Families with latent attention, from DeepSeek V2 and V3 to Kimi Linear, Mistral Large 3 and LongCat-Flash."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from trilens.errors import UnsupportedModel
from trilens.spec.families.llama_like import by_depth
from trilens.spec.families.parts import (
    MOST_LAYERS,
    WIDEST_HEAD,
    activation,
    each_layer,
    expert_groups,
    layer_count,
    layer_types,
    query_growth,
    renumbered,
    repeated,
    rope_rules,
    rope_theta,
    scaled_rope,
)
from trilens.spec.families.recurrent import delta_rule, with_recurrences
from trilens.spec.families.routed import corrected_experts, expert_count
from trilens.spec.keys import MOST_EXPERTS, Keys
from trilens.spec.model import (
    Curve,
    Dense,
    FeedForward,
    Full,
    Glu,
    Head,
    Index,
    LatentAttention,
    Layer,
    ModelSpec,
    Norm,
    OutputGate,
    Positions,
    PositionScale,
    Recurrence,
    Routed,
    Router,
    Scoring,
    Shortcut,
    YarnScaling,
)
from trilens.spec.rope import yarn_attention_factor


def deepseek_v2(k: Keys) -> ModelSpec:
    """DeepSeek-V2 and V2-Lite: softmax scores, taken from the best groups or from all."""
    k.assume(q_lora_rank=1536, kv_lora_rank=512, qk_nope_head_dim=128, qk_rope_head_dim=64, v_head_dim=128)
    k.assume(num_experts=64, n_shared_experts=2, routed_scaling_factor=1.0, topk_method="greedy")
    method, experts = k.text("topk_method"), expert_count(k)
    if method not in ("greedy", "group_limited_greedy"):
        raise UnsupportedModel(
            f"{k.where}: topk_method {method!r} is not supported; supported: greedy, group_limited_greedy"
        )
    if k.flag("norm_topk_prob", False) or k.text("scoring_func", "softmax") != "softmax":
        raise UnsupportedModel(f"{k.where}: norm_topk_prob or scoring_func other than softmax is not supported")
    groups = expert_groups(k, best=1)
    router = Router(
        experts,
        k.integer("num_experts_per_tok"),
        Scoring.SOFTMAX,
        scale=k.positive("routed_scaling_factor"),
        groups=groups if method == "group_limited_greedy" else None,
    )
    glu, width = Glu(activation(k)), k.integer("moe_intermediate_size")
    bias, shared = k.flag("mlp_bias", False), k.integer("n_shared_experts")
    routed = Routed(router, width, glu, shared=Dense(shared * width, glu, bias))
    first, dense = k.integer("first_k_dense_replace", 0, least=0), Dense(k.integer("intermediate_size"), glu, bias)
    k.ignore("moe_layer_freq", "ep_size")
    return _latent(k, "deepseek_v2", lambda i: routed if i >= first else dense)


def deepseek_v3(k: Keys) -> ModelSpec:
    """DeepSeek-V3 and R1, and Kimi K2, which is the same class in other sizes."""
    k.assume(q_lora_rank=1536, kv_lora_rank=512, qk_nope_head_dim=128, qk_rope_head_dim=64, v_head_dim=128)
    k.assume(num_experts=256, num_experts_per_tok=8, n_shared_experts=1, routed_scaling_factor=2.5)
    k.assume(n_group=8, topk_group=4, first_k_dense_replace=3, moe_intermediate_size=2048)
    for name, known in (("scoring_func", "sigmoid"), ("topk_method", "noaux_tc")):
        if (stated := k.text(name, known)) != known:
            raise UnsupportedModel(f"{k.where}: {name} {stated!r} is not supported in this family; supported: {known}")
    return _latent(k, "deepseek_v3", corrected_experts(k, layer_count(k)))


def deepseek_v32(k: Keys) -> ModelSpec:
    """DeepSeek V3.2: V3 with an index on every layer, which chooses the positions that attention sees."""
    return indexed(k, replace(deepseek_v3(k), family="deepseek_v32"), interleaved=False)


def glm_moe_dsa(k: Keys) -> ModelSpec:
    """GLM-5: the same with an index on some layers; the others see what the last one chose."""
    k.assume(q_lora_rank=2048, v_head_dim=256, qk_nope_head_dim=192, index_n_heads=32, rms_norm_eps=1e-5)
    k.assume(n_group=1, topk_group=1, max_position_embeddings=202752)
    k.ignore("index_share_for_mtp_iteration", "moe_router_dtype", "index_topk_freq", "index_skip_topk_offset")
    repeated(k, {"indexer_rope_interleave": True})
    spec = deepseek_v3(k)
    count, pattern = len(spec.layers), k.raw("index_topk_pattern")
    every, skipped = k.integer("index_topk_freq", 1), k.integer("index_skip_topk_offset", 2, least=0)
    if isinstance(pattern, str):
        k.assume(indexer_types=[{"F": "full"}.get(letter, "shared") for letter in pattern])
    types = k.texts("indexer_types", count)
    if types is None:
        types = tuple("shared" if max(i - skipped + 1, 0) % every else "full" for i in range(count))
    if types[0] != "full" or set(types) - {"full", "shared"}:
        raise k.wrong("indexer_types", list(types), "full or shared for each layer, full for the first")
    own = {i for i, kind in enumerate(types) if kind == "full"}
    return indexed(k, replace(spec, family="glm_moe_dsa"), interleaved=True, own=own)


def indexed(k: Keys, spec: ModelSpec, *, interleaved: bool, own: set[int] | None = None) -> ModelSpec:
    """With an index on the layers `own`, or on all; each keeps keys of its own."""
    heads, dim = k.integer("index_n_heads", 64), k.integer("index_head_dim", 128, most=WIDEST_HEAD)
    chosen = k.integer("index_topk", 2048)
    k.ignore("layer_types")  # the same kind for all of them
    cache = Positions(0, 1, dim, dim, Full(), latent=True)

    def with_index(i: int, layer: Layer) -> Layer:
        mixer = layer.mixer
        if not isinstance(mixer, LatentAttention) or mixer.rope is None:
            raise k.wrong("index_topk", chosen, "no index, because attention is not latent here")
        if mixer.q_rank is None:
            raise k.wrong("q_lora_rank", None, "a number, because the index reads latent queries")
        rope = replace(mixer.rope, interleaved=interleaved)
        index = Index(heads, cache, chosen, rope, Norm(1e-6, centred=True, bias=True))
        mine = own is None or i in own
        return replace(layer, mixer=replace(mixer, chosen=chosen, index=index if mine else None))

    return renumbered(each_layer(spec, with_index))


def kimi_linear(k: Keys) -> ModelSpec:
    """Kimi Linear: delta rule with a decay for each key column on most layers, latent attention without positions."""
    k.renamed(KIMI_LINEAR)
    k.assume(kv_lora_rank=512, qk_nope_head_dim=128, qk_rope_head_dim=64, v_head_dim=128, rms_norm_eps=1e-5)
    k.assume(num_experts=256, num_experts_per_tok=8, n_shared_experts=1, routed_scaling_factor=2.446)
    k.assume(first_k_dense_replace=1, moe_intermediate_size=1024, intermediate_size=9216)
    k.assume(max_position_embeddings=1048576)
    # a rope that no layer has, and what says again how experts are chosen
    k.ignore("rope_theta", "rope_scaling", "rope_parameters", "rope_interleave", "use_grouped_topk", "layer_types")
    repeated(k, {"moe_router_activation_func": "sigmoid", "mla_use_nope": True})
    count, experts = layer_count(k), corrected_experts(k, layer_count(k))
    inner = k.mapping("linear_attn_config")
    linear = inner if inner is not None else k
    linear.renamed({"head_dim": "linear_head_dim", "num_heads": "linear_num_heads"})
    linear.renamed({"short_conv_kernel_size": "linear_conv_kernel_dim"})
    k.ignore("linear_head_dim", "linear_num_heads", "linear_conv_kernel_dim")
    for usual in ("linear_num_value_heads", "linear_num_key_heads"):
        k.said_by(usual, linear, "linear_num_heads")
    heads, dim = linear.integer("linear_num_heads", 32), linear.integer("linear_head_dim", 128, most=WIDEST_HEAD)
    rule = Recurrence(heads, heads, dim, dim, delta=True, vector_decay=True)
    spec = _latent(k, "kimi_linear", experts, turned=False)
    taps = linear.integer("linear_conv_kernel_dim", 4, least=2)
    recurrence = delta_rule(rule, taps, OutputGate(Curve.SIGMOID, spec.final_norm, parts=heads), rank=dim)
    full = _full_layers(k, inner, count)
    return with_recurrences(spec, recurrence, lambda i: i not in full)


# Its own words, where transformers has others.
KIMI_LINEAR = {
    "model_max_length": "max_position_embeddings",
    "moe_renormalize": "norm_topk_prob",
    "num_expert_group": "n_group",
    "num_experts_per_token": "num_experts_per_tok",
    "num_shared_experts": "n_shared_experts",
}


def _full_layers(k: Keys, linear: Keys | None, count: int) -> set[int]:
    """The layers with attention: listed from 1 on, or by `layer_types`, or every fourth behind the first."""
    if linear is not None:
        listed, others = linear.integers("full_attn_layers"), linear.integers("kda_layers")
        if listed is not None and "layer_types" not in k:
            if others is not None and sorted((*listed, *others)) != list(range(1, count + 1)):
                raise linear.wrong("kda_layers", others, f"with full_attn_layers each of the layers 1 to {count} once")
            return {layer - 1 for layer in listed}
    types = layer_types(
        k,
        lambda i: "full_attention" if i and i % 4 == 0 else "linear_attention",
        known=("linear_attention", "full_attention"),
    )
    return {i for i, kind in enumerate(types) if kind == "full_attention"}


def axk1(k: Keys) -> ModelSpec:
    """A.X K1: DeepSeek-V3 with a norm behind the experts."""
    k.assume(q_lora_rank=1536, kv_lora_rank=512, qk_nope_head_dim=128, qk_rope_head_dim=64, v_head_dim=128)
    k.assume(num_experts=192, num_experts_per_tok=8, n_shared_experts=1, routed_scaling_factor=2.5)
    k.assume(n_group=8, topk_group=4, first_k_dense_replace=1, moe_intermediate_size=2048)
    k.assume(max_position_embeddings=32768)
    spec = _latent(k, "axk1", corrected_experts(k, layer_count(k)))

    def normed(layer: Layer) -> Layer:
        return replace(layer, feed_forward_out=spec.final_norm) if isinstance(layer.feed_forward, Routed) else layer

    return replace(spec, layers=tuple(map(normed, spec.layers)))


def sarvam_mla(k: Keys) -> ModelSpec:
    """Sarvam 105B: DeepSeek-V3 in other sizes."""
    k.renamed({"num_shared_experts": "n_shared_experts"})
    k.assume(kv_lora_rank=512, qk_nope_head_dim=128, qk_rope_head_dim=64, v_head_dim=128, num_experts=128)
    k.assume(num_experts_per_tok=8, n_shared_experts=1, routed_scaling_factor=2.5, first_k_dense_replace=1)
    k.assume(moe_intermediate_size=2048)
    k.ignore("q_head_dim")
    return _latent(k, "sarvam_mla", corrected_experts(k, layer_count(k)))


def youtu(k: Keys) -> ModelSpec:
    """Youtu-LLM: DeepSeek-V3's attention, and no experts."""
    k.assume(q_lora_rank=1536, kv_lora_rank=512, qk_nope_head_dim=128, qk_rope_head_dim=64, v_head_dim=128)
    k.assume(tie_word_embeddings=True, max_position_embeddings=131072)
    k.ignore("embedding_initializer_range", "mlp_bias")
    dense = Dense(k.integer("intermediate_size"), Glu(activation(k)))
    return _latent(k, "youtu", lambda i: dense)


def minicpm3(k: Keys) -> ModelSpec:
    """MiniCPM 3: latent attention without experts, constant factors on embedding, branches and logits."""
    k.assume(q_lora_rank=768, kv_lora_rank=256, qk_nope_head_dim=64, qk_rope_head_dim=32, rope_interleave=False)
    k.assume(v_head_dim=k.integer("hidden_size") // k.integer("num_attention_heads"), tie_word_embeddings=True)
    k.assume(scale_emb=12, scale_depth=1.4, dim_model_base=256, rms_norm_eps=1e-5, max_position_embeddings=32768)
    repeated(k, {"mlp_bias": False})
    dense = Dense(k.integer("intermediate_size"), Glu(activation(k)))
    return by_depth(k, _latent(k, "minicpm3", lambda i: dense))


def glm4_moe_lite(k: Keys) -> ModelSpec:
    """GLM-4.7-Flash: DeepSeek-V3's layers with the first one dense."""
    k.assume(hidden_size=2048, intermediate_size=10240, moe_intermediate_size=1536, num_hidden_layers=47)
    k.assume(num_attention_heads=20, n_shared_experts=1, num_experts=64, routed_scaling_factor=1.8)
    k.assume(kv_lora_rank=512, q_lora_rank=768, qk_rope_head_dim=64, v_head_dim=256, qk_nope_head_dim=192)
    k.assume(num_experts_per_tok=4, max_position_embeddings=202752, rms_norm_eps=1e-5, first_k_dense_replace=1)
    return _latent(k, "glm4_moe_lite", corrected_experts(k, layer_count(k)))


def mistral4(k: Keys) -> ModelSpec:
    """Mistral Large 3 in transformers' form: softmax scores renormalised, queries that grow by distance."""
    k.assume(q_lora_rank=1024, kv_lora_rank=256, qk_rope_head_dim=64, v_head_dim=128, qk_nope_head_dim=64)
    k.assume(hidden_size=4096, intermediate_size=12288, moe_intermediate_size=2048, num_hidden_layers=36)
    k.assume(num_attention_heads=32, n_shared_experts=1, num_experts=128, num_experts_per_tok=4)
    k.assume(max_position_embeddings=1048576, vocab_size=131072, rms_norm_eps=1e-6)
    k.assume(
        rope_parameters={
            "rope_type": "yarn",
            "rope_theta": 10000.0,
            "factor": 128.0,
            "original_max_position_embeddings": 8192,
            "mscale_all_dim": 1.0,
            "mscale": 1.0,
            "llama_4_scaling_beta": 0.1,
        }
    )
    experts = corrected_experts(k, layer_count(k), Scoring.SOFTMAX, correction_bias=False)
    return _latent(k, "mistral4", experts, query_growth(k))


def longcat_flash(k: Keys) -> ModelSpec:
    """LongCat-Flash: layers in pairs. Beside the first begins a branch of experts, which ends behind the second; some
    experts have no weights."""
    k.renamed({"ffn_hidden_size": "intermediate_size", "expert_ffn_hidden_size": "moe_intermediate_size"})
    k.renamed({"moe_topk": "num_experts_per_tok"})
    k.assume(q_lora_rank=1536, kv_lora_rank=512, qk_nope_head_dim=128, qk_rope_head_dim=64, v_head_dim=128)
    k.assume(n_routed_experts=512, zero_expert_num=256, num_experts_per_tok=12, moe_intermediate_size=2048)
    k.assume(intermediate_size=12288, routed_scaling_factor=6.0, rms_norm_eps=1e-5, rope_theta=1e7)
    k.assume(max_position_embeddings=131072)
    for name, known in LONGCAT_FLASH.items():
        if (stated := k.raw(name)) not in (None, known):
            raise k.unknown(name, stated)
    count = 2 * k.integer("num_layers", most=MOST_LAYERS // 2)
    repeated(k, {"num_hidden_layers": count, "head_dim": k.integer("qk_rope_head_dim")})
    k.assume(num_hidden_layers=count)
    experts = k.integer("n_routed_experts", most=MOST_EXPERTS)
    router = Router(
        experts,
        k.integer("num_experts_per_tok"),
        Scoring.SOFTMAX,
        scale=k.positive("routed_scaling_factor"),
        correction_bias=True,
        identity_experts=k.integer("zero_expert_num", least=0, most=MOST_EXPERTS - experts),
    )
    glu = Glu(activation(k))
    dense = Dense(k.integer("intermediate_size"), glu)
    both = Shortcut(dense, Routed(router, k.integer("moe_intermediate_size"), glu))
    spec = _latent(k, "longcat_flash", lambda i: dense if i % 2 else both)
    for norm, rank in (("q_norm", "q_lora_rank"), ("kv_norm", "kv_lora_rank")):  # behind it rows are made larger
        k.factors[f"layers.{{i}}.attention.{norm}"] = (spec.width / k.integer(rank)) ** 0.5
    return spec


# What its publisher's files say again, and transformers takes for granted.
LONGCAT_FLASH = {
    "attention_method": "MLA",
    "mla_scale_kv_lora": True,
    "mla_scale_q_lora": True,
    "norm_topk_prob": False,
    "router_bias": False,
    "zero_expert_type": "identity",
}


def _latent(
    k: Keys,
    family: str,
    feed_forward: Callable[[int], FeedForward],
    growth: PositionScale | None = None,
    *,
    turned: bool = True,
) -> ModelSpec:
    """The decoder of latent families: norm, attention, add, norm, feed-forward, add; with positions where `turned`."""
    heads, count, width = k.integer("num_attention_heads"), layer_count(k), k.integer("hidden_size")
    nope, rope_dim = k.integer("qk_nope_head_dim"), k.integer("qk_rope_head_dim", most=WIDEST_HEAD)
    value_dim, kv_rank = k.integer("v_head_dim"), k.integer("kv_lora_rank")
    q_rank = k.integer("q_lora_rank") if "q_lora_rank" in k else None
    context, norm = k.length("max_position_embeddings", 2048), Norm(k.number("rms_norm_eps", 1e-6, least=0, most=1))
    rules = rope_rules(k)
    theta, interleaved = rope_theta(k, rules), k.flag("rope_interleave", True)
    rope = scaled_rope(k, rules, rope_dim, theta, context, interleaved)
    scale = (nope + rope_dim) ** -0.5
    if rules is not None and isinstance(rope.scaling, YarnScaling) and rules.raw("mscale_all_dim"):
        scale *= yarn_attention_factor(rope.scaling.factor, rules.number("mscale_all_dim", least=0)) ** 2
    # of no meaning where keys are latent, and what only the rules of other ropes need
    k.ignore("head_dim", "qk_head_dim", "num_key_value_heads", "partial_rotary_factor", "q_lora_rank")
    if rules is not None:
        rules.ignore("partial_rotary_factor", "mscale", "mscale_all_dim")
    caches = tuple(Positions(i, 1, kv_rank + rope_dim, kv_rank, Full(), latent=True) for i in range(count))
    bias = k.flag("attention_bias", False)
    return ModelSpec(
        family=family,
        vocab=k.integer("vocab_size"),
        width=width,
        context=context,
        states=caches,
        final_norm=norm,
        head=Head(tied=k.flag("tie_word_embeddings", False)),
        layers=tuple(
            Layer(
                mixer=LatentAttention(
                    heads=heads,
                    cache=cache,
                    scale=scale,
                    mask=Full(),
                    rope=rope if turned else None,
                    nope_dim=nope,
                    rope_dim=rope_dim,
                    value_dim=value_dim,
                    kv_rank=kv_rank,
                    latent_norm=Norm(1e-6),  # the reference's own, whatever the config says of the other norms
                    q_rank=q_rank,
                    bias=bias,
                    position_scale=growth,
                ),
                feed_forward=feed_forward(i),
                mixer_in=norm,
                mixer_out=None,
                feed_forward_in=norm,
                feed_forward_out=None,
            )
            for i, cache in enumerate(caches)
        ),
    )
