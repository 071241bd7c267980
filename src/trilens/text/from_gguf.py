"""GGUF metadata -> Vocabulary, with the ids that llama.cpp would give."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from trilens.errors import BadCheckpoint, UnsupportedModel
from trilens.text.file_limits import check_tokens
from trilens.text.pretokenizers import pretokenizer
from trilens.text.spelling import SPACE_MARK, Spelling
from trilens.text.vocabulary import (
    TokenType,
    Vocabulary,
    add_tokens,
    byte_level_bpe,
    known_ends,
    sentencepiece_merges,
    spaced_bpe,
)

_KEY = "tokenizer.ggml."
MOST_TWINS = 16  # tokens that say what another one says; Google's own Gemma 4 files have two
_BYTE_SPELLED = Spelling(byte_level=True)


def read_gguf_vocabulary(metadata: Mapping[str, Any]) -> Vocabulary:
    """The vocabulary that the metadata holds.

    Raises UnsupportedModel for a kind of tokenizer or a pre-tokenizer that is not supported, BadCheckpoint for
    tables that are missing or do not fit together.
    """
    model = metadata.get(_KEY + "model")
    if model not in ("gpt2", "llama", "gemma4"):
        raise UnsupportedModel(
            f"tokenizer {model!r} in the GGUF file is not supported; expected 'gpt2', 'llama' or 'gemma4'"
        )
    texts = [text or f"[EMPTY_{i}]" for i, text in enumerate(_texts(metadata, "tokens"))]
    ids = dict(zip(texts, range(len(texts)), strict=True))
    if not texts or len(texts) - len(ids) > MOST_TWINS:
        raise BadCheckpoint(
            f"the GGUF tokenizer has {len(texts)} tokens, {len(ids)} of them distinct; convert the model again"
        )
    # Of equal tokens the last one is found in a text, as llama.cpp does it; the others only keep their ids.
    twins = {i: text for i, text in enumerate(texts) if ids[text] != i} if len(ids) < len(texts) else {}
    if twins:
        texts = [f"\U0010fffd{i}" if i in twins else text for i, text in enumerate(texts)]
        ids = dict(zip(texts, range(len(texts)), strict=True))
    check_tokens("the GGUF tokenizer", texts)
    types = _numbers(metadata, "token_type", len(texts), TokenType.NORMAL)

    ends = known_ends(ids) | {
        i for name in ("eos", "eot", "eom") if (i := _token(metadata, name, len(texts))) is not None
    }
    normal = float(TokenType.NORMAL)
    others = [(i, kind) for i, kind in enumerate(types) if kind != normal]
    control = {i for i, kind in others if kind in (TokenType.CONTROL, TokenType.UNKNOWN)} | ends
    visible = {i for i, kind in others if kind == TokenType.USER_DEFINED} - control
    unknown = next((texts[i] for i, kind in others if kind == TokenType.UNKNOWN), None)

    add_bos = metadata.get(_KEY + "add_bos_token")
    if model == "gpt2":
        pre = pretokenizer(metadata.get(_KEY + "pre", "default"))
        engine = byte_level_bpe(ids, _merges(metadata), pre)
        spelling, add_bos = _BYTE_SPELLED, pre.add_bos if add_bos is None else add_bos
    elif model == "gemma4":
        engine = spaced_bpe(ids, _merges(metadata), prefix=False, unknown=unknown, lines=True)
        spelling = Spelling(byte_level=False, space_mark=SPACE_MARK, byte_tokens=True)
        add_bos = True  # files in use say otherwise, and are wrong; llama.cpp overrides them too
    else:
        prefix = bool(metadata.get(_KEY + "add_space_prefix", True))
        scores = _numbers(metadata, "scores", len(texts), 0.0)
        merges = sentencepiece_merges(texts, scores, types)
        engine = spaced_bpe(ids, merges, prefix=prefix, unknown=unknown)
        spelling = Spelling(byte_level=False, space_mark=SPACE_MARK, byte_tokens=True, leading_space=prefix)
        add_bos = True if add_bos is None else add_bos

    add_tokens(
        engine,
        (texts[i] for i in sorted(control)),
        (texts[i] for i in sorted(visible)),
        rstrip=_swallows_space(metadata),
    )
    return Vocabulary(
        engine=engine,
        ids=range(len(texts)),
        spelling=spelling,
        raw=frozenset(control | visible),
        bos_id=_token(metadata, "bos", len(texts)),
        eos_id=_token(metadata, "eos", len(texts)),
        eos_ids=ends,
        size=len(texts),
        twins=twins,
        add_bos=bool(add_bos),
    )


def _swallows_space(metadata: Mapping[str, Any]) -> Callable[[str], bool]:
    """Which added tokens take the white space after them. GGUF cannot say it; Phi-3's do, known by architecture."""
    if metadata.get(_KEY + "model") == "llama" and metadata.get("general.architecture") == "phi3":
        return lambda text: text not in ("<unk>", "<s>", "<|endoftext|>")
    return lambda text: False


def _merges(metadata: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Pairs in order; the space between them is the first one after the first character."""
    pairs = []
    for line in _texts(metadata, "merges"):
        cut = line.find(" ", 1)
        if cut < 0:
            raise BadCheckpoint(f"a merge of the GGUF tokenizer is {line!r}; expected two tokens with a space between")
        pairs.append((line[:cut], line[cut + 1 :]))
    return pairs


def _token(metadata: Mapping[str, Any], name: str, size: int) -> int | None:
    value = metadata.get(f"{_KEY}{name}_token_id")
    if value is None:
        return None
    if not isinstance(value, int) or not 0 <= value < size:
        raise BadCheckpoint(
            f"{_KEY}{name}_token_id is {value!r}; expected a number below {size}, the vocabulary's size"
        )
    return value


def _texts(metadata: Mapping[str, Any], name: str) -> list[str]:
    values = metadata.get(_KEY + name)
    if isinstance(values, str) or not isinstance(values, Sequence) or not {*map(type, values)} <= {str}:
        raise BadCheckpoint(f"the GGUF tokenizer's {name} are missing or not a list of texts; convert the model again")
    return list(values)


def _numbers(metadata: Mapping[str, Any], name: str, length: int, default: float) -> list[float]:
    values = metadata.get(_KEY + name)
    if values is None:
        return [default] * length
    if not isinstance(values, Sequence) or len(values) != length:
        raise BadCheckpoint(f"the GGUF tokenizer's {name} is not a list of {length} numbers, one for each token")
    try:
        return list(map(float, values))
    except (TypeError, ValueError) as fault:
        raise BadCheckpoint(f"the GGUF tokenizer's {name} is not all numbers: {fault}") from None
