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

WIDE = {**os.environ, "COLUMNS": "100"}
README = (Path(__file__).parent.parent / "README.md").read_text(encoding="utf-8")


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", README, re.DOTALL | re.MULTILINE)


@pytest.mark.usefixtures("smollm2")
@pytest.mark.parametrize("code", blocks("python"))
def test_python_blocks_run(code: str) -> None:
    out = io.StringIO()
    with contextlib.redirect_stdout(out):
        exec(compile(code, "README.md", "exec"), {})
    assert out.getvalue().strip()
    assert "smollm2" not in code or "Paris" in out.getvalue()


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
