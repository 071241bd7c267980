"""Models that are already on this disk: trilens' own, the hub's cache, and the folders of Ollama, LM Studio and
llama.cpp.

Models of other programs are used where they are. A model has its program's name for it, with or without the program in
front: "llama3.2:1b" or "ollama:llama3.2:1b".
"""

from __future__ import annotations

import json
import os
import struct
import sys
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from trilens.checkpoints.local import Found, at_path, gguf_sets
from trilens.checkpoints.packed import kept_forms
from trilens.checkpoints.verified import cache_dir
from trilens.errors import ModelNotFound, TrilensError
from trilens.files import shown
from trilens.spec.catalog import entries
from trilens.spec.catalog.words import QUANTISED

PROGRAMS = {"ollama": "Ollama", "lmstudio": "LM Studio", "llama.cpp": "llama.cpp"}
OLLAMA_MODEL = "application/vnd.ollama.image.model"


@dataclass(frozen=True)
class Held:
    """`program`: whose folder it is, "hub" for the hub's cache, "trilens" for our own, "packed" for the packed form of
    a model. `path`: the file, or the directory of a hub model."""

    name: str
    program: str
    path: Path
    bytes: int
    form: str = ""  # the type of its weights, where the name or a manifest says it
    family: str = ""  # the architecture, as its file calls it
    used: float = 0.0  # when it was last read, in seconds since 1970

    @property
    def found(self) -> Found:
        return at_path(self.path, f"{PROGRAMS[self.program]} {self.name}")


def held_as(name: str) -> Held | None:
    """The model that another program has under that name. Raises ModelNotFound if the name includes the program and the
    program has no such model, or several.
    """
    program, _, rest = name.partition(":")
    if program.lower() in PROGRAMS and rest:
        found = [held for held in _programs((program.lower(),)) if rest.lower() in _names(held)]
        if not found:
            names = ", ".join(held.name for held in _programs((program.lower(),))) or "none"
            raise ModelNotFound(f"{shown(rest)}: {PROGRAMS[program.lower()]} has no such model here; it has {names}")
    elif name.lower() in entries():
        return None  # our own names are ours
    else:
        found = [held for held in _programs(tuple(PROGRAMS)) if name.lower() in _names(held)]
    if len({held.path for held in found}) > 1:
        names = ", ".join(f"{held.program}:{held.name}" for held in found)
        raise ModelNotFound(f"{shown(name)}: there are several on this disk; name one of {names}")
    return found[0] if found else None


def held_models() -> list[Held]:
    """All models on this disk, sorted by name."""
    every = [*_ours(), *_hub(), *_programs(tuple(PROGRAMS)), *_packed()]
    return sorted(every, key=lambda held: (held.name.lower(), held.program))


def _names(held: Held) -> set[str]:
    """The names of a model, in lower case."""
    name = held.name.lower()
    names = {name, name.removesuffix(".gguf"), name.removesuffix(":latest")}
    if held.program == "lmstudio":
        publisher, _, file = name.rpartition("/")
        names |= {publisher, file, file.removesuffix(".gguf")}
        if held.form:
            names.add(f"{publisher}:{held.form.lower()}")
    return names


def _programs(programs: tuple[str, ...]) -> Iterator[Held]:
    readers = {"ollama": _ollama, "lmstudio": _lm_studio, "llama.cpp": _llama_cpp}
    for program in programs:
        yield from readers[program]()


def _ollama() -> Iterator[Held]:
    """manifests/HOST/NAMESPACE/NAME/TAG, of which one layer is the GGUF file blobs/sha256-DIGEST."""
    stated = os.environ.get("OLLAMA_MODELS")
    places = (
        [Path(stated)] if stated else [Path("~/.ollama/models").expanduser(), Path("/usr/share/ollama/.ollama/models")]
    )
    for place in places:
        for manifest in _files(place / "manifests"):
            *_, host, namespace, name, tag = ("", "", "", "", *manifest.relative_to(place / "manifests").parts)
            with suppress(OSError, ValueError, KeyError, TypeError, StopIteration):
                said = json.loads(manifest.read_bytes())
                layer = next(layer for layer in said["layers"] if layer["mediaType"] == OLLAMA_MODEL)
                blob = place / "blobs" / str(layer["digest"]).replace(":", "-")
                config = json.loads((place / "blobs" / str(said["config"]["digest"]).replace(":", "-")).read_bytes())
                prefix = "" if host == "registry.ollama.ai" else f"{host}/"
                called = f"{prefix}{'' if namespace == 'library' else namespace + '/'}{name}:{tag}"
                yield _held(called, "ollama", blob, str(config.get("file_type", "")))


