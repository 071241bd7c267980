"""Tokenizer files that would make loading or the first encoding endless, or do not belong to their model."""

from __future__ import annotations

import base64
import json
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

import trilens
from trilens.checkpoints.find import find
from trilens.errors import BadCheckpoint
from trilens.text import file_limits
from trilens.text.spelling import byte_characters
from trilens.text.tokenizer import Tokenizer

Document = dict[str, Any]
ADDED = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": True}


def published() -> Document:
    found: Document = json.loads((find("tiny-dense").path / "tokenizer.json").read_bytes())
    return found


def written(directory: Path, document: Document) -> Path:
    (directory / "tokenizer.json").write_text(json.dumps(document), encoding="utf-8")
    return directory


def normalizer(*steps: Document) -> Callable[[Document], None]:
    def change(document: Document) -> None:
        document["normalizer"] = {"type": "Sequence", "normalizers": list(steps)}

    return change


def replacing(kind: str, pattern: str, content: str) -> Document:
    return {"type": "Replace", "pattern": {kind: pattern}, "content": content}


def adding(*contents: str) -> Callable[[Document], None]:
    def change(document: Document) -> None:
        document["added_tokens"] += [{"id": 600 + i, "content": c, **ADDED} for i, c in enumerate(contents)]

    return change


def charsmap(result: str) -> str:
    return base64.b64encode((4).to_bytes(4, "little") + b"\0\0\0\0" + result.encode() + b"\0").decode()


def long_token(document: Document) -> None:
    document["model"]["vocab"]["a" * 400_000] = len(document["model"]["vocab"])


def many_cuts(document: Document) -> None:
    vocabulary = document["model"]["vocab"]
    for i in range(20):
        vocabulary[f"{i}" + "a" * 4000] = len(vocabulary)


def long_pattern(document: Document) -> None:
    split = {"type": "Split", "pattern": {"Regex": "a|" * 20_000}, "behavior": "Isolated", "invert": False}
    document["pre_tokenizer"] = {"type": "Sequence", "pretokenizers": [split]}


ENDLESS: dict[str, tuple[Callable[[Document], None], str]] = {
    "a long token": (long_token, "400000"),
    "many long tokens": (many_cuts, "too long"),
    "a long added token": (adding("a" * 400_000), "400000"),
    "many added tokens": (adding(*(f"{i}" + "b" * 60 for i in range(20_000))), "added tokens"),
    "seven replacements": (normalizer(*[replacing("String", "a", "a" * 10)] * 7), "times longer"),
    "a replacement of nothing": (normalizer(replacing("Regex", "", "ab" * 100)), "times longer"),
    "nested replacements": (
        normalizer({"type": "Sequence", "normalizers": [replacing("String", "a", "a" * 9)] * 3}),
        "times longer",
    ),
    "prefixes": (normalizer({"type": "Prepend", "prepend": "a" * 100}), "times longer"),
    "a map of characters": (
        normalizer({"type": "Precompiled", "precompiled_charsmap": charsmap("a" * 999)}),
        "times longer",
    ),
    "many steps": (normalizer(*[{"type": "NFC"}] * 100), "100 steps"),
    "a long pattern": (long_pattern, "40000 characters"),
}


@pytest.mark.parametrize("name", sorted(ENDLESS))
def test_an_endless_tokenizer_is_refused_before_it_is_built(tmp_path: Path, name: str) -> None:
    change, says = ENDLESS[name]
    document = published()
    change(document)
    began = time.thread_time()
    with pytest.raises(BadCheckpoint) as caught:
        Tokenizer.from_directory(written(tmp_path, document))
    assert time.thread_time() - began < 5
    assert says in str(caught.value) and "tokenizer.json" in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize("length", [5_000, 400_000])
