"""Plans: what fits, which quantisation, the split over devices, the JSON's keys, and commands that parsers accept."""

from __future__ import annotations

import json
import os
import re
import shlex
import subprocess
from pathlib import Path
from typing import Any

import pytest

from tests.command import command as trilens
from tests.generate.test_adapters import tiny_lora
from trilens.cli import commands as trilens_commands
from trilens.errors import ModelNotFound, RequestRefused, UsageError
from trilens.lenses.machines.target import accelerators, target
from trilens.lenses.plans.commands import ENGINES
from trilens.lenses.plans.plan import Plan, plan

VLLM = os.environ.get("TRILENS_VLLM_PYTHON")
LLAMA = os.environ.get("TRILENS_LLAMA_CPP_SOURCE")
CASES: list[dict[str, Any]] = [
    {"name": "qwen3-30b-a3b", "machine": "h100x8", "context": 32768, "batch": 16, "thinking": "off"},
    {"name": "deepseek-v3", "machine": "h100x16"},
    {"name": "deepseek-r1", "machine": "h200x8", "thinking": "2000"},
    {"name": "gpt-oss-120b", "machine": "h100", "thinking": "high"},
    {"name": "gemma-4-26b-a4b-it", "machine": "l40sx4", "kv_type": "q8_0,q4_0"},
    {"name": "llama-3.3-70b-instruct", "machine": "a100x4", "quantise": "fp8", "kv_type": "fp8"},
    {"name": "glm-4.5-air", "machine": "mi300x", "thinking": "on"},
    {"name": "qwen3-8b", "machine": "rtx4090", "quantise": "bf16"},
]


def planned(**case: Any) -> Plan:
    return plan(case.pop("name"), offline=True, **case)


class TestFits:
    def test_the_most_bits_that_fit_are_taken(self) -> None:
        made = planned(name="llama-3.3-70b-instruct", machine="h100")
        assert [c.fits for c in made.choices] == [False, False, True]
        assert made.best is not None and made.choice.type == made.best.type == "fp8" and made.fits

    def test_nothing_fits(self) -> None:
        made = planned(name="deepseek-v3", machine="t4")
        assert not made.fits and made.best is None
        assert "does not fit" in made.as_text(100) and "no type fits" in made.as_text(100)

    def test_one_byte_too_many(self) -> None:
        """The context decides: what is left beside the weights is for keys and values."""
        weights = planned(name="qwen3-8b", machine="rtx4090", quantise="bf16").memory.weights
        room = int(24e9 * 0.9) - weights
        per_token = 2 * 36 * 8 * 128 * 2
        most = room // per_token // 16 * 16
        at_most, beyond = (
            planned(name="qwen3-8b", machine="rtx4090", quantise="bf16", context=n) for n in (most, most + 16)
        )
        assert (at_most.fits, beyond.fits) == (True, False)

    def test_scratch_counts_where_it_is_known(self) -> None:
        made = planned(name="smollm2", engine="llama.cpp", machine="t4")
        assert made.memory.scratch is not None
        assert made.memory.total == made.memory.weights + made.memory.kv + made.memory.scratch


class TestSplit:
    @pytest.mark.parametrize(
        ("name", "machine", "tensor", "pipeline"),
        [
            ("qwen3-30b-a3b", "h100x8", 8, 1),
            ("deepseek-v3", "h100x16", 8, 2),
            ("smollm2", "h100x8", 1, 8),  # nine heads
            ("gpt-oss-120b", "h100", 1, 1),
            ("smollm2", "h100x3", 3, 1),
        ],
    )
    def test_heads_are_shared_out_inside_a_node(self, name: str, machine: str, tensor: int, pipeline: int) -> None:
        job = planned(name=name, machine=machine).job
        assert (job.tensor, job.pipeline) == (tensor, pipeline)

    def test_heads_that_cannot_be_split_are_copied(self) -> None:
        four, eight, sixteen = (
            planned(name="qwen3-30b-a3b", machine=f"h100x{n}", quantise="bf16").memory.kv for n in (4, 8, 1)
        )
        assert four == sixteen and eight == 2 * four  # four key-value heads


class TestThinking:
    def test_a_model_that_never_thinks(self) -> None:
        assert planned(name="smollm2", machine="t4", thinking="off").length is None
        with pytest.raises(RequestRefused, match="never thinks"):
            planned(name="smollm2", machine="t4", thinking="on")

    def test_more_thinking_takes_longer_and_says_on_what_that_rests(self) -> None:
        low, high = (planned(name="gpt-oss-120b", machine="h100", thinking=word).length for word in ("low", "high"))
        assert low is not None and high is not None
        assert 1 < low.multiplier.p50 < high.multiplier.p50
        assert "prior" in low.source

    def test_a_budget_bounds_it(self) -> None:
        length = planned(name="qwen3-8b", machine="h100", thinking="500").length
        assert length is not None and length.tokens.p90 == 500

    def test_a_level_it_does_not_have(self) -> None:
        with pytest.raises(RequestRefused, match="no thinking 'high'"):
            planned(name="qwen3-8b", machine="h100", thinking="high")


