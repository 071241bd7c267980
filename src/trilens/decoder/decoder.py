"""The decoder: tokens -> logits, for every family."""

from __future__ import annotations

from collections.abc import Iterator

from trilens.decoder.attention import grouped_query_attention, latent_attention
from trilens.decoder.convolution import short_convolution
from trilens.decoder.ffn import beside_ffn, dense_ffn, routed_ffn
from trilens.decoder.ops import Ops, Part, R, T
from trilens.decoder.recurrence import gated_recurrence
from trilens.decoder.streams import corrected, merged, predicted, spread, with_others_raised
from trilens.decoder.weights import (
    AttentionWeights,
    BesideWeights,
    DecoderWeights,
    DenseWeights,
    GatedRecurrenceWeights,
    LatentAttentionWeights,
    LayerWeights,
    LinearWeights,
    LowRankBranchWeights,
    MixerWeights,
    NormWeights,
    PerLayerInputWeights,
    PredictionWeights,
    RoutedWeights,
    ShortConvolutionWeights,
    ShortcutWeights,
    SideBySideWeights,
)
from trilens.spec.model import (
    Attention,
    Beside,
    Dense,
    GatedRecurrence,
    LatentAttention,
    Layer,
    LowRankBranch,
    Mixer,
    ModelSpec,
    Norm,
    PerLayerInput,
    Prediction,
    Routed,
    ShortConvolution,
    Shortcut,
    SideBySide,
)


def decode(ops: Ops[T, R], spec: ModelSpec, w: DecoderWeights) -> T:
    """The step's tokens -> logits [rows wanted, vocab]."""
    behind = residuals(ops, spec, w)
    x = next(behind)
    for x in behind:  # noqa: B007 - only the last one is used
        pass
    return logits(ops, spec, w, x)


def residuals(ops: Ops[T, R], spec: ModelSpec, w: DecoderWeights) -> Iterator[T]:
    """[N, d_model]: the rows that enter the first layer, then those behind each layer."""
    with ops.at(Part.EMBEDDING):
        x = _scaled(ops, ops.embed(w.embedding), spec.embedding_scale)
        if w.positions is not None:
            x = ops.add(x, ops.embed_position(w.positions))
        rows = _per_layer_rows(ops, spec, w, x)
    if spec.streams is not None and w.streams is not None:
        x = spread(ops, spec.streams, w.streams, x)
    yield x
    begun: T | None = None  # by a layer before, to be added behind the next one
    for i, (layer, weights) in enumerate(zip(spec.layers, w.layers, strict=True)):
        x, begun = _layer(ops, i, spec, layer, weights, x, rows, begun)
        yield x


def logits(ops: Ops[T, R], spec: ModelSpec, w: DecoderWeights, x: T) -> T:
    """[rows wanted, vocab]: what the final norm and the head make of rows after a layer."""
    with ops.at(Part.HEAD):
        x = ops.last_rows(x)
        if spec.streams is not None and w.streams is not None:
            x = merged(ops, spec.streams, w.streams, x, spec.width)
        x = ops.norm(x, spec.final_norm, w.final_norm)
        return _head(ops, spec, w.head, x)


def predict(ops: Ops[T, R], spec: ModelSpec, block: Prediction, w: PredictionWeights) -> T:
    """Rows that left the last layer, and for each the token that followed -> logits of the token after that one.

    The step's tokens are the next ones; `given` are the rows.
    """
    with ops.at(Part.EMBEDDING):
        embedded = _scaled(ops, ops.embed(w.embedding), spec.embedding_scale)
        embedded = ops.norm(embedded, block.embedding_norm, w.embedding_norm)
        hidden = ops.norm(ops.given(spec.width), spec.final_norm, w.final_norm)
        hidden = ops.norm(hidden, block.hidden_norm, w.hidden_norm)
        x = ops.linear(ops.join(embedded, hidden, 1), w.join)
    x, _ = _layer(ops, 0, spec, block.layer, w.layer, x, None, None)
    with ops.at(Part.HEAD):
        x = ops.norm(ops.last_rows(x), block.out_norm, w.out_norm)
        return _head(ops, spec, w.head, x)


def _head(ops: Ops[T, R], spec: ModelSpec, w: LinearWeights, x: T) -> T:
    y = _scaled(ops, ops.linear(x, w), spec.head.scale)
    return y if spec.head.softcap is None else ops.softcap(y, spec.head.softcap)


def _layer(
    ops: Ops[T, R], i: int, spec: ModelSpec, layer: Layer, w: LayerWeights, x: T, rows: T | None, begun: T | None
) -> tuple[T, T | None]:
    """The rows behind a layer, and what it has begun; `begun` by the layer before."""
    streams = spec.streams
    if streams is not None and w.streams is not None:
        x, first = predicted(ops, i, streams, w.streams, x, spec.width)
        result, begun = _branches(ops, i, layer, w, first, begun)
        x = corrected(ops, i, streams, w.streams, x, first, result)
    else:
        x, begun = _branches(ops, i, layer, w, x, begun)
    with ops.at(Part.FEED_FORWARD, i):
        if layer.per_layer_input is not None and w.per_layer_input is not None and rows is not None:
            read = x if streams is None else ops.slice(x, 1, 0, spec.width)
            y = _per_layer_input(ops, i, layer.per_layer_input, w.per_layer_input, read, rows)
            x = ops.add(x, y) if streams is None else with_others_raised(ops, streams, x, y, spec.width)
        return (x if w.scalar is None else ops.mul(x, w.scalar)), begun


