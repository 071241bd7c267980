"""What the predictor has learned from calls on this machine: measured divided by predicted seconds, the length of
thinking, and how much the experts of several tokens overlap.

One readable JSON file in the user's cache directory, by model, executor and threads; the last `KEPT` of each. A file
that cannot be read counts as empty and never makes a call fail.
"""

from __future__ import annotations

import json
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from trilens.checkpoints.verified import cache_dir
from trilens.errors import BadCheckpoint
from trilens.executors.accountant import Span
from trilens.files import read_json_object, write_whole
from trilens.lenses.machines.overlap import Overlap

if TYPE_CHECKING:
    from trilens.generate.receipt import Receipt
    from trilens.lenses.costs.predict import Runner

KEPT = 20
FORMAT = 1
LEAST_STEPS = 8  # a call with fewer tells more of the moment than of the model
LEAST_PROMPT = 16


@dataclass(frozen=True)
class Calibration:
    """Measured over predicted, latest last; tokens of thinking by what was asked for; the overlap of experts, where
    `trilens bench` has counted it."""

    decode: tuple[float, ...] = ()
    prefill: tuple[float, ...] = ()
    thinking: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    overlap: Overlap | None = None


def key_of(name: str, threads: int, activations: str, kv: str, weight_bytes: int) -> str:
    """What has to be the same for a ratio to hold."""
    path = Path(name)
    stated = str(path.resolve()) if path.exists() else name
    return f"{stated} · native · {threads} threads · {activations} activations · {kv} cache · {weight_bytes} bytes"


def calibration(key: str) -> Calibration:
    entry = _load().get(key, {})
    thinking = {word: tuple(lengths) for word, lengths in entry.get("thinking", {}).items()}
    overlap = Overlap(*entry["overlap"]) if "overlap" in entry else None
    return Calibration(tuple(entry.get("decode", ())), tuple(entry.get("prefill", ())), thinking, overlap)


def ratios(runner: Runner, receipt: Receipt) -> dict[str, float]:
    """Measured over predicted seconds, of what the call had enough of."""
    found: dict[str, float] = {}
    t, decode, prefill = receipt.tokens, receipt.work.decode, receipt.work.prefill
    if t.prompt - t.cached >= LEAST_PROMPT:
        found["prefill"] = prefill.seconds / runner.first_token_seconds(t.prompt, t.cached)
    if decode.steps >= LEAST_STEPS:
        middle = t.prompt + decode.tokens // 2
        rows, longer = divmod(decode.steps + receipt.drafts.proposed, decode.steps)  # `longer` steps have a row more
        short, long = (runner.step_seconds([Span(middle, n, n)]) for n in (rows, rows + 1))
        found["decode"] = decode.seconds / (short * (decode.steps - longer) + long * longer)
    return found


def add(key: str, learnt: Mapping[str, Any]) -> None:
    """Add to the entries of `key`. The file is written completely or not at all."""
    models = _load()
    entry = models.setdefault(key, {})
    for what in ("decode", "prefill"):
        if what in learnt:
            entry[what] = [*entry.get(what, ()), round(float(learnt[what]), 4)][-KEPT:]
    if "overlap" in learnt:
        entry["overlap"] = [round(learnt["overlap"][kind], 4) for kind in ("text", "texts")]
    for word, length in learnt.get("thinking", {}).items():
        lengths = entry.setdefault("thinking", {})
        lengths[word] = [*lengths.get(word, ()), length][-KEPT:]
    path = _path()
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_whole(path, json.dumps({"format": FORMAT, "models": models}, indent=1, ensure_ascii=False))
    except OSError:
        pass


def middle_and_ends(values: Sequence[float]) -> tuple[float, float, float]:
    """Tenth, fiftieth and ninetieth of a hundred, of five values or more."""
    tenths = statistics.quantiles(values, n=10, method="inclusive")
    return tenths[0], statistics.median(values), tenths[8]


def _load() -> dict[str, dict[str, Any]]:
    """What is known of each model. Anything else in the file is ignored: no answer depends on it, so damage to it
    must not end a call.
    """
    try:
        data = read_json_object(_path())
    except (OSError, BadCheckpoint):
        return {}
    models = data.get("models")
    if data.get("format") != FORMAT or not isinstance(models, dict):
        return {}
    return {key: _sound(entry) for key, entry in models.items() if isinstance(entry, dict)}


def _sound(entry: dict[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = {what: _numbers(entry.get(what), 1e-3, 1e3) for what in ("decode", "prefill")}
    if len(overlap := _numbers(entry.get("overlap"), 0, 1)) == 2:
        found["overlap"] = overlap
    thinking = entry.get("thinking")
    if isinstance(thinking, dict):
        found["thinking"] = {word: [int(n) for n in _numbers(lengths, 0, 1e9)] for word, lengths in thinking.items()}
    return {what: values for what, values in found.items() if values}


def _numbers(values: Any, least: float, most: float) -> list[float]:
    """Those of a list that are numbers within bounds; none of anything else."""
    items = values if isinstance(values, list) else []
    return [n for n in items if isinstance(n, int | float) and not isinstance(n, bool) and least <= n <= most]


def _path() -> Path:
    return cache_dir() / "calibration.json"
