"""The ledger: off until it is switched on, every call in it once, prompts only if asked, and never a call's failure."""

from __future__ import annotations

import json
import sqlite3
import stat
import threading
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest

import trilens
from tests.command import command
from tests.hosted import wire
from tests.hosted.fake import Cut, FakeServer, Pause
from trilens import ledger
from trilens.errors import HostedError, UsageError
from trilens.model import Model

ADD = "What is 14 plus 25?"


@pytest.fixture(scope="module")
def model() -> Model:
    return trilens.load("tiny-dense", offline=True)


@pytest.fixture
def file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    path = tmp_path / "deep" / "ledger.db"
    monkeypatch.setenv("TRILENS_LEDGER", str(path))
    return path


def test_nothing_is_kept_until_it_is_asked_for(file: Path, model: Model) -> None:
    model.generate(ADD)
    ledger.keep("off")
    assert not file.exists() and ledger.kept() == "off" and ledger.entries() == [] == ledger.totals()


def test_receipts_are_kept_and_prompts_only_if_asked(file: Path, model: Model) -> None:
    ledger.keep("receipts")
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    first = model.generate(ADD, thinking=True, temperature=0)
    assert b"14 plus 25" not in b"".join(path.read_bytes() for path in file.parent.iterdir())
    ledger.keep("prompts")
    second = model.generate(ADD, thinking=False, temperature=0)
    ledger.keep("off")
    model.generate(ADD)
    newest, oldest = ledger.entries()
    assert (oldest.prompt, oldest.answer) == (None, None)
    assert newest.prompt is not None and ADD in newest.prompt and newest.answer == second.text
    for entry, answer in ((oldest, first), (newest, second)):
        tokens = answer.receipt.tokens
        assert entry.receipt == json.loads(json.dumps(answer.receipt.as_dict()))
        assert (entry.model, entry.place, entry.finish) == ("tiny-dense", "native", "stop")
        assert (entry.prompt_tokens, entry.thinking_tokens, entry.answer_tokens) == (
            tokens.prompt,
            tokens.thinking,
            tokens.answer,
        )
        assert entry.dollars is None and entry.seconds == answer.receipt.seconds


