"""The page in a real browser, against the real server."""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.serve.conftest import Served, served
from tests.serve.engines import fake, serving
from trilens.serve.guard import Rules

playwright = pytest.importorskip("playwright.sync_api")

FOUND = next((path for name in ("chromium", "chromium-browser", "google-chrome") if (path := shutil.which(name))), None)
pytestmark = pytest.mark.skipif(FOUND is None, reason="no Chromium is installed here")

HOSTILE = """<script>window.hit = 1</script><img src=x onerror="window.hit = 2">

[click](javascript:window.hit=3) and [fine](https://example.org/a) **bold** `code <b>x</b>`

| a | b |
| --- | --- |
| <svg onload=window.hit=4> | 2 |

- one
- two <iframe src="javascript:window.hit=5"></iframe>

```html
<script>window.hit = 6</script>
```
"""


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with playwright.sync_playwright() as driver:
        running = driver.chromium.launch(executable_path=FOUND, args=["--no-sandbox"])
        yield running
        running.close()


@pytest.fixture
def page(browser: Any, server: Served) -> Iterator[Any]:
    context = browser.new_context(viewport={"width": 1100, "height": 800})
    opened = context.new_page()
    faults: list[str] = []
    opened.on("pageerror", lambda problem: faults.append(str(problem)))
    opened.on("console", lambda line: faults.append(line.text) if "Content Security" in line.text else None)
    opened.goto(server.url)
    opened.wait_for_selector("#switch label")
    yield opened
    context.close()
    assert faults == []


def ask(page: Any, question: str) -> None:
    before = page.locator(".answer").count()
    page.fill("#question", question)
    page.press("#question", "Enter")
    until(page, f"document.querySelectorAll('.answer').length > {before}")
    page.wait_for_selector("#send:not([hidden])")


def until(page: Any, condition: str, seconds: float = 10.0) -> None:
    """Playwright's own way would need eval, which the page's policy forbids."""
    end = time.monotonic() + seconds
    while not page.evaluate(condition):
        assert time.monotonic() < end, condition
        page.wait_for_timeout(20)


def fulfilled(body: str) -> Callable[[Any], None]:
    return lambda route: route.fulfill(body=body, content_type="text/event-stream")


def stream(chunks: list[dict[str, Any]]) -> str:
    return "".join(f"data: {json.dumps(c)}\n\n" for c in chunks) + "data: [DONE]\n\n"


def chunk(**delta: str) -> dict[str, Any]:
    return {"id": "x", "choices": [{"index": 0, "delta": delta, "finish_reason": None}]}


