"""The routes."""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, MutableMapping, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, Response
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Receive, Scope, Send

from trilens.errors import TrilensError
from trilens.serve import chat, completions, messages, responses
from trilens.serve.exchange import Exchange, in_thread
from trilens.serve.faults import Fault, fault_of, refused
from trilens.serve.guard import Guard, Rules
from trilens.serve.metrics import Metrics
from trilens.serve.models import models_list
from trilens.serve.shelf import Shelf
from trilens.serve.streams import EventStream, Gone, unless_gone
from trilens.serve.wire import Fields

PAGE = Path(__file__).parent / "page"
TYPES = {".html": "text/html", ".css": "text/css", ".js": "text/javascript", ".svg": "image/svg+xml"}
GRACE = 30.0  # seconds that running requests have to finish when the server is told to stop
# What is no fault of this server, so that its log needs no traceback.
EXPECTED = ("shutting_down", "time_is_up", "not_loadable", "engine_died", "engine_failed")

log = logging.getLogger("trilens.serve")


class AnswerNow(Fields):
    id: str


def application(shelf: Shelf, rules: Rules | None = None, grace: float = GRACE) -> ASGIApp:
    """The ASGI application that serves these models."""
    metrics = Metrics(shelf)
    return _counted(Guard(_routes(shelf, metrics, grace), rules or Rules()), metrics)


def _counted(app: ASGIApp, metrics: Metrics) -> ASGIApp:
    async def counting(scope: Scope, receive: Receive, send: Send) -> None:
        async def noted(message: MutableMapping[str, Any]) -> None:
            if message["type"] == "http.response.start":
                metrics.answered(getattr(scope.get("route"), "path", "other"), message["status"])
            await send(message)

        await app(scope, receive, noted)

    return counting


def _routes(shelf: Shelf, metrics: Metrics, grace: float) -> FastAPI:
    exchanges: dict[str, Exchange] = {}

    @asynccontextmanager
    async def life(app: FastAPI) -> AsyncIterator[None]:
        yield
        await asyncio.to_thread(shelf.close, grace)

    app = FastAPI(title="trilens", version="1", docs_url=None, redoc_url=None, lifespan=life)

    @app.exception_handler(RequestValidationError)
    async def not_valid(request: Request, problem: RequestValidationError) -> Response:
        return _answer(request, _field_fault(problem.errors()))

    @app.exception_handler(HTTPException)
    async def no_route(request: Request, problem: HTTPException) -> Response:
        said = f"{request.method} {request.url.path:.80}: {problem.detail}"
        return _answer(request, refused(said, status=problem.status_code))

    @app.exception_handler(Gone)
    async def gone(request: Request, problem: Exception) -> Response:
        return Response(status_code=499)  # nobody reads it

    @app.exception_handler(TrilensError)
    @app.exception_handler(Exception)
    async def failed(request: Request, problem: Exception) -> Response:
        return _answer(request, _logged(problem))

    def done(exchange: Exchange) -> None:
        exchanges.pop(exchange.id, None)
        for call in exchange.running.calls:
            if call.receipt is not None:
                metrics.finished(call.receipt)

    async def whole(request: Request, exchange: Exchange, body: Awaitable[dict[str, Any]]) -> Response:
        exchanges[exchange.id] = exchange
        try:
            return _json(await unless_gone(request.receive, body))
        finally:
            exchange.running.cancel()
            done(exchange)

    def streamed(exchange: Exchange, pieces: AsyncIterator[bytes], fail: Callable[[Fault], bytes]) -> Response:
        exchanges[exchange.id] = exchange

        async def body() -> AsyncGenerator[bytes]:
            try:
                async for piece in pieces:
                    yield piece
            except Exception as problem:
                yield fail(_logged(problem))
            finally:
                exchange.running.cancel()
                done(exchange)

        return EventStream(body())

    @app.post("/v1/chat/completions")
    async def chat_completions(request: Request, body: chat.ChatRequest) -> Response:
        exchange = await unless_gone(request.receive, chat.begin_chat(await shelf.pump(body.model), body))
        if not body.stream:
            return await whole(request, exchange, chat.whole_chat(exchange, body))
        return streamed(exchange, chat.chat_chunks(exchange, body), _openai_failure)

    @app.post("/v1/completions")
    async def text_completions(request: Request, body: completions.CompletionRequest) -> Response:
        exchange = await unless_gone(request.receive, completions.begin_completion(await shelf.pump(body.model), body))
        if not body.stream:
            return await whole(request, exchange, completions.whole_completion(exchange, body))
        return streamed(exchange, completions.completion_chunks(exchange, body), _openai_failure)

    @app.post("/v1/responses")
    async def response(request: Request, body: responses.ResponseRequest) -> Response:
        exchange = await unless_gone(request.receive, responses.begin_response(await shelf.pump(body.model), body))
        if not body.stream:
            return await whole(request, exchange, responses.whole_response(exchange, body))
        events = responses.response_events(exchange, body)
        return streamed(exchange, _named((event["type"], event) async for event in events), _response_failure)

    @app.post("/v1/messages")
    async def anthropic_messages(request: Request, body: messages.MessagesRequest) -> Response:
        exchange = await unless_gone(request.receive, messages.begin_messages(await shelf.pump(body.model), body))
        if not body.stream:
            return await whole(request, exchange, messages.whole_message(exchange))
        return streamed(exchange, _named(messages.message_events(exchange)), _anthropic_failure)

    @app.post("/v1/messages/count_tokens")
    async def count_tokens(body: messages.Prompted) -> Response:
        pump = await shelf.pump(body.model)
        return _json(await in_thread(body.messages, lambda: messages.count_tokens(pump, body)))

    @app.post("/v1/trilens/answer_now")
    async def answer_now(body: AnswerNow) -> Response:
        exchange = exchanges.get(body.id)
        if exchange is None:
            fault = refused(f"no request {body.id!r:.80} is running", status=404, param="id")
            return JSONResponse(fault.openai(), fault.status)
        exchange.running.answer_now()
        return _json({"id": body.id, "done": True})

    @app.get("/v1/models")
    async def models() -> Response:
        return _json(await asyncio.to_thread(models_list, shelf))

    @app.get("/healthz")
    async def healthz() -> Response:
        return _json({"status": "ok"})

    @app.get("/metrics")
    async def prometheus() -> Response:
        return Response(metrics.page(), media_type="text/plain; version=0.0.4")

    @app.get("/", include_in_schema=False)
    async def index() -> Response:
        return _file("index.html")

    @app.get("/{name}", include_in_schema=False)
    async def part(name: str) -> Response:
        return _file(name)

    return app


