"""The readable reference: every operation computed at once with PyTorch, on any device, with gradients.

Letters in names: N tokens of the step, n tokens of one sequence, M keys, H query heads, K key-value heads, G = H / K,
E experts, d a head's width. A trailing block of letters gives a tensor's dimensions, as in `q_nHd`.
"""

from __future__ import annotations

import time
from collections.abc import Hashable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from copy import copy
from dataclasses import dataclass, replace
from fractions import Fraction
from functools import cached_property
from itertools import accumulate, groupby
from typing import TYPE_CHECKING

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from trilens.decoder.decoder import decode, predict, residuals
from trilens.decoder.look import AttentionMap, View, extra_caches, extra_tables, look
from trilens.decoder.ops import Part
from trilens.decoder.weights import (
    DenseWeights,
    LinearWeights,
    NormWeights,
    Parameter,
    decoder_weights,
    parameters,
    prediction_weights,
)
from trilens.errors import BadCheckpoint, RequestRefused
from trilens.executors.accountant import Span, StepCounter
from trilens.executors.adapter import Adapter, LoadedAdapter, adapter_named
from trilens.executors.executor import PAGE, Seen, StepInput, StepOutput
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
    first_visible,
)
from trilens.spec.prediction import block_alone
from trilens.spec.rope import rope_table, tables_key

if TYPE_CHECKING:
    from trilens.executors.executor import CachedSequence


@dataclass(frozen=True)
class TorchBlock:
    """Keys and values of up to `PAGE` positions, by state; None where a window had dropped them. And the fixed states
    behind them, where they were kept."""

    tokens: int
    keys: dict[int, Tensor | None]
    values: dict[int, Tensor | None]
    fixed: dict[tuple[int, str], Tensor] | None
    routed: np.ndarray

    @property
    def kept_bytes(self) -> int:
        return _bytes(t for t in (*self.keys.values(), *self.values.values()) if t is not None) + _bytes(
            (self.fixed or {}).values()
        )

    own_bytes = kept_bytes  # it is a copy

    @property
    def has_states(self) -> bool:
        return self.fixed is not None

    @property
    def route_width(self) -> int:
        return int(self.routed.shape[1])

    def written(self) -> bytes:
        raise RequestRefused("the torch executor does not keep prefixes in files; use the native one")


