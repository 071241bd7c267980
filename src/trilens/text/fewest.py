"""The minimum number of tokens of a text, known without tokenizing it, so that a prompt that cannot fit is refused
early.

A token stands for at most as many characters as its own text has. The steps before the model can shorten a text
further: the Unicode forms combine up to four characters into one. If a step can drop characters (a pattern that
replaces, a map of characters, a word that becomes one unknown token), there is no bound, and the result is 0. The
result is never more than the real number of tokens.
"""

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from tokenizers import Tokenizer, models

from trilens.text.spelling import byte_characters

COMPOSED = 4  # characters at most that canonical composition puts into one: a letter and three marks


@dataclass(frozen=True)
class Fewest:
    """`characters`: the most that one token can stand for, None where there is no bound. `spaces`: whether white space
    counts; it does not where a step leaves it out. Of `lost` characters no token is made."""

    characters: int | None
    spaces: bool = True
    lost: str = ""

    def tokens(self, text: str) -> int:
        """A lower bound of the text's tokens."""
        if self.characters is None:
            return 0
        counted = len(text) if self.spaces else sum(map(len, text.split()))
        counted -= sum(map(text.count, self.lost))
        return max(0, -(-counted // self.characters))


UNKNOWN = Fewest(None)


def fewest_of(engine: Tokenizer, size: int) -> Fewest:
    """What is known of a tokenizer with ids below `size`; ids from there on are left out of what it encodes."""
    vocabulary = engine.get_vocab(with_added_tokens=False)
    normalizers = list(_steps(engine.normalizer, "normalizers"))
    cuts = list(_steps(engine.pre_tokenizer, "pretokenizers"))
    lost = _lost(engine.model, vocabulary, size, any(step["type"] == "ByteLevel" for step in [*normalizers, *cuts]))
    if lost is None:
        return UNKNOWN
    shrinks, spaces = 1, True
    for step in normalizers:
        match step:
            case {"type": "NFC" | "NFKC"}:
                shrinks *= COMPOSED
            case {"type": "NFD" | "NFKD" | "Lowercase" | "Prepend" | "ByteLevel"}:
                pass
            case {"type": "Replace", "pattern": {"String": old}, "content": new} if new and not set(new) & set(lost):
                shrinks *= -(-len(old) // len(new))
            case {"type": "Strip"}:
                spaces = False
            case _:
                return UNKNOWN
    for step in cuts:
        match step:
            case {"type": "ByteLevel" | "Metaspace" | "Digits" | "UnicodeScripts"}:
                pass
            case {"type": "Split" | "Punctuation", "behavior": behavior} if behavior != "Removed":
                pass
            case {"type": "Whitespace" | "WhitespaceSplit"}:
                spaces = False
            case _:
                return UNKNOWN
    longest = max(map(len, vocabulary), default=1)
    for added in engine.get_added_tokens_decoder().values():
        text = added.content
        if added.normalized and engine.normalizer is not None:
            text = engine.normalizer.normalize_str(text)
        longest = max(longest, len(text))
        if added.lstrip or added.rstrip:
            spaces = False  # one such token takes all the white space beside it
    return Fewest(max(1, longest) * shrinks, spaces, lost)


def _lost(model: Any, vocabulary: Mapping[str, int], size: int, byte_level: bool) -> str | None:
    """The characters that produce no token; None if that is not known."""
    if any(i >= size and not (byte_level and len(text) == 1) for text, i in vocabulary.items()):
        return None
    if isinstance(model, models.BPE) and byte_level:
        missing = [byte for byte, c in enumerate(byte_characters()) if vocabulary.get(c, size) >= size]
        # Where the bytes 80 to BF have tokens, some part of every longer character has. Control characters are what no
        # normalizer makes of others.
        if all(byte < 0x20 or byte == 0x7F or byte > 0xBF for byte in missing):
            return "".join(chr(byte) for byte in missing if byte < 0x80)
        return None
    if isinstance(model, models.BPE):
        if model.unk_token in vocabulary and not model.fuse_unk:
            return ""
        fallback = model.byte_fallback
    elif isinstance(model, models.Unigram):
        fallback = json.loads(model.__getstate__())["byte_fallback"]
    else:
        return None
    return "" if fallback and all(vocabulary.get(f"<0x{byte:02X}>", size) < size for byte in range(256)) else None


def _steps(part: Any, inside: str) -> Iterator[dict[str, Any]]:
    """A normalizer's or pre-tokenizer's single steps, as tokenizer.json writes them."""
    if part is not None:
        yield from _flat(json.loads(part.__getstate__()), inside)


def _flat(state: dict[str, Any], inside: str) -> Iterator[dict[str, Any]]:
    if state["type"] == "Sequence":
        for step in state[inside]:
            yield from _flat(step, inside)
    else:
        yield state
