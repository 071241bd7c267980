"""The packed form of a model's matrices, kept in the cache: the next start maps it instead of packing them again.

    "trilens packed 1\\n" | a line of JSON: the identity, the model, the files that it was made of | padding to PAGE
    of each matrix, in the executor's order: its bytes as they lie in memory, then padding to PAGE
    of each piece of all of that, at most PIECE bytes long: a checksum u64 | SHA-256 of these checksums

The identity says of which state of which files it is, and of which packing. Whatever differs in it, or in any checksum,
the file is not used: the model is packed again, and the file written again. Everything is checked when it is mapped.
After that, a file that is cut or written to is an error of the next step.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from itertools import chain
from math import prod
from pathlib import Path
from typing import TYPE_CHECKING, Any

from trilens import __version__
from trilens.checkpoints.in_memory import packed_types
from trilens.checkpoints.opened import OpenFile
from trilens.checkpoints.verified import cache_dir
from trilens.errors import BadCheckpoint
from trilens.files import bad, exists

if TYPE_CHECKING:
    import numpy as np

    from trilens.checkpoints.load import ModelFiles
    from trilens.decoder.weights import Parameter
    from trilens.executors.native.executor import InFile

PACKING = 1  # of layout.cpp and into_native.py: another number wherever they make other bytes of the same file
MAGIC = b"trilens packed 1\n"
SUFFIX = ".packed"
PIECE = 8 << 20
WRITTEN = 8 << 20  # bytes at a time, from multiples of that: so the system can keep the file in huge pages
PAGE = 4096
BEHIND = 64  # bytes that kernels may read behind a matrix
MOST_DESCRIBED = 1 << 20  # bytes of the line of JSON
DIGEST = hashlib.sha256().digest_size
SETTLED = 0.1  # seconds after which another change of a file shows in its time
ABANDONED = 3600.0  # seconds after which a half-written file is nobody's

log = logging.getLogger("trilens.packed")


class Unusable(Exception):
    """A packed form that is damaged, or that cannot be used."""


@dataclass(frozen=True)
class Matrix:
    """Where a matrix lies in the file, and how."""

    type: str
    count: int
    rows: int
    columns: int
    at: int
    bytes: int


def packed_form(files: ModelFiles, quantise: str | None = None) -> PackedForm:
    """Where the packed form of these files is kept."""
    return PackedForm(files, packed_types(files, quantise), quantise)


class PackedForm:
    """The place of one model's packed form, whether there is one or not."""

    def __init__(self, files: ModelFiles, types: Mapping[Parameter, str], quantise: str | None) -> None:
        """`types`: of each matrix in the executor's order, the type that it is packed in."""
        from trilens.executors.native.extension import _native

        self._sources = _sources(files)
        try:
            self._stamps = _stamps(self._sources)
        except OSError as problem:
            raise bad(files.checkpoint.path, f"cannot be read: {problem.strerror or problem}") from None
        for file in files.checkpoint.files.values():
            if _stamp(os.fstat(file.descriptor)) not in self._stamps:
                raise bad(file.path, "was replaced while it was being read; start again")
        names = [str(source) for source in self._sources]
        where = (names, quantise, files.has_prediction)
        self.path = packed_dir() / (hashlib.sha256(repr(where).encode()).hexdigest()[:32] + SUFFIX)
        matrices = [(p.name, own, *_shape(p)) for p, own in types.items()]
        stored = [(t.name, t.shape, t.type, str(t.file), t.offset) for t in files.checkpoint.tensors.values()]
        made = (PACKING, __version__, matrices, quantise, names, self._stamps, stored, sorted(files.stored.items()))
        identity = hashlib.sha256(repr((*made, files.spec)).encode()).hexdigest()
        described = json.dumps(
            {"identity": identity, "model": str(files.found.path.absolute()), "files": names}
        ).encode()
        self._head = _padded(MAGIC + described + b"\n")
        self._matrices: dict[str, Matrix] = {}
        at, cuts = len(self._head), [0]
        for name, own, count, rows, columns in matrices:
            size = _native.packed_bytes(own, count, rows, columns)
            self._matrices[name] = Matrix(own, count, rows, columns, at, size)
            cuts.extend(range(at, at + size, PIECE))
            at += -(-(size + BEHIND) // PAGE) * PAGE
        self._cuts = [*cuts, at]
        self.bytes = at + 8 * (len(self._cuts) - 1) + DIGEST

    def open(self, threads: int) -> OpenedForm | None:
        """The form, if it is there and made of these files as they are now. What it holds is checked meanwhile."""
        from trilens.executors.native.extension import _native

        try:
            file = OpenFile(self.path)
        except BadCheckpoint as problem:
            if exists(self.path):
                self.remove(str(problem).removeprefix(f"{self.path}: "))
            return None
        try:
            head = file.read(0, min(len(self._head), file.size))
            if head != self._head:
                log.info("%s is of another state of the model's files, or of another version of trilens", self.path)
                return None
            if file.size != self.bytes:
                raise Unusable(f"it has {file.size} bytes; expected {self.bytes}")
            end = self._cuts[-1]
            stated = bytes(file.read(end, file.size - end))
            if hashlib.sha256(stated[:-DIGEST]).digest() != stated[-DIGEST:]:
                raise Unusable("its checksums are damaged")
            mapped = _native.MappedFile(file.descriptor, file.size, str(self.path))
        except (BadCheckpoint, Unusable, _native.FileChanged) as problem:
            self.remove(str(problem).removeprefix(f"{self.path}: "))
            return None
        finally:
            file.close()
        return OpenedForm(mapped, self._matrices, self._cuts, stated[:-DIGEST], threads)

    def remove(self, why: str) -> None:
        log.warning("%s is not used, and the model is packed again: %s", self.path, why)
        with suppress(OSError):
            self.path.unlink()

    def write(self, packed: Callable[[str], np.ndarray], progress: Callable[[int, int], None] | None = None) -> None:
        """Write the file: all of it, or nothing and a line in the log. `packed` gives the bytes of a matrix.

        Nothing is written where a file that it is made of has changed since, or where the disk has no room.
        """
        try:
            if _stamps(self._sources) != self._stamps:
                raise OSError("the model's files have changed meanwhile")
            self.path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            _sweep(self.path.parent)
            free = shutil.disk_usage(self.path.parent).free
            if free < self.bytes:
                raise OSError(f"{self.bytes / 1e9:.2f} GB are needed, and {free / 1e9:.2f} are free")
            with tempfile.NamedTemporaryFile(dir=self.path.parent, suffix=".partial", delete=False) as file:
                new = Path(file.name)
                try:
                    self._write(file, packed, progress)
                    file.flush()
                    os.fsync(file.fileno())
                    file.close()
                    new.replace(self.path)
                except BaseException:
                    file.close()
                    new.unlink(missing_ok=True)
                    raise
        except OSError as problem:
            log.warning("%s: the packed form is not kept: %s", self.path.parent, problem.strerror or problem)

    def _write(
        self, file: Any, packed: Callable[[str], np.ndarray], progress: Callable[[int, int], None] | None
    ) -> None:
        import numpy as np

        from trilens.executors.native.extension import _native

        sums, unwritten = [], bytearray()
        for piece in chain([np.frombuffer(self._head, np.uint8)], self._pieces(packed)):
            sums.append(_native.checksum(piece))
            unwritten += piece.data
            if len(unwritten) >= WRITTEN:
                with memoryview(unwritten) as whole:
                    file.write(whole[:WRITTEN])
                del unwritten[:WRITTEN]
            if progress is not None:
                progress(file.tell() + len(unwritten), self.bytes)
        stated = np.array(sums, "<u8").tobytes()
        file.write(unwritten + stated + hashlib.sha256(stated).digest())
        if progress is not None:
            progress(self.bytes, self.bytes)

    def _pieces(self, packed: Callable[[str], np.ndarray]) -> Iterator[np.ndarray]:
        """The file's pieces behind the first one, with what comes behind each matrix."""
        import numpy as np

        for name, matrix in self._matrices.items():
            data = packed(name)
            *whole, last = range(0, matrix.bytes, PIECE)
            for at in whole:
                yield data[at : at + PIECE]
            behind = -(-(matrix.bytes + BEHIND) // PAGE) * PAGE - matrix.bytes
            yield np.concatenate((data[last:], np.zeros(behind, np.uint8)))


class OpenedForm:
    """A packed form that is mapped. One thread fewer than `threads` computes its checksums while the caller does
    something else; `checked` helps them and waits for them."""

    def __init__(
        self, mapped: Any, matrices: Mapping[str, Matrix], cuts: Sequence[int], sums: bytes, threads: int
    ) -> None:
        from trilens.executors.native.extension import _native

        self._mapped = mapped
        self._matrices = matrices
        self._stated = sums
        self._checksums = _native.Checksums(mapped, cuts)
        others = max(1, threads - 1)
        checking = ThreadPoolExecutor(others, "checking")
        self._others = [checking.submit(self._checksums.work) for _ in range(others)]
        checking.shutdown(wait=False)

    def matrix(self, name: str) -> InFile:
        from trilens.executors.native.executor import InFile

        return InFile(self._matrices[name].type, self._mapped, self._matrices[name].at)

    def checked(self) -> None:
        """Return once every byte was found as it was written. Raises Unusable."""
        import numpy as np

        from trilens.executors.native.extension import _native

        self._checksums.work()
        for other in self._others:
            other.result()
        try:
            found = np.array(self._checksums.sums(), "<u8")
        except _native.FileChanged as problem:
            raise Unusable(str(problem)) from None
        if wrong := int((found != np.frombuffer(self._stated, "<u8")).sum()):
            raise Unusable(f"the checksums of {wrong} of its {len(found)} pieces are wrong")


def packed_dir() -> Path:
    return cache_dir() / "packed"


@dataclass(frozen=True)
class KeptForm:
    """A packed form in the cache: its file, the model's, and those that it was made of."""

    path: Path
    model: Path
    files: tuple[Path, ...]


def kept_forms() -> Iterator[KeptForm]:
    """Those in the cache."""
    try:
        paths = sorted(packed_dir().glob("*" + SUFFIX))
    except OSError:
        return
    for path in paths:
        with suppress(OSError, ValueError, KeyError, TypeError), path.open("rb") as file:
            if file.readline(len(MAGIC)) == MAGIC:
                described = json.loads(file.readline(MOST_DESCRIBED))
                yield KeptForm(path, Path(str(described["model"])), tuple(Path(str(f)) for f in described["files"]))


def _sources(files: ModelFiles) -> list[Path]:
    """The files that say what is packed: those with the weights, and the configuration's."""
    found = {path.resolve() for path in {tensor.file for tensor in files.checkpoint.tensors.values()}}
    if files.found.path.is_dir():
        found |= {path.resolve() for path in files.found.path.glob("*.json")}
    return sorted(found)


def _stamps(sources: Sequence[Path]) -> list[tuple[int, ...]]:
    """What tells one state of the files from another. A file that has just changed could change again within the same
    tick of the clock, so that is waited for. Raises OSError."""
    stamps: list[tuple[int, ...]] = []
    for source in sources:
        found = source.stat()
        if abs(time.time() - found.st_ctime) < SETTLED:
            time.sleep(SETTLED)
            found = source.stat()
        stamps.append(_stamp(found))
    return stamps


def _stamp(found: os.stat_result) -> tuple[int, ...]:
    return found.st_size, found.st_dev, found.st_ino, found.st_mtime_ns, found.st_ctime_ns


def _shape(p: Parameter) -> tuple[int, int, int]:
    return prod(p.shape[:-2]), p.shape[-2], p.shape[-1]


def _padded(data: bytes) -> bytes:
    return data + bytes(-len(data) % PAGE)


def _sweep(directory: Path) -> None:
    for path in directory.glob("*.partial"):
        with suppress(OSError):
            if path.stat().st_mtime < time.time() - ABANDONED:
                path.unlink()