class TestSpeed:
    def test_another_machine(self) -> None:
        """8.2 billion parameters in 16 bits at 3.35 TB/s: no engine reads faster than that, and none takes thrice as
        long."""
        forecast = planned(name="qwen3-8b", machine="h100", quantise="bf16", context=1).forecast
        assert forecast is not None
        read = 2 * (8_190_735_360 - 151936 * 4096)
        assert read / 3.35e12 < forecast.token.p50 < 3 * read / 3.35e12
        assert "published measurements" in forecast.source and "at the stated bandwidth" in forecast.source
        assert forecast.token.p10 < forecast.token.p50 < forecast.token.p90
        assert forecast.tokens.p10 == pytest.approx(1 / forecast.token.p90)

    def test_arithmetic_that_is_not_stated_is_unknown(self) -> None:
        made = planned(name="qwen3-8b", machine="m4-pro")
        assert made.engine == "mlx-lm" and made.forecast is not None
        assert made.forecast.first_token is None and made.as_dict()["seconds_to_first_token"] is None

    def test_speculation_is_an_input(self) -> None:
        one, more = (planned(name="qwen3-8b", machine="h100", accepted=n).forecast for n in (1.0, 2.0))
        assert one is not None and more is not None
        assert more.token.p50 == pytest.approx(one.token.p50 / 2)
        assert "a step is said to yield 2 tokens" in more.source

    def test_other_engines_here_are_unknown(self) -> None:
        made = planned(name="smollm2", engine="vllm")
        assert made.forecast is None and made.as_dict()["tokens_per_second"] is None
        assert "only trilens's own speed" in made.as_text(100)


class TestMachines:
    def test_every_one_has_a_source(self) -> None:
        for device in accelerators().values():
            assert len(device.source) > 10 and device.memory > 1e9 and device.bandwidth > 1e10
            assert all(rate > 1e12 for rate in device.arithmetic.values())

    def test_names(self) -> None:
        assert (target("H100x8").count, target("h100").count) == (8, 1)
        with pytest.raises(UsageError, match="did you mean h100"):
            target("h10")
        with pytest.raises(UsageError, match="0 devices"):
            target("h100x0")


class TestRefused:
    @pytest.mark.parametrize(
        ("case", "said"),
        [
            ({"context": 0}, "outside the model's"),
            ({"context": 10**9}, "outside the model's"),
            ({"batch": 0}, "batch 0"),
            ({"engine": "ollama"}, "engine 'ollama'"),
            ({"kv_type": "q3"}, "KV type 'q3'"),
            ({"quantise": "2bit"}, "no|has no"),
        ],
    )
    def test_what_cannot_be(self, case: dict[str, Any], said: str) -> None:
        with pytest.raises(UsageError, match=said):
            planned(name="qwen3-8b", machine="h100", **case)

    def test_a_hosted_model(self) -> None:
        with pytest.raises(RequestRefused, match="its sizes are not published"):
            planned(name="gpt-4o", machine="h100")


class TestCommandLine:
    def test_json(self) -> None:
        done = trilens("plan", "qwen3-30b-a3b", "--machine", "h100x8", "--json", "--offline")
        made = json.loads(done.stdout)
        assert done.returncode == 0 and made["fits"] is True
        memory = made["memory"]
        assert memory["total"] == memory["weights"] + memory["kv"] and memory["scratch"] is None
        assert list(made["tokens_per_second"]) == ["p10", "p50", "p90"]
        assert set(made["commands"]) == {*ENGINES} - {"mlx-lm"} == set(made["commands_checked"])

    def test_only_engines_that_run_on_the_machine_have_commands(self) -> None:
        assert list(planned(name="qwen3-8b", machine="m4-max").commands) == ["trilens", "llama.cpp", "mlx-lm"]
        assert "vllm" in planned(name="qwen3-8b", machine="m4-max", engine="vllm").commands
        assert "mlx-lm" not in planned(name="qwen3-8b", machine="h100").commands

    def test_text_fits_the_terminal(self) -> None:
        for width in (40, 60, 100):
            lines = planned(name="gemma-4-26b-a4b-it", machine="h100x8").as_text(width).splitlines()
            commands = set(planned(name="gemma-4-26b-a4b-it", machine="h100x8").commands.values())
            assert all(len(line) <= width or line in commands or line.startswith("# ") for line in lines)

    def test_a_wrong_machine_is_one_line(self) -> None:
        done = trilens("plan", "qwen3-8b", "--machine", "abacus")
        assert done.returncode == 2 and len(done.stderr.splitlines()) == 1


