"""Energy as the processor counts it (RAPL, through Linux's powercap), where this process may read it."""

from __future__ import annotations

from pathlib import Path

from trilens import system
from trilens.generate.receipt import Energy


class EnergyMeter:
    """Joules of all processor packages since it was made, whatever ran on them."""

    def __init__(self, powercap: Path = system.POWERCAP) -> None:
        # packages alone: what is inside them has a second number
        packages = [p for p in sorted(powercap.glob("*-rapl:*")) if p.name.count(":") == 1]
        self._unknown = "" if packages else "this system reports none"
        self._start: list[tuple[Path, int, int]] = []
        try:
            self._start = [(p, _number(p / "energy_uj"), _number(p / "max_energy_range_uj")) for p in packages]
        except (OSError, ValueError):
            self._unknown = "this process may not read it"

    def read(self) -> Energy:
        if self._unknown:
            return Energy(None, self._unknown)
        try:
            # the counter begins again behind its largest number
            spent = sum((_number(p / "energy_uj") - start) % (most + 1) for p, start, most in self._start)
        except (OSError, ValueError):
            return Energy(None, "this process may not read it")
        return Energy(spent / 1e6, "of the whole processor meanwhile (RAPL)")


def _number(path: Path) -> int:
    return int(path.read_text("ascii"))
