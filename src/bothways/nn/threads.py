"""How cores are shared out among batches that are computed at the same time, each on so few that its sums are the same
as on one (docs/decisions/0003-bit-exact.md)."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch

__all__ = ["SAME_SUMS", "core_counts", "on_one_core", "shares"]

SAME_SUMS = 4
"""Cores up to which sums are those of one core. From 8 on, products of attention in fp32 and linear layers in bf16 add
up otherwise for some shapes."""
STREAMS = 4


def shares(cores: int) -> list[int]:
    """The cores of each of the streams that run at the same time: four streams, and more where each would have more
    cores than SAME_SUMS."""
    count = max(min(STREAMS, cores), -(-cores // SAME_SUMS))
    return [cores // count + (i < cores % count) for i in range(count)]


def core_counts(cores: int) -> set[int]:
    """On how many cores a batch may be computed: one, a stream's, or what a batch by itself has."""
    return {1, *shares(cores), min(cores, SAME_SUMS)}


@contextmanager
def on_one_core() -> Iterator[None]:
    """Within, this thread's operations are on one core. A thread that asks torch for the first time meanwhile has one,
    too, from then on: this is for moments in which none begins."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)
