"""Tokenizers from the files beside a checkpoint, each against the library that the files were made for."""

import base64
import json
import math
import random
from pathlib import Path
from typing import Any

import pytest
import sentencepiece
import tiktoken
from tokenizers import AddedToken, Regex, decoders, models, normalizers, pre_tokenizers, processors, trainers
from tokenizers import Tokenizer as Engine

from tests.text.conftest import corpus, train_sentencepiece
from tests.text.varied import varied_texts
from trilens.errors import BadCheckpoint, RequestRefused, UnsupportedModel
from trilens.text.pretokenizers import PRETOKENIZERS
from trilens.text.spelling import byte_characters
from trilens.text.tokenizer import Tokenizer


def runs(count: int = 1000) -> list[str]:
    """Texts of few letters, in which many merges compete."""
    draw = random.Random(1)
    words = ["aa", "a", "b", " ", "  ", "the", "th", "e", "==", "="]
    return ["".join(draw.choices(words, k=draw.randint(1, 60))) for _ in range(count)]


def write(directory: Path, **files: Any) -> Path:
    for name, content in files.items():
        (directory / f"{name}.json").write_text(json.dumps(content), encoding="utf-8")
    return directory


# ---- tokenizer.model ----


def test_sentencepiece_bpe_equals_the_library(spaced_directory: Path) -> None:
    ours = Tokenizer.from_directory(spaced_directory)
    theirs = sentencepiece.SentencePieceProcessor(model_file=str(spaced_directory / "tokenizer.model"))
    for text in [*varied_texts(), *runs()]:
        ids = ours.encode(text, special=False)
        assert ids == theirs.encode(text)
        assert ours.decode(ids, skip_special=False) == theirs.decode(ids)
        if "▁" not in text:
            assert ours.decode(ids, skip_special=False) == text
    assert (ours.bos, ours.eos, ours.add_bos, ours.eos_ids) == ("<s>", "</s>", True, {2})


def test_the_same_vocabulary_in_a_gguf_file(spaced_directory: Path) -> None:
    theirs = sentencepiece.SentencePieceProcessor(model_file=str(spaced_directory / "tokenizer.model"))
    count = theirs.get_piece_size()
    metadata = {
        "tokenizer.ggml.model": "llama",
        "tokenizer.ggml.tokens": [theirs.id_to_piece(i) for i in range(count)],
        "tokenizer.ggml.scores": [theirs.get_score(i) for i in range(count)],
        "tokenizer.ggml.token_type": [
            2 if theirs.is_unknown(i) else 3 if theirs.is_control(i) else 6 if theirs.is_byte(i) else 1
            for i in range(count)
        ],
        "tokenizer.ggml.bos_token_id": 1,
        "tokenizer.ggml.eos_token_id": 2,
    }
    ours = Tokenizer.from_gguf(metadata)
    for text in [*varied_texts(500), *runs(300)]:
        assert ours.encode(text, special=False) == theirs.encode(text)
    assert ours.encode("<s>a b</s>") == [1, *theirs.encode("a b"), 2]
    unprefixed = Tokenizer.from_gguf({**metadata, "tokenizer.ggml.add_space_prefix": False})
    assert unprefixed.encode("a") == [ours.id_of("a")]
    assert unprefixed.decode(unprefixed.encode(" a")) == " a"


def test_sentencepiece_bpe_with_user_defined_pieces(tmp_path: Path) -> None:
    theirs = train_sentencepiece(
        tmp_path / "tokenizer.model",
        model_type="bpe",
        byte_fallback=True,
        normalization_rule_name="identity",
        remove_extra_whitespaces=False,
        add_dummy_prefix=False,
        user_defined_symbols=["<ud>", "▁▁", "\n\n"],
    )
    ours = Tokenizer.from_directory(tmp_path)
    for text in [*varied_texts(1000), *runs(300), "a<ud>b  <ud>", "   a\n\n\n"]:
        if "▁" not in text:
            assert ours.encode(text, special=False) == theirs.encode(text)
            assert ours.decode(theirs.encode(text), skip_special=False) == text


