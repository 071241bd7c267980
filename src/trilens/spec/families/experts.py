"""More routed families with grouped-query attention."""

from __future__ import annotations

from dataclasses import replace

from trilens.spec.families.llama_like import HUNYUAN, partly_turned, turned_then_normalised, windows_turned
from trilens.spec.families.parts import (
    activation,
    attentions,
    decoder_only,
    each_layer,
    head_norms,
    layer_count,
    layer_types,
    masks_by_type,
    norms_around,
    norms_behind,
    optional_number,
    repeated,
    ropes_by_type,
    with_attention,
)
from trilens.spec.families.routed import corrected_experts, expert_count, glm4_moe, granite_moe, olmoe, qwen3_moe
from trilens.spec.keys import Keys
from trilens.spec.model import (
    AttentionGate,
    Curve,
    Dense,
    FeedForward,
    Full,
    Glu,
    Mask,
    ModelSpec,
    Norm,
    Routed,
    Router,
    Scoring,
)


def qwen2_moe(k: Keys) -> ModelSpec:
    """Qwen1.5-MoE and Qwen2-57B-A14B: a shared expert with a gate of its own."""
    k.assume(num_experts=60, num_experts_per_tok=4, moe_intermediate_size=1408, shared_expert_intermediate_size=5632)
    k.assume(decoder_sparse_step=1)
    glu = Glu(activation(k))
    router = Router(
        expert_count(k),
        k.integer("num_experts_per_tok"),
        Scoring.SOFTMAX,
        renormalise=k.flag("norm_topk_prob", False),
    )
    shared = Dense(k.integer("shared_expert_intermediate_size"), glu)
    routed = Routed(router, k.integer("moe_intermediate_size"), glu, shared=shared, shared_gate=True)
    dense, step = Dense(k.integer("intermediate_size"), glu), k.integer("decoder_sparse_step")
    dense_only, first = k.integers("mlp_only_layers") or (), k.integer("max_window_layers", 28, least=0)
    windows = k.flag("use_sliding_window", False) and "sliding_window" in k
    k.ignore("sliding_window")  # stated where there are none
    types = layer_types(k, lambda i: "sliding_attention" if windows and i >= first else "full_attention")
    mask = masks_by_type(k, types) if windows else _full
    return decoder_only(
        k,
        "qwen2_moe",
        qkv_bias=k.flag("qkv_bias", True),
        mask=mask,
        feed_forward=lambda i: routed if i not in dense_only and (i + 1) % step == 0 else dense,
    )


def _full(i: int) -> Mask:
    return Full()


def ernie4_5_moe(k: Keys) -> ModelSpec:
    """ERNIE 4.5 with experts: on a range of layers, chosen by corrected softmax scores."""
    k.renamed({"moe_num_experts": "num_experts", "moe_k": "num_experts_per_tok"})
    k.assume(rope_theta=500000.0, tie_word_embeddings=True, rms_norm_eps=1e-5, max_position_embeddings=131072)
    k.assume(num_experts=64, num_experts_per_tok=6, moe_intermediate_size=1536, moe_num_shared_experts=2)
    k.ignore("moe_capacity", "moe_norm_min", "moe_use_aux_free", "moe_gate", "use_moe", "num_nextn_predict_layers")
    count, bias, glu = layer_count(k), k.flag("use_bias", False), Glu(activation(k))
    router = Router(
        expert_count(k),
        k.integer("num_experts_per_tok"),
        Scoring.SOFTMAX,
        renormalise=True,
        correction_bias=True,
    )
    width, shared = k.integer("moe_intermediate_size"), k.integer("moe_num_shared_experts", least=0)
    routed = Routed(router, width, glu, shared=Dense(shared * width, glu, bias) if shared else None)
    dense = Dense(k.integer("intermediate_size"), glu, bias)
    start, every = k.integer("moe_layer_start_index", 1, least=0), k.integer("moe_layer_interval", 1)
    end = k.integer("moe_layer_end_index", -1, least=-1)
    last = count - 1 if end == -1 else end

    def feed_forward(i: int) -> FeedForward:
        return routed if start <= i <= last and (i + 1) % every == 0 else dense

    spec = partly_turned(k, "ernie4_5_moe", qkv_bias=bias, out_bias=bias, feed_forward=feed_forward)
    return replace(spec, head=replace(spec.head, bias=bias))


