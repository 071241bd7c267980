"""A model that runs in an engine, with the interface of a local one, so that protocols need not distinguish them."""

from __future__ import annotations

import re
import threading
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from trilens.errors import ContextFull, RequestRefused
from trilens.generate.arguments import is_ids
from trilens.generate.request import UNREAD
from trilens.hosted.model import HostedModel, HostedStream
from trilens.hosted.receipt import HostedReceipt
from trilens.hosted.service import INLINE
from trilens.hosted.table import Asked
from trilens.model import Call, Model, Prompt
from trilens.spec.model import ModelSpec
from trilens.text.conversation import as_chat, read_conversation
from trilens.text.events import EndEvent, Event, merged
from trilens.text.literal import marked
from trilens.text.model_text import ModelText
from trilens.text.strategy import Strategy, Thinking, render_with


class Schemas:
    """The form of an answer as an engine gets it: unchanged, because an engine has its own grammars."""

    def __init__(self, service: str) -> None:
        self._flat = service == "sglang"  # its fields stand in the request itself

    def schema(self, schema: Mapping[str, Any] | None, calls: object = None) -> Wish:
        if schema is None:
            return _wish({"response_format": {"type": "json_object"}}, calls)
        described = {"name": "answer", "schema": dict(schema)}
        return _wish({"response_format": {"type": "json_schema", "json_schema": described}}, calls)

    def regex(self, regex: str, calls: object = None) -> Wish:
        return _wish({"regex": regex} if self._flat else {"structured_outputs": {"regex": regex}}, calls)

    def choice(self, texts: Sequence[str], calls: object = None) -> Wish:
        if self._flat:
            return self.regex("|".join(map(re.escape, texts)), calls)
        return _wish({"structured_outputs": {"choice": list(texts)}}, calls)

    def grammar(self, grammar: str, calls: object = None) -> Wish:
        return _wish({"ebnf": grammar} if self._flat else {"structured_outputs": {"grammar": grammar}}, calls)


@dataclass(frozen=True)
class Wish:
    """Fields of a request to an engine."""

    fields: Mapping[str, Any]
    ignored: tuple[str, ...] = ()  # as of a constraint here


def _wish(fields: Mapping[str, Any], calls: object) -> Wish:
    if calls is not None:
        raise RequestRefused(
            "an engine applies it to the whole answer, so no tool could be called; leave one of them out"
        )
    return Wish(fields)


