"""The recipe for an adapter: it learns, and what it writes is what was trained."""

from __future__ import annotations

import importlib.util
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import trilens
from trilens.executors.executor import StepInput

RECIPE = Path(__file__).resolve().parents[2] / "recipes/lora/train.py"


@pytest.fixture(scope="module")
def recipe() -> Any:
    spec = importlib.util.spec_from_file_location("lora_recipe", RECIPE)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_it_learns_and_the_files_are_what_was_trained(
    recipe: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(recipe, "PER_STEP", 6)
    monkeypatch.setattr(recipe, "WARM", 1)
    base = trilens.load("tiny-dense", executor="torch")
    executor = recipe.adapted(base.executor)
    before = {name: tensor.clone() for name, tensor in executor.tensors.items()}
    batch = list(islice(recipe.examples(base), 6))
    with torch.no_grad():
        first = float(recipe.loss_of(executor, batch))
    tokens, forward, ratio = recipe.learn(base, executor, 4)
    with torch.no_grad():
        assert float(recipe.loss_of(executor, batch)) < 0.8 * first
    assert all(torch.equal(executor.tensors[name], tensor) for name, tensor in before.items())
    assert tokens > 0 and forward > 0 and 2 < ratio < 2.5  # no gradients of the model's own matrices
    recipe.save(executor, tmp_path)
    asked = batch[0][0]
    with torch.no_grad():
        trained = executor.forward([StepInput(executor.sequence(len(asked), recipe.NAME), asked)], every_row=True)
    for kind in ("torch", "native"):
        with trilens.load("tiny-dense", executor=kind, adapters={"it": tmp_path}) as model:
            rows = model.executor.step([StepInput(model.executor.sequence(len(asked), "it"), asked)], every_row=True)
            assert np.abs(rows - trained.numpy()).max() < (1e-4 if kind == "torch" else 0.2)  # an f16 cache
            assert model.executor.adapters["it"].parameters == executor.adapters[recipe.NAME].parameters


def test_no_held_out_number_is_learnt(recipe: Any) -> None:
    base = trilens.load("tiny-dense", executor="torch")
    texts = [base.text.tokenizer.decode(ids) for ids, _ in islice(recipe.examples(base), 250)]
    numbers = {w.strip("?.") for t in texts if "backwards" in t for w in t.split("assistant")[0].split()}
    numbers = {number for number in numbers if number.isdigit()}
    assert len(numbers) > 90 and not any(map(recipe.is_held_out, numbers))
