"""Answers that follow a JSON schema or a grammar: which tokens may come next, by llguidance (extra `schema`)."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Protocol

import numpy as np

from trilens.errors import RequestRefused, UsageError
from trilens.executors.executor import Proposal
from trilens.generate.answer import Calls
from trilens.generate.ends import only
from trilens.generate.schema import Path, dotted, followed, inner

MOST_SCHEMA = 64 * 1024  # characters
# No white space that nobody asked for: a model that is held to JSON could write it for ever.
EXACT = {"whitespace_flexible": False}
COERCED = {**EXACT, "coerce_one_of": True}
MOST_LOOKS = 400  # parts of a schema that are tried alone to find the one at fault
SCHEMAS_ALONE = ("properties", "$defs", "definitions", "allOf", "anyOf", "oneOf", "prefixItems", "items")


class SchemaRefused(RequestRefused):
    """A schema, regex, choice or grammar that no model can follow; `path` leads to the part of a schema at fault."""

    exit_code = 2  # the value itself is wrong, whatever the model

    def __init__(self, said: str, path: Path = ()) -> None:
        super().__init__(f"{said} (at {dotted(path)})" if path else said)
        self.said = said
        self.path = path


class Pieces(Protocol):
    """What is asked of a tokenizer here."""

    @property
    def bos_id(self) -> int | None: ...
    @property
    def eos_ids(self) -> frozenset[int]: ...
    @property
    def special_ids(self) -> frozenset[int]: ...
    @property
    def vocab_size(self) -> int: ...
    def is_special(self, token: int) -> bool: ...
    def piece(self, token: int) -> bytes: ...
    def encode(self, text: str, *, special: bool = ...) -> list[int]: ...


class Bytes:
    """A vocabulary of single bytes, by which a form can be checked before there is a model."""

    bos_id, eos_ids, special_ids, vocab_size = None, frozenset({256}), frozenset({256}), 257

    def is_special(self, token: int) -> bool:
        return token == 256

    def piece(self, token: int) -> bytes:
        return b"end" if token == 256 else bytes([token])

    def encode(self, text: str, *, special: bool = True) -> list[int]:
        return list(text.encode())


def check_form(form: str, value: Any) -> None:
    """Raises SchemaRefused for a schema, regex, choice or grammar (`form`) that no model can follow."""
    getattr(Grammars(Bytes(), Bytes.vocab_size), form)(value)


@dataclass(frozen=True)
class CallRules:
    """Rules in Lark's notation, of which the one named `calls` is an answer that calls tools; `ignored` are keywords of
    the tools' schemas that it is not held to."""

    rules: str
    ignored: tuple[str, ...] = ()


