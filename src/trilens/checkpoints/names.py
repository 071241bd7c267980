"""Other programs' names for our parameters, as rows of data, with the change that each needs while it is loaded.

A row: our name, theirs, the change. `{i}` is the layer, `{e}` an expert (their tensors are stacked in its order). Files
that take layers in pairs have `{i/2}`, the pair, and `{i%2}`, the place in it. The first row whose tensor is in the
file is used, so a family's special rows come before the common ones. A bias follows its weight, `.weight` becomes
`.bias`, unless it has a row of its own.
"""

from __future__ import annotations

from trilens.checkpoints.family_names import FAMILY_NAMES
from trilens.checkpoints.rows import Row
from trilens.checkpoints.rows import rows as _rows

HUGGINGFACE = _rows("""
    embedding                            model.embed_tokens.weight
    per_layer_table                      model.embed_tokens_per_layer.weight
    per_layer_projection                 model.per_layer_model_projection.weight
    per_layer_norm                       model.per_layer_projection_norm.weight
    final_norm                           model.norm.weight
    head                                 lm_head.weight
    layers.{i}.mixer_in              model.layers.{i}.input_layernorm.weight
    layers.{i}.mixer_out             model.layers.{i}.post_attention_layernorm.weight
    layers.{i}.feed_forward_in           model.layers.{i}.pre_feedforward_layernorm.weight
    layers.{i}.feed_forward_in           model.layers.{i}.post_attention_layernorm.weight
    layers.{i}.feed_forward_out          model.layers.{i}.post_feedforward_layernorm.weight
    layers.{i}.attention.q               model.layers.{i}.self_attn.q_proj.weight
    layers.{i}.attention.k               model.layers.{i}.self_attn.k_proj.weight
    layers.{i}.attention.v               model.layers.{i}.self_attn.v_proj.weight
    layers.{i}.attention.q               model.layers.{i}.self_attn.qkv_proj.weight                  fused_qkv
    layers.{i}.attention.k               model.layers.{i}.self_attn.qkv_proj.weight                  fused_qkv
    layers.{i}.attention.v               model.layers.{i}.self_attn.qkv_proj.weight                  fused_qkv
    layers.{i}.attention.out             model.layers.{i}.self_attn.o_proj.weight
    layers.{i}.attention.q_norm          model.layers.{i}.self_attn.q_norm.weight
    layers.{i}.attention.k_norm          model.layers.{i}.self_attn.k_norm.weight
    layers.{i}.attention.sinks           model.layers.{i}.self_attn.sinks
    layers.{i}.attention.q_down          model.layers.{i}.self_attn.q_a_proj.weight
    layers.{i}.attention.q_norm          model.layers.{i}.self_attn.q_a_layernorm.weight
    layers.{i}.attention.q_up            model.layers.{i}.self_attn.q_b_proj.weight
    layers.{i}.attention.kv_down         model.layers.{i}.self_attn.kv_a_proj_with_mqa.weight
    layers.{i}.attention.kv_norm         model.layers.{i}.self_attn.kv_a_layernorm.weight
    layers.{i}.attention.k_up            model.layers.{i}.self_attn.kv_b_proj.weight                 latent_up
    layers.{i}.attention.v_up            model.layers.{i}.self_attn.kv_b_proj.weight                 latent_up
    layers.{i}.feed_forward.gate         model.layers.{i}.mlp.gate_proj.weight
    layers.{i}.feed_forward.up           model.layers.{i}.mlp.up_proj.weight
    layers.{i}.feed_forward.gate         model.layers.{i}.mlp.gate_up_proj.weight                    gate_up_halves
    layers.{i}.feed_forward.up           model.layers.{i}.mlp.gate_up_proj.weight                    gate_up_halves
    layers.{i}.feed_forward.down         model.layers.{i}.mlp.down_proj.weight
    layers.{i}.feed_forward.router       model.layers.{i}.mlp.gate.weight
    layers.{i}.feed_forward.correction_bias model.layers.{i}.mlp.gate.e_score_correction_bias
    layers.{i}.feed_forward.experts.gate model.layers.{i}.mlp.experts.{e}.gate_proj.weight
    layers.{i}.feed_forward.experts.up   model.layers.{i}.mlp.experts.{e}.up_proj.weight
    layers.{i}.feed_forward.experts.down model.layers.{i}.mlp.experts.{e}.down_proj.weight
    layers.{i}.feed_forward.experts.gate model.layers.{i}.mlp.switch_mlp.gate_proj.weight
    layers.{i}.feed_forward.experts.up   model.layers.{i}.mlp.switch_mlp.up_proj.weight
    layers.{i}.feed_forward.experts.down model.layers.{i}.mlp.switch_mlp.down_proj.weight
    layers.{i}.feed_forward.experts.gate model.layers.{i}.mlp.experts.gate_up_proj                   gate_up_halves
    layers.{i}.feed_forward.experts.up   model.layers.{i}.mlp.experts.gate_up_proj                   gate_up_halves
    layers.{i}.feed_forward.experts.down model.layers.{i}.mlp.experts.down_proj
    layers.{i}.feed_forward.shared.gate  model.layers.{i}.mlp.shared_experts.gate_proj.weight
    layers.{i}.feed_forward.shared.up    model.layers.{i}.mlp.shared_experts.up_proj.weight
    layers.{i}.feed_forward.shared.down  model.layers.{i}.mlp.shared_experts.down_proj.weight
    layers.{i}.scalar                    model.layers.{i}.layer_scalar
    layers.{i}.per_layer_input.gate      model.layers.{i}.per_layer_input_gate.weight
    layers.{i}.per_layer_input.out       model.layers.{i}.per_layer_projection.weight
    layers.{i}.per_layer_input.norm      model.layers.{i}.post_per_layer_input_norm.weight
""")

