"""Batches in their order, prepared ahead: each is a function of the seed and its place, whoever prepares it."""

from __future__ import annotations

from collections import deque
from collections.abc import Generator, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass
from itertools import islice

import numpy as np

from bothways.data.batch import Batch
from bothways.data.packing import Packing
from bothways.errors import CheckpointError
from bothways.objectives.objective import PretrainingObjective
from bothways.train.progress import Cursor, Progress
from bothways.train.settings import CorpusSettings, StepSettings

__all__ = ["PackedSteps", "feed", "held_out"]

AHEAD = 8  # batches prepared ahead of the one in use, a worker


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
            at = at.after(packing.batches(at.epoch))

    if workers < 1:
        for at in places():
            yield _prepare(packing, objective, seed, at), at.after(packing.batches(at.epoch))
    with ThreadPoolExecutor(workers, thread_name_prefix="bothways-feed") as pool:
        waiting: deque[tuple[Future[Batch], Cursor]] = deque()
        ahead = workers  # at first, so that the first batch need not wait for threads that prepare others
        try:
            for at in places():
                waiting.append(
                    (pool.submit(_prepare, packing, objective, seed, at), at.after(packing.batches(at.epoch)))
                )
                if len(waiting) >= ahead:
                    ahead = min(ahead + 1, AHEAD * workers)
                    first, after = waiting.popleft()
                    yield first.result(), after
        finally:
            for future, _ in waiting:
                future.cancel()


@dataclass(frozen=True, eq=False)
class PackedSteps:
    """The steps of a pretraining run: batches of a corpus, some a step.

    Where sequences get longer a new order of all data begins, in an epoch of its own: which one that is follows from
    the place before, so a run that goes on from there finds the same.
    """

    packing: Packing
    objective: PretrainingObjective
    seed: int
    corpus: CorpusSettings
    step: StepSettings

    def __call__(self, progress: Progress) -> Iterator[list[tuple[Batch, Cursor]]]:
        stages, step, at = self.corpus.stages, progress.step, progress.cursor
        ends = [*(first for first, _ in stages[1:]), self.step.steps]
        for (first, longest), end in zip(stages, ends):
            if step >= end:
                continue
            at = Cursor(at.epoch + 1) if step == first > 0 else at
            packing = self.packing.cut_to(longest)
            with closing(feed(packing, self.objective, self.seed, at, self.corpus.workers)) as batches:
                while step < end:
                    some = list(islice(batches, self.step.batches(step)))
                    step, at = step + 1, some[-1][1]
                    yield some

    def check_place(self, progress: Progress) -> None:
        """Raises CheckpointError where an epoch has no such batch as the next one is said to be."""
        first, longest = next(stage for stage in reversed(self.corpus.stages) if stage[0] <= progress.step)
        if progress.step == first > 0:  # a new order begins here
            return
        batches = self.packing.cut_to(longest).batches(progress.epoch)
        if progress.number >= batches:
            raise CheckpointError(f"number is {progress.number}, but epoch {progress.epoch} has {batches} batches")


def held_out(packing: Packing, objective: PretrainingObjective, tokens: int) -> Iterator[Batch]:
    """The same batches with the same masks each time, until `tokens` are reached."""
    seen, at = 0, Cursor()
    while at.epoch == 0 and seen < tokens:
        batch = _prepare(packing, objective, 0, at)
        yield batch
        seen, at = seen + batch.tokens.layout.total, at.after(packing.batches(at.epoch))
