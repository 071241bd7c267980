"""`run --file`: every line is a request of its own."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from tests.command import command
from trilens.cli.lines import MOST_BYTES, TYPES, open_lines, parsed
from trilens.errors import UsageError

WORDS = ["run", "--model", "tiny-dense", "--file"]
RUN = [sys.executable, "-m", "trilens", *WORDS]
GOOD = '{"prompt": "What is 12 plus 30?"}'
BAD = (
    *("{", "{}", "[1]", "7", "null", '""', '{"prompt": 3}', '{"prompt": ""}', '{"prompt": ["a"]}', "\x00", "nan"),
    *('{"messages": []}', '{"messages": [1]}', '{"messages": "hi"}', '{"prompt": "a", "messages": [{}]}'),
    *('{"prompt": "a", "maxtokens": 3}', '{"prompt": "\\ud800"}', '{"\\ud800": 1, "prompt": "a"}', "[" * 100_000),
)
# wrong for every option but `id` and `stop`, which take some of these
WRONG: tuple[Any, ...] = ({}, {"a": 1}, [1], [[]], [None])


def run(path: Path, *options: str) -> tuple[int, list[Any], str]:
    done = command(*WORDS, str(path), *options)
    answers = [json.loads(line) for line in done.stdout.splitlines()]  # in the order in which they ended
    return done.returncode, sorted(answers, key=lambda a: a["line"]), done.stderr


def test_each_bad_line_is_one_error_and_the_others_are_answered(tmp_path: Path) -> None:
    path = tmp_path / "prompts.jsonl"
    long = json.dumps({"prompt": "word " * 9000})
    bad = [*BAD, long, '{"prompt": "a", "temperature": -1}', '{"prompt": "a", "max_tokens": 0}']
    lines = [part for line in bad for part in (GOOD, line)]
    path.write_bytes("\n".join(lines).encode() + b"\n\xff\n\n" + GOOD.encode())
    code, answers, said = run(path)
    assert code == 6
    assert [a["line"] for a in answers] == [*range(1, len(lines) + 2), len(lines) + 3]
    for answer in answers:
        if answer["line"] % 2 and answer["line"] != len(lines) + 1:
            assert answer["text"] == "42" and "error" not in answer
        else:
            assert answer["error"]["message"] and "fault" not in answer["error"]["message"]
            assert f"prompts.jsonl:{answer['line']}: {answer['error']['message'][:20]}" in said
    assert f"{len(bad) + 1} of {len(answers)} lines could not be answered" in said
    assert "Traceback" not in said


@pytest.mark.parametrize("key", TYPES)
def test_an_option_of_the_wrong_type_is_named(key: str) -> None:
    wrong = [w for w in (*WRONG, True, "x", 1, 2.5, float("nan")) if not _fits(key, w)]
    assert wrong
    for value in wrong:
        line = parsed(3, json.dumps({"prompt": "a", key: value}).encode())
        assert line.fault is not None and line.fault.startswith(f"{key} is ") and "; expected" in line.fault


def _fits(key: str, value: Any) -> bool:
    types, _ = TYPES[key]
    if isinstance(value, list) and key == "stop":
        return all(isinstance(part, str) for part in value)
    return isinstance(value, types) and (bool in types or not isinstance(value, bool))


def test_options_of_a_line_go_over_the_command_lines(tmp_path: Path) -> None:
    path = tmp_path / "prompts.jsonl"
    ask = {"prompt": "What is 12 plus 30?"}
    rows = [
        {**ask, "id": "first"},
        {**ask, "id": 2, "max_tokens": 1},
        {**ask, "thinking": True},
        {**ask, "seed": 7, "temperature": 1.5, "top_k": 3, "top_p": 0.9, "stop": "4"},
        {**ask, "system": "Be brief.", "thinking": "on"},
        {"messages": [{"role": "user", "content": "What is 12 plus 30?"}]},
        "What is 12 plus 30?",
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    code, answers, said = run(path, "--thinking", "off", "--max-tokens", "5")
    assert code == 0 and said == ""
    assert [a.get("id") for a in answers] == ["first", 2, None, None, None, None, None]
    assert answers[1]["receipt"]["tokens"]["answer"] == 1
    assert answers[2]["thinking"] and not answers[0]["thinking"]
    assert "4" not in answers[3]["text"] and answers[3]["receipt"]["finish"] == "stop_string"
    assert answers[4]["receipt"]["tokens"]["prompt"] > answers[2]["receipt"]["tokens"]["prompt"]
    assert answers[0]["text"] == answers[5]["text"] == answers[6]["text"]


def test_a_mark_at_the_beginning_and_other_line_ends_are_no_faults(tmp_path: Path) -> None:
    path = tmp_path / "prompts.jsonl"
    path.write_bytes(b'\xef\xbb\xbf{"prompt": "a\xe2\x80\xa8b\xc2\x85c"}\r\n\r\n{"prompt": "d"}')
    made = list(open_lines(path))
    assert [(line.number, line.prompt, line.fault) for line in made] == [(1, "a\u2028b\x85c", None), (3, "d", None)]


def test_lines_are_read_as_they_are_needed(tmp_path: Path) -> None:
    path = tmp_path / "prompts.jsonl"
    path.write_bytes(b'"a"\n' + b'"' + b"x" * MOST_BYTES + b'"\n' + b'"b"\n')
    lines = iter(open_lines(path))
    assert next(lines).prompt == "a"
    too_long = next(lines)
    assert too_long.number == 2 and f"more than {MOST_BYTES} bytes" in str(too_long.fault)
    assert next(lines).prompt == "b"
    for nothing in (b"", b"\n \n"):
        path.write_bytes(nothing)
        with pytest.raises(UsageError, match="contains no prompts"):
            list(open_lines(path))
    with pytest.raises(UsageError, match="cannot be read"):
        list(open_lines(tmp_path))


def test_many_lines_keep_their_answers(tmp_path: Path) -> None:
    path = tmp_path / "prompts.jsonl"
    path.write_text("".join(json.dumps({"prompt": f"What is {i} plus 30?", "id": i}) + "\n" for i in range(300)))
    code, answers, said = run(path)
    assert code == 0 and said == ""
    assert [a["id"] for a in answers] == list(range(300))
    path.write_text(json.dumps({"prompt": "What is 207 plus 30?"}))
    _, [alone], _ = run(path)
    assert (alone["text"], alone["thinking"]) == (answers[207]["text"], answers[207]["thinking"])


def test_each_answer_is_printed_while_later_lines_are_still_to_come(tmp_path: Path) -> None:
    """The file is a pipe; Ctrl-C prints what is done and leaves with 130."""
    path = tmp_path / "prompts.jsonl"
    os.mkfifo(path)
    running = subprocess.Popen(
        [*RUN, str(path)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )
    assert running.stdout is not None
    with path.open("w") as feed:
        feed.write(GOOD + "\n" + GOOD + "\n")
        feed.flush()
        two = [json.loads(running.stdout.readline()) for _ in range(2)]
        assert sorted((a["line"], a["text"]) for a in two) == [(1, "42"), (2, "42")]
        feed.write(GOOD + "\n")
        feed.flush()
        assert json.loads(running.stdout.readline())["line"] == 3
        running.send_signal(signal.SIGINT)
        out, err = running.communicate(timeout=60)
    assert running.returncode == 130 and err.decode() == "trilens: interrupted\n"
    assert all("text" in json.loads(line) for line in out.splitlines())


def _interrupted_and_resumed(directory: Path, count: int, ends: list[signal.Signals], seed: int) -> None:
    """`count` lines, a run that is ended at a random moment with each of `ends`, and one that may finish: every line
    has one answer, the same as alone."""
    path, output, chance = directory / "prompts.jsonl", directory / "answers.jsonl", random.Random(seed)
    path.write_text(
        "".join(json.dumps({"prompt": f"What is {i} plus 30?", "id": f"n{i}"}) + "\n" for i in range(count))
    )
    command = [*RUN, str(path), "--output", str(output), "--resume", "--max-tokens", "6"]
    for end in ends:
        running = subprocess.Popen(
            command,
            stderr=subprocess.DEVNULL,
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
        )
        before = len(output.read_bytes().splitlines()) if output.exists() else 0
        more = chance.randrange(0, max(1, count // (len(ends) + 1)))
        until = time.monotonic() + 120
        while running.poll() is None and time.monotonic() < until:
            if output.exists() and len(output.read_bytes().splitlines()) >= before + more:
                break
            time.sleep(0.01)
        time.sleep(chance.random() / 10)
        running.send_signal(end)
        assert running.wait(60) in (0, 130, -end)
    done = subprocess.run(command, capture_output=True, timeout=300)
    assert (done.returncode, done.stdout, done.stderr) == (0, b"", b"")
    answers = [json.loads(line) for line in output.read_text().splitlines()]
    assert sorted(a["line"] for a in answers) == list(range(1, count + 1))
    assert all(a["id"] == f"n{a['line'] - 1}" and a["text"] for a in answers)


def test_a_run_that_was_ended_goes_on_and_answers_every_line_once(tmp_path: Path) -> None:
    _interrupted_and_resumed(tmp_path, 80, [signal.SIGKILL, signal.SIGINT], 1)


@pytest.mark.slow
def test_ten_random_ends(tmp_path: Path) -> None:
    _interrupted_and_resumed(tmp_path, 200, [signal.SIGKILL, signal.SIGINT] * 5, 2)


def test_resuming_drops_errors_and_a_cut_line_and_keeps_answers(tmp_path: Path) -> None:
    path, output = tmp_path / "prompts.jsonl", tmp_path / "answers.jsonl"
    path.write_text(GOOD + "\n{}\n")
    code, _, said = run(path, "-o", str(output))
    assert code == 6 and f"{path}:2: has no prompt" in said
    first, second = output.read_text().splitlines()
    kept = first if "text" in json.loads(first) else second
    with output.open("a") as file:
        file.write(kept[:40])
    code, _, said = run(path, "-o", str(output))
    assert code == 2 and "exists; give --resume" in said
    path.write_text(GOOD + '\n{"prompt": "What is 2 plus 3?"}\n')
    assert run(path, "-o", str(output), "--resume")[0] == 0
    lines = output.read_text().splitlines()
    assert lines[0] == kept and len(lines) == 2 and json.loads(lines[1])["line"] == 2
    assert list(tmp_path.glob(".answers*")) == []
    output.write_text("a shopping list\n")
    code, _, said = run(path, "-o", str(output), "--resume")
    assert code == 2 and "answers.jsonl:1: is not a record of `run --file`" in said
    assert output.read_text() == "a shopping list\n"


def test_lines_that_are_the_same_are_each_answered(tmp_path: Path) -> None:
    path, output = tmp_path / "prompts.jsonl", tmp_path / "answers.jsonl"
    path.write_text(GOOD + "\n")
    assert run(path, "-o", str(output))[0] == 0
    path.write_text((GOOD + "\n") * 3)
    assert run(path, "-o", str(output), "--resume")[0] == 0
    assert [json.loads(line)["text"] for line in output.read_text().splitlines()] == ["42"] * 3


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["hi", "--resume"], "--resume needs --output"),
        (["hi", "-o", "x"], "--output works with --file only"),
        (["hi", "--file", "x"], "--file cannot be combined with a prompt or -f"),
        (["-f", "x", "--file", "x"], "--file cannot be combined with a prompt or -f"),
        (["hi", "-f", "nowhere.txt"], "nowhere.txt: cannot be read"),
    ],
)
def test_options_that_do_not_go_together(words: list[str], said: str) -> None:
    done = command(*WORDS[:-1], *words)
    assert done.returncode == 2 and said in done.stderr and done.stdout == ""


def test_files_and_standard_input_stand_before_the_prompt(tmp_path: Path) -> None:
    notes = tmp_path / "notes.txt"
    notes.write_text("What is 10")
    ask = [*WORDS[:-1], "--temperature", "0", "--raw", "--json", "--max-tokens", "1"]
    prompts = []
    for words, given in (
        (["plus 4?", "-f", str(notes)], b""),
        (["plus 4?"], b"What is 10\n"),
        (["plus 4?", "-f", "-"], b"What is 10\n"),
        (["What is 10\n\nplus 4?"], b""),
    ):
        done = command(*ask, *words, stdin=given)
        prompts.append(json.loads(done.stdout)["receipt"]["tokens"]["prompt"])
    assert len(set(prompts)) == 1
    done = subprocess.run([*RUN[:-1], *ask[3:], "plus 4?"], capture_output=True, stdin=subprocess.DEVNULL)
    assert json.loads(done.stdout)["receipt"]["tokens"]["prompt"] < prompts[0]