def _lm_studio() -> Iterator[Held]:
    """models/PUBLISHER/REPOSITORY/FILE.gguf"""
    for place in (Path("~/.lmstudio/models").expanduser(), Path("~/.cache/lm-studio/models").expanduser()):
        files = [str(file.relative_to(place)) for file in _files(place) if file.suffix == ".gguf"]
        for first in gguf_sets(files):
            with suppress(OSError):
                yield _held(Path(first).as_posix(), "lmstudio", place / first)


def _llama_cpp() -> Iterator[Held]:
    """One folder of GGUF files"""
    usual = "~/Library/Caches" if sys.platform == "darwin" else os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    place = Path(os.environ.get("LLAMA_CACHE") or f"{usual}/llama.cpp").expanduser()
    for first in gguf_sets([file.name for file in _files(place) if file.parent == place]):
        with suppress(OSError):
            yield _held(first, "llama.cpp", place / first)


def _hub() -> Iterator[Held]:
    """models--ORG--NAME/snapshots/COMMIT, whose files are links"""
    home = Path(os.environ.get("HF_HOME") or Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache") / "huggingface")
    cache = Path(os.environ.get("HF_HUB_CACHE") or home / "hub").expanduser()
    for folder in sorted(cache.glob("models--*--*")):
        with suppress(OSError):  # a model that is being removed, or whose link leads nowhere
            files = [file for file in _files(folder / "snapshots") if file.suffix in (".gguf", ".safetensors")]
            if not files:
                continue
            blobs = {file.resolve() for file in files}
            size = sum(blob.stat().st_size for blob in blobs)
            used = max(blob.stat().st_atime for blob in blobs)
            family = ""
            with suppress(OSError, ValueError, AttributeError):
                family = json.loads((files[0].parent / "config.json").read_bytes()).get("model_type", "")
            name = folder.name.removeprefix("models--").replace("--", "/", 1)
            yield Held(name, "hub", folder, size, _form(files[0].name), family, used)


def _ours() -> Iterator[Held]:
    for entry in entries().values():
        if entry.source is not None:
            path = cache_dir() / "models" / entry.source.sha256[:16] / Path(entry.source.member).name
            with suppress(OSError):
                yield _held(entry.name, "trilens", path)
        elif entry.comes_with is not None:
            directory = Path(__file__).resolve().parents[1] / entry.comes_with
            size = sum(file.stat().st_size for file in _files(directory))
            yield Held(entry.name, "trilens", directory, size, "", "", 0.0)


def _packed() -> Iterator[Held]:
    for kept in kept_forms():
        with suppress(OSError):
            found = kept.path.stat()
            yield Held(f"packed:{kept.model}", "packed", kept.path, found.st_size, used=found.st_atime)


def _held(name: str, program: str, path: Path, form: str = "") -> Held:
    status = path.stat()
    size = status.st_size
    for others in gguf_sets([file.name for file in _files(path.parent) if file.suffix == ".gguf"]).values():
        if path.name == others[0]:
            size = sum((path.parent / part).stat().st_size for part in others)
    return Held(
        name, program, path, size, form or _form(name) or _form(path.name), _architecture(path), status.st_atime
    )


def _form(name: str) -> str:
    """Q4_K_M out of a file's name."""
    words = name.removesuffix(".gguf").replace(".", "-").split("-")
    return next((word for word in reversed(words) if QUANTISED.fullmatch(word.lower())), "")


def _architecture(path: Path) -> str:
    """The first value of a GGUF file's metadata if it is the architecture, else ""."""
    with suppress(OSError, struct.error, UnicodeDecodeError, TrilensError), path.open("rb") as file:
        start = file.read(300)
        if start[:4] == b"GGUF":
            key, at = _string(start, 24)
            if key == "general.architecture" and struct.unpack_from("<I", start, at) == (8,):
                return _string(start, at + 4)[0]
    return ""


def _string(data: bytes, at: int) -> tuple[str, int]:
    (length,) = struct.unpack_from("<Q", data, at)
    return data[at + 8 : at + 8 + length].decode(), at + 8 + length


def _files(folder: Path) -> list[Path]:
    return sorted(file for file in folder.rglob("*") if file.is_file()) if folder.is_dir() else []
