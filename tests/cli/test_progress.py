"""What a person sees who waits for more than a second, by a clock of the test's own."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest

from trilens.cli.terminal import Progress, with_progress


class Screen:
    """A terminal's standard error."""

    def __init__(self) -> None:
        self.text = ""

    def isatty(self) -> bool:
        return True

    def fileno(self) -> int:
        raise OSError

    def write(self, text: str) -> int:
        self.text += text
        return len(text)

    def flush(self) -> None:
        pass

    @property
    def lines(self) -> list[str]:
        """What stood on the line, one after the other."""
        return [line.removeprefix("\033[K") for line in self.text.split("\r")]


class Clock:
    """Stands in for a `threading.Event`: its waits take their time by this clock, which the other side moves on."""

    def __init__(self) -> None:
        self.now = self.end = 0.0
        self.waits: list[float] = []
        self._changed = threading.Condition()
        self._set = False

    def wait(self, timeout: float) -> bool:
        with self._changed:
            assert self._changed.wait_for(lambda: self._set or self.now + timeout < self.end + 1e-6, 20)
            if not self._set:
                self.waits.append(timeout)
                self.now += timeout
                self._changed.notify_all()
            return self._set

    def set(self) -> None:
        with self._changed:
            self._set = True
            self._changed.notify_all()

    def is_set(self) -> bool:
        return self._set

    def until(self, time: float) -> None:
        with self._changed:
            self.end = time
            self._changed.notify_all()
            assert self._changed.wait_for(lambda: self.now > time - 1e-6, 20)


class Stream:
    """Its prompt is read in `steps` of a second each; then come two words, the second one much later."""

    def __init__(self, clock: Clock, steps: int, prompt: int | None) -> None:
        self._clock, self._steps = clock, steps
        self.calls = []
        if prompt is not None:
            self.calls = [SimpleNamespace(generation=SimpleNamespace(prompt=[0] * prompt, fed=0))]

    def __iter__(self) -> Iterator[str]:
        for step in range(self._steps):
            for call in self.calls:
                call.generation.fed = len(call.generation.prompt) * step // self._steps
            self._clock.until(step + 1)
        yield "first"
        yield "second"


def looked_at(monkeypatch: pytest.MonkeyPatch, terminal: bool = True) -> Screen:
    screen = Screen()
    monkeypatch.setattr(screen, "isatty", lambda: terminal)
    monkeypatch.setattr("sys.stderr", screen)
    return screen


def read(screen: Screen, steps: int, prompt: int | None) -> tuple[list[str], Clock]:
    clock = Clock()
    came: Any = clock
    assert list(with_progress(Stream(clock, steps, prompt), came)) == ["first", "second"]
    return screen.lines, clock


def test_a_long_prompt_shows_how_far_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    screen = looked_at(monkeypatch)
    lines, clock = read(screen, 4, 4000)
    assert clock.waits == [1, *[0.2] * 15]  # nothing before a second has passed, and then five times a second
    shown = [line for line in lines if line]
    assert len(shown) == 16 and shown == sorted(shown)
    assert {line.strip() for line in shown[1:]} == {f"reading the prompt  {share} %" for share in (25, 50, 75)}
    assert lines[-1] == ""  # gone when the first word comes


def test_a_model_elsewhere_has_no_percentage(monkeypatch: pytest.MonkeyPatch) -> None:
    assert set(read(looked_at(monkeypatch), 2, None)[0]) == {"", "waiting for the answer "}


def test_nothing_is_shown_where_nobody_looks(monkeypatch: pytest.MonkeyPatch) -> None:
    assert read(looked_at(monkeypatch, terminal=False), 0, 4000)[0] == [""]


def test_loading_is_shown_after_a_second(monkeypatch: pytest.MonkeyPatch) -> None:
    screen = looked_at(monkeypatch)
    now = 100.0
    monkeypatch.setattr("time.monotonic", lambda: now)
    progress = Progress("some-model")
    for done in range(0, 101, 10):
        progress(done, 100)
        now += 0.25
    shown = [line for line in screen.lines if line]
    assert shown == [f"loading some-model {done:3} %" for done in (50, 60, 70, 80, 90, 100)]
    assert screen.lines[-1] == ""
    quick = Progress("small-model")
    quick(1, 2)
    quick(2, 2)
    assert "small-model" not in screen.text
