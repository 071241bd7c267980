"""Prompts are prepared in few threads: long ones wait for their own, and nobody works for a client that has left."""

from __future__ import annotations

import asyncio
import threading

import pytest

from trilens.serve import chat_run
from trilens.text.tokenizer import LONG


@pytest.mark.parametrize("asked", ["x" * LONG, [{"role": "user", "content": [{"type": "text", "text": "x" * LONG}]}]])
def test_a_long_prompt_waits_for_long_ones_alone_and_not_for_who_has_left(asked: object) -> None:
    done: list[str] = []
    go = threading.Event()

    async def clients() -> None:
        first = asyncio.create_task(chat_run.in_thread(asked, lambda: (go.wait(30), done.append("first"))))
        gone = [asyncio.create_task(chat_run.in_thread(asked, lambda: done.append("gone"))) for _ in range(20)]
        last = asyncio.create_task(chat_run.in_thread(asked, lambda: done.append("last")))
        await asyncio.sleep(0)
        for task in gone:
            task.cancel()
        await asyncio.gather(*gone, return_exceptions=True)
        assert await chat_run.in_thread("hello", lambda: "at once") == "at once"
        assert done == []
        go.set()
        await asyncio.gather(first, last)

    asyncio.run(clients())
    assert done == ["first", "last"]


def test_the_characters_of_a_request() -> None:
    assert chat_run.characters([{"role": "user", "content": "hello"}, {"a": [1, None, "bc"]}]) == 4 + 5 + 2
