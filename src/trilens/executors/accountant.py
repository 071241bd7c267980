"""What a step costs: the decoder run on shapes alone. Plain integers; no weights, no numpy, no torch.

A multiply-add counts as two operations. Counted are the matrix products (projections, experts, router, head),
attention's two products over the visible query-key pairs, a convolution's taps, and a recurrence's products with its
matrices. Norms, activations, decays, softmax and rotations are not counted; PyTorch's counter does not see them either.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from fractions import Fraction
from functools import cache as memoised
from types import MappingProxyType

from trilens.decoder.decoder import decode, predict
from trilens.decoder.look import View, look
from trilens.decoder.ops import Part
from trilens.decoder.weights import (
    DenseWeights,
    LinearWeights,
    NormWeights,
    Parameter,
    decoder_weights,
    own_parameters,
    parameters,
    prediction_weights,
)
from trilens.executors.adapter import Ranks, low_rank_parameters
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
    StateTensor,
    Window,
    by_kind,
    first_visible,
)


@dataclass(frozen=True)
class Span:
    """One sequence in a step: `past` tokens are cached already, `new` ones are computed, `logits` rows are wanted."""

    past: int
    new: int
    logits: int = 1


@dataclass(frozen=True)
class Touched:
    """A parameter that a step reads: `elements` of it (expected, where a `router` decides); `looked_up` row by row or
    not."""

    parameter: Parameter
    elements: Fraction
    looked_up: bool = False
    router: Router | None = None


@dataclass
class PartCost:
    """Costs of one part of one layer.

    `masked_flops` takes attention's whole rectangle, masked pairs included. `kv_elements_read` is one pass over the
    cache for all of a sequence's new tokens; `kv_elements_read_singly` one pass for each of them, as in decoding.
    `fixed_bytes_moved` likewise: what is read of fixed states and written back, once for all new tokens or for each.
    """

    flops: int = 0
    masked_flops: int = 0
    kv_elements_read: int = 0
    kv_elements_read_singly: int = 0
    kv_elements_written: int = 0
    fixed_bytes_moved: int = 0
    fixed_bytes_moved_singly: int = 0
    touched: list[Touched] = field(default_factory=list)


@dataclass(frozen=True)
class StepCost:
    """The cost of one step, by (layer, part); layer is None for what stands outside the layers."""

    parts: dict[tuple[int | None, Part], PartCost]

    def flops(self, part: Part | None = None, layer: int | None = None) -> int:
        return sum(cost.flops for cost in self._of(part, layer))

    def masked_flops(self, part: Part | None = None) -> int:
        return sum(cost.masked_flops for cost in self._of(part, None))

    def flops_by_part(self) -> dict[str, int]:
        """Every part by name, in the decoder's order, and `total`."""
        return {**{part.value: self.flops(part) for part in Part}, "total": self.flops()}

    def weight_bytes(self, bytes_per_element: Callable[[Parameter], Fraction], part: Part | None = None) -> int:
        """Bytes of weights read, each parameter once; a routed layer's experts as many as are expected to fire."""
        return round(sum(t.elements * bytes_per_element(t.parameter) for t in self.read(part).values()))

    def read(self, part: Part | None = None) -> dict[str, Touched]:
        """For each parameter, the operation that reads most of it."""
        read: dict[str, Touched] = {}
        for cost in self._of(part, None):
            for touch in cost.touched:
                known = read.get(touch.parameter.name)
                if known is None or known.elements < touch.elements:
                    read[touch.parameter.name] = touch
        return read

    def kv_elements_read(self, singly: bool = False) -> int:
        return sum(c.kv_elements_read_singly if singly else c.kv_elements_read for c in self.parts.values())

    def kv_elements_written(self) -> int:
        return sum(cost.kv_elements_written for cost in self.parts.values())

    def fixed_bytes_moved(self, singly: bool = False) -> int:
        return sum(c.fixed_bytes_moved_singly if singly else c.fixed_bytes_moved for c in self.parts.values())

    def _of(self, part: Part | None, layer: int | None) -> Iterator[PartCost]:
        for (at_layer, at_part), cost in self.parts.items():
            if (part is None or at_part is part) and (layer is None or at_layer == layer):
                yield cost


