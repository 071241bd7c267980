"""Models looked after: what this disk holds, by the names that other programs have for it, and what is removed."""

from __future__ import annotations

import hashlib
import json
import shutil
from pathlib import Path

import pytest

from trilens.checkpoints.find import check_name, find
from trilens.checkpoints.held import held_as, held_models
from trilens.cli import main
from trilens.errors import ModelNotFound
from trilens.lenses.cards.card import card


@pytest.fixture
def others(smollm2: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folders of three other programs and the hub's cache, each with the same small file (a link, no copy)."""
    monkeypatch.setenv("HOME", str(tmp_path))
    for name in ("OLLAMA_MODELS", "LLAMA_CACHE", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "hub"))
    ollama = tmp_path / ".ollama/models"
    digest = hashlib.sha256(b"the model").hexdigest()
    config = hashlib.sha256(b"its config").hexdigest()
    (ollama / "blobs").mkdir(parents=True)
    (ollama / f"blobs/sha256-{digest}").symlink_to(smollm2)
    (ollama / f"blobs/sha256-{config}").write_text('{"model_family": "llama", "file_type": "Q4_1"}')
    manifest = {
        "config": {"digest": f"sha256:{config}"},
        "layers": [
            {"mediaType": "application/vnd.ollama.image.template", "digest": "sha256:00"},
            {"mediaType": "application/vnd.ollama.image.model", "digest": f"sha256:{digest}"},
        ],
    }
    for tag in ("registry.ollama.ai/library/llama3.2/latest", "registry.ollama.ai/library/llama3.2/1b", "hf.co/a/b/Q4"):
        (ollama / "manifests" / tag).parent.mkdir(parents=True, exist_ok=True)
        (ollama / "manifests" / tag).write_text(json.dumps(manifest))
    (ollama / "manifests/registry.ollama.ai/library/broken").mkdir()
    (ollama / "manifests/registry.ollama.ai/library/broken/latest").write_text("{")
    for file in (
        ".lmstudio/models/somebody/Tiny-GGUF/Tiny-Q4_1.gguf",
        ".cache/llama.cpp/org_name_model-Q8_0.gguf",
        "hub/models--org--linked/snapshots/0123/model-Q4_1.gguf",
    ):
        (tmp_path / file).parent.mkdir(parents=True)
        (tmp_path / file).symlink_to(smollm2)
    gone = tmp_path / "hub/models--a--gone/snapshots/0123/model-Q4_1.gguf"  # it is being removed
    gone.parent.mkdir(parents=True)
    gone.symlink_to(tmp_path / "nowhere")
    return tmp_path


@pytest.mark.parametrize(
    ("name", "origin"),
    [
        ("llama3.2", "Ollama llama3.2:latest"),
        ("llama3.2:1b", "Ollama llama3.2:1b"),
        ("ollama:llama3.2:1b", "Ollama llama3.2:1b"),
        ("Ollama:Llama3.2", "Ollama llama3.2:latest"),
        ("hf.co/a/b:Q4", "Ollama hf.co/a/b:Q4"),
        ("somebody/Tiny-GGUF", "LM Studio somebody/Tiny-GGUF/Tiny-Q4_1.gguf"),
        ("somebody/Tiny-GGUF:Q4_1", "LM Studio somebody/Tiny-GGUF/Tiny-Q4_1.gguf"),
        ("lmstudio:Tiny-Q4_1", "LM Studio somebody/Tiny-GGUF/Tiny-Q4_1.gguf"),
        ("org_name_model-Q8_0.gguf", "llama.cpp org_name_model-Q8_0.gguf"),
        ("llama.cpp:org_name_model-Q8_0", "llama.cpp org_name_model-Q8_0.gguf"),
    ],
)
def test_a_model_of_another_program_is_used_where_it_lies(name: str, origin: str, others: Path, smollm2: Path) -> None:
    found = find(name, offline=True)
    assert (found.kind, found.origin) == ("gguf", origin)
    assert found.path.is_relative_to(others) and found.path.resolve() == smollm2.resolve()
    assert card(name, offline=True).as_dict()["parameters"]["total"] == 134_515_008
    check_name(name)


