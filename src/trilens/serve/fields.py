"""The fields of requests. Each protocol's request is a class, and the class is the table of its fields: those that are
supported (its attributes), ignored (`aside`), and refused by name (`refused`). Reading, the list under
`trilens.ignored`, the refusals and the table in docs/serving.md all come from it.

A field that changes the answer is carried out or refused. A hint, an identifier or a hosted extra is ignored and
reported. `null` is the same as leaving a field out.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any, ClassVar, TypeVar

from pydantic import BaseModel, ConfigDict, PrivateAttr, ValidationError, model_validator
from pydantic_core import InitErrorDetails, PydanticCustomError

from trilens.errors import FieldRefused, RequestRefused

T = TypeVar("T")

HINT = "hints that do not change the answer"
IDENTIFIER = "identifiers"
STORED = "storage at a service; nothing is stored here"
CACHE = "control of the prompt cache, which is automatic here"
HOSTED = "extras that a service runs beside the model; not run here"
REPORT = "requests for additional reports"


class FieldsRefused(FieldRefused):
    """Several fields are wrong. The message names all of them."""

    def __init__(self, refused: list[FieldRefused]) -> None:
        RequestRefused.__init__(self, together([str(one) for one in refused]))
        self.refused = refused
        self.param = refused[0].param


@dataclass(frozen=True)
class Refused:
    """`why` a field is refused. Values in `unless` change nothing and are ignored."""

    why: str
    unless: tuple[Any, ...] = (False,)


class Fields(BaseModel):
    """A part of a request's body."""

    model_config = ConfigDict(extra="forbid", strict=True)
    aside: ClassVar[Mapping[str, str]] = {}  # a field -> what kind of field it is
    refused: ClassVar[Mapping[str, Refused]] = {}
    also: ClassVar[Mapping[str, str]] = {}  # another program's name for a field -> ours
    _left: list[str] = PrivateAttr(default_factory=list)

    @model_validator(mode="wrap")
    @classmethod
    def _read(cls, data: Any, read: Callable[[Any], Any]) -> Any:
        if not isinstance(data, Mapping):
            return read(data)
        also, aside, refused = (cls.table(which) for which in ("also", "aside", "refused"))
        kept, left, wrong = dict[str, Any](), list[str](), list[InitErrorDetails]()
        for given, value in data.items():
            name = also.get(str(given), str(given))
            if value is None:
                continue
            if name in aside:
                left.append(name)
            elif (rule := refused.get(name)) is not None:
                if any(type(value) is type(one) and value == one for one in rule.unless):
                    left.append(name)
                else:
                    wrong.append(_fault("refused", f"is not supported: {rule.why}; leave it out", (given,), value))
            elif name in kept and kept[name] != value:
                wrong.append(_fault("refused", f"and {name} differ; give one of them", (given,), value))
            else:
                kept[name] = value
        try:
            made = read(kept)
        except ValidationError as problem:
            wrong += [_again(error) for error in problem.errors()]
        if wrong:
            raise ValidationError.from_exception_data(cls.__name__, wrong)
        made._left = left
        return made

    @classmethod
    @cache
    def table(cls, which: str) -> dict[str, Any]:
        """`aside`, `refused` or `also` of this class and of those that it is made of."""
        parts = [vars(part).get(which, {}) for part in reversed(cls.__mro__)]
        return {name: said for part in parts for name, said in part.items()}

    def left_aside(self, at: str = "") -> list[str]:
        """The fields of the request that were ignored, each with its place."""
        found = [f"{at}{name}" for name in self._left]
        for name, value in vars(self).items():
            parts = [("", value)] if isinstance(value, Fields) else []
            if isinstance(value, list):
                parts = [(f"{i}.", one) for i, one in enumerate(value) if isinstance(one, Fields)]
            for number, part in parts:
                found += part.left_aside(f"{at}{type(self).model_fields[name].alias or name}.{number}")
        return found


def _fault(kind: str, said: str, place: tuple[str | int, ...], value: Any, param: str = "") -> InitErrorDetails:
    problem = PydanticCustomError(kind, "{said}", {"said": said, "param": param})
    return InitErrorDetails(type=problem, loc=place, input=value)


def _again(error: Any) -> InitErrorDetails:
    """An error of pydantic's, to be raised together with ours."""
    return _fault(error["type"], error["msg"], error["loc"], error["input"], error.get("ctx", {}).get("param", ""))


def gathered(*checks: Callable[[], Any]) -> list[Any]:
    """The results of these checks. Raises all their refusals as one error."""
    made, refused = [], list[FieldRefused]()
    for check in checks:
        try:
            made.append(check())
        except FieldsRefused as problem:
            refused += problem.refused
        except FieldRefused as problem:
            refused.append(problem)
    if len(refused) == 1:
        raise refused[0]
    if refused:
        raise FieldsRefused(refused)
    return made


def checked(read: Callable[[T], Any]) -> Callable[[T], T]:
    """A field's value, unchanged, if it can be read. Errors in it are reported together with the request's other
    errors.
    """

    def check(value: T) -> T:
        try:
            read(value)
        except FieldRefused as problem:
            raise PydanticCustomError("place", "{said}", {"said": str(problem), "param": problem.param}) from None
        return value

    return check


def together(said: list[str]) -> str:
    """Refusals as one line."""
    several = list(dict.fromkeys(said))
    return several[0] if len(several) == 1 else f"{len(several)} fields are wrong. " + ". ".join(several)


def only(given: Mapping[str, Any], known: Collection[str], at: str) -> None:
    """Raises FieldRefused for fields that are not among these."""
    unknown = [key for key, value in given.items() if key not in known and value is not None]
    refused = [FieldRefused(f"{at}.{key:.80}", "is unknown; leave it out") for key in unknown]
    if refused:
        raise refused[0] if len(refused) == 1 else FieldsRefused(refused)


def shown(value: Any) -> str:
    """A value for an error message, as JSON, shortened."""
    return json.dumps(value, default=str)[:60]