BLOCK_SPARSE = _rows("""
    layers.{i}.feed_forward.router       model.layers.{i}.block_sparse_moe.gate.weight
    layers.{i}.feed_forward.router       model.layers.{i}.mlp.router.weight
    layers.{i}.feed_forward.correction_bias model.layers.{i}.block_sparse_moe.e_score_correction_bias
    layers.{i}.feed_forward.experts.gate model.layers.{i}.block_sparse_moe.experts.{e}.w1.weight
    layers.{i}.feed_forward.experts.up   model.layers.{i}.block_sparse_moe.experts.{e}.w3.weight
    layers.{i}.feed_forward.experts.down model.layers.{i}.block_sparse_moe.experts.{e}.w2.weight
    layers.{i}.feed_forward.experts.gate model.layers.{i}.block_sparse_moe.switch_mlp.gate_proj.weight
    layers.{i}.feed_forward.experts.up   model.layers.{i}.block_sparse_moe.switch_mlp.up_proj.weight
    layers.{i}.feed_forward.experts.down model.layers.{i}.block_sparse_moe.switch_mlp.down_proj.weight
""")

GRANITE_MOE = _rows("""
    layers.{i}.feed_forward.router       model.layers.{i}.block_sparse_moe.router.layer.weight
    layers.{i}.feed_forward.router       model.layers.{i}.block_sparse_moe.router.weight
    layers.{i}.feed_forward.experts.gate model.layers.{i}.block_sparse_moe.input_linear.weight       gate_up_halves
    layers.{i}.feed_forward.experts.up   model.layers.{i}.block_sparse_moe.input_linear.weight       gate_up_halves
    layers.{i}.feed_forward.experts.down model.layers.{i}.block_sparse_moe.output_linear.weight
    layers.{i}.feed_forward.experts.gate model.layers.{i}.block_sparse_moe.experts.gate_up_proj      gate_up_halves
    layers.{i}.feed_forward.experts.up   model.layers.{i}.block_sparse_moe.experts.gate_up_proj      gate_up_halves
    layers.{i}.feed_forward.experts.down model.layers.{i}.block_sparse_moe.experts.down_proj
""")

# The weights of these norms are stored as their distance from one.
GEMMA_NORMS = _rows("""
    final_norm                           model.norm.weight                                           plus_one
    layers.{i}.mixer_in              model.layers.{i}.input_layernorm.weight                     plus_one
    layers.{i}.mixer_out             model.layers.{i}.post_attention_layernorm.weight            plus_one
    layers.{i}.feed_forward_in           model.layers.{i}.pre_feedforward_layernorm.weight           plus_one
    layers.{i}.feed_forward_out          model.layers.{i}.post_feedforward_layernorm.weight          plus_one
    layers.{i}.attention.q_norm          model.layers.{i}.self_attn.q_norm.weight                    plus_one
    layers.{i}.attention.k_norm          model.layers.{i}.self_attn.k_norm.weight                    plus_one
""")

GEMMA3N = _rows("""
    streams.into                         model.altup_projections.{e}.weight
    streams.out_of                       model.altup_unembed_projections.{e}.weight
    layers.{i}.streams.norm              model.layers.{i}.altup.router_norm.weight                   over_width
    layers.{i}.streams.router            model.layers.{i}.altup.modality_router.weight
    layers.{i}.streams.predict           model.layers.{i}.altup.prediction_coefs.weight
    layers.{i}.streams.correct           model.layers.{i}.altup.correction_coefs.weight
    layers.{i}.per_layer_input.row       model.layers.{i}.altup.correct_output_scale
    layers.{i}.low_rank.down             model.layers.{i}.laurel.linear_left.weight
    layers.{i}.low_rank.up               model.layers.{i}.laurel.linear_right.weight
    layers.{i}.low_rank.norm             model.layers.{i}.laurel.post_laurel_norm.weight
""")

GEMMA4 = _rows("""
    layers.{i}.feed_forward.dense.gate   model.layers.{i}.mlp.gate_proj.weight
    layers.{i}.feed_forward.dense.up     model.layers.{i}.mlp.up_proj.weight
    layers.{i}.feed_forward.dense.down   model.layers.{i}.mlp.down_proj.weight
    layers.{i}.feed_forward.dense_out    model.layers.{i}.post_feedforward_layernorm_1.weight
    layers.{i}.feed_forward.routed_in    model.layers.{i}.pre_feedforward_layernorm_2.weight
    layers.{i}.feed_forward.routed_out   model.layers.{i}.post_feedforward_layernorm_2.weight
    layers.{i}.feed_forward.router_norm  model.layers.{i}.router.scale                               root_of_width
    layers.{i}.feed_forward.routed.router model.layers.{i}.router.proj.weight
    layers.{i}.feed_forward.routed.expert_scale model.layers.{i}.router.per_expert_scale
    layers.{i}.feed_forward.routed.experts.gate model.layers.{i}.experts.gate_up_proj                gate_up_halves
    layers.{i}.feed_forward.routed.experts.up model.layers.{i}.experts.gate_up_proj                  gate_up_halves
    layers.{i}.feed_forward.routed.experts.down model.layers.{i}.experts.down_proj
""")

# Experts as gpt-oss stores them: with 4-bit blocks [E, out, in], without them [E, in, out]; gate and up in turn.
GPT_OSS = _rows("""
    layers.{i}.feed_forward.router       model.layers.{i}.mlp.router.weight
    layers.{i}.feed_forward.experts.gate.bias model.layers.{i}.mlp.experts.gate_up_proj_bias         gate_up_in_turn
    layers.{i}.feed_forward.experts.up.bias model.layers.{i}.mlp.experts.gate_up_proj_bias           gate_up_in_turn
    layers.{i}.feed_forward.experts.down.bias model.layers.{i}.mlp.experts.down_proj_bias
    layers.{i}.feed_forward.experts.gate model.layers.{i}.mlp.experts.gate_up_proj                   transposed_in_turn
    layers.{i}.feed_forward.experts.up   model.layers.{i}.mlp.experts.gate_up_proj                   transposed_in_turn
    layers.{i}.feed_forward.experts.down model.layers.{i}.mlp.experts.down_proj                      transposed
""")

