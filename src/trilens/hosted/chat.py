"""OpenAI's chat, as services and engines beside OpenAI speak it: both names of the thoughts, both forms of content."""

from __future__ import annotations

from collections.abc import Generator, Iterator, Mapping
from typing import Any

from trilens.hosted.service import INLINE, Finish, FromService, ServiceEnd, Usage, Wish, plain, state_of
from trilens.hosted.table import Row
from trilens.text.conversation import ChatMessage as Message
from trilens.text.events import TextEvent, ThinkingEvent
from trilens.text.thinking import Markers, Start
from trilens.text.thoughts import Piece, ThoughtSplitter

FINISHES: dict[str, Finish] = {"length": "length", "content_filter": "refused"}
BROKEN = ("abort", "error")  # what engines say when they gave the request up
OPENAI = ("temperature", "top_p", "presence_penalty", "frequency_penalty", "seed")
ENGINES = ("top_k", "min_p", "repetition_penalty")  # not OpenAI's; engines take them beside


class Chat:
    """One server. `client` is openai's."""

    wants_limit = False

    def __init__(self, client: Any, row: Row) -> None:
        self.name = row.service
        self.sampling = frozenset(OPENAI if row.hosts else (*OPENAI, *ENGINES))
        self._client = client

    def close(self) -> None:
        self._client.close()

    def request(self, wish: Wish) -> dict[str, Any]:
        extra = {**wish.asked.request, **{k: v for k, v in wish.sampling.items() if k in ENGINES}, **wish.extra}
        messages = [_message(m, wish.row, self.name) for m in wish.messages]
        request: dict[str, Any] = {"model": wish.model, "messages": messages, "stream": True}
        request["stream_options"] = {"include_usage": True}
        request.update({k: v for k, v in wish.sampling.items() if k in OPENAI})
        if wish.limit is not None:
            request[wish.row.limit] = wish.limit
        if wish.stop:
            request["stop"] = list(wish.stop)
        return {**request, "extra_body": extra} if extra else request

    def events(self, request: dict[str, Any], wish: Wish) -> Generator[FromService]:
        reader = Reader(told_off=_told_off(wish), markers=wish.markers, start=wish.start, index=wish.index)
        with self._client.chat.completions.create(**request) as stream:
            for chunk in stream:
                yield from reader.read(chunk.model_dump(exclude_unset=True, warnings=False))
        yield from reader.finish()


