"""What a checkpoint holds beside the text decoder, in parameters, where the configuration determines it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from trilens.spec.model import ModelSpec


def not_counted(config: Mapping[str, Any], text: Mapping[str, Any], spec: ModelSpec) -> dict[str, int]:
    return {}