@dataclass(frozen=True)
class ParameterCount:
    """`total`: every distinct weight or persistent buffer of the text decoder. `active`: less the experts that do
    not fire
    and all but one row of every table that is only looked up; `active_with_embeddings` counts those tables whole."""

    total: int
    active: int
    active_with_embeddings: int

    @property
    def every_weight_fires(self) -> bool:
        """Total = active, judged with whole tables."""
        return self.total == self.active_with_embeddings


def step_cost(spec: ModelSpec, spans: Sequence[Span], ranks: Ranks = MappingProxyType({})) -> StepCost:
    """Run the decoder over the shapes of one step. `ranks`: of an adapter that all its sequences have."""
    ops = _Accountant(tuple(spans), ranks)
    decode(ops, spec, decoder_weights(spec))
    return StepCost(ops.parts)


def look_cost(spec: ModelSpec, view: View, span: Span, ranks: Ranks = MappingProxyType({})) -> StepCost:
    """The same for a pass of a look at one sequence, of which `span.logits` rows are shown."""
    ops = _Accountant((span,), ranks)
    look(ops, spec, decoder_weights(spec), view)
    return StepCost(ops.parts)


def token_cost(spec: ModelSpec, context: int = 1, batch: int = 1) -> StepCost:
    """One token for each of `batch` sequences, each seeing `context` positions, its own included."""
    return step_cost(spec, [Span(past=context - 1, new=1)] * batch)


def prediction_cost(spec: ModelSpec, spans: Sequence[Span]) -> StepCost:
    """The same for a pass of the block that predicts, which has a cache of its own."""
    ops = _Accountant(tuple(spans))
    _predict(ops, spec)
    return StepCost(ops.parts)


def _predict(ops: _Accountant, spec: ModelSpec) -> None:
    assert spec.prediction is not None, "the model has no block that predicts"
    predict(ops, spec, spec.prediction, prediction_weights(spec))


def prediction_parameters(spec: ModelSpec) -> int:
    """Parameters of all blocks that predict, with their copies of the embedding and the head."""
    block = spec.prediction
    if block is None:
        return 0
    own = sum(p.size for p in own_parameters(prediction_weights(spec)))
    return block.blocks * (own + block.own_tables * 2 * spec.vocab * spec.width)


@memoised
def count_parameters(spec: ModelSpec) -> ParameterCount:
    """Count the parameters that one token uses, and all parameters."""
    every = {p.name: p for p in parameters(decoder_weights(spec))}
    touched: dict[str, Fraction] = {}
    multiplied: set[str] = set()
    for cost in token_cost(spec).parts.values():
        for touch in cost.touched:
            name = touch.parameter.name
            touched[name] = max(touched.get(name, Fraction(0)), touch.elements)
            if not touch.looked_up:
                multiplied.add(name)
    unused = set(every) - set(touched)
    assert not unused, f"the decoder never uses {sorted(unused)}"
    total = sum(p.size for p in every.values())
    active = sum(touched.values(), Fraction(0))
    whole = sum((e if n in multiplied else Fraction(every[n].size) for n, e in touched.items()), Fraction(0))
    return ParameterCount(total, int(active), int(whole))


def kv_bytes(spec: ModelSpec, tokens: int, bytes_per_element: Fraction | int = 2) -> int:
    """Bytes of keys and values of one sequence of `tokens` tokens. Windows and chunks keep no more than they can
    still see.
    """
    positions, _ = by_kind(spec.states)
    return int(sum(p.kept(tokens) * p.width for p in positions) * Fraction(bytes_per_element))


def fixed_bytes(spec: ModelSpec) -> int:
    """Bytes of fixed states that one sequence holds, whatever its length."""
    _, fixed = by_kind(spec.states)
    return sum(state.bytes for state in fixed)


