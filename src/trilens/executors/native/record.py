"""`Ops` that computes nothing: every operation writes one instruction into a program."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from trilens.decoder.decoder import logits, predict, residuals
from trilens.decoder.look import View, extra_caches, look
from trilens.decoder.ops import Part
from trilens.decoder.weights import (
    DenseWeights,
    LinearWeights,
    NormWeights,
    Parameter,
    decoder_weights,
    prediction_weights,
)
from trilens.executors.native.program import Instruction, Op, Program
from trilens.spec.choice import without_choice
from trilens.spec.model import (
    Chunk,
    Curve,
    Fixed,
    Full,
    Glu,
    Mask,
    ModelSpec,
    Norm,
    Positions,
    PositionScale,
    Recurrence,
    Rope,
    Routed,
    Router,
    Scoring,
    Window,
    by_kind,
)
from trilens.spec.prediction import block_alone

CURVES = {
    Curve.SILU: 0,
    Curve.GELU: 1,
    Curve.GELU_TANH: 2,
    Curve.IDENTITY: 3,
    Curve.SIGMOID: 4,
    Curve.SOFTPLUS: 5,
    Curve.RELU2: 6,
    Curve.RELU: 7,
    Curve.BEND: 8,
}
SCORINGS = {Scoring.SOFTMAX: 0, Scoring.TOP_SOFTMAX: 1, Scoring.SIGMOID: 2, Scoring.SPARSEMIXER: 3}


def record(spec: ModelSpec, view: View | None = None, behind: bool = False) -> Program:
    """Run the decoder once, for logits or for what a view shows; every value gets a buffer of its own (`share_buffers`
    makes them few). `behind`: the rows behind the last layer are wanted too.

    Where attention chooses among positions, the program is that of sequences in which all are chosen.
    """
    spec = without_choice(spec)
    recorder = _Recorder(spec, () if view is None else extra_caches(spec, view))
    weights = decoder_weights(spec)
    if view is not None:
        return _program(recorder, look(recorder, spec, weights, view))
    *_, last = residuals(recorder, spec, weights)
    return _program(recorder, logits(recorder, spec, weights, last), last if behind else None)


def record_prediction(spec: ModelSpec) -> Program:
    """The same for the block that predicts, whose sequences are its own."""
    spec = without_choice(spec)
    assert spec.prediction is not None, "the model has no block that predicts"
    recorder = _Recorder(block_alone(spec))
    return _program(recorder, predict(recorder, spec, spec.prediction, prediction_weights(spec)))


def _program(recorder: _Recorder, logits: _Value, behind: _Value | None = None) -> Program:
    return Program(
        instructions=tuple(recorder.instructions),
        widths=tuple(recorder.widths),
        wanted=tuple(recorder.wanted),
        logits=logits.buffer,
        caches=recorder.caches,
        fixed=recorder.fixed,
        ropes=tuple(recorder.ropes),
        position_scales=tuple(recorder.position_scales),
        behind=-1 if behind is None else behind.buffer,
    )


@dataclass(frozen=True)
class _Value:
    buffer: int
    width: int
    wanted: bool = False


@dataclass(frozen=True)
class _Routes:
    ids: _Value
    weights: _Value


class _Recorder:
    """`Ops` on buffer numbers."""

    def __init__(self, spec: ModelSpec, caches: tuple[Positions, ...] = ()) -> None:
        """`caches`: those beside the model's own."""
        own, fixed = by_kind(spec.states)
        self.caches = own + caches
        self.fixed = tuple(tensor for state in fixed for tensor in state.tensors)
        names = [(state.index, tensor.name) for state in fixed for tensor in state.tensors]
        self._tensors = {name: place for place, name in enumerate(names)}
        self.instructions: list[Instruction] = []
        self.widths: list[int] = []
        self.wanted: list[bool] = []
        self.ropes: list[Rope] = []
        self.position_scales: list[PositionScale] = []
        first_routed = next((index for index, _ in spec.routed_layers()), 0)
        self._leading = range(first_routed)
        self._part: Part = Part.EMBEDDING
        self._layer: int | None = None

    @contextmanager
    def at(self, part: Part, layer: int | None = None) -> Iterator[None]:
        outer = self._part, self._layer
        self._part, self._layer = part, layer
        yield
        self._part, self._layer = outer

    def _new(self, width: int, wanted: bool) -> _Value:
        self.widths.append(width)
        self.wanted.append(wanted)
        return _Value(len(self.widths) - 1, width, wanted)

    def _write(
        self,
        op: Op,
        outputs: tuple[_Value, ...],
        inputs: tuple[_Value, ...],
        parameters: tuple[Parameter | None, ...] = (),
        integers: tuple[int, ...] = (),
        numbers: tuple[float, ...] = (),
    ) -> None:
        self.instructions.append(
            Instruction(
                op,
                self._part,
                self._layer,
                tuple(v.buffer for v in outputs),
                tuple(v.buffer for v in inputs),
                parameters,
                integers,
                numbers,
                width=outputs[0].width if outputs else 0,
                input_width=inputs[0].width if inputs else 0,
                wanted=any(v.wanted for v in (*outputs, *inputs)),
            )
        )

    def _rows(
        self,
        op: Op,
        width: int,
        inputs: tuple[_Value, ...],
        parameters: tuple[Parameter | None, ...] = (),
        integers: tuple[int, ...] = (),
        numbers: tuple[float, ...] = (),
    ) -> _Value:
        """One instruction whose result is a new matrix, with as many rows as its inputs."""
        y = self._new(width, any(v.wanted for v in inputs))
        self._write(op, (y,), inputs, parameters, integers, numbers)
        return y

    # ---- in and out
    def embed(self, table: Parameter) -> _Value:
        return self._rows(Op.EMBED, table.shape[1], (), (table,), (0,))

    def embed_position(self, table: Parameter) -> _Value:
        return self._rows(Op.EMBED, table.shape[1], (), (table,), (1,))

    def given(self, width: int) -> _Value:
        return self._rows(Op.GIVEN, width, ())

    def last_rows(self, x: _Value) -> _Value:
        y = self._new(x.width, wanted=True)
        self._write(Op.LAST_ROWS, (y,), (x,))
        return y

    # ---- matrices
    def linear(self, x: _Value, w: LinearWeights) -> _Value:
        # What is rounded off around a recurrence stays in its state, and the norm behind it enlarges it. What a routed
        # model's few dense layers at its beginning round off goes through all others; they are a small part of a step.
        leading = self._part is Part.FEED_FORWARD and self._layer in self._leading
        fine = int(self._part is Part.RECURRENCE or leading)
        return self._rows(Op.LINEAR, w.weight.shape[0], (x,), (w.weight, w.bias), (fine,))

    def head_linear(self, x: _Value, weight: Parameter) -> _Value:
        heads, out, _ = weight.shape
        return self._rows(Op.HEAD_LINEAR, heads * out, (x,), (weight,), (heads,))

    # ---- rows
    def norm(self, x: _Value, norm: Norm, w: NormWeights, groups: int = 1) -> _Value:
        return self._rows(Op.NORM, x.width, (x,), (w.weight, w.bias), (groups, int(norm.centred)), (norm.eps,))

    def rope(self, x: _Value, heads: int, rope: Rope) -> _Value:
        if rope not in self.ropes:
            self.ropes.append(rope)
        which = self.ropes.index(rope)
        return self._rows(Op.ROPE, x.width, (x,), (), (heads, which, rope.dim, int(rope.interleaved)))

    def scale_by_position(self, x: _Value, rule: PositionScale) -> _Value:
        if rule not in self.position_scales:
            self.position_scales.append(rule)
        return self._rows(Op.SCALE_BY_POSITION, x.width, (x,), (), (self.position_scales.index(rule),))

    def clip(self, x: _Value, least: float, most: float) -> _Value:
        return self._rows(Op.CLIP, x.width, (x,), numbers=(least, most))

    def slice(self, x: _Value, groups: int, start: int, stop: int) -> _Value:
        return self._rows(Op.SLICE, groups * (stop - start), (x,), (), (groups, start, stop))

    def join(self, a: _Value, b: _Value, groups: int) -> _Value:
        return self._rows(Op.JOIN, a.width + b.width, (a, b), (), (groups,))

    def add(self, a: _Value, b: _Value) -> _Value:
        return self._rows(Op.ADD, a.width, (a, b))

    def mul(self, x: _Value, factor: Parameter) -> _Value:
        return self._rows(Op.MUL, x.width, (x,), (factor,))

    def scale(self, x: _Value, factor: float) -> _Value:
        return self._rows(Op.SCALE, x.width, (x,), numbers=(factor,))

    def softcap(self, x: _Value, cap: float) -> _Value:
        return self._rows(Op.SOFTCAP, x.width, (x,), numbers=(cap,))

    def glu(self, gate: _Value, up: _Value, glu: Glu) -> _Value:
        if gate.width != up.width and glu != Glu(glu.curve):
            raise ValueError("a gate that is narrower than its row has a curve and nothing else")
        return self._rows(Op.GLU, up.width, (gate, up), (), (CURVES[glu.curve],), _glu_numbers(glu))

    def activate(self, x: _Value, curve: Curve) -> _Value:
        return self._rows(Op.ACTIVATE, x.width, (x,), (), (CURVES[curve],))

    def above(self, x: _Value, deviations: float) -> _Value:
        return self._rows(Op.ABOVE, x.width, (x,), numbers=(deviations,))

    def resized(self, x: _Value, like: _Value, least: float) -> _Value:
        return self._rows(Op.RESIZED, x.width, (x, like), (), (x.width // like.width,), (least,))

    def mix(self, x: _Value, weights: _Value, parts: int) -> _Value:
        width = weights.width // parts * (x.width // parts)
        return self._rows(Op.MIX, width, (x, weights), (), (parts,))

    # ---- attention
    def write_kv(self, cache: Positions, k: _Value, v: _Value | None) -> None:
        self._write(Op.WRITE_KV, (), (k,) if v is None else (k, v), (), (self.caches.index(cache),))

    def attend(
        self,
        q: _Value,
        cache: Positions,
        heads: int,
        mask: Mask,
        scale: float,
        softcap: float | None,
        sinks: Parameter | None,
        chosen: int | None,
    ) -> _Value:
        assert chosen is None, "programs choose nothing"
        return self._rows(
            Op.ATTEND,
            heads * cache.value_dim,
            (q,),
            (sinks,),
            (self.caches.index(cache), heads, *_mask_integers(mask)),
            (scale, softcap or 0.0),
        )

    def choose(self, q: _Value, weights: _Value, cache: Positions, heads: int, count: int) -> None:
        raise AssertionError("programs choose nothing")

    # ---- what is carried from token to token
    def convolve(self, x: _Value, state: Fixed, rows: str, w: LinearWeights) -> _Value:
        width, taps = w.weight.shape
        return self._rows(Op.CONVOLVE, width, (x,), (w.weight, w.bias), (self._tensors[state.index, rows], taps, -1))

    def recur(
        self, q: _Value, k: _Value, v: _Value, decay: _Value, beta: _Value, state: Fixed, rule: Recurrence
    ) -> _Value:
        sizes = rule.heads, rule.key_heads, rule.key_dim, rule.value_dim
        flags = int(rule.delta), int(rule.vector_decay), int(rule.tiled)
        place = self._tensors[state.index, "matrix"]
        return self._rows(Op.RECUR, rule.values, (q, k, v, decay, beta), (), (place, *sizes, *flags))

    # ---- experts
    def route(
        self, logits: _Value, router: Router, correction_bias: Parameter | None, expert_scale: Parameter | None
    ) -> _Routes:
        routes = _Routes(self._new(router.chosen, logits.wanted), self._new(router.chosen, logits.wanted))
        groups = (0, 0, 0) if router.groups is None else (router.groups.count, router.groups.chosen, router.groups.best)
        self._write(
            Op.ROUTE,
            (routes.ids, routes.weights),
            (logits,),
            (correction_bias, expert_scale),
            (router.chosen, SCORINGS[router.scoring], int(router.renormalise), *groups),
            (router.renormalise_eps, router.scale, router.jitter),
        )
        return routes

    def experts(self, x: _Value, routes: _Routes, w: DenseWeights, ffn: Routed) -> _Value:
        gate = w.up if w.gate is None else w.gate
        match ffn.glu:
            case Glu() as glu:
                curve, numbers = glu.curve, _glu_numbers(glu)
            case Curve() as curve:
                numbers = _glu_numbers(Glu(Curve.IDENTITY))
        return self._rows(
            Op.EXPERTS,
            w.down.weight.shape[1],
            (x, routes.ids, routes.weights),
            (gate.weight, gate.bias, w.up.weight, w.up.bias, w.down.weight, w.down.bias),
            (ffn.router.chosen, int(ffn.weight_on_input), CURVES[curve], int(w.gate is not None), ffn.router.choices),
            numbers,
        )


def _glu_numbers(glu: Glu) -> tuple[float, float, float, float]:
    bounds = [math.inf if bound is None else bound for bound in (glu.clamp, glu.most)]
    return bounds[0], glu.slope, glu.up_offset, bounds[1]


def _mask_integers(mask: Mask) -> tuple[int, int]:
    match mask:
        case Full():
            return 0, 0
        case Window(size):
            return 1, size
        case Chunk(size):
            return 2, size
