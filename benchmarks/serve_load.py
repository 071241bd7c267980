"""64 clients against `trilens serve`, a third of them leaving at random and ten reading slowly -> docs/serving.md.

    python benchmarks/serve_load.py [--seconds 60] [--clients 64] [--page FILE]

Also where the processor's time of a token went: the system's clock of each thread, and around the compiled step.

The server is a process of its own, the clients are another. First one client alone, for a third of the time, then all,
with the same code. Every client asks one question after another, streamed, over a connection that it keeps; who leaves
breaks it. Counted are the tokens of whole answers, as their last chunks say.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import math
import os
import random
import re
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

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

    def ask(self, request: bytes, until: float) -> asyncio.Future[None]:
        """Done with the answer's end, or once `until` bytes of it are here."""
        assert self.transport is not None
        self.received, self._until, self.first = bytearray(), until, 0.0
        self._done = asyncio.get_running_loop().create_future()
        self.transport.write(request)
        return self._done

    def data_received(self, data: bytes) -> None:
        if not self.received:
            self.first = time.perf_counter()
        self.received += data
        if (
            len(self.received) >= self._until
            or data.endswith(b"0\r\n\r\n")
            or not self.received.startswith(b"HTTP/1.1 200")
        ):
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
    until = chance.uniform(200, 6000) if leaves and chance.random() < 0.5 else math.inf
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
    if len(said) >= until and said.startswith(b"HTTP/1.1 200"):
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


def serve_and_note(port: str, notes: Path) -> None:
    """`trilens serve`; on SIGUSR1 it notes what its threads are called and how long its steps took them."""
    from trilens.cli import main as trilens
    from trilens.executors.native.executor import NativeExecutor

    usual, steps = NativeExecutor.draw, dict[int, float]()

    def draw(self: NativeExecutor, *asked: Any) -> Any:
        begin = time.thread_time()
        drawn = usual(self, *asked)
        thread = threading.get_ident()
        steps[thread] = steps.get(thread, 0.0) + time.thread_time() - begin
        return drawn

    def note(*_: Any) -> None:
        names = {thread.native_id: thread.name for thread in threading.enumerate()}
        fresh = notes.with_suffix(".new")
        fresh.write_text(json.dumps({"names": names, "steps": sum(steps.values())}))
        fresh.replace(notes)

    NativeExecutor.draw = draw  # type: ignore[method-assign]
    signal.signal(signal.SIGUSR1, note)
    sys.argv = ["trilens", "serve", MODEL, "--port", port, "--offline"]
    trilens()


PARTS = ("model's steps, compiled", "input and output of steps", "HTTP, JSON, receipts", "prompts", "clients")


class Spent(NamedTuple):
    """Seconds of processor, by `PARTS`; and of the whole machine what it had, what was idle."""

    parts: tuple[float, ...]
    had: float
    idle: float


def spent(pid: int, notes: Path) -> Spent:
    notes.unlink(missing_ok=True)
    os.kill(pid, signal.SIGUSR1)
    while not notes.exists():
        time.sleep(0.001)
    noted = json.loads(notes.read_text())
    found = dict.fromkeys(PARTS, 0.0)
    for thread in Path(f"/proc/{pid}/task").iterdir():
        name = noted["names"].get(thread.name)  # None: a thread of the compiled part
        part = {None: PARTS[0], "loop": PARTS[1], "MainThread": PARTS[2]}.get(name and name.split()[0], PARTS[3])
        found[part] += int((thread / "schedstat").read_text().split()[0]) / 1e9
    found[PARTS[0]] += noted["steps"]
    found[PARTS[1]] -= noted["steps"]
    found[PARTS[4]] = time.process_time()
    ticks = [int(n) / os.sysconf("SC_CLK_TCK") for n in Path("/proc/stat").read_text().split("\n")[0].split()[1:9]]
    return Spent(tuple(found.values()), sum(ticks), ticks[3] + ticks[4])


