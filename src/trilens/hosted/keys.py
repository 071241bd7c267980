"""Keys: from the environment or the system's keyring, nowhere else, and never in a message."""

from __future__ import annotations

import os
from importlib import import_module

from trilens.errors import UsageError

VARIABLES = {
    "openai": ("OPENAI_API_KEY",),
    "anthropic": ("ANTHROPIC_API_KEY",),
    "gemini": ("GEMINI_API_KEY", "GOOGLE_API_KEY"),
}


def key_of(service: str, *variables: str, needed: bool = True) -> str | None:
    """The first variable that is set, else the keyring's entry for the user `service` of "trilens".

    Raises UsageError if there is none and one is needed.
    """
    names = variables or VARIABLES.get(service, ())
    for name in names:
        if stated := os.environ.get(name, "").strip():
            return stated
    if kept := _from_keyring(service):
        return kept
    if needed:
        raise UsageError(
            f"no key for {service}; set {' or '.join(names)}, or store one with `keyring set trilens {service}`"
        )
    return None


def without(text: str, key: str | None) -> str:
    """The text with the key removed."""
    return text.replace(key, "***") if key else text


def _from_keyring(service: str) -> str | None:
    try:
        keyring = import_module("keyring")
    except ImportError:
        return None
    try:
        found = keyring.get_password("trilens", service)
    except Exception:  # a keyring that is locked, or that this system has not
        return None
    return found if isinstance(found, str) and found else None
