"""The tutorial's commands, run from an empty directory. `python -m tests.tutorial_page` writes their outputs into the
English and the Korean page."""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

DOCS = Path(__file__).parent.parent / "docs"
PAGES = (DOCS / "tutorial.md", DOCS / "ko" / "tutorial.md")
BLOCK = re.compile(r"^```(\w+)\n(.*?)^```$", re.DOTALL | re.MULTILINE)
NAME = re.compile(r"`([\w./-]+\.(?:py|json))`")
PORT = "8000"


class Step(NamedTuple):
    """A command with its output, or the `text` of a file with its name."""

    command: str
    file: str
    text: str


def steps(page: str) -> Iterator[Step]:
    """The steps of a page. A file's name stands in backticks before its block; `sh` blocks are left to the reader."""
    for block in BLOCK.finditer(page):
        language, text = block.groups()
        if language == "console":
            command, output = text.split("\n", 1)
            yield Step(command.removeprefix("$ "), "", output)
        elif language in ("python", "json"):
            yield Step("", NAME.findall(page[: block.start()])[-1], text)


def outputs(page: str, directory: Path) -> dict[str, str]:
    """What each command of a page prints on standard output, run one after the other in an empty directory."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    environment = {**os.environ, "PATH": path, "COLUMNS": "100", "TRILENS_CACHE": str(directory / "cache")}
    environment |= {"HF_HUB_OFFLINE": "1", "NO_PROXY": "127.0.0.1", "XDG_DATA_HOME": str(directory / "data")}
    work = directory / "work"
    work.mkdir()
    found: dict[str, str] = {}
    servers: list[subprocess.Popen[str]] = []
    try:
        for command, file, text in steps(page):
            if file:
                (work / file).parent.mkdir(exist_ok=True)
                (work / file).write_text(text, encoding="utf-8")
            elif command.startswith("trilens serve"):
                words = command.replace(PORT, port).split()
                server = subprocess.Popen(words, cwd=work, env=environment, stderr=subprocess.PIPE, text=True)
                servers.append(server)
                assert server.stderr is not None and " serves " in server.stderr.readline()
                found[command] = ""
            else:
                shell = ["bash", "-c", command.replace(f":{PORT}", f":{port}")]
                done = subprocess.run(shell, cwd=work, env=environment, capture_output=True, text=True, timeout=120)
                assert done.returncode == 0, f"{command}\n{done.stderr}"
                found[command] = done.stdout
    finally:
        for server in servers:
            server.send_signal(signal.SIGTERM)
            server.communicate(timeout=60)
    return found


def with_outputs(page: str, found: dict[str, str]) -> str:
    def filled(block: re.Match[str]) -> str:
        first = block[2].split("\n", 1)[0]
        return f"```console\n{first}\n{found[first.removeprefix('$ ')]}```" if block[1] == "console" else block[0]

    return BLOCK.sub(filled, page)


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as empty:
        printed = outputs(PAGES[0].read_text("utf-8"), Path(empty))
    for each in PAGES:
        each.write_text(with_outputs(each.read_text("utf-8"), printed), "utf-8")
