"""Pictures of an evaluation: which labels are taken for which, and whether scores can be trusted."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bothways.pictures import EDGES, caption, drawing

if TYPE_CHECKING:
    import numpy as np

    from bothways.engine.calibration import Bin

__all__ = ["MOST_LABELS", "draw_confusion", "draw_reliability", "most_confused"]

MOST_LABELS = 30
CELL = 0.36  # inches
LONGEST_NAME = 22
DOTS_PER_INCH = 160
DARK = 0.55  # from this share of a row on, numbers stand in white
GREY = "#555555"


def most_confused(counts: np.ndarray, most: int = MOST_LABELS) -> list[int]:
    """The numbers of at most so many labels, in order: all, or those of the most frequent confusions."""
    import numpy as np

    if len(counts) <= most:
        return list(range(len(counts)))
    off = counts - np.diag(np.diag(counts))
    kept: dict[int, None] = {}
    for place in np.argsort(-off, axis=None, kind="stable"):
        pair = divmod(int(place), len(counts))
        if len(kept.keys() | set(pair)) > most:
            break
        kept |= dict.fromkeys(pair)
    rest = [int(i) for i in np.argsort(-counts.sum(1), kind="stable") if int(i) not in kept]
    return sorted([*kept, *rest[: most - len(kept)]])


def draw_confusion(names: Sequence[str], counts: np.ndarray, path: Path) -> None:
    """Write a PNG: each row of labels [truth, answer] as shares of the truth, with the counts."""
    shown = most_confused(counts)
    title = "" if len(shown) == len(names) else f" · the {len(shown)} most confused of {len(names)} labels"
    totals = counts.sum(1, keepdims=True).clip(1)
    shares, counts = (counts / totals)[shown][:, shown], counts[shown][:, shown]
    labels = [_name(names[i]) for i in shown]
    side, margin = max(len(shown) * CELL, 2.4), 0.085 * max(map(len, labels)) + 0.7
    with drawing():
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure

        size = (side + margin + 1.3, side + margin + 0.4)
        figure: Any = Figure(figsize=size, layout="constrained", dpi=DOTS_PER_INCH)
        axis = figure.subplots()
        image = axis.imshow(shares, cmap="Blues", vmin=0.0, vmax=1.0, interpolation="nearest")
        _counts(axis, counts, shares)
        axis.set_xticks(range(len(labels)), labels, rotation=90, fontsize=8)
        axis.set_yticks(range(len(labels)), labels, fontsize=8)
        axis.tick_params(length=2, color=EDGES)
        axis.set_xlabel("answer", fontsize=9, color=GREY)
        axis.set_ylabel("truth", fontsize=9, color=GREY)
        figure.suptitle(f"Which labels are taken for which{title}", fontsize=10)
        bar = figure.colorbar(image, ax=axis, fraction=0.04, pad=0.02, shrink=0.8)
        bar.ax.tick_params(labelsize=7)
        bar.set_label("share of the truth", fontsize=8, color=GREY)
        FigureCanvasAgg(figure).print_png(path)


def _counts(axis: Any, counts: np.ndarray, shares: np.ndarray) -> None:
    for i, row in enumerate(counts):
        for j, count in enumerate(row):
            if count:
                text = _compact(int(count))
                colour = "white" if shares[i, j] > DARK else "#222222"
                size = 7.5 if len(text) < 4 else 6
                axis.text(j, i, text, ha="center", va="center", fontsize=size, color=colour)


def _compact(count: int) -> str:
    """At most five characters of a cell."""
    for unit, name in ((10**9, "G"), (10**6, "M"), (10**4, "k")):
        if count >= unit:
            return f"{count / (1000 if name == 'k' else unit):.0f}{name}"
    return str(count)


def _name(name: str) -> str:
    name = caption(name)
    return name if len(name) <= LONGEST_NAME else name[: LONGEST_NAME - 1] + "…"


def draw_reliability(bins: Sequence[Bin], error: float, unit: str, path: Path) -> None:
    """Write a PNG: the share that is right against the mean score of each bin; below, how many scores each has."""
    with drawing():
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure

        figure: Any = Figure(figsize=(4.6, 5.4), layout="constrained", dpi=DOTS_PER_INCH)
        above, below = figure.subplots(2, 1, height_ratios=(3, 1), sharex=True)
        above.plot((0, 1), (0, 1), linestyle="--", color=EDGES, linewidth=1)
        for one in bins:
            middle, width = (one.low + one.high) / 2, (one.high - one.low) * 0.92
            above.bar(middle, one.right, width, color="#9ecae1", edgecolor="none")
            below.bar(middle, one.answers, width, color="#c6c6c6", edgecolor="none")
        scores, right = [one.score for one in bins], [one.right for one in bins]
        above.plot(scores, right, marker="o", markersize=4, color="#08519c", linewidth=1.2)
        above.set_xlim(0, 1)
        above.set_ylim(0, 1.02)
        above.set_ylabel("share that is right", fontsize=9, color=GREY)
        above.set_title(f"Can the scores be trusted? · calibration error {error:.3f}")
        below.set_xlabel("score", fontsize=9, color=GREY)
        below.set_ylabel(unit, fontsize=9, color=GREY)
        for axis in (above, below):
            axis.tick_params(labelsize=8, length=2, color=EDGES)
            axis.spines[["top", "right"]].set_visible(False)
        FigureCanvasAgg(figure).print_png(path)
