"""What a path on this disk is: a GGUF file, a configuration, or a directory with a model."""

import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Literal

from trilens.checkpoints.gguf import PART
from trilens.checkpoints.opened import OpenFile
from trilens.errors import BadCheckpoint, ModelNotFound
from trilens.files import shown

CONFIGS = ("config.json", "params.json")  # the second is Mistral's own
PICKLES = (".bin", ".pt", ".pth", ".ckpt")
NO_MODEL = re.compile(r"mmproj|imatrix", re.IGNORECASE)  # GGUF files that lie beside a model's
MOST_NAMES = 12  # names listed in one error


@dataclass(frozen=True)
class Found:
    """Where a model's files are."""

    kind: Literal["gguf", "directory", "config"]
    path: Path  # the GGUF file (of a split one: its first part), the directory, or the configuration alone
    origin: str  # where it came from, for people: "path", "catalog smollm2", "hub org/name@0123456789ab"


def at_path(path: Path, origin: str, *, only_small: bool = False) -> Found:
    """The model at an existing path. Raises ModelNotFound with what was expected there.

    `only_small`: a directory with a configuration and no weights is enough, as kind "config".
    """
    if path.is_dir():
        return _in_directory(path, origin, only_small=only_small)
    name = path.name.lower()
    if name.endswith(".gguf") or _starts_as_gguf(path):
        return Found("gguf", path, origin)
    if name.endswith((".safetensors", ".safetensors.index.json")):
        raise ModelNotFound(f"{path}: name the directory that holds it together with its config.json")
    if name.endswith(".json"):
        return Found("config", path, origin)
    if name.endswith(PICKLES):
        raise ModelNotFound(f"{path}: pickled weights can run code and are not read; get safetensors or GGUF")
    raise ModelNotFound(f"{path}: is not a model; expected a .gguf file, a config.json, or a directory")


def _in_directory(directory: Path, origin: str, *, only_small: bool) -> Found:
    try:
        names = sorted(entry.name for entry in directory.iterdir())
    except OSError as error:
        raise ModelNotFound(f"{directory}: cannot be listed: {error.strerror or error}") from None
    config = next((name for name in CONFIGS if name in names), None)
    if config and any(name.endswith(".safetensors") for name in names):
        return Found("directory", directory, origin)
    sets = gguf_sets(names)
    if len(sets) == 1:
        return Found("gguf", directory / next(iter(sets)), origin)
    if config and only_small:
        return Found("config", directory / config, origin)
    if len(sets) > 1:
        raise ModelNotFound(f"{directory}: holds {len(sets)} models; name one of the files: {listing(sets)}")
    expected = "expected config.json with *.safetensors, or one GGUF file"
    if not names:
        raise ModelNotFound(f"{directory}: the directory is empty; {expected}")
    if any(name.endswith(PICKLES) for name in names):
        raise ModelNotFound(f"{directory}: contains pickled weights, which can run code and are not read; {expected}")
    if config:
        raise ModelNotFound(f"{directory}: holds {config} but no weights; {expected}")
    if any(name.endswith(".safetensors") for name in names):
        raise ModelNotFound(f"{directory}: contains *.safetensors but no config.json; {expected}")
    raise ModelNotFound(f"{directory}: contains no model; {expected}")


def gguf_sets(names: Iterable[str]) -> dict[str, list[str]]:
    """GGUF files by the first of their set, in order: a split model is one set. Projectors are left out."""
    sets: dict[tuple[str, str], list[str]] = {}
    for name in sorted(names):
        file = PurePosixPath(name)
        if file.suffix.lower() != ".gguf" or NO_MODEL.search(file.name):
            continue
        part = PART.fullmatch(name)
        key = (part["stem"], part["count"]) if part else (name, "")
        sets.setdefault(key, []).append(name)
    return {files[0]: files for files in sets.values()}


def listing(names: Iterable[str]) -> str:
    """The names in one line, shortened if there are many."""
    every = list(names)
    more = f" and {len(every) - MOST_NAMES} more" if len(every) > MOST_NAMES else ""
    return ", ".join(name if name.isprintable() else shown(name) for name in every[:MOST_NAMES]) + more


def _starts_as_gguf(path: Path) -> bool:
    try:
        file = OpenFile(path)
    except BadCheckpoint:
        return False
    start = file.read(0, min(4, file.size))
    file.close()
    return start == b"GGUF"