class TestConversation:
    def test_an_answer_its_thinking_and_its_receipt(self, page: Any) -> None:
        page.select_option("#model", "tiny-routed")
        ask(page, "What is 47 times 86?")
        assert page.inner_text(".prose") == "4042"
        thoughts = page.locator("details.thoughts")
        assert thoughts.get_attribute("open") is None  # folded away
        assert thoughts.locator("summary").inner_text() == "Thinking · 94 tokens"
        thoughts.locator("summary").click()
        assert "47*6:" in thoughts.locator(".inside").inner_text()
        page.click("details.receipt summary")
        assert "18 prompt" in page.inner_text("details.receipt pre")

    def test_a_model_that_an_engine_runs(self, browser: Any, tmp_path: Path) -> None:
        """Its receipts have no work, and nobody says which experts fired."""
        words = ("tiny-routed", "--port", "0", "--engine", "vllm", "--engine-path", str(fake(tmp_path)))
        with serving(*words, folder=tmp_path) as serve:
            page, faults = browser.new_page(), []
            page.on("pageerror", lambda problem: faults.append(str(problem)))
            page.goto(serve.address())
            page.wait_for_selector("#switch label")
            ask(page, "What is 4 plus 38?")
            assert page.inner_text(".prose") == "forty-two"
            assert page.locator("details.thoughts summary").inner_text() == "Thinking · 5 tokens"
            assert "9 in, 9 out" in page.inner_text("details.receipt summary")
            page.click("#tab-lens")
            until(page, "document.querySelector('#router-words').textContent.includes('does not say which experts')")
            page.close()
            assert faults == []

    def test_off_and_a_budget(self, page: Any) -> None:
        page.check("input[name=thinking][value=off]", force=True)
        ask(page, "What is 12 plus 30?")
        assert not page.locator("details.thoughts").is_visible()
        page.check("input[name=thinking][value=budget]", force=True)
        page.fill("#budget", "5")
        ask(page, "What is 47 times 86?")
        assert "The budget ended the thinking." in page.locator(".answer").nth(1).inner_text()

    def test_a_conversation_goes_on_and_begins_anew(self, page: Any) -> None:
        sent: list[Any] = []
        page.on("request", lambda r: sent.append(r.post_data_json) if r.url.endswith("/completions") else None)
        ask(page, "What is 12 plus 30?")
        ask(page, "What is 5 plus 6?")
        assert [m["role"] for m in sent[1]["messages"]] == ["user", "assistant", "user"]
        page.click("#fresh")
        assert page.locator(".answer").count() == 0
        ask(page, "What is 5 plus 6?")
        assert len(sent[2]["messages"]) == 1

    def test_stopping_keeps_what_came(self, page: Any, server: Served) -> None:
        """The answer is held open by a stream that does not end."""
        page.evaluate(
            """() => { const usual = window.fetch; window.fetch = (url, options) => {
              if (!String(url).endsWith('completions')) return usual(url, options);
              const body = new ReadableStream({ start(c) {
                const data = {id: 'x', choices: [{index: 0, delta: {content: 'so far'}, finish_reason: null}]};
                c.enqueue(new TextEncoder().encode('data: ' + JSON.stringify(data) + '\\n\\n'));
                options.signal.addEventListener('abort', () => c.error(new DOMException('x', 'AbortError')));
              }});
              return Promise.resolve(new Response(body)); }; }"""
        )
        page.fill("#question", "Hello")
        page.press("#question", "Enter")
        page.wait_for_selector("#stop:not([hidden])")
        until(page, "document.querySelector('.prose').textContent === 'so far'")
        page.keyboard.press("Escape")
        page.wait_for_selector("#send:not([hidden])")
        assert page.inner_text(".prose") == "so far" and "Stopped." in page.inner_text(".answer")

    def test_answer_now_is_asked_of_the_server(self, page: Any) -> None:
        asked: list[Any] = []

        def hold(route: Any) -> None:
            asked.append(route.request.post_data_json)
            route.fulfill(json={"done": True})

        page.route("**/answer_now", hold)
        page.evaluate(
            """() => { const usual = window.fetch; window.fetch = (url, options) => {
              if (!String(url).endsWith('completions')) return usual(url, options);
              const body = new ReadableStream({ start(c) {
                const data = {id: 'abc', choices: [{index: 0, delta: {reasoning_content: 'hm'}, finish_reason: null}]};
                c.enqueue(new TextEncoder().encode('data: ' + JSON.stringify(data) + '\\n\\n'));
                options.signal.addEventListener('abort', () => c.error(new DOMException('x', 'AbortError')));
              }});
              return Promise.resolve(new Response(body)); }; }"""
        )
        page.fill("#question", "Hello")
        page.press("#question", "Enter")
        page.wait_for_selector("details.thoughts.running")
        page.click("#now")
        page.wait_for_timeout(100)
        assert asked == [{"id": "abc"}]
        page.click("#stop")

    def test_a_hostile_answer_stays_text(self, page: Any) -> None:
        body = stream([chunk(reasoning_content="<img src=x onerror='window.hit=7'>"), chunk(content=HOSTILE)])
        page.route("**/v1/chat/completions", fulfilled(body))
        ask(page, "Hello")
        page.wait_for_timeout(200)
        assert page.evaluate("window.hit") is None
        prose = page.locator(".prose")
        assert prose.locator("script, img, svg, iframe").count() == 0
        assert "<script>window.hit = 1</script>" in prose.inner_text()
        links = [link.get_attribute("href") for link in prose.locator("a").all()]
        assert links == ["https://example.org/a"]
        assert prose.locator("strong").inner_text() == "bold" and prose.locator("li").count() == 2
        assert prose.locator("td").count() == 2 and prose.locator("pre code").count() == 1

    def test_markdown_that_is_large_or_broken_ends(self, page: Any) -> None:
        for text in (">" * 5000, "- " * 3000, "`" * 4000, "*" * 4001 + "a", "[" * 3000, "|-" * 3000, "# \n" * 500):
            body = stream([chunk(content=text)])
            page.unroute_all()
            page.route("**/v1/chat/completions", fulfilled(body))
            ask(page, "Hello")


