"""The recorded program with its packed weights and caches, with the interface of every executor."""

from __future__ import annotations

import time
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from fractions import Fraction
from functools import cached_property, partial
from itertools import pairwise
from threading import BoundedSemaphore, Lock
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from trilens import system
from trilens.decoder.look import AttentionMap, View, extra_tables
from trilens.decoder.weights import Parameter, decoder_weights, parameters
from trilens.errors import BadCheckpoint, CacheFull, RequestRefused, UnsupportedModel
from trilens.executors.accountant import Span, StepCounter, count_parameters
from trilens.executors.adapter import Adapter, LoadedAdapter, adapter_named, low_rank_parameters
from trilens.executors.executor import PAGE, Seen, StepOutput
from trilens.executors.native.encode import encode
from trilens.executors.native.extension import _native
from trilens.executors.native.fuse import fuse
from trilens.executors.native.prediction import Follower, NativePrediction
from trilens.executors.native.program import Op, Program, share_buffers
from trilens.executors.native.record import record
from trilens.spec.model import Chunk, ModelSpec, Positions, PositionScale, StateTensor, Window, by_kind
from trilens.spec.prediction import block_alone
from trilens.spec.rope import RopeTable, rope_table, tables_key

if TYPE_CHECKING:
    from trilens.executors.executor import CachedSequence, StepInput

KVType = Literal["f32", "f16", "8bit"]
Activations = Literal["8bit", "16bit"]

SNAPSHOT_EVERY = 256  # tokens after which a sequence keeps a snapshot of its fixed states by itself, at least
SNAPSHOT_TOKEN = 4096  # bytes a token that snapshots may take where keys and values take less
MOST_ROWS = 256  # tokens that go through the layers together; bounds the scratch memory, changes no result
SMALL = 500_000_000  # parameters; below, 8-bit activations cost answers, and 16-bit ones little time


@dataclass(frozen=True)
class Rows:
    """Rows of one parameter as a file has them, [n, bytes of a row]; the first is row `first` of matrix `which`."""

    which: int
    first: int
    bytes: np.ndarray


@dataclass(frozen=True)
class Packed:
    """A matrix to be packed: its type in the file's words, and its rows in any order, piece by piece."""

    type: str
    rows: Iterable[Rows]


@dataclass(frozen=True)
class InFile:
    """A matrix that lies packed in a mapped file, from byte `at` on."""

    type: str
    file: Any
    at: int


Weight = Packed | InFile | np.ndarray


