"""64 clients against `trilens serve`, a third of them leaving at random and ten reading slowly -> docs/serving.md.

    python benchmarks/serve_load.py [--seconds 60] [--clients 64] [--page FILE]

The server is a process of its own, the clients are another. First one client alone, for a third of the time, then all,
with the same code. Every client asks one question after another, streamed, over a connection that it keeps; who leaves
breaks it. Counted are the tokens of whole answers, as their last chunks say.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import random
import re
import socket
import statistics
import subprocess
import sys
import time
import urllib.request
from dataclasses import dataclass, field
from pathlib import Path

MODEL = "tiny-routed"
SLOW = 10
USED = re.compile(rb'"completion_tokens":(\d+)')


@dataclass
class Seen:
    """What the clients of one run saw."""

    whole: int = 0
    left: int = 0
    busy: int = 0
    tokens: int = 0
    faults: list[str] = field(default_factory=list)
    seconds: list[float] = field(default_factory=list)
    first: list[float] = field(default_factory=list)


class Connection(asyncio.Protocol):
    """One client's. It takes what comes as it comes and looks at nothing but the end, so that it costs little."""

    def __init__(self, slow: bool) -> None:
        self._slow = slow
        self._done: asyncio.Future[None] | None = None
        self.transport: asyncio.Transport | None = None
        self.open = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.transport, self.open = transport, True

    def ask(self, request: bytes, until: int | None) -> asyncio.Future[None]:
        """Done with the answer's end, or with its piece number `until`."""
        assert self.transport is not None
        self.received, self.pieces, self._until, self.first = bytearray(), 0, until, 0.0
        self._done = asyncio.get_running_loop().create_future()
        self.transport.write(request)
        return self._done

    def data_received(self, data: bytes) -> None:
        if not self.pieces:
            self.first = time.perf_counter()
        self.pieces += 1
        self.received += data
        if self.pieces == self._until or data.endswith(b"0\r\n\r\n") or not self.received.startswith(b"HTTP/1.1 200"):
            self._finish()
        elif self._slow and self.transport is not None:
            self.transport.pause_reading()
            asyncio.get_running_loop().call_later(0.05 * len(data) / 512, self._go_on)

    def _go_on(self) -> None:
        if self.open and self.transport is not None:
            self.transport.resume_reading()

    def connection_lost(self, problem: Exception | None) -> None:
        self.open = False
        self._finish()

    def _finish(self) -> None:
        if self._done is not None and not self._done.done():
            self._done.set_result(None)


async def client(port: int, number: int, end: float, seen: Seen, *, leaves: bool, slow: bool) -> None:
    chance, connection = random.Random(number), Connection(slow)
    while time.monotonic() < end:
        try:
            if not connection.open:
                connection = await connected(port, slow)
            await ask(connection, port, chance, seen, leaves=leaves)
        except OSError as problem:
            seen.faults.append(repr(problem))
    if connection.transport is not None:
        connection.transport.abort()


async def connected(port: int, slow: bool) -> Connection:
    end = socket.socket()
    end.setblocking(False)
    if slow:
        end.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 2048)  # what it has not read, the server has not sent
    loop = asyncio.get_running_loop()
    await loop.sock_connect(end, ("127.0.0.1", port))
    _, connection = await loop.create_connection(lambda: Connection(slow), sock=end)
    return connection


async def ask(connection: Connection, port: int, chance: random.Random, seen: Seen, *, leaves: bool) -> None:
    a, b = chance.randint(10, 99), chance.randint(10, 99)
    body = json.dumps(
        {
            "model": MODEL,
            "messages": [{"role": "user", "content": f"What is {a} times {b}?"}],
            "stream": True,
            "stream_options": {"include_usage": True},
            "thinking": True,
        }
    ).encode()
    head = f"POST /v1/chat/completions HTTP/1.1\r\nHost: localhost:{port}\r\nContent-Type: application/json\r\n"
    until = chance.randint(1, 30) if leaves and chance.random() < 0.5 else None
    begin = time.perf_counter()
    await connection.ask(f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body, until)
    assert connection.transport is not None
    said = bytes(connection.received)
    if said.endswith(b"data: [DONE]\n\n\r\n0\r\n\r\n") and (found := USED.search(said)) is not None:
        seen.whole += 1
        seen.tokens += int(found[1])
        seen.seconds.append(time.perf_counter() - begin)
        seen.first.append(connection.first - begin)
        return
    connection.transport.abort()
    connection.open = False
    if connection.pieces == until:
        seen.left += 1
    elif said.startswith(b"HTTP/1.1 429"):
        seen.busy += 1
        await asyncio.sleep(0.05)
    else:
        seen.faults.append(f"{said[:100]!r} ... {said[-200:]!r}")


