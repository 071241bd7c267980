"""GGUF files with llama.cpp's names, keys and layouts give the logits of the safetensors they came from.

llama.cpp reads the same files and agrees, where it is installed: TRILENS_PEER_PYTHON names a Python that has
llama-cpp-python.
"""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from tests.executors.test_parity import expected, logits_in_pieces
from tests.families import BY_NAME, prompt
from tests.gguf_models import MODELS, UNCONFIRMED, Gguf, write
from tests.grids import first_of_each

from trilens.checkpoints.find import find
from trilens.checkpoints.into_torch import torch_executor
from trilens.checkpoints.load import open_model
from trilens.executors.torch import TorchExecutor

PEER = os.environ.get("TRILENS_PEER_PYTHON")


def tokens_of(model: Gguf) -> list[int]:
    """Enough to go beyond the window's edge or the original context, where there is one."""
    edge = BY_NAME[model.family].edge
    return prompt(2 * edge + 11 if edge else 20, seed=4)


def logits(path: Path, tokens: list[int]) -> torch.Tensor:
    executor: TorchExecutor = torch_executor(open_model(find(str(path))))
    return logits_in_pieces(executor, tokens, len(tokens), len(tokens))


@pytest.mark.parametrize("model", first_of_each(MODELS, lambda model: model.architecture), ids=str)
def test_the_same_logits_as_the_safetensors(model: Gguf, tiny_directory: Callable[[str], Path], tmp_path: Path) -> None:
    """In F16 against the safetensors rounded likewise, so that what is compared is the layout; exactly in F32."""
    source, tokens = tiny_directory(model.family), tokens_of(model)
    theirs = expected(model.family, tokens)
    wide = logits(write(model, source, tmp_path / "wide.gguf", wide=True), tokens)
    assert (wide - theirs).abs().max() < 1e-4
    half = logits(write(model, source, tmp_path / "half.gguf"), tokens)
    assert (half - rounded(model, source, tmp_path / "rounded", tokens)).abs().max() < 1e-3


def rounded(model: Gguf, source: Path, target: Path, tokens: list[int]) -> torch.Tensor:
    """The logits of the safetensors, each matrix that the F16 file holds in F16 rounded to it."""
    executor = torch_executor(open_model(find(str(source))))
    wide = (".feed_forward.router", ".routed.router", "taps", ".bias", ".streams.predict", ".streams.correct")
    for name, tensor in executor.tensors.items():
        if tensor.dim() > 1 and not name.endswith(wide):
            executor.tensors[name] = tensor.half().float()
    return logits_in_pieces(executor, tokens, len(tokens), len(tokens))


@pytest.mark.peer
@pytest.mark.skipif(not PEER, reason="TRILENS_PEER_PYTHON names no Python with llama-cpp-python")
@pytest.mark.parametrize("model", MODELS, ids=str)
def test_llama_cpp_agrees(model: Gguf, tiny_directory: Callable[[str], Path], tmp_path: Path) -> None:
    if str(model) in UNCONFIRMED:
        pytest.skip(UNCONFIRMED[str(model)])
    path, tokens = write(model, tiny_directory(model.family), tmp_path / "model.gguf", wide=True), tokens_of(model)
    # llama.cpp looks gelu up in a table of half-precision numbers
    curved = model.architecture.startswith(("falcon", "gemma", "gpt", "phi2", "starcoder"))
    # with the same weights its qwen2vl is as far from its own qwen2, which agrees to 1e-5
    close = 5e-2 if curved else 5e-3 if model.architecture == "qwen2vl" else 1e-3
    assert np.abs(llama_cpp(path, tokens) - logits(path, tokens).numpy()).max() < close


@pytest.mark.peer
@pytest.mark.skipif(not PEER, reason="TRILENS_PEER_PYTHON names no Python with llama-cpp-python")
def test_llama_cpp_agrees_with_bambas_authors_in_another_order(
    tiny_directory: Callable[[str], Path], tmp_path: Path
) -> None:
    """The rows are what its converter gets wrong: it reorders whole heads, where half of each turns."""
    model = Gguf("gguf: bamba", "granitehybrid", {"turned": 0.5})
    path, tokens = write(model, tiny_directory(model.family), tmp_path / "model.gguf", wide=True), tokens_of(model)
    assert np.abs(llama_cpp(path, tokens) - expected(model.family, tokens).numpy()).max() < 1e-4


def llama_cpp(path: Path, tokens: list[int]) -> np.ndarray:
    """llama.cpp's logits, [tokens, vocab]."""
    assert PEER
    script, out = Path(__file__).with_name("llama_cpp_logits.py"), path.with_suffix(".npy")
    ran = subprocess.run([PEER, script, path, json.dumps(tokens), out], capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stderr[-2000:]
    return np.asarray(np.load(out))
