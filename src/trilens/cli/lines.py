"""The lines of `run --file`. Each is a separate request, and an error in one does not affect the others."""

from __future__ import annotations

import hashlib
import json
import os
import stat
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

from trilens.cli.inputs import is_text, with_system
from trilens.errors import UsageError
from trilens.text.strategy import as_thinking

if TYPE_CHECKING:
    from trilens.model import Prompt

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
    """One line of a file. `fault` says why it cannot be asked. `options` override those of the command line. `hash` is
    a hash of its bytes that identifies its answer.
    """

    number: int
    id: str | int | None = None
    prompt: Prompt = ""
    options: dict[str, Any] = field(default_factory=dict)
    fault: str | None = None
    hash: str = ""


@dataclass
class Lines:
    """A file that is open, read line by line."""

    path: Path
    file: BinaryIO

    def count(self) -> int | None:
        """How many lines are not empty; None for a pipe, which can be read only once."""
        if not stat.S_ISREG(os.fstat(self.file.fileno()).st_mode):
            return None
        with self.path.open("rb") as file:
            return sum(1 for line in file if line.strip())

    def __iter__(self) -> Iterator[Line]:
        """The lines that are not empty. Raises UsageError if there are none, or if the file can no longer be read."""
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
                    yield Line(number, hash=f"line {number}", fault=f"has more than {MOST_BYTES} bytes; expected fewer")
                elif (said := read.removeprefix(b"\xef\xbb\xbf") if number == 1 else read).strip():
                    found += 1
                    digest = hashlib.sha256(said.strip()).hexdigest()[:16]
                    yield replace(parsed(number, said), hash=digest)
        if not found:
            raise UsageError(f"{self.path}: contains no prompts; expected JSON lines")


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
        return f"{unknown[:80]!r} is unknown; expected prompt or messages, {', '.join(TYPES)}"
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
        return "holds half of a surrogate pair (\\ud800 to \\udfff), which is not text; leave it out"
    return None


def _shown(value: Any) -> str:
    return json.dumps(value)[:60]
