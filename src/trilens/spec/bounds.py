"""The relations between a model's numbers, stated once for all families and both file formats.

Each number by itself is read with its bounds (`keys.py`). Executors only get specs that have passed this check.
"""

from __future__ import annotations

import math

from trilens.spec.keys import WIDEST, Keys
from trilens.spec.model import (
    Attention,
    Beside,
    Dense,
    FeedForward,
    GatedRecurrence,
    LatentAttention,
    ModelSpec,
    Rope,
    Routed,
    Router,
    ShortConvolution,
    Shortcut,
    SingleMixer,
)
from trilens.spec.rope import rope_table, ropes


def check(spec: ModelSpec, k: Keys) -> None:
    """Raises BadCheckpoint, naming the file and the key, for numbers that contradict each other."""
    for mixer in {mixer for layer in spec.layers for mixer in layer.mixers}:
        _mixer(mixer, k)
    for feed_forward in {layer.feed_forward for layer in spec.layers if layer.feed_forward is not None}:
        _feed_forward(feed_forward, k)
    for rope in ropes(spec):
        _rope(rope, spec.context, k)
    if spec.per_layer_table is not None:
        table = spec.per_layer_table
        _row(table.width * len(spec.layers), "hidden_size_per_layer_input", table.width, k)
    if spec.streams is not None:
        _row(spec.streams.count * spec.width, "altup_num_inputs", spec.streams.count, k)
    if spec.vocab < 2:
        raise k.wrong("vocab_size", spec.vocab, "at least 2 tokens")


def _mixer(a: SingleMixer, k: Keys) -> None:
    match a:
        case ShortConvolution(state=state):
            for tensor in state.tensors:
                _row(math.prod(tensor.shape), "conv_L_cache", tensor.shape[0] + 1, k)
        case LatentAttention():
            _row(a.heads * (a.nope_dim + a.rope_dim + a.value_dim), "num_attention_heads", a.heads, k)
            _row(a.heads * (a.kv_rank + a.rope_dim), "kv_lora_rank", a.kv_rank, k)
            if a.index is not None:
                dim = a.index.cache.key_dim
                _row(a.index.heads * dim, "index_n_heads", a.index.heads, k)
                if a.index.rope.dim > dim:
                    raise k.wrong("index_head_dim", dim, f"no less than the {a.index.rope.dim} dimensions that turn")
        case GatedRecurrence(rule=rule):
            heads = _first(k, "linear_num_value_heads", "mamba_num_heads", "mamba_n_heads", "num_heads")
            keys = _first(k, "linear_num_key_heads", "mamba_n_groups", "n_groups", "num_key_value_heads")
            if rule.heads % rule.key_heads:
                raise k.wrong(keys, rule.key_heads, f"a divisor of {k.spell(heads)}, {rule.heads}")
            if rule.values % a.output.parts:
                raise k.wrong(keys, a.output.parts, f"a divisor of the {rule.values} numbers of a row")
            _row(max(rule.values, rule.keys, rule.decays), heads, rule.heads, k)
            for tensor in a.state.tensors:
                _row(math.prod(tensor.shape), heads, rule.heads, k)
        case Attention(cache=cache):
            if a.heads % cache.kv_heads:
                name = _first(k, "num_key_value_heads", "num_global_key_value_heads")
                raise k.wrong(name, cache.kv_heads, f"a divisor of {k.spell('num_attention_heads')}, {a.heads}")
            _row(a.heads * cache.key_dim, "num_attention_heads", a.heads, k)
            if a.rope is not None and a.rope.dim > cache.key_dim:
                raise k.wrong("head_dim", cache.key_dim, f"no less than the {a.rope.dim} dimensions that turn")


def _feed_forward(f: FeedForward, k: Keys) -> None:
    match f:
        case Dense(width=width):
            _row(width, "intermediate_size", width, k)
        case Routed(router=router, shared=shared):
            _router(router, k)
            if f.latent is not None:
                _row(f.latent, "moe_latent_size", f.latent, k)
            if shared is not None:
                _row(shared.width, "n_shared_experts", shared.width, k)
        case Beside(dense=dense, routed=routed) | Shortcut(dense=dense, routed=routed):
            _row(dense.width, "intermediate_size", dense.width, k)
            _router(routed.router, k)


def _router(r: Router, k: Keys) -> None:
    chosen = _first(k, "num_experts_per_tok", "top_k_experts")
    if r.chosen > r.choices:
        raise k.wrong(chosen, r.chosen, f"no more than the {r.choices} experts there are")
    if r.groups is None:
        return
    if r.experts % r.groups.count:
        raise k.wrong("n_group", r.groups.count, f"a divisor of the {r.experts} experts")
    size = r.experts // r.groups.count
    if size < r.groups.best:
        raise k.wrong("n_group", r.groups.count, f"groups of at least {r.groups.best} of the {r.experts} experts")
    if r.chosen > r.groups.chosen * size:
        allowed = (
            f"no more than {r.groups.chosen * size}, the experts of {r.groups.chosen} groups, {k.spell('topk_group')}"
        )
        raise k.wrong(chosen, r.chosen, allowed)


def _rope(rope: Rope, context: int, k: Keys) -> None:
    """The rules' numbers may each be fine and give no table together, so the tables are made."""
    try:
        tables = [rope_table(rope, length) for length in (1, context)]
        sound = all(math.isfinite(t.factor) and all(map(math.isfinite, t.frequencies)) for t in tables)
    except (ArithmeticError, ValueError):
        sound = False
    if not sound:
        name = _first(k, "rope_parameters", "rope_scaling", "rope_theta")
        raise k.wrong(name, k.values.get(name, rope.theta), "rules that give finite rotary frequencies")


def _row(numbers: int, name: str, value: int, k: Keys) -> None:
    if numbers > WIDEST:
        raise k.wrong(name, value, f"a value that makes rows of at most {WIDEST} numbers, not of {numbers}")


def _first(k: Keys, *names: str) -> str:
    """The first of `names` that the file states, else the first."""
    return next((name for name in names if name in k.values), names[0])
