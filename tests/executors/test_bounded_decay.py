"""A decay that is bounded below (GLM-5-next's), against transformers' own module: no whole such model is read."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from transformers.models.glm5_next.configuration_glm5_next import Glm5NextTextConfig
from transformers.models.glm5_next.modeling_glm5_next import Glm5NextTextLinearAttention

from tests.executors.tiny import SILU, layer, random_tensors
from trilens.decoder.recurrence import gated_recurrence
from trilens.decoder.weights import GatedRecurrenceWeights
from trilens.executors.executor import StepInput
from trilens.executors.torch import TorchExecutor, TorchOps
from trilens.spec.families.recurrent import delta_rule
from trilens.spec.model import (
    Curve,
    Dense,
    GatedRecurrence,
    Head,
    ModelSpec,
    Norm,
    OutputGate,
    Recurrence,
    SigmoidDecay,
)

WIDTH, HEADS, DIM, BOUND, TOKENS = 48, 3, 16, 5.0, 90


@pytest.fixture(scope="module")
def theirs() -> Glm5NextTextLinearAttention:
    config = Glm5NextTextConfig(
        hidden_size=WIDTH,
        linear_num_heads=HEADS,
        linear_head_dim=DIM,
        linear_conv_kernel_dim=4,
        linear_lower_bound=-BOUND,
        num_hidden_layers=1,
        layer_types=["linear_attention"],
        rms_norm_eps=1e-5,
    )
    torch.manual_seed(0)
    module = Glm5NextTextLinearAttention(config, 0).float().eval()
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.normal_(std=parameter.shape[-1] ** -0.5 if parameter.dim() > 1 else 0.5)
    return module


def ours(theirs: Glm5NextTextLinearAttention, bound: float) -> TorchExecutor:
    """One layer whose mixer has the module's weights."""
    rule = Recurrence(HEADS, HEADS, DIM, DIM, delta=True, vector_decay=True)
    output = OutputGate(Curve.SIGMOID, Norm(1e-5), parts=HEADS)
    mixer = replace(delta_rule(rule, 4, output, rank=DIM), decay=SigmoidDecay(bound))
    spec = ModelSpec("", 96, WIDTH, 512, (layer(mixer, Dense(8, SILU)),), (mixer.state,), Norm(1e-5), Head(tied=True))
    w: dict[str, Any] = dict(theirs.state_dict())
    names = {
        **{name: f"{name}_proj" for name in "qkv"},
        "step_down": "forget_gate.f_a_proj",
        "step": "forget_gate.f_b_proj",
        "beta": "b_proj",
        "gate_down": "g_a_proj",
        "gate": "g_b_proj",
        "norm": "o_norm",
        "out": "o_proj",
    }
    at = "layers.0.recurrence."
    tensors = {**random_tensors(spec), **{at + name: w[theirs + ".weight"] for name, theirs in names.items()}}
    taps = w["conv1d.weight"][:, 0].chunk(3)
    tensors |= {at + f"{name}_taps": part for name, part in zip("qkv", taps, strict=True)}
    tensors[at + "step.bias"] = w["forget_gate.dt_bias"]
    tensors[at + "rate"] = w["forget_gate.A_log"].exp()
    return TorchExecutor(spec, tensors)


def mixed(executor: TorchExecutor, x: torch.Tensor, piece: int) -> torch.Tensor:
    sequence, rows = executor.sequence(TOKENS), []
    mixer, weights = executor.spec.layers[0].mixer, executor.weights.layers[0].mixer
    assert isinstance(mixer, GatedRecurrence) and isinstance(weights, GatedRecurrenceWeights)
    for part in x.split(piece):
        ops = TorchOps(executor, [StepInput(sequence, [0] * len(part))])
        rows.append(gated_recurrence(ops, 0, mixer, weights, part))
        sequence.fixed = ops.fixed[0]
        sequence.length += len(part)
    return torch.cat(rows)


@pytest.mark.parametrize("piece", [1, 7, TOKENS])
def test_it_is_transformers_own(theirs: Glm5NextTextLinearAttention, piece: int) -> None:
    x = torch.randn(TOKENS, WIDTH, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        expected = theirs(x[None])[0]
        assert (mixed(ours(theirs, BOUND), x, piece) - expected).abs().max() < 1e-5
        assert (mixed(ours(theirs, 1.0), x, piece) - expected).abs().max() > 1e-3


def test_gradients_reach_every_weight(theirs: Glm5NextTextLinearAttention) -> None:
    executor = ours(theirs, BOUND)
    for name, tensor in executor.tensors.items():
        executor.tensors[name] = tensor.detach().clone().requires_grad_("recurrence" in name)
    mixed(executor, torch.randn(20, WIDTH), 7).square().sum().backward()
    for name, tensor in executor.tensors.items():
        if "recurrence" in name:
            assert tensor.grad is not None and tensor.grad.abs().sum() > 0, name
