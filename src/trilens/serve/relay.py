"""A model that an engine runs, as the front door knows models: the same faces, and a thread for each call under way."""

from __future__ import annotations

import asyncio
import threading
import time
from collections import deque
from collections.abc import AsyncIterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from typing import Any

from trilens.errors import ContextFull, RequestRefused, ServiceFailed, Unreachable
from trilens.hosted.model import HostedModel, HostedStream
from trilens.hosted.parts import INLINE
from trilens.hosted.receipt import HostedReceipt
from trilens.hosted.table import Asked
from trilens.model import EndEvent, Event, Prompt
from trilens.serve.engine import Engine
from trilens.serve.pump import ROOM, Busy, ShuttingDown, TimeIsUp
from trilens.spec.model import ModelSpec
from trilens.text.model_text import ModelText
from trilens.text.strategy import Strategy, Thinking, render_with

NEWS = 3.0  # seconds in which an engine that broke an answer off turns out to have died


class Schemas:
    """What an engine is told of JSON: the schema itself, for it has a grammar of its own."""

    def schema(self, schema: Mapping[str, Any] | None) -> Schema:
        return Schema(schema)


@dataclass(frozen=True)
class Schema:
    wanted: Mapping[str, Any] | None

    def fields(self) -> dict[str, Any]:
        if self.wanted is None:
            return {"response_format": {"type": "json_object"}}
        described = {"name": "answer", "schema": dict(self.wanted)}
        return {"response_format": {"type": "json_schema", "json_schema": described}}


class EngineModel:
    """`Model`'s face. What the model can do about thinking is read from its own template, as for one that runs here,
    and the engine gets the template variables that this comes to."""

    cache_pages = 0  # the engine's own business

    def __init__(self, name: str, hosted: HostedModel, text: ModelText, spec: ModelSpec, *, parsed: bool) -> None:
        """`parsed`: the engine takes thoughts out of the answer itself."""
        self.name = name
        self.hosted = hosted
        self.text = text
        self.spec = spec
        self.context: int | None = None  # the most tokens that the engine takes, once it has said so
        self.grammars = Schemas()
        self._parsed = parsed

    def prepare(
        self,
        prompt: Prompt,
        *,
        index: int = 0,
        thinking: Thinking = None,
        max_tokens: int | None = None,
        max_completion: int | None = None,
        stop: str | Sequence[str] = (),
        raw: bool = False,
        tools: Sequence[Mapping[str, Any]] | None = None,
        template_variables: Mapping[str, Any] | None = None,
        constraint: Schema | None = None,
        logprobs: int | None = None,
        **sampling: Any,
    ) -> EngineCall:
        """As `Model.prepare`. Raises RequestRefused also for what does not go through an engine."""
        service = self.hosted.elsewhere.row.service
        if raw or isinstance(prompt, str):
            raise RequestRefused(f"{self.name} runs on {service}, which takes conversations here; use chat completions")
        if logprobs is not None:
            raise RequestRefused(f"{self.name} runs on {service}, whose logprobs do not come through; leave them out")
        if tools and service != "vllm":
            raise RequestRefused(f"{self.name} runs on {service}, which shows tools only to force one; force one")
        strategy = self.text.strategy(thinking, raw=False)
        variables = template_variables or {}
        encoded = self.text.encode(prompt, strategy, raw=False, variables=variables, tools=tools, context=self.context)
        messages, given = render_with(strategy, self.text.inference, prompt, variables)
        markers = self.text.inference.markers
        more: dict[str, Any] = {"extra": {} if constraint is None else constraint.fields()}
        if tools:  # shown, and what the model calls is found in its answer here, as for a model that runs here
            more["extra"] |= {"tools": list(tools), "tool_choice": "none"}
        if not self._parsed:
            more |= {"markers": markers or INLINE, "start": encoded.start}
        stream = self.hosted.send(
            messages,
            self._asked(strategy, given),
            limit=self._limit(len(encoded.ids), max_completion or max_tokens),
            stop=(stop,) if isinstance(stop, str) else tuple(stop),
            sampling=sampling,
            **more,
        )
        return EngineCall(self, stream, encoded.ids, index)

    def _limit(self, prompt: int, most: int | None) -> int | None:
        """Of the whole completion; None leaves it to the engine, which goes on to the end of its context."""
        if self.context is None or most is None:
            return most
        if prompt >= self.context:
            raise ContextFull(f"the prompt has {prompt} tokens and the engine's context {self.context}; shorten it")
        return min(most, self.context - prompt)

    def _asked(self, strategy: Strategy, variables: Mapping[str, Any]) -> Asked:
        """The strategy as fields of the request; the budget as the engine's row of the table has it."""
        row, fields = self.hosted.elsewhere.row, dict[str, Any]()
        if strategy.budget:
            if row.budget is None:
                raise RequestRefused(
                    f"{self.name} runs on {row.service}, which takes no budget of thinking; expected a word"
                )
            fields = {name: strategy.budget for name, value in row.budget.items() if value == "{budget}"}
        if variables:
            fields["chat_template_kwargs"] = dict(variables)
        return Asked(strategy.requested, strategy.effective, fields, strategy.budget)


class EngineCall:
    """`Call`'s face."""

    generation = None

    def __init__(self, model: EngineModel, stream: HostedStream, ids: list[int], index: int) -> None:
        self.ids = ids
        self.stream = stream
        self.receipt: HostedReceipt | None = None
        self.fired: list[list[int]] = []
        self.tokenizer = model.text.tokenizer
        self._model = model
        self.index = index

    @property
    def stop_hit(self) -> str | None:
        return self.stream.stop_hit

    @property
    def watched(self) -> bool:
        return False

    @watched.setter
    def watched(self, wanted: bool) -> None:
        if wanted:
            raise RequestRefused(f"{self._model.name} runs on an engine, which does not say which experts fired")

    def answer_now(self) -> None:
        self.stream.answer_now()


