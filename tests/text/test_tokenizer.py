"""SmolLM2's tokenizer against llama.cpp's, and what every tokenizer must keep."""

import gzip
import hashlib
import json
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from tests.text.make_golden import GOLDEN, IN_FULL, digest
from tests.text.varied import varied_texts
from tests.work import calls
from trilens.errors import BadCheckpoint, RequestRefused, UnsupportedModel
from trilens.text.pretokenizers import PRETOKENIZERS
from trilens.text.spelling import byte_characters
from trilens.text.tokenizer import Tokenizer


@pytest.mark.parametrize(("kind", "special"), [("plain", False), ("special", True)])
def test_ids_equal_llama_cpp(smollm2_tokenizer: Tokenizer, kind: str, special: bool) -> None:
    golden = json.loads(gzip.decompress(GOLDEN.read_bytes()))
    texts = varied_texts()
    assert len(texts) == 2000
    assert hashlib.sha256("\0".join(texts).encode()).hexdigest() == golden["texts"], "run make_golden.py again"

    ids = [smollm2_tokenizer.encode(text, special=special) for text in texts]
    assert ids[:IN_FULL] == golden[kind]["ids"]
    digests = golden[kind]["digests"]
    different = [t for i, t in enumerate(texts) if digest(ids[i]) != digests[10 * i : 10 * i + 10]]
    assert not different


def test_round_trip(smollm2_tokenizer: Tokenizer) -> None:
    """Every text comes back, but for the bytes that SmolLM2's vocabulary has no token for."""
    unspelled = {b for b, c in enumerate(byte_characters()) if smollm2_tokenizer.id_of(c) is None}
    assert sorted(b for b in unspelled if b < 0xC0) == [4, 6, 19, 20, 22, 29]  # the rest begins no character in use
    for text in varied_texts():
        kept = bytes(b for b in text.encode() if b not in unspelled)
        for special in (False, True):
            ids = smollm2_tokenizer.encode(text, special=special)
            assert smollm2_tokenizer.decode(ids, skip_special=False).encode() == kept


def test_transformers_reads_this_gguf_without_its_pretokenizer(
    smollm2_metadata: Mapping[str, Any], smollm2_tokenizer: Tokenizer
) -> None:
    """transformers takes "smollm" for GPT-2: a digit then holds on to what stands before it. llama.cpp's ids, as in
    the golden file, keep every digit apart."""
    gguf = pytest.importorskip("transformers.integrations.gguf")
    tables = {name: list(smollm2_metadata[f"tokenizer.ggml.{name}"]) for name in ("tokens", "merges", "token_type")}
    theirs, _ = gguf.convert_gguf_tokenizer("llama", {**tables, "tokenizer_type": "gpt2", "bos_token_id": 1})

    def spelled(ids: list[int]) -> list[str]:
        return [smollm2_tokenizer.text_of(i) for i in ids]

    assert spelled(theirs.encode("  12", add_special_tokens=False).ids) == ["Ġ", "Ġ", "1", "2"]
    assert spelled(smollm2_tokenizer.encode("  12")) == ["ĠĠ", "1", "2"]
    assert spelled(theirs.encode(" ½", add_special_tokens=False).ids) == ["ĠÂ", "½"]
    assert spelled(smollm2_tokenizer.encode(" ½")) == ["Ġ", "Â½"]
    differing = sum(
        theirs.encode(text, add_special_tokens=False).ids != smollm2_tokenizer.encode(text) for text in varied_texts()
    )
    assert differing > 50


def test_control_tokens(smollm2_tokenizer: Tokenizer) -> None:
    t = smollm2_tokenizer
    ids = t.encode("<|im_start|>user\nhi<|im_end|>")
    assert t.decode(ids) == "user\nhi"
    assert t.decode(ids, skip_special=False) == "<|im_start|>user\nhi<|im_end|>"
    assert ids[0] == t.id_of("<|im_start|>") == t.bos_id == 1
    assert t.is_special(1) and not t.is_special(ids[1])
    assert not t.special_ids.intersection(t.encode("<|im_start|>user\nhi<|im_end|>", special=False))
    assert (t.bos, t.eos, t.add_bos) == ("<|im_start|>", "<|im_end|>", False)
    assert {t.text_of(i) for i in t.eos_ids} == {"<|im_end|>", "<|endoftext|>"}
    assert t.vocab_size == 49152
    assert t.encode("") == [] and t.decode([]) == ""