def _branches(ops: Ops[T, R], i: int, layer: Layer, w: LayerWeights, x: T, begun: T | None) -> tuple[T, T | None]:
    """The residual branches of a layer, added to x one after the other, or in parallel; then what the layer before has
    `begun`. And what this one begins."""
    read = begins = None  # read by a feed-forward in parallel
    if layer.mixer is not None and w.mixer is not None:
        with ops.at(Part.PROJECTIONS, i):
            y = _normed(ops, x, layer.mixer_in, w.mixer_in)
            low_rank = None
            if layer.low_rank is not None and w.low_rank is not None:
                low_rank = _low_rank_branch(ops, layer.low_rank, w.low_rank, y)
        if layer.parallel:
            read = y if layer.feed_forward_in is None else x
        y = _mixed(ops, i, layer.mixer, w.mixer, y)
        with ops.at(Part.PROJECTIONS, i):
            y = _normed(ops, y, layer.mixer_out, w.mixer_out)
            x = ops.add(x, _scaled(ops, y, layer.residual_scale))
            if layer.low_rank is not None and low_rank is not None:
                x = ops.scale(ops.add(x, low_rank), layer.low_rank.scale)
    if layer.feed_forward is not None and w.feed_forward is not None:
        with ops.at(Part.FEED_FORWARD, i):
            y = _normed(ops, x if read is None else read, layer.feed_forward_in, w.feed_forward_in)
        match layer.feed_forward, w.feed_forward:
            case Dense() as f, DenseWeights() as fw:
                y = dense_ffn(ops, i, f, fw, y)
            case Routed() as f, RoutedWeights() as fw:
                y = routed_ffn(ops, i, f, fw, y)
            case Beside() as f, BesideWeights() as fw:
                y = beside_ffn(ops, i, f, fw, y, x)
            case Shortcut() as f, ShortcutWeights() as fw:
                begins = routed_ffn(ops, i, f.routed, fw.routed, y)
                y = dense_ffn(ops, i, f.dense, fw.dense, y)
            case _:
                raise AssertionError(f"layer {i} has {type(layer.feed_forward).__name__}, and other weights for it")
        with ops.at(Part.FEED_FORWARD, i):
            y = _normed(ops, y, layer.feed_forward_out, w.feed_forward_out)
            x = ops.add(x, _scaled(ops, y, layer.residual_scale))
            begins = None if begins is None else _scaled(ops, begins, layer.residual_scale)
    if begun is not None:
        with ops.at(Part.FEED_FORWARD, i):
            x = ops.add(x, begun)
    return x, begins


def _low_rank_branch(ops: Ops[T, R], branch: LowRankBranch, w: LowRankBranchWeights, x: T) -> T:
    return ops.add(x, ops.norm(ops.linear(ops.linear(x, w.down), w.up), branch.norm, w.norm))


def _mixed(ops: Ops[T, R], i: int, mixer: Mixer, w: MixerWeights, x: T) -> T:
    match mixer, w:
        case Attention() as a, AttentionWeights() as aw:
            return grouped_query_attention(ops, i, a, aw, x)
        case LatentAttention() as a, LatentAttentionWeights() as aw:
            return latent_attention(ops, i, a, aw, x)
        case ShortConvolution() as c, ShortConvolutionWeights() as cw:
            return short_convolution(ops, i, c, cw, x)
        case GatedRecurrence() as r, GatedRecurrenceWeights() as rw:
            return gated_recurrence(ops, i, r, rw, x)
        case SideBySide() as s, SideBySideWeights() as sw:
            attended = grouped_query_attention(ops, i, s.attention, sw.attention, x)
            carried = gated_recurrence(ops, i, s.recurrence, sw.recurrence, x)
            with ops.at(Part.PROJECTIONS, i):
                return ops.add(attended, carried)
        case _:
            raise AssertionError(f"layer {i} has {type(mixer).__name__}, and {type(w).__name__} for it")


def _per_layer_rows(ops: Ops[T, R], spec: ModelSpec, w: DecoderWeights, x: T) -> T | None:
    """[N, layers * width]: each token's own row for each layer, where the model has them."""
    table, tw = spec.per_layer_table, w.per_layer_table
    if table is None or tw is None:
        return None
    projected = ops.scale(ops.linear(x, tw.projection), table.projection_scale)
    projected = ops.norm(projected, table.norm, tw.norm, len(spec.layers))
    return ops.scale(ops.add(projected, _scaled(ops, ops.embed(tw.table), table.table_scale)), table.join_scale)


def _per_layer_input(ops: Ops[T, R], i: int, p: PerLayerInput, w: PerLayerInputWeights, x: T, rows: T) -> T:
    """What the branch adds."""
    own = ops.slice(rows, 1, i * p.width, (i + 1) * p.width)
    gate = ops.linear(x if w.row is None else ops.mul(x, w.row), w.gate)
    return ops.norm(ops.linear(ops.glu(gate, own, p.glu), w.out), p.norm, w.norm)


def _normed(ops: Ops[T, R], x: T, norm: Norm | None, w: NormWeights | None) -> T:
    return x if norm is None or w is None else ops.norm(x, norm, w)


def _scaled(ops: Ops[T, R], x: T, factor: float) -> T:
    return x if factor == 1.0 else ops.scale(x, factor)
