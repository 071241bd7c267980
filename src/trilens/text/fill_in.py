"""Filling in the middle: the control tokens with which models were trained to write between two texts."""

from __future__ import annotations

from typing import NamedTuple

from trilens.errors import RequestRefused
from trilens.text.literal import Literal


class Form(NamedTuple):
    """Tokens as a vocabulary writes them. `middle` is None where the suffix comes first and the prefix goes on."""

    prefix: str
    suffix: str
    middle: str | None


FORMS = (
    Form("<|fim_prefix|>", "<|fim_suffix|>", "<|fim_middle|>"),  # Qwen, CodeGemma
    Form("<fim_prefix>", "<fim_suffix>", "<fim_middle>"),  # StarCoder, Granite
    Form("<fim-prefix>", "<fim-suffix>", "<fim-middle>"),  # SantaCoder
    Form("<\uff5cfim\u2581begin\uff5c>", "<\uff5cfim\u2581hole\uff5c>", "<\uff5cfim\u2581end\uff5c>"),  # DeepSeek
    Form("<|code_prefix|>", "<|code_suffix|>", "<|code_middle|>"),  # GLM
    Form("\u2581<PRE>", "\u2581<SUF>", "\u2581<MID>"),  # Code Llama
    Form("[PREFIX]", "[SUFFIX]", None),  # Codestral
)


def fill_in(literal: Literal, before: str, after: str) -> tuple[list[int], frozenset[int]]:
    """(the prompt behind which a model writes what stands between the two texts, the tokens that end it). A middle has
    no control tokens, so each of them ends it: models have several for this (`<|fim_pad|>`, `<|file_sep|>`).

    Raises RequestRefused for a vocabulary without such tokens.
    """
    tokenizer = literal.tokenizer
    for form in FORMS:
        prefix, suffix = tokenizer.id_of(form.prefix), tokenizer.id_of(form.suffix)
        middle = None if form.middle is None else tokenizer.id_of(form.middle)
        if prefix is None or suffix is None or (middle is None and form.middle is not None):
            continue
        start = [tokenizer.bos_id] if tokenizer.add_bos and tokenizer.bos_id is not None else []
        first, second = literal.plain(before), literal.plain(after, follows=True)
        if middle is None:
            ids = [*start, suffix, *second, prefix, *first]
        else:
            ids = [*start, prefix, *first, suffix, *second, middle]
        return ids, frozenset(i for text in literal.control if (i := tokenizer.id_of(text)) is not None)
    raise RequestRefused("this model's vocabulary has no tokens for filling in a middle; expected a prompt alone")
