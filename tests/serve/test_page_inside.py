"""Looking inside on the page: nothing runs before somebody asks, and what is shown is what the server tells."""

from __future__ import annotations

import json
from typing import Any

import pytest

from tests.serve.browser import ask, fulfilled, needs_chromium, opened, until
from tests.serve.conftest import Served
from tests.serve.test_page_care import AXE, wide

pytestmark = needs_chromium


def look(page: Any, model: str = "tiny-routed") -> list[Any]:
    """Open the view and look; the answers of the server."""
    told: list[Any] = []
    page.on("response", lambda answer: told.append(answer) if "/v1/trilens/" in answer.url else None)
    page.select_option("#model", model)
    page.click("#tab-lens")
    page.wait_for_selector("#inside .main")
    assert told == []  # off until somebody looks
    page.locator("#inside .main").click()
    until(page, "document.querySelector('#inside .layers td')")
    return [answer.json() for answer in told]


@pytest.mark.parametrize(("model", "locale"), [("tiny-routed", "en-US"), ("tiny-dense", "ko-KR")])
def test_what_is_shown_is_what_the_server_tells(browser: Any, server: Served, model: str, locale: str) -> None:
    with opened(browser, server.url, locale=locale) as page:
        lens, attention = look(page, model)
        tokens = page.locator("#inside .token")
        assert tokens.count() == len(lens["tokens"]) and tokens.last.get_attribute("aria-pressed") == "true"
        rows = [row.locator("code").all_inner_texts() for row in page.locator(".layers tr").all()]
        assert [len(row) for row in rows] == [4] * len(lens["layers"])
        best = max(attention["weights"][-1])
        assert page.locator("#inside .bars span").first.inner_text() == f"{100 * best:.0f} %"
        shares = [float(token.evaluate("(e) => e.style.getPropertyValue('--share')")) for token in tokens.all()]
        assert shares == pytest.approx([weight / best for weight in attention["weights"][-1]])
        for told in (lens, attention):
            assert f"{told['cost']['flops'] / 1e6:.1f}\u00a0MFLOP" in page.inner_text("#inside")
        assert "{" not in page.inner_text("#inside")  # every place of every sentence is filled
        for link in page.locator("#inside a.to-code").all():
            assert page.request.get(f"{server.url}/{link.get_attribute('href')}").status == 200


def test_another_token_layer_and_head(page: Any) -> None:
    _, attention = look(page)
    with page.expect_response("**/logit_lens") as answer:
        page.locator("#inside .token").nth(8).click()
    assert answer.value.json()["position"] == 8
    until(page, "document.querySelectorAll('#inside .token')[8].getAttribute('aria-pressed') === 'true'")
    assert page.locator("#inside .bars i").count() == 7  # six tokens, and the others together
    with page.expect_response("**/attention") as answer:
        page.locator("#inside select").first.select_option("0")
    other = answer.value.json()
    assert (other["layer"], other["head"]) == (0, 0) and other["weights"] != attention["weights"]
    with page.expect_response("**/attention") as answer:
        page.locator("#inside select").last.select_option("3")
    assert answer.value.json()["head"] == 3
    until(page, "document.querySelector('#inside canvas').getAttribute('aria-label').includes('layer 0, head 3')")


def test_the_conversation_can_be_looked_at(page: Any) -> None:
    page.select_option("#model", "tiny-dense")
    ask(page, "What is 12 plus 30?")
    page.click("#tab-lens")
    page.get_by_role("button", name="Use the conversation").click()
    with page.expect_response("**/logit_lens") as answer:
        page.locator("#inside .main").click()
    assert "12" in "".join(answer.value.json()["tokens"]) and "42" in "".join(answer.value.json()["tokens"])
    assert "2 messages" in page.inner_text("#inside")


def test_a_refusal_is_shown(page: Any) -> None:
    page.click("#tab-lens")
    page.locator("#inside textarea").fill("1" * 600)
    page.locator("#inside .main").click()
    until(page, "document.querySelector('#inside .fault').textContent.includes('expected 1 to 512')")
    page.locator("#inside textarea").fill("What is 1 plus 2?")
    page.locator("#inside .main").click()
    until(page, "document.querySelector('#inside .layers td')")
    assert page.inner_text("#inside .fault") == ""


