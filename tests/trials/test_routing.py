"""The trace: what it counts is what torch's router chooses, and a model without a router shows the trivial one."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path

import pytest
import torch

import trilens
from tests.command import command
from trilens.decoder.decoder import decode
from trilens.errors import UsageError
from trilens.executors.executor import StepInput
from trilens.executors.torch import TorchExecutor, TorchOps
from trilens.trials.heat_map import heat_map
from trilens.trials.routing import Trace, trace

QUESTION = "What is 47 times 86?"


@pytest.fixture(scope="module")
def traced() -> Trace:
    return trace(trilens.load("tiny-routed", kv="f32"), QUESTION, thinking=True, temperature=0)


def test_the_trace_is_what_torch_routes(traced: Trace) -> None:
    executor = trilens.load("tiny-routed", executor="torch").executor
    assert isinstance(executor, TorchExecutor)
    ops = TorchOps(executor, [StepInput(executor.sequence(len(traced.tokens)), traced.tokens)], every_row=True)
    with torch.inference_mode():
        decode(ops, executor.spec, executor.weights)
    assert len(traced.layers) == len(ops.routes) == 4
    for ours, theirs in zip(traced.layers, ops.routes, strict=True):
        assert (ours.ids == theirs.ids.numpy()).all()
        assert abs(ours.weights - theirs.weights.numpy()).max() < 1e-4


def test_phases_and_numbers(traced: Trace) -> None:
    assert [p for i, p in enumerate(traced.phases) if i == 0 or traced.phases[i - 1] != p] == [
        "prompt",
        "thinking",
        "answer",
    ]
    assert len(traced.phases) == len(traced.tokens) == len(traced.texts)
    for layer in traced.layers:
        assert layer.load.sum() == len(traced.tokens) * 2
        assert 0 < layer.entropy <= 3 and 0 < layer.coverage <= 1 and 2 <= layer.hot <= 8
        assert layer.distinct(1) == 2
        apart = traced.apart(layer, "prompt", "answer")
        assert apart is not None and 0 < apart <= 1
    assert traced.apart(traced.layers[0], "prompt", "prompt") == 0
    again = trace(trilens.load("tiny-routed", kv="f32"), QUESTION, thinking=True, temperature=0)
    assert again.replay == traced.replay
    assert "hot set" in traced.verdict


def test_a_model_without_a_router_takes_the_same_path_twice() -> None:
    found = trace(trilens.load("tiny-dense"), QUESTION, thinking=True, temperature=0)
    assert found.layers == () and found.twice
    assert found.verdict == "every weight, for every token; run twice: the same path and the same bits"
    with pytest.raises(UsageError, match="no routing to draw"):
        heat_map(found, Path("x.svg"))


def test_on_the_command_line(tmp_path: Path) -> None:
    def run(*words: str) -> str:
        return command("trace", "tiny-routed", "Add 3 and 4.", *words, check=True).stdout

    found = json.loads(run("--json", "--plot", str(tmp_path / "heat.svg")))
    assert (tmp_path / "heat.svg").read_text().lstrip().startswith("<?xml")
    rows = list(csv.DictReader(io.StringIO(run("--csv"))))
    assert len(rows) == len(found["tokens"]) * 4 * 2
    assert {row["phase"] for row in rows} == {"prompt", "thinking", "answer"}
    assert found["replay"] in run()
