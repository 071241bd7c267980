"""Conversations on disk, for /save, /load and `chat -c`."""

from __future__ import annotations

import json
import os
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from trilens.errors import BadCheckpoint, UsageError
from trilens.files import read_json_object


@dataclass
class Saved:
    """`messages` are turns of a question and its answer, as templates take them; `thinking` is a word of --thinking."""

    model: str | None = None
    system: str | None = None
    thinking: str | None = None
    messages: list[dict[str, Any]] = field(default_factory=list)


def state_directory() -> Path:
    import platformdirs

    return platformdirs.user_state_path("trilens")


def last_conversation() -> Path:
    return state_directory() / "last-conversation.json"


def write_conversation(path: Path, saved: Saved) -> None:
    """Write the whole file or nothing, readable by its owner only. Raises OSError."""
    new = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        descriptor = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        with os.fdopen(descriptor, "w", encoding="utf-8") as file:
            json.dump(asdict(saved), file, indent=1, default=lambda value: None)
        new.replace(path)
    finally:
        new.unlink(missing_ok=True)


def read_conversation(path: Path) -> Saved:
    """Raises UsageError for a file that is not a saved conversation."""
    try:
        found = read_json_object(path)
    except FileNotFoundError:
        raise UsageError(f"{path}: no such file; expected a conversation that was saved") from None
    except BadCheckpoint as problem:
        raise UsageError(str(problem)) from None
    messages = found.get("messages")
    model, system, thinking = texts = [found.get(name) for name in ("model", "system", "thinking")]
    roles = ["user", "assistant"]
    if (
        not isinstance(messages, list)
        or len(messages) % 2
        or not all(isinstance(m, dict) and m.get("role") == roles[i % 2] for i, m in enumerate(messages))
        or not all(isinstance(m.get("content"), str) for m in messages)
        or not all(text is None or isinstance(text, str) for text in texts)
    ):
        raise UsageError(
            f"{path}: is not a saved conversation; expected messages of the user and the assistant in turn"
        )
    return Saved(model, system, thinking, messages)
