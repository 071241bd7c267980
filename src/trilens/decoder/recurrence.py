"""Gated recurrence: each head has a matrix that every token changes a little, instead of keys and values of all
tokens.
"""

from __future__ import annotations

from math import inf

from trilens.decoder.ops import Ops, Part, R, T
from trilens.decoder.weights import GatedRecurrenceWeights, LinearWeights
from trilens.spec.model import Curve, Fixed, GatedRecurrence, Glu, OutputGate, SigmoidDecay, SoftplusDecay


def gated_recurrence(ops: Ops[T, R], layer: int, r: GatedRecurrence, w: GatedRecurrenceWeights, x: T) -> T:
    """[N, D] -> [N, D]."""
    with ops.at(Part.RECURRENCE, layer):
        q = _scaled(ops, _normed(ops, _mixed(ops, ops.linear(x, w.q), r.state, "q_rows", w.q_taps), r, w), r.q_scale)
        k = _scaled(ops, _normed(ops, _mixed(ops, ops.linear(x, w.k), r.state, "k_rows", w.k_taps), r, w), r.k_scale)
        v = _mixed(ops, ops.linear(x, w.v), r.state, "v_rows", w.v_taps)
        decay, step = _decay(ops, r, w, x)
        beta = step if w.beta is None else ops.activate(ops.linear(x, w.beta), Curve.SIGMOID)
        y = ops.recur(q, k, v, decay, beta, r.state, r.rule)
        if w.skip is not None:
            y = ops.add(y, ops.mul(v, w.skip))
        gate = ops.linear(x if w.gate_down is None else ops.linear(x, w.gate_down), w.gate)
        return ops.linear(_gated(ops, y, gate, r.output, w), w.out)


def _mixed(ops: Ops[T, R], x: T, state: Fixed, rows: str, taps: LinearWeights) -> T:
    """Each row with the few before it."""
    return ops.activate(ops.convolve(x, state, rows, taps), Curve.SILU)


def _normed(ops: Ops[T, R], x: T, r: GatedRecurrence, w: GatedRecurrenceWeights) -> T:
    if r.qk_norm is None or w.qk_norm is None:
        return x
    return ops.norm(x, r.qk_norm, w.qk_norm, r.rule.key_heads)


def _decay(ops: Ops[T, R], r: GatedRecurrence, w: GatedRecurrenceWeights, x: T) -> tuple[T, T]:
    """The decay's logarithm, and the step that it is made of."""
    raw = ops.linear(x if w.step_down is None else ops.linear(x, w.step_down), w.step)
    match r.decay:
        case SoftplusDecay(least, most):
            step = ops.activate(raw, Curve.SOFTPLUS)
            if least > 0 or most is not None:  # softplus is positive by itself
                step = ops.clip(step, least, inf if most is None else most)
            return ops.mul(step, w.rate), step
        case SigmoidDecay(bound):
            step = ops.activate(ops.mul(raw, w.rate), Curve.SIGMOID)
            return ops.scale(step, -bound), step


def _gated(ops: Ops[T, R], y: T, gate: T, output: OutputGate, w: GatedRecurrenceWeights) -> T:
    glu = Glu(output.curve)
    if output.first:
        y = ops.glu(gate, y, glu)
    if output.norm is not None and w.norm is not None:
        y = ops.norm(y, output.norm, w.norm, output.parts)
    if w.norm_row is not None:
        y = ops.mul(y, w.norm_row)
    return y if output.first else ops.glu(gate, y, glu)


def _scaled(ops: Ops[T, R], x: T, factor: float) -> T:
    return x if factor == 1.0 else ops.scale(x, factor)
