"""The card: sums that can be done by hand, the three lenses, where its facts come from, and any width of terminal."""

from __future__ import annotations

import json
import subprocess
import sys
from fractions import Fraction
from functools import cache
from math import comb
from pathlib import Path
from typing import Any

import pytest

from tests.work import calls
from trilens.errors import ModelNotFound, UsageError
from trilens.executors.accountant import Span, kv_bytes, step_cost
from trilens.lenses.cards.card import Card, StatedCard, card
from trilens.lenses.cards.moe import dense_twin, rule_in_words
from trilens.lenses.layout import ranges, table, table_in_parts
from trilens.spec.catalog import entries
from trilens.spec.model import Curve, Dense, ExpertGroups, Glu, Routed, Router, Scoring

READABLE = [
    "qwen3-30b-a3b",
    "deepseek-v3",
    "gemma-4-26b-a4b-it",
    "gemma-4-e4b-it",
    "gpt-oss-120b",
    "llama-4-maverick-17b-128e-instruct",
    "llama-3.3-70b-instruct",
    "glm-4.5-air",
    "mistral-large-3",
]


def of(name: str, **options: Any) -> Card:
    made = card(name, offline=True, **options)
    assert isinstance(made, Card)
    return made


kept = cache(of)


def config_file(tmp_path: Path, name: str, file: str = "config.json", **changes: Any) -> Path:
    config = entries()[name].config
    assert config is not None
    (tmp_path / file).write_text(json.dumps({**config, **changes}))
    return tmp_path / file


class TestDenseLens:
    def test_the_feed_forward_sum_by_hand(self) -> None:
        made = of("llama-3.3-70b-instruct")
        [term] = made.dense.terms
        assert term.flops == 2 * 3 * 8192 * 28672 * 80 == made.as_dict()["flops_per_token"]["feed_forward"]
        assert term.formula == "2 x 3 x 8192 d_model x 28672 d_ffn x 80 layers"
        assert term.formula in made.as_text(200)

    def test_routed_mixed_and_shared_by_hand(self) -> None:
        terms = {t.what: t.flops for t in of("deepseek-v3").dense.terms}
        assert terms == {
            "dense": 2 * 3 * 7168 * 18432 * 3,
            "experts that fire": 2 * 3 * 7168 * 2048 * 8 * 58,
            "shared expert": 2 * 3 * 7168 * 2048 * 58,
        }

    def test_every_other_layer(self) -> None:
        terms = of("llama-4-maverick-17b-128e-instruct").dense.terms
        assert {t.what: len(t.layers) for t in terms} == {"dense": 24, "experts that fire": 24, "shared expert": 24}

    @pytest.mark.parametrize("name", READABLE)
    def test_the_terms_are_the_whole_feed_forward(self, name: str) -> None:
        made = of(name)
        assert made.dense.beside_the_sum == 0
        assert sum(t.flops for t in made.dense.terms) == made.token.flops_by_part()["feed_forward"]

    def test_contexts(self) -> None:
        made = of("qwen3-8b", context=100)
        assert list(made.dense.costs) == [1, 100, 4096, 40960]
        assert made.as_dict()["flops_per_token"]["context"] == 100
        by_context = made.as_dict()["dense_lens"]["flops_by_context"]
        assert by_context["100"]["attention"] == 100 * by_context["1"]["attention"]

    def test_a_context_beyond_the_model_is_refused(self) -> None:
        with pytest.raises(UsageError, match="1 to 40960"):
            of("qwen3-8b", context=40961)
        with pytest.raises(UsageError, match="int3"):
            of("qwen3-8b", kv_type="int3")

    def test_bytes_of_weights(self) -> None:
        made = of("qwen3-8b")
        sizes = made.as_dict()["weight_bytes"]
        total = 8_190_735_360
        assert (sizes["bf16"], sizes["fp8"], sizes["own"]) == (2 * total, total, 2 * total)
        vectors = 36 * (2 * 4096 + 2 * 128) + 4096  # norms stay at 16 bits
        assert sizes["8-bit"] == (total - vectors) * 34 // 32 + 2 * vectors
        assert sizes["4-bit"] == (total - vectors) * 18 // 32 + 2 * vectors

    def test_a_checkpoints_own_types(self) -> None:
        made = of("gpt-oss-120b")
        experts = 36 * 128 * 3 * 2880 * 2880
        assert made.as_dict()["weight_bytes"]["own"] == experts * 17 // 32 + 2 * (116_829_156_672 - experts)

    def test_block_scales_of_fp8(self) -> None:
        """41,540,496 bytes / 4 scales of the published files, less those of the layer that is not counted."""
        made = of("deepseek-v3")
        own = made.as_dict()["weight_bytes"]["own"]
        assert own is not None and "128 x 128" in made.as_dict()["weight_types"]["own"]
        assert made.parameters.total < own < made.parameters.total + 3 * 129280 * 7168

    def test_cache(self) -> None:
        made = of("deepseek-v3")
        assert made.as_dict()["kv_bytes_per_token"] == 2 * 61 * (512 + 64)
        windowed = of("gemma-3-1b-it")
        cache = windowed.as_dict()["kv_cache"]["bytes_by_context"]
        assert int(cache["32768"]) < 32768 * int(cache["1"])
        assert int(cache["32768"]) == kv_bytes(windowed.spec, 32768)

    def test_properties(self) -> None:
        dense, routed = of("qwen3-8b"), of("qwen3-30b-a3b")
        assert [p.holds for p in dense.dense.properties] == [True, False, True]
        assert [p.holds for p in routed.dense.properties] == [False, False, False]
        assert "fixed context only" in dense.dense.properties[1].answer
        assert "8 of 128" in routed.dense.properties[2].why


