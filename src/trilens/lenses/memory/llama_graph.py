"""The size of llama.cpp's compute buffer: its graph of one prompt piece, laid out as its allocator does.

Every value gets the smallest gap that holds it, or room at the end; it is given back after its last reader, and an
element-wise operation writes over its only input (ggml-alloc.c). The order of operations is that of its models with
flash attention, as it has on a CPU and on GPUs unless told otherwise.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

from trilens.spec.model import (
    Attention,
    Beside,
    Dense,
    FeedForward,
    Full,
    GatedRecurrence,
    Glu,
    LatentAttention,
    Layer,
    ModelSpec,
    Positions,
    Routed,
    ShortConvolution,
    Shortcut,
    SideBySide,
    Streams,
)

ALIGNMENT = 32


@dataclass(frozen=True)
class Value:
    """`numbers` of `width` bytes a token. `over`: may be written over its first input. `kept`: an input of the graph,
    there from the beginning."""

    name: str
    numbers: int
    inputs: tuple[str, ...] = ()
    over: bool = False
    width: int = 4
    kept: bool = False


def compute_bytes(
    spec: ModelSpec,
    cells: Mapping[Positions, int],
    tokens: int,
    *,
    sequences: int = 1,
    expanded: bool = False,
    cast: bool = False,
) -> int:
    """Bytes of the buffer for pieces of `tokens` tokens over caches of so many cells, which may belong to so many
    sequences. `expanded`: latent attention
    that keeps whole heads; `cast`: 32-bit caches, which attention reads in 16."""
    return _laid_out(list(_graph(_Graph(spec, cells, tokens, sequences, expanded, cast))), tokens)


@dataclass(frozen=True)
class _Graph:
    spec: ModelSpec
    cells: Mapping[Positions, int]
    tokens: int
    sequences: int
    expanded: bool
    cast: bool


def _laid_out(values: Sequence[Value], tokens: int) -> int:
    """The highest byte that is ever used."""
    readers: dict[str, int] = {}
    for value in values:
        for name in value.inputs:
            readers[name] = readers.get(name, 0) + 1
    memory = _Memory()
    home: dict[str, tuple[int, int]] = {}
    for value in values:
        if value.kept:
            home[value.name] = memory.take(value.numbers * value.width * tokens)
    for value in values:
        if value.kept:
            continue
        size = value.numbers * value.width * tokens
        reused = next(
            (n for n in value.inputs if value.over and readers[n] == 1 and home.get(n, (0, -1))[1] >= _padded(size)),
            None,
        )
        if reused is None:
            home[value.name] = memory.take(size)
        else:
            start, had = home.pop(reused)
            home[value.name] = start, _padded(size)
            if had > _padded(size):
                memory.give_back(start + _padded(size), had - _padded(size))
        for name in value.inputs:
            readers[name] -= 1
            if not readers[name] and name in home:
                memory.give_back(*home.pop(name))
    return memory.most


def _padded(size: int) -> int:
    return -(-size // ALIGNMENT) * ALIGNMENT


@dataclass
class _Memory:
    """Gaps as (start, length), in order, and the end behind which all is free."""

    gaps: list[tuple[int, int]] = field(default_factory=list)
    end: int = 0
    most: int = 0

    def take(self, size: int) -> tuple[int, int]:
        size = _padded(size)
        fitting = [gap for gap in self.gaps if gap[1] >= size]
        if fitting:
            best = min(fitting, key=lambda gap: gap[1])
            self.gaps.remove(best)
            if best[1] > size:
                self.gaps.append((best[0] + size, best[1] - size))
            return best[0], size
        start, self.end = self.end, self.end + size
        self.most = max(self.most, self.end)
        return start, size

    def give_back(self, start: int, size: int) -> None:
        before = next((gap for gap in self.gaps if gap[0] + gap[1] == start), None)
        if before is not None:
            self.gaps.remove(before)
            start, size = before[0], before[1] + size
        behind = next((gap for gap in self.gaps if gap[0] == start + size), None)
        if behind is not None:
            self.gaps.remove(behind)
            size += behind[1]
        if start + size == self.end:
            self.end = start
        else:
            self.gaps.append((start, size))


# ------------------------------------------------------------------------------------------------- the graph


def _graph(g: _Graph) -> Iterator[Value]:
    spec = g.spec
    masks = {_mask(cache): cells for cache, cells in g.cells.items()}
    yield Value("ids", 1, kept=True)
    yield Value("positions", 1, kept=True)
    for name, cells in sorted(masks.items()):
        yield Value(name, cells, width=2, kept=True)
    yield Value("x0", spec.width, ("ids",))
    if spec.per_layer_table is not None:
        wide = len(spec.layers) * spec.per_layer_table.width
        yield Value("per layer table", wide, ("ids",))
        yield Value("per layer projection", wide, ("x0",))
        yield Value("per layer", wide, ("per layer projection", "per layer table"), over=True)
    if spec.streams is not None:
        yield from _streamed(spec, spec.streams, g)
        yield Value("rows", spec.width, ("merged", "positions"))
    else:
        for i, layer in enumerate(spec.layers):
            yield from _layer(f"{i} ", layer, f"x{i}", f"x{i + 1}", g)
        yield Value("rows", spec.width, (f"x{len(spec.layers)}", "positions"))
    yield Value("final norm", spec.width, ("rows",), over=True)
    yield Value("logits", spec.vocab, ("final norm",))


def _streamed(spec: ModelSpec, s: Streams, g: _Graph) -> Iterator[Value]:
    """Several residual rows a token: each layer's guesses, its result for the first, and all of them corrected."""
    d, others, every = spec.width, (s.count - 1) * spec.width, s.count * spec.width
    yield Value("repeated", others, ("x0",))
    yield Value("other streams", others, ("repeated",))
    yield Value("streams 0", every, ("other streams", "x0"))
    for i, layer in enumerate(spec.layers):
        at, x = f"{i} ", f"streams {i}"
        yield Value(at + "turned", every, (x,))
        yield Value(at + "guesses turned", every, (at + "turned",))
        yield Value(at + "turned back", every, (at + "guesses turned",))
        yield Value(at + "guesses", every, (at + "turned back", x), over=True)
        yield from _layer(at, replace(layer, per_layer_input=None), at + "guesses", at + "result", g)
        yield Value(at + "change", d, (at + "result", at + "guesses"), over=True)
        yield Value(at + "changes", every, (at + "change",))
        yield Value(at + "corrected", every, (at + "changes", at + "guesses"), over=True)
        last = at + "corrected"
        if layer.per_layer_input is not None:
            yield Value(at + "per layer gate", layer.per_layer_input.width, (last, "per layer"))
            yield Value(at + "per layer out", d, (at + "per layer gate",))
            yield Value(at + "raised", others, (last, at + "per layer out"))
            yield Value(f"streams {i + 1}", every, (last, at + "raised"))
        else:
            yield Value(f"streams {i + 1}", every, (last,), over=True)
    last = f"streams {len(spec.layers)}"
    yield Value("unspread", others, (last,))
    yield Value("merged", d, (last, "unspread"))