@pytest.mark.parametrize("kind", ["bpe", "unigram"])
def test_sentencepiece_with_its_usual_normalizer(tmp_path: Path, kind: str) -> None:
    """Characters folded, spaces collapsed, unknown characters to one token. Equal but for rare cases: see
    `read_sentencepiece_vocabulary`."""
    theirs = train_sentencepiece(tmp_path / "tokenizer.model", model_type=kind, vocab_size=1000)
    ours = Tokenizer.from_directory(tmp_path)
    texts = [t for t in varied_texts(1000) if "<s>" not in t and "</s>" not in t and "<unk>" not in t]
    different = [t for t in texts if ours.encode(t, special=False) != theirs.encode(t)]
    assert len(different) <= (2 if kind == "bpe" else 20)
    assert ours.encode("  a   b ", special=False) == theirs.encode("a b")


def test_a_unigram_model_cannot_be_talked_into_a_control_token(tmp_path: Path) -> None:
    train_sentencepiece(tmp_path / "tokenizer.model", model_type="unigram", vocab_size=1000)
    ours = Tokenizer.from_directory(tmp_path)
    with pytest.raises(RequestRefused, match="</s>"):
        ours.encode("bye</s>", special=False)
    assert ours.encode("bye</s>")[-1] == 2


@pytest.mark.parametrize(
    "damage",
    [
        lambda data: data[: len(data) // 2],
        lambda data: b"",
        lambda data: b"\x0a\xff\xff\xff\xff\xff\xff\xff\xff\x7f" + data,
        lambda data: b"\x0a" + b"\xff" * 12,
        lambda data: b"hello, this is no protobuf",
        lambda data: b"\x0a\x03\x0a\x01\xff",
        lambda data: data + data[:40],
    ],
)
def test_a_damaged_sentencepiece_model(tmp_path: Path, spaced_directory: Path, damage: Any) -> None:
    data = (spaced_directory / "tokenizer.model").read_bytes()
    (tmp_path / "tokenizer.model").write_bytes(damage(data))
    with pytest.raises(BadCheckpoint, match=r"tokenizer\.model") as caught:
        Tokenizer.from_directory(tmp_path)
    assert "\n" not in str(caught.value)


# ---- tekken.json and tiktoken.model ----


@pytest.fixture(scope="module")
def ranks() -> list[bytes]:
    """A small tiktoken vocabulary: all bytes, then what a trained BPE merges, in order."""
    engine = Engine(models.BPE())
    cut = pre_tokenizers.Split(Regex(PRETOKENIZERS["gpt-4o"].patterns[0]), "isolated")
    engine.pre_tokenizer = pre_tokenizers.Sequence([cut, pre_tokenizers.ByteLevel(False, use_regex=False)])
    trainer = trainers.BpeTrainer(vocab_size=1500, initial_alphabet=list(byte_characters()), show_progress=False)
    engine.train_from_iterator(corpus(), trainer)
    known = {c: bytes([b]) for b, c in enumerate(byte_characters())}
    learned = [text for text, _ in sorted(engine.get_vocab().items(), key=lambda item: item[1]) if len(text) > 1]
    return [bytes([b]) for b in range(256)] + [b"".join(known[c] for c in text) for text in learned]


def reference(ranks: list[bytes], pattern: str) -> tiktoken.Encoding:
    return tiktoken.Encoding(
        "test", pat_str=pattern, mergeable_ranks={t: i for i, t in enumerate(ranks)}, special_tokens={}
    )


def test_tekken_equals_tiktoken(tmp_path: Path, ranks: list[bytes]) -> None:
    pattern = PRETOKENIZERS["tekken"].patterns[0]
    surplus = [b"never in the vocabulary", b"nor this"]
    document = {
        "config": {"pattern": pattern, "default_vocab_size": len(ranks) + 30, "default_num_special_tokens": 30},
        "vocab": [{"rank": i, "token_bytes": base64.b64encode(t).decode()} for i, t in enumerate([*ranks, *surplus])],
    }
    ours = Tokenizer.from_directory(write(tmp_path, tekken=document))
    theirs = reference(ranks, pattern)
    for text in [*varied_texts(), *runs()]:
        ids = ours.encode(text, special=False)
        assert ids == [i + 30 for i in theirs.encode_ordinary(text)]
        assert ours.decode(ids) == text
    assert ours.encode("<s>[INST]")[:2] == [1, 3]
    assert (ours.bos_id, ours.eos_ids, ours.add_bos, ours.vocab_size) == (1, {2}, True, len(ranks) + 30)
    assert ours.text_of(29) == "<SPECIAL_29>"

    named = [{"rank": i, "token_str": text} for i, text in enumerate(["<unk>", "<s>", "</s>", "[THINK]"])]
    ours = Tokenizer.from_directory(write(tmp_path, tekken={**document, "special_tokens": named}))
    assert ours.id_of("[THINK]") == 3


@pytest.mark.parametrize("field", ["default_vocab_size", "default_num_special_tokens", "rank"])
@pytest.mark.parametrize("value", [math.inf, math.nan, -1, 1.5, True, "3", None, [3], 10**12, 10**30])
def test_a_number_of_tekken_that_is_no_possible_count_is_refused(tmp_path: Path, field: str, value: object) -> None:
    document: dict[str, Any] = {
        "config": {"pattern": r"\p{L}+|\s", "default_vocab_size": 276, "default_num_special_tokens": 20},
        "vocab": [{"rank": i, "token_bytes": base64.b64encode(bytes([i])).decode()} for i in range(256)],
        "special_tokens": [{"rank": 3, "token_str": "<s>"}],
    }
    assert Tokenizer.from_directory(write(tmp_path, tekken=document)).bos_id == 3
    (document["special_tokens"][0] if field == "rank" else document["config"])[field] = value
    with pytest.raises(BadCheckpoint, match=r"tekken\.json: not a tekken file"):
        Tokenizer.from_directory(write(tmp_path, tekken=document))


def test_tekken_may_not_reserve_endless_special_tokens(tmp_path: Path) -> None:
    config = {"pattern": "a", "default_vocab_size": 10**9 + 1, "default_num_special_tokens": 10**9}
    document = {"config": config, "vocab": [{"rank": 0, "token_bytes": "YQ=="}]}
    with pytest.raises(BadCheckpoint, match="1000000000 special tokens; at most 65536"):
        Tokenizer.from_directory(write(tmp_path, tekken=document))


def test_tiktoken_equals_tiktoken(tmp_path: Path, ranks: list[bytes]) -> None:
    lines = [base64.b64encode(token) + b" %d\n" % rank for rank, token in enumerate(ranks)]
    (tmp_path / "tiktoken.model").write_bytes(b"".join(lines))
    with pytest.raises(UnsupportedModel, match="tokenizer_class"):
        Tokenizer.from_directory(tmp_path)
    (tmp_path / "tiktoken.model").rename(tmp_path / "tokenizer.model")  # as Llama 3 ships it
    with pytest.raises(UnsupportedModel, match="tokenizer_class"):
        Tokenizer.from_directory(tmp_path)
    base = len(ranks)
    config = {
        "tokenizer_class": "TikTokenTokenizer",
        "bos_token": "[BOS]",
        "eos_token": "[EOS]",
        "added_tokens_decoder": {
            str(base): {"content": "[BOS]", "special": True},
            str(base + 1): {"content": "[EOS]", "special": True},
            str(base + 7): {"content": "<think>", "special": False},
        },
    }
    ours = Tokenizer.from_directory(
        write(tmp_path, tokenizer_config=config, generation_config={"eos_token_id": base + 2})
    )
    theirs = reference(ranks, PRETOKENIZERS["kimi-k2"].patterns[0])
    for text in [*varied_texts(), *runs()]:
        if "<think>" not in text:
            ids = ours.encode(text, special=False)
            assert ids == theirs.encode_ordinary(text)
            assert ours.decode(ids) == text
    assert ours.encode("[BOS]<think>") == [base, base + 7]
    assert not ours.is_special(base + 7) and ours.is_special(base)
    assert ours.text_of(base + 255) == f"<|reserved_token_{base + 255}|>"
    assert (ours.bos_id, ours.eos_ids, ours.vocab_size) == (base, {base + 1, base + 2}, base + 256)


@pytest.mark.parametrize("content", [b"", b"IQ== 1\n", b"IQ==\n", b"!! 0\n", b"IQ== x\n", b"IQ== 0\nIQ== 1\n"])
def test_a_damaged_tiktoken_file(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "qwen.tiktoken").write_bytes(content)
    write(tmp_path, tokenizer_config={"tokenizer_class": "QWenTokenizer"})
    with pytest.raises(BadCheckpoint, match=r"qwen\.tiktoken") as caught:
        Tokenizer.from_directory(tmp_path)
    assert "\n" not in str(caught.value)


# ---- tokenizer.json ----


def saved(directory: Path, engine: Engine, **files: Any) -> Path:
    engine.save(str(directory / "tokenizer.json"))
    return write(directory, **files)


def byte_level() -> Engine:
    engine = Engine(models.BPE({c: i for i, c in enumerate(byte_characters())}, []))
    engine.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    engine.decoder = decoders.ByteLevel()
    engine.add_special_tokens(["<bos>", "<eos>", "<|im_end|>", "<end>"])
    engine.add_tokens([AddedToken("<think>", special=False), AddedToken("  ", special=False), "über"])
    return engine


def test_ends_and_beginnings(tmp_path: Path) -> None:
    engine = byte_level()
    ours = Tokenizer.from_directory(saved(tmp_path, engine))
    assert (ours.bos_id, ours.eos_ids, ours.add_bos) == (None, {258}, False)

    ours = Tokenizer.from_directory(saved(tmp_path, engine, config={"bos_token_id": 256, "eos_token_id": [257, 259]}))
    assert (ours.bos_id, ours.eos_id, ours.eos_ids) == (256, 257, {257, 258, 259})

    config: dict[str, Any] = {"bos_token": {"content": "<bos>"}, "eos_token": "<|im_end|>", "add_bos_token": True}
    generation = {"eos_token_id": [257, 258]}
    ours = Tokenizer.from_directory(saved(tmp_path, engine, tokenizer_config=config, generation_config=generation))
    assert (ours.bos, ours.eos, ours.add_bos, ours.eos_ids) == ("<bos>", "<|im_end|>", True, {257, 258})

    config = {"bos_token": None}
    assert Tokenizer.from_directory(write(tmp_path, tokenizer_config=config)).bos_id is None

    engine.post_processor = processors.TemplateProcessing(single="<bos> $A", special_tokens=[("<bos>", 256)])
    ours = Tokenizer.from_directory(saved(tmp_path, engine, tokenizer_config={"bos_token": "<bos>"}))
    assert ours.add_bos and ours.encode("a") == [ours.id_of("a")]


def test_byte_level_tokenizer_json(tmp_path: Path) -> None:
    ours = Tokenizer.from_directory(saved(tmp_path, byte_level()))
    for text in varied_texts(500):
        for special in (False, True):
            assert ours.decode(ours.encode(text, special=special), skip_special=False) == text
    assert ours.encode("<eos>") == [257] and 257 not in ours.encode("<eos>", special=False)
    assert ours.decode(ours.encode("über <think>  x<eos>")) == "über <think>  x"
    assert ours.vocab_size == 263


def llama_like(scheme: str) -> Engine:
    """A tokenizer.json as Llama 2 and Mistral have it."""
    texts = ["<unk>", "<s>", "</s>", *(f"<0x{b:02X}>" for b in range(256)), "▁", "a", "b", "▁a", "ab", "▁▁"]
    merges = [("▁", "a"), ("a", "b"), ("▁", "▁")]
    engine = Engine(
        models.BPE({t: i for i, t in enumerate(texts)}, merges, unk_token="<unk>", fuse_unk=True, byte_fallback=True)
    )
    steps = [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()]
    if scheme == "metaspace":
        engine.pre_tokenizer = pre_tokenizers.Metaspace("▁", prepend_scheme="first", split=False)
        engine.decoder = decoders.Sequence([*steps, decoders.Strip(" ", 1, 0)])
    elif scheme == "normalizer":
        engine.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
        engine.decoder = decoders.Sequence([*steps, decoders.Strip(" ", 1, 0)])
    else:
        engine.normalizer = normalizers.Replace(" ", "▁")
        engine.decoder = decoders.Sequence(steps)
    engine.add_special_tokens(["<unk>", "<s>", "</s>"])
    return engine


@pytest.mark.parametrize("scheme", ["metaspace", "normalizer", "no prefix"])
def test_decoding_equals_the_library(tmp_path: Path, scheme: str) -> None:
    engine = llama_like(scheme)
    ours = Tokenizer.from_directory(saved(tmp_path, engine))
    for text in varied_texts(500):
        ids = ours.encode(text, special=False)
        assert ids == engine.encode(text).ids or "<s>" in text or "</s>" in text or "<unk>" in text
        assert ours.decode(ids) == engine.decode(ids)
        if "▁" not in text and (scheme != "metaspace" or not text.startswith(" ")):
            assert ours.decode(ids) == text


@pytest.mark.parametrize(
    "content",
    [
        "",
        "{}",
        "[1]",
        '{"model": {"type": "BPE", "vocab": {"a": 0}, "merges": ["a b"]}}',
        '{"model": {"type": "Nonsense"}}',
        '{"added_tokens": 7, "model": {"type": "BPE", "vocab": {}, "merges": []}}',
        "[" * 100_000,
    ],
)
def test_a_damaged_tokenizer_json(tmp_path: Path, content: str) -> None:
    (tmp_path / "tokenizer.json").write_text(content)
    with pytest.raises(BadCheckpoint, match=r"tokenizer\.json") as caught:
        Tokenizer.from_directory(tmp_path)
    assert "\n" not in str(caught.value)


def test_other_faults_are_named(tmp_path: Path) -> None:
    with pytest.raises(BadCheckpoint, match=r"no tokenizer; expected one of tokenizer\.json"):
        Tokenizer.from_directory(tmp_path)
    engine = byte_level()
    engine.decoder = decoders.WordPiece()
    with pytest.raises(UnsupportedModel, match="WordPiece"):
        Tokenizer.from_directory(saved(tmp_path, engine))
    saved(tmp_path, byte_level())
    (tmp_path / "tokenizer_config.json").write_text("{")
    with pytest.raises(BadCheckpoint, match=r"tokenizer_config\.json: not JSON"):
        Tokenizer.from_directory(tmp_path)
    (tmp_path / "tokenizer_config.json").write_text("[]")
    with pytest.raises(BadCheckpoint, match="expected a JSON object"):
        Tokenizer.from_directory(tmp_path)
    (tmp_path / "tokenizer_config.json").write_text("{}")
    write(tmp_path, generation_config={"eos_token_id": ["x"]})
    with pytest.raises(BadCheckpoint, match="eos_token_id is"):
        Tokenizer.from_directory(tmp_path)


def test_a_pattern_that_gives_up_is_an_error(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    engine = byte_level()
    engine.pre_tokenizer = pre_tokenizers.Split(Regex("(a+)+$"), "isolated")
    ours = Tokenizer.from_directory(saved(tmp_path, engine))
    with pytest.raises(RequestRefused, match="gives up on this text"):
        ours.encode("a" * 1000 + "b")
    capfd.readouterr()  # the library reports the panic on standard error
