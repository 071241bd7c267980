"""A whole answer, and the stream of events that it is put together from."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import AsyncIterator, Awaitable, Callable, Generator, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import cached_property
from types import TracebackType
from typing import TYPE_CHECKING, Any, Generic, Self

from typing_extensions import TypeVar

from trilens.errors import UsageError
from trilens.generate.receipt import Receipt
from trilens.text.events import Event, ToolCall, Whole

if TYPE_CHECKING:
    import asyncio

    from trilens.hosted.receipt import HostedReceipt

R = TypeVar("R", bound="Receipt | HostedReceipt", default=Receipt)  # elsewhere than here a call has another receipt
T = TypeVar("T")


@dataclass(frozen=True)
class Answer(Generic[R]):
    """What the model said, its thinking, and the receipt. Printing it prints the text.

    `calls` are the model's tool calls. `state` is data that a hosted model wants back unchanged with the next turn.
    """

    text: str
    thinking: str
    receipt: R = field(repr=False)
    state: Mapping[str, Any] | None = field(default=None, repr=False)
    calls: tuple[ToolCall, ...] = ()

    @property
    def message(self) -> dict[str, Any]:
        """The message for the next turn of the conversation. The template decides whether the model sees the thinking
        again.
        """
        said: dict[str, Any] = {"role": "assistant", "content": self.text}
        if self.thinking:
            said["thinking"] = self.thinking
        if self.calls:
            said["tool_calls"] = [
                {"id": call.id, "type": "function", "function": {"name": call.name, "arguments": call.arguments}}
                for call in self.calls
            ]
        return said if self.state is None else {**said, "state": self.state}

    def as_dict(self) -> dict[str, Any]:
        """For JSON: the texts, the tool calls, and every field of the receipt."""
        calls = [{"id": call.id, "name": call.name, "arguments": call.arguments} for call in self.calls]
        return {"text": self.text, "thinking": self.thinking, "calls": calls, "receipt": self.receipt.as_dict()}

    def __str__(self) -> str:
        return self.text

    def _repr_html_(self) -> str:
        from trilens.notebook import answer_html

        return answer_html(self.text, self.thinking, self.receipt.as_text())


class AnswerStream(Iterator[Event[R]], AsyncIterator[Event[R]]):
    """Events as they arrive, for `for` and `async for`: `ThinkingEvent`, `TextEvent`, `ToolCallEvent`, and one
    `EndEvent` for each prompt.

    `answer()` reads the rest and returns the whole answer, including what was read before. `await stream` does the same
    without blocking the event loop. `close`, or the end of a `with` block, cancels what still runs. `async for` uses
    its own thread as long as the stream lasts. Cancelling the task cancels the stream.
    """

    def __init__(self, events: Generator[Event[R]], count: int) -> None:
        self._events = events
        self._count = count
        self._wholes: defaultdict[int, Whole[R]] = defaultdict(Whole)
        self._cancelled = False

    def __next__(self) -> Event[R]:
        if self._cancelled:
            self._events.close()
        event = next(self._events)
        self._wholes[event.index].take(event)
        return event

    def close(self) -> None:
        """Cancel what still runs. What has arrived is kept."""
        self._events.close()

    def answers(self) -> list[Answer[R]]:
        """The whole answers, in the order of their prompts. Raises UsageError if the stream was closed early."""
        for _ in self:
            pass
        if len(self._wholes) < self._count or any(whole.ended is None for whole in self._wholes.values()):
            raise UsageError("the stream was closed before its answer had ended; read it to the end")
        return _answers(self._wholes[index] for index in sorted(self._wholes))

    def answer(self) -> Answer[R]:
        """The whole answer. Raises UsageError if there are several, or if the stream was closed before its end."""
        if self._count != 1:
            raise UsageError(f"the stream has {self._count} answers; expected one, or use answers()")
        return self.answers()[0]

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, problem: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    # ---- for event loops: the same calls in a thread ----

    async def __anext__(self) -> Event[R]:
        event = await self._in_thread(lambda: next(self, None))
        if event is None:
            raise StopAsyncIteration
        return event

    def __await__(self) -> Generator[Any, None, Answer[R]]:
        return self._in_thread(self.answer).__await__()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, problem: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._in_thread(self.close)

    async def aclose(self) -> None:
        await self._in_thread(self.close)

    def _in_thread(self, work: Callable[[], T]) -> Awaitable[T]:
        import asyncio

        return self._shielded(asyncio.get_running_loop().run_in_executor(self._thread, work))

    async def _shielded(self, running: asyncio.Future[T]) -> T:
        import asyncio

        try:
            return await asyncio.shield(running)
        except asyncio.CancelledError:
            # A thread cannot be cancelled, so it is told to end. It ends with the event that it waits for.
            self._cancelled = True
            self._cancel()
            self._thread.submit(self.close)
            running.add_done_callback(lambda done: done.cancelled() or done.exception())
            raise

    @cached_property
    def _thread(self) -> ThreadPoolExecutor:
        return ThreadPoolExecutor(1, thread_name_prefix="answer")

    def _cancel(self) -> None:
        """Called from another thread than the one that reads."""


def fold(events: Iterable[Event[R]], count: int) -> list[Answer[R]]:
    """A stream's events -> whole answers, in the order of their prompts."""
    answers: list[Whole[R]] = [Whole() for _ in range(count)]
    for event in events:
        answers[event.index].take(event)
    return _answers(answers)


def _answers(wholes: Iterable[Whole[R]]) -> list[Answer[R]]:
    return [
        Answer(a.text, a.thinking, a.ended.receipt, a.ended.state, tuple(a.calls))
        for a in wholes
        if a.ended is not None
    ]
