"""The real programs, installed from PyPI and npm, and the server that they ask.

They are installed anew, or once into the directory that TRILENS_CLIENTS names.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.clients.scripted import scripted_server
from tests.serve.conftest import Served

PYTHON = (
    *("langchain", "langchain-openai", "langchain-anthropic", "litellm", "pydantic-ai", "instructor"),
    *("openai-agents", "llm"),
)
AIDER = ("aider-chat",)
NODE = (
    *("@anthropic-ai/claude-code", "@openai/codex", "opencode-ai"),
    *("ai", "@ai-sdk/openai", "@ai-sdk/anthropic", "@ai-sdk/openai-compatible"),
    *("@langchain/core", "@langchain/openai", "@langchain/anthropic", "zod"),
)
MINUTES = 60.0


@pytest.fixture(scope="session")
def scripted() -> Iterator[Served]:
    with scripted_server() as running:
        yield running


@pytest.fixture(scope="session")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    stated = os.environ.get("TRILENS_CLIENTS")
    return Path(stated) if stated else tmp_path_factory.mktemp("clients")


@pytest.fixture(scope="session")
def python(installed: Path) -> Path:
    """The directory of a Python that has the frameworks."""
    return _venv(installed / "python", PYTHON)


@pytest.fixture(scope="session")
def aider(installed: Path) -> Path:
    return _venv(installed / "aider", AIDER)


@pytest.fixture(scope="session")
def node(installed: Path) -> Path:
    """A directory with node_modules."""
    where = installed / "node"
    if not (where / "node_modules").exists():
        where.mkdir(parents=True)
        (where / "package.json").write_text('{"name": "clients", "private": true}')
        _run("npm", "install", "--no-audit", "--no-fund", "--prefix", str(where), *NODE)
    return where


def _venv(where: Path, packages: tuple[str, ...]) -> Path:
    if not (where / "bin" / "python").exists():
        _run(sys.executable, "-m", "venv", str(where))
        _run(str(where / "bin" / "python"), "-m", "pip", "install", "--quiet", *packages)
    return where / "bin"


def _run(*command: str) -> None:
    done = subprocess.run(command, capture_output=True, text=True, timeout=15 * MINUTES, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
