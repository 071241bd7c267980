"""A trace as a picture: the routed layers' experts from left to right, their load as colour."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from trilens.errors import UsageError
from trilens.lenses.plans.plot import draw_to
from trilens.trials.routing import Trace


def heat_map(trace: Trace, path: Path) -> None:
    """Write it. Raises UsageError for a model without a router, and as `draw_to` does."""
    if not trace.layers:
        raise UsageError("every weight of this model fires for every token: there is no routing to draw")
    experts = max(layer.experts for layer in trace.layers)
    shares = np.full((len(trace.layers), experts), np.nan)
    for row, layer in enumerate(trace.layers):
        shares[row, : layer.experts] = layer.load * layer.experts / layer.ids.size

    def draw(axes: Any) -> None:
        image = axes.imshow(shares, aspect="auto", cmap="viridis", vmin=0, interpolation="nearest")
        axes.set(
            xlabel="expert", ylabel="layer", title=f"{trace.model}: load of the experts, {len(trace.tokens)} tokens"
        )
        axes.set_yticks(range(len(trace.layers)), [str(layer.layer) for layer in trace.layers])
        axes.figure.colorbar(image, ax=axes, label="load, 1 where the router is even")

    draw_to(path, (9, max(3.0, 0.25 * len(trace.layers) + 2)), draw)
