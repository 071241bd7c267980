"""An engine that trilens starts, watches and stops: its processes, its log, and the other nodes that it runs on."""

from __future__ import annotations

import logging
import os
import signal
import subprocess
import tempfile
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Self

from trilens import system
from trilens.errors import EngineDied, HostedError, Unreachable, UsageError
from trilens.serve.nodes import STOP, Meeting, Node

GRACE, BROKEN = 12.0, 5.0  # seconds from being told to end to being ended, of one that is well and of one that is not
STRAYS = 3.0  # seconds that what it started has, once it has ended itself
LINES = 15  # of its log that are shown when it fails
TRIES = 3  # requests that may fail at an engine that listens already

log = logging.getLogger("trilens.serve")


class Engine:
    """A context manager. After it, nothing of the engine runs any more, however it was left.

    The engine has a process group of its own. When it ends by itself, or another node is lost, `failure` says so,
    `ended` is called, and everything of it here is ended.
    """

    def __init__(self, name: str, command: Sequence[str], environment: Mapping[str, str], node: Node, limit: float):
        """`limit`: seconds until it has to answer."""
        self.name = name
        self.node = node
        self.failure: EngineDied | None = None
        self.ended: Callable[[], None] = lambda: None
        self.log: Path | None = None
        self._process: subprocess.Popen[bytes] | None = None
        self._command, self._environment, self._limit = list(command), dict(environment), limit
        self._over = threading.Event()  # it failed, or the head has stopped
        self._stopping = self._gone = False
        self._why = STOP  # what the other nodes are told in the end
        self._lock, self._ending = threading.Lock(), threading.Lock()
        self._meeting = Meeting(node, limit, self.fail, self._over.set) if node.count > 1 else None

    def __enter__(self) -> Self:
        return self

    def start(self) -> None:
        """Start the engine, inside its own context, so that any error ends it again. Raises UsageError."""
        handle, path = tempfile.mkstemp(prefix=f"trilens-{self.name}-", suffix=".log")
        self.log = Path(path)
        try:
            self._process = subprocess.Popen(
                self._command,
                stdin=subprocess.DEVNULL,
                stdout=handle,
                stderr=subprocess.STDOUT,
                env={**os.environ, **self._environment},
                start_new_session=True,
                preexec_fn=system.ends_with_us(),
            )
        except OSError as problem:
            self.log.unlink()
            raise UsageError(f"{self._command[0]} cannot be started ({problem.strerror})") from None
        finally:
            os.close(handle)
        log.info("%s starts; its log is %s", self.name, self.log)
        threading.Thread(target=self._watch, args=(self._process,), name="engine", daemon=True).start()
        if self._meeting is not None:
            self._meeting.open()

    def __exit__(self, *_: object) -> None:
        with self._lock:
            self._stopping = True
        # what follows takes a bounded time, and a second Ctrl-C would leave half of it running
        before = {number: signal.signal(number, signal.SIG_IGN) for number in (signal.SIGINT, signal.SIGTERM)}
        try:
            if self._meeting is not None:
                self._meeting.close(self._why)
            self._end()
            if self.failure is None and self.log is not None:
                self.log.unlink(missing_ok=True)
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def wait_for(self, ask: Callable[[], object]) -> None:
        """Wait until `ask` gets a real answer, because an engine can report that it is healthy and fail the first
        request. Raises EngineDied.
        """
        end, begin, failed = time.monotonic() + self._limit, time.monotonic(), 0
        said: object = "nobody listens"
        while time.monotonic() < end:
            try:
                ask()
            except Unreachable as problem:
                said = problem
            except HostedError as problem:
                said, failed = problem, failed + 1
                if failed == TRIES and not self._over.wait(2):
                    self.fail(f"does not answer ({problem})")
            else:
                self.check()
                if not self._missing():
                    log.info("%s answers after %.0f s", self.name, time.monotonic() - begin)
                    return
                said = "it answers alone"
            self._over.wait(0.5)
            self.check()
        missing = ", ".join(map(str, self._missing()))
        nodes = f"; node {missing} of {self.node.count} never connected" if missing else ""
        self.fail(f"gave no answer within {self._limit:g} s ({said}){nodes}")
        self.check()

    def _missing(self) -> list[int]:
        return [] if self._meeting is None else self._meeting.missing

    def wait(self) -> None:
        """On a node other than the head, wait until the head stops. Raises EngineDied."""
        while not self._over.wait(0.5):
            pass
        self.check()

    def check(self) -> None:
        if self.failure is not None:
            raise self.failure

    def died(self, seconds: float) -> EngineDied | None:
        """The reason why it failed, if that is known within so many seconds."""
        self._over.wait(seconds)
        return self.failure

    def fail(self, why: str) -> None:
        """Mark the engine as failed: report the reason once, and end what is left of it here."""
        with self._lock:
            if self._stopping or self.failure is not None:
                return
            self.failure, self._why = EngineDied(f"{self.name} {why}; its log is {self.log}"), why
        log.error("%s %s; the last lines of %s:\n%s", self.name, why, self.log, _tail(self.log))
        self._over.set()
        if self._meeting is not None:
            self._meeting.close(why)
        self.ended()
        self._end()

    def _watch(self, process: subprocess.Popen[bytes]) -> None:
        code = process.wait()
        how = f"exit code {code}" if code >= 0 else f"signal {system.signal_name(-code)}"
        self.fail(f"ended by itself ({how})")

    def _end(self) -> None:
        process = self._process
        with self._ending:
            if self._gone or process is None:
                return
            shared = system.shared_memory(process.pid)
            if process.poll() is None:
                process.terminate()
                with suppress(subprocess.TimeoutExpired):
                    process.wait(GRACE if self.failure is None else BROKEN)
            if process.poll() is not None:
                _until_empty(process.pid, STRAYS)
            system.end_group(process)
            process.wait()
            for segment in shared:  # whoever is killed leaves its own behind
                segment.unlink(missing_ok=True)
            self._gone = True


def _until_empty(group: int, seconds: float) -> None:
    end = time.monotonic() + seconds
    while time.monotonic() < end and system.group_lives(group):
        time.sleep(0.05)


def _tail(path: Path | None) -> str:
    if path is None:
        return "    (there is none)"
    try:
        with path.open("rb") as file:
            file.seek(max(0, path.stat().st_size - 16384))
            lines = file.read().decode("utf-8", "replace").splitlines()
    except OSError:
        return "    (it cannot be read)"
    written = [line for line in lines if line.strip()]
    return "\n".join(f"    {line[:300]}" for line in written[-LINES:]) or "    (nothing was written)"
