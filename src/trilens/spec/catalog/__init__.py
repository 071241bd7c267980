"""Well-known models by name, as data: one JSON file each beside this one."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from importlib import resources
from typing import Any


@dataclass(frozen=True)
class PinnedFile:
    """One file inside a wheel of the Python package index, known down to its last bit."""

    pypi: str  # the package
    version: str
    member: str  # the file's path inside the wheel
    sha256: str
    bytes: int


@dataclass(frozen=True)
class CatalogEntry:
    """What is known of a model before any of its files is here."""

    name: str
    description: str
    licence: str  # an SPDX identifier
    aliases: tuple[str, ...] = ()
    source: PinnedFile | None = None  # where `find` gets it; without one, from `hub`
    hub: str | None = None  # "org/name" on the Hugging Face hub
    config: Mapping[str, Any] | None = None  # its config.json, for a card without any file
    published: Mapping[str, Any] | None = None  # sizes as its publisher states them


@cache
def entries() -> dict[str, CatalogEntry]:
    """Every entry by its name, in alphabetical order."""
    files = [file for file in resources.files(__name__).iterdir() if file.name.endswith(".json")]
    found = [_entry(json.loads(file.read_text("utf-8"))) for file in files]
    return {entry.name: entry for entry in sorted(found, key=lambda entry: entry.name)}


def lookup(name: str) -> CatalogEntry | None:
    """The entry of that name or alias, whatever its case."""
    wanted = name.lower()
    for entry in entries().values():
        if wanted in (entry.name.lower(), *(alias.lower() for alias in entry.aliases)):
            return entry
    return None


def _entry(data: dict[str, Any]) -> CatalogEntry:
    source = data.pop("source", None)
    aliases = tuple(data.pop("aliases", ()))
    return CatalogEntry(**data, aliases=aliases, source=None if source is None else PinnedFile(**source))