class Grammars:
    """What one model's vocabulary makes of schemas. Made once a model: it sorts all tokens."""

    def __init__(self, tokenizer: Pieces, vocab: int) -> None:
        try:
            import llguidance
        except ImportError:
            raise UsageError(
                "schemas, regexes and grammars need llguidance; install it with: pip install 'trilens[schema]'"
            ) from None
        self._llguidance = llguidance
        self._tokenizer = tokenizer
        self._tokens = llguidance.LLTokenizer(
            llguidance.TokenizerWrapper(_Vocabulary(tokenizer)), n_vocab=vocab, eos_token=sorted(tokenizer.eos_ids)
        )
        self._words = (vocab + 31) // 32
        self._formats: dict[str, bool] = {}

    def schema(self, schema: Mapping[str, Any] | None, calls: CallRules | None = None) -> GrammarConstraint:
        """JSON that follows `schema`; any JSON object for None. An answer may be `calls` instead; so it is with
        the next three. Raises SchemaRefused for a schema that cannot be followed."""
        wanted = {"type": "object"} if schema is None else schema
        try:
            stated = json.dumps(wanted)
        except (TypeError, ValueError, RecursionError) as problem:
            raise SchemaRefused(f"the schema is not JSON: {problem}") from None
        if len(stated) > MOST_SCHEMA:
            raise SchemaRefused(f"the schema has {len(stated)} characters; expected at most {MOST_SCHEMA}")
        rule, ignored = self.json_rule(wanted)
        return self._lark(rule, "schema", calls, ignored)

    def json_rule(self, schema: Any, style: Mapping[str, Any] | None = None) -> tuple[str, tuple[str, ...]]:
        """(JSON that follows `schema`, as what a rule of Lark's has behind its colon; keywords that it is not held to).
        `style` are options of llguidance. Raises SchemaRefused."""
        read = followed(schema, self._knows_format)
        options, approximated = self._options(read.schema)
        rule = f"%json {json.dumps({**read.schema, 'x-guidance': {**options, **(style or {})}})}"
        return rule, (*read.ignored, *approximated)

    def forced(self, calls: CallRules) -> GrammarConstraint:
        """Nothing but calls. Raises RequestRefused."""
        lark = self._llguidance.LLMatcher.grammar_from_lark(f"start: calls\n{calls.rules}")
        return self._constraint(lark, "schema of a tool", calls.ignored, "forced")

    def regex(self, regex: str, calls: CallRules | None = None) -> GrammarConstraint:
        """A text that the whole of this regular expression matches. Raises SchemaRefused."""
        _short("regex", regex)
        return self._lark(f"/{self._llguidance.regex_to_lark(_whole(regex))}/", "regex", calls)

    def choice(self, texts: Sequence[str], calls: CallRules | None = None) -> GrammarConstraint:
        """One of these texts. Raises SchemaRefused."""
        if not texts or not all(isinstance(text, str) and text for text in texts):
            raise SchemaRefused("the choice is empty or has an empty text; expected a list of texts")
        alternatives = " | ".join(map(quoted, texts))
        _short("choice", alternatives)
        return self._lark(alternatives, "choice", calls)

    def grammar(self, grammar: str, calls: CallRules | None = None) -> GrammarConstraint:
        """A text of this grammar: GBNF (`root ::= ...`), or Lark's as llguidance has it (`start: ...`). Raises
        SchemaRefused, and RequestRefused where there are calls beside it."""
        _short("grammar", grammar)
        if "::=" in grammar:
            from llguidance.gbnf_to_lark import gbnf_to_lark

            try:
                grammar = gbnf_to_lark(grammar)
            except Exception as problem:  # the converter's own, for whatever it does not know
                raise SchemaRefused(f"the grammar cannot be followed: {_first_line(problem)}") from None
        if calls is not None:
            raise RequestRefused(
                "a grammar leaves no room for calls; leave out the tools, or put calls into the grammar"
            )
        return self._constraint(self._llguidance.LLMatcher.grammar_from_lark(grammar), "grammar")

    def _lark(self, rule: str, what: str, calls: CallRules | None, ignored: tuple[str, ...] = ()) -> GrammarConstraint:
        """`rule` is what a rule of Lark's has behind its colon."""
        if calls is None:
            return self._constraint(self._llguidance.LLMatcher.grammar_from_lark(f"start: {rule}"), what, ignored)
        lark = f"start: wanted | calls\nwanted: {rule}\n{calls.rules}"
        return self._constraint(self._llguidance.LLMatcher.grammar_from_lark(lark), what, ignored, "allowed")

    def literal(self, text: str) -> str:
        """A text in a grammar; control tokens in it are named by their ids, for no text can hold them."""
        parts = []
        for part in self._control_texts.split(text) if self._specials else [text]:
            if part in self._specials:
                parts.append(f"<[{self._specials[part]}]>")
            elif part:
                parts.append(quoted(part))
        return " ".join(parts)

    @cached_property
    def _specials(self) -> dict[str, int]:
        tokenizer = self._tokenizer
        return {tokenizer.piece(i).decode("utf-8", "replace"): i for i in tokenizer.special_ids if tokenizer.piece(i)}

    @cached_property
    def _control_texts(self) -> re.Pattern[str]:
        return re.compile("(" + "|".join(map(re.escape, sorted(self._specials, key=len, reverse=True))) + ")")

    def _options(self, schema: Any) -> tuple[dict[str, Any], tuple[str, ...]]:
        """(how llguidance is to read the schema, the keywords that it then only approximates). Raises SchemaRefused,
        which names the part that cannot be followed."""
        problem = self._problem(schema)
        if problem is None:
            return EXACT, ()
        if "oneOf" in problem and self._problem(schema, COERCED) is None:
            return COERCED, ("oneOf, taken as anyOf",)
        raise SchemaRefused(f"the schema cannot be followed: {problem}", self._guilty(schema))

    def _guilty(self, schema: Any) -> Path:
        """The innermost part that cannot be followed by itself."""
        path: Path = ()
        most = MOST_LOOKS
        definitions = {key: schema[key] for key in ("$defs", "definitions") if key in schema}
        while True:
            for where, one in inner(schema):
                most -= 1
                if most < 0:
                    return path
                alone = {**definitions, **one} if isinstance(one, Mapping) else one
                if where[0] in SCHEMAS_ALONE and self._problem(alone, COERCED) is not None:
                    schema, path = one, (*path, *where)
                    break
            else:
                return path

    def _problem(self, schema: Any, options: Mapping[str, Any] = EXACT) -> str | None:
        """Why it cannot be followed."""
        matcher = self._llguidance.LLMatcher
        try:
            grammar = matcher.grammar_from_json_schema(json.dumps(schema), overrides=dict(options))  # type: ignore[arg-type]
            wrong, said = matcher.validate_grammar_with_warnings(grammar, self._tokens)
        except ValueError as problem:
            wrong, said = True, [str(problem)]
        return _plain(said[0]) if wrong else None

    def _knows_format(self, name: str) -> bool:
        if name not in self._formats:
            self._formats[name] = self._problem({"type": "string", "format": name}) is None
        return self._formats[name]

    def _constraint(
        self, grammar: str, what: str = "schema", ignored: tuple[str, ...] = (), calls: Calls = "none"
    ) -> GrammarConstraint:
        matcher = self._llguidance.LLMatcher(self._tokens, grammar, log_level=0)
        if matcher.is_error():
            raise SchemaRefused(f"the {what} cannot be followed: {_first_line(matcher.get_error())}")
        return GrammarConstraint(matcher, self._words, ignored, calls, self._tokenizer.encode)