LLAMA4 = _rows("""
    layers.{i}.feed_forward.gate         model.layers.{i}.feed_forward.gate_proj.weight
    layers.{i}.feed_forward.up           model.layers.{i}.feed_forward.up_proj.weight
    layers.{i}.feed_forward.down         model.layers.{i}.feed_forward.down_proj.weight
    layers.{i}.feed_forward.router       model.layers.{i}.feed_forward.router.weight
    layers.{i}.feed_forward.experts.gate model.layers.{i}.feed_forward.experts.gate_up_proj          transposed_halves
    layers.{i}.feed_forward.experts.up   model.layers.{i}.feed_forward.experts.gate_up_proj          transposed_halves
    layers.{i}.feed_forward.experts.down model.layers.{i}.feed_forward.experts.down_proj             transposed
    layers.{i}.feed_forward.experts.gate model.layers.{i}.feed_forward.experts.{e}.gate_proj.weight
    layers.{i}.feed_forward.experts.up   model.layers.{i}.feed_forward.experts.{e}.up_proj.weight
    layers.{i}.feed_forward.experts.down model.layers.{i}.feed_forward.experts.{e}.down_proj.weight
    layers.{i}.feed_forward.shared.gate  model.layers.{i}.feed_forward.shared_expert.gate_proj.weight
    layers.{i}.feed_forward.shared.up    model.layers.{i}.feed_forward.shared_expert.up_proj.weight
    layers.{i}.feed_forward.shared.down  model.layers.{i}.feed_forward.shared_expert.down_proj.weight
""")

# Short convolutions with attention between them: `embedding_norm` is the norm behind the last layer.
LFM2 = _rows("""
    final_norm                           model.embedding_norm.weight
    layers.{i}.mixer_in                  model.layers.{i}.operator_norm.weight
    layers.{i}.feed_forward_in           model.layers.{i}.ffn_norm.weight
    layers.{i}.attention.out             model.layers.{i}.self_attn.out_proj.weight
    layers.{i}.attention.q_norm          model.layers.{i}.self_attn.q_layernorm.weight
    layers.{i}.attention.k_norm          model.layers.{i}.self_attn.k_layernorm.weight
    layers.{i}.convolution.gate_in       model.layers.{i}.conv.in_proj.weight                        gates_and_value
    layers.{i}.convolution.gate_out      model.layers.{i}.conv.in_proj.weight                        gates_and_value
    layers.{i}.convolution.value         model.layers.{i}.conv.in_proj.weight                        gates_and_value
    layers.{i}.convolution.taps          model.layers.{i}.conv.conv.weight                           flat
    layers.{i}.convolution.out           model.layers.{i}.conv.out_proj.weight
    layers.{i}.feed_forward.gate         model.layers.{i}.feed_forward.w1.weight
    layers.{i}.feed_forward.up           model.layers.{i}.feed_forward.w3.weight
    layers.{i}.feed_forward.down         model.layers.{i}.feed_forward.w2.weight
    layers.{i}.feed_forward.router       model.layers.{i}.feed_forward.gate.weight
    layers.{i}.feed_forward.correction_bias model.layers.{i}.feed_forward.expert_bias
    layers.{i}.feed_forward.experts.gate model.layers.{i}.feed_forward.experts.{e}.w1.weight
    layers.{i}.feed_forward.experts.up   model.layers.{i}.feed_forward.experts.{e}.w3.weight
    layers.{i}.feed_forward.experts.down model.layers.{i}.feed_forward.experts.{e}.w2.weight
    layers.{i}.feed_forward.experts.gate model.layers.{i}.feed_forward.experts.gate_up_proj          gate_up_halves
    layers.{i}.feed_forward.experts.up   model.layers.{i}.feed_forward.experts.gate_up_proj          gate_up_halves
    layers.{i}.feed_forward.experts.down model.layers.{i}.feed_forward.experts.down_proj
""")

# Gated delta nets between gated attention; all norms but that of the recurrence are stored as their distance from one.
QWEN_DELTA = _rows("""
    final_norm                           model.norm.weight                                           plus_one
    layers.{i}.mixer_in                  model.layers.{i}.input_layernorm.weight                     plus_one
    layers.{i}.feed_forward_in           model.layers.{i}.post_attention_layernorm.weight            plus_one
    layers.{i}.attention.q_norm          model.layers.{i}.self_attn.q_norm.weight                    plus_one
    layers.{i}.attention.k_norm          model.layers.{i}.self_attn.k_norm.weight                    plus_one
    layers.{i}.attention.q               model.layers.{i}.self_attn.q_proj.weight                    query_of_head
    layers.{i}.attention.gate            model.layers.{i}.self_attn.q_proj.weight                    query_of_head
    layers.{i}.recurrence.q              model.layers.{i}.linear_attn.in_proj_qkv.weight             q_k_v
    layers.{i}.recurrence.k              model.layers.{i}.linear_attn.in_proj_qkv.weight             q_k_v
    layers.{i}.recurrence.v              model.layers.{i}.linear_attn.in_proj_qkv.weight             q_k_v
    layers.{i}.recurrence.gate           model.layers.{i}.linear_attn.in_proj_z.weight
    layers.{i}.recurrence.beta           model.layers.{i}.linear_attn.in_proj_b.weight
    layers.{i}.recurrence.step           model.layers.{i}.linear_attn.in_proj_a.weight
    layers.{i}.recurrence.q              model.layers.{i}.linear_attn.in_proj_qkvz.weight      q_k_v_gate_by_key_head
    layers.{i}.recurrence.k              model.layers.{i}.linear_attn.in_proj_qkvz.weight      q_k_v_gate_by_key_head
    layers.{i}.recurrence.v              model.layers.{i}.linear_attn.in_proj_qkvz.weight      q_k_v_gate_by_key_head
    layers.{i}.recurrence.gate           model.layers.{i}.linear_attn.in_proj_qkvz.weight      q_k_v_gate_by_key_head
    layers.{i}.recurrence.beta           model.layers.{i}.linear_attn.in_proj_ba.weight        beta_step_by_key_head
    layers.{i}.recurrence.step           model.layers.{i}.linear_attn.in_proj_ba.weight        beta_step_by_key_head
    layers.{i}.recurrence.step.bias      model.layers.{i}.linear_attn.dt_bias
    layers.{i}.recurrence.rate           model.layers.{i}.linear_attn.A_log                          minus_exp
    layers.{i}.recurrence.q_taps         model.layers.{i}.linear_attn.conv1d.weight                  q_k_v_taps
    layers.{i}.recurrence.k_taps         model.layers.{i}.linear_attn.conv1d.weight                  q_k_v_taps
    layers.{i}.recurrence.v_taps         model.layers.{i}.linear_attn.conv1d.weight                  q_k_v_taps
    layers.{i}.recurrence.norm           model.layers.{i}.linear_attn.norm.weight
    layers.{i}.recurrence.out            model.layers.{i}.linear_attn.out_proj.weight
    layers.{i}.feed_forward.shared.gate  model.layers.{i}.mlp.shared_expert.gate_proj.weight
    layers.{i}.feed_forward.shared.up    model.layers.{i}.mlp.shared_expert.up_proj.weight
    layers.{i}.feed_forward.shared.down  model.layers.{i}.mlp.shared_expert.down_proj.weight
    layers.{i}.feed_forward.shared_gate  model.layers.{i}.mlp.shared_expert_gate.weight
""")