def test_ids_without_a_token(smollm2_tokenizer: Tokenizer) -> None:
    assert smollm2_tokenizer.text_of(49152) == smollm2_tokenizer.text_of(-1) == ""
    assert smollm2_tokenizer.decode([49152, 10**9, -1]) == ""
    assert smollm2_tokenizer.id_of("no such token") is None
    missing = next(c for c in byte_characters() if smollm2_tokenizer.id_of(c) is None)
    assert smollm2_tokenizer.encode(chr(4)) == [] and smollm2_tokenizer.id_of(missing) is None


def test_half_a_character_is_refused(smollm2_tokenizer: Tokenizer) -> None:
    with pytest.raises(RequestRefused, match=r"'\\ud800' at position 2"):
        smollm2_tokenizer.encode("ab\ud800")


def test_threads_share_a_tokenizer(smollm2_tokenizer: Tokenizer) -> None:
    texts = ["<|im_start|>system\n" + text for text in varied_texts()[:200]]
    want = [(smollm2_tokenizer.encode(t), smollm2_tokenizer.encode(t, special=False)) for t in texts]
    with ThreadPoolExecutor(4) as pool:
        got = pool.map(lambda t: (smollm2_tokenizer.encode(t), smollm2_tokenizer.encode(t, special=False)), texts)
        assert list(got) == want


# ---- what a GGUF file can have wrong ----


def tables(**changes: Any) -> dict[str, Any]:
    """A byte-level vocabulary of 256 bytes, "ab", and a control token."""
    tokens = [*byte_characters(), "ab", "<|im_end|>"]
    metadata = {
        "model": "gpt2",
        "pre": "qwen2",
        "tokens": tokens,
        "merges": ["a b"],
        "token_type": [1] * 257 + [3],
        "eos_token_id": 257,
        **changes,
    }
    return {f"tokenizer.ggml.{key}": value for key, value in metadata.items() if value is not None}


def test_a_small_vocabulary() -> None:
    t = Tokenizer.from_gguf(tables())
    assert t.encode("xab<|im_end|>") == [t.id_of("x"), 256, 257]
    assert t.bos_id is None and t.bos == "" and not t.add_bos


@pytest.mark.parametrize(
    ("changes", "error", "says"),
    [
        ({"model": "bert"}, UnsupportedModel, "'bert'"),
        ({"model": "t5"}, UnsupportedModel, "'t5'"),
        ({"model": "rwkv"}, UnsupportedModel, "'rwkv'"),
        ({"model": None}, UnsupportedModel, "None"),
        ({"pre": "no-such-name"}, UnsupportedModel, "'no-such-name'"),
        ({"tokens": None}, BadCheckpoint, "tokens"),
        ({"tokens": ["a"] * 20}, BadCheckpoint, "distinct"),
        ({"tokens": [1, 2]}, BadCheckpoint, "list of texts"),
        ({"merges": None}, BadCheckpoint, "merges"),
        ({"merges": ["ab"]}, BadCheckpoint, "'ab'"),
        ({"merges": ["a zz"]}, BadCheckpoint, "zz"),
        ({"token_type": [1]}, BadCheckpoint, "258 numbers"),
        ({"eos_token_id": 258}, BadCheckpoint, "258"),
        ({"eos_token_id": "x"}, BadCheckpoint, "'x'"),
        ({"model": "llama", "scores": [0.0]}, BadCheckpoint, "scores"),
        ({"model": "llama", "scores": ["x"] * 258}, BadCheckpoint, "not all numbers"),
        ({"pre": ["gpt-2"]}, UnsupportedModel, "['gpt-2']"),
    ],
)
def test_faults_are_named(changes: dict[str, Any], error: type[Exception], says: str) -> None:
    with pytest.raises(error) as caught:
        Tokenizer.from_gguf(tables(**changes))
    assert says in str(caught.value) and "\n" not in str(caught.value)


def spaced_tables(**changes: Any) -> dict[str, Any]:
    """A SentencePiece-style vocabulary with its bytes."""
    control = ["<unk>", "<s>", "</s>", "<|user|>"]
    texts = ["▁", "a", "b", "▁a", "ab", "\n", "\n\n"]
    metadata = {
        "model": "llama",
        "pre": None,
        "merges": None,
        "tokens": [*control, *(f"<0x{byte:02X}>" for byte in range(256)), *texts],
        "token_type": [2, 3, 3, 3] + [6] * 256 + [1] * len(texts),
        "scores": [0.0] * 260 + [0, 0, 0, -1, -2, 0, -3],
        "eos_token_id": 2,
    }
    return tables(**{**metadata, **changes})