@dataclass(eq=False)
class Relayed:
    """`Running`'s face: one request, and the events of all its calls in the order they came."""

    calls: Sequence[EngineCall]
    _loop: asyncio.AbstractEventLoop
    _deadline: float
    _seconds: float
    _events: deque[Event[Any]] = field(default_factory=deque)
    _arrived: asyncio.Event = field(default_factory=asyncio.Event)
    _read: threading.Condition = field(default_factory=threading.Condition)
    _failure: BaseException | None = None
    _left: int = 0
    cancelled: bool = False

    async def batches(self) -> AsyncIterator[list[Event[Any]]]:
        """What has come since the last one; ends behind the last call's end. Raises what stopped one of them. Whoever
        leaves early cancels what still runs."""
        try:
            while True:
                try:
                    await asyncio.wait_for(self._arrived.wait(), self._deadline - time.monotonic())
                except TimeoutError:
                    most = f"{self._seconds:g} s, the most here"
                    raise TimeIsUp(f"the request ran longer than {most}") from None
                self._arrived.clear()
                with self._read:
                    left, failure = self._left, self._failure
                    events = list(self._events)
                    self._events.clear()
                    self._read.notify_all()
                if events:
                    yield events
                if failure is not None:
                    raise failure
                if not left and not self._events:
                    return
        finally:
            self.cancel()

    def answer_now(self) -> None:
        for call in self.calls:
            call.answer_now()

    def cancel(self) -> None:
        """Ends each call with the next token that comes, and its connection then."""
        with self._read:
            self.cancelled = True
            self._read.notify_all()

    def fail(self, problem: BaseException) -> None:
        """It is of no use to wait for the engine."""
        with self._read:
            self._failure = self._failure or problem
            self.cancelled = True
            self._read.notify_all()
        self._tell()

    def put(self, event: Event[Any]) -> bool:
        """From a call's thread; waits for a reader that is slow. False: nobody reads any more."""
        with self._read:
            self._read.wait_for(lambda: len(self._events) < ROOM or self.cancelled)
            if not self.cancelled:
                self._events.append(event)
        self._tell()
        return not self.cancelled

    def over(self, failure: BaseException | None = None) -> None:
        """A call has ended."""
        with self._read:
            self._left -= 1
            self._failure = self._failure or failure
        self._tell()

    def _tell(self) -> None:
        try:
            self._loop.call_soon_threadsafe(self._arrived.set)
        except RuntimeError:  # the loop is closed: nobody waits any more
            self.cancel()


class Relay:
    """`Pump`'s face: `parallel` calls are at the engine at once, `waiting` more may wait."""

    def __init__(self, model: EngineModel, engine: Engine, parallel: int, waiting: int, seconds: float) -> None:
        self.model = model
        self._engine = engine
        self._parallel, self._most_waiting, self._seconds = parallel, waiting, seconds
        self._threads = ThreadPoolExecutor(parallel, "relay")
        self._lock = threading.Lock()
        self._under_way = 0
        self._open: set[Relayed] = set()
        self._closing = False

    @property
    def running(self) -> int:
        return min(self._under_way, self._parallel)

    @property
    def waiting(self) -> int:
        return max(0, self._under_way - self._parallel)

    @property
    def idle(self) -> bool:
        return not self._under_way

    def enter(self, calls: Sequence[EngineCall]) -> Relayed:
        """Put a request in line. Raises Busy, ShuttingDown, EngineDied."""
        self._engine.check()
        relayed = Relayed(calls, asyncio.get_running_loop(), time.monotonic() + self._seconds, self._seconds)
        relayed._left = len(calls)
        with self._lock:
            if self._closing:
                raise ShuttingDown("the server is shutting down; try another one, or later")
            if self._under_way + len(calls) > self._parallel + self._most_waiting:
                raise Busy(f"{self.waiting} requests wait already; try again in a moment")
            self._under_way += len(calls)
            self._open.add(relayed)
        for call in calls:
            self._threads.submit(self._run, relayed, call)
        return relayed

    def fail(self, problem: BaseException) -> None:
        """What runs ends with this at once, and nothing new begins."""
        for relayed in list(self._open):
            relayed.fail(problem)

    def close(self, seconds: float) -> None:
        """Begin nothing new, finish what runs; what still runs after `seconds` is cancelled."""
        with self._lock:
            self._closing = True
        end = time.monotonic() + seconds
        while not self.idle and time.monotonic() < end:
            time.sleep(0.02)
        for relayed in list(self._open):
            relayed.cancel()
        self._threads.shutdown(wait=False, cancel_futures=True)

    def _run(self, relayed: Relayed, call: EngineCall) -> None:
        failure: BaseException | None = None
        try:
            if not relayed.cancelled:
                for event in call.stream:
                    if isinstance(event, EndEvent):
                        call.receipt = event.receipt
                    if not relayed.put(replace(event, index=call.index)):
                        break
        except (ServiceFailed, Unreachable) as problem:
            failure = self._engine.died(NEWS) or problem
        except Exception as problem:
            failure = problem
        finally:
            call.stream.close()
            relayed.over(failure)
            with self._lock:
                self._under_way -= 1
                if not relayed._left:
                    self._open.discard(relayed)
