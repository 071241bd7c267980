"""`trilens run --adapter NAME=PATH`."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

import trilens
from tests.generate.test_adapters import QUESTION, tiny_lora
from trilens.cli import main


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
