"""From texts in any order to batches under a token budget, with progress shown to those who wait."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, TypeVar

import torch

from bothways.data.batch import Batch, batch, by_token_budget
from bothways.text.tokenizer import Encoded

if TYPE_CHECKING:
    from rich.progress import Progress

__all__ = ["BATCH_TOKENS", "progress", "schedule"]

T = TypeVar("T")

# Tokens of one forward. On a CPU activations should stay in cache; a GPU wants to be filled.
BATCH_TOKENS = {"cpu": 4096, "cuda": 65536}
SECONDS_BEFORE_A_BAR = 2.0


def schedule(
    encoded: Sequence[Encoded],
    *,
    device: torch.device,
    batch_tokens: int | None = None,
    show_progress: bool | None = None,
) -> Iterator[Batch]:
    """The texts in batches, longest first; `Batch.origin` says where each result belongs.

    batch_tokens: the budget of a batch; BATCH_TOKENS if None.
    show_progress: True, False, or None for a bar only when it takes over two seconds.
    """
    batches = by_token_budget([len(e) for e in encoded], batch_tokens or BATCH_TOKENS[device.type])
    for origin in progress(batches, len, len(encoded), "texts", show_progress):
        yield batch(encoded, origin, device)


def progress(
    items: Iterable[T], weigh: Callable[[T], int], total: int, unit: str, show: bool | None = None
) -> Iterator[T]:
    """Pass the items on, with a bar on stderr once it takes over two seconds (at once if `show`, never if False)."""
    if show is False or (show is None and not sys.stderr.isatty()):
        yield from items
        return
    started, done, bar = time.monotonic(), 0, None
    try:
        for item in items:
            if bar is None and (show or time.monotonic() - started > SECONDS_BEFORE_A_BAR):
                bar = _bar(total, unit)
            yield item
            done += weigh(item)
            if bar is not None:
                bar.update(bar.task_ids[0], completed=done)
    finally:
        if bar is not None:
            bar.stop()


def _bar(total: int, unit: str) -> Progress:
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (BarColumn(), MofNCompleteColumn(), TextColumn(unit), TimeRemainingColumn())
    bar = Progress(*columns, console=Console(stderr=True), transient=True)
    bar.add_task(unit, total=total)
    bar.start()
    return bar
