"""`trilens serve --engine` as a process, as a user starts it, and what is left of it."""

from __future__ import annotations

import json
import re
import signal
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tests.started import started


class Serving:
    """One `trilens serve`."""

    def __init__(self, words: Sequence[str], folder: Path, environment: dict[str, str]) -> None:
        self._said = folder / "said"
        with self._said.open("w") as said:
            self.process = started(
                ["serve", *words], said.fileno(), said.fileno(), {"TMPDIR": str(folder), **environment}
            )

    @property
    def said(self) -> str:
        return self._said.read_text()

    def last_line(self) -> str:
        return self.said.rstrip().splitlines()[-1]

    def until(self, pattern: str, seconds: float = 120) -> re.Match[str]:
        """Waits until it says so. `seconds` only bounds a hang."""
        end = time.monotonic() + seconds
        while (found := re.search(pattern, self.said)) is None:
            assert self.process.poll() is None, self.said
            assert time.monotonic() < end, self.said
            time.sleep(0.05)
        return found

    def address(self, seconds: float = 120) -> str:
        return self.until(r"(http://127\.0\.0\.1:\d+) serves", seconds)[1]

    def engine(self) -> int:
        """The engine's process."""
        return int(Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children").read_text().split()[0])

    def group(self) -> list[int]:
        """All processes of the engine that run, however they came to be."""
        return of_group(self.engine())

    def end(self, number: int | None = None, seconds: float = 90) -> int:
        """Send the signal, wait for the end; the exit code."""
        if number is not None:
            self.process.send_signal(number)
        return self.process.wait(seconds)


@contextmanager
def serving(*words: str, folder: Path, **environment: str) -> Iterator[Serving]:
    """`folder`: where it and its engine put their files."""
    running = Serving(words, folder, environment)
    try:
        yield running
    finally:
        if running.process.poll() is None:
            running.process.send_signal(signal.SIGTERM)
            running.process.wait(60)


def fake(folder: Path) -> Path:
    """A command that is called as vLLM's: tests/serve/fake_engine.py."""
    path = folder / "vllm"
    path.write_text(f"#!{sys.executable}\n" + Path(__file__).with_name("fake_engine.py").read_text())
    path.chmod(0o755)
    return path


def of_group(group: int) -> list[int]:
    """Processes of a group, those left out that have ended and that nobody has asked about yet."""
    found = []
    for folder in Path("/proc").iterdir():
        if folder.name.isdigit():
            try:
                state, _, of = (folder / "stat").read_text().rpartition(")")[2].split()[:3]
            except OSError:
                continue
            if int(of) == group and state not in "ZX":
                found.append(int(folder.name))
    return found


def noted(path: Path) -> list[dict[str, Any]]:
    whole, end, _ = path.read_text().rpartition("\n") if path.exists() else ("", "", "")  # the last may be half-written
    return [json.loads(line) for line in whole.splitlines()] if end else []


def first_noted(path: Path, key: str, seconds: float = 60) -> dict[str, Any]:
    """The first entry that has this key: an engine writes it some time after it was started."""
    end = time.monotonic() + seconds
    while True:
        for entry in noted(path):
            if key in entry:
                return entry
        assert time.monotonic() < end, f"no {key} in {path}"
        time.sleep(0.05)


def runs(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except OSError:
        return False


def free_ports(count: int = 2) -> int:
    """The first of so many free ports in a row."""
    import socket

    while True:
        with socket.socket() as first:
            first.bind(("127.0.0.1", 0))
            port = int(first.getsockname()[1])
        try:
            for more in range(1, count):
                with socket.socket() as next_:
                    next_.bind(("127.0.0.1", port + more))
            return port
        except OSError:
            continue