def hunyuan_moe(k: Keys) -> ModelSpec:
    """Hunyuan A13B: heads normalised behind the rotation, experts beside a shared one on every layer."""
    k.ignore(*HUNYUAN, "moe_drop_tokens", "moe_random_routing_dropped_token", "n_group", "topk_group")
    k.renamed({"moe_topk": "num_experts_per_tok"})
    k.assume(rms_norm_eps=1e-5)
    for name in ("num_experts", "num_experts_per_tok", "moe_intermediate_size", "num_shared_expert"):
        _same_everywhere(k, name)
    said = {"use_qk_norm": True, "use_cla": False, "mlp_bias": False, "group_limited_greedy": False}
    repeated(k, {**said, "norm_topk_prob": True, "routed_scaling_factor": 1.0, "use_mixed_mlp_moe": True})
    repeated(k, {"moe_layer_num_skipped": 0})
    glu = Glu(activation(k))
    width = k.integer("moe_intermediate_size", k.integer("intermediate_size"))
    shared = k.integer("num_shared_expert", 1, least=0) * k.integer("intermediate_size")
    router = Router(expert_count(k), k.integer("num_experts_per_tok"), Scoring.SOFTMAX, renormalise=True)
    routed = Routed(router, width, glu, shared=Dense(shared, glu) if shared else None)
    bias = k.flag("attention_bias", False)
    spec = decoder_only(k, "hunyuan_moe", qkv_bias=bias, out_bias=bias, feed_forward=lambda i: routed)
    return turned_then_normalised(spec)


def _same_everywhere(k: Keys, name: str) -> None:
    """A number that is stated for each layer, and has to be the same for all of them."""
    listed = k.values.get(name)
    if isinstance(listed, list) and listed:
        if any(value != listed[0] for value in listed):
            raise k.wrong(name, listed, "the same number for every layer")
        k.values = {**k.values, name: listed[0]}


def exaone_moe(k: Keys) -> ModelSpec:
    """K-EXAONE: EXAONE 4's attention with norms before the branches, and DeepSeek-V3's experts."""
    k.renamed({"num_shared_experts": "n_shared_experts"})
    k.assume(n_shared_experts=1, first_k_dense_replace=1, num_experts=64, num_experts_per_tok=8)
    k.assume(moe_intermediate_size=1024, routed_scaling_factor=2.5)
    return windows_turned(k, "exaone_moe", feed_forward=corrected_experts(k, layer_count(k)))


def dots1(k: Keys) -> ModelSpec:
    """dots.llm1: Qwen3's attention, DeepSeek-V3's experts."""
    k.assume(sliding_window=4096, max_window_layers=layer_count(k), norm_topk_prob=False)
    first, windows = k.integer("max_window_layers", least=0), k.values.get("sliding_window", 4096) is not None
    types = layer_types(k, lambda i: "sliding_attention" if windows and i >= first else "full_attention")
    bias, experts = k.flag("attention_bias", False), corrected_experts(k, layer_count(k))
    mask = masks_by_type(k, types)
    return head_norms(decoder_only(k, "dots1", qkv_bias=bias, out_bias=bias, mask=mask, feed_forward=experts))


def solar_open(k: Keys) -> ModelSpec:
    """Solar Open: Llama's attention, DeepSeek-V3's experts on every layer."""
    k.assume(rope_theta=1000000.0, head_dim=128, num_key_value_heads=8, rms_norm_eps=1e-5)
    k.assume(n_shared_experts=1, moe_intermediate_size=1280, num_experts=128, num_experts_per_tok=8)
    k.assume(max_position_embeddings=131072, intermediate_size=k.integer("moe_intermediate_size"))
    k.ignore("intermediate_size", "first_k_dense_replace", "use_qk_norm")
    k.values = {n: v for n, v in k.values.items() if n not in ("first_k_dense_replace", "intermediate_size")}
    experts = corrected_experts(k, layer_count(k))
    return decoder_only(k, "solar_open", qkv_bias=k.flag("attention_bias", False), feed_forward=experts)


