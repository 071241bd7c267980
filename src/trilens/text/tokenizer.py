"""Text to token ids and back, the same for every kind of tokenizer file."""

import json
import threading
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, TypeVar

import tokenizers

from trilens import system
from trilens.errors import BadCheckpoint, RequestRefused
from trilens.text.fewest import Fewest, fewest_of
from trilens.text.from_directory import read_directory_vocabulary
from trilens.text.from_gguf import read_gguf_vocabulary
from trilens.text.spelling import spell
from trilens.text.vocabulary import Vocabulary

T = TypeVar("T")
ANCHOR = "\U0010ffffanchor"  # a token that no text holds


class Tokenizer:
    """A model's tokenizer. Safe to use from many threads: nothing changes after it is made but caches of pieces and
    of texts.

    `bos_id` begins a plain prompt if `add_bos`; `eos_ids` end an answer; ids run from 0 to `vocab_size` - 1 (the
    model's own table can be longer, padded with ids that have no text).
    """

    def __init__(self, vocabulary: Vocabulary) -> None:
        self.bos_id = vocabulary.bos_id
        self.eos_id = vocabulary.eos_id
        self.eos_ids = vocabulary.eos_ids
        self.add_bos = vocabulary.add_bos and vocabulary.bos_id is not None
        added = vocabulary.engine.get_added_tokens_decoder()
        self.special_ids = frozenset(i for i, token in added.items() if token.special)
        self.vocab_size = vocabulary.size
        self.spelling = vocabulary.spelling
        self._ids = vocabulary.ids
        self._raw = vocabulary.raw
        self._twins = vocabulary.twins
        self._engine = vocabulary.engine
        self._literal = _without(vocabulary.engine)
        self._pieces: dict[int, bytes] = {}
        self._texts: dict[int, str | None] = {}

    @classmethod
    def from_gguf(cls, metadata: Mapping[str, Any]) -> "Tokenizer":
        """From the metadata of a GGUF file; raises as `read_gguf_vocabulary` does."""
        return cls(read_gguf_vocabulary(metadata))

    @classmethod
    def from_directory(cls, directory: str | Path) -> "Tokenizer":
        """From the tokenizer files beside a checkpoint; raises as `read_directory_vocabulary` does."""
        return cls(read_directory_vocabulary(Path(directory)))

    @property
    def bos(self) -> str:
        """The text of the BOS token, as chat templates want it; empty if there is none."""
        return "" if self.bos_id is None else self.text_of(self.bos_id)

    @property
    def eos(self) -> str:
        """The text of the EOS token, as chat templates want it; empty if there is none."""
        return "" if self.eos_id is None else self.text_of(self.eos_id)

    def encode(self, text: str, *, special: bool = True) -> list[int]:
        """The ids of a text. BOS and EOS are never added: templates write them, and plain prompts see `add_bos`.

        `special=True` is for text that a chat template wrote: "<|im_end|>" in it becomes that one control token.
        `special=False` is for text from outside: a control token's text in it stays ordinary text, so that nobody
        can end a turn or open another by writing so. (Tokens that are not control tokens, such as runs of spaces
        that a model added to its vocabulary, are found either way.)

        Bytes that a vocabulary cannot write are left out. Raises RequestRefused for half a surrogate pair, which no
        UTF-8 text can hold, for a text on which the tokenizer's own pattern gives up, and for a control token's text
        that the vocabulary can write in no other way.
        """
        engine = self._engine if special else self._literal
        ids = self._guarded(text, lambda: _encode(engine, text))
        if not special:
            self._check_reached(self.special_ids, ids, text)
        return ids if max(ids, default=0) < self.vocab_size else [i for i in ids if i < self.vocab_size]

    def _guarded(self, text: str, encode: Callable[[], T]) -> T:
        """What `encode` makes of a text, with the faults of tokenizers as refusals of the text."""
        try:
            text.encode()
            return encode()
        except UnicodeEncodeError as fault:
            raise RequestRefused(
                f"the text holds {text[fault.start]!a} at position {fault.start}, half a character; remove it"
            ) from None
        except BaseException as fault:  # a panic in the Rust library is not an Exception
            if isinstance(fault, (KeyboardInterrupt, SystemExit)):
                raise
            raise RequestRefused(
                f"the tokenizer gives up on this text of {len(text)} characters ({_first_line(fault)}); "
                "send less, or break its longest run of like characters"
            ) from None

    def _check_reached(self, control: Collection[int], ids: Sequence[int], text: str) -> None:
        """Raises RequestRefused where a control token came out of a text that spells it."""
        if reached := [t for i in set(control).intersection(ids) if (t := self.text_of(i)) in text]:
            raise RequestRefused(
                f"the text spells the control token {reached[0]!r}, which would take effect; remove it"
            )

    @property
    def added(self) -> dict[str, bool]:
        """The tokens that are found in a text before anything else, and whether each is a control token."""
        return {token.content: token.special for token in self._engine.get_added_tokens_decoder().values()}

    def runs(self, text: str) -> list[tuple[int, int, list[int]]]:
        """The text that a template wrote, cut at its added tokens: for each of these, and for each run between two of
        them, where it begins and ends and its ids."""
        found = self._guarded(text, lambda: self._engine.encode_batch([text], add_special_tokens=False)[0])
        added = self._engine.get_added_tokens_decoder()
        runs: list[tuple[int, int, list[int]]] = []
        at, ids = 0, list[int]()
        for token, (start, end) in zip(found.ids, found.offsets, strict=True):
            if token not in added:
                ids.append(token)
                continue
            runs += [(at, start, ids), (start, end, [token])]
            at, ids = end, []
        runs.append((at, len(text), ids))
        return [(start, end, [i for i in ids if i < self.vocab_size]) for start, end, ids in runs if start < end]

    def without(self, texts: Collection[str]) -> "LiteralEngine":
        """The same tokenizer that takes these added tokens as ordinary text."""
        return LiteralEngine(self, _without(self._engine, texts))

    def fewest_tokens(self, text: str) -> int:
        """No more than `encode` gives, without its work; 0 where nothing is known."""
        return self._fewest.tokens(text)

    @cached_property
    def _fewest(self) -> Fewest:
        return fewest_of(self._engine, self.vocab_size)

    def decode(self, ids: Iterable[int], *, skip_special: bool = True, continues: bool = False) -> str:
        """The text of the ids; bytes that are no UTF-8 become U+FFFD, ids without a token become nothing.

        SentencePiece-style vocabularies write a space before the first word; it is taken away, unless the ids
        continue a text (`continues`). `encode` and `decode` then give back every text that is valid.
        """
        hidden = self.special_ids if skip_special else frozenset()
        data = b"".join(self.piece(i) for i in ids if i not in hidden)
        if self.spelling.leading_space and not continues:
            data = data.removeprefix(b" ")
        return data.decode("utf-8", "replace")

    def piece(self, token_id: int) -> bytes:
        """The bytes that a token writes, wherever it stands; empty for an id without a token."""
        piece = self._pieces.get(token_id)
        if piece is None:
            text = self.text_of(token_id)
            piece = text.encode() if token_id in self._raw else self.spelling.bytes_of(text)
            self._pieces[token_id] = piece
        return piece

    def whole(self, token_id: int) -> str | None:
        """The piece as text where it begins and ends with a character, wherever it stands; None where it does not."""
        try:
            return self._texts[token_id]
        except KeyError:
            try:
                text = self.piece(token_id).decode()
            except UnicodeDecodeError:
                text = None
            return self._texts.setdefault(token_id, text)

    def text_of(self, token_id: int) -> str:
        """The token as the vocabulary writes it ("Ġthe", "<|im_end|>"); empty for an id without a token."""
        if not 0 <= token_id < self.vocab_size:
            return ""
        return self._twins.get(token_id) or self._engine.id_to_token(token_id) or ""

    def id_of(self, token_text: str) -> int | None:
        """The id of a token as the vocabulary writes it, or None."""
        token_id = self._engine.token_to_id(token_text)
        return token_id if token_id is not None and token_id < self.vocab_size else None

    @cached_property
    def line_breaks(self) -> dict[int, int]:
        """Tokens that write one or two line breaks and no more -> how many."""
        texts = {lines: ("\n" * lines, spell(b"\n" * lines), "<0x0A>" * lines) for lines in (1, 2)}
        found = {self.id_of(text): lines for lines, several in texts.items() for text in several}
        return {i: n for i, n in found.items() if i is not None and self.piece(i) == b"\n" * n}

    def check(self, where: object, rows: int) -> None:
        """That ids fit a model whose table has so many rows, and none is missing among them. A model's table may be
        longer, and tokens that were added to the vocabulary may lie behind it: a prompt that holds one is refused.

        Raises BadCheckpoint, naming the token.
        """
        added = self._engine.get_added_tokens_decoder().keys()
        own = set(self._ids) - added
        last = max(own, default=-1)
        if last >= rows:
            outside = min(i for i in own if i >= rows)
            raise BadCheckpoint(
                f"{where}: token {self.text_of(outside)!r:.60} has id {outside}, and the model's table has {rows} "
                "rows; tokenizer and model do not belong together"
            )
        if holes := set(range(last)) - own - added:
            raise BadCheckpoint(f"{where}: no token has id {min(holes)}, though ids go to {last}; download it again")
        for i in (*sorted(self.eos_ids), *(() if self.bos_id is None else (self.bos_id,))):
            if i >= rows:
                raise BadCheckpoint(
                    f"{where}: token {i} is said to begin or end a text, and the model's table has {rows} rows"
                )

    def is_special(self, token_id: int) -> bool:
        """Whether it is a control token, which is no part of the text."""
        return token_id in self.special_ids


