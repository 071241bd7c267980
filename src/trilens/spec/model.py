"""A language model's wiring as data: widths, and a tuple of layers written out one by one.

A layer is a mixer (attention, a short convolution, a gated recurrence) and a feed-forward; some families have layers
of one of them alone. Each is a sum type: a dense layer *has no* router, latent attention *has no* key-value heads. So
is what a mixer keeps of a sequence (`State`). Nothing here names a family; a family is a choice of these parts
(`huggingface.py`, `gguf.py`).

Letters in the shapes below: N tokens of the step, D model width, H query heads, K key-value heads, E experts.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from enum import StrEnum
from math import prod
from typing import Literal, assert_never

# ---------------------------------------------------------------------------------------------- positions


@dataclass(frozen=True)
class LinearScaling:
    """Every frequency divided by `factor`."""

    factor: float


@dataclass(frozen=True)
class Llama3Scaling:
    """Low frequencies divided by `factor`, high ones kept, a ramp between (Llama 3.1's technical report, its rope
    code)."""

    factor: float
    low_frequency: float
    high_frequency: float
    original_context: int


@dataclass(frozen=True)
class YarnScaling:
    """YaRN, arXiv 2309.00071: interpolation and extrapolation mixed by wavelength between `beta_slow` and
    `beta_fast`."""

    factor: float
    original_context: int
    beta_fast: float = 32.0
    beta_slow: float = 1.0
    truncate: bool = True


@dataclass(frozen=True)
class LongRopeScaling:
    """LongRoPE, arXiv 2402.13753: one divisor per frequency; `long` ones when the whole request exceeds
    `original_context`."""

    short: tuple[float, ...]
    long: tuple[float, ...]
    original_context: int


@dataclass(frozen=True)
class DynamicScaling:
    """NTK-aware: theta grows with the length of the request once it exceeds `original_context`."""

    factor: float
    original_context: int


@dataclass(frozen=True)
class ProportionalScaling:
    """Only the first `rotated` of all frequencies turn; the rest are zero, so their dimensions pass unchanged."""

    rotated: int
    factor: float = 1.0


RopeScaling = LinearScaling | Llama3Scaling | YarnScaling | LongRopeScaling | DynamicScaling | ProportionalScaling


@dataclass(frozen=True)
class Rope:
    """Rotary positions on the first `dim` dimensions of a head.

    `interleaved` pairs (0, 1), (2, 3), ...; otherwise (0, dim/2), (1, dim/2 + 1), ... `attention_factor` multiplies
    cos and sin; `long_attention_factor`, where stated, replaces it for requests beyond the original context.
    """

    dim: int
    theta: float
    scaling: RopeScaling | None = None
    interleaved: bool = False
    attention_factor: float = 1.0
    long_attention_factor: float | None = None


@dataclass(frozen=True)
class PositionScale:
    """Queries multiplied by 1 + beta * ln(1 + floor((position + offset) / period)) (arXiv 2501.19399)."""

    beta: float
    period: float
    offset: int = 0


# ---------------------------------------------------------------------------------------------- attention


@dataclass(frozen=True)
class Full:
    """Every earlier position is visible."""


@dataclass(frozen=True)
class Window:
    """The last `size` positions, the token's own included, are visible."""

    size: int


@dataclass(frozen=True)
class Chunk:
    """The positions of the token's own block of `size` up to itself are visible."""

    size: int


Mask = Full | Window | Chunk


def first_visible(mask: Mask, position: int) -> int:
    """The lowest position that a token at `position` attends to."""
    match mask:
        case Full():
            return 0
        case Window(size):
            return max(0, position - size + 1)
        case Chunk(size):
            return position - position % size


# ------------------------------------------------------------------------------------------------- state