def sarvam_moe(k: Keys) -> ModelSpec:
    """Sarvam 30B: GLM-4.5's arrangement with whole heads turned and normalised."""
    k.renamed({"num_shared_experts": "n_shared_experts", "use_qkv_bias": "attention_bias"})
    k.assume(rope_theta=8000000.0, head_dim=64, num_key_value_heads=4, first_k_dense_replace=1, n_shared_experts=1)
    k.assume(moe_intermediate_size=1024, num_experts=128, num_experts_per_tok=6, routed_scaling_factor=2.5)
    k.assume(max_position_embeddings=131072)
    experts, bias = corrected_experts(k, layer_count(k)), k.flag("attention_bias", False)
    spec = decoder_only(k, "sarvam_moe", qkv_bias=bias, feed_forward=experts)
    return head_norms(spec) if k.flag("use_qk_norm", True) else spec


def bailing_moe_v2(k: Keys) -> ModelSpec:
    """Ling and Ring 2.0: GLM-4.5's arrangement; the names in its files are Sarvam's."""
    k.ignore(*BAILING)
    repeated(k, {"score_function": "sigmoid", "moe_router_enable_expert_bias": True, "use_bias": False})
    repeated(k, {"moe_shared_expert_intermediate_size": k.raw("moe_intermediate_size")})
    k.assume(partial_rotary_factor=0.5, first_k_dense_replace=1, n_shared_experts=1)
    return replace(sarvam_moe(k), family="bailing_moe_v2")


def bailing_moe(k: Keys) -> ModelSpec:
    """Ling 1 and 1.5: Llama's attention, softmax scores, shared experts on every layer."""
    if "score_function" in k or "moe_router_enable_expert_bias" in k:  # Ling 2 under the name of Ling 1.5
        return bailing_moe_v2(k)
    k.ignore(*BAILING, "first_k_dense_replace", "intermediate_size", "multi_gate")
    repeated(k, {"use_bias": False})
    width, glu, bias = k.integer("moe_intermediate_size"), Glu(activation(k)), k.flag("use_qkv_bias", False)
    renormalise, shared = k.flag("norm_topk_prob", True), k.integer("num_shared_experts", 0, least=0)
    router = Router(expert_count(k), k.integer("num_experts_per_tok"), Scoring.SOFTMAX, renormalise=renormalise)
    routed = Routed(router, width, glu, shared=Dense(shared * width, glu) if shared else None)
    return decoder_only(k, "bailing_moe", qkv_bias=bias, feed_forward=lambda i: routed)


# How it was trained, and layers that predict further tokens.
BAILING = (
    "embedding_dropout output_dropout num_nextn_predict_layers mtp_loss_scaling_factor router_dtype use_rmsnorm "
    "max_window_layers use_sliding_window sliding_window norm_head norm_softmax rotary_dim moe_z_loss_coeff"
).split()


def hy_v3(k: Keys) -> ModelSpec:
    """Hunyuan 3: heads normalised, corrected sigmoid scores, the first layer dense."""
    k.renamed({"num_shared_experts": "n_shared_experts", "router_scaling_factor": "routed_scaling_factor"})
    k.assume(rope_theta=11158840.0, head_dim=128, num_key_value_heads=8, rms_norm_eps=1e-5, first_k_dense_replace=1)
    k.assume(num_experts=192, num_experts_per_tok=8, n_shared_experts=1, moe_intermediate_size=1536)
    k.assume(routed_scaling_factor=2.826, max_position_embeddings=131072)
    k.ignore("enable_moe_fp32_combine", "mlp_bias", "enable_lm_head_fp32", "enable_attention_fp32_softmax")
    k.ignore("moe_router_enable_expert_bias", "moe_router_use_sigmoid", "route_norm", "qk_norm", "use_grouped_mm")
    repeated(k, {"mlp_bias": False})
    bias, experts = k.flag("attention_bias", False), corrected_experts(k, layer_count(k))
    return head_norms(decoder_only(k, "hy_v3", qkv_bias=bias, out_bias=bias, feed_forward=experts))


