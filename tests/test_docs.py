"""The documentation is whole: links lead somewhere, and the reference has every public name and every option."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from html import unescape
from importlib.util import find_spec
from pathlib import Path

import click
import pytest

import trilens
from trilens.cli import commands

ROOT = Path(__file__).parent.parent
PAGES = [
    *ROOT.glob("*.md"),
    *(page for folder in ("docs", "csrc", "examples", "recipes") for page in (ROOT / folder).rglob("*.md")),
]
LINK = re.compile(r"\[[^\]]*\]\(([^)\s]+)\)")


def _without_code(text: str) -> str:
    return re.sub(r"`[^`\n]*`", "", re.sub(r"^```.*?^```$", "", text, flags=re.DOTALL | re.MULTILINE))


def _anchors(page: Path) -> set[str]:
    """The anchors of a page's headings, as GitHub and the site make them."""
    headings = re.findall(r"^#+ (.+)$", re.sub(r"^```.*?^```$", "", page.read_text("utf-8"), flags=re.S | re.M), re.M)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def broken(page: Path) -> Iterator[str]:
    for link in LINK.findall(_without_code(page.read_text("utf-8"))):
        if re.match(r"[a-z]+:", link):
            continue
        path, _, anchor = link.partition("#")
        target = (page.parent / path).resolve() if path else page
        if not target.exists() or (anchor and anchor not in _anchors(target)):
            yield link


def test_the_check_finds_broken_links(tmp_path: Path) -> None:
    (tmp_path / "a.md").write_text("# A b\n[x](b.md) [y](#a-b) [z](#c) [w](https://x) `[v](no.md)`\n")
    assert list(broken(tmp_path / "a.md")) == ["b.md", "#c"]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_inside_the_repository_lead_somewhere(page: Path) -> None:
    assert list(broken(page)) == []


def test_the_commits_that_contributing_names_exist() -> None:
    if shutil.which("git") is None or not (ROOT / ".git").exists():
        pytest.skip("this is not a checkout of git")
    named = re.findall(r"`([0-9a-f]{7})`", (ROOT / "CONTRIBUTING.md").read_text("utf-8"))
    assert len(named) >= 5
    for commit in named:
        found = subprocess.run(["git", "cat-file", "-t", commit], cwd=ROOT, capture_output=True, text=True)
        if "shallow" not in found.stderr and found.returncode:
            assert (ROOT / ".git" / "shallow").exists(), f"{commit} is not in this repository's history"


def test_the_reference_lists_every_public_name() -> None:
    page = (ROOT / "docs" / "reference" / "python.md").read_text("utf-8")
    listed = re.findall(r"^\.\. auto(?:class|function|exception):: (\w+)$", page, re.MULTILINE)
    assert sorted(listed) == sorted(trilens.__all__)


@pytest.fixture(scope="module")
def reference(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The two generated pages of the reference, built by themselves."""
    if find_spec("sphinx") is None:
        pytest.skip("the documentation's tools are not installed; pip install --group docs")
    source, built = tmp_path_factory.mktemp("reference"), tmp_path_factory.mktemp("built")
    for page in ("python.md", "commands.md"):
        shutil.copy(ROOT / "docs" / "reference" / page, source)
    settings = 'extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx_click"]\ndefault_role = "code"\n'
    (source / "conf.py").write_text(settings + 'root_doc = "commands"\nhtml_theme = "basic"\n')
    words = [sys.executable, "-m", "sphinx", "-q", "-b", "html", str(source), str(built)]
    done = subprocess.run(words, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return built


def test_the_built_reference_has_every_public_name(reference: Path) -> None:
    anchors = set(re.findall(r'id="trilens\.(\w+)"', (reference / "python.html").read_text("utf-8")))
    assert set(trilens.__all__) <= anchors


def test_the_built_reference_has_every_command_and_option(reference: Path) -> None:
    page = unescape(re.sub(r"<[^>]+>", "", (reference / "commands.html").read_text("utf-8")))
    for name, command in commands.commands.items():
        begin = page.index(f"\ntrilens {name} [OPTIONS]")
        end = page.find("[OPTIONS]", begin + len(name) + 20)
        section = page[begin : None if end == -1 else end]
        for option in command.params:
            for spelled in option.opts if isinstance(option, click.Option) else ():
                assert spelled in section, f"{name} {spelled}"
