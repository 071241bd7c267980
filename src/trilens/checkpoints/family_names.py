"""Rows of families whose names differ from the common ones; `names.py` has those, and says what a row is."""

from __future__ import annotations

from trilens.checkpoints.rows import Row, in_layers, rows

MODEL = "model.layers.{i}."

NORMS_OF_EACH_HEAD = in_layers(
    MODEL,
    """
    attention.q_norm_row                self_attn.q_norm.weight
    attention.k_norm_row                self_attn.k_norm.weight
    attention.q_norm_row                self_attn.q_layernorm.norms.{e}.weight
    attention.k_norm_row                self_attn.k_layernorm.norms.{e}.weight
""",
)

LAYERNORMS = in_layers(
    MODEL,
    """
    attention.q_norm                    self_attn.q_layernorm.weight
    attention.k_norm                    self_attn.k_layernorm.weight
    attention.q_norm                    self_attn.query_layernorm.weight
    attention.k_norm                    self_attn.key_layernorm.weight
""",
)

SHARED_EXPERT = in_layers(
    MODEL,
    """
    feed_forward.shared.gate            mlp.shared_expert.gate_proj.weight
    feed_forward.shared.up              mlp.shared_expert.up_proj.weight
    feed_forward.shared.down            mlp.shared_expert.down_proj.weight
    feed_forward.shared_gate            mlp.shared_expert_gate.weight
    feed_forward.shared.gate            mlp.shared_mlp.gate_proj.weight
    feed_forward.shared.up              mlp.shared_mlp.up_proj.weight
    feed_forward.shared.down            mlp.shared_mlp.down_proj.weight
    feed_forward.router                 mlp.gate.wg.weight
    feed_forward.correction_bias        mlp.moe_statics.e_score_correction_bias         one_axis
    feed_forward.correction_bias        mlp.gate.moe_statics.e_score_correction_bias    one_axis
    feed_forward.correction_bias        mlp.experts.e_score_correction_bias
    feed_forward.correction_bias        mlp.e_score_correction_bias
    feed_forward.correction_bias        mlp.expert_bias
    feed_forward.router                 mlp.router.gate.weight
""",
)

STARCODER2 = in_layers(
    MODEL,
    """
    feed_forward.up                     mlp.c_fc.weight
    feed_forward.down                   mlp.c_proj.weight
""",
)

GLM4 = in_layers(
    MODEL,
    """
    mixer_out                           post_self_attn_layernorm.weight
    feed_forward_in                     post_attention_layernorm.weight
    feed_forward_out                    post_mlp_layernorm.weight
""",
)

HYPERCLOVAX = in_layers(
    MODEL,
    """
    mixer_out                           post_norm1.weight
    feed_forward_out                    post_norm2.weight
""",
)

# Norms that are stored as their distance from one; their biases are not.
GEMMA = rows("""
    final_norm                          model.norm.weight                               plus_one
""") + in_layers(
    MODEL,
    """
    mixer_in                            input_layernorm.weight                          plus_one
    feed_forward_in                     post_attention_layernorm.weight                 plus_one
""",
)
NEMOTRON = (
    rows("""
    final_norm.bias                     model.norm.bias
""")
    + in_layers(
        MODEL,
        """
    mixer_in.bias                       input_layernorm.bias
    feed_forward_in.bias                post_attention_layernorm.bias
""",
    )
    + GEMMA
)

PHI = (
    rows("""
    final_norm                          model.final_layernorm.weight
""")
    + LAYERNORMS
    + in_layers(
        MODEL,
        """
    attention.out                       self_attn.dense.weight
    feed_forward.up                     mlp.fc1.weight
    feed_forward.down                   mlp.fc2.weight
""",
    )
)

GPT_NEOX = rows("""
    embedding                           gpt_neox.embed_in.weight
    final_norm                          gpt_neox.final_layer_norm.weight
    head                                embed_out.weight
""") + in_layers(
    "gpt_neox.layers.{i}.",
    """
    mixer_in                            input_layernorm.weight
    feed_forward_in                     post_attention_layernorm.weight
    attention.q                         attention.query_key_value.weight                q_k_v_by_head
    attention.k                         attention.query_key_value.weight                q_k_v_by_head
    attention.v                         attention.query_key_value.weight                q_k_v_by_head
    attention.out                       attention.dense.weight
    feed_forward.up                     mlp.dense_h_to_4h.weight
    feed_forward.down                   mlp.dense_4h_to_h.weight
""",
)

