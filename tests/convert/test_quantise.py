"""Models to GGUF files: the same logits where nothing is rounded, llama.cpp's choice of types, and no half a file."""

from __future__ import annotations

import json
import os
import shutil
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM, Qwen2Config, Qwen2ForCausalLM

from tests.command import command
from tests.families import TINY
from trilens.checkpoints.find import find
from trilens.checkpoints.gguf import read_gguf
from trilens.checkpoints.into_torch import torch_executor
from trilens.checkpoints.load import open_model
from trilens.convert.file_types import FILE_TYPES, Facts, choose_types, file_type
from trilens.convert.write_gguf import quantise
from trilens.errors import BadCheckpoint, UnsupportedModel, UsageError
from trilens.executors.executor import StepInput
from trilens.text.tokenizer import Tokenizer

PEER = os.environ.get("TRILENS_PEER_PYTHON")
PLAIN: dict[str, Any] = {**TINY, "vocab_size": 453, "pad_token_id": None, "bos_token_id": 1, "eos_token_id": 2}
LLAMA3 = {
    "rope_type": "llama3",
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 32,
    "rope_theta": 10000.0,
}
MODELS: dict[str, Callable[[], Any]] = {
    "llama": lambda: LlamaForCausalLM(LlamaConfig(**PLAIN)),
    "llama 3.1": lambda: LlamaForCausalLM(LlamaConfig(**PLAIN, rope_parameters=LLAMA3)),
    "llama, linear": lambda: LlamaForCausalLM(
        LlamaConfig(**PLAIN, rope_parameters={"rope_type": "linear", "factor": 4.0, "rope_theta": 10000.0})
    ),
    "llama, biases": lambda: LlamaForCausalLM(LlamaConfig(**PLAIN, attention_bias=True)),
    "llama, tied": lambda: LlamaForCausalLM(LlamaConfig(**{**PLAIN, "tie_word_embeddings": True})),
    "qwen2": lambda: Qwen2ForCausalLM(Qwen2Config(**PLAIN)),
}


def saved(name: str, folder: Path) -> Path:
    """A directory with the model's safetensors and a tokenizer; the two models that come with trilens as they are."""
    source = find("tiny-dense").path
    if name not in MODELS:
        return find(name).path
    torch.manual_seed(0)
    model = MODELS[name]()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(0, 0.3)
    model.save_pretrained(folder)
    for file in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(source / file, folder)
    return folder


def logits(path: Path) -> np.ndarray:
    executor = torch_executor(open_model(find(str(path))))
    return executor.step([StepInput(executor.sequence(60), list(range(1, 60)))], every_row=True)


@pytest.mark.parametrize("name", [*MODELS, "tiny-dense", "tiny-routed"])
def test_safetensors_to_gguf_says_the_same(name: str, tmp_path: Path) -> None:
    source = saved(name, tmp_path / "model")
    made = quantise(find(str(source)), "F32", tmp_path / "out.gguf")
    assert set(made.types) == {"F32"} and not made.twice
    expected = logits(source)
    np.testing.assert_allclose(logits(made.path), expected, rtol=0, atol=2e-6 * np.abs(expected).max())
    text = "What is 47 times 86?\n  It's ünïcode 漢字."
    written = Tokenizer.from_gguf(read_gguf(made.path).metadata)
    assert written.encode(text) == Tokenizer.from_directory(source).encode(text)


@pytest.mark.parametrize("to", ["Q8_0", "Q4_0"])
def test_a_quantised_file_answers(to: str, tmp_path: Path) -> None:
    import trilens

    made = quantise(find("tiny-dense"), to, tmp_path / "small.gguf")
    assert made.after < made.before
    with trilens.load(str(made.path), offline=True) as model:
        assert model.generate("What is 14 plus 25?", thinking=True, temperature=0).text == "39"


def test_gguf_to_gguf_keeps_every_key(tmp_path: Path) -> None:
    first = quantise(find("tiny-routed"), "F16", tmp_path / "f16.gguf").path
    second = quantise(find(str(first)), "Q8_0", tmp_path / "q8.gguf")
    assert not second.twice
    assert quantise(find(str(second.path)), "Q4_0", tmp_path / "q4.gguf").twice
    one, other = read_gguf(first).metadata, read_gguf(second.path).metadata
    assert {k: v for k, v in one.items() if k != "general.file_type"} == {
        k: v for k, v in other.items() if k != "general.file_type"
    }
    assert (one["general.file_type"], other["general.file_type"]) == (1, 7)


# ---- which type for which tensor


Shapes = dict[str, tuple[int, ...]]


def shapes_of(layers: int, width: int, kv: int, ffn: int, *, tied: bool, vocab: int = 1024) -> Shapes:
    shapes: Shapes = {"token_embd.weight": (vocab, width), "output_norm.weight": (width,)}
    if not tied:
        shapes["output.weight"] = (vocab, width)
    for i in range(layers):
        block = {
            "attn_norm": (width,),
            "attn_q": (width, width),
            "attn_k": (kv, width),
            "attn_v": (kv, width),
            "attn_output": (width, width),
            "ffn_norm": (width,),
            "ffn_gate": (ffn, width),
            "ffn_up": (ffn, width),
            "ffn_down": (width, ffn),
        }
        shapes |= {f"blk.{i}.{name}.weight": shape for name, shape in block.items()}
    return shapes


