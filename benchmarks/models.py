"""GGUF files with random weights in real shapes, to time engines with; what they say is noise.

    python benchmarks/models.py dense Q4_0 out.gguf --tokenizer smollm2.gguf

`--tokenizer` is a GGUF file whose vocabulary is taken over.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import gguf
import numpy as np

TYPES = ("Q4_0", "Q4_1", "Q5_0", "Q8_0", "F16", "Q4_K_M", "IQ4_XS", "IQ2_XS")


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
    # of gated delta nets in three of four layers; the fourth is attention with a gate
    key_heads: int = 0
    value_heads: int = 0
    head: int = 128
    random_codes: bool = False  # the blocks of a file at random, where quantising values would take minutes


SHAPES = {
    "dense": Shape("llama", 16, 2048, 32, 8, 64, 8192),  # Llama 3.2 1B
    "routed": Shape("qwen3moe", 24, 1024, 16, 4, 64, 768, experts=32, chosen=4),
    # as Qwen3.5-9B, 3/8 as wide; and as Qwen3-Next-80B-A3B, half as wide, a quarter of its layers
    "hybrid": Shape("qwen35", 32, 1536, 6, 2, 256, 4608, key_heads=6, value_heads=12),
    "routed-hybrid": Shape("qwen3next", 12, 1024, 8, 2, 256, 256, 512, 10, key_heads=8, value_heads=16),
    "dense-8b": Shape("llama", 32, 4096, 32, 8, 128, 14336, random_codes=True),  # Llama 3 8B with a small vocabulary
    "qwen3-0.6b": Shape("qwen3", 28, 1024, 16, 8, 128, 3072, random_codes=True),
    # 2,048 wide, as Qwen3-30B-A3B, with few layers
    "64x8": Shape("qwen3moe", 8, 2048, 32, 4, 128, 1024, experts=64, chosen=8, random_codes=True),
    "128x8": Shape("qwen3moe", 6, 2048, 32, 4, 128, 768, experts=128, chosen=8, random_codes=True),
    "small-hybrid": Shape("qwen35", 8, 512, 4, 2, 64, 1536, key_heads=2, value_heads=4, head=64),
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
    if not shape.key_heads:
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
        if kind == "Q4_K_M":
            kind = "Q6_K" if more_bits(name, shape.layers) else "Q4_K"
        quant = gguf.GGMLQuantizationType[kind]
        if shape.key_heads or shape.random_codes:
            to.add_tensor(name, random_blocks(rng, dims, kind), raw_dtype=quant)
        else:
            values = rng.standard_normal(dims, np.float32) * np.float32(0.02)
            to.add_tensor(name, gguf.quants.quantize(values, quant), raw_dtype=quant)

    def ones(name: str, n: int) -> None:
        to.add_tensor(name, np.ones(n, np.float32))

    if shape.key_heads:
        hybrid(to, shape, vocab, rng, matrix, ones)
        return
    d, ffn = shape.width, shape.feed_forward
    matrix("token_embd.weight", vocab, d, kind="Q8_0")
    ones("output_norm.weight", d)
    for i in range(shape.layers):
        at = f"blk.{i}."
        ones(at + "attn_norm.weight", d)
        ones(at + "ffn_norm.weight", d)
        if shape.architecture.startswith("qwen3"):
            ones(at + "attn_q_norm.weight", shape.head_dim)
            ones(at + "attn_k_norm.weight", shape.head_dim)
        matrix(at + "attn_q.weight", shape.heads * shape.head_dim, d)
        matrix(at + "attn_k.weight", shape.kv_heads * shape.head_dim, d)
        matrix(at + "attn_v.weight", shape.kv_heads * shape.head_dim, d)
        matrix(at + "attn_output.weight", d, shape.heads * shape.head_dim)
        if not shape.experts:
            matrix(at + "ffn_gate.weight", ffn, d)
            matrix(at + "ffn_up.weight", ffn, d)
            matrix(at + "ffn_down.weight", d, ffn)
            continue
        to.add_tensor(at + "ffn_gate_inp.weight", rng.standard_normal((shape.experts, d), np.float32))
        matrix(at + "ffn_gate_exps.weight", shape.experts, ffn, d)
        matrix(at + "ffn_up_exps.weight", shape.experts, ffn, d)
        matrix(at + "ffn_down_exps.weight", shape.experts, d, ffn)
    to.write_header_to_file()
    to.write_kv_data_to_file()
    to.write_tensors_to_file()
    to.close()


def hybrid(
    to: gguf.GGUFWriter,
    shape: Shape,
    vocab: int,
    rng: np.random.Generator,
    matrix: Callable[..., None],
    ones: Callable[[str, int], None],
) -> None:
    """The keys and tensors of a model with gated delta nets, as llama.cpp's converter writes them; then the file."""
    values, keys, d, ffn = shape.value_heads * shape.head, shape.key_heads * shape.head, shape.width, shape.feed_forward
    to.add_ssm_conv_kernel(4)
    to.add_ssm_state_size(shape.head)
    to.add_ssm_group_count(shape.key_heads)
    to.add_ssm_time_step_rank(shape.value_heads)
    to.add_ssm_inner_size(values)
    to.add_full_attention_interval(4)
    turned = shape.head_dim // 4
    to.add_rope_dimension_count(turned)
    if shape.architecture != "qwen3next":
        to.add_rope_dimension_sections([turned // 2 - 2 * (turned // 6), turned // 6, turned // 6, 0])
    if shape.experts:
        to.add_expert_shared_feed_forward_length(ffn)
    matrix("token_embd.weight", vocab, d, kind="Q8_0")
    ones("output_norm.weight", d)
    for i in range(shape.layers):
        at = f"blk.{i}."
        ones(at + "attn_norm.weight", d)
        ones(at + "post_attention_norm.weight", d)
        if i % 4 == 3:
            matrix(at + "attn_q.weight", 2 * shape.heads * shape.head_dim, d)
            matrix(at + "attn_k.weight", shape.kv_heads * shape.head_dim, d)
            matrix(at + "attn_v.weight", shape.kv_heads * shape.head_dim, d)
            matrix(at + "attn_output.weight", d, shape.heads * shape.head_dim)
            ones(at + "attn_q_norm.weight", shape.head_dim)
            ones(at + "attn_k_norm.weight", shape.head_dim)
        else:
            matrix(at + "attn_qkv.weight", 2 * keys + values, d)
            matrix(at + "attn_gate.weight", values, d)
            if shape.architecture == "qwen3next":
                matrix(at + "ssm_ba.weight", 2 * shape.value_heads, d)
            else:
                matrix(at + "ssm_beta.weight", shape.value_heads, d)
                matrix(at + "ssm_alpha.weight", shape.value_heads, d)
            to.add_tensor(at + "ssm_a", -np.geomspace(0.01, 1, shape.value_heads).astype(np.float32))
            to.add_tensor(at + "ssm_dt.bias", np.zeros(shape.value_heads, np.float32))
            taps = rng.standard_normal((2 * keys + values, 4), np.float32)
            to.add_tensor(at + "ssm_conv1d.weight", taps)
            ones(at + "ssm_norm.weight", shape.head)
            matrix(at + "ssm_out.weight", d, values)
        if shape.experts:
            to.add_tensor(at + "ffn_gate_inp.weight", rng.standard_normal((shape.experts, d), np.float32))
            to.add_tensor(at + "ffn_gate_inp_shexp.weight", rng.standard_normal(d, np.float32))
            for part, rows, columns in (("gate", ffn, d), ("up", ffn, d), ("down", d, ffn)):
                matrix(at + f"ffn_{part}_exps.weight", shape.experts, rows, columns)
                matrix(at + f"ffn_{part}_shexp.weight", rows, columns)
        else:
            matrix(at + "ffn_gate.weight", ffn, d)
            matrix(at + "ffn_up.weight", ffn, d)
            matrix(at + "ffn_down.weight", d, ffn)
    to.write_header_to_file()
    to.write_kv_data_to_file()
    to.write_tensors_to_file()
    to.close()


def more_bits(name: str, layers: int) -> bool:
    """Where a Q4_K_M file has 6 bits: values and downs of the first and last eighth of the layers, and of every third
    between."""
    if not name.startswith("blk.") or not ("attn_v." in name or "ffn_down" in name):
        return not name.startswith("blk.")
    i = int(name.split(".")[1])
    return i < layers // 8 or i >= 7 * layers // 8 or (i - layers // 8) % 3 == 2


def random_blocks(rng: np.random.Generator, dims: Sequence[int], kind: str) -> np.ndarray:
    """Rows of a type whose codes are random and whose values are about zero, of the size of a matrix's."""
    block, size = gguf.GGML_QUANT_SIZES[gguf.GGMLQuantizationType[kind]]
    blocks = rng.integers(0, 256, (*dims[:-1], dims[-1] // block, size), np.uint8)
    wanted = dims[-1] ** -0.5

    def put(at: int, value: float) -> None:
        blocks[..., at : at + 2] = np.array([value], np.float16).view(np.uint8)

    match kind:
        case "Q4_0":
            put(0, wanted / 4.6)
        case "Q8_0":
            put(0, wanted / 74)
        case "F16":
            return (rng.standard_normal(dims, np.float32) * np.float32(wanted)).astype(np.float16)
        case "Q4_K":  # every scale and minimum 33: 1 in the low four bits, 2 in the high two
            put(0, wanted / (33 * 4.6))
            put(2, 7.5 * wanted / (33 * 4.6))
            blocks[..., 4:12] = 33 | 2 << 6
            blocks[..., 12:16] = 1 | 1 << 4
        case "Q6_K":
            blocks[..., 192:208] = 16
            put(208, wanted / (16 * 18.5))
        case "IQ4_XS":  # every scale 33 - 32
            put(0, wanted / 70)
            blocks[..., 2:4] = 0xAA
            blocks[..., 4:8] = 0x11
        case "IQ2_XS":  # every scale 8
            put(0, wanted / 42)
            blocks[..., 66:74] = 0x88
        case _:
            raise SystemExit(f"no random blocks of {kind} here")
    return blocks.reshape(*dims[:-1], -1).view(np.uint8)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("shape", choices=SHAPES)
    parser.add_argument("type", choices=TYPES)
    parser.add_argument("out", type=Path)
    parser.add_argument("--tokenizer", type=Path, required=True)
    given = parser.parse_args()
    write(SHAPES[given.shape], given.type, given.out, given.tokenizer)
