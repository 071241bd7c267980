"""The names others give to the tensors we declare, as rows of data, and what has to be done to each on the way in.

A row: our name, theirs, the change. `{i}` is the layer, `{e}` an expert (their tensors are stacked in its order). For
one of our names the first row whose tensor is in the file is taken, so a family's special rows stand before the common
ones. A bias follows its weight: `.weight` becomes `.bias`.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Row:
    ours: str
    theirs: str
    change: str = ""  # the name of a function in changes.py; empty: taken as it is


def _rows(table: str) -> tuple[Row, ...]:
    """Three columns a line: ours, theirs, and the change where there is one."""
    return tuple(Row(*line.split()) for line in table.strip().splitlines())


HUGGINGFACE = _rows("""
    embedding                            model.embed_tokens.weight
    final_norm                           model.norm.weight
    head                                 lm_head.weight
    layers.{i}.attention_in              model.layers.{i}.input_layernorm.weight
    layers.{i}.feed_forward_in           model.layers.{i}.post_attention_layernorm.weight
    layers.{i}.attention.q               model.layers.{i}.self_attn.q_proj.weight
    layers.{i}.attention.k               model.layers.{i}.self_attn.k_proj.weight
    layers.{i}.attention.v               model.layers.{i}.self_attn.v_proj.weight
    layers.{i}.attention.out             model.layers.{i}.self_attn.o_proj.weight
    layers.{i}.attention.q_norm          model.layers.{i}.self_attn.q_norm.weight
    layers.{i}.attention.k_norm          model.layers.{i}.self_attn.k_norm.weight
    layers.{i}.feed_forward.gate         model.layers.{i}.mlp.gate_proj.weight
    layers.{i}.feed_forward.up           model.layers.{i}.mlp.up_proj.weight
    layers.{i}.feed_forward.down         model.layers.{i}.mlp.down_proj.weight
""")

GGUF = _rows("""
    embedding                            token_embd.weight
    final_norm                           output_norm.weight
    head                                 output.weight
    layers.{i}.attention_in              blk.{i}.attn_norm.weight
    layers.{i}.feed_forward_in           blk.{i}.ffn_norm.weight
    layers.{i}.attention.q               blk.{i}.attn_q.weight
    layers.{i}.attention.k               blk.{i}.attn_k.weight
    layers.{i}.attention.v               blk.{i}.attn_v.weight
    layers.{i}.attention.out             blk.{i}.attn_output.weight
    layers.{i}.attention.q_norm          blk.{i}.attn_q_norm.weight
    layers.{i}.attention.k_norm          blk.{i}.attn_k_norm.weight
    layers.{i}.feed_forward.gate         blk.{i}.ffn_gate.weight
    layers.{i}.feed_forward.up           blk.{i}.ffn_up.weight
    layers.{i}.feed_forward.down         blk.{i}.ffn_down.weight
""")

# Architectures whose converters reorder the rows of q and k, from half-split rotary pairs to neighbouring ones.
GGUF_NEIGHBOURING_PAIRS = _rows("""
    layers.{i}.attention.q               blk.{i}.attn_q.weight                 half_split
    layers.{i}.attention.k               blk.{i}.attn_k.weight                 half_split
""")

BY_ARCHITECTURE = {"llama": GGUF_NEIGHBOURING_PAIRS + GGUF}
BY_FAMILY: dict[str, tuple[Row, ...]] = {}

# Tensors that no forward pass needs, by the end of their name, and why.
LEFT_OUT = {
    "rotary_emb.inv_freq": "rotary frequencies are computed",
    "rope_freqs.weight": "read with the spec",
}
