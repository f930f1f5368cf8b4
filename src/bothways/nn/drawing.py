"""One word of a vocabulary for each row, by chance: where a number of its own falls among the sums of the weights."""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["BELOW_1", "BLOCK", "drawn"]

BLOCK = 256  # words that are chosen from together: running sums are slow, and so only few of them are made
BELOW_1 = 1 - 2.0**-24  # in fp32 the largest number there is


def drawn(weights: Tensor, chances: Tensor) -> Tensor:
    """weights fp32 [M, vocab] from 0 on, chances [M] from 0 to less than 1 → a word int64 [M] for each row, as often as
    its share of the row's weights says, and never one without weight.

    A block of words first, then one of its words.
    """
    vocab = weights.shape[1]
    whole = vocab // BLOCK
    blocks = weights[:, : whole * BLOCK].unflatten(1, (whole, BLOCK)).sum(2)
    if vocab % BLOCK:
        blocks = torch.cat([blocks, weights[:, whole * BLOCK :].sum(1, keepdim=True)], 1)
    block, left = _fallen(blocks, chances)
    words = block[:, None] * BLOCK + torch.arange(BLOCK, device=weights.device)
    inside = weights.gather(1, words.clamp(max=vocab - 1)).masked_fill_(words >= vocab, 0.0)
    word, _ = _fallen(inside, left)
    return (block * BLOCK + word).clamp_(max=vocab - 1)


def _fallen(weights: Tensor, chances: Tensor) -> tuple[Tensor, Tensor]:
    """weights [M, n], chances [M] → where among the sums of the weights each falls, int64 [M], which is never where a
    weight is 0; and where within that weight, from 0 to less than 1 [M].
    """
    sums = weights.cumsum(1)
    places = chances[:, None] * sums[:, -1:]
    found = torch.searchsorted(sums, places, right=True).clamp(max=weights.shape[1] - 1)
    weight = weights.gather(1, found)
    within = (places - (sums.gather(1, found) - weight)) / weight
    return found[:, 0], within[:, 0].clamp(0.0, BELOW_1)
