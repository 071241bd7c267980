"""`run --file`: each line is a request of its own, and an error in one is an error of that one."""

from __future__ import annotations

import json
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from queue import Empty, Queue
from typing import TYPE_CHECKING, Any, BinaryIO

from trilens.cli.inputs import as_typed, is_text, with_system
from trilens.cli.streams import json_text
from trilens.errors import RequestRefused, TrilensError, UsageError
from trilens.text.strategy import as_thinking

if TYPE_CHECKING:
    from trilens.hosted.model import HostedModel
    from trilens.model import Answer, Model, Prompt

AT_ONCE = 64  # lines that are being answered
AHEAD = 512  # lines that are read beyond the last one printed
MOST_BYTES = 64 << 20  # of a line
EXPECTED = 'expected {"prompt": "..."} or {"messages": [...]}'
# What a line may have beside its prompt, and what it has to be there.
TYPES: dict[str, tuple[tuple[type, ...], str]] = {
    "id": ((str, int), "a text or a whole number"),
    "system": ((str,), "a text"),
    "thinking": ((bool, str, int), "true, false, a level or a number of tokens"),
    "max_tokens": ((int,), "a whole number"),
    "stop": ((str, list), "a text, or a list of texts"),
    "schema": ((dict,), "a JSON schema"),
    "regex": ((str,), "a text"),
    "choice": ((list,), "a list of texts"),
    "grammar": ((str,), "a text"),
    "min_tokens": ((int,), "a whole number"),
    "seed": ((int,), "a whole number"),
    "top_k": ((int,), "a whole number"),
    "temperature": ((int, float), "a number"),
    "top_p": ((int, float), "a number"),
    "min_p": ((int, float), "a number"),
    "repetition_penalty": ((int, float), "a number"),
    "presence_penalty": ((int, float), "a number"),
    "frequency_penalty": ((int, float), "a number"),
}


@dataclass(frozen=True)
class Line:
    """One line of a file. `fault` says why there is nothing to ask; `options` go over the command line's."""

    number: int
    id: str | int | None = None
    prompt: Prompt = ""
    options: dict[str, Any] = field(default_factory=dict)
    fault: str | None = None


@dataclass
class Lines:
    """A file that is open, read line by line."""

    path: Path
    file: BinaryIO

    def __iter__(self) -> Iterator[Line]:
        """Lines that are not empty. Raises UsageError where there are none, or the file cannot be read on."""
        number = found = 0
        with self.file:
            while True:
                number += 1
                try:
                    read = self.file.readline(MOST_BYTES)
                except OSError as problem:
                    raise UsageError(f"{self.path}: cannot be read ({problem.strerror})") from None
                if not read:
                    break
                if len(read) == MOST_BYTES:
                    while read and not read.endswith(b"\n"):
                        read = self.file.readline(MOST_BYTES)
                    found += 1
                    yield Line(number, fault=f"has more than {MOST_BYTES} bytes; expected fewer")
                elif (said := read.removeprefix(b"\xef\xbb\xbf") if number == 1 else read).strip():
                    found += 1
                    yield parsed(number, said)
        if not found:
            raise UsageError(f"{self.path}: holds no prompts; expected JSON lines")


def open_lines(path: Path) -> Lines:
    """Raises UsageError for a file that cannot be read."""
    try:
        return Lines(path, path.open("rb"))
    except OSError as problem:
        raise UsageError(f"{path}: cannot be read ({problem.strerror}); expected JSON lines") from None


def parsed(number: int, said: bytes) -> Line:
    """A line of JSON: a text, or an object with `prompt` or `messages`."""
    try:
        entry = json.loads(said.decode("utf-8"))
    except UnicodeDecodeError:
        return Line(number, fault="is not UTF-8 text; expected a line of JSON")
    except (ValueError, RecursionError):
        return Line(number, fault='is not JSON; expected a line such as {"prompt": "..."}')
    if isinstance(entry, str):
        entry = {"prompt": entry}
    if not isinstance(entry, dict):
        return Line(number, fault=f"has no prompt; {EXPECTED}")
    name = entry.get("id")
    known = name if isinstance(name, str | int) and not isinstance(name, bool) else None
    fault = _fault(entry)
    if fault is not None:
        return Line(number, known, fault=fault)
    prompt = entry.pop("prompt", None) or entry.pop("messages")
    if (system := entry.pop("system", None)) is not None:
        prompt = with_system(system, prompt)
    options = {key: value for key, value in entry.items() if key != "id" and value is not None}
    if isinstance(options.get("thinking"), str):
        options["thinking"] = as_thinking(options["thinking"])
    return Line(number, known, prompt, options)


