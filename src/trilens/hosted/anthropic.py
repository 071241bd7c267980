"""Anthropic's Messages: blocks of thinking with a signature, redacted ones, and blocks of text."""

from __future__ import annotations

from collections.abc import Generator, Iterator
from typing import Any

from trilens.errors import RequestRefused
from trilens.hosted.service import Finish, FromService, ServiceEnd, Usage, Wish, plain, state_of
from trilens.text.events import TextEvent, ThinkingEvent

FINISHES: dict[str, Finish] = {
    "max_tokens": "length",
    "stop_sequence": "stop_string",
    "refusal": "refused",
    "model_context_window_exceeded": "context",
}


class Messages:
    """`client` is anthropic's."""

    name = "anthropic"
    wants_limit = True
    sampling = frozenset({"temperature", "top_p", "top_k"})

    def __init__(self, client: Any) -> None:
        self._client = client

    def close(self) -> None:
        self._client.close()

    def request(self, wish: Wish) -> dict[str, Any]:
        system = [m.get("content") for m in wish.messages if m.get("role") == "system"]
        if any(not isinstance(text, str) for text in system):
            raise RequestRefused("a system message is not a text; expected one")
        turns = [m for m in wish.messages if m.get("role") != "system"]
        messages = [{**plain(m), "content": list(state_of(m, self.name)) or m.get("content")} for m in turns]
        request: dict[str, Any] = {"model": wish.model, "messages": messages, "stream": True}
        request["max_tokens"] = wish.limit
        if system:
            request["system"] = "\n\n".join(str(text) for text in system)
        if wish.stop:
            request["stop_sequences"] = list(wish.stop)
        if wish.sampling:
            request["extra_body"] = dict(wish.sampling)  # the library has no arguments for them, older models do
        return {**request, **wish.asked.request}

    def events(self, request: dict[str, Any], wish: Wish) -> Generator[FromService]:
        blocks: list[dict[str, Any]] = []
        usage: dict[str, Any] = {}
        finish: str | None = None
        said, model, identity, ended = "", None, None, False
        with self._client.messages.create(**request) as stream:
            for event in stream:
                match event.type:
                    case "message_start":
                        model, identity = event.message.model, event.message.id
                        usage.update(_known(event.message.usage))
                    case "content_block_start":
                        blocks.append(event.content_block.model_dump(mode="json", exclude_unset=True))
                        yield from _shown(blocks[-1], wish.index)
                    case "content_block_delta":
                        yield from _joined(blocks[-1], event.delta, wish.index)
                    case "message_delta":
                        usage.update(_known(event.usage))
                        finish = event.delta.stop_reason or finish
                        details = getattr(event.delta, "stop_details", None)
                        said = getattr(details, "explanation", None) or said
                    case "message_stop":
                        ended = True
        if ended:
            reason = FINISHES.get(finish or "", "stop")
            yield ServiceEnd(reason, _usage(usage), tuple(blocks), said, model, identity)


def _shown(block: dict[str, Any], index: int) -> Iterator[FromService]:
    if block.get("type") == "thinking" and block.get("thinking"):
        yield ThinkingEvent(block["thinking"], index)
    elif block.get("type") == "text" and block.get("text"):
        yield TextEvent(block["text"], index)


def _joined(block: dict[str, Any], delta: Any, index: int) -> Iterator[FromService]:
    """The delta put into its block; what there is to show of it."""
    match delta.type:
        case "thinking_delta":
            block["thinking"] = block.get("thinking", "") + delta.thinking
            if delta.thinking:
                yield ThinkingEvent(delta.thinking, index)
        case "signature_delta":
            block["signature"] = delta.signature
        case "text_delta":
            block["text"] = block.get("text", "") + delta.text
            if delta.text:
                yield TextEvent(delta.text, index)


def _known(usage: Any) -> dict[str, Any]:
    """The counts that are stated; later ones replace earlier ones."""
    return {name: value for name, value in usage.model_dump().items() if value is not None} if usage else {}


def _usage(usage: dict[str, Any]) -> Usage:
    fresh, cached, written = (
        usage.get(name) for name in ("input_tokens", "cache_read_input_tokens", "cache_creation_input_tokens")
    )
    return Usage(
        prompt=None if fresh is None else fresh + (cached or 0) + (written or 0),
        cached=cached,
        written=written,
        output=usage.get("output_tokens"),
        thinking=(usage.get("output_tokens_details") or {}).get("thinking_tokens"),
    )
