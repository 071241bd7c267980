"""The exact command that starts a model on each engine, with its flags for parallelism, context, KV type and reasoning.

Flags are those of the versions named in `CHECKED`; for two engines a test has their own parsers read the commands.
"""

from __future__ import annotations

import json
import shlex
from dataclasses import dataclass

from trilens.lenses.machines.target import Target
from trilens.lenses.memory.job import Engine, Job
from trilens.lenses.memory.memory import padded
from trilens.text.thinking import Inference

ENGINES: tuple[Engine, ...] = ("trilens", "llama.cpp", "vllm", "sglang", "mlx-lm", "tensorrt-llm")
ON_APPLE = ("trilens", "llama.cpp", "mlx-lm")
CHECKED = {
    "trilens": "read by its own parser in a test",
    "llama.cpp": "flags looked up in common/arg.cpp of llama-cpp-python 0.3.36 by a test",
    "vllm": "read by vLLM 0.32.0's own parser in a test",
    "sglang": "not checked here",
    "mlx-lm": "not checked here",
    "tensorrt-llm": "not checked here",
}
UTILISATION = 0.9  # of a device's memory: vLLM and TensorRT-LLM's own defaults, stated for SGLang
# How each engine calls the part that takes thoughts out of an output, by the family's name; `always` where a family
# has models that cannot stop thinking.
VLLM_PARSERS = {
    "deepseek_v3": "deepseek_v3",
    "deepseek_v32": "deepseek_v3",
    "deepseek_v4": "deepseek_v4",
    "gemma4": "gemma4",
    "glm4_moe": "glm45",
    "gpt_oss": "openai_gptoss",
    "hunyuan": "hunyuan_a13b",
    "kimi_k25": "kimi_k2",
    "kimi_k3": "kimi_k3",
    "mimo_v2_flash": "mimo",
    "minimax_m2": "minimax_m2",
    "minimax_m3": "minimax_m3",
    "nemotron_h": "nemotron_v3",
    "qwen3": "qwen3",
}
SGLANG_PARSERS = {
    "deepseek_v3": "deepseek-v3",
    "deepseek_v32": "deepseek-v3",
    "deepseek_v4": "deepseek-v4",
    "gemma4": "gemma4",
    "glm4_moe": "glm45",
    "gpt_oss": "gpt-oss",
    "hunyuan": "hunyuan",
    "kimi_k25": "kimi_k2",
    "kimi_k3": "kimi_k3",
    "mimo_v2_flash": "mimo",
    "minimax_m2": "minimax",
    "minimax_m3": "minimax-m3",
    "nemotron_h": "nemotron_3",
    "qwen3": "qwen3",
}
TRT_PARSERS = {"deepseek_v4": "deepseek_v4", "minimax_m2": "minimax_m2", "qwen3": "qwen3", "qwen3_5": "qwen3_5"}
LLAMA_KV = {"f32", "f16", "bf16", "q8_0", "q4_0", "q4_1", "q5_0", "q5_1"}


@dataclass(frozen=True)
class Served:
    """What is to be started: `name` as trilens takes it, `hub` its repository, `file` its GGUF file, where known;
    `folder` where its files are, of a model that comes with trilens."""

    name: str
    hub: str | None
    file: str | None
    folder: str | None
    family: str
    routed: bool
    inference: Inference
    job: Job
    target: Target
    quantise: str
    thinking: str | None
    threads: int | None

    @property
    def source(self) -> str:
        return self.hub or self.file or self.folder or self.name


def commands(served: Served, chosen: Engine) -> dict[str, str]:
    """The commands of the chosen engine and of all engines that run on the machine, ready for a shell. Settings
    without a flag are left out.
    """
    made = {
        "trilens": _trilens(served),
        "llama.cpp": _llama(served),
        "vllm": _vllm(served),
        "sglang": _sglang(served),
        "mlx-lm": _mlx(served),
        "tensorrt-llm": _tensorrt(served),
    }
    runs = ON_APPLE if served.target.apple else tuple(engine for engine in ENGINES if engine != "mlx-lm")
    return {engine: shlex.join(parts) for engine, parts in made.items() if engine in (*runs, chosen)}


def _trilens(s: Served) -> list[str]:
    command = ["trilens", "run", "PROMPT", "--model", s.name]
    if s.threads is not None:
        command += ["--threads", str(s.threads)]
    if s.quantise in ("8bit", "4bit"):
        command += ["--quantise", s.quantise]
    if s.job.key_type in ("8bit", "q8_0", "fp8"):
        command += ["--kv", "8bit"]
    elif s.job.key_type == "f32":
        command += ["--kv", "f32"]
    return command + (["--thinking", s.thinking] if s.thinking is not None else [])


