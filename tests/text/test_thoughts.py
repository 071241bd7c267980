"""Thoughts and answer come apart the same way wherever the text is cut, and every token is counted once."""

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trilens.text.events import TextEvent
from trilens.text.read_template import KNOWN_MARKERS
from trilens.text.thinking import Markers, Start
from trilens.text.thoughts import KIND, Piece, ThoughtSplitter, TokenCounts

THINK = Markers("<think>", "</think>")
HARMONY = next(m for m in KNOWN_MARKERS if m.answer and "final" in m.answer)
FAMILIES = [pytest.param(m, id=m.open.strip()) for m in KNOWN_MARKERS]


def joined(pieces: list[Piece]) -> list[Piece]:
    """Neighbours of the same part as one."""
    out: list[Piece] = []
    for piece in pieces:
        if out and type(out[-1]) is type(piece):
            out[-1] = type(piece)(out[-1].text + piece.text)
        else:
            out.append(piece)
    return out


def split(texts: list[str], markers: Markers | None, start: Start = "free", **options: object) -> list[Piece]:
    splitter = ThoughtSplitter(markers, start, **options)  # type: ignore[arg-type]
    pieces = [piece for text in texts for piece in splitter.push(text)]
    return joined(pieces + splitter.finish())


def parts(texts: list[str], markers: Markers | None, start: Start = "free", **options: object) -> tuple[str, str]:
    pieces = split(texts, markers, start, **options)
    return tuple("".join(p.text for p in pieces if KIND[type(p)] == part) for part in ("thinking", "answer"))  # type: ignore[return-value]


def whole(m: Markers, thought: str = "a\nb < c", answer: str = "Yes.\n") -> str:
    return f"{m.open}\n{thought}\n{m.close}{m.answer or ''}\n\n{answer}"


@pytest.mark.parametrize("markers", FAMILIES)
@pytest.mark.parametrize("start", ["free", "opened"])
def test_every_split_point_of_every_marker(markers: Markers, start: Start) -> None:
    text = whole(markers)
    if start == "opened":
        text = text.removeprefix(markers.open)
    expected = ("a\nb < c", "\n\nYes.\n" if markers.answer and not markers.end else "Yes.\n")
    assert parts([text], markers, start) == expected
    assert parts(list(text), markers, start) == expected
    for at in range(1, len(text)):
        for to in (at + 1, at + 2, at + 7):
            assert parts([text[:at], text[at:to], text[to:]], markers, start) == expected


GRANITE = Markers("<think>", "</think>", "<response>", end="</response>")
APRIEL = next(markers for markers in KNOWN_MARKERS if markers.end == "[END FINAL RESPONSE]")
HARMONY = next(markers for markers in KNOWN_MARKERS if markers.preamble is not None)
SOLAR = next(markers for markers in KNOWN_MARKERS if markers.answer == "<|begin|>assistant<|content|>")
KIMI = next(markers for markers in KNOWN_MARKERS if markers.end == "<|close|>response<|sep|>")
WRAPPED: list[tuple[Markers, bool, Start, str, tuple[str, str]]] = [
    (GRANITE, False, "free", "<think>I see.</think><response>Yes.</response>", ("I see.", "Yes.")),
    (GRANITE, False, "opened", "I see.\n</think>\n<response>\nYes.\n</response>\n", ("I see.", "Yes.")),
    (GRANITE, False, "closed", "<response>\nYes.\n</response>", ("", "Yes.")),
    (GRANITE, False, "opened", "I see.</think>Yes.", ("I see.", "Yes.")),
    (GRANITE, False, "free", "A plain <response>.</response>", ("", "A plain <response>.</response>")),
    (GRANITE, False, "opened", "a</think><response>It is </response>, so.", ("a", "It is </response>, so.")),
    (APRIEL, False, "opened", "a\n[BEGIN FINAL RESPONSE]\nYes.\n[END FINAL RESPONSE]\n", ("a", "Yes.")),
    (KIMI, True, "opened", "a<|close|>think<|sep|><|open|>response<|sep|>Yes.<|close|>response<|sep|>", ("a", "Yes.")),
    (SOLAR, True, "free", "<|think|>a<|end|><|begin|>assistant<|content|>Yes.<|end|>", ("a", "Yes.")),
    (SOLAR, True, "closed", "<|content|>Yes.<|end|>", ("", "Yes.")),
    (
        HARMONY,
        True,
        "free",
        "<|channel|>analysis<|message|>a<|end|><|start|>assistant<|channel|>commentary<|message|>Let me look.<|end|>"
        "<|start|>assistant<|channel|>final<|message|>Yes.",
        ("a", "Let me look.Yes."),
    ),
    (HARMONY, True, "free", "<|channel|>commentary<|message|>Let me look.<|end|>", ("", "Let me look.")),
    (HARMONY, True, "free", "<|channel|>final<|message|>Yes.", ("", "Yes.")),
    (HARMONY, True, "free", "<|channel|>analysis<|message|>a<|end|><|start|>assistant<|chan", ("a", "")),
]


