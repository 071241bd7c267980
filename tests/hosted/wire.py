"""Streams in the vendors' wire formats, each event made and checked by the vendors' own types."""

from __future__ import annotations

import json
from typing import Any

import anthropic.types as a
import openai.types.responses as r
from google.genai.types import GenerateContentResponse
from openai.types import CompletionUsage
from openai.types.chat import ChatCompletionChunk
from pydantic import TypeAdapter

DONE = b"data: [DONE]\n\n"


def _sse(data: Any, event: str | None = None) -> bytes:
    head = "" if event is None else f"event: {event}\n"
    return f"{head}data: {json.dumps(data)}\n\n".encode()


# ------------------------------------------------------------------ OpenAI's chat


def chunk(delta: dict[str, Any] | None = None, finish: str | None = None, **more: Any) -> bytes:
    choices = [] if delta is None else [{"index": 0, "delta": delta, "finish_reason": finish}]
    made = {"id": "c-1", "object": "chat.completion.chunk", "created": 1, "model": "m-1", "choices": choices, **more}
    strict = {**made, "choices": [{**c, "delta": _known(c["delta"])} for c in choices]}
    TypeAdapter(ChatCompletionChunk).validate_python(strict)
    return _sse(made)


def _known(delta: dict[str, Any]) -> dict[str, Any]:
    """Without the lists of one vendor, which is not OpenAI."""
    return {k: v for k, v in delta.items() if not isinstance(v, list)}


def chat_usage(prompt: int, output: int, thinking: int | None = None, cached: int | None = None, **more: Any) -> bytes:
    usage: dict[str, Any] = {"prompt_tokens": prompt, "completion_tokens": output, "total_tokens": prompt + output}
    if thinking is not None:
        usage["completion_tokens_details"] = {"reasoning_tokens": thinking}
    if cached is not None:
        usage["prompt_tokens_details"] = {"cached_tokens": cached}
    CompletionUsage.model_validate(usage)
    return chunk(None, usage={**usage, **more})


def chat(*deltas: dict[str, Any], finish: str = "stop", usage: bytes | None = None) -> list[bytes]:
    ends = [chunk({}, finish), *([] if usage is None else [usage]), DONE]
    return [chunk({"role": "assistant"}), *(chunk(d) for d in deltas), *ends]


# ------------------------------------------------------------------ OpenAI's Responses

RESPONSE_EVENTS: TypeAdapter[Any] = TypeAdapter(r.ResponseStreamEvent)


