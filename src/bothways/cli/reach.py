"""What each position sees, as a picture: white where a network cannot look."""

from __future__ import annotations

from collections.abc import Sequence
from math import ceil
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bothways.pictures import EDGES, caption, drawing

if TYPE_CHECKING:
    from bothways.engine.reach import Reach, Sight

__all__ = ["draw", "figure_of"]

# Inches. Cells are squares, as large in all panels; so large that the longest text is between LEAST and MOST.
CELL, LEAST, MOST = 0.27, 2.2, 8.0
LINE = 0.13  # that a label takes
EDGE, GAP, BAR = 0.12, 0.3, (0.14, 2.0)
CANVAS = 40.0  # on which parts are measured before they have their places
DOTS_PER_INCH = 160
LONGEST_LABEL = 12
COLOURS = "YlGnBu"


def draw(found: Reach, path: Path, model: str) -> None:
    """Write a PNG, with a panel for each of the sights. model: its name, for the title."""
    with drawing():
        figure_of(found, model).canvas.print_png(path)


def figure_of(found: Reach, model: str) -> Any:
    """The picture as matplotlib's Figure: panels side by side, their first rows at one height, a scale behind them."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure: Any = Figure(figsize=(CANVAS, CANVAS), dpi=DOTS_PER_INCH)
    FigureCanvasAgg(figure)
    cell = _cell(found)
    sizes = [(len(sight.columns) * cell, len(sight.rows) * cell) for sight in found.sights]
    panels = [figure.add_axes((0.4, 0.4, width / CANVAS, height / CANVAS)) for width, height in sizes]
    for axis, sight in zip(panels, found.sights):
        image = _draw(axis, sight, cell)
    size = BAR[0], min(BAR[1], max(height for _, height in sizes))
    bar = figure.add_axes((0.4, 0.4, size[0] / CANVAS, size[1] / CANVAS))
    figure.colorbar(image, cax=bar).set_ticks([0.0, 1.0], labels=["little", "most"], fontsize=7)
    bar.set_ylabel("gradient, of the row's\nlargest (white: none)", fontsize=7, color="#555555")
    title = figure.text(0, 0, f"{caption(model)} · which tokens each position sees", fontsize=12, fontweight="bold")
    _place(figure, [*panels, bar], [*sizes, size], title)
    return figure


def _cell(found: Reach) -> float:
    longest = max(len(tokens) for sight in found.sights for tokens in (sight.rows, sight.columns))
    return min(max(CELL, LEAST / longest), MOST / longest)


def _draw(axis: Any, sight: Sight, cell: float) -> Any:
    import numpy as np

    largest = np.maximum(sight.gradients.max(1, keepdims=True), 1e-30)
    # The root, so that what is seen little is told from what is not seen at all.
    shares = np.ma.masked_where(~sight.seen, 0.15 + 0.85 * np.sqrt(sight.gradients / largest))
    image = axis.imshow(shares, cmap=COLOURS, vmin=0.0, vmax=1.0, interpolation="nearest", aspect="auto")
    axis.set_title(sight.what, pad=6)
    axis.set_xticks(*_ticks(sight.columns, cell), rotation=90, fontsize=7)
    axis.set_yticks(*_ticks(sight.rows, cell), fontsize=7)
    axis.set_xlabel("token seen", fontsize=8, color="#555555")
    axis.set_ylabel("position that sees", fontsize=8, color="#555555")
    axis.tick_params(length=2, color=EDGES)
    return image


def _place(figure: Any, parts: Sequence[Any], sizes: Sequence[tuple[float, float]], title: Any) -> None:
    """Give the parts their places, by what their labels take, and the picture its size."""
    renderer = figure.canvas.get_renderer()
    margins = [_margins(axis, renderer) for axis in parts]
    words = title.get_window_extent(renderer)
    above = EDGE + words.height / DOTS_PER_INCH + GAP / 2 + max(top for _, _, top, _ in margins)
    height = above + max(tall + bottom for (_, tall), (_, _, _, bottom) in zip(sizes, margins)) + EDGE
    lefts, x = [], EDGE
    for (wide, _), (left, right, _, _) in zip(sizes, margins):
        lefts.append(x + left)
        x += left + wide + right + GAP
    width = max(x - GAP, EDGE + words.width / DOTS_PER_INCH) + EDGE
    figure.set_size_inches(width, height)
    for axis, left, (wide, tall) in zip(parts, lefts, sizes):
        axis.set_position((left / width, (height - above - tall) / height, wide / width, tall / height))
    title.set(x=EDGE / width, y=1 - EDGE / height, verticalalignment="top")


def _margins(axis: Any, renderer: Any) -> tuple[float, float, float, float]:
    """What labels take on the left, on the right, above and below, in inches."""
    inner, outer = axis.get_window_extent(renderer), axis.get_tightbbox(renderer)
    beyond = (inner.x0 - outer.x0, outer.x1 - inner.x1, outer.y1 - inner.y1, inner.y0 - outer.y0)
    left, right, top, bottom = (max(0.0, one) / DOTS_PER_INCH for one in beyond)
    return left, right, top, bottom


def _ticks(tokens: Sequence[str], cell: float) -> tuple[range, list[str]]:
    """Each token, or where cells are smaller than labels the numbers of some."""
    step = ceil(LINE / cell)
    every = range(0, len(tokens), step)
    return every, [_label(tokens[i]) if step == 1 else f"{i}" for i in every]


def _label(token: str) -> str:
    label = caption(token)
    return label if len(label) <= LONGEST_LABEL else label[: LONGEST_LABEL - 1] + "…"
