"""What the README shows is what happens: its blocks are executed, its outputs compared."""

from __future__ import annotations

import contextlib
import io
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from tests.hosted import wire
from tests.hosted.fake import FakeServer
from tests.serve.conftest import served

WIDE = {**os.environ, "COLUMNS": "100"}
ROOT = Path(__file__).parent.parent
README = "\n".join((ROOT / name).read_text(encoding="utf-8") for name in ("README.md", "README.ko.md"))


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", README, re.DOTALL | re.MULTILINE)


HOSTED = [code for code in blocks("python") if "openai:" in code]


def run(code: str) -> str:
    """What it prints."""
    out = io.StringIO()
    with contextlib.redirect_stdout(out):
        exec(compile(code, "README.md", "exec"), {})
    return out.getvalue()


@pytest.mark.usefixtures("smollm2")
@pytest.mark.parametrize("code", [code for code in blocks("python") if code not in HOSTED])
def test_python_blocks_run(code: str) -> None:
    said = run(code)
    assert said.strip()
    assert "smollm2" not in code or "Paris" in said


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of openai's own imports
def test_one_call_at_a_dense_a_routed_a_hosted_and_a_served_model(monkeypatch: pytest.MonkeyPatch) -> None:
    """The hosted one against a server that answers as OpenAI does, the served one against `trilens serve`."""
    [code] = HOSTED
    calls = [re.fullmatch(r'\w+ = trilens\.call_model\("(.+?)", (.*)\)', line) for line in code.splitlines()[3:7]]
    assert len({call[2] for call in calls if call}) == 1 and all(calls)  # they differ in the name only
    openai = FakeServer([wire.ResponsesStream().reasoning("Column by column.").message("4042").end(20, 50, 44)])
    with openai.running(), served(["tiny-routed"]) as trilens:
        monkeypatch.setenv("OPENAI_BASE_URL", f"{openai.url}/v1")
        monkeypatch.setenv("OPENAI_API_KEY", "none")
        lines = run(code.replace("http://127.0.0.1:8000", trilens.url)).splitlines()
    assert [line.split()[1] for line in lines] == ["native", "native", "openai", "trilens"]
    assert all(line.startswith("4042 ") and "requested=True" in line and "thought=True" in line for line in lines)
    assert "thinking=44, answer=6" in lines[2] and "counted_by='provider'" in lines[3]
    [asked] = openai.asked
    assert asked.body["reasoning"] == {"effort": "medium", "summary": "auto"}


@pytest.mark.usefixtures("smollm2")
@pytest.mark.parametrize("block", blocks("console"))
def test_console_blocks_print_what_they_show(block: str) -> None:
    command, expected = block.split("\n", 1)
    words = shlex.split(command.removeprefix("$ trilens "))
    done = subprocess.run([sys.executable, "-m", "trilens", *words], capture_output=True, text=True, env=WIDE)
    assert done.returncode == 0, done.stderr
    assert done.stdout == expected


def test_there_are_blocks() -> None:
    assert blocks("python")
    assert blocks("console")
