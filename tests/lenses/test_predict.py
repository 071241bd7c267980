"""The predictor: its work is the accountant's, its speeds come from the machine's file, runs correct it."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from trilens.checkpoints.find import find
from trilens.checkpoints.load import read_spec
from trilens.errors import TrilensError
from trilens.executors.accountant import Span, step_cost
from trilens.executors.native.fuse import fuse
from trilens.executors.native.program import Op
from trilens.executors.native.record import record
from trilens.lenses.cards.held import held_types
from trilens.lenses.cards.source import card_source
from trilens.lenses.costs import calibration as runs
from trilens.lenses.costs.calibration import Calibration, calibration
from trilens.lenses.costs.forecast import CALIBRATED, UNCALIBRATED, on_this_machine, thinking_length
from trilens.lenses.costs.predict import Runner, cut, flops, measurables_of, runner
from trilens.lenses.machines.machine import Layout, Machine, Rule, kept, measured
from trilens.lenses.machines.rates import Speed
from trilens.lenses.memory.job import Job
from trilens.lenses.plans.plan import plan
from trilens.loading import load

FAMILIES = [
    "llama 3.1",
    "qwen3 moe",
    "deepseek v3",
    "gemma 4 26B-A4B",
    "gemma 4 E2B",
    "gpt-oss",
    "llama 4 scout",
    "olmo 3",
    "qwen3.5",
    "granite 4 h",
    "kimi linear",
    "lfm2",
    "longcat-flash",
]


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, smollm2: Path) -> None:
    """A cache of its own for each test, with the real file in it."""
    place = tmp_path / "cache"
    models = place / "models" / smollm2.parent.name
    models.mkdir(parents=True)
    for file in smollm2.parent.iterdir():
        (models / file.name).symlink_to(file)
    monkeypatch.setenv("TRILENS_CACHE", str(place))


@pytest.fixture(scope="module")
def machine() -> Machine:
    """A made-up one: a unit takes a nanosecond from the cache and two from memory."""
    flat, slow = Speed((1.0,), (1e-9,)), Speed((1.0,), (2e-9,))
    speeds = {
        f"attend/f16/{tier}": Speed((1.0, 48.0), s.seconds * 2) for tier, s in (("cached", flat), ("streamed", slow))
    }
    for kind in ("linear", "linears", "glu_linear", "experts"):
        for layout in ("F32", "F16", "BF16", "Q4_0", "Q4_1", "Q8_0"):
            for bits in ("8bit", "16bit"):
                speeds[f"{kind}/{layout}/{bits}/cached"] = flat
                speeds[f"{kind}/{layout}/{bits}/streamed"] = slow
    speeds |= {
        kind: Speed((1.0,), (1e-15,))
        for kind in ("embed", "last_rows", "norm", "rope", "write_kv", "add", "route", "convolve")
    }
    rules = [Rule(delta, rows) for delta in (False, True) for rows in (False, True)]
    speeds |= {rule.name: Speed((1.0,), (1e-15,)) for rule in rules}
    overheads = dict.fromkeys(
        ["linear", "linears", "glu_linear", "experts", "add", "attend/f16", "step", "sequence"], 0.0
    )
    return Machine("x", "avx2", "1", 2, "2026-01-01", 10**10, 10**12, {1: 1e10, 2: 2e10}, speeds, overheads)


def runner_for(path: Path, machine: Machine) -> Runner:
    source = card_source(str(path), offline=True)
    assert source.reading is not None
    spec = source.reading.spec
    return runner(spec, fuse(record(spec)), held_types(source), 10**6, machine, activations="8bit")


class TestWork:
    @pytest.mark.parametrize("family", FAMILIES)
    @pytest.mark.parametrize("spans", [[Span(0, 20)], [Span(30, 1)] * 3, [Span(5, 40, 0), Span(60, 1)]], ids=str)
    def test_it_is_the_accountants(
        self, family: str, spans: list[Span], tiny_directory: Callable[[str], Path], machine: Machine
    ) -> None:
        spec = read_spec(find(str(tiny_directory(family)))).spec
        assert flops(runner_for(tiny_directory(family), machine).kinds, spans) == step_cost(spec, spans).flops()

    def test_pieces_as_the_engine_cuts_them(self) -> None:
        assert cut([Span(0, 300), Span(9, 1)]) == [[Span(0, 256, 0)], [Span(256, 44, 1), Span(9, 1, 1)]]
        assert sum(s.new for piece in cut([Span(0, 1000)] * 2) for s in piece) == 2000


class TestSeconds:
    def test_a_token_by_hand(self, tiny_directory: Callable[[str], Path], machine: Machine) -> None:
        """With a nanosecond for every unit: the matrices' weights, and whole pages of keys and values."""
        path = tiny_directory("llama 3.1")
        spec = read_spec(find(str(path))).spec
        weights = step_cost(spec, [Span(0, 1)]).flops() - 4 * 4 * 2 * 2 * 12  # less attention: layers, heads, sizes
        attention = 4 * 4 * 64 * 2 * 12
        assert runner_for(path, machine).token_seconds(10) == pytest.approx(1e-9 * (weights / 2 + attention))

    def test_an_adapter_adds_its_products_or_their_way_from_memory(
        self, tiny_directory: Callable[[str], Path], machine: Machine
    ) -> None:
        plain = runner_for(tiny_directory("qwen3"), machine)
        slow = replace(machine, speeds={**machine.speeds, "add": Speed((1.0,), (1e-9,))})
        for at, cost in ((replace(machine, cache_bytes=1), 4 / 2e10), (slow, 1e-9)):
            own, more = replace(plain, machine=at), replace(plain, machine=at, adapter_numbers=5000)
            assert more.token_seconds(9) - own.token_seconds(9) == pytest.approx(5000 * cost)

    def test_more_rows_share_what_they_read(self, tiny_directory: Callable[[str], Path], machine: Machine) -> None:
        shared = Speed((1.0, 4.0), (1e-9, 0.25e-9))
        sharing = replace(machine, speeds={n: shared if "/cached" in n else s for n, s in machine.speeds.items()})
        one, four = (runner_for(tiny_directory("qwen3"), sharing).token_seconds(10, batch) for batch in (1, 4))
        assert four < 2 * one  # attention is not shared

    def test_from_memory_beyond_the_cache(self, tiny_directory: Callable[[str], Path], machine: Machine) -> None:
        small = replace(machine, cache_bytes=10**5)
        path = tiny_directory("llama 3.1")
        cached, streamed = (runner_for(path, m).token_seconds(10) for m in (machine, small))
        assert streamed == pytest.approx(2 * cached)

    def test_speeds_between_what_was_measured(self) -> None:
        speed = Speed((1.0, 4.0), (4.0, 1.0))
        assert [speed.at(n) for n in (0.5, 1, 2, 4, 100)] == [4.0, 4.0, 2.0, 1.0, 1.0]


