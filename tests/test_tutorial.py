"""A newcomer goes through the tutorial from an empty directory, and every command does what the page shows."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.tutorial_page import PAGES, outputs, steps


@pytest.mark.slow
def test_every_command_prints_what_the_page_shows(tmp_path: Path) -> None:
    page = PAGES[0].read_text("utf-8")
    shown = {step.command: step.text for step in steps(page) if step.command}
    assert len(shown) >= 10
    assert outputs(page, tmp_path) == shown


def test_both_languages_have_the_same_commands_outputs_and_files() -> None:
    english, korean = ([*steps(page.read_text("utf-8"))] for page in PAGES)
    assert korean == english
