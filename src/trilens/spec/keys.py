"""A configuration's keys, with a record of which were read: use or raise."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from trilens.errors import BadCheckpoint, UnsupportedModel

WIDEST = 2**24  # numbers in a row, rows of a vocabulary: sixty times what any model has
LONGEST = 2**30  # tokens of a context or a window: a hundred times what any model has
MOST_EXPERTS = 2**16 - 1  # an expert's number is kept in two bytes
LARGEST = 1e6  # a factor beyond it leaves the range of the float32 that it multiplies


class Keys:
    """Typed access to a mapping. Every access marks the key as read; `unread()` names the rest.

    `where` is put before every error: the file, and the enclosing key of a nested mapping. `spelled` says how the file
    itself spells a key (by its dotted path), where it was renamed before.
    """

    def __init__(
        self, values: Mapping[str, Any], where: str, prefix: str = "", spelled: Mapping[str, str] | None = None
    ) -> None:
        self.values = values
        self.where = where
        self.prefix = prefix
        self.spelled = spelled or {}
        self.read: set[str] = set()
        self.defaults: dict[str, object] = {}
        self.assumed: dict[str, object] = {}
        self.nested: dict[str, Keys] = {}
        self.factors: dict[str, float] = {}  # `Reading.factors`

    def __contains__(self, name: str) -> bool:
        """Whether the key is present, stated or assumed, with a meaningful value."""
        return (self.values[name] if name in self.values else self.assumed.get(name)) is not None

    def assume(self, **values: object) -> None:
        """The family's value for a key that its file leaves out. It is listed as a default."""
        self.assumed |= values

    def raw(self, name: str) -> Any:
        self.read.add(name)
        if name not in self.values and self.assumed.get(name) is not None:
            self.defaults[name] = self.assumed[name]
            return self.assumed[name]
        return self.values.get(name)

    def integer(self, name: str, default: int | None = None, *, least: int = 1, most: int = WIDEST) -> int:
        return self._whole(name, self._value(name, default), least, most)

    def length(self, name: str, default: int | None = None, *, least: int = 1) -> int:
        """A number of tokens."""
        return self.integer(name, default, least=least, most=LONGEST)

    def for_each(self, name: str, count: int, default: int) -> tuple[int, ...]:
        """`count` integers, stated one by one or once for all."""
        value = self._value(name, default)
        if not isinstance(value, list | tuple):
            return (self._whole(name, value, 1, WIDEST),) * count
        if len(value) < count:
            raise self.wrong(name, value, f"an integer, or a list of {count}")
        return tuple(self._whole(name, item, 1, WIDEST) for item in value[:count])

    def number(
        self, name: str, default: float | None = None, *, least: float = -LARGEST, most: float = LARGEST
    ) -> float:
        """A number within its bounds; those that have none of their own may not leave the range of float32."""
        value = self._value(name, default)
        if isinstance(value, bool) or not isinstance(value, int | float) or not least <= value <= most:
            raise self.wrong(name, value, f"a number from {least:g} to {most:g}")
        return float(value)

    def positive(self, name: str, default: float | None = None, *, most: float = LARGEST) -> float:
        """A number that something is divided by, or multiplied with and must not vanish."""
        return self.number(name, default, least=1e-6, most=most)

    def flag(self, name: str, default: bool) -> bool:
        value = self.raw(name)
        if value is None:
            return default
        if not isinstance(value, bool):
            raise self.wrong(name, value, "true or false")
        return value

    def text(self, name: str, default: str | None = None) -> str:
        value = self._value(name, default)
        if not isinstance(value, str):
            raise self.wrong(name, value, "a string")
        return value

    def divisors(self, name: str, length: int) -> tuple[float, ...]:
        """A list of `length` numbers that something is divided by; very large ones mean that nothing is left."""
        value = self.raw(name)
        if not isinstance(value, list | tuple) or len(value) != length:
            raise self.wrong(name, value, f"a list of {length} numbers")
        if any(isinstance(v, bool) or not isinstance(v, int | float) or not 1e-6 <= v <= 1e30 for v in value):
            raise self.wrong(name, value, f"a list of {length} numbers from 1e-06 to 1e+30")
        return tuple(float(v) for v in value)

    def numbers(self, name: str, length: int, *, least: float, most: float) -> tuple[float, ...] | None:
        """A list of `length` numbers within their bounds."""
        value = self.raw(name)
        if value is None:
            return None
        if not isinstance(value, list | tuple) or len(value) < length:
            raise self.wrong(name, value, f"a list of {length} numbers")
        if any(isinstance(v, bool) or not isinstance(v, int | float) or not least <= v <= most for v in value):
            raise self.wrong(name, value, f"a list of {length} numbers from {least:g} to {most:g}")
        return tuple(float(v) for v in value[:length])

    def integers(self, name: str, length: int | None = None) -> tuple[int, ...] | None:
        """A list of whole numbers, `length` of them where that is given; true and false count as 1 and 0."""
        value = self.raw(name)
        if value is None:
            return None
        if not isinstance(value, list | tuple) or any(not isinstance(v, int) or abs(v) > WIDEST for v in value):
            raise self.wrong(name, value, f"a list of integers up to {WIDEST}")
        if length is not None and len(value) < length:
            raise self.wrong(name, value, f"a list of {length} integers")
        return tuple(int(v) for v in value)[:length]

    def texts(self, name: str, length: int) -> tuple[str, ...] | None:
        value = self.raw(name)
        if value is None:
            return None
        if not isinstance(value, list | tuple) or len(value) < length or any(not isinstance(v, str) for v in value):
            raise self.wrong(name, value, f"a list of {length} strings")
        return tuple(value[:length])

    def mapping(self, name: str) -> Keys | None:
        """A nested mapping, itself watched; None when it is absent, null or empty."""
        value = self.raw(name)
        if value is None or value == {}:
            return None
        if not isinstance(value, Mapping):
            raise self.wrong(name, value, "a mapping")
        if name not in self.nested:
            self.nested[name] = Keys(value, self.where, f"{self.prefix}{name}.", self.spelled)
        return self.nested[name]

    def ignore(self, *names: str) -> None:
        """These keys are known, and change nothing in the forward pass."""
        self.read.update(names)

    def renamed(self, names: Mapping[str, str]) -> None:
        """Keys under names of their own (left) are read under the usual ones (right), and keep theirs in errors. So do
        those that are missing, in a file that has none of the usual names."""
        usual_there = any(usual in self.values for usual in names.values())
        left = {theirs: usual for theirs, usual in names.items() if usual not in self.values}
        self.lifted(self, {t: usual for t, usual in left.items() if t in self.values or not usual_there})

    def lifted(self, part: Keys, names: Mapping[str, str]) -> None:
        """The same for keys of a nested mapping, which are read as keys of this one and count more than those."""
        for theirs, usual in names.items():
            if part.values.get(theirs) is not None or (theirs in part.values and usual not in self.values):
                self.values = {**self.values, usual: part.values[theirs]}
                self.said_by(usual, part, theirs)
                part.ignore(theirs)
            elif self.prefix + usual not in self.spelled:
                self.said_by(usual, part, theirs)

    def said_by(self, usual: str, part: Keys, theirs: str) -> None:
        """What is `usual` here follows from a key of `part`, which errors name."""
        self.spelled = {**self.spelled, self.prefix + usual: part.spell(theirs)}

    def wrong(self, name: str, value: object, expected: str) -> BadCheckpoint:
        problem = f"{self.spell(name)} is missing" if value is None else f"{self.spell(name)} is {_shown(value)}"
        return BadCheckpoint(f"{self.where}: {problem}; expected {expected}")

    def unknown(self, name: str, value: object) -> UnsupportedModel:
        return UnsupportedModel(f"{self.where}: {self.spell(name)} {_shown(value)} is not supported")

    def spell(self, name: str) -> str:
        """The key as the file spells it, with the keys that enclose it."""
        return self.spelled.get(self.prefix + name, self.prefix + name)

    def unread(self) -> tuple[list[str], list[str]]:
        """(keys that say something and were never read, keys that are null, false or empty), nested ones by dotted
        path."""
        telling: list[str] = []
        empty: list[str] = []
        for name, value in self.values.items():
            if name not in self.read:
                (empty if value is None or value is False or value in ("", [], {}) else telling).append(
                    self.prefix + name
                )
        for child in self.nested.values():
            child_telling, child_empty = child.unread()
            telling += child_telling
            empty += child_empty
        return telling, empty

    def all_defaults(self) -> dict[str, object]:
        """Every default that was used, by dotted path."""
        merged = {self.prefix + name: value for name, value in self.defaults.items()}
        for child in self.nested.values():
            merged |= child.all_defaults()
        return merged

    def _whole(self, name: str, value: object, least: int, most: int) -> int:
        if isinstance(value, float) and value.is_integer():
            value = int(value)
        if isinstance(value, bool) or not isinstance(value, int) or not least <= value <= most:
            raise self.wrong(name, value, f"an integer from {least} to {most}")
        return value

    def _value(self, name: str, default: object) -> object:
        value = self.raw(name)
        if value is None and default is not None:
            self.defaults[name] = default
            return default
        return value


def _shown(value: object) -> str:
    shown = repr(value)
    return shown if len(shown) <= 60 else shown[:57] + "..."
