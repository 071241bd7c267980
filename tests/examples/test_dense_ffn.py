"""The example's feed-forward is the decoder's: the same numbers from the same weights, the same count of operations."""

from __future__ import annotations

import runpy
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

import trilens
from trilens.decoder.ffn import dense_ffn
from trilens.decoder.ops import Part
from trilens.decoder.weights import DenseWeights
from trilens.executors.accountant import token_cost
from trilens.executors.executor import StepInput
from trilens.executors.torch import TorchExecutor, TorchOps
from trilens.spec.model import Dense

DenseFFN = runpy.run_path(str(Path(__file__).parents[2] / "examples/dense_ffn.py"))["DenseFFN"]


@pytest.mark.parametrize("family", ["llama 3", "qwen3", "mistral"])
def test_it_is_the_decoder_s(family: str, tiny_executor: Callable[[str], TorchExecutor]) -> None:
    executor = tiny_executor(family)
    spec, ops = executor.spec, TorchOps(executor, [StepInput(executor.sequence(1), [0])])
    torch.manual_seed(0)
    x, flops = torch.randn(5, spec.width), 0
    for number, (layer, weights) in enumerate(zip(spec.layers, executor.weights.layers, strict=True)):
        ffn, own = layer.feed_forward, weights.feed_forward
        assert isinstance(ffn, Dense) and isinstance(own, DenseWeights) and own.gate is not None
        lesson = DenseFFN(spec.width, ffn.width)
        lesson.load_state_dict(
            {f"{name}.weight": executor.tensors[getattr(own, name).weight.name] for name in ("gate", "up", "down")}
        )
        with torch.inference_mode():
            expected = dense_ffn(ops, number, ffn, own, x)
            assert expected.abs().max() > 0
            torch.testing.assert_close(lesson(x), expected, rtol=0, atol=0)
        flops += trilens.dense_ffn_flops_per_token(spec.width, ffn.width)
    assert token_cost(spec).flops(Part.FEED_FORWARD) == flops