# A Mamba-2 layer, at AT.
MAMBA = """
    layers.{i}.recurrence.gate           AT.in_proj.weight       gate_v_k_q_step
    layers.{i}.recurrence.q              AT.in_proj.weight       gate_v_k_q_step
    layers.{i}.recurrence.k              AT.in_proj.weight       gate_v_k_q_step
    layers.{i}.recurrence.v              AT.in_proj.weight       gate_v_k_q_step
    layers.{i}.recurrence.step           AT.in_proj.weight       gate_v_k_q_step
    layers.{i}.recurrence.step.bias      AT.dt_bias
    layers.{i}.recurrence.rate           AT.A_log                minus_exp
    layers.{i}.recurrence.skip           AT.D
    layers.{i}.recurrence.q_taps         AT.conv1d.weight        v_k_q_taps
    layers.{i}.recurrence.k_taps         AT.conv1d.weight        v_k_q_taps
    layers.{i}.recurrence.v_taps         AT.conv1d.weight        v_k_q_taps
    layers.{i}.recurrence.norm_row       AT.norm.weight
    layers.{i}.recurrence.out            AT.out_proj.weight
"""


def _mamba(at: str) -> tuple[Row, ...]:
    return _rows(MAMBA.replace("AT.", at + "."))


GRANITE_HYBRID = (
    _mamba("model.layers.{i}.mamba")
    + GRANITE_MOE
    + _rows("""
    layers.{i}.feed_forward.gate         model.layers.{i}.shared_mlp.input_linear.weight             gate_up_halves
    layers.{i}.feed_forward.up           model.layers.{i}.shared_mlp.input_linear.weight             gate_up_halves
    layers.{i}.feed_forward.down         model.layers.{i}.shared_mlp.output_linear.weight
    layers.{i}.feed_forward.shared.gate  model.layers.{i}.shared_mlp.input_linear.weight             gate_up_halves
    layers.{i}.feed_forward.shared.up    model.layers.{i}.shared_mlp.input_linear.weight             gate_up_halves
    layers.{i}.feed_forward.shared.down  model.layers.{i}.shared_mlp.output_linear.weight
""")
)

# Bamba and Falcon-H1.
BAMBA = _mamba("model.layers.{i}.mamba") + _rows("""
    final_norm                           model.final_layernorm.weight
    layers.{i}.feed_forward_in           model.layers.{i}.pre_ff_layernorm.weight
    layers.{i}.feed_forward.gate         model.layers.{i}.feed_forward.gate_proj.weight
    layers.{i}.feed_forward.up           model.layers.{i}.feed_forward.up_proj.weight
    layers.{i}.feed_forward.down         model.layers.{i}.feed_forward.down_proj.weight
""")

# Every layer is one block with one norm before it.
NEMOTRON_H = _mamba("backbone.layers.{i}.mixer") + _rows("""
    embedding                            backbone.embeddings.weight
    final_norm                           backbone.norm_f.weight
    layers.{i}.mixer_in                  backbone.layers.{i}.norm.weight
    layers.{i}.feed_forward_in           backbone.layers.{i}.norm.weight
    layers.{i}.attention.q               backbone.layers.{i}.mixer.q_proj.weight
    layers.{i}.attention.k               backbone.layers.{i}.mixer.k_proj.weight
    layers.{i}.attention.v               backbone.layers.{i}.mixer.v_proj.weight
    layers.{i}.attention.out             backbone.layers.{i}.mixer.o_proj.weight
    layers.{i}.feed_forward.up           backbone.layers.{i}.mixer.up_proj.weight
    layers.{i}.feed_forward.down         backbone.layers.{i}.mixer.down_proj.weight
    layers.{i}.feed_forward.router       backbone.layers.{i}.mixer.gate.weight
    layers.{i}.feed_forward.correction_bias backbone.layers.{i}.mixer.gate.e_score_correction_bias
    layers.{i}.feed_forward.latent_in    backbone.layers.{i}.mixer.fc1_latent_proj.weight
    layers.{i}.feed_forward.latent_out   backbone.layers.{i}.mixer.fc2_latent_proj.weight
    layers.{i}.feed_forward.experts.up   backbone.layers.{i}.mixer.experts.{e}.up_proj.weight
    layers.{i}.feed_forward.experts.down backbone.layers.{i}.mixer.experts.{e}.down_proj.weight
    layers.{i}.feed_forward.experts.up   backbone.layers.{i}.mixer.experts.up_proj
    layers.{i}.feed_forward.experts.down backbone.layers.{i}.mixer.experts.down_proj
    layers.{i}.feed_forward.shared.up    backbone.layers.{i}.mixer.shared_experts.up_proj.weight
    layers.{i}.feed_forward.shared.down  backbone.layers.{i}.mixer.shared_experts.down_proj.weight
""")

