"""The fit of the cost model's constants to rows of published measurements, and the test on machines left out."""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from trilens.lenses.costs.costs import OVERLAPS, Costs, Step, group, terms
from trilens.lenses.costs.shape import Shape
from trilens.lenses.costs.weight_format import Bits
from trilens.lenses.machines.target import Accelerator

ROUNDS = 8
FARTHEST = 0.95  # no tail goes beyond this share of the errors, where single rows would decide
HUBER = 0.3  # of log seconds: what is further away counts less
INNER = 6  # folds inside a training fold
SPREADS = {1: 1.0, 2: 0.35, 3: 0.2}  # standard deviation of a log constant around its start, by the parts of its name
# Where a constant starts: inverse shares of what a data sheet states, or microseconds.
STARTS = {"read": 1.3, "cache": 2.0, "layer": 8.0, "route": 8.0, "token": 200.0, "row": 10.0, "sum": 10.0}
STARTS |= {"exchange": 30.0, "stage": 100.0, "link": 2.0, "unpack": 3.0, "batch": 3.0, "prompt": 2.0, "attend": 4.0}
OFFSETS = ("read/", "cache/", "layer/", "wide", "old/")


@dataclass(frozen=True)
class Row:
    """A measurement as the model sees it."""

    machine: str
    seconds: float
    shape: Shape
    bits: Bits
    device: Accelerator
    step: Step


