"""The models that are served, by name. They are loaded with the first request and unloaded when memory is short."""

from __future__ import annotations

import asyncio
import gc
import logging
import re
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Any

from trilens import system
from trilens.checkpoints.adapters import adapter_bytes
from trilens.checkpoints.find import find
from trilens.errors import ModelNotFound, TrilensError, UsageError
from trilens.files import exists
from trilens.loading import load
from trilens.model import Model
from trilens.serve.local_loop import LocalLoop
from trilens.serve.loop import EngineLoop, Serving, ShuttingDown
from trilens.serve.remote_loop import RemoteLoop

log = logging.getLogger("trilens.serve")


class NotLoadable(TrilensError):
    """A model that should be served cannot be loaded. The log says why."""


@dataclass
class Place:
    """One name, and what is loaded under it. `leases` are the requests that need it, from its look-up to their end.
    `coming`: bytes that it will take, while it is being loaded.
    """

    name: str
    source: str
    adapters: Mapping[str, str] = field(default_factory=dict)  # by name: their paths
    loop: EngineLoop | None = None
    leases: int = 0
    coming: int = 0
    used: float = 0.0
    changing: asyncio.Lock = field(default_factory=asyncio.Lock)  # held while it is loaded or put away

    @property
    def can_go(self) -> bool:
        """Whether it is loaded and not in use."""
        return isinstance(self.loop, LocalLoop) and not self.leases and self.loop.idle and not self.changing.locked()


@dataclass(frozen=True)
class Room:
    """The limits of each model: concurrent calls, queued calls and seconds per call; and options for loading."""

    parallel: int = 64
    waiting: int = 128
    seconds: float = 600.0
    options: Mapping[str, Any] = field(default_factory=dict)


