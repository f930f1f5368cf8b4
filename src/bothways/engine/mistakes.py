"""The worst of many mistakes: those that a model was surest of, kept while its answers come."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from heapq import heappush, heappushpop
from typing import Any

__all__ = ["Mistake", "Worst"]


@dataclass(frozen=True, eq=False)
class Mistake:
    """A row that was answered wrong.

    said: what there is to tell of it: its place, texts, the truth, the answer.    score: how sure the answer was.
    weight: how bad it is, by which mistakes are ordered; None: as its score says.
    """

    said: Mapping[str, Any]
    score: float
    weight: float | None = None


@dataclass(eq=False)
class Worst:
    """The `most` worst mistakes; of equal ones the first. No more than those are in memory."""

    most: int
    count: int = 0
    _heap: list[tuple[float, int, Mistake]] = field(default_factory=list)

    def add(self, mistake: Mistake) -> None:
        self.count += 1
        weight = mistake.score if mistake.weight is None else mistake.weight
        entry = (weight, -self.count, mistake)  # numbers differ, so that mistakes are never compared
        if len(self._heap) < self.most:
            heappush(self._heap, entry)
        elif self.most:
            heappushpop(self._heap, entry)

    def ordered(self) -> list[dict[str, Any]]:
        """The worst first."""
        return [{**one.said, "score": one.score} for _, _, one in sorted(self._heap, key=lambda e: (-e[0], -e[1]))]
