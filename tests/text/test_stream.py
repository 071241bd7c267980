"""Streamed text equals text decoded at once, however tokens and pieces fall."""

import itertools
import random
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.text.varied import varied_texts
from tests.work import calls
from trilens.errors import RequestRefused
from trilens.text.stream import StopMatcher, TextStream
from trilens.text.tokenizer import Tokenizer


def streamed(tokenizer: Tokenizer, ids: list[int], **options: bool) -> list[str]:
    stream = TextStream(tokenizer, **options)
    return [*map(stream.push, ids), stream.finish()]


@pytest.fixture(scope="module")
def spaced(spaced_directory: Path) -> Tokenizer:
    return Tokenizer.from_directory(spaced_directory)


@pytest.mark.parametrize("name", ["smollm2_tokenizer", "spaced"])
@pytest.mark.parametrize("skip_special", [True, False])
@pytest.mark.parametrize("continues", [True, False])
def test_deltas_add_up(name: str, skip_special: bool, continues: bool, request: pytest.FixtureRequest) -> None:
    tokenizer: Tokenizer = request.getfixturevalue(name)
    draw = random.Random(3)
    written = [tokenizer.encode(text) for text in varied_texts(400)]
    # Random ids are mostly broken UTF-8, and some are beyond the vocabulary.
    drawn = [draw.choices(range(tokenizer.vocab_size + 5), k=draw.randint(0, 30)) for _ in range(600)]
    low = [draw.choices(range(300), k=draw.randint(0, 30)) for _ in range(600)]  # bytes and control tokens
    for ids in written + drawn + low:
        want = tokenizer.decode(ids, skip_special=skip_special, continues=continues)
        assert "".join(streamed(tokenizer, ids, skip_special=skip_special, continues=continues)) == want


def test_a_character_is_never_split(smollm2_tokenizer: Tokenizer) -> None:
    deltas = streamed(smollm2_tokenizer, smollm2_tokenizer.encode("한👩‍👩‍👧é"))
    assert "".join(deltas) == "한👩‍👩‍👧é"
    assert not any("\ufffd" in delta for delta in deltas)
    assert any(delta == "" for delta in deltas)


def test_bytes_left_at_the_end(smollm2_tokenizer: Tokenizer) -> None:
    ids = smollm2_tokenizer.encode("👍")
    assert streamed(smollm2_tokenizer, ids[:-1])[-1] == "\ufffd"
    assert smollm2_tokenizer.decode(ids[:-1]) == "\ufffd"


def test_the_space_in_front(spaced: Tokenizer) -> None:
    ids = spaced.encode("the end")
    assert spaced.text_of(ids[0]).startswith("▁")
    assert "".join(streamed(spaced, ids)) == "the end"
    assert "".join(streamed(spaced, ids, continues=True)) == " the end"
    assert "".join(streamed(spaced, [1, *ids])) == "the end"  # BOS writes nothing, so the text still begins after it


def test_every_token_costs_the_same(smollm2_tokenizer: Tokenizer) -> None:
    """No token waits for all that came before it: twenty times as many tokens make twenty times as many calls."""
    lone = smollm2_tokenizer.id_of("Ģ")  # 0x80, never a character by itself
    assert lone is not None

    def work(count: int) -> int:
        stream = TextStream(smollm2_tokenizer)
        return calls(lambda: [stream.push(lone) for _ in range(count)])

    assert work(20_000) <= 21 * work(1_000)


# ---- stop strings ----


def whole(text: str, stops: list[str]) -> tuple[str, bool]:
    """Told all at once: the stop string that is complete first; of several, the longest."""
    for end in range(len(text) + 1):
        for stop in sorted(stops, key=len, reverse=True):
            if text[:end].endswith(stop):
                return text[: end - len(stop)], True
    return text, False


def pushed(pieces: list[str], stops: list[str]) -> tuple[str, bool]:
    matcher = StopMatcher(stops)
    shown = []
    for piece in pieces:
        safe, hit = matcher.push(piece)
        shown.append(safe)
        if hit:
            return "".join(shown), True
    return "".join([*shown, matcher.finish()]), False


def test_every_split() -> None:
    for stops in (["END"], ["</s>", "\n\n"], ["aab", "ab"], ["abab", "ba"], ["a"], []):
        for text in ("xxENDyy", "x</s", "a\n\nb", "aaab", "ababab", "EENDEND", "xx", ""):
            for cuts in itertools.product([False, True], repeat=max(0, len(text) - 1)):
                pieces = [""]
                for character, cut in zip(text, [False, *cuts], strict=False):
                    if cut:
                        pieces.append("")
                    pieces[-1] += character
                assert pushed(pieces, stops) == whole(text, stops)


@given(st.lists(st.text("ab", max_size=4)), st.lists(st.text("ab", min_size=1, max_size=5), max_size=3))
def test_any_pieces_and_stops(pieces: list[str], stops: list[str]) -> None:
    assert pushed(pieces, stops) == whole("".join(pieces), stops)


def test_no_more_is_held_back_than_needed() -> None:
    matcher = StopMatcher(["</answer>", "STOP"])
    assert matcher.push("one </") == ("one ", False)
    assert matcher.push("b> ST") == ("</b> ", False)
    assert matcher.push("AND") == ("STAND", False)
    assert matcher.push(" </answer> more") == (" ", True)
    assert matcher.finish() == ""


def test_an_empty_stop_string_is_refused() -> None:
    with pytest.raises(RequestRefused, match="empty"):
        StopMatcher(["a", ""])
