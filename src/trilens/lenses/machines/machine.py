"""What this machine can do, measured once and kept as readable JSON in the user's cache directory.

Memory's bandwidth by threads, and the seconds of every kind of instruction (`rates.py`). A weight layout is measured
when a model that has it is first asked about. Values from another processor, another build of the kernels or long ago
are measured again, and so is everything if the file cannot be read. One line says so.

Other programs make a measurement wrong. They show in two ways: our threads get less processor time than they want, or
two readings of the same memory disagree. Such a measurement is used and marked as `disturbed`, and the next time that
the machine is quiet it is measured again.
"""

from __future__ import annotations

import json
import re
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any

from trilens import system
from trilens.checkpoints.verified import cache_dir
from trilens.errors import BadCheckpoint
from trilens.files import read_json_object, write_whole
from trilens.lenses.machines.rates import Speed, Speeds

USUAL_LAYOUTS = ("Q4_K", "Q8_0")
FORMAT = 3
OLDEST = 90  # days
READ_BYTES = 256 << 20
USUAL_CACHE = 32 << 20  # bytes, where the system does not say
QUIET = 0.9  # of the processor time that our threads want; with less, other programs run
AGREE = 0.2  # two readings of memory may differ by so much of the faster one
PROBE = 0.05  # seconds, to see whether the machine is quiet now


@dataclass(frozen=True)
class Layout:
    """What products are measured for: a type of weights, the activations' bits, and whether experts hold it."""

    type: str
    activations: str
    routed: bool

    @property
    def names(self) -> set[str]:
        """Of the speeds that belong to it."""
        kinds = {"linear", "experts"} if self.routed else {"linear"}
        return {f"{kind}/{self.type}/{self.activations}/cached" for kind in kinds}


@dataclass(frozen=True)
class Rule:
    """What a recurrence is measured for: with the delta rule or without, and a decay for each row of its state or one
    a head."""

    delta: bool
    vector_decay: bool

    @property
    def type(self) -> str:
        return "recurrence"

    @property
    def name(self) -> str:
        return f"recur/{'delta' if self.delta else 'sum'}/{'rows' if self.vector_decay else 'head'}"

    @property
    def names(self) -> set[str]:
        return {self.name}


Measurable = Layout | Rule


@dataclass(frozen=True)
class Machine:
    """Bytes, bytes a second by threads, and seconds as `rates.py` says. `build` tells one extension from another.
    `disturbed` says what else ran while it was measured; empty: nothing that shows."""

    processor: str
    kernels: str
    build: str
    threads: int
    date: str
    memory_bytes: int
    cache_bytes: int
    memory_read: Mapping[int, float]
    speeds: Speeds
    overheads: Mapping[str, float]
    disturbed: str = ""

    @property
    def measurables(self) -> list[Measurable]:
        """What was measured."""
        names = [name.split("/") for name in self.speeds if name.endswith("/cached")]
        layouts = [Layout(name[1], name[2], name[0] == "experts") for name in names if name[0] in ("linear", "experts")]
        rules = [Rule(delta, rows) for delta in (False, True) for rows in (False, True)]
        return [*layouts, *(rule for rule in rules if rule.name in self.speeds)]

    def missing(self, wanted: Iterable[Measurable], kv: str) -> list[str]:
        """The values that have to be measured first."""
        absent = [at.type for at in dict.fromkeys(wanted) if not at.names <= self.speeds.keys()]
        return absent + ([] if f"attend/{kv}/cached" in self.speeds else [f"attention over {kv}"])

    def as_dict(self) -> dict[str, Any]:
        speeds = {
            name: {str(rows): seconds for rows, seconds in zip(speed.rows, speed.seconds, strict=True)}
            for name, speed in sorted(self.speeds.items())
        }
        return {
            "format": FORMAT,
            "processor": self.processor,
            "kernels": self.kernels,
            "build": self.build,
            "threads": self.threads,
            "date": self.date,
            "disturbed": self.disturbed,
            "memory_bytes": self.memory_bytes,
            "cache_bytes": self.cache_bytes,
            "memory_read_bytes_per_second": {str(n): rate for n, rate in self.memory_read.items()},
            "seconds_per_instruction": dict(self.overheads),
            "seconds_per_unit_by_rows": speeds,
        }

    def exported(self) -> dict[str, Any]:
        """What `--machine FILE` reads elsewhere (`target.py`): bytes, bytes a second, and 32-bit operations a second of
        NumPy's matrix product, measured now."""
        name = re.sub(r"[^a-z0-9]+", "-", self.processor.lower()).strip("-") or "machine"
        return {
            "name": name,
            "title": f"{self.processor}, {self.threads} threads",
            "kind": "cpu",
            "memory": self.memory_bytes,
            "bandwidth": round(max(self.memory_read.values())),
            "f32": round(float32_speed()),
            "source": f"measured on {self.date}" + (f"; {self.disturbed}" if self.disturbed else ""),
        }

    def as_text(self) -> str:
        read = ", ".join(f"{n} thread{'s' * (n > 1)} {rate / 1e9:.1f} GB/s" for n, rate in self.memory_read.items())
        lines = [
            f"measured     {self.date} on {self.processor}, {self.threads} threads, {self.kernels} kernels",
            f"memory read  {read}",
        ]
        if self.disturbed:
            lines.append(f"disturbed    {self.disturbed}; it will be measured again when the machine is quiet")
        for name, speed in sorted(self.speeds.items()):
            if name.startswith("linear/") and name.endswith("/cached"):
                _, layout, activations, _ = name.split("/")
                lines.append(
                    f"{layout:12} {activations} activations: {2e-9 / speed.seconds[-1]:.0f} GFLOP/s on a prompt, "
                    f"{2e-9 / self.speeds[name.replace('cached', 'streamed')].seconds[0]:.0f} on one token"
                )
        return "\n".join(lines)