class ResponsesStream:
    """Events with their running numbers."""

    def __init__(self) -> None:
        self.events: list[bytes] = []
        self.items: list[dict[str, Any]] = []

    def add(self, kind: str, **data: Any) -> ResponsesStream:
        event = {"type": kind, "sequence_number": len(self.events), **data}
        RESPONSE_EVENTS.validate_python(event)
        self.events.append(_sse(event, kind))
        return self

    def reasoning(self, *summaries: str, encrypted: str = "gAAA-1") -> ResponsesStream:
        at, identity = len(self.items), f"rs_{len(self.items)}"
        item = {"id": identity, "type": "reasoning", "summary": [], "encrypted_content": "incomplete"}
        self.add("response.output_item.added", output_index=at, item=item)
        for i, text in enumerate(summaries):
            place = {"item_id": identity, "output_index": at, "summary_index": i}
            self.add("response.reasoning_summary_part.added", part={"type": "summary_text", "text": ""}, **place)
            for half in (text[: len(text) // 2], text[len(text) // 2 :]):
                self.add("response.reasoning_summary_text.delta", delta=half, **place)
            self.add("response.reasoning_summary_text.done", text=text, **place)
            self.add("response.reasoning_summary_part.done", part={"type": "summary_text", "text": text}, **place)
        whole = [{"type": "summary_text", "text": text} for text in summaries]
        self.items.append({**item, "summary": whole, "encrypted_content": encrypted})
        return self.add("response.output_item.done", output_index=at, item=self.items[-1])

    def message(self, *deltas: str) -> ResponsesStream:
        at, identity = len(self.items), f"msg_{len(self.items)}"
        item = {"id": identity, "type": "message", "role": "assistant", "status": "in_progress", "content": []}
        self.add("response.output_item.added", output_index=at, item=item)
        for delta in deltas:
            place = {"item_id": identity, "output_index": at, "content_index": 0}
            self.add("response.output_text.delta", delta=delta, logprobs=[], **place)
        content = [{"type": "output_text", "text": "".join(deltas), "annotations": []}]
        self.items.append({**item, "status": "completed", "content": content})
        return self.add("response.output_item.done", output_index=at, item=self.items[-1])

    def end(
        self, prompt: int = 20, output: int = 9, thinking: int = 0, cached: int = 0, reason: str | None = None
    ) -> list[bytes]:
        kind = "response.completed" if reason is None else "response.incomplete"
        usage = {
            "input_tokens": prompt,
            "input_tokens_details": {"cached_tokens": cached, "cache_write_tokens": 0},
            "output_tokens": output,
            "output_tokens_details": {"reasoning_tokens": thinking},
            "total_tokens": prompt + output,
        }
        return self.add(kind, response=self.response(kind.split(".")[1], reason, usage)).events

    def response(self, status: str, reason: str | None = None, usage: Any = None, error: Any = None) -> dict[str, Any]:
        return {
            "id": "resp_1",
            "object": "response",
            "created_at": 1.0,
            "model": "gpt-5.1-2025-11-13",
            "output": self.items,
            "parallel_tool_calls": True,
            "tool_choice": "auto",
            "tools": [],
            "status": status,
            "incomplete_details": None if reason is None else {"reason": reason},
            "usage": usage,
            "error": error,
        }


# ------------------------------------------------------------------ Anthropic

MESSAGE_EVENTS: TypeAdapter[Any] = TypeAdapter(a.RawMessageStreamEvent)


def _event(data: dict[str, Any]) -> bytes:
    MESSAGE_EVENTS.validate_python(data)
    return _sse(data, data["type"])


def thinking_block(text: str, signature: str) -> list[dict[str, Any]]:
    return [
        {"type": "thinking", "thinking": "", "signature": ""},
        *({"type": "thinking_delta", "thinking": half} for half in (text[:3], text[3:]) if half),
        {"type": "signature_delta", "signature": signature},
    ]


def redacted_block(data: str) -> list[dict[str, Any]]:
    return [{"type": "redacted_thinking", "data": data}]


def text_block(*deltas: str) -> list[dict[str, Any]]:
    return [{"type": "text", "text": ""}, *({"type": "text_delta", "text": delta} for delta in deltas)]


def messages(
    *blocks: list[dict[str, Any]],
    prompt: int = 20,
    output: int = 9,
    thinking: int | None = None,
    cached: int = 0,
    written: int = 0,
    stop: str = "end_turn",
    details: dict[str, Any] | None = None,
) -> list[bytes]:
    usage = {"input_tokens": prompt, "output_tokens": 1}
    usage |= {"cache_read_input_tokens": cached, "cache_creation_input_tokens": written}
    message = {"id": "msg_1", "type": "message", "role": "assistant", "content": [], "model": "claude-opus-4-6"}
    start = {**message, "stop_reason": None, "stop_sequence": None, "usage": usage}
    events = [_event({"type": "message_start", "message": start}), b'event: ping\ndata: {"type": "ping"}\n\n']
    for index, (first, *deltas) in enumerate(blocks):
        events.append(_event({"type": "content_block_start", "index": index, "content_block": first}))
        for delta in deltas:
            events.append(_event({"type": "content_block_delta", "index": index, "delta": delta}))
        events.append(_event({"type": "content_block_stop", "index": index}))
    last: dict[str, Any] = {"output_tokens": output}
    if thinking is not None:
        last["output_tokens_details"] = {"thinking_tokens": thinking}
    delta = {"stop_reason": stop, "stop_sequence": None, **({} if details is None else {"stop_details": details})}
    events.append(_event({"type": "message_delta", "delta": delta, "usage": last}))
    return [*events, _event({"type": "message_stop"})]


# ------------------------------------------------------------------ Gemini


def gemini(*parts: dict[str, Any], finish: str = "STOP", usage: dict[str, int] | None = None) -> list[bytes]:
    """One event a part; the counts come with the last."""
    events = []
    for number, part in enumerate(parts, 1):
        last = number == len(parts)
        candidate: dict[str, Any] = {"index": 0, "content": {"role": "model", "parts": [part]}}
        data: dict[str, Any] = {"candidates": [candidate], "modelVersion": "gemini-2.5-flash", "responseId": "g-1"}
        if last:
            candidate["finishReason"] = finish
            data["usageMetadata"] = usage or {}
        GenerateContentResponse.model_validate(data)
        events.append(_sse(data))
    return events
