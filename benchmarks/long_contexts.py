"""What a long context costs a decoding step: the time of attention, and what reading the cache takes of it.

    python benchmarks/long_contexts.py build/models/dense-q4_0.gguf [--before OLD/_native.so] [--prompts 1024 16384]

`--before`: another build of the extension, which takes turns with the installed one, in processes of their own. A
cache is filled with copies of the pages of 256 tokens, each in memory of its own; a step takes as long behind those
as behind a text. `--prompts`: the speed of prompts of so many tokens. The engine takes 256 at a time, whose time grows
evenly with what is behind them, so the ones in the middle of a prompt take the mean; these are timed.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

PAGE, PIECE = 64, 256  # positions of a page, tokens of a prompt in one pass


def use(native: Path) -> None:
    """Take this extension instead of the installed one."""
    name = "trilens.executors.native._native"
    spec = importlib.util.spec_from_file_location(name, native)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    sys.modules[name] = module
    import trilens.executors.native

    trilens.executors.native._native = module  # type: ignore[attr-defined]


def measure(path: str, contexts: list[int], prompts: list[int], threads: int, steps: int, kv: str) -> dict[str, Any]:
    from trilens.checkpoints.find import find
    from trilens.checkpoints.into_native import native_executor
    from trilens.checkpoints.load import open_model
    from trilens.executors.executor import StepInput
    from trilens.executors.native import _native

    files = open_model(find(path))
    executor = native_executor(files, threads=threads, activations="8bit", kv=kv)
    files.checkpoint.close()

    text = [100 + i % 1000 for i in range(PIECE)]
    first = executor.sequence(PIECE)
    executor.step([StepInput(first, text)])
    blocks = [first.block(i) for i in range(PIECE // PAGE)]
    written = [(block.tokens, block.route_width, block.written()) for block in blocks]
    del blocks
    first.free()

    def behind(context: int, more: int) -> Any:
        sequence = executor.sequence(context + more)
        copies = [executor.restored(*written[i % len(written)]) for i in range(context // PAGE)]
        if copies:
            sequence.adopt(copies, PAGE)
        return sequence

    def timed(sequence: Any, tokens: list[int]) -> tuple[float, float]:
        before, start = executor.seconds_by_kind()["attend"], time.perf_counter()
        executor.step([StepInput(sequence, tokens)])
        wall = time.perf_counter() - start
        return wall, executor.seconds_by_kind()["attend"] - before

    found: dict[str, Any] = {"kernels": executor.engine.kernels, "memory": [], "steps": {}, "prompts": {}}
    for context in contexts:
        sequence = behind(context, steps + 1)
        taken = [timed(sequence, [100 + step]) for step in range(steps + 1)]
        found["steps"][context] = {"taken": taken[1:], "cache_bytes": sequence.kv_bytes}
        sequence.free()
        found["memory"].append(_native.memory_read_bytes_per_second(threads, 256 << 20, 3))
    for tokens in prompts:
        middle = (tokens - PIECE) // 2
        sequence = behind(middle, PIECE)
        timed(sequence, text)
        sequence.rewind(middle)
        found["prompts"][tokens] = timed(sequence, text)
        sequence.free()
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("--before", type=Path, help="an extension to compare with")
    parser.add_argument(
        "--contexts", type=int, nargs="*", default=[64, 4096, 16384], help="whole pages of 64 positions"
    )
    parser.add_argument("--prompts", type=int, nargs="*", default=[], help="multiples of 512: the middle is at a page")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--steps", type=int, default=16)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--kv", default="f16", choices=("f32", "f16", "8bit"))
    parser.add_argument("--alone", action="store_true", help="measure here, one round, and write JSON")
    given = parser.parse_args()
    if given.alone:
        if given.before:
            use(given.before)
        options = given.contexts, given.prompts, given.threads, given.steps, given.kv
        print(json.dumps(measure(given.model, *options)))
        return
    arguments = [arg for arg in sys.argv[1:] if arg not in ("--before", str(given.before))]
    builds = {"before": ["--before", str(given.before)]} if given.before else {}
    builds["now"] = []
    results: dict[str, list[dict[str, Any]]] = {name: [] for name in builds}
    for _ in range(given.rounds):
        for name, more in builds.items():
            command = [sys.executable, __file__, *arguments, "--alone", *more]
            done = subprocess.run(command, check=True, capture_output=True, text=True)
            results[name].append(json.loads(done.stdout))
    speed = max((read for each in results.values() for r in each for read in r["memory"]), default=0.0)
    print(
        f"{results['now'][0]['kernels']} kernels, {given.threads} threads, memory reads {speed / 1e9:.1f} GB/s at best"
    )
    if given.contexts:
        print("| build | tokens behind | a step, ms: best (median) | its attention | reading the cache | above that |")
        print("| --- | --- | --- | --- | --- | --- |")
    for name, each in results.items():
        for context in map(str, given.contexts):
            taken = [step for r in each for step in r["steps"][context]["taken"]]
            walls, attends = ([1e3 * step[i] for step in taken] for i in (0, 1))
            reading = 1e3 * each[0]["steps"][context]["cache_bytes"] / speed
            print(
                f"| {name} | {int(context):,} | {min(walls):.2f} ({statistics.median(walls):.2f}) | {min(attends):.2f} "
                f"({statistics.median(attends):.2f}) | {reading:.2f} | {min(attends) - reading:.2f} |"
            )
        for tokens in map(str, given.prompts):
            wall, attend = min(r["prompts"][tokens] for r in each)
            rate, share = PIECE / wall, 100 * attend / wall
            print(f"{name}: a prompt of {int(tokens):,} tokens: {rate:.1f} tokens a second, {share:.0f} % attention")


if __name__ == "__main__":
    main()
