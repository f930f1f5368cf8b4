"""How many cores an operation is shared out among: all, those of a stream, or so few that its sums stay the same."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch

__all__ = ["MOST_STREAMS", "SAME_SUMS", "at_most", "shares"]

MOST_STREAMS = 4
SAME_SUMS = 4
"""Cores on which products of attention add up as on one. On 8 and more, some of MKL's in fp32 add up otherwise
(docs/decisions/0003-bit-exact.md)."""


def shares(cores: int) -> list[int]:
    """The cores of each of the streams that run at the same time."""
    count = min(MOST_STREAMS, cores)
    return [cores // count + (i < cores % count) for i in range(count)]


@contextmanager
def at_most(cores: int | None) -> Iterator[None]:
    """Within, this thread's operations are shared out among so many cores at most; None: among as many as before."""
    before = torch.get_num_threads()
    if cores is None or before <= cores:
        yield
        return
    torch.set_num_threads(cores)
    try:
        yield
    finally:
        torch.set_num_threads(before)
