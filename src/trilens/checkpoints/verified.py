"""Files are compared with a published hash, from the catalog or the hub. A file is hashed once, then trusted until it
changes.

What was hashed is recorded in the user's cache with the file's size, inode, and times of change (mtime_ns and ctime_ns:
the first can be set by whoever writes the file, the second cannot).
"""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

from trilens.checkpoints.opened import OpenFile
from trilens.errors import BadCheckpoint
from trilens.files import bad, read_small

PIECE = 1 << 23  # bytes hashed at once
SHA256, GIT_BLOB = re.compile(r"[0-9a-f]{64}"), re.compile(r"[0-9a-f]{40}")


def cache_dir() -> Path:
    """Where trilens keeps its files: $TRILENS_CACHE, else the user's cache directory."""
    stated = os.environ.get("TRILENS_CACHE")
    if stated:
        return Path(stated).expanduser()
    import platformdirs

    return Path(platformdirs.user_cache_dir("trilens", appauthor=False))


def has_hash(path: Path, sha256: str) -> bool:
    """Whether the file has that SHA-256. Raises BadCheckpoint if it cannot be read."""
    if _recorded(path, sha256):
        return True
    before = _stamp(path, sha256)
    if _sha256(path) != sha256:
        return False
    if before == _stamp(path, sha256):  # it did not change while it was hashed
        record(path, sha256)
    return True


def hash_of(path: Path) -> str:
    """The file's SHA-256, computed once and trusted while nothing about the file has changed. Raises BadCheckpoint if
    it cannot be read."""
    place = _place(path, "of")
    with suppress(OSError, BadCheckpoint):
        known = read_small(place, 1000)
        sha256 = known[:64].decode("ascii", "replace")
        if known == _stamp(path, sha256):
            return sha256
    before = path.stat()
    sha256 = _sha256(path)
    if before == path.stat():
        _keep(place, _stamp(path, sha256))
    return sha256


def check_hub_files(files: Iterable[Path]) -> None:
    """Checks files of the hub's cache against the hash by which the hub knows them, where there is one.

    A file there is a link to a blob whose name is the hash that the hub published: a SHA-256 for large files, git's
    SHA-1 of a blob for small ones. Raises BadCheckpoint with the file's name if the bytes differ.
    """
    for file in files:
        blob = file.resolve()
        name = blob.name
        if blob.parent.name != "blobs":
            continue  # a cache without links keeps no hashes
        if SHA256.fullmatch(name):
            sound = has_hash(blob, name)
        elif GIT_BLOB.fullmatch(name):
            data = read_small(blob)
            sound = hashlib.sha1(b"blob %d\0" % len(data) + data, usedforsecurity=False).hexdigest() == name
        else:
            continue
        if not sound:
            raise bad(file, f"is not what the hub publishes under the hash {name}; delete {blob} and download it again")


def record(path: Path, sha256: str) -> None:
    """Record that the file in its present state has this hash. If the cache cannot be written, the file is hashed again
    next time.
    """
    _keep(_place(path, sha256), _stamp(path, sha256))


def _keep(place: Path, stamp: bytes) -> None:
    with suppress(OSError):
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_bytes(stamp)


def _recorded(path: Path, sha256: str) -> bool:
    try:
        return read_small(_place(path, sha256), 1000) == _stamp(path, sha256)
    except (OSError, BadCheckpoint):
        return False


def _place(path: Path, sha256: str) -> Path:
    where = hashlib.sha256(os.fsencode(path.absolute())).hexdigest()[:16]
    return cache_dir() / "verified" / f"{sha256[:32]}-{where}"


def _stamp(path: Path, sha256: str) -> bytes:
    found = path.stat()
    return f"{sha256} {found.st_size} {found.st_ino} {found.st_mtime_ns} {found.st_ctime_ns}\n".encode()


def _sha256(path: Path) -> str:
    file, digest = OpenFile(path), hashlib.sha256()
    try:
        for at in range(0, file.size, PIECE):
            digest.update(file.read(at, min(PIECE, file.size - at)))
    finally:
        file.close()
    return digest.hexdigest()
