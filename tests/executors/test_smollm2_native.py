"""The real SmolLM2 on the native executor."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from trilens.checkpoints.find import find
from trilens.checkpoints.into_native import native_executor
from trilens.checkpoints.into_torch import torch_executor
from trilens.checkpoints.load import open_model
from trilens.executors.executor import StepInput

TEXT = (
    "The river rises in the hills above the town and runs south for forty miles before it meets the sea. In spring "
    "the water is high and brown, and the farmers who keep sheep on the low meadows move them to the slopes. In "
    "summer it is so low that children walk across it on the stones. Nobody remembers who built the bridge. It has "
    "five arches of grey stone, each a little different from the next, as if the mason had learned his trade while "
    "he was building it."
)

PEAK = """
import sys
from trilens.checkpoints.find import find
from trilens.checkpoints.into_native import native_executor
from trilens.checkpoints.load import open_model
executor = native_executor(open_model(find(sys.argv[1])))
# not getrusage's, which begins with the size of the process that was forked
[peak] = [line.split()[1] for line in open("/proc/self/status") if line.startswith("VmHWM")]
print(executor.weight_bytes, int(peak) * 1024)
"""


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="the peak is read from Linux's /proc")
def test_loading_takes_little_more_memory_than_the_packed_weights(smollm2: Path) -> None:
    done = subprocess.run([sys.executable, "-c", PEAK, str(smollm2)], check=True, capture_output=True, text=True)
    weights, peak = map(int, done.stdout.split())
    assert peak < 1.15 * weights + 200e6


def perplexity(logits: np.ndarray, tokens: list[int]) -> float:
    """Of the tokens behind the first."""
    wide = torch.from_numpy(logits[:-1]).double()
    return float(torch.nn.functional.cross_entropy(wide, torch.tensor(tokens[1:])).exp())


def test_logits_and_perplexity_stay_close_to_torchs(smollm2: Path) -> None:
    from trilens.text.model_text import read_model_text
    from trilens.text.strategy import Strategy

    files = open_model(find(str(smollm2)))
    tokens = list(read_model_text(files.found).encode(TEXT, Strategy(None, "off"), raw=True, variables={}).ids)

    with torch.inference_mode():
        by_torch = torch_executor(files)
        expected = by_torch.forward([StepInput(by_torch.sequence(len(tokens)), tokens)], every_row=True).numpy()
    for activations, far, worse in (("8bit", 0.05, 0.01), ("16bit", 2e-3, 0.001)):
        executor = native_executor(files, activations=activations)
        sequence = executor.sequence(len(tokens))
        ours = np.concatenate([executor.step([StepInput(sequence, [t])]) for t in tokens])
        assert np.linalg.norm(ours - expected) / np.linalg.norm(expected) < far
        assert abs(perplexity(ours, tokens) / perplexity(expected, tokens) - 1) < worse
