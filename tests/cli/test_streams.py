"""Every command with standard streams that are closed, full, left by their reader, or not in UTF-8."""

from __future__ import annotations

import json
import os
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from tests.command import command as in_process
from tests.grids import thinned

QUESTION = "What is 12 plus 30?"
TINY = "--model tiny-dense"
COMMANDS = {
    "run": f"run '{QUESTION}' {TINY}",
    "run-json": f"run '{QUESTION}' {TINY} --json",
    "run-file": f"run --file lines.jsonl {TINY}",
    "run-input": f"run {TINY} < question.txt",
    "chat": f"chat {TINY} < question.txt",
    "card": "card tiny-routed",
    "card-json": "card tiny-routed --json",
    "compare": "compare tiny-dense tiny-routed",
    "plan": "plan tiny-dense --machine h100x1 --json",
    "thinking": "thinking tiny-dense --json",
    "tag": "tag names.txt",
    "trace": f"trace tiny-routed '{QUESTION}' --max-tokens 2 --csv",
    "combos": "combos --questions 1",
    "pull": "pull tiny-dense",
    "bench": "bench tiny-dense --prompt 4 --decode 1 --repeat 1 --json",
    "doctor": "doctor --json",
    "help": "run --help",
    "version": "--version",
}
# what the shell does with the streams -> the exit code
STREAMS = {
    ">&-": 6,
    ">/dev/full": 6,
    "2>&-": 0,
    "2>/dev/full": 0,
    "3>&1 4>&2 >&- 2>&-": 6,
}
AS_TEXT = {"PYTHONIOENCODING": "ascii", "LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}


@pytest.fixture
def place(tmp_path: Path) -> Path:
    (tmp_path / "lines.jsonl").write_text(json.dumps({"prompt": QUESTION}) + "\n")
    (tmp_path / "question.txt").write_text(QUESTION + "\n")
    (tmp_path / "names.txt").write_text("Llama 3.1 8B\n")
    return tmp_path


def shell(line: str, place: Path, env: dict[str, str] | None = None) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        line.replace("trilens", f"{sys.executable} -m trilens", 1),
        shell=True,
        executable="/bin/bash",
        capture_output=True,
        text=True,
        cwd=place,
        env={**os.environ, **(env or {})},
        timeout=120,
    )


def assert_calm(done: subprocess.CompletedProcess[str]) -> None:
    said = done.stdout + done.stderr
    for word in ("Traceback", "bug in trilens", "Exception ignored"):
        assert word not in said, said


# Every second command with one of them, in turn; `run` with all. `make test-all` runs the whole grid.
FAST = {
    (command, stream)
    for number, command in enumerate(COMMANDS)
    for place, stream in enumerate(STREAMS)
    if command == "run" or (number % 2 and place == number // 2 % len(STREAMS))
}
GRID = [
    pytest.param(command, stream, marks=[] if (command, stream) in FAST else pytest.mark.slow)
    for command in COMMANDS
    for stream in STREAMS
]


@pytest.mark.parametrize(("command", "streams"), GRID)
def test_every_command_with_every_stream(command: str, streams: str, place: Path) -> None:
    done = shell(f"trilens {COMMANDS[command]} {streams}", place)
    assert_calm(done)
    assert done.returncode == STREAMS[streams], done.stderr
    if STREAMS[streams]:
        if "2>" not in streams:
            assert "trilens: standard output " in done.stderr
    else:
        assert done.stdout.strip(), "the answer is there, whatever became of the rest"


@pytest.mark.parametrize("command", thinned(COMMANDS, 3))
def test_a_reader_that_leaves(command: str, place: Path) -> None:
    done = shell(f"(trap '' PIPE; trilens {COMMANDS[command]}; echo $? >code) | true", place)
    assert_calm(done)
    assert (place / "code").read_text().strip() in ("0", "141"), done.stderr


@pytest.mark.parametrize("command", thinned(COMMANDS, 6))
def test_an_output_in_ascii(command: str, place: Path) -> None:
    assert_ascii(command, shell(f"trilens {COMMANDS[command]}", place, AS_TEXT))


@pytest.mark.usefixtures("measured_roughly")
@pytest.mark.parametrize("command", COMMANDS)
def test_what_every_command_writes_in_ascii(command: str, place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In this process, with streams that take nothing else."""
    monkeypatch.chdir(place)
    words, _, given = COMMANDS[command].partition(" < ")
    stdin = (place / given).read_bytes() if given else b""
    assert_ascii(command, in_process(*shlex.split(words), stdin=stdin, encoding="ascii"))


def assert_ascii(command: str, done: subprocess.CompletedProcess[str]) -> None:
    assert_calm(done)
    assert done.returncode == 0, done.stderr
    assert done.stdout.isascii() and done.stdout.strip()
    if "json" in COMMANDS[command]:
        for line in done.stdout.splitlines():
            json.loads(line)


def test_an_answer_in_ascii_is_the_same_answer(place: Path) -> None:
    (place / "lines.jsonl").write_text('{"prompt": "caf\\u00e9", "id": "\\u00e9\\ud83d\\ude00"}\n')
    plain, ascii = (shell(f"trilens {COMMANDS['run-file']}", place, env) for env in (None, AS_TEXT))
    first, second = json.loads(plain.stdout), json.loads(ascii.stdout)
    assert (first["id"], first["text"]) == (second["id"], second["text"]) and first["id"] == "é😀"


@pytest.mark.parametrize("command", ["run", "chat", "tag -"])
def test_an_input_that_is_closed(command: str, place: Path) -> None:
    model = "" if command == "tag -" else TINY
    done = shell(f"trilens {command} {model} <&-", place)
    assert_calm(done)
    assert done.returncode == (0 if command == "chat" else 2), done.stderr


@pytest.mark.parametrize("command", ["run", "chat", "tag -"])
def test_an_input_that_cannot_be_read_or_is_no_text(command: str, place: Path) -> None:
    model = "" if command == "tag -" else TINY
    for line in (f"trilens {command} {model} 0>unreadable", f"printf '\\xff\\xfe\\n' | trilens {command} {model}"):
        done = shell(line, place)
        assert_calm(done)
        assert done.returncode == 2, done.stderr
        assert "trilens: " in done.stderr


def test_a_prompt_that_is_no_text(place: Path) -> None:
    done = shell(f"trilens run $'\\xff\\xfe' {TINY}", place)
    assert_calm(done)
    assert done.returncode == 2 and "not UTF-8" in done.stderr


def test_no_file_takes_a_closed_streams_number(place: Path) -> None:
    """Otherwise what is printed would be written into it."""
    script = (
        "import os, sys; from trilens.cli.streams import standard_streams\n"
        "with standard_streams(): sys.exit(0 if os.open('file', os.O_CREAT | os.O_WRONLY) > 2 else 9)"
    )
    done = subprocess.run(f'{sys.executable} -c "{script}" <&- >&- 2>&-', shell=True, cwd=place)
    assert done.returncode == 0
