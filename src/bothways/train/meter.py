"""How fast a run goes: loss, accuracy and tokens a second of its last steps, and the time that is left."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field

from bothways.train.loop import Event

__all__ = ["Meter", "Reading"]

SHARES = ("nsp_accuracy", "sop_accuracy", "rtd_accuracy", "replaced")  # that are shown beside the accuracy
KEPT = 0.95  # of the tokens and seconds before, at each step: the last twenty steps tell most


@dataclass(frozen=True)
class Reading:
    """loss, accuracy: of the last steps, smoothed.    tokens_per_second: while steps were taken, without evaluations
    and checkpoints.    share: of the machine's matrix-product rate that this is.    left: seconds to the last step.
    losses, shares: smoothed like these: the losses that `loss` is the weighted sum of, where they are several, and what
    is told of them beside `accuracy`.
    """

    loss: float
    accuracy: float
    tokens_per_second: float
    share: float
    left: float
    losses: Mapping[str, float] = field(default_factory=dict)
    shares: Mapping[str, float] = field(default_factory=dict)

    def __str__(self) -> str:
        parts = ", ".join(f"{name} {value:.3f}" for name, value in self.losses.items())
        loss = f"loss {self.loss:.3f}" + (f" ({parts})" if parts else "")
        shares = "".join(f", {name} {value:.1%}" for name, value in self.shares.items())
        rate = f", {self.share:.0%} of the matrix rate" if self.share else ""  # a frozen encoder computes nothing
        return f"{loss}, accuracy {self.accuracy:.1%}{shares}, {self.tokens_per_second:,.0f} tokens/s{rate}"


class Meter:
    """Steps to readings. The first step, which warms everything up, does not count for the speed if there are others.

    steps: of the whole run.    flops: operations that a token takes, forward and back.    rate: operations a second
    that matrix products reach here.    clock: seconds.    losses: the names of the objective's.
    """

    def __init__(
        self,
        steps: int,
        flops: float,
        rate: float,
        clock: Callable[[], float] = time.perf_counter,
        losses: Collection[str] = (),
    ) -> None:
        self._losses, self._means = losses, dict[str, float]()
        self._steps, self._share, self._clock = steps, flops / rate, clock
        self._started = self._resumed = clock()
        self._taken = self._applied = 0
        self._loss = self._tokens = self._seconds = 0.0
        self.reading: Reading | None = None

    def add(self, event: Event) -> Reading | None:
        """The reading after an event; None before the first step."""
        if event.result is not None:
            self._count(event, self._clock() - self._resumed)
        return self.reading

    def resume(self) -> None:
        """What an event called for is done: the time of the next step begins."""
        self._resumed = self._clock()

    def _count(self, event: Event, seconds: float) -> None:
        assert event.result is not None
        kept = KEPT if self._taken > 1 else 0.0
        self._tokens = kept * self._tokens + event.result.tokens
        self._seconds = kept * self._seconds + seconds
        if event.result.applied:
            new = 1.0 - KEPT if self._applied else 1.0
            self._applied += 1
            self._loss += new * (event.result.loss - self._loss)
            for name, mean in event.result.means.items():  # what had nothing to predict is not among them
                before = self._means.get(name, 0.0)
                self._means[name] = before + new * (mean - before)
        self._taken += 1
        speed = self._tokens / max(self._seconds, 1e-9)
        left = (self._clock() - self._started) / self._taken * (self._steps - event.progress.step)
        several = {name: mean for name, mean in self._means.items() if name in self._losses and len(self._losses) > 1}
        shares = {name: self._means[name] for name in SHARES if name in self._means}
        accuracy = self._means.get("accuracy", 0.0)
        self.reading = Reading(self._loss, accuracy, speed, speed * self._share, left, several, shares)
