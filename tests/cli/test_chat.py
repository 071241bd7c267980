"""`trilens chat` line by line from a pipe; test_chat_terminal.py has it in a terminal."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path

import pytest

from tests.cli.test_chat_terminal import CHAT


def chat(*lines: str, more: tuple[str, ...] = (), env: dict[str, str]) -> tuple[str, str, int]:
    done = subprocess.run(
        [*CHAT, *more],
        input="".join(line + "\n" for line in lines),
        capture_output=True,
        text=True,
        env=env,
        timeout=120,
    )
    return done.stdout, done.stderr, done.returncode


@pytest.fixture
def env(tmp_path: Path) -> dict[str, str]:
    return {**os.environ, "XDG_STATE_HOME": str(tmp_path)}


def test_commands_and_errors_end_no_conversation(tmp_path: Path, env: dict[str, str]) -> None:
    file = tmp_path / "talk.json"
    out, err, code = chat(
        "What is 12 plus 30?",
        "",
        "/nonsense",
        "word " * 3000,
        "/thinking zebra",
        "/model nosuch",
        "/load nowhere.json",
        "/save",
        "/receipt",
        "/retry",
        f"/save {file}",
        "/thinking on",
        "/model tiny-routed",
        "What is 2 plus 3?",
        "/undo",
        "/undo",
        "/undo",
        f"/load {file}",
        "/system Be brief.",
        "/help",
        "/exit",
        "What is never asked?",
        env=env,
    )
    assert code == 0
    assert out.splitlines()[0] == "42" and len(out.splitlines()) == 2
    for said in (
        "/nonsense is not a command",
        "do not fit the model's context",
        "; /undo takes a turn back",
        "thinking is 'zebra'",
        "'nosuch': no path that exists",
        "nowhere.json: no such file",
        "/save needs a file",
        "model    tiny-dense (",
        "saved 1 turn in",
        "thinking: on",
        "the model is tiny-routed",
        "removed; 1 turn left",
        "removed; 0 turns left",
        "there is no turn to take back",
        "loaded 1 turn from",
        "system: Be brief.",
        "  /retry     ask the last question again",
    ):
        assert said in err, said
    assert (
        sum(line.startswith("trilens: ") and " answer · " in line for line in err.splitlines()) == 2
    )  # a line of receipt for each answer
    assert "Traceback" not in err


def test_the_last_conversation_goes_on(tmp_path: Path, env: dict[str, str]) -> None:
    assert chat("What is 12 plus 30?", env=env)[0] == "42\n"
    _, err, code = chat("/retry", "/model", more=("-c",), env=env)
    assert code == 0 and "the model is tiny-dense" in err
    kept = tmp_path / "trilens" / "last-conversation.json"
    assert kept.stat().st_mode & 0o077 == 0
    assert [m["role"] for m in json.loads(kept.read_text())["messages"]] == ["user", "assistant"]
    kept.write_text('{"messages": [{"role": "user"}]}')
    _, err, code = chat("hi", more=("-c",), env=env)
    assert code == 2 and "is not a saved conversation" in err
    kept.unlink()
    assert chat("hi", more=("-c",), env=env)[2] == 2