# Dense layers lie under `mlp`, and under `block_sparse_moe` where transformers has saved them again.
KIMI_LINEAR = _rows("""
    layers.{i}.recurrence.q              model.layers.{i}.self_attn.q_proj.weight
    layers.{i}.recurrence.k              model.layers.{i}.self_attn.k_proj.weight
    layers.{i}.recurrence.v              model.layers.{i}.self_attn.v_proj.weight
    layers.{i}.recurrence.q_taps         model.layers.{i}.self_attn.q_conv1d.weight                  flat
    layers.{i}.recurrence.k_taps         model.layers.{i}.self_attn.k_conv1d.weight                  flat
    layers.{i}.recurrence.v_taps         model.layers.{i}.self_attn.v_conv1d.weight                  flat
    layers.{i}.recurrence.step_down      model.layers.{i}.self_attn.f_a_proj.weight
    layers.{i}.recurrence.step           model.layers.{i}.self_attn.f_b_proj.weight
    layers.{i}.recurrence.step.bias      model.layers.{i}.self_attn.dt_bias
    layers.{i}.recurrence.rate           model.layers.{i}.self_attn.A_log                            minus_exp
    layers.{i}.recurrence.beta           model.layers.{i}.self_attn.b_proj.weight
    layers.{i}.recurrence.gate_down      model.layers.{i}.self_attn.g_a_proj.weight
    layers.{i}.recurrence.gate           model.layers.{i}.self_attn.g_b_proj.weight
    layers.{i}.recurrence.norm           model.layers.{i}.self_attn.o_norm.weight
    layers.{i}.recurrence.out            model.layers.{i}.self_attn.o_proj.weight
    layers.{i}.feed_forward.router       model.layers.{i}.block_sparse_moe.gate.weight
    layers.{i}.feed_forward.correction_bias model.layers.{i}.block_sparse_moe.gate.e_score_correction_bias
    layers.{i}.feed_forward.experts.gate model.layers.{i}.block_sparse_moe.experts.{e}.w1.weight
    layers.{i}.feed_forward.experts.up   model.layers.{i}.block_sparse_moe.experts.{e}.w3.weight
    layers.{i}.feed_forward.experts.down model.layers.{i}.block_sparse_moe.experts.{e}.w2.weight
    layers.{i}.feed_forward.experts.gate model.layers.{i}.block_sparse_moe.switch_mlp.gate_proj.weight
    layers.{i}.feed_forward.experts.up   model.layers.{i}.block_sparse_moe.switch_mlp.up_proj.weight
    layers.{i}.feed_forward.experts.down model.layers.{i}.block_sparse_moe.switch_mlp.down_proj.weight
    layers.{i}.feed_forward.shared.gate  model.layers.{i}.block_sparse_moe.shared_experts.gate_proj.weight
    layers.{i}.feed_forward.shared.up    model.layers.{i}.block_sparse_moe.shared_experts.up_proj.weight
    layers.{i}.feed_forward.shared.down  model.layers.{i}.block_sparse_moe.shared_experts.down_proj.weight
    layers.{i}.feed_forward.gate         model.layers.{i}.block_sparse_moe.gate_proj.weight
    layers.{i}.feed_forward.up           model.layers.{i}.block_sparse_moe.up_proj.weight
    layers.{i}.feed_forward.down         model.layers.{i}.block_sparse_moe.down_proj.weight
""")

GGUF = _rows("""
    embedding                            token_embd.weight
    per_layer_table                      per_layer_token_embd.weight
    per_layer_projection                 per_layer_model_proj.weight
    per_layer_norm                       per_layer_proj_norm.weight
    final_norm                           output_norm.weight
    head                                 output.weight
    head.bias                            output.bias
    layers.{i}.mixer_in              blk.{i}.attn_norm.weight
    layers.{i}.mixer_out             blk.{i}.post_attention_norm.weight
    layers.{i}.feed_forward_in           blk.{i}.ffn_norm.weight
    layers.{i}.feed_forward_in           blk.{i}.post_attention_norm.weight
    layers.{i}.feed_forward_out          blk.{i}.post_ffw_norm.weight
    layers.{i}.attention.q               blk.{i}.attn_q.weight
    layers.{i}.attention.k               blk.{i}.attn_k.weight
    layers.{i}.attention.v               blk.{i}.attn_v.weight
    layers.{i}.attention.q               blk.{i}.attn_qkv.weight                                     fused_qkv
    layers.{i}.attention.k               blk.{i}.attn_qkv.weight                                     fused_qkv
    layers.{i}.attention.v               blk.{i}.attn_qkv.weight                                     fused_qkv
    layers.{i}.attention.out             blk.{i}.attn_output.weight
    layers.{i}.attention.q_norm          blk.{i}.attn_q_norm.weight
    layers.{i}.attention.k_norm          blk.{i}.attn_k_norm.weight
    layers.{i}.attention.sinks           blk.{i}.attn_sinks.weight
    layers.{i}.attention.q_down          blk.{i}.attn_q_a.weight
    layers.{i}.attention.q_norm          blk.{i}.attn_q_a_norm.weight
    layers.{i}.attention.q_up            blk.{i}.attn_q_b.weight
    layers.{i}.attention.kv_down         blk.{i}.attn_kv_a_mqa.weight
    layers.{i}.attention.kv_norm         blk.{i}.attn_kv_a_norm.weight
    layers.{i}.attention.k_up            blk.{i}.attn_k_b.weight
    layers.{i}.attention.v_up            blk.{i}.attn_v_b.weight
    layers.{i}.attention.k_up            blk.{i}.attn_kv_b.weight                                    latent_up
    layers.{i}.attention.v_up            blk.{i}.attn_kv_b.weight                                    latent_up
    layers.{i}.convolution.gate_in       blk.{i}.shortconv.in_proj.weight                            gates_and_value
    layers.{i}.convolution.gate_out      blk.{i}.shortconv.in_proj.weight                            gates_and_value
    layers.{i}.convolution.value         blk.{i}.shortconv.in_proj.weight                            gates_and_value
    layers.{i}.convolution.taps          blk.{i}.shortconv.conv.weight
    layers.{i}.convolution.out           blk.{i}.shortconv.out_proj.weight
    layers.{i}.feed_forward.gate         blk.{i}.ffn_gate.weight
    layers.{i}.feed_forward.up           blk.{i}.ffn_up.weight
    layers.{i}.feed_forward.down         blk.{i}.ffn_down.weight
    layers.{i}.feed_forward.router       blk.{i}.ffn_gate_inp.weight
    layers.{i}.feed_forward.correction_bias blk.{i}.exp_probs_b.bias
    layers.{i}.feed_forward.correction_bias blk.{i}.exp_probs_b
    layers.{i}.feed_forward.experts.gate blk.{i}.ffn_gate_exps.weight
    layers.{i}.feed_forward.experts.up   blk.{i}.ffn_up_exps.weight
    layers.{i}.feed_forward.experts.down blk.{i}.ffn_down_exps.weight
    layers.{i}.feed_forward.experts.gate blk.{i}.ffn_gate_up_exps.weight                             gate_up_halves
    layers.{i}.feed_forward.experts.up   blk.{i}.ffn_gate_up_exps.weight                             gate_up_halves
    layers.{i}.feed_forward.shared.gate  blk.{i}.ffn_gate_shexp.weight
    layers.{i}.feed_forward.shared.up    blk.{i}.ffn_up_shexp.weight
    layers.{i}.feed_forward.shared.down  blk.{i}.ffn_down_shexp.weight
    layers.{i}.feed_forward.dense.gate   blk.{i}.ffn_gate.weight
    layers.{i}.feed_forward.dense.up     blk.{i}.ffn_up.weight
    layers.{i}.feed_forward.dense.down   blk.{i}.ffn_down.weight
    layers.{i}.feed_forward.dense_out    blk.{i}.post_ffw_norm_1.weight
    layers.{i}.feed_forward.routed_in    blk.{i}.pre_ffw_norm_2.weight
    layers.{i}.feed_forward.routed_out   blk.{i}.post_ffw_norm_2.weight
    layers.{i}.feed_forward.router_norm  blk.{i}.ffn_gate_inp.scale                                  root_of_width
    layers.{i}.feed_forward.routed.router blk.{i}.ffn_gate_inp.weight
    layers.{i}.feed_forward.routed.expert_scale blk.{i}.ffn_down_exps.scale
    layers.{i}.feed_forward.routed.experts.gate blk.{i}.ffn_gate_up_exps.weight                      gate_up_halves
    layers.{i}.feed_forward.routed.experts.up blk.{i}.ffn_gate_up_exps.weight                        gate_up_halves
    layers.{i}.feed_forward.routed.experts.gate blk.{i}.ffn_gate_exps.weight
    layers.{i}.feed_forward.routed.experts.up blk.{i}.ffn_up_exps.weight
    layers.{i}.feed_forward.routed.experts.down blk.{i}.ffn_down_exps.weight
    layers.{i}.scalar                    blk.{i}.layer_output_scale.weight
    layers.{i}.per_layer_input.gate      blk.{i}.inp_gate.weight
    layers.{i}.per_layer_input.out       blk.{i}.proj.weight
    layers.{i}.per_layer_input.norm      blk.{i}.post_norm.weight
""")

