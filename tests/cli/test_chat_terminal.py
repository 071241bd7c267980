"""`trilens chat` as a person meets it, in a terminal (tmux)."""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import time
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.hosted import wire
from tests.hosted.fake import FakeServer, Status
from trilens.cli.chat import COMMANDS

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

    def answered(self, times: int) -> str:
        """The screen, once there are so many receipts."""
        return self.waits_for(" answer · ", times)

    def fresh(self) -> None:
        """Clear the screen and what has scrolled away."""
        self.keys("C-l")
        time.sleep(0.1)
        self._tmux("clear-history")

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
    terminal.paste("What is 12 plus 30?\n\ntouch pasted-into-the-shell\n\n$(touch this-one)\n`touch this-two`\n/exit\n")
    terminal.waits_for("/exit")
    time.sleep(0.3)
    assert " answer · " not in terminal.screen  # nothing was sent
    terminal.keys("Enter")
    terminal.waits_for(" answer · ")
    # without brackets each line is a message, an empty one nothing, and what follows /exit goes nowhere
    terminal._tmux("set-buffer", "What is 2 plus 3?\n\n\n/exit\n$(touch this-too)\ntouch this-neither\n")
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
    terminal.waits_for("saved 1 turn in talk.json")
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
    terminal.waits_for("saved 1 turn in")
    question, answer = json.loads((terminal.folder / "talk.json").read_text())["messages"]
    assert question["content"].startswith("Write a very long") and "lighthouse" in answer["content"]
    terminal.line("/undo")
    terminal.waits_for("removed; 0 turns left")


@needs_tmux
def test_every_command_and_no_error_ends_it(terminal: Terminal) -> None:
    file = terminal.folder / "talk.json"
    terminal.chat()
    terminal.line("/help")
    for command in COMMANDS:
        terminal.waits_for(f"\n  {command} ")
    terminal.line("")  # nothing is asked
    for typed, said in [
        ("/receipt", "there is no receipt yet"),
        ("/retry", "there is no question yet"),
        ("/nonsense", "/nonsense is not a command"),
        ("/model nosuch", "'nosuch': no path that exists"),
        ("/thinking zebra", "thinking is 'zebra'"),
        ("/save", "/save needs a file"),
        ("/load nowhere.json", "nowhere.json: no such file"),
    ]:
        terminal.line(typed)
        terminal.waits_for(f"\ntrilens: {said}")
    terminal.paste("word " * 3000)
    terminal.keys("Enter")
    terminal.waits_for("do not fit the model's context")
    terminal.line("clear")  # only words to this program
    terminal.answered(1)

    terminal.fresh()
    terminal.line("/system Be brief.")
    terminal.waits_for("\ntrilens: system: Be brief.")
    terminal.line("What is 12 plus 30?")
    screen = terminal.answered(1).splitlines()
    assert sum(line.startswith("trilens: ") for line in screen) == 2  # its receipt is one line
    answer = screen[next(i for i, line in enumerate(screen) if " answer · " in line) - 1]
    terminal.line("/retry")
    assert terminal.answered(2).count(f"\n{answer}\n") == 2
    terminal.line("/receipt")
    terminal.waits_for("\nmodel    tiny-dense (")
    terminal.line(f"/save {file}")
    terminal.waits_for("saved 2 turns in")
    terminal.line("/undo")
    terminal.waits_for("removed; 1 turn left")
    terminal.line(f"/load {file}")
    terminal.waits_for("loaded 2 turns from")
    saved = json.loads(file.read_text())
    assert [m["content"] for m in saved["messages"][2:]] == ["What is 12 plus 30?", answer]
    assert (saved["system"], saved["model"]) == ("Be brief.", "tiny-dense")

    terminal.line("/model tiny-routed")
    terminal.waits_for("\ntrilens: the model is tiny-routed")
    terminal.line("/thinking on")
    terminal.waits_for("\ntrilens: thinking: on")
    terminal.line("What is 2 plus 3?")
    assert " thinking · " in terminal.answered(4)  # with the one in the whole receipt
    terminal.line("/exit")
    terminal.waits_for("shell$")


@needs_tmux
def test_a_narrow_terminal_and_hangul_and_the_last_conversation(terminal: Terminal) -> None:
    terminal._tmux("resize-window", "-x", "40", "-y", "30")
    terminal.fresh()
    terminal.chat()
    terminal.keys("-l", "더하기틀")
    terminal.keys("BSpace", "Space")
    terminal.line("What is 12 plus 30, in one number and without any other word?")
    terminal.answered(1)
    assert re.search(r"\ntrilens: \d+ prompt · \d+ answer · [\d.]+ s\n", terminal.screen)  # one line here too
    terminal.line("/help")
    terminal.waits_for("another\n             model; without")  # folded between words
    terminal.keys("C-d")
    terminal.waits_for("shell$", 2)
    terminal.fresh()
    terminal.line(shlex.join([*CHAT[:4], "-c"]))
    terminal.waits_for("\n>")
    terminal.line("/model")
    terminal.waits_for("the model is tiny-dense")  # the model comes back with the conversation
    terminal.keys("Up", "Up", "Up")
    terminal.waits_for("> 더하기 What is 12 plus 30")
    terminal.keys("C-c")
    terminal.waits_for("Ctrl-D or /exit ends")
    terminal.line("/retry")
    terminal.answered(1)
    terminal.line("/undo")
    terminal.waits_for("removed; 0 turns left")
    kept = json.loads(next(terminal.folder.rglob("last-conversation.json")).read_text())
    assert kept["messages"] == []


@needs_tmux
def test_a_service_that_refuses_ends_a_turn_only(terminal: Terminal) -> None:
    body = {"error": {"message": "Rate limit reached for requests", "type": "requests", "code": "rate_limit_exceeded"}}
    refusal = Status(429, body, {"x-should-retry": "false"})
    fine = wire.chat({"content": "forty-"}, {"content": "two"}, usage=wire.chat_usage(9, 2))
    with FakeServer([fine, refusal, refusal, fine], models=[{"id": "m-1", "owned_by": "vllm"}]).running() as server:
        terminal.line(shlex.join([*CHAT[:4], "--model", server.url + "/v1"]))
        terminal.waits_for("\n>")
        terminal.line("one?")
        terminal.answered(1)
        terminal.line("two?")
        terminal.waits_for("Rate limit reached")
        terminal.line("/retry")
        terminal.waits_for("Rate limit reached", 2)
        terminal.line("/retry")
        terminal.answered(2)
        terminal.line("/exit")
        terminal.waits_for("shell$", 2)
    asked = [[m["content"] for m in asked.body["messages"]] for asked in server.asked]
    assert asked == [["one?"], *[["one?", "forty-two", "two?"]] * 3]
