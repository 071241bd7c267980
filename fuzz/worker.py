"""A process that tries inputs of one target. A line of JSON on its standard output tells of each.

    python -m fuzz.worker TARGET FOLDER [--seed N] [--first N] [--made N] [--native FILE] [--more] [--inputs FILE ...]

With files given it tries these. Without, or with --more after them, it makes inputs without end, until the process
that started it has enough; --made says how many were made before. Before an input is tried it lies in FOLDER/input, so
that it outlives this process.
"""

from __future__ import annotations

import argparse
import faulthandler
import importlib.util
import json
import lzma
import os
import random
import re
import resource
import shutil
import signal
import sys
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from itertools import chain
from pathlib import Path

from fuzz.minimise import smaller

SECONDS = 10  # of processor time that one input may take
MORE = 500 << 20  # bytes that the process may grow by for one input, beside 20 times the input
Try = Callable[[bytes, Path], str]
KEPT = 400  # inputs that were accepted though they were damaged, to be damaged further
ROOT = Path(__file__).resolve().parents[1]
OURS = rf"(?:{re.escape(str(ROOT))}/(?:src/)?|.*/site-packages/)((?:trilens|fuzz)/\S+?\.py)"
PLACE = re.compile(rf'File "{OURS}", line (\d+)(?:,? in (\S+))?')


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("target")
    parser.add_argument("folder", type=Path)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--first", type=int, default=0)
    parser.add_argument("--native", type=Path)
    parser.add_argument("--limit", type=float, default=SECONDS)
    parser.add_argument("--made", type=int, default=0)
    parser.add_argument("--more", action="store_true")
    parser.add_argument("--inputs", nargs="+", type=Path, default=[])
    given = parser.parse_args()
    lines = os.fdopen(os.dup(1), "w", buffering=1)  # what the code under test prints goes elsewhere
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    faulthandler.enable(all_threads=False)
    faulthandler.register(signal.SIGPROF, all_threads=False, chain=True)  # then the signal ends the process
    if given.native is None:  # under the address sanitizer all of the address space is reserved
        _limit_memory()
    else:
        _use(given.native)
    from fuzz.targets import OWN, TARGETS

    target = {**TARGETS, OWN.name: OWN}[given.target]
    made: Iterator[tuple[bytes, Callable[[], None]]] = ((read(p), lambda: None) for p in given.inputs)
    if given.more or not given.inputs:
        made = chain(made, inputs(target.seeds(), target.mutate, given.seed, given.made))
    seen: set[str] = set()  # failures
    for number, (data, keep) in enumerate(made, given.first):
        result = attempt(target.attempt, data, given.folder, given.limit)
        if result["outcome"].startswith("accepted"):
            keep()
        elif "failure" in result and result["outcome"] not in seen:
            seen.add(result["outcome"])
            if number - given.first >= len(given.inputs):
                result["file"] = str(
                    _saved(given.folder / f"failure-{number}", data, result["outcome"], target.attempt)
                )
        used = time.process_time()
        print(json.dumps({"number": number, "size": len(data), "processor_seconds": used, **result}), file=lines)


def _saved(path: Path, data: bytes, outcome: str, tried: Try) -> Path:
    path.write_bytes(data)  # as it is first: a smaller one can end this process
    scratch = path.with_name("smaller")
    least = smaller(data, lambda less: attempt(tried, less, scratch)["outcome"] == outcome)
    path.write_bytes(least)
    return path


def read(path: Path) -> bytes:
    """An input of the corpus; the large ones are compressed."""
    return lzma.decompress(path.read_bytes()) if path.suffix == ".xz" else path.read_bytes()


def inputs(
    seeds: Sequence[bytes],
    mutate: Callable[[bytes, random.Random, Sequence[bytes]], bytes],
    seed: int,
    first: int,
) -> Iterator[tuple[bytes, Callable[[], None]]]:
    """Seeds as they are, then damaged ones without end; each with a function that keeps it to be damaged further."""
    pool = list(seeds)
    for data in seeds[first:]:
        yield data, lambda: None
    number = max(first, len(seeds))
    while True:
        draw = random.Random(f"{seed}/{number}")
        made = mutate(draw.choice(seeds if draw.random() < 0.5 else pool), draw, pool)
        yield made, partial(_keep, pool, made, len(seeds))
        number += 1