@pytest.mark.parametrize("path", ["logit_lens", "attention"])
def test_nothing_of_another_text_stays_beside_a_refusal(page: Any, path: str) -> None:
    look(page)
    busy = json.dumps({"error": {"message": "busy"}})
    page.route(f"**/v1/trilens/{path}", lambda route: route.fulfill(status=429, body=busy))
    page.locator("#inside textarea").fill("1")
    page.locator("#inside .main").click()
    until(page, "document.querySelector('#inside .fault').textContent.includes('busy')")
    assert page.locator("#inside .token").count() == 0 and not page.locator("#inside .layers").is_visible()
    page.unroute(f"**/v1/trilens/{path}")
    page.locator("#inside .main").click()
    until(page, "document.querySelectorAll('#inside .token').length")
    assert page.locator("#inside .bars").is_visible() and page.locator("#inside .layers").is_visible()


def test_enter_twice_is_one_look(page: Any) -> None:
    look(page)
    asked: list[str] = []
    page.on("request", lambda request: asked.append(request.url) if "/logit_lens" in request.url else None)
    page.locator("#inside textarea").evaluate(
        "(field) => [1, 2].forEach(() => field.dispatchEvent(new KeyboardEvent('keydown', {key: 'Enter'})))"
    )
    until(page, "document.querySelectorAll('#inside .token').length")
    assert len(asked) == 1


def test_layers_without_attention_cannot_be_chosen(page: Any) -> None:
    """A hybrid model as the server would list it, and one without any attention."""
    listed = page.request.get(page.url + "v1/models").json()
    listed["data"][0]["trilens"]["attention_heads"] = [0, 4, 0, 4]
    listed["data"][1]["trilens"]["attention_heads"] = [0, 0, 0, 0]
    page.route("**/v1/models", lambda route: route.fulfill(body=json.dumps(listed), content_type="application/json"))
    page.reload()
    page.wait_for_selector("#switch label", state="attached")
    page.click("#tab-lens")
    page.wait_for_selector("#inside .main")
    options = page.locator("#inside select").first.locator("option")
    assert options.all_inner_texts() == ["0: no attention", "1", "2: no attention", "3"]
    assert [option.is_disabled() for option in options.all()] == [True, False, True, False]
    page.locator(".disc").nth(1).click()
    until(page, "document.querySelector('#inside').textContent.includes('has no attention')")
    page.locator("#inside .main").click()
    until(page, "document.querySelector('#inside .layers td')")  # the lens works for every model


def test_tokens_are_text(page: Any) -> None:
    hostile = "<img src=x onerror=window.hit=1>"
    cost = {"tokens": 1, "seconds": 0.1, "flops": 1, "weight_bytes": 1, "kv_bytes": 0, "fixed_bytes": 0, "text": ""}
    lens = {"position": 0, "tokens": [hostile], "layers": [[{"token": hostile, "probability": 1.0}]], "cost": cost}
    told = {"tokens": [hostile], "weights": [[1.0]], "cost": cost}
    for path, body in (("logit_lens", lens), ("attention", told)):
        page.route(f"**/v1/trilens/{path}", fulfilled(json.dumps(body)))
    page.click("#tab-lens")
    page.locator("#inside .main").click()
    until(page, "document.querySelector('#inside .layers td')")
    assert page.inner_text("#inside .token") == hostile.replace(" ", "␣")
    assert page.evaluate("window.hit") is None and page.locator("#inside img").count() == 0


@pytest.mark.parametrize("locale", ["en-US", pytest.param("ko-KR", marks=pytest.mark.slow)])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_it_fits_and_can_be_read(browser: Any, server: Served, locale: str, scheme: str) -> None:
    size = {"width": 320, "height": 640}
    with opened(browser, server.url, viewport=size, locale=locale, color_scheme=scheme) as page:
        look(page)
        page.locator("#inside .token").nth(6).click()
        assert wide(page, 320) == []
        page.evaluate(AXE.read_text("utf-8") + "; 0")
        found = page.evaluate("axe.run('#inside', {resultTypes: ['violations']})")["violations"]
        assert [(v["id"], [n["html"][:200] for n in v["nodes"]]) for v in found] == []
