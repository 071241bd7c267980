"""Limits for tokenizer files, checked before a tokenizer is built, so that no file makes loading or the first
encoding endless. They are far above every tokenizer in use.
"""

import base64
import binascii
from collections.abc import Iterable, Iterator
from operator import mul
from pathlib import Path
from typing import Any

from trilens.errors import BadCheckpoint

MOST_BYTES = 256 << 20  # of a file; the largest in use have 35 MB
MOST_TOKEN = 4096  # characters of one token; the longest in use have 512
MOST_CUTS = 200_000_000  # of all lengths squared: the work of finding merges for tokens that come without; in use 20 M
MOST_ADDED = 1 << 20  # characters of all added tokens; the automaton that finds them grows with it
MOST_SPECIAL = 1 << 16  # special tokens of a tekken file; the most in use are 1,000
MOST_STEPS = 64  # in a normalizer or pre-tokenizer
MOST_PATTERN = 16_384  # characters of one pattern; the longest in use have 3,000
MOST_GROWTH = 64  # times longer that the normalizer may make a text; in use 18


def read_bytes(path: Path) -> bytes:
    """The file's bytes. Raises BadCheckpoint for a file that is too large or cannot be read."""
    try:
        if (size := path.stat().st_size) > MOST_BYTES:
            raise BadCheckpoint(f"{path}: has {size} bytes; a tokenizer of at most {MOST_BYTES} is read")
        return path.read_bytes()
    except OSError as fault:
        raise BadCheckpoint(f"{path}: cannot be read ({fault.strerror}); download it again") from None


def check_tokens(where: object, texts: Iterable[str | bytes]) -> None:
    """Raises BadCheckpoint for a token that is too long, or too many long ones."""
    texts = list(texts)
    lengths = list(map(len, texts))
    if max(lengths, default=0) > MOST_TOKEN:
        text = next(text for text in texts if len(text) > MOST_TOKEN)
        raise BadCheckpoint(
            f"{where}: token {text[:20]!r}... has a length of {len(text)}; at most {MOST_TOKEN} is allowed"
        )
    cuts = sum(map(mul, lengths, lengths))
    if cuts > MOST_CUTS:
        raise BadCheckpoint(f"{where}: its tokens are too long: {cuts} ways to cut them, of {MOST_CUTS} allowed")


def check_tokenizer_json(path: Path, document: Any) -> None:
    """Raises BadCheckpoint for whatever exceeds the limits. Files of another shape are left to the library."""
    if not isinstance(document, dict):
        return
    model = document.get("model")
    vocabulary = model.get("vocab") if isinstance(model, dict) else None
    if isinstance(vocabulary, dict):
        check_tokens(path, vocabulary)
        _check_ids(path, vocabulary)
    elif isinstance(vocabulary, list):
        check_tokens(path, (piece[0] for piece in vocabulary if isinstance(piece, list) and _is_text(piece)))
    added = document.get("added_tokens")
    if isinstance(added, list):
        contents = [token["content"] for token in added if isinstance(token, dict) and _is_text([token.get("content")])]
        check_tokens(path, contents)
        if (total := sum(map(len, contents))) > MOST_ADDED:
            raise BadCheckpoint(f"{path}: its added tokens have {total} characters; at most {MOST_ADDED} are allowed")
    growth = 1.0
    for part, inside in (("normalizer", "normalizers"), ("pre_tokenizer", "pretokenizers"), ("decoder", "decoders")):
        steps = list(_flat(document.get(part), inside))
        if len(steps) > MOST_STEPS:
            raise BadCheckpoint(f"{path}: its {part} has {len(steps)} steps; at most {MOST_STEPS} are allowed")
        for step in steps:
            growth *= _growth(path, part, step)
            if growth > MOST_GROWTH:
                raise BadCheckpoint(
                    f"{path}: its {part} makes a text over {MOST_GROWTH} times longer, at step {step.get('type')!r}"
                )


def character_map_growth(data: bytes) -> int:
    """The longest text that a SentencePiece character map makes of one place in a text."""
    trie = int.from_bytes(data[:4], "little")
    return max((len(text.decode("utf-8", "replace")) for text in data[4 + trie :].split(b"\0")), default=1)


def _growth(path: Path, part: str, step: dict[str, Any]) -> float:
    """How many times longer one step can make a text."""
    pattern = step.get("pattern")
    kind, text = next(iter(pattern.items()), ("", "")) if isinstance(pattern, dict) else ("", "")
    if isinstance(text, str) and len(text) > MOST_PATTERN:
        raise BadCheckpoint(f"{path}: a pattern of its {part} has {len(text)} characters; {MOST_PATTERN} are allowed")
    content = step.get("content")
    match step.get("type"):
        case "Replace" if isinstance(content, str):
            # a pattern may match the empty text beside every character
            return max(1.0, len(content) / max(1, len(text)) if kind == "String" else 1.0 + len(content))
        case "Prepend":
            return float(max(1, len(str(step.get("prepend", "")))))
        case "Precompiled":
            try:
                return float(max(1, character_map_growth(base64.b64decode(step.get("precompiled_charsmap") or b""))))
            except (binascii.Error, TypeError, ValueError):
                return 1.0
        case _:
            return 1.0


def _check_ids(path: Path, vocabulary: dict[str, Any]) -> None:
    """No two tokens with one id."""
    seen: dict[Any, str] = {}
    for text, i in vocabulary.items():
        if isinstance(i, int) and seen.setdefault(i, text) is not text:
            raise BadCheckpoint(f"{path}: tokens {seen[i]!r:.60} and {text!r:.60} have the same id {i}")


def _flat(part: Any, inside: str) -> Iterator[dict[str, Any]]:
    if isinstance(part, dict):
        nested = part.get(inside)
        if part.get("type") == "Sequence" and isinstance(nested, list):
            for step in nested:
                yield from _flat(step, inside)
        else:
            yield part


def _is_text(parts: list[Any]) -> bool:
    return bool(parts) and isinstance(parts[0], str)
