"""What is shown while something goes on: an answer as it comes, its thinking, a line of progress; and Ctrl-C."""

from __future__ import annotations

import signal
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from trilens.hosted.model import HostedStream
    from trilens.model import Stream

# A model can write anything; on a terminal an escape sequence in its answer would be obeyed. A pipe gets every byte.
UNSAFE = {code: "\N{REPLACEMENT CHARACTER}" for code in (*range(32), *range(127, 160)) if chr(code) not in "\n\t"}


def say(line: str) -> None:
    print(f"trilens: {line}", file=sys.stderr)


class Progress:
    """A line on a terminal's standard error while weights are read; nothing elsewhere, and nothing for quick loads."""

    def __init__(self, name: str, doing: str = "loading") -> None:
        self.name = name
        self.doing = doing
        self.shown = False
        self.started = self.last = time.monotonic()
        self.wanted = sys.stderr.isatty()

    def __call__(self, done: int, total: int) -> None:
        now = time.monotonic()
        if self.wanted and now - self.started > 1 and (now - self.last > 0.2 or done == total):
            self.last, self.shown = now, True
            print(f"\r{self.doing} {self.name} {100 * done // max(total, 1):3} %", end="", file=sys.stderr, flush=True)
        if done == total and self.shown:
            print("\r\033[K", end="", file=sys.stderr, flush=True)


def print_stream(stream: Stream | HostedStream, quiet: bool, hide: bool) -> dict[str, Any]:
    """Print an answer as it comes, its thinking beside it and its receipt behind it; the message for the next turn."""
    from trilens.text.events import EndEvent, TextEvent, ThinkingEvent, ToolCallEvent

    said: dict[str, list[str]] = {"content": [], "thinking": []}
    state: Any = None
    answers, errors = sys.stdout.isatty(), sys.stderr.isatty()
    for event in stream:
        match event:
            case ThinkingEvent(text):
                said["thinking"].append(text)
                if not hide:
                    shown = f"\033[2m{text.translate(UNSAFE)}\033[0m" if errors else text
                    print(shown, end="", file=sys.stderr, flush=True)
            case TextEvent(text):
                if said["thinking"] and not said["content"] and not hide:
                    print("\n", file=sys.stderr)
                said["content"].append(text)
                print(text.translate(UNSAFE) if answers else text, end="", flush=True)
            case ToolCallEvent():
                pass  # the command line offers no tools
            case EndEvent(receipt, state=state):
                print(flush=True)
                if receipt.finish in ("length", "context"):
                    why = "max_tokens was reached" if receipt.finish == "length" else "the model's context is full"
                    print(f"(cut off: {why})", file=sys.stderr)
                if not quiet:
                    print("\n" + receipt.as_text(), file=sys.stderr)
    message = {"role": "assistant", **{part: "".join(pieces) for part, pieces in said.items()}}
    return message if state is None else {**message, "state": state}


@contextmanager
def interrupts(stream: Stream | HostedStream) -> Iterator[None]:
    """Ctrl-C asks for the answer first, and ends it the second time."""
    asked = False

    def on_interrupt(number: int, frame: object) -> None:
        nonlocal asked
        if asked or not stream.thinking:
            raise KeyboardInterrupt
        asked = True
        stream.answer_now()

    before = signal.signal(signal.SIGINT, on_interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
