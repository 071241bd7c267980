"""What a fixed state takes, told by cards and plans, against what is allocated."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.executors.packing import native_executor as of_tensors
from tests.executors.tiny import MODELS, random_tensors
from tests.families import prompt
from trilens.checkpoints.find import find
from trilens.checkpoints.into_native import native_executor
from trilens.checkpoints.load import open_model
from trilens.executors.accountant import Span, fixed_bytes, step_cost
from trilens.executors.executor import StepInput
from trilens.executors.native.fuse import fuse
from trilens.executors.native.record import record
from trilens.lenses.cards.card import Card, card
from trilens.lenses.costs.predict import _kind, flops
from trilens.lenses.memory.job import Job
from trilens.lenses.memory.memory import engine_memory
from trilens.lenses.memory.own_memory import own_memory
from trilens.lenses.plans.plan import plan

CONFIGS = Path(__file__).parent.parent / "data" / "configs.json"
Directory = Callable[[str], Path]


@pytest.fixture
def lfm2(tmp_path: Path) -> Path:
    """The configuration of LFM2-1.2B: ten convolutions of width 2048 over three tokens, six layers of attention."""
    (tmp_path / "config.json").write_text(json.dumps(json.loads(CONFIGS.read_text())["LiquidAI/LFM2-1.2B"]["config"]))
    return tmp_path / "config.json"


def test_a_card_tells_bytes_a_token_and_bytes_a_sequence(lfm2: Path) -> None:
    made = card(str(lfm2), context=4096)
    assert isinstance(made, Card)
    assert made.fixed_bytes == 10 * 2 * 2048 * 4
    assert made.kv_bytes(4096) == 4096 * 6 * 2 * 8 * 64 * 2
    text, data = made.as_text(120), made.as_dict()
    assert data["fixed_state_bytes"] == made.fixed_bytes
    said = " ".join(text.split())
    assert "a token at context 4096" in said and "(f16); and 163.8 KB a sequence, whatever its length" in said
    assert "convolutions over 3 tokens" in text
    by_part = data["flops_per_token"]
    assert by_part["convolution"] == 10 * 2 * (4 * 2048 * 2048 + 3 * 2048)
    assert sum(n for name, n in by_part.items() if name not in ("context", "total")) == by_part["total"]


def test_a_plan_counts_them_for_each_sequence(lfm2: Path) -> None:
    made = plan(str(lfm2), machine="h100x1", engine="llama.cpp", context=4096, batch=3, quantise="bf16")
    assert made.memory.fixed == 3 * 163840
    assert made.memory.total == made.memory.weights + made.memory.kv + made.memory.fixed + (made.memory.scratch or 0)
    other = engine_memory("vllm", card(str(lfm2)).spec, Job(4096), 0)
    assert other.fixed is None and any("number of copies" in unknown for unknown in other.unknown)


@pytest.mark.parametrize("family", ["lfm2", "lfm2 untied, biases", "lfm2 moe"])
@pytest.mark.parametrize("batch", [1, 3])
def test_a_plan_s_bytes_are_those_of_the_engine(family: str, batch: int, tiny_directory: Directory) -> None:
    executor = native_executor(open_model(find(str(tiny_directory(family)))))
    sequences = [executor.sequence(100) for _ in range(batch)]
    made = own_memory(executor.spec, executor.types, Job(100, batch))
    assert made.fixed == sum(s.fixed_bytes for s in sequences)
    executor.step([StepInput(sequence, prompt(100)) for sequence in sequences])
    assert made.fixed == executor.pool.fixed_in_use
    assert made.kv + made.fixed == executor.pool.bytes_in_use


@pytest.mark.parametrize("family", ["lfm2", "lfm2 untied, biases", "lfm2 moe", ""])
def test_a_predicted_step_does_the_accountants_operations(family: str, tiny_directory: Directory) -> None:
    if family:
        executor = native_executor(open_model(find(str(tiny_directory(family)))))
    else:
        spec = MODELS["recurrent"]()
        executor = of_tensors(spec, random_tensors(spec))
    program = fuse(record(executor.spec))
    for spans in ([Span(0, 1)], [Span(50, 1), Span(3, 1, 0)], [Span(0, 77)]):
        kinds: dict[object, int] = {}
        for instruction in program.instructions:
            kind = _kind(instruction, executor.types, program.caches)
            kinds[kind] = kinds.get(kind, 0) + 1
        assert flops(kinds, spans) == step_cost(executor.spec, spans).flops()
        moved = step_cost(executor.spec, spans).fixed_bytes_moved()
        assert moved == 2 * len(spans) * fixed_bytes(executor.spec)
