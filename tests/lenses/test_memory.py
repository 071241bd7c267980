"""Memory against what is really held: trilens's own process, and transformers' caches."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from benchmarks import models
from transformers import DynamicCache

from tests.families import FAMILIES, Family, prompt, reference
from tests.grids import in_turn
from trilens.checkpoints.find import find
from trilens.checkpoints.load import read_spec
from trilens.errors import UsageError
from trilens.lenses.cards.held import held_types
from trilens.lenses.cards.source import card_source
from trilens.lenses.memory.job import Job
from trilens.lenses.memory.llama_graph import Value, _Graph, _graph, _laid_out
from trilens.lenses.memory.memory import engine_memory, transformers_memory
from trilens.lenses.memory.own_memory import own_memory
from trilens.spec.huggingface import read_config
from trilens.spec.model import by_kind

GROWTH = """
import json, sys
from trilens.checkpoints.find import find
from trilens.checkpoints.into_native import native_executor
from trilens.checkpoints.load import open_model
from trilens.executors.executor import StepInput
import gguf, trilens.executors.native.executor

def resident():
    lines = open("/proc/self/smaps_rollup").read().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("Anonymous"))

files = open_model(find(sys.argv[1]))
before = resident()
executor = native_executor(files)
files.checkpoint.close()
sequences = [executor.sequence(512) for _ in range(2)]
executor.step([StepInput(s, [i % 100 for i in range(512)]) for s in sequences])
print(json.dumps([resident() - before, executor.weight_bytes, sum(s.kv_bytes for s in sequences)]))
"""


@pytest.mark.skipif(not Path("/proc/self/smaps_rollup").exists(), reason="needs Linux's account of a process's memory")
@pytest.mark.parametrize("shape", ["", pytest.param("small-routed", marks=pytest.mark.slow)])
def test_trilens_holds_what_it_says(shape: str, smollm2: Path, tmp_path: Path) -> None:
    path = smollm2
    if shape:
        path = tmp_path / "model.gguf"
        models.write(models.SHAPES[shape], "Q8_0", path, smollm2)
    source = card_source(str(path), offline=True)
    assert source.reading is not None
    made = own_memory(source.reading.spec, held_types(source), Job(512, 2))
    done = subprocess.run([sys.executable, "-c", GROWTH, str(path)], capture_output=True, text=True, check=True)
    grown, weights, kv = json.loads(done.stdout)
    assert (made.weights, made.kv) == (weights, kv)
    assert made.total == pytest.approx(grown, rel=0.03)


CACHED = [
    *("llama 3.1", "mistral nemo", "qwen3", "gemma 2", "gemma 3 (text)", "gpt-oss", "deepseek v3", "glm-4.7-flash"),
    *("gemma 4 E2B", "gemma 4 26B-A4B", "llama 4 scout", "mixtral"),
]


@pytest.mark.parametrize(("family", "tokens"), in_turn(CACHED, [5, 40]))
def test_transformers_cache_exactly(family: str, tokens: int, tiny_directory: Callable[[str], Path]) -> None:
    """One token at a time, so that windows hold what they need and no more."""
    spec = read_spec(find(str(tiny_directory(family)))).spec
    model = reference(family)
    inner = getattr(model.config, "text_config", model.config)
    cache = DynamicCache(config=inner)
    with torch.no_grad():
        for token in prompt(tokens):
            model(torch.tensor([[token]]), cache=cache, use_cache=True)
    held = sum(
        tensor.numel() * tensor.element_size()
        for layer in cache.layers
        for tensor in (layer.keys, layer.values)
        if tensor is not None
    )
    assert transformers_memory(spec, Job(tokens, 1, "f32", "f32"), 0).kv == held


class TestLayout:
    """llama.cpp's allocator, on sums that can be done by hand; a value of 8 numbers is 32 bytes."""

    def test_a_gap_is_used_again(self) -> None:
        values = [Value("a", 8), Value("b", 8, ("a",)), Value("c", 8, ("b",)), Value("d", 8, ("c",))]
        assert _laid_out(values, 1) == 64

    def test_the_smallest_gap_that_fits(self) -> None:
        values = [
            Value("wide", 24),
            Value("held", 8),
            Value("small", 8),
            Value("held too", 8),
            Value("x", 8, ("wide", "small")),
            Value("fits the small one", 8, ("x",)),
            Value("fits the wide one", 24, ("held", "held too")),
        ]
        assert _laid_out(values, 1) == 7 * 32

    def test_over_its_input(self) -> None:
        apart = [Value("a", 8), Value("b", 8, ("a",))]
        over = [Value("a", 8), Value("b", 8, ("a",), over=True)]
        read_again = [*over, Value("c", 8, ("a", "b"))]
        assert [_laid_out(v, 1) for v in (apart, over, read_again)] == [64, 32, 96]

    def test_inputs_come_first_and_rows_are_padded(self) -> None:
        assert _laid_out([Value("a", 1), Value("ids", 1, kept=True)], 3) == 64

    def test_over_a_larger_one_whose_rest_is_given_back(self) -> None:
        values = [
            Value("a", 24),
            Value("b", 8, ("a",), over=True),
            Value("c", 16),
            Value("d", 8, ("b", "c")),
        ]
        assert _laid_out(values, 1) == 4 * 32

    @pytest.mark.parametrize("family", FAMILIES, ids=str)
    def test_every_value_has_a_name_of_its_own_and_is_there_before_it_is_read(self, family: Family) -> None:
        spec = read_config({**family.config().to_dict(), **family.overrides}).spec
        cells = dict.fromkeys(by_kind(spec.states)[0], 64)
        made = set[str]()
        for value in _graph(_Graph(spec, cells, 32, 1, expanded=False, cast=False)):
            assert value.name not in made
            assert made.issuperset(value.inputs), value
            made.add(value.name)


def test_trilens_takes_one_type_for_keys_and_values() -> None:
    spec = read_spec(find("smollm2")).spec
    with pytest.raises(UsageError, match="one type"):
        engine_memory("trilens", spec, Job(64, 1, "f16", "8bit"), 0, {})
