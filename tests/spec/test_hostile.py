"""Hostile configurations end in one clear line, or in a model that every executor runs with the same result."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest
import torch

from tests.executors.packing import native_executor
from tests.executors.tiny import random_tensors
from tests.families import BY_NAME, FAMILIES
from tests.grids import thinned
from tests.spec.hostile import account, mutations, read, read_all, readable
from trilens.executors.accountant import count_parameters
from trilens.executors.executor import StepInput
from trilens.executors.torch import TorchExecutor
from trilens.spec.choice import seen_whole
from trilens.spec.huggingface import read_config
from trilens.spec.model import ModelSpec


@pytest.mark.parametrize("every", [54, pytest.param(3, marks=pytest.mark.slow)])
def test_published_configurations(every: int) -> None:
    """Of their mutations one in so many is read; of the tiny families' all are."""
    tried, accepted = read_all(every)
    assert tried > 36_000 / every and 100 < accepted < tried


LISTED: dict[str, object] = {
    "lists": [[]] * 100,
    "nulls": [None] * 100,
    "numbers beyond a float": [10**400] * 100,
    "numbers that differ": [float(n) for n in range(100)],
    "a digit that is no number": "²",
}


def test_lists_texts_and_mappings_that_hold_something_else() -> None:
    tried = 0
    for config in readable():
        for name, value in config.items():
            if isinstance(value, list | str | Mapping):
                for what, hostile in LISTED.items():
                    tried += 1
                    read(f"{name} = {what}", (name,), {**config, name: hostile})
    assert tried > 2000


def test_without_asserts() -> None:
    """The same under `python -O`, in a process of its own: whatever ends it shows in how it ends."""
    program = "from tests.spec.hostile import read_all; print(*read_all(120))"
    done = subprocess.run(
        [sys.executable, "-O", "-c", program],
        cwd=Path(__file__).parents[2],
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    tried, accepted = map(int, done.stdout.split())
    assert tried > 300 and accepted > 3


@pytest.mark.parametrize("name", thinned([family.name for family in FAMILIES], 9))
def test_tiny_families(name: str) -> None:
    """What is accepted is run by torch and by the native executor, which agree."""
    family = BY_NAME[name]
    config = json.loads(json.dumps({**family.config().to_dict(), **family.overrides}))
    seen = {read_config(config).spec}
    ran = 0
    for number, (what, fields, hostile) in enumerate(mutations(config)):
        reading = read(what, fields, hostile)
        if reading is None or reading.spec in seen:
            continue
        seen.add(reading.spec)
        if len(reading.spec.layers) > 8 or count_parameters(reading.spec).total > 2_000_000:
            continue
        account(reading.spec)
        if number % 4 == len(name) % 4:
            ran += 1
            assert_same_logits(reading.spec, what)
    assert len(seen) > 10 and ran


def assert_same_logits(spec: ModelSpec, what: str) -> None:
    tensors, tokens = random_tensors(spec), [1, 0, 1, 1, 0, 1][: seen_whole(spec)]
    native = native_executor(spec, tensors, "F32", threads=1, kv="f32", kv_limit=1 << 26)
    ours = native.step([StepInput(native.sequence(len(tokens)), tokens)], every_row=True)
    executor = TorchExecutor(spec, tensors)
    with torch.no_grad():
        theirs = executor.forward([StepInput(executor.sequence(len(tokens)), tokens)], every_row=True).numpy()
    assert np.isfinite(theirs).all(), what
    distance = float(np.linalg.norm(ours - theirs) / max(float(np.linalg.norm(theirs)), 1e-30))
    assert distance < 1e-3, f"{what}: {distance}"