def _layer(at: str, layer: Layer, x: str, y: str, g: _Graph) -> Iterator[Value]:
    mixer, d = layer.mixer, g.spec.width
    normed = x if layer.mixer_in is None else at + "mixer in"
    if normed != x:
        yield Value(normed, d, (x,), over=True)
    if layer.low_rank is not None:
        yield Value(at + "low rank", d, (normed,))
    match mixer:
        case None:
            yield from _alone(at, layer, x, y, d)
            return
        case Attention():
            yield from _heads(at, mixer, normed, _mask(mixer.cache), g)
        case GatedRecurrence():
            yield from _recurred(at, mixer, normed, g)
        case SideBySide(attention=attention, recurrence=recurrence):
            yield from _heads(at + "attention ", attention, normed, _mask(attention.cache), g)
            yield from _recurred(at + "recurrence ", recurrence, normed, g)
            yield Value(at + "mixed", d, (at + "attention mixed", at + "recurrence mixed"))
        case LatentAttention() if g.expanded:
            yield from _expanded(at, mixer, normed, _mask(mixer.cache))
        case LatentAttention():
            yield from _latent(at, mixer, normed, _mask(mixer.cache))
        case ShortConvolution():
            yield from _convolved(at, mixer, normed, g)
    yield Value(at + "mixer out", d, (at + "mixed",))
    middle = at + "middle"
    if layer.feed_forward is None:
        yield Value(y, d, (at + "mixer out", x), over=True)
        return
    beside = () if layer.low_rank is None else (at + "low rank",)
    yield Value(middle, d, (at + "mixer out", x, *beside), over=True)
    into = middle if layer.feed_forward_in is None else at + "feed forward in"
    if into != middle:
        yield Value(into, d, (middle,), over=True)
    yield from _feed_forward(at, layer.feed_forward, into, middle, d)
    out = y if layer.per_layer_input is None else at + "before per layer"
    yield Value(out, d, (at + "feed forward out", middle), over=True)
    if layer.per_layer_input is not None:
        width = layer.per_layer_input.width
        yield Value(at + "per layer gate", width, (out, "per layer"))
        yield Value(at + "per layer out", d, (at + "per layer gate",))
        yield Value(y, d, (at + "per layer out", out), over=True)


