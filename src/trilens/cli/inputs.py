"""Prompts and texts from an argument, standard input or a file."""

from __future__ import annotations

import json
import os
import re
import stat
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from trilens import system
from trilens.cli.streams import read_input
from trilens.errors import UsageError

if TYPE_CHECKING:
    from trilens.model import Prompt


def prompt_text(prompt: str | None) -> str:
    if prompt is None or prompt == "-":
        if prompt is None and sys.stdin.isatty():
            raise UsageError("no prompt; give one as an argument, on standard input, or with --file")
        try:
            prompt = read_input().decode("utf-8").strip("\n")
        except UnicodeDecodeError:
            raise UsageError("standard input is not UTF-8 text; expected a prompt") from None
    if not is_text(prompt):
        raise UsageError("the prompt is not UTF-8 text; expected a prompt")
    if not prompt.strip():
        raise UsageError("the prompt is empty; give one as an argument, on standard input, or with --file")
    return prompt


def prompt_with_context(prompt: str | None, files: tuple[str, ...]) -> str:
    """The prompt after the files of -f and the text on standard input."""
    texts = [text_of(file) for file in files]
    if prompt is not None and prompt != "-" and "-" not in files and _something_comes_in():
        texts.append(text_of("-"))
    return "\n\n".join([*(text.strip("\n") for text in texts if text.strip()), prompt_text(prompt)])


def _something_comes_in() -> bool:
    """Whether standard input is a pipe or a file, and not a terminal, /dev/null or closed."""
    try:
        kind = os.fstat(sys.stdin.fileno()).st_mode
    except (OSError, ValueError):
        return False
    if stat.S_ISFIFO(kind) and not system.has_input(sys.stdin, 1):
        print("trilens: waiting for the end of standard input, which is a pipe; </dev/null for none", file=sys.stderr)
    return stat.S_ISFIFO(kind) or stat.S_ISREG(kind)


def is_text(said: str) -> bool:
    """Whether it is valid in UTF-8. Invalid bytes on the command line arrive as halves of surrogate pairs."""
    try:
        said.encode()
    except UnicodeEncodeError:
        return False
    return True


def as_typed(said: str) -> str:
    """An error about thinking, with values as they are typed on the command line instead of Python's spelling. Text in
    quotes is what the user typed.
    """
    if "thinking" not in said:
        return said
    return re.sub(
        r"'[^']*'|\b(?:True|False)\b", lambda found: {"True": "on", "False": "off"}.get(found[0], found[0]), said
    )


def text_of(file: str) -> str:
    """A text file's content, or standard input's for "-"."""
    try:
        content = read_input() if file == "-" else Path(file).read_bytes()
        return content.decode("utf-8")
    except OSError as problem:
        raise UsageError(f"{file}: cannot be read ({problem.strerror}); expected a text file, or -") from None
    except UnicodeDecodeError:
        raise UsageError(f"{file}: is not UTF-8 text; expected a text file") from None


def structure(options: dict[str, Any]) -> dict[str, Any]:
    """Remove the options for the answer's form and return the one that was given, read from its file. Raises
    UsageError, and SchemaRefused for a form that no model can follow.
    """
    schema, regex, choice, grammar = (options.pop(name) for name in ("schema", "regex", "choice", "grammar"))
    every = {"schema": schema, "regex": regex, "choice": choice or None, "grammar": grammar}
    stated = [name for name, value in every.items() if value is not None]
    if len(stated) > 1:
        raise UsageError(f"--{stated[0]} and --{stated[1]} both say what the answer is; give one of them")
    held: dict[str, Any] = {"regex": regex, "choice": choice or None}
    if schema is not None:
        said = schema if schema.lstrip().startswith("{") else text_of(schema)
        try:
            held["schema"] = json.loads(said)
        except (ValueError, RecursionError) as problem:
            raise UsageError(f"--schema is not JSON ({problem}); expected a JSON schema, or a file with one") from None
        if not isinstance(held["schema"], dict):
            raise UsageError("--schema is not an object; expected a JSON schema, or a file with one")
    if grammar is not None:
        held["grammar"] = text_of(grammar)
    held = {name: value for name, value in held.items() if value is not None}
    for name, value in held.items():
        from trilens.generate.grammar import check_form

        check_form(name, value)
    return held


def with_system(system: str, prompt: Prompt) -> Prompt:
    messages = [{"role": "user", "content": prompt}] if isinstance(prompt, str) else list(prompt)
    return [{"role": "system", "content": system}, *messages]
