"""Agents and frameworks as people install them, unchanged, against the scripted model: a chat, a stream, a loop of a
tool, a structured answer and a second turn. Whatever one of them sends by itself is accepted."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from tests.clients.conftest import MINUTES
from tests.serve.conftest import Served

pytestmark = pytest.mark.clients
PROGRAMS = Path(__file__).parent / "programs"
SCHEMA = {
    "type": "object",
    "properties": {"name": {"type": "string"}, "age": {"type": "integer"}},
    "required": ["name", "age"],
    "additionalProperties": False,
}
ADA = {"name": "Ada", "age": 36}
SAY_ADA = '[[say {"name":"Ada","age":36}]]'
BEFORE = "Before this I said 1 times, last: PONG"
ECHO = "echo marker-$((40+2))"

Run = Callable[..., str]


@pytest.fixture
def run(tmp_path: Path, scripted: Served) -> Run:
    """A program with a home and a directory of its own; what it wrote to its output."""
    home, work = tmp_path / "home", tmp_path / "work"
    home.mkdir()
    work.mkdir()
    base = {"PATH": os.environ["PATH"], "HOME": str(home), "TRILENS_URL": scripted.url}

    def program(command: Sequence[str | Path], more: dict[str, str] | None = None, said: str = "") -> str:
        done = subprocess.run(
            [str(part) for part in command],
            input=said,
            capture_output=True,
            text=True,
            cwd=work,
            env={**base, **(more or {})},
            timeout=3 * MINUTES,
            check=False,
        )
        assert done.returncode == 0, f"{done.stdout[-1500:]}\n{done.stderr[-3000:]}"
        return done.stdout

    program.home, program.work = home, work  # type: ignore[attr-defined]
    return program


@pytest.mark.parametrize("name", ["langchain", "litellm", "pydantic_ai", "instructor", "agents"])
def test_python_frameworks(name: str, python: Path, run: Run) -> None:
    run([python / "python", PROGRAMS / f"{name}_client.py"], {"LITELLM_LOCAL_MODEL_COST_MAP": "True"})


@pytest.mark.parametrize("name", ["ai_sdk", "langchain"])
def test_node_frameworks(name: str, node: Path, run: Run) -> None:
    program = node / f"{name}_client.mjs"  # modules are looked for beside the program
    program.write_text((PROGRAMS / f"{name}_client.mjs").read_text())
    run(["node", program])


def test_claude_code(node: Path, run: Run, scripted: Served) -> None:
    settings = {
        "ANTHROPIC_BASE_URL": scripted.url,
        "ANTHROPIC_API_KEY": "none",
        "ANTHROPIC_MODEL": "tiny-dense",
        "DISABLE_AUTOUPDATER": "1",
        "CLAUDE_CODE_DISABLE_NONESSENTIAL_TRAFFIC": "1",
    }

    def claude(*arguments: str) -> str:
        return run([node / "node_modules" / ".bin" / "claude", "-p", *arguments], settings)

    assert claude("[[say PONG]]").strip() == "PONG"
    assert claude("--continue", "[[recall]]").strip() == BEFORE
    stream = claude("--output-format", "stream-json", "--verbose", "--include-partial-messages", "[[say one two]]")
    events = [event["event"] for event in map(json.loads, stream.splitlines()) if event["type"] == "stream_event"]
    deltas = [event["delta"] for event in events if event["type"] == "content_block_delta"]
    assert "".join(delta.get("text", "") for delta in deltas) == "one two"
    call = f"[[call Bash {json.dumps({'command': ECHO, 'description': 'x'})}]]"
    assert claude("--allowedTools", "Bash(echo:*)", "--", call).strip() == "The tool says: marker-42"
    asked = f"[[call StructuredOutput {json.dumps(ADA)}]]"
    made = json.loads(claude("--output-format", "json", "--json-schema", json.dumps(SCHEMA), asked))
    assert made["structured_output"] == ADA


def test_codex(node: Path, run: Run, scripted: Served) -> None:
    provider = {"name": "trilens", "base_url": f"{scripted.url}/v1", "wire_api": "responses"}
    lines = ['model = "tiny-dense"', 'model_provider = "trilens"', "[model_providers.trilens]"]
    folder: Path = run.home / ".codex"  # type: ignore[attr-defined]
    folder.mkdir()
    (folder / "config.toml").write_text("\n".join([*lines, *(f'{k} = "{v}"' for k, v in provider.items())]))
    (run.work / "schema.json").write_text(json.dumps(SCHEMA))  # type: ignore[attr-defined]

    def codex(*arguments: str) -> str:
        return run([node / "node_modules" / ".bin" / "codex", "exec", *arguments])

    skip = "--skip-git-repo-check"
    assert codex(skip, "[[say PONG]]").strip() == "PONG"
    assert codex("resume", "--last", skip, "[[recall]]").strip() == BEFORE
    events = [json.loads(line) for line in codex(skip, "--json", "[[say one two]]").splitlines()]
    said = [event["item"]["text"] for event in events if event.get("item", {}).get("type") == "agent_message"]
    assert said == ["one two"]
    call = f"[[call exec_command {json.dumps({'cmd': ECHO})}]]"
    assert "marker-42" in codex(skip, "--dangerously-bypass-approvals-and-sandbox", call)
    assert json.loads(codex(skip, "--output-schema", "schema.json", SAY_ADA)) == ADA


def test_opencode(node: Path, run: Run, scripted: Served) -> None:
    """It asks for no structured answers."""
    provider: dict[str, Any] = {
        "npm": "@ai-sdk/openai-compatible",
        "options": {"baseURL": f"{scripted.url}/v1", "apiKey": "none"},
        "models": {"tiny-dense": {"name": "tiny"}},
    }
    settings = {"provider": {"trilens": provider}, "small_model": "trilens/tiny-dense", "autoupdate": False}
    (run.work / "opencode.json").write_text(json.dumps(settings))  # type: ignore[attr-defined]

    def opencode(*arguments: str) -> str:
        return run([node / "node_modules" / ".bin" / "opencode", "run", "-m", "trilens/tiny-dense", *arguments])

    assert opencode("[[say PONG]]").strip() == "PONG"
    assert opencode("--continue", "[[recall]]").strip() == BEFORE
    events = [json.loads(line) for line in opencode("--format", "json", "[[say one two]]").splitlines()]
    assert [event["part"]["text"] for event in events if event["type"] == "text"] == ["one two"]
    call = f"[[call bash {json.dumps({'command': ECHO, 'description': 'x'})}]]"
    assert "The tool says: marker-42" in opencode(call)


def test_aider(aider: Path, run: Run, scripted: Served) -> None:
    """Its tool is the edit of a file, which it reads from the answer's text."""
    quiet = ("--no-git", "--yes-always", "--no-check-update", "--no-show-model-warnings", "--analytics-disable")
    settings = {"OPENAI_API_BASE": f"{scripted.url}/v1", "OPENAI_API_KEY": "none"}

    def ask(*arguments: str, said: str = "") -> str:
        command = [aider / "aider", "--model", "openai/tiny-dense", "--no-pretty", "--edit-format", "whole", *quiet]
        return run([*command, *arguments], settings, said)

    assert "\nPONG\n" in ask("--message", "[[say PONG]]")
    assert "\nPONG\n" in ask("--no-stream", "--message", "[[say PONG]]")
    ask("--message", "[[say hello.txt\n```\nwritten here\n```\n]]")
    assert (run.work / "hello.txt").read_text() == "written here\n"  # type: ignore[attr-defined]
    assert "last: PONG" in ask(said="[[say PONG]]\n[[recall]]\n/exit\n")


def test_llm(python: Path, run: Run, scripted: Served) -> None:
    folder: Path = run.home / "llm"  # type: ignore[attr-defined]
    folder.mkdir()
    model = {"model_id": "tiny", "model_name": "tiny-dense", "api_base": f"{scripted.url}/v1"}
    able = {"supports_tools": True, "supports_schema": True}
    (folder / "extra-openai-models.yaml").write_text(json.dumps([{**model, **able}]))

    def llm(*arguments: str) -> str:
        settings = {"LLM_USER_PATH": str(folder), "OPENAI_API_KEY": "none"}
        return run([python / "llm", *arguments], settings).strip()

    assert llm("-m", "tiny", "--no-stream", "[[say PONG]]") == "PONG"
    assert llm("-c", "[[recall]]") == BEFORE
    assert llm("-m", "tiny", "[[say one two]]") == "one two"
    assert llm("-m", "tiny", "-T", "llm_version", "[[call llm_version {}]]").startswith("The tool says: ")
    assert json.loads(llm("-m", "tiny", "--schema", "name,age int", SAY_ADA)) == ADA
