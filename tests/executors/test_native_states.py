"""Fixed states on the native executor: the same bits however the tokens come, and back to any snapshot."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest

from tests.executors.packing import native_executor
from tests.executors.tiny import MODELS, random_tensors
from tests.families import prompt
from tests.grids import in_turn
from trilens.checkpoints.find import find
from trilens.checkpoints.into_native import native_executor as loaded
from trilens.checkpoints.load import open_model
from trilens.errors import RequestRefused
from trilens.executors.accountant import fixed_bytes
from trilens.executors.executor import PAGE, StepInput
from trilens.executors.native import _native
from trilens.executors.native.executor import SNAPSHOT_EVERY, NativeExecutor, NativeSequence, snapshot_every
from trilens.spec.model import Full, Positions, StateTensor, by_kind

FAMILIES = [
    "lfm2",
    "lfm2 untied, biases",
    "lfm2 moe",
    "lfm2 moe without a correction",
    "tiny: recurrent",
    "qwen3.5 moe (text)",
    "nemotron-3 nano",
    "kimi linear",
]
TINY = ["convolved", "recurrent"]
LENGTH = 200  # of the 256 that these models were made for

Directory = Callable[[str], Path]


def family(name: str, directory: Directory, **options: object) -> NativeExecutor:
    if name.startswith("tiny: "):
        return tiny(name.removeprefix("tiny: "), **options)
    return loaded(open_model(find(str(directory(name)))), quantise=None, **options)


def fed(executor: NativeExecutor, sequence: NativeSequence, tokens: Sequence[int], piece: int) -> np.ndarray:
    """The bits of the logits behind every token, fed `piece` at a time."""
    rows = [
        executor.step([StepInput(sequence, tokens[at : at + piece])], every_row=True)
        for at in range(0, len(tokens), piece)
    ]
    return np.concatenate(rows).view(np.uint32)


def words(length: int, seed: int = 0) -> list[int]:
    """Tokens of the smallest vocabulary here."""
    return [t % 96 for t in prompt(length, seed=seed)]


@pytest.mark.parametrize(("name", "what"), in_turn(FAMILIES, ("cuts", "batches")))
def test_cuts_batches_threads_and_kernels_change_no_bit(name: str, what: str, tiny_directory: Directory) -> None:
    tokens = words(LENGTH)
    first = family(name, tiny_directory, threads=1)
    expected = fed(first, first.sequence(LENGTH), tokens, LENGTH)
    compared = {"cuts": cuts, "batches": batches}[what](name, tokens, expected, tiny_directory)
    assert compared >= {"cuts": 7 * 4, "batches": 16 * 8}[what]


def cuts(name: str, tokens: list[int], expected: np.ndarray, tiny_directory: Directory) -> int:
    """Compares what other pieces, threads and kernels give; how often."""
    compared = 0
    for threads in (1, 2, 3, 4):
        for kernels in _native.instruction_sets() if threads == 2 else [""]:
            executor = family(name, tiny_directory, threads=threads, kernels=kernels)
            for piece in (1, 2, 3, 7, 64, 100, LENGTH):
                sequence = executor.sequence(LENGTH)
                assert np.array_equal(fed(executor, sequence, tokens, piece), expected), (threads, kernels, piece)
                compared += 1
    return compared


def batches(name: str, tokens: list[int], expected: np.ndarray, tiny_directory: Directory) -> int:
    """Compares what it gives beside others; how often."""
    compared, executor = 0, family(name, tiny_directory, threads=2)
    for batch in range(1, 17):
        sequences = [executor.sequence(LENGTH) for _ in range(batch)]
        others = [words(LENGTH, seed=b + 1) for b in range(batch - 1)]
        rows = []
        for at in range(0, LENGTH, 25):
            pieces = [o[at : at + 1 + b % 25] for b, o in enumerate(others)]
            feeds = [
                StepInput(s, p, logits=b % 2 == 0) for b, (s, p) in enumerate(zip(sequences, pieces, strict=False))
            ]
            rows.append(executor.step([*feeds, StepInput(sequences[-1], tokens[at : at + 25])])[-1])
            compared += 1
        assert np.array_equal(np.array(rows).view(np.uint32), expected[24::25]), batch
    return compared


@pytest.mark.parametrize("name", FAMILIES)
def test_a_fork_at_every_distance_from_a_snapshot_gives_the_same_bits(name: str, tiny_directory: Directory) -> None:
    """A snapshot stands somewhere; what is wanted are more tokens, so the rest is fed again, whatever its length."""
    executor, tokens = family(name, tiny_directory, threads=2), words(LENGTH)
    expected = fed(executor, executor.sequence(LENGTH), tokens, LENGTH)
    sequence = executor.sequence(LENGTH)
    places = [0, 1, 2, 3, 64, 100, 128, 199]
    for begin, end in pairwise([*places, LENGTH]):
        fed(executor, sequence, tokens[begin:end], 50)
        if end in places:
            sequence.snapshot()
    for wanted in range(LENGTH):
        nearest = sequence.nearest(wanted)
        assert nearest == max(p for p in places if p <= wanted)
        fork = sequence.fork(nearest, LENGTH)
        assert fork is not None and fork.length == nearest
        assert np.array_equal(fed(executor, fork, tokens[nearest : wanted + 1], 33), expected[nearest : wanted + 1])
        if wanted not in places:
            assert sequence.fork(wanted, LENGTH) is None
            assert not sequence.rewind(wanted)
    assert sequence.length == LENGTH
    assert sequence.rewind(100)
    assert sequence.nearest(LENGTH) == 100  # later snapshots went with the tokens
    assert np.array_equal(fed(executor, sequence, tokens[100:], 9), expected[100:])


def tiny(name: str, **options: object) -> NativeExecutor:
    spec = MODELS[name]()
    return native_executor(spec, random_tensors(spec), "Q4_0", **{"threads": 2, **options})


@pytest.mark.parametrize("name", TINY)
def test_long_sequences_keep_snapshots_by_themselves(name: str) -> None:
    tokens = words(400) * 2
    executor = tiny(name)
    whole = executor.sequence(800)
    expected = fed(executor, whole, tokens, 800)
    for piece in (1, 37, 300):
        sequence = executor.sequence(800)
        assert np.array_equal(fed(executor, sequence, tokens, piece), expected)
        for wanted in (800, 799, 600, 512, 511, 256, 200, 0):
            nearest = 800 if wanted == 800 else wanted // SNAPSHOT_EVERY * SNAPSHOT_EVERY
            assert sequence.nearest(wanted) == nearest
            fork = sequence.fork(nearest, 801)
            assert fork is not None
            if nearest < 800:
                assert np.array_equal(fed(executor, fork, tokens[nearest:], 90), expected[nearest:])


@pytest.mark.parametrize("name", TINY)
def test_states_are_kept_where_somebody_asked_for_them(name: str) -> None:
    """In the midst of any step; a request that was computed again asks again."""
    tokens = words(300)
    executor = tiny(name)
    expected = fed(executor, executor.sequence(300), tokens, 300)
    for piece in (1, 50, 64, 300):
        sequence = executor.sequence(300)
        places = [1, 7, 63, 64, 65, 100, 299, 300]
        for place in places:
            sequence.snapshot_at(place)
        assert np.array_equal(fed(executor, sequence, tokens, piece), expected)
        for wanted in range(301):
            assert sequence.nearest(wanted) == max(p for p in [0, 256, *places] if p <= wanted)
        for place in places[:-1]:
            fork = sequence.fork(place, 300)
            assert fork is not None
            assert np.array_equal(fed(executor, fork, tokens[place:], 90), expected[place:])
        sequence.free()
        fed(executor, sequence, tokens, 100)
        assert sequence.nearest(299) == 256


@pytest.mark.parametrize("name", TINY)
def test_blocks_carry_the_states_behind_them(name: str) -> None:
    """What one sequence computed is taken over by another, up to the nearest block whose states were kept."""
    tokens = words(500)
    executor = tiny(name)
    donor = executor.sequence(500)
    expected = fed(executor, donor, tokens, 500)
    donor.snapshot()
    blocks = [donor.block(number) for number in range(-(-500 // PAGE))]
    data = [block.written() for block in blocks]
    read = [_native.Block(executor.pool, b.tokens, b.route_width, d) for b, d in zip(blocks, data, strict=True)]
    for source in (blocks, read):
        for last, taken in ((500 % PAGE, 500), (10, 256)):
            sequence = executor.sequence(501)
            assert sequence.adopt(source, last) == taken
            assert sequence.length == taken
            assert sequence.fork(256, 501) is not None
            if taken < 500:
                assert np.array_equal(fed(executor, sequence, tokens[taken:], 70), expected[taken:])
        assert executor.sequence(500).adopt(source[:3], PAGE) == 0  # no states were kept there
    more = fed(executor, donor_again := executor.sequence(501), [*tokens, 5], 501)
    adopted = executor.sequence(501)
    assert adopted.adopt(blocks, 500 % PAGE) == 500
    assert np.array_equal(fed(executor, adopted, [5], 1), more[-1:])
    assert donor_again.length == 501


@pytest.mark.parametrize(("name", "limit"), [("convolved", 90_000), ("recurrent", 260_000)])
def test_a_step_that_fails_leaves_the_states_as_they_were(name: str, limit: int) -> None:
    executor = tiny(name, kv_limit=limit)
    tokens = words(64)
    first, second = executor.sequence(300), executor.sequence(300)
    fed(executor, first, tokens[:40], 40)
    expected = fed(executor, second, tokens[:41], 41)[-1:]
    assert second.length == 41
    with pytest.raises(RequestRefused, match="vocabulary"):
        executor.step([StepInput(first, tokens[40:41]), StepInput(second, [96])])
    hogs = []
    with pytest.raises(RequestRefused):
        while True:
            hogs.append(executor.sequence(64))
            executor.step([StepInput(hogs[-1], tokens)])
    with pytest.raises(RequestRefused):
        executor.step([StepInput(first, tokens[40:41]), StepInput(executor.sequence(64), tokens)])
    assert first.length == 40
    assert np.array_equal(fed(executor, first, tokens[40:41], 1), expected)


@pytest.mark.parametrize("name", ["lfm2", "lfm2 untied, biases", "lfm2 moe"])
def test_bytes_are_what_is_allocated(name: str, tiny_directory: Directory) -> None:
    executor = family(name, tiny_directory, threads=1)
    size = fixed_bytes(executor.spec)
    positions, fixed = by_kind(executor.spec.states)
    assert size == 4 * sum(np.prod(t.shape) for state in fixed for t in state.tensors) > 0
    pool, tokens = executor.pool, prompt(100)
    before = pool.bytes_in_use
    sequence = executor.sequence(100)
    assert pool.bytes_in_use == before and sequence.fixed_bytes == executor.costs.fixed_bytes == size
    executor.step([StepInput(sequence, tokens[:50])])  # zeros were kept nowhere
    assert pool.fixed_in_use == size and pool.bytes_in_use - before == size + sequence.held_bytes
    sequence.snapshot()  # shares what is there
    fork = sequence.fork(50, 100)
    assert pool.fixed_in_use == size
    executor.step([StepInput(sequence, tokens[50:])])
    assert pool.fixed_in_use == 2 * size
    sequence.snapshot_at(40)  # that lies behind it
    sequence.snapshot_at(101)
    assert sequence.inner.snapshot_bytes == size
    sequence.free()
    assert pool.fixed_in_use == size
    del sequence, fork
    assert pool.bytes_in_use == before
    assert len(positions) + len(fixed) == len(executor.spec.layers)


def test_snapshots_take_no_more_than_the_keys_and_values_between_them() -> None:
    for heads, every in ((1, 256), (64, 1024), (640, 10240)):
        cache = Positions(0, 2, 256, 256, Full())
        matrix = StateTensor("matrix", (heads, 128, 128))
        assert snapshot_every([cache] * 2, [matrix], 2) == every
        assert matrix.bytes <= every * 2 * cache.width * 2 or every == 256
    assert snapshot_every([], [matrix], 2) == -(-matrix.bytes // (4096 * 256)) * 256
