"""python -m fuzz: see the package."""

from __future__ import annotations

import argparse
import fcntl
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

from fuzz.run import Tally, fuzz, save
from fuzz.targets import TARGETS, Target, chosen
from fuzz.worker import ROOT

COLUMNS = [
    *("target", "inputs tried", "distinct outcomes", "accepted", "distinct failures"),
    *("seconds", "seconds of a processor", "sanitizers"),
]
HEAD = f"| {' | '.join(COLUMNS)} |\n|{' --- |' * len(COLUMNS)}"


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m fuzz")
    parser.add_argument("--seconds", type=float, default=60.0, help="for each target")
    parser.add_argument("--target", action="append", default=[], metavar="NAME", help="may be repeated; default: all")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--native", type=Path, help="an extension built with the sanitizers, for what reaches it")
    parser.add_argument("--found", type=Path, default=ROOT / "build" / "fuzz-found", help="where failures are written")
    parser.add_argument("--jobs", type=int, default=2, help="workers at a time")
    parser.add_argument("--outcomes", action="store_true", help="print every outcome with its count")
    parser.add_argument("--page", type=Path, help="put the table of counts between this page's markers")
    parser.add_argument("--repeat", type=Path, metavar="FILE", help="try this input alone")
    given = parser.parse_args()
    targets = chosen(given.target)
    if given.repeat:
        return _repeat(targets, given.repeat.resolve(), given.native)

    def run(target: Target) -> Tally:
        tally = fuzz(target.name, seconds=given.seconds, seed=given.seed, native=_native(target, given.native))
        _report(tally, save(tally, given.found))
        for outcome, times in tally.outcomes.most_common() if given.outcomes else ():
            print(f"  {times:7,} {outcome}", flush=True)
        return tally

    with ThreadPoolExecutor(max(1, min(given.jobs, 2))) as pool:
        tallies = list(pool.map(run, targets))
    rows = {tally.target: _row(tally, _native(TARGETS[tally.target], given.native) is not None) for tally in tallies}
    print("\n" + "\n".join([HEAD, *rows.values()]))
    if given.page:
        with _alone(given.page):
            given.page.write_text(_page(given.page.read_text(encoding="utf-8"), rows), encoding="utf-8")
    return 1 if any(tally.failures for tally in tallies) else 0


def _page(text: str, rows: dict[str, str]) -> str:
    """The page with these rows between its markers, in place of older rows of the same targets."""
    head, _, rest = text.partition("<!-- fuzz -->")
    old, _, tail = rest.partition("<!-- end -->")
    kept = {name: line for line in old.splitlines() if (name := line.strip("| ").partition(" ")[0]) in TARGETS}
    table = [HEAD, *(line for name in TARGETS if (line := (kept | rows).get(name)))]
    return "\n".join([f"{head}<!-- fuzz -->", *table, f"<!-- end -->{tail}"])


@contextmanager
def _alone(page: Path) -> Iterator[None]:
    """So that two fuzzers at once do not lose each other's rows."""
    with page.open("rb") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _native(target: Target, native: Path | None) -> Path | None:
    return native.resolve() if native and target.native else None


def _repeat(targets: list[Target], path: Path, native: Path | None) -> int:
    [target] = targets if len(targets) == 1 else sys.exit("fuzz: --repeat wants one --target")
    tally = fuzz(target.name, inputs=[path], native=_native(target, native))
    print(tally.by_input[0])
    for failure in tally.failures.values():
        print(failure.text)
    return 1 if tally.failures else 0


def _report(tally: Tally, saved: list[Path]) -> None:
    print(
        f"{tally.target}: {tally.tried:,} inputs, {len(tally.outcomes)} distinct outcomes, "
        f"{tally.accepted:,} accepted, {len(tally.failures)} distinct failures, {tally.seconds:.0f} s",
        flush=True,
    )
    for path, failure in zip(saved, tally.failures.values(), strict=True):
        print(f"  {failure.outcome} ({failure.times} times): {path}", flush=True)


def _row(tally: Tally, sanitized: bool) -> str:
    counts = f"{tally.tried:,} | {len(tally.outcomes)} | {tally.accepted:,} | {len(tally.failures)}"
    seconds = f"{tally.seconds:.0f} | {tally.processor_seconds:.0f}"
    return f"| {tally.target} | {counts} | {seconds} | {'address, undefined' if sanitized else ''} |"


if __name__ == "__main__":
    sys.exit(main())
