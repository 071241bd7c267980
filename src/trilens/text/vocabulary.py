"""From the tables in a checkpoint to an engine of the `tokenizers` library."""

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import IntEnum

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers

from trilens.errors import BadCheckpoint
from trilens.text.pretokenizers import PreTokenizer
from trilens.text.spelling import SPACE_MARK, Spelling, byte_characters


class TokenType(IntEnum):
    """What a token is for, numbered as in SentencePiece and in GGUF's `tokenizer.ggml.token_type`."""

    NORMAL = 1
    UNKNOWN = 2
    CONTROL = 3
    USER_DEFINED = 4
    UNUSED = 5
    BYTE = 6


@dataclass(frozen=True)
class Vocabulary:
    """What every kind of tokenizer file comes down to.

    `ids` are those of its table, without tokens that were only added to it. `raw` are ids whose text is written as it
    stands, whatever the spelling. `eos_ids` end an answer; `eos_id` is the one that templates write. `add_bos` is
    what a plain prompt wants; chat templates write their own. `size` is one more than the highest id; the engine
    may know more, for bytes that the vocabulary cannot write, which encoding leaves out. `twins` are ids whose text
    belongs to another id too, by which the engine knows it.
    """

    engine: Tokenizer
    ids: Collection[int]
    spelling: Spelling
    raw: frozenset[int]
    bos_id: int | None
    eos_id: int | None
    eos_ids: frozenset[int]
    add_bos: bool
    size: int
    twins: Mapping[int, str] = field(default_factory=dict)


# Texts that end a turn in the formats that chat models are trained on; used where a file names only one end token.
END_TEXTS = (
    "<|eot_id|>",
    "<|eom_id|>",
    "<|im_end|>",
    "<|end|>",
    "<|return|>",
    "<|call|>",
    "<|endoftext|>",
    "<|end_of_text|>",
    "<end_of_turn>",
    "<turn|>",
    "<|tool_response>",
    "<EOT>",
    "[EOT]",
    "[EOS]",
    "[e~[",
    "<\uff5cend\u2581of\u2581sentence\uff5c>",
)


def known_ends(ids: Mapping[str, int]) -> frozenset[int]:
    """Ids of END_TEXTS in a vocabulary; `<|end|>` only ends a message, not the turn, where `<|return|>` is known."""
    ends = {ids[text] for text in END_TEXTS if text in ids}
    if "<|return|>" in ids and "<|call|>" in ids:
        ends.discard(ids.get("<|end|>", -1))
    return frozenset(ends)


def byte_level_bpe(ids: Mapping[str, int], merges: list[tuple[str, str]], pre: PreTokenizer) -> Tokenizer:
    """GPT-2's kind: text is cut into words by patterns, bytes are spelled as characters and merged in order.

    Bytes that no token spells get ids after the last one, so that what stands on their two sides does not merge.
    """
    unspelled = (character for character in byte_characters() if character not in ids)
    known = {**ids, **{character: i for i, character in enumerate(unspelled, 1 + max(ids.values()))}}
    engine = Tokenizer(_bpe(known, merges, ignore_merges=pre.whole_words))
    cuts = [pre_tokenizers.Split(_regex(pattern), "isolated") for pattern in pre.patterns]
    spelled = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    engine.pre_tokenizer = pre_tokenizers.Sequence([*cuts, spelled])
    engine.decoder = decoders.ByteLevel()
    return engine


def spaced_bpe(
    ids: Mapping[str, int], merges: list[tuple[str, str]], *, prefix: bool, unknown: str | None, lines: bool = False
) -> Tokenizer:
    """SentencePiece's kind: a space is the character ▁, words are not cut apart, unknown characters become bytes.

    With `prefix` a space is put before the text; with `lines` runs of newlines are words of their own.
    """
    engine = Tokenizer(_bpe(ids, merges, byte_fallback=True, unk_token=unknown, fuse_unk=True))
    mark = normalizers.Replace(" ", SPACE_MARK)
    engine.normalizer = normalizers.Sequence([normalizers.Prepend(SPACE_MARK), mark]) if prefix else mark
    if lines:
        engine.pre_tokenizer = pre_tokenizers.Split(Regex(r"[^\n]+|\n+"), "isolated")
    return engine


def add_tokens(
    engine: Tokenizer,
    control: Iterable[str],
    visible: Iterable[str],
    *,
    rstrip: Callable[[str], bool] = lambda text: False,
) -> None:
    """Have these texts found before anything else; control tokens can be left unparsed, visible ones cannot."""
    for texts, special in ((control, True), (visible, False)):
        engine.add_tokens([AddedToken(text, special=special, normalized=False, rstrip=rstrip(text)) for text in texts])


def sentencepiece_merges(
    texts: Sequence[str], scores: Sequence[float], types: Sequence[float]
) -> list[tuple[str, str]]:
    """Merges for a SentencePiece BPE vocabulary: the best score first, among equal scores the lowest id.

    SentencePiece takes the leftmost pair among equal scores; trained models have no two equal ones.
    """
    mergeable = (i for i, kind in enumerate(types) if kind in (TokenType.NORMAL, TokenType.UNUSED))
    ranked = sorted(mergeable, key=lambda i: (-scores[i], i))
    return merges_by_rank((texts[i] for i in ranked), {text: i for i, text in enumerate(texts)})


def merges_by_rank(texts: Iterable[str], known: Mapping[str, int]) -> list[tuple[str, str]]:
    """Merges for a vocabulary that has none, only an order: `texts` by rank, best first.

    Every way to make a text of two known ones is a merge of that text's rank. Merging the best-ranked pair again
    and again, leftmost first, then gives what merging by the rank of the result gives: the pieces inside a text
    depend on nothing outside it, so two different pairs for one text never stand in each other's way.
    """
    return [
        (left, right)
        for text in texts
        for cut in range(1, len(text))
        if (left := text[:cut]) in known and (right := text[cut:]) in known
    ]


def _regex(pattern: str) -> Regex:
    try:
        return Regex(pattern)
    except Exception as fault:
        raise BadCheckpoint(f"the tokenizer's pattern {pattern[:80]!r} is not a regular expression: {fault}") from None


def _bpe(ids: Mapping[str, int], merges: list[tuple[str, str]], **options: object) -> models.BPE:
    try:
        return models.BPE(dict(ids), merges, **options)
    except Exception as fault:
        raise BadCheckpoint(f"the tokenizer's vocabulary and merges do not fit together: {fault}") from None
