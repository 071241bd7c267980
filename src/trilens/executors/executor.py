"""The interface of every executor of a loaded model, as token generation uses it."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

from trilens.errors import RequestRefused

if TYPE_CHECKING:
    import numpy as np

    from trilens.decoder.look import View
    from trilens.decoder.weights import Parameter
    from trilens.executors.accountant import Span, StepCounter
    from trilens.executors.adapter import LoadedAdapter
    from trilens.spec.model import ModelSpec


PAGE = 64  # positions whose keys and values are kept, shared and found together


class Block(Protocol):
    """What `PAGE` positions of a sequence keep, or fewer at its end, and the fixed states behind them where they were
    kept. It never changes; any sequence may share it."""

    @property
    def tokens(self) -> int: ...

    @property
    def kept_bytes(self) -> int:
        """Bytes that it keeps in memory."""
        ...

    @property
    def own_bytes(self) -> int:
        """Bytes of these that nothing else uses, so that dropping the block would free them."""
        ...

    @property
    def has_states(self) -> bool:
        """Whether the fixed states behind its last token are here; always where a model has none."""
        ...

    @property
    def route_width(self) -> int:
        """Experts that are noted for each of its tokens."""
        ...

    def written(self) -> bytes:
        """All of it as bytes, for `Executor.restored`. Raises RequestRefused if the executor cannot do this."""
        ...


class CachedSequence(Protocol):
    """What the layers keep of one sequence. `length` tokens are in it; `request_length` chooses its rope tables.

    Fixed states exist only for the whole of it, and for the beginnings where `snapshot` was called.
    """

    @property
    def request_length(self) -> int: ...

    @property
    def length(self) -> int: ...

    @property
    def kv_bytes(self) -> int:
        """Bytes of keys and values that its tokens use."""
        ...

    @property
    def fixed_bytes(self) -> int:
        """Bytes of its fixed states, the same at every length; snapshots are not counted."""
        ...

    @property
    def held_bytes(self) -> int:
        """Bytes of the pages that it holds, shared ones included."""
        ...

    @property
    def block_passes(self) -> Sequence[Span]:
        """What the block that predicts has computed for it so far, pass by pass."""
        ...

    def grow(self, tokens: int) -> bool:
        """Allocate memory for `tokens` more tokens. False, with nothing allocated, if there is not enough."""
        ...

    def routes(self, first: int = 0) -> np.ndarray:
        """[tokens, columns] uint16: the experts that fired for each token from `first` on; the columns are the routed
        layers, one after the other, and in each its experts in order of rank."""
        ...

    def block(self, number: int) -> Block:
        """The `number`-th `PAGE` positions, as far as they are filled, to be shared."""
        ...

    def adopt(self, blocks: Sequence[Any], last_tokens: int) -> int:
        """Go on with these blocks, of the last one its first `last_tokens`, as if they had been computed here; only at
        the end of a page. Returns how many tokens that was: fewer where a window has dropped what later ones need, or
        where the fixed states were not kept at the end of the last block."""
        ...

    def fork(self, length: int, request_length: int) -> CachedSequence | None:
        """A new sequence that begins with this one's first `length` tokens and shares what it can with it; None when a
        window has dropped what they need, or no snapshot of the fixed states stands there. Raises RequestRefused when
        there is no memory for it."""
        ...

    def nearest(self, length: int) -> int:
        """The longest prefix of at most `length` tokens that `fork` and `rewind` can reach; 0 always can be."""
        ...

    def snapshot(self) -> None:
        """Keep the fixed states as they are now, so that this length can be forked and rewound to later. It costs
        `fixed_bytes` where there are any, and nothing where there are none."""
        ...

    def snapshot_at(self, length: int) -> None:
        """The same when `length` tokens are reached. Not every executor can do this within a step."""
        ...

    def free(self) -> None:
        """Free its memory now; it is then empty."""
        ...

    def take_back(self, tokens: int) -> None:
        """Forget the last `tokens` of the step before, which came from a draft."""
        ...

    def rewind(self, length: int) -> bool:
        """Forget all but the first `length` tokens; False, with nothing changed, where `fork` has None."""
        ...


class Proposal(NamedTuple):
    """Tokens that a step may compute behind a feed's own. `allowed`: [tokens, words] uint32; bit i of a row: whether
    token i may be drawn behind this one; without words, what may be drawn stays the same. The first `looked_up` came
    from the sampler's own draft, or the first `predicted` from the block that predicts, the others from a grammar."""

    tokens: Sequence[int]
    looked_up: int
    allowed: np.ndarray
    predicted: int = 0