class TestCommands:
    @pytest.mark.parametrize("case", CASES, ids=lambda case: f"{case['name']} {case['machine']}")
    def test_trilens_own_parser(self, case: dict[str, Any]) -> None:
        parts = shlex.split(planned(**case).commands["trilens"])
        assert parts[:2] == ["trilens", "run"]
        command = trilens_commands.commands["run"]
        context = command.make_context("run", parts[2:])
        assert context.params["model"] == case["name"]

    def test_flags_follow_the_plan(self) -> None:
        made = planned(**CASES[0]).commands
        assert "--tensor-parallel-size 8" in made["vllm"] and "--enable-expert-parallel" in made["vllm"]
        assert "--tp-size 8" in made["sglang"] and "--ep-size 8" in made["sglang"]
        assert "--ep_size 8" in made["tensorrt-llm"] and "--max_seq_len 32768" in made["tensorrt-llm"]
        assert f"-c {32768 * 16}" in made["llama.cpp"] and "--reasoning off" in made["llama.cpp"]
        assert '{"enable_thinking": false}' in made["vllm"] and "--reasoning-parser qwen3" in made["vllm"]

    def test_a_dense_model_has_no_experts_to_spread(self) -> None:
        assert "expert" not in planned(name="qwen3-8b", machine="h100x8").commands["vllm"]

    @pytest.mark.peer
    @pytest.mark.skipif(not VLLM, reason="TRILENS_VLLM_PYTHON names no Python with vLLM")
    def test_vllm_own_parser(self) -> None:
        assert VLLM
        plans = [planned(**case) for case in CASES]
        parts = [shlex.split(made.commands["vllm"]) for made in plans]
        assert all(p[:2] == ["vllm", "serve"] for p in parts)
        script = Path(__file__).with_name("vllm_arguments.py")
        arguments = json.dumps([p[2:] for p in parts])
        ran = subprocess.run([VLLM, script, arguments], capture_output=True, text=True, check=False)
        assert ran.returncode == 0, ran.stderr[-2000:]
        for made, read in zip(plans, json.loads(ran.stdout.splitlines()[-1]), strict=True):
            assert read["max_model_len"] == made.job.context
            assert (read["tensor_parallel_size"], read["pipeline_parallel_size"]) == (
                made.job.tensor,
                made.job.pipeline,
            )
            assert read["enable_expert_parallel"] == (made.expert > 1)

    @pytest.mark.peer
    @pytest.mark.skipif(not LLAMA, reason="TRILENS_LLAMA_CPP_SOURCE names no checkout of llama.cpp")
    @pytest.mark.parametrize("case", CASES, ids=lambda case: f"{case['name']} {case['machine']}")
    def test_llama_server_has_the_flags(self, case: dict[str, Any]) -> None:
        """Looked up in the source of its parser: every option, and the types of the cache."""
        assert LLAMA
        source = (Path(LLAMA) / "common" / "arg.cpp").read_text()
        options = {
            name for names in re.findall(r"\{((?:\s*\"-[\w-]+\",?)+)\s*\},", source) for name in names.split('"')
        }
        types = set(re.findall(r"GGML_TYPE_(\w+),", source.partition("kv_cache_types = {")[2].partition("}")[0]))
        parts = shlex.split(planned(**case).commands["llama.cpp"])
        assert parts[0] == "llama-server"
        flags = [part for part in parts[1:] if part.startswith("-")]
        assert "--ctx-size" in options and "--no-such-flag" not in options
        assert flags and not [flag for flag in flags if flag not in options]
        for at, part in enumerate(parts):
            if part.startswith("--cache-type"):
                assert parts[at + 1].upper() in types


def test_adapters_count_in_memory(tmp_path: Path) -> None:
    adapter = tiny_lora(0).save(tmp_path / "poet")
    size = (adapter / "adapter_model.safetensors").stat().st_size
    alone = planned(name="tiny-dense", machine="rtx4090")
    both = planned(name="tiny-dense", machine="rtx4090", adapters=[str(adapter)] * 2)
    assert [c.memory.weights - a.memory.weights for c, a in zip(both.choices, alone.choices, strict=True)] == [
        2 * size
    ] * len(alone.choices)
    said = trilens("plan", "tiny-dense", "--machine", "rtx4090", "--json", "--adapter", f"poet={adapter}")
    assert json.loads(said.stdout)["memory"]["weights"] == alone.memory.weights + size
    with pytest.raises(ModelNotFound, match="no such adapter"):
        planned(name="tiny-dense", adapters=["nowhere"])
