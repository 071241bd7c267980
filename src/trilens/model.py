"""The public face: load a model, generate with it, and get an answer with its receipt."""

from __future__ import annotations

import secrets
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any, overload

from trilens.checkpoints.find import find
from trilens.checkpoints.into_native import native_executor
from trilens.checkpoints.into_torch import torch_executor
from trilens.checkpoints.load import ModelFiles, open_model
from trilens.errors import RequestRefused, UsageError
from trilens.executors.executor import Executor
from trilens.generate.receipt import Receipt, write_receipt
from trilens.generate.sampling import Sampling
from trilens.generate.scheduler import Generation, Scheduler, answer_limit
from trilens.lenses.card import Card, card
from trilens.spec.model import ModelSpec
from trilens.text.model_text import ModelText, read_model_text
from trilens.text.stream import StopMatcher, TextStream

Message = Mapping[str, Any]
Prompt = str | Sequence[Message]
Thinking = bool | str | int | None


@dataclass(frozen=True)
class TextEvent:
    """A piece of an answer; `index` tells whose, when several prompts run together."""

    text: str
    index: int = 0


@dataclass(frozen=True)
class EndEvent:
    """An answer is complete; its receipt."""

    receipt: Receipt
    index: int = 0


Event = TextEvent | EndEvent


@dataclass(frozen=True)
class Answer:
    """What the model said, what it thought before, and what that cost."""

    text: str
    thinking: str
    receipt: Receipt


def load(
    name: str,
    *,
    offline: bool = False,
    ignore_keys: Iterable[str] = (),
    progress: Callable[[int, int], None] | None = None,
    executor: str = "native",
    **options: Any,
) -> Model:
    """A model ready to run, by catalog name, path or hub id.

    `ignore_keys` names configuration keys that may be left unread; `progress` is called with (bytes read, bytes in
    all). `executor` is "native" or "torch"; `options` are for the native one: `threads` (default: this process's
    physical cores), `quantise` ("8bit" or "4bit" for unquantised weights), `kv` ("f16", "8bit" or "f32") and
    `activations` ("8bit" or "16bit"; by itself 16 for models under half a billion parameters, which need them).
    Raises ModelNotFound, BadCheckpoint, UnsupportedModel or UsageError.
    """
    if executor not in ("native", "torch"):
        raise UsageError(f"executor is {executor!r}; expected 'native' or 'torch'")
    unknown = set(options) - ({"threads", "quantise", "kv", "activations"} if executor == "native" else set())
    if unknown:
        raise UsageError(f"option {sorted(unknown)[0]!r} is not known to the {executor} executor")
    files = open_model(find(name, offline=offline), ignore_keys)
    try:
        text = read_model_text(files.found)
        runner: Executor
        if executor == "native":
            runner = native_executor(files, progress, **options)
        else:
            runner = torch_executor(files, progress)
    finally:
        files.checkpoint.close()
    return Model(name, files, runner, text)


