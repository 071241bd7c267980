"""Answers that follow a JSON schema or a grammar: which tokens may come next, by llguidance (extra `schema`)."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import numpy as np

from trilens.errors import RequestRefused, UsageError
from trilens.text.tokenizer import Tokenizer

MOST_SCHEMA = 64 * 1024  # characters


class Grammars:
    """What one model's vocabulary makes of schemas. Made once a model: it sorts all tokens."""

    def __init__(self, tokenizer: Tokenizer, vocab: int) -> None:
        try:
            import llguidance
        except ImportError:
            raise UsageError("JSON schemas need llguidance; install it with: pip install 'trilens[schema]'") from None
        self._llguidance = llguidance
        self._tokens = llguidance.LLTokenizer(
            llguidance.TokenizerWrapper(_Vocabulary(tokenizer)), n_vocab=vocab, eos_token=sorted(tokenizer.eos_ids)
        )
        self._words = (vocab + 31) // 32

    def schema(self, schema: Mapping[str, Any] | None) -> GrammarConstraint:
        """JSON that follows `schema`; any JSON object for None. Raises RequestRefused for a schema that cannot be."""
        wanted = {"type": "object"} if schema is None else dict(schema)
        try:
            stated = json.dumps(wanted)
        except (TypeError, ValueError, RecursionError) as problem:
            raise RequestRefused(f"the schema is no JSON: {problem}") from None
        if len(stated) > MOST_SCHEMA:
            raise RequestRefused(f"the schema has {len(stated)} characters; expected at most {MOST_SCHEMA}")
        matcher = self._llguidance.LLMatcher
        # no white space that nobody asked for: a model that is held to it could write it for ever
        return self._constraint(matcher.grammar_from_json_schema(stated, overrides={"whitespace_flexible": False}))

    def _constraint(self, grammar: str) -> GrammarConstraint:
        matcher = self._llguidance.LLMatcher(self._tokens, grammar, log_level=0)
        if matcher.is_error():
            raise RequestRefused(f"the schema cannot be followed: {matcher.get_error().splitlines()[0][:300]}")
        return GrammarConstraint(matcher, self._words)


class GrammarConstraint:
    """A `Constraint` of one answer."""

    def __init__(self, matcher: Any, words: int) -> None:
        self._matcher = matcher
        self._allowed = np.zeros(words, np.uint32)

    def allowed(self) -> np.ndarray:
        self._matcher.unsafe_compute_mask_ptr(self._allowed.ctypes.data, self._allowed.nbytes)
        if self._matcher.is_error():
            raise RequestRefused(f"the schema cannot be followed: {self._matcher.get_error().splitlines()[0][:300]}")
        return self._allowed

    def take(self, token: int) -> None:
        if not self._matcher.is_stopped():
            self._matcher.consume_token(token)

    @property
    def complete(self) -> bool:
        """Whether what was written so far is whole."""
        return bool(self._matcher.is_accepting())


class _Vocabulary:
    """What llguidance asks of a tokenizer."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        ends = sorted(tokenizer.eos_ids)
        self.eos_token_id = ends[0] if ends else 0
        self.bos_token_id = tokenizer.bos_id
        self.special_token_ids = sorted(tokenizer.special_ids)
        # llguidance knows a control token, which no text can hold, by this first byte
        self.tokens = [
            (b"\xff" if tokenizer.is_special(i) else b"") + tokenizer.piece(i) for i in range(tokenizer.vocab_size)
        ]

    def __call__(self, text: bytes) -> list[int]:
        return self._tokenizer.encode(text.decode("utf-8", "replace"), special=False)
