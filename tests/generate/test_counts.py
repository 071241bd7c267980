"""Whatever the markers, limits, stop strings and tokens: every token is counted once, and no limit is exceeded."""

from __future__ import annotations

import random
from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any, get_args

import numpy as np
import pytest

from trilens.errors import ContextFull, RequestRefused
from trilens.executors.executor import StepInput, StepOutput
from trilens.generate.answer import AnswerWriter, Calls, Closing
from trilens.generate.limits import Limits, request_limits
from trilens.generate.request import Request
from trilens.generate.sampling import Sampling
from trilens.generate.scheduler import Scheduler
from trilens.text.events import ThinkingEvent
from trilens.text.read_template import KNOWN_MARKERS
from trilens.text.strategy import Strategy
from trilens.text.thinking import Markers, Start
from trilens.text.thoughts import ThoughtSplitter
from trilens.text.tokenizer import Tokenizer

CONTEXT = 200
STARTS: tuple[Start, ...] = ("opened", "closed", "free")
WORDS = ("1", "+", " ", "\n", "12", "a", "=", "</", "<", "think", "\N{GRINNING FACE}", "</tool", "\n\n")


class Cache:
    """A cache that counts, and refuses to hold more than the request may have."""

    kv_bytes = held_bytes = fixed_bytes = 0
    block_passes = ()

    def __init__(self, request_length: int) -> None:
        self.request_length = request_length
        self.length = 0

    def routes(self, first: int = 0) -> np.ndarray:
        return np.zeros((self.length - first, 0), np.uint16)

    def grow(self, tokens: int) -> bool:
        assert self.length + tokens <= self.request_length, "the cache holds more than the request may have"
        return True

    def snapshot(self) -> None:
        pass

    def snapshot_at(self, length: int) -> None:
        pass

    def block(self, number: int) -> Any:
        return SimpleNamespace(kept_bytes=1, own_bytes=1, has_states=True)

    def free(self) -> None:
        pass


class Scripted:
    """An executor that draws the tokens of a script, several at once where it may, as the real one does."""

    steppers = cache_limit = block_bytes = 1
    cache_free = 0
    predicts = False
    prediction_costs = None
    costs = SimpleNamespace(fixed_bytes=0)

    def __init__(self, vocab: int, script: Sequence[int], draw: random.Random) -> None:
        self.spec = SimpleNamespace(vocab=vocab)
        self.script = list(script)
        self._draw = draw

    def sequence(self, request_length: int, adapter: str | None = None) -> Cache:
        return Cache(request_length)

    def variant(self, request_length: int, adapter: str | None = None) -> tuple[()]:
        return ()

    def draw(self, feeds: Sequence[StepInput], stepper: int | None, ahead: float) -> StepOutput:
        [feed] = feeds
        sequence: Any = feed.sequence
        sequence.length += len(feed.tokens)
        drawn: list[int] = []
        if feed.sampler is not None:
            ends = set(feed.sampler.inner.ends)
            for _ in range(self._draw.randint(1, feed.max_draws)):
                drawn.append(self.script.pop(0))
                if drawn[-1] in ends:
                    break
            sequence.length += len(drawn) - 1
        steps = max(1, len(drawn))
        return StepOutput([drawn], {}, [0.0] * steps, [1] * steps, [[(0, 0)] * steps])