def distinct_experts(experts: int, chosen: int, tokens: float, identity_experts: int = 0) -> Fraction:
    """Expected number of different experts that fire for `tokens` tokens, if each picks `chosen` of them and of
    `identity_experts`, which have no weights and are not counted, with equal probability.
    """
    choices = experts + identity_experts
    if tokens == 1:
        return Fraction(chosen * experts, choices)
    return Fraction(experts * (1.0 - (1.0 - chosen / choices) ** tokens))


def dense_ffn_flops_per_token(d_model: int, d_ffn: int) -> int:
    """Operations of a gated feed-forward block for one token. It has three matrix products, and a multiply-add counts
    as two operations: 2 * 3 * d_model * d_ffn.
    """
    return 2 * 3 * d_model * d_ffn


class StepCounter:
    """The sums of `step_cost` for one model, quickly for any step. The terms that grow with rows, pairs and experts
    come from two runs of the decoder. A test compares the sums with the accountant's. `ranks`: as in `step_cost`.
    `prediction`: the sums of `prediction_cost` instead; `parameters` and `fixed_bytes` stay those of the model.
    """

    def __init__(
        self,
        spec: ModelSpec,
        bytes_per_element: Callable[[Parameter], Fraction],
        ranks: Ranks = MappingProxyType({}),
        *,
        prediction: bool = False,
    ) -> None:
        self.bytes_per_element, self.ranks = bytes_per_element, ranks
        self.parameters = count_parameters(spec)
        self.fixed_bytes = fixed_bytes(spec)  # that a sequence keeps, whatever its length
        ops, silent_ops = (_Accountant((Span(0, 1, logits),), ranks) for logits in (1, 0))
        for counting in (ops, silent_ops):
            if prediction:
                _predict(counting, spec)
            else:
                decode(counting, spec, decoder_weights(spec))
        one, silent = StepCost(ops.parts), StepCost(silent_ops.parts)
        pairs: dict[Mask, tuple[int, int]] = {}
        for mask, per_pair, width in ops.attended:
            flops, kept = pairs.get(mask, (0, 0))
            pairs[mask] = flops + per_pair, kept + width
        self._pairs = pairs
        self._routed = ops.routed
        self._row_flops = silent.flops() - sum(flops for flops, _ in pairs.values())
        self._logit_flops = one.flops() - silent.flops()
        self._fixed = self._head = Fraction(0)
        self._looked_up: list[tuple[Fraction, int, bool]] = []  # bytes of a row, rows, whole where logits are wanted
        self._experts: dict[tuple[int, int, int], Fraction] = {}  # bytes of all experts, by what is chosen from what
        self._weight_bytes: dict[tuple[int, int], int] = {}  # what was asked before; steps have few sizes
        read = silent.read()
        for name, touch in one.read().items():
            p, each = touch.parameter, bytes_per_element(touch.parameter)
            quiet = read.get(name)
            if quiet is not None and quiet.looked_up:
                self._looked_up.append((p.shape[1] * each, p.shape[0], not touch.looked_up))
            elif touch.router is not None:
                key = touch.router.experts, touch.router.chosen, touch.router.identity_experts
                self._experts[key] = self._experts.get(key, Fraction(0)) + p.size * each
            elif quiet is None:
                self._head += touch.elements * each
            else:
                self._fixed += touch.elements * each

    def flops(self, rows: int, logits: int, spans: Sequence[Span]) -> int:
        """Of steps with `rows` tokens and `logits` wanted rows in all, which attend as `spans` say."""
        attention = sum(
            flops * visible_pairs(mask, s.past, s.new) for mask, (flops, _) in self._pairs.items() for s in spans
        )
        return rows * self._row_flops + logits * self._logit_flops + attention

    @property
    def depends_on_routes(self) -> bool:
        """Whether some experts have no weights, so that `flops` are those of a token that is expected."""
        return any(router.identity_experts for router, _ in self._routed)

    def flops_of_routes(self, fired: Sequence[int], rows: int) -> int:
        """What has to be added to `flops` of `rows` tokens, if experts with weights `fired` so often for them in each
        routed layer."""
        routed = zip(fired, self._routed, strict=True)
        return sum((count - rows * router.firing) * flops for count, (router, flops) in routed)

    def kv_elements_read(self, span: Span, singly: bool) -> int:
        """One pass over the cache for all tokens of the span, or one for each of them."""
        if singly:
            return sum(kept * visible_pairs(mask, span.past, span.new) for mask, (_, kept) in self._pairs.items())
        end = span.past + span.new
        return sum(kept * (end - first_visible(mask, span.past)) for mask, (_, kept) in self._pairs.items())

    def fixed_bytes_moved(self, span: Span, singly: bool) -> int:
        """Of fixed states read and written back, once for all tokens of the span or once for each of them."""
        return 2 * self.fixed_bytes * (span.new if singly else min(span.new, 1))

    def weight_bytes(self, rows: int, logits: int) -> int:
        """Of one step."""
        known = self._weight_bytes.get((rows, logits))
        if known is None:
            known = self._weight_bytes[rows, logits] = self._count_weight_bytes(rows, logits)
        return known

    def _count_weight_bytes(self, rows: int, logits: int) -> int:
        total = self._fixed + (self._head if logits else 0)
        for row, most, whole in self._looked_up:
            total += row * (most if whole and logits else min(rows, most))
        for (experts, chosen, identity), size in self._experts.items():
            total += distinct_experts(experts, chosen, rows, identity) * size / experts
        return round(total)


