"""Feed-forwards: dense, routed, or both side by side."""

from __future__ import annotations

from trilens.decoder.ops import Ops, Part, R, T
from trilens.decoder.weights import BesideWeights, DenseWeights, RoutedWeights
from trilens.spec.model import Beside, Curve, Dense, Glu, LearnedCurve, Routed

SHARED_GATE = Glu(Curve.SIGMOID)


def dense_ffn(ops: Ops[T, R], layer: int, ffn: Dense, w: DenseWeights, x: T) -> T:
    """Every token goes through every weight."""
    with ops.at(Part.FEED_FORWARD, layer):
        match ffn.glu:
            case Glu() as glu:
                assert w.gate is not None
                gate, up = ops.linear(x, w.gate), ops.linear(x, w.up)
                y = ops.glu(gate if ffn.threshold is None else ops.above(gate, ffn.threshold), up, glu)
            case Curve() as curve:
                y = ops.activate(ops.linear(x, w.up), curve)
            case LearnedCurve(slope):
                assert w.rise is not None and w.fall is not None
                up = ops.linear(x, w.up)
                y = ops.mul(ops.activate(up, Curve.RELU2), w.rise)
                y = ops.add(y, ops.mul(ops.activate(up, Curve.BEND), w.fall))
                y = ops.add(y, ops.scale(up, slope))
        if ffn.inner_norm is not None and w.inner_norm is not None:
            y = ops.norm(y, ffn.inner_norm, w.inner_norm)
        return ops.linear(y, w.down)


def routed_ffn(ops: Ops[T, R], layer: int, ffn: Routed, w: RoutedWeights, x: T, router_input: T | None = None) -> T:
    """Every token goes through the few experts that its router picks, and through the shared expert."""
    with ops.at(Part.ROUTER, layer):
        logits = ops.linear(x if router_input is None else router_input, w.router)
        routes = ops.route(logits, ffn.router, w.correction_bias, w.expert_scale)
    with ops.at(Part.FEED_FORWARD, layer):
        y = ops.experts(x if w.latent_in is None else ops.linear(x, w.latent_in), routes, w.experts, ffn)
        if w.latent_out is not None:
            y = ops.linear(y, w.latent_out)
        if ffn.shared is None or w.shared is None:
            return y
        shared = dense_ffn(ops, layer, ffn.shared, w.shared, x)
        if w.shared_gate is not None:
            shared = ops.glu(ops.linear(x, w.shared_gate), shared, SHARED_GATE)
        return ops.add(y, shared)


def beside_ffn(ops: Ops[T, R], layer: int, ffn: Beside, w: BesideWeights, x: T, residual: T) -> T:
    """The dense one reads the normalised `x`, the routed one and its router the residual through norms of their own."""
    dense = dense_ffn(ops, layer, ffn.dense, w.dense, x)
    with ops.at(Part.FEED_FORWARD, layer):
        dense = ops.norm(dense, ffn.dense_out, w.dense_out)
        routed_in = ops.norm(residual, ffn.routed_in, w.routed_in)
    with ops.at(Part.ROUTER, layer):
        router_input = ops.norm(residual, ffn.router_norm, w.router_norm)
    routed = routed_ffn(ops, layer, ffn.routed, w.routed, routed_in, router_input)
    with ops.at(Part.FEED_FORWARD, layer):
        return ops.add(dense, ops.norm(routed, ffn.routed_out, w.routed_out))