class Reader:
    """Chunks -> events. `told_off`: a parser that assumes thinking puts a whole answer under its thoughts when there
    was none; so thoughts wait for the first piece of answer, and where none comes they are the answer."""

    def __init__(
        self, *, told_off: bool = False, markers: Markers = INLINE, start: Start = "free", index: int = 0
    ) -> None:
        self._told_off = told_off
        self._held: list[str] = []
        self._splitter = ThoughtSplitter(markers, start, index=index)
        self._index = index
        self._separate = False
        self._thought = False
        self._finish: str | None = None
        self._stop: Any = None
        self._usage: Mapping[str, Any] = {}
        self._details: list[Any] = []
        self._refusal = ""
        self._own: Mapping[str, Any] | None = None
        self._model: str | None = None
        self._id: str | None = None
        self._said = False

    def read(self, chunk: Mapping[str, Any]) -> Iterator[FromService]:
        self._model = chunk.get("model") or self._model
        self._id = chunk.get("id") or self._id
        self._usage = chunk.get("usage") or self._usage
        own = chunk.get("trilens")
        if isinstance(own, Mapping) and isinstance(own.get("receipt"), Mapping):
            self._own = own["receipt"]
        for choice in chunk.get("choices") or ():  # the last chunk may have none
            self._finish = choice.get("finish_reason") or self._finish
            self._stop = choice.get("stop_reason") or choice.get("matched_stop") or self._stop  # vLLM's and SGLang's
            yield from self._delta(choice.get("delta") or {})

    def finish(self) -> Iterator[FromService]:
        """What was held back, and the end; nothing of an end where the stream broke off."""
        yield from self._pieces(self._splitter.finish())
        if self._finish is None or self._finish in BROKEN:
            return
        held = "".join(self._held)
        if held:
            yield (
                ThinkingEvent(held, self._index)
                if self._said or self._finish != "stop"
                else TextEvent(held, self._index)
            )
        state = tuple(self._details)
        stop = (
            self._stop if self._finish == "stop" and isinstance(self._stop, str) else None
        )  # a number is an end token
        usual: Finish = "stop" if stop is None else "stop_string"
        finish: Finish = "refused" if self._refusal else FINISHES.get(self._finish, usual)
        yield ServiceEnd(finish, _usage(self._usage), state, self._refusal, self._model, self._id, self._own, stop)

    def _delta(self, delta: Mapping[str, Any]) -> Iterator[FromService]:
        details = [d for d in delta.get("reasoning_details") or () if isinstance(d, Mapping)]
        _join(self._details, details)
        thought = _text(delta.get("reasoning_content")) or _text(delta.get("reasoning"))
        thought = thought or "".join(_text(d.get("text")) or _text(d.get("summary")) for d in details)
        if thought:
            self._separate = True
            if not self._thought:
                thought = thought.lstrip("\n")  # what stood behind the marker that the server took out
        if thought:
            self._thought = True
            if self._told_off and not self._said:
                self._held.append(thought)
            else:
                yield ThinkingEvent(thought, self._index)
        self._refusal += _text(delta.get("refusal"))
        content = delta.get("content")
        for chunk in content if isinstance(content, list) else [content]:
            yield from self._content(chunk)

    def _content(self, content: Any) -> Iterator[FromService]:
        """A text, or a chunk {"type": "thinking", "thinking": [texts]} or {"type": "text", "text": ...}."""
        if isinstance(content, Mapping):
            if content.get("type") == "thinking":
                self._separate = True
                text = "".join(_text(t.get("text")) for t in content.get("thinking") or () if isinstance(t, Mapping))
                if text:
                    yield ThinkingEvent(text, self._index)
                return
            content = content.get("text")
        text = _text(content)
        if text and self._separate:
            yield from self._answer(text)
        elif text:
            yield from self._pieces(self._splitter.push(text))

    def _pieces(self, pieces: list[Piece]) -> Iterator[FromService]:
        for piece in pieces:
            if isinstance(piece, ThinkingEvent):
                yield piece
            elif isinstance(piece, TextEvent):
                yield from self._answer(piece.text, piece)

    def _answer(self, text: str, event: TextEvent | None = None) -> Iterator[FromService]:
        """`event` is the one that holds this text, where there is one already."""
        if self._held:
            yield ThinkingEvent("".join(self._held), self._index)
            self._held.clear()
        if not self._said and self._separate:
            text, event = text.lstrip("\n"), None  # what stood behind the marker that the server took out
        if text:
            self._said = True
            yield TextEvent(text, self._index) if event is None else event


def _told_off(wish: Wish) -> bool:
    """Whether the template was told not to think: only then a parser can mistake an answer for thoughts."""
    return wish.asked.effective == "off" and "chat_template_kwargs" in wish.asked.request


def _message(message: Message, row: Row, service: str) -> dict[str, Any]:
    made = plain(message, "tool_calls", "tool_call_id")
    if message["role"] == "assistant":
        if details := state_of(message, service):
            made["reasoning_details"] = list(details)
        elif row.replay and message.get("thinking"):
            made[row.replay] = message["thinking"]
    return made


def _usage(usage: Mapping[str, Any]) -> Usage:
    prompt, output = usage.get("prompt_tokens_details") or {}, usage.get("completion_tokens_details") or {}
    thinking = output.get("reasoning_tokens")
    return Usage(
        prompt=usage.get("prompt_tokens"),
        cached=prompt.get("cached_tokens"),
        written=prompt.get("cache_write_tokens"),
        output=usage.get("completion_tokens"),
        thinking=usage.get("reasoning_tokens") if thinking is None else thinking,
    )


def _join(details: list[Any], new: list[Mapping[str, Any]]) -> None:
    """Pieces of the same detail become one: texts are joined, the rest is as it came last."""
    for piece in new:
        last = details[-1] if details else None
        if last is not None and last.get("type") == piece.get("type") and last.get("index") == piece.get("index"):
            for name, value in piece.items():
                joins = name in ("text", "summary", "data") and isinstance(last.get(name), str)
                last[name] = last[name] + value if joins and isinstance(value, str) else value
        else:
            details.append(dict(piece))


def _text(value: Any) -> str:
    return value if isinstance(value, str) else ""
