"""Connections before and around a request: how long a client may take, how many connections there may be, and how large
a header.

uvicorn reads and writes HTTP, and closes idle connections. It has no deadline for a request that is still arriving, and
no limit on incomplete requests. Both are added here, in a subclass of its protocol.
"""

from __future__ import annotations

import asyncio
import json
import logging
from collections import Counter
from dataclasses import dataclass, replace
from typing import Any, Literal

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle

from trilens import system
from trilens.serve.faults import refused

MOST_DESCRIPTORS = 1 << 16  # asked of the system, where it has no limit of its own
LINGER = 1.0  # seconds in which the last bytes of a closed connection must be taken
LOG_EVERY = 10.0  # seconds between two log lines about closed connections

log = logging.getLogger("trilens.serve")

PHRASES = {
    400: "Bad Request",
    408: "Request Timeout",
    431: "Request Header Fields Too Large",
    503: "Service Unavailable",
}

Stage = Literal["head", "body", "idle", "answer"]
CAME_TOO_SLOWLY: dict[Stage, str] = {
    "head": "the request's header did not arrive within {:g} seconds",
    "body": "the request's body did not arrive within {:g} seconds",
}


@dataclass(frozen=True)
class Limits:
    """Seconds, bytes and connections.

    `head`, `body`: a request's header has to be there by then, and behind it the body.
    `idle`: between two requests. `stalled`: a client that reads nothing of its answer. `whole`: an answer, from
    when its client first fell behind. `most_head`: bytes of a header. `most`: connections at once.
    """

    head: float = 10.0
    body: float = 60.0
    idle: float = 5.0
    stalled: float = 60.0
    whole: float = 660.0
    most_head: int = 64 << 10
    most: int = 1024
    backlog: int = 512