FALCON = rows("""
    embedding                           transformer.word_embeddings.weight
    final_norm                          transformer.ln_f.weight
""") + in_layers(
    "transformer.h.{i}.",
    """
    mixer_in                            input_layernorm.weight
    mixer_in                            ln_attn.weight
    feed_forward_in                     post_attention_layernorm.weight
    feed_forward_in                     ln_mlp.weight
    attention.q                         self_attention.query_key_value.weight           q_k_v_by_head
    attention.k                         self_attention.query_key_value.weight           q_k_v_by_head
    attention.v                         self_attention.query_key_value.weight           q_k_v_by_head
    attention.out                       self_attention.dense.weight
    feed_forward.up                     mlp.dense_h_to_4h.weight
    feed_forward.down                   mlp.dense_4h_to_h.weight
""",
)

GPT2_NAMES = """
    mixer_in                            ln_1.weight
    feed_forward_in                     ln_2.weight
    attention.q                         attn.c_attn.weight                              QKV
    attention.k                         attn.c_attn.weight                              QKV
    attention.v                         attn.c_attn.weight                              QKV
    attention.out                       attn.c_proj.weight                              PLAIN
    feed_forward.up                     mlp.c_fc.weight                                 PLAIN
    feed_forward.down                   mlp.c_proj.weight                               PLAIN
"""


def _gpt2(before: str, qkv: str, plain: str) -> tuple[Row, ...]:
    return rows(f"""
    embedding                           {before}wte.weight
    positions                           {before}wpe.weight
    final_norm                          {before}ln_f.weight
""") + in_layers(before + "h.{i}.", GPT2_NAMES.replace("QKV", qkv).replace("PLAIN", plain))


# GPT-2's matrices are stored as [in, out]; its first files have no prefix.
GPT2 = _gpt2("transformer.", "transposed_qkv", "transposed") + _gpt2("", "transposed_qkv", "transposed")
GPT_BIGCODE = _gpt2("transformer.", "fused_qkv", "")

OPT = rows("""
    embedding                           model.decoder.embed_tokens.weight
    positions                           model.decoder.embed_positions.weight            behind_two
    final_norm                          model.decoder.final_layer_norm.weight
""") + in_layers(
    "model.decoder.layers.{i}.",
    """
    mixer_in                            self_attn_layer_norm.weight
    feed_forward_in                     final_layer_norm.weight
    attention.q                         self_attn.q_proj.weight
    attention.k                         self_attn.k_proj.weight
    attention.v                         self_attn.v_proj.weight
    attention.out                       self_attn.out_proj.weight
    feed_forward.up                     fc1.weight
    feed_forward.down                   fc2.weight
""",
)

DBRX = rows("""
    embedding                           transformer.wte.weight
    final_norm                          transformer.norm_f.weight
""") + in_layers(
    "transformer.blocks.{i}.",
    """
    mixer_in                            norm_attn_norm.norm_1.weight
    feed_forward_in                     norm_attn_norm.norm_2.weight
    attention.q                         norm_attn_norm.attn.Wqkv.weight                 fused_qkv
    attention.k                         norm_attn_norm.attn.Wqkv.weight                 fused_qkv
    attention.v                         norm_attn_norm.attn.Wqkv.weight                 fused_qkv
    attention.out                       norm_attn_norm.attn.out_proj.weight
    feed_forward.router                 ffn.router.layer.weight
    feed_forward.experts.gate           ffn.experts.mlp.w1                              of_experts
    feed_forward.experts.up             ffn.experts.mlp.v1                              of_experts
    feed_forward.experts.down           ffn.experts.mlp.w2                              of_experts
""",
)

EXAONE = rows("""
    embedding                           transformer.wte.weight
    final_norm                          transformer.ln_f.weight
""") + in_layers(
    "transformer.h.{i}.",
    """
    mixer_in                            ln_1.weight
    feed_forward_in                     ln_2.weight
    attention.q                         attn.attention.q_proj.weight
    attention.k                         attn.attention.k_proj.weight
    attention.v                         attn.attention.v_proj.weight
    attention.out                       attn.attention.out_proj.weight
    feed_forward.gate                   mlp.c_fc_0.weight
    feed_forward.up                     mlp.c_fc_1.weight
    feed_forward.down                   mlp.c_proj.weight
""",
)

BITNET = in_layers(
    MODEL,
    """
    attention.out_norm                  self_attn.attn_sub_norm.weight
    feed_forward.inner_norm             mlp.ffn_sub_norm.weight
""",
)

