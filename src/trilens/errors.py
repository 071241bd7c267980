"""Every error that trilens raises on purpose: one line that says what was wrong, what was expected, and what to do.

    TrilensError
    |- UsageError          a bad option or argument                              exit 2
    |- UnsupportedModel    a part of the model that nobody here knows            exit 3
    |- BadCheckpoint       a file that is damaged, incomplete or hostile         exit 4
    |  `- BadTemplate      a chat template that fails, loops or reaches too far
    |- ModelNotFound       no such file, catalog name or hub id; no network      exit 5
    |  `- AmbiguousName    a name that several models of the catalog have
    |- RequestRefused      the request cannot be carried out as asked            exit 6
    |  |- ContextFull      prompt and answer do not fit the model's context
    |  |- FieldRefused     one field of the request is wrong; the message names it
    |  `- CacheFull        no memory is left for the request's cache until another one ends
    `- HostedError         somebody else's service, or an engine we started       exit 7
       |- Unreachable      no connection, or nothing came in time
       |- RateLimited      the service wants fewer requests, or is out of room
       |- Refused          the service will not answer this: the request, the key, or its content
       |- ServiceFailed    the service broke: an error of its own, or an answer cut in the middle
       `- EngineDied       an engine that we started ended by itself, never answered, or lost one of its nodes

The command line prints the message after "trilens: " and leaves with the class's `exit_code`.
"""

from __future__ import annotations

from typing import Any


class TrilensError(Exception):
    """The root; `exit_code` is what the command line leaves with."""

    exit_code = 1


class UsageError(TrilensError):
    exit_code = 2


class UnsupportedModel(TrilensError):
    exit_code = 3


class BadCheckpoint(TrilensError):
    exit_code = 4


class BadTemplate(BadCheckpoint):
    pass


class ModelNotFound(TrilensError):
    exit_code = 5


class AmbiguousName(ModelNotFound):
    """`models` are the names of the catalog that it may mean."""

    def __init__(self, name: str, models: tuple[str, ...]) -> None:
        shown_models = ", ".join(models[:8]) + (f" and {len(models) - 8} more" if len(models) > 8 else "")
        super().__init__(f"{shown(name)} may mean {shown_models}; say which one")
        self.models = models


class RequestRefused(TrilensError):
    exit_code = 6


class ContextFull(RequestRefused):
    pass


class FieldRefused(RequestRefused):
    """One field is wrong; `param` is its name."""

    def __init__(self, param: str, said: str) -> None:
        super().__init__(f"{param} {said}")
        self.param = param


class CacheFull(RequestRefused):
    pass


class HostedError(TrilensError):
    """`partial` is the `Answer` received until then, None where nothing was; `retry_after` are seconds, where the
    service says them."""

    exit_code = 7

    def __init__(self, message: str, *, partial: Any = None, retry_after: float | None = None) -> None:
        super().__init__(message)
        self.partial = partial
        self.retry_after = retry_after


class Unreachable(HostedError):
    pass


class RateLimited(HostedError):
    pass


class Refused(HostedError):
    pass


class ServiceFailed(HostedError):
    pass


class EngineDied(HostedError):
    pass


def shown(value: object) -> str:
    """A caller's value for a message, cut after 60 characters."""
    try:
        return f"{value!r:.60}"
    except Exception:  # an object of the caller's own, or a number too long to print
        return f"a {type(value).__name__}"
