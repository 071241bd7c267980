"""A model that says what its prompt tells it to say, behind the same doors as any other: template, tokenizer,
scheduler, constraints and protocols are the real ones, and only the logits are made up.

The last directive of the conversation counts. `[[say TEXT]]` answers with that text, `[[call NAME JSON]]` with a call
of that tool, `[[recall]]` with what was asked and answered before. Behind a tool's result the answer repeats that
result.
"""

from __future__ import annotations

import json
import re
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import numpy as np

import trilens
from tests.serve.conftest import Served, served
from trilens.errors import RequestRefused
from trilens.executors.executor import Block, CachedSequence, StepInput, StepOutput
from trilens.model import Model
from trilens.serve.local_loop import LocalLoop

NAME = "tiny-dense"
CONTEXT = 1 << 20  # agents send long prompts, and these tokens are short
LIKELY, UNLIKELY = 40.0, -40.0


def replies(prompt: str) -> list[str]:
    """What the model says to a prompt in tiny-dense's template: the first of these that it may say."""
    turns = re.findall(r"<\|im_start\|>(\w+)\n(.*?)<\|im_end\|>", prompt, flags=re.DOTALL)
    said = [(role, text) for role, text in turns if role in ("user", "assistant")]
    last = next((text for role, text in reversed(said) if role == "user"), "")
    if last.startswith("<tool_response>"):
        return [f"The tool says: {_visible(last.removeprefix('<tool_response>').removesuffix('</tool_response>'))}"]
    directives = re.findall(r"\[\[(say|call|recall|think)\b ?(.*?)\]\]", "\n".join(text for _, text in said), re.DOTALL)
    if not directives:
        return ["Hello there."]
    kind, what = directives[-1]
    match kind:
        case "say":
            return [what]
        case "think":
            return [f"<think>\nI think about {what}.\n</think>\n\nThought about {what}."]
        case "call":
            name, arguments = what.split(" ", 1)
            stated = arguments.replace('\\"', '"') if arguments.startswith('{\\"') else arguments  # quoted by a client
            call = {"name": name, "arguments": json.loads(stated)}
            forced = [compact(call["arguments"]), compact(call)]
            return [f"<tool_call>\n{json.dumps(call, ensure_ascii=False)}\n</tool_call>", *forced]
    answers = [text.strip() for role, text in said if role == "assistant"]
    return [f"Before this I said {len(answers)} times, last: {answers[-1] if answers else 'nothing'}"]


def compact(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"))


def _visible(text: str) -> str:
    return " ".join(text.split())[:400]


class _Block:
    """Pages that others may share: their tokens."""

    kept_bytes = own_bytes = 0
    route_width = 0
    has_states = True

    def __init__(self, ids: Sequence[int]) -> None:
        self.ids = list(ids)

    @property
    def tokens(self) -> int:
        return len(self.ids)

    def written(self) -> bytes:
        raise RequestRefused("nothing is kept in files")


class _Sequence:
    """The tokens that were fed, and what is still to be said."""

    kv_bytes = fixed_bytes = held_bytes = 0
    block_passes = ()

    def __init__(self, request_length: int) -> None:
        self.request_length = request_length
        self.ids: list[int] = []
        self.scripts: list[list[int]] = []  # what may still be said, the first before the others
        self.said = 0

    @property
    def length(self) -> int:
        return len(self.ids)

    def grow(self, tokens: int) -> bool:
        return True

    def routes(self, first: int = 0) -> np.ndarray:
        return np.empty((self.length - first, 0), np.uint16)

    def block(self, number: int) -> Block:
        return _Block(self.ids[number * 64 : (number + 1) * 64])

    def adopt(self, blocks: Sequence[_Block], last_tokens: int) -> int:
        before = self.length
        for number, block in enumerate(blocks, 1):
            self.ids += block.ids[:last_tokens] if number == len(blocks) else block.ids
        return self.length - before

    def fork(self, length: int, request_length: int) -> _Sequence:
        raise RequestRefused("nothing is forked")

    def nearest(self, length: int) -> int:
        return length

    def snapshot(self) -> None:
        pass

    def snapshot_at(self, length: int) -> None:
        pass

    def free(self) -> None:
        self.ids.clear()

    def rewind(self, length: int) -> bool:
        del self.ids[length:]
        return True


class ScriptedExecutor:
    """The executor of a real model, whose logits are the script's next token."""

    def __init__(self, model: Model) -> None:
        self._inner: Any = model.executor
        self._tokenizer = model.text.tokenizer
        self.spec = replace(model.spec, context=CONTEXT)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)

    steppers = 1
    predicts = False

    def sequence(self, request_length: int, adapter: str | None = None) -> CachedSequence:
        return _Sequence(request_length)

    def step(self, batch: Sequence[StepInput], every_row: bool = False) -> np.ndarray:
        raise AssertionError("no scores of prompts are scripted")

    def draw(self, batch: Sequence[StepInput], stepper: int | None = None, ahead: float = 0.0) -> StepOutput:
        begin = time.perf_counter()
        tokens: list[list[int]] = [[] for _ in batch]
        faults: dict[int, RequestRefused] = {}
        for place, feed in enumerate(batch):
            sequence: Any = feed.sequence
            sequence.ids += feed.tokens
            if feed.sampler is None:
                continue
            if not sequence.scripts:
                sequence.scripts = self._scripts(sequence.ids)
            logits = np.full(self.spec.vocab, UNLIKELY, np.float32)
            for rank, script in reversed(list(enumerate(sequence.scripts))):
                logits[script[min(sequence.said, len(script) - 1)]] = LIKELY - 15 * rank
            try:
                token = feed.sampler.choose(logits)
            except RequestRefused as fault:
                faults[place] = fault
                continue
            going_on = [s for s in sequence.scripts if s[min(sequence.said, len(s) - 1)] == token]
            sequence.scripts = going_on or sequence.scripts
            sequence.said += bool(going_on)
            tokens[place].append(token)
        return StepOutput(tokens, faults, [time.perf_counter() - begin], [1], [[(0, 0)]] * len(batch))

    def _scripts(self, ids: Sequence[int]) -> list[list[int]]:
        prompt = self._tokenizer.decode(ids, skip_special=False)
        thought = "\nNo thought.\n</think>" if prompt.endswith("<think>") else ""  # opened from outside
        end = min(self._tokenizer.eos_ids)
        return [[*self._tokenizer.encode(thought + text), end] for text in replies(prompt)]


@contextmanager
def scripted_server() -> Iterator[Served]:
    """A server with the scripted model, on a free port of this machine."""
    base = trilens.load(NAME)
    executor: Any = ScriptedExecutor(base)
    model = Model(NAME, base.files, executor, base.text)
    with served([NAME]) as running:
        running.registry.put(NAME, LocalLoop(model, 16, 64, 300.0))  # type: ignore[arg-type]
        yield running