class TorchSequence:
    """What the layers keep of one sequence. Position `starts[p]` is the first that p's keys and values still hold.

    Tensors are never changed in place, so forks and snapshots share them.
    """

    block_passes: Sequence[Span] = ()

    def __init__(
        self,
        executor: TorchExecutor,
        request_length: int,
        adapter: str | None = None,
        caches: tuple[Positions, ...] = (),
        spec: ModelSpec | None = None,
    ) -> None:
        """`caches`: those beside the model's own. `spec`: of another model on the executor's tensors."""
        spec, device = executor.spec if spec is None else spec, executor.device
        self.executor = executor
        self.adapter = adapter
        self.request_length = request_length
        self.length = 0
        own, fixed = by_kind(spec.states)
        self.positions = own + caches
        self.starts = {p.index: 0 for p in self.positions}
        self.keys = {p.index: torch.empty(0, p.kv_heads, p.key_dim, device=device) for p in self.positions}
        self.values = {
            p.index: torch.empty(0, p.kv_heads, 0 if p.latent else p.value_dim, device=device) for p in self.positions
        }
        self.fixed = {(f.index, t.name): torch.zeros(t.shape, device=device) for f in fixed for t in f.tensors}
        self.snapshots = {0: self.fixed}
        self.routed = np.empty((0, sum(r.router.chosen for _, r in spec.routed_layers())), np.uint16)

    @property
    def held_bytes(self) -> int:
        return self.kv_bytes

    def grow(self, tokens: int) -> bool:
        return True  # tensors grow by themselves

    def block(self, number: int) -> TorchBlock:
        first, end = number * PAGE, min((number + 1) * PAGE, self.length)

        def rows(tensors: Mapping[int, Tensor]) -> dict[int, Tensor | None]:
            held = ((i, tensor, self.starts[i]) for i, tensor in tensors.items())
            return {i: None if start > first else t[first - start : end - start].clone() for i, t, start in held}

        kept = self.fixed if end == self.length else self.snapshots.get(end)
        return TorchBlock(end - first, rows(self.keys), rows(self.values), kept, self.routed[first:end])

    def adopt(self, blocks: Sequence[TorchBlock], last_tokens: int) -> int:
        if self.length % PAGE or not blocks:
            return 0
        counts = [PAGE] * (len(blocks) - 1) + [last_tokens]
        while counts and not self._complete(blocks[: len(counts)], counts):
            counts.pop()
            if counts:
                counts[-1] = PAGE
        if not counts:
            return 0
        for i in self.starts:
            for block, count in zip(blocks, counts, strict=False):
                keys, values = block.keys[i], block.values[i]
                if keys is None or values is None:  # a window that what follows does not see
                    keys, values = (
                        self.keys[i].new_zeros(PAGE, *self.keys[i].shape[1:]),
                        self.values[i].new_zeros(PAGE, *self.values[i].shape[1:]),
                    )
                self.keys[i] = torch.cat((self.keys[i], keys[:count]))
                self.values[i] = torch.cat((self.values[i], values[:count]))
        for block, count in zip(blocks, counts, strict=False):
            self.length += count
            if block.fixed is not None and count == block.tokens:
                self.fixed = block.fixed
                self.snapshot()
        self.routed = np.concatenate(
            [self.routed, *(b.routed[:count] for b, count in zip(blocks, counts, strict=False))]
        )
        self.drop_unseen()
        return sum(counts)

    def _complete(self, blocks: Sequence[TorchBlock], counts: Sequence[int]) -> bool:
        """Whether the blocks have all that a token behind so many of each needs."""
        if self.fixed and (blocks[-1].fixed is None or counts[-1] != blocks[-1].tokens):
            return False
        for p in self.positions:
            first = max(first_visible(p.keep, self.length + sum(counts)) - self.length, 0) // PAGE
            if any(b.keys[p.index] is None for b in blocks[first:]):
                return False
        return True

    def routes(self, first: int = 0) -> np.ndarray:
        return self.routed[first : self.length]

    @property
    def kv_bytes(self) -> int:
        return _bytes([*self.keys.values(), *self.values.values()])

    @property
    def fixed_bytes(self) -> int:
        return _bytes(self.fixed.values())

    def snapshot(self) -> None:
        self.snapshots = {**self.snapshots, self.length: self.fixed}

    def snapshot_at(self, length: int) -> None:
        pass  # a step's tokens go through each layer together: the states in their midst are nowhere

    def nearest(self, length: int) -> int:
        places = range(self.length, -1, -1) if not self.fixed else sorted({self.length, *self.snapshots}, reverse=True)
        return next(place for place in places if place <= length and self._holds(place))

    def fork(self, length: int, request_length: int) -> TorchSequence | None:
        """Shares its tensors with this one."""
        other = copy(self)
        other.starts, other.keys, other.values = dict(self.starts), dict(self.keys), dict(self.values)
        other.request_length = request_length
        return other if other.rewind(length) else None

    def free(self) -> None:
        self.__dict__.update(TorchSequence(self.executor, self.request_length, self.adapter).__dict__)

    def take_back(self, tokens: int) -> None:
        self.rewind(self.length - tokens)

    def rewind(self, length: int) -> bool:
        if not self._holds(length):
            return False
        for i, start in self.starts.items():
            self.keys[i] = self.keys[i][: length - start]
            self.values[i] = self.values[i][: length - start]
        if length != self.length and self.fixed:
            self.fixed = self.snapshots[length]
        self.snapshots = {place: kept for place, kept in self.snapshots.items() if place <= length}
        self.length = length
        self.routed = self.routed[:length]
        self.drop_unseen()
        return True

    def _holds(self, length: int) -> bool:
        """Whether everything that a sequence of the first `length` tokens needs is still here."""
        if not 0 <= length <= self.length:
            return False
        if self.fixed and length != self.length and length not in self.snapshots:
            return False
        return all(self.starts[p.index] <= first_visible(p.keep, length) for p in self.positions)

    def drop_unseen(self) -> None:
        """Drop what no later token can see."""
        for p in self.positions:
            held = self.length - self.starts[p.index]
            kept = p.kept(self.length)
            if held > kept:
                # A copy, not a view: a view would keep the dropped rows in memory.
                self.keys[p.index] = self.keys[p.index][held - kept :].clone()
                self.values[p.index] = self.values[p.index][held - kept :].clone()
                self.starts[p.index] += held - kept


def _bytes(tensors: Iterable[Tensor]) -> int:
    return sum(t.numel() * t.element_size() for t in tensors)


