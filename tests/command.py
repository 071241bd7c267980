"""The command line in the tests' own process, where a process of its own is not the point: starting one takes longer
than most commands do. tests/cli/test_streams.py runs every command as a process."""

from __future__ import annotations

import io
import os
import subprocess
import sys
import tempfile
import threading
from typing import Any
from unittest.mock import patch

from trilens.cli import main


def command(
    *words: str, stdin: str | bytes = "", check: bool = False, encoding: str = "utf-8"
) -> subprocess.CompletedProcess[str]:
    """As `subprocess.run` with its output captured: standard input is a pipe, the other two are files. `encoding`: of
    these two."""
    data = stdin if isinstance(stdin, bytes) else stdin.encode()
    ours, theirs = os.pipe()
    # another thread, since a pipe holds only so much
    giving = threading.Thread(target=_give, args=(theirs, data), daemon=True)
    with os.fdopen(ours, "rb") as pipe, tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err:
        giving.start()
        streams: dict[str, Any] = {"stdin": io.TextIOWrapper(pipe, "utf-8")}
        streams |= {name: io.TextIOWrapper(file, encoding) for name, file in (("stdout", out), ("stderr", err))}
        with patch.multiple(sys, **streams):
            code = main(list(words))
        said = []
        for name in ("stdout", "stderr"):
            streams[name].flush()
            streams[name].seek(0)
            said.append(streams[name].read())
        streams["stdin"].detach()
        for name in ("stdout", "stderr"):
            streams[name].detach()
    giving.join()
    done = subprocess.CompletedProcess(["trilens", *words], code, *said)
    if check:
        done.check_returncode()
    return done


def _give(descriptor: int, data: bytes) -> None:
    try:
        with os.fdopen(descriptor, "wb") as pipe:
            pipe.write(data)
    except BrokenPipeError:
        pass
