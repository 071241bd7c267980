"""Looking inside: attention's weights and the logit lens are transformers', for every family and on both executors."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from tests.executors import packing
from tests.executors.test_adapters import adapters
from tests.executors.tiny import MODELS, VOCAB, random_tensors
from tests.families import BY_NAME, FAMILIES, prompt, reference
from tests.grids import thinned
from trilens.checkpoints.find import find
from trilens.checkpoints.into_native import native_executor
from trilens.checkpoints.load import open_model
from trilens.decoder.look import AttentionMap, LogitLens, View, attention_of
from trilens.errors import RequestRefused
from trilens.executors.accountant import Span, look_cost
from trilens.executors.executor import Executor, StepInput
from trilens.executors.native.executor import NativeExecutor
from trilens.executors.torch import TorchExecutor

NAMES = [family.name for family in FAMILIES]
CLOSE = 1e-4
IN_PAIRS = ["longcat-flash"]  # a layer of transformers is two
LATE_SINKS = ["granite with windows"]  # transformers reports the weights before it applies the sinks to the result


def text_for(name: str, executor: Executor) -> list[int]:
    """Beyond the window's edge, where there is one."""
    edge = BY_NAME[name].edge
    return prompt(min(2 * edge + 11 if edge else 24, executor.spec.context), seed=3)


def reference_layers(name: str, count: int) -> nn.ModuleList:
    [found] = [
        module
        for path, module in reference(name).named_modules()
        if isinstance(module, nn.ModuleList)
        and len(module) == count
        and path.split(".")[-1] in ("layers", "h", "blocks")
    ]
    return found


def their_attention(name: str, tokens: Sequence[int]) -> list[np.ndarray]:
    """[heads, tokens, tokens] of each layer that has attention."""
    with torch.no_grad():
        out = reference(name)(torch.tensor([list(tokens)]), use_cache=False, output_attentions=True)
    return [weights[0].numpy() for weights in out.attentions if weights is not None]


def their_lens(name: str, tokens: Sequence[int], layers: int) -> np.ndarray:
    """[layers, vocab]: the logits of a run whose last layer puts out what layer i did."""
    modules, outputs = reference_layers(name, layers), dict[int, Any]()

    def keep(number: int) -> Callable[..., None]:
        return lambda module, given, out: outputs.__setitem__(number, out)

    def last_logits() -> torch.Tensor:
        with torch.no_grad():
            rows: torch.Tensor = reference(name)(torch.tensor([list(tokens)]), use_cache=False).logits[0, -1]
        return rows

    hooks = [module.register_forward_hook(keep(i)) for i, module in enumerate(modules)]
    last_logits()
    for hook in hooks:
        hook.remove()
    rows = []
    for number in range(layers):
        hook = modules[-1].register_forward_hook(lambda module, given, out, number=number: outputs[number])
        rows.append(last_logits().numpy())
        hook.remove()
    return np.stack(rows)


def attention_layers(executor: Executor) -> list[int]:
    return [i for i in range(len(executor.spec.layers)) if attention_of(executor.spec, i) is not None]


def heads(executor: Executor, layer: int) -> int:
    attention = attention_of(executor.spec, layer)
    assert attention is not None
    return attention.heads


@pytest.mark.parametrize("every", [2, pytest.param(1, marks=pytest.mark.slow)])  # heads; other ones in each layer
@pytest.mark.parametrize("name", NAMES)
def test_attention(name: str, every: int, tiny_executor: Callable[[str], TorchExecutor]) -> None:
    executor = tiny_executor(name)
    tokens, layers = text_for(name, executor), attention_layers(executor)
    theirs = their_attention(name, tokens) if layers else []
    assert len(theirs) == len(layers)
    for layer, weights in zip(layers, theirs, strict=True):
        for head in range(layer % every, heads(executor, layer), every):
            ours = executor.look(AttentionMap(layer, head, len(tokens) + 3), tokens).values
            assert not ours[:, len(tokens) :].any()
            if name in LATE_SINKS:
                ours /= ours.sum(1, keepdims=True)
            assert np.abs(ours[:, : len(tokens)] - weights[head]).max() < CLOSE


