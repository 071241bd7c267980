"""Several residual rows a token, of which a layer computes the first. They lie side by side: [N, S * D]."""

from __future__ import annotations

from trilens.decoder.ops import Ops, Part, R, T
from trilens.decoder.weights import LayerStreamsWeights, StreamsWeights
from trilens.spec.model import Curve, Glu, Streams

EACH = Glu(Curve.IDENTITY)


def spread(ops: Ops[T, R], s: Streams, w: StreamsWeights, x: T) -> T:
    """[N, D] -> [N, S * D]: what enters the first layer."""
    with ops.at(Part.STREAMS):
        others = ops.head_linear(_repeated(ops, x, s.count - 1), w.into)
        return ops.join(x, ops.resized(others, x, s.least), 1)


def predicted(ops: Ops[T, R], layer: int, s: Streams, w: LayerStreamsWeights, x: T, width: int) -> tuple[T, T]:
    """What the router guesses that the rows will be, and the first of them, which the layer computes."""
    with ops.at(Part.STREAMS, layer):
        weights = ops.linear(_router(ops, s, w, ops.slice(x, 1, 0, width)), w.predict)
        x = ops.add(x, ops.mix(x, weights, s.count))
        return x, ops.slice(x, 1, 0, width)


def corrected(ops: Ops[T, R], layer: int, s: Streams, w: LayerStreamsWeights, x: T, first: T, result: T) -> T:
    """The guesses `x`, of which `first` is the first, by what the layer made of that."""
    with ops.at(Part.STREAMS, layer):
        change = _repeated(ops, ops.add(result, ops.scale(first, -1.0)), s.count)
        weights = ops.linear(_router(ops, s, w, result), w.correct)
        return ops.add(x, ops.add(change, ops.glu(weights, change, EACH)))


def with_others_raised(ops: Ops[T, R], s: Streams, x: T, y: T, width: int) -> T:
    """y [N, D] added to every row but the first."""
    others = ops.add(ops.slice(x, 1, width, s.count * width), _repeated(ops, y, s.count - 1))
    return ops.join(ops.slice(x, 1, 0, width), others, 1)


def merged(ops: Ops[T, R], s: Streams, w: StreamsWeights, x: T, width: int) -> T:
    """[N, S * D] -> [N, D]: what the final norm reads."""
    first = ops.slice(x, 1, 0, width)
    others = ops.head_linear(ops.slice(x, 1, width, s.count * width), w.out_of)
    others, total = ops.resized(others, first, s.least), first
    for i in range(s.count - 1):
        total = ops.add(total, ops.slice(others, 1, i * width, (i + 1) * width))
    return ops.scale(total, 1 / s.count)


def _router(ops: Ops[T, R], s: Streams, w: LayerStreamsWeights, x: T) -> T:
    """[N, D] -> [N, S]."""
    return ops.softcap(ops.linear(ops.norm(x, s.norm, w.norm), w.router), 1.0)  # tanh


def _repeated(ops: Ops[T, R], x: T, times: int) -> T:
    """[N, D] -> [N, times * D]."""
    y = x
    for _ in range(times - 1):
        y = ops.join(y, x, 1)
    return y
