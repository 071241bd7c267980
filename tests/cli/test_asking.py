"""`trilens thinking MODEL`: the table as people read it, and what goes over the wire is what it says."""

from __future__ import annotations

import json

import pytest

from tests.command import command
from trilens.errors import RequestRefused, UsageError
from trilens.hosted.asking import asking, word
from trilens.hosted.table import ask, rows


def run(*words: str) -> str:
    done = command("thinking", *words)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_a_hosted_model_without_a_key() -> None:
    said = run("openai:gpt-5.1")
    assert '  off           {"reasoning": {"effort": "none"}}\n' in said
    assert "  a number      not possible\n" in said
    assert "  source        https://developers.openai.com/" in said


def test_a_model_with_weights_here_and_at_an_engine() -> None:
    here, there = json.loads(run("tiny-dense", "--engine", "vllm", "--json"))
    assert here["fields"] == {
        "not asked": {},
        "off": {"enable_thinking": False},
        "on": {"enable_thinking": True},
        "a number": {},
    }
    assert (here["where"], here["default"], here["source"]) == ("tiny-dense, here", "on", "the chat template")
    assert there["fields"]["a number"]["thinking_token_budget"] == "{budget}"
    assert there["source"].startswith("https://docs.vllm.ai/")


def test_what_never_thinks_and_what_has_levels() -> None:
    assert asking("smollm2", engine="vllm", offline=True)[0].fields["on"] is None
    levels = asking("gpt-oss-120b", engine="ollama", offline=True)
    assert levels[0].fields["high"] == {"reasoning_effort": "high"}
    assert levels[0].fields["off"] is None
    with pytest.raises(UsageError, match="engine is 'nope'; expected one of vllm, sglang, "):
        asking("tiny-dense", engine="nope")


def test_every_row_is_printed_as_it_is_sent() -> None:
    """For the vendors' rows through a model that fits, for the engines' all."""
    seen = {one.where: one for one in asking("tiny-dense")}
    for row in rows():
        model = row.models[0].rstrip("*")
        if row.service in ("openai", "anthropic", "gemini"):
            [shown] = asking(f"{row.service}:{model}")
        elif not row.hosts:
            shown = seen[row.service]
        else:
            continue
        assert shown.source == row.source
        for value in (None, False, True, *row.levels):
            try:
                sent = ask(row, model, value).request
            except RequestRefused:
                sent = None
            assert shown.fields[word(value)] == sent
        assert shown.fields["a number"] == row.budget
        assert row.source in shown.as_text()
