"""config.json -> ModelSpec: which function reads which family, and the error for families that are not supported.

Every key is read, or listed as ignored. An unknown key with a meaningful value ends up in `Reading.unread`. To add a
family: write its function in `families/`, add it to `FAMILIES`, add its tensor names to `checkpoints/names.py` where
they differ from the common ones, and a row to the parity test.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from trilens.errors import BadCheckpoint, UnsupportedModel
from trilens.files import read_json_object
from trilens.spec.bounds import check
from trilens.spec.families import (
    convolution,
    dense,
    experts,
    gemma,
    latent,
    layer_norms,
    llama_like,
    mamba,
    mistral_native,
    recurrent,
    routed,
    step,
)
from trilens.spec.families.parts import MOST_LAYERS
from trilens.spec.keys import Keys
from trilens.spec.model import ModelSpec, Reading
from trilens.spec.not_counted import not_counted
from trilens.spec.prediction import with_prediction
from trilens.spec.unknown import unknown_part

__all__ = ["FAMILIES", "MOST_LAYERS", "read_config", "read_config_file"]

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
    "unsloth_version use_bfloat16 use_cache quantization quantization_config compression_config"
).split()

FAMILIES: dict[str, Callable[[Keys], ModelSpec]] = {
    "llama": dense.llama,
    "mistral": dense.mistral,
    "ministral3": dense.ministral3,
    "qwen2": dense.qwen2,
    "qwen3": dense.qwen3,
    "phi3": dense.phi3,
    "smollm3": dense.smollm3,
    "olmo2": dense.olmo2,
    "olmo3": dense.olmo3,
    "granite": dense.granite,
    "gemma2": gemma.gemma2,
    "gemma3_text": gemma.gemma3,
    "gemma3n_text": gemma.gemma3n,
    "gemma4_text": gemma.gemma4,
    "gemma4_unified_text": gemma.gemma4,
    "mixtral": routed.mixtral,
    "qwen3_moe": routed.qwen3_moe,
    "olmoe": routed.olmoe,
    "granitemoe": routed.granite_moe,
    "phimoe": routed.phimoe,
    "glm4_moe": routed.glm4_moe,
    "gpt_oss": routed.gpt_oss,
    "llama4_text": routed.llama4,
    "minimax_m2": routed.minimax_m2,
    "deepseek_v2": latent.deepseek_v2,
    "deepseek_v3": latent.deepseek_v3,
    "kimi_k2": latent.deepseek_v3,
    "deepseek_v32": latent.deepseek_v32,
    "glm_moe_dsa": latent.glm_moe_dsa,
    "glm4_moe_lite": latent.glm4_moe_lite,
    "mistral4": latent.mistral4,
    "lfm2": convolution.lfm2,
    "lfm2_moe": convolution.lfm2_moe,
    "qwen3_next": recurrent.qwen3_next,
    "qwen3_5_text": recurrent.qwen3_5,
    "qwen3_5_moe_text": recurrent.qwen3_5_moe,
    "granitemoehybrid": mamba.granite_hybrid,
    "nemotron_h": mamba.nemotron_h,
    "bamba": mamba.bamba,
    "falcon_h1": mamba.falcon_h1,
    "kimi_linear": latent.kimi_linear,
    "glm4v_text": llama_like.glm4v,
    "qwen2_vl_text": llama_like.qwen_vl,
    "qwen2_5_vl_text": llama_like.qwen_vl,
    "qwen3_vl_text": llama_like.qwen3_vl,
    "qwen3_vl_moe_text": experts.qwen3_vl_moe,
    "glm4v_moe_text": experts.glm4v_moe,
    "mimo": llama_like.mimo,
    "minicpm": llama_like.minicpm,
    "internlm2": llama_like.internlm2,
    "granite_swa": llama_like.granite_swa,
    "bailing_moe": experts.bailing_moe,
    "bailing_moe_v2": experts.bailing_moe_v2,
    "hy_v3": experts.hy_v3,
    "mellum": experts.mellum,
    "seed_oss": llama_like.seed_oss,
    "apertus": llama_like.apertus,
    "arcee": llama_like.arcee,
    "cwm": llama_like.cwm,
    "ministral": llama_like.ministral,
    "iquestcoder": llama_like.iquestcoder,
    "internlm3": llama_like.internlm3,
    "exaone": llama_like.exaone,
    "exaone4": llama_like.exaone4,
    "glm": llama_like.glm,
    "glm4": llama_like.glm4,
    "helium": llama_like.helium,
    "ernie4_5": llama_like.ernie4_5,
    "hunyuan_v1_dense": llama_like.hunyuan_dense,
    "hyperclovax": llama_like.hyperclovax,
    "gemma": llama_like.gemma,
    "bitnet": llama_like.bitnet,
    "cohere": layer_norms.cohere,
    "cohere2": layer_norms.cohere2,
    "stablelm": layer_norms.stablelm,
    "starcoder2": layer_norms.starcoder2,
    "gpt_neox": layer_norms.gpt_neox,
    "phi": layer_norms.phi,
    "nemotron": layer_norms.nemotron,
    "jais2": layer_norms.jais2,
    "olmo": layer_norms.olmo,
    "falcon": layer_norms.falcon,
    "gpt2": layer_norms.gpt2,
    "gpt_bigcode": layer_norms.gpt_bigcode,
    "opt": layer_norms.opt,
    "qwen2_moe": experts.qwen2_moe,
    "ernie4_5_moe": experts.ernie4_5_moe,
    "hunyuan_v1_moe": experts.hunyuan_moe,
    "hunyuan": experts.hunyuan_moe,
    "exaone_moe": experts.exaone_moe,
    "dots1": experts.dots1,
    "solar_open": experts.solar_open,
    "sarvam_moe": experts.sarvam_moe,
    "flex_olmo": experts.flex_olmo,
    "granitemoeshared": experts.granite_moe_shared,
    "mimo_v2_flash": experts.mimo_v2,
    "dbrx": experts.dbrx,
    "laguna": experts.laguna,
    "afmoe": experts.afmoe,
    "step3p5": step.step3p5,
    "axk1": latent.axk1,
    "minicpm3": latent.minicpm3,
    "youtu": latent.youtu,
    "longcat_flash": latent.longcat_flash,
    "sarvam_mla": latent.sarvam_mla,
}

# Models that also see or hear: the text decoder lies in `text_config`, and this is its family where that names none.
AROUND_TEXT = {
    "gemma3": "gemma3_text",
    "gemma3n": "gemma3n_text",
    "gemma4": "gemma4_text",
    "gemma4_unified": "gemma4_unified_text",
    "mistral3": "mistral",
    "ministral3": "ministral3",
    "llama4": "llama4_text",
    "kimi_k25": "kimi_k2",
    "qwen3_5": "qwen3_5_text",
    "qwen3_5_moe": "qwen3_5_moe_text",
    "qwen2_vl": "qwen2_vl_text",
    "qwen2_5_vl": "qwen2_5_vl_text",
    "qwen3_vl": "qwen3_vl_text",
    "qwen3_vl_moe": "qwen3_vl_moe_text",
    "step3p7": "step3p5",
    "glm4v": "glm4v_text",
    "glm4v_moe": "glm4v_moe_text",
}

# What those models say of images and sounds beside `text_config`; `not_counted` reads the towers.
BESIDE_TEXT = (
    "vision_config audio_config image_token_id image_token_index video_token_id audio_token_id boi_token_id "
    "boi_token_index eoi_token_id eoi_token_index boa_token_id eoa_token_id eoa_token_index audio_ms_per_token "
    "audio_soft_tokens_per_image mm_tokens_per_image vision_soft_tokens_per_image multimodal_projector_bias "
    "projector_hidden_act spatial_merge_size vision_feature_layer vision_feature_select_strategy "
    "vision_start_token_id vision_end_token_id language_model_only media_placeholder_token_id ignore_index "
    "use_unified_vision_chunk video_placeholder projector_config vision_end_token_id vision_token_id "
    "understand_projector_stride image_token_len patch_token_len projector_bias "
    "image_start_token_id image_end_token_id video_start_token_id video_end_token_id"
).split()


NEAREST = 3  # supported names in the refusal of another one


def read_config_file(path: Path) -> Reading:
    """Read a config.json. Raises BadCheckpoint for a damaged file, UnsupportedModel for an unknown family."""
    try:
        config = read_json_object(path)
    except FileNotFoundError:
        raise BadCheckpoint(f"{path}: no such file; expected a config.json") from None
    return read_config(config, str(path))


def read_config(config: Mapping[str, Any], where: str = "config.json") -> Reading:
    """A config.json's content -> its spec and what was not understood; `where` names it in errors."""
    keys = Keys(config, where)
    keys.ignore(*BOOKKEEPING)
    if "model_type" not in config and {"dim", "n_layers"} <= set(config):
        return _reading(keys, keys, mistral_native.mistral_native)
    family = config.get("model_type")
    if not isinstance(family, str):
        raise keys.wrong("model_type", family, "the name of a family, such as llama or qwen3")
    text = keys.mapping("text_config")
    if text is None and family in AROUND_TEXT and "hidden_size" in config:  # its older files have no text_config
        keys.ignore(*BESIDE_TEXT)
        family = AROUND_TEXT[family]
    if text is None and family in AROUND_TEXT and family not in FAMILIES:
        raise keys.wrong("text_config", keys.values.get("text_config"), "the text decoder's part of this model")
    if text is not None and (family in AROUND_TEXT):
        # some files say this of the whole model only, some of the text only; of both, transformers believes the first
        text.values = {**text.values, **{n: config[n] for n in ("tie_word_embeddings",) if n in config}}
        text.ignore(*BOOKKEEPING)
        keys.ignore(*BESIDE_TEXT, "tie_word_embeddings")
        family = text.text("model_type", AROUND_TEXT[family])
    else:
        text = keys
    if family not in FAMILIES:
        raise UnsupportedModel(
            f"{where}: model_type {family!r} is not supported: {unknown_part(config)}. "
            f"Supported: {_like(family)} and {len(FAMILIES) - NEAREST} more"
        )
    return _reading(keys, text, FAMILIES[family])


def _like(family: str) -> str:
    """The supported names that are most like this one."""
    return ", ".join(get_close_matches(family, sorted(FAMILIES), NEAREST, 0.0))


def _reading(keys: Keys, text: Keys, family: Callable[[Keys], ModelSpec]) -> Reading:
    spec = family(text)
    check(spec, text)
    spec = with_prediction(spec, text.values)
    unread, empty = keys.unread()
    return Reading(
        spec,
        unread=tuple(unread),
        ignored=tuple(empty),
        defaults=keys.all_defaults(),
        factors=dict(text.factors),
        not_counted=not_counted(keys.values, text.values, spec, keys.where),
    )