def mellum(k: Keys) -> ModelSpec:
    """Mellum 2: Qwen3's attention with windows and a rope for each kind, experts on the layers that are listed."""
    k.assume(head_dim=128, num_experts=64, num_experts_per_tok=8, moe_intermediate_size=896, sliding_window=1024)
    k.assume(num_key_value_heads=4, max_position_embeddings=131072)
    k.assume(
        rope_parameters={
            "full_attention": {"rope_type": "default", "rope_theta": 500000.0},
            "sliding_attention": {"rope_type": "default", "rope_theta": 10000.0},
        }
    )
    k.ignore("num_nextn_predict_layers", "num_mtp_layers", "mtp_layer_types", "mtp_mlp_layer_types")
    count, glu, bias = layer_count(k), Glu(activation(k)), k.flag("attention_bias", False)
    types = layer_types(k, lambda i: "full_attention")
    renormalise = k.flag("norm_topk_prob", True)
    router = Router(expert_count(k), k.integer("num_experts_per_tok"), Scoring.SOFTMAX, renormalise=renormalise)
    routed = Routed(router, k.integer("moe_intermediate_size"), glu)
    sparse = k.texts("mlp_layer_types", count) or ("sparse",) * count
    dense = Dense(k.integer("intermediate_size", 7168), glu)
    context = k.length("max_position_embeddings")
    ropes = ropes_by_type(k, dict.fromkeys(types, k.integer("head_dim")), context, local_theta=lambda theta: theta)
    spec = decoder_only(
        k,
        "mellum",
        qkv_bias=bias,
        out_bias=bias,
        mask=masks_by_type(k, types),
        rope=lambda i: ropes[types[i]],
        feed_forward=lambda i: routed if sparse[i] == "sparse" else dense,
    )
    return head_norms(spec)


def qwen3_vl_moe(k: Keys) -> ModelSpec:
    """The text decoder of Qwen3-VL with experts."""
    k.assume(rope_theta=500000.0, max_position_embeddings=128000, num_experts=60, num_experts_per_tok=4)
    k.assume(moe_intermediate_size=1408, norm_topk_prob=True, tie_word_embeddings=True)
    repeated(k, {"norm_topk_prob": True})
    return replace(qwen3_moe(k), family="qwen3_vl_moe")


def glm4v_moe(k: Keys) -> ModelSpec:
    """The text decoder of GLM-4.5V."""
    k.assume(attention_bias=True, num_key_value_heads=8, max_position_embeddings=65536)
    repeated(k, {"use_qk_norm": False})
    return replace(glm4_moe(k), family="glm4v_moe")


def flex_olmo(k: Keys) -> ModelSpec:
    """FlexOlmo: OLMoE with the norms of OLMo 2."""
    k.assume(rope_theta=500000.0, num_experts=7, num_experts_per_tok=5, rms_norm_eps=1e-6)
    return norms_behind(replace(olmoe(k), family="flex_olmo"))


def granite_moe_shared(k: Keys) -> ModelSpec:
    """Granite with experts beside a shared one."""
    k.assume(shared_intermediate_size=0)
    spec, shared = granite_moe(k), k.integer("shared_intermediate_size", least=0)
    dense = Dense(shared, Glu(activation(k))) if shared else None

    def beside(f: FeedForward | None) -> FeedForward | None:
        return replace(f, shared=dense) if isinstance(f, Routed) else f

    spec = each_layer(spec, lambda i, layer: replace(layer, feed_forward=beside(layer.feed_forward)))
    return replace(spec, family="granite_moe_shared")


