"""`trilens serve`: the application behind uvicorn."""

from __future__ import annotations

import gc
import logging
import socket
import sys

import uvicorn

from trilens.errors import UsageError
from trilens.serve.app import GRACE, application
from trilens.serve.guard import LOOPBACK, Rules
from trilens.serve.shelf import Shelf

log = logging.getLogger("trilens.serve")

COLLECT = 20_000  # new objects before Python looks for cycles among them; by itself it does after 700
SWITCH = 0.0005  # seconds that the thread of the steps may wait for Python's lock; by itself Python makes it 0.005


def serve(shelf: Shelf, rules: Rules, port: int) -> None:
    """Until Ctrl-C or SIGTERM; what runs then is finished. Raises UsageError for a port that is taken."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    if rules.host not in LOOPBACK and rules.key is None:
        log.warning("anybody who reaches %s can ask here: there is no --api-key", rules.host)
    bound = _bound(rules.host, port)
    host = f"[{rules.host}]" if ":" in rules.host else rules.host
    log.info("http://%s:%d serves %s", host, bound.getsockname()[1], ", ".join(shelf.places))
    config = uvicorn.Config(
        application(shelf, rules), log_level="warning", timeout_graceful_shutdown=int(GRACE), server_header=False
    )
    sys.setswitchinterval(SWITCH)
    gc.set_threshold(COLLECT)
    uvicorn.Server(config).run(sockets=[bound])


def _bound(host: str, port: int) -> socket.socket:
    """A listening socket. Raises UsageError where nobody can listen there."""
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
    bound.listen(2048)
    return bound