class EngineModel:
    """The interface of `Model`. What the model can do about thinking is read from its own template, as for one that
    runs here, and the engine gets the template variables that follow from it."""

    cache_pages = 0  # the engine's own business

    def __init__(self, name: str, hosted: HostedModel, text: ModelText, spec: ModelSpec, *, parsed: bool) -> None:
        """`parsed`: the engine takes thoughts out of the answer itself."""
        self.name = name
        self.hosted = hosted
        self.text = text
        self.spec = spec
        self.context: int | None = None  # the most tokens that the engine takes, once it has said so
        self.grammars = Schemas(hosted.elsewhere.row.service)
        self._parsed = parsed

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
        constraint: Wish | None = None,
        logprobs: int | None = None,
        min_tokens: int = 0,
        stop_token_ids: Sequence[int] = (),
        ignore_eos: bool = False,
        scored: int | None = None,
        **sampling: Any,
    ) -> EngineCall:
        """As `Model.prepare`. Raises RequestRefused also for what does not go through an engine."""
        service = self.hosted.elsewhere.row.service
        if raw or isinstance(prompt, str) or is_ids(prompt):
            raise RequestRefused(f"{self.name} runs on {service}, which takes conversations here; use chat completions")
        asked: Sequence[Mapping[str, Any]] = prompt  # type: ignore[assignment]
        if logprobs is not None or scored is not None:
            raise RequestRefused(f"{self.name} runs on {service}, whose logprobs do not come through; leave them out")
        if tools and service != "vllm":
            raise RequestRefused(f"{self.name} runs on {service}, which shows tools only to force one; force one")
        if continue_final_message and service != "vllm":
            raise RequestRefused(f"{self.name} runs on {service}, which continues no message; leave that out")
        strategy = self.text.strategy(thinking, raw=False, continues=continue_final_message)
        variables = template_variables or {}
        encoded = self.text.encode(
            asked,
            strategy,
            raw=False,
            continues=continue_final_message,
            variables=variables,
            tools=tools,
            context=self.context,
        )
        spelled = next((one for one in encoded.spelled if marked(self.text.tokenizer, one)), None)
        if spelled is not None:  # the engine is sent texts, and reads control tokens in all of them
            raise RequestRefused(
                f"the request spells the control token {spelled!r}, which would take effect in {service}; "
                "remove it, or serve with --trust-control-tokens"
            )
        messages, given = render_with(strategy, self.text.inference, read_conversation(asked), variables)
        markers = self.text.inference.markers
        more: dict[str, Any] = {"index": index, "extra": {} if constraint is None else dict(constraint.fields)}
        ends = {"min_tokens": min_tokens, "stop_token_ids": list(stop_token_ids), "ignore_eos": ignore_eos}
        more["extra"] |= {name: value for name, value in ends.items() if value}
        if tools:  # shown, and what the model calls is found in its answer here, as for a model that runs here
            more["extra"] |= {"tools": list(tools), "tool_choice": "none"}
        if continue_final_message:
            more["extra"] |= {"continue_final_message": True, "add_generation_prompt": False}
        if not self._parsed:
            more |= {"markers": markers or INLINE, "start": encoded.start}
        stream = self.hosted.send(
            [as_chat(message) for message in messages],
            self._asked(strategy, given),
            limit=self._limit(len(encoded.ids), max_completion or max_tokens),
            stop=(stop,) if isinstance(stop, str) else tuple(stop),
            sampling=sampling,
            **more,
        )
        return EngineCall(self, stream, encoded.ids)

    def offered_calls(self, tools: Mapping[str, Any], several: bool) -> object:
        """See `Model.offered_calls`; `Schemas` refuses them."""
        return None if self.text.tool_format is None else tools

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
    """The interface of `Call`. A thread puts in what comes, its reader takes it out with `events`."""

    request = None

    def __init__(self, model: EngineModel, stream: HostedStream, ids: list[int]) -> None:
        self.ids = ids
        self.stream = stream
        self.finished = False
        self.receipt: HostedReceipt | None = None
        self.fired: list[list[int]] = []
        self.tokenizer = model.text.tokenizer
        self._model = model
        self._events: deque[Event[HostedReceipt]] = deque()
        self._stopped = False
        self._read = threading.Condition()  # guards these two

    @property
    def watched(self) -> bool:
        return False

    @watched.setter
    def watched(self, wanted: bool) -> None:
        if wanted:
            raise RequestRefused(f"{self._model.name} runs on an engine, which does not say which experts fired")

    @property
    def fresh(self) -> bool:
        return False

    @fresh.setter
    def fresh(self, wanted: bool) -> None:
        if wanted:
            raise RequestRefused(f"{self._model.name} runs on an engine, which decides what it computes again")

    def answer_now(self) -> None:
        self.stream.answer_now()

    def put(self, event: Event[HostedReceipt]) -> bool:
        """Called by the call's thread; waits for a slow reader. False: nobody reads any more."""
        if isinstance(event, EndEvent):
            self.receipt = event.receipt
        with self._read:
            self._read.wait_for(lambda: len(self._events) < UNREAD or self._stopped)
            if not self._stopped:
                self._events.append(event)
            return not self._stopped

    def events(self) -> list[Event[HostedReceipt]]:
        """What there is to read now, neighbours of one kind as one."""
        with self._read:
            events = merged(self._events)
            self._events.clear()
            self._read.notify_all()
        self.finished |= any(isinstance(event, EndEvent) for event in events)
        return events

    def stop(self) -> None:
        """Nobody reads it any more; from any thread."""
        with self._read:
            self._stopped = True
            self._read.notify_all()


AnyModel = Model | EngineModel
AnyCall = Call | EngineCall
