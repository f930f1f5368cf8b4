"""Cross-attention as a picture: what each written token looked at in its source."""

from __future__ import annotations

from math import ceil
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bothways.pictures import EDGES, caption, drawing

if TYPE_CHECKING:
    from bothways.engine.alignment import Alignment

__all__ = ["draw", "figure_of"]

# Inches. A picture grows with the texts until it is as wide as this; then not every token has its label.
WIDEST, CELL, LEAST = 13.0, 0.24, 2.6
LABELS = 1.3  # beside and below the large panel
LETTER = 0.11  # of the title
DOTS_PER_INCH = 160
LONGEST_LABEL = 14
LABELLED = 60
COLOURS = "Blues"


def draw(seen: Alignment, path: Path, model: str) -> None:
    """Write a PNG: the mean of all layers large, with the tokens, and each of several small beside it.

    model: its name, for the title.
    """
    with drawing():
        from matplotlib.backends.backend_agg import FigureCanvasAgg

        FigureCanvasAgg(figure_of(seen, model)).print_png(path)


def figure_of(seen: Alignment, model: str) -> Any:
    """The picture as matplotlib's Figure."""
    from matplotlib.figure import Figure

    depth, rows, columns = seen.weights.shape
    width = min(max(columns * CELL, LEAST), WIDEST - 4)
    height = min(max(rows * CELL, LEAST), WIDEST)
    down = max(1, min(depth, round((height + LABELS) / 1.6)))
    across = ceil(depth / down) if depth > 1 else 0
    small = max(1.2, min(2.4, (height + LABELS) / down * columns / max(rows, 1)))
    title = f"{caption(model)} · what each written token looked at"
    large, beside = max(width + LABELS + 0.6, LETTER * len(title) - across * small), across * small
    size = (large + beside, height + LABELS + 0.7)
    figure: Any = Figure(figsize=size, layout="constrained", dpi=DOTS_PER_INCH)
    figure.suptitle(title, fontsize=12, fontweight="bold")
    if depth == 1:
        _mean(figure, seen)
        return figure
    parts = figure.subfigures(1, 2, width_ratios=(large, beside), wspace=0.02)
    _mean(parts[0], seen)
    _layers(parts[1], seen, down, across)
    return figure


def _mean(figure: Any, seen: Alignment) -> None:
    axis = figure.subplots()
    image = _weights(axis, seen.weights.mean(0))
    axis.set_title("one layer" if len(seen.weights) == 1 else f"mean of {len(seen.weights)} layers", pad=6)
    for tokens, ticks in ((seen.source, axis.set_xticks), (seen.target, axis.set_yticks)):
        step = ceil(len(tokens) / LABELLED)
        every = range(0, len(tokens), step)
        labels = [_label(tokens[i]) if step == 1 else f"{i}" for i in every]
        ticks(every, labels, fontsize=max(6.0, 9.0 - len(labels) * 0.04), rotation=90 if tokens is seen.source else 0)
    axis.set_xlabel("source", fontsize=9, color="#555555")
    axis.set_ylabel("written", fontsize=9, color="#555555")
    figure.colorbar(image, cax=axis.inset_axes((1.02, 0.1, 0.025, 0.8))).ax.tick_params(labelsize=7)


def _layers(figure: Any, seen: Alignment, down: int, across: int) -> None:
    axes = figure.subplots(down, across, squeeze=False).flatten("F")
    for number, (axis, weights) in enumerate(zip(axes, seen.weights)):
        _weights(axis, weights)
        axis.set_title(f"layer {number}", fontsize=8, pad=2)
        axis.set_xticks([])
        axis.set_yticks([])
    for axis in axes[len(seen.weights) :]:
        axis.set_visible(False)


def _weights(axis: Any, weights: Any) -> Any:
    from matplotlib.colors import PowerNorm

    # The square root of weights: a few tokens are looked at so much that all else would be white.
    scale = PowerNorm(0.5, vmin=0.0, vmax=max(float(weights.max()), 1e-6))
    axis.tick_params(length=2, color=EDGES)
    return axis.imshow(weights, cmap=COLOURS, norm=scale, interpolation="nearest", aspect="auto")


def _label(token: str) -> str:
    label = caption(token)
    return label if len(label) <= LONGEST_LABEL else label[: LONGEST_LABEL - 1] + "…"