async def run(port: int, clients: int, seconds: float, watch: list[int], pid: int) -> Seen:
    seen, end = Seen(), time.monotonic() + seconds
    many = clients > SLOW

    async def memory() -> None:
        while time.monotonic() < end:
            watch.append(resident(pid))
            await asyncio.sleep(1)

    await asyncio.gather(
        memory(),
        *(
            client(port, i, end, seen, leaves=many and i % 3 == 0, slow=many and i >= clients - SLOW)
            for i in range(clients)
        ),
    )
    return seen


def resident(pid: int) -> int:
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * 4096


def metric(port: int, name: str) -> float:
    with urllib.request.urlopen(f"http://localhost:{port}/metrics") as answer:
        text = answer.read().decode()
    return sum(float(value) for value in re.findall(rf"^{name}(?:{{[^}}]*}})? (\S+)$", text, re.MULTILINE))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--clients", type=int, default=64)
    parser.add_argument("--page", type=Path)
    given = parser.parse_args()
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "trilens", "serve", MODEL, "--port", str(port), "--offline"]
    server = subprocess.Popen(command, stderr=subprocess.DEVNULL)
    try:
        for _ in range(200):
            with socket.socket() as probe:
                if probe.connect_ex(("127.0.0.1", port)) == 0:
                    break
            time.sleep(0.05)
        asyncio.run(run(port, 1, 1, [], server.pid))
        alone = asyncio.run(run(port, 1, given.seconds / 3, [], server.pid))
        watch: list[int] = []
        seen = asyncio.run(run(port, given.clients, given.seconds, watch, server.pid))
        time.sleep(1)
        left = metric(port, "trilens_calls_running") + metric(port, "trilens_calls_waiting")
        pages = metric(port, "trilens_cache_pages")
    finally:
        server.terminate()
        server.wait(60)
    one, many = alone.tokens / (given.seconds / 3), seen.tokens / given.seconds
    tenth = max(1, len(watch) // 10)
    early, late = statistics.median(watch[tenth : 3 * tenth]), statistics.median(watch[-2 * tenth :])
    rows = [
        ("one client, tokens a second", f"{one:,.0f}"),
        (f"{given.clients} clients, tokens a second of whole answers", f"{many:,.0f} ({many / one:.2f} times)"),
        ("answers whole / left by the client / 429", f"{seen.whole:,} / {seen.left:,} / {seen.busy:,}"),
        ("other faults", f"{len(seen.faults)}"),
        ("seconds of an answer, median and 95th of a hundred", _spread(seen.seconds)),
        ("seconds to the first bytes, median and 95th of a hundred", _spread(seen.first)),
        ("one client: seconds of an answer", _spread(alone.seconds)),
        ("server's memory early and late", f"{early / 1e6:.1f} MB, {late / 1e6:.1f} MB"),
        ("calls that still ran or waited a second later", f"{left:.0f}"),
        ("pages of cache then (finished prefixes)", f"{pages:.0f}"),
    ]
    table = "\n".join(["| | |", "| --- | --- |", *(f"| {name} | {value} |" for name, value in rows)])
    print(table)
    for fault in seen.faults[:5]:
        print(fault, file=sys.stderr)
    if given.page:
        text = given.page.read_text()
        head, _, rest = text.partition("<!-- load -->")
        _, _, tail = rest.partition("<!-- end -->")
        given.page.write_text(f"{head}<!-- load -->\n{table}\n<!-- end -->{tail}")


def _spread(seconds: list[float]) -> str:
    if len(seconds) < 2:
        return "none"
    return f"{statistics.median(seconds):.3f}, {statistics.quantiles(seconds, n=20)[18]:.3f}"


if __name__ == "__main__":
    main()
