"""Gemini's generateContent: parts that are thoughts and parts that are not, any of which may carry a signature."""

from __future__ import annotations

from collections.abc import Generator
from typing import Any

from trilens.errors import RequestRefused
from trilens.hosted.service import Finish, FromService, ServiceEnd, Usage, Wish, state_of
from trilens.text.conversation import ChatMessage as Message
from trilens.text.events import TextEvent, ThinkingEvent

FINISHES: dict[str, Finish] = {"STOP": "stop", "MAX_TOKENS": "length"}
REFUSALS = {"SAFETY", "RECITATION", "BLOCKLIST", "PROHIBITED_CONTENT", "SPII", "LANGUAGE", "ESCALATION", "MODEL_ARMOR"}
NAMES = {"presence_penalty", "frequency_penalty", "temperature", "top_p", "top_k", "seed"}


class Gemini:
    """`client` is google-genai's."""

    name = "gemini"
    wants_limit = False
    sampling = frozenset(NAMES)

    def __init__(self, client: Any) -> None:
        self._client = client

    def close(self) -> None:
        self._client.close()

    def request(self, wish: Wish) -> dict[str, Any]:
        system = [str(m.get("content")) for m in wish.messages if m.get("role") == "system"]
        config: dict[str, Any] = {**wish.sampling, **wish.asked.request}
        if system:
            config["system_instruction"] = "\n\n".join(system)
        if wish.limit is not None:
            config["max_output_tokens"] = wish.limit
        if wish.stop:
            config["stop_sequences"] = list(wish.stop)
        turns = [_content(m) for m in wish.messages if m.get("role") != "system"]
        return {"model": wish.model, "contents": turns, "config": config}

    def events(self, request: dict[str, Any], wish: Wish) -> Generator[FromService]:
        state: list[dict[str, Any]] = []
        usage: Any = None
        finish: str | None = None
        said, model, identity = "", None, None
        stream = self._client.models.generate_content_stream(**request)
        try:
            for chunk in stream:
                usage = chunk.usage_metadata or usage
                model, identity = chunk.model_version or model, chunk.response_id or identity
                feedback = chunk.prompt_feedback
                if feedback is not None and feedback.block_reason is not None:
                    finish, said = "SAFETY", f"the prompt was blocked: {_word(feedback.block_reason)}"
                for candidate in chunk.candidates or ():
                    finish = _word(candidate.finish_reason) or finish
                    said = candidate.finish_message or said
                    for part in (candidate.content.parts or ()) if candidate.content else ():
                        state.append(part.model_dump(mode="json", by_alias=True, exclude_none=True))
                        if part.text:
                            yield (
                                ThinkingEvent(part.text, wish.index)
                                if part.thought
                                else TextEvent(part.text, wish.index)
                            )
        finally:
            stream.close()
        if finish is not None:
            yield ServiceEnd(_finish(finish), _usage(usage), tuple(state), said or finish, model, identity)


def _content(message: Message) -> dict[str, Any]:
    role, content = message.get("role"), message.get("content")
    if role not in ("user", "assistant"):
        raise RequestRefused(f"a message's role is {role!r}; expected system, user or assistant")
    if role == "assistant" and (parts := state_of(message, "gemini")):
        return {"role": "model", "parts": list(parts)}
    texts = [content] if isinstance(content, str) else [p.get("text") for p in content or ()]
    if not texts or any(not isinstance(text, str) for text in texts):
        raise RequestRefused("a message holds something that is not text; expected texts")
    return {"role": "model" if role == "assistant" else "user", "parts": [{"text": text} for text in texts]}


def _finish(reason: str) -> Finish:
    return FINISHES.get(reason, "refused" if reason in REFUSALS else "stop")


def _word(value: Any) -> str | None:
    return None if value is None else str(getattr(value, "value", value))


def _usage(usage: Any) -> Usage:
    """Its count of the answer has no thoughts in it; the table says so."""
    if usage is None:
        return Usage()
    return Usage(
        prompt=usage.prompt_token_count,
        cached=usage.cached_content_token_count,
        output=usage.candidates_token_count,
        thinking=usage.thoughts_token_count,
    )
