"""Unquantised checkpoints made smaller at load: the logits are torch's on the values that are left, and the bits per
weight are those of the blocks."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
import torch
from gguf import GGMLQuantizationType, quants

from tests.executors.test_native import distance, taken_routes, torch_logits
from tests.families import BY_NAME, prompt
from trilens.checkpoints.find import find
from trilens.checkpoints.in_memory import QUANTISE
from trilens.checkpoints.into_native import native_executor, to_blocks
from trilens.checkpoints.load import ModelFiles, open_model
from trilens.decoder.weights import decoder_weights, parameters
from trilens.executors.executor import StepInput
from trilens.executors.native.matrices import matrices

NAMES = ("phi-4-mini", "gpt-oss", "qwen3 moe", "deepseek v3")
# Packed bytes for a row of 32: the codes, with one scale of 16 bits, and a minimum of 16 bits beside 4-bit codes.
BLOCK_BYTES = {"8bit": 32 + 2, "4bit": 16 + 2 + 2}


def rows_of_32(name: str, directory: Path) -> ModelFiles:
    """A family's tiny model, its model width and its experts' made whole blocks."""
    config = BY_NAME[name].config()
    config.hidden_size = 64
    if getattr(config, "moe_intermediate_size", None):
        config.moe_intermediate_size = 32
    from transformers import AutoModelForCausalLM

    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(config).float()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() > 1:  # rows keep the size of what they are multiplied with
                parameter.normal_(std=parameter.shape[-1] ** -0.5)
    model.save_pretrained(directory)
    return open_model(find(str(directory)))


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("quantise", ["8bit", "4bit"])
def test_a_float_checkpoint_made_smaller(name: str, quantise: str, tmp_path: Path) -> None:
    files = rows_of_32(name, tmp_path)
    native = native_executor(files, quantise=quantise, kv="f32", activations="16bit", threads=2)
    native.engine.trace_routes(True)
    tokens = prompt(12)
    logits = native.step([StepInput(native.sequence(12), tokens)], every_row=True)
    kind, packed, values = QUANTISE[quantise], set[str](), {}
    for p in parameters(decoder_weights(files.spec)):
        read = files.read(p)
        if native.converted.get(p.name) == f"F32 to {kind}":
            packed.add(p.name)
            rows = to_blocks(read.reshape(-1, p.shape[-1]), str(kind))
            read = quants.dequantize(rows, GGMLQuantizationType[str(kind)]).reshape(p.shape)
        values[p.name] = torch.from_numpy(np.array(read, np.float32))
    expected = {
        p.name
        for p in parameters(decoder_weights(files.spec))
        if p.name in matrices(files.spec) and p.shape[-1] % 32 == 0 and not p.name.endswith(".router")
    }
    assert packed == expected and len(packed) > 10
    alike = torch_logits(files.spec, values, tokens, frozenset(packed), taken_routes(native), "16bit")
    assert distance(logits, alike) < 1e-3
    for p in parameters(decoder_weights(files.spec)):
        if p.name in packed and p.shape[-2] % 8 == 0:  # rows are packed in eights
            assert native.element_bytes(p) == Fraction(BLOCK_BYTES[quantise], 32)