def test_a_long_token_in_every_kind_of_file(tmp_path: Path, length: int) -> None:
    long = b"a" * length
    lines = [*(bytes([byte]) for byte in range(256)), long]
    (tmp_path / "tiktoken.model").write_bytes(
        b"".join(base64.b64encode(text) + f" {i}\n".encode() for i, text in enumerate(lines))
    )
    (tmp_path / "tokenizer_config.json").write_text('{"tokenizer_class": "TikTokenTokenizer"}')
    with pytest.raises(BadCheckpoint, match=rf"tiktoken\.model.*{length}"):
        Tokenizer.from_directory(tmp_path)

    def field(number: int, data: bytes) -> bytes:
        size, n = b"", len(data)
        while n > 0x7F:
            size, n = size + bytes([n & 0x7F | 0x80]), n >> 7
        return bytes([number << 3 | 2]) + size + bytes([n]) + data

    pieces = [b"<unk>", b"a", long]
    (tmp_path / "tokenizer.model").write_bytes(b"".join(field(1, field(1, piece)) for piece in pieces))
    with pytest.raises(BadCheckpoint, match=rf"tokenizer\.model.*{length}"):
        Tokenizer.from_directory(tmp_path)

    metadata = {
        "tokenizer.ggml.model": "llama",
        "tokenizer.ggml.tokens": ["<unk>", "a", long.decode()],
        "tokenizer.ggml.scores": [0.0, 0.0, 0.0],
    }
    with pytest.raises(BadCheckpoint, match=str(length)):
        Tokenizer.from_gguf(metadata)


def test_a_file_of_any_size(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(file_limits, "MOST_BYTES", 1000)
    with pytest.raises(BadCheckpoint, match="at most 1000"):
        Tokenizer.from_directory(written(tmp_path, published()))


def test_tokenizers_in_use_are_far_within_the_limits(smollm2_metadata: Mapping[str, Any]) -> None:
    texts = smollm2_metadata["tokenizer.ggml.tokens"]
    assert max(map(len, texts)) * 8 < file_limits.MOST_TOKEN
    assert sum(len(text) ** 2 for text in texts) * 8 < file_limits.MOST_CUTS


# ---- tokenizer and model ----


def copied(directory: Path, change: Callable[[Document], None]) -> Path:
    source = find("tiny-dense").path
    for path in source.iterdir():
        if path.name != "tokenizer.json":
            (directory / path.name).symlink_to(path)
    document = published()
    change(document)
    return written(directory, document)


def vocabulary(**more: int) -> Callable[[Document], None]:
    return lambda document: document["model"]["vocab"].update(more)


def without(document: Document) -> None:
    document["model"]["merges"] = []
    del document["model"]["vocab"][byte_characters()[200]]


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (vocabulary(zebra=100_000), "'zebra' has id 100000"),
        (vocabulary(zebra=1 << 31), "zebra"),
        (vocabulary(zebra=40), "same id 40"),
        (without, "no token has id"),
    ],
)
def test_a_vocabulary_that_is_not_the_models(tmp_path: Path, change: Callable[[Document], None], says: str) -> None:
    with pytest.raises(BadCheckpoint) as caught:
        trilens.load(str(copied(tmp_path, change)))
    assert says in str(caught.value)


def test_the_models_own_vocabulary_loads(tmp_path: Path) -> None:
    assert trilens.load(str(copied(tmp_path, lambda document: None))).generate("1+1=", max_tokens=1).text


def test_equal_tokens_in_a_gguf_file() -> None:
    """As in Google's own Gemma 4 files: all ids keep their text, and the last of them is found."""
    texts = [*byte_characters(), "<eos>", "x", "x", "x"]
    metadata = {
        "tokenizer.ggml.model": "gpt2",
        "tokenizer.ggml.pre": "gpt-2",
        "tokenizer.ggml.tokens": texts,
        "tokenizer.ggml.token_type": [1] * 256 + [3, 4, 4, 4],
        "tokenizer.ggml.merges": [],
        "tokenizer.ggml.eos_token_id": 256,
    }
    tokenizer = Tokenizer.from_gguf(metadata)
    x = len(texts) - 1
    assert [tokenizer.decode([i]) for i in (x - 2, x - 1, x)] == ["x", "x", "x"]
    assert tokenizer.encode("x") == [x]
    assert tokenizer.vocab_size == len(texts)
    with pytest.raises(BadCheckpoint, match="distinct"):
        Tokenizer.from_gguf({**metadata, "tokenizer.ggml.tokens": [*texts, *["x"] * 30]})
