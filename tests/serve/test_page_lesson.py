"""The lesson in three lenses: each number that a person sees is that of `trilens card`, `combos` and `trace`."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import trilens
from tests.serve.browser import needs_chromium, opened, until
from tests.serve.conftest import Served, served
from trilens.lenses.cards.card import Card, card
from trilens.lenses.cards.moe import MoeLens
from trilens.trials.combos import ask as ask_combination
from trilens.trials.questions import held_out
from trilens.trials.routing import trace
from trilens.units import flop

pytestmark = needs_chromium

QUESTION = "What is 47 times 86?"


@pytest.fixture(scope="module")
def page(browser: Any, server: Served) -> Iterator[Any]:
    """One page for all steps, as a reader has it."""
    with opened(browser, f"{server.url}/#lesson/dense") as page:
        page.wait_for_selector(".chapter-body.dense")
        yield page


def chapter(page: Any, name: str) -> None:
    page.click(f".chapter[href='#lesson/{name}']")
    page.wait_for_selector(f".chapter-body.{name}:not([hidden])")


def go(page: Any, step: str) -> None:
    """Press a step's button and wait until its run has ended."""
    runs = page.locator(f"#step-{step} .run")
    before = int(runs.get_attribute("data-runs") or 0)
    runs.locator("button").first.click()
    until(page, f"Number(document.querySelector('#step-{step} .run').dataset.runs) > {before}")
    assert page.inner_text(f"#step-{step} .fault") == ""


def cells(page: Any, step: str) -> list[list[str]]:
    rows = page.locator(f"#step-{step} tbody tr")
    return [row.locator("th, td").all_inner_texts() for row in rows.all()]


def facts(page: Any, step: str) -> dict[str, str]:
    place = page.locator(f"#step-{step} dl.facts").first
    return dict(zip(place.locator("dt").all_inner_texts(), place.locator("dd").all_inner_texts(), strict=True))


def told(name: str) -> Card:
    made = card(name)
    assert isinstance(made, Card)
    return made


class TestDense:
    def test_two_questions_one_cost(self, page: Any) -> None:
        chapter(page, "dense")
        go(page, "path")
        model = trilens.load("tiny-dense")
        expected = []
        for question in ("What is 12 plus 30?", "What is 98 minus 41?"):
            model.forget()
            answer = model.generate(question, thinking=False, temperature=0)
            work = answer.receipt.work.prefill
            expected.append([question, answer.text, str(answer.receipt.tokens.prompt), f"{work.flops:,}"])
        assert [row[:4] for row in cells(page, "path")] == expected
        assert "the same work" in page.inner_text("#step-path .verdict")
        page.locator("#step-path input").nth(1).fill("What is 5 plus 6?")
        go(page, "path")
        assert "two of the same length" in page.inner_text("#step-path .verdict")

    def test_by_hand_and_by_the_counter(self, page: Any) -> None:
        chapter(page, "dense")
        own = told("tiny-dense").as_dict()
        shown = facts(page, "products")
        formula = "2 x 3 x 128 d_model x 384 d_ffn x 4 layers"
        assert shown["By hand"].split(" = ") == [formula.replace(" x ", " \N{MULTIPLICATION SIGN} "), "1,179,648"]
        assert shown["The counter says"] == f"{own['flops_per_token']['feed_forward']:,}"
        assert page.inner_text("#step-products .verdict").startswith("The same number.")
        counts = page.locator("#step-total .bars span:nth-child(3n)").all_inner_texts()
        assert counts == [f"{own['parameters']['total']:,}", f"{own['parameters']['active']:,}"]
        at = own["dense_lens"]["flops_by_context"]
        assert cells(page, "growth")[-1] == ["total", flop(at["1"]["total"]), flop(at["2048"]["total"])]