AFMOE = in_layers(
    MODEL,
    """
    attention.gate                      self_attn.gate_proj.weight
    feed_forward_in                     pre_mlp_layernorm.weight
    feed_forward_out                    post_mlp_layernorm.weight
    feed_forward.router                 mlp.router.gate.weight
    feed_forward.correction_bias        mlp.expert_bias
""",
)

LAGUNA = (
    in_layers(
        MODEL,
        """
    attention.gate                      self_attn.g_proj.weight
""",
    )
    + SHARED_EXPERT
)

MIMO_V2 = in_layers(
    MODEL,
    """
    attention.sinks                     self_attn.attention_sink_bias
""",
)

STEP = rows("final_norm  model.norm.weight  plus_one") + in_layers(
    MODEL,
    """
    mixer_in                            input_layernorm.weight                          plus_one
    feed_forward_in                     post_attention_layernorm.weight                 plus_one
    attention.q_norm                    self_attn.q_norm.weight                         plus_one
    attention.k_norm                    self_attn.k_norm.weight                         plus_one
    attention.gate                      self_attn.g_proj.weight
    feed_forward.router                 moe.gate.weight
    feed_forward.correction_bias        moe.router_bias
    feed_forward.experts.gate           moe.gate_proj.weight
    feed_forward.experts.up             moe.up_proj.weight
    feed_forward.experts.down           moe.down_proj.weight
    feed_forward.shared.gate            share_expert.gate_proj.weight
    feed_forward.shared.up              share_expert.up_proj.weight
    feed_forward.shared.down            share_expert.down_proj.weight
""",
)

APERTUS = in_layers(
    MODEL,
    """
    mixer_in                            attention_layernorm.weight
    feed_forward_in                     feedforward_layernorm.weight
    feed_forward.rise                   mlp.act_fn.alpha_p                              softplus
    feed_forward.fall                   mlp.act_fn.alpha_n                              softplus_above_slope
""",
)

AXK1 = in_layers(
    MODEL,
    """
    feed_forward_out                    mlp.post_mlp_layernorm.weight
    feed_forward_out                    post_mlp_layernorm.weight
""",
)

# Ling, Ring and Sarvam.
BAILING = rows("""
    embedding                           model.word_embeddings.weight
""") + in_layers(
    MODEL,
    """
    attention.q                         attention.query_key_value.weight                fused_qkv
    attention.k                         attention.query_key_value.weight                fused_qkv
    attention.v                         attention.query_key_value.weight                fused_qkv
    attention.out                       attention.dense.weight
    attention.q_norm                    attention.query_layernorm.weight
    attention.k_norm                    attention.key_layernorm.weight
    feed_forward.correction_bias        mlp.gate.expert_bias
""",
)

INTERNLM2 = rows("""
    embedding                           model.tok_embeddings.weight
    head                                output.weight
""") + in_layers(
    MODEL,
    """
    mixer_in                            attention_norm.weight
    feed_forward_in                     ffn_norm.weight
    attention.q                         attention.wqkv.weight                           q_k_v_by_head
    attention.k                         attention.wqkv.weight                           q_k_v_by_head
    attention.v                         attention.wqkv.weight                           q_k_v_by_head
    attention.out                       attention.wo.weight
    feed_forward.gate                   feed_forward.w1.weight
    feed_forward.up                     feed_forward.w3.weight
    feed_forward.down                   feed_forward.w2.weight
""",
)

# The form in which Mistral publishes its own models.
MISTRAL_NATIVE = rows("""
    embedding                           tok_embeddings.weight
    final_norm                          norm.weight
    head                                output.weight
""") + in_layers(
    "layers.{i}.",
    """
    mixer_in                            attention_norm.weight
    feed_forward_in                     ffn_norm.weight
    attention.q                         attention.wq.weight
    attention.k                         attention.wk.weight
    attention.v                         attention.wv.weight
    attention.out                       attention.wo.weight
    attention.q_down                    attention.wq_a.weight
    attention.q_norm                    attention.q_a_norm.weight
    attention.q_up                      attention.wq_b.weight
    attention.kv_down                   attention.wkv_a_with_mqa.weight
    attention.kv_norm                   attention.kv_a_norm.weight
    attention.k_up                      attention.wkv_b.weight                          latent_up
    attention.v_up                      attention.wkv_b.weight                          latent_up
    feed_forward.gate                   feed_forward.w1.weight
    feed_forward.up                     feed_forward.w3.weight
    feed_forward.down                   feed_forward.w2.weight
    feed_forward.router                 gate.weight
    feed_forward.router                 feed_forward.gate.weight
    feed_forward.experts.gate           experts.{e}.w1.weight
    feed_forward.experts.up             experts.{e}.w3.weight
    feed_forward.experts.down           experts.{e}.w2.weight
    feed_forward.experts.gate           feed_forward.experts.{e}.w1.weight
    feed_forward.experts.up             feed_forward.experts.{e}.w3.weight
    feed_forward.experts.down           feed_forward.experts.{e}.w2.weight
    feed_forward.shared.gate            shared_experts.w1.weight
    feed_forward.shared.up              shared_experts.w3.weight
    feed_forward.shared.down            shared_experts.w2.weight
""",
)