@pytest.mark.parametrize(("markers", "control", "start", "text", "expected"), WRAPPED)
def test_what_is_around_an_answer_is_read_like_what_is_around_a_thinking(
    markers: Markers, control: bool, start: Start, text: str, expected: tuple[str, str]
) -> None:
    """At every split; and what is no wrapper stays text."""
    for texts in ([text], list(text), *([text[:at], text[at:]] for at in range(1, len(text)))):
        assert parts(texts, markers, start, reopens=control) == expected
        pieces = split(texts, markers, start, reopens=control)
        assert "".join(piece.text for piece in pieces) == text


def test_an_answer_comes_as_it_is_written_though_its_end_may_come() -> None:
    """Only what may be the end's beginning waits."""
    splitter = ThoughtSplitter(GRANITE, "closed")
    shown = "".join(p.text for text in ("<response>", "It is", " 7 < 8", ", so") for p in splitter.push(text))
    assert shown == "<response>It is 7 < 8, so"


@pytest.mark.parametrize("markers", FAMILIES)
def test_closed_in_advance(markers: Markers) -> None:
    assert parts(["\n", "\nYes."], markers, "closed") == ("", "Yes.")
    assert parts([markers.close, "\n\nYes."], markers, "closed") == ("", "Yes.")


@pytest.mark.parametrize("markers", FAMILIES)
def test_it_thought_though_the_prompt_had_closed(markers: Markers) -> None:
    splitter = ThoughtSplitter(markers, "closed")
    for character in whole(markers):
        splitter.push(character)
    assert splitter.thought and splitter.closed


@pytest.mark.parametrize("start", ["free", "opened"])
def test_never_closed_is_thinking(start: Start) -> None:
    text = "<think>\nwell" if start == "free" else "well"
    assert parts(list(text), THINK, start) == ("well", "")
    assert parts([*text, "\n</thi"], THINK, start) == ("well\n</thi", "")


def test_an_answer_without_a_thinking_is_an_answer() -> None:
    assert parts(list("  Yes <b>."), THINK) == ("", "  Yes <b>.")
    assert parts(list("<thin air>"), THINK) == ("", "<thin air>")
    assert parts(["<thi"], THINK) == ("", "<thi")


def test_an_opener_that_the_prompt_had_written_and_the_model_writes_again() -> None:
    assert parts(list("\n<think>\nwell</think>Yes."), THINK, "opened") == ("well", "Yes.")


def test_a_marker_inside_the_answer_is_text_and_is_reported() -> None:
    text = "Yes: <think> opens it, </think> ends it."
    for texts in ([text], list(text)):
        splitter = ThoughtSplitter(THINK, "closed")
        pieces = joined([p for t in texts for p in splitter.push(t)] + splitter.finish())
        assert pieces == [TextEvent(text)] and splitter.marked and not splitter.thought
    assert split(["Yes."], THINK, "closed") == [TextEvent("Yes.")]