class TestMoe:
    def test_tokens_load_and_what_is_idle_as_trace_has_them(self, page: Any) -> None:
        chapter(page, "moe")
        go(page, "router")
        own = trace(trilens.load("tiny-routed"), QUESTION, temperature=0)
        seen = page.locator("#step-router .fired")
        for number, layer in enumerate(own.layers):
            page.locator("#step-router input[type=radio]").nth(number).check(force=True)
            texts = [text.replace("␣", " ").replace("⏎", "\n") for text in seen.locator("b").all_text_contents()]
            assert texts == list(own.texts)
            assert seen.locator("small").all_text_contents() == [" ".join(map(str, row)) for row in layer.ids.tolist()]
            load = [
                int(said.split(" · ")[0])
                for said in page.locator("#step-load .bars span:nth-child(3n)").all_inner_texts()
            ]
            assert load == layer.load.tolist()
        fired = sum(len(Counter(layer.ids.ravel().tolist())) for layer in own.layers)
        moe, parameters = told("tiny-routed").moe, told("tiny-routed").parameters
        assert isinstance(moe, MoeLens)
        shown = facts(page, "idle")
        assert shown["Experts that one token fires, all layers"] == "8 of 32"
        assert shown["Experts that fired at least once"] == f"{fired} of 32"
        assert shown["Parameters that one token uses"] == f"{parameters.active:,} of {parameters.total:,}"
        bars = page.locator("#step-idle .bars").nth(1).locator("span:nth-child(3n)").all_inner_texts()
        neighbours = moe.as_dict()["neighbours"]
        assert bars == [f"{n:,}" for n in (moe.as_dict()["flops_at_context_1"], *(one["flops"] for one in neighbours))]

    def test_a_colour_for_each_expert_and_its_number_beside_it(self, page: Any) -> None:
        chapter(page, "moe")
        go(page, "router")
        looks = page.locator("#step-router .fired").evaluate_all(
            """(all) => all.map((e) => [getComputedStyle(e.querySelector('b')).backgroundImage,
            e.querySelector('small').textContent])"""
        )
        by_experts = {numbers: image for image, numbers in looks}
        assert len(set(by_experts.values())) == len(by_experts)  # other experts, other colours
        assert all(by_experts[numbers] == image for image, numbers in looks)  # the same experts, the same colours


class TestReasoning:
    def test_the_race_of_both_receipts(self, page: Any) -> None:
        chapter(page, "reasoning")
        go(page, "race")
        model = trilens.load("tiny-dense")
        receipts = []
        for thinking in (False, True):
            model.forget()
            receipts.append(model.generate(QUESTION, thinking=thinking, temperature=0).receipt)
        lanes = page.locator("#step-race .lane .answer-line").all_inner_texts()
        assert lanes[1].startswith("4042") and "right" in lanes[1] and "wrong, it is 4042" in lanes[0]
        said = page.locator("#step-race .raced .bars span:nth-child(3n)").all_inner_texts()
        assert said[:2] == [f"{r.tokens.completion:,}" for r in receipts]
        assert said[2:4] == [flop(r.work.flops) for r in receipts]
        assert f"{receipts[1].tokens.thinking} tokens long" in page.inner_text("#step-race .verdict")

    def test_a_budget_that_one_can_drag(self, page: Any) -> None:
        chapter(page, "reasoning")
        slider = page.locator("#step-budget input[type=range]")
        slider.focus()
        runs = "document.querySelector('#step-budget .run').dataset.runs"
        assert page.evaluate(runs) is None
        page.keyboard.press("Home")
        until(page, f"{runs} === '1'")
        page.keyboard.press("End")
        until(page, f"{runs} === '2'")
        rows = cells(page, "budget")
        none, plenty = (trilens.load("tiny-dense").generate(QUESTION, thinking=n, temperature=0) for n in (0, 128))
        assert [row[1] for row in rows] == [str(none.receipt.tokens.thinking), str(plenty.receipt.tokens.thinking)]
        assert rows[0][3].startswith(none.text) and rows[1][3].startswith(plenty.text) and rows[1][2] == "the model"

    def test_answer_now(self, page: Any) -> None:
        """However late it is pressed: the second run thinks as long as the first was watched."""
        chapter(page, "reasoning")
        button = page.locator("#step-now .run button")
        button.first.click()
        button.nth(1).click()
        page.wait_for_selector("#step-now .verdict")
        shown, everything = map(int, re.findall(r"after (\d+) of (\d+)", page.inner_text("#step-now .verdict"))[0])
        model = trilens.load("tiny-dense")
        early = model.generate(QUESTION, thinking=shown, temperature=0)
        assert page.inner_text("#step-now .answer-line").startswith(early.text)
        assert page.inner_text("#step-now .thought").strip() == early.thinking.strip()
        assert everything == model.generate(QUESTION, thinking=True, temperature=0).receipt.tokens.thinking


