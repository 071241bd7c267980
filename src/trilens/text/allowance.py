"""Processor time that several renderings share."""

import math
import time
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

TOGETHER: ContextVar[float] = ContextVar("together", default=math.inf)


@contextmanager
def together(seconds: float) -> Iterator[None]:
    """All renderings of this thread inside the `with` share so many seconds of its processor time."""
    token = TOGETHER.set(time.thread_time() + seconds)
    try:
        yield
    finally:
        TOGETHER.reset(token)


def used_up() -> bool:
    """Whether the seconds of `together` are over."""
    return time.thread_time() > TOGETHER.get()
