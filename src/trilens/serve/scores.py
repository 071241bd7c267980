"""Log probabilities in the shape of OpenAI's text completions."""

from __future__ import annotations

import codecs
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from trilens.serve.engine_model import AnyCall, EngineCall
from trilens.text.tokenizer import Tokenizer

LEAST = -9999.0  # JSON has no infinity; OpenAI writes this number for what cannot be
Alternatives = list[tuple[int, float]]  # (token, log probability): the one that came, then the likeliest


@dataclass
class Scored:
    """Tokens in their order; None for one without a score, as the first of a prompt."""

    tokens: list[int] = field(default_factory=list)
    scores: list[Alternatives | None] = field(default_factory=list)
    tokenizer: Tokenizer | None = None

    def extend(self, more: Scored) -> None:
        self.tokens += more.tokens
        self.scores += more.scores
        self.tokenizer = self.tokenizer or more.tokenizer

    def own(self) -> Iterator[tuple[int, float]]:
        return (score[0] for score in self.scores if score)

    def as_dict(self, alternatives: int, offset: int = 0) -> dict[str, Any]:
        """`offset`: of the first token in the text, in characters."""
        return {
            "tokens": [token_text(self.tokenizer, token) for token in self.tokens] if self.tokenizer else [],
            "token_logprobs": [None if score is None else max(score[0][1], LEAST) for score in self.scores],
            "top_logprobs": [self._likeliest(score) for score in self.scores] if alternatives else None,
            "text_offset": [offset + before for before in self._offsets()[:-1]],
        }

    @property
    def length(self) -> int:
        """Characters of all of them."""
        return self._offsets()[-1]

    def _offsets(self) -> list[int]:
        """How many characters are whole before each token, and behind the last."""
        decoder, offsets = codecs.getincrementaldecoder("utf-8")("replace"), [0]
        if (tokenizer := self.tokenizer) is not None:
            for token in self.tokens:
                offsets.append(offsets[-1] + len(decoder.decode(tokenizer.piece(token))))
        return offsets

    def _likeliest(self, score: Alternatives | None) -> dict[str, float] | None:
        if score is None or self.tokenizer is None:
            return None
        return {token_text(self.tokenizer, token): max(p, LEAST) for token, p in reversed(score)}


def token_text(tokenizer: Tokenizer, token: int) -> str:
    """A token's own text; for a part of a character its bytes, so that two such tokens are not one."""
    if tokenizer.is_special(token):
        return tokenizer.text_of(token)
    piece = tokenizer.piece(token)
    try:
        return piece.decode()
    except UnicodeDecodeError:
        return "bytes:" + "".join(f"\\x{byte:02x}" for byte in piece)


def scored_prompt(call: AnyCall) -> Scored:
    """A prompt's own tokens."""
    if isinstance(call, EngineCall) or call.request is None or call.request.scores is None:
        return Scored()
    found = call.request.scores.of
    return Scored(list(call.ids), [found.get(place) for place in range(len(call.ids))], call.tokenizer)


def scored_tokens(call: AnyCall, start: int) -> tuple[Scored, int]:
    """(the answer's tokens from place `start` on, the place behind them)."""
    request = None if isinstance(call, EngineCall) else call.request
    if request is None:
        return Scored(), start
    made, end = Scored(tokenizer=call.tokenizer), len(request.tokens)
    for place in range(start, end):
        if score := request.logprobs.get(place):
            made.tokens.append(request.tokens[place])
            made.scores.append(score)
    return made, end