class TestFaults:
    def test_a_refusal_is_said_and_can_be_tried_again(self, page: Any) -> None:
        answers = iter([429, 200])
        good = stream([chunk(content="here")])

        def answer(route: Any) -> None:
            if next(answers) == 429:
                route.fulfill(status=429, json={"error": {"message": "busy"}}, headers={"Retry-After": "1"})
            else:
                route.fulfill(body=good, content_type="text/event-stream")

        page.route("**/v1/chat/completions", answer)
        ask(page, "Hello")
        assert "busy (after 1 s)" in page.inner_text(".fault")
        page.click(".again")
        until(page, "document.querySelector('.prose').textContent === 'here'")
        assert page.locator(".said").count() == 1

    def test_a_stream_that_breaks_keeps_what_came(self, page: Any) -> None:
        broken = f"data: {json.dumps(chunk(content='half'))}\n\n"
        page.route("**/v1/chat/completions", fulfilled(broken))
        ask(page, "Hello")
        assert page.inner_text(".prose") == "half" and "ended before" in page.inner_text(".fault")

    def test_a_server_that_dies_and_comes_back(self, browser: Any) -> None:
        context = browser.new_context()
        page = context.new_page()
        with served(["tiny-dense"]) as first:
            port = int(first.url.rsplit(":", 1)[1])
            page.goto(first.url)
            page.wait_for_selector("#switch label")
            ask(page, "What is 12 plus 30?")
        page.fill("#question", "What is 14 plus 25?")
        page.press("#question", "Enter")
        page.wait_for_selector(".fault")
        assert "cannot be reached" in page.inner_text("#status")
        assert page.locator(".prose").first.inner_text() == "42"
        with served(["tiny-dense"], port=port):
            until(page, "document.querySelector('#status').textContent === ''")
            page.click(".again")
            until(page, "[...document.querySelectorAll('.prose')].at(-1).textContent === '39'")
        context.close()

    def test_a_key_is_asked_for(self, browser: Any) -> None:
        context = browser.new_context()
        page = context.new_page()
        with served(["tiny-dense"], rules=Rules(key="s3cret")) as locked:
            page.goto(locked.url)
            page.wait_for_selector("#key-dialog[open]")
            page.fill("#key", "s3cret")
            page.press("#key", "Enter")
            page.wait_for_selector("#switch label")
            ask(page, "What is 12 plus 30?")
            assert page.inner_text(".prose") == "42"
        context.close()


class TestLenses:
    def test_the_router_lights_up(self, page: Any) -> None:
        page.select_option("#model", "tiny-routed")
        ask(page, "What is 12 plus 30?")
        page.click("#tab-lens")
        until(page, "document.querySelector('#router-words').textContent.includes('of 32 experts fired')")
        words = page.inner_text("#router-words")
        assert words.startswith("Token 46 of 46")
        page.fill("#scrub", "0")
        until(page, "document.querySelector('#router-words').textContent.startsWith('Token 1 of 46')")
        assert "8 of 32 experts fired" in page.inner_text("#router-words")  # two in each of four layers
        assert page.locator(".disc").count() == 2
        assert "feed forward" in page.inner_text("#flops") and page.locator("#cache svg").count() == 1
        page.click(".disc >> nth=0")
        until(page, "document.querySelector('#router-words').textContent.includes('no router')")

    def test_side_by_side(self, page: Any) -> None:
        page.click("#tab-compare")
        for select in page.locator(".side select").all():
            select.select_option("tiny-routed")
        page.locator(".side").nth(0).locator("input[value=off]").check(force=True)
        page.locator(".side").nth(1).locator("input[value=on]").check(force=True)
        page.fill("#both", "What is 47 times 86?")
        page.press("#both", "Enter")
        page.wait_for_selector(".difference")
        assert page.locator(".side").nth(1).locator(".prose").inner_text() == "4042"
        thinking = page.locator(".difference tr", has_text="of these thinking").locator("td").all_inner_texts()
        assert thinking[:2] == ["0", "94"]


