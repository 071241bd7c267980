"""The source of a card's facts: a model's small files, or the catalog's entry if there are none."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from trilens.checkpoints.find import Found, find
from trilens.checkpoints.held import held_as
from trilens.checkpoints.load import read_spec
from trilens.checkpoints.safetensors import config_name
from trilens.errors import BadCheckpoint, ModelNotFound, UnsupportedModel
from trilens.files import exists, read_json_object
from trilens.spec.catalog import HUB_ID, CatalogEntry, lookup, of_hub
from trilens.spec.huggingface import read_config
from trilens.spec.model import Reading
from trilens.text.read_template import read_inference
from trilens.text.thinking import Inference, completed, stated_inference


@dataclass(frozen=True)
class CardSource:
    """`reading` is None for a model of unknown wiring; `entry` is then what is known of it."""

    title: str
    origin: str
    reading: Reading | None
    inference: Inference
    found: Found | None = None
    entry: CatalogEntry | None = None
    config: Mapping[str, Any] | None = None

    @property
    def without_numbers(self) -> str:
        """Why nothing can be counted, where `reading` is None."""
        if self.entry is not None and self.entry.hosted:
            return "its sizes are not published"
        return "the catalog knows its name and kind, not its numbers; give its config.json, a GGUF file or a hub id"


def card_source(name: str | Found, *, offline: bool) -> CardSource:
    """The source for the card of `name`: files on this disk or from the hub, else the catalog."""
    if isinstance(name, Found):
        return _from_files(str(name.path), name, None)
    if not exists(Path(name).expanduser()):
        held = held_as(name)
        if held is not None:
            return _from_files(name, held.found, None)
        entry, hub = lookup(name), HUB_ID.fullmatch(name)
        if entry is not None:
            return _from_catalog(entry, offline=offline)
        if hub is not None and hub["choice"] is None and (entry := of_hub(hub["repo"])) is not None:
            return _from_hub(name, entry, offline=offline)
    return _from_files(name, find(name, offline=offline, only_small=True), None)


@dataclass(frozen=True)
class UnreadSource:
    """The files of a model that nobody here can read: `config` is empty for a GGUF file."""

    title: str
    origin: str
    inference: Inference
    config: Mapping[str, Any]
    found: Found | None = None
    entry: CatalogEntry | None = None


def unread_source(name: str | Found, *, offline: bool) -> UnreadSource | None:
    """Where `card_source` says that a model is not supported: what is here of it; None where that is nothing."""
    at_hand = isinstance(name, Found) or exists(Path(name).expanduser())
    entry = None if at_hand else lookup(str(name))
    if entry is not None and entry.config is not None:
        inference = stated_inference(entry.inference)
        return UnreadSource(entry.name, "the catalog's data file", inference, entry.config, None, entry)
    try:
        found = name if isinstance(name, Found) else find(name, offline=offline, only_small=True)
        inference = read_inference(found)
    except (ModelNotFound, UnsupportedModel):
        return None
    title = str(found.path) if isinstance(name, Found) else name
    origin = str(found.path) if found.origin == "path" else found.origin
    config = _config_of(found) or {}
    if found.kind == "directory":
        config = read_json_object(found.path / config_name(found.path))
    return UnreadSource(title, origin, inference, config, found, entry)


def _from_catalog(entry: CatalogEntry, *, offline: bool) -> CardSource:
    """Files that are here already, else the entry's own configuration, else the hub."""
    if entry.config is None and entry.hub is None and entry.source is None and entry.comes_with is None:
        return CardSource(entry.name, "the catalog", None, stated_inference(entry.inference), entry=entry)
    if entry.config is None:
        return _from_files(entry.name, find(entry.name, offline=offline, only_small=True), entry)
    if _may_be_here(entry):
        try:
            return _from_files(entry.name, find(entry.name, offline=True, only_small=True), entry)
        except (ModelNotFound, BadCheckpoint):
            pass
    return _from_data(entry.name, entry, "no file of the model is here")


def _from_hub(name: str, entry: CatalogEntry, *, offline: bool) -> CardSource:
    try:
        return _from_files(name, find(name, offline=offline, only_small=True), entry)
    except ModelNotFound as problem:
        if entry.config is None:
            raise
        return _from_data(name, entry, str(problem))


def _from_data(title: str, entry: CatalogEntry, why: str) -> CardSource:
    assert entry.config is not None
    try:
        reading = read_config(entry.config, f"catalog {entry.name}")
    except UnsupportedModel as problem:
        raise UnsupportedModel(f"{problem}{_what_is_known(entry)}") from None
    origin = f"the catalog's data file ({why})"
    return CardSource(title, origin, reading, stated_inference(entry.inference), None, entry, entry.config)


def _from_files(title: str, found: Found, entry: CatalogEntry | None) -> CardSource:
    inference = read_inference(found)
    if entry is not None:
        inference = completed(inference, stated_inference(entry.inference))
    origin = str(found.path) if found.origin == "path" else found.origin
    try:
        reading = read_spec(found)
    except UnsupportedModel as problem:
        raise UnsupportedModel(f"{problem}{'' if entry is None else _what_is_known(entry)}") from None
    return CardSource(title, origin, reading, inference, found, entry, _config_of(found))


def _config_of(found: Found) -> Mapping[str, Any] | None:
    if found.kind != "config":
        return None
    return read_json_object(found.path)


def _what_is_known(entry: CatalogEntry) -> str:
    sizes = [f"{p.says or p.exact} {p.what}" for p in entry.published if p.what != "files"]
    said = f"; its publisher says {', '.join(sizes)}" if sizes else ""
    return f"{said}; the catalog has it as {entry.backbone} · {entry.inference.word}"


def _may_be_here(entry: CatalogEntry) -> bool:
    """Whether looking for files is worth the import of the hub's client (a third of a second)."""
    if entry.source is not None or entry.comes_with is not None or entry.hub is None:
        return True
    caches = Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser()
    home = Path(os.environ.get("HF_HOME") or caches / "huggingface")
    cache = Path(os.environ.get("HF_HUB_CACHE") or home / "hub")
    return (cache / f"models--{entry.hub.replace('/', '--')}").is_dir()