def mimo_v2(k: Keys) -> ModelSpec:
    """MiMo-V2: values narrower than keys, and scaled; windows with sinks and KV heads of their own."""
    k.renamed({"layernorm_epsilon": "rms_norm_eps"})
    k.assume(head_dim=192, v_head_dim=128, num_key_value_heads=4, attention_value_scale=0.707, sliding_window=129)
    k.assume(rope_theta=5000000.0, swa_rope_theta=10000.0, partial_rotary_factor=0.334, rms_norm_eps=1e-5)
    k.assume(num_experts=256, num_experts_per_tok=8, moe_intermediate_size=2048, max_position_embeddings=131072)
    if "sliding_window_size" in k:  # the positions behind the token's own
        k.values = {**k.values, "sliding_window": k.length("sliding_window_size") + 1}
    count = layer_count(k)
    marked = k.integers("hybrid_layer_pattern", count)

    def windowed(i: int) -> bool:
        return bool(marked[i]) if marked else i > 0 and (i + 1) % 6 != 0

    types = layer_types(k, lambda i: "sliding_attention" if windowed(i) else "full_attention")
    few, heads = k.integer("num_key_value_heads"), k.integer("num_attention_heads")
    many, dim, values = k.integer("swa_num_key_value_heads", 2 * few), k.integer("head_dim"), k.integer("v_head_dim")
    repeated(k, {"swa_num_attention_heads": heads, "swa_head_dim": dim, "swa_v_head_dim": values})
    repeated(k, {"add_swa_attention_sink_bias": True, "add_full_attention_sink_bias": False})
    repeated(k, {"n_shared_experts": None})
    k.ignore("attention_chunk_size", "hybrid_block_size", "use_qk_norm", "num_mtp_layers", "first_k_dense_replace")
    if k.values.get("routed_scaling_factor", 0) is None:
        k.values = {n: v for n, v in k.values.items() if n != "routed_scaling_factor"}
    if sparse := k.integers("moe_layer_freq", count):
        k.values = {**k.values, "moe_layer_freq": 1}
        k.assume(mlp_layer_types=["sparse" if on else "dense" for on in sparse])
    k.assume(mlp_layer_types=k.assumed.get("mlp_layer_types", ["dense"] + ["sparse"] * (count - 1)))
    k.assume(first_k_dense_replace=1)
    local = k.positive("swa_rope_theta")
    context = k.length("max_position_embeddings")
    ropes = ropes_by_type(k, dict.fromkeys(types, dim), context, local_theta=lambda theta: local)
    k.factors["layers.{i}.attention.v"] = k.factors["layers.{i}.attention.v.bias"] = k.positive("attention_value_scale")
    spec = decoder_only(
        k,
        "mimo_v2",
        qkv_bias=k.flag("attention_bias", False),
        mask=masks_by_type(k, types),
        rope=lambda i: ropes[types[i]],
        feed_forward=corrected_experts(k, count),
        kv_heads_of=[many if t == "sliding_attention" else few for t in types],
        value_dim=values,
    )
    return each_layer(spec, lambda i, x: with_attention(x, sinks=types[i] == "sliding_attention"))


def dbrx(k: Keys) -> ModelSpec:
    """DBRX: a bound on q, k and v, norms that take the mean away, sixteen experts on every layer."""
    k.renamed({"d_model": "hidden_size", "n_heads": "num_attention_heads", "n_layers": "num_hidden_layers"})
    k.renamed({"max_seq_len": "max_position_embeddings"})
    k.ignore("emb_pdrop", "move_model_to_device")
    attention, ffn = k.mapping("attn_config"), k.mapping("ffn_config")
    if attention is None or ffn is None:
        raise k.wrong("attn_config", k.raw("attn_config"), "a mapping, and ffn_config another")
    k.assume(rope_theta=attention.number("rope_theta", 10000.0, least=1.001, most=1e12))
    if "kv_n_heads" in attention:
        repeated(k, {"num_key_value_heads": attention.integer("kv_n_heads")})
    k.lifted(attention, {"kv_n_heads": "num_key_value_heads"})
    k.lifted(ffn, {"ffn_hidden_size": "moe_intermediate_size", "moe_num_experts": "num_experts"})
    k.lifted(ffn, {"moe_top_k": "num_experts_per_tok"})
    k.assume(num_key_value_heads=1, num_experts=4, num_experts_per_tok=1, moe_intermediate_size=3584)
    attention.ignore("attn_pdrop", *BESIDE_DBRX)
    ffn.ignore("moe_jitter_eps", "moe_loss_weight", "hidden_size", "uniform_expert_assignment", *BESIDE_DBRX)
    if ffn.raw("moe_normalize_expert_weights") not in (None, 1, 1.0):
        raise ffn.wrong("moe_normalize_expert_weights", ffn.raw("moe_normalize_expert_weights"), "1: by their sum")
    renormalise = ffn.values.get("moe_normalize_expert_weights", 1) is not None
    act = ffn.mapping("ffn_act_fn")
    glu = Glu(Curve.SILU if act is None else activation(act, "name"))
    router = Router(expert_count(k), k.integer("num_experts_per_tok"), Scoring.SOFTMAX, renormalise=renormalise)
    routed, norm = Routed(router, k.integer("moe_intermediate_size"), glu), Norm(1e-5, centred=True)
    spec = decoder_only(k, "dbrx", norm=norm, feed_forward=lambda i: routed)
    return attentions(spec, clip=optional_number(attention, "clip_qkv"))


