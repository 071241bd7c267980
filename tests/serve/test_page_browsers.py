"""The page in Firefox and in WebKit: a walk through every view, against the real server."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from typing import Any

import pytest

from tests.serve.conftest import Served
from tests.serve.drivers import BROWSERS, Page
from tests.serve.test_page import HOSTILE, HOSTILE_MATHS

FAULTS = """(() => { window.faults = [];
  addEventListener('error', (event) => faults.push(String(event.message)));
  addEventListener('unhandledrejection', (event) => faults.push(String(event.reason)));
  addEventListener('securitypolicyviolation', (event) => faults.push(event.violatedDirective)); return 1; })()"""
ASK = """(() => { const field = document.querySelector('#question'); field.value = %r;
  field.dispatchEvent(new KeyboardEvent('keydown', {key: 'Enter', bubbles: true, cancelable: true})); return 1; })()"""
ANSWERED = """document.querySelectorAll('.answer .receipt').length >= %d
  && !document.querySelector('#send').hidden"""


@pytest.fixture(scope="module", params=BROWSERS)
def page(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Page]:
    begin, is_here = BROWSERS[request.param]
    if not is_here:
        pytest.skip(f"no {request.param} is installed here")
    with begin(tmp_path_factory.mktemp(request.param)) as running:
        yield running


def until(page: Page, condition: str, seconds: float = 60) -> None:
    end = time.monotonic() + seconds
    while not page.run(f"Boolean({condition})"):
        assert time.monotonic() < end, condition
        time.sleep(0.05)


def opened(page: Page, url: str) -> None:
    page.open(url)
    page.run(FAULTS)
    until(page, "document.querySelector('#switch label')")


def click(page: Page, selector: str) -> None:
    page.run(f"(() => {{ document.querySelector({selector!r}).click(); return 1; }})()")


def text(page: Page, selector: str) -> Any:
    return page.run(f"document.querySelector({selector!r}).textContent")


def test_a_conversation_survives_a_reload(page: Page, server: Served) -> None:
    opened(page, server.url)
    page.run("localStorage.setItem('trilens-model', 'tiny-routed')")
    opened(page, server.url)
    page.run(ASK % "What is 47 times 86?")
    until(page, ANSWERED % 1)
    assert text(page, ".prose") == "4042" and "94" in text(page, "details.thoughts summary")
    assert page.run("faults") == []
    opened(page, server.url)
    until(page, "document.querySelector('.prose')?.textContent === '4042'")


def test_every_step_of_the_lesson(page: Page, server: Served) -> None:
    opened(page, server.url)
    click(page, "#tab-lesson")
    for chapter, steps in {
        "dense": ["path"],
        "moe": ["router"],
        "reasoning": ["race", "budget"],
        "four": ["four_step"],
    }.items():
        until(page, f"""document.querySelector(".chapter[href='#lesson/{chapter}']")""")
        page.run(f"""(() => {{ location.hash = '#lesson/{chapter}'; return 1; }})()""")
        until(page, f"document.querySelector('.chapter-body.{chapter}:not([hidden])')")
        for step in steps:
            if step == "four_step":
                page.run("(() => { document.querySelector('#step-four_step select').value = '8'; return 1; })()")
            click(page, f"#step-{step} .run button")
            until(page, f"document.querySelector('#step-{step} .run').dataset.runs === '1'")
            assert text(page, f"#step-{step} .run .fault") == ""
    assert page.run("faults") == []


def test_the_lenses_and_both_sides(page: Page, server: Served) -> None:
    opened(page, server.url)
    click(page, "#tab-lens")
    until(page, "document.querySelector('#inside .main')")
    click(page, "#inside .main")
    until(page, "document.querySelector('#inside .layers td')")
    assert page.run("document.querySelectorAll('#inside .token').length") == 18
    click(page, "#next .main")
    until(page, "document.querySelector('#next .token')")
    click(page, "#tab-compare")
    page.run("(() => { document.querySelector('#both').value = 'What is 12 plus 30?'; return 1; })()")
    click(page, "#compare .main")
    until(page, "document.querySelector('.difference')")
    assert page.run("faults") == []


@pytest.mark.parametrize("hostile", [HOSTILE, HOSTILE_MATHS], ids=["html", "mathematics"])
def test_hostile_answers_stay_text(page: Page, server: Served, hostile: str) -> None:
    opened(page, server.url)
    page.run(
        """((text) => { const usual = fetch; window.fetch = (url, options) => {
          if (!String(url).endsWith('completions')) return usual(url, options);
          const data = {id: 'x', choices: [{index: 0, delta: {content: text}, finish_reason: null}]};
          return Promise.resolve(new Response('data: ' + JSON.stringify(data) + '\\n\\ndata: [DONE]\\n\\n')); };
          return 1; })("""
        + json.dumps(hostile)
        + ")"
    )
    click(page, "#fresh")
    page.run(ASK % "Hello")
    until(page, "document.querySelectorAll('.prose > *').length > 1 && !document.querySelector('#send').hidden")
    assert page.run("[window.hit ?? null, document.querySelectorAll('.prose :is(img, iframe, script)').length]") == [
        None,
        0,
    ]
    assert page.run("faults") == []


def test_korean(page: Page, server: Served) -> None:
    opened(page, server.url)
    if page.run("document.documentElement.lang") == "en":
        click(page, "#language")
        until(page, "document.documentElement.lang === 'ko' && document.querySelector('#switch label')")
    assert text(page, "#tab-lesson") == "배우기"
    page.run("(() => { localStorage.removeItem('trilens-language'); return 1; })()")
