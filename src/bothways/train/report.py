"""What a run leaves behind for people: logs, a picture of its curves."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import cycle
from pathlib import Path
from typing import Any

from bothways.data.batch import Answers
from bothways.errors import InputError, MissingExtraError
from bothways.files import replacing, write_json
from bothways.objectives.choice import OBJECTIVES
from bothways.train.loop import Event

__all__ = ["METRICS", "MetricsLog", "plot_curves", "read_metrics", "row", "with_ratios", "write_failure"]

METRICS = "metrics.jsonl"
CURVES = "curves.png"
FAILURE = "nonfinite.json"
# exp of the mean loss on tokens that are predicted: of masked ones it is called pseudo-perplexity.
PERPLEXITIES = {"mlm": "pseudo_perplexity", "causal": "perplexity"}
# A share of what another one says: how many of the replaced tokens were found, and of those said to be replaced are.
RATIOS = {"rtd_recall": ("found", "replaced"), "rtd_precision": ("found", "flagged")}
# What is drawn beside losses, where a run has several; and the colours of lines, in training and held out.
SHARES = ("accuracy", "nsp_accuracy", "sop_accuracy", "rtd_accuracy", "rtd_recall", "replaced")
COLOURS = (("#9db8d9", "#1f4e8c"), ("#e3b98f", "#a4500f"), ("#a9d3b0", "#2f7a3d"), ("#d3a9cf", "#7a2f73"))


def row(event: Event) -> dict[str, Any]:
    """A step or an evaluation as a row of numbers; nothing in it depends on the clock."""
    if event.means is not None:
        return {"step": event.progress.step, "held_out": with_ratios(event.means) | _perplexity(event.means)}
    assert event.result is not None
    result = event.result
    shown = {"step": event.progress.step, "tokens": event.progress.tokens, "loss": result.loss, "lr": event.lr}
    told = {**shown, "gradient": result.gradient, **with_ratios(result.means)}
    return told if result.applied else {**told, "skipped": True}


def with_ratios(means: Mapping[str, float]) -> dict[str, float]:
    """The means, of the same tokens each, and what they say of each other; nothing where there was nothing to find."""
    pairs = {told: (means[part], means[of]) for told, (part, of) in RATIOS.items() if part in means}
    return {**means, **{told: part / of for told, (part, of) in pairs.items() if of}}


def _perplexity(means: Mapping[str, float]) -> dict[str, float]:
    losses = {told: means[name] for name, told in PERPLEXITIES.items() if name in means}
    return {told: math.exp(loss) for told, loss in losses.items() if loss < 700}


class MetricsLog:
    """`metrics.jsonl`: a row each `every` steps and for each evaluation, on disk as it happens.

    step: of the checkpoint that the run goes on from; rows after it are cut off, since they will be written again.
    """

    def __init__(self, folder: Path, every: int, step: int) -> None:
        self._every = every
        path = folder / METRICS
        kept = [line for line in read_metrics(path) if line["step"] <= step] if path.exists() else []
        with replacing(path) as aside:
            aside.write_text("".join(_line(one) for one in kept), encoding="utf-8")
        self._file = path.open("a", encoding="utf-8")

    def add(self, event: Event) -> None:
        """Write what is due of a step, an evaluation or a skipped step."""
        if event.kind == "save" or (event.kind == "step" and event.progress.step % self._every):
            return
        try:
            self._file.write(_line(row(event)))
            self._file.flush()
        except OSError as error:
            raise InputError(f"{self._file.name}: cannot be written: {error.strerror}") from None

    def close(self) -> None:
        self._file.close()


def _line(values: Mapping[str, Any]) -> str:
    return json.dumps(_finite(values)) + "\n"


def _finite(value: Any) -> Any:
    """JSON has no word for NaN and infinity: they become null."""
    if isinstance(value, Mapping):
        return {key: _finite(one) for key, one in value.items()}
    return None if isinstance(value, float) and not math.isfinite(value) else value


def read_metrics(path: Path) -> Iterator[dict[str, Any]]:
    """The rows of a log; a last line that a kill cut short is left out. Raises InputError on any other damage."""
    lines = path.read_text(encoding="utf-8", errors="replace").split("\n")
    for number, line in enumerate(lines, start=1):
        try:
            value = json.loads(line) if line else None
        except json.JSONDecodeError:
            if number >= len(lines):
                return
            raise InputError(f"{path}: line {number} is not JSON") from None
        if isinstance(value, dict) and "step" in value:
            yield value


def write_failure(folder: Path, event: Event) -> None:
    """`nonfinite.json`: the step whose loss or gradient was no finite number, and its batches as the model saw them."""
    assert event.result is not None
    batches = [
        {
            "ids": [ids.tolist() for ids in batch.tokens.unbind()],
            "types": None if batch.types is None else batch.types.tolist(),
            "labels": {name: _answers(answers) for name, answers in batch.labels.items()},
        }
        for batch in event.batches
    ]
    numbers = {"loss": str(event.result.loss), "gradient": str(event.result.gradient)}
    write_json(folder / FAILURE, {"step": event.progress.step, **numbers, "batches": batches})


def _answers(answers: Answers) -> dict[str, Any]:
    return {"rows": None if answers.rows is None else answers.rows.tolist(), "values": answers.values.tolist()}


def plot_curves(folder: Path) -> Path:
    """Draw losses and held-out losses over steps; of a run with several losses each, and accuracies.

    Raises MissingExtraError without matplotlib.
    """
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError:
        raise MissingExtraError('pictures need matplotlib: pip install "bothways[plot]"') from None
    rows = list(read_metrics(folder / METRICS))
    panels = _panels(rows)
    figure = Figure(figsize=(8, 1.5 + 3 * len(panels)), layout="constrained")
    FigureCanvasAgg(figure)
    for axes, (label, names) in zip(figure.subplots(len(panels), squeeze=False)[:, 0], panels.items()):
        _draw(axes, label, {name: _points(rows, name) for name in names})
    with replacing(folder / CURVES) as aside:
        figure.savefig(aside, format="png", dpi=150)
    return folder / CURVES


Points = list[tuple[int, float]]


def _panels(rows: Sequence[Mapping[str, Any]]) -> dict[str, tuple[str, ...]]:
    """What is drawn below each other: a label, and the names of the numbers."""
    told = {name for one in rows for name in one}
    losses = [name for name in OBJECTIVES if name in told]
    if len(losses) < 2:
        return {"loss": ("loss",)}
    shares = tuple(name for name in SHARES if name in told)
    return {**{f"loss: {name}": (name,) for name in losses}, **({"share": shares} if shares else {})}


def _points(rows: Sequence[Mapping[str, Any]], name: str) -> tuple[Points, Points]:
    """(step, number) in training and on held-out text. The loss of that is one on tokens that are predicted."""
    held = [(one["step"], one["held_out"]) for one in rows if "held_out" in one]
    known = [name] if name != "loss" else list(PERPLEXITIES)
    there = [(step, next((means[one] for one in known if one in means), None)) for step, means in held]
    training = [(one["step"], one.get(name)) for one in rows if "held_out" not in one]
    return _numbers(training), _numbers(there)


def _numbers(points: Iterable[tuple[int, float | None]]) -> Points:
    return [(step, value) for step, value in points if value is not None]


def _draw(axes: Any, label: str, lines: Mapping[str, tuple[Points, Points]]) -> None:
    """Training pale, held out dark with dots; where there are several numbers, each in its own colour."""
    for (name, (training, held)), (pale, dark) in zip(lines.items(), cycle(COLOURS)):
        beside = "" if len(lines) == 1 else f"{name}, "
        if training:
            axes.plot(*zip(*training), color=pale, linewidth=0.8, label=f"{beside}training")
        if held:
            axes.plot(*zip(*held), color=dark, linewidth=1.8, marker="o", markersize=3, label=f"{beside}held out")
    axes.set(xlabel="step", ylabel=label)
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(axis="y", alpha=0.3)
    if any(points for line in lines.values() for points in line):
        axes.legend(frameon=False)
