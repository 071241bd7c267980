"""Vocabularies that are an order of byte strings: tiktoken's files, and Mistral's tekken.json.

The rank is the whole of the merge rule: of all neighbours whose concatenation has a rank, the best-ranked merge first.
"""

import base64
import binascii
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from trilens.errors import BadCheckpoint, UnsupportedModel
from trilens.text.file_limits import MOST_SPECIAL, check_tokens, read_bytes
from trilens.text.pretokenizers import PRETOKENIZERS, PreTokenizer
from trilens.text.spelling import Spelling, spell
from trilens.text.vocabulary import Vocabulary, add_tokens, byte_level_bpe, merges_by_rank


@dataclass(frozen=True)
class TiktokenClass:
    """What the code beside a tiktoken file says and the file does not. That code is never run."""

    pretokenizer: str
    control: tuple[str, ...]  # the tokens after the last rank, where tokenizer_config.json gives them no other name


# By `tokenizer_class` in tokenizer_config.json.
TIKTOKEN_CLASSES = {
    "TikTokenTokenizer": TiktokenClass("kimi-k2", ("<|reserved_token_{id}|>",) * 256),  # Moonshot: Moonlight, Kimi
    "QWenTokenizer": TiktokenClass(  # Qwen 1
        "qwen2", ("<|endoftext|>", "<|im_start|>", "<|im_end|>", *(f"<|extra_{i}|>" for i in range(205)))
    ),
}
# Special tokens of tekken files that do not list them, up to version 7.
TEKKEN_SPECIAL = (
    "<unk> <s> </s> [INST] [/INST] [AVAILABLE_TOOLS] [/AVAILABLE_TOOLS] [TOOL_RESULTS] [/TOOL_RESULTS] [TOOL_CALLS] "
    "[IMG] <pad> [IMG_BREAK] [IMG_END] [PREFIX] [MIDDLE] [SUFFIX] [SYSTEM_PROMPT] [/SYSTEM_PROMPT] [TOOL_CONTENT]"
).split()


def read_tekken(path: Path) -> Vocabulary:
    """A tekken.json: control tokens come first, ranks after them. Raises BadCheckpoint if it is damaged."""
    try:
        document = json.loads(read_bytes(path))
        config = document["config"]
        reserved, size = _count(config["default_num_special_tokens"]), _count(config["default_vocab_size"])
        if reserved > MOST_SPECIAL:
            raise ValueError(f"{reserved} special tokens; at most {MOST_SPECIAL} are allowed")
        named = {_count(entry["rank"]): str(entry["token_str"]) for entry in document.get("special_tokens") or []}
        named = named or dict(enumerate(TEKKEN_SPECIAL))
        control = {i: named.get(i, f"<SPECIAL_{i}>") for i in range(reserved)}
        ranks = [base64.b64decode(entry["token_bytes"], validate=True) for entry in document["vocab"]]
        pattern = str(config["pattern"])
        if not named.keys() <= control.keys() or not 0 < size - reserved <= len(ranks):
            raise ValueError(f"{len(ranks)} tokens and {len(named)} special tokens do not make {size}")
    except (binascii.Error, AttributeError, KeyError, TypeError, ValueError, RecursionError) as fault:
        raise BadCheckpoint(f"{path}: not a tekken file, or damaged ({fault!r}); download it again") from None
    known = dict(enumerate(ranks[: size - reserved], reserved))
    vocabulary = _vocabulary(path, known, control, frozenset(), pattern)
    ids = {text: i for i, text in control.items()}
    eos_id = ids.get("</s>")
    ends = frozenset(() if eos_id is None else (eos_id,))
    return replace(vocabulary, bos_id=ids.get("<s>"), eos_id=eos_id, eos_ids=ends)


def _count(value: object) -> int:
    """A whole number that JSON states. Raises ValueError for anything else, such as Infinity, 1.5 or true."""
    if type(value) is not int or value < 0:
        raise ValueError(f"{value!r:.40} where a whole number was expected")
    return value


def looks_like_tiktoken(path: Path) -> bool:
    """Whether a file called tokenizer.model holds lines "base64 rank", as Llama 3's does; SentencePiece's do not."""
    with path.open("rb") as file:
        return re.match(rb"[A-Za-z0-9+/]+={0,2} \d+\s", file.read(200)) is not None


def read_tiktoken(path: Path, config: Mapping[str, Any]) -> Vocabulary:
    """A file of lines "base64 rank", with `config` from tokenizer_config.json beside it.

    Raises UnsupportedModel if the config does not name a class whose pattern is known, BadCheckpoint if the file is
    damaged.
    """
    name = config.get("tokenizer_class")
    if name not in TIKTOKEN_CLASSES:
        raise UnsupportedModel(
            f"{path}: a tiktoken file does not say how text is cut into words, and tokenizer_class {name!r} in "
            f"tokenizer_config.json is not supported ({', '.join(TIKTOKEN_CLASSES)} are); a tokenizer.json would do"
        )
    try:
        lines = [line.split() for line in read_bytes(path).splitlines() if line.strip()]
        known = {int(rank): base64.b64decode(token, validate=True) for token, rank in lines}
        if sorted(known) != list(range(len(lines))) or not known:
            raise ValueError(f"the ranks of its {len(lines)} lines are not 0, 1, 2 and so on")
        added = {int(i): entry for i, entry in (config.get("added_tokens_decoder") or {}).items()}
        named = {i: str(entry["content"]) for i, entry in added.items()}
        visible = frozenset(i for i, entry in added.items() if not entry.get("special", True))
    except (binascii.Error, AttributeError, KeyError, TypeError, ValueError) as fault:
        raise BadCheckpoint(f"{path}: not a tiktoken file, or damaged ({fault}); download it again") from None
    kind = TIKTOKEN_CLASSES[name]
    added_texts = {i: text.format(id=i) for i, text in enumerate(kind.control, len(known))} | named
    return _vocabulary(path, known, added_texts, visible, *PRETOKENIZERS[kind.pretokenizer].patterns)


def _vocabulary(
    path: Path, ranked: Mapping[int, bytes], added: Mapping[int, str], visible: frozenset[int], *patterns: str
) -> Vocabulary:
    """Ranked byte strings in order of id, with control tokens (all added ones that are not visible) beside them."""
    texts = {spell(token): i for i, token in sorted(ranked.items())}
    ids = {text: i for i, text in added.items()}
    if len(texts) != len(ranked) or len(ids) != len(added) or texts.keys() & ids.keys() or ranked.keys() & added.keys():
        raise BadCheckpoint(f"{path}: two of its tokens are the same, or have the same id; download it again")
    check_tokens(path, [*texts, *ids])
    merges = merges_by_rank(texts, texts)
    engine = byte_level_bpe({**texts, **ids}, merges, PreTokenizer(patterns, whole_words=True))
    add_tokens(
        engine,
        control=(text for i, text in sorted(added.items()) if i not in visible),
        visible=(text for i, text in sorted(added.items()) if i in visible),
    )
    return Vocabulary(
        engine=engine,
        ids=frozenset((*ranked, *added)),
        spelling=Spelling(byte_level=True),
        raw=frozenset(added),
        bos_id=None,
        eos_id=None,
        eos_ids=frozenset(),
        add_bos=True,
        size=1 + max(*ranked, *added),
    )
