"""What a terminal shows while trilens works: an answer and its thinking as they arrive, and progress. Also Ctrl-C."""

from __future__ import annotations

import os
import signal
import sys
import textwrap
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from trilens.hosted.model import HostedStream
    from trilens.model import Stream
    from trilens.text.events import Event

# A model can write anything; on a terminal an escape sequence in its answer would be obeyed. A pipe gets every byte.
UNSAFE = {code: "\N{REPLACEMENT CHARACTER}" for code in (*range(32), *range(127, 160)) if chr(code) not in "\n\t"}


def say(line: str) -> None:
    print(folded(f"trilens: {line}"), file=sys.stderr)


def folded(line: str, behind: str = "  ") -> str:
    """On a terminal, break the line between words if it is too long. Later lines begin with `behind`."""
    width = columns()
    if width is None or len(line) <= width:
        return line
    return textwrap.fill(line, width, subsequent_indent=behind, break_long_words=False, break_on_hyphens=False)


def columns() -> int | None:
    """The width of the terminal that standard error goes to; None if it is not a terminal."""
    if not sys.stderr.isatty():
        return None
    try:
        return os.get_terminal_size(sys.stderr.fileno()).columns or None
    except (OSError, ValueError):
        return None


class Progress:
    """A progress line on a terminal while weights are read. Nothing is shown elsewhere, or if loading is quick."""

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


class Said:
    """The text of a stream so far; `receipt` is set when it has ended."""

    def __init__(self) -> None:
        self.content = ""
        self.thinking = ""
        self.receipt: Any = None
        self.state: Any = None

    @property
    def message(self) -> dict[str, Any]:
        """For the next turn."""
        message = {"role": "assistant", "content": self.content, "thinking": self.thinking}
        return message if self.state is None else {**message, "state": self.state}


def print_stream(stream: Stream | HostedStream, quiet: bool, hide: bool, said: Said | None = None) -> Said:
    """Print an answer as it arrives, with its thinking, and then its receipt. Everything is collected in `said`."""
    from trilens.text.events import EndEvent, TextEvent, ThinkingEvent, ToolCallEvent

    said = said or Said()
    answers, errors = sys.stdout.isatty(), sys.stderr.isatty()
    for event in with_progress(stream):
        match event:
            case ThinkingEvent(text):
                said.thinking += text
                if not hide:
                    shown = f"\033[2m{text.translate(UNSAFE)}\033[0m" if errors else text
                    print(shown, end="", file=sys.stderr, flush=True)
            case TextEvent(text):
                if said.thinking and not said.content and not hide:
                    print("\n", file=sys.stderr)
                said.content += text
                print(text.translate(UNSAFE) if answers else text, end="", flush=True)
            case ToolCallEvent():
                pass  # the command line offers no tools
            case EndEvent(receipt, state=state):
                said.receipt, said.state = receipt, state
                print(flush=True)
                if receipt.finish in ("length", "context"):
                    why = "max_tokens was reached" if receipt.finish == "length" else "the model's context is full"
                    print(f"(cut off: {why})", file=sys.stderr)
                if not quiet:
                    print("\n" + receipt.as_text(), file=sys.stderr)
    return said


def receipt_line(receipt: Any, width: int | None = None) -> str:
    """A receipt in one line: tokens, time, and the price if it is known. If there are too few columns, the speed is
    left out, then the cached tokens.
    """
    tokens = receipt.tokens
    thought = f" · {tokens.thinking} thinking" if tokens.thinking else ""
    cached = f" ({tokens.cached} cached)" if tokens.cached else ""
    price = getattr(getattr(receipt, "price", None), "total", None)
    money = "" if price is None else f" · ${price:.6f}"
    known = [tokens.answer, tokens.thinking or 0]
    speed = "" if None in known or not receipt.seconds else f", {sum(known) / receipt.seconds:.1f} tokens/s"
    lines = [
        f"{tokens.prompt} prompt{reused}{thought} · {tokens.answer} answer · {receipt.seconds:.2f} s{fast}{money}"
        for reused, fast in ((cached, speed), (cached, ""), ("", ""))
    ]
    return next((line for line in lines if width is None or len(line) <= width), lines[-1])


def with_progress(stream: Any, came: threading.Event | None = None) -> Iterator[Event[Any]]:
    """The stream's events. On a terminal, progress on the prompt is shown if nothing arrives for a second; for a model
    elsewhere, a waiting message. `came` is set with the first event.
    """
    if not sys.stderr.isatty():
        yield from stream
        return
    came, shown = came or threading.Event(), False

    def show() -> None:
        nonlocal shown
        wait = 1.0
        while not came.wait(wait):
            shown, wait = True, 0.2
            generation = next((call.generation for call in getattr(stream, "calls", ())), None)
            length = len(generation.prompt) if generation is not None else 0
            doing = "waiting for the answer"
            if generation is not None and length:
                doing = f"reading the prompt {100 * min(generation.fed, length) // length:3} %"
            print(f"\r{doing} ", end="", file=sys.stderr, flush=True)

    watcher = threading.Thread(target=show, name="progress", daemon=True)
    watcher.start()
    try:
        for event in stream:
            if not came.is_set():
                came.set()
                watcher.join()
                if shown:
                    print("\r\033[K", end="", file=sys.stderr, flush=True)
            yield event
    finally:
        came.set()


@contextmanager
def interrupts(stream: Stream | HostedStream) -> Iterator[None]:
    """Ctrl-C ends the thinking. If the model is not thinking, or the second time, it ends the answer."""
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