# Feed-forwards whose gate and up are one matrix under the name of up.
GGUF_FUSED_UP = _rows("""
    layers.{i}.feed_forward.gate         blk.{i}.ffn_up.weight                                       gate_up_halves
    layers.{i}.feed_forward.up           blk.{i}.ffn_up.weight                                       gate_up_halves
""")

# Architectures whose converters reorder the rows of q and k, from half-split rotary pairs to neighbouring ones.
GGUF_NEIGHBOURING_PAIRS = _rows("""
    layers.{i}.attention.q               blk.{i}.attn_q.weight                 half_split
    layers.{i}.attention.k               blk.{i}.attn_k.weight                 half_split
""")

# Gated delta nets. In files of 2025 queries, keys, values and gates lie together by key head; betas and steps still do.
GGUF_DELTA = _rows("""
    layers.{i}.attention.q               blk.{i}.attn_q.weight                     query_of_head
    layers.{i}.attention.gate            blk.{i}.attn_q.weight                     query_of_head
    layers.{i}.recurrence.q              blk.{i}.attn_qkv.weight                   q_k_v
    layers.{i}.recurrence.k              blk.{i}.attn_qkv.weight                   q_k_v
    layers.{i}.recurrence.v              blk.{i}.attn_qkv.weight                   q_k_v
    layers.{i}.recurrence.gate           blk.{i}.attn_gate.weight
    layers.{i}.recurrence.q              blk.{i}.ssm_in.weight                     q_k_v_gate_by_key_head
    layers.{i}.recurrence.k              blk.{i}.ssm_in.weight                     q_k_v_gate_by_key_head
    layers.{i}.recurrence.v              blk.{i}.ssm_in.weight                     q_k_v_gate_by_key_head
    layers.{i}.recurrence.gate           blk.{i}.ssm_in.weight                     q_k_v_gate_by_key_head
    layers.{i}.recurrence.beta           blk.{i}.ssm_ba.weight                     beta_step_by_key_head
    layers.{i}.recurrence.step           blk.{i}.ssm_ba.weight                     beta_step_by_key_head
    layers.{i}.recurrence.beta           blk.{i}.ssm_beta.weight
    layers.{i}.recurrence.step           blk.{i}.ssm_alpha.weight
    layers.{i}.recurrence.step.bias      blk.{i}.ssm_dt.bias
    layers.{i}.recurrence.rate           blk.{i}.ssm_a
    layers.{i}.recurrence.q_taps         blk.{i}.ssm_conv1d.weight                 q_k_v_taps
    layers.{i}.recurrence.k_taps         blk.{i}.ssm_conv1d.weight                 q_k_v_taps
    layers.{i}.recurrence.v_taps         blk.{i}.ssm_conv1d.weight                 q_k_v_taps
    layers.{i}.recurrence.norm           blk.{i}.ssm_norm.weight
    layers.{i}.recurrence.out            blk.{i}.ssm_out.weight
    layers.{i}.feed_forward.shared_gate  blk.{i}.ffn_gate_inp_shexp.weight         one_row
""")

