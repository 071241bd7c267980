"""Beginnings kept in a directory: by the library, the command line and the server, across processes."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import trilens
from tests.serve.engines import serving
from trilens.errors import UsageError

PROMPT = "What is 47 times 86? " * 40


def trilens_run(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "trilens", "run", PROMPT, "--raw", "--model", "tiny-dense", "--temperature", "0"]
    return subprocess.run(
        [*command, "--max-tokens", "5", *arguments], capture_output=True, text=True, env={**os.environ, **environment}
    )


def test_a_second_run_reads_what_the_first_one_kept(tmp_path: Path) -> None:
    answers = []
    for _ in range(2):
        done = trilens_run("--json", "--prefix-dir", str(tmp_path / "p"))
        assert done.returncode == 0, done.stderr
        answers.append(json.loads(done.stdout))
    first, second = (answer["receipt"] for answer in answers)
    assert answers[0]["text"] == answers[1]["text"] and first["replay"] == second["replay"]
    assert first["reused"] == {} and first["tokens"]["cached"] == 0
    pages = (first["tokens"]["prompt"] - 1) // 64
    assert second["reused"] == {"disk": 64 * pages} and pages > 2
    shown = trilens_run("--prefix-dir", str(tmp_path / "p"))
    assert f"({64 * pages} cached: {64 * pages} from disk)" in shown.stderr


def test_another_model_or_kind_of_cache_finds_nothing(tmp_path: Path) -> None:
    asked: dict[str, Any] = {"raw": True, "max_tokens": 3}
    for options in ({}, {"kv": "8bit"}, {"kv": "f32"}, {"quantise": "8bit"}, {"activations": "8bit"}):
        for name in ("tiny-dense", "tiny-routed"):
            receipt = trilens.load(name, prefix_dir=tmp_path, **options).generate(PROMPT, **asked).receipt
            assert receipt.tokens.cached == 0 or options == {"activations": "8bit"}  # which weights of floats ignore


@pytest.mark.parametrize("options", [{"executor": "torch"}, {"prefix_bytes": 0}, {"prefix_bytes": 1.5}])
def test_what_cannot_be_is_refused(options: dict[str, Any], tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="prefix"):
        trilens.load("tiny-dense", **{"prefix_dir": tmp_path, **options})


@pytest.mark.parametrize(("size", "code"), [("4GB", 0), ("1.5 mb", 0), ("0", 2), ("four", 2), ("-1GB", 2), ("1e9", 2)])
def test_numbers_of_bytes(size: str, code: int, tmp_path: Path) -> None:
    done = trilens_run("--prefix-dir", str(tmp_path), "--prefix-bytes", size)
    assert done.returncode == code
    assert code == 0 or "4GB" in done.stderr


def test_a_served_model_keeps_them_too(tmp_path: Path) -> None:
    import httpx2

    body = {"model": "tiny-dense", "prompt": PROMPT, "max_tokens": 3, "temperature": 0, "seed": 1}
    found, kept = [], tmp_path / "kept"
    kept.mkdir()
    for _ in range(2):
        with serving("tiny-dense", "--port", "0", "--prefix-dir", str(kept), folder=tmp_path) as server:
            found.append(httpx2.post(f"{server.address()}/v1/completions", json=body, timeout=60).json())
            server.end(signal.SIGTERM)
    assert found[0]["choices"][0]["text"] == found[1]["choices"][0]["text"]
    assert [f["trilens"]["receipt"]["reused"].get("disk", 0) > 64 for f in found] == [False, True]
