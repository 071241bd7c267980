"""The accountant's counts are exact: integers against what PyTorch allocates and multiplies, no tolerance."""

from __future__ import annotations

import math
from collections.abc import Callable
from fractions import Fraction

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from tests.families import BY_NAME, FAMILIES, prompt
from tests.grids import in_turn
from trilens.decoder.ffn import dense_ffn
from trilens.decoder.weights import DenseWeights, LinearWeights, Parameter
from trilens.executors.accountant import (
    Span,
    StepCounter,
    count_parameters,
    dense_ffn_flops_per_token,
    distinct_experts,
    fixed_bytes,
    kv_bytes,
    step_cost,
    token_cost,
    visible_pairs,
)
from trilens.executors.executor import CachedSequence, StepInput, fired_experts
from trilens.executors.torch import TorchExecutor, TorchOps
from trilens.spec.model import Chunk, Curve, Dense, Full, Glu, Window, first_visible

NAMES = [family.name for family in FAMILIES]
# Every family with a length beyond every window; in the fast suite every second one with one of the shorter two.
LENGTHS = [*((name, 77) for name in NAMES), *in_turn(NAMES, (1, 20), 4)]


def counted(run: Callable[[], object]) -> int:
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        run()
    return counter.get_total_flops()


def by_routes(executor: TorchExecutor, sequence: CachedSequence, rows: int) -> int:
    """What the routes of the sequence's last tokens add to their operations."""
    fired = fired_experts(executor.spec, sequence.routes(sequence.length - rows), [slice(0, rows)])
    return executor.costs.flops_of_routes(fired, rows)


@pytest.mark.parametrize("name", NAMES)
def test_parameters_are_what_is_allocated(name: str, tiny_executor: Callable[[str], TorchExecutor]) -> None:
    executor = tiny_executor(name)
    storages = {t.untyped_storage().data_ptr(): t.untyped_storage().nbytes() for t in executor.tensors.values()}
    assert count_parameters(executor.spec).total * 4 == sum(storages.values()) == executor.weight_bytes


@pytest.mark.parametrize(("name", "tokens"), LENGTHS)
def test_kv_bytes_are_the_caches_own(name: str, tokens: int, tiny_executor: Callable[[str], TorchExecutor]) -> None:
    executor = tiny_executor(name)
    sequence = executor.sequence(tokens)
    executor.step([StepInput(sequence, prompt(tokens))])
    assert kv_bytes(executor.spec, tokens, 4) == sequence.kv_bytes
    assert fixed_bytes(executor.spec) == sequence.fixed_bytes


@pytest.mark.parametrize(("name", "context"), LENGTHS)
def test_flops_of_decoding(name: str, context: int, tiny_executor: Callable[[str], TorchExecutor]) -> None:
    """One token behind context - 1 others; windows are sliced, so no masked pair is multiplied."""
    executor = tiny_executor(name)
    sequence = executor.sequence(context)
    if context > 1:
        executor.step([StepInput(sequence, prompt(context - 1))])
    done = counted(lambda: executor.forward([StepInput(sequence, [5])]))
    cost = token_cost(executor.spec, context)
    assert cost.flops() == cost.masked_flops() == done - by_routes(executor, sequence, 1)


@pytest.mark.parametrize("name", NAMES)
def test_flops_of_a_prompt(name: str, tiny_executor: Callable[[str], TorchExecutor]) -> None:
    """At prefill PyTorch multiplies the whole rectangle of queries and keys: `masked_flops`."""
    executor = tiny_executor(name)
    sequence = executor.sequence(80)
    executor.step([StepInput(sequence, prompt(13))])
    done = counted(lambda: executor.forward([StepInput(sequence, prompt(61))]))
    cost = step_cost(executor.spec, [Span(13, 61)])
    done -= by_routes(executor, sequence, 61)
    assert cost.masked_flops() == done
    assert cost.flops() < done


