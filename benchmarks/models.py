"""GGUF files with random weights in real shapes, to time engines with; what they say is noise.

    python benchmarks/models.py dense Q4_0 out.gguf --tokenizer smollm2.gguf

`--tokenizer` is a GGUF file whose vocabulary is taken over.
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from pathlib import Path

import gguf
import numpy as np

TYPES = ("Q4_0", "Q4_1", "Q5_0", "Q8_0", "F16")


@dataclass(frozen=True)
class Shape:
    architecture: str
    layers: int
    width: int
    heads: int
    kv_heads: int
    head_dim: int
    feed_forward: int
    experts: int = 0
    chosen: int = 0


SHAPES = {
    "dense": Shape("llama", 16, 2048, 32, 8, 64, 8192),  # Llama 3.2 1B
    "routed": Shape("qwen3moe", 24, 1024, 16, 4, 64, 768, experts=32, chosen=4),
    "small-dense": Shape("llama", 12, 768, 12, 4, 64, 2048),
    "small-routed": Shape("qwen3moe", 12, 512, 8, 4, 64, 384, experts=16, chosen=4),
}


def write(shape: Shape, kind: str, out: Path, tokenizer: Path, seed: int = 0) -> None:
    rng = np.random.default_rng(seed)
    fields = gguf.GGUFReader(tokenizer).fields
    vocab = len(fields["tokenizer.ggml.tokens"].contents())
    to = gguf.GGUFWriter(out, shape.architecture)
    to.add_name(f"random {shape.architecture}")
    to.add_vocab_size(vocab)
    to.add_context_length(8192)
    to.add_block_count(shape.layers)
    to.add_embedding_length(shape.width)
    to.add_feed_forward_length(shape.feed_forward)
    to.add_head_count(shape.heads)
    to.add_head_count_kv(shape.kv_heads)
    to.add_key_length(shape.head_dim)
    to.add_value_length(shape.head_dim)
    to.add_rope_dimension_count(shape.head_dim)
    to.add_rope_freq_base(100000.0)
    to.add_layer_norm_rms_eps(1e-5)
    if shape.experts:
        to.add_expert_count(shape.experts)
        to.add_expert_used_count(shape.chosen)
        to.add_expert_feed_forward_length(shape.feed_forward)
    for key, field in fields.items():
        if key.startswith("tokenizer."):
            value = field.contents()
            if isinstance(value, list):
                to.add_array(key, value)
            else:
                to.add_key_value(key, value, field.types[0])

    def matrix(name: str, *dims: int, kind: str = kind) -> None:
        quant = gguf.GGMLQuantizationType[kind]
        values = rng.standard_normal(dims, np.float32) * np.float32(0.02)
        to.add_tensor(name, gguf.quants.quantize(values, quant), raw_dtype=quant)

    def ones(name: str, n: int) -> None:
        to.add_tensor(name, np.ones(n, np.float32))

    d, ffn = shape.width, shape.feed_forward
    matrix("token_embd.weight", vocab, d, kind="Q8_0")
    ones("output_norm.weight", d)
    for i in range(shape.layers):
        at = f"blk.{i}."
        ones(at + "attn_norm.weight", d)
        ones(at + "ffn_norm.weight", d)
        matrix(at + "attn_q.weight", shape.heads * shape.head_dim, d)
        matrix(at + "attn_k.weight", shape.kv_heads * shape.head_dim, d)
        matrix(at + "attn_v.weight", shape.kv_heads * shape.head_dim, d)
        matrix(at + "attn_output.weight", d, shape.heads * shape.head_dim)
        if not shape.experts:
            matrix(at + "ffn_gate.weight", ffn, d)
            matrix(at + "ffn_up.weight", ffn, d)
            matrix(at + "ffn_down.weight", d, ffn)
            continue
        ones(at + "attn_q_norm.weight", shape.head_dim)
        ones(at + "attn_k_norm.weight", shape.head_dim)
        to.add_tensor(at + "ffn_gate_inp.weight", rng.standard_normal((shape.experts, d), np.float32))
        matrix(at + "ffn_gate_exps.weight", shape.experts, ffn, d)
        matrix(at + "ffn_up_exps.weight", shape.experts, ffn, d)
        matrix(at + "ffn_down_exps.weight", shape.experts, d, ffn)
    to.write_header_to_file()
    to.write_kv_data_to_file()
    to.write_tensors_to_file()
    to.close()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("shape", choices=SHAPES)
    parser.add_argument("type", choices=TYPES)
    parser.add_argument("out", type=Path)
    parser.add_argument("--tokenizer", type=Path, required=True)
    given = parser.parse_args()
    write(SHAPES[given.shape], given.type, given.out, given.tokenizer)