class TestTheFourCombinations:
    def test_the_table_is_that_of_combos(self, page: Any) -> None:
        chapter(page, "four")
        page.select_option("#step-four_step select", "8")
        go(page, "four_step")
        asked = held_out(8)
        expected = []
        for name in ("tiny-dense", "tiny-routed"):
            for thinking in (False, True):
                row, model, work = ask_combination(name, asked, thinking), trilens.load(name), 0
                for question in asked:  # nothing from the cache, as in the lesson
                    model.forget()
                    work += model.generate(question.text, thinking=thinking, temperature=0).receipt.work.flops
                parameters = f"{row.parameters['total']:,} / {row.parameters['active']:,}"
                mode = f"{name} · Thinking {'on' if thinking else 'off'}"
                right = f"{row.correct} of {row.asked}"
                expected.append([mode, right, f"{row.thinking_tokens:,}", f"{row.answer_tokens:,}", parameters])
                assert row.asked == 8
                expected[-1].insert(4, f"{int(work / 8 + 0.5):,}")
        assert cells(page, "four_step") == expected


class TestAModelOfOnesOwn:
    def test_by_its_config(self, page: Any, tmp_path: Path) -> None:
        chapter(page, "own")
        file = Path(trilens.__file__).parent / "models" / "tiny-routed" / "config.json"
        page.set_input_files("#step-own_step input[type=file]", file)
        page.wait_for_selector("#step-own_step dl.facts")
        own = told(str(file)).as_dict()
        shown = facts(page, "own_step")
        assert shown["stored"] == f"{own['parameters']['total']:,}"
        assert shown["active"].startswith(f"{own['parameters']['active']:,} · 32 %")
        assert shown["Feed-forward, one token"].endswith(f"= {own['dense_lens']['feed_forward_sum']['total']:,}")
        (tmp_path / "config.json").write_text('{"model_type": "nobody-knows", "hidden_size": 8}')
        page.set_input_files("#step-own_step input[type=file]", tmp_path / "config.json")
        page.wait_for_selector("#step-own_step .fault")
        assert "nobody-knows" in page.inner_text("#step-own_step .fault")
        (tmp_path / "config.json").write_text("{")
        page.set_input_files("#step-own_step input[type=file]", tmp_path / "config.json")
        until(page, "document.querySelector('#step-own_step .fault').textContent.includes('not JSON')")


class TestTheLessonItself:
    def test_korean_and_english_and_what_was_chosen_is_remembered(self, page: Any) -> None:
        chapter(page, "dense")
        page.click("#language")
        until(page, "document.documentElement.lang === 'ko' && !!document.querySelector('#step-path h3')")
        assert page.inner_text("#step-path h3") == "모든 토큰이 같은 길을 갑니다"
        assert page.inner_text("#tab-talk") == "대화"
        page.reload()
        until(page, "document.documentElement.lang === 'ko' && !!document.querySelector('#step-path h3')")
        page.click("#language")
        until(page, "document.documentElement.lang === 'en' && !!document.querySelector('#step-path h3')")

    def test_a_korean_browser_begins_in_korean(self, browser: Any, server: Served) -> None:
        with opened(browser, server.url, locale="ko-KR") as page:
            assert page.evaluate("document.documentElement.lang") == "ko" and page.inner_text("#send") == "묻기"

    def test_both_languages_have_every_word(self, page: Any) -> None:
        """With the same values to fill in."""
        script = """async () => { const found = [];
          for (const folder of ['words', 'lesson']) {
            const { EN } = await import(`/${folder}/en.js`), { KO } = await import(`/${folder}/ko.js`);
            const values = (words) => [...new Set(words?.match(/\\{\\w+\\}/g) ?? [])].sort().join();
            for (const key of new Set([...Object.keys(EN), ...Object.keys(KO)]))
              if (values(EN[key]) !== values(KO[key]) || !EN[key] || !KO[key]) found.push(key);
          } return found; }"""
        assert page.evaluate(script) == []

    @pytest.mark.slow
    def test_the_chapter_is_in_the_address(self, page: Any) -> None:
        chapter(page, "dense")
        chapter(page, "reasoning")
        assert page.evaluate("location.hash") == "#lesson/reasoning"
        page.reload()
        page.wait_for_selector(".chapter-body.reasoning")
        page.go_back()
        page.wait_for_selector(".chapter-body.dense:not([hidden])")

    def test_a_server_without_such_a_model_says_what_to_do(self, browser: Any) -> None:
        with served(["tiny-dense"]) as alone, opened(browser, f"{alone.url}/#lesson/moe") as page:
            page.wait_for_selector(".chapter-body.moe")
            assert "trilens serve tiny-dense tiny-routed" in page.inner_text(".chapter-body.moe")
