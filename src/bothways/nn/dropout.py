"""Dropout whose chances come from a generator of the batch at hand, so that batches may be computed side by side.

Outside `seeded` it is torch's own, with the generator that the whole process shares.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

__all__ = ["dropout", "kept", "replayed", "seeded", "uniform"]

_current = threading.local()

LEVELS = 1 << 16  # a chance is drawn in 16 bits
PER_DRAW = 4  # chances in the 64 bits that the generator gives at a time


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """All dropout of this thread on a CPU, and `uniform`, is until the end a function of the seed and of what came
    before in it.
    """
    before = getattr(_current, "generator", None)
    _current.generator = np.random.SFC64(seed)
    try:
        yield
    finally:
        _current.generator = before


def dropout(x: Tensor, p: float, training: bool = True) -> Tensor:
    """x with a share p of its numbers set to zero, and the others scaled up by 1 / (1 - p)."""
    if _generator() is None or not training or p == 0.0 or x.device.type != "cpu":
        return F.dropout(x, p, training)
    keep, grow = kept(x, p)
    return (x * keep).mul_(grow)  # scaled last: in bf16 the scale itself would be rounded


def kept(x: Tensor, p: float) -> tuple[Tensor, float]:
    """What dropout multiplies x with, on a CPU: ones and zeros of its shape and precision, and the scale after that."""
    generator, dropped = _generator(), min(round(p * LEVELS), LEVELS - 1)
    count = -(-x.numel() // PER_DRAW)
    if generator is None:
        bits = torch.empty(count, dtype=torch.int64).random_(-(1 << 63), None).view(torch.int16)
    else:
        bits = torch.from_numpy(generator.random_raw(count).view(np.int16))
    keep = torch.empty(x.shape, dtype=x.dtype)
    torch.ge(bits[: x.numel()].view(x.shape), dropped - LEVELS // 2, out=keep)
    return keep, LEVELS / (LEVELS - dropped)


def uniform(count: int, device: torch.device | str = "cpu") -> Tensor:
    """fp32 [count], numbers from 0 to less than 1 for what else a batch leaves to chance, such as words to be sampled.

    They are drawn on the host, wherever they are needed: within `seeded` they are always the same.
    """
    generator = _generator()
    if generator is None:
        return torch.rand(count, device=device)
    bits = generator.random_raw(count) >> np.uint64(40)  # as many as an fp32 number has
    return torch.from_numpy(bits.astype(np.float32) / np.float32(1 << 24)).to(device, non_blocking=True)


def _generator() -> np.random.SFC64 | None:
    """That of the batch this thread computes; six times as fast as torch's, which draws number by number."""
    return getattr(_current, "generator", None)


def replayed() -> tuple[AbstractContextManager[None], AbstractContextManager[None]]:
    """For `torch.utils.checkpoint`: what is computed again on the way back drops the same numbers as before."""
    states: list[Any] = []

    @contextmanager
    def first() -> Iterator[None]:
        generator = _generator()
        if generator is not None:
            states.append(generator.state)
        yield

    @contextmanager
    def again() -> Iterator[None]:
        generator = _generator()
        if generator is None or not states:
            yield
            return
        after = generator.state
        generator.state = states[0]
        yield
        generator.state = after

    return first(), again()
