"""A request: what was asked for, its progress, the writer of its tokens, and what happened to it."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple, Protocol

import numpy as np

from trilens.executors.accountant import Span
from trilens.executors.executor import CachedSequence, Proposal
from trilens.generate.limits import Limits
from trilens.generate.prefix_cache import Origin
from trilens.generate.sampling import Sampler
from trilens.generate.scores import PromptScores

UNREAD = 256  # tokens that wait for their reader; more, and the request is left out of the steps

Finish = Literal["stop", "stop_string", "length", "context", "cancelled"]


class Writer(Protocol):
    """Receives a request's tokens. It gets each token as soon as it is drawn, and decides how to continue."""

    @property
    def guides(self) -> bool:
        """Whether what may come changes with each token: a draft then needs `propose`."""
        ...

    def begin(self) -> Sequence[int]:
        """Tokens that stand before anything is drawn."""
        ...

    def take(self, token: int, unread: deque[Any], more: bool = False) -> Finish | Sequence[int] | None:
        """Put what there is to read into `unread`. To end here: why. To go on behind more tokens: those. Neither where
        `more` were drawn already, as `lookahead` allowed."""
        ...

    def allowed(self) -> np.ndarray | None:
        """uint32; bit i of all of them: whether token i may be drawn next. None: as before."""
        ...

    def lookahead(self) -> int:
        """How many more tokens may be drawn before it looks at them: the last of these is the first for which `take`
        may say how to go on. At least 1."""
        ...

    def draftable(self) -> int:
        """How many tokens may be drawn before it has seen those before them. It may object to one: those behind it are
        taken back."""
        ...

    def propose(self, looked_up: Sequence[int], most: int) -> Proposal | None:
        """The tokens `looked_up`, as far as they are allowed; behind them, up to `most` in all, tokens that a grammar
        leaves no choice about. None: no draft. If `allowed` is something else once one of them has been taken, the
        tokens behind it are taken back."""
        ...

    def end(self, finish: Finish, unread: deque[Any]) -> None:
        """No more tokens come."""
        ...


class TokenWriter:
    """The simplest writer: it keeps the tokens themselves."""

    guides: bool = False

    def begin(self) -> Sequence[int]:
        return ()

    def take(self, token: int, unread: deque[Any], more: bool = False) -> None:
        unread.append(token)

    def allowed(self) -> None:
        return None

    def lookahead(self) -> int:
        return 1

    def draftable(self) -> int:
        return UNREAD

    def propose(self, looked_up: Sequence[int], most: int) -> Proposal | None:
        return None

    def end(self, finish: Finish, unread: deque[Any]) -> None:
        pass


class StepRecord(NamedTuple):
    """A request's part in a step: `fed` tokens behind `past` ones, with `draws` rows of logits. The whole step took
    `seconds` and read the weights `passes` times. `batch_size`: the requests in it, and in the steps of other steppers
    at that time. `proposed` tokens of a draft were computed too; of these `accepted` ones are among `fed`. The first
    `predicted` of the draft came from the model's block for multi-token prediction."""

    past: int
    fed: int
    draws: int
    seconds: float
    batch_size: int
    passes: int = 1
    proposed: int = 0
    accepted: int = 0
    predicted: int = 0

    @property
    def lost(self) -> int:
        """Tokens that were computed and taken back."""
        return self.proposed - self.accepted

    @property
    def computed(self) -> int:
        """Tokens that went through the layers."""
        return self.fed + self.lost


@dataclass
class Times:
    """When what happened to a request, by `time.perf_counter`; None: not yet."""

    called: float  # the caller asked
    queued: float  # it was handed to the scheduler
    admitted: float | None = None  # its first step began
    first_token: float | None = None  # was drawn
    ended: float | None = None


class Beginning(NamedTuple):
    """How a prompt is found in the prefix cache: what its blocks' keys start from, and the keys of its full pages."""

    root: bytes
    keys: list[bytes]


@dataclass(eq=False)
class Request:
    """One request: its prompt, its tokens so far, what of them was not fetched yet, and what happened to it."""

    prompt: tuple[int, ...]
    limits: Limits
    end_ids: frozenset[int]
    sampler: Sampler
    writer: Writer
    sequence: CachedSequence
    root: bytes  # what the keys of its blocks start from
    keys: list[bytes]  # of the full pages of its tokens
    times: Times
    adapter: str | None = None
    fed: int = 0  # tokens that are in its sequence
    computed: int = 0  # tokens that were in it before its pages were taken away
    kept: int = 0  # blocks of it that were offered to others
    tokens: list[int] = field(default_factory=list)
    unread: deque[Any] = field(default_factory=deque)
    finish: Finish | None = None
    failure: BaseException | None = None
    steps: list[StepRecord] = field(default_factory=list)  # each token of it once
    repeated: list[StepRecord] = field(default_factory=list)  # tokens that were computed again
    preempted: int = 0  # how often its pages were taken away
    follows: bool = False  # the block that predicts sees its tokens
    shares: bool = True  # it may go on with what others have computed
    reused: dict[str, int] = field(default_factory=dict)  # tokens of the prompt that were not computed, by their source
    origin: Origin = field(default_factory=lambda: Origin("running"))
    logprobs: dict[int, list[tuple[int, float]]] = field(default_factory=dict)  # by place in `tokens`: see `Sampler`
    block_passes: Sequence[Span] = ()  # of the block that predicts, once it has finished
    scores: PromptScores | None = None  # of the prompt's own tokens, where they are wanted
    kv_bytes: int = 0
    kv_held: int = 0
    routes: Any = None  # of the tokens that were fed, once it has finished: see `CachedSequence.routes`
    fired: list[list[int]] | None = None  # the same as it comes, where that is wanted
    in_step: bool = False  # whoever does the step has it for himself
    leaves: Finish | None = None  # it ends with that step

    @property
    def cached(self) -> int:
        """Tokens of the prompt that were not computed for it."""
        return sum(self.reused.values())

    @property
    def length(self) -> int:
        """Of prompt and answer so far."""
        return len(self.prompt) + len(self.tokens)

    @property
    def waiting(self) -> bool:
        """The request has not begun, or has to begin again."""
        return not self.fed or self.times.admitted is None

    @property
    def prompting(self) -> bool:
        """Its prompt is not computed yet, or what it has to compute again."""
        return self.fed < max(len(self.prompt), self.computed)

    @property
    def max_draws(self) -> int:
        """The most tokens that may be drawn before somebody looks at them."""
        return max(1, min(self.limits.total - len(self.tokens), UNREAD - len(self.unread), self.writer.lookahead()))

    @property
    def max_drafted(self) -> int:
        """The most tokens of a draft that may be drawn although its writer may object, and have them taken back."""
        return max(0, min(self.limits.total - len(self.tokens) - 1, self.writer.draftable()))

    @property
    def largest_batch(self) -> int:
        """The most requests that shared a step with this one, itself counted."""
        return max((step.batch_size for step in self.steps), default=1)

    def piece(self, first: int, end: int) -> Sequence[int]:
        """Tokens of prompt and answer from place `first` up to `end`."""
        prompt = len(self.prompt)
        if first >= prompt:
            return self.tokens[first - prompt : end - prompt]
        return (*self.prompt[first:end], *self.tokens[: max(0, end - prompt)])
