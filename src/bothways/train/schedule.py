"""Learning rates over a run, as a share of the highest."""

from __future__ import annotations

import math
from collections.abc import Callable

__all__ = ["SCHEDULES", "Schedule", "learning_rate"]

Schedule = Callable[[float], float]
"""How far the run is after its warmup, from 0 to 1 → the share of the highest learning rate."""

DECAY_FROM = 0.8  # warmup-stable-decay (Hu et al. 2024, https://arxiv.org/abs/2404.06395) falls in its last fifth


def _stable_then_decay(progress: float) -> float:
    return 1.0 if progress < DECAY_FROM else 1.0 - math.sqrt((progress - DECAY_FROM) / (1.0 - DECAY_FROM))


SCHEDULES: dict[str, Schedule] = {
    "linear": lambda progress: 1.0 - progress,
    "cosine": lambda progress: 0.5 * (1.0 + math.cos(math.pi * progress)),
    "wsd": _stable_then_decay,
    "constant": lambda progress: 1.0,
}


def learning_rate(step: int, steps: int, warmup: int, schedule: str) -> float:
    """The share at a step, counted from 0: it rises over `warmup` steps, then follows the schedule to the last step."""
    if step < warmup:
        return (step + 1) / warmup
    return SCHEDULES[schedule](min(1.0, (step - warmup) / max(1, steps - warmup)))
