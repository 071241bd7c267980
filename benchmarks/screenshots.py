"""Pictures of the page with real answers -> docs/page-*.png. Needs Chromium and playwright.

python -m benchmarks.screenshots [--models tiny-routed tiny-dense smollm2]
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from pathlib import Path

from benchmarks.served import chromium, serving
from playwright.sync_api import Page, ViewportSize

DOCS = Path(__file__).resolve().parent.parent / "docs"
SIZE: ViewportSize = {"width": 1200, "height": 760}
QUESTION = "What is 47 times 86?"


def ask(page: Page, question: str) -> None:
    before = page.locator(".answer").count()
    page.fill("#question", question)
    page.press("#question", "Enter")
    page.locator(".answer").nth(before).wait_for()
    page.wait_for_selector("#send:not([hidden])", timeout=120_000)


def take(page: Page, scheme: str) -> None:
    ask(page, QUESTION)
    ask(page, "What is 12 plus 30?")
    page.locator("details.thoughts summary").first.click()
    page.mouse.wheel(0, 5000)
    page.wait_for_timeout(300)
    page.screenshot(path=DOCS / f"page-conversation-{scheme}.png")
    page.click("#tab-lesson")
    page.click(".chapter[href='#lesson/moe']")
    page.locator("#step-router .run button").click()
    page.wait_for_selector("#step-router .receipt")
    page.evaluate("scrollTo(0, document.querySelector('#step-router').offsetTop - 80)")
    page.wait_for_timeout(300)
    page.screenshot(path=DOCS / f"page-lesson-{scheme}.png")
    page.click("#tab-lens")
    page.locator("#inside .main").click()
    page.wait_for_selector("#inside .layers td")
    page.locator("#inside .token").nth(8).click()
    page.wait_for_timeout(500)
    page.set_viewport_size({"width": 1200, "height": 1000})  # so that all of it is seen at once
    page.locator("#inside").screenshot(path=DOCS / f"page-inside-{scheme}.png")
    page.set_viewport_size(SIZE)
    page.evaluate("scrollTo(0, 0)")
    page.screenshot(path=DOCS / f"page-lenses-{scheme}.png")
    page.click("#tab-compare")
    page.fill("#both", QUESTION)
    page.press("#both", "Enter")
    page.wait_for_selector(".difference", timeout=120_000)
    page.wait_for_timeout(300)
    page.screenshot(path=DOCS / f"page-side-by-side-{scheme}.png")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="+", default=["tiny-routed", "tiny-dense", "smollm2"])
    given = parser.parse_args()
    for model in given.models:  # so that the receipts have predictions
        subprocess.run([sys.executable, "-m", "trilens", "plan", model], check=True, stdout=subprocess.DEVNULL)
    with serving(given.models) as url, chromium() as browser:
        for scheme in ("light", "dark"):
            context = browser.new_context(
                viewport=SIZE,
                color_scheme=scheme,  # type: ignore[arg-type]
            )
            page = context.new_page()
            page.goto(url)
            page.wait_for_selector("#switch label")
            take(page, scheme)
            context.close()


if __name__ == "__main__":
    main()
