"""The routes."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, MutableMapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import replace
from functools import partial
from typing import Any, TypeVar

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, Response
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Receive, Scope, Send

from trilens.errors import TrilensError
from trilens.serve import chat, completions, lesson, messages, responses, tokens
from trilens.serve.body import BadBody, JsonRoute
from trilens.serve.chat_run import ChatRun, in_thread
from trilens.serve.faults import Fault, fault_of, refused
from trilens.serve.fields import Fields, shown, together
from trilens.serve.guard import Guard, Rules
from trilens.serve.inside import AttentionRequest, LensRequest, Looks
from trilens.serve.loop import Serving
from trilens.serve.metrics import Metrics
from trilens.serve.models import models_list, one_model
from trilens.serve.page_files import PAGE, code_file, page_file
from trilens.serve.registry import ModelRegistry
from trilens.serve.response_items import KeptItems
from trilens.serve.streams import EventStream, Gone, unless_gone
from trilens.serve.wire import as_json

GRACE = 30.0  # seconds that running requests have to finish when the server is told to stop
# What is no fault of this server, so that its log needs no traceback.
EXPECTED = ("shutting_down", "time_is_up", "not_loadable", "loop_failed", "engine_died", "engine_failed")

KINDS = ("described", "hosted")  # what `kind_of_tool` calls them

log = logging.getLogger("trilens.serve")


A = TypeVar("A", chat.ChatRequest, completions.CompletionRequest, responses.ResponseRequest, messages.MessagesRequest)


class AnswerNow(Fields):
    id: str


def application(registry: ModelRegistry, rules: Rules | None = None, grace: float = GRACE) -> ASGIApp:
    """The ASGI application that serves these models."""
    metrics = Metrics(registry)
    return _with_head(_counted(Guard(_routes(registry, metrics, grace), rules or Rules()), metrics))


def _with_head(app: ASGIApp) -> ASGIApp:
    """HEAD is GET without the body, at every route."""

    async def answered(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["method"] != "HEAD":
            return await app(scope, receive, send)

        async def bare(message: MutableMapping[str, Any]) -> None:
            await send({**message, "body": b""} if message["type"] == "http.response.body" else message)

        return await app({**scope, "method": "GET"}, receive, bare)

    return answered


def _counted(app: ASGIApp, metrics: Metrics) -> ASGIApp:
    async def counting(scope: Scope, receive: Receive, send: Send) -> None:
        async def noted(message: MutableMapping[str, Any]) -> None:
            if message["type"] == "http.response.start":
                metrics.answered(getattr(scope.get("route"), "path", "other"), message["status"])
            await send(message)

        await app(scope, receive, noted)

    return counting


def _routes(registry: ModelRegistry, metrics: Metrics, grace: float) -> FastAPI:
    chat_runs: dict[str, ChatRun] = {}
    kept, looks = KeptItems(), Looks()

    @asynccontextmanager
    async def life(app: FastAPI) -> AsyncIterator[None]:
        yield
        await asyncio.to_thread(registry.close, grace)

    app = FastAPI(title="trilens", version="1", docs_url=None, redoc_url=None, lifespan=life, redirect_slashes=False)
    app.router.route_class = JsonRoute

    @app.exception_handler(RequestValidationError)
    async def not_valid(request: Request, problem: RequestValidationError) -> Response:
        return _answer(request, _field_fault(problem.errors(), problem.body))

    @app.exception_handler(BadBody)
    async def no_json(request: Request, problem: BadBody) -> Response:
        return _answer(request, problem.fault)

    @app.exception_handler(HTTPException)
    async def no_route(request: Request, problem: HTTPException) -> Response:
        said = f"{request.method} {request.scope['path']:.80}: {problem.detail}"
        return _answer(request, refused(said, status=problem.status_code))

    @app.exception_handler(Gone)
    async def gone(request: Request, problem: Exception) -> Response:
        return Response(status_code=499)  # nobody reads it

    @app.exception_handler(TrilensError)
    @app.exception_handler(Exception)
    async def failed(request: Request, problem: Exception) -> Response:
        return _answer(request, _logged(problem))

    def done(chat_run: ChatRun) -> None:
        chat_run.running.cancel()
        chat_runs.pop(chat_run.id, None)
        for call in chat_run.running.calls:
            if call.receipt is not None:
                metrics.finished(call.receipt)

    async def answered(
        request: Request,
        asked: A,
        begin: Callable[[Serving, A], Awaitable[ChatRun]],
        whole: Callable[[ChatRun, A], Awaitable[dict[str, Any]]],
        pieces: Callable[[ChatRun, A], AsyncIterator[bytes]],
        fail: Callable[[Fault], bytes],
    ) -> Response:
        """The model is leased from here to the end of the answer, streamed or not."""
        async with AsyncExitStack() as held:
            loop = await held.enter_async_context(registry.lease(asked.model))
            chat_run = await unless_gone(request.receive, begin(loop, asked))
            held.callback(done, chat_run)
            chat_runs[chat_run.id] = chat_run
            if asked.stream:
                over = held.pop_all().aclose
                return EventStream(_guarded(pieces(chat_run, asked), fail, over), over)
            return _json(await unless_gone(request.receive, whole(chat_run, asked)))

    @app.post("/v1/chat/completions")
    async def chat_completions(request: Request, body: chat.ChatRequest) -> Response:
        return await answered(request, body, chat.begin_chat, chat.whole_chat, chat.chat_chunks, _openai_failure)

    @app.post("/v1/completions")
    async def text_completions(request: Request, body: completions.CompletionRequest) -> Response:
        ways = completions.begin_completion, completions.whole_completion, completions.completion_chunks
        return await answered(request, body, *ways, _openai_failure)

    @app.post("/v1/responses")
    async def response(request: Request, body: responses.ResponseRequest) -> Response:
        def pieces(chat_run: ChatRun, body: responses.ResponseRequest) -> AsyncIterator[bytes]:
            return _named((event["type"], event) async for event in responses.response_events(chat_run, body, kept))

        begin = partial(responses.begin_response, kept=kept)
        return await answered(
            request, body, begin, partial(responses.whole_response, kept=kept), pieces, _response_failure
        )

    @app.post("/v1/messages")
    async def anthropic_messages(request: Request, body: messages.MessagesRequest) -> Response:
        def pieces(chat_run: ChatRun, body: messages.MessagesRequest) -> AsyncIterator[bytes]:
            return _named(messages.message_events(chat_run, body))

        ways = messages.begin_messages, messages.whole_message, pieces
        return await answered(request, body, *ways, _anthropic_failure)

    @app.post("/v1/messages/count_tokens")
    async def count_tokens(body: messages.Prompted) -> Response:
        async with registry.lease(body.model) as loop:
            return _json(await in_thread(body.messages, lambda: messages.count_tokens(loop, body)))

    @app.post("/v1/trilens/answer_now")
    async def answer_now(body: AnswerNow) -> Response:
        chat_run = chat_runs.get(body.id)
        if chat_run is None:
            fault = refused(f"no request {body.id!r:.80} is running", status=404, param="id")
            return JSONResponse(fault.openai(), fault.status)
        chat_run.running.answer_now()
        return _json({"id": body.id, "done": True})

    @app.post("/v1/trilens/card")
    async def posted_card(body: lesson.CardRequest) -> Response:
        return _json(await in_thread(body.config, lambda: lesson.posted_card(body)))

    @app.post("/v1/trilens/attention")
    async def attention(request: Request, body: AttentionRequest) -> Response:
        async with registry.lease(body.model) as loop:
            return _json(await unless_gone(request.receive, looks.attention(loop, body)))

    @app.post("/v1/trilens/logit_lens")
    async def logit_lens(request: Request, body: LensRequest) -> Response:
        async with registry.lease(body.model) as loop:
            return _json(await unless_gone(request.receive, looks.lens(loop, body)))

    @app.get("/v1/trilens/questions")
    async def questions(count: int = 40) -> Response:
        return _json(await asyncio.to_thread(lesson.questions, count))

    @app.get("/v1/models")
    async def models(request: Request) -> Response:
        listed = partial(models_list, registry, anthropic=_is_anthropic(request))
        return _json(await asyncio.to_thread(listed))

    @app.get("/v1/models/{name:path}")
    async def model(name: str, request: Request) -> Response:
        found = partial(one_model, registry, name, anthropic=_is_anthropic(request))
        return _json(await asyncio.to_thread(found))

    @app.post("/tokenize")
    async def tokenize(body: tokens.TokenizeRequest) -> Response:
        async with registry.lease(body.model) as loop:
            asked = body.prompt if body.messages is None else body.messages
            return _json(await in_thread(asked, lambda: tokens.tokenize(loop, body)))

    @app.post("/detokenize")
    async def detokenize(body: tokens.DetokenizeRequest) -> Response:
        async with registry.lease(body.model) as loop:
            return _json(await in_thread("", lambda: tokens.detokenize(loop, body)))

    @app.get("/tokenizer_info")
    async def tokenizer_info(model: str | None = None) -> Response:
        async with registry.lease(model) as loop:
            return _json(tokens.tokenizer_info(loop.model))

    @app.get("/healthz")
    @app.get("/health")
    async def healthz() -> Response:
        problems = {name: fault_of(problem).message for name, problem in registry.problems().items()}
        if problems:
            return JSONResponse({"status": "failed", "models": problems}, 503)
        return _json({"status": "ok"})

    @app.get("/metrics")
    async def prometheus() -> Response:
        return Response(metrics.page(), media_type="text/plain; version=0.0.4")

    @app.get("/", include_in_schema=False)
    async def index() -> Response:
        return page_file("index.html")

    @app.get("/{name}", include_in_schema=False)
    async def part(name: str) -> Response:
        return page_file(name)

    @app.get("/code/{rest:path}", include_in_schema=False)
    async def code(rest: str) -> Response:
        return code_file(rest)

    for folder in sorted(path.name for path in PAGE.iterdir() if path.is_dir()):
        # a route for each folder: one for all paths would answer 405 to a POST to a route that does not exist
        app.add_api_route(f"/{folder}/{{rest:path}}", _part_of(folder), include_in_schema=False)
    return app


def _part_of(folder: str) -> Callable[[str], Awaitable[Response]]:
    async def part(rest: str) -> Response:
        return page_file(f"{folder}/{rest}")

    return part


def _is_anthropic(request: Request) -> bool:
    return "anthropic-version" in request.headers


def _json(content: Any) -> Response:
    return Response(as_json(content), media_type="application/json")


async def _guarded(
    pieces: AsyncIterator[bytes], fail: Callable[[Fault], bytes], over: Callable[[], Awaitable[None]]
) -> AsyncGenerator[bytes]:
    """The pieces, and behind them the fault that ended them. `over` is called before the client can see the end."""
    try:
        async for piece in pieces:
            yield piece
    except Exception as problem:
        yield fail(_logged(problem))
    finally:
        await over()


async def _named(events: AsyncIterator[tuple[str, dict[str, Any]]]) -> AsyncIterator[bytes]:
    async for event in events:
        yield messages.as_event(event)


def _openai_failure(fault: Fault) -> bytes:
    return chat.as_data(fault.openai()) + chat.DONE


def _response_failure(fault: Fault) -> bytes:
    error = {"type": "error", "code": fault.code, "message": fault.message, "param": None, "sequence_number": 0}
    return messages.as_event(("error", error))


def _anthropic_failure(fault: Fault) -> bytes:
    return messages.as_event(("error", fault.anthropic()))


def _answer(request: Request, fault: Fault) -> Response:
    body = fault.anthropic() if request.scope["path"].startswith("/v1/messages") else fault.openai()
    return JSONResponse(body, fault.status, headers=fault.headers)


def _logged(problem: BaseException) -> Fault:
    fault = fault_of(problem)
    if fault.status >= 500 and fault.code not in EXPECTED:
        log.error("a request failed", exc_info=problem)
    return fault


def _field_fault(errors: Sequence[Any], body: Any) -> Fault:
    """One line for all fields that are wrong. If a field may have several types, it says what each expects."""
    if isinstance(errors[0].get("input"), bytes):
        return refused("the body is not marked as JSON; send it with Content-Type: application/json")
    groups: dict[Any, list[Any]] = {}
    for error in errors:
        groups.setdefault(_alternatives(error, body), []).append(error)
    faults = [_one_fault(alike, body) for alike in groups.values()]
    first = faults[0]
    return replace(first, message=together([fault.message for fault in faults]))


def _alternatives(error: Any, body: Any) -> tuple[Any, ...]:
    """Errors with the same one of these say what the several kinds of one field expect."""
    value, loc = body, error["loc"]
    for number, part in enumerate(loc[1:], 1):
        if part in KINDS:
            continue
        if (isinstance(value, dict) and part in value) or (
            isinstance(value, list) and isinstance(part, int) and part < len(value)
        ):
            value = value[part]
        else:
            return tuple(loc[: number + (error["type"] == "missing" and number == len(loc) - 1)])
    return tuple(loc)


def _one_fault(alike: Sequence[Any], body: Any) -> Fault:
    placed = [(_place(error, body), error) for error in alike]
    place, first = max(placed, key=lambda one: one[0].count("."))  # a part of one kind says more than another kind
    match first["type"]:
        case "extra_forbidden":
            return refused(f"{place} is unknown; leave it out", param=place, code="unknown_parameter")
        case "missing":
            return refused(f"{place or 'the body'} is missing", param=place or None)
        case "refused":
            return refused(f"{place} {first['msg']}", param=place, code="unsupported_parameter")
        case "place":
            return refused(first["msg"], param=first["ctx"]["param"])
    expected = dict.fromkeys(_lower(error["msg"]) for there, error in placed if there == place)
    return refused(
        f"{place or 'the body'} is {shown(first.get('input'))}; {', or '.join(expected)}", param=place or None
    )


def _place(error: Any, body: Any) -> str:
    """The field's name as the caller knows it, without the names of our own types."""
    loc, value = error["loc"], body
    parts = []
    for number, part in enumerate(loc[1:], 2):
        is_named = isinstance(value, dict) and part in value
        if is_named or (isinstance(value, list) and isinstance(part, int) and part < len(value)):
            value = value[part]
        elif error["type"] != "missing" or number != len(loc):
            continue
        parts.append(str(part))
    return ".".join(parts)[:200]


def _lower(message: str) -> str:
    return message[:1].lower() + message[1:]
