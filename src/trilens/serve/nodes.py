"""The nodes that one engine runs on. A connection between the head and each other node stays open while both live.

By themselves, engines notice a lost node late or never, because they wait for its part of an answer. Here the end of
the connection shows the loss, and a line before it says why.
"""

from __future__ import annotations

import logging
import re
import socket
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass

from trilens.errors import UsageError

HELLO = re.compile(r"trilens node (\d{1,5}) of (\d{1,5})")
STOP = "stop"  # the head has been told to stop, and all is well
SILENCE = 10.0  # seconds in which a stranger has to say who it is

log = logging.getLogger("trilens.serve")


@dataclass(frozen=True)
class Node:
    """This node's rank, the number of nodes, and where they connect: engines at `port` of the head's address,
    trilens at the next port.
    """

    count: int = 1
    rank: int = 0
    master: str = "127.0.0.1"
    port: int = 29501

    def __post_init__(self) -> None:
        if not 0 <= self.rank < self.count:
            raise UsageError(f"the node's rank is {self.rank}; expected 0 to {self.count - 1}, the head is 0")

    @property
    def head(self) -> bool:
        return self.rank == 0


class Meeting:
    """`lost` is called with the reason when the head or another node is gone, `stopped` on the other nodes when the
    head stops.
    """

    def __init__(self, node: Node, seconds: float, lost: Callable[[str], None], stopped: Callable[[], None]) -> None:
        self._node, self._end = node, time.monotonic() + seconds
        self._lost, self._stopped = lost, stopped
        self._lock = threading.Lock()
        self._there: dict[int, socket.socket] = {}
        self._server: socket.socket | None = None
        self._closed = threading.Event()

    def open(self) -> None:
        """Raises UsageError where the head cannot listen."""
        node, work = self._node, self._join
        if node.head:
            try:
                self._server = socket.create_server((node.master, node.port + 1))
            except OSError as problem:
                why = problem.strerror or problem
                raise UsageError(f"cannot meet the other nodes at {node.master}:{node.port + 1} ({why})") from None
            work = self._admit
        threading.Thread(target=work, name="nodes", daemon=True).start()

    @property
    def missing(self) -> list[int]:
        """Ranks that the head has not heard of."""
        return [rank for rank in range(1, self._node.count) if rank not in self._there]

    def close(self, why: str) -> None:
        """Send the reason to the connected nodes, and close."""
        self._closed.set()
        line = " ".join(why.split())[:900].encode() + b"\n"
        for connection in (*self._there.values(), *([] if self._server is None else [self._server])):
            with suppress(OSError):
                if connection is not self._server:
                    connection.sendall(line)
                connection.shutdown(socket.SHUT_RDWR)
            connection.close()

    def _admit(self) -> None:
        assert self._server is not None
        while not self._closed.is_set():
            try:
                connection, _ = self._server.accept()
            except OSError:
                return
            threading.Thread(target=self._welcome, args=(connection,), name="node", daemon=True).start()

    def _welcome(self, connection: socket.socket) -> None:
        connection.settimeout(SILENCE)
        said, count = HELLO.fullmatch(_line(connection)), self._node.count
        with self._lock:
            if said is None:
                refused = "expected a node of trilens"
            elif int(said[2]) != count:
                refused = f"there are {count} nodes here, not {said[2]}"
            elif int(said[1]) not in self.missing:
                refused = f"rank {said[1]} is taken"
            else:
                refused = ""
                self._there[int(said[1])] = connection
        with suppress(OSError):
            connection.sendall(f"{refused or 'welcome'}\n".encode())
        if refused or said is None:
            connection.close()
            return
        log.info("node %s of %d is connected", said[1], count)
        self._listen(connection, f"node {said[1]}")

    def _join(self) -> None:
        node = self._node
        where = f"the head node at {node.master}:{node.port + 1}"
        while not self._closed.is_set():
            try:
                connection = socket.create_connection((node.master, node.port + 1), timeout=SILENCE)
                break
            except OSError as problem:
                if time.monotonic() > self._end:
                    self._lost(f"could not reach {where} ({problem.strerror or problem})")
                    return
                self._closed.wait(0.5)
        else:
            return
        self._there[0] = connection
        with suppress(OSError):
            connection.sendall(f"trilens node {node.rank} of {node.count}\n".encode())
        reply = _line(connection)
        if reply != "welcome":
            self._lost(f"was refused by {where} ({reply or 'no reply'})")
            return
        self._listen(connection, "the head node")

    def _listen(self, connection: socket.socket, who: str) -> None:
        connection.settimeout(None)
        _notice_silence(connection)
        said = _line(connection)
        if self._closed.is_set():
            return
        if said == STOP and not self._node.head:
            self._stopped()
        elif said == STOP:
            self._lost(f"has lost {who}, which was told to stop")
        else:
            self._lost(f"has lost {who}, {'which ' + said if said else 'whose connection broke'}")


def _line(connection: socket.socket) -> str:
    """The next line; nothing where the connection broke, or nothing came in time."""
    try:
        with connection.makefile("rb") as reader:
            return reader.readline(1000).decode("utf-8", "replace").strip()
    except OSError:
        return ""


def _notice_silence(connection: socket.socket) -> None:
    """A machine that vanishes does not close its connections, so they break after half a minute without a sign of
    life.
    """
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for option, value in (("TCP_KEEPIDLE", 10), ("TCP_KEEPINTVL", 5), ("TCP_KEEPCNT", 4)):
        if hasattr(socket, option):
            connection.setsockopt(socket.IPPROTO_TCP, getattr(socket, option), value)
