"""Well-known models by name. Each is one JSON file of `CatalogEntry`'s fields; adding a model is adding a file.

open/    models whose config.json is known, so that a card needs nothing else
names/   families and sizes of which only the backbone and the inference are known, for `trilens tag`
hosted/  models behind a vendor's service, whose backbone nobody outside knows
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from importlib import resources
from typing import Any, Literal

Backbone = Literal["dense", "routed", "unknown"]


@dataclass(frozen=True)
class PinnedFile:
    """One file inside a wheel of the Python package index, known down to its last bit."""

    pypi: str  # the package
    version: str
    member: str  # the file's path inside the wheel
    sha256: str
    bytes: int


@dataclass(frozen=True)
class Published:
    """One size as its publisher states it: rounded (`says`), or to the last parameter (`exact`).

    `what`: total or active parameters, or everything in the publisher's files. `counts`: what the number includes
    beside the text decoder. `differs`: why ours is another one, in a line.
    """

    what: Literal["total", "active", "files"]
    says: str | None = None
    exact: int | None = None
    counts: str | None = None
    differs: str | None = None


@dataclass(frozen=True)
class StatedInference:
    """What is known about thinking without the chat template; the words are those of `text.thinking.Inference`."""

    kind: Literal["never", "always", "switchable", "levels", "unknown"]
    variable: str | None = None
    level_variable: str | None = None
    levels: tuple[str, ...] = ()
    default: str | None = None
    off: bool | None = None  # whether levels include none at all
    markers: tuple[str, str] | None = None
    answer: tuple[str, str] | None = None  # what the model wraps its answer in
    closing_phrase: str = ""  # what the publisher writes before a thinking is cut short
    note: str | None = None

    @property
    def word(self) -> str:
        """standard, thinking, switchable or unknown: whether a caller decides."""
        if self.kind == "levels":
            return "switchable" if self.off else "thinking"
        return {"never": "standard", "always": "thinking"}.get(self.kind, self.kind)


@dataclass(frozen=True)
class CatalogEntry:
    """What is known of a model before any of its files is here. `sizes`: endings of the name that share all of it."""

    name: str
    description: str
    aliases: tuple[str, ...] = ()
    licence: str | None = None  # an SPDX identifier
    source: PinnedFile | None = None  # where `find` gets it; without one, from `hub`
    comes_with: str | None = None  # where it lies inside this package
    hub: str | None = None  # "org/name" on the Hugging Face hub
    config: Mapping[str, Any] | None = None  # its config.json or params.json, less what says nothing of the wiring
    published: tuple[Published, ...] = ()
    backbone: Backbone = "unknown"
    inference: StatedInference = StatedInference("unknown")
    sizes: tuple[str, ...] = ()
    vendor: str | None = None  # of a hosted model
    look_up: str | None = None  # what one would look up next, where something is unknown

    @property
    def hosted(self) -> bool:
        return self.vendor is not None


@cache
def entries() -> dict[str, CatalogEntry]:
    """Every entry by its name, in alphabetical order."""
    found = [
        _entry(json.loads(file.read_text("utf-8")))
        for folder in ("open", "names", "hosted")
        for file in resources.files(__name__).joinpath(folder).iterdir()
        if file.name.endswith(".json")
    ]
    return {entry.name: entry for entry in sorted(found, key=lambda entry: entry.name)}


def lookup(name: str) -> CatalogEntry | None:
    """The entry of that name or alias, whatever its case; else the one model that is written so, spaces and all."""
    wanted = name.lower()
    for entry in entries().values():
        aliases = () if entry.sizes else entry.aliases  # with sizes, an alias is the beginning of a name
        if wanted in (entry.name.lower(), *(alias.lower() for alias in aliases)):
            return entry
    if "/" in name or "\\" in name:
        return None
    from trilens.spec.catalog.recognise import models_called

    called = models_called(name)
    return called[0] if len(called) == 1 else None


def of_hub(repo: str) -> CatalogEntry | None:
    """The entry whose files that repository of the hub holds."""
    return next((e for e in entries().values() if e.hub is not None and e.hub.lower() == repo.lower()), None)


def catalogued(name: str) -> CatalogEntry | None:
    """The entry of a name as `load` takes it: a catalog name, or a hub id with or without a choice of files."""
    return lookup(name) or of_hub(name.partition(":")[0])


def _entry(data: dict[str, Any]) -> CatalogEntry:
    source, inference = data.pop("source", None), data.pop("inference", {"kind": "unknown"})
    inference["levels"] = tuple(inference.get("levels", ()))
    for name in ("markers", "answer"):
        inference[name] = tuple(inference[name]) if name in inference else None
    for name in ("aliases", "sizes"):
        data[name] = tuple(data.get(name, ()))
    return CatalogEntry(
        **{**data, "published": tuple(Published(**stated) for stated in data.get("published", ()))},
        source=None if source is None else PinnedFile(**source),
        inference=StatedInference(**inference),
    )
