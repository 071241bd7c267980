"""The page in a real browser: what its tests share."""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest

FOUND = next((path for name in ("chromium", "chromium-browser", "google-chrome") if (path := shutil.which(name))), None)
needs_chromium = pytest.mark.skipif(FOUND is None, reason="no Chromium is installed here")


@contextmanager
def chromium() -> Iterator[Any]:
    """For one module: while its driver runs, this thread has an event loop, which other tests could not start."""
    playwright = pytest.importorskip("playwright.sync_api")
    with playwright.sync_playwright() as driver:
        running = driver.chromium.launch(executable_path=FOUND, args=["--no-sandbox"])
        yield running
        running.close()


@contextmanager
def opened(browser: Any, url: str, **options: Any) -> Iterator[Any]:
    """A page of its own, with nothing stored. At the end: no error of a script, nothing that the policy refused, and no
    request to another place.
    """
    context = browser.new_context(**{"viewport": {"width": 1100, "height": 800}, "locale": "en-US", **options})
    page = context.new_page()
    faults, home = list[str](), (url.split("#")[0], "blob:", "data:")
    page.on("pageerror", lambda problem: faults.append(str(problem)))
    page.on("console", lambda line: faults.append(line.text) if "Content Security" in line.text else None)
    page.on("request", lambda asked: faults.append(asked.url) if not asked.url.startswith(home) else None)
    page.goto(url)
    page.wait_for_selector("#switch label", state="attached")
    yield page
    context.close()
    assert faults == []


def ask(page: Any, question: str) -> None:
    before = page.locator(".answer").count()
    page.fill("#question", question)
    page.press("#question", "Enter")
    until(page, f"document.querySelectorAll('.answer').length > {before}")
    answered(page)


def answered(page: Any) -> None:
    until(page, "!document.querySelector('#send').hidden")


def line(page: Any, selector: str) -> str:
    """A line of numbers, which breaks only between its parts, with plain spaces."""
    return str(page.inner_text(selector)).replace("\u00a0", " ")


# Two frames: a turn's text is skipped (`content-visibility: auto`), and reads as empty, until one frame has seen it.
DRAWN = "new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(() => done(true))))"


def until(page: Any, condition: str, seconds: float = 120.0) -> None:
    """Until a condition holds and what it says is drawn. Playwright's own way would need eval, which the page's policy
    forbids. `seconds` only bounds a hang.
    """
    end = time.monotonic() + seconds
    while not page.evaluate(condition):
        assert time.monotonic() < end, condition
        page.wait_for_timeout(20)
    page.evaluate(DRAWN)


def fulfilled(body: str) -> Callable[[Any], None]:
    return lambda route: route.fulfill(body=body, content_type="text/event-stream")


def stream(chunks: list[dict[str, Any]]) -> str:
    return "".join(f"data: {json.dumps(c)}\n\n" for c in chunks) + "data: [DONE]\n\n"


def chunk(**delta: Any) -> dict[str, Any]:
    return {"id": "x", "choices": [{"index": 0, "delta": delta, "finish_reason": None}]}


def answers(page: Any, text: str) -> None:
    """From now on every answer is this text."""
    page.unroute_all()
    page.route("**/v1/chat/completions", fulfilled(stream([chunk(content=text)])))


HOLDS = """(delta) => { const usual = window.fetch; window.fetch = (url, options) => {
  if (!String(url).endsWith('completions')) return usual(url, options);
  const body = new ReadableStream({ start(c) {
    const data = {id: 'abc', choices: [{index: 0, delta, finish_reason: null}]};
    c.enqueue(new TextEncoder().encode('data: ' + JSON.stringify(data) + '\\n\\n'));
    options.signal.addEventListener('abort', () => c.error(new DOMException('x', 'AbortError')));
  }});
  return Promise.resolve(new Response(body)); }; }"""


def hold(page: Any, **delta: str) -> None:
    """From now on every answer begins so and does not end."""
    page.evaluate(HOLDS, delta)
