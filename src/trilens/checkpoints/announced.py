"""The message before a download starts."""

import sys

from trilens.units import data

QUIET_BELOW = 10_000_000  # bytes; less is here before anybody has read the line


def announce(what: str, size: int | None) -> None:
    """Print a line on standard error: the source, and the size if it is known."""
    if sys.stderr is None or (size is not None and size < QUIET_BELOW):
        return
    print(f"trilens: downloading {what}, {'size unknown' if size is None else data(size)}", file=sys.stderr, flush=True)
