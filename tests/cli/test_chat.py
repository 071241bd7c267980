"""`trilens chat` as a person meets it: in a terminal (tmux), and line by line from a pipe."""

from __future__ import annotations

import json
import os
import shlex
import shutil
import subprocess
import sys
import time
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest

CHAT = [sys.executable, "-m", "trilens", "chat", "--model", "tiny-dense", "--temperature", "0", "--thinking", "off"]
needs_tmux = pytest.mark.skipif(shutil.which("tmux") is None, reason="tmux is not installed")


class Terminal:
    """A shell in tmux, with a folder of its own for what is kept."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._socket = f"trilens-{uuid.uuid4().hex[:8]}"
        self._tmux("-f", "/dev/null", "new-session", "-d", "-x", "120", "-y", "50", "env -i bash --norc --noprofile")
        env = {"PATH": os.environ["PATH"], "HOME": str(folder), "XDG_STATE_HOME": str(folder), "LANG": "C.UTF-8"}
        env |= {
            "TERM": "screen",
            "TRILENS_CACHE": os.environ.get("TRILENS_CACHE", str(folder / "cache")),
            "PS1": "shell$ ",
        }
        self.line("export " + " ".join(f"{name}={shlex.quote(value)}" for name, value in env.items()) + "; clear")
        self.waits_for("shell$")

    def _tmux(self, *words: str) -> str:
        done = subprocess.run(["tmux", "-L", self._socket, *words], capture_output=True, text=True, timeout=20)
        assert done.returncode == 0, done.stderr
        return done.stdout

    @property
    def screen(self) -> str:
        return self._tmux("capture-pane", "-p", "-S", "-200")

    def keys(self, *names: str) -> None:
        self._tmux("send-keys", *names)

    def line(self, text: str) -> None:
        self._tmux("send-keys", "-l", text)
        self.keys("Enter")

    def paste(self, text: str) -> None:
        """As a terminal does it: in brackets, where the program has asked for them."""
        self._tmux("set-buffer", text)
        self._tmux("paste-buffer", "-p")

    def waits_for(self, text: str, times: int = 1) -> str:
        until = time.monotonic() + 60
        while self.screen.count(text) < times:
            assert time.monotonic() < until, f"no {text!r} on the screen:\n{self.screen}"
            time.sleep(0.05)
        return self.screen

    def chat(self, *more: str) -> None:
        self.line(shlex.join([*CHAT, *more]))
        self.waits_for("\n>")

    def kill(self) -> None:
        subprocess.run(["tmux", "-L", self._socket, "kill-server"], capture_output=True, timeout=20)


@pytest.fixture
def terminal(tmp_path: Path) -> Iterator[Terminal]:
    terminal = Terminal(tmp_path)
    yield terminal
    terminal.kill()


@needs_tmux
def test_a_paste_is_one_message_and_never_reaches_the_shell(terminal: Terminal) -> None:
    terminal.chat()
    terminal.paste("What is 12 plus 30?\n\ntouch pasted-into-the-shell\n\n/exit\ntouch this-too\n")
    time.sleep(0.5)
    assert " answer · " not in terminal.screen  # nothing was sent
    terminal.keys("Enter")
    terminal.waits_for(" answer · ")
    # without brackets each line is a message, an empty one nothing, and what follows /exit goes nowhere
    terminal._tmux("set-buffer", "What is 2 plus 3?\n\n\n/exit\ntouch this-neither\n")
    terminal._tmux("paste-buffer")
    terminal.waits_for("shell$", 2)
    time.sleep(0.5)
    terminal.line("echo the shell is back")
    terminal.waits_for("\nthe shell is back")
    assert "touch this-neither\nshell$" not in terminal.screen
    assert [path.name for path in terminal.folder.iterdir() if "this-" in path.name or "pasted" in path.name] == []
    assert [path.name for path in Path.cwd().iterdir() if "this-" in path.name or "pasted" in path.name] == []


@needs_tmux
def test_several_lines_and_a_history_that_is_kept(terminal: Terminal) -> None:
    terminal.chat()
    terminal.keys("-l", "What is 12")
    terminal.keys("M-Enter")
    terminal.line("plus 30?")
    terminal.waits_for(" answer · ")
    terminal.line("/save talk.json")
    terminal.waits_for("1 turns are in talk.json")
    terminal.keys("C-d")
    terminal.waits_for("shell$", 2)
    saved = json.loads(Path("talk.json").read_text()) if Path("talk.json").exists() else None
    Path("talk.json").unlink(missing_ok=True)
    assert saved is not None and saved["messages"][0]["content"] == "What is 12\nplus 30?"
    terminal.line("clear")
    terminal.chat("-c")
    terminal.keys("Up", "Up", "Up")
    terminal.waits_for("> What is 12\n  plus 30?")
    history = next(terminal.folder.rglob("chat-history"))
    assert history.stat().st_mode & 0o077 == 0


@needs_tmux
def test_ctrl_c_stops_the_answer_and_keeps_both(terminal: Terminal, smollm2: Path) -> None:
    terminal.line(shlex.join([*CHAT[:4], "--model", str(smollm2), "--temperature", "0", "--max-tokens", "4000"]))
    terminal.waits_for("\n>")
    terminal.keys("C-c")
    terminal.waits_for("Ctrl-D or /exit ends the conversation")
    terminal.line("Write a very long story about a lighthouse.")
    terminal.waits_for("lighthouse", 2)
    terminal.keys("C-c")
    terminal.waits_for("stopped; the answer so far is kept")
    terminal.line("/save " + str(terminal.folder / "talk.json"))
    terminal.waits_for("1 turns are in")
    question, answer = json.loads((terminal.folder / "talk.json").read_text())["messages"]
    assert question["content"].startswith("Write a very long") and "lighthouse" in answer["content"]
    terminal.line("/undo")
    terminal.waits_for("taken back; 0 turns are left")


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
        "/nonsense is no command",
        "do not fit the model's context",
        "; /undo takes a turn back",
        "thinking is 'zebra'",
        "'nosuch': no path that exists",
        "nowhere.json: no such file",
        "/save needs a file",
        "model    tiny-dense (",
        "1 turns are in",
        "thinking: on",
        "tiny-routed answers",
        "taken back; 1 turns are left",
        "taken back; 0 turns are left",
        "there is no turn to take back",
        "1 turns from",
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
    assert code == 0 and "tiny-dense answers" in err
    kept = tmp_path / "trilens" / "last-conversation.json"
    assert kept.stat().st_mode & 0o077 == 0
    assert [m["role"] for m in json.loads(kept.read_text())["messages"]] == ["user", "assistant"]
    kept.write_text('{"messages": [{"role": "user"}]}')
    _, err, code = chat("hi", more=("-c",), env=env)
    assert code == 2 and "is no saved conversation" in err
    kept.unlink()
    assert chat("hi", more=("-c",), env=env)[2] == 2