def _llama(s: Served) -> list[str]:
    file = s.file or f"{s.source.rpartition('/')[2]}-{_gguf_type(s.quantise)}.gguf"
    job = s.job
    command = ["llama-server", "-m", file, "-c", str(padded(job.context, 256) * job.batch), "-np", str(job.batch)]
    command += ["--gpu-layers", "0" if s.target.device is None else "all", "--flash-attn", "auto"]
    if s.target.count > 1:
        command += ["--split-mode", "layer"]
    if s.target.device is None and s.threads is not None:
        command += ["--threads", str(s.threads)]
    for flag, kind in (("--cache-type-k", job.key_type), ("--cache-type-v", job.value_type)):
        command += [flag, kind if kind in LLAMA_KV else "q8_0"]
    if s.inference.kind != "never":
        command += ["--jinja", "--reasoning-format", "deepseek"]
        if s.thinking is not None:
            command += ["--reasoning", "off" if s.thinking == "off" else "on"]
            command += ["--reasoning-budget", s.thinking] if s.thinking.isdigit() else []
    return command


def _vllm(s: Served) -> list[str]:
    command = ["vllm", "serve", s.source, "--max-model-len", str(s.job.context), "--max-num-seqs", str(s.job.batch)]
    if s.target.device is not None:
        command += ["--gpu-memory-utilization", str(UTILISATION)]
    command += ["--tensor-parallel-size", str(s.job.tensor), "--pipeline-parallel-size", str(s.job.pipeline)]
    if s.routed and s.job.tensor > 1:
        command += ["--enable-expert-parallel"]
    if s.quantise == "fp8":
        command += ["--quantization", "fp8"]
    command += ["--kv-cache-dtype", "fp8" if s.job.key_bytes < 2 else "auto"]
    parser = _parser(s, VLLM_PARSERS, "deepseek_r1")
    command += ["--reasoning-parser", parser] if parser else []
    switch = _switch(s)
    return command + (["--default-chat-template-kwargs", json.dumps(switch)] if switch else [])


def _sglang(s: Served) -> list[str]:
    command = ["python", "-m", "sglang.launch_server", "--model-path", s.source]
    command += ["--context-length", str(s.job.context), "--max-running-requests", str(s.job.batch)]
    command += ["--mem-fraction-static", str(UTILISATION), "--tp-size", str(s.job.tensor)]
    command += ["--pp-size", str(s.job.pipeline)]
    if s.routed and s.job.tensor > 1:
        command += ["--ep-size", str(s.job.tensor)]
    command += ["--quantization", "fp8"] if s.quantise == "fp8" else []
    command += ["--kv-cache-dtype", "fp8_e4m3" if s.job.key_bytes < 2 else "auto"]
    parser = _parser(s, SGLANG_PARSERS, "deepseek-r1")
    return command + (["--reasoning-parser", parser] if parser else [])


def _mlx(s: Served) -> list[str]:
    command = ["mlx_lm.server", "--model", s.source, "--decode-concurrency", str(s.job.batch)]
    if s.job.key_bytes < 2:
        command += ["--kv-bits", "8"]
    if s.target.count > 1:
        command += ["--pipeline"]
    switch = _switch(s)
    return command + (["--chat-template-args", json.dumps(switch)] if switch else [])


def _tensorrt(s: Served) -> list[str]:
    command = ["trtllm-serve", s.source, "--backend", "pytorch", "--max_seq_len", str(s.job.context)]
    command += ["--max_batch_size", str(s.job.batch), "--free_gpu_memory_fraction", str(UTILISATION)]
    command += ["--tp_size", str(s.job.tensor), "--pp_size", str(s.job.pipeline)]
    if s.routed and s.job.tensor > 1:
        command += ["--ep_size", str(s.job.tensor)]
    parser = _parser(s, TRT_PARSERS, "deepseek-r1")
    return command + (["--reasoning_parser", parser] if parser else [])


def _parser(s: Served, by_family: dict[str, str], always: str) -> str | None:
    """None for a model that never thinks, and for a family whose parser is not known here."""
    if s.inference.kind == "never":
        return None
    families = [family for family in by_family if s.family.startswith(family)]
    if s.inference.kind == "always" and s.family in ("llama", "qwen2", "deepseek_v3"):
        return always
    return by_family[max(families, key=len)] if families else None


def _switch(s: Served) -> dict[str, object]:
    """What the chat template is to be told for the thinking that was asked for."""
    if s.thinking is None or s.thinking.isdigit():
        return {}
    setting = s.inference.setting(s.thinking)
    return {} if setting is None else dict(setting.variables)


def _gguf_type(quantise: str) -> str:
    return {"8bit": "Q8_0", "4bit": "Q4_0"}.get(quantise, "BF16")
