"""`bothways compare`: runs side by side, of pretraining or of fine-tuning."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from bothways.cli.output import print_json, print_table, shorten
from bothways.errors import InputError
from bothways.files import replacing
from bothways.pictures import check_picture
from bothways.train.curves import By, draw, panels
from bothways.train.history import LOSSES, Curve, History, best_of, differing, read_history, unique_names

__all__ = ["compare"]

RUNS = ("objectives", "model", "params", "steps", "tokens", "run")
VALUES = ("metric", "last", "best", "at step", "run")
LONGEST_MODEL = 17


def compare(*runs: Path, output: Path | None = None, by: By = "step", json: bool = False) -> None:
    """Held-out losses and metrics of runs, of pretraining or fine-tuning, finished or not, side by side.

    Runs of different objectives share what both have. "mlm_accuracy" is what the log of a run calls "accuracy";
    "generator" is the loss of the network that replaces tokens, which is not the one that is trained.

    Parameters
    ----------
    runs
        The folders of runs of `bothways pretrain` or `bothways finetune`.
    output
        A file that ends in .png, to draw the curves to (needs the extra "plot"): what was held out as dots, training
        faint and smoothed.
    by
        What the curves are over: step or tokens.
    json
        Print everything as JSON.
    """
    if output is not None:
        check_picture(output)
    found = dict(zip(_names(runs), map(read_history, runs)))
    differ = differing(found.values())
    if json:
        print_json({"runs": [_plain(name, run) for name, run in found.items()], "differ": differ})
    else:
        _show(found)
    for line in _notes(found, differ):
        print(f"bothways: {line}", file=sys.stderr)
    if output is not None:
        _draw(found, output, by)


def _names(runs: Sequence[Path]) -> list[str]:
    if not runs:
        raise InputError("name the folders of the runs to compare")
    for run in runs:
        if [one.resolve() for one in runs].count(run.resolve()) > 1:
            raise InputError(f"{run}: given twice")
    return unique_names(runs)


def _draw(runs: Mapping[str, History], output: Path, by: By) -> None:
    shown = panels(runs, by)
    if not shown:
        raise InputError("there is nothing to draw yet: no run has logged a finite loss")
    with replacing(output) as aside:
        draw(shown, aside, by)
    print(f"{output}: {', '.join(panel.metric for panel in shown)}", file=sys.stderr)


def _show(runs: Mapping[str, History]) -> None:
    print_table(RUNS, [_run(name, run) for name, run in runs.items()], text=("objectives", "model", "run"))
    rows = [_value(metric, name, curve) for metric, name, curve in _held_out(runs)]
    if rows:
        print_table(VALUES, rows, title="Held out", text=("metric", "run"))


def _run(name: str, run: History) -> list[str]:
    model = "–" if run.model is None else shorten(run.model, LONGEST_MODEL)
    sizes = [_amount(run.parameters), f"{run.steps:,}", _amount(run.tokens)]
    return [",".join(run.objectives) or "–", model, *sizes, name]


def _amount(count: int | None) -> str:
    """A large number, short."""
    if count is None:
        return "–"
    unit, sign = next(((unit, sign) for unit, sign in ((10**9, " G"), (10**6, " M")) if count >= unit), (1, ""))
    return f"{count:,}" if unit == 1 else f"{count / unit:.1f}{sign}"


def _held_out(runs: Mapping[str, History]) -> Iterator[tuple[str, str, Curve]]:
    """(metric, run, curve): what all runs have of a metric stands together, losses first."""
    metrics = dict.fromkeys(metric for run in runs.values() for metric in run.held_out)
    for metric in sorted(metrics, key=lambda metric: metric not in LOSSES):
        yield from ((metric, name, run.held_out[metric]) for name, run in runs.items() if metric in run.held_out)


def _value(metric: str, name: str, curve: Curve) -> list[str]:
    best = best_of(metric, curve)
    told = ["–", "–"] if best is None else [_number(best.value), f"{best.step:,}"]
    return [metric, _number(curve[-1].value), *told, name]


def _number(value: float) -> str:
    return f"{value:.4f}" if abs(value) < 1000 else f"{value:,.0f}"


def _notes(runs: Mapping[str, History], differ: Mapping[str, Sequence[Any]]) -> Iterator[str]:
    """What the numbers alone do not say."""
    for name, run in runs.items():
        if run.planned is not None and run.steps < run.planned:
            yield f"{name}: {run.steps:,} of {run.planned:,} steps so far"
    if differ:
        told = "; ".join(f"{key} {', '.join(map(str, values))}" for key, values in differ.items())
        yield f"the runs were not held out the same, so their losses are not of the same task: {told}"


def _plain(name: str, run: History) -> dict[str, Any]:
    return {
        "run": name,
        "folder": str(run.folder),
        "objectives": list(run.objectives),
        "model": run.model,
        "parameters": run.parameters,
        "steps": run.steps,
        "planned": run.planned,
        "tokens": run.tokens,
        "held_out": {metric: _plain_curve(metric, curve) for metric, curve in run.held_out.items()},
    }


def _plain_curve(metric: str, curve: Curve) -> dict[str, Any]:
    best = best_of(metric, curve)
    return {
        "last": curve[-1].value,
        "best": None if best is None else best.value,
        "best_step": None if best is None else best.step,
        "steps": [point.step for point in curve],
        "tokens": [round(point.tokens) for point in curve],
        "values": [point.value for point in curve],
    }
