"""What a training run shows while it goes: one line that is kept up to date, and a line for each evaluation."""

from __future__ import annotations

import math
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.console import Console

    from bothways.train.loop import Event
    from bothways.train.meter import Reading

__all__ = ["show", "tell_of_no_run"]

LINES_APART = 30.0  # seconds between lines where there is no terminal


def tell_of_no_run(output: Path) -> None:
    """Say it where there is no checkpoint to go on from. Raises InputError where a new run would be over a model."""
    from bothways.train.folder import check_unfinished
    from bothways.train.state import checkpoints

    if not checkpoints(output):
        check_unfinished(output)
        print(f"bothways: there is no run in {output} to go on with; a new one begins", file=sys.stderr)


@contextmanager
def show(steps: int) -> Iterator[Callable[[Event, Reading | None], None]]:
    """A function that is told of every event. On a terminal a bar; else a line now and then."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn
    from rich.table import Column

    console, terminal = Console(stderr=True), sys.stderr.isatty()
    whole, broken = Column(no_wrap=True), Column()  # a narrow terminal shows the figures in two lines
    columns = (
        BarColumn(12, table_column=whole),
        MofNCompleteColumn(table_column=whole),
        TextColumn("{task.description}", table_column=broken),
    )
    with Progress(*columns, console=console, transient=True, disable=not terminal) as bar:
        task, said = bar.add_task("", total=steps), time.monotonic()

        def watch(event: Event, reading: Reading | None) -> None:
            nonlocal said
            if event.kind in ("evaluate", "skip", "stop"):
                _print(console, event)
            elif event.kind == "step" and reading is not None:
                text = f"{reading}, {_duration(reading.left)} left"
                bar.update(task, completed=event.progress.step, description=text)
                if not terminal and time.monotonic() - said >= LINES_APART:
                    said = time.monotonic()
                    console.print(f"step {event.progress.step:,} of {steps:,}: {text}", highlight=False, soft_wrap=True)

        yield watch


def _print(console: Console, event: Event) -> None:
    """A line for what does not happen at every step."""
    from bothways.train.report import with_ratios

    finite = event.result is not None and math.isfinite(event.result.loss + event.result.gradient)
    what = f"{'a gradient of unusual length' if finite else 'not a finite number'}; {event.kind}"
    if event.means is not None:
        told = ", ".join(f"{name} {value:.4f}" for name, value in with_ratios(event.means).items())
        what = f"held out {told or 'had nothing to predict'}"
    elif event.kind == "skip" and event.progress.scale is not None:
        what = f"too large for fp16; skip, and the loss is scaled by {event.progress.scale:g} from here"
    console.print(f"step {event.progress.step:,}: {what}", highlight=False, soft_wrap=True)


def _duration(seconds: float) -> str:
    """Hours, minutes and seconds; days before them if it comes to that."""
    return str(timedelta(seconds=round(seconds)))
