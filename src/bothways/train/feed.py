"""Batches in their order, prepared ahead: each is a function of the seed and its place, whoever prepares it."""

from __future__ import annotations

from collections import deque
from collections.abc import Generator, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np

from bothways.data.batch import Batch
from bothways.data.packing import Packing
from bothways.objectives.objective import PretrainingObjective

__all__ = ["Cursor", "feed", "held_out"]

AHEAD = 8  # batches prepared ahead of the one in use, a worker


@dataclass(frozen=True)
class Cursor:
    """A place in the data: the next batch's epoch and number."""

    epoch: int = 0
    number: int = 0

    def after(self, packing: Packing) -> Cursor:
        """The place after this one."""
        last = self.number + 1 >= packing.batches(self.epoch)
        return Cursor(self.epoch + 1, 0) if last else Cursor(self.epoch, self.number + 1)


def _prepare(packing: Packing, objective: PretrainingObjective, seed: int, at: Cursor) -> Batch:
    rng = np.random.Generator(np.random.Philox(key=[seed, (1 << 62) + (at.epoch << 40) + at.number]))
    return objective.corrupt(packing(at.epoch, at.number), rng)


def feed(
    packing: Packing, objective: PretrainingObjective, seed: int, start: Cursor, workers: int = 1
) -> Generator[tuple[Batch, Cursor]]:
    """Batches from `start` on, without end, each with the place after it."""

    def places() -> Iterator[Cursor]:
        at = start
        while True:
            yield at
            at = at.after(packing)

    if workers < 1:
        for at in places():
            yield _prepare(packing, objective, seed, at), at.after(packing)
    with ThreadPoolExecutor(workers, thread_name_prefix="bothways-feed") as pool:
        waiting: deque[tuple[Future[Batch], Cursor]] = deque()
        ahead = workers  # at first, so that the first batch need not wait for threads that prepare others
        try:
            for at in places():
                waiting.append((pool.submit(_prepare, packing, objective, seed, at), at.after(packing)))
                if len(waiting) >= ahead:
                    ahead = min(ahead + 1, AHEAD * workers)
                    first, after = waiting.popleft()
                    yield first.result(), after
        finally:
            for future, _ in waiting:
                future.cancel()


def held_out(packing: Packing, objective: PretrainingObjective, tokens: int) -> Iterator[Batch]:
    """The same batches with the same masks each time, until `tokens` are reached."""
    seen, at = 0, Cursor()
    while at.epoch == 0 and seen < tokens:
        batch = _prepare(packing, objective, 0, at)
        yield batch
        seen, at = seen + batch.tokens.layout.total, at.after(packing)