def _alone(at: str, layer: Layer, x: str, y: str, d: int) -> Iterator[Value]:
    """A layer that is a feed-forward and nothing else."""
    assert layer.feed_forward is not None
    into = x if layer.feed_forward_in is None else at + "feed forward in"
    if into != x:
        yield Value(into, d, (x,), over=True)
    yield from _feed_forward(at, layer.feed_forward, into, x, d)
    yield Value(y, d, (at + "feed forward out", x), over=True)


def _mask(cache: Positions) -> str:
    return "mask" if isinstance(cache.keep, Full) else "mask of windows"


def _heads(at: str, a: Attention, x: str, mask: str, g: _Graph) -> Iterator[Value]:
    cache = a.cache
    queries = at + "q and gate" if a.gate else at + "q"
    yield Value(queries, a.heads * cache.key_dim * (2 if a.gate else 1), (x,))
    if a.gate:
        yield Value(at + "q", a.heads * cache.key_dim, (queries,))
    if a.writes:
        yield Value(at + "k", cache.kv_heads * cache.key_dim, (x,))
        if not a.value_is_key:
            yield Value(at + "v", cache.kv_heads * cache.value_dim, (x,))
        yield Value(at + "written", 0, (at + "k",) if a.value_is_key else (at + "k", at + "v"))
    copies: tuple[str, ...] = ()
    if g.cast:
        copies = (at + "keys", at + "values")
        for name, dim in zip(copies, (cache.key_dim, cache.value_dim), strict=True):
            yield Value(name, -(-g.cells[cache] * cache.kv_heads * dim // g.tokens), (mask,), width=2)
    attended = at + "attended" if a.gate else at + "mixed"
    yield Value(attended, a.heads * cache.value_dim, (at + "q", mask, *copies))
    if a.gate:
        yield Value(at + "output gate", a.heads * cache.value_dim, (queries,))
        yield Value(at + "mixed", a.heads * cache.value_dim, (attended, at + "output gate"), over=True)


def _latent(at: str, a: LatentAttention, x: str, mask: str) -> Iterator[Value]:
    yield from _latent_query(at, a, x)
    row = a.kv_rank + a.rope_dim
    yield Value(at + "latent", row, (x,))
    yield Value(at + "absorbed", a.heads * a.kv_rank, (at + "q",))
    yield Value(at + "queries", a.heads * row, (at + "absorbed", at + "q"))
    yield Value(at + "k", row, (at + "latent",))
    yield Value(at + "written", 0, (at + "k",))
    yield Value(at + "latents", a.heads * a.kv_rank, (at + "queries", mask))
    yield Value(at + "values", a.heads * a.value_dim, (at + "latents",))
    yield Value(at + "mixed", a.heads * a.value_dim, (at + "values",))


def _expanded(at: str, a: LatentAttention, x: str, mask: str) -> Iterator[Value]:
    yield from _latent_query(at, a, x)
    key = a.nope_dim + a.rope_dim
    yield Value(at + "latent", a.kv_rank + a.rope_dim, (x,))
    yield Value(at + "kv", a.heads * (a.nope_dim + a.value_dim), (at + "latent",))
    yield Value(at + "v", a.heads * a.value_dim, (at + "kv",))
    yield Value(at + "queries", a.heads * key, (at + "q",))
    yield Value(at + "k", a.heads * key, (at + "kv", at + "latent"))
    yield Value(at + "written", 0, (at + "k", at + "v"))
    yield Value(at + "mixed", a.heads * a.value_dim, (at + "queries", mask))


def _convolved(at: str, c: ShortConvolution, x: str, g: _Graph) -> Iterator[Value]:
    yield Value(at + "gates and value", 3 * c.width, (x,))
    yield Value(at + "rows", c.width, (at + "gates and value",))
    kept = -(-g.sequences * (c.taps - 1) * c.width // g.tokens)
    yield Value(at + "kept rows", kept)
    yield Value(at + "all rows", c.width + kept, (at + "rows", at + "kept rows"))
    yield Value(at + "convolved", c.width, (at + "all rows",))
    yield Value(at + "mixed", c.width, (at + "convolved", at + "gates and value"), over=True)


def _recurred(at: str, r: GatedRecurrence, x: str, g: _Graph) -> Iterator[Value]:
    """The convolved rows and the recurrence's result, with the matrices behind it, which are then stored.

    The delta rule computes its gate last. Mamba-2 has all its projections in one matrix, and reads its matrices where
    they are kept.
    """
    rule = r.rule
    rows = 2 * rule.keys + rule.values
    kept = -(-g.sequences * (r.taps - 1) * rows // g.tokens)
    matrices = -(-g.sequences * rule.values * rule.key_dim // g.tokens)
    yield Value(at + "kept rows", kept)
    yield Value(at + "rows", rows if rule.delta else rows + rule.values + rule.decays, (x,))
    yield Value(at + "all rows", rows + kept, (at + "rows", at + "kept rows"))
    yield Value(at + "rows stored", 0, (at + "all rows",))
    if rule.delta:
        yield Value(at + "kept matrices", matrices)
        yield Value(at + "convolved", rows, (at + "all rows",))
        yield Value(at + "q", rule.keys, (at + "convolved",))
        yield Value(at + "k", rule.keys, (at + "convolved",))
        yield Value(at + "decay", rule.decays, (x,))
        yield Value(at + "beta", rule.heads, (x,))
        inputs = tuple(at + name for name in ("q", "k", "convolved", "decay", "beta", "kept matrices"))
        yield Value(at + "recurred", rule.values + matrices, inputs)
        yield Value(at + "matrices stored", 0, (at + "recurred",))
        yield Value(at + "normalised", rule.values, (at + "recurred",), over=True)
        yield Value(at + "output gate", rule.values, (x,))
        yield Value(at + "mixed", rule.values, (at + "normalised", at + "output gate"), over=True)
        return
    yield Value(at + "convolved", rows, (at + "all rows",))
    yield Value(at + "step", rule.decays, (at + "rows",))
    yield Value(at + "recurred", rule.values + matrices, (at + "convolved", at + "step"))
    yield Value(at + "matrices stored", 0, (at + "recurred",))
    yield Value(at + "output gate", rule.values, (at + "rows",))
    if r.skip:
        yield Value(at + "skipped", rule.values, (at + "convolved",))
        yield Value(at + "sum", rule.values, (at + "recurred", at + "skipped"), over=True)
    yield Value(at + "mixed", rule.values, (at + "output gate", at + ("sum" if r.skip else "recurred")))


def _latent_query(at: str, a: LatentAttention, x: str) -> Iterator[Value]:
    if a.q_rank is not None:
        yield Value(at + "q low", a.q_rank, (x,))
        x = at + "q low"
    yield Value(at + "q", a.heads * (a.nope_dim + a.rope_dim), (x,))


def _feed_forward(at: str, ffn: FeedForward, x: str, middle: str, d: int) -> Iterator[Value]:
    match ffn:
        case Dense():
            yield from _dense(at, ffn, x, at + "feed forward out", d)
        case Routed():
            yield from _routed(at, ffn, x, at + "feed forward out", d)
        case Beside(dense=dense, routed=routed):
            yield from _dense(at + "dense ", dense, x, at + "dense out", d)
            yield Value(at + "routed in", d, (middle,), over=True)
            yield from _routed(at + "beside ", routed, at + "routed in", at + "routed out", d)
            yield Value(at + "feed forward out", d, (at + "dense out", at + "routed out"), over=True)
        case Shortcut(dense=dense, routed=routed):  # which llama.cpp does not have
            yield from _routed(at + "beside ", routed, x, at + "routed out", d)
            yield from _dense(at + "dense ", dense, x, at + "dense out", d)
            yield Value(at + "feed forward out", d, (at + "dense out", at + "routed out"), over=True)


def _dense(at: str, ffn: Dense, x: str, out: str, d: int) -> Iterator[Value]:
    names = ("up", "gate") if isinstance(ffn.glu, Glu) else ("up",)
    for name in names:
        yield Value(at + name, ffn.width, (x,))
    yield Value(at + "activated", ffn.width, tuple(at + name for name in reversed(names)))
    yield Value(out, d, (at + "activated",))


def _routed(at: str, ffn: Routed, x: str, out: str, d: int) -> Iterator[Value]:
    experts, chosen = ffn.router.choices, ffn.router.chosen
    yield Value(at + "scores", experts, (x,))
    yield Value(at + "probabilities", experts, (at + "scores",), over=True)
    yield Value(at + "order", experts, (at + "probabilities",))
    yield Value(at + "weights", chosen, (at + "probabilities", at + "order"))
    into, inner = x, ffn.latent or d
    if ffn.latent is not None:
        into = at + "latent"
        yield Value(into, inner, (x,))
    names = ("up", "gate") if isinstance(ffn.glu, Glu) else ("up",)
    for name in names:
        yield Value(at + name, ffn.width * chosen, (into, at + "order"))
    yield Value(at + "activated", ffn.width * chosen, tuple(at + name for name in reversed(names)))
    yield Value(at + "down", inner * chosen, (at + "activated", at + "order"))
    yield Value(at + "weighted", inner * chosen, (at + "down", at + "weights"), over=True)
    own = out if ffn.shared is None else at + "own"
    if ffn.latent is not None:
        yield Value(at + "latent out", inner, (at + "weighted",))
        yield Value(own, d, (at + "latent out",))
    else:
        yield Value(own, d, (at + "weighted",))
    if ffn.shared is not None:
        yield from _dense(at + "shared ", ffn.shared, x, at + "shared out", d)
        yield Value(out, d, (own, at + "shared out"), over=True)
