"""Requests that are refused before they are read: other hosts and origins, missing keys, bodies that are too large."""

from __future__ import annotations

import hmac
import json
from collections.abc import Awaitable, Callable, MutableMapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

from starlette.exceptions import HTTPException

from trilens.serve.faults import Fault, refused

Scope = MutableMapping[str, Any]
AsgiMessage = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[AsgiMessage]]
Send = Callable[[AsgiMessage], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]

KEYED = ("/v1", "/metrics", "/openapi", "/tokenize", "/detokenize")  # what may be asked with the key alone
LOOPBACK = ("localhost", "127.0.0.1", "::1")
# no script, style or picture but the page's own, and no other page around it
POLICY = "default-src 'self'; img-src 'self' data:; frame-ancestors 'none'; base-uri 'none'; form-action 'self'"


@dataclass(frozen=True)
class Rules:
    """`host` is the address the server listens on. Pages of `origins` may send requests too. `key` is None if
    everybody may.
    """

    host: str = "127.0.0.1"
    origins: tuple[str, ...] = ()
    key: str | None = None
    most_bytes: int = 8 << 20


class Guard:
    """An ASGI application around another."""

    def __init__(self, app: App, rules: Rules) -> None:
        self._app = app
        self._rules = rules

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        headers = {name.decode("latin-1").lower(): value.decode("latin-1") for name, value in scope["headers"]}
        origin = headers.get("origin")
        allowed = origin in self._rules.origins if origin else False

        async def answer(message: AsgiMessage) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = [*message.get("headers", ()), *_extra(scope["path"], origin if allowed else None)]
            await send(message)

        fault = self._fault(scope, headers, origin, allowed)
        if fault is not None:
            await _refuse(answer, scope["path"], fault)
        elif scope["method"] == "OPTIONS" and allowed:
            await answer({"type": "http.response.start", "status": 204, "headers": []})
            await answer({"type": "http.response.body", "body": b""})
        else:
            await self._within(scope, receive, answer)

    def _fault(
        self, scope: Scope, headers: MutableMapping[str, str], origin: str | None, allowed: bool
    ) -> Fault | None:
        rules, host = self._rules, headers.get("host", "")
        if rules.host in LOOPBACK and _name(host) not in LOOPBACK:
            return refused(f"the host is {host!r:.80}; this server accepts only {rules.host}", status=403)
        if origin is not None and not allowed and _place(origin) != host:
            return refused(f"the origin {origin!r:.80} is not allowed; start the server with --origin", status=403)
        if rules.key is not None and scope["path"].startswith(KEYED):
            given = headers.get("x-api-key") or headers.get("authorization", "").removeprefix("Bearer ").strip()
            preflight = scope["method"] == "OPTIONS" and allowed
            if not preflight and not hmac.compare_digest(given.encode(), rules.key.encode()):
                return refused("the API key is missing or wrong; send Authorization: Bearer KEY", status=401)
        length = headers.get("content-length", "0")
        if length.isascii() and length.isdigit() and (len(length) > 18 or int(length) > rules.most_bytes):
            return refused(f"the body has {length:.20} bytes; expected at most {rules.most_bytes}", status=413)
        return None

    async def _within(self, scope: Scope, receive: Receive, send: Send) -> None:
        """The application, with a body that does not grow past what is read."""
        read = 0

        async def measured() -> AsgiMessage:
            nonlocal read
            message = await receive()
            read += len(message.get("body", b""))
            if read > self._rules.most_bytes:
                raise HTTPException(413, f"the body has more than {self._rules.most_bytes} bytes")
            return message

        await self._app(scope, measured, send)


def _name(host: str) -> str | None:
    """A host without its port; None if it is not a host."""
    try:
        return urlsplit(f"//{host}").hostname
    except ValueError:
        return None


def _place(origin: str) -> str | None:
    """An origin's host and port; None if it is not an origin."""
    try:
        return urlsplit(origin).netloc
    except ValueError:
        return None


async def _refuse(send: Send, path: str, fault: Fault) -> None:
    body = json.dumps(fault.anthropic() if path.startswith("/v1/messages") else fault.openai()).encode()
    headers = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode())]
    await send({"type": "http.response.start", "status": fault.status, "headers": headers})
    await send({"type": "http.response.body", "body": body})


def _extra(path: str, origin: str | None) -> list[tuple[bytes, bytes]]:
    headers = [
        (b"x-content-type-options", b"nosniff"),
        (b"referrer-policy", b"no-referrer"),
        (b"cache-control", b"no-store"),
    ]
    if not path.startswith("/v1"):
        headers.append((b"content-security-policy", POLICY.encode()))
    if origin is not None:
        headers += [
            (b"access-control-allow-origin", origin.encode("latin-1")),
            (b"access-control-allow-headers", b"authorization, content-type, x-api-key, anthropic-version"),
            (b"access-control-allow-methods", b"GET, POST, OPTIONS"),
            (b"vary", b"Origin"),
        ]
    return headers