def test_a_spaced_vocabulary_falls_back_to_bytes() -> None:
    t = Tokenizer.from_gguf(spaced_tables())
    assert [t.text_of(i) for i in t.encode("ab a\n\n\né")] == [*("▁a", "b", "▁a", "\n\n", "\n", "<0xC3>", "<0xA9>")]
    assert t.decode(t.encode("ab a\n\n\né")) == "ab a\n\n\né"
    assert [t.text_of(i) for i in t.encode("<|user|>\na")] == ["<|user|>", "▁", "\n", "a"]


def test_phi_3_swallows_the_space_after_its_tokens() -> None:
    t = Tokenizer.from_gguf({**spaced_tables(), "general.architecture": "phi3"})
    assert [t.text_of(i) for i in t.encode("<|user|>\n a<s> a")] == ["<|user|>", "▁a", "<s>", "▁", "▁a"]


def test_gemma_4_reads_newlines_apart() -> None:
    """Merges over whole lines, with spaces as ▁ and no space in front."""
    t = Tokenizer.from_gguf(spaced_tables(model="gemma4", merges=["▁ a", "a b", "\n \n"]))
    assert [t.text_of(i) for i in t.encode("ab  a\n\n\nb")] == ["ab", "▁", "▁a", "\n\n", "\n", "b"]
    assert t.decode(t.encode(" ab  a\n\n\nb é")) == " ab  a\n\n\nb é"


# ---- pre-tokenizers ----


def pieces(pre: str, text: str) -> list[str]:
    """How a text is cut: with no merges, and every piece a token of its own."""
    engine = Tokenizer.from_gguf(tables(pre=pre))._engine
    return [text[start:end] for _, (start, end) in engine.pre_tokenizer.pre_tokenize_str(text)]


@pytest.mark.parametrize("name", sorted(PRETOKENIZERS))
def test_every_pretokenizer_keeps_the_text(name: str) -> None:
    t = Tokenizer.from_gguf(tables(pre=name))
    for text in varied_texts(300):
        assert t.decode(t.encode(text, special=False)) == text


@pytest.mark.parametrize(
    ("name", "text", "want"),
    [
        ("gpt-2", "I'll pay 1234  now", ["I", "'ll", " pay", " 1234", " ", " now"]),
        ("smollm", "pay 123", ["pay", " ", "1", "2", "3"]),
        ("llama-bpe", "It'S 12345\n\n x", ["It", "'S", " ", "123", "45", "\n\n", " x"]),
        ("qwen2", "a12!!\n", ["a", "1", "2", "!!\n"]),
        ("qwen35", "e\u0301x", ["e\u0301x"]),
        ("qwen2", "e\u0301x", ["e", "\u0301x"]),
        ("gpt-4o", "iPhone'S 1234", ["i", "Phone'S", " ", "123", "4"]),
        ("tekken", "HTTPServer a/b/", ["HTTPServer", " a", "/b", "/"]),
        ("kimi-k2", "你好world", ["你好", "world"]),
        ("deepseek-v3", "12345 你好.py", ["123", "45", " ", "你好", ".py"]),
        ("deepseek-llm", "x 12", ["x", " ", "1", "2"]),
        ("falcon", "a 12345!", ["a", " ", "123", "45", "!"]),
        ("tiny_aya", "1234567", ["1", "234", "567"]),
        ("bloom", "a, b", ["a", ",", " b"]),
    ],
)
def test_pretokenizers_cut(name: str, text: str, want: list[str]) -> None:
    assert pieces(name, text) == want


def test_a_word_that_is_a_token_is_taken_whole() -> None:
    """`ignore_merges`: "abc" is a token that no merge makes."""
    tokens = [*byte_characters(), "ab", "abc"]
    changes = {"tokens": tokens, "token_type": [1] * 258, "eos_token_id": 0}
    assert Tokenizer.from_gguf(tables(pre="qwen2", **changes)).encode("abc") == [256, tokens.index("c")]
    assert Tokenizer.from_gguf(tables(pre="llama-bpe", **changes)).encode("abc") == [257]


def test_a_large_vocabulary_is_built_fast() -> None:
    """The size of Command R's or Qwen's: 250,000 tokens, a merge for each."""
    tokens = list(byte_characters())
    parts = [a + b for a in tokens[33:127] for b in tokens[33:127]]
    merges = [f"{p[0]} {p[1]}" for p in parts]
    tokens += parts
    for first in parts:
        for second in parts[:28]:
            tokens.append(first + second)
            merges.append(f"{first} {second}")
    assert len(tokens) > 250_000
    metadata = tables(tokens=tokens, merges=merges, token_type=[1] * len(tokens), eos_token_id=0)
    assert calls(lambda: Tokenizer.from_gguf(metadata)) < 12 * len(tokens)