@dataclass(slots=True)
class StepInput:
    """Tokens to append to one sequence in a step, and whether the logits behind the last of them are wanted, or a
    token that `sampler` (see `generate.sampling`) draws from them; it may draw `max_draws` before
    somebody has to look. Beyond these it may draw `max_drafted` from a draft, which `CachedSequence.take_back` and the
    sampler can undo: from `proposal`, and without one from what the sampler proposes by itself."""

    sequence: CachedSequence
    tokens: Sequence[int]
    logits: bool = True
    sampler: Any = None
    max_draws: int = 1
    max_drafted: int = 0
    proposal: Proposal | None = None


class StepOutput(NamedTuple):
    """Of each feed the tokens that its sampler drew, and by the feed's place why one could not; of each step its
    seconds, and in how many passes it read the weights. `drafts`: for each feed and each step that it was in, how many
    tokens were proposed, and how many of these the sampler drew too. A feed was in the first step, and in one more for
    each further token that did not come from a draft."""

    tokens: Sequence[Sequence[int]]
    faults: Mapping[int, RequestRefused]
    seconds: Sequence[float]
    passes: Sequence[int]
    drafts: Sequence[Sequence[tuple[int, int]]]


class Seen(NamedTuple):
    """What a view shows, as float32, and how many tokens went through the layers in each pass over the weights."""

    values: np.ndarray
    passes: Sequence[int]


