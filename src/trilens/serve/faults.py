"""Our errors -> the answer of each protocol. No message names a file of this machine."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from trilens.errors import (
    BadCheckpoint,
    CacheFull,
    ContextFull,
    EngineDied,
    FieldRefused,
    HostedError,
    ModelNotFound,
    RateLimited,
    Refused,
    RequestRefused,
    TrilensError,
    UsageError,
)
from trilens.serve.loop import Busy, LoopFailed, ShuttingDown, TimeIsUp
from trilens.serve.registry import NotLoadable

RETRY_AFTER = 1  # seconds
UPSTREAM = ("server_error", "api_error")


@dataclass(frozen=True)
class Fault:
    """An HTTP status, and the error types for the two families of clients."""

    status: int
    message: str
    openai_type: str
    anthropic_type: str
    code: str | None = None
    param: str | None = None

    @property
    def headers(self) -> dict[str, str]:
        return {"Retry-After": str(RETRY_AFTER)} if self.status in (429, 503) else {}

    def openai(self) -> dict[str, Any]:
        return {"error": {"message": self.message, "type": self.openai_type, "param": self.param, "code": self.code}}

    def anthropic(self) -> dict[str, Any]:
        return {"type": "error", "error": {"type": self.anthropic_type, "message": self.message}}


def fault_of(problem: BaseException) -> Fault:
    match problem:
        case Busy() | CacheFull():
            return Fault(429, str(problem), "rate_limit_error", "rate_limit_error", "busy")
        case ShuttingDown():
            return Fault(503, str(problem), "server_error", "overloaded_error", "shutting_down")
        case LoopFailed():
            return Fault(503, str(problem), *UPSTREAM, "loop_failed")
        case TimeIsUp():
            return Fault(504, str(problem), "server_error", "timeout_error", "time_is_up")
        case NotLoadable():
            return Fault(503, str(problem), "server_error", "api_error", "not_loadable")
        case ModelNotFound():
            return Fault(404, str(problem), "invalid_request_error", "not_found_error", "model_not_found", "model")
        case ContextFull():
            return refused(str(problem), code="context_length_exceeded")
        case EngineDied():
            return Fault(503, "the engine has ended; the server's log says why", *UPSTREAM, "engine_died")
        case RateLimited():
            return Fault(429, str(problem), "rate_limit_error", "rate_limit_error", "busy")
        case Refused():
            return refused(str(problem))
        case HostedError():
            return Fault(502, str(problem), *UPSTREAM, "engine_failed")
        case BadCheckpoint():  # a template that fails on these messages
            return Fault(500, "the model's own files fail on this request", "server_error", "api_error", "bad_model")
        case FieldRefused(param=param):
            return refused(str(problem), param=param)
        case RequestRefused() | UsageError():
            return refused(str(problem))
        case TrilensError():
            return Fault(500, "the request failed", "server_error", "api_error")
        case _:
            return Fault(500, "the server has an error; see its log", "server_error", "api_error", "fault")


def refused(message: str, *, code: str | None = None, param: str | None = None, status: int = 400) -> Fault:
    """The request itself is wrong."""
    kind = {401: "authentication_error", 403: "permission_error", 413: "request_too_large"}.get(status)
    openai = "invalid_request_error" if status != 401 else "authentication_error"
    return Fault(status, message, openai, kind or "invalid_request_error", code, param)
