"""Tokenizers that several tests use, loaded once."""

import io
import random
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import sentencepiece

from tests.text.varied import EDGES, PIECES
from trilens.checkpoints.gguf import read_gguf
from trilens.text.tokenizer import Tokenizer


@pytest.fixture(scope="session")
def smollm2_metadata(smollm2: Path) -> Mapping[str, Any]:
    return read_gguf(smollm2).metadata


@pytest.fixture(scope="session")
def smollm2_tokenizer(smollm2_metadata: Mapping[str, Any]) -> Tokenizer:
    return Tokenizer.from_gguf(smollm2_metadata)


def corpus() -> list[str]:
    """Something to train on: code, and the pieces that the varied texts are made of."""
    code = Path(random.__file__).read_text(encoding="utf-8").splitlines()
    draw = random.Random(0)
    words = [" ".join(draw.choices(PIECES, k=12)) for _ in range(100)]
    return [line for line in [*code, *words, *EDGES] if line.strip() and "\0" not in line]


def train_sentencepiece(path: Path, **options: Any) -> sentencepiece.SentencePieceProcessor:
    """Train a small model, write it to `path`, and return the library's own reading of it."""
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(corpus()),
        model_writer=model,
        **{"vocab_size": 1500, "character_coverage": 0.98, "minloglevel": 2, **options},
    )
    path.write_bytes(model.getvalue())
    return sentencepiece.SentencePieceProcessor(model_proto=model.getvalue())


@pytest.fixture(scope="session")
def spaced_directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with a tokenizer.model as Llama 2's: BPE, bytes, a space put in front."""
    directory = tmp_path_factory.mktemp("spaced")
    train_sentencepiece(
        directory / "tokenizer.model",
        model_type="bpe",
        byte_fallback=True,
        normalization_rule_name="identity",
        remove_extra_whitespaces=False,
        allow_whitespace_only_pieces=True,
    )
    return directory
