"""The bound before tokenizing: never more tokens than there are, for any steps before the model."""

from __future__ import annotations

import random
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from tokenizers import AddedToken, Regex, models, normalizers, pre_tokenizers
from tokenizers import Tokenizer as Engine

from tests.text.varied import varied_texts
from trilens.errors import ContextFull
from trilens.text.fewest import Fewest, fewest_of
from trilens.text.model_text import ModelText
from trilens.text.spelling import byte_characters
from trilens.text.strategy import Strategy
from trilens.text.template import ChatTemplate
from trilens.text.thinking import Inference
from trilens.text.tokenizer import Tokenizer

BYTES = {character: byte for byte, character in enumerate(byte_characters())}
SPELLED = {f"<0x{byte:02X}>": byte for byte in range(256)}
LETTERS = {character: 256 + i for i, character in enumerate("abcdefghi ▁")}
NORMALIZERS = (
    normalizers.NFC,
    normalizers.NFKC,
    normalizers.NFD,
    normalizers.NFKD,
    normalizers.Lowercase,
    normalizers.Strip,
    normalizers.StripAccents,
    normalizers.Nmt,
    normalizers.BertNormalizer,
    lambda: normalizers.Prepend("▁"),
    lambda: normalizers.Replace(" ", "▁"),
    lambda: normalizers.Replace("ab", "c"),
    lambda: normalizers.Replace("abc", ""),
    lambda: normalizers.Replace("a", "\x04"),
    lambda: normalizers.Replace(Regex(" {2,}"), " "),
)
CUTS = (
    pre_tokenizers.Metaspace,
    pre_tokenizers.Whitespace,
    pre_tokenizers.WhitespaceSplit,
    pre_tokenizers.BertPreTokenizer,
    pre_tokenizers.Punctuation,
    pre_tokenizers.Digits,
    lambda: pre_tokenizers.Split(" ", "removed"),
    lambda: pre_tokenizers.Split(Regex(r"\d"), "isolated"),
    lambda: pre_tokenizers.CharDelimiterSplit("a"),
)
TEXTS = [
    *varied_texts(60),
    "a" * 400,
    " " * 400,
    "e\u0323\u0302" * 90,
    "\u1112\u1161\u11ab" * 80,
    "\x04" * 50 + "\x06",
    "abc" * 100,
    "\u1fef" * 40,
    "\u200b" * 40,
    "<end>   \n\n   " * 30,
]


def any_engine(draw: random.Random) -> Engine:
    """A tokenizer of random parts, some of which lose characters."""
    vocabulary = dict(draw.choice((BYTES, SPELLED, LETTERS, {**SPELLED, **LETTERS})))
    if draw.random() < 0.3:
        for gone in draw.sample(sorted(vocabulary), draw.choice((1, 3))):
            del vocabulary[gone]
        if draw.random() < 0.5:
            vocabulary.pop(byte_characters()[4], None)
    unknown = draw.choice((None, None, "<unk>"))
    pairs = []
    if "a" in vocabulary and draw.random() < 0.7:
        known = [c for c in "abc" if c in vocabulary]
        pairs = [(known[0], known[-1])]
        vocabulary["".join(pairs[0])] = 300
    if unknown is not None:
        vocabulary[unknown] = 301
    kind = draw.random()
    model: Any
    if kind < 0.8:
        model = models.BPE(
            vocabulary,
            pairs,
            unk_token=unknown,
            fuse_unk=draw.random() < 0.5,
            byte_fallback=draw.random() < 0.6,
        )
    elif kind < 0.9:
        pieces = [("<unk>", 0.0), *((text, -1.0) for text in vocabulary if text != "<unk>")]
        model = models.Unigram(pieces, unk_id=0, byte_fallback=draw.random() < 0.7)
    else:
        model = models.WordLevel({**vocabulary, "<unk>": 301}, unk_token="<unk>")
    engine = Engine(model)
    steps = [draw.choice(NORMALIZERS)() for _ in range(draw.choice((0, 0, 1, 2)))]
    if steps:
        engine.normalizer = normalizers.Sequence(steps)
    cuts = [draw.choice(CUTS)() for _ in range(draw.choice((0, 0, 1)))]
    if draw.random() < 0.6:
        cuts.append(pre_tokenizers.ByteLevel(add_prefix_space=draw.random() < 0.2))
    if cuts:
        engine.pre_tokenizer = pre_tokenizers.Sequence(cuts)
    if draw.random() < 0.3:
        engine.add_special_tokens([AddedToken("<end>", rstrip=draw.random() < 0.6, lstrip=draw.random() < 0.3)])
    if draw.random() < 0.2:
        engine.add_tokens([AddedToken("\ufdfa", normalized=True)])  # eighteen characters in NFKC
    return engine


