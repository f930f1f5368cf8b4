"""What each position sees, as a picture: white where a network cannot look."""

from __future__ import annotations

from collections.abc import Sequence
from math import ceil
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bothways.pictures import EDGES, caption, drawing

if TYPE_CHECKING:
    from bothways.engine.reach import Reach, Sight

__all__ = ["draw"]

# Inches.
CELL, LEAST, MOST = 0.27, 2.2, 8.0
BESIDE = 1.5
DOTS_PER_INCH = 160
LABELLED = 40
LONGEST_LABEL = 12
COLOURS = "YlGnBu"


def draw(found: Reach, path: Path, model: str) -> None:
    """Write a PNG, with a panel for each of the sights. model: its name, for the title."""
    with drawing():
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure

        widths = [_inches(len(sight.columns)) + BESIDE for sight in found.sights]
        height = max(_inches(len(sight.rows)) for sight in found.sights)
        figure: Any = Figure(figsize=(max(sum(widths), 6.5), height + 2.1), layout="constrained", dpi=DOTS_PER_INCH)
        figure.suptitle(f"{caption(model)} · which tokens each position sees", fontsize=12, fontweight="bold")
        panels = figure.subplots(1, len(found.sights), squeeze=False, width_ratios=widths)[0]
        for axis, sight in zip(panels, found.sights):
            image = _draw(axis, sight)
        bar = figure.colorbar(image, ax=list(panels), fraction=0.03, pad=0.01, shrink=0.7)
        bar.set_ticks([0.0, 1.0], labels=["little", "most"])
        bar.ax.tick_params(labelsize=7)
        bar.set_label("gradient, of the row's largest (white: none)", fontsize=7, color="#555555")
        FigureCanvasAgg(figure).print_png(path)


def _inches(tokens: int) -> float:
    return min(max(tokens * CELL, LEAST), MOST)


def _draw(axis: Any, sight: Sight) -> Any:
    import numpy as np

    largest = np.maximum(sight.gradients.max(1, keepdims=True), 1e-30)
    # The root, so that what is seen little is told from what is not seen at all.
    shares = np.ma.masked_where(~sight.seen, 0.15 + 0.85 * np.sqrt(sight.gradients / largest))
    image = axis.imshow(shares, cmap=COLOURS, vmin=0.0, vmax=1.0, interpolation="nearest")
    axis.set_title(sight.what, pad=6)
    axis.set_xticks(*_ticks(sight.columns), rotation=90, fontsize=7)
    axis.set_yticks(*_ticks(sight.rows), fontsize=7)
    axis.set_xlabel("token seen", fontsize=8, color="#555555")
    axis.set_ylabel("position that sees", fontsize=8, color="#555555")
    axis.tick_params(length=2, color=EDGES)
    return image


def _ticks(tokens: Sequence[str]) -> tuple[range, list[str]]:
    step = ceil(len(tokens) / LABELLED)
    every = range(0, len(tokens), step)
    return every, [_label(tokens[i]) if step == 1 else f"{i}" for i in every]


def _label(token: str) -> str:
    label = caption(token)
    return label if len(label) <= LONGEST_LABEL else label[: LONGEST_LABEL - 1] + "…"
