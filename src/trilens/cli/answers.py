"""`run --file`: an answer or an error for each line, written as soon as it is complete."""

from __future__ import annotations

import json
import os
import sys
import tempfile
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from contextlib import suppress
from pathlib import Path
from queue import Empty, Queue
from typing import TYPE_CHECKING, Any

import click

from trilens import system
from trilens.cli.inputs import as_typed, with_system
from trilens.cli.lines import Line, Lines
from trilens.cli.streams import json_text
from trilens.errors import RequestRefused, TrilensError, UsageError

if TYPE_CHECKING:
    from trilens.hosted.model import HostedModel
    from trilens.model import Answer, Model

AT_ONCE = 32  # lines that are being answered: enough for large steps, and the first answers do not wait long
Record = dict[str, Any]


def answer_lines(
    model: Model | HostedModel, lines: Lines, system: str | None, options: dict[str, Any], results: Results
) -> None:
    """Write an answer or an error for each line that has no answer yet, in the order in which they end. Raises
    RequestRefused at the end if there was an error. After Ctrl-C, finished answers are still written.
    """
    stopped = threading.Event()

    def answer(line: Line) -> Answer[Any]:
        from trilens.model import fold

        prompt = line.prompt
        if system is not None and not (isinstance(prompt, list) and prompt[0].get("role") == "system"):
            prompt = with_system(system, prompt)
        stream: Any = model.stream(prompt, **{**options, **line.options})
        made: list[Answer[Any]] = fold(_until(stopped, stream), 1)
        return made[0]

    failed = total = 0
    pool = ThreadPoolExecutor(_at_once(model))
    running: dict[Future[Answer[Any]], Line] = {}
    with _progress(lines, results) as bar:

        def write(line: Line, future: Future[Answer[Any]] | None) -> None:
            nonlocal failed, total
            record, error = _record(line, future)
            total += 1
            failed += error is not None
            if error is not None:
                print(f"trilens: {lines.path}:{line.number}: {error}", file=sys.stderr)
            results.write(record)
            bar(1)

        coming = _ahead(lines, 2 * _at_once(model))
        try:
            while True:
                line = coming(len(running) < _at_once(model), bool(running))
                if isinstance(line, Line):
                    if results.take(line):
                        bar(1)
                    elif line.fault:
                        write(line, None)
                    else:
                        running[pool.submit(answer, line)] = line
                    continue
                if line == "end" and not running:
                    break
                for future in wait(running, timeout=0.05, return_when=FIRST_COMPLETED).done:
                    write(running.pop(future), future)
        except KeyboardInterrupt:
            for future in [future for future in running if future.done()]:
                write(running.pop(future), future)
            raise
        finally:
            stopped.set()
            pool.shutdown(cancel_futures=True)
    if failed:
        raise RequestRefused(f"{lines.path}: {failed} of {total} lines could not be answered; each is named above")


class Results:
    """Where records go: standard output, or a file that they are added to, a whole line with each call."""

    def __init__(self, path: Path | None, resume: bool) -> None:
        """Raises UsageError for a file that has records although --resume was not given, or that cannot be written."""
        self.path = path
        self._answered: Counter[str] = Counter()  # the hashes of lines whose answers the file has
        self._file: int | None = None
        if path is None:
            return
        try:
            if path.exists() and path.stat().st_size:
                if not resume:
                    raise UsageError(f"{path}: exists; give --resume to answer what is missing, or another file")
                self._answered.update(_kept(path))
            self._file = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | system.BINARY, 0o666)
        except OSError as problem:
            raise UsageError(f"{path}: cannot be written ({problem.strerror}); give another file") from None

    def take(self, line: Line) -> bool:
        """Whether the file has the line's answer; one answer stands for one line."""
        there = self._answered[line.hash] > 0
        self._answered[line.hash] -= there
        return there

    def write(self, record: Record) -> None:
        if self._file is None:
            print(json_text(record), flush=True)
            return
        data = (json.dumps(record) + "\n").encode()
        try:
            while data:
                data = data[os.write(self._file, data) :]
        except OSError as problem:
            raise RequestRefused(f"{self.path}: cannot be written ({problem.strerror}); make room") from None


