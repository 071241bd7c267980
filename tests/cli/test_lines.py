"""`run --file`: every line is a request of its own."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from trilens.cli.lines import MOST_BYTES, TYPES, open_lines, parsed
from trilens.errors import UsageError

RUN = [sys.executable, "-m", "trilens", "run", "--model", "tiny-dense", "--file"]
GOOD = '{"prompt": "What is 12 plus 30?"}'
BAD = (
    *("{", "{}", "[1]", "7", "null", '""', '{"prompt": 3}', '{"prompt": ""}', '{"prompt": ["a"]}', "\x00", "nan"),
    *('{"messages": []}', '{"messages": [1]}', '{"messages": "hi"}', '{"prompt": "a", "messages": [{}]}'),
    *('{"prompt": "a", "maxtokens": 3}', '{"prompt": "\\ud800"}', '{"\\ud800": 1, "prompt": "a"}', "[" * 100_000),
)
# wrong for every option but `id` and `stop`, which take some of these
WRONG: tuple[Any, ...] = ({}, {"a": 1}, [1], [[]], [None])


def run(path: Path, *options: str) -> tuple[int, list[Any], str]:
    done = subprocess.run([*RUN, str(path), *options], capture_output=True, timeout=120)
    return done.returncode, [json.loads(line) for line in done.stdout.splitlines()], done.stderr.decode()


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
        with pytest.raises(UsageError, match="holds no prompts"):
            list(open_lines(path))
    with pytest.raises(UsageError, match="cannot be read"):
        list(open_lines(tmp_path))


def test_many_lines_keep_their_order_and_their_answers(tmp_path: Path) -> None:
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
        first = json.loads(running.stdout.readline())
        assert (first["line"], first["text"]) == (1, "42")
        feed.write(GOOD + "\n")
        feed.flush()
        assert json.loads(running.stdout.readline())["line"] == 2
        running.send_signal(signal.SIGINT)
        out, err = running.communicate(timeout=60)
    assert running.returncode == 130 and err.decode() == "trilens: interrupted\n"
    assert all("text" in json.loads(line) for line in out.splitlines())