def test_only_the_first_close_marker_splits() -> None:
    assert parts(["a</think>b</think>c"], THINK, "opened") == ("a", "b</think>c")


def test_a_tool_call_ends_the_thinking_and_belongs_to_the_answer() -> None:
    text = "look it up\n<tool_call>{}</tool_call>"
    assert parts(list(text), THINK, "opened", closers=("<tool_call>",)) == ("look it up", "<tool_call>{}</tool_call>")


def test_channels_in_any_order() -> None:
    m = HARMONY
    assert m.answer is not None
    final, turn = "<|channel|>final<|message|>", "<|start|>assistant"
    assert parts(list(final + "Hi."), m) == ("", "Hi.")
    twice = f"{m.open}a{m.close}{turn}{m.open}b{m.close}{m.answer}Hi."
    assert parts(list(twice), m, reopens=True) == ("ab", "Hi.")
    late = f"{final}Hm.{m.open}b{m.close}{m.answer}Hi."
    assert parts(list(late), m, reopens=True) == ("b", "Hm.Hi.")


PARTS = [*"<think>/|ab \n\u00e9", "<think>", "</think>", "<|end|>", HARMONY.open, HARMONY.answer or ""]
alphabet = st.sampled_from(PARTS)


@given(st.lists(alphabet, max_size=30).map("".join), st.sampled_from([THINK, HARMONY]), st.data())
def test_random_text_with_parts_of_markers(text: str, markers: Markers, data: st.DataObject) -> None:
    start: Start = data.draw(st.sampled_from(["free", "opened", "closed"]))
    reopens = data.draw(st.booleans())
    cuts = sorted(data.draw(st.sets(st.integers(0, len(text)), max_size=8)))
    pieces = [text[a:b] for a, b in pairwise([0, *cuts, len(text)])]
    at_once = split([text], markers, start, reopens=reopens)
    assert split(pieces, markers, start, reopens=reopens) == at_once
    assert "".join(p.text for p in at_once) == text


@given(st.lists(st.tuples(alphabet, st.integers(0, 2)), max_size=12), st.sampled_from(["free", "opened", "closed"]))
def test_every_token_is_counted_once(tokens: list[tuple[str, int]], start: Start) -> None:
    """Tokens of no text (pieces of a character) between others."""
    splitter, counts, pushed = ThoughtSplitter(THINK, start), TokenCounts(), 0
    for text, silent in tokens:
        for piece in ["" for _ in range(silent)] + [text]:
            counts.push(piece, splitter.push(piece))
            pushed += 1
            assert sum(counts.counts.values()) + counts.undecided == pushed
    counts.finish("", splitter.finish())
    assert sum(counts.counts.values()) == pushed


def test_what_is_counted_as_what() -> None:
    splitter, counts = ThoughtSplitter(THINK), TokenCounts()
    for token in ["<think>", "\n", "2", "+", "2", "\n", "</think>", "\n\n", "Four", "."]:
        counts.push(token, splitter.push(token))
    counts.finish("", splitter.finish())
    assert counts.counts == {"thinking": 3, "answer": 2, "control": 5}


def test_a_token_that_holds_a_marker_and_an_answer_answers() -> None:
    splitter, counts = ThoughtSplitter(THINK, "opened"), TokenCounts()
    for token in ["a</th", "ink>Yes"]:
        counts.push(token, splitter.push(token))
    counts.finish("", splitter.finish())
    assert counts.counts == {"thinking": 1, "answer": 1, "control": 0}


@pytest.mark.parametrize("start", ["free", "opened", "closed", "answer"])
def test_without_markers_all_is_the_answer(start: Start) -> None:
    assert parts(list(" <think>a</think> b\n"), None, start) == ("", " <think>a</think> b\n")


@pytest.mark.parametrize("markers", FAMILIES)
def test_the_middle_of_an_answer_keeps_its_white_space(markers: Markers) -> None:
    for texts in ([" Paris,\n so"], list(" Paris,\n so")):
        assert parts(texts, markers, "answer") == ("", " Paris,\n so")
