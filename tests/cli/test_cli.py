"""The command line as a person meets it: what goes where, which exit code, and never a traceback."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.command import command
from tests.work import ROOT

TRILENS = [sys.executable, "-m", "trilens"]
SHORT = ["--temperature", "0", "--max-tokens", "8"]


def trilens(
    *arguments: str, stdin: str | bytes = "", env: dict[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    """A process of its own only where the environment is another one."""
    if env is None:
        return command(*arguments, stdin=stdin)
    return process(*arguments, env=env)


def process(*arguments: str, env: dict[str, str] | None = None) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, **(env or {})}
    return subprocess.run([*TRILENS, *arguments], input="", capture_output=True, text=True, env=environment)


def assert_complaint(done: subprocess.CompletedProcess[str], code: int, *said: str) -> None:
    """One line on standard error, nothing on standard output, the exit code that means it."""
    assert done.returncode == code, done.stderr
    assert done.stdout == ""
    assert done.stderr.startswith("trilens: ")
    assert done.stderr.count("\n") == 1, done.stderr
    for words in said:
        assert words in done.stderr


@pytest.mark.usefixtures("smollm2")
class TestRun:
    def test_it_says_paris(self) -> None:
        done = process("run", "What is the capital of France?", "--temperature", "0")
        assert done.returncode == 0, done.stderr
        assert "Paris" in done.stdout
        assert "134.5M parameters" in done.stderr
        assert "receipt" not in done.stdout
        assert "tok/s" not in done.stdout

    def test_a_prompt_from_standard_input(self) -> None:
        done = trilens("run", *SHORT, "--quiet", stdin="What is the capital of France?\n")
        assert done.stdout == "The capital of France is Paris.\n"
        assert done.stderr == ""

    def test_json_is_one_object(self) -> None:
        done = trilens("run", "What is the capital of France?", *SHORT, "--json")
        answer = json.loads(done.stdout)
        assert answer["text"] == "The capital of France is Paris."
        assert answer["thinking"] == ""
        receipt = answer["receipt"]
        tokens = receipt["tokens"]
        assert tokens["thinking"] + tokens["answer"] + tokens["control"] == tokens["completion"]
        assert receipt["parameters"]["total"] == 134_515_008
        assert receipt["finish"] == "stop"

    def test_a_file_of_prompts_is_answered(self, tmp_path: Path) -> None:
        lines = [
            {"prompt": "What is the capital of France?"},
            {"messages": [{"role": "user", "content": "What is the capital of Japan?"}]},
            "What is the capital of France?",
        ]
        path = tmp_path / "prompts.jsonl"
        path.write_text("".join(json.dumps(line) + "\n" for line in lines) + "\n")
        done = trilens("run", "--file", str(path), "--temperature", "0", "--max-tokens", "16")
        answers = sorted((json.loads(line) for line in done.stdout.splitlines()), key=lambda a: a["line"])
        texts = [a["text"] for a in answers]
        assert [("Paris" in t, "Tokyo" in t) for t in texts] == [(True, False), (False, True), (True, False)]

    def test_the_torch_executor_says_the_same(self) -> None:
        answers = [
            json.loads(
                trilens("run", "What is the capital of France?", *SHORT, "--executor", executor, "--json").stdout
            )
            for executor in ("torch", "native")
        ]
        assert [a["text"] for a in answers] == ["The capital of France is Paris."] * 2
        assert [a["receipt"]["executor"] for a in answers] == ["torch", "native"]
        assert [a["receipt"]["same_bits"] for a in answers] == [False, True]
        assert answers[0]["receipt"]["weights_bytes"] > 4 * answers[1]["receipt"]["weights_bytes"]

    def test_options_of_loading(self) -> None:
        done = trilens("run", "What is the capital of France?", *SHORT, "--threads", "1", "--kv", "f32", "--quiet")
        assert done.stdout == "The capital of France is Paris.\n"
        refused = trilens("run", "hi", "--executor", "torch", "--kv", "8bit")
        assert_complaint(refused, 2, "'kv' is unknown to the torch executor")

    def test_a_cut_answer_is_said(self) -> None:
        done = trilens("run", "Count from one to a hundred.", "--temperature", "0", "--max-tokens", "5", "--quiet")
        assert done.returncode == 0
        assert done.stderr == "(cut off: max_tokens was reached)\n"

    def test_a_full_context_is_an_error_before_any_work(self) -> None:
        done = trilens("run", "word " * 9000, *SHORT)
        assert_complaint(done, 6, "do not fit the model's context of 8192")

    def test_an_interrupt_leaves_quietly(self) -> None:
        running = subprocess.Popen(
            [*TRILENS, "run", "Write a very long story.", "--max-tokens", "3000", "--temperature", "0"],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            # a run started in the background ignores interrupts, and hands that on
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
        )
        assert running.stdout is not None
        assert running.stdout.read(1)
        running.send_signal(signal.SIGINT)
        _, err = running.communicate(timeout=20)
        assert running.returncode == 130
        assert b"Traceback" not in err
        assert err.decode().strip().endswith("trilens: interrupted")

    def test_a_reader_that_leaves_is_no_accident(self) -> None:
        done = subprocess.run(
            f"{sys.executable} -m trilens run 'Count to fifty.' --temperature 0 --max-tokens 60 --quiet"
            " | head -c 3; exit ${PIPESTATUS[0]}",
            shell=True,
            executable="/bin/bash",
            capture_output=True,
        )
        assert done.returncode == 141
        assert done.stderr == b""

    def test_a_chat_remembers(self) -> None:
        said = "My name is Ferdinand.\nWhat is my name?\n\n"
        done = trilens("chat", "--temperature", "0", "--max-tokens", "40", stdin=said)
        assert done.returncode == 0, done.stderr
        assert "Ferdinand" in done.stdout.splitlines()[-1]
        first, second = [line for line in done.stderr.splitlines() if " prompt" in line]
        assert "cached" not in first and " cached) · " in second


class TestCard:
    def test_the_real_file(self, smollm2: Path) -> None:
        done = trilens("card", str(smollm2), "--json")
        card = json.loads(done.stdout)
        assert card["parameters"]["total"] == card["parameters"]["active"] == 134_515_008
        assert card["flops_per_token"]["context"] == 1
        assert card["flops_per_token"]["feed_forward"] == 2 * 3 * 576 * 1536 * 30
        assert card["kv_bytes_per_token"] == 2 * 2 * 30 * 3 * 64
        assert card["tag"] == "dense · standard"

    def test_context_and_type_are_stated(self, smollm2: Path) -> None:
        card = json.loads(trilens("card", str(smollm2), "--context", "100", "--kv-type", "f32", "--json").stdout)
        assert card["flops_per_token"]["context"] == card["kv_cache"]["context"] == 100
        assert card["flops_per_token"]["attention"] == 100 * 2 * 2 * 9 * 64 * 30
        assert card["kv_bytes_per_token"] == 2 * 4 * 30 * 3 * 64

    def test_a_cold_card_is_quick_and_light(self, smollm2: Path, tmp_path: Path) -> None:
        """Neither torch nor numpy is imported, and little is done."""
        config = tmp_path / "config.json"
        config.write_text(
            json.dumps(
                {
                    "model_type": "qwen3",
                    "hidden_size": 1024,
                    "intermediate_size": 3072,
                    "num_hidden_layers": 28,
                    "num_attention_heads": 16,
                    "num_key_value_heads": 8,
                    "head_dim": 128,
                    "vocab_size": 151936,
                    "max_position_embeddings": 40960,
                    "tie_word_embeddings": True,
                    "hidden_act": "silu",
                    "rope_theta": 1000000,
                    "rms_norm_eps": 1e-06,
                }
            )
        )
        for path, most in ((smollm2, 1_500_000), (config, 500_000)):  # 1 and 0.35 million; the rest is a vocabulary
            script = (
                "import sys; from tests.work import calls\n"
                "def cold():\n"
                "    from trilens.cli import main; assert main(['card', sys.argv[1]]) == 0\n"
                "heavy = {'numpy', 'torch', 'transformers', 'tokenizers', 'gguf', 'huggingface_hub'}\n"
                "print(calls(cold), *sorted(heavy & set(sys.modules)), file=sys.stderr)"
            )
            done = subprocess.run([sys.executable, "-c", script, str(path)], capture_output=True, text=True, cwd=ROOT)
            assert done.returncode == 0, done.stderr
            made, *imported = done.stderr.split()
            assert imported == [] and int(made) < most

    def test_unread_keys_are_listed_and_do_not_stop_the_card(self, tmp_path: Path) -> None:
        config = tmp_path / "config.json"
        config.write_text(
            '{"model_type": "llama", "hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2,'
            ' "num_attention_heads": 4, "vocab_size": 100, "rope_theta": 10000.0, "brand_new": 7}'
        )
        card = json.loads(trilens("card", str(config), "--json").stdout)
        assert card["unread"] == ["brand_new"]


class TestImports:
    """What a command waits for before it begins."""

    @staticmethod
    def imported(*arguments: str) -> set[str]:
        script = (
            "import sys; from trilens.cli import main; assert main(sys.argv[1:]) == 0;"
            "print(*sys.modules, file=sys.stderr)"
        )
        done = subprocess.run([sys.executable, "-c", script, *arguments], capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        return set(done.stderr.splitlines()[-1].split())

    def test_an_answer_needs_nothing_of_services_cards_and_servers(self) -> None:
        imported = self.imported("run", "2+2", "--model", "tiny-dense", "--max-tokens", "1", "--quiet")
        assert "trilens.model" in imported
        unused = {"asyncio", "ssl", "http.client", "tomllib", "gguf", "huggingface_hub", "prompt_toolkit", "torch"}
        unused |= {"trilens.checkpoints.adapters", "trilens.hosted.load", "trilens.hosted.model"}
        unused |= {"trilens.lenses.cards", "trilens.lenses.plans", "trilens.serve", "trilens.trials"}
        assert not unused & imported

    @pytest.mark.parametrize("arguments", [("--version",), ("--help",), ("run", "--help")])
    def test_help_needs_no_model(self, arguments: tuple[str, ...]) -> None:
        imported = self.imported(*arguments)
        assert not {"numpy", "tokenizers", "jinja2", "trilens.checkpoints.find", "trilens.model"} & imported


class TestComplaints:
    def test_a_wrong_name(self) -> None:
        assert_complaint(trilens("run", "hi", "--model", "smolm2"), 5, "smolm2", "smollm2")

    def test_a_missing_file(self) -> None:
        assert_complaint(trilens("card", "nowhere/model.gguf"), 5, "nowhere/model.gguf", "no such file")

    def test_no_network(self) -> None:
        env = {"HF_HUB_OFFLINE": "0", "HF_ENDPOINT": "http://127.0.0.1:9"}
        assert_complaint(trilens("card", "some-org/some-model", env=env), 5, "some-org/some-model")

    def test_an_unknown_architecture(self, tmp_path: Path) -> None:
        (tmp_path / "config.json").write_text('{"model_type": "megalodon"}')
        card = trilens("card", str(tmp_path / "config.json"))  # what the file says for certain
        assert card.returncode == 0 and "megalodon" in card.stdout and "not known" in card.stdout
        assert_complaint(trilens("plan", str(tmp_path / "config.json")), 3, "megalodon")

    def test_a_bad_option(self) -> None:
        assert_complaint(trilens("run", "hi", "--temprature", "0"), 2, "--temprature")

    def test_an_empty_prompt(self) -> None:
        assert_complaint(trilens("run", stdin=" \n"), 2, "the prompt is empty")

    def test_input_that_is_no_text(self) -> None:
        assert_complaint(trilens("run", stdin=b"\xff\xfe\x00"), 2, "UTF-8")

    @pytest.mark.usefixtures("smollm2")
    @pytest.mark.parametrize(
        ("option", "value"), [("--temperature", "-1"), ("--top-p", "0"), ("--max-tokens", "0"), ("--seed", "-3")]
    )
    def test_a_value_out_of_range(self, option: str, value: str) -> None:
        assert_complaint(trilens("run", "hi", option, value), 2, option)

    def test_a_context_beyond_the_models(self, smollm2: Path) -> None:
        assert_complaint(trilens("card", str(smollm2), "--context", "9999"), 2, "1 to 8192")


def test_doctor_names_what_matters() -> None:
    report = json.loads(trilens("doctor", "--json").stdout)
    assert {"trilens", "python", "processor", "memory", "torch", "cache"} <= set(report)
    assert trilens("doctor").stdout.count("\n") == len(report)


def test_pull_prints_the_path(smollm2: Path) -> None:
    done = trilens("pull", "smollm2")
    assert Path(done.stdout.strip()) == smollm2


def test_version_and_help() -> None:
    assert process("--version").stdout.startswith("trilens ")
    assert "card" in trilens("--help").stdout