# transformers' bookkeeping, which it writes into every part of a configuration.
BESIDE_DBRX = (
    "model_type transformers_version dtype architectures id2label label2id return_dict chunk_size_feed_forward "
    "is_encoder_decoder output_hidden_states problem_type _name_or_path output_attentions torch_dtype"
).split()


def laguna(k: Keys) -> ModelSpec:
    """Laguna: attention whose heads are gated one by one, as many heads as each layer lists."""
    k.assume(head_dim=128, num_key_value_heads=8, num_experts=256, num_experts_per_tok=8, moe_intermediate_size=512)
    k.assume(shared_expert_intermediate_size=512, moe_routed_scaling_factor=1.0, max_position_embeddings=131072)
    k.assume(
        rope_parameters={
            "full_attention": {"rope_type": "default", "rope_theta": 500000.0, "partial_rotary_factor": 0.5},
            "sliding_attention": {"rope_type": "default", "rope_theta": 10000.0},
        }
    )
    repeated(k, {"moe_apply_router_weight_on_input": False, "moe_router_logit_softcapping": 0.0})
    count, glu, bias = layer_count(k), Glu(activation(k)), k.flag("attention_bias", False)
    types = layer_types(k, lambda i: "full_attention")
    heads = k.for_each("num_attention_heads_per_layer", count, k.integer("num_attention_heads"))
    router = Router(
        expert_count(k),
        k.integer("num_experts_per_tok"),
        Scoring.SIGMOID,
        renormalise=True,
        scale=k.positive("moe_routed_scaling_factor"),
        correction_bias=True,
    )
    shared = Dense(k.integer("shared_expert_intermediate_size"), glu)
    routed = Routed(router, k.integer("moe_intermediate_size"), glu, shared=shared)
    sparse = k.texts("mlp_layer_types", count) or ("dense", *("sparse",) * (count - 1))
    dense = Dense(k.integer("intermediate_size"), glu) if "dense" in sparse else None
    k.ignore("intermediate_size")
    context = k.length("max_position_embeddings")
    ropes = ropes_by_type(k, dict.fromkeys(types, k.integer("head_dim")), context, local_theta=lambda theta: theta)
    per_head = k.raw("gating") in (None, True, "per-head")
    spec = decoder_only(
        k,
        "laguna",
        qkv_bias=bias,
        out_bias=bias,
        mask=masks_by_type(k, types),
        rope=lambda i: ropes[types[i]],
        feed_forward=lambda i: dense if dense is not None and sparse[i] == "dense" else routed,
        heads_of=heads,
    )
    return attentions(head_norms(spec), gate=AttentionGate(Curve.SOFTPLUS, per_head))


def afmoe(k: Keys) -> ModelSpec:
    """Trinity (AFMoE): gated attention, windows with positions and full layers without, norms around the branches."""
    k.renamed({"num_shared_experts": "n_shared_experts", "num_dense_layers": "first_k_dense_replace"})
    k.renamed({"route_scale": "routed_scaling_factor"})
    k.assume(head_dim=128, rms_norm_eps=1e-5, num_experts=64, num_experts_per_tok=6, moe_intermediate_size=1408)
    k.assume(n_shared_experts=2, first_k_dense_replace=1, sliding_window=1024, max_position_embeddings=16384)
    k.assume(global_attn_every_n_layers=4)
    repeated(k, {"score_func": "sigmoid", "route_norm": True, "num_expert_groups": 1, "num_limited_groups": 1})
    repeated(k, {"use_grouped_mm": True})
    k.ignore("load_balance_coeff")
    every, bias = k.integer("global_attn_every_n_layers"), k.flag("attention_bias", False)
    types = layer_types(k, lambda i: "sliding_attention" if (i + 1) % every else "full_attention")
    experts, mask = corrected_experts(k, layer_count(k)), masks_by_type(k, types)
    spec = decoder_only(k, "afmoe", qkv_bias=bias, out_bias=bias, mask=mask, feed_forward=experts)
    spec = attentions(norms_around(head_norms(spec)), gate=AttentionGate())
    if k.flag("mup_enabled", False):
        spec = replace(spec, embedding_scale=spec.width**0.5)
    return each_layer(spec, lambda i, x: x if types[i] == "sliding_attention" else with_attention(x, rope=None))
