"""Dropout on a CPU: drawn 16 bits at a time from a generator of the batch at hand, and drawn again on the way back.

So batches may be computed side by side, no mask is kept for the way back, and drawing takes a sixth of the time that
torch's own, which draws number by number, takes. On other devices it is torch's own.
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

__all__ = ["Draw", "dropout", "masked", "replayed", "seeded", "uniform"]

_current = threading.local()

LEVELS = 1 << 16  # a chance is drawn in 16 bits
PER_DRAW = 4  # chances in the 64 bits that the generator gives at a time


@contextmanager
def seeded(seed: int, device: torch.device | None = None) -> Iterator[None]:
    """All dropout of this thread, and `uniform`, is until the end a function of the seed and of what came before in it.

    device: where; on one that is no CPU torch's own generator there is seeded, which all threads share.
    """
    if device is not None and device.type != "cpu":
        torch.get_device_module(device).manual_seed(seed)
    before = getattr(_current, "generator", None)
    _current.generator = np.random.SFC64(seed)
    try:
        yield
    finally:
        _current.generator = before


def dropout(x: Tensor, p: float, training: bool = True) -> Tensor:
    """x with a share p of its numbers set to zero, and the others scaled up by 1 / (1 - p)."""
    if not training or p == 0.0 or x.device.type != "cpu":
        return F.dropout(x, p, training)
    dropped = _Dropout.apply(x, Draw(p))
    assert isinstance(dropped, Tensor)
    return dropped


class Draw:
    """Which numbers of a tensor are dropped; asked again, it gives the same. p: the share of them.

    grow: what those that stay are multiplied with. It is for the end: in bf16 the scale itself would be rounded.
    """

    def __init__(self, p: float) -> None:
        self._dropped = min(round(p * LEVELS), LEVELS - 1)
        self.grow = LEVELS / (LEVELS - self._dropped)
        # Outside `seeded`: a generator of its own, by torch's.
        self._generator = _generator() or np.random.SFC64(int(torch.randint(1 << 62, ())))
        self._state: Any = self._generator.state

    def first(self, x: Tensor) -> Tensor:
        """x without what is dropped, by the batch's generator, which moves on."""
        return masked(x, self._kept(x, self._generator))

    def again(self, x: Tensor) -> Tensor:
        """What `first` kept, for `masked`: int16 ones and zeros of x's shape."""
        spare = getattr(_current, "spare", None)
        if spare is None:  # to make one takes longer than many a draw: each thread has one for all
            spare = _current.spare = np.random.SFC64(0)
        spare.state = self._state
        return self._kept(x, spare)

    def _kept(self, x: Tensor, generator: np.random.SFC64) -> Tensor:
        bits = torch.from_numpy(generator.random_raw(-(-x.numel() // PER_DRAW)).view(np.int16))
        return bits[: x.numel()].view(x.shape).ge_(self._dropped - LEVELS // 2)


def masked(x: Tensor, kept: Tensor) -> Tensor:
    """x where `kept` (int16, ones and zeros) is 1, and 0 elsewhere.

    Numbers of 16 bits are multiplied as whole numbers, which takes no conversion.
    """
    if x.element_size() == kept.element_size():
        return torch.mul(x.view(torch.int16), kept).view(x.dtype)
    return x * kept


class _Dropout(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, draw: Draw) -> Tensor:
        ctx.draw = draw
        return draw.first(x).mul_(draw.grow)

    @staticmethod
    def backward(ctx: Any, *slopes: Any) -> tuple[Any, ...]:
        (slope,) = slopes
        return masked(slope, ctx.draw.again(slope)).mul_(ctx.draw.grow), None


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
    """That of the batch this thread computes."""
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