class TestMoeLens:
    def test_a_dense_model_has_none(self) -> None:
        made = of("qwen3-8b")
        assert made.moe is None and made.as_dict()["moe_lens"] is None
        assert "no layer is routed" in made.as_text(100)

    def test_experts_by_hand(self) -> None:
        lens = of("qwen3-30b-a3b").moe
        assert lens is not None
        [group] = lens.groups
        assert (group.experts, group.chosen, group.shared_width, len(group.layers)) == (128, 8, 0, 48)
        assert group.expert_parameters == 3 * 2048 * 768

    def test_biases_belong_to_an_expert(self) -> None:
        lens = of("gpt-oss-120b").moe
        assert lens is not None
        assert lens.groups[0].expert_parameters == 3 * 2880 * 2880 + 3 * 2880

    def test_neighbours(self) -> None:
        """Dense at equal active size costs what this one costs, less the routers; at equal total size far more."""
        made = of("qwen3-30b-a3b")
        assert made.moe is not None
        active, total = made.moe.neighbours
        routers = 48 * 128 * 2048
        assert active.flops == made.moe.flops - 2 * routers
        assert active.parameters == made.parameters.active_with_embeddings - routers
        assert total.parameters == made.parameters.total - routers
        assert total.flops - active.flops == 2 * 3 * 2048 * 768 * 120 * 48

    def test_a_twin_has_no_router(self) -> None:
        twin = dense_twin(of("gemma-4-26b-a4b-it").spec, every=True)
        assert not any(twin.routed_layers())
        assert all(isinstance(layer.feed_forward, Dense) for layer in twin.layers)

    def test_batches(self) -> None:
        made = of("qwen3-30b-a3b")
        assert made.moe is not None
        one, eight, many = made.moe.batches
        assert one.distinct == (8.0,) and one.weight_bytes == 2 * made.parameters.active
        assert eight.distinct[0] == pytest.approx(128 * (1 - (1 - 8 / 128) ** 8))
        assert one.weight_bytes < eight.weight_bytes < many.weight_bytes < made.moe.weight_bytes
        assert one.weight_bytes_per_token > eight.weight_bytes_per_token > many.weight_bytes_per_token

    def test_a_batch_is_what_that_many_sequences_read(self) -> None:
        made = of("qwen3-30b-a3b")
        assert made.moe is not None
        apart = step_cost(made.spec, [Span(past=0, new=1)] * 8).weight_bytes(lambda p: Fraction(2))
        assert made.moe.batches[1].weight_bytes == apart

    @pytest.mark.parametrize(
        ("router", "words"),
        [
            (Router(8, 2, Scoring.SOFTMAX), ["softmax over all experts", "2 highest of 8 fire"]),
            (Router(8, 2, Scoring.TOP_SOFTMAX, bias=True), ["with a bias", "over those alone"]),
            (Router(8, 1, Scoring.SIGMOID, correction_bias=True, scale=2.5), ["for the choice only", "times 2.5"]),
            (Router(8, 2, Scoring.SOFTMAX, renormalise=True), ["divided by their sum"]),
            (Router(8, 2, Scoring.SIGMOID, groups=ExpertGroups(4, 2, 2)), ["best 2 of 4 groups", "sum of its 2 best"]),
            (Router(8, 2, Scoring.SIGMOID, groups=ExpertGroups(4, 2, 1)), ["its best expert's score"]),
            (Router(8, 2, Scoring.SPARSEMIXER, jitter=0.01), ["one place after another", "0.01"]),
            (Router(8, 2, Scoring.SOFTMAX, expert_scale=True), ["learned factor of each expert"]),
        ],
    )
    def test_the_rule_in_words(self, router: Router, words: list[str]) -> None:
        rule = rule_in_words(Routed(router, 16, Glu(Curve.SILU)))
        assert all(word in rule for word in words), rule

    def test_a_weight_on_the_input_is_said(self) -> None:
        rule = rule_in_words(Routed(Router(8, 1, Scoring.SIGMOID), 16, Glu(Curve.SILU), weight_on_input=True))
        assert "input" in rule

    def test_there_are_more_paths_than_anyone_can_count(self) -> None:
        """The property "same path" fails for a reason that has a size: the choices of one layer alone."""
        lens = of("qwen3-30b-a3b").moe
        assert lens is not None
        assert comb(lens.groups[0].experts, lens.groups[0].chosen) > 10**12