def test_never_more_than_there_are() -> None:
    draw = random.Random(5)
    known = 0
    for number in range(400):
        engine = any_engine(draw)
        size = draw.choice((10_000, 10_000, 250))
        fewest = fewest_of(engine, size)
        known += fewest.characters is not None
        for text in draw.sample(TEXTS, 25):
            there = sum(i < size for i in engine.encode(text, add_special_tokens=False).ids)
            assert fewest.tokens(text) <= there, (number, fewest, text)
    assert 30 < known < 400


def test_it_is_tight_where_nothing_is_lost(small_tokenizer: Tokenizer) -> None:
    token = max((small_tokenizer.text_of(i) for i in range(small_tokenizer.vocab_size)), key=len)
    assert small_tokenizer.fewest_tokens(token * 500) == 500
    assert small_tokenizer.fewest_tokens("") == 0


def test_real_tokenizers_have_a_bound(smollm2_tokenizer: Tokenizer, spaced_directory: Path) -> None:
    for tokenizer in (smollm2_tokenizer, Tokenizer.from_directory(spaced_directory)):
        assert tokenizer.fewest_tokens("a word " * 100_000) > 2048
        for text in varied_texts(300):
            assert tokenizer.fewest_tokens(text) <= len(tokenizer.encode(text, special=False))


@pytest.mark.parametrize("raw", [True, False])
def test_what_cannot_fit_is_not_tokenized(
    smollm2_metadata: Mapping[str, Any], raw: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    tokenizer = Tokenizer.from_gguf(smollm2_metadata)
    text = ModelText(tokenizer, ChatTemplate("{{ messages[0].content }}"), Inference("unknown"))
    asked: list[int] = []
    encode = tokenizer.encode

    def counted(said: str, *, special: bool = True) -> list[int]:
        asked.append(len(said))
        return encode(said, special=special)

    monkeypatch.setattr(tokenizer, "encode", counted)
    with pytest.raises(ContextFull, match=r"2000000 characters are at least \d+ tokens"):
        text.encode("word " * 400_000, Strategy(None, "unknown"), raw=raw, variables={}, context=2048)
    assert asked == []
    fits = " conversation" * 2000  # a token each
    assert len(text.encode(fits, Strategy(None, "unknown"), raw=raw, variables={}, context=2048).ids) == 2000
    assert Fewest(None).tokens(fits) == 0


def test_a_long_text_lets_others_work(smollm2_tokenizer: Tokenizer, monkeypatch: pytest.MonkeyPatch) -> None:
    """The same ids by both ways of asking the library, of which only one lets go of Python's lock."""
    for text in ("the patient was stable. " * 2000, *varied_texts(100)):
        long = text * (1 + 5000 // max(1, len(text)))
        whole = smollm2_tokenizer.encode(long, special=False)
        with monkeypatch.context() as patch:
            patch.setattr("trilens.text.tokenizer.MOMENT", 1 << 40)
            assert smollm2_tokenizer.encode(long, special=False) == whole
