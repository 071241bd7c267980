"""SentencePiece's `tokenizer.model`: a protobuf message, read field by field.

    ModelProto      1 pieces (repeated)   2 TrainerSpec   3 NormalizerSpec
    piece           1 text   2 score (float)   3 type (as TokenType)
    TrainerSpec     3 model type (1 unigram, 2 BPE)   24 space as suffix   35 byte fallback   40-42 unk, bos, eos id
    NormalizerSpec  2 precompiled character map   3 dummy prefix   4 remove extra spaces   5 escape spaces

https://github.com/google/sentencepiece/blob/master/src/sentencepiece_model.proto
"""

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from tokenizers import Regex, Tokenizer, models, normalizers

from trilens.errors import BadCheckpoint, UnsupportedModel
from trilens.text.file_limits import MOST_GROWTH, character_map_growth, check_tokens, read_bytes
from trilens.text.spelling import SPACE_MARK, Spelling
from trilens.text.vocabulary import TokenType, Vocabulary, add_tokens, sentencepiece_merges, spaced_bpe


@dataclass(frozen=True)
class SentencePieceModel:
    texts: list[str]
    scores: list[float]
    types: list[int]
    unigram: bool
    byte_fallback: bool
    unk_id: int
    bos_id: int
    eos_id: int
    character_map: bytes
    dummy_prefix: bool
    remove_extra_spaces: bool


def read_sentencepiece(path: Path) -> SentencePieceModel:
    """Raises BadCheckpoint for a damaged file, UnsupportedModel for word and character models."""
    texts, scores, types = [], [], []
    trainer: dict[int, bytes | int] = {}
    normalizer: dict[int, bytes | int] = {}
    try:
        for number, message in _fields(read_bytes(path)):
            if number == 1 and isinstance(message, bytes):
                piece = dict(_fields(message))
                text, kind = _as_bytes(piece.get(1, b"")).decode(), _as_int(piece.get(3, TokenType.NORMAL))
                # User-defined pieces are looked for in the text before its spaces are marked.
                texts.append(text.replace(SPACE_MARK, " ") if kind == TokenType.USER_DEFINED else text)
                scores.append(struct.unpack("<f", _as_bytes(piece.get(2, b"\0\0\0\0")))[0])
                types.append(kind)
            elif number == 2 and isinstance(message, bytes):
                trainer = dict(_fields(message))
            elif number == 3 and isinstance(message, bytes):
                normalizer = dict(_fields(message))
        kind = _as_int(trainer.get(3, 1))
        unk_id, bos_id, eos_id = (
            _as_int(trainer.get(field, default)) for field, default in ((40, 0), (41, 1), (42, 2))
        )
        character_map = _as_bytes(normalizer.get(2, b""))
    except (IndexError, TypeError, ValueError, struct.error) as fault:
        raise BadCheckpoint(f"{path}: not a SentencePiece model, or damaged ({fault}); download it again") from None
    if not 0 <= unk_id < len(texts):
        raise BadCheckpoint(f"{path}: its unknown piece has id {unk_id}, of {len(texts)}; download it again")
    if not texts or len(set(texts)) != len(texts):
        raise BadCheckpoint(f"{path}: its {len(texts)} pieces are none, or not distinct; download it again")
    check_tokens(path, texts)
    if (growth := character_map_growth(character_map)) > MOST_GROWTH:
        raise BadCheckpoint(f"{path}: its character map makes {growth} characters of one; {MOST_GROWTH} are allowed")
    if kind not in (1, 2) or trainer.get(24) or normalizer.get(5) == 0:
        raise UnsupportedModel(f"{path}: only unigram and BPE models that mark spaces in front are known here")
    return SentencePieceModel(
        texts=texts,
        scores=scores,
        types=types,
        unigram=kind == 1,
        byte_fallback=bool(trainer.get(35)),
        unk_id=unk_id,
        bos_id=bos_id,
        eos_id=eos_id,
        character_map=character_map,
        dummy_prefix=bool(normalizer.get(3, 1)),
        remove_extra_spaces=bool(normalizer.get(4, 1)),
    )