class LiteralEngine:
    """Encodes a caller's texts within a prompt, with control tokens as ordinary pieces."""

    def __init__(self, tokenizer: Tokenizer, engine: tokenizers.Tokenizer) -> None:
        self._tokenizer = tokenizer
        self._engine = engine
        added = engine.get_added_tokens_decoder()
        self._control = frozenset(i for i, token in added.items() if token.special)
        engine.add_tokens([tokenizers.AddedToken(ANCHOR, special=False, normalized=False)])

    def encode(self, text: str, follows: bool) -> list[int]:
        """`follows`: it stands behind a token of the template, where no vocabulary puts a space in front of it."""
        tokenizer, anchored = self._tokenizer, ANCHOR + text if follows else text
        ids = tokenizer._guarded(text, lambda: _encode(self._engine, anchored))[int(follows) :]
        tokenizer._check_reached(self._control, ids, text)
        return [i for i in ids if i < tokenizer.vocab_size]


def _encode(engine: tokenizers.Tokenizer, text: str) -> list[int]:
    """Texts that take more than a moment go in as a batch of one: unlike `encode`, it lets go of Python's lock, and it
    makes no table of offsets."""
    if len(text) < MOMENT:
        return engine.encode(text, add_special_tokens=False).ids
    if len(text) < LONG:
        return engine.encode_batch_fast([text], add_special_tokens=False)[0].ids
    with _LONG_TURN:
        ids = engine.encode_batch_fast([text], add_special_tokens=False)[0].ids
        _give_back()
    return ids