def where(runs: Sequence[tuple[str, int, Spent, Spent]]) -> str:
    """A table of microseconds a token: (what ran, tokens, before, behind)."""
    columns = []
    for _, tokens, before, behind in runs:
        own = [b - a for a, b in zip(before.parts, behind.parts, strict=True)]
        had, idle = behind.had - before.had, behind.idle - before.idle
        shares = [f"{idle / had:.0%}", f"{max(0.0, had - idle - sum(own)) / had:.0%}"]
        columns.append([f"{1e6 * s / tokens:.1f}" for s in (*own, sum(own))] + shares)
    names = [*PARTS, "sum", "the machine idle", "the machine busy with something else"]
    head = [
        "| microseconds of processor time per token | " + " | ".join(r[0] for r in runs) + " |",
        "| --- " * len(runs) + "| --- |",
    ]
    return "\n".join([*head, *(f"| {name} | {' | '.join(row)} |" for name, *row in zip(names, *columns, strict=True))])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--clients", type=int, default=64)
    parser.add_argument("--page", type=Path)
    parser.add_argument("--serve", nargs=2, help=argparse.SUPPRESS)  # what the server's process is started with
    given = parser.parse_args()
    if given.serve:
        return serve_and_note(given.serve[0], Path(given.serve[1]))
    with tempfile.TemporaryDirectory() as folder:
        return measure(given.seconds, given.clients, given.page, Path(folder) / "notes")


def measure(seconds: float, clients: int, page: Path | None, notes: Path) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, __file__, "--serve", str(port), str(notes)]
    server = subprocess.Popen(command, stderr=subprocess.DEVNULL)
    try:
        for _ in range(200):
            with socket.socket() as probe:
                if probe.connect_ex(("127.0.0.1", port)) == 0:
                    break
            time.sleep(0.05)
        asyncio.run(run(port, 1, 1, [], server.pid))
        clocks = [spent(server.pid, notes)]
        alone = asyncio.run(run(port, 1, seconds / 3, [], server.pid))
        clocks.append(spent(server.pid, notes))
        watch: list[int] = []
        seen = asyncio.run(run(port, clients, seconds, watch, server.pid))
        clocks.append(spent(server.pid, notes))
        time.sleep(1)
        left = metric(port, "trilens_calls_running") + metric(port, "trilens_calls_waiting")
        pages = metric(port, "trilens_cache_pages")
    finally:
        server.terminate()
        server.wait(60)
    one, many = alone.tokens / (seconds / 3), seen.tokens / seconds
    tenth = max(1, len(watch) // 10)
    early, late = statistics.median(watch[tenth : 3 * tenth]), statistics.median(watch[-2 * tenth :])
    rows = [
        ("one client, tokens per second", f"{one:,.0f}"),
        (f"{clients} clients, tokens per second in complete answers", f"{many:,.0f} ({many / one:.2f} times)"),
        ("answers: complete / client disconnected / 429", f"{seen.whole:,} / {seen.left:,} / {seen.busy:,}"),
        ("other errors", f"{len(seen.faults)}"),
        ("seconds per answer, median and 95th percentile", _spread(seen.seconds)),
        ("seconds to the first bytes, median and 95th percentile", _spread(seen.first)),
        ("one client: seconds per answer, median and 95th percentile", _spread(alone.seconds)),
        ("the server's memory, early and late", f"{early / 1e6:.1f} MB, {late / 1e6:.1f} MB"),
        ("calls still running or waiting a second later", f"{left:.0f}"),
        ("cache pages in use then (finished prefixes)", f"{pages:.0f}"),
    ]
    table = "\n".join(["| | |", "| --- | --- |", *(f"| {name} | {value} |" for name, value in rows)])
    runs = [("one client", alone.tokens, *clocks[:2]), (f"{clients} clients", seen.tokens, *clocks[1:])]
    table += "\n\n" + where(runs)
    print(table)
    for fault in seen.faults[:5]:
        print(fault, file=sys.stderr)
    if page:
        text = page.read_text()
        head, _, rest = text.partition("<!-- load -->")
        _, _, tail = rest.partition("<!-- end -->")
        page.write_text(f"{head}<!-- load -->\n{table}\n<!-- end -->{tail}")


def _spread(seconds: list[float]) -> str:
    if len(seconds) < 2:
        return "none"
    return f"{statistics.median(seconds):.3f}, {statistics.quantiles(seconds, n=20)[18]:.3f}"


if __name__ == "__main__":
    main()