def read_sentencepiece_vocabulary(path: Path) -> Vocabulary:
    """The vocabulary of a `tokenizer.model`; raises as `read_sentencepiece` does.

    Ids equal those of the sentencepiece library, but for three cases. Between control tokens and user-defined pieces
    each stretch of text gets its own space in front, as llama.cpp does it. Of two unigram segmentations with equal
    scores the other may be taken. And a unigram model with bytes reads the text "<0x0A>" as that byte.
    """
    model = read_sentencepiece(path)
    if model.unigram:
        pieces = list(zip(model.texts, model.scores, strict=True))
        engine = Tokenizer(models.Unigram(pieces, unk_id=model.unk_id, byte_fallback=model.byte_fallback))
    else:
        ids = {text: i for i, text in enumerate(model.texts)}
        merges = sentencepiece_merges(model.texts, model.scores, model.types)
        engine = spaced_bpe(ids, merges, prefix=False, unknown=model.texts[model.unk_id])
    kinds = list(zip(model.texts, model.types, strict=True))
    add_tokens(
        engine,
        control=(text for text, kind in kinds if kind in (TokenType.CONTROL, TokenType.UNKNOWN)),
        visible=(text for text, kind in kinds if kind == TokenType.USER_DEFINED),
    )
    engine.normalizer = _normalizer(model)
    bos_id, eos_id = (i if 0 <= i < len(model.texts) else None for i in (model.bos_id, model.eos_id))
    return Vocabulary(
        engine=engine,
        ids=range(len(model.texts)),
        spelling=Spelling(
            byte_level=False,
            space_mark=SPACE_MARK,
            byte_tokens=model.byte_fallback,
            leading_space=model.dummy_prefix or model.remove_extra_spaces,
        ),
        raw=frozenset(
            i
            for i, kind in enumerate(model.types)
            if kind in (TokenType.CONTROL, TokenType.UNKNOWN, TokenType.USER_DEFINED)
        ),
        bos_id=bos_id,
        eos_id=eos_id,
        eos_ids=frozenset(() if eos_id is None else (eos_id,)),
        add_bos=not model.unigram,
        size=len(model.texts),
    )


def _normalizer(model: SentencePieceModel) -> normalizers.Normalizer:
    steps: list[normalizers.Normalizer] = []
    if model.character_map:
        steps.append(normalizers.Precompiled(model.character_map))
    if model.remove_extra_spaces:
        steps += [normalizers.Replace(Regex(r"\A +| +\z"), ""), normalizers.Replace(Regex(" {2,}"), " ")]
    if model.dummy_prefix:
        steps.append(normalizers.Prepend(SPACE_MARK))
    return normalizers.Sequence([*steps, normalizers.Replace(" ", SPACE_MARK)])


def _fields(data: bytes) -> Iterator[tuple[int, bytes | int]]:
    """Each field's number and value: an int for varints, bytes for all else."""
    at = 0
    while at < len(data):
        key, at = _varint(data, at)
        match key & 7:
            case 0:
                value, at = _varint(data, at)
                yield key >> 3, value if value < 1 << 63 else value - (1 << 64)
                continue
            case 1:
                size = 8
            case 2:
                size, at = _varint(data, at)
            case 5:
                size = 4
            case wire:
                raise ValueError(f"wire type {wire} at byte {at}")
        if at + size > len(data):
            raise ValueError(f"a field of {size} bytes at byte {at} of {len(data)}")
        yield key >> 3, data[at : at + size]
        at += size


def _varint(data: bytes, at: int) -> tuple[int, int]:
    value = 0
    for shift in range(0, 70, 7):
        byte = data[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, at
    raise ValueError(f"a number of more than ten bytes ends at byte {at}")


def _as_bytes(value: bytes | int) -> bytes:
    if isinstance(value, bytes):
        return value
    raise ValueError(f"a number {value} where bytes were expected")


def _as_int(value: bytes | int) -> int:
    if isinstance(value, int):
        return value
    raise ValueError("bytes where a number was expected")
