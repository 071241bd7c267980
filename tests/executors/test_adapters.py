"""Adapters on the executors: the same bits in any company, the right numbers, and costs that are what is done."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from itertools import cycle, product

import numpy as np
import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from tests.executors.packing import native_executor
from tests.executors.tiny import MODELS, VOCAB, random_tensors
from tests.grids import thinned
from trilens.decoder.weights import adaptable, decoder_weights
from trilens.errors import RequestRefused
from trilens.executors.accountant import Span, StepCounter, step_cost
from trilens.executors.adapter import Adapter, LowRank
from trilens.executors.executor import Executor, StepInput, fired_experts
from trilens.executors.native import _native
from trilens.executors.native.fuse import fuse
from trilens.executors.native.program import Op
from trilens.executors.native.record import record
from trilens.executors.torch import TorchExecutor
from trilens.spec.model import ModelSpec

WHO = ("one", "two", None, "one", None, "two", "one")  # whose adapter each sequence of a batch has
TYPES = {"F32": np.float32, "F16": np.float16}


def random_adapter(name: str, spec: ModelSpec, seed: int) -> Adapter:
    """Each matrix has a rank of its own, a type, and a scale; one in five is left alone."""
    rng, chance = np.random.default_rng(seed), random.Random(seed)
    matrices = {}
    for matrix in adaptable(decoder_weights(spec)).values():
        if chance.random() < 0.2:
            continue
        *stack, out, inner = matrix.shape
        rank, kind = chance.choice((1, 3, 4, 8, 17, 40)), chance.choice(list(TYPES))

        def floats(*shape: int, size: float, kind: str = kind) -> np.ndarray:
            return (rng.standard_normal(shape) * size).astype(TYPES[kind]).astype(np.float32)

        down = floats(*stack, rank, inner, size=inner**-0.5)
        up = floats(*stack, out, rank, size=0.3 * rank**-0.5)
        matrices[matrix.name] = LowRank(down, up, chance.choice((1.0, 0.5, 2.25)), kind)
    return Adapter(name, matrices)


def adapters(spec: ModelSpec) -> list[Adapter]:
    return [random_adapter("one", spec, 1), random_adapter("two", spec, 2)]


def read_once(adapter: Adapter) -> Adapter:
    """Without the matrices that a step multiplies with twice; the accountant counts each once."""
    kept = {name: low for name, low in adapter.matrices.items() if not name.endswith(".streams.router")}
    return Adapter(adapter.name, kept)


def prompts(count: int, seed: int = 0) -> list[list[int]]:
    chance = random.Random(seed)
    return [[chance.randrange(VOCAB) for _ in range(chance.choice((1, 5, 20, 66)))] for _ in range(count)]


def alone(executor: Executor, tokens: Sequence[int], adapter: str | None, piece: int = 1000) -> np.ndarray:
    sequence = executor.sequence(len(tokens), adapter)
    pieces = [tokens[at : at + piece] for at in range(0, len(tokens), piece)]
    return np.concatenate([executor.step([StepInput(sequence, p)], every_row=True) for p in pieces])


@pytest.mark.parametrize(("name", "kind"), list(zip(MODELS, cycle(("F32", "Q8_0", "Q4_1")), strict=False)))
def test_two_adapters_in_a_batch_give_the_bits_of_each_alone(name: str, kind: str) -> None:
    """In one step, cut in pieces, on any number of threads, with every kernel set; and none gives what a model without
    adapters gives."""
    spec = MODELS[name]()
    tensors, asked = random_tensors(spec), prompts(len(WHO))
    first: np.ndarray | None = None
    for kernels, threads in zip(_native.instruction_sets(), (2, 3, 1), strict=False):
        native = native_executor(spec, tensors, kind, adapters=adapters(spec), kernels=kernels, threads=threads)
        expected = [alone(native, tokens, who) for tokens, who in zip(asked, WHO, strict=True)]
        sequences = [native.sequence(len(t), who) for t, who in zip(asked, WHO, strict=True)]
        feeds = [StepInput(s, tokens) for s, tokens in zip(sequences, asked, strict=True)]
        together = native.step(feeds, every_row=True)
        assert np.array_equal(together, np.concatenate(expected))
        first = together if first is None else first
        assert np.array_equal(together, first)
        for tokens, who, rows in zip(asked[:4], WHO, expected, strict=False):
            assert np.array_equal(alone(native, tokens, who, piece=threads * 3), rows)
    bare = native_executor(spec, tensors, kind, threads=2)
    assert np.array_equal(alone(bare, asked[2], None), expected[2])
    assert not np.array_equal(alone(bare, asked[0], None), expected[0])


@pytest.mark.parametrize("name", MODELS)
def test_only_the_wanted_rows_and_the_rest_are_each_others_equal(name: str) -> None:
    """Steps in which some sequences want no logits."""
    spec = MODELS[name]()
    tensors, asked = random_tensors(spec), prompts(len(WHO), seed=1)
    for executor in (
        native_executor(spec, tensors, adapters=adapters(spec), threads=2),
        TorchExecutor(spec, tensors, adapters(spec)),
    ):
        sequences = [executor.sequence(len(t), who) for t, who in zip(asked, WHO, strict=True)]
        feeds = [StepInput(s, t, logits=i % 3 != 1) for i, (s, t) in enumerate(zip(sequences, asked, strict=True))]
        rows = executor.step(feeds)
        wanted = [alone(executor, t, who)[-1] for i, (t, who) in enumerate(zip(asked, WHO, strict=True)) if i % 3 != 1]
        assert np.abs(rows - np.stack(wanted)).max() < (1e-7 if executor.same_bits else 1e-4)


@pytest.mark.parametrize("name", MODELS)
def test_native_equals_torch_and_torch_equals_the_merged_matrices(name: str) -> None:
    spec = MODELS[name]()
    tensors, [one, _], tokens = random_tensors(spec), adapters(spec), prompts(1, seed=5)[0]
    torch_, native = TorchExecutor(spec, tensors, [one]), native_executor(spec, tensors, adapters=[one], kv="f32")
    found = alone(torch_, tokens, "one")
    assert np.abs(alone(native, tokens, "one") - found).max() < 2e-3 * np.abs(found).max()
    assert np.linalg.norm(alone(native, tokens, "one") - found) < 1e-4 * np.linalg.norm(found)
    merged = dict(tensors)
    for matrix, low in one.matrices.items():
        if matrix == "embedding":
            continue  # a tied head's: the table itself stays what it is
        merged[matrix] = tensors[matrix] + torch.from_numpy(low.up @ low.down * np.float32(low.scale))
    if "embedding" not in one.matrices:
        error = np.abs(alone(TorchExecutor(spec, merged), tokens, None) - found).max()
        assert error < 2e-4 * np.abs(found).max()


def test_what_can_be_adapted_is_what_programs_multiply_with() -> None:
    for make in MODELS.values():
        spec = make()
        multiplied = {
            p.name
            for ins in record(spec).instructions
            if ins.op in (Op.LINEAR, Op.HEAD_LINEAR) and (p := ins.parameters[0]) is not None
        }
        assert {p.name for p in adaptable(decoder_weights(spec)).values()} == multiplied
        kept = [ins for ins in fuse(record(spec)).instructions if ins.op is Op.LINEAR]
        assert len(kept) < len(multiplied)  # so adapters on fused matrices are tested


def steps() -> Iterator[tuple[int, int]]:
    yield from product((0, 7), (1, 6))


@pytest.mark.parametrize("name", thinned(MODELS, 2))
def test_the_accountant_counts_what_is_done(name: str) -> None:
    """Operations as PyTorch counts them, bytes as the native engine does, sums as the decoder's own run."""
    spec = MODELS[name]()
    tensors, both = random_tensors(spec), [read_once(adapter) for adapter in adapters(spec)]
    torch_ = TorchExecutor(spec, tensors, both)
    for who, (past, new) in zip(("one", "two", None, "one"), steps(), strict=True):
        ranks = {} if who is None else torch_.adapters[who].ranks
        cost = step_cost(spec, [Span(past, new, 1)], ranks)
        for ex in (torch_, native_executor(spec, tensors, adapters=both, threads=2)):
            sequence = ex.sequence(past + new, who)
            if past:
                ex.step([StepInput(sequence, prompts(1, seed=9)[0][:1] * past)])
            feeds = [StepInput(sequence, list(range(new)))]
            counter = ex.costs_with(who)
            assert isinstance(counter, StepCounter)
            assert counter.flops(new, 1, [Span(past, new)]) == cost.flops()
            if ex is torch_:
                with FlopCounterMode(display=False) as counted:
                    ex.step(feeds)
                more = counter.flops(new, 1, [Span(past, new)]) - ex.costs.flops(new, 1, [Span(past, new)])
                bare = torch_.sequence(past + new)
                if past:
                    torch_.step([StepInput(bare, prompts(1, seed=9)[0][:1] * past)])
                with FlopCounterMode(display=False) as without:
                    ex.step([StepInput(bare, list(range(new)))])
                by_routes = [
                    counter.flops_of_routes(fired_experts(spec, s.routes(past), [slice(0, new)]), new)
                    for s in (sequence, bare)
                ]
                assert counted.get_total_flops() - without.get_total_flops() == more + by_routes[0] - by_routes[1]
                assert (more > 0) == (who is not None)
            else:
                before = ex.bytes_by_kind()
                ex.step(feeds)
                products = ("linear", "linears", "glu_linear", "head_linear")
                after = ex.bytes_by_kind()
                read = sum(after.get(kind, 0) - before.get(kind, 0) for kind in products)
                plain = native_executor(spec, tensors, threads=1)
                plain.step([StepInput(plain.sequence(new), list(range(new)))])
                extra = counter.weight_bytes(new, 1) - ex.costs.weight_bytes(new, 1)
                assert read - sum(plain.bytes_by_kind().get(kind, 0) for kind in products) == extra
                assert extra == (0 if who is None else ex.adapter_bytes(who))