@dataclass(frozen=True)
class Positions:
    """A state that grows with every token: K keys of `key_dim` and K values of `value_dim`, kept by one or more layers.

    In a `latent` cache there is one row a token and the value is the first `value_dim` numbers of the key, stored once.
    `keep` is the mask of the layers that read it: what no later token can see is dropped.
    """

    index: int
    kv_heads: int
    key_dim: int
    value_dim: int
    keep: Mask
    latent: bool = False

    @property
    def width(self) -> int:
        """Numbers stored per token."""
        return self.key_dim if self.latent else self.kv_heads * (self.key_dim + self.value_dim)

    def kept(self, tokens: int) -> int:
        """Positions held once `tokens` tokens have been processed."""
        return tokens - first_visible(self.keep, tokens - 1) if tokens else 0


@dataclass(frozen=True)
class StateTensor:
    """One tensor of a fixed state, by name.

    Rows [W - 1, width] are what a convolution over W tokens still needs. `matrix` [heads, key_dim, value_dim] is what a
    recurrence carries from token to token.
    """

    name: str
    shape: tuple[int, ...]

    @property
    def bytes(self) -> int:
        return 4 * prod(self.shape)


@dataclass(frozen=True)
class Fixed:
    """A state of the same size whatever the sequence's length: tensors of fixed shape, all zero before the first token.

    Each token overwrites it, so an earlier one is only there where somebody kept a copy. It is held in 32-bit floats
    whatever the type of keys and values, since the rounding of one token would stay in it for all later ones.
    """

    index: int
    tensors: tuple[StateTensor, ...]

    def tensor(self, name: str) -> StateTensor:
        return next(t for t in self.tensors if t.name == name)

    @property
    def bytes(self) -> int:
        """Of one sequence."""
        return sum(t.bytes for t in self.tensors)


State = Positions | Fixed


def by_kind(states: Iterable[State]) -> tuple[tuple[Positions, ...], tuple[Fixed, ...]]:
    """The states that grow with every token, and the fixed ones."""
    positions: list[Positions] = []
    fixed: list[Fixed] = []
    for state in states:
        match state:
            case Positions():
                positions.append(state)
            case Fixed():
                fixed.append(state)
            case _:
                assert_never(state)
    return tuple(positions), tuple(fixed)


# ------------------------------------------------------------------------------------------------- mixers


class Curve(StrEnum):
    """What a gate, or a row by itself, passes through."""

    SILU = "silu"
    GELU = "gelu"
    GELU_TANH = "gelu_tanh"
    IDENTITY = "identity"  # the gate as it is
    SIGMOID = "sigmoid"
    SOFTPLUS = "softplus"  # log(1 + exp(x))
    RELU2 = "relu2"  # max(x, 0) squared
    RELU = "relu"
    BEND = "bend"  # e^x - 1 - x below zero, 0 above


@dataclass(frozen=True)
class Norm:
    """Root-mean-square norm, or layer norm when `centred`; with a weight and a bias or without."""

    eps: float
    centred: bool = False
    weight: bool = True
    bias: bool = False


@dataclass(frozen=True)
class QueryKeyNorm:
    """A norm on queries and keys: over each head, or over all heads together (`whole`); after the rotation or
    before. `row_weight`: each head has a weight of its own, in place of the norm's."""

    norm: Norm
    whole: bool = False
    after_rope: bool = False
    row_weight: bool = False

    def __post_init__(self) -> None:
        if self.row_weight and (self.norm.weight or self.norm.bias or self.whole):
            raise ValueError("a weight for each head stands in place of the norm's own")
        if self.after_rope and not self.norm.weight and not self.norm.centred:
            raise ValueError("a rotation keeps a row's length: without a weight, write the norm before it")


@dataclass(frozen=True)
class AttentionGate:
    """The result of attention times curve(a matrix times the layer's input): a number a column, or one a head."""

    curve: Curve = Curve.SIGMOID
    per_head: bool = False
    bias: bool = False


