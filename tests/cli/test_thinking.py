"""The switch on the command line: thoughts to standard error, the answer to standard output."""

from __future__ import annotations

import json
import signal
import subprocess

import pytest

import trilens
from tests.command import command
from trilens.cli.terminal import interrupts
from trilens.text.events import EndEvent, TextEvent, ThinkingEvent

QUESTION = "What is 47 times 86?"


def run(*words: str, code: int = 0, stdin: str = "") -> subprocess.CompletedProcess[str]:
    done = command(*words, stdin=stdin)
    assert done.returncode == code, done.stderr
    return done


def test_thoughts_go_to_standard_error_and_the_answer_to_standard_output() -> None:
    words = ("run", QUESTION, "--model", "tiny-dense", "--temperature", "0", "--thinking", "on")
    shown, hidden = run(*words), run(*words, "--hide-thinking")
    whole = json.loads(run(*words, "--json").stdout)
    assert shown.stdout == hidden.stdout == whole["text"] + "\n"
    assert whole["thinking"] and whole["thinking"] in shown.stderr and whole["thinking"] not in hidden.stderr
    assert "thinking on (requested: on) · closed by model" in hidden.stderr
    assert whole["receipt"]["thinking"]["closed_by"] == "model"
    assert run(*words[:-1], "off", "--quiet").stderr == ""


def test_a_budget_and_what_cannot_be_done() -> None:
    words = ("run", QUESTION, "--model", "tiny-dense", "--temperature", "0", "--thinking")
    found = json.loads(run(*words, "8", "--json").stdout)["receipt"]
    assert found["tokens"]["thinking"] == 8 and found["thinking"]["closed_by"] == "budget"
    refused = run(*words, "high", code=6)
    assert refused.stderr.count("\n") == 1 and "this model has no levels of thinking" in refused.stderr
    assert "thinking is 'zebra'" in run(*words, "zebra", code=2).stderr


def test_a_conversation_keeps_its_thoughts() -> None:
    done = run(
        "chat", "--model", "tiny-dense", "--temperature", "0", "--quiet", stdin="Add 30 and 41.\nAdd 12 and 30.\n\n"
    )
    assert len(done.stdout.splitlines()) == 2
    assert "30+41" in done.stderr


def test_combos_prints_its_table_and_its_list() -> None:
    assert run("combos", "--questions", "12").stdout.splitlines()[0].startswith("backbone  thinking  correct")
    rows = json.loads(run("combos", "--questions", "12", "--json").stdout)
    wanted = "backbone thinking correct asked thinking_tokens answer_tokens seconds flops_per_answer parameters".split()
    assert len(rows) == 4 and all(set(wanted) <= set(row) for row in rows)
    assert "0 is not in the range x>=1" in run("combos", "--questions", "0", code=2).stderr


def test_the_first_interrupt_asks_for_the_answer_and_the_second_ends_it() -> None:
    stream, receipt, seen = trilens.load("tiny-dense").stream(QUESTION, thinking=True, temperature=0), None, 0
    with interrupts(stream):
        for event in stream:
            seen += isinstance(event, ThinkingEvent)
            if seen == 3 and isinstance(event, ThinkingEvent):
                signal.raise_signal(signal.SIGINT)
            receipt = event.receipt if isinstance(event, EndEvent) else receipt
    assert receipt is not None and receipt.thinking.closed_by == "caller"

    again = trilens.load("tiny-dense").stream(QUESTION, thinking=False, temperature=0)
    with pytest.raises(KeyboardInterrupt), interrupts(again):
        for event in again:
            if isinstance(event, TextEvent):
                signal.raise_signal(signal.SIGINT)


@pytest.mark.parametrize("model", ["tiny-dense", "smollm2"])
@pytest.mark.parametrize("word", ["nope", "True", "high", "-1", "on", "99999999999999999999"])
def test_errors_speak_the_command_lines_words(model: str, word: str) -> None:
    done = command("run", "hi", "--model", model, "--thinking", word, "--max-tokens", "1")
    no_setting = word in ("nope", "True", "-1")  # a wrong argument, whatever the model
    assert done.returncode in ((2,) if no_setting else (0, 2, 6)), done.stderr
    if done.returncode:
        said = done.stderr.replace(f"'{word}'", "")
        assert not no_setting or said != done.stderr, "it is told what was typed"
        assert done.stderr.startswith("trilens: ") and not {"True", "False", "None"} & set(
            said.replace(",", " ").split()
        )