class TorchExecutor:
    """Float32 weights by parameter name; `step` for generation, `forward` for logits as a tensor with gradients."""

    name = "torch"
    steppers = 1
    predicts = False
    prediction_costs = None
    kv_element_bytes = 4
    arithmetic = "float32"
    cache_limit = cache_free = 1 << 32  # tensors grow by themselves; nothing is refused
    block_bytes = 0
    same_bits = False
    determinism = "bits depend on the batch: matrix products sum in an order that depends on their shape"

    def __init__(self, spec: ModelSpec, tensors: Mapping[str, Tensor], adapters: Iterable[Adapter] = ()) -> None:
        self.spec = spec
        self.weights = decoder_weights(spec)
        self.tensors = dict(tensors)
        for p in parameters(self.weights):
            if p.name not in self.tensors or tuple(self.tensors[p.name].shape) != p.shape:
                found = tuple(self.tensors[p.name].shape) if p.name in self.tensors else "nothing"
                raise BadCheckpoint(f"parameter {p.name} should have shape {p.shape}, found {found}")
        self.device = self.tensors[self.weights.embedding.name].device
        self.converted: Mapping[str, str] = {}
        self._tables: dict[tuple[Rope, int], tuple[Tensor, float]] = {}
        self.adapters: dict[str, LoadedAdapter] = {}
        self.low_ranks: dict[str, dict[str, TorchLowRank]] = {}
        for adapter in adapters:
            self.adapters[adapter.name] = adapter.described()
            self.low_ranks[adapter.name] = self._low_ranks(adapter)
        self._costs: dict[str | None, StepCounter] = {}

    def _low_ranks(self, adapter: Adapter) -> dict[str, TorchLowRank]:
        def held(values: np.ndarray) -> Tensor:
            return torch.from_numpy(np.array(values, np.float32)).to(self.device)

        return {n: TorchLowRank(held(low.down), held(low.up), low.scale) for n, low in adapter.matrices.items()}

    @property
    def weight_bytes(self) -> int:
        return sum(self.tensors[p.name].numel() * 4 for p in parameters(self.weights))

    def element_bytes(self, parameter: Parameter) -> Fraction:
        return Fraction(self.tensors[parameter.name].element_size())

    @cached_property
    def costs(self) -> StepCounter:
        return StepCounter(self.spec, self.element_bytes)

    def costs_with(self, adapter: str | None) -> StepCounter:
        if adapter is None:
            return self.costs
        if adapter not in self._costs:
            ranks = adapter_named(self.adapters, adapter).ranks
            self._costs[adapter] = StepCounter(self.spec, lambda p: Fraction(4), ranks)
        return self._costs[adapter]

    def adapter_bytes(self, adapter: str) -> int:
        return 4 * adapter_named(self.adapters, adapter).parameters

    def sequence(self, request_length: int, adapter: str | None = None) -> TorchSequence:
        if adapter is not None:
            adapter_named(self.adapters, adapter)
        return TorchSequence(self, request_length, adapter)

    def restored(self, tokens: int, route_width: int, written: bytes | memoryview) -> TorchBlock:
        raise RequestRefused("the torch executor does not keep prefixes in files; use the native one")

    def variant(self, request_length: int, adapter: str | None = None) -> Hashable:
        tables = tables_key(self.spec, request_length)
        return tables if adapter is None else (tables, adapter_named(self.adapters, adapter).identity)

    def step(self, batch: Sequence[StepInput], every_row: bool = False) -> np.ndarray:
        with torch.inference_mode():
            logits = self.forward(batch, every_row)
        numbers: np.ndarray = logits.cpu().numpy()
        return numbers

    def draw(self, batch: Sequence[StepInput], stepper: int | None = None, ahead: float = 0.0) -> StepOutput:
        start = time.perf_counter()
        rows = iter(self.step([replace(f, logits=f.sampler is not None) for f in batch]))
        tokens: list[list[int]] = [[] for _ in batch]
        faults = {}
        for i, feed in enumerate(batch):
            if feed.sampler is not None:
                try:
                    tokens[i].append(feed.sampler.choose(next(rows)))
                except RequestRefused as fault:
                    faults[i] = fault
        return StepOutput(tokens, faults, [time.perf_counter() - start], [1], [[(0, 0)]] * len(batch))

    def follow(self, sequence: CachedSequence) -> bool:
        return False

    def predict(self, batch: Sequence[tuple[CachedSequence, int]], stepper: int | None = None) -> list[int | None]:
        return [None] * len(batch)

    def forward(self, batch: Sequence[StepInput], every_row: bool = False) -> Tensor:
        """[rows, vocab]: a row for each feed that wants logits, or for every token of the step."""
        ops = TorchOps(self, batch, every_row)
        result = decode(ops, self.spec, self.weights)
        routed = ops.routed()
        for (sequence, tokens), fixed in zip(ops.batch, ops.fixed, strict=True):
            sequence.fixed = fixed
            sequence.length += len(tokens)
            sequence.routed = np.concatenate([sequence.routed, routed[: len(tokens)]])
            routed = routed[len(tokens) :]
            sequence.drop_unseen()
        return result

    def predictions(self, tokens: Sequence[int]) -> Tensor:
        """[tokens - 1, vocab]: the block's logits of what follows each two neighbouring tokens of a text. Row i is what
        it expects behind token i + 1, from all tokens up to that one."""
        assert self.spec.prediction is not None, "the model has no block that predicts"
        ops = TorchOps(self, [StepInput(TorchSequence(self, len(tokens)), tokens)], True)
        *_, last = residuals(ops, self.spec, self.weights)
        alone = TorchSequence(self, len(tokens), spec=block_alone(self.spec))
        ops = TorchOps(self, [StepInput(alone, tokens[1:])], True, last[:-1])
        return predict(ops, self.spec, self.spec.prediction, prediction_weights(self.spec))

    def look(self, view: View, tokens: Sequence[int], adapter: str | None = None) -> Seen:
        """See `Executor.look`."""
        if adapter is not None:
            adapter_named(self.adapters, adapter)
        sequence = TorchSequence(self, len(tokens), adapter, extra_caches(self.spec, view))
        every_row = isinstance(view, AttentionMap)
        with torch.inference_mode():
            ops = TorchOps(self, [StepInput(sequence, tokens)], every_row)
            ops.tensors = {
                **self.tensors,
                **{p.name: torch.eye(*p.shape, device=self.device) for p in extra_tables(view)},
            }
            seen = look(ops, self.spec, self.weights, view).cpu().numpy()
        return Seen(seen, [len(tokens)])

    def frequencies(self, rope: Rope, request_length: int) -> tuple[Tensor, float]:
        key = (rope, request_length)
        if key not in self._tables:
            table = rope_table(rope, request_length)
            self._tables[key] = (torch.tensor(table.frequencies, device=self.device), table.factor)
        return self._tables[key]


