"""Labelled rows as the steps of a run: so many rows a step, in a new order each epoch.

Which rows a step has is a function of the seed, the epoch and the step's number alone. The rows of a step are dealt out
into parts that are computed side by side; how many parts goes by their tokens, never by the machine.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from bothways.data.batch import Batch
from bothways.errors import CheckpointError, ConfigError
from bothways.train.loop import Times
from bothways.train.progress import Cursor, Progress
from bothways.train.tuning import RowSettings, TuningRun

__all__ = ["RowSteps", "dealt", "steps_over", "times_of"]

FEWEST_PARTS = 2  # so that two cores have something to do, whatever the machine has
AHEAD = 4  # steps that are prepared before they are needed


@dataclass(frozen=True, eq=False)
class RowSteps:
    """The steps of a run over rows.

    lengths: tokens of each row, or how many of a frozen encoder's states are known of it.
    batch_of: makes a batch of some rows, given by their numbers.
    batch_size: rows of a step; the last one of an epoch has what is left.
    batch_tokens: of these computed at a time, about.    steps: of the whole run.
    small: a step is so little work that neither sharing it out nor a thread that prepares it is worth while.
    """

    lengths: Sequence[int]
    batch_of: Callable[[Sequence[int]], Batch]
    batch_size: int
    batch_tokens: int
    steps: int
    seed: int
    small: bool = False

    @property
    def per_epoch(self) -> int:
        """Steps of an epoch."""
        return -(-len(self.lengths) // self.batch_size)

    def __call__(self, progress: Progress) -> Iterator[list[tuple[Batch, Cursor]]]:
        """The parts of each step, prepared in a thread while the step before is computed, unless they are small."""
        if self.small:
            yield from map(self._prepared, self._places(progress))
            return
        with ThreadPoolExecutor(1, thread_name_prefix="bothways-rows") as pool:
            waiting: deque[Future[list[tuple[Batch, Cursor]]]] = deque()
            try:
                for at in self._places(progress):
                    waiting.append(pool.submit(self._prepared, at))
                    if len(waiting) > AHEAD:
                        yield waiting.popleft().result()
                while waiting:
                    yield waiting.popleft().result()
            finally:
                for future in waiting:
                    future.cancel()

    def check_place(self, progress: Progress) -> None:
        """Raises CheckpointError where an epoch has no such step as the next one is said to be."""
        if progress.number >= self.per_epoch:
            raise CheckpointError(
                f"number is {progress.number}, but epoch {progress.epoch} has {self.per_epoch} steps: other rows?"
            )

    def rows(self, at: Cursor) -> NDArray[np.int64]:
        """The numbers of the rows of a step."""
        order = _order(self.seed, at.epoch, len(self.lengths))
        return order[at.number * self.batch_size : (at.number + 1) * self.batch_size]

    def _places(self, progress: Progress) -> Iterator[Cursor]:
        at = progress.cursor
        for _ in range(progress.step, self.steps):
            yield at
            at = at.after(self.per_epoch)

    def _prepared(self, at: Cursor) -> list[tuple[Batch, Cursor]]:
        rows = self.rows(at).tolist()
        after = at.after(self.per_epoch)
        parts = dealt(rows, self.lengths, self.batch_tokens, 1 if self.small else FEWEST_PARTS)
        return [(self.batch_of(part), after) for part in parts]


@lru_cache(maxsize=1)  # drawing it takes longer than many a step
def _order(seed: int, epoch: int, rows: int) -> NDArray[np.int64]:
    """The order of rows in an epoch."""
    order = np.random.Generator(np.random.Philox(key=[seed, epoch])).permutation(rows)
    order.setflags(write=False)
    return order


def steps_over(
    lengths: Sequence[int],
    batch_of: Callable[[Sequence[int]], Batch],
    steps: int,
    rows: RowSettings,
    warmup: float | None,
    seed: int,
    small: bool = False,
) -> RowSteps:
    """The steps that settings make of rows. Raises ConfigError where the rate would rise for longer than they last."""
    if warmup is not None and warmup > steps:
        raise ConfigError(f"warmup must be between 0 and the {steps} steps, got {warmup}")
    return RowSteps(lengths, batch_of, rows.batch_size, rows.batch_tokens, steps, seed, small)


def times_of(run: TuningRun, steps: RowSteps, *, judged: bool) -> Times:
    """What happens when. judged: whether there are rows to evaluate on."""
    every = run.evaluate_every or steps.per_epoch, run.save_every or steps.per_epoch
    return Times(steps.steps, run.seed, *every, run.patience if judged else 0)


def dealt(rows: Sequence[int], lengths: Sequence[int], budget: int, parts: int = FEWEST_PARTS) -> list[list[int]]:
    """Rows in parts of about equally many tokens, each part's longest rows first.

    As many parts as it takes for about `budget` tokens each, but at least `parts` where there are as many rows: a
    single part has several cores, unless it is small, and its sums on the way back may depend on how many.
    """
    total = sum(lengths[row] for row in rows)
    parts = min(len(rows), max(parts, math.ceil(total / budget)))
    found: list[list[int]] = [[] for _ in range(parts)]
    tokens = [0] * parts
    for row in sorted(rows, key=lambda row: -lengths[row]):
        least = tokens.index(min(tokens))
        found[least].append(row)
        tokens[least] += lengths[row]
    return found
