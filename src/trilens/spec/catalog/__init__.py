"""Well-known models by name. Each is one JSON file of `CatalogEntry`'s fields; adding a model is adding a file.

open/    models whose config.json is known, so that a card needs nothing else
names/   families and sizes of which only the backbone and the inference are known, for `trilens tag`
hosted/  models behind a vendor's service, whose backbone is not published
"""

from __future__ import annotations

import copy
import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from importlib import resources
from typing import Any, Literal

from trilens.errors import AmbiguousName
from trilens.spec.catalog.words import words_of

Backbone = Literal["dense", "routed", "unknown"]
HUB_ID = re.compile(r"(?P<repo>[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*)(?::(?P<choice>[^:]+))?", re.ASCII)


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
    """What is known of a model before any of its files is here."""

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
    stem: str | None = None  # of one size of a family: the name that the sizes share
    vendor: str | None = None  # of a hosted model
    look_up: str | None = None  # what one would look up next, where something is unknown

    @property
    def hosted(self) -> bool:
        return self.vendor is not None

    @property
    def can_be_counted(self) -> bool:
        """Whether its numbers are known, or files to read them from."""
        return self.config is not None or self.source is not None or self.comes_with is not None or self.hub is not None


@cache
def entries() -> dict[str, CatalogEntry]:
    """Every entry by its name, in alphabetical order. A size of a family that has a file of its own is that file's."""
    files = [
        json.loads(file.read_text("utf-8"))
        for folder in ("open", "names", "hosted")
        for file in resources.files(__name__).joinpath(folder).iterdir()
        if file.name.endswith(".json")
    ]
    configs = {data["name"]: data.get("config") for data in files}
    for data in files:
        if "wired_as" in data:
            data["config"] = configs[data.pop("wired_as")]
    models = [model for data in files for model in _each_model(data)]
    found = [_entry(model) for model in models if "stem" not in model]
    taken = {words_of(alias) for entry in found for alias in (entry.name, *entry.aliases)}
    found += [
        _entry(model)
        for model in models
        if "stem" in model and not any(words_of(alias) in taken for alias in (model["name"], *model["aliases"]))
    ]
    return {entry.name: entry for entry in sorted(found, key=lambda entry: entry.name)}


def _each_model(data: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """A file -> the data of each model that it stands for: every size of a family behind each `stem` (by itself the
    name), and the models in `also` (a name and its aliases), which share everything else."""
    rest = {key: value for key, value in data.items() if key not in ("sizes", "stem", "also", "aliases", "name")}
    stated = data.get("stem", data["name"])
    for stem in stated if isinstance(stated, list) else [stated]:
        for size in data.get("sizes", ()):
            aliases = [f"{alias} {size}" for alias in (stem, *data.get("aliases", ()))]
            name = f"{stem}-{size}".replace(" ", "-")
            yield copy.deepcopy(rest) | {"name": name, "aliases": aliases, "stem": stem}
    for name, *aliases in data.get("also", ()):
        yield copy.deepcopy(rest) | {"name": name, "aliases": aliases, "description": name}
    if "sizes" not in data:
        yield copy.deepcopy(rest) | {"name": data["name"], "aliases": list(data.get("aliases", ()))}


def lookup(name: str) -> CatalogEntry | None:
    """The one model that the name means, as people write it; None for an unknown name, and for an id of the hub of
    which the catalog knows no hosted model. Raises AmbiguousName."""
    if "\\" in name:
        return None
    from trilens.spec.catalog.meaning import certain, meaning

    if HUB_ID.fullmatch(name) is None:
        return certain(name)
    meant = meaning(name)  # "openai/gpt-4o", as routers of requests call it
    return meant.models[0] if meant.certain and meant.models[0].hosted else None


def of_hub(repo: str) -> CatalogEntry | None:
    """The entry whose files that repository of the hub holds."""
    return next((e for e in entries().values() if e.hub is not None and e.hub.lower() == repo.lower()), None)


def catalogued(name: str) -> CatalogEntry | None:
    """The entry of a name as `load` takes it: a catalog name, or a hub id with or without a choice of files. None
    where the name means none, or several."""
    try:
        return lookup(name) or of_hub(name.partition(":")[0])
    except AmbiguousName:
        return None


def _entry(data: dict[str, Any]) -> CatalogEntry:
    source, inference = data.pop("source", None), data.pop("inference", {"kind": "unknown"})
    inference["levels"] = tuple(inference.get("levels", ()))
    for name in ("markers", "answer"):
        inference[name] = tuple(inference[name]) if name in inference else None
    data["aliases"] = tuple(data.get("aliases", ()))
    return CatalogEntry(
        **{**data, "published": tuple(Published(**stated) for stated in data.get("published", ()))},
        source=None if source is None else PinnedFile(**source),
        inference=StatedInference(**inference),
    )
