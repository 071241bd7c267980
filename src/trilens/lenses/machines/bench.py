"""How fast a model runs on this machine, and what share that is of what the machine's memory and arithmetic give."""

from __future__ import annotations

import statistics
import time
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from trilens.errors import UsageError
from trilens.executors.accountant import Span, step_cost
from trilens.lenses.machines.machine import float32_speed
from trilens.lenses.machines.overlap import Overlap, traced


def measure(
    name: str,
    *,
    prompt: int = 256,
    decode: int = 32,
    threads: int | None = None,
    repeat: int = 3,
    batch: int = 1,
    activations: str | None = None,
    quantise: str | None = None,
    kernels: str = "",
) -> dict[str, Any]:
    """Tokens per second of a prompt and of decoding, best and median of `repeat` rounds after one that does not count.

    With a `batch` every sequence has a text of its own, and so its own experts. `memory_gb_s` and `float32_gflop_s`
    (NumPy's matrix product) are measured in between, since machines differ from hour to hour;
    `decode_share_of_memory` is what decoding reads a second, and writes of fixed states, as a part of the first.
    """
    from trilens.checkpoints.find import find
    from trilens.checkpoints.into_native import native_executor
    from trilens.checkpoints.load import open_model
    from trilens.executors.executor import StepInput

    if min(prompt, decode, repeat, batch) < 1 or (threads is not None and threads < 1):
        raise UsageError("prompt, decode, repeat, batch and threads are at least 1")
    start = time.perf_counter()
    files = open_model(find(name))
    executor = native_executor(files, threads=threads, quantise=quantise, activations=activations, kernels=kernels)
    files.checkpoint.close()
    load_s = time.perf_counter() - start
    vocab = executor.spec.vocab
    texts = [[(100 + 131 * j + i % 1000) % vocab for i in range(prompt)] for j in range(batch)]
    prefills, decodes, memory, float32 = [], [], [0.0], [0.0]
    kinds: dict[str, dict[str, float]] = {}
    for _ in range(repeat + 1):
        memory.append(_memory_speed(executor.threads))
        float32.append(float32_speed())
        time.sleep(0.2)  # NumPy's threads wait for more work on the processors before they sleep
        sequences = [executor.sequence(prompt + decode + 8) for _ in range(batch)]
        marks = [(time.perf_counter(), executor.seconds_by_kind())]
        executor.step([StepInput(sequences[0], texts[0])])
        marks.append((time.perf_counter(), executor.seconds_by_kind()))
        for other, text in zip(sequences[1:], texts[1:], strict=True):
            executor.step([StepInput(other, text)])
        marks.append((time.perf_counter(), executor.seconds_by_kind()))
        for i in range(decode):
            executor.step([StepInput(s, [(100 + 131 * j + i) % vocab]) for j, s in enumerate(sequences)])
        marks.append((time.perf_counter(), executor.seconds_by_kind()))
        for sequence in sequences:
            sequence.free()
        prefills.append(prompt / (marks[1][0] - marks[0][0]))
        decodes.append(batch * decode / (marks[3][0] - marks[2][0]))
        kinds = {"prefill": _spent(marks[0][1], marks[1][1]), "decode": _spent(marks[2][1], marks[3][1])}
    overlap = traced(executor)
    cost = step_cost(executor.spec, [Span(prompt + decode // 2, 1)] * batch)
    read = cost.weight_bytes(executor.element_bytes) + cost.kv_elements_read() * executor.kv_element_bytes
    read += cost.fixed_bytes_moved()
    prefill_flops = step_cost(executor.spec, [Span(0, prompt)]).flops()
    best_prefill, best_decode = max(prefills[1:]), max(decodes[1:])
    return {
        "engine": "trilens",
        "model": name,
        "threads": executor.threads,
        "kernels": executor.engine.kernels,
        "activations": executor.activations,
        "quantise": quantise,
        "batch": batch,
        "prompt": prompt,
        "context": prompt + decode // 2,
        "weight_bytes": executor.weight_bytes,
        "load_s": round(load_s, 3),
        "prefill_tok_s": _summary(prefills[1:]),
        "decode_tok_s": _summary(decodes[1:]),
        "weights_gb": round(executor.weight_bytes / 1e9, 3),
        "memory_gb_s": round(max(memory) / 1e9, 1),
        "decode_share_of_memory": round(best_decode / batch * read / max(memory), 3),
        "float32_gflop_s": round(max(float32) / 1e9, 1),
        "prefill_gflop_s": round(best_prefill / prompt * prefill_flops / 1e9, 1),
        "prefill_ms_by_kind": kinds["prefill"],
        "expert_overlap": None if overlap is None else asdict(overlap),
        "decode_ms_per_step_by_kind": {k: round(v / decode, 3) for k, v in kinds["decode"].items()},
    }


def as_text(result: dict[str, Any]) -> str:
    """The same for people."""
    by_kind = result["decode_ms_per_step_by_kind"]
    slowest = sorted(by_kind, key=lambda kind: by_kind[kind], reverse=True)[:4]
    prefill, decode = result["prefill_tok_s"], result["decode_tok_s"]
    overlap = result["expert_overlap"]
    alike = []
    if overlap is not None:
        several = Overlap(**overlap)
        alike = [
            f"experts  256 tokens of a prompt fire as many as {several.independent([256]):.0f} independent tokens, "
            f"4 texts as many as {several.independent([1] * 4):.1f}"
        ]
    return "\n".join(
        [
            f"{result['model']} · {result['threads']} threads · {result['kernels']} · loaded in {result['load_s']} s",
            f"prefill  {prefill['best']} tok/s (median {prefill['median']}) · {result['prefill_gflop_s']} GFLOP/s, "
            f"float32 product here: {result['float32_gflop_s']}",
            f"decode   {decode['best']} tok/s (median {decode['median']}) · "
            f"{100 * result['decode_share_of_memory']:.0f} % of the memory's {result['memory_gb_s']} GB/s",
            "a step   " + " · ".join(f"{kind} {by_kind[kind]} ms" for kind in slowest),
            *alike,
        ]
    )


def _summary(rates: Sequence[float]) -> dict[str, float]:
    return {"best": round(max(rates), 2), "median": round(statistics.median(rates), 2)}


def _spent(before: dict[str, float], after: dict[str, float]) -> dict[str, float]:
    """Milliseconds by kind of instruction between two readings."""
    return {kind: round(1e3 * (s - before.get(kind, 0.0)), 2) for kind, s in after.items()}


def _memory_speed(threads: int) -> float:
    from trilens.executors.native import _native

    return _native.memory_read_bytes_per_second(threads, 256 << 20, 3)
