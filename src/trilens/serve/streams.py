"""Watched responses: when a client leaves, the work for it ends at once."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable, MutableMapping
from typing import Any, TypeVar

from starlette.responses import Response

Result = TypeVar("Result")
AsgiMessage = MutableMapping[str, Any]


class EventStream(Response):
    """Server-sent events as they come. However the response ends, `pieces` is closed and then `over` is called: pieces
    that were never begun run no `finally` of their own."""

    media_type = "text/event-stream"

    def __init__(self, pieces: AsyncGenerator[bytes], over: Callable[[], Awaitable[None]]) -> None:
        super().__init__()
        del self.headers["content-length"]
        self._pieces = pieces
        self._over = over

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        async def write() -> None:
            await send({"type": "http.response.start", "status": 200, "headers": self.raw_headers})
            async for piece in self._pieces:
                await send({"type": "http.response.body", "body": piece, "more_body": True})
            await send({"type": "http.response.body", "body": b""})

        try:
            await unless_gone(receive, write())
        except Gone:
            pass
        finally:
            try:
                await self._pieces.aclose()
            finally:
                await self._over()


class Gone(Exception):
    """The client has left."""


async def unless_gone(receive: Callable[[], Awaitable[AsgiMessage]], work: Awaitable[Result]) -> Result:
    """The work's result; a client that leaves before it is there cancels it. Raises Gone then.

    The work is done in the caller's own task: a task of its own would wait for further turns of a busy event loop.
    """
    task = asyncio.current_task()
    assert task is not None, "a coroutine that runs"
    stopping, left = task.cancelling(), False

    async def watch() -> None:
        nonlocal left
        await _gone(receive)
        left = True
        task.cancel()

    watching = asyncio.ensure_future(watch())
    try:
        return await work
    except asyncio.CancelledError:
        if left and task.uncancel() <= stopping:  # nobody else has cancelled it
            raise Gone from None
        raise
    finally:
        watching.cancel()


async def _gone(receive: Callable[[], Awaitable[AsgiMessage]]) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
