"""trilens and llama.cpp in turn on the same files, alternating; tables in docs/benchmarks.md and a last line of JSON.

    python benchmarks/compare.py --peer PEER/bin/python [--peer-avx2 PEER/bin/python] --folder DIR [--rounds 3]

Each engine runs in a process of its own, one after the other, and each figure is the best of all rounds: what another
process takes away in one round is not counted against whoever ran then.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent


@dataclass(frozen=True)
class Case:
    """A file to run, and the ratios to llama.cpp that are aimed at."""

    name: str
    shape: str  # of models.py; empty: SmolLM2's own file
    type: str
    decode: float
    prefill: float
    activations: str = "8bit"
    avx2_prefill: float | None = None  # where another is aimed at with AVX2 alone


CASES = (
    Case("SmolLM2-135M Q4_1", "", "Q4_1", 2.0, 3.5),
    Case("SmolLM2-135M Q4_1, 16-bit activations, the default of `trilens run`", "", "Q4_1", 2.0, 3.5, "16bit"),
    Case("dense 1B Q4_0", "dense", "Q4_0", 1.45, 1.6),
    Case("dense 1B Q8_0", "dense", "Q8_0", 1.3, 1.6),
    Case("routed, 32 experts, Q4_0", "routed", "Q4_0", 1.6, 2.0),
    Case("routed, 32 experts, Q8_0", "routed", "Q8_0", 1.75, 2.2),
    Case("dense hybrid 1B Q4_0", "hybrid", "Q4_0", 1.5, 2.0, avx2_prefill=1.5),
    Case("dense hybrid 1B Q4_K_M", "hybrid", "Q4_K_M", 1.5, 2.0, avx2_prefill=1.5),
    Case("dense hybrid 1B Q8_0", "hybrid", "Q8_0", 1.5, 2.0, avx2_prefill=1.5),
    Case("routed hybrid, 10 of 512 experts, Q4_0", "routed-hybrid", "Q4_0", 1.5, 2.0, avx2_prefill=1.5),
    Case("routed hybrid, 10 of 512 experts, Q4_K_M", "routed-hybrid", "Q4_K_M", 1.5, 2.0, avx2_prefill=1.5),
    Case("routed hybrid, 10 of 512 experts, Q8_0", "routed-hybrid", "Q8_0", 1.5, 2.0, avx2_prefill=1.5),
    Case("Qwen3-0.6B's shape Q4_K_M", "qwen3-0.6b", "Q4_K_M", 1.5, 2.0, avx2_prefill=1.5),
    Case("Qwen3-0.6B's shape Q8_0", "qwen3-0.6b", "Q8_0", 1.5, 2.0, avx2_prefill=1.5),
    Case("Qwen3-0.6B's shape IQ4_XS", "qwen3-0.6b", "IQ4_XS", 1.5, 1.5, avx2_prefill=1.5),
    Case("Qwen3-0.6B's shape IQ2_XS", "qwen3-0.6b", "IQ2_XS", 1.0, 1.0),
    Case("routed, 8 of 64 experts, Q4_K_M", "64x8", "Q4_K_M", 1.4, 2.0, avx2_prefill=1.5),
    Case("routed, 8 of 128 experts, Q4_K_M", "128x8", "Q4_K_M", 1.4, 2.0, avx2_prefill=1.5),
)


@dataclass(frozen=True)
class Pair:
    """A build of llama.cpp, and the kernels that trilens runs beside it (empty: its fastest)."""

    title: str
    python: str
    kernels: str


def line_of_json(command: list[str]) -> dict[str, Any]:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"{' '.join(command[:4])} ... failed: {done.stderr.strip().splitlines()[-1:]}")
    result: dict[str, Any] = json.loads(done.stdout.strip().splitlines()[-1])
    return result


def file_of(case: Case, folder: Path, smollm2: Path) -> Path:
    """The case's file, written if it is not there."""
    if not case.shape:
        return smollm2
    out = folder / f"{case.shape}-{case.type.lower()}.gguf"
    if not out.exists():
        partial = out.with_suffix(".partial")
        arguments = [case.shape, case.type, str(partial), "--tokenizer", str(smollm2)]
        subprocess.run([sys.executable, str(HERE / "models.py"), *arguments], check=True)
        partial.rename(out)
    return out


