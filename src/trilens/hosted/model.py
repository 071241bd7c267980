"""A model elsewhere, with the interface of a local one."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Generator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, fields, replace
from types import TracebackType
from typing import Any, Self, overload

from typing_extensions import Unpack

from trilens.errors import HostedError, Refused, RequestRefused, UsageError
from trilens.executors.accountant import ParameterCount
from trilens.generate import arguments
from trilens.generate.limits import ANSWER, THINKING
from trilens.generate.options import GenerateOptions, LocalCallOptions, SamplingOptions
from trilens.generate.sampling import Sampling
from trilens.generate.whole import Answer, AnswerStream
from trilens.hosted.faults import broke_off, typed
from trilens.hosted.price import price
from trilens.hosted.receipt import HostedReceipt, count, report
from trilens.hosted.service import Service, ServiceEnd, Usage, Wish
from trilens.hosted.table import Asked, Row, ask
from trilens.ledger import record
from trilens.model import Prompt, several
from trilens.spec.catalog import Backbone
from trilens.text.conversation import ChatMessage as Message
from trilens.text.conversation import Message as ReadMessage
from trilens.text.conversation import as_chat, read_conversation
from trilens.text.events import EndEvent, Event
from trilens.text.strategy import Thinking

LOCAL = frozenset(LocalCallOptions.__annotations__).difference(SamplingOptions.__annotations__)
AT_ONCE = 8  # requests of one `generate` that are under way together


@dataclass(frozen=True)
class Elsewhere:
    """The service that answers. `host` is None for a vendor's own interface. `context` is the maximum number of
    tokens, if the server says so. `tokens_of` counts a text's tokens with the model's own tokenizer, if there is
    one.
    """

    name: str
    model: str
    row: Row
    host: str | None = None
    key: str | None = field(default=None, repr=False)
    context: int | None = None
    backbone: Backbone = "unknown"
    parameters: ParameterCount | None = None
    tokens_of: Callable[[str], int] | None = None

    @property
    def where(self) -> str:
        return self.row.service if self.host is None else f"{self.row.service} at {self.host}"


class HostedModel:
    """A model at a service or an engine. `generate`, `stream` and `name` are those of a `Model`.

    Its receipts have the type `HostedReceipt`. Any number of threads may use it at once.
    """

    def __init__(self, elsewhere: Elsewhere, service: Service) -> None:
        self.name = elsewhere.name
        self.elsewhere = elsewhere
        self._service = service

    def close(self) -> None:
        """Close its connections. This also happens when the object is garbage-collected."""
        self._service.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, problem: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def count_tokens(self, prompt: Prompt) -> int:
        """The number of tokens of the prompt's texts, without those that the service adds. Raises RequestRefused for a
        vendor's model, and if the model was loaded without a tokenizer.
        """
        arguments.prompt(prompt)
        if self.elsewhere.tokens_of is None:
            way = "load the model with tokenizer=, the name of a model with the same tokenizer"
            if self.elsewhere.host is None:
                way = "its tokenizer is not published; ask it and read the receipt"
            raise RequestRefused(f"{self.elsewhere.where}: tokens cannot be counted here: {way}")
        texts = [text for message in read_conversation(_messages(prompt)) for text in message.texts]
        return sum(map(self.elsewhere.tokens_of, texts))

    @overload
    def generate(
        self, prompt: Sequence[Message | ReadMessage], **options: Unpack[GenerateOptions]
    ) -> Answer[HostedReceipt]: ...
    @overload
    def generate(  # type: ignore[overload-overlap] # a string is a sequence of strings
        self, prompt: str, **options: Unpack[GenerateOptions]
    ) -> Answer[HostedReceipt]: ...
    @overload
    def generate(self, prompt: Sequence[Prompt], **options: Unpack[GenerateOptions]) -> list[Answer[HostedReceipt]]: ...
    def generate(
        self, prompt: Prompt | Sequence[Prompt], **options: Unpack[GenerateOptions]
    ) -> Answer[HostedReceipt] | list[Answer[HostedReceipt]]:
        """Return the whole answer, or a list of answers for a list of prompts, which are requested concurrently. The
        options are those of `stream`.
        """
        prompts, single = several(prompt)
        if single:
            return self.stream(prompts[0], **options).answer()
        streams = [self.stream(one, **options) for one in prompts]  # refused before anything is sent
        with ThreadPoolExecutor(AT_ONCE) as threads:
            return list(threads.map(HostedStream.answer, streams))

    def stream(
        self,
        prompt: Prompt,
        *,
        thinking: Thinking = None,
        extended_thinking: Thinking = None,
        max_tokens: int | None = None,
        stop: str | Sequence[str] = (),
        raw: bool = False,
        **more: Unpack[LocalCallOptions],
    ) -> HostedStream:
        """Return the answer piece by piece: `ThinkingEvent` and `TextEvent` objects, then one `EndEvent`.

        The options are those of `Model.stream_all`. If the service or the model cannot do something, or trilens cannot
        request it there, RequestRefused is raised before anything is sent. Errors of the service raise HostedError,
        with the part that had arrived in `partial`.

        `max_tokens` counts the answer. If the service's limit counts thinking too, thinking gets its budget on top, or
        8,192 tokens. So the answer can be longer than `max_tokens` if the thinking was short.
        """
        arguments.prompt(prompt)
        arguments.request(max_tokens, raw, None, None)
        stops = arguments.stops(stop)
        thinking = arguments.thinking(thinking, extended_thinking)
        local = next((name for name in more if name in LOCAL), None)
        if local is not None:
            raise RequestRefused(f"{self.elsewhere.where}: {local} is for models that run here; leave it out")
        if raw:
            raise RequestRefused(f"{self.elsewhere.where}: takes conversations, not a raw prompt; leave `raw` out")
        asked = ask(self.elsewhere.row, self.elsewhere.model, thinking)
        return self.send(
            _messages(prompt),
            asked,
            limit=self._limit(asked, max_tokens),
            stop=stops,
            sampling=more,
        )

    def send(
        self,
        messages: Sequence[Message],
        asked: Asked,
        *,
        limit: int | None,
        stop: tuple[str, ...] = (),
        sampling: Mapping[str, Any],
        **more: Any,
    ) -> HostedStream:
        """`stream` with settings that are not from the table; `more` are fields of `Wish`."""
        wish = Wish(
            model=self.elsewhere.model,
            messages=messages,
            asked=asked,
            row=self.elsewhere.row,
            limit=limit,
            stop=stop,
            sampling=self._sampling(asked, sampling),
            **more,
        )
        return HostedStream(self.elsewhere, self._service, wish, self._service.request(wish))

    def _limit(self, asked: Asked, max_tokens: int | None) -> int | None:
        """Maximum tokens of the whole output; None leaves it to the service."""
        if max_tokens is not None and max_tokens < 1:
            raise RequestRefused(f"max_tokens is {max_tokens}; expected at least 1")
        answer = ANSWER if max_tokens is None and self._service.wants_limit else max_tokens
        if answer is None or asked.effective in ("off", "unknown") or self.elsewhere.row.apart:
            return answer
        context = self.elsewhere.context
        thinking = THINKING if context is None else min(THINKING, context // 2)
        return answer + (thinking if asked.budget is None else asked.budget)

    def _sampling(self, asked: Asked, stated: Mapping[str, Any]) -> dict[str, Any]:
        known = {f.name for f in fields(Sampling)}
        chosen = {name: value for name, value in stated.items() if value is not None}
        row, where = self.elsewhere.row, self.elsewhere.where
        for name in chosen:
            if name not in known:
                raise UsageError(f"option {name!r} is unknown; expected one of {', '.join(sorted(known))}")
        Sampling(**chosen)  # refuses what is out of range
        for name in chosen:
            if name not in self._service.sampling:
                taken = ", ".join(sorted(self._service.sampling))
                raise RequestRefused(f"{where}: takes no {name}; it takes {taken}")
        thinks = asked.effective != "off"
        if chosen and (row.sampling == "never" or (row.sampling == "not while thinking" and thinks)):
            when = "" if row.sampling == "never" else " while it thinks"
            raise RequestRefused(f"{where}, {self.elsewhere.model}: takes no {min(chosen)}{when}; leave it out")
        return chosen


class HostedStream(AnswerStream[HostedReceipt]):
    """A stream of a hosted model; see `AnswerStream`. `close` closes the connection. Thinking cannot be ended early at
    a service, so `thinking` is False and `answer_now` raises RequestRefused.
    """

    thinking = False

    def __init__(self, elsewhere: Elsewhere, service: Service, wish: Wish, request: dict[str, Any]) -> None:
        super().__init__(self._run(), 1)
        self.request = request
        self._elsewhere = elsewhere
        self._service = service
        self._wish = wish
        self._first: float | None = None

    def answer_now(self, index: int | None = None) -> None:
        raise RequestRefused(f"{self._elsewhere.where}: thinking cannot be ended early there; close the stream")

    def _run(self) -> Generator[Event[HostedReceipt]]:
        where = self._elsewhere.where
        self._started = time.perf_counter()
        end: ServiceEnd | None = None
        events = self._service.events(self.request, self._wish)
        try:
            for event in events:
                if isinstance(event, ServiceEnd):
                    end = event
                    continue
                if self._first is None:
                    self._first = time.perf_counter() - self._started
                yield event
        except Exception as problem:
            error = typed(problem, where, self._elsewhere.key, begun=self._first is not None)
            if error is None:
                raise
            raise self._with_partial(error) from None  # what the library raised may hold the key
        finally:
            events.close()
        if end is None:
            raise self._with_partial(broke_off(where))
        if end.finish == "refused":
            said = f" ({end.said})" if end.said else ""
            raise self._with_partial(Refused(f"{where}: the model will not answer this{said}"), end)
        answer = self._answer(end)
        yield EndEvent(answer.receipt, self._wish.index, answer.state, end.finish, end.stop)

    def _with_partial(self, error: HostedError, end: ServiceEnd | None = None) -> HostedError:
        if self._first is not None:
            error.partial = self._answer(end)
        return error

    def _answer(self, end: ServiceEnd | None) -> Answer[HostedReceipt]:
        """The answer so far. Without an end event it was interrupted, and its price is unknown."""
        e, wish = self._elsewhere, self._wish
        whole = self._wholes[self._wish.index]
        text, thought = whole.text, whole.thinking
        seconds = time.perf_counter() - self._started
        usage = Usage() if end is None else _whole(end.usage, e.row)
        finish = "broken" if end is None else end.finish
        tokens = count(usage, thought, text, tokens_of=e.tokens_of, own=end)
        counted = usage if usage.thinking is not None else replace(usage, thinking=tokens.thinking)
        served = None if end is None else end.model
        receipt = HostedReceipt(
            model=e.name,
            served_as=served,
            id=None if end is None else end.id,
            executor=e.where,
            backbone=e.backbone,
            parameters=e.parameters,
            tokens=tokens,
            thinking=report(wish.asked, tokens, thought, text, finish),
            seconds=seconds,
            time_to_first_token=self._first,
            price=price(e.row.service, e.host, served or e.model, counted, broken=end is None),
            finish=finish,
            limit=wish.limit,
            temperature=wish.sampling.get("temperature"),
            seed=wish.sampling.get("seed"),
            served=None if end is None or end.own is None else dict(end.own),
        )
        record(receipt, lambda: (json.dumps(list(wish.messages), ensure_ascii=False, default=str), text))
        state = None
        if end is not None and end.state:
            state = {"service": e.row.service, "content": text, "items": list(end.state)}
        return Answer(text, thought, receipt, state)


def _messages(prompt: Prompt) -> list[Message]:
    if isinstance(prompt, str):
        return [{"role": "user", "content": prompt}]
    read_conversation(prompt)
    return [as_chat(message) if isinstance(message, ReadMessage) else message for message in prompt]


def _whole(usage: Usage, row: Row) -> Usage:
    """The same with thinking in its output, where the service counts it apart."""
    if not row.apart or (usage.output is None and usage.thinking is None):
        return usage
    return replace(usage, output=(usage.output or 0) + (usage.thinking or 0))