@dataclass(frozen=True)
class Attention:
    """Grouped-query attention: H query heads over K key-value heads.

    `writes` is false for a layer that reads the cache another layer wrote and has no key or value of its own;
    `value_is_key` takes the unrotated, unnormalised key as value (no value matrix). `clip` bounds q, k and v. `gate`
    and then `out_norm` stand before the output matrix.
    """

    heads: int
    cache: Positions
    scale: float
    mask: Mask
    rope: Rope | None
    qkv_bias: bool = False
    out_bias: bool = False
    qk_norm: QueryKeyNorm | None = None
    value_norm: Norm | None = None
    value_is_key: bool = False
    writes: bool = True
    softcap: float | None = None
    sinks: bool = False
    clip: float | None = None
    position_scale: PositionScale | None = None
    gate: AttentionGate | None = None
    out_norm: Norm | None = None

    def __post_init__(self) -> None:
        if not self.writes and (self.value_is_key or self.value_norm is not None):
            raise ValueError("a layer that reads another's cache has no values of its own")


@dataclass(frozen=True)
class Index:
    """Which earlier positions attention sees: the `chosen` with the best scores, of equal ones the lower.

    The score of position s for a token t is the sum over heads of w_h(t) * relu(q_h(t) . k(s)). q comes from the latent
    queries; k, one row a token, goes through a norm and is kept. Both are turned by `rope`; w is a matrix times x.
    """

    heads: int
    cache: Positions
    chosen: int
    rope: Rope
    key_norm: Norm

    def __post_init__(self) -> None:
        cache = self.cache
        if not cache.latent or cache.kv_heads != 1 or cache.key_dim != cache.value_dim or cache.keep != Full():
            raise ValueError("an index keeps one row a token, of all tokens")


@dataclass(frozen=True)
class LatentAttention:
    """Multi-head latent attention (arXiv 2405.04434), always in the absorbed form.

    A token keeps a normalised latent of `kv_rank` and one rotated key of `rope_dim`, shared by all heads. Queries are
    carried into the latent space by the key half of the up-projection, results out of it by the value half.

    `chosen`: only so many positions are seen, those that `index` chooses, or where it is None the ones that the last
    layer with an index chose.
    """

    heads: int
    cache: Positions
    scale: float
    mask: Mask
    rope: Rope | None
    nope_dim: int
    rope_dim: int
    value_dim: int
    kv_rank: int
    latent_norm: Norm
    q_rank: int | None = None
    bias: bool = False
    position_scale: PositionScale | None = None
    chosen: int | None = None
    index: Index | None = None

    def __post_init__(self) -> None:
        if self.index is not None and (self.q_rank is None or self.index.chosen != self.chosen):
            raise ValueError("an index chooses for its own layer, by latent queries")


@dataclass(frozen=True)
class ShortConvolution:
    """A causal convolution of each column over the last few tokens, between two gates (arXiv 2511.23404).

    gate_out(x) * convolution(gate_in(x) * value(x)), then a matrix D to D. Its width and its taps are those of the rows
    that it keeps.
    """

    state: Fixed
    bias: bool = False

    @property
    def width(self) -> int:
        return self.state.tensor("rows").shape[1]

    @property
    def taps(self) -> int:
        """Tokens that one result is made of, its own included."""
        return self.state.tensor("rows").shape[0] + 1


@dataclass(frozen=True)
class Recurrence:
    """A linear recurrence over one matrix S [key_dim, value_dim] a head, held in 32-bit floats.

    For each token in turn, with decay and beta as the layer computes them:

        S <- exp(decay) * S
        d  = beta * (v - S^T k)     with the delta rule (arXiv 2412.06464); beta * v without (arXiv 2405.21060)
        S <- S + k d^T
        y  = S^T q

    `heads` are those of v; each of the `key_heads` serves heads / key_heads of them: neighbours, or where heads are
    `tiled` every key_heads-th. `vector_decay`: a decay for each of the key_dim rows of S, instead of one a head.
    """

    heads: int
    key_heads: int
    key_dim: int
    value_dim: int
    delta: bool
    vector_decay: bool = False
    tiled: bool = False

    def key_head(self, head: int) -> int:
        """The head of q and k that a head of v works with."""
        return head % self.key_heads if self.tiled else head // (self.heads // self.key_heads)

    @property
    def keys(self) -> int:
        """Numbers in a token's keys, and in its queries."""
        return self.key_heads * self.key_dim

    @property
    def values(self) -> int:
        return self.heads * self.value_dim

    @property
    def decays(self) -> int:
        return self.heads * (self.key_dim if self.vector_decay else 1)