class NativeSequence:
    """One sequence's pages of keys and values."""

    def __init__(self, executor: NativeExecutor, inner: Any, reach: int) -> None:
        """`reach`: the positions that its rotary tables have."""
        self.executor = executor
        self.inner = inner
        self._ready = 0  # positions that have pages of its own
        self._reach = reach
        self.follower: Follower | None = None  # a sequence of the block that predicts

    @property
    def length(self) -> int:
        return int(self.inner.length)

    @property
    def kv_bytes(self) -> int:
        return int(self.inner.kv_bytes)

    @property
    def fixed_bytes(self) -> int:
        return int(self.inner.fixed_bytes)

    @property
    def held_bytes(self) -> int:
        return int(self.inner.held_bytes)

    @property
    def request_length(self) -> int:
        return int(self.inner.request_length)

    @property
    def block_passes(self) -> Sequence[Span]:
        return () if self.follower is None else self.follower.passes

    def grow(self, tokens: int) -> bool:
        end = self.inner.length + tokens
        if end <= self._ready:
            return True
        if not self.inner.grow(tokens):
            return False
        self._ready = -(-end // PAGE) * PAGE
        if end > self._reach:
            *tables, self._reach = self.executor.tables(self.request_length, end)
            self.inner.tables(*tables)
        return True

    def nearest(self, length: int) -> int:
        return int(self.inner.nearest(length))

    def snapshot(self) -> None:
        self.inner.snapshot()

    def snapshot_at(self, length: int) -> None:
        self.inner.snapshot_at(length)

    def rewind(self, length: int) -> bool:
        self._ready = 0
        rewound = bool(self.inner.rewind(length))
        if rewound and self.follower is not None:
            self.follower.lose()
        return rewound

    def take_back(self, tokens: int) -> None:
        self.inner.take_back(tokens)
        if self.follower is not None:
            self.follower.cut(self.length)

    def routes(self, first: int = 0) -> np.ndarray:
        ids = np.empty((self.length - first, self.inner.route_width), np.uint16)
        self.inner.routes(first, ids)
        return ids

    def block(self, number: int) -> Any:
        return self.inner.block(number)

    def adopt(self, blocks: Sequence[Any], last_tokens: int) -> int:
        self._ready = 0
        if self.follower is not None:
            self.follower.lose()
        return int(_refusing(self.inner.adopt, blocks, last_tokens))

    def fork(self, length: int, request_length: int) -> NativeSequence | None:
        """A new sequence that begins with the first `length` tokens of this one and shares their pages; None where a
        window has dropped what it needs."""
        *tables, reach = self.executor.tables(request_length, length)
        inner = _refusing(self.inner.fork, length, request_length, *tables)
        return None if inner is None else NativeSequence(self.executor, inner, reach)

    def free(self) -> None:
        """Free the pages now."""
        self._ready = 0
        self.inner.free()
        if self.follower is not None:
            self.follower.free()


class _Packing:
    """Packs pieces on all threads while the next ones are read; a few wait at a time, so that memory stays bounded."""

    def __init__(self, threads: int) -> None:
        self._threads = ThreadPoolExecutor(threads, "packing")
        self._room = BoundedSemaphore(2 * threads)
        self._fault: BaseException | None = None

    def start(self, pack: Callable[..., None], *arguments: Any) -> None:
        """Raises what an earlier piece raised."""
        self._room.acquire()
        if self._fault is not None:
            raise self._fault
        self._threads.submit(self._run, pack, arguments)

    def _run(self, pack: Callable[..., None], arguments: tuple[Any, ...]) -> None:
        try:
            if self._fault is None:
                _refusing(pack, *arguments)
        except BaseException as fault:
            self._fault = fault
        finally:
            self._room.release()

    def __enter__(self) -> _Packing:
        return self

    def __exit__(self, kind: type[BaseException] | None, fault: BaseException | None, trace: object) -> None:
        self._threads.shutdown(cancel_futures=fault is not None)
        if fault is None and self._fault is not None:
            raise self._fault


class NativeExecutor:
    """Packed weights and the program that uses them. `weights` gives every parameter: `matrices` packed, others as
    they are."""

    name = "native"
    same_bits = True
    determinism = "bit-identical in any batch, on any number of threads, for any split of the prompt"

    def __init__(
        self,
        spec: ModelSpec,
        weights: Iterable[tuple[Parameter, Weight]],
        *,
        threads: int | None = None,
        kv: KVType = "f16",
        kv_limit: int | None = None,
        activations: Activations | None = None,
        kernels: str = "",
        most_rows: int = MOST_ROWS,
        adapters: Iterable[Adapter] = (),
        prediction: Iterable[tuple[Parameter, Weight]] | None = None,
    ) -> None:
        """`prediction`: the parameters of the block that predicts, where it is wanted."""
        self.spec = spec
        self.program = share_buffers(fuse(record(spec, behind=prediction is not None)))
        self.kv = kv
        self.activations = activations or ("16bit" if count_parameters(spec).total < SMALL else "8bit")
        encoded = encode(self.program)
        self.parameters = encoded.parameters  # in the engine's order
        self._places = {p.name: i for i, p in enumerate(encoded.parameters)}
        limit = kv_limit if kv_limit is not None else (system.memory() or system.USUAL_MEMORY) // 2
        self.most_rows = most_rows
        beside = 0 if prediction is None else _share(spec, limit)
        limit -= beside
        self.pool = self.new_pool(self.program, limit)
        self.engine = _refusing(
            _native.Engine,
            encoded.integers,
            encoded.numbers,
            list(self.program.widths),
            list(self.program.wanted),
            self.program.logits,
            self.pool,
            kernels,
            threads or system.usable_cores(),
            most_rows,
            self.activations == "16bit",
        )
        self._taps = {p.name for i in self.program.instructions if i.op is Op.CONVOLVE and (p := i.parameters[0])}
        self._beside: list[Any] = []  # engines of the steppers
        self._making = Lock()
        self.longest: int | None = None  # tokens of a sequence, where that is not the model's context
        self.converted: Mapping[str, str] = {}  # parameters that are not held as the file has them: from what to what
        self._types: dict[str, str] = {}
        self._packed: dict[str, tuple[Any, int]] = {}  # the engine and the place of each
        self._bytes: dict[str, Fraction] = {}
        self._tables: dict[RopeTable | PositionScale, tuple[int, Any]] = {}
        self._one_rope = not tables_key(spec, 1)  # the same rotary tables for requests of every length
        self._shared: tuple[list[Any], list[Any], int] | None = None  # if so: they, and how far they go
        with _Packing(threads or system.usable_cores()) as packing:
            for parameter, weight in weights:
                self._take(self.engine, self._places[parameter.name], parameter, weight, packing)
        missing = sorted(set(self._places) - set(self._bytes))
        if missing:
            raise UnsupportedModel(
                f"the native executor was given nothing for {missing[0]} and {len(missing) - 1} more"
            )
        self.adapters: dict[str, LoadedAdapter] = {}
        self._adapter_numbers: dict[str, int] = {}  # of the engine
        self._adapter_costs: dict[str, StepCounter] = {}
        for adapter in adapters:
            self._add(adapter)
        _refusing(self.engine.ready)
        self.prediction: NativePrediction | None = None
        if prediction is not None:
            with _Packing(self.threads) as packing:
                self.prediction = NativePrediction(self, prediction, partial(self._take, packing=packing), beside)
            _refusing(self.prediction.engine.ready)
            self.engine.keep_behind(self.program.behind, spec.width)

    def new_pool(self, program: Program, limit: int) -> Any:
        """Memory for the caches and fixed states of a program's sequences."""
        shapes = [(c.kv_heads, c.key_dim, c.value_dim, int(c.latent), *_mask(c.keep)) for c in program.caches]
        fixed = [tensor.bytes // 4 for tensor in program.fixed]
        every = snapshot_every(program.caches, program.fixed, self.kv_element_bytes)
        return _native.Pool(np.array(shapes, np.int32).reshape(-1, 6), self.kv, limit, self.most_rows, fixed, every)

    def _add(self, adapter: Adapter) -> None:
        number = self._adapter_numbers[adapter.name] = self.engine.add_adapter()
        self.adapters[adapter.name] = adapter.described()
        for name, low in adapter.matrices.items():
            if name not in self._places:  # of the choice among positions, of which all are taken here
                continue
            down, up = (float_rows(values.reshape(-1, values.shape[-1]), low.type) for values in (low.down, low.up))
            _refusing(self.engine.add_low_rank, number, self._places[name], low.type, low.rank, low.scale, down, up)

    def _take(self, engine: Any, place: int, parameter: Parameter, weight: Weight, packing: _Packing) -> None:
        if isinstance(weight, np.ndarray):
            weight = weight.T if parameter.name in self._taps else weight  # a row for each tap
            engine.add_row(place, np.ascontiguousarray(weight, np.float32).reshape(-1))
            self._bytes[parameter.name] = Fraction(4)
            return
        count = parameter.shape[0] if len(parameter.shape) == 3 else 1
        rows, columns = parameter.shape[-2:]
        if isinstance(weight, InFile):
            _refusing(engine.map_matrix, place, weight.type, count, rows, columns, weight.file, weight.at)
        else:
            _refusing(engine.add_matrix, place, weight.type, count, rows, columns)
            for piece in weight.rows:
                packing.start(engine.pack, place, piece.which, piece.first, piece.bytes)
        self._packed[parameter.name] = engine, place
        self._types[parameter.name] = weight.type
        packed = _native.packed_bytes(weight.type, count, rows, columns)
        self._bytes[parameter.name] = Fraction(packed, count * rows * columns)

    @property
    def arithmetic(self) -> str:
        return f"{self.activations.removesuffix('bit')}-bit activations for quantised weights, {self.kv} cache"

    @property
    def weight_bytes(self) -> int:
        return int(self.engine.weight_bytes)

    def packed(self, name: str) -> np.ndarray:
        """The bytes of a packed parameter as they lie in memory."""
        engine, place = self._packed[name]
        data: np.ndarray = engine.packed(place)
        return data

    @property
    def types(self) -> Mapping[str, str]:
        """The type that each packed parameter is held in."""
        return self._types

    @property
    def kv_element_bytes(self) -> int:
        return {"f32": 4, "f16": 2, "8bit": 1}[self.kv]

    @property
    def cache_limit(self) -> int:
        return int(self.pool.limit)

    @property
    def cache_free(self) -> int:
        return int(self.pool.limit - self.pool.bytes_in_use)

    @property
    def block_bytes(self) -> int:
        return int(self.pool.block_bytes)

    @property
    def threads(self) -> int:
        return int(self.engine.threads)

    @property
    def steppers(self) -> int:
        return min(2, self.threads)

    def _stepper(self, stepper: int) -> Any:
        """An engine with its share of the threads, created when it is first needed."""
        with self._making:
            if not self._beside:
                shares = [self.threads * i // self.steppers for i in range(self.steppers + 1)]
                self._beside = [self.engine.beside(end - first) for first, end in pairwise(shares)]
            return self._beside[stepper]

    def element_bytes(self, parameter: Parameter) -> Fraction:
        return self._bytes[parameter.name]

    @cached_property
    def costs(self) -> StepCounter:
        return StepCounter(self.spec, self.element_bytes)

    def costs_with(self, adapter: str | None) -> StepCounter:
        if adapter is None:
            return self.costs
        known = self._adapter_costs.get(adapter)
        if known is None:
            held = adapter_named(self.adapters, adapter)
            own: dict[str, Fraction] = {}
            for matrix in parameters(decoder_weights(self.spec)):
                if (rank := held.ranks.get(matrix.name)) is not None:
                    for p in low_rank_parameters(matrix, rank):
                        count, kind = p.shape[0] if len(p.shape) == 3 else 1, held.types[matrix.name]
                        own[p.name] = Fraction(_native.packed_bytes(kind, count, *p.shape[-2:]), p.size)
            known = StepCounter(self.spec, lambda p: own.get(p.name) or self._bytes[p.name], held.ranks)
            self._adapter_costs[adapter] = known
        return known

    def adapter_bytes(self, adapter: str) -> int:
        adapter_named(self.adapters, adapter)
        return int(self.engine.adapter_bytes(self._adapter_numbers[adapter]))

    def sequence(self, request_length: int, adapter: str | None = None) -> NativeSequence:
        if adapter is not None:
            adapter_named(self.adapters, adapter)
        self._check_length(request_length)
        if self.pool.need(request_length) > self.pool.limit:  # before tables are made for it
            _refusing(_native.Sequence, self.pool, request_length, [], [])
        *tables, reach = self.tables(request_length, 1)
        inner = _refusing(_native.Sequence, self.pool, request_length, *tables)
        if adapter is not None:
            inner.adapter = self._adapter_numbers[adapter]
        return NativeSequence(self, inner, reach)

    def _check_length(self, length: int) -> None:
        if self.longest is not None and length > self.longest:
            raise RequestRefused(
                f"beyond {self.longest} tokens this model's attention chooses among positions, which the native "
                "executor does not do yet; ask for no more, or load it with executor='torch'"
            )

    def look(self, view: View, tokens: Sequence[int], adapter: str | None = None) -> Seen:
        """See `Executor.look`. The view's program is recorded for it, and runs on the packed weights that are here."""
        self._check_length(len(tokens))
        program = share_buffers(fuse(record(self.spec, view)))
        encoded = encode(program, self.parameters)
        pool = self.new_pool(program, self.cache_limit)
        engine = _refusing(
            self.engine.with_program,
            encoded.integers,
            encoded.numbers,
            list(program.widths),
            list(program.wanted),
            program.logits,
            pool,
            self.threads,
        )
        for place, table in enumerate(extra_tables(view), len(self.parameters)):
            _refusing(engine.add_matrix, place, "F32", 1, *table.shape)
            _refusing(engine.pack, place, 0, 0, float_rows(np.eye(table.shape[0]), "F32"))
        _refusing(engine.ready)
        ropes = [self.table(rope_table(rope, len(tokens)), len(tokens)) for rope in program.ropes]
        scales = [self.table(rule, len(tokens)) for rule in program.position_scales]
        sequence = _refusing(_native.Sequence, pool, len(tokens), ropes, scales)
        if adapter is not None:
            adapter_named(self.adapters, adapter)
            sequence.adapter = self._adapter_numbers[adapter]
        every_row = isinstance(view, AttentionMap)
        pieces = [tokens[at : at + self.most_rows] for at in range(0, len(tokens), self.most_rows)]
        seen = []
        for piece in pieces:
            last = piece is pieces[-1]
            rows = len(piece) if every_row else int(last)
            seen.append(np.empty((rows, program.instructions[-1].width), np.float32))
            _refusing(engine.step, [sequence], [np.asarray(piece, np.int32)], [last], every_row, seen[-1])
        return Seen(np.concatenate(seen), [len(piece) for piece in pieces])

    def restored(self, tokens: int, route_width: int, written: bytes | memoryview) -> Any:
        routers = [routed.router for _, routed in self.spec.routed_layers()]
        width = sum(router.chosen for router in routers)
        if route_width != width:
            raise RequestRefused(f"a block with {route_width} experts a token, and the model has {width}")
        block = _refusing(_native.Block, self.pool, tokens, route_width, np.frombuffer(written, np.uint8))
        routes = np.empty((tokens, width), np.uint16)
        block.routes(routes)
        if (routes >= np.repeat([r.choices for r in routers], [r.chosen for r in routers])).any():
            raise RequestRefused("a block that names experts which the model does not have")
        return block

    def variant(self, request_length: int, adapter: str | None = None) -> Hashable:
        tables = () if self._one_rope else tables_key(self.spec, request_length)
        return tables if adapter is None else (tables, adapter_named(self.adapters, adapter).identity)

    def step(self, batch: Sequence[StepInput], every_row: bool = False) -> np.ndarray:
        """[rows, vocab]: a row for each feed that wants logits, or for every token of the step."""
        self._grow(batch)
        rows = sum(len(f.tokens) if every_row else int(f.logits) for f in batch)
        logits = np.empty((rows, self.spec.vocab), np.float32)
        sequences = [_native_sequence(f.sequence).inner for f in batch]
        tokens = [np.asarray(f.tokens, np.int32) for f in batch]
        _refusing(self.engine.step, sequences, tokens, [f.logits for f in batch], every_row, logits)
        for feed in batch:
            if (follower := _native_sequence(feed.sequence).follower) is not None:
                follower.follow(feed.tokens, None)
        return logits

    def draw(self, batch: Sequence[StepInput], stepper: int | None = None, ahead: float = 0.0) -> StepOutput:
        """See `Executor.draw`. Each token is drawn inside its step, and goes into the next one without Python."""
        self._grow(batch)
        engine = self.engine if stepper is None else self._stepper(stepper)
        samplers = [None if f.sampler is None else f.sampler.inner for f in batch]
        tokens, seconds, passes, drafts = _refusing(
            engine.draw,
            [_native_sequence(f.sequence).inner for f in batch],
            [f.tokens for f in batch],
            samplers,
            [f.max_draws for f in batch],
            [f.max_drafted for f in batch],
            [f.proposal for f in batch],
            ahead,
        )
        if self.prediction is not None:
            begin = time.perf_counter()
            for feed, passed in zip(batch, drafts, strict=True):
                _refusing(self._follow, feed, [accepted for _, accepted in passed], stepper)
            seconds[-1] += time.perf_counter() - begin
        faults = {i: RequestRefused(s.fault) for i, s in enumerate(samplers) if s is not None and s.chosen < 0}
        return StepOutput(tokens, faults, seconds, passes, drafts)

    def _follow(self, feed: StepInput, accepted: Sequence[int], stepper: int | None) -> None:
        """Show the block what a feed's steps computed, if that is known here."""
        follower = _native_sequence(feed.sequence).follower
        if follower is None:
            return
        drafted = () if feed.proposal is None else feed.proposal.tokens[: accepted[0]]
        if len(accepted) == 1 and len(drafted) == accepted[0]:
            follower.follow([*feed.tokens, *drafted], stepper)
        else:
            follower.lose()

    @property
    def predicts(self) -> bool:
        return self.prediction is not None

    @cached_property
    def prediction_costs(self) -> StepCounter | None:
        return StepCounter(self.spec, self.element_bytes, prediction=True) if self.predicts else None

    def follow(self, sequence: CachedSequence) -> bool:
        if self.prediction is None:
            return False
        followed = _native_sequence(sequence)
        followed.follower = self.prediction.follower(followed)
        return followed.follower is not None

    def predict(self, batch: Sequence[tuple[CachedSequence, int]], stepper: int | None = None) -> list[int | None]:
        found: list[int | None] = [None] * len(batch)
        followed = [(i, f, t) for i, (s, t) in enumerate(batch) if (f := _native_sequence(s).follower) is not None]
        if self.prediction is not None and followed:
            drafts = _refusing(self.prediction.predict, [(f, t) for _, f, t in followed], stepper)
            for (i, _, _), token in zip(followed, drafts, strict=True):
                found[i] = token
        return found

    def _grow(self, batch: Sequence[StepInput]) -> None:
        for feed in batch:
            sequence, tokens = feed.sequence, len(feed.tokens) + feed.max_draws - 1 + feed.max_drafted
            if not sequence.grow(min(tokens, max(len(feed.tokens), sequence.request_length - sequence.length))):
                raise CacheFull(
                    f"the page pool is full: {self.pool.bytes_in_use >> 10} KiB of {self.pool.limit >> 10} are in use; "
                    "wait for a request to end"
                )

    def seconds_by_kind(self) -> dict[str, float]:
        """Seconds that went into each kind of instruction so far, those of steps at once added up."""
        return self._by_kind("seconds")

    def bytes_by_kind(self) -> dict[str, int]:
        """Bytes of weights and cache that each kind of instruction has read so far."""
        return self._by_kind("bytes")

    def _by_kind(self, what: str) -> dict[str, Any]:
        engines = [engine.counts()[what] for engine in (self.engine, *self._beside)]
        return {op.name.lower(): n for op, *counts in zip(Op, *engines, strict=True) if (n := sum(counts))}

    def experts_fired(self) -> list[list[int]]:
        """For each routed layer, how often each expert was chosen so far."""
        engines = [engine.counts()["experts"] for engine in (self.engine, *self._beside)]
        return [[sum(counts) for counts in zip(*layers, strict=True)] for layers in zip(*engines, strict=True)]

    def tables(self, request_length: int, positions: int) -> tuple[list[Any], list[Any], int]:
        """Rotary tables and position factors for a request of that length, in the program's order; and the positions
        that they reach to: `positions` or more."""
        if self._shared is not None and positions <= self._shared[2]:
            return self._shared
        reach = max(512, 1 << (positions - 1).bit_length())  # of the positions that are used, not of those asked for
        ropes = [self.table(rope_table(rope, request_length), reach) for rope in self.program.ropes]
        tables = ropes, [self.table(rule, reach) for rule in self.program.position_scales], reach
        if self._one_rope:
            self._shared = tables
        return tables

    def table(self, rule: RopeTable | PositionScale, reach: int) -> Any:
        reached, table = self._tables.get(rule, (0, None))
        if reached < reach:
            positions = np.arange(reach, dtype=np.float32)
            if isinstance(rule, RopeTable):
                # the product in float32, as the reference has it; the functions in float64, the same on every machine
                angles = (positions[:, None] * np.array(rule.frequencies, np.float32)[None]).astype(np.float64)
                cos, sin = (f(angles).astype(np.float32) * np.float32(rule.factor) for f in (np.cos, np.sin))
            else:
                periods = np.floor((positions + np.float32(rule.offset)) / np.float32(rule.period)).astype(np.float64)
                cos = sin = (1 + rule.beta * np.log1p(periods)).astype(np.float32)[:, None]
            table = _native.Table(cos, sin)
            self._tables[rule] = reach, table
        return table


def _share(spec: ModelSpec, limit: int) -> int:
    """Bytes of a limit that go to the caches of the block that predicts: as much of it as they are of a token's keys
    and values, a quarter at most."""
    own, all_ = (sum(cache.width for cache in by_kind(states)[0]) for states in (block_alone(spec).states, spec.states))
    return min(limit // 4, limit * own // (own + all_))


def snapshot_every(caches: Iterable[Positions], fixed: Iterable[StateTensor], element_bytes: int) -> int:
    """Tokens from one snapshot to the next: so many that their keys and values take as much memory as the snapshot."""
    a_token = max(SNAPSHOT_TOKEN, sum(cache.width for cache in caches) * element_bytes)
    steps = -(-sum(tensor.bytes for tensor in fixed) // (a_token * SNAPSHOT_EVERY))
    return SNAPSHOT_EVERY * max(1, steps)


def float_rows(values: np.ndarray, kind: str) -> np.ndarray:
    """[n, columns] float32 -> the bytes of the rows, as F32, F16 or BF16."""
    match kind:
        case "F32":
            return np.ascontiguousarray(values, np.float32).view(np.uint8)
        case "F16":
            return np.ascontiguousarray(values, np.float16).view(np.uint8)
        case "BF16":  # exact: the values come from the same type
            return (np.ascontiguousarray(values).view(np.uint32) >> 16).astype(np.uint16).view(np.uint8)
        case _:
            raise AssertionError(f"{kind} is not a type of floats")


def _refusing(call: Any, *arguments: Any) -> Any:
    """Call it, and turn the engine's refusals into our errors."""
    try:
        return call(*arguments)
    except _native.CacheFull as full:
        raise CacheFull(str(full)) from None
    except _native.Refused as refused:
        raise RequestRefused(str(refused)) from None
    except _native.FileChanged as changed:
        raise BadCheckpoint(str(changed)) from None


def _mask(mask: object) -> tuple[int, int]:
    match mask:
        case Window(size):
            return 1, size
        case Chunk(size):
            return 2, size
        case _:
            return 0, 0


def _native_sequence(sequence: CachedSequence) -> NativeSequence:
    assert isinstance(sequence, NativeSequence), "a sequence belongs to the executor that made it"
    return sequence