class Anything:
    """A constraint that allows every token."""

    def __init__(self, vocab: int, calls: Calls) -> None:
        self.calls = calls
        self._allowed = np.full((vocab + 31) // 32, np.iinfo(np.uint32).max, np.uint32)

    def allowed(self) -> np.ndarray:
        return self._allowed

    def take(self, token: int) -> None:
        pass

    def begin(self, text: str) -> None:
        assert text


def script_of(tokenizer: Tokenizer, markers: Markers | None, draw: random.Random) -> list[int]:
    """Tokens that think, answer, repeat markers, break them off, or end, at any place."""
    pieces = [draw.choice(WORDS) for _ in range(draw.randint(0, 60))]
    for text in () if markers is None else (markers.open, markers.close, markers.closing, markers.answer or "x"):
        if draw.random() < 0.4:
            cut = len(text) if draw.random() < 0.7 else draw.randint(1, len(text))
            pieces.insert(draw.randint(0, len(pieces)), text[:cut])
    tokens = [token for piece in pieces for token in tokenizer.encode(piece)]
    for _ in range(draw.choice((0, 0, 1, 3))):
        tokens.insert(draw.randint(0, len(tokens)), draw.randrange(tokenizer.vocab_size))
    tokens.insert(draw.randint(len(tokens) // 2, len(tokens)), min(tokenizer.eos_ids))
    return [*tokens, *tokenizer.encode("1") * 2 * CONTEXT]


def one_request(tokenizer: Tokenizer, draw: random.Random) -> tuple[Request, AnswerWriter, Limits] | None:
    """A request of random limits, run to its end; None for one that was refused before it began."""
    markers = draw.choice((None, *KNOWN_MARKERS))
    start = "free" if markers is None else draw.choice(STARTS)
    thinks = markers is not None and draw.random() < 0.8
    budget = draw.choice((None, None, 0, 1, 2, 5, 30)) if thinks else None
    closing = () if markers is None else tuple(tokenizer.encode(draw.choice(("", "So.")) + markers.closing))
    opening = () if markers is None else tuple(tokenizer.encode(markers.open))
    prompt = tokenizer.encode("1+1")
    stops = draw.choice(((), (), ("1",), ("</", "12"), ("\n",), ("\N{GRINNING FACE}", "a")))
    constraint = Anything(tokenizer.vocab_size, draw.choice(get_args(Calls))) if draw.random() < 0.2 else None
    most = draw.choice((None, None, *range(1, 12), 40))
    try:
        limits = request_limits(
            draw.choice((CONTEXT, CONTEXT, 40, 20)),
            len(prompt),
            draw.choice((None, None, 1, 2, 7, 50)),
            thinks=thinks,
            budget=budget,
            extra=len(opening) + len(closing),
        )
        limits = limits if most is None else limits.within(most)
        writer = AnswerWriter(
            tokenizer,
            ThoughtSplitter(markers, start, closers=draw.choice(((), ("</tool",))), reopens=draw.random() < 0.3),
            Strategy(None, "on" if thinks else "off", budget=budget),
            limits,
            Closing(closing, opening) if thinks else None,
            start=start,
            end_ids=tokenizer.eos_ids,
            shown=frozenset(),
            stops=stops,
            continues=draw.random() < 0.2,
            constraint=constraint,
        )
    except (ContextFull, RequestRefused):
        return None
    executor: Any = Scripted(tokenizer.vocab_size, script_of(tokenizer, markers, draw), draw)
    scheduler = Scheduler(executor)
    options = Sampling(temperature=0, logprobs=draw.choice((None, None, 0)))
    generation = scheduler.submit(prompt, options, limits, tokenizer.eos_ids, writer)
    interrupt = draw.choice((None, None, draw.randint(0, 20)))
    steps = 0
    while generation.finish is None:
        scheduler.step(None, draw.choice((0.0, 1.0)))
        generation.unread.clear()
        if steps == interrupt:
            if draw.random() < 0.5:
                writer.close_now = True
            else:
                scheduler.end(generation, "cancelled")
        steps += 1
    return generation, writer, limits


@pytest.mark.parametrize("seed", range(10))
def test_every_token_is_counted_once_and_no_limit_is_exceeded(small_tokenizer: Tokenizer, seed: int) -> None:
    draw = random.Random(seed)
    ran, finishes = 0, set()
    for number in range(300):
        made = one_request(small_tokenizer, draw)
        if made is None:
            continue
        generation, writer, limits = made
        where = f"request {number} of seed {seed}"
        assert generation.failure is None, f"{where}: {generation.failure!r}"
        counts = writer.counts.counts
        assert min(counts.values()) >= 0, where
        assert sum(counts.values()) == writer.tokens == len(generation.tokens), where
        assert len(generation.tokens) <= limits.total, where
        ran += 1
        finishes.add(generation.finish)
    assert ran > 100
    assert finishes >= {"stop", "length", "stop_string", "cancelled"}


@pytest.mark.parametrize("most", range(1, 12))
@pytest.mark.parametrize("name", [m.open for m in KNOWN_MARKERS])
def test_a_limit_inside_a_thinking_that_the_prompt_opened(small_tokenizer: Tokenizer, name: str, most: int) -> None:
    """As with R1, QwQ and Qwen3-Thinking: what was thought comes back, and the answer is empty."""
    markers = next(m for m in KNOWN_MARKERS if m.open == name)
    closing, opening = (tuple(small_tokenizer.encode(text)) for text in (markers.closing, markers.open))
    limits = request_limits(2048, 5, None, thinks=True, extra=len(closing) + len(opening)).within(most)
    writer = AnswerWriter(
        small_tokenizer,
        ThoughtSplitter(markers, "opened"),
        Strategy(None, "on"),
        limits,
        Closing(closing, opening),
        start="opened",
        end_ids=small_tokenizer.eos_ids,
        shown=frozenset(),
        stops=(),
        continues=False,
    )
    executor: Any = Scripted(small_tokenizer.vocab_size, small_tokenizer.encode("1") * 50, random.Random(0))
    scheduler = Scheduler(executor)
    generation = scheduler.submit(
        small_tokenizer.encode("1+1=?"), Sampling(temperature=0), limits, small_tokenizer.eos_ids, writer
    )
    while generation.finish is None:
        scheduler.step(None, 1.0)
    assert (generation.finish, generation.failure) == ("length", None)
    assert writer.counts.counts == {"thinking": most, "answer": 0, "control": 0}
    assert "".join(piece.text for piece in generation.unread if isinstance(piece, ThinkingEvent)) == "1" * most
    assert writer.report.closed_by == "length"
