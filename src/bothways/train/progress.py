"""How far a run is: what a checkpoint knows of it beside weights."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["Cursor", "Progress"]


@dataclass(frozen=True)
class Cursor:
    """A place in the data: the next batch's epoch and number."""

    epoch: int = 0
    number: int = 0

    def after(self, batches: int) -> Cursor:
        """The place after this one. batches: of this epoch."""
        last = self.number + 1 >= batches
        return Cursor(self.epoch + 1, 0) if last else Cursor(self.epoch, self.number + 1)


@dataclass(frozen=True)
class Progress:
    """How far a run is: steps done, tokens seen, the next batch's place, and the best held-out loss with its step.

    scale: in fp16, what losses are multiplied with, and unchanged: for how many steps now.
    gradient: a running mean of how long gradients were before clipping.    skipped: steps that were not taken.
    """

    step: int = 0
    tokens: int = 0
    epoch: int = 0
    number: int = 0
    best_loss: float | None = None
    best_step: int | None = None
    scale: float | None = None
    unchanged: int = 0
    gradient: float | None = None
    skipped: int = 0

    @property
    def cursor(self) -> Cursor:
        return Cursor(self.epoch, self.number)
