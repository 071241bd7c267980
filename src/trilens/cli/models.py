"""The commands that manage models: `models`, `show`, `rm`."""

from __future__ import annotations

import shutil
import sys
import time
from typing import Any

import click

from trilens.cli.streams import json_text
from trilens.cli.terminal import say
from trilens.errors import ModelNotFound, RequestRefused, UsageError
from trilens.units import data

OWN = {"hub": "hub cache", "trilens": "trilens", "packed": "packed form"}


@click.command()
@click.option("--catalog", is_flag=True, help="List all models of the catalog instead.")
@click.option("--json", "as_json", is_flag=True, help="Print a JSON list.")
def models(catalog: bool, as_json: bool) -> None:
    """List the models on this disk: those of trilens, the hub's cache, Ollama, LM Studio and llama.cpp."""
    rows = _catalogued() if catalog else [_as_dict(held) for held in _held()]
    if as_json:
        print(json_text(rows))
        return
    from trilens.lenses.layout import table, terminal_width

    shown = [{**row, "bytes": data(row["bytes"]), "used": _day(row["used"])} for row in rows] if not catalog else rows
    columns = ("name", "tag", "parameters", "from") if catalog else ("name", "where", "bytes", "form", "family", "used")
    titles = ["size" if column == "bytes" else "last used" if column == "used" else column for column in columns]
    cells = [[str(row[column] or "") for column in columns] for row in shown]
    print("\n".join(table(titles, cells, terminal_width(), indent=0)))


@click.command()
@click.argument("model")
@click.option("--offline", is_flag=True, help="Use only files on this disk.")
@click.option("--json", "as_json", is_flag=True, help="Print a JSON object.")
def show(model: str, offline: bool, as_json: bool) -> None:
    """Show MODEL in a few lines: files, size, format, family, context, thinking. `trilens card` shows the costs."""
    from trilens.checkpoints.held import PROGRAMS
    from trilens.lenses.cards.card import card

    made = card(model, offline=offline).as_dict()
    names = {model, made["name"]}
    here = next((held for held in _held() if names & {held.name, f"{held.program}:{held.name}"}), None)
    facts: dict[str, Any] = {"model": made["name"], "tag": made["tag"], "from": made["source"]}
    facts |= {"family": made.get("family"), "context": made.get("context_length")}
    facts["parameters"] = (made.get("parameters") or {}).get("total")
    if here is not None:
        facts |= {"file": str(here.path), "bytes": here.bytes, "form": here.form or None}
        facts["program"] = PROGRAMS.get(here.program)
    if as_json:
        print(json_text(facts))
        return
    for name, value in facts.items():
        if value is not None:
            print(f"{name:12} {data(value) if name == 'bytes' else f'{value:,}' if isinstance(value, int) else value}")


@click.command()
@click.argument("model")
@click.option("--yes", is_flag=True, help="Do not ask for confirmation.")
def rm(model: str, yes: bool) -> None:
    """Remove MODEL's files, and their packed form, from trilens' cache or the hub's. Files of other programs are not
    touched.
    """
    from trilens.checkpoints.packed import kept_forms
    from trilens.spec.catalog import HUB_ID, lookup
    from trilens.spec.catalog.meaning import meaning

    every = [(held, {held.name.lower(), f"{held.program}:{held.name}".lower()}) for held in _held()]
    wanted = {model.lower()}
    if not any(wanted & names for _, names in every) and HUB_ID.fullmatch(model) is None and not meaning(model).form:
        entry = lookup(model)  # as people write it
        wanted |= set() if entry is None else {entry.name.lower(), (entry.hub or entry.name).lower()}
    found = [held for held, names in every if wanted & names]
    if not found:
        raise ModelNotFound(f"{model!r:.80} is not on this disk; `trilens models` lists what is")
    held = next((held for held in found if held.program in OWN), None)
    if held is None:
        how = f"`ollama rm {found[0].name}`" if found[0].program == "ollama" else f"deleting {found[0].path}"
        raise RequestRefused(f"{found[0].name} belongs to {_whose(found[0])}; remove it by {how}")
    if held.program == "trilens" and held.path.is_dir():
        raise RequestRefused(f"{held.name} comes with trilens and cannot be removed")
    if not yes:
        if not sys.stdin.isatty():
            raise UsageError(f"this would remove {data(held.bytes)} of {held.name}; add --yes to confirm")
        if not click.confirm(f"Remove {held.name} ({data(held.bytes)}, {held.path})?", err=True):
            say("nothing was removed")
            return
    try:
        if held.program == "packed":
            held.path.unlink()
        else:
            for kept in kept_forms():
                if held.path in (kept.model, *kept.model.parents):
                    kept.path.unlink()
            shutil.rmtree(held.path if held.path.is_dir() else held.path.parent)
    except OSError as problem:
        raise RequestRefused(f"{held.path}: cannot be removed ({problem.strerror})") from None
    print(held.path)


def _held() -> list[Any]:
    from trilens.checkpoints.held import held_models

    return held_models()


def _whose(held: Any) -> str:
    from trilens.checkpoints.held import PROGRAMS

    return OWN.get(held.program) or PROGRAMS[held.program]


def _as_dict(held: Any) -> dict[str, Any]:
    return {
        "name": held.name,
        "where": _whose(held),
        "bytes": held.bytes,
        "form": held.form or None,
        "family": held.family or None,
        "used": held.used or None,
        "path": str(held.path),
    }


def _day(when: float | None) -> str:
    return "" if when is None else time.strftime("%Y-%m-%d", time.localtime(when))


def _catalogued() -> list[dict[str, Any]]:
    from trilens.spec.catalog import entries
    from trilens.spec.catalog.recognise import recognise

    rows = []
    for entry in entries().values():
        sizes = [p.says or p.exact for p in entry.published if p.what == "total"]
        origin = (
            "comes with trilens" if entry.comes_with else entry.hub or (entry.vendor and f"hosted by {entry.vendor}")
        )
        origin = "package index" if entry.source is not None else origin
        rows.append(
            {
                "name": entry.name,
                "tag": recognise(entry.name).tag,
                "parameters": str(sizes[0]) if sizes else None,
                "from": origin or "no files known",
            }
        )
    return rows


COMMANDS = (models, show, rm)
