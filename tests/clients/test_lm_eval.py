"""lm-evaluation-harness over HTTP, with a task from a local file: log likelihoods as transformers has them."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM

import trilens
from tests.clients.conftest import MINUTES, _venv
from tests.serve.conftest import served

pytestmark = pytest.mark.clients
QUESTIONS: list[dict[str, Any]] = [
    {"question": "The capital of France is", "choices": ["Paris", "Rome", "a river"], "answer": 0},
    {"question": "Water freezes at zero degrees", "choices": ["Celsius", "Kelvin", "Newton"], "answer": 0},
    {"question": "Two plus two is", "choices": ["four", "five", "a colour"], "answer": 0},
    {"question": "A spider has", "choices": ["eight legs", "two wheels", "no body"], "answer": 0},
    {"question": "The opposite of hot is", "choices": ["warm", "cold", "loud"], "answer": 1},
    {"question": "Bread is made from", "choices": ["flour", "iron", "glass"], "answer": 0},
]
TASK = """task: local_questions
dataset_path: json
dataset_kwargs:
  data_files:
    test: {file}
test_split: test
output_type: multiple_choice
doc_to_text: "Answer the question.\\n{{{{question}}}}"
doc_to_choice: choices
doc_to_target: answer
metric_list:
  - metric: acc
"""


def test_log_likelihoods(smollm2: Path, installed: Path, tmp_path: Path) -> None:
    (tmp_path / "questions.jsonl").write_text("\n".join(map(json.dumps, QUESTIONS)))
    (tmp_path / "task.yaml").write_text(TASK.format(file=tmp_path / "questions.jsonl"))
    program = _venv(installed / "lm_eval", ("lm-eval[api]",)) / "lm_eval"
    with served(["smollm2"]) as running:
        settings = f"model=smollm2,base_url={running.url}/v1/completions,num_concurrent=1,tokenizer_backend=remote"
        command = [str(program), "run", "--model", "local-completions", "--model_args", settings]
        command += ["--tasks", "local_questions", "--include_path", str(tmp_path), "--batch_size", "4"]
        command += ["--output_path", str(tmp_path / "out"), "--log_samples"]
        offline = {"HF_HUB_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1", "HF_HOME": str(tmp_path / "hf")}
        environment = {"PATH": os.environ["PATH"], "HOME": str(tmp_path), "OPENAI_API_KEY": "none", **offline}
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=8 * MINUTES, check=False, env=environment, cwd=tmp_path
        )
        assert done.returncode == 0, done.stderr[-3000:]
    [samples] = (tmp_path / "out").rglob("samples_*.jsonl")
    theirs = AutoModelForCausalLM.from_pretrained(
        str(smollm2.parent), gguf_file=smollm2.name, dtype=torch.float32, attn_implementation="eager"
    ).eval()
    tokenizer = trilens.load("smollm2").text.tokenizer
    seen = 0
    for sample in map(json.loads, samples.read_text().splitlines()):
        for arguments, answer in zip(sample["arguments"].values(), sample["resps"], strict=True):
            before = tokenizer.encode(arguments["arg_0"])
            whole = tokenizer.encode(arguments["arg_0"] + arguments["arg_1"])
            with torch.no_grad():
                numbers = theirs(torch.tensor([whole])).logits[0].double().log_softmax(-1)
            expected = sum(float(numbers[i - 1, whole[i]]) for i in range(len(before), len(whole)))
            assert float(answer[0][0]) == pytest.approx(expected, rel=0.005)
            seen += 1
    assert seen == sum(len(one["choices"]) for one in QUESTIONS)
