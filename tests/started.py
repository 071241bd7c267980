"""`trilens` as a process of its own, forked from one that has imported it: importing takes most of a start, and many
tests need a server that can be killed. tests/cli/test_streams.py starts every command as a user does.

As a program: the process that forks. Its argument is the descriptor of a socket, on which it is asked.
"""

from __future__ import annotations

import atexit
import json
import os
import resource
import select
import selectors
import signal
import socket
import subprocess
import sys
import tempfile
import threading
from collections.abc import Mapping, Sequence
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import NoReturn

from trilens.cli import main

ROOT = Path(__file__).resolve().parents[1]
CAN_FORK = hasattr(os, "pidfd_open")  # Linux; elsewhere each is started
ONE_AT_A_TIME = threading.Lock()


class Started:
    """What a test needs of `subprocess.Popen`, for a child of another process."""

    def __init__(self, pid: int, ended: int) -> None:
        """`ended`: a pipe that gets the exit code."""
        self.pid, self._ended = pid, ended
        self.returncode: int | None = None

    def poll(self) -> int | None:
        return self._within(0)

    def wait(self, timeout: float | None = None) -> int:
        code = self._within(timeout)
        if code is None:
            raise subprocess.TimeoutExpired("trilens", timeout or 0)
        return code

    def send_signal(self, number: int) -> None:
        if self.poll() is None:
            os.kill(self.pid, number)

    def terminate(self) -> None:
        self.send_signal(signal.SIGTERM)

    def _within(self, seconds: float | None) -> int | None:
        if self.returncode is None and select.select([self._ended], [], [], seconds)[0]:
            self.returncode = int(os.read(self._ended, 100))
            os.close(self._ended)
        return self.returncode


def started(
    words: Sequence[str], out: int, err: int, env: Mapping[str, str] | None = None, descriptors: int | None = None
) -> Started | subprocess.Popen[bytes]:
    """`out` and `err`: descriptors that it writes to. `descriptors`: the most that it may have. Its standard input is
    empty, and Ctrl-C reaches it, though a shell's background jobs hand down that it is ignored."""
    environment = {**os.environ, **(env or {})}
    if not CAN_FORK:
        command = [sys.executable, "-m", "trilens", *words]
        return subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=err,
            env=environment,
            preexec_fn=lambda: _prepare(descriptors),
        )
    ours, theirs = os.pipe()
    asked = {"words": list(words), "env": environment, "cwd": str(Path.cwd()), "descriptors": descriptors}
    data = json.dumps(asked).encode()
    with ONE_AT_A_TIME:
        line = _forking()
        socket.send_fds(line, [len(data).to_bytes(8, "big")], [out, err, theirs])
        line.sendall(data)
        child = int.from_bytes(line.recv(8), "big")
    os.close(theirs)
    return Started(child, ours)


def _prepare(descriptors: int | None) -> None:
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    if descriptors is not None:
        resource.setrlimit(resource.RLIMIT_NOFILE, (descriptors, descriptors))


@cache
def _forking() -> socket.socket:
    """To the process that forks, which ends with us."""
    ours, theirs = socket.socketpair()
    with theirs:
        command = [sys.executable, "-m", "tests.started", str(theirs.fileno())]
        forks = subprocess.Popen(command, cwd=ROOT, stdin=subprocess.DEVNULL, pass_fds=[theirs.fileno()])

    def end() -> None:
        ours.close()
        forks.wait()

    atexit.register(end)
    return ours


def _fork_as_asked(line: socket.socket) -> None:
    """Until the other side has gone; then what still runs is ended."""
    running: dict[int, tuple[int, int]] = {}  # by descriptor: a child, and who is to know how it ended
    with selectors.DefaultSelector() as ready:
        ready.register(line, selectors.EVENT_READ)
        while True:
            for key, _ in ready.select():
                if key.fd != line.fileno():
                    ready.unregister(key.fd)
                    child, told = running.pop(key.fd)
                    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
                    with suppress(BrokenPipeError):
                        os.write(told, str(code).encode())
                    os.close(told)
                    os.close(key.fd)
                    continue
                size, given, _, _ = socket.recv_fds(line, 8, 3)
                if not size:
                    for child, _ in running.values():
                        os.kill(child, signal.SIGKILL)
                    return
                asked = json.loads(line.recv(int.from_bytes(size, "big"), socket.MSG_WAITALL))
                child = os.fork()
                if child == 0:
                    ready.close()
                    for held in (line.fileno(), *running, *(told for _, told in running.values())):
                        os.close(held)
                    _run(asked, *given)
                os.close(given[0])
                os.close(given[1])
                followed = os.pidfd_open(child)
                running[followed] = child, given[2]
                ready.register(followed, selectors.EVENT_READ)
                line.sendall(child.to_bytes(8, "big"))


def _run(asked: dict[str, object], out: int, err: int, told: int) -> NoReturn:
    """In the child."""
    for given, stream in ((out, 1), (err, 2)):
        os.dup2(given, stream)
        os.close(given)
    os.close(told)
    # made again, for they remember whether they can be sought in
    sys.stdout = os.fdopen(1, "w", closefd=False)
    sys.stderr = os.fdopen(2, "w", buffering=1, errors="backslashreplace", closefd=False)
    words, env, cwd, descriptors = (asked[name] for name in ("words", "env", "cwd", "descriptors"))
    os.environ.clear()
    os.environ.update(env)  # type: ignore[call-overload]
    os.chdir(str(cwd))
    tempfile.tempdir = None  # of the environment before
    _prepare(descriptors)  # type: ignore[arg-type]
    signal.signal(signal.SIGINT, signal.default_int_handler)
    sys.exit(main(words))  # type: ignore[arg-type]


if __name__ == "__main__":
    import trilens.serve.app
    import trilens.serve.server  # noqa: F401

    _fork_as_asked(socket.socket(fileno=int(sys.argv[1])))
