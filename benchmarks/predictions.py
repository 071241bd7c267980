"""Predictions against what then happens on this machine: 8 files x contexts x batches -> docs/predictions.md.

    python benchmarks/predictions.py --folder DIR [--smollm2 FILE] [--only NAME ...]

Each file runs in a process of its own. A shared machine changes from second to second, so a case is not judged by one
pair of numbers: in each of several rounds the machine is measured anew and then every case is run, and the case's error
is the median of its rounds. Results are kept in the folder, so that the page can be made in pieces. "After one run" is
the same prediction, corrected by what the run with a context of 1,024 and one sequence took; that run itself is left
out there.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from datetime import date
from pathlib import Path
from typing import TYPE_CHECKING, Any

from trilens.executors.executor import PAGE, StepInput

if TYPE_CHECKING:
    from trilens.executors.native.executor import NativeExecutor, NativeSequence
    from trilens.lenses.costs.predict import Runner

HERE = Path(__file__).resolve().parent
FILES = (
    *("dense Q4_0", "dense Q8_0", "routed Q4_0", "routed Q8_0"),
    *("small-dense Q4_0", "small-routed Q8_0"),
    *("hybrid Q4_0", "routed-hybrid Q4_0"),
)
CONTEXTS, BATCHES = (64, 1024, 4096), (1, 4)
RUN = (1024, 1)  # what a calibration has seen
WARM, STEPS = 4, 16
ROUNDS = 5
TRIES = 3  # more measurements of the machine, where other programs disturbed one
TARGETS = {"time per token, median": 0.08, "time per token, 95th of a hundred": 0.25, "first token, median": 0.15}


def run_file(path: Path) -> dict[str, Any]:
    """Predicted and measured seconds of every case, in this process."""
    from trilens.checkpoints.find import find
    from trilens.checkpoints.into_native import native_executor
    from trilens.checkpoints.load import open_model
    from trilens.lenses.costs.predict import measurables_of, runner_of
    from trilens.lenses.machines.machine import measured
    from trilens.lenses.machines.overlap import traced

    files = open_model(find(str(path)))
    executor = native_executor(files)
    files.checkpoint.close()
    wanted = measurables_of(executor.program, executor.types, executor.activations)
    overlap = traced(executor)  # of other tokens than those measured, and no time is taken

    def runner() -> Runner:
        for _ in range(1 + TRIES):
            machine = measured(executor.threads, wanted, anew=True)
            if not machine.disturbed:
                break
        return runner_of(executor, machine, overlap)

    firsts, sequences = {}, {}
    known = runner()
    for context in CONTEXTS:
        predicted = known.first_token_seconds(context)
        prompt = executor.sequence(context + WARM + STEPS)
        prompt.snapshot_at(context - PAGE)
        firsts[context] = {"measured": feed(executor, prompt, context, 0), "predicted": predicted}
        others = [beginning(executor, prompt, context - PAGE) for _ in range(max(BATCHES) - 1)]
        for n, other in enumerate(others, 1):
            feed(executor, other, context, n)
        sequences[context] = [prompt, *others]
    rounds: dict[tuple[int, int], list[dict[str, float]]] = {}
    for _ in range(ROUNDS):
        known = runner()
        for context, own in sequences.items():
            for batch in BATCHES:
                predicted = predicted_seconds(known, context, batch)
                pair = {"measured": token_seconds(executor, own[:batch]), "predicted": predicted}
                rounds.setdefault((context, batch), []).append(pair)
    cases = [
        {"context": context, "batch": batch, "first_token": firsts[context], "token": middle(pairs), "rounds": pairs}
        for (context, batch), pairs in rounds.items()
    ]
    return {"file": path.stem, "threads": executor.threads, "activations": executor.activations, "cases": cases}


def feed(executor: NativeExecutor, sequence: NativeSequence, context: int, n: int) -> float:
    """Seconds to the logits of the last of `context` tokens, which can be rewound to afterwards. The tokens are those
    of the `n`-th prompt."""
    vocab = executor.spec.vocab
    start = time.perf_counter()
    for at in range(sequence.length, context, 256):
        piece = [(7 * i + 31 * n) % vocab for i in range(at, min(context, at + 256))]
        executor.step([StepInput(sequence, piece, logits=at + 256 >= context)])
    seconds = time.perf_counter() - start
    sequence.snapshot()
    return seconds


def beginning(executor: NativeExecutor, sequence: NativeSequence, tokens: int) -> NativeSequence:
    """The first `tokens` of a sequence in memory of their own, so that a batch reads as much as any other. The last
    page of each prompt is computed, so that their experts differ."""
    written = [sequence.block(number).written() for number in range(tokens // PAGE)]
    blocks = [executor.restored(PAGE, sequence.inner.route_width, block) for block in written]
    copy = executor.sequence(sequence.request_length)
    if blocks and copy.adopt(blocks, PAGE) != tokens:
        raise RuntimeError(f"{tokens} tokens of a sequence could not be copied")
    return copy


def middle(pairs: list[dict[str, float]]) -> dict[str, float]:
    """The pair whose prediction is off by the median."""
    return sorted(pairs, key=lambda pair: pair["predicted"] / pair["measured"])[len(pairs) // 2]


def predicted_seconds(runner: Runner, context: int, batch: int) -> float:
    """The mean of the steps that `token_seconds` takes."""
    return statistics.fmean(runner.token_seconds(context + WARM + i, batch) for i in range(1, STEPS + 1))


def token_seconds(executor: NativeExecutor, sequences: list[NativeSequence]) -> float:
    """The mean of a few steps behind the sequences, which are then as they were."""
    vocab, context = executor.spec.vocab, sequences[0].length
    steps = []
    for i in range(WARM + STEPS):
        feeds = [StepInput(s, [(101 * i + 37 * n) % vocab]) for n, s in enumerate(sequences)]
        start = time.perf_counter()
        executor.step(feeds)
        steps.append(time.perf_counter() - start)
    for sequence in sequences:
        if not sequence.rewind(context):
            raise RuntimeError(f"a sequence of {sequence.length} tokens cannot go back to {context}")
    return statistics.fmean(steps[WARM:])


def errors(results: list[dict[str, Any]], what: str, *, calibrated: bool) -> list[float]:
    """Predicted over measured, less one."""
    found = []
    for result in results:
        by_case = {(c["context"], c["batch"]): c[what] for c in result["cases"]}
        ratio = by_case[RUN]["measured"] / by_case[RUN]["predicted"] if calibrated else 1.0
        for case, seconds in by_case.items():
            if what == "first_token" and case[1] != 1:
                continue  # a prompt is read alone: the same case again
            if not (calibrated and case == RUN):
                found.append(seconds["predicted"] * ratio / seconds["measured"] - 1)
    return found


def summary(results: list[dict[str, Any]]) -> dict[str, dict[str, float]]:
    """By state and target: the median and the worst of the errors, without their signs."""
    made: dict[str, dict[str, float]] = {}
    for state, calibrated in (("uncalibrated", False), ("after one run", True)):
        token = [abs(e) for e in errors(results, "token", calibrated=calibrated)]
        first = [abs(e) for e in errors(results, "first_token", calibrated=calibrated)]
        made[state] = {
            "time per token, median": statistics.median(token),
            "time per token, 95th of a hundred": statistics.quantiles(token, n=20, method="inclusive")[-1],
            "time per token, worst": max(token),
            "first token, median": statistics.median(first),
            "first token, worst": max(first),
        }
    return made


def page(results: list[dict[str, Any]]) -> str:
    from trilens.system import processor_name

    lines = [
        "# Predictions",
        "",
        "Written by `make validate-predictions`. It compares the times that `lenses/costs/predict.py` predicts for",
        'files with random weights (`benchmarks/models.py`) with the times measured. "After one run" means that the',
        "prediction was corrected by one measured run, with a context of 1,024 and one sequence. That run is left out",
        f"of the errors. Each case is run in {ROUNDS} rounds, because the speed of a shared machine changes from",
        "second to second. In each round the machine is measured anew, then every case is run. A case's row is the",
        "round whose error is the median. A prompt is run once, at the beginning. Before all this,",
        "`lenses/machines/overlap.py` counts how alike the experts of several tokens are, as `trilens bench` does.",
        "The sequences of a batch begin alike and differ in their last 64 tokens. That may make their experts more",
        "alike than those of unrelated prompts, and explain why routed models are faster here than predicted.",
        "",
        f"Machine: {processor_name()}, {results[0]['threads']} threads, {date.today().isoformat()}.",
        "",
        "| error | target | uncalibrated | after one run |",
        "| --- | --- | --- | --- |",
    ]
    made = summary(results)
    for what in made["uncalibrated"]:
        target = f"{100 * TARGETS[what]:.0f} %" if what in TARGETS else ""
        cells = " | ".join(f"{100 * made[state][what]:.1f} %" for state in made)
        lines.append(f"| {what} | {target} | {cells} |")
    for calibrated in (False, True):
        off = errors(results, "token", calibrated=calibrated)
        tenths = statistics.quantiles([1 / (1 + e) for e in off], n=10)
        state = "after one run" if calibrated else "uncalibrated"
        lines += [
            "",
            f"Measured divided by predicted time per token, {state}: 10 % of the cases are below {tenths[0]:.2f}, 10 % "
            f"are above {tenths[8]:.2f}.",
        ]
    lines += [
        "",
        "| file | context | batch | token: measured | predicted | error | first token: measured | predicted | error |",
        "| --- | --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    for result in results:
        for case in result["cases"]:
            row = [result["file"], f"{case['context']:,}", str(case["batch"])]
            for what, unit, scale in (("token", "ms", 1e3), ("first_token", "s", 1.0)):
                m, p = case[what]["measured"], case[what]["predicted"]
                row += [f"{scale * m:.2f} {unit}", f"{scale * p:.2f} {unit}", f"{100 * (p / m - 1):+.0f} %"]
            lines.append("| " + " | ".join(row) + " |")
    return "\n".join(lines) + "\n"


ELSEWHERE = "<!-- other machines -->"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, required=True, help="where the files of random weights are kept")
    parser.add_argument("--smollm2", type=Path, help="its GGUF file, for the vocabulary; found where not given")
    parser.add_argument("--only", nargs="*", help="files, as dense-q4_0; the others' results are taken as they are")
    parser.add_argument("--page", type=Path, default=HERE.parent / "docs" / "predictions.md")
    parser.add_argument("--one", type=Path, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.one is not None:
        print(json.dumps(run_file(given.one)))
        return
    kept = given.folder / "predictions.json"
    results = json.loads(kept.read_text()) if kept.exists() else {}
    results = {name: result for name, result in results.items() if all("rounds" in case for case in result["cases"])}
    given.folder.mkdir(parents=True, exist_ok=True)
    for name in FILES:
        shape, kind = name.split()
        file = given.folder / f"{shape}-{kind.lower()}.gguf"
        if given.only is not None and file.stem not in given.only:
            continue
        if not file.exists():
            make(shape, kind, file, given.smollm2)
        command = [sys.executable, __file__, "--folder", str(given.folder), "--one", str(file)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            raise SystemExit(f"{file.stem} failed: {done.stderr.strip().splitlines()[-1:]}")
        results[file.stem] = json.loads(done.stdout.splitlines()[-1])
        kept.write_text(json.dumps(results))
    have = [results[n] for n in (f.replace(" ", "-").lower() for f in FILES) if n in results]
    if len(have) == len(FILES):
        old = given.page.read_text("utf-8") if given.page.exists() else ""
        at = old.find(ELSEWHERE)  # benchmarks/published.py writes what follows
        given.page.write_text(page(have) + ("" if at < 0 else "\n" + old[at:]), encoding="utf-8")
    print(json.dumps(summary(have)))


def make(shape: str, kind: str, file: Path, smollm2: Path | None) -> None:
    if smollm2 is None:
        from trilens.checkpoints.find import find

        smollm2 = find("smollm2").path
    partial = file.with_suffix(f".partial-{os.getpid()}")
    arguments = [shape, kind, str(partial), "--tokenizer", str(smollm2)]
    subprocess.run([sys.executable, str(HERE / "models.py"), *arguments], check=True)
    partial.rename(file)


if __name__ == "__main__":
    main()
