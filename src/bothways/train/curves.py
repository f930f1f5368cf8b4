"""Runs as curves: what a picture shows of them, as values, and the picture."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate
from math import ceil
from pathlib import Path
from typing import Any, Literal

from bothways.files import replacing
from bothways.pictures import EDGES, caption, drawing
from bothways.train.history import HIGHER, LOSSES, OF_HUNDRED, Curve, History, kind_of, read_history

__all__ = ["By", "Line", "Panel", "draw", "panels", "plot_curves", "smoothed", "title_of"]

CURVES = "curves.png"
# Told apart by people who see few colours, and on paper (Okabe and Ito 2008, https://jfly.uni-koeln.de/color/); each
# has a marker of its own, too.
COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#000000")
MARKERS = ("o", "s", "^", "D", "v", "P", "X")
DASHES = ("-", "--", ":", "-.")  # a second time round, lines are dashed
SMOOTHED = 1 / 30  # of a run's points, on either side of each
# Kinds of metrics: a loss on another scale, and the shares that precision and recall are told from.
UNDRAWN = ("perplexity", "found", "flagged")
RISING = 0.1  # of a run: what it loses before that would make all else look flat
DOTS_PER_INCH = 150
PANEL = (5.2, 3.5)  # inches
LONGEST_NAME = 44
LETTER = 0.085  # inches, of a legend
DOT, MANY_DOTS = 5.5, 40
FAINT: Any = {"alpha": 0.35, "linewidth": 1.3}

By = Literal["step", "tokens"]
Points = tuple[tuple[float, float], ...]


@dataclass(frozen=True)
class Line:
    """One run in one panel. number: of the run, which its colour goes by.

    training: (x, smoothed value).    held_out: (x, value).
    """

    run: str
    number: int
    training: Points
    held_out: Points


@dataclass(frozen=True)
class Panel:
    """One metric of all runs that have it."""

    metric: str
    lines: tuple[Line, ...]


def panels(runs: Mapping[str, History], by: By = "step") -> tuple[Panel, ...]:
    """What a picture of runs shows, losses first.

    Every loss has a panel; another metric has one if several runs have it, or there is just one run.
    """
    metrics = dict.fromkeys(name for run in runs.values() for name in (*run.held_out, *run.training))
    drawn = [Panel(metric, _lines(metric, runs, by)) for metric in metrics if kind_of(metric) not in UNDRAWN]
    shared = [one for one in drawn if one.metric in LOSSES or len(one.lines) > 1 or len(runs) == 1]
    return tuple(sorted(shared, key=lambda panel: panel.metric not in LOSSES))


def _lines(metric: str, runs: Mapping[str, History], by: By) -> tuple[Line, ...]:
    found = [
        Line(name, number, smoothed(_points(run.training, metric, by)), _points(run.held_out, metric, by))
        for number, (name, run) in enumerate(runs.items())
    ]
    return tuple(line for line in found if line.training or line.held_out)


def _points(curves: Mapping[str, Curve], metric: str, by: By) -> Points:
    return tuple((point.step if by == "step" else point.tokens, point.value) for point in curves.get(metric, ()))


def smoothed(points: Points) -> Points:
    """Each value as the mean of those around it, on both sides, so that it does not lag."""
    reach = ceil(len(points) * SMOOTHED)
    sums = [0.0, *accumulate(value for _, value in points)]

    def mean(i: int) -> float:
        first, end = max(0, i - reach), min(len(points), i + reach + 1)
        return (sums[end] - sums[first]) / (end - first)

    return tuple((x, mean(i)) for i, (x, _) in enumerate(points))


def title_of(metric: str) -> str:
    """A metric in words."""
    loss, _, kind = metric.partition("_")
    return f"{LOSSES[loss]}: {kind or 'loss'}" if loss in LOSSES else metric.replace("_", " ")


def plot_curves(folder: Path) -> Path | None:
    """Draw a run's curves over its steps into its folder; None where there is nothing to draw.

    Raises MissingExtraError without matplotlib.
    """
    shown = panels({folder.resolve().name: read_history(folder)})
    if not shown:
        return None
    with replacing(folder / CURVES) as aside:
        draw(shown, aside)
    return folder / CURVES


def draw(shown: Sequence[Panel], path: Path, by: By = "step") -> None:
    """Write a PNG. shown: one panel or more. Raises MissingExtraError without matplotlib."""
    with drawing():
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure

        columns = min(len(shown), 2 if len(shown) in (2, 4) else 3)
        rows = ceil(len(shown) / columns)
        names = list(dict.fromkeys(line.run for panel in shown for line in panel.lines))
        size = PANEL[0] * columns, PANEL[1] * rows + 0.25 * ceil(len(names) / columns)
        figure: Any = Figure(figsize=size, layout="constrained", dpi=DOTS_PER_INCH)
        figure.get_layout_engine().set(w_pad=0.1, h_pad=0.1)
        every = figure.subplots(rows, columns, squeeze=False).flatten()
        for axes, panel in zip(every, shown):
            _panel(axes, panel, by)
        for axes in every[len(shown) :]:
            axes.set_visible(False)
        _legend(figure, shown)
        FigureCanvasAgg(figure).print_png(path)


def _panel(axes: Any, panel: Panel, by: By) -> None:
    from matplotlib.ticker import EngFormatter, MaxNLocator, PercentFormatter

    for line in panel.lines:
        look = _look(line.number)
        axes.plot(*_xy(line.training), color=look["color"], **FAINT, zorder=2)
        dot = DOT if len(line.held_out) <= MANY_DOTS else DOT / 2
        axes.plot(*_xy(line.held_out), **look, markersize=dot, zorder=3)
    axes.set_title(title_of(panel.metric), fontweight="bold")
    axes.set_xlabel({"step": "steps", "tokens": "tokens"}[by])
    axes.xaxis.set_major_locator(MaxNLocator(6, integer=True))
    axes.xaxis.set_major_formatter(EngFormatter(sep=""))
    if kind_of(panel.metric) in HIGHER and panel.metric not in OF_HUNDRED:
        axes.yaxis.set_major_formatter(PercentFormatter(1.0))
    axes.set_ylim(**_limits(panel))
    axes.set_xlim(left=0)
    axes.spines[["top", "right"]].set_visible(False)
    axes.tick_params(color=EDGES, labelsize=9)
    axes.grid(axis="y", alpha=0.3)
    axes.set_axisbelow(True)


def _xy(points: Points) -> tuple[list[float], list[float]]:
    return [x for x, _ in points], [y for _, y in points]


def _look(number: int) -> dict[str, Any]:
    turn, place = divmod(number, len(COLOURS))
    return {
        "color": COLOURS[place],
        "marker": MARKERS[place],
        "linestyle": DASHES[turn % len(DASHES)],
        "linewidth": 1.8,
        "markeredgecolor": "white",
        "markeredgewidth": 0.6,
    }


def _limits(panel: Panel) -> dict[str, float]:
    """From the least to the largest value, with some space; a loss may begin above."""
    low = min(value for line in panel.lines for _, value in (*line.training, *line.held_out))
    high = max(value for line in panel.lines for value in _risen(line, panel.metric))
    space = (high - low) * 0.06 or abs(high) * 0.05 or 0.05
    return {"bottom": low - space, "top": high + space}


def _risen(line: Line, metric: str) -> list[float]:
    """The values that are shown in any case."""
    points = (*line.training, *line.held_out)
    begin = RISING * max(x for x, _ in points) if metric in LOSSES else 0.0
    return [value for x, value in points if x >= begin]


def _legend(figure: Any, shown: Sequence[Panel]) -> None:
    """Which run has which colour; of a single run, which curve is which."""
    runs = {line.run: line.number for panel in shown for line in panel.lines}
    entries = _of_runs(runs) if len(runs) > 1 else _of_curves(shown)
    room = figure.get_figwidth() / (LETTER * max(map(len, entries)) + 0.7)
    legend = figure.legend(
        entries.values(),
        entries,
        loc="outside lower center",
        ncols=max(1, min(len(entries), int(room))),
        frameon=False,
        title="dots: held out; faint: training, smoothed" if len(runs) > 1 else None,
    )
    legend.get_title().set(fontsize=9, color="#555555")


def _of_runs(runs: Mapping[str, int]) -> dict[str, Any]:
    from matplotlib.lines import Line2D

    return {_named(name): Line2D([], [], **_look(number), markersize=DOT) for name, number in runs.items()}


def _of_curves(shown: Sequence[Panel]) -> dict[str, Any]:
    from matplotlib.lines import Line2D

    lines = [line for panel in shown for line in panel.lines]
    held = {"held out": Line2D([], [], **_look(0), markersize=DOT)}
    training = {"training, smoothed": Line2D([], [], color=COLOURS[0], **FAINT)}
    return (held if any(line.held_out for line in lines) else {}) | (
        training if any(line.training for line in lines) else {}
    )


def _named(name: str) -> str:
    """A run's name, which a legend would not show if it began with "_"."""
    shown = caption(name)
    shown = shown if len(shown) <= LONGEST_NAME else f"…{shown[1 - LONGEST_NAME :]}"
    return f" {shown}" if shown.startswith("_") else shown