def system_limits(limits: Limits) -> Limits:
    """The same with as many connections as this process may have descriptors, some of them kept for files. Raises the
    process's soft limit to its hard one."""
    allowed = system.raise_descriptor_limit(MOST_DESCRIPTORS)
    if allowed is None:
        return limits
    # A burst is accepted before the first of it can be turned away, so the backlog must fit into what is kept.
    kept = min(max(64, allowed // 8), allowed // 2)
    return replace(limits, most=allowed - kept, backlog=min(2048, kept // 2))


class Crowd:
    """All connections together: those that wait for their client, and the log lines about those that were closed."""

    def __init__(self, limits: Limits) -> None:
        self.limits = limits
        self.waiting: dict[Connection, None] = {}  # whoever has waited longest comes first
        self._closed: Counter[str] = Counter()
        self._silent: asyncio.TimerHandle | None = None

    def note(self, why: str, loop: asyncio.AbstractEventLoop) -> None:
        """A line in the log, but not one for each of a thousand connections."""
        self._closed[why] += 1
        if self._silent is None:
            self._say(loop)

    def _say(self, loop: asyncio.AbstractEventLoop) -> None:
        self._silent = None
        if self._closed:
            parts = (f"{count} because {why}" for why, count in sorted(self._closed.items()))
            log.warning("connections closed: %s", "; ".join(parts))
            self._closed.clear()
            self._silent = loop.call_later(LOG_EVERY, self._say, loop)


class Connection(HttpToolsProtocol):
    """One connection. It always has a deadline, except while a complete request is being answered."""

    def __init__(self, *args: Any, crowd: Crowd, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._crowd = crowd
        self._limits = crowd.limits
        self._cycles: list[RequestResponseCycle] = []  # requests that are not answered yet, the running one first
        self._reading: Stage = "idle"  # the part of a message that the parser is in
        self._messages = 0
        self._head = 0  # bytes of this message's header: those that are parsed,
        self._fed = 0  # and those that came
        self._too_large = False
        self._armed: tuple[Stage, int] | None = None
        self._deadline: asyncio.TimerHandle | None = None
        self._stall: asyncio.TimerHandle | None = None
        self._behind: float | None = None  # when the client first did not keep up with its answer

    # what the transport says

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        if len(self.connections) > self._limits.most:
            longest = next(iter(self._crowd.waiting), None)
            full = f"{self._limits.most} connections are open, which is the maximum"
            if longest is None:
                self._turn_away(503, f"{full}; try again in a moment", full)
                return
            longest._turn_away(503, f"{full}; send the whole request at once", full)
        self._settle()

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        if self.transport.is_closing():
            return
        if self._reading == "head":
            self._fed += len(data)
            if self._fed > self._limits.most_head:
                self._too_large = True
                self.send_400_response("")
                return
        self._settle()

    def connection_lost(self, exc: Exception | None) -> None:
        super().connection_lost(exc)
        self._crowd.waiting.pop(self, None)
        for timer in (self._deadline, self._stall):
            if timer is not None:
                timer.cancel()
        self._disconnect()

    def pause_writing(self) -> None:
        super().pause_writing()
        now = self.loop.time()
        self._behind = self._behind or now
        left = self._behind + self._limits.whole - now
        self._stall = self.loop.call_later(max(0.0, min(self._limits.stalled, left)), self._give_up)

    def resume_writing(self) -> None:
        super().resume_writing()
        if self._stall is not None:
            self._stall.cancel()

    # what the parser says

    def on_message_begin(self) -> None:
        self._reading, self._messages, self._head, self._fed = "head", self._messages + 1, 0, 0
        super().on_message_begin()

    def on_url(self, url: bytes) -> None:
        self._measure(len(url))
        super().on_url(url)

    def on_header(self, name: bytes, value: bytes) -> None:
        self._measure(len(name) + len(value))  # trailers too, which come behind the body
        super().on_header(name, value)

    def on_headers_complete(self) -> None:
        super().on_headers_complete()
        self._reading = "body"
        self._cycles.append(self.cycle)

    def on_message_complete(self) -> None:
        super().on_message_complete()
        self._reading = "idle"

    def _measure(self, size: int) -> None:
        self._head += size
        if self._head > self._limits.most_head:
            self._too_large = True
            raise ValueError("the header is too large")  # the parser stops, and uvicorn calls send_400_response

    # what uvicorn says

    def on_response_complete(self) -> None:
        super().on_response_complete()
        if self.transport.is_closing():
            self._arm(self._limits.stalled, self.transport.abort)
        else:
            self._settle()

    def send_400_response(self, msg: str) -> None:
        if self._too_large:
            most = self._limits.most_head
            self._turn_away(431, f"the header has more than {most} bytes; send less", "a header was too large")
        else:
            self._turn_away(400, "this is not HTTP/1.1; send a valid request", "a request was not HTTP")

    def shutdown(self) -> None:
        match self._stage():
            case "answer":
                for cycle in self._cycles:
                    cycle.keep_alive = False
            case "body":
                self._turn_away(503, "the server is shutting down; try another one, or later")
            case _:
                self._close()

    # deadlines

    def _stage(self) -> Stage:
        self._cycles = [cycle for cycle in self._cycles if not cycle.response_complete]
        if self._cycles:
            return "body" if self._cycles[0].more_body else "answer"
        return "head" if self._messages == 0 else self._reading

    def _settle(self) -> None:
        """The deadline of the stage that this connection is in; it runs on as long as the stage does."""
        stage = self._stage()
        if self._armed == (stage, self._messages):
            return
        self._armed = stage, self._messages
        self._crowd.waiting.pop(self, None)
        if stage == "answer":
            self._behind = None
            if self._deadline is not None:
                self._deadline.cancel()
            return
        self._crowd.waiting[self] = None
        self._arm({"head": self._limits.head, "body": self._limits.body}.get(stage, self._limits.idle), self._late)

    def _arm(self, seconds: float, then: Any) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
        self._deadline = self.loop.call_later(seconds, then)

    def _late(self) -> None:
        stage = self._stage()
        if stage == "idle":
            self._close()
        else:
            why = CAME_TOO_SLOWLY[stage].format(getattr(self._limits, stage))
            self._turn_away(408, f"{why}; send it faster, or in parts", why)

    def _give_up(self) -> None:
        self._crowd.note("a client did not read its answer", self.loop)
        self.transport.abort()

    # the end

    def _turn_away(self, status: int, message: str, why: str | None = None) -> None:
        """Send the reason, if no answer has begun, and close. `why` is for the log."""
        if self.transport.is_closing():
            return
        if why is not None:
            self._crowd.note(why, self.loop)
        self._stage()  # leaves the requests that are not answered
        begun = bool(self._cycles) and self._cycles[0].response_started
        self._disconnect()
        if not begun:
            fault = refused(message, status=status)
            body = json.dumps(fault.openai()).encode()
            lines = [f"HTTP/1.1 {status} {PHRASES[status]}", "content-type: application/json"]
            lines += [f"{name}: {value}" for name, value in fault.headers.items()]
            lines += [f"content-length: {len(body)}", "connection: close", "", ""]
            self.transport.write("\r\n".join(lines).encode() + body)
        self._close()

    def _disconnect(self) -> None:
        """Tell the application of every request that its client is gone; uvicorn tells that of the last one."""
        for cycle in self._cycles:
            if not cycle.response_complete:
                cycle.disconnected = True
                cycle.message_event.set()

    def _close(self) -> None:
        self._crowd.waiting.pop(self, None)
        self.transport.close()
        self._arm(LINGER, self.transport.abort)
