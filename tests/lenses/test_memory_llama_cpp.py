"""Memory as llama.cpp itself logs it, for small random files of different mechanisms.

TRILENS_PEER_PYTHON names a Python that has llama-cpp-python.
"""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from benchmarks import models

from tests.gguf_models import MODELS, write
from trilens.checkpoints.find import find
from trilens.checkpoints.gguf import read_gguf
from trilens.checkpoints.load import read_spec
from trilens.lenses.memory.job import Job
from trilens.lenses.memory.memory import llama_memory

PEER = os.environ.get("TRILENS_PEER_PYTHON")
TYPES = {"f32": 0, "f16": 1, "q4_0": 2, "q8_0": 8}
PARTS = ("model", "KV", "RS", "compute", "output")
MIB = 2**20
WIDE = "heads of 64"  # which blocks of 32 fit


@dataclass(frozen=True)
class Case:
    """`where`: a part of the model's name among `tests.gguf_models`."""

    where: str
    mechanism: str
    job: Job
    ubatch: int = 512

    def __str__(self) -> str:
        return f"{self.mechanism}: {self.where}, {self.job.context} x {self.job.batch}, {self.job.key_type}"


CASES = [
    Case("llama 2 (llama)", "plain", Job(4096)),
    Case("llama 3.1 (llama)", "grouped", Job(8192), 64),
    Case("llama 3.2 (llama)", "tied", Job(1000)),
    Case("mistral nemo (llama)", "a stated head size", Job(8192, 2), 64),
    Case("qwen3 (qwen3)", "norms on queries", Job(4096, 3), 32),
    Case("gemma 3 (gemma3)", "windowed", Job(8192), 128),
    Case("gpt-oss (gpt-oss)", "windowed and routed", Job(8192), 64),
    Case("gemma 4 E2B (gemma4)", "shared caches", Job(4096), 64),
    Case("gemma 4 26B-A4B (gemma4)", "dense beside routed", Job(4096), 64),
    Case("deepseek v3 (deepseek2)", "latent", Job(8192), 64),
    Case("deepseek v3 (deepseek2, one kv_b)", "latent, expanded", Job(4096), 64),
    Case("mixtral (llama)", "routed", Job(4096, 2), 64),
    Case("glm-4.5 (glm4moe)", "routed and shared", Job(2048)),
    Case("lfm2 (lfm2)", "fixed states", Job(512, 32), 64),
    Case("lfm2 moe (lfm2moe)", "fixed states, routed", Job(4096, 2), 64),
    Case("qwen3-next (qwen3next)", "delta rule, routed", Job(4096), 64),
    Case("qwen3.5 (text) (qwen35)", "delta rule", Job(4096, 2), 64),
    Case("kimi linear (kimi-linear)", "delta rule by column, latent", Job(4096), 64),
    Case("granite 4 h (granitehybrid)", "Mamba-2", Job(4096), 64),
    Case("nemotron-h (nemotron_h)", "Mamba-2, layers of one block", Job(4096, 2), 64),
    Case("falcon-h1 (falcon-h1)", "Mamba-2 beside attention", Job(4096), 64),
    Case("llama 2 (llama)", "KV in 32 bits", Job(4096, 1, "f32", "f32"), 64),
    Case(WIDE, "KV in 8 bits", Job(8192, 1, "q8_0", "q8_0"), 64),
    Case(WIDE, "K in 8 bits, V in 4", Job(8192, 2, "q8_0", "q4_0"), 64),
]


@pytest.mark.peer
@pytest.mark.skipif(not PEER, reason="TRILENS_PEER_PYTHON names no Python with llama-cpp-python")
@pytest.mark.parametrize("case", CASES, ids=str)
def test_as_llama_cpp_logs_it(case: Case, tiny_directory: Callable[[str], Path], tmp_path: Path, smollm2: Path) -> None:
    path = file_of(case, tiny_directory, tmp_path, smollm2)
    logged = log_of(path, case)
    found = find(str(path))
    checkpoint = read_gguf(path)
    weights = sum(tensor.nbytes for tensor in checkpoint.tensors.values())
    expanded = "blk.0.attn_kv_b.weight" in checkpoint.tensors
    checkpoint.close()
    made = llama_memory(read_spec(found).spec, case.job, weights, ubatch=case.ubatch, expanded=expanded)
    assert made.scratch is not None
    assert made.weights == logged["weights"]
    assert made.weights == pytest.approx(logged["model"], abs=0.006 * MIB)  # between tensors a few bytes are left
    caches = 2  # each of which is logged with two digits
    assert made.kv == pytest.approx(logged["KV"], abs=0.005 * caches * MIB)
    assert made.fixed == pytest.approx(logged["RS"], abs=0.005 * MIB)
    assert made.scratch == pytest.approx(logged["compute"] + logged["output"], rel=0.2)
    total = sum(logged[what] for what in PARTS)
    if (logged["model"] + logged["KV"] + logged["RS"]) / total >= 0.8:
        assert made.total == pytest.approx(total, rel=0.05)


@pytest.mark.peer
@pytest.mark.skipif(not PEER, reason="TRILENS_PEER_PYTHON names no Python with llama-cpp-python")
@pytest.mark.parametrize("job", [Job(4096), Job(8192, 4)], ids=str)
def test_a_hybrid_of_a_billion_within_one_percent(job: Job, tmp_path: Path, smollm2: Path) -> None:
    path = tmp_path / "hybrid.gguf"
    models.write(models.SHAPES["hybrid"], "Q4_0", path, smollm2)
    logged = log_of(path, Case("", "", job))
    checkpoint = read_gguf(path)
    weights = sum(tensor.nbytes for tensor in checkpoint.tensors.values())
    checkpoint.close()
    made = llama_memory(read_spec(find(str(path))).spec, job, weights)
    assert made.total == pytest.approx(sum(logged[what] for what in PARTS), rel=0.01)


def file_of(case: Case, tiny_directory: Callable[[str], Path], tmp_path: Path, tokenizer: Path) -> Path:
    path = tmp_path / "model.gguf"
    if case.where == WIDE:
        models.write(models.Shape("llama", 4, 128, 4, 2, 64, 256), "Q4_0", path, tokenizer)
        return path
    model = next(m for m in MODELS if str(m) == case.where)
    return write(model, tiny_directory(model.family), path)


def log_of(path: Path, case: Case) -> dict[str, Any]:
    assert PEER
    script = Path(__file__).with_name("llama_cpp_memory.py")
    job = case.job
    numbers = (job.context, case.ubatch, job.batch, TYPES[job.key_type], TYPES[job.value_type])
    ran = subprocess.run([PEER, script, path, *map(str, numbers)], capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stderr[-2000:]
    logged: dict[str, Any] = json.loads(ran.stdout)
    return logged