class TestReasoningLens:
    def test_the_template_is_read(self, tmp_path: Path) -> None:
        path = config_file(tmp_path, "qwen3-8b")
        (tmp_path / "chat_template.jinja").write_text(
            "{% for m in messages %}{{ m.content }}{% endfor %}"
            "{% if enable_thinking is defined and not enable_thinking %}<think>\n\n</think>\n\n{% endif %}"
        )
        for where in (path, tmp_path):
            made = of(str(where))
            assert made.tag == "dense · switchable"
            assert "enable_thinking=False" in made.as_text(100) and "'<think>'" in made.as_text(100)
            assert made.as_dict()["inference"]["opened_by_prompt"] == {"off": False, "on": False}

    def test_without_a_template_nothing_is_claimed(self, tmp_path: Path) -> None:
        assert of(str(config_file(tmp_path, "qwen3-8b"))).tag == "dense · unknown"

    @pytest.mark.parametrize("name", ["tiny-dense", "tiny-routed"])  # few layers: each of 1000 tokens is counted
    def test_what_a_thought_costs(self, name: str) -> None:
        made = of(name)
        assert made.reasoning.thought_flops == sum(step_cost(made.spec, [Span(n, 1)]).flops() for n in range(1, 1001))
        assert made.reasoning.thought_kv_bytes == 1000 * made.as_dict()["kv_bytes_per_token"]

    def test_levels_that_cannot_be_off(self) -> None:
        made = of("gpt-oss-120b")
        assert made.tag == "routed · levels"
        assert "cannot be off" in made.as_text(200)


