"""OpenAI's Responses: items of reasoning, with a summary and an encrypted state, and items of the answer."""

from __future__ import annotations

from collections.abc import Generator
from typing import Any

from trilens.errors import RequestRefused
from trilens.hosted.service import Finish, FromService, ServiceEnd, Usage, Wish, plain, state_of
from trilens.text.conversation import ChatMessage as Message
from trilens.text.events import TextEvent, ThinkingEvent

INCOMPLETE: dict[str, Finish] = {"max_output_tokens": "length", "content_filter": "refused"}


class Failed(Exception):
    """The service reported a failure inside the stream."""

    def __init__(self, message: str, code: str | None) -> None:
        super().__init__(message)
        self.status_code = {"rate_limit_exceeded": 429, "server_error": 500}.get(code or "", 500)


class Responses:
    """`client` is openai's. Nothing is stored at the service; the state is sent with every turn."""

    name = "openai"
    wants_limit = False
    sampling = frozenset({"temperature", "top_p"})

    def __init__(self, client: Any) -> None:
        self._client = client

    def close(self) -> None:
        self._client.close()

    def request(self, wish: Wish) -> dict[str, Any]:
        if wish.stop:
            raise RequestRefused("OpenAI's Responses takes no stop strings; leave `stop` out")
        items = [item for message in wish.messages for item in _items(message)]
        request = {"model": wish.model, "input": items, "stream": True, "store": False, **wish.sampling}
        if wish.row.thinks:
            request["include"] = ["reasoning.encrypted_content"]
        if wish.limit is not None:
            request["max_output_tokens"] = wish.limit
        return {**request, **wish.asked.request}

    def events(self, request: dict[str, Any], wish: Wish) -> Generator[FromService]:
        state: list[dict[str, Any]] = []
        refusal = ""
        begun = False  # whether an earlier part of the summary was written
        with self._client.responses.create(**request) as stream:
            for event in stream:
                match event.type:
                    case "response.reasoning_summary_part.added":
                        if begun:
                            yield ThinkingEvent("\n\n", wish.index)
                    case "response.reasoning_summary_text.delta" | "response.reasoning_text.delta":
                        begun = True
                        yield ThinkingEvent(event.delta, wish.index)
                    case "response.output_text.delta":
                        yield TextEvent(event.delta, wish.index)
                    case "response.refusal.delta":
                        refusal += event.delta
                    case "response.output_item.done":  # only here the encrypted content is whole
                        state.append(event.item.model_dump(mode="json", exclude_unset=True))
                    case "response.completed" | "response.incomplete":
                        yield _end(event.response, state, refusal)
                    case "response.failed":
                        error = event.response.error
                        raise Failed(
                            error.message if error else "it failed without giving a reason", error and error.code
                        )
                    case "error":
                        raise Failed(event.message, event.code)


def _end(response: Any, state: list[dict[str, Any]], refusal: str) -> ServiceEnd:
    reason = response.incomplete_details.reason if response.incomplete_details else None
    finish: Finish = "refused" if refusal else "stop" if reason is None else INCOMPLETE.get(reason, "length")
    usage, counts = response.usage, Usage()
    if usage is not None:
        prompt, output = usage.input_tokens_details, usage.output_tokens_details
        counts = Usage(
            prompt=usage.input_tokens,
            cached=getattr(prompt, "cached_tokens", None),
            written=getattr(prompt, "cache_write_tokens", None),
            output=usage.output_tokens,
            thinking=getattr(output, "reasoning_tokens", None),
        )
    return ServiceEnd(finish, counts, tuple(state), refusal, response.model, response.id)


def _items(message: Message) -> list[Any]:
    return list(state_of(message, "openai")) or [plain(message)]
