"""Hostile configurations end in one clear line, or in a model that every executor runs with the same result."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tests.executors.packing import native_executor
from tests.executors.tiny import random_tensors
from tests.families import BY_NAME, FAMILIES
from tests.grids import thinned
from tests.spec.hostile import mutations, real_configs
from trilens.errors import BadCheckpoint, UnsupportedModel
from trilens.executors.accountant import Span, count_parameters, fixed_bytes, kv_bytes, step_cost
from trilens.executors.executor import StepInput
from trilens.executors.torch import TorchExecutor
from trilens.spec.choice import seen_whole
from trilens.spec.huggingface import read_config
from trilens.spec.model import ModelSpec, Reading

EVERY = 9  # of the real configurations' mutations one in so many is read; of the tiny families' all are
FILE = "place/config.json"


def read(what: str, fields: tuple[str, ...], config: Mapping[str, Any]) -> Reading | None:
    """The reading, or None for a configuration that is refused in one line with the file's and a field's name."""
    try:
        return read_config(config, FILE)
    except (BadCheckpoint, UnsupportedModel) as refusal:
        line = str(refusal)
        assert line.startswith(FILE + ": ") and "\n" not in line and len(line) < 1000, what
        words = set(re.findall(r"\w+", line.removeprefix(FILE)))
        assert words & {*fields, *_names(config), "model_type", "expert_intermediate_size", "num_experts_per_tok"}, (
            f"{what}: {line}"
        )
        return None


def _names(config: Mapping[str, Any]) -> Iterator[str]:
    for name, value in config.items():
        yield name
        if isinstance(value, Mapping):
            yield from _names(value)


def account(spec: ModelSpec) -> None:
    count = count_parameters(spec)
    assert count.total >= count.active > 0
    kept = fixed_bytes(spec)  # all that a model without attention keeps
    assert kv_bytes(spec, 3) + kept > 0 and kv_bytes(spec, spec.context) + kept > 0
    assert step_cost(spec, [Span(2, 5)]).flops() > 0


def readable() -> Iterator[dict[str, Any]]:
    for config in real_configs().values():
        try:
            read_config(config)
        except (BadCheckpoint, UnsupportedModel):
            continue  # its family is unknown
        yield config


def read_all(every: int) -> tuple[int, int]:
    """(configurations that were tried, those that were accepted)."""
    tried = accepted = 0
    for number, config in enumerate(readable()):
        for i, (what, fields, hostile) in enumerate(mutations(config)):
            if (i + number) % every:
                continue
            tried += 1
            reading = read(what, fields, hostile)
            accepted += reading is not None
            if reading is not None and (tried % 8 == 0 or len(reading.spec.layers) < 8):
                account(reading.spec)
    return tried, accepted


def test_published_configurations() -> None:
    tried, accepted = read_all(EVERY)
    assert tried > 4000 and 100 < accepted < tried


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
    program = "from tests.spec.test_hostile import read_all; print(*read_all(120))"
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


@pytest.mark.parametrize("name", thinned([family.name for family in FAMILIES], 6))
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
