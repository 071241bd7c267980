"""Exit codes as the README says, for every command: wrong arguments are generated from the commands themselves."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import click
import pytest

from trilens import errors
from trilens.cli import commands, main
from trilens.cli.inputs import as_typed
from trilens.cli.options import Bytes, ThinkingWord

# What a command needs to get as far as the option that is wrong.
NEEDED = {
    **{name: ["tiny-dense"] for name in ("card", "plan", "thinking", "pull", "bench", "show", "rm")},
    "compare": ["tiny-dense", "tiny-routed"],
    "tag": ["names.txt"],
    "trace": ["tiny-routed", "hi"],
    "quantise": ["tiny-dense", "-o", "new.gguf"],
    "perplexity": ["tiny-dense", "names.txt"],
    "serve": ["tiny-dense"],
    "run": ["hi", "--model", "tiny-dense"],
    "chat": ["--model", "tiny-dense"],
}
# Options that take a text which is then read: values that no model and no machine could take.
READ = {
    "--regex": ["(", "[a-", "a{2,1}", "(?<=a)b", "*", "x" * 70_000, ""],
    "--schema": ["{", "[1]", '{"type": 5}', '{"type": "string", "minLength": "x"}', "nowhere.json", "names.txt", ""],
    "--grammar": ["nowhere.gbnf", "names.txt", ""],
    "--choice": [""],
    "--stop": [""],
    "--model": [""],
    "-f": ["nowhere.txt", ""],
    "--file": ["nowhere.jsonl", ""],
    "--adapter": ["poet", "=path", "poet=", "a poet=names.txt", ""],
    "--kv-type": ["q9", "F16 ", ""],
    "--machine": ["nosuch", "h100x0", "h100x", "x8", ""],
    "--engine": ["nosuch", ""],
    "--plot": ["out.bmp", "out", ""],
    "--quantise": ["3bit", ""],
    "--since": ["yesteryear", "-1d", "2026-13-01", ""],
    "--export": ["machine.txt", "machine", ""],
    "--to": ["Q9_K", "4", ""],
}
# Any text will do, or it is a place to write to, or nothing can be said of it here.
FREE = {"--system", "--ignore-key", "--prefix-dir", "-o", "--host", "--api-key", "--origin", "--share"}
FREE |= {"--engine-path", "--master-addr"}  # read where an engine is started
# Words of Python that mean nothing to somebody at a terminal.
PYTHON = re.compile(r"\b(None|True|False|NoneType|dict|int|str|tuple|list of str|Traceback|Exception|object at 0x)\b")


def _wrong_values(kind: click.ParamType) -> list[str]:  # type: ignore[type-arg]
    match kind:
        case click.IntRange():
            low = [] if kind.min is None else [str(kind.min - 1), str(-(10**30))]
            return ["x", "1.5", "", *low, *([] if kind.max is None else [str(kind.max + 1), str(10**30)])]
        case click.FloatRange():
            low = [] if kind.min is None else [str(kind.min if kind.min_open else kind.min - 1)]
            return ["x", "nan", "inf", *low, *([] if kind.max is None else [str(kind.max + 1)])]
        case click.Choice():
            return ["nosuch", "8BIT", "-"]
        case Bytes():
            return ["x", "-1", "0", "4 elephants"]
        case ThinkingWord():
            return ["zebra", "-5", "1.5", ""]
    return ["x", ""] if kind.name in ("integer", "float") else []


def _cases() -> Iterator[tuple[str, list[str]]]:
    for name, command in commands.commands.items():
        needed = NEEDED.get(name, [])
        yield name, [*needed, "--nosuch-option"]
        required = [p for p in command.params if isinstance(p, click.Argument) and p.required]
        if required:
            yield name, []
        if all(p.nargs != -1 for p in command.params if isinstance(p, click.Argument)):
            yield name, [*needed, "one", "two", "three"]
        for option in command.params:
            if isinstance(option, click.Option) and not option.is_flag:
                yield name, [*needed, option.opts[0]]  # without a value
                read = READ.get(option.opts[0], []) if not isinstance(option.type, click.Choice) else []
                free = name in ("log", "cost") and option.opts[0] == "--model"  # a call's model may have any name
                for value in [*_wrong_values(option.type), *([] if free else read)]:
                    yield name, [*needed, f"{option.opts[0]}={value}"]


CASES = list(_cases())


def test_there_are_enough_cases_of_every_command() -> None:
    assert len(CASES) > 200
    assert {name for name, _ in CASES} == set(commands.commands)
    for name, command in commands.commands.items():
        for option in command.params:
            if isinstance(option, click.Option) and not option.is_flag and not _wrong_values(option.type):
                assert {option.opts[0]} & {*READ, *FREE}, f"{name} {option.opts[0]}: say what it takes"


@pytest.mark.parametrize("name", list(commands.commands))
def test_wrong_usage_is_one_line_and_2(
    name: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "names.txt").write_text("some model\n")
    for command, words in CASES:
        if command == name:
            assert main([command, *words]) == 2, (command, words)
            said = capsys.readouterr()
            assert said.out == "" and said.err.startswith("trilens: ") and said.err.count("\n") == 1, words
            assert not PYTHON.search(said.err), said.err


# Every option that names a file to write, with what the command needs besides.
WRITES = {
    "run": ["--file", "prompts.jsonl", "--model", "tiny-dense", "--max-tokens", "1", "-o"],
    "compare": ["tiny-dense", "tiny-routed", "--plot"],
    "trace": ["tiny-routed", "hi", "--plot"],
    "bench": ["tiny-dense", "--prompt", "4", "--decode", "2", "--repeat", "1", "--share"],
    "doctor": ["--export"],
    "quantise": ["tiny-dense", "--to", "Q8_0", "-o"],
}
ENDINGS = {"compare": "svg", "trace": "svg", "bench": "csv", "doctor": "json", "quantise": "gguf", "run": "jsonl"}


def test_every_written_file_is_tried() -> None:
    written = {"-o", "--plot", "--share", "--export"}
    for name, command in commands.commands.items():
        taken = {option.opts[0] for option in command.params} & written
        assert taken == ({WRITES[name][-1]} if name in WRITES else set()), name


@pytest.mark.usefixtures("measured_roughly")
@pytest.mark.parametrize("name", WRITES)
def test_what_cannot_be_written_is_said(
    name: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "prompts.jsonl").write_text('{"prompt": "hi"}\n')
    place = tmp_path / "nowhere" / f"file.{ENDINGS[name]}"
    assert main([name, *WRITES[name], str(place)]) == 2
    said = capsys.readouterr().err.strip().splitlines()[-1]
    assert said.startswith("trilens: ") and str(place) in said and "bug" not in said
    assert not place.parent.exists()


# By hand: values whose check needs more than their own option. (command, exit code, a part of what is said)
MORE = [
    ("plan tiny-dense --engine nosuch", 2, "engine 'nosuch' is unknown; expected one of trilens"),
    ("plan tiny-dense --kv-type q9", 2, "KV type 'q9' is unknown"),
    ("plan tiny-dense --quantise 3bit", 2, "expected own"),
    ("plan tiny-dense --machine h100x0", 2, "0 devices"),
    ("plan tiny-dense --machine nosuch", 2, "machine 'nosuch' is unknown"),
    ("plan smollm2 --thinking on --offline", 6, "never thinks"),
    ("card tiny-dense --context 99999999", 2, "1 to "),
    ("card tiny-dense --kv-type zz", 2, "kv_type is 'zz'"),
    ("compare tiny-dense --plot x.bmp", 2, "expected .svg or .png"),
    ("compare tiny-dense --thinking on", 2, "name the machine too"),
    ("thinking tiny-dense --engine nosuch", 2, "engine is 'nosuch'"),
    ("tag nowhere.txt", 2, "nowhere.txt: no such file"),
    ("run hi --model nosuch", 5, "'nosuch': no path that exists"),
    ("run hi --model llama3", 5, "may mean llama-3-70b"),
    ("run hi --model gpt-4o", 5, "a hosted model of OpenAI"),
    ("run hi --model openai:", 2, "names no model"),
    ("run hi --model tiny-dense --thinking high", 6, "no levels of thinking"),
    ("run hi --model tiny-dense --schema {", 2, "--schema is not JSON"),
    ("run hi --model tiny-dense --schema nowhere.json", 2, "nowhere.json: cannot be read"),
    ("run hi --model tiny-dense --grammar nowhere", 2, "nowhere: cannot be read"),
    ("run hi --model tiny-dense --regex (", 2, "the regex cannot be followed"),
    ("run hi --model tiny-dense --regex a --choice b", 2, "--regex and --choice both say what the answer is"),
    ("run hi --model tiny-dense --file nowhere", 2, "give one of them"),
    ("run --model tiny-dense --file nowhere", 2, "nowhere: cannot be read"),
    ("run hi --model tiny-dense --raw --system x", 2, "leave out --raw"),
    ("run hi --model tiny-dense --executor torch --kv 8bit", 2, "unknown to the torch executor"),
    ("run hi --model openai:gpt-4o --threads 2", 2, "--threads is for models that run here"),
    ("chat --model nosuch", 5, "no path that exists"),
    ("serve nosuch", 5, "no path that exists"),
    ("serve gpt-4o", 5, "a hosted model"),
    ("serve nowhere.gguf", 5, "no such file"),
    ("serve tiny-dense --api-key=", 2, "the API key is empty"),
    ("serve tiny-dense --nnodes 2", 2, "--nnodes is for an engine"),
    ("serve tiny-dense tiny-dense", 2, "two models would be served"),
    ("pull nosuch", 5, "no path that exists"),
    ("show nosuch", 5, "no path that exists"),
    ("rm nosuch", 5, "is not on this disk"),
    ("rm tiny-dense", 6, "comes with trilens"),
    ("bench nosuch", 5, "no path that exists"),
    ("trace nosuch hi", 5, "no path that exists"),
    ("card broken.gguf", 4, "broken.gguf"),
    ("plan config.json", 3, "megalodon"),
]  # fmt: skip


@pytest.mark.usefixtures("smollm2")
@pytest.mark.parametrize(("line", "code", "said"), MORE, ids=[line for line, _, _ in MORE])
def test_other_wrong_arguments(
    line: str, code: int, said: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("OPENAI_API_KEY", "none")
    (tmp_path / "broken.gguf").write_bytes(b"GGUF" + b"\xff" * 40)
    (tmp_path / "config.json").write_text('{"model_type": "megalodon"}')
    assert main(line.split(" ")) == code
    told = capsys.readouterr()
    assert told.out == "" and told.err.count("\n") == 1 and said in told.err, told.err
    assert not PYTHON.search(told.err), told.err


def test_a_cache_whose_path_is_too_long_is_no_bug(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("TRILENS_CACHE", str(tmp_path / ("x" * 300)))
    answering = "run hi --model tiny-dense --temperature 0 --keep-packed"
    for line in ("doctor", "models", "card tiny-dense", "show tiny-dense", answering):
        assert main(line.split()) == 0, line
        if line == "doctor":
            assert "(does not exist yet)" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("said", "typed"),
    [
        ("thinking is True; expected False or a level", "thinking is on; expected off or a level"),
        ("thinking is 'a True story'; expected True", "thinking is 'a True story'; expected on"),
        ("'True': no path that exists", "'True': no path that exists"),
    ],
)
def test_an_error_has_the_command_lines_words_but_the_users_own_quotes(said: str, typed: str) -> None:
    assert as_typed(said) == typed


def test_the_readme_says_the_codes_that_the_errors_have() -> None:
    readme = (Path(__file__).parents[2] / "README.md").read_text()
    stated = readme[readme.index("**Exit codes.**") : readme.index("## Read the code")]
    assert re.findall(r"^\| (\d+) \|", stated, re.MULTILINE) == "0 1 2 3 4 5 6 7 130 141".split()
    codes = {
        name: kind.exit_code
        for name, kind in vars(errors).items()
        if isinstance(kind, type) and issubclass(kind, errors.TrilensError) and kind is not errors.TrilensError
    }
    assert set(codes.values()) == {2, 3, 4, 5, 6, 7}


def test_bare_trilens_prints_its_help(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([]) == 0
    said = capsys.readouterr()
    assert said.err == "" and said.out.startswith("Usage: trilens") and "\n  chat " in said.out


@pytest.mark.parametrize("name", list(commands.commands))
def test_too_many_and_missing_arguments_say_what_is_expected(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    command = commands.commands[name]
    arguments = [p for p in command.params if isinstance(p, click.Argument)]
    given = [p.type.choices[0] if isinstance(p.type, click.Choice) else "x" for p in arguments]
    tries: list[list[str]] = [[]] if any(p.required for p in arguments) else []
    if all(p.nargs == 1 for p in arguments):
        tries.append([*given, "one too many"])
    for words in tries:
        assert main([name, *words]) == 2
        said = capsys.readouterr().err
        assert f"; expected trilens {name} " in said and f"as in: trilens {name} " in said, said


def test_a_name_where_a_file_of_names_is_expected_is_told_of_card(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["tag", "qwen3"]) == 2
    assert capsys.readouterr().err.endswith("For one name: trilens card qwen3\n")
