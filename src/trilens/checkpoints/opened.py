"""A file of weights, read piece by piece. It is not mapped, because a mapped file that is truncated ends the process
with a signal.
"""

import os
import weakref
from pathlib import Path
from threading import Lock

from trilens import system
from trilens.files import bad, open_regular

GIT_LFS = b"version https://git-lfs"


class OpenFile:
    """One regular file of `size` bytes, held open."""

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            descriptor, self.size = open_regular(path)
        except FileNotFoundError:
            raise bad(path, "cannot be read: no such file") from None
        self._descriptor = descriptor
        self._closed_once = weakref.finalize(self, os.close, descriptor)  # by whoever drops the last reference, too
        self._lock = Lock()
        try:
            if self.size == 0:
                raise bad(path, "the file is empty; download it again")
            if self.size >= len(GIT_LFS) and self.read(0, len(GIT_LFS)) == GIT_LFS:
                raise bad(path, "is a git-lfs pointer, not the file itself; run `git lfs pull` where it was cloned")
        except BaseException:
            self.close()
            raise

    def read(self, offset: int, nbytes: int) -> bytearray:
        """`nbytes` bytes from `offset`. Raises BadCheckpoint if the file no longer has them."""
        data = bytearray(nbytes)
        view, at = memoryview(data), 0
        with self._lock:
            try:
                os.lseek(self._descriptor, offset, os.SEEK_SET)
                while at < nbytes and (more := system.read_into(self._descriptor, view[at : at + (1 << 30)])):
                    at += more
            except OSError as error:
                raise bad(self.path, f"cannot be read: {error.strerror or error}") from None
        if at < nbytes:
            raise bad(
                self.path, f"was truncated while it was being read: {nbytes - at} bytes are missing; download it again"
            )
        return data

    @property
    def descriptor(self) -> int:
        return self._descriptor

    def close(self) -> None:
        self._descriptor = -1
        self._closed_once()