def measured(
    threads: int | None = None,
    wanted: Iterable[Measurable] = (),
    kv: str = "f16",
    *,
    anew: bool = False,
    say: Callable[[str], None] = lambda line: None,
) -> Machine:
    """This machine with that many threads (default: its physical cores), including its speeds for `wanted` and a
    cache of type `kv`. Unknown values are measured and saved. `say` gets a line that says what is measured and why.
    """
    threads = threads or system.usable_cores()
    machine = None if anew else kept(threads, say=say)
    if machine is not None and machine.disturbed and _is_quiet(threads):
        say(f"this machine was measured while it was disturbed ({machine.disturbed}); it is quiet now")
        wanted, machine = (*wanted, *machine.measurables), None
    if machine is None:
        say("measuring this machine once; a few seconds")
        machine = _base(threads)
        wanted = (*wanted, *(Layout(name, "8bit", routed=False) for name in USUAL_LAYOUTS))
    grown = _with(machine, wanted, kv, say)
    if grown is not machine or anew:
        _keep(grown)
        if grown.disturbed:
            say(f"the measurement is not certain: {grown.disturbed}; it will be repeated when the machine is quiet")
    return grown


def kept(threads: int, *, say: Callable[[str], None] = lambda line: None) -> Machine | None:
    """The saved values, if they were measured on this processor with these kernels."""
    path = _path(threads)
    try:
        machine = _read(read_json_object(path))
    except FileNotFoundError:
        return None
    except (OSError, BadCheckpoint, ArithmeticError, ValueError, KeyError, TypeError, AttributeError) as problem:
        say(f"{path}: cannot be used ({type(problem).__name__}: {problem}), so this machine is measured again")
        return None
    why = _stale(machine, threads)
    if why is not None:
        say(f"{path}: {why}, so this machine is measured again")
        return None
    return machine


def _is_quiet(threads: int) -> bool:
    from trilens.lenses.machines.made_up import settle

    return settle(threads, PROBE) >= QUIET


def _disturbance(share: float, readings: Iterable[float] = ()) -> str:
    """What other programs did, in words; empty where nothing shows."""
    if share < QUIET:
        return f"other programs took {1 - share:.0%} of the processors"
    rates = list(readings)
    if rates and min(rates) < (1 - AGREE) * max(rates):
        return f"memory gave {min(rates) / 1e9:.1f} and {max(rates) / 1e9:.1f} GB/s a moment apart"
    return ""


def memory_bytes() -> int:
    return system.memory() or system.USUAL_MEMORY


def _base(threads: int) -> Machine:
    from trilens.executors.native import _native
    from trilens.lenses.machines.made_up import settle
    from trilens.lenses.machines.rates import row_speeds

    first = settle(threads)
    read = {n: _native.memory_read_bytes_per_second(n, READ_BYTES, 3) for n in sorted({1, threads})}
    speeds, overheads = row_speeds(threads)
    again = _native.memory_read_bytes_per_second(threads, READ_BYTES, 3)
    disturbed = _disturbance(min(first, settle(threads)), (read[threads], again))
    read[threads] = max(read[threads], again)
    today = datetime.now(UTC).date().isoformat()
    kernels = _native.instruction_sets()[0]
    return Machine(
        system.processor_name(),
        kernels,
        _build(),
        threads,
        today,
        memory_bytes(),
        cache_bytes(),
        read,
        speeds,
        overheads,
        disturbed,
    )


