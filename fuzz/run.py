"""Starts workers, watches them and counts what they find."""

from __future__ import annotations

import hashlib
import json
import lzma
import os
import queue
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from fuzz.worker import ROOT, SECONDS, place, read

WAITING = 90.0  # seconds that a worker may sleep over one input; computing has its own limit, in the worker
STARTING = 120.0
TICK = 0.5
WORD = re.compile(r"ERROR: (\w+Sanitizer: [\w-]+)|runtime error: (.*)")


@dataclass
class Failure:
    """The first input that failed so, and what was said."""

    outcome: str
    text: str
    data: bytes
    times: int = 1


@dataclass
class Tally:
    """What came of one target's inputs."""

    target: str
    outcomes: Counter[str] = field(default_factory=Counter)
    failures: dict[str, Failure] = field(default_factory=dict)
    by_input: list[str] = field(default_factory=list)  # outcomes in the order of the inputs
    seconds: float = 0.0
    processor_seconds: float = 0.0  # of the workers, up to the last input that each told of

    @property
    def tried(self) -> int:
        return sum(self.outcomes.values())

    @property
    def accepted(self) -> int:
        return sum(n for outcome, n in self.outcomes.items() if outcome.startswith("accepted"))

    def add(self, outcome: str, text: str = "", data: bytes = b"") -> None:
        self.outcomes[outcome] += 1
        self.by_input.append(outcome)
        if not outcome.startswith("failed"):
            return
        if outcome in self.failures:
            self.failures[outcome].times += 1
        else:
            self.failures[outcome] = Failure(outcome, text, data)


def fuzz(
    target: str,
    *,
    seconds: float = 1e9,
    most: int = sys.maxsize,
    seed: int = 1,
    native: Path | None = None,
    inputs: Sequence[Path] = (),
    more: bool = False,
    limit: float = SECONDS,
) -> Tally:
    """Until the time is over, `most` inputs were tried, or all of `inputs` were, where some are given and no `more` are
    to be made after them.

    A worker that dies, or computes for longer than `limit` seconds, costs the input it was at; another one goes on
    behind it."""
    tally = Tally(target)
    began = time.monotonic()
    with tempfile.TemporaryDirectory(prefix=f"fuzz-{target}-") as name:
        while tally.tried < most and time.monotonic() < began + seconds:
            done = tally.tried
            left = inputs[done:]
            if inputs and not left and not more:
                break
            options = [f"--seed={seed}", f"--limit={limit}", f"--made={max(0, done - len(inputs))}"]
            _one_worker(
                tally, Path(name), most, began + seconds, [*options, *(["--more"] if more else [])], native, left
            )
            if tally.tried == done and time.monotonic() < began + seconds:
                said = (Path(name) / "stderr").read_text(errors="replace")
                raise RuntimeError(f"the worker of {target} tried nothing:\n{said[-4000:]}")
    tally.seconds = time.monotonic() - began
    return tally


def _one_worker(
    tally: Tally,
    folder: Path,
    most: int,
    end: float,
    options: list[str],
    native: Path | None,
    inputs: Sequence[Path],
) -> None:
    command = [sys.executable, "-m", "fuzz.worker", tally.target, str(folder), *options]
    command += [
        f"--first={tally.tried}",
        *([f"--native={native}"] if native else []),
        *(["--inputs", *map(str, inputs)] if inputs else []),
    ]
    with (folder / "stderr").open("wb") as errors:
        worker = subprocess.Popen(
            command, cwd=ROOT, env=_environment(folder, native), stdout=subprocess.PIPE, stderr=errors, text=True
        )
    lines: queue.Queue[str | None] = queue.Queue()
    reader = threading.Thread(target=_read, args=(worker, lines), daemon=True)
    reader.start()
    first = tally.tried
    patience, slept, used, ended = STARTING, 0.0, 0.0, False
    try:
        while tally.tried < most and (left := end - time.monotonic()) > 0:
            try:
                line = lines.get(timeout=min(TICK, left))
            except queue.Empty:
                # ticks and not a clock: a fuzzer that is stopped and goes on has not waited meanwhile
                slept += TICK if _sleeps(worker.pid) else 0.0
                if slept >= patience:
                    worker.kill()
                    _died(tally, folder, "hang (it waits)")
                    return
                continue
            if line is None:
                ended = True
                break
            found: dict[str, Any] = json.loads(line)
            data = b""
            if "file" in found:
                data = Path(found["file"]).read_bytes()
            elif "failure" in found and tally.tried - first < len(inputs):
                data = read(inputs[tally.tried - first])
            tally.add(found["outcome"], found.get("failure", ""), data)
            patience, slept, used = WAITING, 0.0, found["processor_seconds"]
    finally:
        tally.processor_seconds += used
        if not ended:
            worker.kill()
        code = worker.wait()
        reader.join()
    if ended and code in (1, 2):
        raise RuntimeError(f"the fuzzer itself failed:\n{(folder / 'stderr').read_text(errors='replace')[-4000:]}")
    if ended and code:
        hang = code == -signal.SIGPROF
        _died(tally, folder, "hang" if hang else _signal(code))