MOMENT = 4_000  # characters; some milliseconds
LONG = 100_000  # characters, from which on a text waits for its turn
_LONG_TURN = threading.BoundedSemaphore(1)  # a long text takes some 200 bytes a character while it is encoded


def _give_back() -> None:
    """Memory that was freed, to the system: glibc keeps it, in an arena for each thread."""
    system.give_memory_back()


def _without(engine: tokenizers.Tokenizer, texts: Collection[str] = ()) -> tokenizers.Tokenizer:
    """The same tokenizer, sharing the same vocabulary in memory, that takes the text of control tokens as text, and of
    other added tokens that are named.

    Two engines, because the switch is a state of the engine and not an argument of its `encode`.
    """
    twin = tokenizers.Tokenizer(engine.model)
    if engine.normalizer is not None:
        twin.normalizer = engine.normalizer
    if engine.pre_tokenizer is not None:
        twin.pre_tokenizer = engine.pre_tokenizer
    added = engine.get_added_tokens_decoder()
    twin.add_tokens([_marked(added[i], texts) for i in sorted(added)])
    if twin.get_added_tokens_decoder().keys() != added.keys():  # ids with gaps cannot be given again one by one
        described = json.loads(engine.to_str())
        for token in described["added_tokens"]:
            token["special"] |= token["content"] in texts
        twin = tokenizers.Tokenizer.from_str(json.dumps(described))
    twin.encode_special_tokens = True
    return twin


def _marked(token: tokenizers.AddedToken, texts: Collection[str]) -> tokenizers.AddedToken:
    if token.content not in texts:
        return token
    return tokenizers.AddedToken(
        token.content,
        special=True,
        single_word=token.single_word,
        lstrip=token.lstrip,
        rstrip=token.rstrip,
        normalized=token.normalized,
    )


def _first_line(fault: BaseException) -> str:
    return (str(fault) or type(fault).__name__).splitlines()[0]
