"""The page for everybody: keyboards, readers, scripts, small screens, long conversations, a server that is gone."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

from tests.serve.browser import answered, answers, ask, hold, needs_chromium, opened, until
from tests.serve.conftest import Served, served

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "src" / "trilens" / "serve" / "page"
AXE = ROOT / "tests" / "data" / "axe-core" / "axe.min.js"
OWN = [path for path in PAGE.rglob("*") if path.is_file() and "vendor" not in path.parts]
VIEWS = ("talk", "lesson", "lens", "compare")
CHAPTERS = ("dense", "moe", "reasoning", "four", "own")
FIRST_VIEW = 150_000  # bytes
COMPOSING = ({"isComposing": True}, {"keyCode": 229})  # some browsers say it only by the code
LOCALES = ["en-US", pytest.param("ko-KR", marks=pytest.mark.slow)]


def show(page: Any, view: str) -> None:
    page.click(f"#tab-{view}")
    if view == "lesson":
        page.wait_for_selector(".chapter-body:not([hidden])")


def wide(page: Any, width: int) -> list[str]:
    """What reaches beyond the screen, unless it lies in a part that scrolls by itself."""
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    found: list[str] = page.evaluate(
        """(width) => [...document.querySelectorAll('main *, header *')].filter((e) => {
          if (e.getBoundingClientRect().right <= width + 0.5 || !e.checkVisibility()) return false;
          for (let p = e.parentElement; p; p = p.parentElement)
            if (['auto', 'hidden', 'scroll'].includes(getComputedStyle(p).overflowX) && p !== document.body
                && p.getBoundingClientRect().right <= width + 0.5) return false;
          return true; }).map((e) => e.outerHTML.slice(0, 200))""",
        width,
    )
    return found


@needs_chromium
class TestKeyboard:
    def test_the_views_and_a_question(self, page: Any) -> None:
        page.focus("#tab-talk")
        page.keyboard.press("ArrowRight")
        assert page.evaluate("document.activeElement.id") == "tab-lesson" and page.is_visible("#view-lesson")
        page.keyboard.press("ArrowLeft")
        seen = set()
        for _ in range(16):
            page.keyboard.press("Tab")
            seen.add(page.evaluate("document.activeElement.id || document.activeElement.value"))
        assert {"language", "fresh", "model", "question", "settings", "attach", "send"} <= seen

    @pytest.mark.slow
    def test_the_buttons_of_a_turn_are_seen_when_they_have_the_focus(self, page: Any) -> None:
        for question in ("What is 12 plus 30?", "What is 5 plus 6?"):
            ask(page, question)
        first = page.locator(".turn.user .acts").first
        page.mouse.move(2, 2)
        until(page, "getComputedStyle(document.querySelector('.turn.user .acts')).opacity === '0'")
        first.get_by_role("button", name="Edit").focus()
        until(page, "getComputedStyle(document.querySelector('.turn.user .acts')).opacity === '1'")
        page.keyboard.press("Enter")
        until(page, "document.activeElement.matches('.editing textarea')")
        page.keyboard.press("Escape")
        assert page.locator(".editing").count() == 0

    def test_enter_that_ends_a_korean_syllable_sends_nothing(self, page: Any) -> None:
        press = """([id, event]) => document.getElementById(id).dispatchEvent(
          new KeyboardEvent('keydown', {key: 'Enter', bubbles: true, cancelable: true, ...event}))"""
        page.fill("#question", "안녕하세")
        for event in COMPOSING:
            page.evaluate(press, ["question", event])
        assert page.locator(".said").count() == 0 and page.input_value("#question") == "안녕하세"
        page.evaluate(press, ["question", {}])
        page.wait_for_selector(".said")
        answered(page)
        show(page, "compare")
        page.fill("#both", "안녕하세")
        for event in COMPOSING:
            page.evaluate(press, ["both", event])
        assert page.locator("#view-compare .answer").count() == 0


@needs_chromium
class TestScreenReaders:
    def axe(self, page: Any, rules: Any = None) -> list[str]:
        if page.evaluate("typeof axe") == "undefined":
            page.evaluate(AXE.read_text("utf-8") + "; 0")
        options = {"resultTypes": ["violations"], **({"runOnly": rules} if rules else {})}
        found = page.evaluate("(options) => axe.run(document, options)", options)["violations"]
        return [f"{v['id']}: {n['html'][:200]} {n['failureSummary']}" for v in found for n in v["nodes"]]

    def test_axe_has_no_findings(self, page: Any) -> None:
        answers(page, "# A\n\n$x^2$\n\n| a | b |\n| - | - |\n| 1 | 2 |\n\n- [x] done\n\n```python\nx = 1\n```")
        for question in ("One", "Two"):
            ask(page, question)
        page.wait_for_selector(".hljs-number")
        page.unroute_all()
        for view in VIEWS:
            show(page, view)
            assert self.axe(page) == [], view
        show(page, "talk")
        page.click("#settings")
        assert self.axe(page) == []

    @pytest.mark.slow
    def test_axe_has_no_findings_in_the_lesson(self, page: Any) -> None:
        show(page, "lesson")
        for chapter, steps in (
            ("dense", ["path"]),
            ("moe", ["router"]),
            ("reasoning", ["race", "budget"]),
            ("own", []),
        ):
            page.click(f".chapter[href='#lesson/{chapter}']")
            for step in steps:
                page.locator(f"#step-{step} .run button").first.click()
                until(page, f"document.querySelector('#step-{step} .run').dataset.runs === '1'")
            assert self.axe(page) == [], chapter

    @pytest.mark.slow
    @pytest.mark.parametrize("locale", ["en-US", "ko-KR"])
    def test_words_can_be_read_in_the_dark(self, browser: Any, server: Served, locale: str) -> None:
        with opened(browser, server.url, color_scheme="dark", locale=locale) as page:
            ask(page, "What is 12 plus 30?")
            for view in VIEWS:
                show(page, view)
                assert self.axe(page, ["color-contrast", "html-has-lang", "label", "button-name"]) == [], view

    @pytest.mark.parametrize("scheme", ["light", "dark"])
    def test_the_experts_bars_stand_out(self, browser: Any, server: Served, scheme: str) -> None:
        """WCAG 2.2, 1.4.11: 3 to 1 between a part of a graphic and what is beside it."""
        with opened(browser, server.url, color_scheme=scheme) as page:
            show(page, "lesson")
            page.click(".chapter[href='#lesson/moe']")
            page.locator("#step-router .run button").first.click()
            until(page, "document.querySelector('#step-router .run').dataset.runs === '1'")
            ratios = page.evaluate(
                """() => {
                  const pen = new OffscreenCanvas(1, 1).getContext('2d', {willReadFrequently: true});
                  const light = (colour) => {
                    pen.fillStyle = colour;
                    pen.fillRect(0, 0, 1, 1);
                    const [r, g, b] = [...pen.getImageData(0, 0, 1, 1).data].map((n) => n / 255)
                      .map((n) => n <= 0.04045 ? n / 12.92 : ((n + 0.055) / 1.055) ** 2.4);
                    return 0.2126 * r + 0.7152 * g + 0.0722 * b + 0.05;
                  };
                  const behind = light(getComputedStyle(document.body).backgroundColor);
                  return [...document.querySelectorAll('.load .bars i')]
                    .map((bar) => light(getComputedStyle(bar).backgroundColor))
                    .map((own) => Math.max(own, behind) / Math.min(own, behind));
                }"""
            )
            assert len(ratios) == 8 and min(ratios) >= 3, ratios

    def test_what_a_screen_reader_is_told(self, page: Any) -> None:
        """The tree that a reader gets: the parts have roles and names, and an answer is announced when it is whole."""
        ask(page, "What is 12 plus 30?")
        tree = page.locator("body").aria_snapshot()
        for line in ('tablist "Views"', 'tab "Conversation" [selected]', 'complementary "Conversations"'):
            assert line in tree
        for line in (
            'log "Conversation"',
            'textbox "Question"',
            'combobox "Model"',
            'group "Thinking"',
            'button "Ask"',
        ):
            assert line in tree
        assert page.get_attribute("#talk", "aria-busy") == "false"
        hold(page, content="half")
        page.fill("#question", "Hello")
        page.press("#question", "Enter")
        page.wait_for_selector("#stop:not([hidden])")
        assert page.get_attribute("#talk", "aria-busy") == "true"
        page.click("#stop")


@needs_chromium
class TestWritingSystems:
    def test_right_to_left(self, page: Any) -> None:
        answers(page, "مرحبا بالعالم\n\n- واحد\n\n```python\nx = 1\n```\n\nplain English")
        ask(page, "שלום עולם")
        page.wait_for_selector(".prose li")
        sides = "(e) => getComputedStyle(e).direction"
        assert page.locator(".said").evaluate(sides) == "rtl"
        assert [p.evaluate(sides) for p in page.locator(".prose > p").all()] == ["rtl", "ltr"]
        assert page.locator(".prose li").evaluate(sides) == "rtl" and page.locator(".code").evaluate(sides) == "ltr"
        page.fill("#question", "שלום")
        assert page.locator("#question").evaluate(sides) == "rtl"

    @pytest.mark.parametrize("locale", LOCALES)
    def test_320_pixels(self, browser: Any, server: Served, locale: str) -> None:
        size = {"width": 320, "height": 640}
        with opened(browser, server.url, viewport=size, has_touch=True, is_mobile=True, locale=locale) as page:
            answers(
                page, "$$" + "x+" * 60 + "1$$\n\n| a | " + "b | " * 12 + "\n" + "| - " * 13 + "|\n\n```c\n" + "x" * 200
            )
            ask(page, "W" * 200)
            page.wait_for_selector(".prose .katex")
            page.click("#open-list")
            until(page, "document.querySelector('#sidebar').classList.contains('open')")
            page.click("#close-list")
            page.unroute_all()
            for view in VIEWS:
                show(page, view)
                assert wide(page, 320) == [], view
            show(page, "lens")
            sizes = "(all) => all.map((e) => [e.offsetWidth, e.offsetHeight])"
            assert page.locator(".disc .colour").evaluate_all(sizes) == [[54, 54], [54, 54]]
            show(page, "lesson")
            for chapter in CHAPTERS:
                page.click(f".chapter[href='#lesson/{chapter}']")
                page.wait_for_selector(f".chapter-body.{chapter}:not([hidden])")
                for run in page.locator(".chapter-body:not([hidden]) .run:not(#step-now .run)").all():
                    if chapter != "four":
                        run.locator("button").first.click()
                        until(page, "![...document.querySelectorAll('.run button')].some((one) => one.disabled)")
                assert wide(page, 320) == [], chapter
                for name in page.locator(".chapter-body:not([hidden]) .wide-table tbody tr > :first-child").all():
                    assert name.evaluate("(e) => e.offsetHeight") < 110, name.inner_text()  # four lines

    @pytest.mark.parametrize("locale", LOCALES)
    def test_the_cards_of_models_hold_what_is_in_them(self, page: Any, locale: str) -> None:
        """At any width: a name is one line, and nothing reaches beyond its card."""
        if locale != "en-US":
            page.click("#language")
        show(page, "lens")
        for width in (*range(360, 1500, 95), 1200):
            page.set_viewport_size({"width": width, "height": 800})
            cramped = page.locator(".disc").evaluate_all(
                """(all) => all.filter((card) => {
                  const right = card.getBoundingClientRect().right;
                  const inside = [...card.querySelectorAll('*')].every((e) => e.getBoundingClientRect().right <= right);
                  const name = document.createRange();
                  name.selectNodeContents(card.querySelector('b'));
                  return !inside || name.getClientRects().length > 1;
                }).map((card) => card.innerText)"""
            )
            assert cramped == [], width

    @pytest.mark.slow
    def test_reduced_motion(self, browser: Any, server: Served) -> None:
        with opened(browser, server.url, reduced_motion="reduce") as page:
            hold(page, reasoning_content="hm")
            page.fill("#question", "Hello")
            page.press("#question", "Enter")
            page.wait_for_selector("details.thoughts.running")
            assert page.evaluate("document.getAnimations().length") == 0
            page.click("#stop")


@needs_chromium
class TestLongConversations:
    def test_500_turns(self, page: Any, tmp_path: Path) -> None:
        """Only what is near the screen is laid out and read as Markdown, however long the conversation is."""
        turns = []
        for number in range(500):
            role = "assistant" if number % 2 else "user"
            content = f"turn {number}\n\n**bold** and `code`\n\n" + "word " * 60
            turns.append({"id": number + 1, "parent": number or None, "role": role, "content": content})
        talk = {"id": "long", "title": "Long", "created": 1, "changed": 1, "leaf": 500, "turns": turns, "settings": {}}
        file = tmp_path / "long.json"
        file.write_text(json.dumps({"format": "trilens-conversations", "version": 1, "conversations": [talk]}))
        page.set_input_files("#import-file", file)
        page.get_by_role("button", name="Long", exact=True).click()
        until(page, "document.querySelectorAll('.turn').length === 500")
        until(page, "[...document.querySelectorAll('.prose')].at(-1).textContent.startsWith('turn 499')")
        laid = (
            "[...document.querySelectorAll('.answer')].filter((e) => e.checkVisibility({contentVisibilityAuto: true}))"
        )
        until(page, f"{laid}.length < 60")
        assert page.locator(".prose strong").count() < 60  # what is far away has not been read yet
        page.evaluate("scrollTo(0, 0)")
        until(page, "document.querySelector('.prose').textContent.startsWith('turn 1')")
        until(page, f"{laid}.length < 60")
        for part in (0.25, 0.5, 0.75):
            page.evaluate(f"scrollTo(0, {part} * document.documentElement.scrollHeight)")
            inside = """[0, 60]
              .map((y) => document.elementFromPoint(innerWidth * 0.6, innerHeight / 2 + y)?.closest('.turn'))
              .some((turn) => turn?.querySelector('.said, .prose strong'))"""
            until(page, inside)

    @pytest.mark.slow
    def test_the_page_follows_an_answer_only_at_its_end(self, page: Any) -> None:
        answers(page, "\n\n".join(f"line {n}" for n in range(200)))
        ask(page, "Hello")
        until(page, "scrollY + innerHeight > document.documentElement.scrollHeight - 60")
        page.evaluate("scrollTo(0, 0)")
        until(page, "scrollY === 0")
        hold(page, content="so far")
        page.fill("#question", "Hello")
        page.press("#question", "Enter")
        until(page, "scrollY > 0")  # a question of one's own is shown
        page.click("#stop")


@needs_chromium
class TestTheServerIsGone:
    def test_the_page_says_what_to_do(self, browser: Any) -> None:
        with served(["tiny-dense"]) as first:
            port = int(first.url.rsplit(":", 1)[1])
            context = browser.new_context(locale="en-US")
            page = context.new_page()
            page.goto(first.url)
            page.wait_for_selector("#switch label")
        page.fill("#question", "What is 14 plus 25?")
        page.press("#question", "Enter")
        page.wait_for_selector(".fault")
        assert "trilens serve" in page.inner_text("#status") and "stay in this browser" in page.inner_text("#status")
        with served(["tiny-dense"], port=port):
            until(page, "document.querySelector('#status').textContent === ''")
            page.reload()  # the question is still there, and can be asked again
            page.wait_for_selector(".again")
            assert page.inner_text(".said") == "What is 14 plus 25?"
            page.click(".again")
            until(page, "document.querySelector('.prose')?.textContent === '39'")
            assert page.locator(".said").count() == 1 and page.locator(".again").count() == 0
        context.close()


@needs_chromium
class TestTheFirstView:
    def test_what_it_loads(self, browser: Any, server: Served) -> None:
        """Less than 150 KB, and no library until something needs it."""
        context = browser.new_context(locale="en-US")
        page = context.new_page()
        responses: list[Any] = []
        page.on("response", lambda response: responses.append(response))
        page.goto(server.url)
        page.wait_for_selector("#switch label")
        page.wait_for_load_state("networkidle")
        sizes = {response.url: len(response.body()) for response in responses}
        own = {url: size for url, size in sizes.items() if "/v1/" not in url}
        assert sum(own.values()) < FIRST_VIEW, own
        assert not [url for url in own if "/vendor/" in url or "/lesson/" in url]
        context.close()

    def test_the_policy(self, server: Served) -> None:
        import httpx2 as httpx

        answer = httpx.get(server.url)
        policy = answer.headers["content-security-policy"]
        assert "unsafe" not in policy and "default-src 'self'" in policy and "*" not in policy
        html = answer.text
        assert not re.search(r"<script(?![^>]*\bsrc=)|\sstyle=|\son\w+=", html)
        assert (
            httpx.get(f"{server.url}/vendor/katex/fonts/KaTeX_Main-Regular.woff2").headers["content-type"]
            == "font/woff2"
        )
        for path in (
            "vendor/../../app.py",
            "vendor/%2e%2e/%2e%2e/app.py",
            "talk/nothing.js",
            "vendor/",
            "jsconfig.json",
        ):
            assert httpx.get(f"{server.url}/{path}").status_code == 404, path


class TestTheCode:
    def test_it_asks_nobody_else_and_reads_no_html(self) -> None:
        for file in OWN:
            text = file.read_text("utf-8").replace("http://www.w3.org/2000/svg", "")
            assert "http://" not in text and "https://" not in text.replace("https?:", ""), file.name
            assert "innerHTML" not in text and "eval(" not in text and "outerHTML" not in text, file.name

    def test_its_modules_are_short(self) -> None:
        lengths = {file.name: file.read_text("utf-8").count("\n") for file in OWN if file.suffix == ".js"}
        assert {name: length for name, length in lengths.items() if length >= 200} == {}

    def test_every_library_has_its_licence(self) -> None:
        folders = [path for path in (PAGE / "vendor").iterdir() if path.is_dir()]
        assert sorted(path.name for path in folders) == ["highlight", "katex", "marked"]
        told = (PAGE / "vendor" / "README.txt").read_text("utf-8")
        bill = json.loads(re.sub(r"@TRILENS_RUNTIME@", "", (ROOT / "wheels" / "sbom.cdx.json.in").read_text("utf-8")))
        versions = {part["name"]: part.get("version") for part in bill["components"]}
        for name, folder in (("marked", "marked"), ("katex", "katex"), ("highlight.js", "highlight")):
            assert (PAGE / "vendor" / folder / "LICENSE.txt").read_text("utf-8").strip()
            assert versions[name] in told

    @pytest.mark.skipif(
        shutil.which("tsc") is None, reason="no tsc is installed here (npm install --global typescript)"
    )
    def test_its_types(self) -> None:
        done = subprocess.run(["tsc", "-p", "jsconfig.json"], cwd=ROOT, capture_output=True, text=True)
        assert done.returncode == 0, done.stdout
