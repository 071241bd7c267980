"""Models whose size and speed are often got wrong: what it really comes to, and that the usual short cut is not it."""

from __future__ import annotations

from fractions import Fraction

import pytest

from trilens.executors.accountant import count_parameters, kv_bytes, token_cost
from trilens.lenses.cards.source import card_source
from trilens.lenses.memory.job import Engine, Job
from trilens.lenses.memory.memory import engine_memory, llama_memory, vllm_memory, vllm_padding
from trilens.lenses.plans.plan import Plan, plan
from trilens.spec.catalog import lookup
from trilens.spec.huggingface import read_config
from trilens.spec.model import Attention, Full, LatentAttention, ModelSpec

ENGINES: tuple[Engine, ...] = ("llama.cpp", "vllm", "sglang", "mlx-lm", "tensorrt-llm", "transformers")


def spec_of(name: str) -> ModelSpec:
    reading = card_source(name, offline=True).reading
    assert reading is not None
    return reading.spec


def kv_of(engine: Engine, spec: ModelSpec, context: int, **options: int) -> int:
    return engine_memory(engine, spec, Job(context, **options), 0).kv


class TestDeepSeekV3:
    """Latent attention: 576 numbers a layer and token, not 2 x 128 heads x 128."""

    spec = spec_of("deepseek-v3")

    @pytest.mark.parametrize("engine", ENGINES)
    def test_a_token_keeps_the_latent(self, engine: Engine) -> None:
        assert kv_of(engine, self.spec, 4096) == 4096 * 61 * (512 + 64) * 2
        assert pytest.approx(70e3, rel=0.01) == 61 * 576 * 2

    def test_a_file_that_keeps_whole_heads_is_far_larger(self) -> None:
        whole = llama_memory(self.spec, Job(4096), 0, expanded=True).kv
        assert whole == 4096 * 61 * 128 * (128 + 64 + 128) * 2
        assert 50 < whole / kv_of("vllm", self.spec, 4096) < 80

    def test_every_device_keeps_the_latent(self) -> None:
        assert kv_of("vllm", self.spec, 4096, tensor=8) == 8 * kv_of("vllm", self.spec, 4096)

    def test_active(self) -> None:
        counted = count_parameters(self.spec)
        assert counted.active_with_embeddings == pytest.approx(37e9, rel=0.02)
        assert counted.total == pytest.approx(671e9, rel=0.001)
        assert 1.4 * counted.active < 0.05 * 671e9 + 0.95 * 671e9 * 8 / 256  # the short cut

    def test_it_needs_two_nodes_of_h100(self) -> None:
        one, two = (plan("deepseek-v3", machine=f"h100x{n}", offline=True, quantise="own") for n in (8, 16))
        assert (one.fits, two.fits) == (False, True)
        assert (two.job.tensor, two.job.pipeline, two.expert) == (8, 2, 8)
        assert "--pipeline-parallel-size 2" in two.commands["vllm"]


class TestGemma4:
    """Five layers of six see a window of 1024."""

    spec = spec_of("gemma-4-26b-a4b-it")

    def full_length(self, context: int) -> int:
        return 2 * context * sum(cache.width for cache in self.spec.states)

    @pytest.mark.parametrize(("context", "times"), [(4096, (2.0, 3.0)), (131072, (9.0, 20.0))])
    def test_windows_hold_no_more(self, context: int, times: tuple[float, float]) -> None:
        """In llama.cpp a window and a piece of the prompt, not the context."""
        low, high = times
        assert low < self.full_length(context) / kv_of("llama.cpp", self.spec, context) < high
        full = [c for c in self.spec.states if isinstance(c.keep, Full)]
        assert kv_of("llama.cpp", self.spec, context) > 2 * context * sum(c.width for c in full)

    def test_by_hand(self) -> None:
        windowed = [c for c in self.spec.states if not isinstance(c.keep, Full)]
        full = [c for c in self.spec.states if isinstance(c.keep, Full)]
        assert len(windowed) == 25 and len(full) == 5
        assert kv_bytes(self.spec, 131072) == 2 * (
            131072 * sum(c.width for c in full) + 1024 * sum(c.width for c in windowed)
        )

    def test_vllm_may_reserve_more_and_says_so(self) -> None:
        memory = engine_memory("vllm", self.spec, Job(131072), 0)
        assert any("one size" in said for said in memory.unknown)
        assert memory.scratch is None

    def test_every_expert_is_in_memory(self) -> None:
        counted = count_parameters(self.spec)
        made = plan("gemma-4-26b-a4b-it", machine="h100", quantise="bf16", offline=True)
        assert made.memory.weights == 2 * counted.total > 5 * 2 * counted.active