class Executor(Protocol):
    """Runs the decoder for a batch of sequences at a time."""

    @property
    def name(self) -> str: ...

    @property
    def spec(self) -> ModelSpec: ...

    @property
    def arithmetic(self) -> str:
        """What is rounded during the computation, in words."""
        ...

    @property
    def same_bits(self) -> bool:
        """Whether a token's logits are the same bits whatever else is in the batch, however its prompt was cut, on any
        number of threads, and with its beginning from the cache."""
        ...

    @property
    def determinism(self) -> str:
        """The same in words, with the reason where it is not so."""
        ...

    @property
    def converted(self) -> Mapping[str, str]:
        """Weights that are not held as the file has them: parameter -> from what to what."""
        ...

    @property
    def weight_bytes(self) -> int:
        """Bytes of weights held in memory."""
        ...

    @property
    def kv_element_bytes(self) -> int:
        """Bytes of one number in the cache."""
        ...

    @property
    def cache_limit(self) -> int:
        """Bytes that all sequences and shared blocks may use together."""
        ...

    @property
    def cache_free(self) -> int:
        """Bytes of the limit that are free now."""
        ...

    @property
    def block_bytes(self) -> int:
        """Bytes of a block with a page of every cache."""
        ...

    def element_bytes(self, parameter: Parameter) -> Fraction:
        """Bytes that one number of this weight takes in memory."""
        ...

    @property
    def costs(self) -> StepCounter:
        """What its steps cost."""
        ...

    @property
    def adapters(self) -> Mapping[str, LoadedAdapter]:
        """Those that were loaded, by name."""
        ...

    def adapter_bytes(self, adapter: str) -> int:
        """Bytes of an adapter's matrices held in memory."""
        ...

    def costs_with(self, adapter: str | None) -> StepCounter:
        """What steps of sequences with this adapter cost, or without one."""
        ...

    def sequence(self, request_length: int, adapter: str | None = None) -> CachedSequence:
        """An empty sequence for up to `request_length` tokens, prompt and answer together; its memory is taken as it
        grows. Its tokens are computed with the adapter of that name. Raises CacheFull for a length that would not fit
        even alone, and RequestRefused for an adapter that was not loaded."""
        ...

    def restored(self, tokens: int, route_width: int, written: bytes | memoryview) -> Block:
        """A block as it was written, by this model with this kind of cache. Raises RequestRefused for what is something
        else, or when there is no memory for it."""
        ...

    def variant(self, request_length: int, adapter: str | None = None) -> Hashable:
        """Requests of one variant keep the same keys and values for the same tokens (rotary tables can depend on the
        length). Raises RequestRefused for an adapter that was not loaded."""
        ...

    def step(self, batch: Sequence[StepInput], every_row: bool = False) -> np.ndarray:
        """One forward pass: [rows, vocab] float32, the logits behind the last token of each feed that wants them, or
        with `every_row` behind every token."""
        ...

    def look(self, view: View, tokens: Sequence[int], adapter: str | None = None) -> Seen:
        """What a view shows of a text: of `AttentionMap` a row for each token, of `LogitLens` one for the last. It is a
        run of its own beside the steps, with memory of its own, and changes nothing for them. Raises RequestRefused."""
        ...

    @property
    def predicts(self) -> bool:
        """Whether the model's block for multi-token prediction was loaded."""
        ...

    @property
    def prediction_costs(self) -> StepCounter | None:
        """The accountant's sums for passes of that block; None where it was not loaded."""
        ...

    def follow(self, sequence: CachedSequence) -> bool:
        """Keep from now on what predictions for this sequence need. False where that cannot be done."""
        ...

    def predict(self, batch: Sequence[tuple[CachedSequence, int]], stepper: int | None = None) -> list[int | None]:
        """For each sequence and the token that it is fed next: the token that the block expects behind it. None where
        it was not followed closely enough. No step of the same stepper runs beside it."""
        ...

    @property
    def steppers(self) -> int:
        """How many steps can run at once, each for its own sequences."""
        ...

    def draw(self, batch: Sequence[StepInput], stepper: int | None = None, ahead: float = 0.0) -> StepOutput:
        """One forward pass, and what the samplers draw behind it; where it can, for `ahead` seconds further passes with
        these tokens. `stepper`: beside the passes of other steppers, on its part of the cores, one caller at a
        time.
        """
        ...


def distinct_experts(spec: ModelSpec, routes: np.ndarray, pieces: Sequence[Sequence[slice]]) -> list[int]:
    """For each piece, given as slices of the tokens, how many experts, of all layers, fired in it at least once;
    `routes` as in `CachedSequence.routes`."""
    if not routes.size:
        return [0 for _ in pieces]
    import numpy as np

    routers = [routed.router for _, routed in spec.routed_layers()]
    firsts = np.cumsum([0, *(router.choices for router in routers)])
    has_weights = np.concatenate([np.arange(router.choices) < router.experts for router in routers])
    numbers = routes + np.repeat(firsts[:-1], [router.chosen for router in routers])
    counts = []
    for piece in pieces:
        fired = np.zeros(firsts[-1], bool)
        for some in piece:
            fired[numbers[some]] = True
        counts.append(int(np.count_nonzero(fired & has_weights)))
    return counts


def fired_experts(spec: ModelSpec, routes: np.ndarray, piece: Sequence[slice]) -> list[int]:
    """How often experts with weights fired in each routed layer, for the tokens of a piece as above."""
    import numpy as np

    routers = [routed.router for _, routed in spec.routed_layers()]
    ends = np.cumsum([router.chosen for router in routers])
    rows = np.concatenate([routes[:0], *(routes[some] for some in piece)])
    return [
        int(np.count_nonzero(rows[:, end - router.chosen : end] < router.experts))
        for router, end in zip(routers, ends, strict=True)
    ]
