"""Prompts and texts as they are given: an argument, standard input, a file."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from trilens.errors import UsageError

if TYPE_CHECKING:
    from trilens.model import Prompt


def prompt_text(prompt: str | None) -> str:
    if prompt is None or prompt == "-":
        if prompt is None and sys.stdin.isatty():
            raise UsageError("no prompt; give one as an argument, on standard input, or with --file")
        try:
            prompt = sys.stdin.buffer.read().decode("utf-8").strip("\n")
        except UnicodeDecodeError:
            raise UsageError("standard input is not UTF-8 text; expected a prompt") from None
    if not prompt.strip():
        raise UsageError("the prompt is empty; give one as an argument, on standard input, or with --file")
    return prompt


def text_of(file: str) -> str:
    """A text file's content, or standard input's for "-"."""
    try:
        content = sys.stdin.buffer.read() if file == "-" else Path(file).read_bytes()
        return content.decode("utf-8")
    except OSError as problem:
        raise UsageError(f"{file}: cannot be read ({problem.strerror}); expected a text file, or -") from None
    except UnicodeDecodeError:
        raise UsageError(f"{file}: is not UTF-8 text; expected one model name a line") from None


def prompts_of(path: Path) -> list[Prompt]:
    """A JSON line each: a string, or an object with `prompt` (a string) or `messages` (a conversation)."""
    try:
        # a line ends where JSON lines say so, not at U+2028 inside a text; some editors begin a file with a mark
        lines = path.read_bytes().decode("utf-8-sig").split("\n")
    except OSError as problem:
        raise UsageError(f"{path}: cannot be read ({problem.strerror})") from None
    except UnicodeDecodeError:
        raise UsageError(f"{path}: is not UTF-8 text; expected JSON lines") from None
    prompts: list[Prompt] = []
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            entry = json.loads(line)
        except (ValueError, RecursionError):
            raise UsageError(f'{path}:{number}: not JSON; expected a line such as {{"prompt": "..."}}') from None
        found: Any = entry.get("prompt", entry.get("messages")) if isinstance(entry, dict) else entry
        conversation = isinstance(found, list) and found and all(isinstance(m, dict) for m in found)
        if not (isinstance(found, str) and found) and not conversation:
            raise UsageError(f'{path}:{number}: has no prompt; expected {{"prompt": "..."}} or {{"messages": [...]}}')
        prompts.append(found)
    if not prompts:
        raise UsageError(f"{path}: holds no prompts; expected JSON lines")
    return prompts


def with_system(system: str, prompt: Prompt) -> Prompt:
    messages = [{"role": "user", "content": prompt}] if isinstance(prompt, str) else list(prompt)
    return [{"role": "system", "content": system}, *messages]