@pytest.mark.parametrize("name", thinned(NAMES, 2))
def test_lens(name: str, tiny_executor: Callable[[str], TorchExecutor]) -> None:
    executor = tiny_executor(name)
    tokens, layers = text_for(name, executor), len(executor.spec.layers)
    ours = executor.look(LogitLens(), tokens).values.reshape(layers, -1)
    every = 2 if name in IN_PAIRS else 1
    assert np.abs(ours[every - 1 :: every] - their_lens(name, tokens, layers // every)).max() < CLOSE


def native(directory: Path) -> NativeExecutor:
    return native_executor(open_model(find(str(directory))), kv="f32", threads=2)


@pytest.mark.parametrize("name", thinned(NAMES, 2))
def test_the_native_executor_sees_the_same(
    name: str, tiny_directory: Callable[[str], Path], tiny_executor: Callable[[str], TorchExecutor]
) -> None:
    ours, reference = native(tiny_directory(name)), tiny_executor(name)
    tokens = text_for(name, ours)
    for i, layer in enumerate(attention_layers(ours)):
        view = AttentionMap(layer, i % heads(ours, layer), len(tokens) + 3)
        assert np.abs(ours.look(view, tokens).values - reference.look(view, tokens).values).max() < 1e-3
    a, b = (executor.look(LogitLens(), tokens).values for executor in (ours, reference))
    assert np.abs(a - b).max() < 1e-3 and np.linalg.norm(a - b) / np.linalg.norm(b) < 1e-4
    # behind the last layer it is what the model says, to the bit, and a look leaves no trace in it
    sequence = ours.sequence(len(tokens))
    assert np.array_equal(ours.step([StepInput(sequence, tokens)])[0], a.reshape(len(ours.spec.layers), -1)[-1])


@pytest.mark.parametrize("name", ["mistral", "gpt-oss", "deepseek v3", "qwen3-next", "gemma 4 E2B", "llama 4 scout"])
def test_the_cost_is_what_is_multiplied(name: str, tiny_executor: Callable[[str], TorchExecutor]) -> None:
    executor = tiny_executor(name)
    tokens = text_for(name, executor)
    views: list[tuple[View, int]] = [(LogitLens(), 1)]
    views += [(AttentionMap(layer, 0, len(tokens) + 7), len(tokens)) for layer in attention_layers(executor)]
    for view, rows in views:
        with FlopCounterMode(display=False) as counter:
            executor.look(view, tokens)
        cost = look_cost(executor.spec, view, Span(0, len(tokens), rows))
        assert counter.get_total_flops() == cost.masked_flops()  # PyTorch multiplies masked pairs too
        assert cost.flops() <= cost.masked_flops()


def test_a_look_leaves_what_runs_as_it_is(tiny_directory: Callable[[str], Path]) -> None:
    """In the middle of sequences, and while steps run on another thread."""
    ours = native(tiny_directory("qwen3-next"))
    tokens = prompt(60, seed=4)
    alone = ours.step([StepInput(ours.sequence(60), tokens)], every_row=True)
    free, layers = ours.cache_free, attention_layers(ours)
    seen = {layer: ours.look(AttentionMap(layer, 1, 64), tokens).values for layer in layers}
    assert ours.cache_free == free
    rows, sequence = [], ours.sequence(60)
    with ThreadPoolExecutor(2) as threads:
        looks = [threads.submit(ours.look, AttentionMap(layer, 1, 64), tokens) for layer in layers * 5]
        rows += [ours.step([StepInput(sequence, [token])], every_row=True) for token in tokens]
        for layer, look in zip(layers * 5, looks, strict=True):
            assert np.array_equal(look.result().values, seen[layer])
    assert np.array_equal(np.concatenate(rows), alone)


@pytest.mark.parametrize("name", ["windowed", "latent"])
def test_with_an_adapter(name: str) -> None:
    spec = MODELS[name]()
    tensors, loras = random_tensors(spec), adapters(spec)
    packed = packing.native_executor(spec, tensors, "F32", adapters=loras, threads=2)
    plain, tokens = TorchExecutor(spec, tensors, loras), prompt(20, VOCAB)
    for view in (AttentionMap(1, 1, 20), LogitLens()):
        bare, one, two = (packed.look(view, tokens, adapter).values for adapter in (None, "one", "two"))
        assert not np.array_equal(bare, one) and not np.array_equal(one, two)
        for adapter, ours in (("one", one), ("two", two)):
            assert np.abs(plain.look(view, tokens, adapter).values - ours).max() < 2e-2
    with pytest.raises(RequestRefused, match="three"):
        packed.look(LogitLens(), tokens, "three")


def test_a_long_text_takes_several_passes() -> None:
    """And shows the same: the passes are those that the engine counts."""
    spec = MODELS["windowed"]()
    tensors = random_tensors(spec)
    whole = packing.native_executor(spec, tensors, "Q8_0", threads=2)
    pieces = packing.native_executor(spec, tensors, "Q8_0", threads=2, most_rows=16)
    tokens = prompt(100, VOCAB)
    for view in (AttentionMap(1, 1, 128), LogitLens()):
        one, several = whole.look(view, tokens), pieces.look(view, tokens)
        assert list(one.passes) == [100] and list(several.passes) == [16] * 6 + [4]
        assert np.array_equal(one.values, several.values)


MEMORY = """
import resource
from dataclasses import replace
from tests.executors.packing import native_executor
from tests.executors.tiny import SILU, Dense, Full, Positions, attention, layer, model, random_tensors
from trilens.decoder.look import LogitLens

layers = [layer(attention(Positions(i, 2, 16, 16, Full())), Dense(96, SILU)) for i in range(24)]
spec = replace(model(layers), vocab=150_000)
executor = native_executor(spec, random_tensors(spec), "F32", threads=1)
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
executor.look(LogitLens(), list(range(1, 20)))
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere the peak of memory has another unit")
def test_the_lens_has_memory_for_one_row() -> None:
    """All layers' logits are 14 MB. A few buffers of that size are used, not eight rows of each."""
    done = subprocess.run([sys.executable, "-c", MEMORY], cwd=Path(__file__).parents[2], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    assert int(done.stdout) < 100 * 1024  # KiB
