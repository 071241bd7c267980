"""Filling in the middle: every form's tokens stand where its models expect them, and the texts between are texts."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from trilens.checkpoints.find import find
from trilens.errors import RequestRefused
from trilens.text.fill_in import FORMS, Form, fill_in
from trilens.text.literal import Literal, control_texts
from trilens.text.tokenizer import Tokenizer

PAD, ORDINARY = "<|fim_pad|>", "    "


def literal_with(tokens: list[str], where: Path, special: bool) -> Literal:
    """tiny-dense's tokenizer with these tokens."""
    described = json.loads((find("tiny-dense").path / "tokenizer.json").read_text("utf-8"))
    options = dict.fromkeys(("single_word", "lstrip", "rstrip", "normalized"), False)
    first = 1 + max(*described["model"]["vocab"].values(), *(one["id"] for one in described["added_tokens"]))
    for i, text in enumerate(tokens):
        described["added_tokens"].append({"id": first + i, "content": text, "special": special, **options})
    (where / "tokenizer.json").write_text(json.dumps(described), "utf-8")
    tokenizer = Tokenizer.from_directory(where)
    return Literal(tokenizer, control_texts(tokenizer, ()))


@pytest.mark.parametrize("form", FORMS)
def test_the_prompt_of_each_form(form: Form, tmp_path: Path) -> None:
    marks = [text for text in form if text is not None]
    literal = literal_with([*marks, PAD, ORDINARY], tmp_path, special=True)
    tokenizer = literal.tokenizer
    before, after = f"def f():\n    return{marks[0]}", f"\n{marks[-1]}# <|im_end|>"
    ids, ends = fill_in(literal, before, after)
    prefix, suffix = f"{form.prefix}{before}", f"{form.suffix}{after}"
    written = f"{suffix}{prefix}" if form.middle is None else f"{prefix}{suffix}{form.middle}"
    assert tokenizer.decode(ids, skip_special=False) == written
    control = [i for i in ids if tokenizer.text_of(i) in (*marks, "<|im_end|>")]
    order = [form.suffix, form.prefix] if form.middle is None else marks
    assert control == [tokenizer.id_of(text) for text in order]
    assert {tokenizer.text_of(i) for i in ends} >= {*marks, PAD, "<|im_end|>", "<|endoftext|>"}


def test_tokens_that_are_not_marked_as_control_tokens(tmp_path: Path) -> None:
    """Qwen's are not; they open a form, end a middle and are no part of what a caller wrote all the same."""
    marks = [text for text in FORMS[0] if text is not None]
    literal = literal_with([*marks, PAD, ORDINARY], tmp_path, special=False)
    ids, ends = fill_in(literal, f"a = {PAD}", "")
    id_of = literal.tokenizer.id_of
    assert id_of(PAD) in ends and id_of(PAD) not in ids and id_of(ORDINARY) not in ends
    assert [ids[0], ids[-2], ids[-1]] == [id_of(text) for text in marks]


@pytest.mark.parametrize("missing", range(3))
def test_a_vocabulary_without_them_is_refused(missing: int, tmp_path: Path) -> None:
    marks = [text for i, text in enumerate(FORMS[0]) if text is not None and i != missing]
    with pytest.raises(RequestRefused, match="no tokens for filling in a middle"):
        fill_in(literal_with(marks, tmp_path, special=True), "a", "b")
