"""A place to work: conversations that stay, branches, settings, files, tools, Markdown."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.serve.browser import answered, answers, ask, chunk, fulfilled, hold, line, needs_chromium, stream, until

pytestmark = needs_chromium

RICH = r"""## Title

Some **bold**, *slanted*, ~~gone~~ &amp; `code`. Euler: $e^{i\pi}+1=0$ and \(a_1\), but $5 and $6 are prices.

$$\int_0^1 x^2\,dx = \frac{1}{3}$$

\[ \sqrt{2} \]

| n | square |
| --: | :-- |
| 12 | 144 |

- [x] done
- [ ] open
  1. first
  2. second

> quoted

```python
def square(n: int) -> int:
    return n * n  # a comment
```
"""
ADD = {
    "name": "add",
    "parameters": {
        "type": "object",
        "properties": {"a": {"type": "integer"}, "b": {"type": "integer"}},
        "required": ["a", "b"],
    },
}


# of the conversation that was kept first
RECEIPTS = """new Promise((done) => { const asked = indexedDB.open('trilens'); asked.onsuccess = () => {
  const all = asked.result.transaction('conversations').objectStore('conversations').getAll();
  all.onsuccess = () => { asked.result.close();
    done(all.result[0].turns.map((turn) => turn.receipt).filter(Boolean)); }; }; })"""


def sent(page: Any) -> list[Any]:
    """The bodies of the chat requests from now on."""
    found: list[Any] = []
    page.on("request", lambda r: found.append(r.post_data_json) if r.url.endswith("/completions") else None)
    return found


def reload(page: Any) -> None:
    page.reload()
    page.wait_for_selector("#switch label")


def said(page: Any) -> list[str]:
    texts: list[str] = page.locator(".said, .prose").all_text_contents()
    return texts


class TestConversationsStay:
    def test_after_a_reload(self, page: Any) -> None:
        ask(page, "What is 12 plus 30?")
        receipt = line(page, "details.receipt summary")
        reload(page)
        page.wait_for_selector(".prose")
        until(page, "document.querySelector('.prose').textContent === '42'")
        assert said(page) == ["What is 12 plus 30?", "42"] and line(page, "details.receipt summary") == receipt
        asked = sent(page)
        ask(page, "What is 5 plus 6?")
        assert [m["role"] for m in asked[0]["messages"]] == ["user", "assistant", "user"]

    def test_an_answer_that_was_being_written(self, page: Any) -> None:
        hold(page, content="half of it")
        page.fill("#question", "Hello")
        page.press("#question", "Enter")
        until(page, "document.querySelector('.prose').textContent === 'half of it'")
        kept = "new Promise((done) => { const asked = indexedDB.open('trilens'); asked.onsuccess = () => { " + (
            "const all = asked.result.transaction('conversations').objectStore('conversations').getAll(); "
            "all.onsuccess = () => { asked.result.close(); done(all.result[0]?.turns.length === 2); }; }; })"
        )
        until(page, kept)
        reload(page)
        until(page, "document.querySelector('.prose')?.textContent === 'half of it'")

    def test_list_open_rename_delete(self, page: Any) -> None:
        ask(page, "What is 12 plus 30?")
        page.click("#fresh")
        ask(page, "What is 5 plus 6?")
        names = page.locator("#list .name")
        assert names.all_inner_texts() == ["What is 5 plus 6?", "What is 12 plus 30?"]
        names.nth(1).click()
        until(page, "document.querySelector('.prose')?.textContent === '42'")
        page.locator("#list li").nth(1).hover()
        page.get_by_label("Rename: What is 12 plus 30?").click()
        page.fill("#list input", "Sums")
        page.press("#list input", "Enter")
        until(page, "[...document.querySelectorAll('#list .name')].at(-1).textContent === 'Sums'")
        page.locator("#list li").nth(1).hover()
        page.get_by_label("Delete: Sums").click()
        page.get_by_role("button", name="Cancel").click()
        page.locator("#list li").nth(1).hover()
        page.get_by_label("Delete: Sums").click()
        page.locator("#list .act.bad").click()
        until(page, "document.querySelectorAll('#list li').length === 1")
        assert said(page) == []  # the one that was open is gone
        reload(page)
        until(page, "document.querySelectorAll('#list li').length === 1")
        assert names.all_inner_texts() == ["What is 5 plus 6?"]

    def test_export_and_import(self, page: Any, tmp_path: Path) -> None:
        ask(page, "What is 12 plus 30?")
        with page.expect_download() as download:
            page.click("#export-all")
        file = tmp_path / "talks.json"
        download.value.save_as(file)
        content = json.loads(file.read_text("utf-8"))
        [talk] = content["conversations"]
        assert [turn["content"] for turn in talk["turns"]] == ["What is 12 plus 30?", "42"]
        assert talk["turns"][1]["receipt"]["tokens"]["answer"] == 2
        talk["title"] = "Brought back"
        file.write_text(json.dumps(content), "utf-8")
        page.set_input_files("#import-file", file)
        until(page, "document.querySelectorAll('#list li').length === 2")  # one that is here stays as it is
        page.get_by_role("button", name="Brought back", exact=True).click()
        until(page, "document.querySelector('[aria-current]').textContent === 'Brought back'")
        assert said(page) == ["What is 12 plus 30?", "42"]

    def test_a_file_that_is_no_export(self, page: Any, tmp_path: Path) -> None:
        wrong = {"format": "trilens-conversations", "conversations": [{"id": 1}]}
        for text, words in (
            ("no json", "not JSON"),
            ('{"format": "other"}', "trilens-conversations"),
            (json.dumps(wrong), "conversations[0].id"),
        ):
            (tmp_path / "x.json").write_text(text)
            page.set_input_files("#import-file", tmp_path / "x.json")
            until(page, f"document.querySelector('#status').textContent.includes({json.dumps(words)})")
            assert page.locator("#list li").count() == 0

    def test_every_field_of_a_file_is_checked(self, page: Any) -> None:
        """Each field in turn has a value of another type; and parents may not go round in a circle."""
        turn = {"id": 1, "parent": None, "role": "user", "content": "x", "thinking": "x", "model": "x", "finish": "x"}
        turn |= {"files": [], "calls": [], "call": None, "receipt": None, "receiptText": "x", "stopped": False}
        talk: dict[str, Any] = {"id": "a", "title": "x", "created": 1, "changed": 1, "leaf": 1, "settings": {}}
        settings = {"system": "x", "temperature": 1, "top_p": 1, "top_k": 1, "max_tokens": 1, "seed": 1, "tools": []}
        good = {**talk, "turns": [turn], "settings": settings}
        wrong = [{**good, name: ["x", {}]} for name in talk]
        wrong += [{**good, "turns": [{**turn, name: {"x": [1]}}]} for name in turn]
        wrong += [{**good, "settings": {name: {"x": 1}}} for name in settings]
        wrong += [{**good, "turns": [{**turn, "parent": 1}]}, {**good, "leaf": 7}, {**good, "turns": [turn, turn]}]
        script = """async (talks) => { const { imported } = await import('/talk/exchange.js');
          return talks.map((talk) => { try { imported(JSON.stringify({format: 'trilens-conversations',
            conversations: [talk]})); return 'taken'; } catch (problem) { return problem.message; } }); }"""
        assert page.evaluate(script, [good]) == ["taken"]
        assert [said for said in page.evaluate(script, wrong) if "conversations[0]" not in said] == []


class TestTurns:
    def test_edit_makes_a_branch_and_both_stay(self, page: Any) -> None:
        ask(page, "What is 12 plus 30?")
        page.get_by_role("button", name="Edit").click()
        page.fill(".editing textarea", "What is 5 plus 6?")
        page.press(".editing textarea", "Enter")
        until(page, "document.querySelector('.prose')?.textContent === '11'")
        answered(page)
        assert said(page) == ["What is 5 plus 6?", "11"]
        assert page.locator(".user .branches").inner_text().split()[1] == "2/2"
        page.get_by_label("Previous branch").click()
        until(page, "document.querySelector('.said').textContent === 'What is 12 plus 30?'")
        assert said(page) == ["What is 12 plus 30?", "42"]
        reload(page)
        until(page, "document.querySelector('.prose')?.textContent === '42'")
        assert "2 answers" in line(page, "#cost") and "1 of them on other branches" in line(page, "#cost")

    @pytest.mark.slow
    def test_another_answer_to_the_same_question(self, page: Any) -> None:
        ask(page, "What is 12 plus 30?")
        asked = sent(page)
        page.get_by_role("button", name="Try again").click()
        page.wait_for_selector(".branches")
        assert [m["role"] for m in asked[0]["messages"]] == ["user"]
        assert page.locator(".answer").count() == 1 and page.locator(".said").count() == 1
        assert page.locator(".branches").inner_text().split()[1] == "2/2"

    @pytest.mark.slow
    def test_copy(self, page: Any) -> None:
        page.context.grant_permissions(["clipboard-read", "clipboard-write"])
        answers(page, RICH)
        ask(page, "Hello")
        page.locator(".turn > .acts").last.get_by_role("button", name="Copy").click()
        until(page, "navigator.clipboard.readText().then((text) => text.startsWith('## Title'))")
        page.wait_for_selector(".code")
        page.locator(".code").get_by_role("button", name="Copy").click()
        until(page, "navigator.clipboard.readText().then((text) => text.startsWith('def square'))")

    def test_the_cost_of_a_conversation_is_the_sum_of_its_receipts(self, page: Any) -> None:
        for question in ("What is 12 plus 30?", "What is 47 times 86?"):
            ask(page, question)
        until(
            page, RECEIPTS.replace("done(all", "done(2 === all").replace(".filter(Boolean)", ".filter(Boolean).length")
        )
        receipts = page.evaluate(RECEIPTS)
        prompt = sum(r["tokens"]["prompt"] for r in receipts)
        completion = sum(r["tokens"]["completion"] for r in receipts)
        assert f"2 answers · {prompt} in, {completion} out" in line(page, "#cost")


class TestSettings:
    def test_they_are_sent_and_kept(self, page: Any) -> None:
        page.click("#settings")
        page.fill("[name=system]", "Be brief.")
        page.fill("[name=temperature]", "0.5")
        page.fill("[name=max_tokens]", "7")
        page.fill("[name=seed]", "3")
        page.get_by_role("button", name="Save").click()
        asked = sent(page)
        ask(page, "What is 12 plus 30?")
        assert asked[0]["messages"][0] == {"role": "system", "content": "Be brief."}
        assert {name: asked[0][name] for name in ("temperature", "max_tokens", "seed")} == {
            "temperature": 0.5,
            "max_tokens": 7,
            "seed": 3,
        }
        assert "top_p" not in asked[0] and page.inner_text("#settings").endswith("· 4")
        reload(page)
        until(page, "document.querySelector('#settings').textContent.endsWith('· 4')")

    def test_a_file_goes_before_the_question(self, page: Any, tmp_path: Path) -> None:
        (tmp_path / "notes.txt").write_text("the notes, 한글")
        (tmp_path / "picture.png").write_bytes(b"\x89PNG\x00\xff")
        page.set_input_files("#file", tmp_path / "picture.png")
        page.wait_for_selector("#status.bad")
        assert "not text" in page.inner_text("#status") and page.is_hidden("#files")
        page.set_input_files("#file", tmp_path / "notes.txt")
        page.wait_for_selector(".chip")
        asked = sent(page)
        ask(page, "What is 12 plus 30?")
        assert asked[0]["messages"][0]["content"] == "notes.txt:\n\nthe notes, 한글\n\nWhat is 12 plus 30?"
        assert page.inner_text(".file summary") == "notes.txt" and page.inner_text(".said") == "What is 12 plus 30?"

    def test_a_tool_is_called_and_its_result_goes_back(self, page: Any) -> None:
        page.click("#settings")
        page.fill("[name=tools]", "{")
        page.get_by_role("button", name="Save").click()
        page.wait_for_selector("#tools-fault:not(:empty)")
        page.fill("[name=tools]", json.dumps(ADD))
        page.select_option("[name=tool_choice]", "required")
        page.get_by_role("button", name="Save").click()
        asked = sent(page)
        page.fill("#question", "What is 14 plus 25?")
        page.press("#question", "Enter")
        page.wait_for_selector(".results textarea")
        assert page.inner_text(".call code") == "add"
        given = json.loads(page.inner_text(".call pre"))
        assert set(given) == {"a", "b"}
        page.fill(".results textarea", "39")
        answers(page, "It is 39.")
        page.get_by_role("button", name="Send result").click()
        until(page, "[...document.querySelectorAll('.prose')].at(-1).textContent === 'It is 39.'")
        assert [m["role"] for m in asked[1]["messages"]] == ["user", "assistant", "tool"]
        call = asked[1]["messages"][1]["tool_calls"][0]
        assert asked[1]["messages"][2] == {
            "role": "tool",
            "tool_call_id": call["id"],
            "name": "add",
            "content": "39",
        }
        assert asked[0]["tool_choice"] == "required" and "tool_choice" not in asked[1]
        assert page.inner_text(".result").split() == ["Result", "of", "add", "39"]


class TestMarkdown:
    def test_mathematics_tables_tasks_and_code(self, page: Any) -> None:
        answers(page, RICH)
        ask(page, "Hello")
        prose = page.locator(".prose")
        page.wait_for_selector(".prose .hljs-keyword")
        until(page, "document.querySelectorAll('.prose .katex').length === 4")
        assert prose.locator(".math.block").count() == 2 and prose.locator("math").count() == 4
        assert "but $5 and $6 are prices." in prose.inner_text() and "gone & code." in prose.inner_text()
        assert prose.locator("strong, em, del").all_inner_texts() == ["bold", "slanted", "gone"]
        assert prose.locator("td").all_inner_texts() == ["12", "144"]
        assert [box.is_checked() for box in prose.locator("input[type=checkbox]").all()] == [True, False]
        assert prose.locator("li li").all_inner_texts() == ["first", "second"]
        assert prose.locator("blockquote").inner_text() == "quoted"
        assert prose.locator(".hljs-comment").inner_text() == "# a comment"
        assert prose.locator(".katex .mord").first.evaluate("(e) => getComputedStyle(e).fontFamily").startswith("KaTeX")

    @pytest.mark.slow
    def test_text_that_comes_in_pieces_is_the_same(self, page: Any) -> None:
        answers(page, RICH)
        ask(page, "Hello")
        page.unroute_all()
        page.route("**/v1/chat/completions", fulfilled(stream([chunk(content=letter) for letter in RICH])))
        ask(page, "Hello")
        until(page, "document.querySelectorAll('.prose .hljs-comment').length === 2")
        until(page, "document.querySelectorAll('.prose .katex').length === 8")
        whole, pieces = page.locator(".prose").evaluate_all("(all) => all.map((e) => e.innerHTML)")
        assert whole == pieces


class TestWithoutAnAnswer:
    def test_a_question_that_got_none_is_not_sent_again(self, page: Any) -> None:
        """It stays on a branch of its own. An empty answer has a receipt, and is not sent either."""
        page.route("**/v1/chat/completions", lambda route: route.abort())
        ask(page, "One")
        page.wait_for_selector(".fault")
        page.unroute_all()
        asked = sent(page)
        page.fill("#question", "What is 12 plus 30?")
        page.press("#question", "Enter")
        until(page, "document.querySelector('.prose')?.textContent === '42'")
        answered(page)
        assert [m["content"] for m in asked[0]["messages"]] == ["What is 12 plus 30?"]
        until(page, f"({RECEIPTS}).then((receipts) => receipts.length === 1)")
        assert page.locator(".user .branches").inner_text().split()[1] == "2/2"
        end = {"id": "x", "choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}]}
        end |= {"trilens": {"receipt": page.evaluate(RECEIPTS)[0], "text": "empty"}}
        page.route("**/v1/chat/completions", fulfilled(stream([end])))
        ask(page, "Two")
        page.unroute_all()
        ask(page, "What is 5 plus 6?")
        assert [m["content"] for m in asked[-1]["messages"]] == ["What is 12 plus 30?", "42", "What is 5 plus 6?"]
        assert page.locator(".answer").count() == 3 and page.locator("details.receipt").count() == 3