def _file(name: str) -> Response:
    """A file of the page. Its name is one that stands in the folder, so no path leads out of it."""
    known = {path.name: path for path in PAGE.iterdir() if path.suffix in TYPES}
    if name not in known:
        raise HTTPException(404, "there is no such page")
    return Response(known[name].read_bytes(), media_type=f"{TYPES[known[name].suffix]}; charset=utf-8")


def _json(content: Any) -> Response:
    return JSONResponse(content)


async def _named(events: AsyncIterator[tuple[str, dict[str, Any]]]) -> AsyncIterator[bytes]:
    async for event in events:
        yield messages.as_event(event)


def _openai_failure(fault: Fault) -> bytes:
    return chat.as_data(fault.openai())


def _response_failure(fault: Fault) -> bytes:
    error = {"type": "error", "code": fault.code, "message": fault.message, "param": None, "sequence_number": 0}
    return messages.as_event(("error", error))


def _anthropic_failure(fault: Fault) -> bytes:
    return messages.as_event(("error", fault.anthropic()))


def _answer(request: Request, fault: Fault) -> Response:
    body = fault.anthropic() if request.url.path.startswith("/v1/messages") else fault.openai()
    return JSONResponse(body, fault.status, headers=fault.headers)


def _logged(problem: BaseException) -> Fault:
    fault = fault_of(problem)
    if fault.status >= 500 and fault.code not in EXPECTED:
        log.error("a request failed", exc_info=problem)
    return fault


def _field_fault(errors: Sequence[Any]) -> Fault:
    """One line for the first field that is wrong."""
    first = errors[0]
    place = ".".join(str(part) for part in first["loc"] if part != "body")
    if first["type"] == "extra_forbidden":
        return refused(f"{place} is not known here; leave it out", param=place, code="unknown_parameter")
    if first["type"] == "json_invalid":
        return refused("the body is not JSON")
    if first["type"] == "missing":
        return refused(f"{place or 'the body'} is missing", param=place or None)
    if isinstance(first.get("input"), bytes):
        return refused("the body was not read as JSON; send it with Content-Type: application/json")
    given = json.dumps(first.get("input"), default=str, ensure_ascii=False)[:60]
    return refused(f"{place or 'the body'} is {given}; {first['msg'].lower()}", param=place or None)
