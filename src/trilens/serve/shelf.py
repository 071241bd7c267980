"""The models that are served, by name: loaded when first asked for, put away when memory is short."""

from __future__ import annotations

import asyncio
import gc
import logging
import re
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from trilens.checkpoints.find import find
from trilens.errors import ModelNotFound, TrilensError, UsageError
from trilens.model import Model, load
from trilens.serve.pump import Pump, ShuttingDown
from trilens.serve.relay import Relay

log = logging.getLogger("trilens.serve")


class NotLoadable(TrilensError):
    """A model that is served in name cannot be loaded; the log says why."""


@dataclass
class Place:
    """One name, and what is loaded under it."""

    name: str
    source: str
    pump: Pump | Relay | None = None
    used: float = 0.0
    lock: asyncio.Lock = field(default_factory=asyncio.Lock)


@dataclass(frozen=True)
class Room:
    """What each model is given: calls at once, calls in line, seconds a call may take; and options of loading."""

    parallel: int = 64
    waiting: int = 128
    seconds: float = 600.0
    options: Mapping[str, Any] = field(default_factory=dict)


class Shelf:
    def __init__(self, names: Sequence[str], room: Room) -> None:
        """`names` as `trilens.load` takes them; a path is served under its file's name. Raises UsageError for two
        that would be served under one."""
        self.places: dict[str, Place] = {}
        for source in names:
            name = served_name(source)
            if name in self.places:
                raise UsageError(f"two models would be served as {name!r}; rename one of the files")
            self.places[name] = Place(name, source)
        self._room = room
        self._closing = False

    def put(self, name: str, relay: Relay) -> None:
        """What an engine runs, which stays as long as the server does."""
        self.places[name].pump = relay

    async def pump(self, name: str) -> Pump | Relay:
        """Of a model that is loaded by then. Raises ModelNotFound, NotLoadable."""
        place = self.places.get(name)
        if place is None:
            raise ModelNotFound(f"no model {name!r:.80} is served here; expected one of {', '.join(self.places)}")
        async with place.lock:
            if self._closing:
                raise ShuttingDown("the server is shutting down; try another one, or later")
            place.used = time.monotonic()
            if place.pump is None:
                await asyncio.to_thread(self._make_room, place)
                model = await asyncio.to_thread(self._load, place)
                place.pump = Pump(model, self._room.parallel, self._room.waiting, self._room.seconds)
            return place.pump

    def close(self, seconds: float) -> None:
        self._closing = True
        for place in self.places.values():
            if place.pump is not None:
                place.pump.close(seconds)

    def _load(self, place: Place) -> Model:
        begin = time.monotonic()
        try:
            model = load(place.source, **self._room.options)
        except (TrilensError, MemoryError) as problem:
            log.error("%s cannot be loaded: %s", place.name, problem)
            raise NotLoadable(f"{place.name} cannot be loaded here; the server's log says why") from None
        model.name = place.name  # a path is nobody's business
        gc.collect()
        gc.freeze()  # what is there now stays, and need not be looked through again while requests come and go
        log.info("%s loaded in %.1f s", place.name, time.monotonic() - begin)
        return model

    def _make_room(self, wanted: Place) -> None:
        """Put away models that nobody uses, the longest unused first, until there is memory for this one."""
        need = _bytes_of(wanted.source)
        while True:
            free = _available()
            others = [p for p in self.places.values() if p.pump is not None and p.pump.idle and not p.lock.locked()]
            if need is None or free is None or need <= free or not others:
                return
            oldest = min(others, key=lambda p: p.used)
            assert oldest.pump is not None
            log.info("%s is put away: %s needs its memory", oldest.name, wanted.name)
            pump, oldest.pump = oldest.pump, None
            pump.close(0)
            del pump
            gc.unfreeze()
            gc.collect()


def served_name(source: str) -> str:
    path = Path(source)
    if not path.exists():
        return source
    name = path.resolve().name
    return re.sub(r"\.gguf$", "", name, flags=re.IGNORECASE)


def _bytes_of(source: str) -> int | None:
    """About what its weights will take: the size of its files; None where they are not here yet."""
    try:
        path = find(source, offline=True).path
    except TrilensError:
        return None
    files = [path] if path.is_file() else path.glob("*.safetensors")
    return sum(file.stat().st_size for file in files)


def _available() -> int | None:
    try:
        for line in Path("/proc/meminfo").read_text("ascii").splitlines():
            if line.startswith("MemAvailable:"):
                return int(line.split()[1]) * 1024
    except (OSError, ValueError):
        pass
    return None
