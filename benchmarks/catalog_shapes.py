"""`python -m benchmarks.catalog_shapes` writes lenses/plans/shapes.json: the catalog as the cost model sees it.

`trilens which` reads it, because counting every model takes longer than a second.
"""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

from trilens.errors import TrilensError
from trilens.lenses.cards.source import card_source
from trilens.lenses.costs.shape import shape_of
from trilens.lenses.costs.weight_format import bits_of
from trilens.lenses.plans.which import OWN, WANTED
from trilens.spec.catalog import CatalogEntry, entries

OUT = Path(__file__).parents[1] / "src/trilens/lenses/plans/shapes.json"
WORDS = ("instruct", "chat", "-it", "thinking", "reasoning")


def shapes() -> dict[str, Any]:
    found = {entry.name: described(entry) for entry in entries().values() if _wanted(entry)}
    return {name: data for name, data in found.items() if data is not None}


def described(entry: CatalogEntry) -> dict[str, Any] | None:
    """None for a model whose wiring or own format nobody here knows."""
    config = entry.config or {}
    rules = config.get("quantization_config") or (config.get("text_config") or {}).get("quantization_config") or {}
    own = rules.get("quant_method", "bf16") if rules else "bf16"
    if own not in OWN:
        return None
    try:
        reading = card_source(entry.name, offline=True).reading
    except TrilensError:
        return None
    if reading is None:
        return None
    spec = reading.spec
    formats = {name: bits_of(spec, name) for name in sorted({*WANTED, *OWN[own]})}
    return {
        "context": spec.context,
        "thinking": entry.inference.kind,
        "default": entry.inference.default,
        "task": "code" if "cod" in entry.name or "devstral" in entry.name else "chat" if _talks(entry) else "base",
        "own": own,
        "formats": {
            name: [round(b.inner, 3), round(b.experts, 3), round(b.head, 3), round(b.table, 3), b.bytes]
            for name, b in formats.items()
        },
        "shape": asdict(shape_of(spec)),
    }


def _wanted(entry: CatalogEntry) -> bool:
    return entry.config is not None and entry.comes_with is None and not entry.hosted


def _talks(entry: CatalogEntry) -> bool:
    return entry.inference.kind not in ("unknown", "never") or any(word in entry.name for word in WORDS)


def main() -> None:
    lines = [f" {json.dumps(name)}: {json.dumps(data)}" for name, data in shapes().items()]
    OUT.write_text("{\n" + ",\n".join(lines) + "\n}\n", encoding="utf-8")
    print(f"{OUT}: {len(lines)} models")


if __name__ == "__main__":
    main()
