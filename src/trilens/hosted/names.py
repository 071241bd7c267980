"""Which names are models elsewhere. Whoever asks this for a model that runs here imports no more of `hosted`."""

from __future__ import annotations

import re

VENDORS = {"openai": "openai", "anthropic": "anthropic", "gemini": "google.genai"}  # -> their libraries
ADDRESS = re.compile(r"https?://", re.IGNORECASE)


def is_hosted(name: str) -> bool:
    return ADDRESS.match(name) is not None or at_vendor(name) is not None


def at_vendor(name: str) -> tuple[str, str] | None:
    """(vendor, its model) of "openai:MODEL", also as in "OpenAI: MODEL"."""
    vendor, colon, called = name.partition(":")
    vendor = vendor.strip().lower()
    return (vendor, called.strip()) if colon and vendor in VENDORS else None