def _sleeps(pid: int) -> bool:
    """Whether it waits for something: it neither computes nor waits for a processor, and nobody has stopped it."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "RTt"
    except OSError:  # not Linux
        return True


def _read(worker: subprocess.Popen[str], lines: queue.Queue[str | None]) -> None:
    assert worker.stdout
    with worker.stdout as said:
        for line in said:
            lines.put(line)
    lines.put(None)


def _signal(code: int) -> str:
    return signal.Signals(-code).name if code < 0 else f"exit code {code}"


def _died(tally: Tally, folder: Path, how: str) -> None:
    """The worker ended while it tried an input, which lies in its folder."""
    said = (folder / "stderr").read_text(errors="replace")
    word = WORD.search(said)
    what = f"{how}{' ' + (word[1] or word[2]) if word else ''} at {place(said)}"
    path = folder / "input"
    tally.add(f"failed {what}", said[-6000:], path.read_bytes() if path.exists() else b"")


def _environment(folder: Path, native: Path | None) -> dict[str, str]:
    """Nothing of the user's is read or written, and nothing is asked of a network."""
    own = {
        "HOME": str(folder),
        "XDG_CACHE_HOME": str(folder / "cache"),
        "HF_HUB_OFFLINE": "1",
        "TOKENIZERS_PARALLELISM": "false",
        "PYTHONHASHSEED": "0",
        "PYTHONPATH": str(ROOT),
        "TRILENS_DEBUG": "1",  # the command line lets what is not expected through
    }
    if native:
        compiler = shutil.which("c++") or "g++"
        found = [
            subprocess.check_output([compiler, f"-print-file-name=lib{n}.so"], text=True) for n in ("asan", "ubsan")
        ]
        own["LD_PRELOAD"] = ":".join(path.strip() for path in found)
        # what cannot be had is refused, as by a system without so much memory, and not a fault
        own["ASAN_OPTIONS"] = "detect_leaks=0:allocator_may_return_null=1:max_allocation_size_mb=8192:abort_on_error=1"
        own["UBSAN_OPTIONS"] = "print_stacktrace=1:halt_on_error=1:abort_on_error=1"
    return {**os.environ, **own}


def save(tally: Tally, folder: Path) -> list[Path]:
    """Each failure's first input, and beside it what was said and how to see it again."""
    paths = []
    for failure in tally.failures.values():
        slug = re.sub(r"[^A-Za-z0-9]+", "-", failure.outcome.removeprefix("failed ")).strip("-")[:60].lower()
        path = folder / tally.target / f"crash-{slug}-{hashlib.sha256(failure.data).hexdigest()[:8]}"
        path.parent.mkdir(parents=True, exist_ok=True)
        large = len(failure.data) > 32 << 10
        path = path.with_name(path.name + ".xz") if large else path
        path.write_bytes(lzma.compress(failure.data) if large else failure.data)
        again = f"{Path(sys.executable).name} -m fuzz --target {tally.target} --repeat {path}"
        path.with_suffix(".txt").write_text(f"{failure.outcome}\n{again}\n\n{failure.text}\n", errors="replace")
        paths.append(path)
    return paths