class TestMachine:
    @pytest.mark.usefixtures("measured_roughly")
    def test_measured_once_kept_and_read_again(self) -> None:
        said: list[str] = []
        first = measured(1, [], say=said.append)
        again = measured(1, [], say=said.append)
        assert first == again and len([s for s in said if "a few seconds" in s]) == 1
        data = json.loads(next(Path(runs.cache_dir()).glob("machine-1*.json")).read_text())
        assert data["date"] == first.date and data["processor"] == first.processor
        assert 1e9 < first.memory_read[1] < 1e12
        for name, speed in first.speeds.items():
            assert list(speed.rows) == sorted(speed.rows), name
            assert all(0 < s < 1e-5 for s in speed.seconds), name

    @pytest.mark.parametrize(
        ("change", "said"),
        [
            ({"processor": "an abacus"}, "another processor"),
            ({"build": "0-0"}, "another build"),
            ({"date": "2001-01-01"}, "days ago"),
            ({"format": 99}, "cannot be used"),
            ({"memory_read_bytes_per_second": {"1": -1}}, "cannot be used"),
            ({"seconds_per_unit_by_rows": {"add": {"1": "fast"}}}, "cannot be used"),
        ],
    )
    def test_a_stale_or_damaged_file_is_said_in_one_line(
        self, change: dict[str, Any], said: str, machine: Machine, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        from trilens.lenses.machines import machine as module

        monkeypatch.setattr(module, "_build", lambda: "1")
        monkeypatch.setattr(module.system, "processor_name", lambda: "x")
        module._keep(replace(machine, date=module.datetime.now(module.UTC).date().isoformat()))
        assert kept(2) is not None
        path = Path(runs.cache_dir()) / "machine-2-threads.json"
        path.write_text(json.dumps({**json.loads(path.read_text()), **change}))
        lines: list[str] = []
        assert kept(2, say=lines.append) is None
        assert len(lines) == 1 and said in lines[0] and "measured again" in lines[0]

    def test_half_a_file(self) -> None:
        path = Path(runs.cache_dir()) / "machine-2-threads.json"
        path.write_text('{"format": 1, "proc')
        lines: list[str] = []
        assert kept(2, say=lines.append) is None and len(lines) == 1


class TestCalibration:
    def test_runs_correct_the_next_prediction(self, tiny_directory: Callable[[str], Path], machine: Machine) -> None:
        run = runner_for(tiny_directory("qwen3"), machine)
        plain = on_this_machine(run, Job(64), Calibration())
        once = on_this_machine(run, Job(64), Calibration(decode=(2.0,), prefill=(3.0,)))
        many = on_this_machine(run, Job(64), Calibration(decode=(1.0, 2.0, 2.0, 2.0, 2.0, 4.0), prefill=(1.0,)))
        assert plain.first_token is not None and once.first_token is not None
        assert once.token.p50 == pytest.approx(2 * plain.token.p50)
        assert once.first_token.p50 == pytest.approx(3 * plain.first_token.p50)
        assert plain.token.p10 == pytest.approx(UNCALIBRATED[0] * plain.token.p50)
        assert once.token.p90 == pytest.approx(CALIBRATED[2] * once.token.p50)
        assert many.token.p10 == pytest.approx(1.5 * plain.token.p50)
        assert (plain.calibrated, once.calibrated) == (0, 1)
        assert "no run of this model" in plain.source and "corrected by 1 run of" in once.source

    def test_the_file_keeps_the_last_of_each(self) -> None:
        for i in range(30):
            runs.add("a model", {"decode": 1 + i / 100, "thinking": {"on": i}})
        known = calibration("a model")
        assert len(known.decode) == runs.KEPT and known.decode[-1] == 1.29
        assert known.thinking["on"][-1] == 29 and calibration("another") == Calibration()

    @pytest.mark.parametrize("proposed", [0, 7, 20, 31])
    def test_a_call_with_drafts_teaches_as_well(
        self, proposed: int, tiny_directory: Callable[[str], Path], machine: Machine
    ) -> None:
        """Ten steps, whose rows are their own and those that were proposed; they took twice what was forecast."""
        own = runner_for(tiny_directory("qwen3"), machine)
        rows = [1 + proposed // 10 + (i < proposed % 10) for i in range(10)]
        seconds = 2 * sum(own.step_seconds([Span(100 + 12 // 2, n, n)]) for n in rows)
        decode = SimpleNamespace(steps=10, tokens=12, seconds=seconds)
        receipt = SimpleNamespace(
            tokens=SimpleNamespace(prompt=100, cached=100),
            work=SimpleNamespace(decode=decode, prefill=None),
            drafts=SimpleNamespace(proposed=proposed),
        )
        assert runs.ratios(own, receipt) == {"decode": pytest.approx(2)}  # type: ignore[arg-type]

    def test_a_damaged_file_counts_as_empty(self) -> None:
        runs.add("a model", {"decode": 1.5})
        path = Path(runs.cache_dir()) / "calibration.json"
        for text in ("", "[]", '{"format": 1, "models": {"a model": {"decode": "x"}}}', '{"format": 2, "models": {}}'):
            path.write_text(text)
            assert calibration("a model").decode == ()
        runs.add("a model", {"decode": 1.5})
        assert calibration("a model").decode == (1.5,)

    @pytest.mark.parametrize("damage", range(14))
    def test_whatever_is_wrong_with_the_file_ends_no_call(self, damage: int) -> None:
        path = Path(runs.cache_dir()) / "calibration.json"
        path.parent.mkdir(parents=True, exist_ok=True)
        odd = (
            "[" * 100_000,
            "{}",
            "7",
            "null",
            "[NaN]",
            "[1e999, -1, 0]",
            '{"on": []}',
            '"x"',
            "true",
            "[true]",
            "[10]",
        )
        texts = [
            f'{{"format": 1, "models": {{"a model": {{"decode": {v}, "thinking": {v}, "overlap": {v}}}}}}}' for v in odd
        ]
        texts += ['{"format": 1, "models": []}', '{"format": [1], "models": {"a model": 3}}', '{"a":' * 100_000]
        path.write_text(texts[damage])
        known = calibration("a model")
        assert all(1e-3 <= ratio <= 1e3 for ratio in known.decode) and known.overlap is None
        runs.add("a model", {"decode": 1.5, "thinking": {"on": 7}})
        assert calibration("a model").decode[-1] == 1.5 and calibration("a model").thinking["on"][-1] == 7

    @pytest.mark.parametrize("what", ["pipe", "directory", "loop"])
    def test_a_file_that_is_none_ends_no_call(self, what: str) -> None:
        path = Path(runs.cache_dir()) / "calibration.json"
        path.parent.mkdir(parents=True, exist_ok=True)
        {"pipe": os.mkfifo, "directory": Path.mkdir, "loop": lambda p: p.symlink_to(p)}[what](path)
        assert calibration("a model") == Calibration()
        runs.add("a model", {"decode": 1.5})

    @pytest.mark.usefixtures("measured_roughly")
    def test_a_call_teaches(self) -> None:
        """Measured first, then one call: its ratios are there, and the next plan says so."""
        plan("smollm2", context=256, offline=True, threads=1)
        model = load("smollm2", threads=1)
        model.generate("Write a list of the first ten numbers, and then a story.", max_tokens=16, temperature=0)
        made = plan("smollm2", context=256, offline=True, threads=1)
        assert made.forecast is not None and made.forecast.calibrated == 1
        [entry] = json.loads((Path(runs.cache_dir()) / "calibration.json").read_text())["models"].values()
        assert all(0.001 < entry[what][0] < 1000 for what in ("decode", "prefill"))  # however busy the machine is

    def test_thinking_lengths_of_calls_replace_the_prior(self) -> None:
        seen = Calibration(thinking={"on": (100, 200, 300)})
        assert thinking_length("on", seen).tokens.p50 == 200
        assert "3 calls of this model" in thinking_length("on", seen).source
        assert "prior" in thinking_length("high", seen).source

    def test_a_cache_that_cannot_be_written_stops_nothing(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("TRILENS_CACHE", "/proc/nowhere")
        runs.add("a model", {"decode": 1.0})
        assert calibration("a model") == Calibration()


def test_what_has_to_be_measured(tiny_directory: Callable[[str], Path]) -> None:
    spec = read_spec(find(str(tiny_directory("qwen3 moe")))).spec
    types = {p.name: "Q8_0" for ins in fuse(record(spec)).instructions for p in ins.parameters if p is not None}
    wanted = measurables_of(fuse(record(spec)), types, "16bit")
    assert set(wanted) == {Layout("Q8_0", "16bit", routed=False), Layout("Q8_0", "16bit", routed=True)}


@pytest.mark.parametrize(
    ("family", "rules"),
    [
        ("qwen3.5", {Rule(delta=True, vector_decay=False)}),
        ("granite 4 h", {Rule(delta=False, vector_decay=False)}),
        ("kimi linear", {Rule(delta=True, vector_decay=True)}),
        ("lfm2", set()),
    ],
)
def test_rules_of_recurrences_have_to_be_measured(
    family: str, rules: set[Rule], tiny_directory: Callable[[str], Path], machine: Machine
) -> None:
    spec = read_spec(find(str(tiny_directory(family)))).spec
    types = {p.name: "Q8_0" for ins in fuse(record(spec)).instructions for p in ins.parameters if p is not None}
    wanted = [at for at in measurables_of(fuse(record(spec)), types, "8bit") if isinstance(at, Rule)]
    assert set(wanted) == rules and machine.missing(wanted, "f16") == []
    speeds = {name: speed for name, speed in machine.speeds.items() if not name.startswith("recur/")}
    assert replace(machine, speeds=speeds).missing(wanted, "f16") == ["recurrence"] * len(rules)


@pytest.mark.parametrize("rule", ["recur/delta/head", "convolve"])
def test_a_recurrence_takes_its_own_time(rule: str, tiny_directory: Callable[[str], Path], machine: Machine) -> None:
    """A prompt of 8 tokens, with a nanosecond more for each unit of that kind."""
    path = tiny_directory("qwen3.5")
    slower = replace(machine, speeds={**machine.speeds, rule: Speed((1.0,), (1e-9 + machine.speeds[rule].seconds[0],))})
    runners = runner_for(path, machine), runner_for(path, slower)
    fast, slow = (r.step_seconds([Span(0, 8)]) for r in runners)
    op = Op.CONVOLVE if rule == "convolve" else Op.RECUR
    count = sum(n * kind.width * kind.work[0] for kind, n in runners[0].kinds.items() if kind.op is op)
    assert count and slow - fast == pytest.approx(8e-9 * count)


def test_a_quantisation_that_is_not_worked_out_is_an_error(
    tiny_directory: Callable[[str], Path], tmp_path: Path
) -> None:
    config = json.loads((tiny_directory("llama 3.1") / "config.json").read_text())
    path = tmp_path / "config.json"
    path.write_text(json.dumps({**config, "quantization_config": {"quant_method": "aqlm"}}))
    with pytest.raises(TrilensError, match="AQLM"):
        plan(str(path), offline=True)
