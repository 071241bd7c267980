"""Memory against compute per token, as a picture: what a routed model pays in the one and saves in the other."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from math import cos, pi, sin
from pathlib import Path
from typing import Any

from trilens.errors import UsageError
from trilens.lenses.cards.card import Card
from trilens.lenses.plans.compare import Comparison
from trilens.lenses.plans.compare_plans import PlanComparison
from trilens.lenses.plans.plan import Plan

ENDINGS = (".svg", ".png")
LOOKS = {
    "dense": ("o", "#1b6ca8", "dense: every weight fires"),
    "routed": ("s", "#c8553d", "routed: a few experts fire"),
}
GAP = 3.0  # pixels between a label and whatever else there is


def plot(comparison: Comparison, path: Path) -> None:
    """Write the picture. Raises UsageError without matplotlib, for another ending, or with nothing to draw."""
    cards = [c for c in comparison.cards if isinstance(c, Card)]
    if not cards:
        raise UsageError("none of these models has known sizes, so there is nothing to draw; name an open model")
    draw_to(path, (9, 6), lambda axes: _draw(axes, cards, comparison.context))


def plot_plans(comparison: PlanComparison, path: Path) -> None:
    """Memory against speed on one machine; where a model thinks, also the speed at which its answer comes after that,
    hollow and joined to the first. Raises as `plot` does."""
    plans = [p for p in comparison.plans if p.forecast is not None]
    if not plans:
        raise UsageError("the speed of none of these models is known there, so there is nothing to draw")
    draw_to(path, (9, 6), lambda axes: _draw_plans(axes, plans, comparison))


def draw_to(path: Path, size: tuple[float, float], draw: Callable[[Any], None]) -> None:
    """A file with what `draw` puts on its axes; `size` in inches."""
    if path.suffix.lower() not in ENDINGS:
        raise UsageError(f"{path}: the picture's ending is {path.suffix or 'missing'}; expected {' or '.join(ENDINGS)}")
    try:
        import matplotlib
    except ImportError:
        raise UsageError("--plot needs matplotlib, which is not installed; pip install 'trilens[plot]'") from None
    matplotlib.use("Agg")
    matplotlib.rcParams["svg.hashsalt"] = "trilens"  # the same models give the same file
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=size, layout="constrained")
    try:
        draw(axes)
        figure.savefig(path, dpi=150, metadata={"Date": None} if path.suffix.lower() == ".svg" else None)
    except OSError as problem:
        raise UsageError(f"{path}: cannot be written ({problem.strerror or problem}); choose another place") from None
    finally:
        pyplot.close(figure)


def _draw(axes: Any, cards: Sequence[Card], context: int) -> None:
    axes.set_title("What a model holds, and what a token costs")
    axes.set_xlabel("memory: weights at bf16, GB")
    axes.set_ylabel(f"compute: GFLOP per token at {context} tokens of context")
    points = [(2 * c.parameters.total / 1e9, c.token.flops() / 1e9) for c in cards]
    _scatter(axes, points, [c.backbone for c in cards], [c.name for c in cards])


def _draw_plans(axes: Any, plans: Sequence[Plan], comparison: PlanComparison) -> None:
    axes.set_title(f"What a model holds, and how fast it answers on {comparison.machine}")
    axes.set_xlabel("memory: weights, cache and scratch as far as known, GB")
    axes.set_ylabel(f"tokens a second at {comparison.context} tokens of context")
    points = []
    for p in plans:
        assert p.forecast is not None
        points.append((p.memory.total / 1e9, p.forecast.tokens.p50))
        low, high = p.forecast.tokens.p10, p.forecast.tokens.p90
        axes.plot([points[-1][0]] * 2, [low, high], color=LOOKS[p.backbone][1], linewidth=1, zorder=2)
        if p.length is not None:
            slowed = points[-1][1] / p.length.multiplier.p50
            mark, colour, _ = LOOKS[p.backbone]
            axes.scatter([points[-1][0]], [slowed], marker=mark, s=55, facecolors="none", edgecolors=colour, zorder=3)
            axes.plot([points[-1][0]] * 2, [slowed, low], color=colour, linewidth=0.8, linestyle=":", zorder=2)
    if any(p.length is not None for p in plans):
        axes.scatter(
            [], [], marker="o", s=55, facecolors="none", edgecolors="#444444", label="its answer, after thinking"
        )
    _scatter(axes, points, [p.backbone for p in plans], [p.model for p in plans])


def _scatter(axes: Any, points: list[tuple[float, float]], backbones: Sequence[str], names: Sequence[str]) -> None:
    axes.set(xscale="log", yscale="log")
    for backbone, (mark, colour, words) in LOOKS.items():
        own = [point for point, kind in zip(points, backbones, strict=True) if kind == backbone]
        if own:
            axes.scatter(*zip(*own, strict=True), marker=mark, s=55, color=colour, label=words, zorder=3)
    axes.margins(0.18)
    axes.grid(True, which="both", alpha=0.25, linewidth=0.5)
    axes.legend(loc="upper left", frameon=False)
    _plain_numbers(axes)
    axes.figure.canvas.draw()
    axes.set_autoscale_on(False)
    place_labels(axes, points, names)


def _plain_numbers(axes: Any) -> None:
    """2, 5, 10, 20: an axis of one decade or two has too few labels otherwise."""
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
        axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        axis.set_minor_formatter(NullFormatter())


# ----------------------------------------------------------------------------------------------- labels

Box = tuple[float, float, float, float]  # left, bottom, right, top, in pixels


def place_labels(axes: Any, points: Sequence[tuple[float, float]], names: Sequence[str]) -> list[Box]:
    """A name near each point, on no other name or point and inside the frame; a thin line where it stands off.

    Places are sought in pixels and kept in data coordinates, which hold at any resolution. Returns the boxes in pixels.
    """
    renderer = axes.figure.canvas.get_renderer()
    marks = [axes.transData.transform(p) for p in points]
    taken: list[Box] = [(x - 6, y - 6, x + 6, y + 6) for x, y in marks]
    legend = axes.get_legend()
    if legend is not None:
        taken.append(tuple(legend.get_window_extent(renderer).extents))
    frame: Box = tuple(axes.get_window_extent(renderer).extents)
    placed = []
    for (x, y), name in zip(marks, names, strict=True):
        label = axes.text(*axes.transData.inverted().transform((x, y)), name, fontsize=8, va="bottom", zorder=4)
        size = label.get_window_extent(renderer)
        box = _free_box((x, y), size.width, size.height, taken, frame)
        label.set_position(axes.transData.inverted().transform((box[0], box[1])))
        nearest = (min(max(x, box[0]), box[2]), min(max(y, box[1]), box[3]))
        if abs(nearest[0] - x) + abs(nearest[1] - y) > 16:
            ends = axes.transData.inverted().transform([(x, y), nearest])
            axes.plot(ends[:, 0], ends[:, 1], color="#666666", linewidth=0.5, zorder=2)
        taken.append(box)
        placed.append(box)
    return placed


def _free_box(mark: tuple[float, float], width: float, height: float, taken: Sequence[Box], frame: Box) -> Box:
    """The nearest place to `mark` where a label of that size meets nothing; the first tried if there is none."""
    tried = [(x, y, x + width, y + height) for x, y in _places(mark, width, height)]
    for box in tried:
        inside = box[0] >= frame[0] and box[1] >= frame[1] and box[2] <= frame[2] and box[3] <= frame[3]
        if inside and not any(_meet(box, other) for other in taken):
            return box
    return tried[0]


def _places(mark: tuple[float, float], width: float, height: float) -> Iterator[tuple[float, float]]:
    """Lower left corners around a mark: right, left, above, below, then rings that grow."""
    x, y = mark
    yield from ((x + 10, y - height / 2), (x - 10 - width, y - height / 2))
    yield from ((x - width / 2, y + 10), (x - width / 2, y - 10 - height))
    for ring in range(1, 40):
        for step in range(24):
            angle = step * pi / 12
            reach = 8.0 * ring
            middle = (x + cos(angle) * (reach + width / 2 + 8), y + sin(angle) * (reach + height / 2 + 8))
            yield middle[0] - width / 2, middle[1] - height / 2


def _meet(a: Box, b: Box) -> bool:
    return a[0] < b[2] + GAP and b[0] < a[2] + GAP and a[1] < b[3] + GAP and b[1] < a[3] + GAP
