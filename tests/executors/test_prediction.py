"""The block for multi-token prediction: against transformers' own layers, in numbers of parameters, and natively."""

from __future__ import annotations

import json
from fractions import Fraction
from pathlib import Path

import pytest
import torch

from tests.executors.test_accountant import counted
from tests.families import prompt
from tests.prediction import PLACES, saved_with_block
from trilens.checkpoints.find import find
from trilens.checkpoints.into_torch import torch_executor
from trilens.checkpoints.load import open_model
from trilens.decoder.weights import own_parameters, parameters, prediction_weights
from trilens.errors import UnsupportedModel
from trilens.executors.accountant import Span, StepCounter, prediction_cost, prediction_parameters, step_cost
from trilens.spec.huggingface import read_config

MODELS = json.loads((Path(__file__).parents[1] / "data" / "configs.json").read_text())


@pytest.mark.parametrize("name", PLACES)
def test_parity(name: str, tmp_path: Path) -> None:
    directory, block = saved_with_block(name, tmp_path)
    executor = torch_executor(open_model(find(str(directory)), prediction=True))
    tokens = prompt(90)
    with torch.inference_mode():
        expected, got = block(tokens), executor.predictions(tokens)
    done = counted(lambda: executor.predictions(tokens))  # the model's layers, then the block
    model, own = step_cost(executor.spec, [Span(0, 90, 0)]), prediction_cost(executor.spec, [Span(0, 89, 89)])
    assert done == model.masked_flops() + own.masked_flops()
    assert got.shape == expected.shape
    assert float((got - expected).abs().max()) < 1e-4 * max(1.0, float(expected.abs().max()))
    assert float(expected.std()) > 0.1  # the logits say something


@pytest.mark.parametrize("name", PLACES)
def test_its_parameters_are_those_of_the_file(name: str, tmp_path: Path) -> None:
    directory, block = saved_with_block(name, tmp_path)
    files = open_model(find(str(directory)), prediction=True)
    sizes = sum(tensor.numel() for tensor in block.tensors(name).values())
    assert sum(p.size for p in own_parameters(prediction_weights(files.spec))) == sizes
    touched = {p.parameter.name for p in prediction_cost(files.spec, [Span(3, 2, 1)]).read().values()}
    matrices = {p.name for p in parameters(prediction_weights(files.spec)) if len(p.shape) > 1}
    assert matrices <= touched
    counter = StepCounter(files.spec, lambda p: Fraction(len(p.name) % 7 + 1, 3), prediction=True)
    for past, new, logits in ((0, 1, 1), (0, 1, 0), (3, 40, 1), (0, 300, 0), (17, 20, 20)):
        whole = prediction_cost(files.spec, [span := Span(past, new, logits)])
        assert counter.flops(new, logits, [span]) == whole.flops(), span
        assert counter.weight_bytes(new, logits) == whole.weight_bytes(counter.bytes_per_element), span
    without = open_model(find(str(directory)))
    assert not without.has_prediction and set(without.left_out.values()) == {"layers that predict further tokens"}


@pytest.mark.parametrize("name", sorted(MODELS))
def test_published_models(name: str) -> None:
    """The block's parameters by its tensors are those that the published totals ask for."""
    try:
        reading = read_config(MODELS[name]["config"], name)
    except UnsupportedModel:
        pytest.skip("is not read")
    counted = ("layers that predict further tokens", "their copies of the embedding and the head")
    assert prediction_parameters(reading.spec) == sum(reading.not_counted.get(part, 0) for part in counted)


def test_a_file_without_a_block_is_refused(tmp_path: Path, tiny_directory) -> None:  # type: ignore[no-untyped-def]
    for name in ("qwen3-next", "llama 3"):
        with pytest.raises(UnsupportedModel, match="has no block for multi-token prediction"):
            open_model(find(str(tiny_directory(name))), prediction=True)