class ModelRegistry:
    def __init__(
        self, names: Sequence[str], room: Room, adapters: Mapping[str, Mapping[str, str]] = MappingProxyType({})
    ) -> None:
        """`names` as `trilens.load` takes them; a path is served under its file's name. `adapters`: of a served name,
        their paths by name; each is served as MODEL:ADAPTER. Raises UsageError for two that would be served under
        one."""
        self.places: dict[str, Place] = {}
        for source in names:
            name = served_name(source)
            if name in self.places:
                raise UsageError(f"two models would be served as {name!r}; rename one of the files")
            self.places[name] = Place(name, source, adapters.get(name, {}))
        self.adapted = {
            f"{place.name}:{adapter}": (place, adapter) for place in self.places.values() for adapter in place.adapters
        }
        if twice := sorted(self.places.keys() & self.adapted.keys()):
            raise UsageError(f"a model and an adapter would be served as {twice[0]!r}; rename the adapter")
        self._room = room
        self._closing = False
        self._making_room = asyncio.Lock()

    def put(self, name: str, loop: RemoteLoop) -> None:
        """What an engine runs, which stays as long as the server does."""
        self.places[name].loop = loop

    @property
    def names(self) -> list[str]:
        """All that can be asked for: each model, then its adapters."""
        return [name for place in self.places.values() for name in (place.name, *_adapted_names(place))]

    def place(self, name: str | None) -> tuple[Place, str | None]:
        """The place of the model with that name, and its adapter if it has one; where only one model is served, it
        needs no name. Raises ModelNotFound."""
        if name is None and len(self.places) == 1:
            name = next(iter(self.places))
        if name in self.adapted:
            return self.adapted[name]
        place = None if name is None else self.places.get(name)
        if place is None:
            raise ModelNotFound(f"no model {name!r:.80} is served here; expected one of {', '.join(self.names)}")
        return place, None

    @asynccontextmanager
    async def lease(self, name: str | None) -> AsyncIterator[Serving]:
        """What a name stands for. Its model is then loaded, and is not unloaded before the lease ends. Raises
        ModelNotFound, NotLoadable, ShuttingDown.
        """
        place, adapter = self.place(name)
        place.leases += 1
        try:
            served = place.name if adapter is None else f"{place.name}:{adapter}"
            yield Serving(served, await self._loop(place), adapter)
        finally:
            place.leases -= 1
            place.used = time.monotonic()

    def problems(self) -> dict[str, TrilensError]:
        """The models that cannot answer at the moment, with the reasons."""
        found = {place.name: place.loop.problem for place in self.places.values() if place.loop is not None}
        return {name: problem for name, problem in found.items() if problem is not None}

    def close(self, seconds: float) -> None:
        """Finish what runs, for so many seconds in all."""
        self._closing = True
        end = time.monotonic() + seconds
        for place in self.places.values():
            if place.loop is not None:
                place.loop.close(end - time.monotonic())

    async def _loop(self, place: Place) -> EngineLoop:
        """Of a model that has a lease."""
        async with place.changing:  # a model that is just being put away is loaded again
            if self._closing:
                raise ShuttingDown("the server is shutting down; try another one, or later")
            if place.loop is None:
                try:
                    await self._make_room(place)
                    model = await asyncio.to_thread(self._load, place)
                finally:
                    place.coming = 0
                place.loop = LocalLoop(model, self._room.parallel, self._room.waiting, self._room.seconds)
            return place.loop

    def _load(self, place: Place) -> Model:
        begin = time.monotonic()
        try:
            model = load(place.source, **self._room.options, **_adapters_of(place))
        except (TrilensError, MemoryError) as problem:
            log.error("%s cannot be loaded: %s", place.name, problem)
            raise NotLoadable(f"{place.name} cannot be loaded here; the server's log says why") from None
        model.name = place.name  # a path is nobody's business
        gc.collect()
        gc.freeze()  # what is there now stays, and need not be looked through again while requests come and go
        log.info("%s loaded in %.1f s", place.name, time.monotonic() - begin)
        return model

    async def _make_room(self, wanted: Place) -> None:
        """Unload models that are not in use, the longest unused first, until there is memory for this one."""
        need = await asyncio.to_thread(_bytes_of, wanted)
        async with self._making_room:  # one after the other, or two would count on the same memory
            while (oldest := self._in_the_way(need)) is not None:
                log.info("%s is unloaded: %s needs its memory", oldest.name, wanted.name)
                await self._put_away(oldest)
            wanted.coming = need or 0

    def _in_the_way(self, need: int | None) -> Place | None:
        """The model to unload next; None if there is enough memory, or no model that can be unloaded."""
        free = system.available_memory()
        if need is None or free is None or need <= free - sum(place.coming for place in self.places.values()):
            return None
        return min((place for place in self.places.values() if place.can_go), key=lambda p: p.used, default=None)

    async def _put_away(self, place: Place) -> None:
        async with place.changing:  # free, so nobody can take a lease in between
            loop, place.loop = place.loop, None
            assert loop is not None, "it could go"
            await asyncio.to_thread(loop.close, 0)
            del loop
            gc.unfreeze()
            await asyncio.to_thread(gc.collect)


def served_name(source: str) -> str:
    path = Path(source)
    if not exists(path):
        return source
    name = path.resolve().name
    return re.sub(r"\.gguf$", "", name, flags=re.IGNORECASE)


def _adapters_of(place: Place) -> dict[str, Any]:
    """What `load` takes for them."""
    return {"adapters": place.adapters} if place.adapters else {}


def _adapted_names(place: Place) -> list[str]:
    return [f"{place.name}:{adapter}" for adapter in place.adapters]


def _bytes_of(place: Place) -> int | None:
    """The approximate size of its weights and adapters, from their files; None if they are not on this disk yet."""
    try:
        path = find(place.source, offline=True).path
        files = [path] if path.is_file() else path.glob("*.safetensors")
        adapters = sum(adapter_bytes(Path(adapter)) for adapter in place.adapters.values())
        return adapters + sum(file.stat().st_size for file in files)
    except (TrilensError, OSError):  # OSError: a file of the directory is a link that leads nowhere
        return None