@dataclass(frozen=True)
class SoftplusDecay:
    """decay = rate * step, where step = softplus(W x + bias), no less than `least` and no more than `most`; `rate` is
    learned, negative, one number a head."""

    least: float = 0.0
    most: float | None = None


@dataclass(frozen=True)
class SigmoidDecay:
    """decay = -bound * sigmoid(rate * (W x + bias)): never below -bound. `rate` is learned, one number a head."""

    bound: float


Decay = SoftplusDecay | SigmoidDecay


@dataclass(frozen=True)
class OutputGate:
    """curve(gate) * norm(y), or norm(curve(gate) * y) where the gate comes `first`; without a norm the gate alone.

    The norm goes over each of `parts` equal parts of the row. Its own weight is one part wide; `row_weight` is a weight
    for the whole row.
    """

    curve: Curve
    norm: Norm | None
    parts: int = 1
    first: bool = False
    row_weight: bool = False

    def __post_init__(self) -> None:
        if self.norm is None and (self.parts != 1 or self.first):
            raise ValueError("the parts of a norm and its place mean nothing without one")
        if self.row_weight and (self.norm is None or self.norm.weight):
            raise ValueError("a weight for the whole row stands in place of the norm's own")


@dataclass(frozen=True)
class GatedRecurrence:
    """q, k and v, each through a causal convolution of its own and silu, into a recurrence; its result is gated.

    `qk_norm` goes over each head of q and k, and `q_scale` and `k_scale` multiply them. With the delta rule beta is
    sigmoid(W x), without it the step of the decay. `rank`: the matrices of decay and gate are products of two, with so
    many numbers between them. `skip`: v times a learned number a head is added to the result.
    """

    state: Fixed
    rule: Recurrence
    decay: Decay
    output: OutputGate
    qk_norm: Norm | None = None
    q_scale: float = 1.0
    k_scale: float = 1.0
    taps_bias: bool = False
    rank: int | None = None
    skip: bool = False

    def __post_init__(self) -> None:
        if not self.rule.delta and not isinstance(self.decay, SoftplusDecay):
            raise ValueError("without the delta rule beta is the step of a softplus decay")

    @property
    def taps(self) -> int:
        """Tokens that one row of q, k or v is made of, its own included."""
        return self.state.tensor("q_rows").shape[0] + 1


def recurrent_state(index: int, rule: Recurrence, taps: int) -> Fixed:
    """What a `GatedRecurrence` keeps."""
    rows = {"q_rows": rule.keys, "k_rows": rule.keys, "v_rows": rule.values}
    matrix = StateTensor("matrix", (rule.heads, rule.key_dim, rule.value_dim))
    return Fixed(index, (*(StateTensor(name, (taps - 1, width)) for name, width in rows.items()), matrix))


@dataclass(frozen=True)
class SideBySide:
    """Attention and a recurrence that read the same rows; their results are added."""

    attention: Attention
    recurrence: GatedRecurrence


SingleMixer = Attention | LatentAttention | ShortConvolution | GatedRecurrence
Mixer = SingleMixer | SideBySide


# ------------------------------------------------------------------------------------------- feed-forward


@dataclass(frozen=True)
class Glu:
    """curve(gate) * (up + up_offset); `clamp` bounds gate above and up on both sides; `gate_clamp` is the gate's
    bound where it differs from `clamp`; `slope` is silu's x * sigmoid(slope x)."""

    curve: Curve
    clamp: float | None = None
    slope: float = 1.0
    up_offset: float = 0.0
    gate_clamp: float | None = None

    @property
    def most(self) -> float | None:
        """The gate's bound."""
        return self.clamp if self.gate_clamp is None else self.gate_clamp

    def __post_init__(self) -> None:
        if self.slope != 1.0 and self.curve is not Curve.SILU:
            raise ValueError(f"a slope belongs to silu, not to {self.curve}")