GGUF_MAMBA = _rows("""
    layers.{i}.recurrence.gate           blk.{i}.ssm_in.weight                     gate_v_k_q_step
    layers.{i}.recurrence.q              blk.{i}.ssm_in.weight                     gate_v_k_q_step
    layers.{i}.recurrence.k              blk.{i}.ssm_in.weight                     gate_v_k_q_step
    layers.{i}.recurrence.v              blk.{i}.ssm_in.weight                     gate_v_k_q_step
    layers.{i}.recurrence.step           blk.{i}.ssm_in.weight                     gate_v_k_q_step
    layers.{i}.recurrence.step.bias      blk.{i}.ssm_dt.bias
    layers.{i}.recurrence.rate           blk.{i}.ssm_a                             one_axis
    layers.{i}.recurrence.skip           blk.{i}.ssm_d                             one_axis
    layers.{i}.recurrence.q_taps         blk.{i}.ssm_conv1d.weight                 v_k_q_taps
    layers.{i}.recurrence.k_taps         blk.{i}.ssm_conv1d.weight                 v_k_q_taps
    layers.{i}.recurrence.v_taps         blk.{i}.ssm_conv1d.weight                 v_k_q_taps
    layers.{i}.recurrence.norm_row       blk.{i}.ssm_norm.weight                   one_axis
    layers.{i}.recurrence.out            blk.{i}.ssm_out.weight
""")

# One block a layer, with the one norm before it under the name of attention's.
GGUF_NEMOTRON = _rows("""
    layers.{i}.feed_forward_in           blk.{i}.attn_norm.weight
    layers.{i}.feed_forward.latent_in    blk.{i}.ffn_latent_down.weight
    layers.{i}.feed_forward.latent_out   blk.{i}.ffn_latent_up.weight
""")

# A norm whose name ends where others have `.weight`.
GGUF_FALCON = _rows("""
    layers.{i}.feed_forward_in           blk.{i}.ffn_norm
""")

GGUF_KIMI = _rows("""
    layers.{i}.recurrence.q              blk.{i}.attn_q.weight
    layers.{i}.recurrence.k              blk.{i}.attn_k.weight
    layers.{i}.recurrence.v              blk.{i}.attn_v.weight
    layers.{i}.recurrence.q_taps         blk.{i}.ssm_conv1d_q.weight               rows_of_taps
    layers.{i}.recurrence.k_taps         blk.{i}.ssm_conv1d_k.weight               rows_of_taps
    layers.{i}.recurrence.v_taps         blk.{i}.ssm_conv1d_v.weight               rows_of_taps
    layers.{i}.recurrence.step_down      blk.{i}.ssm_f_a.weight
    layers.{i}.recurrence.step           blk.{i}.ssm_f_b.weight
    layers.{i}.recurrence.step.bias      blk.{i}.ssm_dt.bias
    layers.{i}.recurrence.rate           blk.{i}.ssm_a                             one_axis
    layers.{i}.recurrence.beta           blk.{i}.ssm_beta.weight
    layers.{i}.recurrence.gate_down      blk.{i}.ssm_g_a.weight
    layers.{i}.recurrence.gate           blk.{i}.ssm_g_b.weight
    layers.{i}.recurrence.norm           blk.{i}.ssm_norm.weight
    layers.{i}.recurrence.out            blk.{i}.attn_output.weight
""")

# Architectures that call the norm behind the last layer so.
GGUF_EMBEDDING_NORM = _rows("""
    final_norm                           token_embd_norm.weight
""")

GGUF_SHARED_GATE = _rows("""
    layers.{i}.feed_forward.shared_gate  blk.{i}.ffn_gate_inp_shexp.weight         one_row
""")

# A weight of its own for each head.
GGUF_NORMS_OF_EACH_HEAD = _rows("""
    layers.{i}.attention.q_norm_row      blk.{i}.attn_q_norm.weight
    layers.{i}.attention.k_norm_row      blk.{i}.attn_k_norm.weight
""")

# Positions from a table.
GGUF_POSITIONS = _rows("""
    positions                            position_embd.weight
""")

# Attention has a norm of its own where there are two.
GGUF_TWO_NORMS = _rows("""
    layers.{i}.mixer_in                  blk.{i}.attn_norm_2.weight
    layers.{i}.feed_forward_in           blk.{i}.ffn_norm.weight
    layers.{i}.feed_forward_in           blk.{i}.attn_norm.weight
""")

GGUF_GATED = _rows("""
    layers.{i}.attention.gate            blk.{i}.attn_gate.weight
""")

# A curve's learned numbers are in the metadata.
GGUF_CURVE = _rows("""
    layers.{i}.feed_forward.rise         xielu.alpha_p[{i}]                        softplus
    layers.{i}.feed_forward.fall         xielu.alpha_n[{i}]                        softplus_above_slope
""")

GGUF_INNER_NORMS = _rows("""
    layers.{i}.attention.out_norm        blk.{i}.attn_sub_norm.weight
    layers.{i}.feed_forward.inner_norm   blk.{i}.ffn_sub_norm.weight
""")

GGUF_NORM_BEHIND_OUTPUT = _rows("""
    layers.{i}.feed_forward_in           blk.{i}.attn_output_norm.weight
""")

GGUF_INDEX = _rows("""
    layers.{i}.attention.index.q         blk.{i}.indexer.attn_q_b.weight
    layers.{i}.attention.index.k         blk.{i}.indexer.attn_k.weight
    layers.{i}.attention.index.k_norm    blk.{i}.indexer.k_norm.weight
    layers.{i}.attention.index.weights   blk.{i}.indexer.proj.weight
""")

GGUF_STREAMS = _rows("""
    streams.into                         altup_proj.weight
    streams.out_of                       altup_unembd_proj.weight
    layers.{i}.streams.norm              blk.{i}.altup_router_norm.weight          over_width
    layers.{i}.streams.router            blk.{i}.altup_router.weight
    layers.{i}.streams.predict           blk.{i}.altup_predict_coef.weight
    layers.{i}.streams.correct           blk.{i}.altup_correct_coef.weight
    layers.{i}.per_layer_input.row       blk.{i}.altup_correct_scale.weight
    layers.{i}.low_rank.down             blk.{i}.laurel_l.weight
    layers.{i}.low_rank.up               blk.{i}.laurel_r.weight
    layers.{i}.low_rank.norm             blk.{i}.laurel_post_norm.weight
""")