@dataclass(frozen=True)
class TorchLowRank:
    """`LowRank` as tensors, which may have gradients."""

    down: Tensor
    up: Tensor
    scale: float


class TorchRoutes:
    """Chosen experts [N, chosen] in order of rank, their weights [N, chosen], and every expert's score [N, E]."""

    def __init__(self, ids: Tensor, weights: Tensor, scores: Tensor) -> None:
        self.ids, self.weights, self.scores = ids, weights, scores


class TorchOps:
    """`Ops` on tensors, for one step."""

    def __init__(
        self,
        executor: TorchExecutor,
        feeds: Sequence[StepInput],
        every_row: bool = False,
        beside: Tensor | None = None,
    ) -> None:
        """`beside`: the rows that come with the tokens."""
        self.executor = executor
        self.beside = beside
        self.tensors = executor.tensors
        self.batch = [(_torch_sequence(f.sequence), f.tokens) for f in feeds]
        self.tokens = torch.tensor([t for _, tokens in self.batch for t in tokens], device=executor.device)
        self.positions = torch.cat(
            [torch.arange(s.length, s.length + len(tokens), device=executor.device) for s, tokens in self.batch]
        )
        ends = accumulate(len(f.tokens) for f in feeds)
        self.rows = None if every_row else [end - 1 for end, f in zip(ends, feeds, strict=True) if f.logits]
        row_adapters = [s.adapter for s, tokens in self.batch for _ in tokens]
        # rows that have an adapter, and what it has for each matrix: of all rows, and of those whose logits are wanted
        self.all_adapted = self.adapted = self._adapted(row_adapters)
        wanted = row_adapters if self.rows is None else [row_adapters[row] for row in self.rows]
        self.wanted_adapted = self._adapted(wanted)
        self.routes: list[TorchRoutes] = []
        self.choices: list[Tensor] = []  # of the last `choose`: [n, M] for each sequence
        self.fixed = [dict(s.fixed) for s, _ in self.batch]  # what becomes of each sequence's if the step succeeds
        self._angles: dict[Rope, tuple[Tensor, Tensor]] = {}

    @contextmanager
    def at(self, part: Part, layer: int | None = None) -> Iterator[None]:
        self.adapted = self.wanted_adapted if part is Part.HEAD else self.all_adapted
        yield

    def _weight(self, p: Parameter) -> Tensor:
        return self.tensors[p.name]

    def _bias(self, p: Parameter | None) -> Tensor | None:
        return None if p is None else self.tensors[p.name]

    # ---- in and out
    def embed(self, table: Parameter) -> Tensor:
        tokens = self.tokens
        if table.shape[0] < self.executor.spec.vocab:  # a second table, without a row for the last tokens
            tokens = tokens.where(tokens < table.shape[0], 0)
        return F.embedding(tokens, self._weight(table))

    def embed_position(self, table: Parameter) -> Tensor:
        return F.embedding(self.positions, self._weight(table))

    def given(self, width: int) -> Tensor:
        assert self.beside is not None, "no rows came with the tokens"
        return self.beside

    def last_rows(self, x: Tensor) -> Tensor:
        if self.rows is None:
            return x
        return x[self.rows]

    def _adapted(self, row_adapters: Sequence[str | None]) -> list[tuple[slice, dict[str, TorchLowRank]]]:
        found, at = [], 0
        for adapter, rows in groupby(row_adapters):
            end = at + len(list(rows))
            if adapter is not None:
                found.append((slice(at, end), self.executor.low_ranks[adapter]))
            at = end
        return found

    # ---- matrices
    def linear(self, x: Tensor, w: LinearWeights) -> Tensor:
        y = F.linear(x, self._weight(w.weight), self._bias(w.bias))
        for rows, low_ranks in self.adapted:
            if (low := low_ranks.get(w.weight.name)) is not None:
                added = F.linear(F.linear(x[rows], low.down) * low.scale, low.up)
                y = torch.cat((y[: rows.start], y[rows] + added, y[rows.stop :]))
        return y

    def head_linear(self, x: Tensor, weight: Parameter) -> Tensor:
        y = _head_linear(x, self._weight(weight))
        for rows, low_ranks in self.adapted:
            if (low := low_ranks.get(weight.name)) is not None:
                added = _head_linear(_head_linear(x[rows], low.down) * low.scale, low.up)
                y = torch.cat((y[: rows.start], y[rows] + added, y[rows.stop :]))
        return y

    # ---- rows
    def norm(self, x: Tensor, norm: Norm, w: NormWeights, groups: int = 1) -> Tensor:
        parts = _parts(x, groups)
        if norm.centred:
            parts = parts - parts.mean(-1, keepdim=True)
        parts = parts * torch.rsqrt(parts.square().mean(-1, keepdim=True) + norm.eps)
        if w.weight is not None:
            parts = parts * self._weight(w.weight)
        if w.bias is not None:
            parts = parts + self._weight(w.bias)
        return parts.flatten(-2)

    def rope(self, x: Tensor, heads: int, rope: Rope) -> Tensor:
        x_NHd = _parts(x, heads)
        turned, passed = x_NHd[..., : rope.dim], x_NHd[..., rope.dim :]
        cos, sin = self._cos_sin(rope)
        if rope.interleaved:
            a, b = turned[..., 0::2], turned[..., 1::2]
            turned = torch.stack((a * cos - b * sin, b * cos + a * sin), -1).flatten(-2)
        else:
            a, b = turned.chunk(2, -1)
            turned = torch.cat((a * cos - b * sin, b * cos + a * sin), -1)
        return torch.cat((turned, passed), -1).flatten(1)

    def _cos_sin(self, rope: Rope) -> tuple[Tensor, Tensor]:
        """[N, 1, rope.dim / 2] each, by the table of each token's own request."""
        if rope not in self._angles:
            cos, sin, at = [], [], 0
            for sequence, tokens in self.batch:
                frequencies, factor = self.executor.frequencies(rope, sequence.request_length)
                angles = self.positions[at : at + len(tokens), None, None].float() * frequencies
                cos.append(angles.cos() * factor)
                sin.append(angles.sin() * factor)
                at += len(tokens)
            self._angles[rope] = torch.cat(cos), torch.cat(sin)
        return self._angles[rope]

    def scale_by_position(self, x: Tensor, rule: PositionScale) -> Tensor:
        periods = torch.floor((self.positions.float() + rule.offset) / rule.period)
        return x * (1 + rule.beta * torch.log1p(periods))[:, None]

    def clip(self, x: Tensor, least: float, most: float) -> Tensor:
        return x.clamp(least, most)

    def slice(self, x: Tensor, groups: int, start: int, stop: int) -> Tensor:
        return _parts(x, groups)[..., start:stop].flatten(1)

    def join(self, a: Tensor, b: Tensor, groups: int) -> Tensor:
        return torch.cat((_parts(a, groups), _parts(b, groups)), -1).flatten(1)

    def add(self, a: Tensor, b: Tensor) -> Tensor:
        return a + b

    def mul(self, x: Tensor, factor: Parameter) -> Tensor:
        numbers = self._weight(factor).flatten()
        return (_parts(x, len(numbers)) * numbers[:, None]).flatten(-2)

    def scale(self, x: Tensor, factor: float) -> Tensor:
        return x * factor

    def softcap(self, x: Tensor, cap: float) -> Tensor:
        return cap * torch.tanh(x / cap)

    def glu(self, gate: Tensor, up: Tensor, glu: Glu) -> Tensor:
        if glu.most is not None:
            gate = gate.clamp(max=glu.most)
        if glu.clamp is not None:
            up = up.clamp(-glu.clamp, glu.clamp)
        if glu.up_offset:
            up = up + glu.up_offset
        curved = _curve(gate, glu.curve) if glu.slope == 1.0 else gate * torch.sigmoid(gate * glu.slope)
        return (_parts(up, curved.shape[-1]) * curved[..., None]).flatten(-2)

    def activate(self, x: Tensor, curve: Curve) -> Tensor:
        return _curve(x, curve)

    def above(self, x: Tensor, deviations: float) -> Tensor:
        centred = x - x.mean(-1, keepdim=True)
        return F.relu(centred - deviations * _size(centred))

    def resized(self, x: Tensor, like: Tensor, least: float) -> Tensor:
        parts = _parts(x, x.shape[-1] // like.shape[-1])
        return (parts * (_size(like)[..., None] / _size(parts).clamp(min=least**0.5))).flatten(-2)

    def mix(self, x: Tensor, weights: Tensor, parts: int) -> Tensor:
        return (_parts(weights, weights.shape[-1] // parts) @ _parts(x, parts)).flatten(-2)

    # ---- attention
    def write_kv(self, cache: Positions, k: Tensor, v: Tensor | None) -> None:
        at = 0
        for sequence, tokens in self.batch:
            rows = slice(at, at + len(tokens))
            k_nKd = _parts(k[rows], cache.kv_heads)
            sequence.keys[cache.index] = torch.cat((sequence.keys[cache.index], k_nKd))
            if v is not None:
                v_nKd = _parts(v[rows], cache.kv_heads)
                sequence.values[cache.index] = torch.cat((sequence.values[cache.index], v_nKd))
            at += len(tokens)

    def attend(
        self,
        q: Tensor,
        cache: Positions,
        heads: int,
        mask: Mask,
        scale: float,
        softcap: float | None,
        sinks: Parameter | None,
        chosen: int | None,
    ) -> Tensor:
        results, at = [], 0
        for number, (sequence, tokens) in enumerate(self.batch):
            n, past = len(tokens), sequence.length
            q_KGnd = q[at : at + n].reshape(n, cache.kv_heads, heads // cache.kv_heads, -1).permute(1, 2, 0, 3)
            first = first_visible(mask, past)
            keys = sequence.keys[cache.index][first - sequence.starts[cache.index] :]
            values = keys[..., : cache.value_dim] if cache.latent else sequence.values[cache.index]
            values = values[values.shape[0] - keys.shape[0] :]
            visible = _visible(mask, past, n, first, keys.shape[0], q.device)
            if chosen is not None:
                visible = visible & self.choices[number][:, first:]
            if chosen is not None and n == 1:  # one token's choice: only those positions are read
                keys, values, visible = keys[visible[0]], values[visible[0]], visible[:, visible[0]]
            k_K1dM = keys.permute(1, 2, 0)[:, None]
            scores = q_KGnd @ k_K1dM.expand(-1, q_KGnd.shape[1], -1, -1) * scale
            if softcap is not None:
                scores = softcap * torch.tanh(scores / softcap)
            scores = scores.masked_fill(~visible, float("-inf"))
            if sinks is not None:
                s_KG11 = self._weight(sinks).view(cache.kv_heads, -1, 1, 1)
                scores = torch.cat((scores, s_KG11.expand(-1, -1, n, -1)), -1)
            shares = scores.softmax(-1)[..., : keys.shape[0]]
            v_K1Md = values.transpose(0, 1)[:, None]
            y_KGnd = shares @ v_K1Md.expand(-1, q_KGnd.shape[1], -1, -1)
            results.append(y_KGnd.permute(2, 0, 1, 3).flatten(1))
            at += n
        return torch.cat(results)

    def choose(self, q: Tensor, weights: Tensor, cache: Positions, heads: int, count: int) -> None:
        self.choices, at = [], 0
        for sequence, tokens in self.batch:
            n, past = len(tokens), sequence.length
            k_Md = sequence.keys[cache.index][:, 0]
            scores_nHM = F.relu(_parts(q[at : at + n], heads) @ k_Md.T)
            scores_nM = (weights[at : at + n, None] @ scores_nHM)[:, 0]
            visible = _visible(Full(), past, n, 0, len(k_Md), q.device)
            scores_nM = scores_nM.masked_fill(~visible, float("-inf"))
            best = scores_nM.sort(dim=-1, descending=True, stable=True).indices[:, :count]  # of equal ones the lower
            self.choices.append(torch.zeros_like(visible).scatter(-1, best, True))
            at += n

    # ---- what is carried from token to token
    def convolve(self, x: Tensor, state: Fixed, rows: str, w: LinearWeights) -> Tensor:
        taps_D1W = self._weight(w.weight)[:, None]
        results, at = [], 0
        for (_, tokens), fixed in zip(self.batch, self.fixed, strict=True):
            rows_MD = torch.cat((fixed[state.index, rows], x[at : at + len(tokens)]))
            fixed[state.index, rows] = rows_MD[len(tokens) :].clone()  # a view would keep all rows in memory
            y_Dn = F.conv1d(rows_MD.T, taps_D1W, self._bias(w.bias), groups=rows_MD.shape[1])
            results.append(y_Dn.T)
            at += len(tokens)
        return torch.cat(results)

    def recur(
        self, q: Tensor, k: Tensor, v: Tensor, decay: Tensor, beta: Tensor, state: Fixed, rule: Recurrence
    ) -> Tensor:
        key_heads = [rule.key_head(head) for head in range(rule.heads)]
        q_NH1k, k_NH1k = (_parts(x, rule.key_heads)[:, key_heads, None] for x in (q, k))
        v_NH1v = _parts(v, rule.heads)[:, :, None]
        kept_NHd1, beta_NH11 = _parts(decay, rule.heads)[..., None].exp(), beta[:, :, None, None]
        rows, at = [], 0
        for (_, tokens), fixed in zip(self.batch, self.fixed, strict=True):
            s_Hkv = fixed[state.index, "matrix"]
            for n in range(at, at + len(tokens)):
                s_Hkv = s_Hkv * kept_NHd1[n]
                change_H1v = v_NH1v[n] - k_NH1k[n] @ s_Hkv if rule.delta else v_NH1v[n]
                s_Hkv = s_Hkv + k_NH1k[n].mT @ (beta_NH11[n] * change_H1v)
                rows.append((q_NH1k[n] @ s_Hkv).flatten())
            fixed[state.index, "matrix"] = s_Hkv
            at += len(tokens)
        return torch.stack(rows)

    # ---- experts
    def routed(self) -> np.ndarray:
        """[rows, columns] uint16: what `CachedSequence.routes` has of this step's rows."""
        ids = [r.ids.cpu().numpy().astype(np.uint16) for r in self.routes]
        return np.concatenate(ids, axis=1) if ids else np.empty((len(self.tokens), 0), np.uint16)

    def route(
        self, logits: Tensor, router: Router, correction_bias: Parameter | None, expert_scale: Parameter | None
    ) -> TorchRoutes:
        match router.scoring:
            case Scoring.SPARSEMIXER:
                ids, weights, scores = _sparsemixer(logits, router)
            case Scoring.TOP_SOFTMAX:
                scores = logits
                ids = _allowed(scores, router).topk(router.chosen, -1).indices
                weights = logits.gather(-1, ids).softmax(-1)
            case Scoring.SOFTMAX | Scoring.SIGMOID:
                scores = logits.softmax(-1) if router.scoring is Scoring.SOFTMAX else logits.sigmoid()
                for_choice = scores if correction_bias is None else scores + self._weight(correction_bias)
                ids = _allowed(for_choice, router).topk(router.chosen, -1).indices
                weights = scores.gather(-1, ids)
        if router.renormalise:
            weights = weights / (weights.sum(-1, keepdim=True) + router.renormalise_eps)
        if router.scale != 1.0:
            weights = weights * router.scale
        if expert_scale is not None:
            weights = weights * self._weight(expert_scale)[ids]
        routes = TorchRoutes(ids, weights, scores)
        self.routes.append(routes)
        return routes

    def experts(self, x: Tensor, routes: TorchRoutes, w: DenseWeights, ffn: Routed) -> Tensor:
        result = x.new_zeros(x.shape[0], w.down.weight.shape[1])
        for expert in sorted(set(routes.ids.flatten().tolist())):
            token, rank = (routes.ids == expert).nonzero(as_tuple=True)
            weight = routes.weights[token, rank, None]
            if expert >= ffn.router.experts:
                result = result.index_add(0, token, x[token] * weight)
                continue
            x_e = x[token] * weight if ffn.weight_on_input else x[token]
            inner = self._expert(x_e, w.up, expert)
            match ffn.glu:
                case Glu() as glu:
                    assert w.gate is not None
                    inner = self.glu(self._expert(x_e, w.gate, expert), inner, glu)
                case Curve() as curve:
                    inner = self.activate(inner, curve)
            y = self._expert(inner, w.down, expert)
            result = result.index_add(0, token, y if ffn.weight_on_input else y * weight)
        return result

    def _expert(self, x: Tensor, w: LinearWeights, expert: int) -> Tensor:
        return F.linear(x, self._weight(w.weight)[expert], None if w.bias is None else self._weight(w.bias)[expert])


def _curve(x: Tensor, curve: Curve) -> Tensor:
    match curve:
        case Curve.SILU:
            return F.silu(x)
        case Curve.GELU:
            return F.gelu(x)
        case Curve.GELU_TANH:
            return F.gelu(x, approximate="tanh")
        case Curve.IDENTITY:
            return x
        case Curve.SIGMOID:
            return x.sigmoid()
        case Curve.SOFTPLUS:
            return F.softplus(x)
        case Curve.RELU2:
            return F.relu(x).square()
        case Curve.RELU:
            return F.relu(x)
        case Curve.BEND:
            below = x.clamp(max=0)
            return torch.expm1(below) - below


def _size(x: Tensor) -> Tensor:
    """The root of each row's mean square."""
    return x.square().mean(-1, keepdim=True).sqrt()


def _head_linear(x: Tensor, w_Hoi: Tensor) -> Tensor:
    """[N, H * i] -> [N, H * o]: each head by its own matrix."""
    x_HNi = _parts(x, w_Hoi.shape[0]).transpose(0, 1)
    return (x_HNi @ w_Hoi.transpose(1, 2)).transpose(0, 1).flatten(1)


def _parts(x: Tensor, groups: int) -> Tensor:
    """[N, groups * d] -> [N, groups, d]."""
    return x.reshape(*x.shape[:-1], groups, x.shape[-1] // groups)


def _visible(mask: Mask, past: int, n: int, first: int, keys: int, device: torch.device) -> Tensor:
    """[n, M]: which of the keys from position `first` on each of the n tokens behind `past` sees."""
    q = torch.arange(past, past + n, device=device)[:, None]
    k = torch.arange(first, first + keys, device=device)[None]
    match mask:
        case Full():
            return k <= q
        case Window(size):
            return (k <= q) & (k > q - size)
        case Chunk(size):
            return (k <= q) & (k // size == q // size)


def _allowed(scores: Tensor, router: Router) -> Tensor:
    """Scores with the experts of the groups that were not chosen put out of reach."""
    if router.groups is None:
        return scores
    by_group = _parts(scores, router.groups.count)
    group_scores = by_group.topk(router.groups.best, -1).values.sum(-1)
    chosen = group_scores.topk(router.groups.chosen, -1).indices
    keep = torch.zeros_like(group_scores, dtype=torch.bool).scatter(-1, chosen, True)
    return by_group.masked_fill(~keep[..., None], float("-inf")).flatten(-2)


def _sparsemixer(logits: Tensor, router: Router) -> tuple[Tensor, Tensor, Tensor]:
    """Place by place: the best remaining expert, weighed by a softmax over those within `2 * jitter` of it."""
    ids, weights, remaining = [], [], logits
    for _ in range(router.chosen):
        best, index = remaining.max(-1, keepdim=True)
        # the distance is measured on the unmasked logits, relative to the larger of |logit| and the best
        far = (best - logits) / logits.abs().clamp(min=best) > 2 * router.jitter
        shares = remaining.masked_fill(far, float("-inf")).softmax(-1)
        ids.append(index)
        weights.append(shares.gather(-1, index))
        remaining = remaining.scatter(-1, index, float("-inf"))
    return torch.cat(ids, -1), torch.cat(weights, -1), logits


def _torch_sequence(sequence: CachedSequence) -> TorchSequence:
    assert isinstance(sequence, TorchSequence), "a sequence belongs to the executor that made it"
    return sequence
