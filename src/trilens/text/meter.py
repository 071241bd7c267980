"""The time and memory that one rendering of a chat template may use.

Every operation whose result can be larger than its input is measured before it runs. All results count towards one
allowance. Every loop turn, call, filter, test and comparison checks the clock of its own thread. So the cost of a
template is bounded in any thread, without signals or trace functions.
"""

import sys
import time
from contextvars import ContextVar
from typing import Any

from jinja2 import Undefined

from trilens.text.allowance import TOGETHER

SECONDS = 2.0  # of the thread's processor time, for one rendering
MEMORY = 64 << 20  # bytes for all that a rendering makes, before what the size of its input adds
MAX_TEXT = 1 << 20  # characters in one value, before what the size of its input adds
MAX_BITS = 8192  # of an integer


class OverLimit(Exception):
    """A template uses more than any template needs."""


class TemplateRefusal(Exception):
    """`raise_exception(message)`: the template's own word on the conversation."""


class Meter:
    """What one rendering has used. Values are weighed as their text would be: an upper bound of its characters."""

    def __init__(self, inputs: dict[str, Any]) -> None:
        """`inputs` is plain data; what a rendering may use grows with it."""
        self._deadline = min(time.thread_time() + SECONDS, TOGETHER.get())
        self._most = sys.maxsize
        # Containers cannot be changed in the sandbox, so each is weighed once. Holding it keeps its id from others.
        self._weights: dict[int, tuple[object, int]] = {}
        weight = self.weigh(inputs)
        self._memory = MEMORY + 64 * weight
        self._most = MAX_TEXT + 8 * weight

    def tick(self) -> bool:
        if time.thread_time() > self._deadline:
            raise OverLimit(f"it runs for more than {SECONDS:g} s")
        return True

    def turn(self, prints: int) -> bool:
        """One turn of a loop that prints at so many places: each print waits in a list until all are joined."""
        self.spend(16 * prints)
        return self.tick()

    def fits(self, characters: int) -> None:
        if characters > self._most:
            raise OverLimit(f"it makes a value of {characters} characters; {self._most} are allowed")

    def spend(self, size: int) -> None:
        self._memory -= size
        if self._memory < 0:
            raise OverLimit("it uses too much memory")

    def weigh(self, value: Any) -> int:
        """Raises OverLimit for a value that is not plain data, since its text has no bound."""
        match value:
            case str():
                return len(value) + 2
            case bool() | float() | None | Undefined() | range():
                return 24
            case int():
                if value.bit_length() > MAX_BITS:
                    raise OverLimit(f"it makes a number of {value.bit_length()} bits; {MAX_BITS} are allowed")
                return 24 + value.bit_length() // 3
            case dict() | list() | tuple():
                known = self._weights.get(id(value))
                if known is None:
                    items = (part for pair in value.items() for part in pair) if isinstance(value, dict) else value
                    known = value, 4 + sum(self.weigh(item) + 2 for item in items)
                    self.fits(known[1] // 4)
                    self._weights[id(value)] = known
                return known[1]
            case _:
                raise OverLimit(f"it uses {kind(value)} as if it were data")

    def shared(self, value: Any) -> Any:
        """Pay for a value whose parts are there already."""
        self.tick()
        if isinstance(value, (str, int, dict, list, tuple)):
            self.fits(self.weigh(value) // (1 if isinstance(value, str) else 4))
            self.spend(sys.getsizeof(value) + (0 if isinstance(value, (str, int)) else 60 * len(value)))
        return value

    def sliced(self, whole: Any, *bounds: int | None) -> Any:
        """A slice weighs no more than the whole, so it need not be added up again."""
        part = whole[slice(*bounds)]
        if isinstance(part, (list, tuple)):
            self.tick()
            self._weights[id(part)] = part, self.weigh(whole)
            self.spend(sys.getsizeof(part))
            return part
        return self.shared(part)

    def fresh(self, value: Any) -> Any:
        """Pay for a value with all its parts."""
        if isinstance(value, (dict, list, tuple)):
            self.spend(self.weigh(value))
        return self.shared(value)

    def text(self, value: Any) -> str:
        """The text of plain data, as Jinja prints it."""
        if isinstance(value, str):
            return value
        self.fits(self.weigh(value))
        text = str(value)
        self.spend(sys.getsizeof(text))
        return text


METER: ContextVar[Meter] = ContextVar("meter")


def meter() -> Meter:
    return METER.get()


def kind(value: object) -> str:
    """What a value is, for a message."""
    name = getattr(value, "__name__", None)
    return f"{type(value).__name__} {name!r}" if isinstance(name, str) else f"a {type(value).__name__}"