@dataclass(frozen=True)
class _Rows:
    rows: int
    width: int


@dataclass(frozen=True)
class _Routes:
    rows: int
    router: Router


class _Accountant:
    """`Ops` on shapes."""

    def __init__(self, spans: tuple[Span, ...], ranks: Ranks = MappingProxyType({})) -> None:
        self.spans = spans
        self.ranks = ranks
        self.parts: dict[tuple[int | None, Part], PartCost] = {}
        self.attended: list[tuple[Mask, int, int]] = []  # mask, operations a pair, numbers a position keeps
        self.routed: list[tuple[Router, int]] = []  # of each routed layer, with the operations of an expert for a row
        self._cost = PartCost()

    @contextmanager
    def at(self, part: Part, layer: int | None = None) -> Iterator[None]:
        outer, self._cost = self._cost, self.parts.setdefault((layer, part), PartCost())
        yield
        self._cost = outer

    def embed(self, table: Parameter) -> _Rows:
        rows = sum(s.new for s in self.spans)
        elements = min(rows, table.shape[0]) * table.shape[1]
        self._cost.touched.append(Touched(table, Fraction(elements), looked_up=True))
        return _Rows(rows, table.shape[1])

    def embed_position(self, table: Parameter) -> _Rows:
        return self.embed(table)

    def given(self, width: int) -> _Rows:
        return _Rows(sum(s.new for s in self.spans), width)

    def last_rows(self, x: _Rows) -> _Rows:
        return _Rows(sum(s.logits for s in self.spans), x.width)

    def linear(self, x: _Rows, w: LinearWeights) -> _Rows:
        out, inner = w.weight.shape
        assert x.width == inner, f"{w.weight.name} takes {inner} columns, not {x.width}"
        if x.rows:  # no token's logits are wanted: the head is not read
            self._touch(w.weight, w.weight.size)
            if w.bias is not None:
                self._touch(w.bias, w.bias.size)
        self._flops(2 * x.rows * out * inner)
        self._adapt(x, w.weight)
        return _Rows(x.rows, out)

    def head_linear(self, x: _Rows, weight: Parameter) -> _Rows:
        heads, out, inner = weight.shape
        assert x.width == heads * inner, f"{weight.name} takes {heads * inner} columns, not {x.width}"
        if x.rows:
            self._touch(weight, weight.size)
        self._flops(2 * x.rows * heads * out * inner)
        self._adapt(x, weight)
        return _Rows(x.rows, heads * out)

    def _adapt(self, x: _Rows, matrix: Parameter) -> None:
        rank = self.ranks.get(matrix.name)
        if rank is None:
            return
        for p in low_rank_parameters(matrix, rank):
            if x.rows:
                self._touch(p, p.size)
            self._flops(2 * x.rows * p.size)

    def norm(self, x: _Rows, norm: Norm, w: NormWeights, groups: int = 1) -> _Rows:
        for p in (w.weight, w.bias):
            if p is not None:
                assert x.width == groups * p.size, f"{p.name} has {p.size} columns, a part {x.width / groups}"
                self._touch(p, p.size)
        return x

    def rope(self, x: _Rows, heads: int, rope: Rope) -> _Rows:
        assert x.width % heads == 0 and rope.dim <= x.width // heads
        return x

    def scale_by_position(self, x: _Rows, rule: PositionScale) -> _Rows:
        return x

    def clip(self, x: _Rows, least: float, most: float) -> _Rows:
        assert least <= most
        return x

    def slice(self, x: _Rows, groups: int, start: int, stop: int) -> _Rows:
        assert x.width % groups == 0 and 0 <= start < stop <= x.width // groups
        return _Rows(x.rows, groups * (stop - start))

    def join(self, a: _Rows, b: _Rows, groups: int) -> _Rows:
        return _Rows(a.rows, a.width + b.width)

    def add(self, a: _Rows, b: _Rows) -> _Rows:
        assert a == b
        return a

    def mul(self, x: _Rows, factor: Parameter) -> _Rows:
        assert x.width % factor.size == 0, f"{factor.name} has {factor.size} numbers for {x.width} columns"
        self._touch(factor, factor.size)
        return x

    def scale(self, x: _Rows, factor: float) -> _Rows:
        return x

    def softcap(self, x: _Rows, cap: float) -> _Rows:
        return x

    def glu(self, gate: _Rows, up: _Rows, glu: Glu) -> _Rows:
        assert gate.rows == up.rows and up.width % gate.width == 0
        return up

    def activate(self, x: _Rows, curve: Curve) -> _Rows:
        return x

    def above(self, x: _Rows, deviations: float) -> _Rows:
        return x

    def resized(self, x: _Rows, like: _Rows, least: float) -> _Rows:
        assert x.rows == like.rows and x.width % like.width == 0
        return x

    def mix(self, x: _Rows, weights: _Rows, parts: int) -> _Rows:
        assert x.rows == weights.rows and x.width % parts == 0 and weights.width % parts == 0
        made = weights.width // parts
        self._flops(2 * x.rows * made * x.width)
        return _Rows(x.rows, made * (x.width // parts))

    def write_kv(self, cache: Positions, k: _Rows, v: _Rows | None) -> None:
        self._cost.kv_elements_written += k.rows * cache.width

    def attend(
        self,
        q: _Rows,
        cache: Positions,
        heads: int,
        mask: Mask,
        scale: float,
        softcap: float | None,
        sinks: Parameter | None,
        chosen: int | None,
    ) -> _Rows:
        assert q.width == heads * cache.key_dim
        if sinks is not None:
            self._touch(sinks, sinks.size)
        per_pair = 2 * heads * (cache.key_dim + cache.value_dim)
        self._attend(mask, per_pair, cache.width, chosen)
        return _Rows(q.rows, heads * cache.value_dim)

    def choose(self, q: _Rows, weights: _Rows, cache: Positions, heads: int, count: int) -> None:
        assert q.width == heads * cache.key_dim and weights.width == heads and count > 0
        self._attend(Full(), 2 * heads * (cache.key_dim + 1), cache.width, None)

    def _attend(self, mask: Mask, per_pair: int, width: int, chosen: int | None) -> None:
        """`chosen` positions a token are as many pairs as a window of that size; the rectangle of several tokens is the
        mask's."""
        seen = mask if chosen is None else Window(chosen)
        self.attended.append((seen, per_pair, width))
        for span in self.spans:
            if span.new:
                pairs = visible_pairs(seen, span.past, span.new)
                self._cost.flops += per_pair * pairs
                rectangle = span.past + span.new - first_visible(seen if span.new == 1 else mask, span.past)
                self._cost.masked_flops += per_pair * span.new * rectangle
                self._cost.kv_elements_read += (span.past + span.new - first_visible(seen, span.past)) * width
                self._cost.kv_elements_read_singly += pairs * width

    def convolve(self, x: _Rows, state: Fixed, rows: str, w: LinearWeights) -> _Rows:
        width, taps = w.weight.shape
        kept = state.tensor(rows)
        assert x.width == width and kept.shape == (taps - 1, width)
        self._touch(w.weight, w.weight.size)
        if w.bias is not None:
            self._touch(w.bias, w.bias.size)
        self._flops(2 * x.rows * width * taps)
        self._keep_fixed(kept)
        return x

    def recur(self, q: _Rows, k: _Rows, v: _Rows, decay: _Rows, beta: _Rows, state: Fixed, rule: Recurrence) -> _Rows:
        assert q.width == k.width == rule.keys and v.width == rule.values
        assert decay.width == rule.decays and beta.width == rule.heads
        matrix = state.tensor("matrix")
        products = 3 if rule.delta else 2  # S^T k, k d^T and S^T q
        self._flops(2 * products * v.rows * rule.heads * rule.key_dim * rule.value_dim)
        self._keep_fixed(matrix)
        return v

    def _keep_fixed(self, tensor: StateTensor) -> None:
        """The tensor is read before a sequence's new tokens and written after them."""
        for span in self.spans:
            self._cost.fixed_bytes_moved += 2 * tensor.bytes * min(span.new, 1)
            self._cost.fixed_bytes_moved_singly += 2 * tensor.bytes * span.new

    def route(
        self, logits: _Rows, router: Router, correction_bias: Parameter | None, expert_scale: Parameter | None
    ) -> _Routes:
        assert logits.width == router.choices
        for p in (correction_bias, expert_scale):
            if p is not None:
                self._touch(p, p.size)
        return _Routes(logits.rows, router)

    def experts(self, x: _Rows, routes: _Routes, w: DenseWeights, ffn: Routed) -> _Rows:
        router = routes.router
        fired = distinct_experts(router.experts, router.chosen, x.rows, router.identity_experts)
        own = 0
        width, expected = x.width, (w.up.weight.shape[2], w.down.weight.shape[1])
        assert (width, width) == expected, (
            f"{w.up.weight.name} maps {expected[0]} columns to {expected[1]}, not {width}"
        )
        for linear in (w.gate, w.up, w.down):
            if linear is None:
                continue
            _, out, inner = linear.weight.shape
            for p in (linear.weight, linear.bias):
                if p is not None:
                    self._cost.touched.append(Touched(p, fired * p.size / router.experts, router=router))
            own += 2 * out * inner
        self._flops(x.rows * router.firing * own)
        self.routed.append((router, own))
        return x

    def _flops(self, flops: int) -> None:
        self._cost.flops += flops
        self._cost.masked_flops += flops

    def _touch(self, parameter: Parameter, elements: int | Fraction) -> None:
        self._cost.touched.append(Touched(parameter, Fraction(elements)))


def visible_pairs(mask: Mask, past: int, new: int) -> int:
    """Query-key pairs of `new` tokens after `past` cached ones, including their own positions."""
    return _pairs_up_to(mask, past + new) - _pairs_up_to(mask, past)


def _pairs_up_to(mask: Mask, tokens: int) -> int:
    """Pairs that the first `tokens` tokens of a sequence see."""

    def triangle(n: int) -> int:
        return n * (n + 1) // 2

    match mask:
        case Full():
            return triangle(tokens)
        case Window(size):
            return triangle(min(tokens, size)) + max(0, tokens - size) * size
        case Chunk(size):
            return tokens // size * triangle(size) + triangle(tokens % size)