# Counted in the files that llama.cpp makes of SmolLM2, whose rows of 576 values take no k-quants, and of a wide model.
SMOLLM2 = {
    "Q2_K": {None: 61, "Q4_0": 180, "Q3_K": 30, "Q8_0": 1},
    "Q3_K_M": {None: 61, "Q4_0": 120, "Q5_0": 58, "Q4_K": 29, "Q5_1": 2, "Q5_K": 1, "Q8_0": 1},
    "Q4_K_M": {None: 61, "Q5_0": 166, "Q4_K": 16, "Q6_K": 14, "Q8_0": 15},
    "Q6_K": {None: 61, "Q6_K": 30, "Q8_0": 181},
}


@pytest.mark.parametrize("to", SMOLLM2)
def test_rows_that_no_k_quant_fits(to: str) -> None:
    chosen = choose_types(shapes_of(30, 576, 192, 1536, tied=True), to, Facts("llama", 30, 3, 0))
    assert Counter(chosen.values()) == SMOLLM2[to]


@pytest.mark.parametrize("to", FILE_TYPES)
def test_every_type_fits_every_row(to: str) -> None:
    from trilens.checkpoints.ggml_types import BY_NAME

    for width in (2048, 576, 48, 33):
        shapes = shapes_of(8, width, width, width, tied=False)
        for name, kind in choose_types(shapes, to, Facts("llama", 8, 1, 0)).items():
            assert (kind is None) == ("norm" in name)
            assert kind is None or shapes[name][-1] % BY_NAME[kind].block == 0


def test_types_as_people_write_them() -> None:
    assert [file_type(name) for name in ("q4_k_m", "Q4_K", "q8-0", "bf16")] == ["Q4_K_M", "Q4_K_M", "Q8_0", "BF16"]
    with pytest.raises(UsageError, match="expected one of F32"):
        file_type("Q9_K")


# ---- files


def test_no_file_is_written_over_and_none_is_left_half(tmp_path: Path) -> None:
    out = tmp_path / "out.gguf"
    out.write_text("mine")
    with pytest.raises(UsageError, match="already exists"):
        quantise(find("tiny-dense"), "Q8_0", out)
    assert out.read_text() == "mine"
    with pytest.raises(UsageError, match="cannot be written"):
        quantise(find("tiny-dense"), "Q8_0", tmp_path / "nowhere" / "out.gguf")

    good = quantise(find("tiny-dense"), "F32", tmp_path / "good.gguf").path
    tensor = read_gguf(good).tensors["blk.1.ffn_up.weight"]
    content = bytearray(good.read_bytes())
    content[tensor.offset : tensor.offset + 4] = np.float32(np.nan).tobytes()
    good.write_bytes(content)
    with pytest.raises(BadCheckpoint, match=r"blk\.1\.ffn_up\.weight.* not finite"):
        quantise(find(str(good)), "Q8_0", tmp_path / "bad.gguf")

    def stop(done: int, total: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        quantise(find("tiny-dense"), "Q8_0", tmp_path / "stopped.gguf", progress=stop)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["good.gguf", "out.gguf"]


def test_families_that_cannot_be_written_are_refused(tmp_path: Path, tiny_directory: Callable[[str], Path]) -> None:
    for name in ("gemma 2", "llama yarn", "gemma 3"):
        with pytest.raises(UnsupportedModel, match="cannot be written as GGUF here"):
            quantise(find(str(tiny_directory(name))), "F16", tmp_path / "out.gguf")
    assert list(tmp_path.iterdir()) == []


def test_the_commands(tmp_path: Path) -> None:
    out = tmp_path / "small.gguf"
    done = command("quantise", "tiny-dense", "--to", "q8_0", "-o", str(out), "--json")
    assert done.returncode == 0 and json.loads(done.stdout)["types"] == {"F32": 17, "Q8_0": 29}, done.stderr
    assert command("quantise", "tiny-dense", "--to", "q8_0", "-o", str(out)).returncode == 2
    assert command("quantise", "tiny-dense", "--to", "q9", "-o", str(tmp_path / "b.gguf")).returncode == 2
    done = command("quantise", str(out), "--to", "q4_0", "-o", str(tmp_path / "twice.gguf"))
    assert "the errors add up" in done.stderr and "Q4_0" in done.stdout
    (tmp_path / "text").write_text("What is 14 plus 25? 39\n" * 40)
    words = ("perplexity", str(tmp_path / "text"), "--context", "128", "--json")
    found = [json.loads(command(words[0], model, *words[1:]).stdout) for model in ("tiny-dense", str(out))]
    assert found[0]["tokens"] == found[0]["pieces"] * 63 > 0
    assert found[1]["perplexity"] == pytest.approx(found[0]["perplexity"], rel=0.05)
    done = command("perplexity", "tiny-dense", str(tmp_path / "text"), "--context", "4096")
    assert done.returncode == 2 and "more than the model's 2048" in done.stderr
