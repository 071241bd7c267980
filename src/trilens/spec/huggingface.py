"""config.json -> ModelSpec, one short function a family.

Every key is read, or named as ignored; a key that nobody knows and that says something ends up in `Reading.unread`.
To add a family: write its function, add it to `FAMILIES`, add its tensor names to `checkpoints/names.py` where they
differ from the common ones, and a row to the parity test.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from trilens.errors import BadCheckpoint, UnsupportedModel
from trilens.spec.keys import Keys
from trilens.spec.model import (
    Attention,
    Cache,
    Curve,
    Dense,
    DynamicScaling,
    FeedForward,
    Full,
    Glu,
    Head,
    Layer,
    LinearScaling,
    Llama3Scaling,
    LongRopeScaling,
    Mask,
    ModelSpec,
    Norm,
    QueryKeyNorm,
    Reading,
    Rope,
    Window,
    YarnScaling,
)
from trilens.spec.rope import longrope_attention_factor, yarn_attention_factor

# Keys that change nothing in the text decoder's forward pass: bookkeeping, training, generation defaults (which
# generation_config.json states too), and the ones that transformers once wrote into every file.
BOOKKEEPING = (
    "_name_or_path _attn_implementation architectures auto_map add_cross_attention attention_dropout aux_loss_alpha "
    "bad_words_ids begin_suppress_tokens bos_token_id chunk_size_feed_forward classifier_dropout "
    "cross_attention_hidden_size decoder_start_token_id diversity_penalty do_sample dtype early_stopping embd_pdrop "
    "encoder_no_repeat_ngram_size eos_token_id exponential_decay_length_penalty finetuning_task forced_bos_token_id "
    "forced_eos_token_id hidden_dropout id2label initializer_range is_decoder is_encoder_decoder is_llama_config "
    "label2id length_penalty max_length min_length model_type no_repeat_ngram_size num_beam_groups num_beams "
    "num_return_sequences output_attentions output_hidden_states output_router_logits output_scores pad_token_id "
    "prefix pretraining_tp problem_type pruned_heads remove_invalid_values repetition_penalty resid_pdrop "
    "return_dict return_dict_in_generate router_aux_loss_coef router_jitter_noise router_z_loss_coef sep_token_id "
    "seq_aux suppress_tokens task_specific_params temperature tf_legacy_loss tie_encoder_decoder tokenizer_class "
    "top_k top_p torch_dtype torchscript transformers.js_config transformers_version typical_p unsloth_fixed "
    "unsloth_version use_bfloat16 use_cache quantization_config"
).split()

MOST_LAYERS = 10_000  # the spec writes every layer out

ACTIVATIONS = {
    "silu": Curve.SILU,
    "swish": Curve.SILU,
    "gelu": Curve.GELU,
    "gelu_pytorch_tanh": Curve.GELU_TANH,
    "gelu_new": Curve.GELU_TANH,
}


def read_config_file(path: Path) -> Reading:
    """Read a config.json. Raises BadCheckpoint for a damaged file, UnsupportedModel for a family nobody here knows."""
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as problem:
        raise BadCheckpoint(f"{path}: not valid JSON ({problem}); expected a config.json") from None
    except OSError as problem:
        raise BadCheckpoint(f"{path}: cannot be read ({problem.strerror}); expected a config.json") from None
    if not isinstance(config, dict):
        raise BadCheckpoint(f"{path}: holds a {type(config).__name__}; expected a JSON object")
    return read_config(config, str(path))


def read_config(config: Mapping[str, Any], where: str = "config.json") -> Reading:
    """A config.json's content -> its spec and what was not understood; `where` names it in errors."""
    family = config.get("model_type")
    if not isinstance(family, str):
        raise BadCheckpoint(f"{where}: has no model_type; expected one of {', '.join(sorted(FAMILIES))}")
    if family not in FAMILIES:
        raise UnsupportedModel(
            f"{where}: the family {family!r} is not known; its layers may need parts that trilens does not have. "
            f"Known: {', '.join(sorted(FAMILIES))}"
        )
    keys = Keys(config, where)
    keys.ignore(*BOOKKEEPING)
    spec = FAMILIES[family](keys)
    unread, empty = keys.unread()
    return Reading(spec, unread=tuple(unread), ignored=tuple(empty), defaults=keys.all_defaults())


# ----------------------------------------------------------------------------------------------- families


