"""Files from outside: opened without waiting, read up to a maximum size, with errors in one form.

Only regular files are read. A pipe, a device, a directory or a loop of links is an error like any other.
"""

from __future__ import annotations

import json
import os
import stat
import tempfile
from collections import Counter
from pathlib import Path
from typing import Any

from trilens import system
from trilens.errors import BadCheckpoint

SMALL = 100_000_000  # bytes; the largest small file in use, a tokenizer.json, has 35 million


def shown(text: str) -> str:
    """A name from a hostile file, made safe for one line: quoted, control characters escaped, at most 100
    characters.
    """
    return repr(text if len(text) <= 100 else text[:97] + "...")


def bad(path: Path, fault: str) -> BadCheckpoint:
    """The error for `path`: its name, then the fault, in one line."""
    text = str(path)
    return BadCheckpoint(f"{text if text.isprintable() else repr(text)}: {fault}")


def exists(path: Path) -> bool:
    """Whether there is such a file or directory. `Path.exists` raises for a name that is too long."""
    return os.path.exists(path)  # noqa: PTH110


def open_regular(path: Path) -> tuple[int, int]:
    """(file descriptor, size in bytes) of a regular file. The caller closes it.

    Raises FileNotFoundError if there is none, BadCheckpoint if it is something else or cannot be read.
    """
    try:
        # Opening a device can do something, so look first; opening a pipe waits without O_NONBLOCK.
        kind = path.stat().st_mode
        if not stat.S_ISREG(kind):
            raise bad(path, f"is {'a directory' if stat.S_ISDIR(kind) else 'not a regular file'}; expected a file")
        descriptor = os.open(path, os.O_RDONLY | system.WITHOUT_WAITING)
    except FileNotFoundError:
        raise
    except (OSError, ValueError) as error:
        raise bad(path, f"cannot be read: {getattr(error, 'strerror', None) or error}") from None
    found = os.fstat(descriptor)
    if not stat.S_ISREG(found.st_mode):  # replaced between the two looks
        os.close(descriptor)
        raise bad(path, "is not a regular file; expected a file")
    return descriptor, found.st_size


def read_small(path: Path, most: int = SMALL) -> bytes:
    """The bytes of a file of `most` bytes or fewer. Raises FileNotFoundError if there is none, else BadCheckpoint."""
    descriptor, size = open_regular(path)
    with os.fdopen(descriptor, "rb") as file:
        if size > most:
            raise bad(path, f"has {size} bytes; expected at most {most} in a file of this kind")
        try:
            data = file.read(most + 1)
        except OSError as error:
            raise bad(path, f"cannot be read: {error.strerror or error}") from None
    if len(data) > most:
        raise bad(path, f"has more than {most} bytes; expected a small file")
    return data


def write_whole(path: Path, text: str, mode: int = 0o600) -> None:
    """Write the whole file or nothing of it. Raises OSError."""
    with tempfile.NamedTemporaryFile("w", dir=path.parent, delete=False, encoding="utf-8") as file:
        new = Path(file.name)
        try:
            file.write(text)
            file.flush()
            new.chmod(mode)
            new.replace(path)
        except BaseException:
            new.unlink(missing_ok=True)
            raise


def read_text(path: Path, most: int = SMALL) -> str:
    """The text of a small UTF-8 file. Raises as `read_small` does."""
    try:
        return read_small(path, most).decode("utf-8-sig")
    except UnicodeDecodeError:
        raise bad(path, "is not UTF-8; download it again") from None


def read_json_object(path: Path, most: int = SMALL) -> dict[str, Any]:
    """The JSON object in a small file. Raises FileNotFoundError if there is no such file, else BadCheckpoint."""
    document = parse_json(read_small(path, most), path)
    if not isinstance(document, dict):
        raise bad(path, f"holds a {type(document).__name__}; expected a JSON object")
    return document


def parse_json(data: bytes | bytearray, path: Path) -> Any:
    """The JSON of `data`. Raises BadCheckpoint, naming `path`, for a key that occurs twice or anything malformed.

    NaN and infinities are accepted, as in Python's reader, because real files have them. The code that reads a number
    names its key in the error.
    """

    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        found = dict(pairs)
        if len(found) != len(pairs):
            twice, _ = Counter(key for key, _ in pairs).most_common(1)[0]
            raise bad(path, f"{shown(twice)} occurs twice in the JSON")
        return found

    try:
        return json.loads(data.decode("utf-8-sig"), object_pairs_hook=unique)
    except UnicodeDecodeError:
        raise bad(path, "the JSON is not UTF-8; download it again") from None
    except RecursionError:
        raise bad(path, "the JSON cannot be read: it nests too deeply; download it again") from None
    except ValueError as error:
        raise bad(path, f"the JSON cannot be read: {error}; download it again") from None
