"""From token vectors to one vector a text (Reimers & Gurevych 2019, https://arxiv.org/abs/1908.10084)."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from bothways.ragged import Layout, Ragged

__all__ = ["ONE_ROW", "POOLINGS", "pool", "rows_pooled"]


def _mean_sqrt_length(hidden: Ragged) -> Tensor:
    lengths = torch.tensor(hidden.layout.lengths, dtype=hidden.data.dtype, device=hidden.data.device)
    return hidden.sum() / lengths.clamp(min=1).sqrt()[:, None]


def _weighted_mean(hidden: Ragged, start: int = 0) -> Tensor:
    """Later tokens weigh more: the weight of a token is its position, counted from 1 (Muennighoff 2022)."""
    weights = (hidden.layout.positions + 1 + start).to(hidden.data.dtype)[:, None]
    return Ragged(hidden.data * weights, hidden.layout).sum() / Ragged(weights, hidden.layout).sum().clamp(min=1e-9)


# In the order in which sentence-transformers lays several poolings side by side.
POOLINGS: dict[str, Callable[[Ragged], Tensor]] = {
    "cls": Ragged.first,
    "max": Ragged.max,
    "mean": Ragged.mean,
    "mean_sqrt_len_tokens": _mean_sqrt_length,
    "weightedmean": _weighted_mean,
    "lasttoken": Ragged.last,
}
ONE_ROW = ("cls", "lasttoken")
"""Those that read one row of each sequence."""


def pool(hidden: Ragged, modes: tuple[str, ...], skip: int = 0) -> Tensor:
    """[T, width] → [N, width · len(modes)], the poolings side by side, without each sequence's first `skip` rows.

    A prompt that is skipped keeps its place: the first row after it has position `skip`.
    """
    rest = hidden.drop_first(skip) if skip else hidden
    pooled = [_weighted_mean(rest, skip) if mode == "weightedmean" else POOLINGS[mode](rest) for mode in modes]
    return pooled[0] if len(pooled) == 1 else torch.cat(pooled, dim=-1)


def rows_pooled(layout: Layout, modes: Sequence[str | None]) -> Ragged | None:
    """The rows that a pooling reads, int64 [N], where it reads one of each sequence and leaves others; else None.

    Each of these rows is a sequence: pooled again, they are what they are. modes: of `pool`.
    """
    if len(modes) != 1 or modes[0] not in ONE_ROW or 0 in layout.lengths or layout.total == len(layout):
        return None
    rows = layout.offsets[:-1] if modes[0] == "cls" else layout.offsets[1:] - 1
    return Ragged(rows.long(), Layout.of([1] * len(layout), layout.device))
