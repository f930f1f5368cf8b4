"""What a run leaves behind for people: logs, a picture of its curves."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from bothways.data.batch import Answers
from bothways.errors import InputError, MissingExtraError
from bothways.files import replacing, write_json
from bothways.train.loop import Event

__all__ = ["METRICS", "MetricsLog", "plot_curves", "read_metrics", "row", "write_failure"]

METRICS = "metrics.jsonl"
CURVES = "curves.png"
FAILURE = "nonfinite.json"
# exp of the mean loss on tokens that are predicted: of masked ones it is called pseudo-perplexity.
PERPLEXITIES = {"mlm": "pseudo_perplexity", "causal": "perplexity"}


def row(event: Event) -> dict[str, Any]:
    """A step or an evaluation as a row of numbers; nothing in it depends on the clock."""
    if event.means is not None:
        return {"step": event.progress.step, "held_out": event.means | _perplexity(event.means)}
    assert event.result is not None
    result = event.result
    shown = {"step": event.progress.step, "tokens": event.progress.tokens, "loss": result.loss, "lr": event.lr}
    return {**shown, "gradient": result.gradient, **result.means, **({} if result.applied else {"skipped": True})}


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


def _held_out_loss(means: Mapping[str, float | None]) -> float | None:
    """On tokens that are predicted."""
    return next((means[name] for name in PERPLEXITIES if name in means), None)


def plot_curves(folder: Path) -> Path:
    """Draw losses and held-out losses over steps. Raises MissingExtraError without matplotlib."""
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError:
        raise MissingExtraError('pictures need matplotlib: pip install "bothways[plot]"') from None
    rows = list(read_metrics(folder / METRICS))
    figure = Figure(figsize=(8, 4.5), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots()
    steps = [(one["step"], one["loss"]) for one in rows if one.get("loss") is not None]
    held = [(one["step"], loss) for one in rows if (loss := _held_out_loss(one.get("held_out", {}))) is not None]
    if steps:
        axes.plot(*zip(*steps), color="#9db8d9", linewidth=0.8, label="training")
    if held:
        axes.plot(*zip(*held), color="#1f4e8c", linewidth=1.8, marker="o", markersize=3, label="held out")
    axes.set(xlabel="step", ylabel="loss")
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(axis="y", alpha=0.3)
    if steps or held:
        axes.legend(frameon=False)
    with replacing(folder / CURVES) as aside:
        figure.savefig(aside, format="png", dpi=150)
    return folder / CURVES