def _keep(pool: list[bytes], data: bytes, fixed: int) -> None:
    if len(pool) >= fixed + KEPT:
        del pool[fixed]
    pool.append(data)


def attempt(tried: Try, data: bytes, folder: Path, limit: float = SECONDS) -> dict[str, str]:
    """`outcome`, and `failure` with its traceback where it is one."""
    from trilens.errors import TrilensError

    room = folder / "arena"
    shutil.rmtree(room, ignore_errors=True)
    room.mkdir(parents=True)
    (folder / "input").write_bytes(data)
    before = _resident(reset=True)
    began = time.process_time()
    signal.setitimer(signal.ITIMER_PROF, limit)
    try:
        said = tried(data, room)
        refused = said.startswith("refused: ")
        outcome = "refused " + shape(said[9:]) if refused else "accepted " + said
    except TrilensError as problem:
        kind = type(problem)
        if not 2 <= kind.exit_code <= 7:
            return {"outcome": f"failed {kind.__name__}", "failure": traceback.format_exc()}
        outcome = f"refused {kind.__name__} {shape(str(problem).replace(str(room), ''))}"
    except BaseException as problem:  # a panic in a Rust library is not an Exception
        if isinstance(problem, KeyboardInterrupt):
            raise
        where = place(traceback.format_exc())
        return {"outcome": f"failed {type(problem).__name__} at {where}", "failure": _end(traceback.format_exc())}
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
    grown = _resident(reset=False) - before
    if grown > 20 * len(data) + MORE:
        return {"outcome": "failed memory", "failure": f"{len(data)} bytes of input took {grown >> 20} MB of memory"}
    return {"outcome": outcome, "seconds": f"{time.process_time() - began:.3f}"}


def place(text: str) -> str:
    """The innermost line of trilens in a traceback, Python's or faulthandler's."""
    found = PLACE.findall(text)
    if not found:
        return "?"
    # faulthandler has the innermost call first
    file, line, function = found[0] if "most recent call first" in text else found[-1]
    return f"{file}:{line} {function}".strip()


def shape(message: str) -> str:
    """A message without what differs from input to input."""
    message = message.encode("ascii", "replace").decode()
    message = re.sub(r"'[^']*'|\"[^\"]*\"", "_", message)
    message = re.sub(r"\S*/\S*", "/", message)
    return re.sub(r"-?\d+(\.\d+)?(e[+-]?\d+)?", "0", message)[:90]


def _end(text: str) -> str:
    return text if len(text) < 4_000 else text[:500] + "\n...\n" + text[-3_500:]


def _resident(reset: bool) -> int:
    """Bytes in memory: now, with the peak forgotten, or at the peak since then. Elsewhere than on Linux: the peak so
    far."""
    try:
        if reset:
            Path("/proc/self/clear_refs").write_text("5")
        status = Path("/proc/self/status").read_text()
        found = re.search(r"VmRSS:\s+(\d+)" if reset else r"VmHWM:\s+(\d+)", status)
        assert found
        return int(found[1]) << 10
    except OSError:
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss << 10


def _limit_memory() -> None:
    """So that one input cannot take the machine's memory; what asks for more gets a MemoryError, which is a failure."""
    resource.setrlimit(resource.RLIMIT_AS, (8 << 30, resource.getrlimit(resource.RLIMIT_AS)[1]))


def _use(native: Path) -> None:
    """This compiled part instead of the installed one. It has to be one with the sanitizers, and really used."""
    code = native.read_bytes()
    if any(mark not in code for mark in (b"__asan_init", b"__ubsan_handle")):
        sys.exit(f"{native}: not compiled with the address and undefined-behaviour sanitizers")
    name = "trilens.executors.native._native"
    spec = importlib.util.spec_from_file_location(name, native)
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    import trilens.executors.native as package

    package._native = module  # type: ignore[attr-defined]
    from trilens.executors.native import executor

    used = executor._native.__file__  # type: ignore[attr-defined]
    assert Path(used).samefile(native), f"the engine in use is {used}, not {native}"


if __name__ == "__main__":
    main()
