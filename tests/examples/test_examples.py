"""The examples run, and both type checkers accept them in strict mode and report every wrong option."""

from __future__ import annotations

import ast
import json
import re
import runpy
import subprocess
import sys
from html.parser import HTMLParser
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

import trilens
from trilens.generate.options import GenerateOptions, HostedOptions, LoadOptions

ROOT = Path(__file__).parents[2]
EXAMPLES = sorted((ROOT / "examples").glob("*.py"))


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda path: path.stem)
def test_an_example_runs(example: Path, capsys: pytest.CaptureFixture[str]) -> None:
    runpy.run_path(str(example), run_name="__main__")
    assert capsys.readouterr().out.strip()


def test_the_list_of_examples_is_whole() -> None:
    listed = re.findall(r"^\| `(.+?)`", (ROOT / "examples/README.md").read_text("utf-8"), re.MULTILINE)
    assert sorted(listed) == sorted(
        path.name for path in (ROOT / "examples").iterdir() if path.suffix in (".py", ".ipynb")
    )


class Balanced(HTMLParser):
    """Raises where a tag is closed that is not open."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.seen: set[str] = set()

    def handle_starttag(self, tag: str, attrs: Any) -> None:
        self.seen.add(tag)
        self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: Any) -> None:
        self.seen.add(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def test_the_notebook_runs_and_shows_html() -> None:
    cells = json.loads((ROOT / "examples/lenses.ipynb").read_text("utf-8"))["cells"]
    space: dict[str, Any] = {}
    shown: list[Balanced] = []
    for cell in cells:
        if cell["cell_type"] != "code":
            continue
        assert cell["outputs"] == [], "the notebook is committed without outputs"
        tree = ast.parse("".join(cell["source"]))
        last = tree.body.pop() if isinstance(tree.body[-1], ast.Expr) else None
        exec(compile(tree, "lenses.ipynb", "exec"), space)
        value = None if last is None else eval(compile(ast.Expression(last.value), "lenses.ipynb", "eval"), space)
        if hasattr(value, "_repr_html_"):
            shown.append(Balanced())
            shown[-1].feed(value._repr_html_())
            assert shown[-1].open == []
    assert [("svg" in one.seen, "table" in one.seen, "pre" in one.seen) for one in shown] == [
        (False, True, False),  # the answer
        (False, True, False),  # its receipt
        (True, True, True),  # two cards
        (True, True, True),
        (True, False, True),  # the trace
    ]


def test_a_part_has_one_colour_in_every_card() -> None:
    colours: dict[str, set[str]] = {}
    for name in ("tiny-dense", "tiny-routed"):
        drawn = trilens.card(name, offline=True)._repr_html_()
        for colour, part in re.findall('fill="(#[0-9a-f]{6})"><title>(.+?)</title>', drawn):
            colours.setdefault(part, set()).add(colour)
    assert {"router", "head", "attention"} <= colours.keys()
    assert all(len(one) == 1 for one in colours.values()) and len(set.union(*colours.values())) == len(colours)


# ---- the type checkers ----


def reported(checker: str, file: Path) -> list[int]:
    """The lines of a file in which a checker finds errors, in strict mode."""
    if find_spec(checker) is None:
        pytest.skip(f"{checker} is not installed here")
    if checker == "mypy":
        cache = ROOT / ".mypy_cache"
        words = ["mypy", "--strict", "--python-version=3.11", f"--cache-dir={cache}", "--no-pretty", str(file)]
    else:
        settings = file.parent / "pyrightconfig.json"
        settings.write_text(json.dumps({"include": [str(file)], "typeCheckingMode": "strict", "pythonVersion": "3.11"}))
        words = ["basedpyright", "--project", str(settings), "--pythonpath", sys.executable]
    done = subprocess.run([sys.executable, "-m", *words], capture_output=True, text=True, cwd=ROOT)
    assert done.returncode in (0, 1), done.stdout + done.stderr
    place = re.compile(rf"{re.escape(file.name)}:(\d+)(?::\d+)?(?: -)?:? error")
    return sorted({int(line) for line in place.findall(done.stdout)})


def test_the_examples_are_right_in_strict_mode(tmp_path: Path) -> None:
    if find_spec("basedpyright") is None:
        pytest.skip("basedpyright is not installed here")
    settings = tmp_path / "pyrightconfig.json"
    settings.write_text(
        json.dumps({"include": [str(ROOT / "examples")], "typeCheckingMode": "strict", "pythonVersion": "3.11"})
    )
    words = ["basedpyright", "--project", str(settings), "--pythonpath", sys.executable]
    done = subprocess.run([sys.executable, "-m", *words], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout


@pytest.mark.parametrize("checker", [pytest.param("mypy", marks=pytest.mark.slow), "basedpyright"])
def test_a_wrong_option_is_a_type_error(checker: str, tmp_path: Path) -> None:
    """Every option of every call, once with its name misspelt and once with a value of no such type."""
    calls = {
        "here.generate('x', {})": GenerateOptions,
        "here.stream('x', {})": GenerateOptions,
        "there.generate('x', {})": GenerateOptions,
        "there.stream('x', {})": GenerateOptions,
        "trilens.call_model('x', 'y', {})": GenerateOptions,
        "trilens.trace(here, 'x', {})": GenerateOptions,
        "trilens.load('x', {})": LoadOptions,
        "trilens.load('y', {})": HostedOptions,
    }
    lines = ["import trilens", "here = trilens.load('a', offline=True)", "there = trilens.load('b', retries=1)"]
    right = len(lines)
    for call, options in calls.items():
        for option in options.__annotations__:
            lines += [call.format(f"{option[:-1]}=None"), call.format(f"{option}=object")]
    lines += ["trilens.lode('x')", "here.generate('x').receipt.tokenz", "there.generate('x').receipt.work"]
    file = tmp_path / "wrong.py"
    file.write_text("\n".join(lines) + "\n")
    assert reported(checker, file) == list(range(right + 1, len(lines) + 1))
