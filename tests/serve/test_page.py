"""The page in a real browser, against the real server: asking, faults, lenses."""

from __future__ import annotations

import json
import math
import re
from pathlib import Path
from typing import Any

import httpx2 as httpx

from tests.serve.browser import answered, answers, ask, chunk, fulfilled, hold, line, needs_chromium, stream, until
from tests.serve.conftest import Served, served
from tests.serve.engines import fake, serving
from trilens.serve.guard import Rules

pytestmark = needs_chromium

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


HOSTILE_MATHS = r"""$\href{javascript:window.hit=1}{x}$ $\url{javascript:window.hit=2}$ $\htmlClass{act}{x}$ $a^2$

$$\includegraphics{https://evil.example/x.png} \text{<img src=x onerror=window.hit=3>}$$

$$\htmlStyle{background:url(https://evil.example)}{x} \htmlData{x=1}{y}$$ $\def\a{\a\a}\a$

$<img src=x onerror=window.hit=4>$

$$\sqrt{x}\pmb{y}\fcolorbox{red}{white}{$z$}$$

```python
def f(): return "<img src=x onerror=window.hit=1>" # <script>window.hit=5</script>
```

```"><img src=x onerror=window.hit=6>
text
```

- [x] <img src=x onerror=window.hit=7>
- ![x](https://evil.example/x.png) ![y](javascript:window.hit=8)
- [data](data:text/html,<script>window.hit=9</script>)
"""
PICTURE = "https://evil.example/x.png"  # a picture elsewhere is a link: nothing is loaded until somebody follows it
DEEPEST = """Math.max(...[...document.querySelectorAll('.prose *')].map((e) => {
  let depth = 0; for (; e; e = e.parentElement) depth += 1; return depth; }))"""


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
            assert "9 in, 9 out" in line(page, "details.receipt summary")
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
        hold(page, content="so far")
        page.fill("#question", "Hello")
        page.press("#question", "Enter")
        page.wait_for_selector("#stop:not([hidden])")
        until(page, "document.querySelector('.prose').textContent === 'so far'")
        page.keyboard.press("Escape")
        answered(page)
        assert page.inner_text(".prose") == "so far" and "Stopped." in page.inner_text(".answer")

    def test_answer_now_is_asked_of_the_server(self, page: Any) -> None:
        asked: list[Any] = []

        def note(route: Any) -> None:
            asked.append(route.request.post_data_json)
            route.fulfill(json={"done": True})

        page.route("**/answer_now", note)
        hold(page, reasoning_content="hm")
        page.fill("#question", "Hello")
        page.press("#question", "Enter")
        page.wait_for_selector("details.thoughts.running")
        with page.expect_response("**/answer_now"):
            page.click("#now")
        assert asked == [{"id": "abc"}]
        page.click("#stop")

    def test_answer_now_only_while_a_model_thinks(self, page: Any) -> None:
        assert page.is_hidden("#now")
        hold(page, content="an answer")
        page.fill("#question", "Hello")
        page.press("#question", "Enter")
        until(page, "document.querySelector('.prose').textContent === 'an answer'")
        assert page.is_visible("#stop") and page.is_hidden("#now")
        page.click("#stop")
        answered(page)

    def test_a_hostile_answer_stays_text(self, page: Any) -> None:
        body = stream([chunk(reasoning_content="<img src=x onerror='window.hit=7'>"), chunk(content=HOSTILE)])
        page.route("**/v1/chat/completions", fulfilled(body))
        ask(page, "Hello")
        page.wait_for_selector(".prose strong")
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
            answers(page, text)
            ask(page, "Hello")
            until(page, "[...document.querySelectorAll('.prose')].at(-1).childNodes.length > 0")
            assert page.evaluate(DEEPEST) <= 60

    def test_formulas_and_colours_let_nothing_through(self, page: Any) -> None:
        answers(page, HOSTILE_MATHS)
        ask(page, "Hello")
        page.wait_for_selector(".prose .katex")
        page.wait_for_selector(".prose .hljs-keyword")
        prose = page.locator(".prose")
        assert page.evaluate("window.hit") is None
        assert prose.locator("script, img, iframe, object, form, input:not([type=checkbox])").count() == 0
        assert prose.locator("[onerror], [onload], [onclick], [href^=javascript], [src]").count() == 0
        assert [link.get_attribute("href") for link in prose.locator("a").all()] == [PICTURE]
        assert "<img src=x onerror=window.hit=1>" in prose.locator("code").first.inner_text()
        classes = page.evaluate(
            "[...new Set([...document.querySelectorAll('.code span')].flatMap((e) => [...e.classList]))]"
        )
        assert classes and all(name.startswith("hljs-") for name in classes)


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
        assert "feed-forward" in page.inner_text("#flops") and page.locator("#cache svg").count() == 1
        page.click(".disc >> nth=0")
        until(page, "document.querySelector('#router-words').textContent.includes('no router')")

    def test_the_next_token_and_what_sampling_makes_of_it(self, page: Any, server: Served) -> None:
        """The bars are the model's probabilities; the run that gives them is made only when somebody looks."""
        asked: list[Any] = []
        page.on("request", lambda r: asked.append(r.post_data_json) if r.url.endswith("/completions") else None)
        page.click("#tab-lens")
        page.wait_for_selector("#next form")
        assert asked == []
        page.click("#next button[type=submit]")
        page.wait_for_selector("#next .token")
        own = httpx.post(f"{server.url}/v1/chat/completions", json={**asked[0], "stream": False}).json()["choices"][0]
        assert page.locator("#next .token").all_inner_texts() == list(own["message"]["content"])
        first = own["logprobs"]["content"][0]["top_logprobs"]
        page.locator("#next input[type=range]").nth(0).fill("2")
        page.locator("#next input[type=range]").nth(1).fill("0.5")
        shown = page.locator("#next .bars span").all_inner_texts()
        weights = [math.exp(one["logprob"] / 2) for one in first]
        chances, before = [], 0.0
        for weight in weights:
            chances.append(weight if before < 0.5 * sum(weights) else 0.0)
            before += weight
        assert shown == [f"{100 * c / sum(chances):.1f} %" if c else "never drawn" for c in chances]
        page.locator("#next input[type=range]").nth(0).fill("0")
        assert page.locator("#next .bars span").first.inner_text() == "100.0 %"
        assert len(asked) == 1 and "24 in" in line(page, "#next p:last-child")

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
        assert thinking == ["0", "94"]

    def test_more_than_two_side_by_side(self, page: Any) -> None:
        page.click("#tab-compare")
        page.click("#add-side")
        page.click("#add-side")
        assert page.locator(".side").count() == 4 and page.is_hidden("#add-side")
        page.get_by_role("button", name="Remove model 2").click()
        assert page.locator(".side").count() == 3 and page.evaluate("document.activeElement.id") == "add-side"
        names = page.locator(".side select").evaluate_all("(all) => all.map((one) => one.value)")
        assert names == ["tiny-dense", "tiny-routed", "tiny-dense"]
        page.fill("#both", "What is 12 plus 30?")
        page.press("#both", "Enter")
        page.wait_for_selector(".difference")
        heads = page.locator(".difference thead th").all_inner_texts()
        assert [head.split()[0] for head in heads] == names
        assert page.locator(".side .prose").all_inner_texts() == ["42"] * 3
        held = page.locator(".difference tr", has_text="weights held").locator("td").all_inner_texts()
        assert re.search(r"[\d.]+ \S$", held[1]) and held[0] == held[2]  # the third is the same model as the first
        page.get_by_role("button", name="Remove model 3").click()
        assert (
            page.locator(".difference").count() == 0 and page.get_by_role("button", name="Remove model 1").count() == 0
        )
