"""Looks inside a model that runs here: the attention of one head, and the logit lens."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict
from typing import Any, TypeVar

from pydantic import Field

from trilens.errors import FieldRefused
from trilens.model import Model
from trilens.serve.chat_run import in_thread
from trilens.serve.loop import Busy, Serving, TimeIsUp
from trilens.serve.scores import token_text
from trilens.serve.tokens import TextRequest, ids_of
from trilens.trials.inside import MOST_TOP, LookCost, check_head, check_length, head_attention, logit_lens
from trilens.units import data, flop

T = TypeVar("T")

WAITING = 8  # looks that may wait for another one


class AttentionRequest(TextRequest):
    layer: int = Field(ge=0, le=1 << 20)
    head: int = Field(ge=0, le=1 << 20)


class LensRequest(TextRequest):
    """`position`: the token behind which to look; without one, the last."""

    position: int | None = Field(default=None, ge=0, le=1 << 20)
    top: int = Field(default=5, ge=1, le=MOST_TOP)


class Looks:
    """One look at a time runs beside the models' requests, with a thread of its own."""

    def __init__(self) -> None:
        self._threads = ThreadPoolExecutor(1, "look")
        self._asked: list[Future[Any]] = []

    async def attention(self, loop: Serving, request: AttentionRequest) -> dict[str, Any]:
        """Each token's text, and for each its weights on itself and the tokens before it. Raises Busy, TimeIsUp,
        FieldRefused and what a look raises.
        """
        model = _local(loop)
        check_head(model.spec, request.layer, request.head)
        ids, texts = await _encoded(loop, request)
        seen = await self._run(loop, lambda: head_attention(model, ids, request.layer, request.head, loop.adapter))
        weights = [row[: i + 1] for i, row in enumerate(seen.weights.astype(float).round(4).tolist())]
        where = {"layer": request.layer, "head": request.head}
        return {"model": loop.name, **where, "tokens": texts, "weights": weights, "cost": _cost(seen.cost)}

    async def lens(self, loop: Serving, request: LensRequest) -> dict[str, Any]:
        """Each token's text, and for each layer the likeliest next tokens behind `position`. Raises as `attention`."""
        model = _local(loop)
        ids, texts = await _encoded(loop, request)
        last = len(ids) - 1
        position = last if request.position is None else request.position
        if position > last:
            raise FieldRefused("position", f"is {position}; expected 0 to {last}, a token of the text")
        seen = await self._run(loop, lambda: logit_lens(model, ids[: position + 1], request.top, loop.adapter))
        layers = [
            [{"token": token_text(model.text.tokenizer, g.token), "probability": g.probability} for g in layer]
            for layer in seen.layers
        ]
        return {"model": loop.name, "position": position, "tokens": texts, "layers": layers, "cost": _cost(seen.cost)}

    async def _run(self, loop: Serving, look: Callable[[], T]) -> T:
        # One that nobody waits for any more counts until the thread is free of it.
        self._asked = [one for one in self._asked if not one.done()]
        if len(self._asked) > WAITING:
            raise Busy(f"{WAITING} looks wait for another one, the maximum; try again in a moment")
        asked = self._threads.submit(look)
        self._asked.append(asked)
        try:
            async with asyncio.timeout(loop.seconds) as limit:
                return await asyncio.wrap_future(asked)
        except TimeoutError:
            if not limit.expired():
                raise
            raise TimeIsUp(f"the look took longer than {loop.seconds:g} s, which is the maximum") from None


def _local(loop: Serving) -> Model:
    if not isinstance(loop.model, Model):
        raise FieldRefused("model", f"{loop.name} runs on an engine, which does not show what happens inside")
    return loop.model


async def _encoded(loop: Serving, request: TextRequest) -> tuple[list[int], list[str]]:
    """The ids and the texts of the tokens."""
    asked = request.prompt if request.messages is None else request.messages
    ids = await in_thread(asked, lambda: ids_of(loop, request))
    check_length(ids)
    return ids, [token_text(loop.model.text.tokenizer, token) for token in ids]


def _cost(cost: LookCost) -> dict[str, Any]:
    moved = cost.weight_bytes + cost.kv_bytes + cost.fixed_bytes
    line = f"{cost.tokens} tokens, {flop(cost.flops)}, {data(moved)} read, {cost.seconds:.3f} s"
    return {**asdict(cost), "text": line}
