"""Bounds on the step of a Mamba-2 layer, against transformers on a whole prompt: its path for one token has none."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, GraniteMoeHybridConfig, NemotronHConfig, PretrainedConfig

from tests.executors.test_parity import CLOSE, logits_in_pieces
from tests.families import prompt
from tests.families_recurrent import GRANITE, MIXED, NEMOTRON, slowly_forgotten
from trilens.checkpoints.find import find
from trilens.checkpoints.into_torch import torch_executor
from trilens.checkpoints.load import open_model


def granite(limit: tuple[float, float]) -> PretrainedConfig:
    return GraniteMoeHybridConfig(**GRANITE, num_local_experts=0, layer_types=MIXED, time_step_limit=limit)


def nemotron(least: float) -> PretrainedConfig:
    return NemotronHConfig(**NEMOTRON, hybrid_override_pattern="M-M*", time_step_min=least)


@pytest.mark.parametrize("piece", [1, 7, 80])
@pytest.mark.parametrize(
    ("bounded", "free"),
    [
        (lambda: granite((0.3, float("inf"))), lambda: granite((0.0, float("inf")))),
        (lambda: granite((0.0, 0.8)), lambda: granite((0.0, float("inf")))),
        (lambda: granite((0.3, 0.8)), lambda: granite((0.0, 0.8))),
        (lambda: nemotron(0.1), lambda: nemotron(0.001)),
    ],
)
def test_a_bounded_step(
    bounded: Callable[[], PretrainedConfig], free: Callable[[], PretrainedConfig], piece: int, tmp_path: Path
) -> None:
    """Steps far below the bound and far above it: dt_bias from -12 to 3."""
    tokens, logits = prompt(80, seed=4), []
    for config in (bounded(), free()):
        torch.manual_seed(3)
        model = AutoModelForCausalLM.from_config(config).float().eval()
        slowly_forgotten(model)
        with torch.no_grad():
            for name, parameter in model.named_parameters():
                if name.endswith("dt_bias"):
                    parameter.copy_(torch.linspace(-12, 3, parameter.numel()))
                elif parameter.dim() > 1:
                    parameter.normal_(std=parameter.shape[-1] ** -0.5)
            logits.append(model(torch.tensor([tokens]), use_cache=False).logits[0])
        if len(logits) == 1:
            model.save_pretrained(tmp_path)
    ours = logits_in_pieces(torch_executor(open_model(find(str(tmp_path)))), tokens, piece, len(tokens))
    assert (ours - logits[0]).abs().max() < CLOSE
    assert (logits[0] - logits[1]).abs().max() > 10 * CLOSE  # the bound is felt
