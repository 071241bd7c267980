"""What a wheel and an sdist hold, as the project's files say it, and the bits that every build gives."""

from __future__ import annotations

import json
import sys
import tarfile
import tomllib
from pathlib import Path

import pytest
from scikit_build_core.build import build_sdist

ROOT = Path(__file__).resolve().parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
BUILD = PROJECT["tool"]["scikit-build"]
BITS = json.loads((ROOT / "wheels" / "bits.json").read_text())

sys.path.insert(0, str(ROOT / "wheels"))
import answers  # noqa: E402


def sdist_files(folder: Path, monkeypatch: pytest.MonkeyPatch) -> set[str]:
    monkeypatch.chdir(ROOT)
    with tarfile.open(folder / build_sdist(str(folder))) as file:
        return {name.split("/", 1)[1] for name in file.getnames()}


def test_an_sdist_holds_what_builds_a_wheel_and_no_tests(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    files = sdist_files(tmp_path, monkeypatch)
    needed = {str(path.relative_to(ROOT)) for path in (ROOT / "csrc").iterdir()}
    needed |= {"CMakeLists.txt", "pyproject.toml", "README.md", "LICENSE", "wheels/sbom.cdx.json.in"}
    page = ROOT / "src" / "trilens" / "serve" / "page"
    needed |= {str(path.relative_to(ROOT)) for path in page.rglob("*") if path.is_file()}
    needed |= {"src/trilens/executors/native/program.py", "src/trilens/py.typed", "src/trilens/hosted/thinking.toml"}
    assert needed <= files
    assert {name.split("/")[0] for name in files} == {
        "src",
        "csrc",
        "wheels",
        "PKG-INFO",
        *(n for n in needed if "/" not in n),
    }
    assert not [name for name in files if name.endswith((".so", ".pyd", ".pyc"))]


def test_one_wheel_serves_every_python_from_3_12_on() -> None:
    assert BUILD["wheel"]["py-api"] == "cp312"
    cmake = (ROOT / "CMakeLists.txt").read_text()
    assert "nanobind_add_module(_native STABLE_ABI" in cmake
    assert "${SKBUILD_SABI_COMPONENT}" in cmake
    assert PROJECT["project"]["requires-python"] == ">=3.11"
    assert PROJECT["tool"]["cibuildwheel"]["build"] == ["cp311-*", "cp312-*"]


def test_the_bill_of_materials_is_cyclonedx() -> None:
    text = (ROOT / "wheels" / "sbom.cdx.json.in").read_text()
    for runtime in ("", ', {"type": "library", "name": "libc++"}'):
        bill = json.loads(text.replace("@TRILENS_RUNTIME@", runtime))
        assert (bill["bomFormat"], bill["specVersion"]) == ("CycloneDX", "1.6")
        names = [part["name"] for part in bill["components"]]
        assert names[:5] == ["nanobind", "robin-map", "marked", "katex", "highlight.js"]
        assert len(names) == 5 + bool(runtime)


@pytest.mark.parametrize("model", answers.MODELS)
@pytest.mark.parametrize(("weights", "activations"), answers.FORMS)
def test_this_build_gives_the_bits_that_are_written_down(model: str, weights: str | None, activations: str) -> None:
    expected = BITS[answers.case(model, weights, activations)]
    for kernels in answers.kernel_sets():
        assert answers.bits(model, kernels, weights, activations) == expected
