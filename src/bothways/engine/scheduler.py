"""From texts in any order to batches under a token budget, with progress shown to those who wait."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import TYPE_CHECKING

import torch

from bothways.data.batch import Batch, Tokens, batch, by_token_budget
from bothways.engine.streams import Streams

if TYPE_CHECKING:
    from rich.progress import Progress

__all__ = ["BATCH_TOKENS", "progress", "schedule"]

# Tokens of one forward. On a CPU activations should stay in cache; a GPU wants to be filled.
BATCH_TOKENS = {"cpu": 1536, "cuda": 65536}
SECONDS_BEFORE_A_BAR = 2.0


def schedule(
    encoded: Sequence[Tokens],
    work: Callable[[Batch], None],
    streams: Streams,
    *,
    device: torch.device,
    batch_tokens: int | None = None,
) -> Iterator[int]:
    """Call `work` with every text, in batches of nearly equal lengths, longest first; yields how many each had.

    work: puts its results where `Batch.origin` says; on a CPU it is called from several threads at once.
    batch_tokens: the budget of a batch; BATCH_TOKENS if None.
    """
    batches = by_token_budget([len(e) for e in encoded], batch_tokens or BATCH_TOKENS[device.type])

    def run(origin: list[int]) -> int:
        work(batch(encoded, origin, device))
        return len(origin)

    yield from streams.map(run, batches)


def progress(steps: Iterable[int], total: int | None, unit: str, show: bool | None = None) -> Iterator[int]:
    """Pass on the steps (how much each did), with a bar on stderr once it takes over two seconds.

    total: None where it is not known.
    show: True for a bar from the start, False for none; with None only a terminal gets one.
    """
    if show is False or (show is None and not sys.stderr.isatty()):
        yield from steps
        return
    started, done, bar = time.monotonic(), 0, None
    try:
        for step in steps:
            done += step
            if bar is None and (show or time.monotonic() - started > SECONDS_BEFORE_A_BAR):
                bar = _bar(total, unit)
            if bar is not None:
                bar.update(bar.task_ids[0], completed=done)
            yield step
    finally:
        if bar is not None:
            bar.stop()


def _bar(total: int | None, unit: str) -> Progress:
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (BarColumn(), MofNCompleteColumn(), TextColumn(unit), TimeRemainingColumn())
    bar = Progress(*columns, console=Console(stderr=True), transient=True)
    bar.add_task(unit, total=total)
    bar.start()
    return bar
