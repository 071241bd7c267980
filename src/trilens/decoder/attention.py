"""Attention: grouped-query, and latent in its absorbed form. Both write what later tokens need and read it back."""

from __future__ import annotations

from trilens.decoder.ops import Ops, Part, R, T
from trilens.decoder.weights import AttentionWeights, IndexWeights, LatentAttentionWeights
from trilens.spec.model import Attention, Glu, Index, LatentAttention, QueryKeyNorm


def grouped_query_attention(ops: Ops[T, R], layer: int, a: Attention, w: AttentionWeights, x: T) -> T:
    """[N, D] -> [N, D]."""
    cache = a.cache
    with ops.at(Part.PROJECTIONS, layer):
        q = _turned(ops, ops.linear(x, w.q), a, w, heads=a.heads, queries=True)
        if a.position_scale is not None:
            q = ops.scale_by_position(q, a.position_scale)
        if w.k is not None:
            raw = ops.linear(x, w.k)
            k = _turned(ops, raw, a, w, heads=cache.kv_heads, queries=False)
            v = _clipped(ops, raw if w.v is None else ops.linear(x, w.v), a.clip)
            if a.value_norm is not None and w.v_norm is not None:
                v = ops.norm(v, a.value_norm, w.v_norm, cache.kv_heads)
            ops.write_kv(cache, k, v)
    with ops.at(Part.ATTENTION, layer):
        y = ops.attend(q, cache, a.heads, a.mask, a.scale, a.softcap, w.sinks, None)
    with ops.at(Part.PROJECTIONS, layer):
        if a.gate is not None and w.gate is not None:
            y = ops.glu(ops.linear(x, w.gate), y, Glu(a.gate.curve))
        if a.out_norm is not None and w.out_norm is not None:
            y = ops.norm(y, a.out_norm, w.out_norm)
        return ops.linear(y, w.out)


def latent_attention(ops: Ops[T, R], layer: int, a: LatentAttention, w: LatentAttentionWeights, x: T) -> T:
    """[N, D] -> [N, D]. Every head reads the same latent row; no key or value is ever expanded."""
    head = a.nope_dim + a.rope_dim
    with ops.at(Part.PROJECTIONS, layer):
        if w.q is not None:
            q = ops.linear(x, w.q)
        else:
            assert w.q_down is not None and w.q_norm is not None and w.q_up is not None
            latent_q = ops.norm(ops.linear(x, w.q_down), a.latent_norm, w.q_norm)
            q = ops.linear(latent_q, w.q_up)
            if a.index is not None and w.index is not None:
                _choose(ops, a.index, w.index, latent_q, x)
        q_latent = ops.head_linear(ops.slice(q, a.heads, 0, a.nope_dim), w.k_up)
        q_turned = ops.slice(q, a.heads, a.nope_dim, head)
        down = ops.linear(x, w.kv_down)
        latent = ops.norm(ops.slice(down, 1, 0, a.kv_rank), a.latent_norm, w.kv_norm)
        k_turned = ops.slice(down, 1, a.kv_rank, a.kv_rank + a.rope_dim)
        if a.rope is not None:
            q_turned = ops.rope(q_turned, a.heads, a.rope)
            k_turned = ops.rope(k_turned, 1, a.rope)
        q = ops.join(q_latent, q_turned, a.heads)
        if a.position_scale is not None:
            q = ops.scale_by_position(q, a.position_scale)
        ops.write_kv(a.cache, ops.join(latent, k_turned, 1), None)
    with ops.at(Part.ATTENTION, layer):
        y = ops.attend(q, a.cache, a.heads, a.mask, a.scale, None, None, a.chosen)
    with ops.at(Part.PROJECTIONS, layer):
        return ops.linear(ops.head_linear(y, w.v_up), w.out)


def _choose(ops: Ops[T, R], index: Index, w: IndexWeights, latent_q: T, x: T) -> None:
    """Keep the index's keys, and choose among all there are."""
    q = ops.rope(ops.linear(latent_q, w.q), index.heads, index.rope)
    k = ops.rope(ops.norm(ops.linear(x, w.k), index.key_norm, w.k_norm), 1, index.rope)
    ops.write_kv(index.cache, k, None)
    ops.choose(q, ops.linear(x, w.weights), index.cache, index.heads, index.chosen)


def _turned(ops: Ops[T, R], x: T, a: Attention, w: AttentionWeights, *, heads: int, queries: bool) -> T:
    """Queries or keys normalised, bounded and rotated, in the order that the spec states."""
    weights, row = (w.q_norm, w.q_norm_row) if queries else (w.k_norm, w.k_norm_row)

    def normed(x: T, n: QueryKeyNorm) -> T:
        assert weights is not None
        y = ops.norm(x, n.norm, weights, 1 if n.whole else heads)
        return y if row is None else ops.mul(y, row)

    if a.qk_norm is not None and not a.qk_norm.after_rope:
        x = normed(x, a.qk_norm)
    x = _clipped(ops, x, a.clip)
    if a.rope is not None:
        x = ops.rope(x, heads, a.rope)
    if a.qk_norm is not None and a.qk_norm.after_rope:
        x = normed(x, a.qk_norm)
    return x


def _clipped(ops: Ops[T, R], x: T, limit: float | None) -> T:
    return x if limit is None else ops.clip(x, -limit, limit)
