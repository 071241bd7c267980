"""The catalog: complete data files, published sizes that agree with what is counted, and names as people write them."""

from __future__ import annotations

import json
from importlib import resources

import pytest

from tests.spec.model_names import NAMES
from trilens.errors import AmbiguousName, UnsupportedModel
from trilens.executors.accountant import count_parameters
from trilens.lenses.cards.published import compare_published
from trilens.spec.catalog import CatalogEntry, entries, lookup, of_hub
from trilens.spec.catalog.recognise import recognise
from trilens.spec.huggingface import read_config
from trilens.spec.model import Reading

OPEN = [entry for entry in entries().values() if entry.config is not None]

# What a reader of this project does not have yet; their cards are partial.
UNREAD_FAMILIES = {"deepseek_v4", "kimi_k3", "minimax_m3"}


def reading_of(entry: CatalogEntry) -> Reading | None:
    assert entry.config is not None
    try:
        return read_config(entry.config, entry.name)
    except UnsupportedModel:
        assert entry.config["model_type"] in UNREAD_FAMILIES
        return None


class TestFiles:
    def test_every_file_is_an_entry_under_its_own_name(self) -> None:
        folder = resources.files("trilens.spec.catalog")
        for kind in ("open", "names", "hosted"):
            for file in folder.joinpath(kind).iterdir():
                assert json.loads(file.read_text("utf-8"))["name"] + ".json" == file.name

    def test_names_and_aliases_are_looked_up(self) -> None:
        taken: dict[str, str] = {}
        for entry in OPEN:
            for name in (entry.name, *entry.aliases):
                assert taken.setdefault(name.lower(), entry.name) == entry.name, f"{name} is two models"
                found = lookup(name)
                assert found is not None and found.config is not None

    @pytest.mark.parametrize("written", ["Qwen3 30B A3B", "Llama 3.3 70B", "gpt-oss 120b", "Mixtral-8x7B", "o3"])
    def test_a_model_is_found_as_people_write_it(self, written: str) -> None:
        found = lookup(written)
        assert found is not None and (found.config is not None or found.hosted)

    @pytest.mark.parametrize("written", ["Qwen3", "somebody/Qwen3-8B", "Llama 3.3 13B", "Qwen3-8B-abliterated"])
    def test_what_is_not_exactly_a_model_is_not_found(self, written: str) -> None:
        try:
            assert lookup(written) is None
        except AmbiguousName as asked:
            assert len(asked.models) > 1

    def test_a_repository_of_the_hub(self) -> None:
        found = of_hub("qwen/qwen3-8b")
        assert found is not None and found.name == "qwen3-8b"
        assert of_hub("somebody/qwen3-8b") is None

    def test_hosted_models_have_no_backbone_and_keep_none(self) -> None:
        hosted = [entry for entry in entries().values() if entry.hosted]
        assert {entry.vendor for entry in hosted} >= {"OpenAI", "Anthropic", "Google"}
        assert all(entry.backbone == "unknown" and entry.config is None for entry in hosted)

    def test_every_entry_says_how_it_infers(self) -> None:
        silent = {e.name for e in entries().values() if e.inference.kind == "unknown"}
        assert silent == {"mistral-small-4", "solar-open-100b", *(f"ministral-3-{size}b" for size in (3, 8, 14))}


@pytest.mark.parametrize("entry", OPEN, ids=lambda e: e.name)
class TestSizes:
    def test_the_stated_backbone_is_the_counted_one(self, entry: CatalogEntry) -> None:
        reading = reading_of(entry)
        if reading is not None:
            assert entry.backbone == ("routed" if any(reading.spec.routed_layers()) else "dense")

    def test_published_sizes_agree_or_the_entry_says_why(self, entry: CatalogEntry) -> None:
        reading = reading_of(entry)
        if reading is None:
            return
        for stated, compared in zip(
            entry.published, compare_published(entry.published, count_parameters(reading.spec), reading), strict=True
        ):
            assert not (compared.agrees and stated.differs), f"no reason is needed: {compared.as_line()}"
            assert compared.agrees or compared.why, compared.as_line()
            if stated.exact is not None and stated.what in ("total", "active"):
                assert compared.agrees, compared.as_line()


class TestTags:
    def test_there_are_many(self) -> None:
        assert sum(map(len, NAMES.values())) >= 120

    @pytest.mark.parametrize(("tag", "name"), [(tag, name) for tag, names in NAMES.items() for name in names])
    def test_a_name(self, tag: str, name: str) -> None:
        found = recognise(name)
        assert found.tag == tag
        assert bool(found.look_up) == ("unknown" in tag)

    def test_an_entry_is_recognised_by_its_own_name(self) -> None:
        for entry in entries().values():
            found = recognise(entry.name)
            if entry.can_be_counted or entry.hosted:
                assert found.known_as == (entry.name,)
            assert found.known_as, entry.name
            assert found.backbone == entry.backbone, entry.name
            assert found.inference == entry.inference.word, entry.name

    def test_an_unknown_word_is_named(self) -> None:
        assert "fancy" in recognise("llama-3-8b-fancy").why

    def test_a_hosted_model_says_whose_documents_to_read(self) -> None:
        assert "OpenAI" in recognise("GPT-4o").look_up
        assert "Anthropic" in recognise("Claude Opus 9").look_up

    def test_an_ambiguous_name_says_what_it_may_be(self) -> None:
        found = recognise("Gemma 4")
        assert "gemma-4-26b" in found.look_up
