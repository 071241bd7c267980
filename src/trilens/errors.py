"""Every error that trilens raises on purpose: one line that says what was wrong, what was expected, and what to do.

    TrilensError
    |- UsageError          a bad option or argument                              exit 2
    |- UnsupportedModel    a part of the model that nobody here knows            exit 3
    |- BadCheckpoint       a file that is damaged, incomplete or hostile         exit 4
    |  `- BadTemplate      a chat template that fails, loops or reaches too far
    |- ModelNotFound       no such file, catalog name or hub id; no network      exit 5
    `- RequestRefused      the request cannot be carried out as asked            exit 6
       |- ContextFull      prompt and answer do not fit the model's context
       `- CacheFull        no memory is left for the request's cache until another one ends

The command line prints the message after "trilens: " and leaves with the class's `exit_code`.
"""


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


class RequestRefused(TrilensError):
    exit_code = 6


class ContextFull(RequestRefused):
    pass


class CacheFull(RequestRefused):
    pass
