"""Every command understands a name as `trilens tag` does: the same model, the same question, or none."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.spec.test_meaning import ROWS
from trilens.checkpoints import find as find_module
from trilens.checkpoints.local import Found
from trilens.cli import main
from trilens.errors import ModelNotFound
from trilens.hosted.names import at_vendor
from trilens.spec.catalog import HUB_ID, entries
from trilens.spec.catalog.recognise import recognise

if TYPE_CHECKING:
    from trilens.serve.registry import ModelRegistry

COMMANDS = (
    "card {} --json",
    "show {} --json",
    "plan {} --machine h100x8 --json",
    "pull {}",
    "run hi --model {} --max-tokens 1 --json",
    "serve {} --port 0",
)


@pytest.fixture
def nothing_is_fetched(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """What would be downloaded ends the command with the repository's name."""

    def on_hub(repo: str, choice: str | None, **options: object) -> Found:
        raise ModelNotFound(f"would fetch {repo}")

    monkeypatch.setattr(find_module, "_on_hub", on_hub)
    monkeypatch.setattr("trilens.checkpoints.hub.on_hub", on_hub)
    monkeypatch.setattr("trilens.checkpoints.pinned.obtain", lambda file, **options: on_hub(file.pypi, None))
    monkeypatch.setenv("TRILENS_CACHE", str(tmp_path))
    monkeypatch.setattr("trilens.serve.server.serve", lambda registry, rules, port, limits: _loaded(registry))
    for key in ("OPENAI_API_KEY", "ANTHROPIC_API_KEY", "GEMINI_API_KEY"):
        monkeypatch.delenv(key, raising=False)


def _loaded(registry: ModelRegistry) -> None:
    """`serve` without its loop, which loads a model when it is first asked for."""
    for place in registry.places.values():
        print(find_module.find(place.source).path)


def _about(said: str) -> set[str]:
    """The models that an output or an error is about, by their names in the catalog."""
    if said.startswith("{"):
        made = json.loads(said)
        return {made.get("name") or made.get("model") or made["receipt"]["model"]}
    if said.startswith("/"):  # where the files are of a model that comes with trilens
        return {Path(said.strip()).name}
    asked = re.search("may mean (.+?)(?: and [0-9]+ more)?; say which one", said)
    if asked is not None:
        return set(asked[1].split(", "))
    fetched = re.search("would fetch (.+)", said)
    if fetched is not None:
        known = {e.name for e in entries().values() if fetched[1] in (e.hub, e.source and e.source.pypi)}
        return known or {fetched[1]}
    if "no path that exists" in said:
        return set()
    named = re.match("trilens: (?:catalog |'.*?': the catalog has )?([^ ]+?):? ", said)
    assert named is not None, said
    return {named[1]}


@pytest.mark.usefixtures("nothing_is_fetched")
@pytest.mark.parametrize(
    ("name", "said"),
    [pytest.param(*row, marks=[] if place % 20 == 0 else pytest.mark.slow) for place, row in enumerate(ROWS)],
)
def test_a_name_is_the_same_model_in_every_command(name: str, said: str, capsys: pytest.CaptureFixture[str]) -> None:
    expected = set(recognise(name).known_as)
    for command in COMMANDS:
        code = main([name if word == "{}" else word for word in command.split()])
        told = capsys.readouterr()
        found = _about(told.out or told.err)
        if found == {name} and HUB_ID.fullmatch(name):  # an id is itself, whatever the catalog calls it
            found = expected
        asked = " more; say which one" in told.err  # eight are listed
        assert found < expected if asked else found == expected, (command, code, told)
        assert code in (0, 3, 5, 6)


@pytest.mark.usefixtures("nothing_is_fetched")
@pytest.mark.parametrize("vendor", ["openai", "OpenAI", "gemini", "anthropic", "Google"])
def test_a_service_alone_is_no_model_in_any_command(vendor: str, capsys: pytest.CaptureFixture[str]) -> None:
    """What went wrong: `run` took "gemini" for a service without a model, all others for a family."""
    said = set()
    for command in COMMANDS:
        assert main([vendor if word == "{}" else word for word in command.split()]) == 5
        said.add(capsys.readouterr().err)
    assert len(said) == 1 and ("may mean gemini" in (told := said.pop()) or f"a model at {vendor} is called " in told)


@pytest.mark.parametrize(
    ("name", "vendor", "model"),
    [
        ("openai:gpt-4o", "openai", "gpt-4o"),
        ("OpenAI:gpt-4o", "openai", "gpt-4o"),
        ("Anthropic: claude-opus-4", "anthropic", "claude-opus-4"),
        ("GEMINI : gemini-2.5-pro", "gemini", "gemini-2.5-pro"),
        ("openai:", "openai", ""),
    ],
)
def test_a_service_is_recognised_however_it_is_written(name: str, vendor: str, model: str) -> None:
    assert at_vendor(name) == (vendor, model)
    assert at_vendor(vendor) is None and at_vendor(f"ollama:{model}") is None