def _with(machine: Machine, wanted: Iterable[Measurable], kv: str, say: Callable[[str], None]) -> Machine:
    """The same machine, with the missing ones of these measured."""
    from trilens.lenses.machines.made_up import settle
    from trilens.lenses.machines.rates import attention_speeds, expert_speeds, product_speeds, recurrence_speeds

    speeds, overheads, threads, cache = (
        dict(machine.speeds),
        dict(machine.overheads),
        machine.threads,
        machine.cache_bytes,
    )
    missing = [at for at in dict.fromkeys(wanted) if not at.names <= speeds.keys()]
    if missing:
        names = dict.fromkeys(f"{at.type} weights" if isinstance(at, Layout) else f"a {at.type}" for at in missing)
        say(f"measuring {', '.join(names)} once")
    attends = f"attend/{kv}/cached" in speeds
    if attends and not missing:
        return machine
    shares = [settle(threads)]
    for at in missing:
        match at:
            case Rule():
                speeds |= recurrence_speeds(at.name, at.delta, at.vector_decay, threads)
            case Layout():
                if not replace(at, routed=False).names <= speeds.keys():
                    speeds |= product_speeds(at.type, at.activations, threads, cache)
                if at.routed:
                    speeds |= expert_speeds(at.type, at.activations, threads, cache)
        shares.append(settle(threads))
    if not attends:
        attention, overheads[f"attend/{kv}"] = attention_speeds(kv, threads, cache)
        speeds |= attention
        shares.append(settle(threads))
    disturbed = machine.disturbed or _disturbance(min(shares))
    return replace(machine, speeds=speeds, overheads=overheads, disturbed=disturbed)


def _read(data: dict[str, Any]) -> Machine:
    if data["format"] != FORMAT:
        raise ValueError(f"its format is {data['format']}, expected {FORMAT}")
    speeds = {
        name: Speed(tuple(float(rows) for rows in table), tuple(_positive(s) for s in table.values()))
        for name, table in data["seconds_per_unit_by_rows"].items()
    }
    return Machine(
        processor=str(data["processor"]),
        kernels=str(data["kernels"]),
        build=str(data["build"]),
        threads=int(data["threads"]),
        date=date.fromisoformat(data["date"]).isoformat(),
        memory_bytes=int(data["memory_bytes"]),
        cache_bytes=int(data["cache_bytes"]),
        memory_read={int(n): _positive(rate) for n, rate in data["memory_read_bytes_per_second"].items()},
        speeds=speeds,
        overheads={name: float(s) for name, s in data["seconds_per_instruction"].items()},
        disturbed=str(data["disturbed"]),
    )


def _positive(number: Any) -> float:
    if not 0 < float(number) < float("inf"):
        raise ValueError(f"a rate is {number}, expected a positive number")
    return float(number)


def _stale(machine: Machine, threads: int) -> str | None:
    if machine.processor != system.processor_name():
        return f"was measured on another processor ({machine.processor})"
    if machine.build != _build():
        return "was measured with another build of the kernels"
    if machine.threads != threads:
        return f"was measured with {machine.threads} threads"
    if (datetime.now(UTC).date() - date.fromisoformat(machine.date)).days > OLDEST:
        return f"was measured on {machine.date}, more than {OLDEST} days ago"
    return None


def _keep(machine: Machine) -> None:
    """Save the values, completely or not at all. If the cache cannot be written, they are measured again next time."""
    path = _path(machine.threads)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_whole(path, json.dumps(machine.as_dict(), indent=1))
    except OSError:
        pass


def _path(threads: int) -> Path:
    return cache_dir() / f"machine-{threads}-threads.json"


def _build() -> str:
    """A text that changes whenever the extension is rebuilt."""
    from trilens.executors.native import _native

    about = Path(_native.__file__).stat()
    return f"{about.st_size}-{int(about.st_mtime)}"


def cache_bytes() -> int:
    """The processor's largest cache."""
    return system.largest_cache() or USUAL_CACHE


def float32_speed() -> float:
    """Operations per second of NumPy's product of two 1024 x 1024 float32 matrices."""
    import numpy as np

    a = np.ones((1024, 1024), np.float32)
    seconds = []
    for _ in range(4):
        start = time.perf_counter()
        a @ a
        seconds.append(time.perf_counter() - start)
    return 2 * 1024**3 / min(seconds)
