"""A model that runs here: generate with it, and get answers with their receipts."""

from __future__ import annotations

import gc
import hashlib
import secrets
import time
from collections import deque
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from dataclasses import fields, replace
from functools import cached_property
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self, overload

from typing_extensions import Unpack

from trilens.checkpoints.verified import hash_of
from trilens.errors import RequestRefused, UsageError, shown
from trilens.executors.adapter import adapter_named
from trilens.executors.executor import Executor
from trilens.generate import arguments
from trilens.generate.answer import AnswerWriter, Closing, Constraint
from trilens.generate.ends import EndsBarred
from trilens.generate.grammar import CallRules, GrammarConstraint, Grammars
from trilens.generate.limits import Limits, request_limits
from trilens.generate.options import GenerateOptions, SamplingOptions
from trilens.generate.prefix_files import PrefixFiles
from trilens.generate.receipt import Receipt, write_receipt
from trilens.generate.request import Beginning, Request
from trilens.generate.sampling import Sampling
from trilens.generate.scheduler import Scheduler
from trilens.generate.tool_grammar import forced_call, offered_calls
from trilens.generate.whole import Answer as Answer
from trilens.generate.whole import AnswerStream
from trilens.generate.whole import fold as fold
from trilens.lenses.machines.energy import EnergyMeter
from trilens.spec.model import ModelSpec
from trilens.text.conversation import ChatMessage, Message
from trilens.text.events import EndEvent, Event, merged
from trilens.text.model_text import Encoded, ModelText
from trilens.text.strategy import Strategy, Thinking
from trilens.text.tokenizer import Tokenizer
from trilens.text.tool_calls import CallFinder
from trilens.text.tool_schema import described, schemas_of

if TYPE_CHECKING:
    from trilens.checkpoints.load import ModelFiles
    from trilens.lenses.cards.card import Card
    from trilens.lenses.costs.predictor import Predictor

Prompt = str | Sequence[ChatMessage | Message]
SAMPLING = frozenset(f.name for f in fields(Sampling))


