"""An inspection as a picture: attention, norms of hidden states, and how alike the layers are."""

from __future__ import annotations

from collections.abc import Sequence
from math import ceil, sqrt
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bothways.pictures import EDGES, caption, drawing

if TYPE_CHECKING:
    from bothways.engine.inspect import Inspection

__all__ = ["draw"]

# Inches. A picture grows with the text until it is as wide as this; then not every token has its label.
WIDEST = 15.0
CELL = 0.21
DOTS_PER_INCH = 160
LONGEST_LABEL = 14
# Labels are readable up to so many tokens; with heads side by side, up to fewer.
LABELLED, LABELLED_IN_A_GRID = 70, 24
COLOURS = {"attention": "Blues", "norms": "YlOrBr", "similarity": "Greens"}


def draw(seen: Inspection, path: Path, model: str) -> None:
    """Write a PNG. One head is drawn large; several are drawn side by side.

    model: its name, for the title.
    """
    with drawing():
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure

        grid = _grid(len(seen.heads), len(seen))
        width, attention, states = _sizes(seen, grid)
        figure: Any = Figure(figsize=(width, attention + states + 0.5), layout="constrained", dpi=DOTS_PER_INCH)
        figure.suptitle(f"{caption(model)} · {len(seen)} tokens", fontsize=13, fontweight="bold")
        above, below = figure.subfigures(2, 1, height_ratios=(attention, states), hspace=0.04)
        _attention(above, seen, grid)
        _states(below, seen)
        FigureCanvasAgg(figure).print_png(path)


def _grid(heads: int, tokens: int) -> tuple[int, int]:
    """(rows, columns) of the heads."""
    columns = ceil(sqrt(heads))
    return ceil(heads / columns), columns


def _sizes(seen: Inspection, grid: tuple[int, int]) -> tuple[float, float, float]:
    """Width of the picture, height of the attention and height of the hidden states, in inches."""
    rows, columns = grid
    layers = len(seen.norms)
    if len(seen.heads) == 1:
        side = min(max(len(seen) * CELL, 3.2), WIDEST - 3)
        width = side + 2.8
    else:
        side = min(3.4, (WIDEST - 1) / columns)
        width = columns * side + 1
    return max(width, 7.5), rows * side + 1.2, max(layers * 0.19, 1.2) + 1.5


def _attention(figure: Any, seen: Inspection, grid: tuple[int, int]) -> None:
    from matplotlib.colors import PowerNorm

    rows, columns = grid
    several = len(seen.heads) > 1
    axes = figure.subplots(rows, columns, squeeze=False, sharex=several, sharey=several).flatten()
    # The square root of weights: a few tokens are looked at so much that all else would be white.
    scale = PowerNorm(0.5, vmin=0.0, vmax=float(seen.attention.max()))
    ticks, labels = _ticks(seen, LABELLED_IN_A_GRID if several else LABELLED)
    for axis, head, weights in zip(axes, seen.heads, seen.attention):
        image = axis.imshow(weights, cmap=COLOURS["attention"], norm=scale, interpolation="nearest")
        axis.set_title(f"head {head}" if several else "", pad=4)
        axis.set_xticks(ticks, labels, rotation=90, fontsize=_points(len(labels), several))
        axis.set_yticks(ticks, labels, fontsize=_points(len(labels), several))
        axis.tick_params(length=2, color=EDGES)
    for axis in axes[len(seen.heads) :]:
        axis.set_visible(False)
    whose = "" if several else " · mean of the heads" if seen.heads == ("mean",) else f" · head {seen.heads[0]}"
    figure.suptitle(f"Attention · layer {seen.layer}{whose}", fontsize=11)
    edges = (figure.supxlabel, figure.supylabel) if several else (axes[0].set_xlabel, axes[0].set_ylabel)
    for name_edge, name in zip(edges, ("token looked at", "token that looks")):
        name_edge(name, fontsize=9, color="#555555")
    beside = (
        {"ax": figure.axes, "fraction": 0.03, "pad": 0.015, "shrink": 0.7}
        if several
        else {"cax": axes[0].inset_axes((1.03, 0.15, 0.035, 0.7))}
    )
    figure.colorbar(image, **beside).ax.tick_params(labelsize=8)


def _states(figure: Any, seen: Inspection) -> None:
    norms, alike = figure.subplots(1, 2, width_ratios=(2.4, 1))
    layers = ["embedded", *map(str, range(len(seen.norms) - 1))]
    every = range(0, len(layers), ceil(len(layers) / 26))
    names = [layers[i] for i in every]
    image = norms.imshow(seen.norms, cmap=COLOURS["norms"], aspect="auto", interpolation="nearest")
    ticks, labels = _ticks(seen, LABELLED)
    norms.set_xticks(ticks, labels, rotation=90, fontsize=_points(len(labels), len(labels) > 40))
    norms.set_title("Norm of each token's hidden state, after each layer")
    figure.colorbar(image, ax=norms, fraction=0.05, pad=0.015).ax.tick_params(labelsize=8)
    image = alike.imshow(seen.similarity, cmap=COLOURS["similarity"], vmax=1.0, interpolation="nearest")
    alike.set_xticks(every, names, rotation=90, fontsize=7)
    alike.set_title("Cosine between layers")
    figure.colorbar(image, ax=alike, fraction=0.05, pad=0.03).ax.tick_params(labelsize=8)
    for axis in (norms, alike):
        axis.set_yticks(every, names, fontsize=7)
        axis.tick_params(length=2, color=EDGES)


def _ticks(seen: Inspection, most: int) -> tuple[Sequence[int], list[str]]:
    """The tokens that have a label: each of them, or if that were more than `most`, the numbers of some."""
    step = ceil(len(seen) / most)
    ticks = range(0, len(seen), step)
    return ticks, [_label(seen, i) if step == 1 else f"{i}" for i in ticks]


def _points(labels: int, small: bool) -> float:
    return max(5.5, min(8.0, 9.5 - labels * 0.1)) if small else max(6.0, min(9.0, 10.5 - labels * 0.05))


def _label(seen: Inspection, i: int) -> str:
    """The token; the text that it covers where the token is spelt in bytes."""
    token, text = seen.tokens[i], seen.texts[i].strip()
    label = caption(token if text.casefold() in token.casefold() else text)
    return label if len(label) <= LONGEST_LABEL else label[: LONGEST_LABEL - 1] + "…"