BY_ARCHITECTURE = {
    **dict.fromkeys(("afmoe", "laguna", "step35"), GGUF_GATED + GGUF),
    "apertus": GGUF_CURVE + GGUF,
    "bitnet": GGUF_INNER_NORMS + GGUF,
    "dbrx": GGUF_NORM_BEHIND_OUTPUT + GGUF,
    **dict.fromkeys(("deepseek32", "glm-dsa"), GGUF_INDEX + GGUF),
    "falcon": GGUF_TWO_NORMS + GGUF,
    "gemma3n": GGUF_STREAMS + GGUF,
    **dict.fromkeys(("gpt2", "starcoder"), GGUF_POSITIONS + GGUF),
    "command-r": GGUF_NORMS_OF_EACH_HEAD + GGUF,
    **dict.fromkeys(("phi3", "glm4", "chatglm"), GGUF_FUSED_UP + GGUF),
    "qwen2moe": GGUF_SHARED_GATE + GGUF,
    "stablelm": GGUF_NORMS_OF_EACH_HEAD + GGUF,
    **dict.fromkeys(("lfm2", "lfm2moe"), GGUF_EMBEDDING_NORM + GGUF),
    **dict.fromkeys(("qwen3next", "qwen35", "qwen35moe"), GGUF_DELTA + GGUF),
    "granitehybrid": GGUF_NEIGHBOURING_PAIRS + GGUF_MAMBA + GGUF,
    "falcon-h1": GGUF_FALCON + GGUF_MAMBA + GGUF,
    **dict.fromkeys(("nemotron_h", "nemotron_h_moe"), GGUF_NEMOTRON + GGUF_MAMBA + GGUF),
    "kimi-linear": GGUF_KIMI + GGUF,
    **dict.fromkeys(
        (
            *("llama", "mistral3", "smollm3", "granite", "granitemoe", "granite_swa"),
            *("arcee", "bailingmoe", "internlm2", "minicpm", "olmo"),
        ),
        GGUF_NEIGHBOURING_PAIRS + GGUF,
    ),
}
BY_FAMILY: dict[str, tuple[Row, ...]] = {
    **FAMILY_NAMES,
    "gemma2": GEMMA_NORMS,
    "gemma3": GEMMA_NORMS,
    "gemma3n": GEMMA3N,
    "gemma4": GEMMA4,
    "mixtral": BLOCK_SPARSE,
    "minimax_m2": BLOCK_SPARSE,
    "phimoe": BLOCK_SPARSE,
    "granite_moe": GRANITE_MOE,
    "gpt_oss": GPT_OSS,
    "llama4": LLAMA4,
    "lfm2": LFM2,
    "lfm2_moe": LFM2,
    **dict.fromkeys(("granite_hybrid", "granite_moe_shared"), GRANITE_HYBRID),
    "nemotron_h": NEMOTRON_H,
    "kimi_linear": KIMI_LINEAR,
    **dict.fromkeys(("bamba", "falcon_h1"), BAMBA),
    **dict.fromkeys(("qwen3_next", "qwen3_5", "qwen3_5_moe"), QWEN_DELTA),
}

# The block that predicts further tokens: the names of its own parts; `{n}` is the number of layers. Its layer has the
# names of a layer, at one of these places.
PREDICTION = _rows("""
    prediction.join                      mtp.fc.weight
    prediction.embedding_norm            mtp.pre_fc_norm_embedding.weight                            plus_one
    prediction.hidden_norm               mtp.pre_fc_norm_hidden.weight                               plus_one
    prediction.out_norm                  mtp.norm.weight                                             plus_one
    prediction.join                      model.layers.{n}.eh_proj.weight
    prediction.embedding_norm            model.layers.{n}.enorm.weight
    prediction.hidden_norm               model.layers.{n}.hnorm.weight
    prediction.out_norm                  model.layers.{n}.shared_head.norm.weight
    prediction.join                      blk.{n}.nextn.eh_proj.weight
    prediction.embedding_norm            blk.{n}.nextn.enorm.weight
    prediction.hidden_norm               blk.{n}.nextn.hnorm.weight
    prediction.out_norm                  blk.{n}.nextn.shared_head_norm.weight
    prediction.out_norm                  output_norm.weight
""")
PREDICTION_LAYER = {"model.layers.{i}.": ("mtp.layers.0.", "model.layers.{n}."), "blk.{i}.": ("blk.{n}.",)}


def prediction_rows(layers: tuple[Row, ...], count: int) -> tuple[Row, ...]:
    """Rows of the block of a model with `count` layers that these rows describe."""
    found = list(PREDICTION)
    for row in layers:
        for theirs, places in PREDICTION_LAYER.items():
            if row.ours.startswith("layers.{i}.") and row.theirs.startswith(theirs):
                ours = "prediction." + row.ours.removeprefix("layers.{i}.")
                found += [Row(ours, place + row.theirs.removeprefix(theirs), row.change) for place in places]
    return tuple(Row(row.ours, row.theirs.replace("{n}", str(count)), row.change) for row in found)


# Where models that also see keep their text decoder: what stands for `model.` and for `lm_head.` in the rows above.
TEXT_PREFIXES = ("language_model.model.", "model.language_model.")
HEAD_PREFIXES = ("language_model.lm_head.",)

# Tensors that no forward pass over text needs, by a pattern that matches from the start of their name, and why.
LEFT_OUT = {
    r".*rotary_emb\.inv_freq": "rotary frequencies are computed",
    r".*\.act_fn\.(beta|eps)": "constants of a curve",
    r"rope_freqs\.weight|rope_factors_(long|short)\.weight": "read with the spec",
    r"(model\.)?(vision_tower|vision_model|vision_embedder|visual)\.": "the part that sees",
    r"(model\.)?(multi_modal_projector|embed_vision|mm_projector|vit_large_projector)\.": "the part that sees",
    r"(vision_encoder|vision_language_adapter|patch_merger|pre_mm_projector_norm)\.": "the part that sees",
    r"(model\.)?(audio_tower|embed_audio)\.": "the part that hears",
    r".*\.[qkv]_scale$": "how an engine rounds its cache",
    r"mtp\.|model\.(mtp|mtp_layers)\.": "layers that predict further tokens",
}

# What a layer stores of keys and values, behind its number.
KEYS_AND_VALUES = r"self_attn\.(k_proj|v_proj|k_norm|v_norm)\.|attn_(k|v|k_norm)\."