def test_a_fork_keeps_its_adapter_and_freed_memory_does_not_lose_it() -> None:
    spec = MODELS["plain"]()
    tensors, tokens = random_tensors(spec), list(range(30))
    for executor in (
        native_executor(spec, tensors, adapters=adapters(spec)),
        TorchExecutor(spec, tensors, adapters(spec)),
    ):
        sequence = executor.sequence(40, "two")
        executor.step([StepInput(sequence, tokens[:20])])
        fork = sequence.fork(20, 40)
        assert fork is not None
        expected = alone(executor, tokens, "two")[-1]
        assert np.abs(executor.step([StepInput(fork, tokens[20:])])[0] - expected).max() < 1e-4
        sequence.free()
        assert np.abs(executor.step([StepInput(sequence, tokens)])[0] - expected).max() < 1e-4


def test_adapters_are_told_apart_by_their_numbers() -> None:
    spec = MODELS["plain"]()
    one, two = adapters(spec)
    again = Adapter("another name", one.matrices)
    executor = native_executor(spec, random_tensors(spec), adapters=[one, two, again])
    variants = [executor.variant(9, name) for name in (None, "one", "two", "another name")]
    assert variants[1] == variants[3] and len(set(variants)) == 3
    for low in one.matrices.values():
        low.up[..., 0, 0] += 1e-3
        break
    assert Adapter("one", one.matrices).identity != one.identity


def test_an_unknown_adapter_is_refused() -> None:
    spec = MODELS["plain"]()
    for executor in (
        native_executor(spec, random_tensors(spec), adapters=adapters(spec)),
        TorchExecutor(spec, random_tensors(spec), adapters(spec)),
    ):
        for call in (executor.sequence, executor.variant):
            with pytest.raises(RequestRefused, match="no adapter 'three' is loaded; expected one of one, two"):
                call(9, "three")
    with pytest.raises(RequestRefused, match="the model was loaded without any"):
        native_executor(spec, random_tensors(spec)).sequence(9, "one")