def best(results: list[dict[str, Any]], key: str) -> dict[str, float]:
    return {
        "best": max(r[key]["best"] for r in results),
        "median": sorted(r[key]["median"] for r in results)[len(results) // 2],
    }


def compare(case: Case, file: Path, pair: Pair, threads: int, rounds: int) -> dict[str, Any]:
    options = ["--prompt", "256", "--decode", "32", "--repeat", "2"]
    ours, theirs = [], []
    for _ in range(rounds):
        ours.append(trilens(file, pair, threads, *options, "--activations", case.activations))
        theirs.append(peer(file, pair, threads, *options))
    return {
        "case": case.name,
        "kernels": ours[0]["kernels"],
        "trilens": {key: best(ours, key) for key in ("prefill_tok_s", "decode_tok_s")},
        "llama.cpp": {key: best(theirs, key) for key in ("prefill_tok_s", "decode_tok_s")},
        "system": theirs[0]["system"],
        "memory_gb_s": max(r["memory_gb_s"] for r in ours),
        "share_of_memory": max(r["decode_share_of_memory"] for r in ours),
        "float32_gflop_s": max(r["float32_gflop_s"] for r in ours),
        "prefill_gflop_s": max(r["prefill_gflop_s"] for r in ours),
        "decode_ms_by_kind": max(ours, key=lambda r: r["decode_tok_s"]["best"])["decode_ms_per_step_by_kind"],
        "prefill_ms_by_kind": max(ours, key=lambda r: r["prefill_tok_s"]["best"])["prefill_ms_by_kind"],
        "targets": {
            "decode": case.decode,
            "prefill": (pair.kernels == "avx2" and case.avx2_prefill) or case.prefill,
        },
    }


def trilens(file: Path, pair: Pair, threads: int, *options: str) -> dict[str, Any]:
    command = [
        sys.executable,
        "-m",
        "trilens",
        "bench",
        str(file),
        "--threads",
        str(threads),
        "--kernels",
        pair.kernels,
    ]
    return line_of_json([*command, *options, "--json"])


def peer(file: Path, pair: Pair, threads: int, *options: str) -> dict[str, Any]:
    return line_of_json([pair.python, str(HERE / "peer.py"), str(file), "--threads", str(threads), *options])


TOGETHER = {"dense": 3.0, "hybrid": 2.0, "routed-hybrid": None}
"""Shapes of which eight sequences are decoded at once, and how many times one alone they are to reach."""


def several_at_once(file: Path, pair: Pair, threads: int, rounds: int) -> dict[str, dict[str, float]]:
    """Tokens per second of one sequence and of eight with texts of their own, and what part of the memory's speed the
    bytes take that they read: weights once, experts as often as independent draws hit different ones, states and
    caches of each."""
    results: dict[str, list[dict[str, Any]]] = {"1": [], "8": []}
    for _ in range(rounds):
        for batch in results:
            results[batch].append(trilens(file, pair, threads, "--repeat", "2", "--batch", batch))
    return {
        batch: {
            "tok_s": best(each, "decode_tok_s")["best"],
            "share_of_memory": max(r["decode_share_of_memory"] for r in each),
        }
        for batch, each in results.items()
    }


def decoding(file: Path, pair: Pair, threads: int, rounds: int, prompt: int) -> dict[str, float]:
    """Tokens per second behind a prompt, of either engine, the best of the rounds in turn."""
    options = ["--prompt", str(prompt), "--decode", "32", "--repeat", "1"]
    ours, theirs = [], []
    for _ in range(rounds):
        ours.append(trilens(file, pair, threads, *options, "--activations", "8bit"))
        theirs.append(peer(file, pair, threads, *options))
    return {"trilens": best(ours, "decode_tok_s")["best"], "llama.cpp": best(theirs, "decode_tok_s")["best"]}


def beside_another(file: Path, pair: Pair, threads: int, rounds: int) -> dict[str, float]:
    """The same behind 64 tokens, while another process takes one processor."""
    taker = subprocess.Popen([sys.executable, "-c", "while True: pass"])
    try:
        if hasattr(os, "sched_setaffinity"):
            os.sched_setaffinity(taker.pid, {max(os.sched_getaffinity(0))})
        return decoding(file, pair, threads, rounds, 64)
    finally:
        taker.kill()
        taker.wait()


def first_token(smollm2: Path, rounds: int) -> float:
    """Seconds from the start of `trilens run` to the first byte of its answer, files in the page cache: the best."""
    seconds = []
    for _ in range(rounds + 1):
        start = time.perf_counter()
        command = [sys.executable, "-m", "trilens", "run", "Hello", "--model", str(smollm2), "--max-tokens", "8"]
        with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as run:
            assert run.stdout is not None
            run.stdout.read(1)
            seconds.append(time.perf_counter() - start)
            run.stdout.read()
    return min(seconds)


def ratio(result: dict[str, Any], key: str, of: str = "best") -> float:
    return float(result["trilens"][key][of] / result["llama.cpp"][key][of])


def processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    return next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), "unknown")


