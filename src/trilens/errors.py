"""Every error that trilens raises on purpose: one line that says what was wrong, what was expected, and what to do.

    TrilensError
    |- UsageError          a bad option or argument                              exit 2
    |- UnsupportedModel    a part of the model that is not supported             exit 3
    |- BadCheckpoint       a file that is damaged, incomplete or hostile         exit 4
    |  `- BadTemplate      a chat template that fails, loops or accesses too much
    |- ModelNotFound       no such file, catalog name or hub id; no network      exit 5
    |  `- AmbiguousName    a name that several models of the catalog have
    |- RequestRefused      the request cannot be carried out as stated           exit 6
    |  |- ContextFull      prompt and answer do not fit the model's context
    |  |- FieldRefused     one field of the request is wrong; the message names it
    |  `- CacheFull        no memory is left for the request's cache until another one ends
    `- HostedError         a service, or an engine that we started               exit 7
       |- Unreachable      no connection, or no response in time
       |- RateLimited      the service wants fewer requests, or has no capacity
       |- Refused          the service refuses the request, the key, or the content
       |- ServiceFailed    the service had an error, or its answer was interrupted
       `- EngineDied       an engine that we started ended, never answered, or lost a node

The command line prints the message after "trilens: " and exits with the class's `exit_code`.
"""

from __future__ import annotations

from typing import Any


class TrilensError(Exception):
    """The root of all errors. The command line exits with `exit_code`."""

    exit_code = 1


class UsageError(TrilensError):
    """A wrong option or argument."""

    exit_code = 2


class UnsupportedModel(TrilensError):
    """A part of the model that trilens does not support."""

    exit_code = 3


class BadCheckpoint(TrilensError):
    """A file that is damaged, incomplete or hostile."""

    exit_code = 4


class BadTemplate(BadCheckpoint):
    """A chat template that fails, does not end, or tries to access what it must not."""


class ModelNotFound(TrilensError):
    """No such file, catalog name or hub id, or no network."""

    exit_code = 5


class AmbiguousName(ModelNotFound):
    """A name that fits several models of the catalog. `models` are their names."""

    def __init__(self, name: str, models: tuple[str, ...]) -> None:
        shown_models = ", ".join(models[:8]) + (f" and {len(models) - 8} more" if len(models) > 8 else "")
        super().__init__(f"{shown(name)} may mean {shown_models}; say which one")
        self.models = models


class RequestRefused(TrilensError):
    """The request cannot be carried out as stated."""

    exit_code = 6


class ContextFull(RequestRefused):
    """Prompt and answer do not fit the model's context."""


class FieldRefused(RequestRefused):
    """One field of the request is wrong. `param` is its name."""

    def __init__(self, param: str, said: str) -> None:
        super().__init__(f"{param} {said}")
        self.param = param


class CacheFull(RequestRefused):
    """There is no memory for the request's cache until another request ends."""


class HostedError(TrilensError):
    """An error of a service, or of an engine that we started. `partial` is the `Answer` received until then, or None;
    `retry_after` is in seconds, if the service says so.
    """

    exit_code = 7

    def __init__(self, message: str, *, partial: Any = None, retry_after: float | None = None) -> None:
        super().__init__(message)
        self.partial = partial
        self.retry_after = retry_after


class Unreachable(HostedError):
    """No connection, or no response in time."""


class RateLimited(HostedError):
    """The service wants fewer requests, or has no capacity."""


class Refused(HostedError):
    """The service refuses the request, the key, or the content."""


class ServiceFailed(HostedError):
    """The service had an error, or its answer was interrupted."""


class EngineDied(HostedError):
    """An engine that we started ended, never answered, or lost one of its nodes."""


def shown(value: object) -> str:
    """A caller's value for a message, cut after 60 characters."""
    try:
        return f"{value!r:.60}"
    except Exception:  # an object of the caller's own, or a number too long to print
        return f"a {type(value).__name__}"