@dataclass(frozen=True)
class LearnedCurve:
    """rise * relu(x)^2 + fall * bend(x) + slope * x (arXiv 2411.13010): `rise` and `fall` are learned numbers."""

    slope: float


@dataclass(frozen=True)
class Dense:
    """Every token through every weight: gate, up and down, each D by `width`.

    Where `glu` is a curve there is no gate: down(curve(up(x))). `inner_norm` stands before down. `threshold`: of the
    gate's row only what lies above its mean plus so many standard deviations passes, less that.
    """

    width: int
    glu: Glu | Curve | LearnedCurve
    bias: bool = False
    inner_norm: Norm | None = None
    threshold: float | None = None

    def __post_init__(self) -> None:
        if self.threshold is not None and not isinstance(self.glu, Glu):
            raise ValueError("a threshold belongs to a gate")


class Scoring(StrEnum):
    """How a router's logits become weights."""

    SOFTMAX = "softmax"  # over all experts, then the top are taken
    TOP_SOFTMAX = "top_softmax"  # the top are taken, then a softmax over them
    SIGMOID = "sigmoid"  # each expert by itself
    SPARSEMIXER = "sparsemixer"  # one softmax per place, over what is near the maximum (arXiv 2310.00811)


@dataclass(frozen=True)
class ExpertGroups:
    """Only experts of the `chosen` best of `count` groups may fire; a group's score is the sum of its `best` best."""

    count: int
    chosen: int
    best: int