class TestSources:
    def test_the_catalog_says_that_it_answered(self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
        monkeypatch.setenv("HF_HOME", str(tmp_path))
        made = card("qwen3-30b-a3b")  # no network is asked for either
        assert "data file" in made.as_text(200) and made.as_dict()["source"].startswith("the catalog's data file")

    def test_a_hub_id_that_cannot_be_fetched(self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
        monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path))
        made = of("Qwen/Qwen3-8B")
        assert made.parameters.total == 8_190_735_360 and "offline" in made.origin
        with pytest.raises(ModelNotFound):
            of("somebody/else")

    def test_a_hosted_model(self) -> None:
        made = card("gpt-4o")
        assert isinstance(made, StatedCard)
        assert made.tag == "unknown · standard" and "OpenAI" in made.as_text(80)
        assert made.as_dict()["backbone"] == "unknown" and made.as_dict()["parameters"] is None

    def test_mistrals_own_file(self, tmp_path: Path) -> None:
        made = of(str(config_file(tmp_path, "mistral-large-3", "params.json")))
        assert made.parameters == of("mistral-large-3").parameters

    def test_published_sizes_stand_beside_ours(self) -> None:
        text = of("qwen3-30b-a3b").as_text(200)
        assert "total 30,532,122,624: agrees" in text
        assert "active 3.3B, ours 3.35B (with whole tables): it counts whole tables" in text


class TestLayout:
    @pytest.mark.parametrize("width", [40, 59, 72, 100, 160])
    @pytest.mark.parametrize("name", READABLE)
    def test_no_line_is_wider_than_the_terminal(self, name: str, width: int) -> None:
        assert max(map(len, kept(name).as_text(width).splitlines())) <= width

    def test_the_keys_that_stay(self) -> None:
        made = of("qwen3-30b-a3b").as_dict()
        assert made["parameters"]["total"] == 30_532_122_624
        assert made["parameters"]["active"] == 3_041_869_824
        assert made["flops_per_token"]["context"] == 1
        parts = {k: v for k, v in made["flops_per_token"].items() if k not in ("context", "total")}
        assert made["flops_per_token"]["total"] == sum(parts.values())
        assert made["flops_per_token"]["feed_forward"] == 2 * 3 * 2048 * 768 * 8 * 48
        assert made["kv_bytes_per_token"] == 2 * 2 * 48 * 4 * 128
        assert made["tag"] == "routed · switchable"
        json.dumps(made)

    def test_ranges(self) -> None:
        assert ranges([0, 1, 2, 5]) == "0-2, 5"
        assert ranges([1, 3, 5, 7]) == "every 2. from 1 to 7"
        assert ranges([4]) == "4"

    def test_a_table_that_does_not_fit_becomes_a_list(self) -> None:
        lines = table(["", "a", "b"], [["row", "1234567890", "1234567890"]], 20)
        assert lines == ["  row", "    a 1234567890", "    b 1234567890"]

    def test_columns_that_do_not_fit_go_below(self) -> None:
        lines = table_in_parts(["m", "a", "b"], [["x", "12345678", "87654321"]], 12)
        assert lines == ["m         a", "x  12345678", "", "m         b", "x  87654321"]


class TestCost:
    def test_the_card_of_a_deep_model_is_cheap(self) -> None:
        """These were the costliest in the catalog: 1.3 million calls with what they import, a quarter of a second."""
        for name in ("glm-4.7", "glm-5.1"):
            assert calls(lambda name=name: _shown(name)) < 1_500_000, name

    @pytest.mark.parametrize("name", ["qwen3-30b-a3b", "deepseek-v3"])  # the second is stored in 8-bit floats
    def test_a_card_from_the_catalog_imports_nothing_heavy(self, name: str) -> None:
        script = (
            "import sys; from trilens.cli import main; code = main(['card', sys.argv[1]]);"
            "heavy = {'numpy', 'torch', 'transformers', 'tokenizers', 'gguf', 'huggingface_hub', 'jinja2'};"
            "print(sorted(heavy & set(sys.modules)), file=sys.stderr); sys.exit(code)"
        )
        done = subprocess.run([sys.executable, "-c", script, name], capture_output=True, text=True)
        assert (done.returncode, done.stderr) == (0, "[]\n")


def _shown(name: str) -> None:
    made = of(name)
    made.as_text(100)
    made.as_dict()