def test_calls_here_and_elsewhere_stand_together(file: Path, model: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    ledger.keep("prompts")
    streams = [
        wire.ResponsesStream().reasoning("So.").message("39").end(20, 50, 44),
        [*wire.ResponsesStream().message("3").events, Pause(0.1), Cut()],
    ]
    server = FakeServer(streams)
    with server.running():
        monkeypatch.setenv("OPENAI_BASE_URL", f"{server.url}/v1")
        monkeypatch.setenv("OPENAI_API_KEY", "none")
        with trilens.load("openai:gpt-5.1", retries=0) as there:
            answer = there.generate(ADD, thinking=True)
            with pytest.raises(HostedError):  # it breaks off
                there.generate(ADD)
    model.generate([ADD] * 3, temperature=0)
    kept = ledger.entries()
    assert [entry.model for entry in kept] == ["tiny-dense"] * 3 + ["openai:gpt-5.1"] * 2
    assert [entry.finish for entry in kept[3:]] == ["broken", "stop"] and kept[3].answer == "3"
    assert kept[4].dollars == answer.receipt.price.total and kept[4].thinking_tokens == 44
    by_model = {total.of: total for total in ledger.totals()}
    assert {name: total.calls for name, total in by_model.items()} == {"tiny-dense": 3, "openai:gpt-5.1": 2}
    assert by_model["openai:gpt-5.1"].priced == 1 and by_model["openai:gpt-5.1"].dollars == answer.receipt.price.total
    assert by_model["tiny-dense"].dollars is None
    assert by_model["tiny-dense"].prompt_tokens == sum(e.prompt_tokens or 0 for e in kept[:3])
    assert {total.of for total in ledger.totals("where")} == {"native", "openai"}
    assert [total.of for total in ledger.totals("day")] == sorted({datetime.now().strftime("%Y-%m-%d")})


def test_many_threads_write_each_call_once(file: Path, model: Model) -> None:
    ledger.keep("receipts")
    replays: list[str] = []

    def ask(n: int) -> None:
        replays.extend(model.generate(f"What is {n} plus {i}?").receipt.replay for i in range(5))

    threads = [threading.Thread(target=ask, args=(n,)) for n in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(entry.receipt["replay"] for entry in ledger.entries()) == sorted(replays) and len(replays) == 30


@pytest.mark.parametrize("damage", [b"not a database " * 100, None])
def test_a_ledger_that_fails_costs_no_answer(file: Path, model: Model, damage: bytes | None) -> None:
    ledger.keep("receipts")
    if damage is None:
        with sqlite3.connect(file) as open_file:
            open_file.execute("DROP TABLE calls")
            open_file.execute("CREATE VIEW calls AS SELECT 1 AS at")
        open_file.close()
    else:
        file.write_bytes(damage)
    with pytest.warns(ledger.LedgerWarning, match=r"was not written to the ledger"):
        assert model.generate(ADD, temperature=0).text == "39"
    with pytest.raises(UsageError, match="move it away"):
        ledger.entries()


NOW = datetime(2026, 11, 27, 9, 30)  # a Friday


@pytest.mark.parametrize(
    ("said", "expected"),
    [
        ("today", datetime(2026, 11, 27)),
        ("Yesterday", datetime(2026, 11, 26)),
        ("friday", datetime(2026, 11, 27)),
        ("monday", datetime(2026, 11, 23)),
        ("saturday", datetime(2026, 11, 21)),
        ("90m", datetime(2026, 11, 27, 8, 0)),
        ("12h", datetime(2026, 11, 26, 21, 30)),
        ("3d", datetime(2026, 11, 24, 9, 30)),
        ("2w", datetime(2026, 11, 13, 9, 30)),
        ("2026-11-20", datetime(2026, 11, 20)),
        ("2026-11-20T08:00", datetime(2026, 11, 20, 8)),
    ],
)
def test_times_as_people_say_them(said: str, expected: datetime) -> None:
    assert ledger.seconds_of(said, NOW) == expected.timestamp()


@pytest.mark.parametrize("said", ["", "mon day", "-3d", "3", "99999999d", "2026-13-01"])
def test_other_times_are_refused(said: str) -> None:
    with pytest.raises(UsageError, match=r"the time .* is unknown"):
        ledger.seconds_of(said, NOW)


def test_sums_since_a_time(file: Path, model: Model) -> None:
    ledger.keep("receipts")
    model.generate(ADD)
    with sqlite3.connect(file) as open_file:
        open_file.execute("UPDATE calls SET at = at - 40 * 86400")
    open_file.close()
    model.generate(ADD)
    assert [total.calls for total in ledger.totals(since="30d")] == [1]
    assert [total.calls for total in ledger.totals()] == [2]
    assert len(ledger.entries(since="30d")) == 1 and len(ledger.entries(limit=1)) == 1
    assert ledger.totals(model="another") == [] == ledger.entries(model="another")


def test_the_commands(file: Path) -> None:
    done = command("log")
    assert done.returncode == 0 and "trilens log --on" in done.stderr and done.stdout == ""
    assert "is kept in" in command("log", "--on").stderr
    assert command("run", ADD, "--model", "tiny-dense", "--temperature", "0").stdout == "39\n"
    shown = command("log").stdout.splitlines()
    assert shown[0].split() == ["when", "model", "where", "prompt", "thinking", "answer", "seconds", "Wh", "US$"]
    assert shown[1].split()[2:4] == ["tiny-dense", "native"] and len(shown) == 2
    [line] = command("log", "--json").stdout.splitlines()
    entry: dict[str, Any] = json.loads(line)
    assert entry["receipt"]["tokens"]["prompt"] == entry["prompt_tokens"] and entry["prompt"] is None
    shown = command("cost", "--by", "model", "--since", "monday").stdout.splitlines()
    assert shown[1].split()[:3] == ["tiny-dense", "1", str(entry["prompt_tokens"])]
    [total] = json.loads(command("cost", "--json").stdout)
    assert total["of"] == "tiny-dense" and total["calls"] == 1
    for words in (("cost", "--since", "foo"), ("log", "--on", "--since", "today"), ("cost", "--by", "colour")):
        assert command(*words).returncode == 2
    command("log", "--off")
    command("run", ADD, "--model", "tiny-dense")
    assert len(command("log", "--json").stdout.splitlines()) == 1