class Design:
    """The terms of all rows as arrays, for one value of the experts' overlap."""

    def __init__(self, rows: Sequence[Row], overlap: float) -> None:
        names: dict[str, int] = {}
        of_row, values, of_term, constant, power = [], [], [], [], []
        for i, row in enumerate(rows):
            for term in terms(row.shape, row.bits, row.device, row.step, overlap):
                if term.value <= 0:
                    continue
                for name, exponent in term.constants:
                    of_term.append(len(values))
                    constant.append(names.setdefault(name, len(names)))
                    power.append(exponent)
                of_row.append(i)
                values.append(math.log(term.value))
        self.names = list(names)
        self.of_row = np.array(of_row)
        self.values = np.array(values)
        self.matrix = np.zeros((len(values), len(names)))
        np.add.at(self.matrix, (np.array(of_term), np.array(constant)), np.array(power))
        self.measured = np.log([row.seconds for row in rows])
        self.machines = np.array([row.machine for row in rows])
        self.start = np.array([math.log(_start(n)) for n in self.names])
        self.spread = np.array([_spread(n) for n in self.names])

    def predict(self, theta: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """(log seconds, their derivatives)."""
        parts = np.exp(self.values + self.matrix @ theta)
        total = np.bincount(self.of_row, parts, len(self.measured))
        weighted = self.matrix * (parts / total[self.of_row])[:, None]
        slopes = np.zeros((len(total), len(theta)))
        starts = np.flatnonzero(np.diff(self.of_row, prepend=-1))
        slopes[self.of_row[starts]] = np.add.reduceat(weighted, starts)
        return np.log(total), slopes

    def fit(self, chosen: np.ndarray) -> tuple[np.ndarray, float]:
        """(log constants, the loss) of the rows `chosen`: Gauss-Newton steps, far rows and crowded machines weigh
        less. Starts from the same place whatever the rows."""
        counts = Counter(self.machines[chosen])
        crowd = np.array([counts[m] ** -0.5 if c else 0.0 for m, c in zip(self.machines, chosen, strict=True)])
        prior, theta, loss = self.spread**-2.0, self.start.copy(), math.inf
        for _ in range(ROUNDS):
            log, slopes = self.predict(theta)
            error = self.measured - log
            weight = crowd / 0.15**2 / np.maximum(1, np.abs(error) / HUBER)
            left = slopes.T @ (slopes * weight[:, None]) + np.diag(prior)
            right = slopes.T @ (weight * error) + prior * (self.start - theta)
            theta = theta + np.clip(np.linalg.solve(left, right), -0.7, 0.7)
            loss = float(np.sum(weight * error**2) + np.sum(prior * (self.start - theta) ** 2))
        return theta, loss


def _start(name: str) -> float:
    head = name.split("/")[0]
    if name in STARTS:
        return STARTS[name]
    if name.startswith(OFFSETS) or (name.count("/") >= 2 and head in ("unpack", "batch", "prompt", "attend")):
        return 1.0
    if head in ("prompt", "batch", "attend") and name.split("/")[1] in ("4", "8", "16", "experts", "read"):
        return 1.0
    return STARTS.get(head, 1.0)


def _spread(name: str) -> float:
    parts = name.split("/")
    if parts[0] == "wide":
        return 0.2 if len(parts) == 1 else 0.1
    if parts[0] == "steep":
        return 0.4
    if parts[0] in ("sum", "exchange", "link", "token", "row", "old") or "plain" in parts or parts[-1] == "matrix":
        return 0.7
    if parts[0] in ("unpack", "prompt", "batch", "attend", "read") and len(parts) == 2:
        return 0.5
    return SPREADS[1] if len(parts) == 1 else 0.35 if len(parts) == 3 else 0.15


class Model:
    """The constants fitted to some rows, with intervals from machines left out among those rows."""

    def __init__(
        self, designs: Mapping[float, Design], rows: Sequence[Row], chosen: np.ndarray, *, spread: bool
    ) -> None:
        fits = {overlap: design.fit(chosen) for overlap, design in designs.items()}
        self.overlap = min(fits, key=lambda o: fits[o][1])
        self.design, self.theta = designs[self.overlap], fits[self.overlap][0]
        taught = defaultdict(set)
        for row, used in zip(rows, chosen, strict=True):
            if used:
                taught[f"{row.step.engine}/{row.step.backend}"].add(row.machine)
        self.machines = {name: len(found) for name, found in taught.items()}
        self.spread = self._spreads(rows, chosen) if spread else {}

    def _spreads(self, rows: Sequence[Row], chosen: np.ndarray) -> dict[str, tuple[float, float]]:
        """From errors on machines that took no part in their forecast: the chosen rows in `INNER` folds by machine."""
        names = sorted(set(self.design.machines[chosen]))
        errors: dict[str, list[tuple[float, str]]] = defaultdict(list)
        for fold in range(INNER):
            out = np.isin(self.design.machines, names[fold::INNER]) & chosen
            kept = chosen & ~out
            theta, _ = self.design.fit(kept)
            log, _ = self.design.predict(theta)
            taught = defaultdict(set)
            for i in np.flatnonzero(kept):
                taught[f"{rows[i].step.engine}/{rows[i].step.backend}"].add(rows[i].machine)
            for i in np.flatnonzero(out):
                step = rows[i].step
                where = group(step, len(taught[f"{step.engine}/{step.backend}"]))
                errors[where].append((float(self.design.measured[i] - log[i]), rows[i].machine))
        everything = [e for found in errors.values() for e in found]
        spread = {}
        for name in ("one sequence", "several sequences", "several devices", "prefill", "new engine"):
            found = errors[name] if len(errors[name]) >= 20 else [*errors[name], *everything]
            spread[name] = tails(found)
        return spread

    def costs(self, rows: int) -> Costs:
        constants = dict(zip(self.design.names, map(float, np.exp(self.theta)), strict=True))
        return Costs(constants, self.overlap, self.spread, self.machines, rows)


def tails(errors: Sequence[tuple[float, str]]) -> tuple[float, float]:
    """Factors between which 80 % of the errors of a machine that was not seen should lie, from (log error, machine).

    Rows of one machine are alike, so it is machines that count: each weighs the same, and the one to come counts as one
    of them that lies outside (conformal prediction with groups; Dunn, Wasserman and Ramdas, 2022).
    """
    rows = Counter(machine for _, machine in errors)
    order = sorted(errors)
    mass = np.cumsum([1 / rows[machine] for _, machine in order]) / len(rows)
    reach = min(FARTHEST, 0.9 * (len(rows) + 1) / len(rows))
    found = np.array([e for e, _ in order])
    low, high = (found[np.searchsorted(mass, level).clip(0, len(found) - 1)] for level in (1 - reach, reach))
    return float(np.exp(low)), float(np.exp(high))


@dataclass(frozen=True)
class Tested:
    """A row beside a forecast that knows nothing of its machine; seconds."""

    row: Row
    low: float
    middle: float
    high: float
    group: str

    @property
    def error(self) -> float:
        return abs(self.middle / self.row.seconds - 1)

    @property
    def inside(self) -> bool:
        return self.low <= self.row.seconds <= self.high


def designs(rows: Sequence[Row]) -> dict[float, Design]:
    return {overlap: Design(rows, overlap) for overlap in OVERLAPS}


def leave_one_out(rows: Sequence[Row]) -> list[Tested]:
    """Every row, predicted by constants and intervals from the rows of all other machines."""
    by_overlap = designs(rows)
    tested: dict[int, Tested] = {}
    machines = np.array([row.machine for row in rows])
    for machine in sorted(set(machines)):
        model = Model(by_overlap, rows, machines != machine, spread=True)
        log, _ = model.design.predict(model.theta)
        for i in np.flatnonzero(machines == machine):
            step = rows[i].step
            where = group(step, model.machines.get(f"{step.engine}/{step.backend}", 0))
            low, high = model.spread[where]
            middle = float(np.exp(log[i]))
            tested[int(i)] = Tested(rows[i], middle * low, middle, middle * high, where)
    return [tested[i] for i in range(len(rows))]