class GrammarConstraint:
    """A `Constraint` of one answer."""

    def __init__(
        self, matcher: Any, words: int, ignored: tuple[str, ...], calls: Calls, encode: Callable[[str], list[int]]
    ) -> None:
        """`ignored`: the schema's keywords that it does not hold the answer to."""
        self.ignored = ignored
        self.calls: Calls = calls
        self._encode = encode
        self._matcher = matcher
        self._words = words
        self._allowed: np.ndarray | None = None  # None: not computed yet
        self._ahead = Proposal((), 0, np.empty((0, words), np.uint32))  # behind the tokens taken so far

    def allowed(self) -> np.ndarray:
        if self._allowed is None:
            words = np.empty(self._words, np.uint32)
            _compute(self._matcher, words)
            if self._matcher.is_error():
                raise RequestRefused(f"the schema cannot be followed: {_first_line(self._matcher.get_error())}")
            self._allowed = words
        return self._allowed

    def take(self, token: int) -> None:
        if not self._matcher.is_stopped():
            self._matcher.consume_token(token)
        tokens, _, allowed, _ = self._ahead
        known = len(tokens) > 0 and tokens[0] == token
        self._allowed = allowed[0] if known else None
        self._ahead = Proposal(tokens[1:], 0, allowed[1:]) if known else self._ahead._replace(tokens=())

    def ahead(self, looked_up: Sequence[int], most: int) -> Proposal:
        matcher = self._matcher.deep_copy()  # it would keep an error
        allowed = np.empty((max(len(looked_up), most), self._words), np.uint32)
        tokens = list[int]()

        def follow(some: Sequence[int]) -> None:
            for token in some:
                if matcher.is_stopped() or not matcher.try_consume_tokens([token]):
                    return
                _compute(matcher, allowed[len(tokens)])
                if matcher.is_error():
                    return
                tokens.append(token)

        follow(looked_up)
        found = len(tokens)
        if found < most and not matcher.is_stopped():
            follow(matcher.deep_copy().compute_ff_tokens()[: most - found])
        if len(tokens) < most and matcher.is_stopped() and not matcher.is_error():
            last = allowed[len(tokens) - 1] if tokens else self.allowed()
            if (end := only(last)) is not None:
                allowed[len(tokens)] = last
                tokens.append(end)
        self._ahead = Proposal(tokens, found, allowed[: len(tokens)])
        return self._ahead

    def begin(self, text: str) -> None:
        self._matcher.try_consume_tokens(self._encode(text))
        self._allowed, self._ahead = None, self._ahead._replace(tokens=())

    @property
    def complete(self) -> bool:
        """Whether what was written so far is whole."""
        return bool(self._matcher.is_accepting())


def _compute(matcher: Any, words: np.ndarray) -> None:
    """Write what is allowed next into these words."""
    matcher.unsafe_compute_mask_ptr(words.ctypes.data, words.nbytes)


class _Vocabulary:
    """What llguidance asks of a tokenizer."""

    def __init__(self, tokenizer: Pieces) -> None:
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


def _short(what: str, text: str) -> None:
    if len(text) > MOST_SCHEMA:
        raise SchemaRefused(f"the {what} has {len(text)} characters; expected at most {MOST_SCHEMA}")


def quoted(text: str) -> str:
    """A text in a grammar that is no control token, whatever it spells."""
    return json.dumps(text, ensure_ascii=False)


def _whole(regex: str) -> str:
    """A regular expression that matches a whole text needs no anchors around it."""
    ends = regex.endswith("$") and not regex.endswith("\\$")
    return regex.removeprefix("^")[: -1 if ends else None] if "|" not in regex else regex


def _plain(problem: str) -> str:
    """llguidance's word for what it cannot do, as a sentence."""
    unknown = re.fullmatch(r"Unimplemented keys: \[(.*)\]", problem.strip())
    return f"{unknown[1]} cannot be enforced token by token" if unknown else _first_line(problem)


def _first_line(problem: object) -> str:
    """Of a message of llguidance, without its state and without the grammar that it shows again; of a regular
    expression's, all that says something."""
    lines = [line.strip(" ^") for line in str(problem).partition("<state>")[0].splitlines()]
    return " ".join(line for line in lines if line and not re.match(r"\d+ \|", line))[:300]