def _fault(entry: dict[str, Any]) -> str | None:
    """What is wrong with a line's fields."""
    unknown = next((key for key in entry if key not in TYPES and key not in ("prompt", "messages")), None)
    if unknown is not None:
        return f"{unknown[:80]!r} is not known here; expected prompt or messages, {', '.join(TYPES)}"
    if ("prompt" in entry) == ("messages" in entry):
        return f"has {'both prompt and messages' if 'prompt' in entry else 'no prompt'}; {EXPECTED}"
    prompt, messages = entry.get("prompt"), entry.get("messages")
    if "prompt" in entry and not (isinstance(prompt, str) and prompt):
        return f"prompt is {_shown(prompt)}; expected a text"
    if "messages" in entry and not (isinstance(messages, list) and messages and all(type(m) is dict for m in messages)):
        return f"messages is {_shown(messages)}; expected a list of messages"
    for key, (types, expected) in TYPES.items():
        value = entry.get(key)
        right = isinstance(value, types) and (bool in types or not isinstance(value, bool))
        if key == "stop" and isinstance(value, list):
            right = all(isinstance(part, str) for part in value)
        if value is not None and not right:
            return f"{key} is {_shown(value)}; expected {expected}"
    if not is_text(json.dumps(entry, ensure_ascii=False)):
        return "holds half of a surrogate pair (\\ud800 to \\udfff), which is no text; leave it out"
    return None


def _shown(value: Any) -> str:
    return json.dumps(value)[:60]


def answer_lines(model: Model | HostedModel, lines: Lines, system: str | None, options: dict[str, Any]) -> None:
    """Print an answer or an error for each line, in the file's order. Raises RequestRefused in the end where there was
    an error. What is done when Ctrl-C comes is still printed."""
    stopped = threading.Event()

    def answer(line: Line) -> Answer[Any]:
        from trilens.model import fold

        prompt = line.prompt
        if system is not None and not (isinstance(prompt, list) and prompt[0].get("role") == "system"):
            prompt = with_system(system, prompt)
        stream: Any = model.stream(prompt, **{**options, **line.options})
        made: list[Answer[Any]] = fold(_until(stopped, stream), 1)
        return made[0]

    waiting: Queue[_Asked | BaseException | None] = Queue(AHEAD)
    pool = ThreadPoolExecutor(_at_once(model))

    def read() -> None:
        try:
            for line in lines:
                waiting.put(_Asked(line, None if line.fault else pool.submit(answer, line)))
            waiting.put(None)
        except BaseException as problem:
            waiting.put(problem)

    failed = total = 0
    one: _Asked | BaseException | None = None
    # a thread of its own, for a pipe may have no next line yet while an answer is there
    threading.Thread(target=read, name="lines", daemon=True).start()
    try:
        while (one := waiting.get()) is not None:
            if isinstance(one, BaseException):
                raise one
            total += 1
            failed += _printed(lines.path, one)
    except KeyboardInterrupt:
        with suppress(Empty):
            while isinstance(one, _Asked):
                if one.done:
                    _printed(lines.path, one)
                one = waiting.get_nowait()
        raise
    finally:
        stopped.set()
        pool.shutdown(cancel_futures=True)
    if failed:
        raise RequestRefused(f"{lines.path}: {failed} of {total} lines could not be answered; each is named above")


@dataclass(frozen=True)
class _Asked:
    """A line and its answer, which is None where there is nothing to ask."""

    line: Line
    answer: Future[Answer[Any]] | None

    @property
    def done(self) -> bool:
        return self.answer is None or self.answer.done()


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


def _printed(path: Path, asked: _Asked) -> bool:
    """One line of JSON, as soon as it is there; whether it is an error."""
    line, future = asked.line, asked.answer
    head: dict[str, Any] = {"line": line.number} | ({} if line.id is None else {"id": line.id})
    kind, said = "UsageError", line.fault
    if future is not None:
        try:
            print(json_text(head | answer_fields(future.result())), flush=True)
            return False
        except Exception as problem:
            if future.exception() is not problem:  # standard output cannot be written
                raise
            kind, said = type(problem).__name__, as_typed(str(problem))
            if not isinstance(problem, TrilensError):
                said = f"a fault in trilens itself ({kind}: {problem})"
    print(f"trilens: {path}:{line.number}: {said}", file=sys.stderr)
    print(json_text(head | {"error": {"type": kind, "message": said}}), flush=True)
    return True


def answer_fields(answer: Answer[Any]) -> dict[str, Any]:
    return {"text": answer.text, "thinking": answer.thinking, "receipt": answer.receipt.as_dict()}
