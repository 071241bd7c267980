"""Work counted instead of timed: the calls of Python and C functions, which a busy machine cannot change."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import Any

ROOT = Path(__file__).parent.parent  # where a script of a test finds this module


def calls(function: Callable[[], object]) -> int:
    """How many calls `function` makes. A loop without a call in it counts nothing; a library's C code counts once."""
    made = 0

    def count(frame: FrameType, event: str, arg: Any) -> None:
        nonlocal made
        made += event in ("call", "c_call")

    before = sys.getprofile()
    sys.setprofile(count)
    try:
        function()
    finally:
        sys.setprofile(before)
    return made
