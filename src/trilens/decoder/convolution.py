"""Short convolution: a few tokens mixed column by column, between two gates."""

from __future__ import annotations

from trilens.decoder.ops import Ops, Part, R, T
from trilens.decoder.weights import ShortConvolutionWeights
from trilens.spec.model import Curve, Glu, ShortConvolution

GATE = Glu(Curve.IDENTITY)


def short_convolution(ops: Ops[T, R], layer: int, c: ShortConvolution, w: ShortConvolutionWeights, x: T) -> T:
    """[N, D] -> [N, D]."""
    with ops.at(Part.CONVOLUTION, layer):
        rows = ops.glu(ops.linear(x, w.gate_in), ops.linear(x, w.value), GATE)
        y = ops.convolve(rows, c.state, "rows", w.taps)
        return ops.linear(ops.glu(ops.linear(x, w.gate_out), y, GATE), w.out)
