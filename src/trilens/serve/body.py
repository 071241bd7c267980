"""A request's body: JSON in which every value is valid, or one clear error that names the place."""

from __future__ import annotations

import asyncio
import json
import math
from collections.abc import Callable
from typing import Any

from fastapi import Request, Response
from fastapi.routing import APIRoute
from starlette.exceptions import HTTPException

from trilens.serve.faults import Fault, refused

MOST_DEPTH = 64
MOST_VALUES = 1 << 17  # a body of 8 MB could hold millions, each of which costs time and memory before it is looked at
IN_PLACE = 1 << 16  # bytes that are read where other requests wait; more are read in a thread

Path = tuple["Path", "str | int"] | None  # from a value up to the body


class BadBody(HTTPException):
    """The body cannot be read as a request."""

    def __init__(self, message: str, param: str | None = None) -> None:
        super().__init__(400, message)
        self.fault: Fault = refused(message, param=param)


class JsonRoute(APIRoute):
    """A route that reads its body with this file."""

    def get_route_handler(self) -> Callable[[Request], Any]:
        handle = super().get_route_handler()

        async def handled(request: Request) -> Response:
            answer: Response = await handle(_JsonRequest(request.scope, request.receive))
            return answer

        return handled


class _JsonRequest(Request):
    async def json(self) -> Any:
        body = await self.body()
        return read_json(body) if len(body) <= IN_PLACE else await asyncio.to_thread(read_json, body)


def read_json(body: bytes) -> Any:
    """Read JSON in which all numbers are finite and fit in 64 bits, all texts are Unicode, and nesting is at most
    `MOST_DEPTH` deep. Raises BadBody.
    """
    try:
        text = body.decode("utf-8")
        made = json.loads(text, parse_constant=_constant)
    except UnicodeDecodeError:
        raise BadBody("the body is not UTF-8; send JSON in UTF-8") from None
    except json.JSONDecodeError as problem:
        raise BadBody(
            f"the body is not JSON (line {problem.lineno}, column {problem.colno}); send valid JSON"
        ) from None
    except RecursionError:
        raise BadBody(f"the body is nested too deeply; expected at most {MOST_DEPTH} levels") from None
    except ValueError:
        raise BadBody("the body has a number with thousands of digits; expected 64 bits") from None
    _check(made, surrogates="\\ud" in text or "\\uD" in text)
    return made


def _constant(name: str) -> float:
    return {"NaN": math.nan, "Infinity": math.inf, "-Infinity": -math.inf}[name]  # refused with its place later on


def _check(body: Any, surrogates: bool) -> None:
    waiting: list[tuple[Any, Path, int]] = [(body, None, 0)]
    count = 0
    while waiting:
        value, path, depth = waiting.pop()
        count += 1
        if count > MOST_VALUES:
            raise BadBody(f"the body has more than {MOST_VALUES} values; expected fewer")
        if depth > MOST_DEPTH:
            raise _bad(path, f"is nested too deeply; expected at most {MOST_DEPTH} levels")
        match value:
            case dict():
                for key in value:
                    if surrogates and _is_half(key):
                        raise _bad((path, key), "is not text (half of a surrogate pair); expected another name")
                waiting.extend((inner, (path, key), depth + 1) for key, inner in value.items())
            case list():
                waiting.extend((inner, (path, i), depth + 1) for i, inner in enumerate(value))
            case str() if surrogates and _is_half(value):
                raise _bad(path, "is not text (half of a surrogate pair); expected text in Unicode")
            case float() if not math.isfinite(value):
                raise _bad(path, f"is {value}; expected a finite number")
            case int() if not -(1 << 63) <= value < 1 << 64:
                raise _bad(path, "is a number beyond 64 bits; expected a smaller one")


def _is_half(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return True
    return False


def _bad(path: Path, said: str) -> BadBody:
    parts: list[str] = []
    while path is not None:
        path, key = path
        parts.append(str(key))
    place = ".".join(reversed(parts))[:200].encode("ascii", "backslashreplace").decode()
    return BadBody(f"{place or 'the body'} {said}", place or None)
