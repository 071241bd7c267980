"""The compiled extension, or a one-line error that says why it is missing."""

import atexit

from trilens.errors import UnsupportedModel

try:
    from trilens.executors.native import _native
except ImportError as problem:  # a checkout that was not built, or built for another Python
    raise UnsupportedModel(
        f"the native executor is not built ({problem}); install trilens with a C++20 compiler at hand "
        "(on Debian: apt install g++), or use the torch executor"
    ) from None

atexit.register(_native.close_gate)  # a daemon thread that is inside a step now would abort the process

__all__ = ["_native"]
