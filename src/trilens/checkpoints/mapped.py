"""A file on disk as bytes, mapped read-only, and the one form in which its faults are told."""

import mmap
from contextlib import suppress
from pathlib import Path

from trilens.errors import BadCheckpoint

GIT_LFS = b"version https://git-lfs"


def shown(text: str) -> str:
    """A name from a hostile file, fit for one line: quoted, control characters escaped, cut after 100 characters."""
    return repr(text if len(text) <= 100 else text[:97] + "...")


def bad(path: Path, fault: str) -> BadCheckpoint:
    """The error for `path`: its name, then the fault, in one line."""
    text = str(path)
    return BadCheckpoint(f"{text if text.isprintable() else repr(text)}: {fault}")


class MappedFile:
    """One file mapped into memory; `bytes` behaves as a read-only bytes object of `size` bytes."""

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            if not path.is_file() and path.exists():
                raise bad(path, "is not a regular file")  # opening a pipe would wait for ever
            with path.open("rb") as file:
                self.size = file.seek(0, 2)
                if self.size == 0:
                    raise bad(path, "the file is empty; download it again")
                self.bytes = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        except OSError as error:
            raise bad(path, f"cannot be read: {error.strerror or error}") from None
        if self.bytes[: len(GIT_LFS)] == GIT_LFS:
            raise bad(path, "is a git-lfs pointer, not the file itself; run `git lfs pull` where it was cloned")

    def view(self, offset: int, nbytes: int) -> memoryview:
        """`nbytes` bytes from `offset`, not copied."""
        return memoryview(self.bytes)[offset : offset + nbytes]

    def close(self) -> None:
        with suppress(BufferError):  # a view is still alive: the mapping goes when the last one is dropped
            self.bytes.close()