def _kept(path: Path) -> Iterator[str]:
    """The hashes of the answers in a file. The file is rewritten without errors and without a truncated line."""
    kept: list[bytes] = []
    hashes: list[str] = []
    lines = path.read_bytes().split(b"\n")
    for number, line in enumerate(lines, 1):
        try:
            record = json.loads(line)
            digest = record["hash"]
            if not isinstance(digest, str):
                raise TypeError("a hash is text")
        except (ValueError, KeyError, TypeError):
            if number < len(lines) and line.strip():  # the last one may have been cut by whatever ended the run
                raise UsageError(f"{path}:{number}: is not a record of `run --file`; give another file") from None
            continue
        if "error" not in record:
            kept.append(line + b"\n")
            hashes.append(digest)
    whole = b"".join(kept)
    if whole != path.read_bytes():
        with tempfile.NamedTemporaryFile(dir=path.parent, prefix=f".{path.name}.", delete=False) as file:
            file.write(whole)
            file.flush()
            os.fsync(file.fileno())
        Path(file.name).chmod(path.stat().st_mode & 0o777)
        Path(file.name).replace(path)
    return iter(hashes)


def _ahead(lines: Lines, most: int) -> Callable[[bool, bool], Line | str | None]:
    """A function that returns the next line. It waits for one unless the caller is `busy`, and returns "end" after the
    last.
    """
    waiting: Queue[Line | BaseException | str] = Queue(most)
    ended = False

    def read() -> None:
        try:
            for line in lines:
                waiting.put(line)
            waiting.put("end")
        except BaseException as problem:
            waiting.put(problem)

    # a thread of its own, for a pipe may have no next line yet while an answer is there
    threading.Thread(target=read, name="lines", daemon=True).start()

    def following(wanted: bool, busy: bool) -> Line | str | None:
        nonlocal ended
        if ended or not wanted:
            return "end" if ended else None
        with suppress(Empty):
            found = waiting.get(timeout=0.001 if busy else None)
            if isinstance(found, BaseException):
                raise found
            ended = found == "end"
            return found
        return None

    return following


class _progress:
    """A progress bar on standard error, if it is a terminal and standard output is not."""

    def __init__(self, lines: Lines, results: Results) -> None:
        wanted = sys.stderr.isatty() and (results.path is not None or not sys.stdout.isatty())
        count = lines.count() if wanted else None
        self._bar = None
        if count:
            self._bar = click.progressbar(length=count, file=sys.stderr, label="lines", show_pos=True)

    def __enter__(self) -> Callable[[int], None]:
        if self._bar is None:
            return lambda done: None
        return self._bar.__enter__().update

    def __exit__(self, *how: Any) -> None:
        if self._bar is not None:
            self._bar.__exit__(*how)


def _until(stopped: threading.Event, stream: Any) -> Iterator[Any]:
    for event in stream:
        if stopped.is_set():
            stream.close()
            raise KeyboardInterrupt
        yield event


def _at_once(model: Model | HostedModel) -> int:
    from trilens.hosted.model import AT_ONCE as ELSEWHERE
    from trilens.model import Model

    return AT_ONCE if isinstance(model, Model) else ELSEWHERE


def _record(line: Line, future: Future[Answer[Any]] | None) -> tuple[Record, str | None]:
    """(what is written for a line, its error)."""
    head: Record = {"line": line.number} | ({} if line.id is None else {"id": line.id}) | {"hash": line.hash}
    kind, said = "UsageError", str(line.fault)
    if future is not None:
        try:
            return head | answer_fields(future.result()), None
        except Exception as problem:
            kind, said = type(problem).__name__, as_typed(str(problem))
            if not isinstance(problem, TrilensError):
                said = f"bug in trilens ({kind}: {problem})"
    return head | {"error": {"type": kind, "message": said}}, said


def answer_fields(answer: Answer[Any]) -> Record:
    return {"text": answer.text, "thinking": answer.thinking, "receipt": answer.receipt.as_dict()}
