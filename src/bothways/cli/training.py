"""What a training run shows while it goes: one line that is kept up to date, and a line for each evaluation."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from bothways.train.loop import Event

__all__ = ["show"]

LINES_APART = 30.0  # seconds between lines where there is no terminal


@contextmanager
def show(steps: int) -> Iterator[Callable[[Event], None]]:
    """A function that is told of every event. On a terminal a bar; else a line now and then."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    console = Console(stderr=True)
    columns = (BarColumn(), MofNCompleteColumn(), TextColumn("{task.description}"), TimeRemainingColumn())
    with Progress(*columns, console=console, transient=True, disable=not sys.stderr.isatty()) as bar:
        task = bar.add_task("", total=steps)
        meter = _Meter()

        def watch(event: Event) -> None:
            if event.means is not None:
                said = ", ".join(f"{name} {value:.4f}" for name, value in event.means.items())
                console.print(f"step {event.progress.step:,}: held out {said}", highlight=False)
            elif event.kind in ("skip", "stop"):
                console.print(f"step {event.progress.step:,}: not a finite number; {event.kind}", highlight=False)
            elif event.result is not None:
                text = meter.line(event)
                bar.update(task, completed=event.progress.step, description=text)
                if not sys.stderr.isatty() and meter.due():
                    console.print(f"step {event.progress.step:,} of {steps:,}: {text}", highlight=False)

        yield watch


class _Meter:
    """Loss and speed of the last steps, smoothed."""

    def __init__(self) -> None:
        self._last = self._said = time.monotonic()
        self._loss: float | None = None
        self._accuracy = self._seconds = self._tokens = 0.0

    def line(self, event: Event) -> str:
        assert event.result is not None
        now = time.monotonic()
        self._seconds = 0.9 * self._seconds + now - self._last
        self._tokens = 0.9 * self._tokens + event.result.tokens
        self._last = now
        accuracy = event.result.means.get("accuracy", 0.0)
        new = 1.0 if self._loss is None else 0.05
        self._loss = (1.0 - new) * (self._loss or 0.0) + new * event.result.loss
        self._accuracy = (1.0 - new) * self._accuracy + new * accuracy
        speed = self._tokens / max(self._seconds, 1e-9)
        return f"loss {self._loss:.3f}, accuracy {self._accuracy:.1%}, {speed:,.0f} tokens/s"

    def due(self) -> bool:
        """Whether it is time for another line."""
        if time.monotonic() - self._said < LINES_APART:
            return False
        self._said = time.monotonic()
        return True
