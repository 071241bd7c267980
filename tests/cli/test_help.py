"""Every help ends with examples that parse, every option is explained, and shells can complete all of it."""

from __future__ import annotations

import shlex
import subprocess
import sys
from pathlib import Path

import click
import pytest

from trilens.cli import commands
from trilens.cli.completion import VARIABLE
from trilens.cli.examples import EXAMPLES

LINES = [(name, line) for name, lines in EXAMPLES.items() for line in lines]


def test_every_command_has_two_examples_or_three() -> None:
    assert set(EXAMPLES) == set(commands.commands)
    assert all(len(lines) in (2, 3) for lines in EXAMPLES.values())


@pytest.mark.parametrize(("name", "line"), LINES)
def test_an_example_parses(name: str, line: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    words = shlex.split(line.split(">")[0])
    assert words[:2] == ["trilens", name]
    with commands.commands[name].make_context(name, words[2:]) as context:
        assert line in context.get_help()


def _options() -> list[tuple[str, click.Option]]:
    return [
        (name, parameter)
        for name, command in commands.commands.items()
        for parameter in command.params
        if isinstance(parameter, click.Option)
    ]


def test_every_option_is_explained() -> None:
    unexplained = [f"{name} {option.opts[0]}" for name, option in _options() if not option.help]
    assert unexplained == []
    unfinished = [
        f"{name} {option.opts[0]}" for name, option in _options() if (option.help or "").split("  [")[0][-1:] != "."
    ]
    assert unfinished == []


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_a_shell_gets_a_script(shell: str, capsys: pytest.CaptureFixture[str]) -> None:
    from trilens.cli import main

    assert main(["completion", shell]) == 0
    assert f"{VARIABLE}={shell}_complete" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("line", "found"),
    [
        ("trilens qu", "quantise"),
        ("trilens run --hide-t", "--hide-thinking"),
        ("trilens bench tiny-dense --kernels av", "avx2"),
        ("trilens completion fi", "fish"),
    ],
)
def test_words_are_completed(line: str, found: str) -> None:
    words = line.split(" ")
    asked = {VARIABLE: "bash_complete", "COMP_WORDS": line, "COMP_CWORD": str(len(words) - 1), "PATH": "/usr/bin:/bin"}
    done = subprocess.run([sys.executable, "-m", "trilens"], env=asked, capture_output=True, text=True, check=True)
    assert f"plain,{found}" in done.stdout.splitlines()
