"""Standard input, output and error in any state: closed, full, or not in UTF-8.

Standard output carries the answer, so a failure to write there is an error. Standard error carries everything else; a
failure to write there is ignored and never loses the answer.
"""

from __future__ import annotations

import io
import json
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

from trilens.errors import RequestRefused, UsageError


@contextmanager
def standard_streams() -> Iterator[None]:
    """Replace `sys.stdout` and `sys.stderr` as described above, and make sure that `sys.stdin` exists. All are restored
    at the end.
    """
    before = sys.stdin, sys.stdout, sys.stderr
    closed = [descriptor for descriptor in (0, 1, 2) if not _is_open(descriptor)]
    for descriptor in closed:
        # else a file that is opened later takes the number, and is written to in the belief that it is the stream
        _point_nowhere(descriptor)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")  # a character that the encoding lacks loses no answer
    sys.stdin = sys.stdin or io.TextIOWrapper(io.BytesIO())
    sys.stdout = Output(None if 1 in closed else sys.stdout)
    sys.stderr = Notes(None if 2 in closed else sys.stderr)
    try:
        yield
    finally:
        sys.stdin, sys.stdout, sys.stderr = before


class Output(io.TextIOBase):
    """Standard output. Raises RequestRefused if it cannot be written, and BrokenPipeError if its reader has left."""

    def __init__(self, stream: Any) -> None:
        self._stream = stream
        self.failure: Exception | None = None
        if stream is None:
            self.failure = RequestRefused("standard output is closed; send it to a file or a pipe")

    def write(self, text: str) -> int:
        with self._explained():
            self._stream.write(text)
        return len(text)

    def flush(self) -> None:
        if self._stream is not None:
            with self._explained():
                self._stream.flush()

    @contextmanager
    def _explained(self) -> Iterator[None]:
        """After one failure every later write fails too, because a caller may only test whether writing is possible."""
        if self.failure is not None:
            raise self.failure
        try:
            yield
        except OSError as problem:
            # Python flushes once more on its way out, and what is still held must go somewhere
            _point_nowhere(1)
            why = problem.strerror or problem
            self.failure = RequestRefused(f"standard output cannot be written ({why}); send it somewhere else")
            if isinstance(problem, BrokenPipeError):
                self.failure = problem
            raise self.failure from None

    def isatty(self) -> bool:
        return self._stream is not None and self._stream.isatty()

    def fileno(self) -> int:
        return 1 if self._stream is None else int(self._stream.fileno())

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    @property
    def errors(self) -> str:  # type: ignore[override]
        return getattr(self._stream, "errors", None) or "strict"

    @property
    def encoding(self) -> str:  # type: ignore[override]
        return getattr(self._stream, "encoding", None) or "utf-8"


class Notes(Output):
    """Standard error. A failure to write to it is not an error."""

    def write(self, text: str) -> int:
        if self._stream is not None:
            try:
                self._stream.write(text)
            except (OSError, ValueError):
                self._give_up()
        return len(text)

    def flush(self) -> None:
        if self._stream is not None:
            try:
                self._stream.flush()
            except (OSError, ValueError):
                self._give_up()

    def _give_up(self) -> None:
        _point_nowhere(2)
        self._stream = None


def json_text(value: Any) -> str:
    """A line of JSON. It is in ASCII if standard output is not in Unicode, so that it stays JSON."""
    unicode = sys.stdout.encoding.lower().replace("-", "").startswith("utf")
    text = json.dumps(value, ensure_ascii=not unicode)
    with suppress(UnicodeEncodeError):
        text.encode()
        return text
    return json.dumps(value)  # half a surrogate pair, which has no UTF-8


def read_input() -> bytes:
    """All of standard input. Raises UsageError if it cannot be read."""
    try:
        return sys.stdin.buffer.read()
    except (OSError, ValueError) as problem:
        why = getattr(problem, "strerror", None) or problem
        raise UsageError(f"standard input cannot be read ({why}); expected text") from None


def read_line() -> str:
    """The next line of standard input, "" at its end. Raises UsageError if it cannot be read."""
    try:
        return sys.stdin.buffer.readline().decode("utf-8")
    except UnicodeDecodeError:
        raise UsageError("standard input is not UTF-8 text; expected lines of a conversation") from None
    except (OSError, ValueError) as problem:
        why = getattr(problem, "strerror", None) or problem
        raise UsageError(f"standard input cannot be read ({why}); expected lines of a conversation") from None


def _is_open(descriptor: int) -> bool:
    try:
        os.fstat(descriptor)
    except OSError:
        return False
    return True


def _point_nowhere(descriptor: int) -> None:
    with suppress(OSError):
        nowhere = os.open(os.devnull, os.O_RDWR)
        if nowhere != descriptor:
            os.dup2(nowhere, descriptor)
            os.close(nowhere)