def section(pair: Pair, results: list[dict[str, Any]], more: dict[str, Any]) -> list[str]:
    lines = [
        f"## {pair.title}",
        "",
        f"trilens: {results[0]['kernels']} kernels. llama.cpp reports: {results[0]['system'].strip()}",
        "",
        "| file | decode: trilens | llama.cpp | ratio (medians; target) | prefill: trilens | llama.cpp "
        "| ratio (medians; target) | share of memory | prefill / float32 product |",
        "| --- | --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    for r in results:
        cells = [r["case"]]
        for key, target in (("decode_tok_s", "decode"), ("prefill_tok_s", "prefill")):
            cells += [f"{r[e][key]['best']} ({r[e][key]['median']})" for e in ("trilens", "llama.cpp")]
            cells.append(f"**{ratio(r, key):.2f}** ({ratio(r, key, 'median'):.2f}; {r['targets'][target]})")
        cells.append(f"{100 * r['share_of_memory']:.0f} % of {r['memory_gb_s']} GB/s")
        cells.append(f"{r['prefill_gflop_s'] / r['float32_gflop_s']:.2f} x {r['float32_gflop_s']} GFLOP/s")
        lines.append("| " + " | ".join(cells) + " |")
    if more["together"]:
        lines += ["", "Eight sequences at once, each with a text of its own:", ""]
        lines += ["| file | one | eight | ratio (target) | memory's speed used: one | eight |"]
        lines += ["| --- | --- | --- | --- | --- | --- |"]
        for name, (target, at) in more["together"].items():
            one, eight = at["1"], at["8"]
            gain = f"**{eight['tok_s'] / one['tok_s']:.2f}**" + (f" ({target})" if target else "")
            shares = " | ".join(f"{100 * rate['share_of_memory']:.0f} %" for rate in (one, eight))
            lines.append(f"| {name} | {one['tok_s']} | {eight['tok_s']} | {gain} | {shares} |")
    if "near" in more:
        lines += [
            "",
            "Decoding the dense 1B Q4_0, tokens per second:",
            "",
            "| | trilens | llama.cpp |",
            "| --- | --- | --- |",
        ]
        near = more["near"]
        for what, rates in (
            ("after 64 tokens", near),
            ("after 4,096 tokens", more["far"]),
            ("after 64 tokens, with another process on one of the processors", more["busy"]),
        ):
            shares = [f"{rates[e]} ({100 * rates[e] / near[e]:.0f} %)" for e in ("trilens", "llama.cpp")]
            lines.append(f"| {what} | " + " | ".join(shares) + " |")
    for what in ("decode", "prefill"):
        heading = "a decoding step" if what == "decode" else "a prompt of 256 tokens"
        lines += ["", f"Where the time of {heading} goes, in milliseconds by kind of instruction:", ""]
        for r in results:
            spent = sorted(r[f"{what}_ms_by_kind"].items(), key=lambda item: -item[1])[:6]
            lines.append(f"- {r['case']}: " + ", ".join(f"{kind} {ms}" for kind, ms in spent))
    return lines


MISSED = "## Missed targets, and why"


def page(title: str, sections: list[list[str]], first: float, threads: int) -> str:
    lines = [
        f"# {title}",
        "",
        "Written by `make bench`. trilens and llama.cpp take turns on the same file, each in its own process, with a",
        f"prompt of 256 tokens, 32 decoded tokens and {threads} threads. The tables show the best round in tokens per",
        "second, with the median in brackets. The 1B and routed files have random weights in real shapes",
        "(`benchmarks/models.py`). Missed targets are shown too.",
        "",
        "The targets are ratios to llama.cpp on a machine with AVX2 and nothing newer.",
        "",
        f"Machine: {processor()}, {os.cpu_count()} processors, load average {os.getloadavg()[0]:.1f} when this page",
        f"was written, on {time.strftime('%Y-%m-%d')}. A cold `trilens run` prints SmolLM2's first token {first:.2f} s",
        "after the process starts.",
    ]
    for one in sections:
        lines += ["", *one]
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--peer", help="a Python that has llama-cpp-python, as it builds by itself")
    parser.add_argument("--peer-avx2", help="one whose llama-cpp-python has AVX2 and nothing newer")
    parser.add_argument("--folder", type=Path, required=True, help="where the files of random weights are kept")
    parser.add_argument("--smollm2", type=Path, help="its GGUF file; found by trilens where not given")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--only", nargs="*", help="parts of names of cases")
    parser.add_argument("--page", type=Path, default=HERE.parent / "docs" / "benchmarks.md")
    parser.add_argument("--title", default="Benchmarks", help="of the page")
    given = parser.parse_args()
    given.folder.mkdir(parents=True, exist_ok=True)
    smollm2 = given.smollm2
    if smollm2 is None:
        from trilens.checkpoints.find import find

        smollm2 = find("smollm2").path
    sections, everything = [], []
    pairs = [Pair("As they are installed", given.peer, "")] if given.peer else []
    if given.peer_avx2:
        pairs.append(Pair("Both with AVX2 and nothing newer", given.peer_avx2, "avx2"))
    for pair in pairs:
        results: list[dict[str, Any]] = []
        more: dict[str, Any] = {"together": {}}
        for case in CASES:
            if given.only and not any(part in case.name for part in given.only):
                continue
            file = file_of(case, given.folder, smollm2)
            results.append(compare(case, file, pair, given.threads, given.rounds))
            print(json.dumps(results[-1]), file=sys.stderr)
            if case.type == "Q4_0" and case.shape in TOGETHER:
                at_once = several_at_once(file, pair, given.threads, given.rounds)
                more["together"][case.name] = TOGETHER[case.shape], at_once
            if (case.shape, case.type) == ("dense", "Q4_0"):
                more["near"] = decoding(file, pair, given.threads, given.rounds, 64)
                more["far"] = decoding(file, pair, given.threads, 1, 4096)
                more["busy"] = beside_another(file, pair, given.threads, given.rounds)
                print(json.dumps(more), file=sys.stderr)
        sections.append(section(pair, results, more))
        everything.append({"pair": pair.title, "results": results, **more})
    first = first_token(smollm2, given.rounds)
    before = given.page.read_text() if given.page.exists() else ""
    own = before[before.index(MISSED) :] if MISSED in before else ""  # by hand: to be read again with the new figures
    given.page.write_text(page(given.title, sections, first, given.threads).rstrip("\n") + "\n" + (own and "\n" + own))
    print(given.page.read_text())
    print(json.dumps({"sections": everything, "first_token_s": first}))


if __name__ == "__main__":
    main()
