"""Dense families that are Llama with a change or two."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

from trilens.spec.families.dense import llama, multiplied, qwen2, qwen3
from trilens.spec.families.parts import (
    activation,
    attentions,
    decoder_only,
    each_layer,
    head_norms,
    layer_count,
    layer_types,
    layers,
    masks_by_type,
    norms_around,
    norms_behind,
    read_rope,
    repeated,
    stated_head_dim,
    with_attention,
    without_gate,
)
from trilens.spec.keys import Keys
from trilens.spec.model import Curve, Dense, Full, Glu, LearnedCurve, Mask, ModelSpec, Norm, QueryKeyNorm, Rope


def seed_oss(k: Keys) -> ModelSpec:
    """Seed-OSS: biases on q, k and v, and by a key of its own on the output."""
    k.assume(head_dim=128, num_key_value_heads=8, max_position_embeddings=524288)
    k.ignore("residual_dropout")
    bias, out = k.flag("attention_bias", True), k.flag("attention_out_bias", False)
    return decoder_only(k, "seed_oss", qkv_bias=bias, out_bias=out, mlp_bias=k.flag("mlp_bias", False))


def arcee(k: Keys) -> ModelSpec:
    """Arcee's AFM: a feed-forward without a gate."""
    k.assume(hidden_act="relu2", rms_norm_eps=1e-5, max_position_embeddings=4096)
    bias, ffn = k.flag("attention_bias", False), without_gate(k, bias=k.flag("mlp_bias", False))
    return decoder_only(k, "arcee", qkv_bias=bias, out_bias=bias, feed_forward=ffn)


