"""How long the page takes in Chromium: the first view, each step of the lesson, a look inside.

python -m benchmarks.page [--repeats 5] [--write]      --write: into docs/page.md. Needs Chromium and playwright.
"""

from __future__ import annotations

import argparse
from collections import defaultdict
from datetime import date
from pathlib import Path
from statistics import median
from typing import Any

from benchmarks.served import chromium, serving
from playwright.sync_api import Browser, Page

from trilens import system

PAGE = Path(__file__).resolve().parent.parent / "docs" / "page.md"
BEGIN, END = "<!-- page times -->\n", "<!-- /page times -->\n"
FIRST = "first view: until a question can be asked"
LIMITS = {FIRST: 0.5, "first view: until something is seen": 0.5}
STEP = 1.0  # seconds that a step may take
STEPS = {
    "dense": {"path": "two questions, the same work"},
    "moe": {"router": "tokens and their experts"},
    "reasoning": {"race": "thinking off and on", "budget": "a budget"},
    "four": {"four_step": "four combinations, 8 questions each"},
}
READY = """const watch = new MutationObserver(() => {
  if (!document.querySelector('#switch label')) return;
  watch.disconnect();
  requestAnimationFrame(() => setTimeout(() => (window.ready = performance.now())));
});
watch.observe(document, {childList: true, subtree: true});"""
# Milliseconds from a click on the button to the frame behind the change of the attribute.
CLICKED = """([button, changed, attribute, value]) => new Promise((done) => {
  const place = document.querySelector(changed), begin = performance.now();
  new MutationObserver((_, watch) => {
    if (place.getAttribute(attribute) !== value) return;
    watch.disconnect();
    requestAnimationFrame(() => setTimeout(() => done(performance.now() - begin)));
  }).observe(place, {attributes: true});
  document.querySelector(button).click();
})"""


def opened(browser: Browser, url: str) -> tuple[Page, int, dict[str, float]]:
    """A page of its own, with an empty cache; the bytes of its own files, and the seconds of its first view."""
    page = browser.new_context(locale="en-US", viewport={"width": 1120, "height": 860}).new_page()
    page.add_init_script(READY)
    sizes: list[Any] = []
    page.on("response", lambda answer: sizes.append(answer))
    page.goto(url)
    page.wait_for_selector("#switch label")
    page.wait_for_load_state("networkidle")
    own = sum(len(answer.body()) for answer in sizes if "/v1/" not in answer.url)
    seen = page.evaluate("performance.getEntriesByName('first-contentful-paint')[0].startTime")
    return page, own, {"first view: until something is seen": seen / 1e3, FIRST: page.evaluate("window.ready") / 1e3}


def measured(browser: Browser, url: str) -> tuple[int, dict[str, float]]:
    page, own, took = opened(browser, url)
    page.click("#tab-lesson")
    for chapter, steps in STEPS.items():
        page.click(f".chapter[href='#lesson/{chapter}']")
        page.wait_for_selector(f".chapter-body.{chapter}:not([hidden])")
        for step, name in steps.items():
            if chapter == "four":
                page.select_option("#step-four_step select", "8")
            place = f"#step-{step} .run"
            ran = page.evaluate(CLICKED, [f"{place} button", place, "data-runs", "1"])
            assert not page.inner_text(f"{place} .fault"), name
            took[f"lesson: {name}"] = ran / 1e3
    page.click("#tab-lens")
    page.wait_for_selector("#inside .main")
    took["looking inside"] = page.evaluate(CLICKED, ["#inside .main", "#inside .main", "disabled", None]) / 1e3
    assert page.locator("#inside .layers td").count(), page.inner_text("#inside")
    page.context.close()
    return own, took


def table(own: int, times: dict[str, list[float]]) -> str:
    rows = [f"| {name} | {median(all_):.2f} | {max(all_):.2f} |" for name, all_ in times.items()]
    runs = len(next(iter(times.values())))
    return "\n".join(
        [
            f"The first view loads {own / 1e3:.0f} KB of the page's own files. Seconds in Chromium, {runs} runs with",
            f"an empty cache ({date.today().isoformat()}, {system.processor_name()}, {system.usable_cores()} cores):",
            "",
            "|  | median | longest |",
            "| --- | --- | --- |",
            *rows,
            "",
        ]
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--write", action="store_true")
    given = parser.parse_args()
    times: dict[str, list[float]] = defaultdict(list)
    with serving(["tiny-dense", "tiny-routed"]) as url, chromium() as browser:
        measured(browser, url)  # the models are loaded now
        for _ in range(given.repeats):
            own, took = measured(browser, url)
            for name, seconds in took.items():
                times[name].append(seconds)
    made = table(own, times)
    print(made)
    for name, all_ in times.items():
        if (limit := LIMITS.get(name, STEP)) < median(all_):
            print(f"{name} takes longer than {limit} s")
    if given.write:
        text = PAGE.read_text("utf-8")
        before, rest = text.split(BEGIN)
        PAGE.write_text(f"{before}{BEGIN}\n{made}\n{END}{rest.split(END)[1]}", "utf-8")


if __name__ == "__main__":
    main()