def test_names_that_they_do_not_have(others: Path) -> None:
    assert held_as("llama3.2:70b") is None and held_as("smollm2") is None and held_as("x") is None
    with pytest.raises(ModelNotFound, match=r"Ollama has no such model here; it has .*llama3.2:1b"):
        find("ollama:llama3.1")
    (others / ".cache/llama.cpp/Tiny-Q4_1.gguf").write_bytes(b"GGUF another")
    with pytest.raises(ModelNotFound, match=r"on this disk; name one of lmstudio:.*, llama\.cpp:Tiny-Q4_1\.gguf"):
        find("Tiny-Q4_1")


def test_all_are_listed(others: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["models", "--json"]) == 0
    rows = {(row["name"], row["where"]): row for row in json.loads(capsys.readouterr().out)}
    for key in (
        ("llama3.2:1b", "Ollama"),
        ("somebody/Tiny-GGUF/Tiny-Q4_1.gguf", "LM Studio"),
        ("org_name_model-Q8_0.gguf", "llama.cpp"),
        ("org/linked", "hub cache"),
        ("tiny-dense", "trilens"),
    ):
        assert key in rows
    ollama = rows["llama3.2:1b", "Ollama"]
    assert (ollama["bytes"], ollama["form"], ollama["family"]) == (98_362_432, "Q4_1", "llama") and ollama["used"]
    assert rows["org_name_model-Q8_0.gguf", "llama.cpp"]["form"] == "Q8_0"
    assert len([key for key in rows if key[1] == "Ollama"]) == 3
    assert main(["models"]) == 0
    assert "llama3.2:1b" in capsys.readouterr().out
    assert main(["models", "--catalog", "--json"]) == 0
    catalog = {row["name"]: row for row in json.loads(capsys.readouterr().out)}
    assert catalog["qwen3-8b"] == {
        "name": "qwen3-8b", "tag": "dense · switchable", "parameters": "8B", "from": "Qwen/Qwen3-8B"
    }  # fmt: skip
    assert main(["show", "llama3.2:1b"]) == 0
    assert "134,515,008" in capsys.readouterr().out


def test_only_what_is_ours_is_removed(
    others: Path, smollm2: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    before = smollm2.stat()
    for name, code, said in (
        ("llama3.2:1b", 6, "belongs to Ollama; remove it by `ollama rm llama3.2:1b`"),
        ("org_name_model-Q8_0.gguf", 6, "belongs to llama.cpp; remove it by deleting "),
        ("tiny-dense", 6, "comes with trilens"),
        ("Tiny Dense", 6, "comes with trilens"),
        ("llama3", 5, "may mean llama-3-70b"),
        ("other/SmolLM2-135M-Instruct", 5, "is not on this disk"),
        ("nosuch", 5, "is not on this disk; `trilens models` lists what is"),
        ("org/linked", 2, "add --yes"),
    ):
        assert main(["rm", name]) == code
        assert said in capsys.readouterr().err
    assert len(held_models()) == len({(held.name, held.program) for held in held_models()}) >= 7
    assert main(["rm", "org/linked", "--yes"]) == 0
    assert not (others / "hub/models--org--linked").exists() and smollm2.stat() == before
    cache = others / "ours"
    target = cache / "models" / smollm2.parent.name / smollm2.name
    target.parent.mkdir(parents=True)
    shutil.copyfile(smollm2, target)
    monkeypatch.setenv("TRILENS_CACHE", str(cache))
    assert main(["rm", "SmolLM2 135M"]) == 2 and "of smollm2; add --yes" in capsys.readouterr().err
    assert main(["rm", "SmolLM2 135M", "--yes"]) == 0
    assert capsys.readouterr().out.endswith(f"{target}\n") and not target.exists()
    assert smollm2.exists()