class TestForEverybody:
    def test_by_keyboard_alone(self, page: Any) -> None:
        page.focus("#tab-talk")
        page.keyboard.press("ArrowRight")
        assert page.evaluate("document.activeElement.id") == "tab-lens" and page.is_visible("#view-lens")
        page.keyboard.press("ArrowLeft")
        seen = set()
        for _ in range(12):
            page.keyboard.press("Tab")
            seen.add(page.evaluate("document.activeElement.id || document.activeElement.value"))
        assert {"model", "question", "send"} <= seen

    def test_everything_has_a_name(self, page: Any) -> None:
        ask(page, "What is 12 plus 30?")
        for tab in ("talk", "lens", "compare"):
            page.click(f"#tab-{tab}")
            nameless = page.evaluate(
                """() => [...document.querySelectorAll('button, input, select, textarea, [role=img]')]
                .filter((e) => e.offsetParent && !(e.innerText || e.labels?.length || e.getAttribute('aria-label')))
                .map((e) => e.outerHTML)"""
            )
            assert nameless == []

    @pytest.mark.parametrize("scheme", ["light", "dark"])
    def test_words_can_be_read(self, browser: Any, server: Served, scheme: str) -> None:
        """Contrast of text on its ground at least 4.5 to 1."""
        context = browser.new_context(color_scheme=scheme)
        page = context.new_page()
        page.goto(server.url)
        page.wait_for_selector("#switch label")
        found = page.evaluate(
            """() => { const style = getComputedStyle(document.documentElement);
            const light = (name) => { const c = document.createElement('canvas').getContext('2d');
              c.fillStyle = style.getPropertyValue(name); c.fillRect(0, 0, 1, 1);
              const [r, g, b] = [...c.getImageData(0, 0, 1, 1).data].map((v) => v / 255)
                .map((v) => (v <= 0.03928 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4));
              return 0.2126 * r + 0.7152 * g + 0.0722 * b; };
            const ratio = (a, b) => { const [x, y] = [light(a), light(b)].sort((p, q) => q - p);
              return (x + 0.05) / (y + 0.05); };
            return [['--ink', '--ground'], ['--soft', '--ground'], ['--soft', '--paper'], ['--soft', '--mark'],
              ['--warn', '--ground'], ['--accent-ink', '--accent']].map(([a, b]) => [a, b, ratio(a, b)]); }"""
        )
        assert [pair for pair in found if pair[2] < 4.5] == []
        context.close()

    def test_on_a_phone(self, browser: Any, server: Served) -> None:
        context = browser.new_context(viewport={"width": 360, "height": 640}, has_touch=True, is_mobile=True)
        page = context.new_page()
        page.goto(server.url)
        page.wait_for_selector("#switch label")
        ask(page, "What is 12 plus 30?")
        page.click("details.receipt summary")
        for tab in ("talk", "lens", "compare"):
            page.click(f"#tab-{tab}")
            if tab == "compare":
                page.fill("#both", "What is 47 times 86?")
                page.press("#both", "Enter")
                page.wait_for_selector(".difference")
            assert page.evaluate("document.documentElement.scrollWidth") <= 360, tab
            beyond = page.evaluate(
                """() => [...document.querySelectorAll('main *')]
                .filter((e) => e.getBoundingClientRect().right > 360).map((e) => e.outerHTML)"""
            )
            assert beyond == [], tab
        sizes = "(e) => [e.offsetWidth, e.offsetHeight]"
        page.click("#tab-lens")
        assert [disc.evaluate(sizes) for disc in page.locator(".disc .colour").all()] == [[54, 54], [54, 54]]
        context.close()


def test_the_page_asks_nobody_else() -> None:
    folder = Path(__file__).parents[2] / "src" / "trilens" / "serve" / "page"
    for file in folder.iterdir():
        text = file.read_text("utf-8").replace("http://www.w3.org/2000/svg", "")
        assert "http://" not in text and "https://" not in text.replace("https?:", ""), file.name
        assert "innerHTML" not in text and "eval(" not in text and "outerHTML" not in text, file.name
