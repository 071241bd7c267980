"""Writes docs/quantisation.md: how far quantised models are from float32. python -m tests.quantisation_page"""

from __future__ import annotations

import tempfile
from pathlib import Path

from tests.executors.test_native import compare
from tests.executors.test_native_grid import BLOCKS, TWO, TYPES, wide_spec
from tests.families import BY_NAME, FAMILIES, saved

PAGE = Path(__file__).parent.parent / "docs" / "quantisation.md"

HEAD = """# Quantised weights, and what rounding activations costs

Written by `python -m tests.quantisation_page`. Each number is the relative L2 distance between the logits of the native
executor and those of PyTorch in float32. Both use the *same* dequantised weights, the native executor's routes and a
float32 cache. The distance that remains comes from rounding the activations: to 8 bits in groups of 32 (the default
for models with half a billion parameters or more), or to 16 bits (the default for smaller ones). The models are those
of [families](families.md) with random weights, four times wider so that rows are whole blocks.

The limits are 3 % with 8-bit activations and 0.2 % for F16 weights. Numbers over the limit are in bold. Products
of single heads (latent attention) use 16-bit activations in both columns.

On SmolLM2-135M Q4_1 and a page of English, the distance is 3.2 % with 8-bit activations and 0.04 % with 16-bit ones.
Perplexity changes by +0.05 % and -0.01 % (`tests/executors/test_smollm2_native.py`).

Recurrences use 16-bit activations in every model. So do the dense feed-forward layers before a routed model's first
experts: what they round off goes through all later layers, and they are a small part of a step. With 8 bits there, Kimi
Linear has 3.4 % and 3.0 % instead of the figures below. LFM2 is over the limit because of its other matrices.

Gemma 3n is over the limit with 8 bits, with and without its thresholds (7.1 % without).

"""


def percent(x: float, bound: float) -> str:
    text = f"{100 * x:.2f} %" if x >= 1e-4 else f"{100 * x:.1e} %"
    return f"**{text}**" if x > bound else text


def main() -> None:
    lines = ["## Every family, 40 tokens", "", "| family | Q4_0, 8-bit activations | Q4_0, 16-bit | F16 |"]
    lines.append("| --- | --- | --- | --- |")
    with tempfile.TemporaryDirectory() as folder:
        for family in FAMILIES:
            spec = wide_spec(saved(family.name, Path(folder) / family.name.replace(" ", "-").replace("/", "-")))
            eight = compare(spec, "Q4_0", length=40)[1]
            sixteen = compare(spec, "Q4_0", activations="16bit", length=40)[1]
            half = compare(spec, "F16", length=40)[1]
            cells = (percent(eight, 3e-2), percent(sixteen, 2e-3), percent(half, 2e-3))
            lines.append(f"| {family.name} | {' | '.join(cells)} |")
        lines += ["", "## Every type, two families, 12 tokens", ""]
        lines.append(f"| type | {' | '.join(f'{n}, {bits}-bit activations' for n in TWO for bits in (8, 16))} |")
        lines.append("| --- " * 5 + "|")
        for kind in TYPES:
            cells_ = []
            for name in TWO:
                directory = saved(BY_NAME[name].name, Path(folder) / f"{name}-{kind}".replace(" ", "-"))
                spec = wide_spec(directory, 32 if kind in BLOCKS else 4)
                cells_.append(percent(compare(spec, kind, length=12)[1], 3e-2))
                cells_.append(percent(compare(spec, kind, activations="16bit", length=12)[1], 2e-3))
            lines.append(f"| {kind} | {' | '.join(cells_)} |")
    PAGE.write_text(HEAD + "\n".join(lines) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