class TestGptOss:
    spec = spec_of("gpt-oss-120b")

    def test_active(self) -> None:
        assert count_parameters(self.spec).active == pytest.approx(5.1e9, rel=0.01)
        assert count_parameters(self.spec).total == 116_829_156_672

    def test_its_own_four_bits_fit_one_device_of_80_gb(self) -> None:
        made = plan("gpt-oss-120b", machine="h100", offline=True)
        assert made.fits and made.choice.type == "own"
        assert made.memory.weights == pytest.approx(65e9 + vllm_padding(self.spec), rel=0.02)
        assert [c.fits for c in made.choices if c.type == "bf16"] == [False]

    def test_vllm_pads_the_experts(self) -> None:
        """36 layers of 128 experts with three matrices of 2880 x 2880, 17 bytes for 32 weights; 720 is 2880 / 4."""
        matrices = 36 * 128 * 3
        assert vllm_padding(self.spec) == matrices * (3072 * 2944 - 2880 * 2880) * 17 // 32
        assert vllm_padding(self.spec, split=4) == matrices * (3072 * 4 * 768 - 2880 * 2880) * 17 // 32
        vllm, sglang = (plan("gpt-oss-120b", machine="h100", engine=e, offline=True) for e in ("vllm", "sglang"))
        assert vllm.memory.weights - sglang.memory.weights == vllm_padding(self.spec)
        wide = plan("gpt-oss-120b", machine="h100x8", engine="vllm", quantise="bf16", offline=True)
        assert wide.memory.weights == 2 * count_parameters(self.spec).total

    @pytest.mark.parametrize("step", [2048, 8192])
    def test_vllm_holds_a_window_and_a_step(self, step: int) -> None:
        """Of 16384 tokens: 1024 blocks in the full layers, and 127 + `step` tokens and one block more in the others."""
        a_block = 16 * 8 * 64 * 2 * 2
        held = vllm_memory(self.spec, Job(16384), 0, step=step).kv
        assert held == 18 * a_block * (1024 + -(-(127 + step) // 16) + 1)

    def test_half_of_the_layers_are_windowed(self) -> None:
        windowed = [c for c in self.spec.states if not isinstance(c.keep, Full)]
        assert len(windowed) == 18
        assert kv_of("llama.cpp", self.spec, 131072) == 2 * 1024 * 18 * (131072 + 768)

    def test_the_parser_of_its_thoughts(self) -> None:
        assert "--reasoning-parser openai_gptoss" in plan("gpt-oss-120b", machine="h100", offline=True).commands["vllm"]


class TestKimiK2:
    spec = spec_of("kimi-k2-instruct")

    def test_active(self) -> None:
        counted = count_parameters(self.spec)
        assert counted.active_with_embeddings == pytest.approx(32e9, rel=0.03)
        assert counted.total == pytest.approx(1.03e12, rel=0.01)
        assert 0.05 * counted.total + 0.95 * counted.total * 8 / 384 > 2 * counted.active  # the short cut

    def test_memory_is_every_expert(self) -> None:
        made = plan("kimi-k2-instruct", machine="h200x8", offline=True, quantise="own")
        assert made.memory.weights > 1e12
        assert not made.fits

    def test_heads_are_shared_out_as_far_as_they_go(self) -> None:
        assert plan("kimi-k2-instruct", machine="h200x16", offline=True).job.tensor == 8


class TestQwen3Routed:
    """Speed follows the experts that fire: of a batch, the different ones."""

    spec = spec_of("qwen3-30b-a3b")

    def read(self, batch: int) -> int:
        return token_cost(self.spec, 1, batch).weight_bytes(lambda p: Fraction(2))

    def test_one_token_reads_a_tenth(self) -> None:
        counted = count_parameters(self.spec)
        assert self.read(1) == pytest.approx(2 * counted.active, rel=0.01)
        assert self.read(1) < 2 * counted.total / 8

    def test_a_batch_reads_the_distinct_experts(self) -> None:
        assert self.read(1) < self.read(8) < 8 * self.read(1)
        assert self.read(64) > 0.9 * 2 * count_parameters(self.spec).total * 0.95

    def test_it_is_faster_than_a_dense_model_a_quarter_its_size(self) -> None:
        routed, dense = (self.speed(name) for name in ("qwen3-30b-a3b", "qwen3-8b"))
        assert 1.05 < routed / dense < 3.5
        made = plan("qwen3-30b-a3b", machine="h100", offline=True, quantise="bf16")
        assert (
            made.memory.weights > 3.5 * plan("qwen3-8b", machine="h100", offline=True, quantise="bf16").memory.weights
        )

    def speed(self, name: str) -> float:
        forecast = plan(name, machine="h100", offline=True, quantise="bf16").forecast
        assert forecast is not None
        return forecast.tokens.p50


class TestMistralNemo:
    """A head size that is stated: 128, where width over heads would be 160."""

    spec = read_config(
        {
            "model_type": "mistral",
            "hidden_size": 5120,
            "intermediate_size": 14336,
            "num_hidden_layers": 40,
            "num_attention_heads": 32,
            "num_key_value_heads": 8,
            "head_dim": 128,
            "vocab_size": 131072,
            "max_position_embeddings": 131072,
            "rms_norm_eps": 1e-05,
            "rope_theta": 1000000.0,
            "hidden_act": "silu",
            "tie_word_embeddings": False,
        },
        "Mistral-Nemo",
    ).spec

    @pytest.mark.parametrize("engine", ENGINES)
    def test_the_stated_size_counts(self, engine: Engine) -> None:
        assert kv_of(engine, self.spec, 4096) == 4096 * 40 * 8 * 128 * 2 * 2
        assert kv_of(engine, self.spec, 4096) < 4096 * 40 * 8 * (5120 // 32) * 2 * 2

    def test_its_size(self) -> None:
        assert count_parameters(self.spec).total == 12_247_782_400


def test_both_types_of_a_cache_count() -> None:
    spec = spec_of("qwen3-8b")
    half = engine_memory("llama.cpp", spec, Job(4096), 0).kv
    mixed = engine_memory("llama.cpp", spec, Job(4096, 1, "q8_0", "q4_0"), 0).kv
    assert mixed == half * Fraction(34 + 18, 32) / 4


def test_scratch_grows_with_the_context_and_the_pieces() -> None:
    spec = spec_of("mistral-7b-v0.1")
    short, long, wide = (
        llama_memory(spec, Job(context), 0, ubatch=ubatch).scratch or 0
        for context, ubatch in ((4096, 512), (32768, 512), (32768, 2048))
    )
    assert 50e6 < short < long < wide / 3


def test_the_context_asked_for_counts_not_the_models_own() -> None:
    short: Plan = plan("qwen3-30b-a3b-instruct-2507", machine="h100", context=4096, offline=True)
    assert short.spec.context == 262144
    assert short.memory.kv < short.memory.weights / 50


def test_the_catalog_has_these() -> None:
    assert all(
        lookup(n) for n in ("deepseek-v3", "gemma-4-26b-a4b-it", "gpt-oss-120b", "kimi-k2-instruct", "qwen3-30b-a3b")
    )
    assert any(isinstance(layer.mixer, LatentAttention) for layer in spec_of("kimi-k2-instruct").layers)
    assert all(isinstance(layer.mixer, Attention) for layer in spec_of("gpt-oss-120b").layers)