def llama(k: Keys) -> ModelSpec:
    """Llama 2, 3, 3.1 to 3.3, SmolLM2, and everything published under the same class."""
    bias = k.flag("attention_bias", False)
    return decoder_only(k, "llama", qkv_bias=bias, out_bias=bias, mlp_bias=k.flag("mlp_bias", False))


def mistral(k: Keys) -> ModelSpec:
    """Mistral 7B, NeMo, Small, Large 2: Llama with a stated head size, and a window on every layer in the first
    release."""
    window = k.integer("sliding_window") if "sliding_window" in k else None
    return decoder_only(k, "mistral", mask=lambda i: Full() if window is None else Window(window))


def qwen2(k: Keys) -> ModelSpec:
    """Qwen2 and 2.5: biases on q, k and v whatever the config says, none on the output."""
    return decoder_only(k, "qwen2", qkv_bias=True, mask=_qwen_mask(k))


def qwen3(k: Keys) -> ModelSpec:
    """Qwen3: every head of queries and keys normalised before the rotation."""
    bias = k.flag("attention_bias", False)
    return decoder_only(k, "qwen3", qkv_bias=bias, out_bias=bias, qk_norm="head", mask=_qwen_mask(k))


FAMILIES: dict[str, Callable[[Keys], ModelSpec]] = {
    "llama": llama,
    "mistral": mistral,
    "qwen2": qwen2,
    "qwen3": qwen3,
}


# ------------------------------------------------------------------------------------------- common pieces


def decoder_only(
    k: Keys,
    family: str,
    *,
    qkv_bias: bool = False,
    out_bias: bool = False,
    mlp_bias: bool = False,
    qk_norm: str | None = None,
    mask: Callable[[int], Mask] = lambda i: Full(),
    feed_forward: Callable[[int], FeedForward] | None = None,
    tied_by_default: bool = False,
) -> ModelSpec:
    """The arrangement most families share: norm, attention, add, norm, feed-forward, add, with one cache a layer."""
    width, layers = k.integer("hidden_size"), k.integer("num_hidden_layers", most=MOST_LAYERS)
    heads = k.integer("num_attention_heads")
    kv_heads = k.integer("num_key_value_heads", heads)
    head_dim = stated_head_dim(k, width, heads)
    if heads % kv_heads:
        raise k.wrong("num_key_value_heads", kv_heads, f"a divisor of num_attention_heads, {heads}")
    context = k.integer("max_position_embeddings", 2048)
    norm = Norm(k.number("rms_norm_eps", 1e-6))
    rope = read_rope(k, head_dim, context)
    if feed_forward is None:
        dense = Dense(k.integer("intermediate_size"), Glu(activation(k)), mlp_bias)
        feed_forward = lambda i: dense  # noqa: E731
    else:
        k.ignore("intermediate_size", "hidden_act")
    caches = tuple(Cache(i, kv_heads, head_dim, head_dim, mask(i)) for i in range(layers))
    return ModelSpec(
        family=family,
        vocab=k.integer("vocab_size"),
        width=width,
        context=context,
        caches=caches,
        final_norm=norm,
        head=Head(tied=k.flag("tie_word_embeddings", tied_by_default)),
        layers=tuple(
            Layer(
                attention=Attention(
                    heads=heads,
                    cache=cache,
                    scale=head_dim**-0.5,
                    mask=cache.keep,
                    rope=rope,
                    qkv_bias=qkv_bias,
                    out_bias=out_bias,
                    qk_norm=QueryKeyNorm(norm, whole=qk_norm == "whole") if qk_norm else None,
                ),
                feed_forward=feed_forward(i),
                attention_in=norm,
                attention_out=None,
                feed_forward_in=norm,
                feed_forward_out=None,
            )
            for i, cache in enumerate(caches)
        ),
    )


def stated_head_dim(k: Keys, width: int, heads: int) -> int:
    """`head_dim` where it is stated; otherwise the width shared out among the heads."""
    if "head_dim" in k:
        return k.integer("head_dim")
    if width % heads:
        raise k.wrong("num_attention_heads", heads, f"a divisor of hidden_size, {width}, or a stated head_dim")
    k.ignore("head_dim")
    return width // heads


def activation(k: Keys, name: str = "hidden_act") -> Curve:
    act = k.text(name, "silu")
    if act not in ACTIVATIONS:
        raise UnsupportedModel(f"{k.where}: the activation {act!r} is not known; known: {', '.join(ACTIVATIONS)}")
    return ACTIVATIONS[act]


