"""How far the scores of answers can be trusted, counted in bins as the answers come (Guo et al. 2017,
https://arxiv.org/abs/1706.04599)."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from bothways.errors import InputError

__all__ = ["Bin", "Calibration"]

BINS = 15


class Bin(NamedTuple):
    """Answers that score above `low` and at most `high` (the first bin has 0, too).

    score: their mean score.    right: the share of them that is right.
    """

    low: float
    high: float
    answers: int
    score: float
    right: float


@dataclass(eq=False)
class Calibration:
    """Sums over bins of equal width; a few numbers, however many answers there are."""

    def __post_init__(self) -> None:
        self._edges = np.linspace(0.0, 1.0, BINS + 1)
        self._sums = np.zeros((3, BINS))

    def add(self, scores: np.ndarray, right: np.ndarray) -> None:
        """scores: [n], from 0 to 1.    right: bool [n]. Raises InputError on scores that are no numbers."""
        scores = scores.astype(np.float64)
        if not np.isfinite(scores).all():
            raise InputError("the model's scores are no numbers: it is of no use")
        # In fp32 a probability may come out a little above 1.
        number = np.clip(np.searchsorted(self._edges, scores) - 1, 0, BINS - 1)
        for own, values in zip(self._sums, (np.ones(len(scores)), scores, right.astype(np.float64))):
            np.add.at(own, number, values)

    @property
    def count(self) -> int:
        return int(self._sums[0].sum())

    @property
    def error(self) -> float:
        """The expected calibration error; 0 of nothing."""
        _, scores, right = self._sums
        return float(np.abs(right - scores).sum() / max(1, self.count))

    def bins(self) -> Iterator[Bin]:
        """Those that have answers, from low scores to high ones."""
        for i, (count, score, right) in enumerate(self._sums.T):
            if count:
                low, high = self._edges[i : i + 2]
                yield Bin(float(low), float(high), int(count), float(score / count), float(right / count))
