"""trilens and llama.cpp in turn on the same files, alternating; a table in docs/benchmarks.md and a last line of JSON.

    python benchmarks/compare.py --peer-python PEER/bin/python --folder DIR [--rounds 3] [--only NAME ...]

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


CASES = (
    Case("SmolLM2-135M Q4_1", "", "Q4_1", 2.0, 3.5),
    Case("SmolLM2-135M Q4_1, 16-bit activations, as `trilens run` has it", "", "Q4_1", 2.0, 3.5, "16bit"),
    Case("dense 1B Q4_0", "dense", "Q4_0", 1.45, 1.6),
    Case("dense 1B Q8_0", "dense", "Q8_0", 1.3, 1.6),
    Case("routed, 32 experts, Q4_0", "routed", "Q4_0", 1.6, 2.0),
    Case("routed, 32 experts, Q8_0", "routed", "Q8_0", 1.75, 2.2),
)


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


def compare(case: Case, file: Path, peer_python: str, threads: int, rounds: int) -> dict[str, Any]:
    options = ["--prompt", "256", "--decode", "32", "--threads", str(threads), "--repeat", "2"]
    ours, theirs = [], []
    for _ in range(rounds):
        own = [*options, "--activations", case.activations, "--json"]
        ours.append(line_of_json([sys.executable, "-m", "trilens", "bench", str(file), *own]))
        theirs.append(line_of_json([peer_python, str(HERE / "peer.py"), str(file), *options]))
    return {
        "case": case.name,
        "trilens": {key: best(ours, key) for key in ("prefill_tok_s", "decode_tok_s")},
        "llama.cpp": {key: best(theirs, key) for key in ("prefill_tok_s", "decode_tok_s")},
        "system": theirs[0]["system"],
        "memory_gb_s": max(r["memory_gb_s"] for r in ours),
        "share_of_memory": max(r["decode_share_of_memory"] for r in ours),
        "float32_gflop_s": max(r["float32_gflop_s"] for r in ours),
        "prefill_gflop_s": max(r["prefill_gflop_s"] for r in ours),
        "decode_ms_by_kind": max(ours, key=lambda r: r["decode_tok_s"]["best"])["decode_ms_per_step_by_kind"],
        "targets": {"decode": case.decode, "prefill": case.prefill},
    }


def several_at_once(file: Path, threads: int, rounds: int) -> dict[str, float]:
    """Tokens per second of one sequence and of eight together."""
    rates = {}
    for batch in (1, 8):
        options = ["--threads", str(threads), "--repeat", "2", "--batch", str(batch), "--json"]
        results = [line_of_json([sys.executable, "-m", "trilens", "bench", str(file), *options]) for _ in range(rounds)]
        rates[str(batch)] = best(results, "decode_tok_s")["best"]
    return rates


def ratio(result: dict[str, Any], key: str) -> float:
    return float(result["trilens"][key]["best"] / result["llama.cpp"][key]["best"])


def processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    return next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), "unknown")


def page(results: list[dict[str, Any]], together: dict[str, float] | None, threads: int) -> str:
    load = os.getloadavg()
    lines = [
        "# Benchmarks",
        "",
        "Written by `make bench`: trilens and llama.cpp in turn on the same file, prompt of 256 tokens, 32 decoded,",
        f"{threads} threads, best of all rounds in tokens per second (median in brackets). Missed targets are shown as",
        "they are.",
        "",
        f"Machine: {processor()}, {os.cpu_count()} processors, load average {load[0]:.1f} when this was written. "
        f"llama.cpp says of itself: {results[0]['system'].strip()}",
        "",
        "| file | decode: trilens | llama.cpp | ratio (target) | prefill: trilens | llama.cpp | ratio (target) "
        "| share of memory | prefill / float32 product |",
        "| --- | --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    for r in results:
        cells = [r["case"]]
        for key, target in (("decode_tok_s", "decode"), ("prefill_tok_s", "prefill")):
            cells += [f"{r[e][key]['best']} ({r[e][key]['median']})" for e in ("trilens", "llama.cpp")]
            cells.append(f"{ratio(r, key):.2f} ({r['targets'][target]})")
        cells.append(f"{100 * r['share_of_memory']:.0f} % of {r['memory_gb_s']} GB/s")
        cells.append(f"{r['prefill_gflop_s'] / r['float32_gflop_s']:.2f} x {r['float32_gflop_s']} GFLOP/s")
        lines.append("| " + " | ".join(cells) + " |")
    if together is not None:
        lines.append("")
        lines.append(
            f"Eight sequences at once, dense 1B Q4_0: {together['8']} tok/s, "
            f"{together['8'] / together['1']:.2f} times one alone ({together['1']}); target 3."
        )
    lines += ["", "Where a decoding step goes, in milliseconds by kind of instruction:", ""]
    for r in results:
        spent = sorted(r["decode_ms_by_kind"].items(), key=lambda item: -item[1])[:6]
        lines.append(f"- {r['case']}: " + ", ".join(f"{kind} {ms}" for kind, ms in spent))
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--peer-python", required=True, help="a Python that has llama-cpp-python")
    parser.add_argument("--folder", type=Path, required=True, help="where the files of random weights are kept")
    parser.add_argument("--smollm2", type=Path, help="its GGUF file; found by trilens where not given")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--only", nargs="*", help="parts of names of cases")
    parser.add_argument("--page", type=Path, default=HERE.parent / "docs" / "benchmarks.md")
    given = parser.parse_args()
    given.folder.mkdir(parents=True, exist_ok=True)
    smollm2 = given.smollm2
    if smollm2 is None:
        from trilens.checkpoints.find import find

        smollm2 = find("smollm2").path
    results, dense = [], None
    for case in CASES:
        if given.only and not any(part in case.name for part in given.only):
            continue
        file = file_of(case, given.folder, smollm2)
        dense = file if (case.shape, case.type) == ("dense", "Q4_0") else dense
        results.append(compare(case, file, given.peer_python, given.threads, given.rounds))
        print(json.dumps(results[-1]), file=sys.stderr)
    together = several_at_once(dense, given.threads, given.rounds) if dense is not None else None
    given.page.write_text(page(results, together, given.threads))
    print(page(results, together, given.threads))
    print(json.dumps({"results": results, "eight_at_once": together}))


if __name__ == "__main__":
    main()