@dataclass(frozen=True)
class Router:
    """Which `chosen` of `experts` fire for a token, and with what weight.

    `correction_bias` is added for the choice only, never to the weight. `renormalise` divides the chosen weights by
    their sum (plus `renormalise_eps`); then `scale` multiplies them, and `expert_scale` is one learned factor per
    expert. `jitter` is sparsemixer's distance from the maximum. Behind the experts stand `identity_experts`, which have
    no weights and hand their row on as it is (arXiv 2410.07348).
    """

    experts: int
    chosen: int
    scoring: Scoring
    renormalise: bool = False
    renormalise_eps: float = 0.0
    scale: float = 1.0
    groups: ExpertGroups | None = None
    bias: bool = False
    correction_bias: bool = False
    expert_scale: bool = False
    jitter: float = 0.0
    identity_experts: int = 0

    @property
    def choices(self) -> int:
        """What the chosen ones are chosen from."""
        return self.experts + self.identity_experts

    @property
    def firing(self) -> int:
        """Experts with weights among the chosen, if all choices are equally likely; rounded up to a whole number."""
        return -(-self.chosen * self.experts // self.choices)

    def __post_init__(self) -> None:
        if self.identity_experts and self.groups is not None:
            raise ValueError("experts without weights are in no group")
        if self.renormalise and self.scoring is Scoring.TOP_SOFTMAX:
            raise ValueError("weights that are a softmax over the chosen ones sum to one already")
        if self.renormalise_eps and not self.renormalise:
            raise ValueError("renormalise_eps means nothing without renormalise")
        if self.jitter and self.scoring is not Scoring.SPARSEMIXER:
            raise ValueError("jitter belongs to sparsemixer")


@dataclass(frozen=True)
class Routed:
    """Every token through the few experts its router picks, and through the shared one where there is one.

    `weight_on_input` multiplies an expert's input instead of its output (the same only without a bias and a curve).
    `shared_gate` multiplies the shared one's result by sigmoid(w . x), one number a token. `latent`: the experts (not
    the router, nor the shared one) work on rows of so many numbers, with a matrix before them and one behind.
    """

    router: Router
    width: int
    glu: Glu | Curve
    bias: bool = False
    weight_on_input: bool = False
    shared: Dense | None = None
    shared_gate: bool = False
    latent: int | None = None

    def __post_init__(self) -> None:
        if self.shared_gate and self.shared is None:
            raise ValueError("a gate on the shared expert needs a shared expert")


@dataclass(frozen=True)
class Beside:
    """A dense and a routed feed-forward side by side on one residual, each with norms of its own, then added.

    `router_norm` prepares the router's input; its weight carries the constant factor that families put behind it.
    """

    dense: Dense
    routed: Routed
    dense_out: Norm
    routed_in: Norm
    routed_out: Norm
    router_norm: Norm


@dataclass(frozen=True)
class Shortcut:
    """A dense and a routed feed-forward that read the same rows. What the routed one adds is added behind the next
    layer, so that it can be computed beside that layer (arXiv 2404.05019)."""

    dense: Dense
    routed: Routed


FeedForward = Dense | Routed | Beside | Shortcut


# -------------------------------------------------------------------------------------------------- model


@dataclass(frozen=True)
class PerLayerInput:
    """A small extra residual branch of a layer: gate D -> width, times the token's own row, width -> D, norm, add.

    `row_weight`: what the gate reads is first multiplied by a learned row. Where there are several `Streams`, the
    branch reads the first and is added to the others.
    """

    width: int
    glu: Glu
    norm: Norm
    row_weight: bool = False


@dataclass(frozen=True)
class LowRankBranch:
    """One more branch of what the mixer reads: x + norm(up(down(x))), with `rank` numbers between the two matrices. The
    mixer's residual sum and this are added and multiplied by `scale`."""

    rank: int
    norm: Norm
    scale: float


@dataclass(frozen=True)
class Layer:
    """Two residual branches, or one; a norm that is None is not there. `residual_scale` multiplies each branch,
    `scalar` is learned.

    Where the branches are `parallel`, the feed-forward reads what the mixer reads, not the mixer's result: through its
    own norm, or where that is None the rows that `mixer_in` made.
    """

    mixer: Mixer | None
    feed_forward: FeedForward | None
    mixer_in: Norm | None
    mixer_out: Norm | None
    feed_forward_in: Norm | None
    feed_forward_out: Norm | None
    residual_scale: float = 1.0
    per_layer_input: PerLayerInput | None = None
    scalar: bool = False
    parallel: bool = False
    low_rank: LowRankBranch | None = None

    @property
    def mixers(self) -> tuple[SingleMixer, ...]:
        """One, two side by side, or none."""
        match self.mixer:
            case None:
                return ()
            case SideBySide(attention=attention, recurrence=recurrence):
                return attention, recurrence
            case single:
                return (single,)

    def __post_init__(self) -> None:
        if self.mixer is None and self.feed_forward is None:
            raise ValueError("a layer is a mixer, a feed-forward or both")
        if self.mixer is None and (self.mixer_in or self.mixer_out):
            raise ValueError("a layer without a mixer has no norms around one")
        if self.feed_forward is None and (self.feed_forward_in or self.feed_forward_out):
            raise ValueError("a layer without a feed-forward has no norms around one")
        if self.parallel and (self.mixer is None or self.feed_forward is None):
            raise ValueError("a layer with one branch has none in parallel")
        if self.low_rank is not None and self.mixer is None:
            raise ValueError("a branch of low rank stands beside a mixer")
        if isinstance(self.feed_forward, Shortcut) and self.feed_forward_out is not None:
            raise ValueError("no norm stands behind a feed-forward whose parts are added in different places")


@dataclass(frozen=True)
class PerLayerTable:
    """One more embedding: a row of layers x width per token, joined with a projection of the first embedding.

    rows = (norm(projection(x) * projection_scale) + table[token] * table_scale) * join_scale
    """

    vocab: int
    width: int
    table_scale: float
    projection_scale: float
    join_scale: float
    norm: Norm


@dataclass(frozen=True)
class Streams:
    """Several residual rows a token, of which a layer computes the first (alternating updates, arXiv 2301.13310).

    They begin as the embedding and as `count` - 1 matrices times it, each made as large as it. Before a layer
    predict(m) mixes all of them, m = tanh(router(norm(first))), and the mixed rows are added to them. Behind it each
    row gets what the layer changed in the first, times correct(m) + 1, with m of the layer's result. Behind the last
    layer the others go through matrices again, are made as large as the first, and the mean of all is what the final
    norm reads. Sizes are roots of mean squares; `least` is the smallest mean square that is divided by.
    """

    count: int
    norm: Norm
    least: float

    def __post_init__(self) -> None:
        if self.count < 2:
            raise ValueError("a single stream is the residual row itself")


@dataclass(frozen=True)
class Head:
    """Hidden state to logits; `tied` uses the embedding's table. logits = softcap(linear(x) * scale)."""

    tied: bool
    bias: bool = False
    scale: float = 1.0
    softcap: float | None = None


@dataclass(frozen=True)
class Prediction:
    """A block for multi-token prediction: from the rows behind the last layer and the tokens behind them, the logits of
    the tokens after those (arXiv 2412.19437).

    x = join(embedding_norm(embedding of the next token), hidden_norm(final_norm(row))), one layer with a state of its
    own, `out_norm`, and the model's head. `blocks`: how many the checkpoint has, one behind the other; the first is
    described. `own_tables`: each block has a copy of the embedding and the head.
    """

    blocks: int
    layer: Layer
    states: tuple[State, ...]
    embedding_norm: Norm
    hidden_norm: Norm
    out_norm: Norm
    own_tables: bool = False

    def __post_init__(self) -> None:
        if isinstance(self.layer.feed_forward, Shortcut):
            raise ValueError("a shortcut ends behind the next layer, and a block has one layer")


@dataclass(frozen=True)
class ModelSpec:
    """A whole text decoder. `context` is the longest sequence it was made for, in tokens. What it computes never needs
    the `prediction`."""

    family: str
    vocab: int
    width: int
    context: int
    layers: tuple[Layer, ...]
    states: tuple[State, ...]
    final_norm: Norm
    head: Head
    embedding_scale: float = 1.0
    per_layer_table: PerLayerTable | None = None
    learned_positions: int | None = None  # rows of a table by position, added to the embedding
    streams: Streams | None = None
    prediction: Prediction | None = None

    def __post_init__(self) -> None:
        if [state.index for state in self.states] != list(range(len(self.states))):
            raise ValueError("states are numbered from 0 on, in the order of the layers that write them")
        if self.learned_positions is not None and self.learned_positions < self.context:
            raise ValueError("the table of positions is shorter than the context")
        if self.layers and isinstance(self.layers[-1].feed_forward, Shortcut):
            raise ValueError("a shortcut ends behind the next layer, and the last has none")

    @property
    def backbone(self) -> Literal["dense", "routed"]:
        return "routed" if any(True for _ in self.routed_layers()) else "dense"

    def routed_layers(self) -> Iterator[tuple[int, Routed]]:
        """(layer number, its routed feed-forward) for the layers that have one."""
        for i, layer in enumerate(self.layers):
            match layer.feed_forward:
                case Routed() as routed:
                    yield i, routed
                case Beside(routed=routed) | Shortcut(routed=routed):
                    yield i, routed
                case Dense() | None:
                    pass


@dataclass(frozen=True)
class Reading:
    """What came out of a config.json or a GGUF header.

    `unread`: unknown keys with a meaningful value; they stop a run, and a card lists them. `ignored`: keys that are
    known to change nothing, or empty. `defaults`: what was filled in because it was not stated. `not_counted`: parts of
    the checkpoint that the text decoder's forward pass never uses, with their parameters. `factors`: constants that the
    file's weights are multiplied with while they are read, by our names for them, with {i} for the layer.
    """

    spec: ModelSpec
    unread: tuple[str, ...] = ()
    ignored: tuple[str, ...] = ()
    defaults: dict[str, object] = field(default_factory=dict)
    not_counted: dict[str, int] = field(default_factory=dict)
    factors: dict[str, float] = field(default_factory=dict)
