"""What the vendors' libraries raise -> trilens's errors. They share their base: an HTTP client, and a status."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from trilens.errors import HostedError, RateLimited, Refused, ServiceFailed, Unreachable
from trilens.hosted.keys import without

# Classes by name and module, so that nothing has to be imported to tell them apart.
TRANSPORT = ("httpx", "httpx2", "httpcore", "httpcore2", "requests", "urllib3")
CUT = {"RemoteProtocolError", "ReadError", "IncompleteRead", "ChunkedEncodingError", "ProtocolError", "StreamError"}


def typed(problem: Exception, where: str, key: str | None, *, begun: bool) -> HostedError | None:
    """The error for a fault of the service; None for any other fault. `begun`: a part of the answer had arrived."""
    names = {c.__name__ for c in type(problem).__mro__}
    modules = {c.__module__.partition(".")[0] for c in type(problem).__mro__}
    status = _status(problem)
    said = without(" ".join(_said(problem).split())[:300], key)
    if status is not None and status >= 400:
        return _by_status(status, said, where, _retry_after(problem), begun)
    if "APIError" in names and "APIConnectionError" not in names:
        return ServiceFailed(f"{where}: {said}; try again, or ask for less")
    if "APITimeoutError" in names or "TimeoutException" in names or isinstance(problem, TimeoutError):
        return Unreachable(f"{where}: no answer in time; try again, or load it with a longer timeout")
    if "APIConnectionError" in names or isinstance(problem, ConnectionError) or modules & set(TRANSPORT):
        cause = _cause(problem)
        why = " ".join(str(cause).split())[:120] or type(cause).__name__
        if begun:
            return ServiceFailed(f"{where}: the answer broke off ({why}); what had arrived is in error.partial")
        if type(cause).__name__ in CUT or isinstance(cause, ConnectionResetError):
            return ServiceFailed(f"{where}: the connection broke before an answer came ({why}); try again")
        return Unreachable(f"{where}: no connection ({why}); check the address and the network")
    if isinstance(problem, ValueError) and "JSON" in type(problem).__name__:
        return ServiceFailed(f"{where}: the answer is not JSON ({said}); is this the address of such a service?")
    if "UnknownApiResponseError" in names:
        return ServiceFailed(f"{where}: the answer cannot be read ({said})")
    return None


def broke_off(where: str) -> ServiceFailed:
    """The error for a stream that ended without a reason."""
    return ServiceFailed(
        f"{where}: the answer broke off (the stream ended before its last event); what had arrived is in error.partial"
    )


def _by_status(status: int, said: str, where: str, after: float | None, begun: bool) -> HostedError:
    message = f"{where}: {said} (HTTP {status})"
    if status in (429, 529):
        wait = "later" if after is None else f"in {after:g} s"
        return RateLimited(f"{message}; try again {wait}", retry_after=after)
    if status == 408:
        return Unreachable(f"{message}; try again")
    if status >= 500:
        return ServiceFailed(f"{message}; try again later", retry_after=after)
    if status in (401, 403):
        return Refused(f"{message}; check the key and what it may be used for")
    if status == 404:
        return Refused(f"{message}; check the model's name and the address")
    return Refused(message)


def _status(problem: Exception) -> int | None:
    """The HTTP status; of an error inside a stream that began with 200, the one that its type stands for."""
    kind = _body(problem).get("type")
    by_type = {"overloaded_error": 529, "rate_limit_error": 429, "rate_limit_exceeded": 429, "api_error": 500}
    found = getattr(problem, "status_code", None) or getattr(problem, "code", None)
    if isinstance(found, int) and found >= 400:
        return found
    return by_type.get(kind) if isinstance(kind, str) else None


def _said(problem: Exception) -> str:
    """The service's own message."""
    for found in (_body(problem).get("message"), getattr(problem, "message", None)):
        if isinstance(found, str) and found:
            return found
    return str(problem) or type(problem).__name__


def _body(problem: Exception) -> Mapping[str, Any]:
    body = getattr(problem, "body", None)
    if isinstance(body, Mapping) and isinstance(body.get("error"), Mapping):
        return dict(body["error"])
    return body if isinstance(body, Mapping) else {}


def _retry_after(problem: Exception) -> float | None:
    headers = getattr(getattr(problem, "response", None), "headers", None) or {}
    try:
        return float(headers.get("retry-after", ""))
    except (TypeError, ValueError):
        return None


def _cause(problem: BaseException) -> BaseException:
    """The innermost cause."""
    while problem.__cause__ is not None:
        problem = problem.__cause__
    return problem