@pytest.mark.parametrize("name", NAMES)
def test_the_quick_counter_is_the_accountant(name: str, tiny_executor: Callable[[str], TorchExecutor]) -> None:
    """Its sums against the decoder run on the same shapes, as integers; bytes differ by parameter here."""
    spec = tiny_executor(name).spec

    def each(parameter: Parameter) -> Fraction:
        return Fraction(len(parameter.name) % 7 + 1, 3)

    counter = StepCounter(spec, each)
    for past, new, logits in ((0, 1, 1), (0, 1, 0), (3, 40, 1), (0, 300, 0), (17, 20, 20), (90, 1, 1)):
        span = Span(past, new, logits)
        whole = step_cost(spec, [span])
        assert counter.flops(new, logits, [span]) == whole.flops(), span
        assert counter.weight_bytes(new, logits) == whole.weight_bytes(each), span
        for singly in (False, True):
            assert counter.fixed_bytes_moved(span, singly) == whole.fixed_bytes_moved(singly), span
            assert counter.kv_elements_read(span, singly) == whole.kv_elements_read(singly), span


def test_flops_of_a_batch_are_the_sum(tiny_executor: Callable[[str], TorchExecutor]) -> None:
    spec = tiny_executor("qwen2 windows").spec
    spans = [Span(0, 7), Span(30, 1), Span(5, 9, logits=0)]
    assert step_cost(spec, spans).flops() == sum(step_cost(spec, [s]).flops() for s in spans)


def test_the_dense_feed_forward_is_a_plain_gated_module() -> None:
    d_model, d_ffn, tokens = 24, 40, 5
    gate, up, down = (torch.nn.Linear(a, b, bias=False) for a, b in ((d_model, d_ffn),) * 2 + ((d_ffn, d_model),))
    x = torch.randn(tokens, d_model)

    def module() -> torch.Tensor:
        return down(torch.nn.functional.silu(gate(x)) * up(x))

    weights = {"gate": gate.weight, "up": up.weight, "down": down.weight}

    ops = TorchOps.__new__(TorchOps)
    ops.all_adapted = ops.adapted = []
    ops.tensors = dict(weights)  # the operation needs these and nothing else
    linears = (LinearWeights(Parameter(n, tuple(w.shape)), None) for n, w in weights.items())
    ours = dense_ffn(ops, 0, Dense(d_ffn, Glu(Curve.SILU)), DenseWeights(*linears), x)
    assert torch.equal(ours, module())
    assert counted(module) == tokens * dense_ffn_flops_per_token(d_model, d_ffn)


def test_the_number_anyone_can_compute_by_hand() -> None:
    assert dense_ffn_flops_per_token(8192, 28672) == 1_409_286_144  # Llama 3 70B's layer: 1.409 GFLOP


@pytest.mark.parametrize("mask", [Full(), Window(1), Window(7), Chunk(1), Chunk(7)])
def test_visible_pairs(mask: Full | Window | Chunk) -> None:
    for past in range(0, 23, 4):
        for new in (0, 1, 3, 20):
            by_hand = sum(p + 1 - first_visible(mask, p) for p in range(past, past + new))
            assert visible_pairs(mask, past, new) == by_hand


def test_distinct_experts() -> None:
    assert distinct_experts(128, 8, 1) == 8
    assert math.isclose(distinct_experts(4, 1, 2), 4 * (1 - (3 / 4) ** 2))
    assert distinct_experts(8, 8, 50) == 8
    assert distinct_experts(512, 12, 1, 256) == 8
    assert math.isclose(distinct_experts(3, 1, 2, 1), 3 * (1 - (3 / 4) ** 2))


def test_operations_depend_on_routes_if_experts_have_no_weights(tiny_executor: Callable[[str], TorchExecutor]) -> None:
    executor = tiny_executor("longcat-flash")
    assert executor.costs.depends_on_routes and not tiny_executor("kimi k2").costs.depends_on_routes
    sequence = executor.sequence(80)
    executor.step([StepInput(sequence, prompt(80))])
    fired = {tuple(fired_experts(executor.spec, sequence.routes(), [slice(t, t + 1)])) for t in range(80)}
    assert len(fired) > 3  # not each token costs the same
    assert any(sum(f) < sum(r.router.firing for _, r in executor.spec.routed_layers()) for f in fired)


def test_the_table_has_every_family_of_the_reader() -> None:
    from trilens.spec.huggingface import FAMILIES as READABLE

    configs = [(BY_NAME[n].overrides, BY_NAME[n].config().get_text_config()) for n in NAMES]
    assert {overrides.get("model_type", config.model_type) for overrides, config in configs} == set(READABLE) - {
        "hunyuan"  # its publisher's name of hunyuan_v1_moe; its counts are checked with the published configs
    }
