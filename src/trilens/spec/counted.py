"""Models that trilens cannot run yet, whose parameters are known exactly from their configuration.

Each function counts the text decoder, matrix by matrix. What a layer does with them is not described here, so there is
no cost of a token and no cache. The tests compare the totals with the modules of transformers.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from trilens.errors import BadCheckpoint
from trilens.spec.families.parts import layer_count
from trilens.spec.keys import MOST_EXPERTS, Keys


@dataclass(frozen=True)
class Counted:
    """`total`: every weight and persistent buffer. `resting`: those of experts that do not fire for a token.
    `looked_up`: those of tables from which a token takes one row, without that row. `head`: those of the matrix that
    computes the logits."""

    total: int
    resting: int
    looked_up: int
    head: int

    @property
    def active_with_embeddings(self) -> int:
        return self.total - self.resting

    @property
    def active(self) -> int:
        """What a token is multiplied with, and its rows of the tables."""
        return self.active_with_embeddings - self.looked_up


def counted(config: Mapping[str, Any], where: str) -> Counted | None:
    """The parameters of a known configuration, or None. A configuration that contradicts itself is not counted."""
    text = config.get("text_config")
    inner = text if isinstance(text, Mapping) else config
    count = COUNTED.get(str(inner.get("model_type", ""))) or COUNTED.get(str(config.get("model_type", "")))
    if count is None:
        return None
    try:
        return count(Keys(inner, where))
    except BadCheckpoint:
        return None


def _tables(k: Keys, vocab: int, width: int) -> tuple[int, int]:
    """Parameters of the embedding and the head, and how many of them are only looked up."""
    if k.flag("tie_word_embeddings", False):
        return vocab * width, 0
    return 2 * vocab * width, (vocab - 1) * width


def _experts(k: Keys, experts: str, chosen: str) -> tuple[int, int]:
    """The experts of a layer, and how many of them a token fires."""
    many = k.integer(experts, most=MOST_EXPERTS)
    return many, k.integer(chosen, most=many)


RATIOS = {"sliding_attention": 0, "compressed_sparse_attention": 4, "heavily_compressed_attention": 128}


def deepseek_v4(k: Keys) -> Counted:
    """DeepSeek V4: one key-value head beside compressed keys, residual streams, a table of experts in the first layers.

    Every fourth position is compressed into entries of two overlapping series, with an index; or every 128th into one.
    """
    width, vocab, layers = k.integer("hidden_size"), k.integer("vocab_size"), layer_count(k)
    heads, dim, q_rank = k.integer("num_attention_heads"), k.integer("head_dim"), k.integer("q_lora_rank")
    groups, out_rank = k.integer("o_groups"), k.integer("o_lora_rank")
    index_heads, index_dim = k.integer("index_n_heads"), k.integer("index_head_dim")
    experts, chosen = _experts(k, "n_routed_experts", "num_experts_per_tok")
    expert = 3 * k.integer("moe_intermediate_size") * width
    streams, by_table = k.integer("hc_mult"), k.integer("num_hash_layers", 0, least=0, most=layers)
    ratios = k.integers("compress_ratios", layers) or ()
    if (kinds := k.texts("layer_types", layers)) is not None:  # as transformers saves it again
        ratios = tuple(RATIOS.get(kind, -1) for kind in kinds)
        by_table = (k.texts("mlp_layer_types", layers) or ()).count("hash_moe")
    if len(ratios) != layers or set(ratios) - {0, 4, 128}:
        raise k.wrong("compress_ratios", list(ratios), f"0, 4 or 128 for each of {layers} layers")

    def compressor(ratio: int, columns: int, out: int) -> int:
        return ratio * columns + 2 * columns * width + out

    query = q_rank * width + q_rank + heads * dim * q_rank
    output = out_rank * heads * dim + width * groups * out_rank
    attention = query + dim * width + dim + output + heads
    index = compressor(4, 2 * index_dim, index_dim) + index_heads * (index_dim * q_rank + width)
    compressed = {0: 0, 4: compressor(4, 2 * dim, dim) + index, 128: compressor(128, dim, dim)}
    mixed = streams * streams + 2 * streams
    residuals = 2 * (mixed * streams * width + mixed + 3) + 2 * width
    fed = experts * width + (experts + k.integer("n_shared_experts")) * expert
    table = vocab * chosen
    at_end = streams * streams * width + streams + 1 + width
    ends, looked_up = _tables(k, vocab, width)
    return Counted(
        total=layers * (attention + residuals + fed)
        + sum(compressed[ratio] for ratio in ratios)
        + by_table * table
        + (layers - by_table) * experts
        + at_end
        + ends,
        resting=layers * (experts - chosen) * expert,
        looked_up=looked_up + by_table * (table - chosen),
        head=vocab * width,
    )


def minimax_m3(k: Keys) -> Counted:
    """MiniMax-M3: grouped-query attention, of which most layers choose blocks of positions with an index."""
    width, vocab, layers = k.integer("hidden_size"), k.integer("vocab_size"), layer_count(k)
    heads, kv_heads, dim = k.integer("num_attention_heads"), k.integer("num_key_value_heads"), k.integer("head_dim")
    rules = k.mapping("sparse_attention_config") or k
    rules.renamed({"sparse_num_index_heads": "index_n_heads", "sparse_index_dim": "index_head_dim"})
    index_heads, index_dim = rules.integer("index_n_heads", 4), rules.integer("index_head_dim", 128)
    sparse, routed = _many(rules, "sparse_attention_freq", layers), _many(k, "moe_layer_freq", layers)
    experts, chosen = _experts(k, "num_local_experts", "num_experts_per_tok")
    expert = 3 * k.integer("intermediate_size") * width
    shared = 3 * k.integer("shared_intermediate_size") * k.integer("n_shared_experts", 1) * width
    attention = 2 * (heads + kv_heads) * dim * width + 2 * dim
    index = (index_heads + 1) * index_dim * width + 2 * index_dim
    dense = 3 * k.integer("dense_intermediate_size") * width
    ends, looked_up = _tables(k, vocab, width)
    return Counted(
        total=layers * (attention + 2 * width)
        + sparse * index
        + routed * (experts * (width + 1 + expert) + shared)
        + (layers - routed) * dense
        + width
        + ends,
        resting=routed * (experts - chosen) * expert,
        looked_up=looked_up,
        head=vocab * width,
    )


def _many(k: Keys, name: str, layers: int) -> int:
    """How many layers a list of zeros and ones names; all of them where it is not there."""
    listed = k.integers(name, layers)
    if listed is None:
        return layers
    if set(listed) - {0, 1}:
        raise k.wrong(name, list(listed), f"0 or 1 for each of {layers} layers")
    return sum(listed)


COUNTED: dict[str, Callable[[Keys], Counted]] = {
    "deepseek_v4": deepseek_v4,
    "minimax_m3": minimax_m3,
    "minimax_m3_vl": minimax_m3,
    "minimax_m3_vl_text": minimax_m3,
}
