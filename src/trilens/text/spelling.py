"""The bytes that a token stands for.

Decoding is done here, not by the `tokenizers` library: a token has the same bytes wherever it stands, so text can be
streamed token by token and still equal what decoding all tokens at once gives.
"""

import re
from dataclasses import dataclass
from functools import cache

SPACE_MARK = "▁"
_BYTE_TOKEN = re.compile(r"<0x([0-9A-Fa-f]{2})>\Z")


@dataclass(frozen=True)
class Spelling:
    """How token texts spell bytes: as GPT-2's characters, one a byte, or as UTF-8 with a mark for the space."""

    byte_level: bool
    space_mark: str = ""
    byte_tokens: bool = False  # "<0x0A>" is the byte 10
    leading_space: bool = False  # encoding puts a space before the text, so decoding takes one away

    def bytes_of(self, text: str) -> bytes:
        if self.byte_level:
            return b"".join(_BYTES.get(c) or c.encode() for c in text)
        if self.byte_tokens and (match := _BYTE_TOKEN.match(text)):
            return bytes.fromhex(match[1])
        return (text.replace(self.space_mark, " ") if self.space_mark else text).encode()


def _printable(byte: int) -> bool:
    return 0x21 <= byte <= 0x7E or 0xA1 <= byte <= 0xAC or 0xAE <= byte <= 0xFF


@cache
def byte_characters() -> tuple[str, ...]:
    """GPT-2's character for each byte: itself where it can be seen, else the next free one from U+0100 on."""
    hidden = [byte for byte in range(256) if not _printable(byte)]
    return tuple(chr(b) if _printable(b) else chr(256 + hidden.index(b)) for b in range(256))


_BYTES = {character: bytes([byte]) for byte, character in enumerate(byte_characters())}


def spell(data: bytes) -> str:
    """The bytes in GPT-2's characters, as byte-level vocabularies and merges are written."""
    return data.decode("latin-1").translate(_FROM_LATIN1)


_FROM_LATIN1 = dict(enumerate(byte_characters()))