def apertus(k: Keys) -> ModelSpec:
    """Apertus: heads normalised, and a curve with two learned numbers a layer in place of a gate."""
    k.assume(hidden_act="xielu", rms_norm_eps=1e-5, max_position_embeddings=65536)
    llama3 = {"rope_type": "llama3", "rope_theta": 12e6, "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0}
    k.assume(rope_parameters={**llama3, "original_max_position_embeddings": 8192})
    repeated(k, {"hidden_act": "xielu", "qk_norm": True, "post_norm": False, "mlp_bias": False})
    bias, dense = k.flag("attention_bias", False), Dense(k.integer("intermediate_size"), LearnedCurve(0.5))
    return head_norms(decoder_only(k, "apertus", qkv_bias=bias, out_bias=bias, feed_forward=lambda i: dense))


def cwm(k: Keys) -> ModelSpec:
    """Code World Model: windows on three of four layers."""
    k.assume(rope_theta=1000000.0, sliding_window=8192, max_position_embeddings=131072, rms_norm_eps=1e-5, head_dim=128)
    k.assume(num_key_value_heads=8)
    types = layer_types(k, lambda i: "sliding_attention" if i % 4 else "full_attention")
    return decoder_only(k, "cwm", mlp_bias=k.flag("mlp_bias", False), mask=masks_by_type(k, types))


def ministral(k: Keys) -> ModelSpec:
    """Ministral 8B: Mistral with windows on the layers that are listed."""
    k.assume(sliding_window=4096, max_position_embeddings=131072)
    windows = "sliding_window" in k
    types = layer_types(k, lambda i: "sliding_attention" if windows else "full_attention")
    return decoder_only(k, "ministral", mask=masks_by_type(k, types))


def iquestcoder(k: Keys) -> ModelSpec:
    """IQuest-Coder."""
    k.assume(head_dim=128, num_key_value_heads=8, rms_norm_eps=1e-5, max_position_embeddings=131072)
    repeated(k, {"use_sliding_window": False, "clip_qkv": None})
    k.ignore("sliding_window", "max_window_layers")
    return replace(llama(k), family="iquestcoder")


def internlm3(k: Keys) -> ModelSpec:
    """InternLM 3: one key for the biases of q, k, v and the output, one for the others."""
    k.renamed({"qkv_bias": "attention_bias", "bias": "mlp_bias"})
    k.assume(head_dim=128, num_key_value_heads=2, rms_norm_eps=1e-5, max_position_embeddings=32768)
    return replace(llama(k), family="internlm3")


def exaone(k: Keys) -> ModelSpec:
    """EXAONE 3 and 3.5."""
    names = {"num_layers": "num_hidden_layers", "layer_norm_epsilon": "rms_norm_eps"}
    k.renamed({**names, "activation_function": "hidden_act"})
    k.assume(rope_theta=500000.0, rms_norm_eps=1e-5, num_key_value_heads=8, max_position_embeddings=4096)
    k.ignore("embed_dropout")
    return replace(llama(k), family="exaone")


def exaone4(k: Keys) -> ModelSpec:
    """EXAONE 4: norms behind the branches, heads normalised; where there are windows, full layers have no positions."""
    return norms_behind(windows_turned(k, "exaone4"))


def windows_turned(k: Keys, family: str, **options: Any) -> ModelSpec:
    """Heads normalised; windows on most layers, and positions on those alone, where the model has windows at all."""
    k.assume(rms_norm_eps=1e-5, sliding_window_pattern=4, sliding_window=4096)
    windows = k.values.get("sliding_window", 4096) is not None
    pattern = k.raw("sliding_window_pattern")
    letters = pattern if isinstance(pattern, str) else None
    every = k.integer("sliding_window_pattern") if letters is None and windows else 0

    def kind(i: int) -> str:
        if letters:
            windowed = letters[i % len(letters)] == "L"
        else:
            windowed = bool(every) and (i + 1) % every != 0
        return "sliding_attention" if windowed and i < layer_count(k) - bool(letters) else "full_attention"

    types = layer_types(k, kind)
    masks: Callable[[int], Mask] = masks_by_type(k, types) if windows else lambda i: Full()
    spec = head_norms(decoder_only(k, family, mask=masks, **options))
    if not windows:
        return spec
    return each_layer(spec, lambda i, x: x if types[i] == "sliding_attention" else with_attention(x, rope=None))


def partly_turned(k: Keys, family: str, **options: Any) -> ModelSpec:
    """Neighbouring numbers of each head turned together; of some families half of them. A GGUF file may have them in
    another order."""
    neighbours = k.flag("rope_interleave", True)
    dim = stated_head_dim(k, k.integer("hidden_size"), k.integer("num_attention_heads"))
    rope: Rope = read_rope(k, dim, k.length("max_position_embeddings", 2048), interleaved=neighbours)
    return decoder_only(k, family, rope=lambda i: rope, **options)


def glm(k: Keys) -> ModelSpec:
    """GLM-4 9B: half of each head turned."""
    k.assume(partial_rotary_factor=0.5, head_dim=128, max_position_embeddings=131072, num_key_value_heads=2)
    return partly_turned(k, "glm", qkv_bias=k.flag("attention_bias", False))


def glm4(k: Keys) -> ModelSpec:
    """GLM-4-0414 and GLM-Z1: GLM-4 with norms behind the branches too."""
    k.assume(partial_rotary_factor=0.5, head_dim=128, max_position_embeddings=131072, num_key_value_heads=2)
    k.assume(rms_norm_eps=1.5625e-7)
    return norms_around(partly_turned(k, "glm4", qkv_bias=k.flag("attention_bias", False)))


def glm4v(k: Keys) -> ModelSpec:
    """The text decoder of GLM-4.1V: GLM-4-0414 with biases on q, k and v."""
    k.assume(num_key_value_heads=2, max_position_embeddings=32768, rms_norm_eps=1e-5)
    k.ignore("attention_bias")
    return norms_around(partly_turned(k, "glm4v", qkv_bias=True))


def qwen_vl(k: Keys) -> ModelSpec:
    """The text decoders of Qwen2-VL and Qwen2.5-VL."""
    k.assume(rope_theta=1000000.0, num_key_value_heads=8, rms_norm_eps=1e-5, max_position_embeddings=32768)
    return replace(qwen2(k), family="qwen_vl")


def qwen3_vl(k: Keys) -> ModelSpec:
    """The text decoder of Qwen3-VL."""
    k.assume(rope_theta=500000.0, head_dim=128, max_position_embeddings=128000)
    return replace(qwen3(k), family="qwen3_vl")


def mimo(k: Keys) -> ModelSpec:
    """MiMo 7B: Qwen2, and layers that predict further tokens beside it."""
    k.ignore("num_nextn_predict_layers")
    return replace(qwen2(k), family="mimo")


def internlm2(k: Keys) -> ModelSpec:
    """InternLM 2 and 2.5."""
    k.assume(num_key_value_heads=8)
    k.ignore("attn_implementation")
    bias = k.flag("bias", True)
    return decoder_only(k, "internlm2", qkv_bias=bias, out_bias=bias)


def granite_swa(k: Keys) -> ModelSpec:
    """Granite with windows on three of four layers, sinks everywhere, and a theta for each layer."""
    k.assume(sliding_window=128, rms_norm_eps=1e-5, tie_word_embeddings=True, num_key_value_heads=4)
    count, context = layer_count(k), k.length("max_position_embeddings", 8192)
    types = layer_types(k, lambda i: "sliding_attention" if i % 4 else "full_attention")
    dim = stated_head_dim(k, k.integer("hidden_size"), k.integer("num_attention_heads"))
    plain, thetas = read_rope(k, dim, context), k.raw("layer_rope_theta") or [None] * count
    if not isinstance(thetas, list) or len(thetas) != count or any(isinstance(t, str) for t in thetas):
        raise k.wrong("layer_rope_theta", thetas, f"a list of {count} numbers")
    ropes = [plain if t is None else replace(plain, theta=float(t)) if t else None for t in thetas]
    bias = k.flag("attention_bias", False)
    options: dict[str, Any] = {"mask": masks_by_type(k, types), "rope": lambda i: ropes[i]}
    spec = decoder_only(k, "granite_swa", qkv_bias=bias, mlp_bias=k.flag("mlp_bias", False), out_bias=bias, **options)
    return attentions(multiplied(k, spec), sinks=True)


def helium(k: Keys) -> ModelSpec:
    """Helium."""
    k.assume(head_dim=128, rms_norm_eps=1e-8, max_position_embeddings=4096, rope_theta=100000.0)
    bias = k.flag("attention_bias", False)
    return partly_turned(k, "helium", qkv_bias=bias, mlp_bias=k.flag("mlp_bias", False))


def ernie4_5(k: Keys) -> ModelSpec:
    """ERNIE 4.5, dense."""
    k.assume(rope_theta=500000.0, tie_word_embeddings=True, rms_norm_eps=1e-5, max_position_embeddings=131072)
    k.ignore("compression_ratio")
    bias = k.flag("use_bias", False)
    return partly_turned(k, "ernie4_5", qkv_bias=bias, out_bias=bias, mlp_bias=bias)


def hunyuan_dense(k: Keys) -> ModelSpec:
    """Hunyuan 0.5B to 7B: heads normalised behind the rotation, theta stretched by alpha."""
    k.ignore(*HUNYUAN)
    repeated(k, {"use_qk_norm": True, "use_cla": False, "mlp_bias": False})
    k.assume(rms_norm_eps=1e-5)
    bias = k.flag("attention_bias", False)
    return turned_then_normalised(decoder_only(k, "hunyuan", qkv_bias=bias, out_bias=bias))


# Of its images, its other attentions and how it was trained.
HUNYUAN = (
    "add_classification_head anyres_pooling_size anyres_vit_max_image_size anyres_vit_two_views attention_head_dim "
    "cla_share_factor class_num dense_list eod_token_id im_end_id im_newline_id im_start_id image_token_id "
    "kv_lora_rank mask_init_id norm_type num_media_embeds org_vocab_size pad_id pool_type position_embedding_xdrope "
    "q_lora_rank qk_nope_head_dim qk_rope_head_dim skip_cls_token text_end_id text_start_id use_mla use_rotary_pos_emb "
    "v_head_dim video_end_id video_start_id vit_add_patchemb_bias vit_input_resolution vit_mapping_type vit_norm_type "
    "vit_patch vit_path vit_remove_prenorm vit_token vit_type vit_used_rms_norm xdrope_section"
).split()


def turned_then_normalised(spec: ModelSpec) -> ModelSpec:
    return attentions(spec, qk_norm=QueryKeyNorm(spec.final_norm, after_rope=True))


def hyperclovax(k: Keys) -> ModelSpec:
    """HyperCLOVA X SEED Think: Granite's factors, logits multiplied by theirs, norms behind the branches."""
    bias = k.flag("attention_bias", False)
    spec = decoder_only(k, "hyperclovax", qkv_bias=bias, out_bias=bias, mlp_bias=k.flag("mlp_bias", False))
    if "attention_multiplier" not in k:
        k.assume(attention_multiplier=stated_head_dim(k, spec.width, k.integer("num_attention_heads")) ** -0.5)
    spec = multiplied(k, spec)
    spec = replace(spec, head=replace(spec.head, scale=1 / spec.head.scale))
    return norms_around(spec) if k.flag("use_post_norm", True) else spec


def gemma(k: Keys) -> ModelSpec:
    """Gemma 1: embeddings scaled by the root of the width, gelu, wide heads."""
    k.assume(head_dim=256, tie_word_embeddings=True, max_position_embeddings=8192, hidden_act="gelu_pytorch_tanh")
    k.ignore("hidden_activation", "use_bidirectional_attention")
    curve = activation(k)
    dense = Dense(k.integer("intermediate_size"), Glu(Curve.GELU_TANH if curve is Curve.GELU else curve))
    bias = k.flag("attention_bias", False)
    spec = decoder_only(k, "gemma", qkv_bias=bias, out_bias=bias, feed_forward=lambda i: dense)
    return replace(spec, embedding_scale=spec.width**0.5)


def bitnet(k: Keys) -> ModelSpec:
    """BitNet b1.58: norms before the output matrix and before down."""
    k.assume(hidden_act="relu2", rope_theta=500000.0, rms_norm_eps=1e-5)
    bias, norm = k.flag("attention_bias", False), Norm(k.number("rms_norm_eps", least=0, most=1))
    dense = Dense(k.integer("intermediate_size"), Glu(activation(k)), inner_norm=norm)
    spec = decoder_only(k, "bitnet", qkv_bias=bias, out_bias=bias, feed_forward=lambda i: dense)
    return attentions(spec, out_norm=norm)


def minicpm(k: Keys) -> ModelSpec:
    """MiniCPM 1 and 2: constant factors on embedding, branches and logits."""
    return by_depth(k, replace(llama(k), family="minicpm"))


def by_depth(k: Keys, spec: ModelSpec) -> ModelSpec:
    """Embeddings times `scale_emb`, branches times scale_depth / sqrt(layers), logits by width / dim_model_base."""
    count = len(spec.layers)
    depth = k.positive("scale_depth", count**0.5) / count**0.5
    head = replace(spec.head, scale=k.integer("dim_model_base", spec.width) / spec.width)
    return replace(layers(spec, residual_scale=depth), embedding_scale=k.positive("scale_emb", 1.0), head=head)
