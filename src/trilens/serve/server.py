"""`trilens serve`: the application in uvicorn, and the engine if one was requested."""

from __future__ import annotations

import asyncio
import gc
import logging
import math
import signal
import socket
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from typing import Any

import uvicorn

from trilens.checkpoints.find import find
from trilens.errors import UsageError
from trilens.executors.accountant import count_parameters
from trilens.hosted.load import engine_client, engine_context, engine_model
from trilens.lenses.cards.source import card_source
from trilens.serve.app import GRACE, application
from trilens.serve.connections import Connection, Crowd, Limits, system_limits
from trilens.serve.engine import Engine
from trilens.serve.engine_model import EngineModel
from trilens.serve.guard import LOOPBACK, Rules
from trilens.serve.launch import Launch, free_port, new_key
from trilens.serve.registry import ModelRegistry, Room, served_name
from trilens.serve.remote_loop import RemoteLoop
from trilens.spec.catalog import catalogued
from trilens.text.model_text import read_model_text

log = logging.getLogger("trilens.serve")

COLLECT = 20_000  # new objects before Python looks for cycles among them; by itself it does after 700
SWITCH = 0.0005  # seconds that the thread of the steps may wait for Python's lock; by itself Python makes it 0.005


class Server(uvicorn.Server):
    """uvicorn's server, which finishes within `grace` seconds, however many connections are open."""

    def __init__(
        self, registry: ModelRegistry, rules: Rules, limits: Limits, grace: float = GRACE, address: str = ""
    ) -> None:
        """`address`: what it says that it serves, once it does."""
        self._registry = registry
        self._address = address
        self._grace = grace
        config = uvicorn.Config(
            application(registry, rules, grace),
            http=partial(Connection, crowd=Crowd(limits)),  # type: ignore[arg-type]
            ws="none",
            lifespan="off",  # closing the models is not its last step here, but its first
            log_level="error",  # uvicorn's warnings are a line for each bad request; `Crowd` counts them
            backlog=limits.backlog,
            timeout_keep_alive=math.ceil(limits.idle),
            timeout_graceful_shutdown=math.ceil(grace) + 5,
            server_header=False,
        )
        super().__init__(config)

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """The address is logged last: a client that has read it may send requests, and Ctrl-C is handled."""
        await super().startup(sockets)
        if self._address:
            log.info("%s serves %s", self._address, ", ".join(self._registry.names))

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Requests that still run after `grace` seconds get an error in their protocol's form before connections
        close.
        """
        closing = asyncio.create_task(asyncio.to_thread(self._registry.close, self._grace))
        await super().shutdown(sockets)
        await closing


def serve(registry: ModelRegistry, rules: Rules, port: int, limits: Limits) -> None:
    """Serve until Ctrl-C or SIGTERM, then finish the running requests. Raises UsageError for a port that is in use."""
    _log_to_stderr()
    limits = system_limits(limits)
    bound = _bound(rules.host, port, limits.backlog)
    _server(registry, rules, limits, bound).run(sockets=[bound])


def serve_engine(
    source: str, launch: Launch, rules: Rules, port: int, room: Room, limit: float, limits: Limits
) -> None:
    """The same for a model that an engine runs: the engine is started, has to answer within `limit` seconds, and is
    ended with the server, however that ends. On a node that is not the head only the engine is there, until the head
    stops. Raises EngineDied, UsageError and what loading raises."""
    _log_to_stderr()
    name, key, there = served_name(source), new_key(), free_port()
    command = launch.command(source, name, there, log.info)
    engine = Engine(launch.engine, command, launch.environment(key), launch.meets, limit)
    if not launch.node.head:
        with _told_to_stop(), engine:
            engine.start()
            engine.wait()
            log.info("the head node has stopped")
        return
    facts = card_source(source, offline=launch.offline)
    text = read_model_text(find(source, offline=launch.offline, only_small=True), catalogued(source))
    text = replace(text, trust_control_tokens=launch.trust_control_tokens)
    if facts.reading is None:
        raise UsageError(f"{source}: {facts.without_numbers}")
    spec = facts.reading.spec
    limits = system_limits(limits)
    bound = _bound(rules.host, port, limits.backlog)
    client = engine_client(f"http://127.0.0.1:{there}/v1", key, room.seconds)
    known = (spec.backbone, count_parameters(spec))
    hosted = engine_model(client, name, launch.engine, known, lambda said: len(text.tokenizer.encode(said)))
    model = EngineModel(name, hosted, text, spec, parsed="--reasoning-parser" in command)
    with _told_to_stop(), engine:
        engine.start()
        engine.wait_for(lambda: hosted.generate("Hello", max_tokens=1))
        model.context = engine_context(client, name)
        registry, loop = (
            ModelRegistry([source], room),
            RemoteLoop(model, engine, room.parallel, room.waiting, room.seconds),
        )
        registry.put(name, loop)
        server = _server(registry, rules, limits, bound)

        def ended() -> None:
            server.should_exit = True
            if engine.failure is not None:
                loop.give_up(engine.failure)

        engine.ended = ended
        engine.check()  # it may have ended before anybody was told
        server.run(sockets=[bound])
        engine.check()


def _server(registry: ModelRegistry, rules: Rules, limits: Limits, bound: socket.socket) -> Server:
    if rules.host not in LOOPBACK and rules.key is None:
        log.warning("anybody who can reach %s can use this server, because there is no --api-key", rules.host)
    host = f"[{rules.host}]" if ":" in rules.host else rules.host
    sys.setswitchinterval(SWITCH)
    gc.set_threshold(COLLECT)
    return Server(registry, rules, limits, address=f"http://{host}:{bound.getsockname()[1]}")


def _log_to_stderr() -> None:
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    for chatty in ("httpx", "httpx2", "openai"):
        logging.getLogger(chatty).setLevel(logging.WARNING)


@contextmanager
def _told_to_stop() -> Iterator[None]:
    """Make SIGTERM leave a `with` block as Ctrl-C does."""

    def stop(*_: Any) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _bound(host: str, port: int, backlog: int = 2048) -> socket.socket:
    """A listening socket. Raises UsageError if that is not possible."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    # with the protocol's number, for without it asyncio leaves small packets waiting for each other (Nagle)
    bound = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        bound.bind((host, port))
    except OSError as problem:
        bound.close()
        why = problem.strerror or problem
        raise UsageError(f"cannot listen on {host}:{port} ({why}); choose another --port or --host") from None
    bound.listen(backlog)
    return bound