INDEX = in_layers(
    MODEL,
    """
    attention.index.q                   self_attn.indexer.wq_b.weight
    attention.index.k                   self_attn.indexer.wk.weight
    attention.index.k_norm              self_attn.indexer.k_norm.weight
    attention.index.weights             self_attn.indexer.weights_proj.weight
""",
)

# Two layers in one; the experts, which begin beside the first, lie beside both.
PAIRS = in_layers(
    "model.layers.{i/2}.",
    """
    mixer_in                            input_layernorm.{i%2}.weight
    feed_forward_in                     post_attention_layernorm.{i%2}.weight
    attention.q_down                    self_attn.{i%2}.q_a_proj.weight
    attention.q_norm                    self_attn.{i%2}.q_a_layernorm.weight
    attention.q_up                      self_attn.{i%2}.q_b_proj.weight
    attention.kv_down                   self_attn.{i%2}.kv_a_proj_with_mqa.weight
    attention.kv_norm                   self_attn.{i%2}.kv_a_layernorm.weight
    attention.k_up                      self_attn.{i%2}.kv_b_proj.weight                latent_up
    attention.v_up                      self_attn.{i%2}.kv_b_proj.weight                latent_up
    attention.out                       self_attn.{i%2}.o_proj.weight
    feed_forward.dense.gate             mlps.{i%2}.gate_proj.weight
    feed_forward.dense.up               mlps.{i%2}.up_proj.weight
    feed_forward.dense.down             mlps.{i%2}.down_proj.weight
    feed_forward.gate                   mlps.{i%2}.gate_proj.weight
    feed_forward.up                     mlps.{i%2}.up_proj.weight
    feed_forward.down                   mlps.{i%2}.down_proj.weight
    feed_forward.routed.router          mlp.router.classifier.weight
    feed_forward.routed.correction_bias mlp.router.e_score_correction_bias
    feed_forward.routed.experts.gate    mlp.experts.{e}.gate_proj.weight
    feed_forward.routed.experts.up      mlp.experts.{e}.up_proj.weight
    feed_forward.routed.experts.down    mlp.experts.{e}.down_proj.weight
""",
)

FAMILY_NAMES: dict[str, tuple[Row, ...]] = {
    **dict.fromkeys(("cohere", "stablelm"), NORMS_OF_EACH_HEAD),
    **dict.fromkeys(("hunyuan", "hunyuan_moe"), SHARED_EXPERT + LAYERNORMS),
    **dict.fromkeys(("qwen2_moe", "ernie4_5_moe", "exaone_moe", "hy_v3"), SHARED_EXPERT),
    **dict.fromkeys(("glm4", "glm4v"), GLM4),
    **dict.fromkeys(("sarvam_moe", "bailing_moe", "bailing_moe_v2"), BAILING),
    **dict.fromkeys(("deepseek_v32", "glm_moe_dsa"), INDEX),
    "internlm2": INTERNLM2,
    "mistral_native": MISTRAL_NATIVE,
    "starcoder2": STARCODER2,
    "hyperclovax": HYPERCLOVAX,
    "gemma": GEMMA,
    "nemotron": NEMOTRON,
    "phi": PHI,
    "gpt_neox": GPT_NEOX,
    "falcon": FALCON,
    "gpt2": GPT2,
    "gpt_bigcode": GPT_BIGCODE,
    "opt": OPT,
    "dbrx": DBRX,
    "exaone": EXAONE,
    "bitnet": BITNET,
    "afmoe": AFMOE,
    "laguna": LAGUNA,
    "mimo_v2": MIMO_V2,
    "apertus": APERTUS,
    "step3p5": STEP,
    "axk1": AXK1,
    "longcat_flash": PAIRS,
}