class Model:
    """A loaded model, for any number of threads: their requests run together. What a request has in common with the
    beginning of an earlier one is not computed again."""

    def __init__(self, name: str, files: ModelFiles, executor: Executor, text: ModelText) -> None:
        self.name = name
        self.files = files
        self.executor = executor
        self.text = text
        self._scheduler = Scheduler(executor)

    @property
    def spec(self) -> ModelSpec:
        return self.executor.spec

    def card(self, context: int = 1) -> Card:
        """The three lenses on this model."""
        made = card(self.files.found, context=context)
        assert isinstance(made, Card), "files that were loaded have a spec"
        return made

    @overload
    def generate(self, prompt: Sequence[Message], **options: Any) -> Answer: ...
    @overload
    def generate(self, prompt: str, **options: Any) -> Answer: ...
    @overload
    def generate(self, prompt: Sequence[Prompt], **options: Any) -> list[Answer]: ...
    def generate(self, prompt: Any, **options: Any) -> Answer | list[Answer]:
        """The whole answer; for a list of prompts, a list of answers that were computed side by side.

        A prompt is a string or a conversation, a list of {"role": ..., "content": ...}. Options are `stream`'s.
        """
        prompts, single = _several(prompt)
        answers = fold(self.stream_all(prompts, **options), len(prompts))
        return answers[0] if single else answers

    def stream(self, prompt: Prompt, **options: Any) -> Iterator[Event]:
        """The same answer piece by piece: `TextEvent`s, then one `EndEvent` with the receipt. See `stream_all`."""
        return self.stream_all([prompt], **options)

    def stream_all(
        self,
        prompts: Sequence[Prompt],
        *,
        thinking: Thinking = None,
        max_tokens: int | None = None,
        stop: str | Sequence[str] = (),
        raw: bool = False,
        template_variables: Mapping[str, Any] | None = None,
        **sampling: Any,
    ) -> Iterator[Event]:
        """Events of several prompts, as they come.

        `max_tokens` None lets the answer run to 4096 tokens or the end of the context. `stop` strings end the answer
        and are not part of it. `raw` sends a string as it is, without the chat template. `template_variables` go to the
        template. The rest are `Sampling`'s fields; what is left out comes from the model's own generation_config.json.
        Raises RequestRefused or ContextFull before any work is done. Closing the iterator cancels what still runs.
        """
        self.text.check_thinking(thinking)
        options = self.sampling(sampling)
        stops = (stop,) if isinstance(stop, str) else tuple(stop)
        encoded = [self.text.encode(prompt, raw=raw, variables=template_variables or {}) for prompt in prompts]
        StopMatcher(stops)  # refuses here, not in the middle of the answer
        for prompt in encoded:
            answer_limit(self.spec.context, len(prompt), max_tokens)
        return self._events(encoded, options, max_tokens, stops, continues=raw)

    def sampling(self, stated: Mapping[str, Any]) -> Sampling:
        """`Sampling` from what was stated, the model's own defaults, and a fresh seed where none was given."""
        known = {f.name for f in fields(Sampling)}
        unknown = sorted(set(stated) - known)
        if unknown:
            raise UsageError(f"option {unknown[0]!r} is not known; expected one of {', '.join(sorted(known))}")
        chosen = {name: value for name, value in stated.items() if value is not None}
        chosen.setdefault("seed", secrets.randbits(32))
        return replace(Sampling(), **{**self.text.sampling_defaults, **chosen})

    def _events(
        self,
        prompts: Sequence[Sequence[int]],
        options: Sampling,
        max_tokens: int | None,
        stops: tuple[str, ...],
        continues: bool,
    ) -> Iterator[Event]:
        scheduler, writers = self._scheduler, []
        try:
            for i, prompt in enumerate(prompts):
                generation = scheduler.submit(prompt, options, max_tokens, self.text.end_ids, careful=bool(stops))
                writers.append(_Writer(i, generation, self.text, stops, continues))
            running = list(writers)
            while running:
                scheduler.advance([w.generation for w in running])
                for writer in tuple(running):
                    generation = writer.generation
                    while generation.unread and not writer.stopped:
                        if text := writer.push(generation.unread.popleft()):
                            yield TextEvent(text, writer.index)
                    if writer.stopped:
                        scheduler.end(generation, "stop_string")
                    if generation.finish is not None and not generation.unread:
                        if rest := writer.finish():
                            yield TextEvent(rest, writer.index)
                        yield EndEvent(self._receipt(writer), writer.index)
                        running.remove(writer)
        finally:
            for writer in writers:
                scheduler.end(writer.generation, "cancelled")

    def _receipt(self, writer: _Writer) -> Receipt:
        return write_receipt(self.name, self.executor, writer.generation, writer.control)


class _Writer:
    """Turns one generation's tokens into text; `stopped` once a stop string is complete."""

    def __init__(
        self, index: int, generation: Generation, text: ModelText, stops: tuple[str, ...], continues: bool
    ) -> None:
        self.index = index
        self.generation = generation
        self.control = 0
        self.stopped = False
        self._is_control = text.tokenizer.is_special
        self._stream = TextStream(text.tokenizer, continues=continues)
        self._matcher = StopMatcher(stops)

    def push(self, token: int) -> str:
        if token in self.generation.end_ids or self._is_control(token):
            self.control += 1
            return ""
        text, hit = self._matcher.push(self._stream.push(token))
        self.stopped = hit
        return text

    def finish(self) -> str:
        if self.stopped:
            return ""
        text, hit = self._matcher.push(self._stream.finish())
        return text if hit else text + self._matcher.finish()


def fold(events: Iterable[Event], count: int) -> list[Answer]:
    """A stream's events -> whole answers, in the order of their prompts."""
    texts: list[list[str]] = [[] for _ in range(count)]
    receipts: list[Receipt | None] = [None] * count
    for event in events:
        match event:
            case TextEvent(text, index):
                texts[index].append(text)
            case EndEvent(receipt, index):
                receipts[index] = receipt
    return [Answer("".join(t), "", r) for t, r in zip(texts, receipts, strict=True) if r is not None]


def call_model(model: Model | str, prompt: Prompt, thinking: Thinking = "off-or-least", **options: Any) -> Answer:
    """The whole idea in one line: the model decides the shape of the cost, the flag the strategy, no weight changes."""
    loaded = load(model) if isinstance(model, str) else model
    return loaded.generate(prompt, thinking=thinking, **options)


def _several(prompt: Any) -> tuple[list[Prompt], bool]:
    """(prompts, whether it was a single one): a string or a conversation is one, a list of either is several."""
    if isinstance(prompt, str):
        return [prompt], True
    if not isinstance(prompt, Sequence) or not prompt:
        raise RequestRefused(f"the prompt is {prompt!r:.60}; expected a string, a conversation, or a list of either")
    if all(isinstance(part, Mapping) for part in prompt):
        return [prompt], True
    if any(isinstance(part, Mapping) for part in prompt):
        raise RequestRefused("a list holds messages beside something else; expected a conversation, or several prompts")
    return list(prompt), False