def read_rope(k: Keys, dim: int, context: int, default_theta: float = 10000.0) -> Rope:
    """`rope_parameters` (transformers 5), or `rope_theta` with `rope_scaling` (before)."""
    rules = k.mapping("rope_parameters") or k.mapping("rope_scaling")
    theta = (rules if rules and "rope_theta" in rules else k).number("rope_theta", default_theta, positive=True)
    k.ignore("rope_theta", "rope_parameters", "rope_scaling")
    partial = k.number("partial_rotary_factor", 1.0) if "partial_rotary_factor" in k else 1.0
    if rules and "partial_rotary_factor" in rules:
        partial = rules.number("partial_rotary_factor")
    return scaled_rope(k, rules, int(dim * partial), theta, context)


def scaled_rope(k: Keys, rules: Keys | None, dim: int, theta: float, context: int, interleaved: bool = False) -> Rope:
    """One rope from the rules of `rope_scaling`, by the type they name."""
    if dim < 2 or dim % 2:
        raise BadCheckpoint(f"{k.where}: rotary positions over {dim} dimensions; expected a positive even number")
    if rules is None:
        return Rope(dim, theta, None, interleaved)
    rules.ignore("type")
    kind = rules.raw("rope_type") or rules.raw("type") or "default"
    original = original_context(k, rules, context)
    match kind:
        case "default":
            rules.ignore("factor", "original_max_position_embeddings")
            return Rope(dim, theta, None, interleaved)
        case "linear":
            return Rope(dim, theta, LinearScaling(rules.number("factor", positive=True)), interleaved)
        case "dynamic":
            # transformers takes the model's own context as the point where the growth begins
            return Rope(dim, theta, DynamicScaling(rules.number("factor", positive=True), context), interleaved)
        case "llama3":
            low, high = rules.number("low_freq_factor", positive=True), rules.number("high_freq_factor", positive=True)
            llama3 = Llama3Scaling(rules.number("factor", positive=True), low, high, original)
            return Rope(dim, theta, llama3, interleaved)
        case "yarn":
            factor = rules.number("factor", context / original, positive=True)
            if "attention_factor" in rules:
                stretch = rules.number("attention_factor")
                rules.ignore("mscale", "mscale_all_dim")
            elif rules.raw("mscale") and rules.raw("mscale_all_dim"):
                whole = yarn_attention_factor(factor, rules.number("mscale_all_dim"))
                stretch = yarn_attention_factor(factor, rules.number("mscale")) / whole
            else:
                stretch = yarn_attention_factor(factor)
            fast, slow = rules.number("beta_fast", 32.0), rules.number("beta_slow", 1.0)
            yarn = YarnScaling(factor, original, fast, slow, rules.flag("truncate", True))
            return Rope(dim, theta, yarn, interleaved, stretch)
        case "longrope" | "su":
            factor = rules.number("factor", positive=True) if "factor" in rules else context / original
            short, long = rules.numbers("short_factor", dim // 2), rules.numbers("long_factor", dim // 2)
            stretch = longrope_attention_factor(factor, original)
            if "attention_factor" in rules:
                stretch = rules.number("attention_factor")
            return Rope(dim, theta, LongRopeScaling(short, long, original), interleaved, stretch)
        case _:
            raise UnsupportedModel(f"{k.where}: rotary scaling {kind!r} is not known")


def original_context(k: Keys, rules: Keys, context: int) -> int:
    """The context before scaling: from the rules, else from the top level, else the model's."""
    for place in (rules, k):
        if "original_max_position_embeddings" in place:
            return place.integer("original_max_position_embeddings")
    return context


def _qwen_mask(k: Keys) -> Callable[[int], Mask]:
    """Windows only where `use_sliding_window` says so: on the layers listed, else from `max_window_layers` on."""
    window = k.raw("sliding_window") if k.flag("use_sliding_window", False) else None
    first = k.integer("max_window_layers", 28, least=0)
    types = k.texts("layer_types", k.integer("num_hidden_layers", most=MOST_LAYERS))
    if window is None:
        return lambda i: Full()
    size = k.integer("sliding_window")

    def mask(i: int) -> Mask:
        sliding = types[i] == "sliding_attention" if types else i >= first
        return Window(size) if sliding else Full()

    return mask
