"""Dropout whose chances come from a generator of the batch at hand, so that batches may be computed side by side.

Outside `seeded` it is torch's own, with the generator that the whole process shares.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager

import torch
import torch.nn.functional as F
from torch import Tensor

__all__ = ["dropout", "replayed", "seeded"]

_current = threading.local()


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """All dropout of this thread on a CPU, until the end, is a function of the seed and of what came before in it."""
    before = getattr(_current, "generator", None)
    _current.generator = torch.Generator().manual_seed(seed)
    try:
        yield
    finally:
        _current.generator = before


def dropout(x: Tensor, p: float, training: bool = True) -> Tensor:
    """x with a share p of its numbers set to zero, and the others scaled up by 1 / (1 - p)."""
    generator: torch.Generator | None = getattr(_current, "generator", None)
    if generator is None or not training or p == 0.0 or x.device.type != "cpu":
        return F.dropout(x, p, training)
    return x * torch.empty_like(x).bernoulli_(1.0 - p, generator=generator).div_(1.0 - p)


def replayed() -> tuple[AbstractContextManager[None], AbstractContextManager[None]]:
    """For `torch.utils.checkpoint`: what is computed again on the way back drops the same numbers as before."""
    states: list[Tensor] = []

    @contextmanager
    def first() -> Iterator[None]:
        generator: torch.Generator | None = getattr(_current, "generator", None)
        if generator is not None:
            states.append(generator.get_state())
        yield

    @contextmanager
    def again() -> Iterator[None]:
        generator: torch.Generator | None = getattr(_current, "generator", None)
        if generator is None or not states:
            yield
            return
        after = generator.get_state()
        generator.set_state(states[0])
        yield
        generator.set_state(after)

    return first(), again()
