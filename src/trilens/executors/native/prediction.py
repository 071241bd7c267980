"""The block for multi-token prediction: a program of its own on the executor's weights, and sequences of it that follow
the model's.

Nothing that the model computes depends on it, so it may miss tokens: where a sequence goes on from pages that another
one has filled, the block begins anew behind them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from itertools import pairwise
from threading import Lock
from typing import TYPE_CHECKING, Any

import numpy as np

from trilens.executors.accountant import Span
from trilens.executors.native.encode import encode
from trilens.executors.native.extension import _native
from trilens.executors.native.fuse import fuse
from trilens.executors.native.program import share_buffers
from trilens.executors.native.record import record_prediction
from trilens.spec.rope import rope_table

if TYPE_CHECKING:
    from trilens.decoder.weights import Parameter
    from trilens.executors.native.executor import NativeExecutor, NativeSequence, Weight

TOGETHER = 256  # tokens that the block computes together behind a prompt


class NativePrediction:
    """The block's program, weights and memory. A step of it runs beside no step of the same stepper."""

    def __init__(
        self,
        executor: NativeExecutor,
        weights: Iterable[tuple[Parameter, Weight]],
        take: Callable[[Any, int, Parameter, Weight], None],
        limit: int,
    ) -> None:
        """`take` gives an engine a parameter at a place; `limit`: bytes that its caches may use."""
        self.executor = executor
        self.program = share_buffers(fuse(record_prediction(executor.spec)))
        encoded = encode(self.program, executor.parameters)
        places = {p.name: i for i, p in enumerate(encoded.parameters)}
        self.pool = executor.new_pool(self.program, limit)
        self.engine = executor.engine.with_program(
            encoded.integers,
            encoded.numbers,
            list(self.program.widths),
            list(self.program.wanted),
            self.program.logits,
            self.pool,
            executor.threads,
        )
        for parameter, weight in weights:
            take(self.engine, places[parameter.name], parameter, weight)
        self._beside: list[Any] = []  # engines of the steppers
        self._making = Lock()

    @property
    def weight_bytes(self) -> int:
        """Of its own weights."""
        return int(self.engine.weight_bytes) - self.executor.weight_bytes

    def follower(self, sequence: NativeSequence) -> Follower | None:
        """None where there is no memory for one."""
        length = sequence.request_length
        return None if self.pool.need(length) > self.pool.limit else Follower(self, sequence)

    def tables(self, request_length: int, positions: int) -> tuple[list[Any], list[Any], int]:
        """As `NativeExecutor.tables`, in the order of the block's program."""
        reach = max(512, 1 << (positions - 1).bit_length())
        ropes = [self.executor.table(rope_table(rope, request_length), reach) for rope in self.program.ropes]
        return ropes, [self.executor.table(rule, reach) for rule in self.program.position_scales], reach

    def predict(self, batch: Sequence[tuple[Follower, int]], stepper: int | None) -> list[int | None]:
        """For each sequence the likeliest token after the one that it is fed next; None where that is not known."""
        ready = [follower.meets(token) for follower, token in batch]
        logits = self.run([follower for (follower, _), go in zip(batch, ready, strict=True) if go], True, stepper)
        likeliest = iter(np.argmax(logits, 1).tolist())
        return [next(likeliest) if go else None for go in ready]

    def run(self, followers: Sequence[Follower], wanted: bool, stepper: int | None) -> np.ndarray:
        """Compute the pairs that they hold. [followers, vocab]: the logits behind the last of each, if `wanted`."""
        logits = np.empty((len(followers) if wanted else 0, self.executor.spec.vocab), np.float32)
        left, done = list(followers), 0
        while left:
            pieces, room = list[tuple[Follower, int]](), self.executor.most_rows  # so that it is one pass
            for follower in left:
                if count := min(room, len(follower.tokens)):
                    pieces.append((follower, count))
                    room -= count
            ends = [wanted and count == len(follower.tokens) for follower, count in pieces]
            self._engine(stepper).step(
                [follower.inner for follower, _ in pieces],
                [np.array(follower.tokens[:count], np.int32) for follower, count in pieces],
                ends,
                False,
                logits[done : done + sum(ends)],
                [np.stack(follower.rows[:count]) for follower, count in pieces],
            )
            for (follower, count), end in zip(pieces, ends, strict=True):
                follower.passes.append(Span(int(follower.inner.length) - count, count, int(end)))
                del follower.tokens[:count], follower.rows[:count]
            left = [follower for follower in left if follower.tokens]
            done += sum(ends)
        return logits

    def _engine(self, stepper: int | None) -> Any:
        if stepper is None:
            return self.engine
        with self._making:
            if not self._beside:
                threads, steppers = self.executor.threads, self.executor.steppers
                shares = [threads * i // steppers for i in range(steppers + 1)]
                self._beside = [self.engine.beside(end - first) for first, end in pairwise(shares)]
            return self._beside[stepper]


class Follower:
    """A sequence of the block beside one of the model's.

    What it computes are pairs: at place p the row that token p - 1 left the last layer with, and token p. `tokens` and
    `rows` are those that wait to be computed.
    """

    def __init__(self, prediction: NativePrediction, sequence: NativeSequence) -> None:
        self.prediction = prediction
        self.sequence = sequence
        self.tokens: list[int] = []
        self.rows: list[np.ndarray] = []
        self.passes: list[Span] = []  # what was computed, for the receipt
        self._first = 0  # place of its first pair
        self._seen: tuple[int, np.ndarray] | None = None  # the rows of the last step, and the place of the first one
        *tables, self._reach = prediction.tables(sequence.request_length, 1)
        self.inner = _native.Sequence(prediction.pool, sequence.request_length, *tables)
        sequence.inner.wants_behind = True

    @property
    def _end(self) -> int:
        """The place of the pair that comes next."""
        return self._first + int(self.inner.length) + len(self.tokens)

    def follow(self, tokens: Sequence[int], stepper: int | None) -> None:
        """These tokens, the last ones of its sequence, were computed in the step before."""
        width, first = self.prediction.executor.spec.width, self.sequence.length - len(tokens)
        rows = np.empty((len(tokens), width), np.float32)
        self.sequence.inner.behind(first, rows)
        before = self._row(first - 1)
        self._seen = first, rows
        if before is None or first > self._end:
            self._begin(first + (before is None))
        for place in range(max(self._end, first), first + len(tokens)):
            row = rows[place - first - 1] if place > first else before
            assert row is not None
            self.tokens.append(tokens[place - first])
            self.rows.append(row)
        if len(self.tokens) >= TOGETHER and self._grow():
            self.prediction.run([self], False, stepper)

    def meets(self, token: int) -> bool:
        """Take the token that is fed next. False where what is needed for a prediction is not there."""
        place = self.sequence.length
        row = self._row(place - 1)
        if row is None or self._end != place:
            return False
        self.tokens.append(token)
        self.rows.append(row)
        return self._grow()

    def cut(self, length: int) -> None:
        """Its sequence has so many tokens now, fewer than before."""
        over = self._end - length
        waiting = min(max(0, over), len(self.tokens))
        if waiting:
            del self.tokens[-waiting:], self.rows[-waiting:]
        if over > waiting and (
            over - waiting > self.inner.length or not self.inner.rewind(self.inner.length - over + waiting)
        ):
            self.lose()

    def lose(self) -> None:
        """What its sequence holds from now on was not followed."""
        self._seen = None
        self._begin(0)

    def free(self) -> None:
        self.lose()
        self.inner.free()

    def _begin(self, place: int) -> None:
        self.tokens.clear()
        self.rows.clear()
        self.inner.rewind(0)
        self._first = place

    def _row(self, place: int) -> np.ndarray | None:
        """The model's row behind the token at a place."""
        if self._seen is None or not 0 <= place - self._seen[0] < len(self._seen[1]):
            return None
        row: np.ndarray = self._seen[1][place - self._seen[0]]
        return row

    def _grow(self) -> bool:
        """Whether there is memory for what waits; without it, the block begins anew."""
        more = len(self.tokens)
        if not self.inner.grow(more):
            self._begin(self._end)
            return False
        end = int(self.inner.length) + more
        if end > self._reach:
            *tables, self._reach = self.prediction.tables(self.sequence.request_length, end)
            self.inner.tables(*tables)
        return True