class Model:
    """A loaded model. Any number of threads may use it at once, and their requests run together.

    A prompt prefix that an earlier request has computed is not computed again. A `with` block frees the memory at its
    end.
    """

    def __init__(
        self, name: str, files: ModelFiles, executor: Executor, text: ModelText, speculation: bool = True
    ) -> None:
        self.name = name
        self.files = files
        self.executor = executor
        self.text = text
        self._scheduler = Scheduler(executor, speculates=speculation)

    @property
    def spec(self) -> ModelSpec:
        return self.executor.spec

    def close(self) -> None:
        """Free the memory. Running requests end with UsageError, and so does every later call."""
        kept = self.name
        vars(self).clear()
        self.name = kept
        gc.collect()  # the scheduler and its requests refer to each other

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, problem: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    if not TYPE_CHECKING:

        def __getattr__(self, name: str) -> Any:
            if "executor" not in vars(self) and name in CLOSED:
                raise UsageError(f"the model {self.name} was closed; load it again")
            raise AttributeError(f"'Model' object has no attribute {name!r}")

    def keep_prefixes(self, directory: Path, most_bytes: int) -> None:
        """Keep prompt prefixes in a directory; see `prefix_dir` of `load`. Raises UsageError if it cannot be used."""
        path, executor = self.files.found.path, self.executor
        weights = [path] if path.is_file() else sorted(path.glob("*.safetensors"))
        parts = (*map(hash_of, weights), self.spec, executor.arithmetic, sorted(executor.converted.items()))
        identity = hashlib.sha256(repr(parts).encode()).digest()
        self._scheduler.prefixes.files = PrefixFiles(directory, most_bytes, identity, executor)

    def card(self, context: int = 1) -> Card:
        """The card of this model, through the three lenses."""
        from trilens.lenses.cards.card import Card, card

        made = card(self.files.found, context=context)
        assert isinstance(made, Card), "files that were loaded have a spec"
        return replace(made, name=self.name)

    def count_tokens(
        self,
        prompt: Prompt,
        *,
        thinking: Thinking = None,
        raw: bool = False,
        tools: Sequence[Mapping[str, Any] | Callable[..., Any]] | None = None,
        template_variables: Mapping[str, Any] | None = None,
    ) -> int:
        """The number of tokens of a prompt as a call with these options sends it, with those of the chat template
        unless `raw` is set. It may exceed the context. Raises RequestRefused.
        """
        arguments.prompt(prompt)
        offered = None if tools is None else [described(tool) for tool in arguments.tools(tools)]
        arguments.request(None, raw, offered, template_variables)
        strategy = self.text.strategy(thinking, raw=raw, continues=False)
        encoded = self.text.encode(prompt, strategy, raw=raw, variables=template_variables or {}, tools=offered)
        return len(encoded.ids)

    @overload
    def generate(self, prompt: Sequence[ChatMessage | Message], **options: Unpack[GenerateOptions]) -> Answer: ...
    @overload
    def generate(  # type: ignore[overload-overlap] # a string is a sequence of strings
        self, prompt: str, **options: Unpack[GenerateOptions]
    ) -> Answer: ...
    @overload
    def generate(self, prompt: Sequence[Prompt], **options: Unpack[GenerateOptions]) -> list[Answer]: ...
    def generate(self, prompt: Prompt | Sequence[Prompt], **options: Unpack[GenerateOptions]) -> Answer | list[Answer]:
        """Return the whole answer, or a list of answers for a list of prompts, which are computed together.

        A prompt is a string or a conversation: a list of {"role": ..., "content": ...} or of `Message` objects. The
        options are those of `stream_all`.
        """
        prompts, single = several(prompt)
        answers = fold(self.stream_all(prompts, **options), len(prompts))
        return answers[0] if single else answers

    def stream(self, prompt: Prompt, **options: Unpack[GenerateOptions]) -> Stream:
        """Return the answer piece by piece: `ThinkingEvent` and `TextEvent` objects, then one `EndEvent` with the
        receipt.

        The stream works with `for` and `async for`; `await` returns the whole answer. The options are those of
        `stream_all`.
        """
        return self.stream_all([prompt], **options)

    def stream_all(
        self,
        prompts: Sequence[Prompt],
        *,
        thinking: Thinking = None,
        extended_thinking: Thinking = None,
        max_tokens: int | None = None,
        stop: str | Sequence[str] = (),
        raw: bool = False,
        continue_final_message: bool = False,
        tools: Sequence[Mapping[str, Any] | Callable[..., Any]] | None = None,
        tool_choice: str | None = None,
        template_variables: Mapping[str, Any] | None = None,
        schema: Mapping[str, Any] | None = None,
        regex: str | None = None,
        choice: Sequence[str] | None = None,
        grammar: str | None = None,
        min_tokens: int = 0,
        stop_token_ids: Sequence[int] = (),
        ignore_eos: bool = False,
        adapter: str | None = None,
        **sampling: Unpack[SamplingOptions],
    ) -> Stream:
        """Stream the events of several prompts as they arrive.

        - `thinking`: None (the model's own default), False, True, a level ("minimal", "low", "medium", "high",
          "max", or a word of the model's own), a maximum number of tokens, or "off-or-least". `extended_thinking`
          is another name for it.
        - `max_tokens` counts from the beginning of the answer. None allows 4,096 tokens, or what is left of the
          context.
        - `stop`: strings that end the answer. They are not part of it.
        - `raw`: send a string without the chat template, and return the output unprocessed.
        - `continue_final_message`: the last message is the assistant's, and the answer continues its text.
        - `tools`: functions, or schemas in the form of OpenAI's chat protocol. Calls are in `Answer.calls` and
          arrive as `ToolCallEvent` objects.
        - `tool_choice`: "auto", "required", or the name of the tool to call.
        - `template_variables`: variables for the chat template.
        - `schema`: the answer is JSON that follows this JSON schema.
        - `regex`: the whole answer matches this regular expression.
        - `choice`: the answer is one of these texts.
        - `grammar`: the answer follows this grammar, in GBNF or Lark's syntax.
        - `min_tokens`: the answer has at least this many tokens.
        - `stop_token_ids`: tokens that end the answer too.
        - `ignore_eos`: the answer ends only at `stop_token_ids` or its limit.
        - `adapter`: the name of a loaded adapter to use. None uses the model alone.

        At most one of `schema`, `regex`, `choice` and `grammar` may be given; they need the extra `schema`. The other
        options are the fields of `Sampling`. Their defaults come from the model's own generation_config.json.

        Raises RequestRefused or ContextFull before any work is done. Closing the stream cancels what still runs.
        """
        arguments.prompts(prompts)
        thinking = arguments.thinking(thinking, extended_thinking)
        arguments.whole("max_tokens", max_tokens, 1)
        wanted = arguments.structure(schema, regex, choice, grammar)
        offered = None if tools is None else [described(tool) for tool in arguments.tools(tools)]
        schemas = schemas_of(offered or ())
        chosen = self._chosen(schemas, tool_choice)
        if chosen and wanted:
            raise RequestRefused(f"tool_choice and {wanted[0]} both determine the form of the answer; give one of them")

        def constraint() -> Constraint | None:
            if chosen:
                return self.forced_call(chosen)
            if wanted is None:
                return None
            offer = self.offered_calls(schemas) if schemas else None
            held: Constraint = getattr(self.grammars, wanted[0])(wanted[1], offer)
            return held

        calls = [
            self.prepare(
                prompt,
                index=i,
                thinking=thinking,
                max_tokens=max_tokens,
                stop=stop,
                raw=raw,
                continue_final_message=continue_final_message,
                tools=offered,
                template_variables=template_variables,
                constraint=constraint(),
                min_tokens=min_tokens,
                stop_token_ids=stop_token_ids,
                ignore_eos=ignore_eos,
                adapter=adapter,
                **sampling,
            )
            for i, prompt in enumerate(prompts)
        ]
        finders = [CallFinder(self.text.tool_format, schemas, index=i) for i in range(len(calls))] if schemas else []
        return Stream(self, calls, finders)

    def _chosen(self, schemas: Mapping[str, Any], tool_choice: object) -> dict[str, Any]:
        """The tools of which the answer must call one, with their schemas. Raises RequestRefused."""
        if schemas and not self.text.reads_tools:
            raise RequestRefused(f"{self.name}'s template has no place for tools; leave tools out")
        if tool_choice in (None, "auto"):
            return {}
        if tool_choice == "required" and schemas:
            return dict(schemas)
        if not isinstance(tool_choice, str) or tool_choice not in schemas:
            expected = ", ".join(["auto", "required", *schemas])
            raise RequestRefused(f"tool_choice is {shown(tool_choice)}; expected one of {expected}")
        return {tool_choice: schemas[tool_choice]}

    def prepare(
        self,
        prompt: Prompt | Sequence[int],
        *,
        index: int = 0,
        thinking: Thinking = None,
        max_tokens: int | None = None,
        max_completion: int | None = None,
        stop: str | Sequence[str] = (),
        raw: bool = False,
        continue_final_message: bool = False,
        tools: Sequence[Mapping[str, Any]] | None = None,
        template_variables: Mapping[str, Any] | None = None,
        constraint: Constraint | None = None,
        min_tokens: int = 0,
        stop_token_ids: Sequence[int] = (),
        ignore_eos: bool = False,
        scored: int | None = None,
        adapter: str | None = None,
        **sampling: Any,
    ) -> Call:
        """Check and encode one prompt of `stream_all` without running it. Any thread may call this.

        `max_completion` limits thinking and answer together. `constraint` says before each token of the answer which
        tokens are allowed. A `raw` prompt may consist of token ids. `scored`: also report the log probabilities of the
        prompt's own tokens, with this many alternatives. Raises what `stream_all` raises.
        """
        called = time.perf_counter()
        self._scheduler.check_process()  # the tokenizer's locks may be held by a thread that is not here
        arguments.prompt(prompt)
        arguments.request(max_tokens, raw, tools, template_variables)
        arguments.flag("continue_final_message", continue_final_message, RequestRefused)
        arguments.whole("max_tokens of the whole completion", max_completion, 1)
        stops = arguments.stops(stop)
        if adapter is not None:
            adapter_named(self.executor.adapters, adapter)
        stop_ids = arguments.ends(min_tokens, stop_token_ids, ignore_eos, self.spec.vocab)
        strategy = self.text.strategy(thinking, raw=raw, continues=continue_final_message)
        options = self.sampling(sampling)
        if arguments.is_ids(prompt):
            if not raw:
                raise RequestRefused("token ids have no roles for the chat template; send them raw")
            encoded = Encoded(list(prompt), "free", raw=True)  # type: ignore[arg-type]
        else:
            encoded = self.text.encode(
                prompt,  # type: ignore[arg-type]
                strategy,
                raw=raw,
                continues=continue_final_message,
                variables=template_variables or {},
                tools=tools,
                context=self.spec.context,
            )
        limits = self._limits(strategy, encoded, max_tokens)
        if max_completion is not None:
            limits = limits.within(max_completion)
        if min_tokens > limits.total:
            raise RequestRefused(f"min_tokens is {min_tokens}, and at most {limits.total} may come; expected fewer")
        ends = self.text.end_ids | stop_ids
        always = self.text.end_ids - stop_ids if ignore_eos else frozenset()
        barred = EndsBarred(ends, always, min_tokens, (self.spec.vocab + 31) // 32) if min_tokens or always else None
        writer = self._writer(strategy, encoded, limits, ends, stops, constraint, barred, index)
        beginning = self._scheduler.begin(encoded.ids, limits, adapter)
        return Call(self, encoded.ids, writer, limits, options, ends, index, called, beginning, scored, adapter)

    def advance(self, calls: Sequence[Call]) -> None:
        """Run steps until one of these calls has events or all have finished. Other requests advance too. Raises the
        error that ended one of the calls.
        """
        self._scheduler.advance([call.request for call in calls if call.request is not None])

    @property
    def steppers(self) -> int:
        """The number of threads that can call `step` at once, each with its own stepper."""
        return self.executor.steppers

    def step(self, stepper: int | None = None, ahead: float = 0.0) -> list[Request]:
        """Run one step for every call that can continue, or for the calls of one stepper, and further steps for `ahead`
        seconds. Returns the requests of the step. An error that ends a call is stored with the call.
        """
        return self._scheduler.step(stepper, ahead)

    @cached_property
    def grammars(self) -> Grammars:
        """Compiles JSON schemas and grammars for this vocabulary. The first use takes a moment."""
        return Grammars(self.text.tokenizer, self.spec.vocab)

    def forced_call(self, tools: Mapping[str, Any]) -> GrammarConstraint | None:
        """The constraint that makes an answer a call of one of these tools, in the model's own format. `tools` maps
        names to the schemas of their arguments. None if the model has no format of its own. Raises RequestRefused.
        """
        form = self.text.tool_format
        return None if form is None else forced_call(self.grammars, self.text.tokenizer, form, tools, self._turn)

    def offered_calls(self, tools: Mapping[str, Any], several: bool = True) -> CallRules | None:
        """The same for an answer that may also be something else. `several`: it may have more than one call."""
        form, tokenizer = self.text.tool_format, self.text.tokenizer
        return None if form is None else offered_calls(self.grammars, tokenizer, form, tools, self._turn, several)

    @property
    def _turn(self) -> str:
        """The text between a thinking and a call."""
        markers = self.text.inference.markers
        return "" if markers is None else markers.turn

    @cached_property
    def _predictor(self) -> Predictor:
        from trilens.lenses.costs.predictor import Predictor

        return Predictor(self.name, self.executor)

    def _receipt(self, request: Request, writer: AnswerWriter, meter: EnergyMeter) -> Receipt:
        from trilens.ledger import record

        ceiling = self._predictor.ceiling()
        receipt = write_receipt(self.name, self.executor, request, writer, ceiling, meter.read())
        receipt = self._predictor.complete(receipt)
        decode = self.text.tokenizer.decode
        record(receipt, lambda: (decode(request.prompt, skip_special=False), decode(request.tokens)))
        return receipt

    @property
    def cache_pages(self) -> int:
        """The number of cache pages in use, stored prefixes included; 0 on an executor without pages."""
        pool = getattr(self.executor, "pool", None)
        return 0 if pool is None else int(pool.pages_in_use)

    def forget(self) -> None:
        """Free the memory that finished requests keep for later ones."""
        self._scheduler.forget()

    def _limits(self, strategy: Strategy, encoded: Encoded, max_tokens: int | None) -> Limits:
        thinks = self.text.inference.markers is not None and strategy.effective != "off" and not encoded.raw
        return request_limits(
            self.spec.context,
            len(encoded.ids),
            max_tokens,
            thinks=thinks,
            budget=strategy.budget,
            extra=len(self.text.opening_ids) + len(self.text.closing_ids),
        )

    def _writer(
        self,
        strategy: Strategy,
        encoded: Encoded,
        limits: Limits,
        ends: frozenset[int],
        stops: tuple[str, ...],
        constraint: Constraint | None,
        barred: EndsBarred | None,
        index: int,
    ) -> AnswerWriter:
        text = self.text
        closable = limits.thinking is not None  # an unasked thinking is not closed: it is reported
        return AnswerWriter(
            text.tokenizer,
            text.splitter(encoded, index, calls=constraint is None or constraint.calls != "none"),
            strategy,
            limits,
            Closing(text.closing_ids, text.opening_ids) if closable else None,
            start=encoded.start,
            end_ids=ends,
            shown=frozenset() if encoded.raw else text.shown,
            stops=stops,
            continues=encoded.raw or encoded.start == "answer",
            constraint=constraint,
            barred=barred,
        )

    def sampling(self, stated: Mapping[str, Any]) -> Sampling:
        """`Sampling` from the given options, the model's own defaults, and a fresh seed if none was given."""
        unknown = sorted(stated.keys() - SAMPLING)
        if unknown:
            raise UsageError(f"option {unknown[0]!r} is unknown; expected one of {', '.join(sorted(SAMPLING))}")
        chosen = {name: value for name, value in stated.items() if value is not None}
        chosen.setdefault("seed", secrets.randbits(32))
        return replace(Sampling(), **{**self.text.sampling_defaults, **chosen})


class Call:
    """One running prompt. Call `submit` once, then `Model.advance` until it has events, and `events` to take them,
    until it has finished. Other threads may call `cancel` and `answer_now`.
    """

    def __init__(
        self,
        model: Model,
        ids: list[int],
        writer: AnswerWriter,
        limits: Limits,
        options: Sampling,
        ends: frozenset[int],
        index: int,
        called: float,
        beginning: Beginning,
        scored: int | None,
        adapter: str | None,
    ) -> None:
        self.ids = ids
        self.writer = writer
        self.request: Request | None = None
        self.finished = False
        self.receipt: Receipt | None = None
        self.watched = False  # whether `fired` is wanted
        self.fresh = False  # whether all of the prompt is computed, whatever the cache has
        self._model = model
        self._limits = limits
        self._options = options
        self._ends = ends
        self._index = index
        self._called = called
        self._beginning = beginning
        self._scored = scored
        self._adapter = adapter

    def submit(self) -> None:
        """Start the call. Raises RequestRefused if no memory is left for its cache."""
        model = self._model
        self._meter = EnergyMeter()
        self.request = model._scheduler.submit(
            self.ids,
            self._options,
            self._limits,
            self._ends,
            self.writer,
            watched=self.watched,
            fresh=self.fresh,
            called=self._called,
            beginning=self._beginning,
            scored=self._scored,
            adapter=self._adapter,
        )

    @property
    def fired(self) -> list[list[int]]:
        """The experts of each processed token, as in `CachedSequence.routes`."""
        return [] if self.request is None or self.request.fired is None else self.request.fired

    def events(self) -> Iterator[Event[Receipt]]:
        """The events that can be read now, with neighbours of one kind merged. For one reader; steps may run
        meanwhile. The receipt is made when the events before it have been taken.
        """
        request = self.request
        if request is None or self.finished:
            return
        ended = request.finish  # asked first: what is unread then is all there will be
        events: list[Event[Receipt]] = merged(_taken(request.unread))
        yield from events
        if ended is not None and request.failure is None:
            self.finished = True
            self.receipt = self._model._receipt(request, self.writer, self._meter)
            yield EndEvent(self.receipt, self._index, reason=ended, stop=self.writer.stop_hit)

    def cancel(self, wait: bool = True) -> None:
        """End the call with the running step, and `wait` for that. Does nothing if it has finished."""
        if self.request is not None:
            self._model._scheduler.end(self.request, "cancelled", wait)

    @property
    def tokenizer(self) -> Tokenizer:
        return self._model.text.tokenizer

    def answer_now(self) -> None:
        """End its thinking, if it is thinking."""
        self.writer.close_now = True


class Stream(AnswerStream[Receipt]):
    """A stream of a local model; see `AnswerStream`. `answer_now` ends a running thinking, from any thread."""

    def __init__(self, model: Model, calls: Sequence[Call], finders: Sequence[CallFinder] = ()) -> None:
        """`finders`: for each call, what finds the tool calls in its answer."""
        super().__init__(_run(model, calls, finders), len(calls))
        self.calls = calls

    @property
    def thinking(self) -> bool:
        """Whether the model is thinking about one of the prompts."""
        return any(call.writer.thinking for call in self.calls)

    def answer_now(self, index: int | None = None) -> None:
        """End the thinking of one prompt, or of all, and continue with the answer. Does nothing if no thinking is
        running.
        """
        arguments.whole("index", index, 0, error=UsageError)
        for i, call in enumerate(self.calls):
            if index in (None, i):
                call.answer_now()

    def _cancel(self) -> None:
        for call in self.calls:
            call.cancel(wait=False)


def _run(model: Model, calls: Sequence[Call], finders: Sequence[CallFinder]) -> Generator[Event[Receipt]]:
    try:
        for call in calls:
            call.submit()
        running = list(calls)
        while running:
            model.advance(running)
            for call in running:
                for event in call.events():
                    yield from finders[event.index].push(event) if finders else (event,)
            running = [call for call in running if not call.finished]
    finally:
        for call in calls:
            call.cancel()


def _taken(unread: deque[Any]) -> Iterator[Event[Receipt]]:
    """Take the current events. A step may add more meanwhile."""
    while unread:
        yield unread.popleft()


CLOSED = frozenset(("executor", "files", "text", "grammars", "_scheduler", "_predictor"))  # what `Model.close` takes


def several(prompt: Any) -> tuple[list[Prompt], bool]:
    """(prompts, whether it was a single one): a string or a conversation is one, a list of either is several."""
    if isinstance(prompt, str):
        return [prompt], True
    if not isinstance(prompt, list | tuple) or not prompt:
        raise RequestRefused(f"the prompt is {shown(prompt)}; expected a string, a conversation, or a list of either")
    if all(isinstance(part, Mapping | Message) for part in prompt):
        return [prompt], True
    if any(isinstance(part, Mapping | Message) for part in prompt):
        raise RequestRefused("a list contains messages and other things; expected a conversation, or several prompts")
    return list(prompt), False
