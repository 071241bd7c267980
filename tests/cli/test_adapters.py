"""`trilens run` and `card` with `--adapter NAME=PATH`, and options of the wrong kind of model."""

from __future__ import annotations

import json
import struct
from pathlib import Path

import pytest

import trilens
from tests.generate.test_adapters import QUESTION, tiny_lora
from trilens.cli import main
from trilens.errors import UnsupportedModel, UsageError
from trilens.generate.options import HostedOptions, LoadOptions
from trilens.lenses.cards.card import card
from trilens.lenses.layout import spaced
from trilens.serve.registry import served_name
from trilens.units import flop


def test_run_uses_the_adapter(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tiny_lora(0).save(tmp_path / "poet")
    words = ["run", QUESTION, "--model", "tiny-dense", "--temperature", "0", "--max-tokens", "12", "--json"]
    said = []
    for more in ([], ["--adapter", f"poet={path}"]):
        assert main([*words, *more]) == 0
        said.append(json.loads(capsys.readouterr().out))
    plain, adapted = said
    with trilens.load("tiny-dense", adapters={"poet": path}) as model:
        expected = model.generate(QUESTION, temperature=0, max_tokens=12, adapter="poet")
    assert adapted["receipt"]["replay"] == expected.receipt.replay != plain["receipt"]["replay"]
    assert adapted["receipt"]["adapter"]["name"] == "poet" and plain["receipt"]["adapter"] is None


@pytest.mark.parametrize(
    ("adapter", "model", "code", "said"),
    [
        ("poet=nowhere", "tiny-dense", 5, "no such adapter"),
        ("poet=.", "tiny-dense", 4, "no adapter_config.json"),
        ("poet=.", "http://127.0.0.1:9", 2, "--adapter is for models that run here"),
    ],
)
def test_errors_are_one_line(
    adapter: str,
    model: str,
    code: int,
    said: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["run", "hi", "--model", model, "--adapter", adapter]) == code
    shown = capsys.readouterr().err
    assert said in shown and shown.count("\n") == 1


NAME = "x" * 300  # longer than a file's name may be


@pytest.mark.parametrize(
    ("words", "code"),
    [
        (f"card {NAME}/a", 5),
        (f"card tiny-dense --adapter a={NAME}", 5),
        (f"plan tiny-dense --adapter a={NAME}", 5),
        (f"run hi --model tiny-dense --adapter a={NAME}", 5),
        (f"serve tiny-dense --adapter a={NAME}", 5),
        (f"serve ./{NAME}", 5),
        (f"quantise {NAME}/a --to Q8_0 -o a.gguf", 5),
        (f"quantise tiny-dense --to Q8_0 -o {NAME}.gguf", 2),
    ],
)
def test_a_name_that_no_file_can_have(
    words: str, code: int, capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(words.split()) == code
    shown = capsys.readouterr().err
    assert "bug" not in shown and shown.count("\n") == 1
    assert served_name(f"{NAME}/a") == f"{NAME}/a"


class TestCards:
    @pytest.mark.parametrize("kind", ["safetensors", "gguf"])
    def test_a_file_without_matrices_is_refused(
        self, kind: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        path = tmp_path / f"adapter_model.{kind}"
        if kind == "gguf":
            path.write_bytes(b"GGUF" + struct.pack("<IQQ", 3, 0, 0))
        else:
            path.write_bytes(struct.pack("<Q", 2) + b"{}")
        assert main(["card", "tiny-dense", "--adapter", f"poet={path}"]) == 4
        shown = capsys.readouterr().err
        assert str(path) in shown and shown.count("\n") == 1 and "bug" not in shown

    def test_an_adapter_is_counted_by_its_matrices(self, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        adapter = tiny_lora(0)
        path = adapter.save(tmp_path / "poet")
        numbers = sum(low.numel() for pair in adapter.pairs.values() for low in pair)
        assert main(["card", "tiny-dense", "--json", "--adapter", f"poet={path}"]) == 0
        out = capsys.readouterr().out
        size = (path / "adapter_model.safetensors").stat().st_size
        expected = {"name": "poet", "parameters": numbers, "bytes": size, "flops_per_token": 2 * numbers}
        assert json.loads(out)["adapters"] == [expected]
        with trilens.load("tiny-dense", adapters={"poet": path}) as model:
            assert model.executor.adapters["poet"].parameters == numbers
        assert main(["card", "tiny-dense", "--adapter", f"poet={path}"]) == 0
        text = " ".join(capsys.readouterr().out.split())
        assert f"adapter poet: {spaced(numbers)} parameters" in text and f"{flop(2 * numbers)} more per token" in text

    @pytest.mark.parametrize("model", ["openai:gpt-5", "kimi-k3"])
    def test_a_model_that_does_not_run_here_takes_none(self, model: str, tmp_path: Path) -> None:
        path = tiny_lora(0).save(tmp_path / "poet")
        with pytest.raises((UsageError, UnsupportedModel)):
            card(model, offline=True, adapters={"poet": path})


HERE, THERE = LoadOptions.__annotations__.keys(), HostedOptions.__annotations__.keys()


@pytest.mark.parametrize(
    ("name", "option", "kind"),
    [("http://127.0.0.1:9", o, "run here") for o in sorted(HERE - THERE)]
    + [("openai:gpt-5", o, "run here") for o in sorted(HERE - THERE)]
    + [("tiny-dense", o, "at a service") for o in sorted(THERE - HERE)],
)
def test_an_option_of_the_other_kind_of_model_is_named(name: str, option: str, kind: str) -> None:
    with pytest.raises(UsageError, match=f"^{option} is for models (that )?{kind}[^\n]*{name}[^\n]*leave it out$"):
        trilens.load(name, **{option: None})
